"""Places on a map relative to a trigger point, as scenario_runner's `tools/scenario_helper.py` finds them.

World frame is CARLA's (left-handed, x forward, y right, metres, yaw in degrees).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import carla
import numpy as np

from tickdrive.agents.types import Command
from tickdrive.leaderboard.route_planner import RoutePoint

_TURNS = (Command.LEFT, Command.RIGHT, Command.STRAIGHT)
_FARTHEST_M = 2000
_MOST_LANES = 20
# `filter_junction_wp_direction`: heading against the reference's, degrees, from - to
_SECTORS = {"left": (30.0, 135.0), "opposite": (135.0, 225.0), "right": (225.0, 330.0)}


class NoPlace(Exception):
    """The road does not have what the scenario needs here."""


def on(waypoint: carla.Waypoint, distance_m: float) -> carla.Waypoint:
    """`distance_m` further along the lane."""
    following = waypoint.next(distance_m)
    if not following:
        raise NoPlace(f"the lane ends within {distance_m:g} m")
    return following[0]


def far_on(waypoint: carla.Waypoint, distance_m: float) -> carla.Waypoint:
    """`distance_m` further, metre by metre, through junctions too (`get_location_in_distance_from_wp`)."""
    travelled_m = 0.0
    while travelled_m < distance_m:
        following = waypoint.next(1.0)
        if not following:
            break
        travelled_m += following[-1].transform.location.distance(waypoint.transform.location)
        waypoint = following[-1]
    return waypoint


def back(waypoint: carla.Waypoint, distance_m: float) -> carla.Waypoint:
    """`distance_m` back along the lane."""
    before = waypoint.previous(distance_m)
    if not before:
        raise NoPlace(f"the lane begins less than {distance_m:g} m before")
    return before[0]


def on_to_junction(waypoint: carla.Waypoint, distance_m: float, step_m: float = 1.0) -> carla.Waypoint:
    """Up to `distance_m` further, but not into a junction nor beyond the lane's end."""
    for _ in range(round(distance_m / step_m)):
        following = waypoint.next(step_m)
        if not following or following[0].is_junction:
            break
        waypoint = following[0]
    return waypoint


def back_to_junction(waypoint: carla.Waypoint, distance_m: float, step_m: float = 1.0) -> carla.Waypoint:
    """Up to `distance_m` back, but not into a junction nor before the lane's start."""
    for _ in range(math.ceil(distance_m / step_m)):
        before = waypoint.previous(step_m)
        if not before or before[0].is_junction:
            break
        waypoint = before[0]
    return waypoint


def last_before_junction(waypoint: carla.Waypoint) -> carla.Waypoint:
    """The last waypoint before the next junction, metre by metre."""
    for _ in range(_FARTHEST_M):
        following = waypoint.next(1.0)
        if not following:
            break
        if following[0].is_junction:
            return waypoint
        waypoint = following[0]
    raise NoPlace("no junction is ahead")


def junction_ahead(waypoint: carla.Waypoint) -> carla.Waypoint:
    """The first waypoint inside the next junction."""
    return waypoint if waypoint.is_junction else on(last_before_junction(waypoint), 1.0)


def lane_at_side(waypoint: carla.Waypoint, side: str) -> carla.Waypoint | None:
    """The next lane to the left or right."""
    return waypoint.get_left_lane() if side == "left" else waypoint.get_right_lane()


def need_lane(waypoint: carla.Waypoint, side: str) -> carla.Waypoint:
    """The next lane to the left or right, which must be there."""
    lane = lane_at_side(waypoint, side)
    if lane is None:
        raise NoPlace(f"the road has no lane to the {side}")
    return lane


def outermost(waypoint: carla.Waypoint, side: str) -> tuple[carla.Waypoint, carla.Waypoint | None]:
    """The sidewalk at a side, else the last lane there; and the parking lane passed, if any."""
    parking = None
    for _ in range(_MOST_LANES):
        if waypoint.lane_type == carla.LaneType.Sidewalk:
            break
        beside = lane_at_side(waypoint, side)
        # beyond the road's centre "left" would lead back
        if beside is None or beside.lane_id * waypoint.lane_id < 0:
            break
        waypoint = beside
        if waypoint.lane_type == carla.LaneType.Parking:
            parking = waypoint
    return waypoint, parking


def same_direction(waypoint: carla.Waypoint) -> list[carla.Waypoint]:
    """The driving lanes of this direction, from the centre of the road to its edge."""
    lanes = [waypoint]
    while len(lanes) < _MOST_LANES:
        beside = lanes[-1].get_right_lane()
        if beside is None or beside.lane_type != carla.LaneType.Driving:
            break
        lanes.append(beside)
    while len(lanes) < _MOST_LANES:
        beside = lanes[0].get_left_lane()
        if beside is None or beside.lane_type != carla.LaneType.Driving:
            break
        if beside.lane_id * lanes[0].lane_id < 0:
            break
        lanes.insert(0, beside)
    return lanes


def opposite_direction(waypoint: carla.Waypoint) -> list[carla.Waypoint]:
    """The driving lanes of the other direction, from the centre of the road to its edge; may be empty."""
    beside = same_direction(waypoint)[0].get_left_lane()
    if beside is None or beside.lane_id * waypoint.lane_id > 0 or beside.lane_type != carla.LaneType.Driving:
        return []
    return same_direction(beside)


