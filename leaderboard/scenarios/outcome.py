"""What became of a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What became of a scenario; the values are what results files say."""

    WAITING = "not reached"
    SKIPPED = "skipped"
    RUNNING = "running at the route's end"
    ENDED = "ended"
    TIMED_OUT = "timed out"
    FAILED = "failed"


@dataclass(frozen=True)
class ScenarioOutcome:
    """What became of a scenario of a route.

    Attributes:
        name: as the route file has it.
        type: of it.
        state: value of `State`.
        started_s: simulated seconds since the route's start; None where it did not start.
        ended_s: likewise.
        why: what kept it from running or going on; empty otherwise.
    """

    name: str
    type: str
    state: str
    started_s: float | None = None
    ended_s: float | None = None
    why: str = ""
