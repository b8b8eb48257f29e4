"""Completion of the route, and what ends it early: deviation, a blocked vehicle, the route's timeout.

After scenario_runner `atomic_criteria.py` (`RouteCompletionTest`, `InRouteTest`, `ActorBlockedTest`) and
`timer.py` (`RouteTimeoutBehavior`).
"""

from __future__ import annotations

import math

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind, RouteLine, describe
from tickdrive.leaderboard.scenarios.rules import ScenarioRules

FALLBACK_SPEED_LIMIT_KMH = 30.0
"""Taken for the timeout where the simulator knows no limit (it says 0)."""


class RouteCompletion(Criterion):
    """How far the ego has come; the route is done beyond 99 % and within 10 m of the goal."""

    name = "RouteCompletionTest"
    unit = "%"
    WINDOW = 2
    GOAL_DISTANCE_M = 10.0
    GOAL_PERCENT = 99.0

    def __init__(self, line: RouteLine) -> None:
        super().__init__()
        self._line = line
        self._index = 0
        self._percent = 0.0
        self._done = False

    def update(self, tick: EgoTick) -> None:
        """Advance along the route."""
        if self._done:
            return
        self._index = self._line.advance(self._index, tick.location, self.WINDOW)
        self._percent = round(100.0 * self._line.travelled_m[self._index] / self._line.length_m, 2)
        near = tick.location.distance(self._line.locations[-1]) < self.GOAL_DISTANCE_M
        if self._percent > self.GOAL_PERCENT and near:
            self._done = True
            self._percent = 100.0

    @property
    def percent(self) -> float:
        """Share of the route completed."""
        return self._percent

    @property
    def travelled_m(self) -> float:
        """Distance along the route of the last point passed."""
        return self._line.travelled_m[self._index]

    @property
    def value(self) -> float:
        """Percentage completed."""
        return self._percent

    @property
    def failed(self) -> bool:
        """Whether the goal was not reached."""
        return not self._done

    @property
    def ends_route(self) -> bool:
        """The goal is reached."""
        return self._done


class InRoute(Criterion):
    """The ego must stay within 30 m of the route, and spend at most 30 % of it more than half as far away."""

    name = "InRouteTest"
    WINDOW = 5
    MAX_FAR_PERCENT = 30.0

    def __init__(self, line: RouteLine, deviation_m: float = 30.0) -> None:
        super().__init__()
        self._line = line
        self._deviation_m = deviation_m
        self._index = 0
        self._far_m = 0.0

    def update(self, tick: EgoTick) -> None:
        """Measure the distance to the route."""
        if self._events:
            return
        here = tick.location
        window = range(self._index, min(self._index + self.WINDOW + 1, len(self._line)))
        distances = [
            (math.hypot(here.x - self._line.locations[i].x, here.y - self._line.locations[i].y), -i)
            for i in window
        ]
        distance_m, negative_index = min(distances)  # of equally near points, the further one
        index = -negative_index
        off = distance_m >= self._deviation_m
        if index != self._index and not off:
            if distance_m >= self._deviation_m / 2:
                self._far_m += self._line.travelled_m[index] - self._line.travelled_m[self._index]
                off = 100.0 * self._far_m / self._line.length_m > self.MAX_FAR_PERCENT
            self._index = index
        if off:
            message = f"Agent deviated from the route at {describe(here)}"
            self._events.append(Event(EventKind.ROUTE_DEVIATION, tick.frame, tick.sim_s, message))

    @property
    def ends_route(self) -> bool:
        """The ego left the route."""
        return bool(self._events)


class Blocked(Criterion):
    """The ego must not stand for longer than `max_s`; scenarios with a timeout of their own suspend it."""

    name = "AgentBlockedTest"
    MIN_SPEED_MPS = 0.1

    def __init__(self, max_s: float, rules: ScenarioRules | None = None) -> None:
        super().__init__()
        self._rules = rules or ScenarioRules()
        self._max_s = max_s
        self._moved_at_s: float | None = None

    def update(self, tick: EgoTick) -> None:
        """Note when the ego last moved."""
        if self._events:
            return
        moving = tick.speed_mps >= self.MIN_SPEED_MPS
        if self._moved_at_s is None or moving or self._rules.standing_allowed:
            self._moved_at_s = tick.sim_s
        elif tick.sim_s - self._moved_at_s > self._max_s:
            message = f"Agent got blocked at {describe(tick.location)}"
            self._events.append(Event(EventKind.VEHICLE_BLOCKED, tick.frame, tick.sim_s, message))

    @property
    def ends_route(self) -> bool:
        """The ego is blocked."""
        return bool(self._events)


class RouteTimeout(Criterion):
    """The route must be driven in 300 s plus the time that 10 % of the speed limit would need so far."""

    name = "Timeout"
    WINDOW = 3
    MIN_TIMEOUT_S = 300.0
    LIMIT_SHARE = 0.1

    def __init__(self, line: RouteLine) -> None:
        super().__init__()
        self._line = line
        self._index = 0
        self._allowed_s = self.MIN_TIMEOUT_S

    def update(self, tick: EgoTick) -> None:
        """Extend the timeout by what was driven, and compare."""
        if self._events:
            return
        index = self._line.advance(self._index, tick.location, self.WINDOW)
        if index > self._index:
            driven_m = self._line.travelled_m[index] - self._line.travelled_m[self._index]
            limit_mps = (tick.speed_limit_kmh or FALLBACK_SPEED_LIMIT_KMH) / 3.6
            self._allowed_s += driven_m / (limit_mps * self.LIMIT_SHARE)
            self._index = index
        if tick.sim_s > self._allowed_s:
            self._events.append(Event(EventKind.ROUTE_TIMEOUT, tick.frame, tick.sim_s, "Route timeout."))

    @property
    def allowed_s(self) -> float:
        """Simulated seconds allowed so far."""
        return self._allowed_s

    @property
    def ends_route(self) -> bool:
        """Time is up."""
        return bool(self._events)
