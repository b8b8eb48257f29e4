"""Reading road networks: CARLA's conventions, plain OpenDRIVE, and files that are broken."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import carla
import numpy as np
import pytest

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import TrafficLightSpec
from tickdrive.leaderboard.simulator.towns import network as network_module
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator.towns.checks import TownError
from tickdrive.leaderboard.simulator.towns.furniture import LIGHT_TRIGGER_M
from tickdrive.leaderboard.simulator.towns.network import SPAWN_HEIGHT_M, RoadNetwork

TEXT = read_town("TickTown02")


@pytest.fixture(scope="module")
def town() -> RoadNetwork:
    return RoadNetwork.from_xodr("TickTown02", TEXT)


def _changed(change: Callable[[ET.Element], None]) -> str:
    root = ET.fromstring(TEXT)
    change(root)
    return ET.tostring(root, encoding="unicode")


def _in_frame(light: TrafficLightSpec, x: float, y: float) -> tuple[float, float]:
    yaw = math.radians(light.trigger.pose.yaw)
    dx, dy = x - light.trigger.pose.x, y - light.trigger.pose.y
    return dx * math.cos(yaw) + dy * math.sin(yaw), dy * math.cos(yaw) - dx * math.sin(yaw)


def test_spawn_points_stand_on_lanes_and_face_along_them(town: RoadNetwork) -> None:
    assert len(town.spawn_points) > 100
    for pose in town.spawn_points:
        waypoint = town.map.get_waypoint(carla.Location(pose.x, pose.y, pose.z))
        assert not waypoint.is_junction
        assert (
            math.hypot(waypoint.transform.location.x - pose.x, waypoint.transform.location.y - pose.y) < 0.1
        )
        assert abs((waypoint.transform.rotation.yaw - pose.yaw + 180) % 360 - 180) < 1.0
        assert pose.z == pytest.approx(SPAWN_HEIGHT_M)
    places = np.array([(p.x, p.y) for p in town.spawn_points])
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places)) * 99
    assert gaps.min() > 3.0


def test_stop_poses_and_triggers_are_where_cars_stop(town: RoadNetwork) -> None:
    for light in town.furniture.lights:
        for pose, (road, _, lane) in zip(light.stop_poses, light.lanes, strict=True):
            waypoint = town.map.get_waypoint(carla.Location(pose.x, pose.y, pose.z))
            assert (waypoint.road_id, waypoint.lane_id) == (road, lane)
            ahead = waypoint.next(8.0)
            assert not waypoint.is_junction and all(w.is_junction for w in ahead)
            across, along = _in_frame(light, pose.x, pose.y)
            assert abs(across) < light.trigger.extent[0]
            assert abs(along) == pytest.approx(0.5 * LIGHT_TRIGGER_M, abs=0.05)
            # the actor is turned a quarter to the right of the traffic, as on a CARLA server
            assert (light.pose.yaw - pose.yaw) % 360 == pytest.approx(90.0, abs=0.1)


def test_a_client_finds_the_governed_lanes_under_the_trigger(town: RoadNetwork) -> None:
    """As `TrafficLight::GetStopWaypoints` does: along the box's x axis, in steps of a metre."""
    for light in town.furniture.lights:
        centre, yaw = light.trigger.pose, math.radians(light.trigger.pose.yaw)
        lanes = set()
        for offset in np.arange(-light.trigger.extent[0], light.trigger.extent[0], 1.0):
            place = carla.Location(centre.x + offset * math.cos(yaw), centre.y + offset * math.sin(yaw))
            waypoint = town.map.get_waypoint(place)
            lanes.add((waypoint.road_id, waypoint.section_id, waypoint.lane_id))
        assert lanes == set(light.lanes)


def test_references_inside_the_junction_mean_the_lanes_that_lead_there(town: RoadNetwork) -> None:
    """CARLA's own towns refer to lights from the lanes within the junction."""

    def move(root: ET.Element) -> None:
        roads = {road.get("id"): road for road in root.findall("road")}
        for road in root.findall("road[@junction='-1']"):
            signals = road.find("signals")
            assert signals is not None
            for reference in signals.findall("signalReference"):
                signals.remove(reference)
                from_start = reference.get("orientation") == "-"
                for way in roads.values():
                    link = way.find("link/predecessor")
                    assert link is not None
                    entry = (link.get("elementId"), link.get("contactPoint"))
                    if entry == (road.get("id"), "start" if from_start else "end"):
                        holder = way.find("signals")
                        assert holder is not None
                        moved = ET.SubElement(
                            holder,
                            "signalReference",
                            id=reference.get("id", ""),
                            s="3.0",
                            t="0",
                            orientation="+",
                        )
                        ET.SubElement(moved, "validity", fromLane="-1", toLane="-1")

    carla_like = RoadNetwork.from_xodr("CarlaLike", _changed(move))
    expected = {light.sign_id: light for light in town.furniture.lights}
    assert len(carla_like.furniture.lights) == len(expected)
    for light in carla_like.furniture.lights:
        other = expected[light.sign_id]
        assert set(light.lanes) == set(other.lanes)
        assert (light.group, light.phase) == (other.group, other.phase)
        for pose in light.stop_poses:
            # at the lane's end, but before the crosswalk that lies there
            assert min(math.hypot(pose.x - p.x, pose.y - p.y) for p in other.stop_poses) < 1.2


