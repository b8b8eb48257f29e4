"""What tracing, logging and budgeting a tick cost: `tickdrive bench log`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tickdrive.agents.config import BudgetConfig
from tickdrive.agents.preemption import involuntary_switches
from tickdrive.agents.shared_models import WarmTiming
from tickdrive.agents.tick_budget import TickBudget
from tickdrive.agents.tick_log import TickLog, TickRecord
from tickdrive.agents.types import TICK_S, Decision
from tickdrive.planner.tracing import Tracer

_STAGES = ("decode", "localization", "route", "preprocess", "vl", "reasoning")
_PLANNER_STAGES = ("encode", "hoist", *("step",) * 10)
_LAST_STAGES = ("postprocess", "control")


def run_log_benchmark(ticks: int = 2000, warm_up: int = 100) -> list[dict[str, Any]]:
    """Time `Tracer` and `TickLog` as a driven tick uses them, with empty stages.

    Args:
        ticks: ticks measured.
        warm_up: ticks before them.

    Returns:
        Two rows, ``name, ticks, p50_ms, p99_ms, max_ms, bytes_per_tick``: tracing and logging, and the same
        with the tick budget's choices on top.
    """
    tracer = Tracer()
    budget = TickBudget(BudgetConfig(), WarmTiming(10.0, {10: 15.0, 5: 10.0, 2: 7.0}), patience=6)
    plan = np.cumsum(np.full((6, 2), 1.234567, np.float32), axis=0)
    reasoning = {decision.name: 1.0 / len(Decision) for decision in Decision}
    ego = {
        "position_in_world": np.array([123.456, -78.9]),
        "yaw_deg": 12.3,
        "speed_mps": 7.89,
        "source": "fix",
    }
    control = {"throttle": 0.4, "steer": -0.01, "brake": 0.0}
    costs_ms, with_budget_ms = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticks.jsonl"
        log = TickLog(path, {"name": "benchmark"})
        for tick in range(ticks + warm_up):
            start = time.perf_counter_ns()
            tracer.begin()
            for name in _STAGES:
                with tracer.span(name):
                    pass
            with tracer.span("planner"):
                for name in _PLANNER_STAGES:
                    with tracer.span(name):
                        pass
            for name in _LAST_STAGES:
                with tracer.span(name):
                    pass
            trace = tracer.end()
            log.append(
                TickRecord(
                    tick, TICK_S * tick, trace, 20.0, 10, "step", "planned", reasoning, ego, plan, control
                )
            )
            logged = time.perf_counter_ns()
            costs_ms.append((logged - start) / 1e6)
            involuntary_switches()
            choice = budget.choose(3.0, unplanned=False, since_plan=1, can_wait=True)
            budget.note_features(10.0)
            choice = budget.choose_steps(13.0, choice, since_plan=1, can_wait=True)
            budget.note_plan(choice.steps, 15.0)
            budget.note_tail(1.0)
            involuntary_switches()
            with_budget_ms.append((time.perf_counter_ns() - start) / 1e6)
        log.close()
        size = path.stat().st_size
    rows = []
    for name, costs in (
        ("tracing and logging, per tick", costs_ms),
        ("tracing, logging and budget, per tick", with_budget_ms),
    ):
        measured = np.array(costs[warm_up:])
        rows.append(
            {
                "name": name,
                "ticks": ticks,
                "p50_ms": round(float(np.percentile(measured, 50)), 4),
                "p99_ms": round(float(np.percentile(measured, 99)), 4),
                "max_ms": round(float(measured.max()), 4),
                "bytes_per_tick": round(size / (ticks + warm_up)),
            }
        )
    return rows