def junction_lanes(junction: carla.Junction) -> tuple[list[carla.Waypoint], list[carla.Waypoint]]:
    """The last waypoints before a junction and the first behind it, one a lane (`get_junction_topology`)."""
    entries: dict[tuple[int, int], carla.Waypoint] = {}
    exits: dict[tuple[int, int], carla.Waypoint] = {}
    for entry, exit_ in junction.get_waypoints(carla.LaneType.Driving):
        for kept, inside, step in ((entries, entry, "previous"), (exits, exit_, "next")):
            outside: carla.Waypoint | None = inside
            while outside is not None and outside.is_junction:
                beyond = getattr(outside, step)(0.5)
                outside = beyond[0] if beyond else None
            if outside is not None:
                kept.setdefault(lane_key(outside), outside)
    return list(entries.values()), list(exits.values())


def lane_key(waypoint: carla.Waypoint) -> tuple[int, int]:
    """Road and lane."""
    return waypoint.road_id, waypoint.lane_id


def from_direction(
    reference: carla.Waypoint, entries: Sequence[carla.Waypoint], direction: str
) -> list[carla.Waypoint]:
    """Of a junction's entries those that come from the left, the right or the opposite of a reference."""
    low, high = _SECTORS[direction]
    found = []
    for entry in entries:
        turned = (entry.transform.rotation.yaw - reference.transform.rotation.yaw) % 360
        if low < turned <= high:
            found.append(entry)
    if not found:
        raise NoPlace(f"no lane comes from the {direction}")
    return found


def through_junction(waypoint: carla.Waypoint, turn: int = 0) -> carla.Waypoint:
    """The first waypoint behind the next junction, turning right (1), left (-1) or least (0) in it."""
    chosen = False
    for _ in range(_FARTHEST_M):
        following = waypoint.next(1.0)
        if not following:
            break
        if not chosen and (len(following) > 1 or following[0].is_junction):
            chosen = True
            waypoint = _choose(waypoint, following, turn)
        else:
            waypoint = following[0]
        if chosen and not waypoint.is_junction:
            return waypoint
    raise NoPlace("no way leads through a junction")


def _choose(waypoint: carla.Waypoint, following: Sequence[carla.Waypoint], turn: int) -> carla.Waypoint:
    """`choose_at_junction`: by the cross product of the heading and the way to 10 m further on."""
    here, forward = waypoint.transform.location, waypoint.transform.get_forward_vector()
    rated = []
    for each in following:
        further = each.next(10.0)
        if further:
            way = further[0].transform.location - here
            rated.append((forward.x * way.y - forward.y * way.x, further[0]))
    if not rated:
        raise NoPlace("a lane in the junction ends")
    if turn:
        return max(rated, key=lambda r: turn * r[0])[1]
    return min(rated, key=lambda r: abs(r[0]))[1]


def route_exit(points: Sequence[RoutePoint], town: carla.Map, trigger: carla.Location) -> carla.Waypoint:
    """Where the route leaves the first junction after the trigger (`generate_target_waypoint_in_route`)."""
    nearest = min(range(len(points)), key=lambda i: (points[i].transform.location.distance(trigger), -i))
    entered = False
    for point in points[nearest:]:
        if point.command in _TURNS:
            entered = True
        elif entered:
            return town.get_waypoint(point.transform.location)
    raise NoPlace("the route leaves no junction after the trigger")


def crossing_point(first: carla.Waypoint, second: carla.Waypoint) -> carla.Location:
    """Where the straight lines ahead of two lanes meet (`get_geometric_linear_intersection`)."""
    p, q = first.transform, second.transform
    d, e = p.get_forward_vector(), q.get_forward_vector()
    parallel = d.x * e.y - d.y * e.x
    if abs(parallel) < 1e-3:
        raise NoPlace("the ways do not cross")
    offset = q.location - p.location
    share = (offset.x * e.y - offset.y * e.x) / parallel
    return carla.Location(p.location.x + share * d.x, p.location.y + share * d.y, p.location.z)


def aside(
    waypoint: carla.Waypoint, right_m: float, lift_m: float = 0.0, yaw_deg: float = 0.0
) -> carla.Transform:
    """A waypoint's transform moved to the right, lifted, and turned."""
    transform = waypoint.transform
    right = transform.get_right_vector()
    location = carla.Location(
        transform.location.x + right_m * right.x,
        transform.location.y + right_m * right.y,
        transform.location.z + lift_m,
    )
    rotation = carla.Rotation(
        transform.rotation.pitch, transform.rotation.yaw + yaw_deg, transform.rotation.roll
    )
    return carla.Transform(location, rotation)


def straight_on(waypoint: carla.Waypoint, step_m: float) -> carla.Waypoint | None:
    """A step further, the straightest way at forks; None at the lane's end."""
    following = waypoint.next(step_m)
    yaw = waypoint.transform.rotation.yaw

    def bend(other: carla.Waypoint) -> float:
        return float(abs((other.transform.rotation.yaw - yaw + 180) % 360 - 180))

    return min(following, key=bend) if following else None


def lane_path(waypoint: carla.Waypoint, length_m: float, step_m: float = 2.0) -> list[carla.Waypoint]:
    """The lane ahead, the straightest way at forks, as far as it goes."""
    path = [waypoint]
    while (len(path) - 1) * step_m < length_m:
        following = straight_on(path[-1], step_m)
        if following is None:
            break
        path.append(following)
    return path


def points_of(waypoints: Sequence[carla.Waypoint], right_m: float = 0.0) -> np.ndarray:
    """(N, 3) positions of waypoints, moved to their right."""
    transforms = [aside(w, right_m) if right_m else w.transform for w in waypoints]
    return np.array([(t.location.x, t.location.y, t.location.z) for t in transforms])
