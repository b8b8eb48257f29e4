"""Traffic lights and signs of a map: where they stand, which lanes they govern, in which order they cycle.

Read from the landmarks of `carla.Map`, which are what a client sees: a `<signal>` stands where its pole is,
its validity or its `<signalReference>`s name the lanes. In CARLA's own towns these are lanes inside the
junction; the stop line is then at the end of the lane that leads there.
"""

from __future__ import annotations

import logging
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import carla
import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose, wrap_deg
from tickdrive.leaderboard.simulator.interfaces import Box, LightTimes, SignSpec, TrafficLightSpec
from tickdrive.leaderboard.simulator.towns.lights import trigger_box

log = logging.getLogger(__name__)

#: OpenDRIVE signal types that CARLA knows (`LibCarla/source/carla/road/SignalType.cpp`)
LIGHT_TYPE = "1000001"
STOP_TYPE = "206"
YIELD_TYPE = "205"
SPEED_TYPE = "274"

TIMES_CODE = "tickdrive:green yellow red [s]"
"""`code` of a controller's `<userData>` that states the times of its phase, for example `value="6 3 1"`."""

#: a client brakes hard from 15 km/h for a red light it has just come under: this is long enough for that
LIGHT_TRIGGER_M = 5.0
#: about as long as a lane is wide, since criteria take a stop sign's box as parallel to the world's axes
SIGN_TRIGGER_M = 3.0
_STEP_M = 0.5
_WALK_M = 60.0
#: stop this far before the junction, or before a crosswalk that lies there
_SETBACK_M = 1.0
_CROSSWALK_WITHIN_M = 10.0
_SAME_APPROACH_DEG = 45.0
_SAME_APPROACH_M = 20.0
_MPH = 1.609344
_MOST_LANES = 64


@dataclass(frozen=True)
class _Line:
    """The stop line of one lane."""

    pose: Pose
    lane: tuple[int, int, int]
    half_width_m: float
    junction: int


def read_lights(
    carla_map: carla.Map, root: ET.Element, crosswalks: Sequence[np.ndarray]
) -> tuple[TrafficLightSpec, ...]:
    """Traffic lights, by signal id.

    Args:
        carla_map: the map.
        root: its `<OpenDRIVE>` element, for the controllers.
        crosswalks: (N, 2) polygons that stop lines keep clear of.
    """
    by_id = _landmarks_by_id(carla_map, LIGHT_TYPE)
    lines = {sign_id: _stop_lines(carla_map, sign_id, marks, crosswalks) for sign_id, marks in by_id.items()}
    cycles = _cycles(root, lines)
    times = _times(root)
    lights = []
    for sign_id, marks in by_id.items():
        stops = tuple(line.pose for line in lines[sign_id])
        pose = _foot(marks[0], stops)
        if stops:
            trigger = trigger_box(stops, [line.half_width_m for line in lines[sign_id]], LIGHT_TRIGGER_M)
        else:
            log.warning("traffic light %s governs no driving lane", sign_id)
            trigger = Box(pose, (0.01, 0.01, 0.01))
        group, phase = cycles[sign_id]
        lanes = tuple(line.lane for line in lines[sign_id])
        lasts = times.get(sign_id, LightTimes())
        lights.append(TrafficLightSpec(sign_id, group, phase, pose, trigger, stops, lanes, lasts))
    return tuple(lights)


def read_signs(
    carla_map: carla.Map, crosswalks: Sequence[np.ndarray]
) -> tuple[tuple[SignSpec, ...], dict[tuple[int, int], tuple[float, float]]]:
    """Stop, yield and speed limit signs, by signal id, and the limits by (road, lane): (from s [m], km/h)."""
    signs: list[SignSpec] = []
    for type_id, name in ((STOP_TYPE, "traffic.stop"), (YIELD_TYPE, "traffic.yield")):
        for sign_id, marks in _landmarks_by_id(carla_map, type_id).items():
            lines = _stop_lines(carla_map, sign_id, marks, crosswalks)
            stops = tuple(line.pose for line in lines)
            pose = _foot(marks[0], stops)
            trigger = Box(pose, (0.01, 0.01, 0.01))
            if stops:
                trigger = trigger_box(stops, [line.half_width_m for line in lines], SIGN_TRIGGER_M)
            else:
                log.warning("%s sign %s governs no driving lane", name, sign_id)
            signs.append(SignSpec(sign_id, name, pose, trigger, stops))
    limits: dict[tuple[int, int], tuple[float, float]] = {}
    for sign_id, marks in _landmarks_by_id(carla_map, SPEED_TYPE).items():
        limit_kmh = _limit_kmh(marks[0])
        if limit_kmh is None:
            log.warning("speed limit sign %s states no speed", sign_id)
            continue
        waypoints = [w for mark in marks for w in _governed(carla_map, mark)]
        poses = [_pose(w) for w in waypoints]
        pose = _foot(marks[0], poses)
        trigger = Box(pose, (0.01, 0.01, 0.01))
        if poses:
            trigger = trigger_box(poses, [0.5 * w.lane_width for w in waypoints], SIGN_TRIGGER_M)
        for waypoint in waypoints:
            limits[waypoint.road_id, waypoint.lane_id] = (waypoint.s, limit_kmh)
        signs.append(SignSpec(sign_id, f"traffic.speed_limit.{round(limit_kmh)}", pose, trigger))
    return tuple(signs), limits


