"""What a tick log says about latency: percentiles by stage, misses of the budget, agent against simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.leaderboard.tick_table import TickTable
from tickdrive.planner.errors import DataError

TICK_BUDGET_MS = 50.0
"""One tick of the leaderboards: 20 Hz."""


@dataclass(frozen=True)
class StageLatency:
    """Percentiles of one stage over the ticks in which it ran, milliseconds."""

    name: str
    depth: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    n: int


@dataclass(frozen=True)
class LatencySummary:
    """Latency of a drive.

    Attributes:
        stages: "total" first, then the stages in the order in which they run (children below their parent),
            then "other" (inside run_step, in no stage).
        misses: ticks whose total passed the budget.
        ticks: ticks read.
        budget_ms: the budget.
        outside: simulator and evaluator between two ticks of the agent; None where the log has none.
        rungs: how plans were come by -> ticks, most frequent first.
        guarded: ticks in which the guard shortened the plan.
        engines: what made the plans -> ticks; "" where there was no plan.
    """

    stages: tuple[StageLatency, ...]
    misses: int
    ticks: int
    budget_ms: float
    outside: StageLatency | None
    rungs: Mapping[str, int]
    guarded: int
    engines: Mapping[str, int]

    @property
    def miss_share(self) -> float:
        """Share of the ticks that passed the budget, 0 to 1."""
        return self.misses / self.ticks

    def stage(self, name: str) -> StageLatency:
        """The stage of that name, or "outside"."""
        return self.by_name[name]

    @property
    def by_name(self) -> Mapping[str, StageLatency]:
        """Every stage, "outside" too."""
        stages = {stage.name: stage for stage in self.stages}
        return stages | {"outside": self.outside} if self.outside else stages

    def to_json(self) -> dict[str, Any]:
        """The machine form: ``{"schema", "stages": {name: {...}}, "misses", "ticks", ...}``."""
        return {
            "schema": 1,
            "stages": {
                name: {
                    "p50_ms": round(s.p50_ms, 4),
                    "p90_ms": round(s.p90_ms, 4),
                    "p95_ms": round(s.p95_ms, 4),
                    "p99_ms": round(s.p99_ms, 4),
                    "max_ms": round(s.max_ms, 4),
                    "n": s.n,
                }
                for name, s in self.by_name.items()
            },
            "misses": self.misses,
            "ticks": self.ticks,
            "budget_ms": self.budget_ms,
            "miss_share": round(self.miss_share, 6),
            "rungs": dict(self.rungs),
            "guarded": self.guarded,
            "engines": dict(self.engines),
        }


def summarize(table: TickTable, budget_ms: float = TICK_BUDGET_MS) -> LatencySummary:
    """Percentiles by stage over a log.

    Spans of the same name in one tick (denoising steps) are summed. A stage counts the ticks in which it ran.

    Raises:
        DataError: there are no ticks.
    """
    if not len(table):
        raise DataError(f"{table.path} holds no ticks.", "Drive at least one tick, then read the log again.")
    stages = [stage_latency("total", 0, table.total_ms)]
    stages += [
        stage_latency(stage.name, stage.depth + 1, table.stage_ms[stage.name]) for stage in table.stages
    ]
    stages.append(stage_latency("other", 1, table.other_ms))
    has_outside = not np.isnan(table.outside_ms).all()
    return LatencySummary(
        stages=tuple(stages),
        misses=int((table.total_ms > budget_ms).sum()),
        ticks=len(table),
        budget_ms=budget_ms,
        outside=stage_latency("outside", 0, table.outside_ms) if has_outside else None,
        rungs=table.rung.counts(),
        guarded=int(table.guarded.sum()),
        engines=table.engine.counts(),
    )


def stage_latency(name: str, depth: int, values_ms: np.ndarray) -> StageLatency:
    """Percentiles over the ticks in which the stage ran."""
    ran = values_ms[~np.isnan(values_ms)]
    p50, p90, p95, p99 = np.percentile(ran, (50, 90, 95, 99))
    return StageLatency(
        name, depth, float(p50), float(p90), float(p95), float(p99), float(ran.max()), len(ran)
    )
