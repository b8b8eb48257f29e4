"""The longest ticks of a log, and what made them long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tickdrive.leaderboard.tick_table import Stage, TickTable

_MOST = 0.5
"""A child that has this share of its parent's excess is named in its place."""

_NOTABLE = 0.05
"""An excess below this share of the tick is not told as a reason."""


@dataclass(frozen=True)
class LongTick:
    """One of the longest ticks.

    Attributes:
        index: of the tick in the log, from 0.
        frame: the simulator's.
        sim_s: simulated time; NaN where the log does not tell.
        total_ms: the tick's.
        stage: the stage furthest over its own median: "other" is what no stage covers.
        excess_ms: by how much.
        preempted: involuntary context switches in the tick; None where not counted.
        is_first: it is the log's first tick.
        rung: how its plan was come by.
    """

    index: int
    frame: int
    sim_s: float
    total_ms: float
    stage: str
    excess_ms: float
    preempted: int | None
    is_first: bool
    rung: str

    @property
    def why(self) -> str:
        """In words."""
        stands_out = self.excess_ms > _NOTABLE * self.total_ms
        told = (
            f"{self.stage} {self.excess_ms:.1f} ms over its median" if stands_out else "no stage stands out"
        )
        reasons = [told]
        if self.preempted:
            reasons.append(f"preempted {self.preempted} times" if self.preempted > 1 else "preempted once")
        if self.is_first:
            reasons.append("first tick")
        return ", ".join(reasons)

    def to_json(self) -> dict[str, Any]:
        """The machine form."""
        rounded = {"total_ms": round(self.total_ms, 4), "excess_ms": round(self.excess_ms, 4)}
        sim_s = None if np.isnan(self.sim_s) else self.sim_s
        return asdict(self) | rounded | {"sim_s": sim_s, "why": self.why}


def longest_ticks(table: TickTable, count: int = 5) -> list[LongTick]:
    """The longest ticks, longest first.

    A stage's median is over all ticks, those in which it did not run with 0 ms: a stage that runs in few
    ticks is all excess.
    """
    total_ms = table.total_ms
    count = min(count, len(table))
    longest = np.argpartition(-total_ms, count - 1)[:count] if count else np.empty(0, int)
    longest = longest[np.lexsort((longest, -total_ms[longest]))]
    excess = {
        name: np.nan_to_num(ms[longest]) - np.median(np.nan_to_num(ms))
        for name, ms in {**table.stage_ms, "other": table.other_ms}.items()
    }
    ticks = []
    for place, index in enumerate(longest):
        stage = _furthest(table.stages, {name: float(over[place]) for name, over in excess.items()})
        preempted = int(table.preempted[index])
        ticks.append(
            LongTick(
                index=int(index),
                frame=int(table.frame[index]),
                sim_s=float(table.sim_s[index]),
                total_ms=float(total_ms[index]),
                stage=stage,
                excess_ms=float(excess[stage][place]),
                preempted=None if preempted < 0 else preempted,
                is_first=bool(index == 0),
                rung=table.rung.names[table.rung.codes[index]],
            )
        )
    return ticks


def _furthest(stages: Sequence[Stage], excess_ms: dict[str, float]) -> str:
    """The top stage with the largest excess, or the child of it that the excess comes from."""
    tops = [stage.name for stage in stages if stage.depth == 0]
    name, depth = max([*tops, "other"], key=excess_ms.__getitem__), 0
    while True:
        children = [stage.name for stage in stages if stage.parent == name and stage.depth > depth]
        child = max(children, key=excess_ms.__getitem__, default=None)
        if child is None or excess_ms[child] < _MOST * excess_ms[name]:
            return name
        name, depth = child, depth + 1
