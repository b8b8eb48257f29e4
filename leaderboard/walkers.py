"""Walkers under `WalkerControl`: some stroll along sidewalks, some cross the route at crosswalks.

A crossing walker waits at the kerb and steps out once, when the ego is near enough to matter and far enough
to stop for it; it never jumps before a car.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import carla
import numpy as np

from tickdrive.leaderboard.criteria.base import EgoTick, RouteLine
from tickdrive.leaderboard.evaluation_config import TrafficConfig

_LOGGER = logging.getLogger(__name__)
_LIFT_M = 1.1  # a walker's origin is about its hip; it falls to the ground
_STROLL_STEP_M = 2.0
_STROLL_LENGTH_M = 40.0
_STROLL_MIN_M = 8.0
_STROLL_FARTHEST_M = 100.0
_STROLL_ATTEMPTS = 40
_STROLL_SPEEDS_MPS = (0.9, 1.4)
_ARRIVED_M = 0.6
_TURN_SENT_DEG = 2.0
# crossing: the ego's front is this far away, and at least this long in time
_EGO_FRONT_M = 2.5
_CROSS_NEAREST_M = 20.0
_CROSS_FURTHEST_M = 45.0
_CROSS_EGO_S = 3.0
_CROSS_OTHERS_S = 3.5
_CROSS_CLEAR_M = 7.0
_KERB_M = 1.0
_KERB_SEARCH_M = 4.0
_STEP_AHEAD_M = 1.0
_BODY_MARGIN_M = 0.7
_PASSING_M = 1.4


@dataclass(frozen=True)
class Crossing:
    """A crosswalk that the route passes over.

    Attributes:
        first, second: (2,) kerb points at its two ends, world frame, off the driving lanes.
        travelled_m: where the route enters it.
        z_m: height of the road.
    """

    first: np.ndarray
    second: np.ndarray
    travelled_m: float
    z_m: float


@dataclass
class _Walker:
    actor: carla.Walker
    speed_mps: float
    path: list[np.ndarray]
    target: int
    crossing: Crossing | None = None
    step: int = 1
    moving: bool = False
    sent: tuple[float, float] = field(default=(math.nan, math.nan))  # heading [deg], speed


class WalkerTraffic:
    """All walkers of a route."""

    def __init__(
        self,
        world: carla.World,
        carla_map: carla.Map,
        line: RouteLine,
        config: TrafficConfig,
        rng: random.Random,
    ) -> None:
        self._world = world
        self._map = carla_map
        self._line = line
        self._config = config
        self._random = rng
        self._walkers: list[_Walker] = []
        self._extents: dict[int, carla.Vector3D] = {}

    @property
    def actors(self) -> tuple[carla.Walker, ...]:
        """The walker actors, those at crosswalks first."""
        return tuple(walker.actor for walker in self._walkers)

    def spawn(self) -> None:
        """Put the walkers into the world; fewer than asked for where there is no place is logged."""
        blueprints = sorted(
            self._world.get_blueprint_library().filter("walker.pedestrian.*"), key=lambda b: b.id
        )
        wanted = min(self._config.crossing_walkers, self._config.walkers)
        crossings = find_crossings(self._map, self._line)
        self._random.shuffle(crossings)
        for crossing in crossings[:wanted]:
            ends = [crossing.first, crossing.second]
            self._random.shuffle(ends)
            for path in _paths(ends, self._config.walkers_per_crosswalk):
                if len(self._walkers) < wanted:
                    self._add(blueprints, path, 0, crossing.z_m, self._config.crossing_speed_mps, crossing)
        for path, z_m in itertools.islice(self._strolls(), 8 * self._config.walkers):
            if len(self._walkers) >= self._config.walkers:
                break
            start = self._random.randrange(len(path) - 1)
            speed_mps = self._random.uniform(*_STROLL_SPEEDS_MPS)
            self._add(blueprints, path, start, z_m, speed_mps)
        if len(self._walkers) < self._config.walkers:
            _LOGGER.warning("room for only %d of %d walkers", len(self._walkers), self._config.walkers)

    def on_tick(self, tick: EgoTick, ego_travelled_m: float, vehicles: Sequence[carla.Vehicle]) -> None:
        """Guide every walker; `vehicles` are the ego, first, and all others."""
        for walker in self._walkers:
            if walker.crossing is not None and not walker.moving:
                walker.moving = self._may_cross(walker.crossing, tick, ego_travelled_m, vehicles)
            if walker.crossing is None or walker.moving:
                self._guide(walker, vehicles)

    def forget(self) -> None:
        """The actors were destroyed."""
        self._walkers = []

    def _add(
        self,
        blueprints: Sequence[carla.ActorBlueprint],
        path: list[np.ndarray],
        start: int,
        z_m: float,
        speed_mps: float,
        crossing: Crossing | None = None,
    ) -> None:
        blueprint = self._random.choice(blueprints)
        if blueprint.has_attribute("is_invincible"):
            blueprint.set_attribute("is_invincible", "false")
        heading = path[start + 1] - path[start]
        yaw = math.degrees(math.atan2(heading[1], heading[0]))
        location = carla.Location(float(path[start][0]), float(path[start][1]), z_m + _LIFT_M)
        actor = self._world.try_spawn_actor(blueprint, carla.Transform(location, carla.Rotation(yaw=yaw)))
        if actor is not None:
            self._walkers.append(_Walker(actor, speed_mps, path, start + 1, crossing))

    def _strolls(self) -> Iterator[tuple[list[np.ndarray], float]]:
        """Pieces of sidewalk near random points of the route; none where there are none, as on motorways."""
        for _ in range(_STROLL_ATTEMPTS * self._config.walkers):
            location = self._random.choice(self._line.locations)
            # to both sides and a little away, so that not only the nearest sidewalk is found
            shifted = carla.Location(
                location.x + self._random.uniform(-20, 20),
                location.y + self._random.uniform(-20, 20),
                location.z,
            )
            waypoint = self._map.get_waypoint(shifted, lane_type=carla.LaneType.Sidewalk)
            if waypoint is None:
                return
            if waypoint.transform.location.distance(shifted) > _STROLL_FARTHEST_M:
                continue
            path = [waypoint]
            while len(path) * _STROLL_STEP_M < _STROLL_LENGTH_M:
                following = path[-1].next(_STROLL_STEP_M)
                if not following or following[0].lane_type != carla.LaneType.Sidewalk:
                    break
                if following[0].transform.location.distance(path[-1].transform.location) > 2 * _STROLL_STEP_M:
                    break
                path.append(following[0])
            if len(path) * _STROLL_STEP_M >= _STROLL_MIN_M:
                points = [np.array((w.transform.location.x, w.transform.location.y)) for w in path]
                yield points, path[0].transform.location.z

    def _may_cross(
        self, crossing: Crossing, tick: EgoTick, ego_travelled_m: float, vehicles: Sequence[carla.Vehicle]
    ) -> bool:
        gap_m = crossing.travelled_m - ego_travelled_m - _EGO_FRONT_M
        if not _CROSS_NEAREST_M <= gap_m <= _CROSS_FURTHEST_M or gap_m < _CROSS_EGO_S * tick.speed_mps:
            return False
        for vehicle in vehicles[1:]:
            location, velocity = vehicle.get_location(), vehicle.get_velocity()
            here = np.array((location.x, location.y))
            offset = _nearest_on_segment(here, crossing.first, crossing.second) - here
            distance_m = float(np.linalg.norm(offset))
            if distance_m < _CROSS_CLEAR_M:
                return False
            closing_mps = float(np.dot((velocity.x, velocity.y), offset)) / distance_m
            if distance_m - _CROSS_CLEAR_M < _CROSS_OTHERS_S * closing_mps:
                return False
        return True

    def _guide(self, walker: _Walker, vehicles: Sequence[carla.Vehicle]) -> None:
        location = walker.actor.get_location()
        here = np.array((location.x, location.y))
        to_target = walker.path[walker.target] - here
        if float(np.linalg.norm(to_target)) < _ARRIVED_M:
            if not self._next_target(walker):
                self._send(walker, walker.sent[0], 0.0)
                return
            to_target = walker.path[walker.target] - here
        yaw = math.atan2(to_target[1], to_target[0])
        ahead = here + _STEP_AHEAD_M * np.array((math.cos(yaw), math.sin(yaw)))
        blocked = any(self._inside(vehicle, ahead) for vehicle in vehicles)
        self._send(walker, math.degrees(yaw), 0.0 if blocked else walker.speed_mps)

    @staticmethod
    def _next_target(walker: _Walker) -> bool:
        """Go on along the path and back; a crossing walker stays on the other side."""
        if walker.crossing is not None:
            return False
        if not 0 <= walker.target + walker.step < len(walker.path):
            walker.step = -walker.step
        walker.target += walker.step
        return True

    def _send(self, walker: _Walker, yaw_deg: float, speed_mps: float) -> None:
        turned = abs((yaw_deg - walker.sent[0] + 180) % 360 - 180)
        if turned < _TURN_SENT_DEG and speed_mps == walker.sent[1]:
            return
        walker.sent = yaw_deg, speed_mps
        yaw = math.radians(yaw_deg)
        direction = carla.Vector3D(math.cos(yaw), math.sin(yaw), 0.0)
        walker.actor.apply_control(carla.WalkerControl(direction=direction, speed=speed_mps, jump=False))

    def _inside(self, vehicle: carla.Vehicle, point: np.ndarray) -> bool:
        """Whether a point lies within a vehicle's outline, widened by a body's half."""
        transform = vehicle.get_transform()
        offset = point - np.array((transform.location.x, transform.location.y))
        if float(offset @ offset) > 100.0:
            return False
        if vehicle.id not in self._extents:  # `bounding_box` is a call to the server
            self._extents[vehicle.id] = vehicle.bounding_box.extent
        extent, yaw = self._extents[vehicle.id], math.radians(transform.rotation.yaw)
        along = abs(offset[0] * math.cos(yaw) + offset[1] * math.sin(yaw))
        across = abs(-offset[0] * math.sin(yaw) + offset[1] * math.cos(yaw))
        return bool(along < extent.x + _BODY_MARGIN_M and across < extent.y + _BODY_MARGIN_M)


def _paths(ends: list[np.ndarray], count: int) -> list[list[np.ndarray]]:
    """Ways over a crosswalk for one walker, or for two from both sides who pass each other."""
    if count == 1:
        return [ends]
    along = ends[1] - ends[0]
    aside = _PASSING_M / 2.0 * np.array((-along[1], along[0])) / float(np.linalg.norm(along))
    return [[ends[0] + aside, ends[1] + aside], [ends[1] - aside, ends[0] - aside]]


def crosswalk_polygons(locations: Sequence[carla.Location]) -> list[np.ndarray]:
    """Split `Map.get_crosswalks()` into polygons: each ends where it comes back to its first point.

    Returns:
        (N, 3) vertices of each crosswalk, the first not repeated.
    """
    polygons: list[np.ndarray] = []
    current: list[np.ndarray] = []
    for location in locations:
        point = np.array((location.x, location.y, location.z))
        if current and float(np.linalg.norm(point - current[0])) < 1e-3:
            if len(current) >= 3:
                polygons.append(np.array(current))
            current = []
        else:
            current.append(point)
    return polygons


def find_crossings(carla_map: carla.Map, line: RouteLine) -> list[Crossing]:
    """Crosswalks that the route passes over, in the order in which it does."""
    route = np.array([(p.x, p.y) for p in line.locations])
    crossings = []
    for polygon in crosswalk_polygons(carla_map.get_crosswalks()):
        inside = [i for i in _near(route, polygon) if _contains(polygon[:, :2], route[i])]
        if not inside:
            continue
        centre = polygon[:, :2].mean(axis=0)
        # the longer side of a crosswalk is the way across the road
        axis = np.linalg.svd(polygon[:, :2] - centre)[2][0]
        heading = math.radians(line.transforms[inside[len(inside) // 2]].rotation.yaw)
        if abs(axis @ (math.cos(heading), math.sin(heading))) > math.cos(math.radians(45)):
            continue
        reach = (polygon[:, :2] - centre) @ axis
        z_m = float(polygon[:, 2].mean())
        first = _kerb(carla_map, centre + axis * reach.min(), -axis, z_m)
        second = _kerb(carla_map, centre + axis * reach.max(), axis, z_m)
        if first is not None and second is not None:
            crossings.append(Crossing(first, second, line.travelled_m[inside[0]], z_m))
    return sorted(crossings, key=lambda c: c.travelled_m)


def _kerb(carla_map: carla.Map, end: np.ndarray, outward: np.ndarray, z_m: float) -> np.ndarray | None:
    """The first point beyond a crosswalk's end that is on no driving lane."""
    reach_m = _KERB_M
    while reach_m <= _KERB_SEARCH_M:
        point = end + outward * reach_m
        location = carla.Location(float(point[0]), float(point[1]), z_m)
        if carla_map.get_waypoint(location, project_to_road=False, lane_type=carla.LaneType.Driving) is None:
            return np.asarray(point)
        reach_m += 0.5
    return None


def _near(route: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    low, high = polygon[:, :2].min(axis=0), polygon[:, :2].max(axis=0)
    return np.flatnonzero(((route >= low) & (route <= high)).all(axis=1))


def _contains(polygon: np.ndarray, point: np.ndarray) -> bool:
    """Even-odd rule."""
    x, y = point
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            inside = not inside
    return inside


def _nearest_on_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    share = float(np.clip((point - start) @ along / (along @ along), 0.0, 1.0))
    return np.asarray(start + share * along)
