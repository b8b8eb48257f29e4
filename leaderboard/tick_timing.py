"""Where a tick's wall time went: simulator, agent, evaluator. Percentiles that survive a resume.

A histogram with buckets 2 % apart stands for the samples: it can be added up over routes and processes, and
its percentiles are within 1 % of the true ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARTS = ("simulator_ms", "agent_ms", "evaluator_ms")
_RATIO = 1.02
_FLOOR_MS = 1e-3


@dataclass(frozen=True)
class TickTiming:
    """Wall time of one tick.

    Attributes:
        simulator_ms: the world's tick and the wait for the sensors' data.
        agent_ms: the agent, without the wait for data.
        evaluator_ms: control, traffic and criteria.
    """

    simulator_ms: float
    agent_ms: float
    evaluator_ms: float

    @property
    def total_ms(self) -> float:
        """All of it; what observers (film, progress) take is not counted anywhere."""
        return self.simulator_ms + self.agent_ms + self.evaluator_ms


class TimingHistogram:
    """Counts tick times in logarithmic buckets, for each part apart."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
        self._max = dict.fromkeys(PARTS, 0.0)

    def record(self, timing: TickTiming) -> None:
        """Count one tick."""
        for part in PARTS:
            value = getattr(timing, part)
            self._counts[part][_bucket(value)] += 1
            self._max[part] = max(self._max[part], value)

    def add(self, other: TimingHistogram) -> None:
        """Add another histogram's counts."""
        for part in PARTS:
            self._counts[part].update(other._counts[part])
            self._max[part] = max(self._max[part], other._max[part])

    @property
    def ticks(self) -> int:
        """Ticks counted."""
        return sum(self._counts["agent_ms"].values())

    def percentile(self, part: str, percent: float) -> float:
        """Milliseconds below which that share of the ticks lies; within 1 %. NaN-free: 0 without ticks."""
        counts = self._counts[part]
        wanted = math.ceil(percent / 100.0 * sum(counts.values()))
        seen = 0
        for bucket in sorted(counts):
            seen += counts[bucket]
            if seen >= wanted:
                return min(_middle_ms(bucket), self._max[part])
        return 0.0

    def summary(self, budget_ms: float) -> dict[str, Any]:
        """JSON: percentiles by part, ticks, and how many of the agent's ticks missed the budget."""
        parts = {
            part: {
                "p50": round(self.percentile(part, 50), 3),
                "p95": round(self.percentile(part, 95), 3),
                "p99": round(self.percentile(part, 99), 3),
                "max": round(self._max[part], 3),
            }
            for part in PARTS
        }
        late = sum(n for bucket, n in self._counts["agent_ms"].items() if _middle_ms(bucket) > budget_ms)
        return {"ticks": self.ticks, "budget_ms": budget_ms, "misses": late, **parts}

    def to_json(self) -> dict[str, Any]:
        """The counts, for `from_json`."""
        return {
            part: {
                "max": self._max[part],
                "counts": {str(b): n for b, n in sorted(self._counts[part].items())},
            }
            for part in PARTS
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TimingHistogram:
        """Read `to_json` back; an empty mapping gives an empty histogram."""
        histogram = TimingHistogram()
        for part in PARTS:
            if part in data:
                histogram._max[part] = float(data[part]["max"])
                histogram._counts[part].update({int(b): int(n) for b, n in data[part]["counts"].items()})
        return histogram


def _bucket(value_ms: float) -> int:
    return math.floor(math.log(max(value_ms, _FLOOR_MS)) / math.log(_RATIO))


def _middle_ms(bucket: int) -> float:
    return _RATIO ** (bucket + 0.5)
