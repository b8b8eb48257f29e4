"""`LocalPlanner`: follows a plan, or, without one, the road; and `RoadOption`, with CARLA's numbers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import carla

from ..tools.misc import draw_waypoints, get_speed
from .controller import VehiclePIDController

_QUEUE = 10000
_AHEAD = 100
_LAST_WAYPOINT_M = 1.0
_STRAIGHT_BELOW_DEG = 35.0
_LOOK_AHEAD_M = 3.0


class RoadOption(IntEnum):
    """What a route does at a point."""

    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4
    CHANGELANELEFT = 5
    CHANGELANERIGHT = 6


class LocalPlanner:
    """Drives a vehicle along waypoints with two PID controllers.

    Args:
        vehicle: what is driven.
        opt_dict: changes of the parameters below, by CARLA's names.
        map_inst: the town's map, where the caller has it.
    """

    def __init__(
        self,
        vehicle: carla.Vehicle,
        opt_dict: Mapping[str, Any] | None = None,
        map_inst: carla.Map | None = None,
    ) -> None:
        options = dict(opt_dict or {})
        self._vehicle: carla.Vehicle | None = vehicle
        self._map = map_inst if isinstance(map_inst, carla.Map) else vehicle.get_world().get_map()
        self._dt = options.get("dt", 0.05)
        self._target_speed = options.get("target_speed", 20.0)  # km/h
        self._sampling_radius = options.get("sampling_radius", 2.0)
        self._base_min_distance = options.get("base_min_distance", 3.0)
        self._distance_ratio = options.get("distance_ratio", 0.5)
        self._follow_speed_limits = options.get("follow_speed_limits", False)
        self._vehicle_controller = VehiclePIDController(
            vehicle,
            options.get("lateral_control_dict", {"K_P": 1.95, "K_I": 0.05, "K_D": 0.2, "dt": self._dt}),
            options.get("longitudinal_control_dict", {"K_P": 1.0, "K_I": 0.05, "K_D": 0.0, "dt": self._dt}),
            options.get("offset", 0),
            options.get("max_throttle", 0.75),
            options.get("max_brake", 0.3),
            options.get("max_steering", 0.8),
        )
        self._stop_waypoint_creation = False
        self.target_waypoint = self._map.get_waypoint(vehicle.get_location())
        self.target_road_option = RoadOption.LANEFOLLOW
        self._waypoints_queue: deque[tuple[carla.Waypoint, RoadOption]] = deque(maxlen=_QUEUE)
        self._waypoints_queue.append((self.target_waypoint, self.target_road_option))

    def reset_vehicle(self) -> None:
        """Let go of the vehicle, before it is destroyed."""
        self._vehicle = None

    def set_speed(self, speed: float) -> None:
        """Change the target speed, km/h."""
        self._target_speed = speed

    def follow_speed_limits(self, value: bool = True) -> None:
        """Drive as fast as the limit allows, whatever the target speed."""
        self._follow_speed_limits = value

    def set_offset(self, offset: float) -> None:
        """Drive so many metres right of the waypoints."""
        self._vehicle_controller.set_offset(offset)

    def set_global_plan(
        self,
        current_plan: Sequence[tuple[carla.Waypoint, RoadOption]],
        stop_waypoint_creation: bool = True,
        clean_queue: bool = True,
    ) -> None:
        """Follow a plan, at once or (`clean_queue` False) after the present one."""
        waiting = [] if clean_queue else list(self._waypoints_queue)
        queue = [*waiting, *current_plan]
        self._waypoints_queue = deque(queue, maxlen=max(_QUEUE, len(queue)))
        self._stop_waypoint_creation = stop_waypoint_creation

    def run_step(self, debug: bool = False) -> carla.VehicleControl:
        """Control for this tick; at the plan's end the brake."""
        vehicle = self._vehicle
        assert vehicle is not None
        if self._follow_speed_limits:
            self._target_speed = vehicle.get_speed_limit()
        if not self._stop_waypoint_creation and len(self._waypoints_queue) < _AHEAD:
            self._compute_next_waypoints(_AHEAD)
        self._drop_what_is_reached(vehicle)
        if not self._waypoints_queue:
            return carla.VehicleControl(brake=1.0)
        self.target_waypoint, self.target_road_option = self._waypoints_queue[0]
        if debug:
            draw_waypoints(vehicle.get_world(), [self.target_waypoint], 1.0)
        return self._vehicle_controller.run_step(self._target_speed, self.target_waypoint)

    def _drop_what_is_reached(self, vehicle: carla.Vehicle) -> None:
        here = vehicle.get_location()
        near_m = self._base_min_distance + self._distance_ratio * get_speed(vehicle) / 3.6
        while self._waypoints_queue:
            limit_m = near_m if len(self._waypoints_queue) > 1 else _LAST_WAYPOINT_M
            if here.distance(self._waypoints_queue[0][0].transform.location) >= limit_m:
                return
            self._waypoints_queue.popleft()

    def _compute_next_waypoints(self, k: int = 1) -> None:
        """Go on along the road, at a fork by chance."""
        if not self._waypoints_queue:
            return
        for _ in range(min(k, _QUEUE - len(self._waypoints_queue))):
            last = self._waypoints_queue[-1][0]
            ways = last.next(self._sampling_radius)
            if not ways:
                return
            way, option = ways[0], RoadOption.LANEFOLLOW
            if len(ways) > 1:
                way = random.choice(ways)
                option = _direction(last, (way.next(_LOOK_AHEAD_M) or [way])[0])
            self._waypoints_queue.append((way, option))

    def get_incoming_waypoint_and_direction(self, steps: int = 3) -> tuple[carla.Waypoint | None, RoadOption]:
        """The waypoint so many steps ahead, or the last one."""
        if not self._waypoints_queue:
            return None, RoadOption.VOID
        return self._waypoints_queue[min(steps, len(self._waypoints_queue) - 1)]

    def get_plan(self) -> deque[tuple[carla.Waypoint, RoadOption]]:
        """What is still to be driven."""
        return self._waypoints_queue

    def done(self) -> bool:
        """Whether the plan's end is reached."""
        return not self._waypoints_queue


def _direction(before: carla.Waypoint, after: carla.Waypoint) -> RoadOption:
    turn = (after.transform.rotation.yaw - before.transform.rotation.yaw) % 180.0
    if turn < _STRAIGHT_BELOW_DEG or turn > 180.0 - _STRAIGHT_BELOW_DEG:
        return RoadOption.STRAIGHT
    return RoadOption.LEFT if turn > 90.0 else RoadOption.RIGHT
