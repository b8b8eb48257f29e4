"""Leaving the lanes. After scenario_runner `atomic_criteria.py`, `OutsideRouteLanesTest`."""

from __future__ import annotations

import carla

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind, RouteLine
from tickdrive.leaderboard.scenarios.rules import ScenarioRules


class OutsideRouteLanes(Criterion):
    """Share of the completed route driven off the road or in a lane of the wrong direction."""

    name = "OutsideRouteLanesTest"
    unit = "%"
    WINDOW = 3
    MARGIN_M = 0.5  # lanes and sidewalks are apart by a small shoulder
    MAX_VEHICLE_DEG = 120.0
    MAX_WAYPOINT_DEG = 150.0

    def __init__(
        self,
        world_map: carla.Map,
        line: RouteLine,
        start: carla.Location,
        rules: ScenarioRules | None = None,
    ) -> None:
        super().__init__()
        self._rules = rules or ScenarioRules()
        self._map = world_map
        self._line = line
        self._index = 0
        self._last = world_map.get_waypoint(start)
        # upstream has no last lane at first, so that its first tick judges the direction too
        self._last_lane: tuple[int, int] | None = None
        self._outside = False
        self._wrong_lane = False
        self._total_m = 0.0
        self._wrong_m = 0.0

    def update(self, tick: EgoTick) -> None:
        """Judge the ego's place, and book the route points it passed to right or wrong."""
        self._outside = self._is_outside(tick.location)
        self._update_wrong_lane(tick)
        start = self._index
        for i in range(start + 1, min(start + self.WINDOW + 1, len(self._line))):
            if not self._line.passed(i, tick.location):
                continue
            step_m = self._line.locations[self._index].distance(self._line.locations[i])
            self._total_m += step_m
            if self._outside or (self._wrong_lane and not self._rules.opposite_lane_allowed):
                self._wrong_m += step_m
            self._index = i
            if self._wrong_m:
                self._book(tick)

    @property
    def value(self) -> float:
        """Percentage of the completed route outside."""
        return round(self.percent, 2)

    @property
    def percent(self) -> float:
        """Percentage of the completed route outside, unrounded."""
        return 100.0 * self._wrong_m / self._total_m if self._total_m else 0.0

    def _book(self, tick: EgoTick) -> None:
        message = (
            f"Agent went outside its route lanes for about {round(self._wrong_m, 3)} meters "
            f"({round(self.percent, 2)}% of the completed route)"
        )
        event = Event(EventKind.OUTSIDE_ROUTE_LANES, tick.frame, tick.sim_s, message, percent=self.percent)
        self._events = [event]  # one event, which grows

    def _is_outside(self, location: carla.Location) -> bool:
        best: tuple[float, float] | None = None
        # upstream prefers the parking lane where both are equally far
        for lane_type in (carla.LaneType.Parking, carla.LaneType.Driving):
            waypoint = self._map.get_waypoint(location, lane_type=lane_type)
            if waypoint is not None:
                distance = location.distance(waypoint.transform.location)
                if best is None or distance < best[0]:
                    best = distance, waypoint.lane_width
        return best is not None and best[0] > best[1] / 2 + self.MARGIN_M

    def _update_wrong_lane(self, tick: EgoTick) -> None:
        waypoint = self._map.get_waypoint(tick.location, lane_type=carla.LaneType.Driving)
        lane = waypoint.road_id, waypoint.lane_id
        yaw = waypoint.transform.rotation.yaw
        if waypoint.is_junction:
            self._wrong_lane = False  # lanes cross each other there
        elif self._last_lane != lane:
            if self._last.is_junction:
                angle = (yaw - tick.transform.rotation.yaw) % 360
                self._wrong_lane = self.MAX_VEHICLE_DEG <= angle <= 360 - self.MAX_VEHICLE_DEG
            else:
                angle = (self._last.transform.rotation.yaw - yaw) % 360
                if self.MAX_WAYPOINT_DEG < angle < 360 - self.MAX_WAYPOINT_DEG:
                    self._wrong_lane = not self._wrong_lane  # into the oncoming lane, or back
        self._last_lane, self._last = lane, waypoint
