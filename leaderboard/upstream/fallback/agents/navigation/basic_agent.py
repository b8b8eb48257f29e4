"""`BasicAgent`: follows a way, stops for red lights and for vehicles in front, knows no stop signs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import carla
from shapely.geometry import MultiPoint, Polygon

from ..tools.hints import ObstacleDetectionResult, TrafficLightDetectionResult
from ..tools.misc import compute_distance, get_speed, get_trafficlight_trigger_location, is_within_distance
from .global_route_planner import GlobalRoutePlanner
from .local_planner import LocalPlanner, RoadOption

_Plan = Sequence[tuple[carla.Waypoint, RoadOption]]
_NOTHING = ObstacleDetectionResult(False, None, -1)
_AHEAD_DEG = (0.0, 90.0)
_SHORTEST_M = 0.1


class BasicAgent:
    """Drives a vehicle with a privileged view of the world.

    Args:
        vehicle: what is driven.
        target_speed: km/h.
        opt_dict: changes of the parameters below and of the `LocalPlanner`'s, by CARLA's names.
        map_inst: the town's map, where the caller has it.
        grp_inst: a route planner of it, likewise.
    """

    def __init__(
        self,
        vehicle: carla.Vehicle,
        target_speed: float = 20,
        opt_dict: Mapping[str, Any] | None = None,
        map_inst: carla.Map | None = None,
        grp_inst: GlobalRoutePlanner | None = None,
    ) -> None:
        options = {**(opt_dict or {}), "target_speed": target_speed}
        self._vehicle = vehicle
        self._world = vehicle.get_world()
        self._map = map_inst if isinstance(map_inst, carla.Map) else self._world.get_map()
        self._target_speed = target_speed
        self._ignore_traffic_lights = options.get("ignore_traffic_lights", False)
        self._ignore_stop_signs = options.get("ignore_stop_signs", False)
        self._ignore_vehicles = options.get("ignore_vehicles", False)
        self._use_bbs_detection = options.get("use_bbs_detection", False)
        self._sampling_resolution = options.get("sampling_resolution", 2.0)
        self._base_tlight_threshold = options.get("base_tlight_threshold", 5.0)
        self._base_vehicle_threshold = options.get("base_vehicle_threshold", 5.0)
        self._speed_ratio = options.get("detection_speed_ratio", 1.0)
        self._max_brake = options.get("max_brake", 0.5)
        self._offset = options.get("offset", 0.0)
        self._local_planner = LocalPlanner(vehicle, options, self._map)
        self._global_planner = grp_inst or GlobalRoutePlanner(self._map, self._sampling_resolution)
        self._lights_list = self._world.get_actors().filter("*traffic_light*")
        self._lights_map: dict[int, carla.Waypoint] = {}
        self._last_traffic_light: carla.TrafficLight | None = None

    # what callers change

    def add_emergency_stop(self, control: carla.VehicleControl) -> carla.VehicleControl:
        """Brake, and keep the steering."""
        control.throttle, control.brake, control.hand_brake = 0.0, self._max_brake, False
        return control

    def set_target_speed(self, speed: float) -> None:
        """Change the target speed, km/h."""
        self._target_speed = speed
        self._local_planner.set_speed(speed)

    def follow_speed_limits(self, value: bool = True) -> None:
        """Drive as fast as the limit allows."""
        self._local_planner.follow_speed_limits(value)

    def get_local_planner(self) -> LocalPlanner:
        """What follows the plan."""
        return self._local_planner

    def get_global_planner(self) -> GlobalRoutePlanner:
        """What finds ways."""
        return self._global_planner

    def ignore_traffic_lights(self, active: bool = True) -> None:
        """Drive through red lights, or no longer."""
        self._ignore_traffic_lights = active

    def ignore_stop_signs(self, active: bool = True) -> None:
        """Without effect: stop signs are not known."""
        self._ignore_stop_signs = active

    def ignore_vehicles(self, active: bool = True) -> None:
        """Drive into what stands in front, or no longer."""
        self._ignore_vehicles = active

    def set_offset(self, offset: float) -> None:
        """Drive so many metres right of the lane's middle."""
        self._offset = offset
        self._local_planner.set_offset(offset)

    def set_destination(
        self,
        end_location: carla.Location,
        start_location: carla.Location | None = None,
        clean_queue: bool = True,
    ) -> None:
        """Drive to a place, at once or (`clean_queue` False) after the present plan."""
        if start_location is None:
            plan = self._local_planner.get_plan()
            if clean_queue and self._local_planner.target_waypoint:
                start_location = self._local_planner.target_waypoint.transform.location
            elif not clean_queue and plan:
                start_location = plan[-1][0].transform.location
            else:
                start_location = self._vehicle.get_location()
        route = self.trace_route(self._map.get_waypoint(start_location), self._map.get_waypoint(end_location))
        self._local_planner.set_global_plan(route, clean_queue=clean_queue)

    def set_global_plan(
        self, plan: _Plan, stop_waypoint_creation: bool = True, clean_queue: bool = True
    ) -> None:
        """Follow a plan."""
        self._local_planner.set_global_plan(plan, stop_waypoint_creation, clean_queue)

    def trace_route(self, start_waypoint: carla.Waypoint, end_waypoint: carla.Waypoint) -> _Plan:
        """The shortest way between two waypoints."""
        return self._global_planner.trace_route(
            start_waypoint.transform.location, end_waypoint.transform.location
        )

    def lane_change(
        self,
        direction: str,
        same_lane_time: float = 0,
        other_lane_time: float = 0,
        lane_change_time: float = 2,
    ) -> None:
        """Change to the "left" or "right" lane; times in seconds at the present speed."""
        speed = float(self._vehicle.get_velocity().length())
        path = lane_change_path(
            self._map.get_waypoint(self._vehicle.get_location()),
            direction,
            same_lane_time * speed,
            other_lane_time * speed,
            lane_change_time * speed,
            self._sampling_resolution,
        )
        if not path:
            print("WARNING: Ignoring the lane change as no path was found")
        self.set_global_plan(path)

    # a tick

    def done(self) -> bool:
        """Whether the plan's end is reached."""
        return self._local_planner.done()

    def run_step(self) -> carla.VehicleControl:
        """Control for this tick."""
        speed = get_speed(self._vehicle) / 3.6
        vehicles = self._world.get_actors().filter("*vehicle*")
        reach_m = self._base_vehicle_threshold + self._speed_ratio * speed
        blocked = self._vehicle_obstacle_detected(vehicles, reach_m).obstacle_was_found
        reach_m = self._base_tlight_threshold + self._speed_ratio * speed
        red = self._affected_by_traffic_light(self._lights_list, reach_m).traffic_light_was_found
        control = self._local_planner.run_step()
        return self.add_emergency_stop(control) if blocked or red else control

    def _affected_by_traffic_light(
        self, lights_list: Iterable[carla.TrafficLight] | None = None, max_distance: float | None = None
    ) -> TrafficLightDetectionResult:
        """Whether a red light of our road is that near ahead; what stopped us does so until it changes."""
        if self._ignore_traffic_lights:
            return TrafficLightDetectionResult(False, None)
        red = carla.TrafficLightState.Red
        if self._last_traffic_light is not None:
            if self._last_traffic_light.state == red:
                return TrafficLightDetectionResult(True, self._last_traffic_light)
            self._last_traffic_light = None
        reach_m = max_distance or self._base_tlight_threshold
        here = self._vehicle.get_transform()
        lane = self._map.get_waypoint(here.location)
        for light in lights_list or self._world.get_actors().filter("*traffic_light*"):
            at = self._lights_map.get(light.id)
            if at is None:
                at = self._map.get_waypoint(get_trafficlight_trigger_location(light))
                self._lights_map[light.id] = at
            if at.transform.location.distance(here.location) > reach_m or at.road_id != lane.road_id:
                continue
            if lane.transform.get_forward_vector().dot(at.transform.get_forward_vector()) < 0:
                continue
            if light.state == red and is_within_distance(at.transform, here, reach_m, _AHEAD_DEG):
                self._last_traffic_light = light
                return TrafficLightDetectionResult(True, light)
        return TrafficLightDetectionResult(False, None)

    def _vehicle_obstacle_detected(
        self,
        vehicle_list: Iterable[carla.Vehicle] | None = None,
        max_distance: float | None = None,
        up_angle_th: float = 90,
        low_angle_th: float = 0,
        lane_offset: int = 0,
    ) -> ObstacleDetectionResult:
        """Whether a vehicle is that near on our way.

        In junctions, and where we stick out of our lane, by boxes against the plan's area; else by lanes.
        """
        if self._ignore_vehicles:
            return _NOTHING
        vehicles = self._world.get_actors().filter("*vehicle*") if vehicle_list is None else vehicle_list
        reach_m = max_distance or self._base_vehicle_threshold
        here = self._vehicle.get_transform()
        lane = self._map.get_waypoint(here.location)
        offset = -lane_offset if lane.lane_id < 0 else lane_offset
        extent = self._vehicle.bounding_box.extent
        front = carla.Transform(here.location + _along(here, extent.x), here.rotation)
        sticks_out = abs(self._offset) + extent.y > lane.lane_width / 2
        by_boxes = self._use_bbs_detection or sticks_out or lane.is_junction
        area = self._plan_area(here, extent.y, reach_m)
        angles = (low_angle_th, up_angle_th)
        for other in vehicles:
            if other.id == self._vehicle.id:
                continue
            there = other.get_transform()
            distance = there.location.distance(here.location)
            if distance > reach_m:
                continue
            its_lane = self._map.get_waypoint(there.location, lane_type=carla.LaneType.Any)
            box = other.bounding_box
            if (by_boxes or its_lane.is_junction) and area is not None:
                corners = [(v.x, v.y) for v in box.get_world_vertices(there)]
                found = area.intersects(MultiPoint(corners).convex_hull)
            else:
                rear = carla.Transform(there.location - _along(there, box.extent.x), there.rotation)
                found = self._is_ahead(its_lane, lane, offset) and is_within_distance(
                    rear, front, reach_m, angles
                )
            if found:
                return ObstacleDetectionResult(True, other, compute_distance(there.location, here.location))
        return _NOTHING

    def _is_ahead(self, its_lane: carla.Waypoint, lane: carla.Waypoint, offset: int) -> bool:
        """Whether that is our lane, or the one the plan leads to."""
        ours = (lane, self._local_planner.get_incoming_waypoint_and_direction(steps=3)[0])
        return any(
            own is not None and its_lane.road_id == own.road_id and its_lane.lane_id == own.lane_id + offset
            for own in ours
        )

    def _plan_area(self, here: carla.Transform, half_width_m: float, reach_m: float) -> Polygon | None:
        """The area that we shall drive over, as wide as the vehicle."""
        left, right = [], []
        transforms = [here]
        for waypoint, _ in self._local_planner.get_plan():
            if here.location.distance(waypoint.transform.location) > reach_m:
                break
            transforms.append(waypoint.transform)
        if len(transforms) < 2:
            return None
        for transform in transforms:
            side, at = transform.get_right_vector(), transform.location
            r, l = half_width_m + self._offset, -half_width_m + self._offset  # noqa: E741
            right.append((at.x + r * side.x, at.y + r * side.y))
            left.append((at.x + l * side.x, at.y + l * side.y))
        return Polygon([*right, *reversed(left)]).buffer(0)


