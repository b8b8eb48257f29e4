"""Building what engines keep, ahead of a drive, and measuring which of them is the fastest here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tickdrive.planner.engine_cache import cache_folder, entry_path, policy_hash, read_entry, write_entry
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.timing import take_turns

if TYPE_CHECKING:
    from tickdrive.planner.engine import PlannerEngine
    from tickdrive.planner.policy import DiffusionPolicy

INPUT_SETS = 4


@dataclass(frozen=True)
class WarmupRow:
    """An engine, ready and measured for a step count.

    Attributes:
        engine: its name.
        steps: denoising steps.
        ready_s: how long building and warming up took, or loading where it was built before.
        p50_ms: of a whole plan; None where it could not be built.
        chosen: whether `auto` takes it.
        why_not: what was missing, where it could not be built.
    """

    engine: str
    steps: int
    ready_s: float
    p50_ms: float | None
    chosen: bool
    why_not: str = ""


def warm_up_cache(
    policy: DiffusionPolicy,
    device: torch.device,
    dtype: str = "auto",
    batch: int = 1,
    tokens: tuple[int, int] = (64, 8),
    steps: Sequence[int] = (10, 5, 2, 1),
    seconds: float = 1.0,
    on_progress: Callable[[str], None] | None = None,
) -> list[WarmupRow]:
    """Build every exact engine of a device for these shapes, measure them in turn, and keep the choice.

    Args:
        policy: trained policy.
        device: to run on.
        dtype: key of `engine.DTYPES`, or `auto`.
        batch: plans at once.
        tokens: numbers of VL and reasoning tokens.
        steps: step counts; each gets its own choice.
        seconds: of measuring for each.
        on_progress: told what is being done.

    Raises:
        PlannerError: the cache cannot be written, or a step count is out of range.
    """
    from tickdrive.planner.engine import build_engine, example_inputs, resolve_dtype, runs_in

    kind = resolve_dtype(dtype, device)
    offered = ("onnx", "traced", "hoisted") if device.type == "cpu" else ("fused", "compiled", "graph")
    names = [name for name in offered if runs_in(name, kind)]
    weights = policy_hash(policy)
    sets = [example_inputs(policy.config, batch, *tokens, device, seed) for seed in range(INPUT_SETS)]
    rows = []
    for count in steps:
        engines: dict[str, PlannerEngine] = {}
        ready_s: dict[str, float] = {}
        for name in names:
            if on_progress:
                on_progress(f"{name}, {count} steps")
            start = time.perf_counter()
            try:
                engine = build_engine(name, policy, device, kind)
                engine.warm_up(*tokens, batch, (count,))
            except (PlannerError, RuntimeError, MemoryError) as error:
                rows.append(WarmupRow(name, count, time.perf_counter() - start, None, False, str(error)))
                continue
            engines[name], ready_s[name] = engine, time.perf_counter() - start

        def run(engine: PlannerEngine, count: int = count) -> Callable[[int], object]:
            return lambda turn: engine.plan(*sets[turn % len(sets)], count)

        times = take_turns([run(engine) for engine in engines.values()], seconds)
        p50 = {name: float(np.median(ms)) for name, ms in zip(engines, times, strict=True)}
        best = min(p50, key=lambda name: p50[name])
        choice = {"engine": best, "p50_ms": p50}
        path = _choice_path(weights, device, kind, batch, *tokens, count)
        write_entry(path, (json.dumps(choice, indent=2) + "\n").encode())
        for name, engine in engines.items():
            rows.append(WarmupRow(name, count, ready_s[name], p50[name], name == best))
            engine.close()
    return rows


def measured_choice(
    weights: str,
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    n_vl: int,
    n_reasoning: int,
    steps: Sequence[int] | None,
) -> str | None:
    """The engine that `warm_up_cache` found the fastest; None where it was not asked, or answers differ.

    Args:
        weights: `policy_hash`.
        device: to run on.
        dtype: of the network.
        batch: plans at once.
        n_vl: VL tokens.
        n_reasoning: reasoning tokens.
        steps: step counts; the first decides where they differ.
    """
    for count in steps or ():
        kept = read_entry(_choice_path(weights, device, dtype, batch, n_vl, n_reasoning, count))
        if kept is not None:
            try:
                return str(json.loads(kept)["engine"])
            except (ValueError, KeyError, TypeError):
                return None
    return None


def _choice_path(
    weights: str,
    device: torch.device,
    dtype: torch.dtype,
    batch: int,
    n_vl: int,
    n_reasoning: int,
    steps: int,
) -> Path:
    shapes = (batch, n_vl, n_reasoning, steps)
    return entry_path("choice", weights, device, ".json", dtype=str(dtype), shapes=shapes)


def cache_size() -> tuple[Path, int, int]:
    """The cache's folder, how many entries lie there, and their bytes."""
    folder = cache_folder()
    files = [path for path in folder.glob("*-*") if path.is_file()] if folder.is_dir() else []
    return folder, len(files), sum(path.stat().st_size for path in files)
