"""All criteria of one route, from its first tick to its record: for a drive of ours or one looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import carla

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, RouteLine, ScenarioSignal
from tickdrive.leaderboard.criteria.collisions import Collisions
from tickdrive.leaderboard.criteria.lanes import OutsideRouteLanes
from tickdrive.leaderboard.criteria.lights import RedLight
from tickdrive.leaderboard.criteria.progress import Blocked, InRoute, RouteCompletion, RouteTimeout
from tickdrive.leaderboard.criteria.scenarios import ScenarioTimeouts, YieldToEmergencyVehicle
from tickdrive.leaderboard.criteria.speed import MinimumSpeed
from tickdrive.leaderboard.criteria.stops import StopSign
from tickdrive.leaderboard.results import CriterionRow, PlacedInfraction, RouteRecord
from tickdrive.leaderboard.route_planner import RoutePoint
from tickdrive.leaderboard.scoring import Failure, Rules, route_status, score

EGO_LIFT_M = 0.5
"""How far above the route's first point the ego is spawned (route_scenario.py, `_spawn_ego_vehicle`)."""


@dataclass(frozen=True)
class JudgeLimits:
    """What ends a route or scores it, beyond the criteria's own constants; see `EvaluationConfig`."""

    rules: Rules
    blocked_s: float
    deviation_m: float


def judged_line(points: Sequence[RoutePoint]) -> RouteLine:
    """The dense route as upstream judges it: its first point lifted, for it lifts the ego by that object."""
    first = points[0].transform
    place = carla.Location(first.location.x, first.location.y, first.location.z + EGO_LIFT_M)
    return RouteLine([points[0]._replace(transform=carla.Transform(place, first.rotation)), *points[1:]])


def traffic_lights(world: carla.World) -> list[carla.TrafficLight]:
    """All traffic lights of a world."""
    return list(world.get_actors().filter("traffic.traffic_light*"))


def red_lights(lights: Sequence[carla.TrafficLight]) -> frozenset[int]:
    """Ids of those that are red now."""
    return frozenset(light.id for light in lights if light.state == carla.TrafficLightState.Red)


class RouteJudge:
    """Watches one drive and makes its record.

    Args:
        world: its traffic lights, stop signs and the ego must have been seen in a tick.
        world_map: of it.
        ego: the vehicle.
        line: the route.
        collisions: fed by whoever has the sensor; `close` closes it.
        limits: see there.

    Attributes:
        last_tick: what was judged last; None before the first.
    """

    def __init__(
        self,
        world: carla.World,
        world_map: carla.Map,
        ego: carla.Vehicle,
        line: RouteLine,
        collisions: Collisions,
        limits: JudgeLimits,
    ) -> None:
        self._line = line
        self._rules = limits.rules
        self._completion = RouteCompletion(line)
        length_m = 2 * ego.bounding_box.extent.x
        # the order of the leaderboard's result table
        self._criteria: list[Criterion] = [
            self._completion,
            OutsideRouteLanes(world_map, line, ego.get_location()),
            collisions,
            RedLight(world_map, traffic_lights(world), length_m),
            StopSign(world_map, list(world.get_actors().filter("traffic.stop*"))),
            MinimumSpeed(line, limits.rules),
            InRoute(line, limits.deviation_m),
            Blocked(limits.blocked_s),
            *(scenario_criteria := (ScenarioTimeouts(), YieldToEmergencyVehicle())),
            RouteTimeout(line),
        ]
        self._of_scenarios: tuple[Criterion, ...] = scenario_criteria
        self._known_at: dict[tuple[Criterion, int], EgoTick] = {}
        self.last_tick: EgoTick | None = None

    @property
    def over(self) -> bool:
        """Whether the route has ended, by one criterion or another."""
        return any(criterion.ends_route for criterion in self._criteria)

    @property
    def percent(self) -> float:
        """Share of the route completed, 0 to 100."""
        return self._completion.percent

    @property
    def travelled_m(self) -> float:
        """Distance along the route of the last point passed."""
        return self._completion.travelled_m

    def update(self, tick: EgoTick) -> tuple[Event, ...]:
        """Judge one tick, in order; what was found in it."""
        self.last_tick = tick
        new_events: list[Event] = []
        for criterion in self._criteria:
            known = len(criterion.events)
            criterion.update(tick)
            for number in range(known, len(criterion.events)):
                self._known_at[criterion, number] = tick
            new_events += criterion.events[known:]
        return tuple(new_events)

    def settle(self, signals: tuple[ScenarioSignal, ...]) -> None:
        """Take what scenarios tell when the route is over, behind the last tick."""
        if self.last_tick is not None and signals:
            for criterion in self._of_scenarios:
                criterion.update(replace(self.last_tick, signals=signals))

    def infractions(self) -> tuple[PlacedInfraction, ...]:
        """All infractions so far, with the tick and the place at which they became known, in time's order."""
        placed = []
        for criterion in self._criteria:
            for number, event in enumerate(criterion.events):
                # what is found at the route's end is found where the ego stands then
                tick = self._known_at.get((criterion, number), self.last_tick)
                assert tick is not None, "an event without a tick"
                position = (round(tick.location.x, 3), round(tick.location.y, 3))
                placed.append(
                    PlacedInfraction(
                        event.kind.value, tick.frame, round(tick.sim_s, 3), position, event.message
                    )
                )
        return tuple(sorted(placed, key=lambda infraction: infraction.frame))

    def record(self, index: int, route_id: str, failure: Failure | None, system_s: float) -> RouteRecord:
        """Settle what only the end decides, and score.

        Args:
            index: place of the route in the evaluation.
            route_id: ``RouteScenario_<id>_rep<k>``.
            failure: what ended the route from outside the criteria.
            system_s: wall time that it took.
        """
        if self.last_tick is not None:
            for criterion in self._criteria:
                criterion.finish(self.last_tick, self.over)
        events = [event for criterion in self._criteria for event in criterion.events]
        return RouteRecord.build(
            index=index,
            route_id=route_id,
            status=route_status(self._completion.done, events, failure),
            events=events,
            scores=score(self.percent, events, self._rules),
            length_m=self._line.length_m,
            game_s=self.last_tick.sim_s if self.last_tick else 0.0,
            system_s=system_s,
            criteria=[
                CriterionRow(c.name, "FAILURE" if c.failed else "SUCCESS", c.value if c.unit else 0.0, c.unit)
                for c in self._criteria
            ],
        )

    def close(self) -> None:
        """Release the criteria's sensors."""
        for criterion in self._criteria:
            criterion.close()
