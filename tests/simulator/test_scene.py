"""The town's scene against carla.Map, which is what clients and traffic go by."""

from __future__ import annotations

import math
from types import SimpleNamespace

import carla
import numpy as np
import pytest

from tickdrive.leaderboard.simulator.interfaces import LightColour, RoadFurniture, Tag
from tickdrive.leaderboard.simulator.scene.build import build_scene
from tickdrive.leaderboard.simulator.scene.roads import parse_roads
from tickdrive.leaderboard.simulator.scene.surfaces import SIDEWALK_HEIGHT_M
from tickdrive.leaderboard.simulator.towns.catalogue import read_town, town_names
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork


@pytest.fixture(scope="module")
def network():
    name = min(town_names(), key=lambda n: len(read_town(n)))
    return RoadNetwork.from_xodr(name, read_town(name))


@pytest.fixture(scope="module")
def scene(network):
    return build_scene(network)


def _road(number, x, y, heading, length, z, lanes="driving"):
    lane = (
        f'<lane id="-1" type="{lanes}" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/>'
        '<roadMark sOffset="0" type="solid" color="white" width="0.15"/></lane>'
    )
    return (
        f'<road name="r" length="{length}" id="{number}" junction="-1"><link/>'
        f'<planView><geometry s="0" x="{x}" y="{y}" hdg="{heading}" length="{length}"><line/></geometry>'
        "</planView>"
        f'<elevationProfile><elevation s="0" a="{z}" b="0" c="0" d="0"/></elevationProfile><lateralProfile/>'
        '<lanes><laneOffset s="0" a="0" b="0" c="0" d="0"/><laneSection s="0"><center>'
        '<lane id="0" type="none"/>'
        f"</center><right>{lane}</right></laneSection></lanes></road>"
    )


def _plain_network(*roads):
    xodr = (
        '<?xml version="1.0"?><OpenDRIVE><header revMajor="1" revMinor="4" name="t"/>'
        + "".join(roads)
        + "</OpenDRIVE>"
    )
    return SimpleNamespace(name="plain", xodr=xodr, map=carla.Map("plain", xodr), furniture=RoadFurniture())


def test_lane_centres_agree_with_carla_map(network):
    roads = {road.road_id: road for road in parse_roads(network.xodr)}
    worst = 0.0
    for waypoint in network.map.generate_waypoints(9.0):
        road = roads[waypoint.road_id]
        section = next(s for s in reversed(road.sections) if s.start_s <= waypoint.s + 1e-6)
        s = np.array([waypoint.s])
        borders = road.borders(section, s)
        inner = waypoint.lane_id - int(math.copysign(1, waypoint.lane_id))
        centre = road.points(s, 0.5 * (borders[inner] + borders[waypoint.lane_id]))[0]
        place = waypoint.transform.location
        worst = max(worst, float(np.abs(centre - (place.x, place.y, place.z)).max()))
    assert worst < 0.02


def test_ground_height_is_the_lanes(network, scene):
    for waypoint in network.map.generate_waypoints(7.0):
        place = waypoint.transform.location
        assert scene.ground.height(place.x, place.y, place.z + 0.4) == pytest.approx(place.z, abs=0.02)


def test_sidewalks_are_raised(network, scene):
    heights = []
    for waypoint in network.map.generate_waypoints(15.0):
        if waypoint.is_junction:
            continue
        walk = network.map.get_waypoint(waypoint.transform.location, lane_type=carla.LaneType.Sidewalk)
        if walk is not None and not walk.is_junction:
            place = walk.transform.location
            heights.append(scene.ground.height(place.x, place.y, place.z + 0.1) - place.z)
    assert len(heights) > 20
    assert np.median(heights) == pytest.approx(SIDEWALK_HEIGHT_M, abs=0.01)


def test_no_solid_stands_on_a_driving_lane(network, scene):
    points = []
    for waypoint in network.map.generate_waypoints(1.0):
        place = waypoint.transform.location
        right = waypoint.transform.get_right_vector()
        for part in (-0.45, 0.0, 0.45):
            reach = part * waypoint.lane_width
            points.append((place.x + reach * right.x, place.y + reach * right.y, place.z + 1.0))
    points = np.array(points)
    assert len(scene.solids) > 100
    for solid in scene.solids:
        pose, (half_x, half_y, half_z) = solid.box.pose, solid.box.extent
        delta = points - pose.location
        cos, sin = math.cos(math.radians(pose.yaw)), math.sin(math.radians(pose.yaw))
        ahead, aside = cos * delta[:, 0] + sin * delta[:, 1], cos * delta[:, 1] - sin * delta[:, 0]
        inside = (np.abs(ahead) < half_x) & (np.abs(aside) < half_y) & (np.abs(delta[:, 2]) < half_z)
        assert not inside.any(), (solid, points[inside][:1])


