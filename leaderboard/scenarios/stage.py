"""What a route's scenarios act on: the world, the ego as it is now, the traffic, the lights."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import carla
import numpy as np

from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import EgoTick, RouteLine
from tickdrive.leaderboard.route_planner import RoutePlanner, RoutePoint
from tickdrive.leaderboard.scenarios.background import Background
from tickdrive.leaderboard.scenarios.behaviour import Behaviour, each_tick, until
from tickdrive.leaderboard.scenarios.driver import Obstacle
from tickdrive.leaderboard.scenarios.rules import ScenarioRules
from tickdrive.leaderboard.traffic import Traffic

_LOGGER = logging.getLogger(__name__)
_OBSTACLES_WITHIN_M = 80.0
_LIGHTS_LAST_S = 10000.0
_TRIGGER_WINDOW = 5  # `ScenarioTriggerer.WINDOWS_SIZE`
ControlFilter = Callable[[carla.VehicleControl], None]


class Stage:
    """Shared by all scenarios of a route.

    Args:
        session: the route's town is loaded.
        ego: at the route's start.
        points: the dense route.
        line: the same route with its distances.
        planner: of the town.
        traffic: of the route.
        rules: what the criteria are told.
        seed: of everything that scenarios draw.

    Attributes:
        tick: the ego now; before the first tick, at rest at the route's start.
        index: route point that the ego is at.
        filters: what changes the ego's control before it is applied.
    """

    def __init__(
        self,
        session: CarlaSession,
        ego: carla.Vehicle,
        points: Sequence[RoutePoint],
        line: RouteLine,
        planner: RoutePlanner,
        traffic: Traffic,
        rules: ScenarioRules,
        seed: int,
    ) -> None:
        self.world, self.map = session.world, session.map
        self.ego = ego
        self.points, self.line = points, line
        self.planner = planner
        self.rules = rules
        self.random = random.Random(seed)
        self.background = Background(traffic, line, lambda: self.tick.location, lambda: self.index)
        self.traffic = traffic
        self.index = 0
        self.filters: list[ControlFilter] = []
        self.actors: dict[int, carla.Actor] = {}
        self._extents: dict[int, carla.Vector3D] = {}
        self._obstacles: tuple[int, list[Obstacle]] = (-1, [])
        self._blueprints = sorted(self.world.get_blueprint_library(), key=lambda b: b.id)
        self.tick = EgoTick(0, 0.0, line.transforms[0], carla.Vector3D())
        self.ego_half_length_m = float(ego.bounding_box.extent.x)

    def advance(self, tick: EgoTick) -> None:
        """Take over the ego's state, and follow it along the route as `ScenarioTriggerer` does."""
        self.tick = tick
        window = range(self.index, min(self.index + _TRIGGER_WINDOW + 1, len(self.line)))
        self.index = min(window, key=lambda i: (self.line.locations[i].distance(tick.location), -i))

    # -- conditions --------------------------------------------------------------------------------------

    def near(self, location: carla.Location, distance_m: float) -> bool:
        """Whether the ego is within a distance (`InTriggerDistanceToLocation`)."""
        return bool(self.tick.location.distance(location) < distance_m)

    def arrives(self, location: carla.Location, within_s: float, near_m: float) -> bool:
        """Whether the ego is near a place or will be there soon (`InTimeToArrivalToLocation` or distance)."""
        distance_m = self.tick.location.distance(location)
        return bool(distance_m < near_m or distance_m < within_s * self.tick.speed_mps)

    def passed(self, transform: carla.Transform) -> bool:
        """Whether the ego is beyond a place, in the place's direction (`WaitUntilInFrontPosition`)."""
        return bool((self.tick.location - transform.location).dot(transform.get_forward_vector()) > 0.0)

    def wait_s(self, seconds: float) -> Behaviour:
        """Let simulated time pass (`Idle`)."""
        end_s = self.tick.sim_s + seconds
        yield from until(lambda: self.tick.sim_s > end_s)

    def until_driven(self, distance_m: float, actor: carla.Actor | None = None) -> Behaviour:
        """Until the ego, or another actor, has come so far (`DriveDistance`)."""
        mover = actor or self.ego
        driven_m = 0.0
        last = mover.get_location()

        def step() -> bool:
            nonlocal driven_m, last
            here = mover.get_location() if mover.is_alive else last
            driven_m, last = driven_m + here.distance(last), here
            return driven_m > distance_m

        yield from each_tick(step)

    def until_through_junction(self, junction_id: int | None = None) -> Behaviour:
        """Until the ego has entered the next, or a certain, junction and left it (`WaitEndIntersection`)."""
        inside = False

        def step() -> bool:
            nonlocal inside
            here = self.map.get_waypoint(self.tick.location)
            if not inside:
                inside = here.is_junction and junction_id in (None, here.junction_id)
                return False
            return not here.is_junction

        yield from each_tick(step)

    # -- lights ------------------------------------------------------------------------------------------

    def junction_lights(self, junction: carla.Junction) -> list[carla.TrafficLight]:
        """Traffic lights of a junction."""
        return list(self.world.get_traffic_lights_in_junction(junction.id))

    @contextmanager
    def lights(self, states: Mapping[carla.TrafficLight, carla.TrafficLightState]) -> Iterator[None]:
        """Hold lights in states, and give them back their times (`TrafficLightFreezer`).

        As upstream, by very long phases: CARLA's freezing freezes the whole town.
        """
        before = [
            (light, light.get_state(), light.get_green_time(), light.get_yellow_time(), light.get_red_time())
            for light in states
        ]
        for light, state in states.items():
            light.set_state(state)
            for set_time in (light.set_green_time, light.set_yellow_time, light.set_red_time):
                set_time(_LIGHTS_LAST_S)
        try:
            yield
        finally:
            for light, state, green_s, yellow_s, red_s in before:
                light.set_state(state)
                light.set_green_time(green_s)
                light.set_yellow_time(yellow_s)
                light.set_red_time(red_s)

    # -- actors ------------------------------------------------------------------------------------------

    def blueprint(self, pattern: str, attributes: Mapping[str, str]) -> carla.ActorBlueprint | None:
        """A blueprint drawn among those whose id fits a pattern and whose attributes have these values."""
        fitting = [
            b
            for b in self._blueprints
            if b.match_tags(pattern)
            and all(b.has_attribute(k) and _value(b, k) == v for k, v in attributes.items())
        ]
        return self.random.choice(fitting) if fitting else None

    def trace(self, start: carla.Waypoint, end: carla.Waypoint) -> np.ndarray:
        """(N, 3) way between two places, 1 m apart.

        Raises:
            RouteError: there is none.
        """
        route = self.planner.trace([start.transform.location, end.transform.location])
        locations = [point.transform.location for point in route]
        return np.array([(at.x, at.y, at.z) for at in locations])

    def obstacles(self) -> list[Obstacle]:
        """All vehicles and walkers near the ego, the ego too; the same for all drivers of a tick."""
        if self._obstacles[0] != self.tick.frame:
            self._obstacles = self.tick.frame, self._look_around()
        return self._obstacles[1]

    def _look_around(self) -> list[Obstacle]:
        found = []
        others = [*self.traffic.living(), *self.traffic.walkers, *self.actors.values()]
        for actor in [self.ego, *others]:
            if not actor.is_alive:
                continue
            at = actor.get_location()
            if at.distance(self.tick.location) > _OBSTACLES_WITHIN_M:
                continue
            if actor.id not in self._extents:  # `bounding_box` is a call to the server
                self._extents[actor.id] = actor.bounding_box.extent
            extent, velocity = self._extents[actor.id], actor.get_velocity()
            found.append(
                Obstacle(
                    actor.id,
                    np.array((at.x, at.y)),
                    np.array((velocity.x, velocity.y)),
                    extent.x,
                    extent.y,
                )
            )
        return found


def _value(blueprint: carla.ActorBlueprint, name: str) -> str:
    attribute = blueprint.get_attribute(name)
    value = attribute.as_str() if attribute.type == carla.ActorAttributeType.String else None
    if value is None and attribute.type == carla.ActorAttributeType.Bool:
        value = "true" if attribute.as_bool() else "false"
    return value if value is not None else str(attribute.as_int())