def _landmarks_by_id(carla_map: carla.Map, type_id: str) -> dict[str, list[carla.Landmark]]:
    """Landmarks of a type by signal id, in an order that does not depend on CARLA's hash maps."""
    by_id: dict[str, list[carla.Landmark]] = {}
    for landmark in carla_map.get_all_landmarks_of_type(type_id):
        by_id.setdefault(landmark.id, []).append(landmark)
    for marks in by_id.values():
        marks.sort(key=lambda m: (m.road_id, m.s))
    return dict(sorted(by_id.items(), key=lambda item: (len(item[0]), item[0])))


def _limit_kmh(landmark: carla.Landmark) -> float | None:
    value = landmark.value
    if value <= 0.0:
        try:
            value = float(landmark.sub_type)
        except ValueError:
            return None
    if not 0.0 < value < 1000.0:
        return None
    return value * _MPH if landmark.unit == "mph" else value


def _governed(carla_map: carla.Map, landmark: carla.Landmark) -> list[carla.Waypoint]:
    """Driving lanes of a landmark's validity, at its station."""
    waypoints = []
    for first, last in landmark.get_lane_validities():
        # no road has more lanes than this; a file may say anything
        low, high = max(min(first, last), -_MOST_LANES), min(max(first, last), _MOST_LANES)
        for lane_id in range(low, high + 1):
            if lane_id == 0:
                continue
            for s in (landmark.s, landmark.s - 0.2, landmark.s + 0.2):
                waypoint = carla_map.get_waypoint_xodr(landmark.road_id, lane_id, max(s, 0.0))
                if waypoint is not None:
                    break
            if waypoint is not None and waypoint.lane_type == carla.LaneType.Driving:
                waypoints.append(waypoint)
    return waypoints


def _stop_lines(
    carla_map: carla.Map,
    sign_id: str,
    landmarks: Iterable[carla.Landmark],
    crosswalks: Sequence[np.ndarray],
) -> list[_Line]:
    """Stop lines of the lanes that a signal governs, one for each lane, all of one approach."""
    by_lane: dict[tuple[int, int, int], _Line] = {}
    for landmark in landmarks:
        for waypoint in _governed(carla_map, landmark):
            entry = _entry(waypoint)
            if entry is None or entry.lane_type != carla.LaneType.Driving:
                continue
            lane = (entry.road_id, entry.section_id, entry.lane_id)
            if lane in by_lane:
                continue
            at_line = entry if not waypoint.is_junction else _set_back(entry, crosswalks)
            by_lane[lane] = _Line(_pose(at_line), lane, 0.5 * at_line.lane_width, _junction_ahead(entry))
    lines = [by_lane[lane] for lane in sorted(by_lane)]
    if not lines:
        return []
    approach = max(([o for o in lines if _same_approach(line, o)] for line in lines), key=len)
    if len(approach) < len(lines):
        log.info(
            "signal %s governs lanes of several approaches; those of one are taken (%d of %d)",
            sign_id,
            len(approach),
            len(lines),
        )
    return approach


def _same_approach(a: _Line, b: _Line) -> bool:
    near = math.hypot(a.pose.x - b.pose.x, a.pose.y - b.pose.y) < _SAME_APPROACH_M
    return near and abs(wrap_deg(a.pose.yaw - b.pose.yaw)) < _SAME_APPROACH_DEG


def _entry(waypoint: carla.Waypoint) -> carla.Waypoint | None:
    """The waypoint itself, or for one inside a junction the last before it; None where nothing leads in."""
    walked = 0.0
    while waypoint.is_junction:
        before = waypoint.previous(_STEP_M)
        walked += _STEP_M
        if not before or walked > _WALK_M:
            return None
        waypoint = before[0]
    return waypoint


def _set_back(entry: carla.Waypoint, crosswalks: Sequence[np.ndarray]) -> carla.Waypoint:
    """Where to stop before a junction that begins right after `entry`."""
    waypoint = _back(entry, _SETBACK_M)
    best = waypoint
    distance = 0.0
    while distance < _CROSSWALK_WITHIN_M:
        at = waypoint.transform.location
        if any(_within(polygon, at.x, at.y) for polygon in crosswalks):
            best = _back(waypoint, _SETBACK_M)
        following = _back(waypoint, _STEP_M)
        if following is waypoint:
            break
        waypoint = following
        distance += _STEP_M
    return best


