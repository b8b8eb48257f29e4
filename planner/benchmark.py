"""Planner benchmark: engines side by side in one run, each figure with all that it depends on.

Warm-up is apart; forms are measured in turn, a plan each, so that a slow moment of the machine falls on
all; inputs rotate among several sets; the clock stops when the waypoints are on the host. The error of
every form is taken against the fp32 reference, on the same weights, inputs and noise.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tickdrive.planner.engine import (
    DTYPES,
    PlannerEngine,
    build_engine,
    example_inputs,
    resolve_device,
    resolve_dtype,
)
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.network_config import preset as preset_config
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.types import Features

SCOPE = "conditioning tensors on the device -> waypoints on the host"
INPUT_SETS = 4
MIN_RUNS = 5
STUDY_TOKENS = (512, 7)
COMPACT_TOKENS = (192, 7)
"""VL and reasoning tokens of the study, and of the perception that ships."""


Inputs = tuple[Features, torch.Tensor, torch.Tensor]
"""Features, ego status, noise."""


@dataclass(frozen=True)
class BenchmarkRow:
    """One measured form.

    Attributes:
        preset: of the network.
        engine: as asked for.
        ran: the label of the engine that ran, with any fallback.
        device: kind of device.
        device_name: its model.
        dtype: of the network.
        batch: plans at once.
        steps: denoising steps.
        n_vl: VL tokens.
        n_reasoning: reasoning tokens.
        p50_ms: median of a whole plan.
        p99_ms: 99th percentile.
        runs: plans that were timed.
        rel_err: |plan - reference| / |reference|, largest of the input sets; both counted from the middle of
            the policy's bounds, so that a distance common to all plans does not hide an error.
        max_deviation_cm: largest distance of a waypoint from the reference's.
        weights: `random` or `checkpoint`.
        threads: of torch.
        scope: what the time covers.
        torch: version.
        commit: of the source, or `unknown`.
    """

    preset: str
    engine: str
    ran: str
    device: str
    device_name: str
    dtype: str
    batch: int
    steps: int
    n_vl: int
    n_reasoning: int
    p50_ms: float
    p99_ms: float
    runs: int
    rel_err: float
    max_deviation_cm: float
    weights: str
    threads: int
    scope: str
    torch: str
    commit: str


def run_planner_benchmark(
    presets: Sequence[str] = ("compact",),
    engines: Sequence[str] | None = None,
    device: str = "auto",
    dtypes: Sequence[str] = ("auto",),
    batches: Sequence[int] = (1,),
    steps: Sequence[int] = (10,),
    seconds: float = 2.0,
    policies: Mapping[str, DiffusionPolicy] | None = None,
    tokens: tuple[int, int] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure every combination; the reference runs in fp32 only, whatever `dtypes` says.

    Args:
        presets: names of presets.
        engines: names of engines; None for all that run on the device.
        device: torch device or `auto`.
        dtypes: keys of `engine.DTYPES`, or `auto`.
        batches: batch sizes.
        steps: step counts.
        seconds: of measuring for each row, at least; a row gets at least `MIN_RUNS` plans.
        policies: trained policies by preset; a preset that is not among them gets random weights.
        tokens: numbers of VL and of reasoning tokens; None for 512 and 7 at the study's width, 192 and 7
            else.
        on_progress: told what is being measured.

    Returns:
        Rows as dictionaries; see `BenchmarkRow`.

    Raises:
        PlannerError: an unknown engine, device or dtype, or a duration that is not positive.
        ConfigError: an unknown preset.
    """
    if not seconds > 0.0:
        raise PlannerError(f"The benchmark was to run {seconds} s a row.", "Give seconds above 0.")
    where = resolve_device(device)
    if engines is None:
        engines = ("reference", "cached", "hoisted", *(("traced",) if where.type == "cpu" else ()))
    rows: list[BenchmarkRow] = []
    for name in presets:
        trained = (policies or {}).get(name)
        policy = trained or randomize(DiffusionPolicy(preset_config(name)).eval())
        counts = tokens or (STUDY_TOKENS if policy.config.vl_width == 2560 else COMPACT_TOKENS)
        reference = build_engine("reference", policy, where, "fp32")
        forms: list[tuple[str, str, PlannerEngine]] = []
        for engine in engines:
            # by name, so that "auto" and what it stands for are one row
            kinds = dict.fromkeys(
                "fp32" if engine == "reference" else _dtype_name(item, where, engine) for item in dtypes
            )
            for kind in kinds:
                forms.append((engine, kind, build_engine(engine, policy, where, kind)))
        for batch in batches:
            sets = [
                example_inputs(policy.config, batch, *counts, where, seed=1 + index)
                for index in range(INPUT_SETS)
            ]
            for count in steps:
                if on_progress:
                    on_progress(f"{name}, batch {batch}, {count} steps")
                truth = [reference.plan(*item, count).waypoints_in_ego for item in sets]
                bounds = policy.normalizer
                center = ((bounds.low_m + bounds.high_m) / 2.0).cpu().numpy()
                for _, _, built in forms:
                    built.warm_up(*counts, batch, (count,), runs=1)
                runs = _measure([form[2] for form in forms], sets, count, seconds)
                for (engine, kind, built), (times_ms, plans) in zip(forms, runs, strict=True):
                    errors = [
                        float(np.linalg.norm(plan - want) / np.linalg.norm(want - center))
                        for plan, want in zip(plans, truth, strict=True)
                    ]
                    off_m = max(
                        float(np.linalg.norm(plan - want, axis=-1).max())
                        for plan, want in zip(plans, truth, strict=True)
                    )
                    rows.append(
                        BenchmarkRow(
                            preset=name,
                            engine=engine,
                            ran=built.label,
                            device=where.type,
                            device_name=device_name(where),
                            dtype=kind,
                            batch=batch,
                            steps=count,
                            n_vl=counts[0],
                            n_reasoning=counts[1],
                            p50_ms=float(np.percentile(times_ms, 50)),
                            p99_ms=float(np.percentile(times_ms, 99)),
                            runs=len(times_ms),
                            rel_err=max(errors),
                            max_deviation_cm=100.0 * off_m,
                            weights="random" if trained is None else "checkpoint",
                            threads=torch.get_num_threads(),
                            scope=SCOPE,
                            torch=torch.__version__,
                            commit=source_commit(),
                        )
                    )
        for _, _, built in forms:
            built.close()
        reference.close()
    return [asdict(row) for row in rows]


