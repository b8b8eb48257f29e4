"""From events to scores and statuses, by the rules of the public leaderboards.

Rules 2.0 (also master and Bench2Drive) multiply penalties, rules 2.1 divide by their sum; both are in
upstream's `leaderboard/utils/statistics_manager.py` on the branches `leaderboard-2.0` and `leaderboard-2.1`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from tickdrive.leaderboard.criteria.base import Event, EventKind
from tickdrive.planner.errors import ConfigError, did_you_mean


class Rules(Enum):
    """Which leaderboard's rules score a drive."""

    V2_0 = "2.0"
    V2_1 = "2.1"
    BENCH2DRIVE = "bench2drive"

    @staticmethod
    def parse(text: str) -> Rules:
        """The rules of that name.

        Raises:
            ConfigError: there are none; the nearest are named.
        """
        for rules in Rules:
            if rules.value == text:
                return rules
        raise ConfigError(f"There are no rules {text!r}.", did_you_mean(text, [r.value for r in Rules]))


_FACTOR: Mapping[EventKind, float] = {
    EventKind.COLLISION_PEDESTRIAN: 0.5,
    EventKind.COLLISION_VEHICLE: 0.6,
    EventKind.COLLISION_STATIC: 0.65,
    EventKind.RED_LIGHT: 0.7,
    EventKind.STOP_SIGN: 0.8,
    EventKind.SCENARIO_TIMEOUT: 0.7,
    EventKind.YIELD_EMERGENCY_VEHICLE: 0.7,
}
_MIN_SPEED_FACTOR = 0.7
_ADDEND: Mapping[EventKind, float] = {
    EventKind.COLLISION_PEDESTRIAN: 1.0,
    EventKind.COLLISION_VEHICLE: 0.7,
    EventKind.COLLISION_STATIC: 0.6,
    EventKind.RED_LIGHT: 0.4,
    EventKind.STOP_SIGN: 0.25,
    EventKind.SCENARIO_TIMEOUT: 0.4,
    EventKind.YIELD_EMERGENCY_VEHICLE: 0.4,
}
_MIN_SPEED_ADDEND = 0.4


@dataclass(frozen=True)
class Scores:
    """Scores of a route.

    Attributes:
        route: share of the route completed, 0 to 100.
        penalty: factor of the infractions, 0 to 1.
        composed: the driving score, 0 to 100.
    """

    route: float
    penalty: float
    composed: float


class Failure(Enum):
    """Why a route was not completed; the values are upstream's words (`FAILURE_MESSAGES` and others)."""

    SIMULATION = "Simulation crashed"
    AGENT_CRASHED = "Agent crashed"
    AGENT_SETUP = "Agent couldn't be set up"
    AGENT_SENSORS = "Agent's sensors were invalid"
    TIMEOUT = "Agent timed out"
    BLOCKED = "Agent got blocked"
    DEVIATED = "Agent deviated from the route"
    TICKS = "TickRuntime"


AGENT_FAILURES = tuple(
    f"Failed - {failure.value}"
    for failure in (Failure.AGENT_CRASHED, Failure.AGENT_SETUP, Failure.AGENT_SENSORS)
)
"""Statuses of routes that ended because the agent itself failed, not its driving."""

_FAILURE_OF_EVENT: Mapping[EventKind, Failure] = {
    EventKind.ROUTE_TIMEOUT: Failure.TIMEOUT,
    EventKind.ROUTE_DEVIATION: Failure.DEVIATED,
    EventKind.VEHICLE_BLOCKED: Failure.BLOCKED,
}


def score(route_percent: float, events: Iterable[Event], rules: Rules) -> Scores:
    """Score a drive.

    Rules 2.0: penalty = product of a factor per event, where minimum speed at share p of the traffic's gives
    1 - 0.3 (1 - p) and a fraction f outside the lanes gives 1 - f. Rules 2.1: (1 - f) / (1 + sum of addends),
    where minimum speed adds 0.4 (1 - p). Bench2Drive: as 2.0, without minimum speed.

    Args:
        route_percent: share of the route completed, 0 to 100.
        events: all infractions of the route.
        rules: which leaderboard's.
    """
    factors, addends, inside = 1.0, 0.0, 1.0
    for event in events:
        if event.kind is EventKind.OUTSIDE_ROUTE_LANES:
            inside *= 1.0 - _share(event)
        elif event.kind is EventKind.MIN_SPEED:
            if rules is not Rules.BENCH2DRIVE:
                lacking = 1.0 - _share(event)
                factors *= 1.0 - (1.0 - _MIN_SPEED_FACTOR) * lacking
                addends += _MIN_SPEED_ADDEND * lacking
        else:
            factors *= _FACTOR.get(event.kind, 1.0)
            addends += _ADDEND.get(event.kind, 0.0)
    penalty = inside / (1.0 + addends) if rules is Rules.V2_1 else inside * factors
    return Scores(
        route=round(route_percent, 6),
        penalty=round(penalty, 6),
        composed=round(max(route_percent * penalty, 0.0), 6),
    )


def route_status(completed: bool, events: Iterable[Event], failure: Failure | None = None) -> str:
    """Status of a finished route in upstream's words.

    Args:
        completed: whether the goal was reached.
        events: all infractions.
        failure: what ended the route from outside (a crash); events name the other ends.
    """
    kinds = [event.kind for event in events]
    if completed:
        return "Completed" if kinds else "Perfect"
    # upstream: a timeout is found first, what is found later overrides it
    for kind in sorted(kinds, key=lambda kind: kind is not EventKind.ROUTE_TIMEOUT):
        failure = _FAILURE_OF_EVENT.get(kind, failure)
    return f"Failed - {failure.value}" if failure else "Failed"


def is_bench2drive_success(status: str, infractions: Mapping[str, list[str]]) -> bool:
    """Whether Bench2Drive counts the route as a success: done, with no infraction but minimum speed."""
    others = (
        kind for kind, messages in infractions.items() if messages and kind != EventKind.MIN_SPEED.value
    )
    return status in ("Completed", "Perfect") and not any(others)


def _share(event: Event) -> float:
    if event.percent is None or not math.isfinite(event.percent):
        raise ValueError(f"An event of kind {event.kind.name} must carry a percentage.")
    return min(max(event.percent / 100.0, 0.0), 1.0)
