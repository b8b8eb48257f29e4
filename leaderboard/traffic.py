"""Background traffic of a route: vehicles under CARLA's Traffic Manager, and walkers.

Everything is chosen by one seed, in a fixed order, so that the same seed gives the same traffic. World frame
is CARLA's (left-handed, x east, y south, metres).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import carla
import numpy as np

from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import EgoTick, RouteLine
from tickdrive.leaderboard.evaluation_config import TrafficConfig
from tickdrive.leaderboard.walkers import WalkerTraffic

_LOGGER = logging.getLogger(__name__)
_FREE_AROUND_EGO_M = 20.0
_FREE_AHEAD_M = 50.0
_LANE_M = 4.0
_NEAR_ROUTE_M = 80.0
_FREE_AROUND_OTHERS_M = 8.0
_LIFT_M = 0.5
_BEYOND_JUNCTION_M = 8.0
_LEAD_SEARCH_M = 15.0
SURROUNDING_M = 100.0
"""About the radius in which scenario_runner's `background_activity.py` keeps its vehicles at town speeds."""
SURROUNDING_VEHICLES = 2
"""With fewer of them around, there is no traffic to keep up with; upstream's is always there."""


class Traffic:
    """Vehicles and walkers about one route.

    `spawn` puts them into the world at rest, `start` lets them move, `on_tick` guides the walkers, `destroy`
    removes everything and leaves the Traffic Manager empty (only then may another world be loaded).
    """

    def __init__(
        self, session: CarlaSession, ego: carla.Vehicle, line: RouteLine, config: TrafficConfig, seed: int
    ) -> None:
        self._session = session
        self._ego = ego
        self._line = line
        self._config = config
        self._random = random.Random(seed)
        self._vehicles: list[carla.Vehicle] = []
        self._lead: carla.Vehicle | None = None
        self._lead_index = 0
        self._driving = False
        self._put_at: dict[int, tuple[int, carla.Location]] = {}
        self._walkers = WalkerTraffic(session.world, session.map, line, config, self._random)

    @property
    def vehicles(self) -> tuple[carla.Vehicle, ...]:
        """All vehicles, the one ahead first where there is one."""
        return tuple(self._vehicles)

    @property
    def walkers(self) -> tuple[carla.Walker, ...]:
        """All walkers."""
        return self._walkers.actors

    @property
    def lead(self) -> carla.Vehicle | None:
        """The vehicle ahead of the ego on its route."""
        return self._lead

    def spawn(self) -> None:
        """Put vehicles and walkers into the world; fewer than asked for where there is no room is logged."""
        blueprints = self._blueprints()
        if self._config.lead_vehicle and self._config.vehicles > 0:
            self._spawn_lead(blueprints)
        for transform in self._spawn_transforms():
            if len(self._vehicles) >= self._config.vehicles:
                break
            self._spawn_vehicle(blueprints, transform)
        if len(self._vehicles) < self._config.vehicles:
            _LOGGER.warning("room for only %d of %d vehicles", len(self._vehicles), self._config.vehicles)
        self._walkers.spawn()

    def start(self) -> None:
        """Hand the vehicles to the Traffic Manager."""
        manager = self._session.traffic_manager
        manager.set_global_distance_to_leading_vehicle(self._config.following_gap_m)
        manager.global_percentage_speed_difference(self._config.slower_percent)
        self._driving = True
        for vehicle in self._vehicles:
            vehicle.set_autopilot(True, self._session.traffic_manager_port)
        if self._lead is not None:
            manager.auto_lane_change(self._lead, False)
            manager.vehicle_percentage_speed_difference(self._lead, self._config.lead_slower_percent)
            manager.set_path(self._lead, self._lead_path())

    def on_tick(self, tick: EgoTick, ego_travelled_m: float) -> None:
        """Guide the walkers.

        Args:
            tick: the ego now.
            ego_travelled_m: its distance along the route.
        """
        self._walkers.on_tick(tick, ego_travelled_m, (self._ego, *self.living()))

    def speeds_mps(self, ego: carla.Location) -> tuple[float, ...]:
        """Horizontal speeds of the vehicles around the ego at this tick, for the minimum-speed criterion.

        Upstream's background activity exists only around the ego, ours all over the town: those further than
        `SURROUNDING_M` are not "the surrounding traffic", and fewer than `SURROUNDING_VEHICLES` are none.
        """
        near = [v for v in self.living() if v.get_location().distance(ego) < SURROUNDING_M]
        if len(near) < SURROUNDING_VEHICLES:
            return ()
        velocities = (vehicle.get_velocity() for vehicle in near)
        return tuple(float(np.hypot(v.x, v.y)) for v in velocities)

    def destroy(self) -> None:
        """Take the vehicles out of the Traffic Manager, then everything out of the world.

        The order matters: a Traffic Manager that still holds vehicles when its world goes can hang.
        """
        if self._session.dead:
            return
        if self._driving:
            for vehicle in self.living():
                vehicle.set_autopilot(False, self._session.traffic_manager_port)
            self._driving = False
            self._session.tick()
        actors = [*self.living(), *self._walkers.actors]
        commands = [carla.command.DestroyActor(actor) for actor in actors]
        self._session.client.apply_batch_sync(commands, False)
        self._vehicles = []
        self._lead = None
        self._walkers.forget()
        self._session.tick()

    def living(self) -> list[carla.Vehicle]:
        """Without those that the Traffic Manager has removed: it does so where one is stuck for long."""
        return [vehicle for vehicle in self._vehicles if vehicle.is_alive]

    @property
    def town(self) -> carla.Map:
        """The map that the traffic drives on."""
        return self._session.map

    def put_elsewhere(self, vehicle: carla.Vehicle, ego: carla.Location) -> None:
        """Move a vehicle out of a scenario's way, to a free place where the ego will not see it soon.

        The vehicle ahead of the ego, which follows the route, is taken out of the world; so is one for which
        there is no place.
        """
        place = None if vehicle is self._lead else self._free_place(ego)
        if place is not None:
            vehicle.set_target_velocity(carla.Vector3D())
            vehicle.set_transform(place)
            self._put_at[vehicle.id] = self._session.world.get_snapshot().frame, place.location
            return
        if self._driving:
            vehicle.set_autopilot(False, self._session.traffic_manager_port)
        vehicle.destroy()
        self._vehicles.remove(vehicle)
        if vehicle is self._lead:
            self._lead = None

    def _free_place(self, ego: carla.Location) -> carla.Transform | None:
        frame = self._session.world.get_snapshot().frame
        # what was put somewhere in this tick is not there yet for the client
        self._put_at = {k: put for k, put in self._put_at.items() if put[0] == frame}
        others = [self._put_at[v.id][1] if v.id in self._put_at else v.get_location() for v in self.living()]
        for transform in self._spawn_transforms():
            at = transform.location
            far = at.distance(ego) > SURROUNDING_M / 2
            if far and all(at.distance(other) > _FREE_AROUND_OTHERS_M for other in others):
                return transform
        return None

    def hold(self, vehicles: Sequence[carla.Vehicle]) -> None:
        """Let vehicles brake to a stop."""
        for vehicle in vehicles:
            self._set_slower(vehicle, 100.0)

    def release(self, vehicles: Sequence[carla.Vehicle]) -> None:
        """Let held vehicles drive on as before."""
        for vehicle in vehicles:
            slower = (
                self._config.lead_slower_percent if vehicle is self._lead else self._config.slower_percent
            )
            self._set_slower(vehicle, slower)

    def _set_slower(self, vehicle: carla.Vehicle, percent: float) -> None:
        if self._driving and vehicle.is_alive and vehicle in self._vehicles:
            self._session.traffic_manager.vehicle_percentage_speed_difference(vehicle, percent)

    def _blueprints(self) -> list[carla.ActorBlueprint]:
        """Cars only: two-wheelers and lorries need other gaps than the Traffic Manager keeps."""
        library = sorted(self._session.world.get_blueprint_library().filter("vehicle.*"), key=lambda b: b.id)
        return [b for b in library if b.has_attribute("base_type") and b.get_attribute("base_type") == "car"]

    def _spawn_transforms(self) -> list[carla.Transform]:
        """Spawn points in a random order, those near the route first, none where the ego starts."""
        points = self._session.map.get_spawn_points()
        if len(points) < self._config.vehicles:
            points = [*points, *_lane_transforms(self._session.map)]
        route = np.array([(p.x, p.y) for p in self._line.locations])
        ahead = route[: np.searchsorted(self._line.travelled_m, _FREE_AHEAD_M) + 1]
        eligible = []
        for transform in points:
            here = np.array((transform.location.x, transform.location.y))
            distance_m = float(np.linalg.norm(route - here, axis=1).min())
            from_start_m = float(np.linalg.norm(route[0] - here))
            in_way = float(np.linalg.norm(ahead - here, axis=1).min()) < _LANE_M
            if distance_m <= self._config.radius_m and from_start_m >= _FREE_AROUND_EGO_M and not in_way:
                eligible.append((distance_m > _NEAR_ROUTE_M, self._random.random(), transform))
        return [transform for *_, transform in sorted(eligible, key=lambda e: e[:2])]

    def _spawn_lead(self, blueprints: Sequence[carla.ActorBlueprint]) -> None:
        """Ahead of the ego on its own lane, outside junctions; a little further where there is no room."""
        start = int(np.searchsorted(self._line.travelled_m, self._config.lead_gap_m))
        end = int(np.searchsorted(self._line.travelled_m, self._config.lead_gap_m + _LEAD_SEARCH_M))
        for index in range(start, min(end, len(self._line))):
            transform = self._line.transforms[index]
            if self._session.map.get_waypoint(transform.location).is_junction:
                continue
            lifted = carla.Location(
                transform.location.x, transform.location.y, transform.location.z + _LIFT_M
            )
            if self._spawn_vehicle(blueprints, carla.Transform(lifted, transform.rotation)):
                self._lead, self._lead_index = self._vehicles[-1], index
                return
        _LOGGER.warning("no room for a vehicle ahead of the ego")

    def _spawn_vehicle(self, blueprints: Sequence[carla.ActorBlueprint], transform: carla.Transform) -> bool:
        blueprint = self._random.choice(blueprints)
        # the attribute by which upstream's minimum-speed test knows the traffic
        blueprint.set_attribute("role_name", "background")
        if blueprint.has_attribute("color"):
            colours = blueprint.get_attribute("color").recommended_values
            blueprint.set_attribute("color", self._random.choice(colours))
        vehicle = self._session.world.try_spawn_actor(blueprint, transform)
        if vehicle is not None:
            self._vehicles.append(vehicle)
        return vehicle is not None

    def _lead_path(self) -> list[carla.Location]:
        """One point beyond each junction of the route, and its end.

        At a fork the Traffic Manager takes the branch whose end lies nearest to the path's next point, so
        a point before or within a junction would mislead it; between junctions there is nothing to choose.
        """
        carla_map = self._session.map
        path: list[carla.Location] = []
        left_junction_m: float | None = None
        inside = False
        for i in range(self._lead_index, len(self._line)):
            location, travelled_m = self._line.locations[i], self._line.travelled_m[i]
            was_inside, inside = inside, carla_map.get_waypoint(location).is_junction
            if inside:
                continue
            if was_inside:
                left_junction_m = travelled_m
            if left_junction_m is not None and travelled_m - left_junction_m >= _BEYOND_JUNCTION_M:
                path.append(location)
                left_junction_m = None
        return [*path, self._line.locations[-1]]


def _lane_transforms(carla_map: carla.Map) -> list[carla.Transform]:
    """Places to start on the lanes, for maps that name too few spawn points."""
    transforms = []
    for waypoint in carla_map.generate_waypoints(25.0):
        if not waypoint.is_junction:
            at = waypoint.transform.location
            lifted = carla.Location(at.x, at.y, at.z + _LIFT_M)
            transforms.append(carla.Transform(lifted, waypoint.transform.rotation))
    return transforms