def _along(transform: carla.Transform, distance_m: float) -> carla.Location:
    forward = transform.get_forward_vector()
    return carla.Location(distance_m * forward.x, distance_m * forward.y, distance_m * forward.z)


def lane_change_path(
    start: carla.Waypoint,
    direction: str,
    same_lane_m: float,
    other_lane_m: float,
    change_m: float,
    step_m: float,
) -> list[tuple[carla.Waypoint, RoadOption]]:
    """Along the lane, over to the next, and along that; empty where there is no such lane."""
    options = {"left": RoadOption.CHANGELANELEFT, "right": RoadOption.CHANGELANERIGHT}
    if direction not in options:
        return []
    path = [(start, RoadOption.LANEFOLLOW)]
    if not _follow(path, same_lane_m, step_m):
        return []
    ahead = path[-1][0].next(max(change_m, _SHORTEST_M))
    if not ahead:
        return []
    beside = ahead[0].get_left_lane() if direction == "left" else ahead[0].get_right_lane()
    if not beside or beside.lane_type != carla.LaneType.Driving:
        return []
    path.append((beside, options[direction]))
    return path if _follow(path, other_lane_m, step_m) else []


def _follow(path: list[tuple[carla.Waypoint, RoadOption]], length_m: float, step_m: float) -> bool:
    """Lengthen a path along its lane; False where the lane ends."""
    done_m = 0.0
    while done_m < max(length_m, _SHORTEST_M):
        last = path[-1][0]
        following = last.next(step_m)
        if not following:
            return False
        done_m += following[0].transform.location.distance(last.transform.location)
        path.append((following[0], RoadOption.LANEFOLLOW))
    return True
