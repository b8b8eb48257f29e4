"""How background traffic makes room for scenarios.

Upstream's `background_activity.py` exists only around the ego and creates and destroys its vehicles as it
likes. Our traffic drives all over the town, so what is in a scenario's way is put elsewhere on the roads near
the route (the vehicle ahead of the ego is taken away), and what must not come is held where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import carla
import numpy as np

from tickdrive.leaderboard.criteria.base import RouteLine
from tickdrive.leaderboard.traffic import Traffic

_LANE_HALF_M = 2.5
_LEVEL_M = 3.0
_JUNCTION_MARGIN_M = 3.0
_ENTRY_M = 40.0
_CROSSING_M = 20.0
_AHEAD_SEARCH_POINTS = 150


class Background:
    """The route's traffic, from a scenario's point of view.

    Args:
        traffic: vehicles and walkers of the route.
        line: the route.
        ego: position of the ego now.
        route_index: route point the ego is at now.
    """

    def __init__(
        self,
        traffic: Traffic,
        line: RouteLine,
        ego: Callable[[], carla.Location],
        route_index: Callable[[], int],
    ) -> None:
        self._traffic = traffic
        self._ego = ego
        self._index = route_index
        self._line = line
        self._route = np.array([(p.x, p.y) for p in line.locations])

    def make_room(self, location: carla.Location, radius_m: float = 7.0) -> None:
        """Put vehicles around a place elsewhere."""
        for vehicle in self._traffic.living():
            if _flat(vehicle.get_location(), location) < radius_m:
                self._traffic.put_elsewhere(vehicle, self._ego())

    def make_room_across(self, location: carla.Location) -> None:
        """Clear the opposite lane where somebody crosses (`LeaveCrossingSpace`)."""
        lane = self._traffic.town.get_waypoint(location).get_left_lane()
        if lane is not None:
            self.clear_lanes([lane], _CROSSING_M)

    def leave_space_ahead(self, length_m: float) -> None:
        """Clear the route ahead of the ego (`LeaveSpaceInFront`)."""
        for vehicle, ahead_m in self.on_route(length_m):
            if ahead_m > 0:
                self._traffic.put_elsewhere(vehicle, self._ego())

    def clear_lane(self, length_m: float = 120.0, behind_m: float = 40.0) -> None:
        """Clear the route around the ego (`RemoveRoadLane` of the ego's lane)."""
        for vehicle, ahead_m in self.on_route(length_m):
            if ahead_m > -behind_m:
                self._traffic.put_elsewhere(vehicle, self._ego())

    def clear_lanes(self, lanes: Sequence[carla.Waypoint], length_m: float = _ENTRY_M) -> None:
        """Clear the lanes that lead to and from places."""
        centres = [lane.transform.location for lane in lanes]
        keys = {(lane.road_id, lane.lane_id) for lane in lanes}
        for vehicle in self._traffic.living():
            here = vehicle.get_location()
            if not any(_flat(here, centre) < length_m for centre in centres):
                continue
            lane = self._traffic.town.get_waypoint(here)
            if (lane.road_id, lane.lane_id) in keys:
                self._traffic.put_elsewhere(vehicle, self._ego())

    def clear_junction(self, junction: carla.Junction) -> None:
        """Clear a junction, and the route up to it (`HandleJunctionScenario`)."""
        box = junction.bounding_box
        reach_m = max(box.extent.x, box.extent.y) + _JUNCTION_MARGIN_M
        for vehicle in self._traffic.living():
            if _flat(vehicle.get_location(), box.location) < reach_m:
                self._traffic.put_elsewhere(vehicle, self._ego())
        self.leave_space_ahead(_flat(self._ego(), box.location) + reach_m)

    def clear_path(self, path_in_world: np.ndarray) -> None:
        """Clear the way, (N, 3), of a scenario's own traffic."""
        for vehicle in self._traffic.living():
            at = vehicle.get_location()
            offsets = path_in_world - (at.x, at.y, at.z)
            on_level = np.abs(offsets[:, 2]) < _LEVEL_M
            if (np.hypot(offsets[:, 0], offsets[:, 1])[on_level] < _LANE_HALF_M).any():
                self._traffic.put_elsewhere(vehicle, self._ego())

    @contextmanager
    def held(self, vehicles: Sequence[carla.Vehicle]) -> Iterator[None]:
        """Let vehicles stop, and drive on afterwards."""
        self._traffic.hold(vehicles)
        try:
            yield
        finally:
            self._traffic.release(vehicles)

    def ahead(self, length_m: float) -> list[carla.Vehicle]:
        """Vehicles on the route ahead of the ego."""
        return [vehicle for vehicle, ahead_m in self.on_route(length_m) if ahead_m > 0]

    def behind(self, length_m: float = 50.0) -> list[carla.Vehicle]:
        """Vehicles on the route behind the ego."""
        return [vehicle for vehicle, ahead_m in self.on_route(1.0) if -length_m < ahead_m <= 0]

    def at_entries(self, entries: Sequence[carla.Waypoint]) -> list[carla.Vehicle]:
        """Vehicles that wait or come at a junction's entries."""
        near = []
        for vehicle in self._traffic.living():
            here = vehicle.get_location()
            if any(_flat(here, entry.transform.location) < _ENTRY_M for entry in entries):
                lane = self._traffic.town.get_waypoint(here)
                if any((lane.road_id, lane.lane_id) == (e.road_id, e.lane_id) for e in entries):
                    near.append(vehicle)
        return near

    def on_route(self, length_m: float) -> list[tuple[carla.Vehicle, float]]:
        """Vehicles on the route near the ego, with their distance ahead of it (negative: behind) [m]."""
        index = self._index()
        start = max(index - _AHEAD_SEARCH_POINTS, 0)
        window = self._route[start : index + max(_AHEAD_SEARCH_POINTS, int(length_m) + 20)]
        travelled = self._line.travelled_m
        found = []
        for vehicle in self._traffic.living():
            at = vehicle.get_location()
            distances = np.linalg.norm(window - (at.x, at.y), axis=1)
            nearest = int(np.argmin(distances))
            ahead_m = travelled[start + nearest] - travelled[index]
            if distances[nearest] < _LANE_HALF_M and ahead_m < length_m:
                found.append((vehicle, ahead_m))
        return found


def _flat(first: carla.Location, second: carla.Location) -> float:
    return float(np.hypot(first.x - second.x, first.y - second.y))