def _back(waypoint: carla.Waypoint, distance_m: float) -> carla.Waypoint:
    before = waypoint.previous(distance_m)
    same = [w for w in before if (w.road_id, w.lane_id) == (waypoint.road_id, waypoint.lane_id)]
    return same[0] if same else waypoint


def _within(polygon: np.ndarray, x: float, y: float) -> bool:
    """Whether a point lies in a polygon (even-odd rule)."""
    px, py = polygon[:, 0], polygon[:, 1]
    if not (px.min() <= x <= px.max() and py.min() <= y <= py.max()):
        return False
    qx, qy = np.roll(px, -1), np.roll(py, -1)
    crosses = (py > y) != (qy > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = px + (y - py) / (qy - py) * (qx - px)
    return bool(np.count_nonzero(crosses & (x < at)) % 2)


def _junction_ahead(waypoint: carla.Waypoint) -> int:
    """Id of the junction that a lane leads into within some way, or -1."""
    for distance in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0):
        for following in waypoint.next(distance):
            if following.is_junction:
                return int(following.get_junction().id)
    return -1


def _cycles(root: ET.Element, lines: dict[str, list[_Line]]) -> dict[str, tuple[str, int]]:
    """Group and phase of each light: by its controller, else by junction and approach."""
    members = {
        c.get("id", ""): [e.get("signalId", "") for e in c.findall("control")]
        for c in root.findall("controller")
    }
    junction_of_controller: dict[str, tuple[str, float]] = {}
    for junction in root.findall("junction"):
        for number, controller in enumerate(junction.findall("controller")):
            try:
                rank = float(controller.get("sequence", number))
            except ValueError:
                rank = float(number)
            junction_of_controller[controller.get("id", "")] = (junction.get("id", ""), rank)
    phases: dict[str, list[str]] = {}  # group -> keys of its phases, in order
    key_of: dict[str, tuple[str, str]] = {}
    ordered = sorted(members, key=lambda c: (*junction_of_controller.get(c, ("", 0.0)), len(c), c))
    for controller_id in ordered:
        for sign_id in members[controller_id]:
            if sign_id not in lines or sign_id in key_of:
                continue
            if controller_id in junction_of_controller:
                group = f"junction {junction_of_controller[controller_id][0]}"
            else:
                group = _group_by_place(sign_id, lines[sign_id])
            key_of[sign_id] = (group, f"controller {controller_id}")
    for sign_id, found in lines.items():
        if sign_id not in key_of:
            road = f"road {found[0].lane[0]}" if found else f"signal {sign_id}"
            key_of[sign_id] = (_group_by_place(sign_id, found), road)
    for group, key in key_of.values():
        if key not in phases.setdefault(group, []):
            phases[group].append(key)
    return {sign_id: (group, phases[group].index(key)) for sign_id, (group, key) in key_of.items()}


def _times(root: ET.Element) -> dict[str, LightTimes]:
    """Times by signal id, where a controller states them."""
    times: dict[str, LightTimes] = {}
    for controller in root.findall("controller"):
        for data in controller.findall("userData"):
            if data.get("code") != TIMES_CODE:
                continue
            text = data.get("value", "")
            try:
                green_s, yellow_s, red_s = (float(part) for part in text.split())
                stated = LightTimes(green_s, yellow_s, red_s)
            except ValueError:
                log.warning("controller %s states times %r: give three seconds", controller.get("id"), text)
                continue
            for control in controller.findall("control"):
                times.setdefault(control.get("signalId", ""), stated)
    return times


def _group_by_place(sign_id: str, found: Sequence[_Line]) -> str:
    junction = next((line.junction for line in found if line.junction >= 0), -1)
    return f"junction {junction}" if junction >= 0 else f"signal {sign_id}"


def _foot(landmark: carla.Landmark, stops: Sequence[Pose]) -> Pose:
    """Actor transform of a signal.

    CARLA spawns signals a quarter turn to the right of their landmark, whose yaw in its own towns is the
    travel direction (`TrafficLightManager.cpp`: "Blueprints are all rotated by 90 degrees"). Other maps turn
    theirs otherwise, so the governed lanes decide where there are any.
    """
    at = landmark.transform.location
    yaw = stops[0].yaw if stops else landmark.transform.rotation.yaw
    height = stops[0].z if stops else at.z
    return Pose(at.x, at.y, height, yaw=wrap_deg(yaw + 90.0))


def _pose(waypoint: carla.Waypoint) -> Pose:
    at, turn = waypoint.transform.location, waypoint.transform.rotation
    return Pose(at.x, at.y, at.z, wrap_deg(turn.pitch), wrap_deg(turn.yaw), wrap_deg(turn.roll))
