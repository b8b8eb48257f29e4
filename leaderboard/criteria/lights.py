"""Running a red light. After scenario_runner `atomic_criteria.py`, `RunningRedLightTest`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import carla

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind, describe

_STEP_M = 0.5


@dataclass(frozen=True)
class StopLine:
    """Where a light stops one lane: across the lane at the last waypoint before the junction."""

    road_id: int
    lane_id: int
    forward: carla.Vector3D
    left: carla.Location
    right: carla.Location


@dataclass(frozen=True)
class WatchedLight:
    """A light: its id, where it stands, the centre of its trigger volume, and the stop lines of its lanes."""

    id: int
    location: carla.Location
    centre: carla.Location
    lines: tuple[StopLine, ...]


class RedLight(Criterion):
    """The ego's rear must not cross a stop line whose light is red (waiting past it is no crime)."""

    name = "RunningRedLightTest"
    unit = "times"
    WATCH_M = 15.0

    def __init__(
        self, world_map: carla.Map, lights: Sequence[carla.TrafficLight], ego_length_m: float
    ) -> None:
        super().__init__()
        self._map = world_map
        self._half_length_m = ego_length_m / 2
        self._lights = [watch_light(world_map, light) for light in lights]
        self._last_id: int | None = None

    def update(self, tick: EgoTick) -> None:
        """Test the segment behind the ego against the stop lines of red lights nearby."""
        near = [w for w in self._lights if w.centre.distance(tick.location) <= self.WATCH_M]
        red = [w for w in near if w.id != self._last_id and w.id in tick.red_lights]
        if not red:
            return
        yaw = tick.transform.rotation.yaw
        close = tick.location + _rotated(-0.8 * self._half_length_m, yaw)
        far = tick.location + _rotated(-self._half_length_m - 1.0, yaw)
        tail = self._map.get_waypoint(far)
        forward = tick.transform.get_forward_vector()
        for watched in red:
            for line in watched.lines:
                in_lane = tail.road_id == line.road_id and tail.lane_id == line.lane_id
                if (
                    in_lane
                    and forward.dot(line.forward) > 0
                    and segments_meet(close, far, line.left, line.right)
                ):
                    self._found(watched, tick)
                    break

    def _found(self, light: WatchedLight, tick: EgoTick) -> None:
        message = f"Agent ran a red light {light.id} at {describe(light.location)}"
        self._events.append(Event(EventKind.RED_LIGHT, tick.frame, tick.sim_s, message, other_actor=light.id))
        self._last_id = light.id


def before_junction(waypoint: carla.Waypoint, within_m: float = math.inf) -> tuple[carla.Waypoint, float]:
    """The last waypoint of a lane before its junction, in steps of half a metre, and the metres to it.

    Args:
        waypoint: where to begin; in a junction it is the last one itself.
        within_m: how far to go at most.
    """
    way_m = 0.0
    while not waypoint.is_junction and way_m < within_m:
        following = waypoint.next(_STEP_M)
        if not following or following[0].is_junction:
            break
        waypoint = following[0]
        way_m += _STEP_M
    return waypoint, way_m


def watch_light(world_map: carla.Map, light: carla.TrafficLight) -> WatchedLight:
    """Find the lanes under a light's trigger volume and follow them to the junction."""
    base = light.get_transform()
    volume = light.trigger_volume
    centre = base.transform(carla.Location(volume.location.x, volume.location.y, volume.location.z))
    # 0.9 of the width, so as not to touch the neighbouring lanes
    reach_m = 0.9 * volume.extent.x
    lanes: list[carla.Waypoint] = []
    across_m = -reach_m
    while across_m < reach_m:
        waypoint = world_map.get_waypoint(centre + _rotated(across_m, base.rotation.yaw))
        if not lanes or (lanes[-1].road_id, lanes[-1].lane_id) != (waypoint.road_id, waypoint.lane_id):
            lanes.append(waypoint)
        across_m += 1.0
    lines = []
    for lane in lanes:
        waypoint, _ = before_junction(lane)
        at, yaw = waypoint.transform.location, waypoint.transform.rotation.yaw
        reach = 0.6 * waypoint.lane_width
        forward = waypoint.transform.get_forward_vector()
        ends = at + _rotated(reach, yaw + 90), at + _rotated(reach, yaw - 90)
        lines.append(StopLine(waypoint.road_id, waypoint.lane_id, forward, *ends))
    return WatchedLight(light.id, base.location, centre, tuple(lines))


def segments_meet(a: carla.Location, b: carla.Location, c: carla.Location, d: carla.Location) -> bool:
    """Whether the segments a-b and c-d meet, seen from above."""

    def side(p: carla.Location, q: carla.Location, r: carla.Location) -> float:
        return (q.x - p.x) * (r.y - p.y) - (q.y - p.y) * (r.x - p.x)

    apart = side(a, b, c) * side(a, b, d) > 0 or side(c, d, a) * side(c, d, b) > 0
    parallel = side(a, b, c) == side(a, b, d)
    return not apart and not parallel


def _rotated(distance_m: float, yaw_deg: float) -> carla.Location:
    yaw = math.radians(yaw_deg)
    return carla.Location(x=distance_m * math.cos(yaw), y=distance_m * math.sin(yaw))
