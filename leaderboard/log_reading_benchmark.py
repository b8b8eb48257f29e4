"""What reading and summarising a tick log costs: `tickdrive bench log`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tickdrive.agents.tick_log import TickLog, TickReader, TickRecord
from tickdrive.agents.types import Decision
from tickdrive.planner.errors import DataError
from tickdrive.planner.tracing import Span, TickTrace

_STAGE_MS = {
    **{"decode": 0.4, "localization": 0.2, "route": 0.1, "preprocess": 1.1, "vl": 10.0, "reasoning": 1.4},
    **{"planner": 12.2, "postprocess": 0.7, "control": 0.2},
}
"""Stages of the shipped agent and about their medians."""
_DENOISE_STEPS = 10

# Peak memory is the child's own: `ru_maxrss` would begin with what the parent held at the fork.
_CHILD = """
import json, sys, time
from tickdrive.leaderboard.latency import summarize
from tickdrive.leaderboard.longest_ticks import longest_ticks
from tickdrive.leaderboard.tick_table import read_table
imported = time.perf_counter()
table = read_table(sys.argv[1])
read = time.perf_counter()
summary = summarize(table)
longest_ticks(table)
done = time.perf_counter()
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps({
    "ticks": summary.ticks,
    "read_s": round(read - imported, 3),
    "summary_s": round(done - read, 3),
    "cpu_s": round(time.process_time(), 3),
    "peak_mb": round(int(status["VmHWM"].split()[0]) / 1024, 1),
}))
"""


def run_reading_benchmark(
    ticks: int, folder: Path | None = None, progress: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Read a generated log from JSON Lines and from Parquet, each in a process of its own, on one core.

    Args:
        ticks: of the log.
        folder: where the log goes (about 2 kB a tick); None takes a temporary one.
        progress: told what is being done.

    Returns:
        A row a form: ``name, ticks, wall_s, cpu_s, read_s, summary_s, peak_mb, file_mb``, wall and CPU time
        of the whole process; Parquet's tells what is missing where pyarrow is.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        log = Path(temporary) / "ticks.jsonl"
        progress(f"writing {ticks} ticks")
        write_synthetic_log(log, ticks)
        progress("reading JSON Lines")
        rows = [_measure("read JSON Lines", log)]
        parquet = log.with_suffix(".parquet")
        progress("writing Parquet")
        try:
            from tickdrive.agents.tick_parquet import write_parquet

            write_parquet(TickReader(log), parquet)
        except DataError as error:
            return [*rows, {"name": "read Parquet", "ticks": 0, "missing": str(error)}]
        progress("reading Parquet")
        return [*rows, _measure("read Parquet", parquet)]


def write_synthetic_log(path: Path, ticks: int, seed: int = 0, slower_ms: float = 0.0) -> None:
    """Write a log of a drive that was none: the shipped agent's stages, durations drawn, load that drifts.

    Args:
        path: the log.
        ticks: how many.
        seed: of the durations.
        slower_ms: by how much the planner takes longer.
    """
    rng = np.random.default_rng(seed)
    log = TickLog(path, {"engine": "synthetic", "versions": {}})
    load = 0.0
    for tick in range(ticks):
        load = 0.95 * load + 0.02 * rng.standard_normal()
        factors = np.exp(load + 0.08 * rng.standard_normal(len(_STAGE_MS)))
        if rng.random() < 0.005:
            factors[4] *= 3.0
        log.append(_record(tick, factors, slower_ms, rng))
    log.close()


def _record(tick: int, factors: np.ndarray, slower_ms: float, rng: np.random.Generator) -> TickRecord:
    spans: list[Span] = []
    at_ms = 0.02
    for (name, median_ms), factor in zip(_STAGE_MS.items(), factors.tolist(), strict=True):
        ms = median_ms * factor + (slower_ms if name == "planner" else 0.0)
        spans.append(Span(name, None, at_ms, ms))
        if name == "planner":
            spans.append(Span("encode", name, at_ms, 0.12 * ms))
            spans.append(Span("hoist", name, at_ms + 0.12 * ms, 0.4 * ms))
            spans.append(Span("denoise", name, at_ms + 0.52 * ms, 0.46 * ms))
            step_ms = 0.45 * ms / _DENOISE_STEPS
            begins = (at_ms + 0.52 * ms + k * step_ms for k in range(_DENOISE_STEPS))
            spans += [Span("step", "denoise", begin, step_ms) for begin in begins]
        at_ms += ms + 0.02
    way_m = 0.4 * tick
    return TickRecord(
        frame=tick + 20,
        sim_s=0.05 * tick,
        trace=TickTrace(at_ms, tuple(spans), 0.02 * (len(_STAGE_MS) + 1)),
        outside_ms=None if tick == 0 else 33.0 * float(factors[0]),
        steps=_DENOISE_STEPS,
        granularity="step",
        rung="planned",
        reasoning={decision.name: 1.0 / len(Decision) for decision in Decision},
        ego={
            "position_in_world": [round(way_m, 3), round(50.0 * float(np.sin(way_m / 80.0)), 3)],
            "yaw_deg": round(32.0 * float(np.cos(way_m / 80.0)), 3),
            "speed_mps": 8.0,
            "acceleration_mps2": 0.1,
            "yaw_rate_dps": 0.2,
            "source": "fix",
            "command": "LANE_FOLLOW",
            "remaining_m": 500.0,
        },
        plan=np.cumsum(np.full((6, 2), (4.0, 0.1)) + 0.05 * rng.standard_normal((6, 2)), axis=0),
        control={"throttle": 0.4, "steer": -0.01, "brake": 0.0},
        engine="traced fp32 cpu",
        preempted=int(factors[4] > 2.0),
    )


def _measure(name: str, log: Path) -> dict[str, Any]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(log)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wall_s = time.perf_counter() - start
    told = json.loads(done.stdout)
    size_mb = round(log.stat().st_size / 1e6, 1)
    return {"name": name, "ticks": told.pop("ticks"), "wall_s": round(wall_s, 3), **told, "file_mb": size_mb}