def _measure(
    engines: Sequence[PlannerEngine], sets: Sequence[Inputs], steps: int, seconds: float
) -> list[tuple[list[float], list[np.ndarray]]]:
    """Times [ms] and, for each input set, the plan, of each engine."""
    # a plan on each input set warms up, and is what the error is taken of
    plans = [[engine.plan(*item, steps).waypoints_in_ego for item in sets] for engine in engines]
    times: list[list[float]] = [[] for _ in engines]
    turn = 0
    while any(_wants_more(taken, seconds) for taken in times):
        for engine, taken in zip(engines, times, strict=True):
            if not _wants_more(taken, seconds):
                continue
            start = time.perf_counter_ns()
            engine.plan(*sets[turn % len(sets)], steps)  # ends with the waypoints on the host
            taken.append((time.perf_counter_ns() - start) / 1e6)
        turn += 1
    return list(zip(times, plans, strict=True))


def _wants_more(taken_ms: Sequence[float], seconds: float) -> bool:
    return len(taken_ms) < MIN_RUNS or sum(taken_ms) < 1000.0 * seconds


def _dtype_name(dtype: str, device: torch.device, engine: str) -> str:
    found = resolve_dtype(dtype, device, engine)
    return next(key for key, value in DTYPES.items() if value == found)


def device_name(device: torch.device) -> str:
    """Model of a device, for example of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def source_commit() -> str:
    """Short hash of the source's commit, `+` behind it where files differ; `unknown` outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).resolve().parent),
        "describe",
        "--always",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"