def test_lights_without_controllers_cycle_by_junction_and_approach(town: RoadNetwork) -> None:
    def strip(root: ET.Element) -> None:
        for controller in root.findall("controller"):
            root.remove(controller)
        for junction in root.findall("junction"):
            for controller in junction.findall("controller"):
                junction.remove(controller)

    bare = RoadNetwork.from_xodr("Bare", _changed(strip))
    groups = {light.sign_id: light.group for light in bare.furniture.lights}
    assert groups == {light.sign_id: light.group for light in town.furniture.lights}
    for name in set(groups.values()):
        phases = [light.phase for light in bare.furniture.lights if light.group == name]
        assert sorted(phases) == list(range(len(phases)))


def test_speed_limits_by_sign_then_road_then_default(town: RoadNetwork) -> None:
    pose = next(p for p in town.spawn_points if town.speed_limit_kmh(p) == 50.0)
    waypoint = town.map.get_waypoint(carla.Location(pose.x, pose.y, pose.z))

    def mph(root: ET.Element) -> None:
        road = root.find(f"road[@id='{waypoint.road_id}']")
        assert road is not None
        speed = road.find("type/speed")
        assert speed is not None
        speed.set("max", "25")
        speed.set("unit", "mph")
        for signals in root.iter("signals"):
            for signal in signals.findall("signal[@type='274']"):
                signals.remove(signal)

    assert RoadNetwork.from_xodr("Mph", _changed(mph)).speed_limit_kmh(pose) == pytest.approx(40.2, abs=0.1)

    def none(root: ET.Element) -> None:
        mph(root)
        for road in root.findall("road"):
            for kind in road.findall("type"):
                road.remove(kind)

    assert RoadNetwork.from_xodr("None", _changed(none)).speed_limit_kmh(pose) == 30.0


def test_a_sign_overrides_the_road_from_where_it_stands() -> None:
    def sign(root: ET.Element) -> None:
        for signals in root.iter("signals"):
            for signal in signals.findall("signal[@type='274']"):
                signals.remove(signal)
        signals = root.find("road[@id='1']/signals")
        assert signals is not None
        element = ET.SubElement(
            signals, "signal", name="Speed_20", id="9000", s="50.0", t="-9", zOffset="0", hOffset="0",
            orientation="+", dynamic="no", country="OpenDRIVE", type="274", subtype="20", value="20",
            unit="km/h", height="1", width="1", text="", pitch="0", roll="0",
        )  # fmt: skip
        ET.SubElement(element, "validity", fromLane="-2", toLane="-1")

    network = RoadNetwork.from_xodr("Signed", _changed(sign))

    def limit(s: float, lane: int) -> float:
        at = network.map.get_waypoint_xodr(1, lane, s).transform.location
        return network.speed_limit_kmh(Pose(at.x, at.y, at.z))

    assert (limit(40.0, -1), limit(60.0, -1), limit(60.0, -2), limit(60.0, 1)) == (50.0, 20.0, 20.0, 50.0)
    assert [s.type_id for s in network.furniture.signs if s.sign_id == "9000"] == ["traffic.speed_limit.20"]


BROKEN = {
    "empty": ("", "not valid XML"),
    "text": ("hello", "not valid XML"),
    "cut short": (TEXT[: len(TEXT) // 2], "not valid XML"),
    "bytes": ("\udcff\udcfe<a/>", "not valid XML"),
    "html": ("<html/>", "root element is <html>"),
    "no roads": ("<OpenDRIVE><header/></OpenDRIVE>", "no <road>"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><OpenDRIVE/>', "document type"),
    "no geometry": (TEXT.replace("<geometry", "<nothing").replace("</geometry", "</nothing"), "planView"),
    "not a number": (TEXT.replace('length="', 'length="x', 1), "Give a finite number|positive length"),
    "link to nowhere": (TEXT.replace('elementId="1001"', 'elementId="77777"', 1), "'77777'.*does not exist"),
    "connection to nowhere": (TEXT.replace('connectingRoad="', 'connectingRoad="9', 1), "which is no road"),
    "lane without width": (TEXT.replace('<width sOffset="0"', "<wide ", 1), "no width"),
    "control of nothing": (TEXT.replace('signalId="3001"', 'signalId="9"'), "which is no signal"),
    "reference to nothing": (
        TEXT.replace('signalReference id="3001"', 'signalReference id="9"'),
        "no signal",
    ),
    "no centre": (re.sub("<center>.*?</center>", "", TEXT, count=1, flags=re.S), "centre lane"),
    "twice": (TEXT.replace('id="2"', 'id="1"'), "occurs twice"),
    "no driving": (TEXT.replace('type="driving"', 'type="median"'), "no lane of type 'driving'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_words(case: str) -> None:
    text, message = BROKEN[case]
    with pytest.raises(TownError, match=message) as caught:
        RoadNetwork.from_xodr("Broken", text)
    assert "'Broken'" in caught.value.what


def test_a_file_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickdrive.leaderboard.simulator.towns.checks.MAX_XODR_BYTES", 1000)
    with pytest.raises(TownError, match="larger than"):
        RoadNetwork.from_xodr("Large", TEXT)


def test_what_crashes_the_parser_crashes_it_elsewhere() -> None:
    """Found by random damage: a lane that leads to no lane takes CARLA's parser down, not this process."""
    text = re.sub(r'(<successor id=")[^"]*', r"\g<1>-9", TEXT, count=1)
    with pytest.raises(TownError, match="cannot read it: it crashed"):
        RoadNetwork.from_xodr("Crash", text)


def test_a_validity_without_end_does_not_hang() -> None:
    network = RoadNetwork.from_xodr("Wide", TEXT.replace('toLane="2"', 'toLane="2000000000"'))
    assert all(len(light.lanes) <= 2 for light in network.furniture.lights)


def test_shipped_towns_are_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "probe_map", lambda *_: pytest.fail("probed"))
    RoadNetwork.from_xodr("TickTown02", TEXT)
