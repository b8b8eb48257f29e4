"""What a tick log says about latency: percentiles by stage, misses of the budget, agent against simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

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
    """

    stages: tuple[StageLatency, ...]
    misses: int
    ticks: int
    budget_ms: float
    outside: StageLatency | None

    def stage(self, name: str) -> StageLatency:
        """The stage of that name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """The machine form: ``{"schema", "stages": {name: {...}}, "misses", "ticks", ...}``."""
        stages = list(self.stages) + ([self.outside] if self.outside else [])
        return {
            "schema": 1,
            "stages": {
                s.name: {
                    "p50_ms": round(s.p50_ms, 4),
                    "p90_ms": round(s.p90_ms, 4),
                    "p95_ms": round(s.p95_ms, 4),
                    "p99_ms": round(s.p99_ms, 4),
                    "max_ms": round(s.max_ms, 4),
                    "n": s.n,
                }
                for s in stages
            },
            "misses": self.misses,
            "ticks": self.ticks,
            "budget_ms": self.budget_ms,
        }


def summarize(ticks: Sequence[Mapping[str, Any]], budget_ms: float = TICK_BUDGET_MS) -> LatencySummary:
    """Percentiles by stage over tick lines of a log.

    Spans of the same name in one tick (denoising steps) are summed. A stage counts the ticks in which it ran.

    Raises:
        DataError: there are no ticks.
    """
    if not ticks:
        raise DataError("The log holds no ticks.", "Drive at least one tick, then read the log again.")
    samples: dict[str, list[float]] = {}
    depths: dict[str, int] = {}
    order: list[str] = []
    for tick in ticks:
        sums: dict[str, float] = {}
        for span in tick["spans"]:
            name, parent = span["name"], span["parent"]
            sums[name] = sums.get(name, 0.0) + span["ms"]
            if name not in depths:
                depths[name] = 0 if parent is None else depths.get(parent, 0) + 1
                _insert(order, name, parent, depths)
        for name, ms in sums.items():
            samples.setdefault(name, []).append(ms)
    totals = [float(t["total_ms"]) for t in ticks]
    stages = [_stage("total", 0, totals)]
    stages += [_stage(name, depths[name] + 1, samples[name]) for name in order]
    stages.append(_stage("other", 1, [float(t.get("other_ms", 0.0)) for t in ticks]))
    outside = [float(t["outside_ms"]) for t in ticks if t.get("outside_ms") is not None]
    return LatencySummary(
        stages=tuple(stages),
        misses=sum(total > budget_ms for total in totals),
        ticks=len(ticks),
        budget_ms=budget_ms,
        outside=_stage("outside", 0, outside) if outside else None,
    )


def latency_table(summary: LatencySummary, title: str = "Tick latency by stage, ms") -> Table:
    """The summary as a table for the terminal."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("stage", no_wrap=True)
    for name in ("p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ticks", justify="right", no_wrap=True)
    for stage in summary.stages:
        _row(table, stage, "  " * stage.depth + stage.name, bold=stage.name == "total")
    if summary.outside:
        table.add_section()
        _row(table, summary.outside, "outside the agent")
    share = 100.0 * summary.misses / summary.ticks
    missed = f"{summary.misses} of {summary.ticks} ticks ({share:.1f} %)"
    table.caption = f"{missed} missed the {summary.budget_ms:g} ms budget"
    return table


def _row(table: Table, stage: StageLatency, label: str, bold: bool = False) -> None:
    values = [f"{v:.1f}" for v in (stage.p50_ms, stage.p90_ms, stage.p95_ms, stage.p99_ms, stage.max_ms)]
    table.add_row(label, *values, str(stage.n), style="bold" if bold else None)


def _insert(order: list[str], name: str, parent: str | None, depths: Mapping[str, int]) -> None:
    """Keep children directly below their parent, in the order in which they first ran."""
    if parent is None or parent not in order:
        order.append(name)
        return
    at = order.index(parent) + 1
    while at < len(order) and depths[order[at]] > depths[parent]:
        at += 1
    order.insert(at, name)


def _stage(name: str, depth: int, values: Sequence[float]) -> StageLatency:
    p50, p90, p95, p99 = np.percentile(np.asarray(values, dtype=float), (50, 90, 95, 99))
    return StageLatency(
        name, depth, float(p50), float(p90), float(p95), float(p99), float(max(values)), len(values)
    )
