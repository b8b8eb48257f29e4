"""Infractions that scenarios find: not getting past one in time, not yielding to an emergency vehicle.

After scenario_runner `atomic_criteria.py`, `ScenarioTimeoutTest` and `YieldToEmergencyVehicleTest`. Upstream
has one such criterion for each scenario, here one counts for all of a route.
"""

from __future__ import annotations

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind
from tickdrive.leaderboard.scenarios.rules import ScenarioRules


class ScenarioCriterion(Criterion):
    """Takes over what scenarios report of one kind."""

    unit = "times"

    def __init__(self, name: str, kind: EventKind, rules: ScenarioRules) -> None:
        super().__init__()
        self.name = name
        self._kind = kind
        self._rules = rules

    def update(self, tick: EgoTick) -> None:
        """Take over what was reported since the last tick."""
        for message in self._rules.take(self._kind):
            self._events.append(Event(self._kind, tick.frame, tick.sim_s, message))

    def finish(self, tick: EgoTick) -> None:
        """Take over what the route's end decided."""
        self.update(tick)


def scenario_criteria(rules: ScenarioRules) -> list[Criterion]:
    """The criteria of a route with scenarios, in the order of the result table."""
    return [
        ScenarioCriterion("ScenarioTimeoutTest", EventKind.SCENARIO_TIMEOUT, rules),
        ScenarioCriterion("YieldToEmergencyVehicleTest", EventKind.YIELD_EMERGENCY_VEHICLE, rules),
    ]