def test_the_same_network_gives_the_same_scene(network, scene):
    again = build_scene(network)
    assert again.materials == scene.materials
    assert again.solids == scene.solids
    assert again.environment_objects == scene.environment_objects
    for one, other in zip(scene.layers, again.layers, strict=True):
        assert one.mesh.vertices.tobytes() == other.mesh.vertices.tobytes()
        assert one.mesh.faces.tobytes() == other.mesh.faces.tobytes()
        assert one.mesh.materials.tobytes() == other.mesh.materials.tobytes()


def test_heads_face_the_traffic_they_govern(network, scene):
    by_sign = {light.sign_id: light for light in network.furniture.lights}
    assert by_sign
    assert set(scene.signals.rows) == set(by_sign)
    for bulb in scene.signals.bulbs:
        heading = math.radians(by_sign[bulb.sign_id].stop_poses[0].yaw)
        assert bulb.facing @ (math.cos(heading), math.sin(heading), 0.0) == pytest.approx(-1.0, abs=1e-6)


def test_every_light_has_a_head_that_a_waiting_driver_sees(network, scene):
    for light in network.furniture.lights:
        seen = False
        for bulb in scene.signals.bulbs:
            if bulb.sign_id != light.sign_id or bulb.colour != LightColour.RED:
                continue
            stop = light.stop_poses[0]
            heading = math.radians(stop.yaw)
            delta = bulb.position - stop.location - np.array([0.0, 0.0, 1.7])
            ahead = delta @ (math.cos(heading), math.sin(heading), 0.0) + 3.0
            aside = delta @ (-math.sin(heading), math.cos(heading), 0.0)
            # the rig's camera: 80 x 45.5 degrees, three metres behind the line
            seen |= bool(ahead > 0 and abs(aside) < 0.8 * ahead and abs(delta[2]) < 0.40 * ahead)
        assert seen, light.sign_id


def test_environment_objects_have_ids_of_their_own(scene):
    ids = [item.object_id for item in scene.environment_objects]
    assert len(set(ids)) == len(ids)
    assert {Tag.BUILDING, Tag.VEGETATION, Tag.POLE} <= {item.tag for item in scene.environment_objects}


def test_ground_takes_the_level_of_the_hint():
    network = _plain_network(_road(1, -60, 0, 0.0, 120, 0.0), _road(2, 0, -60, math.pi / 2, 120, 7.0))
    ground = build_scene(network).ground
    # the lanes cross at x 0..3.5, y 0..3.5 in CARLA's frame
    assert ground.height(1.7, 1.7, 0.3) == pytest.approx(0.0, abs=0.01)
    assert ground.height(1.7, 1.7, 7.3) == pytest.approx(7.0, abs=0.01)
    # beside the bridge there is ground to fall to, below the road's level
    assert -1.0 < ground.height(1.7, 30.0, 0.3) < 7.0


def test_a_bridge_has_walls():
    network = _plain_network(_road(1, -60, 0, 0.0, 120, 0.0), _road(2, 0, -60, math.pi / 2, 120, 7.0))
    walls = [solid for solid in build_scene(network).solids if solid.tag == Tag.GUARD_RAIL]
    assert any(solid.box.pose.z > 7.0 for solid in walls)


def test_a_curved_town_of_any_geometry_is_followed():
    spiral = _road(1, 0, 0, 0.0, 60, 0.0).replace("<line/>", '<spiral curvStart="0" curvEnd="0.03"/>')
    arc = _road(2, 0, 80, 0.5, 60, 0.0).replace("<line/>", '<arc curvature="-0.02"/>')
    network = _plain_network(spiral, arc)
    roads = {road.road_id: road for road in parse_roads(network.xodr)}
    for number in (1, 2):
        for s in (0.0, 13.0, 41.0, 59.0):
            place = network.map.get_waypoint_xodr(number, -1, s).transform.location
            point = roads[number].points(np.array([s]), np.array([-1.75]))[0]
            assert np.hypot(point[0] - place.x, point[1] - place.y) < 0.03
