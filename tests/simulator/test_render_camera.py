"""The cameras' geometry and encodings against what a pinhole camera must see."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tickdrive.leaderboard.simulator.actors import Vehicle
from tickdrive.leaderboard.simulator.blueprints.vehicles import VEHICLE_SPECS, vehicle_blueprints
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, CameraSpec, DrawnActor, LightColour, Tag, Weather
from tickdrive.leaderboard.simulator.render.cpu_pictures import CpuMaker
from tickdrive.leaderboard.simulator.render.models import build_model, is_emergency, model_key
from tickdrive.leaderboard.simulator.render.renderer import Renderer
from tickdrive.leaderboard.simulator.scene.build import build_scene
from tickdrive.leaderboard.simulator.towns.catalogue import read_town, town_names
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork
from tickdrive.planner.errors import SensorError

SPEC = CameraSpec(512, 256, 80.0)
FOCAL = 256 / math.tan(math.radians(40.0))
EXTENT = (2.4, 0.95, 0.75)
DAY = Weather(sun_altitude_angle=55.0, sun_azimuth_angle=30.0)


@pytest.fixture(scope="module")
def network():
    name = min(town_names(), key=lambda n: len(read_town(n)))
    return RoadNetwork.from_xodr(name, read_town(name))


@pytest.fixture(scope="module")
def scene(network):
    return build_scene(network)


@pytest.fixture(scope="module")
def renderer(scene):
    renderer = Renderer(scene)
    yield renderer
    renderer.close()


@pytest.fixture(scope="module")
def road(network):
    """A waypoint with 50 m of straight, level road ahead."""
    for waypoint in network.map.generate_waypoints(5.0):
        far = waypoint.next(50.0)
        if waypoint.is_junction or not far or far[0].road_id != waypoint.road_id:
            continue
        turned = far[0].transform.rotation.yaw - waypoint.transform.rotation.yaw
        if abs(turned) < 0.01 and abs(far[0].transform.location.z - waypoint.transform.location.z) < 0.01:
            return waypoint
    pytest.fail("the town has no straight road")


def ahead(waypoint, forward, right=0.0, up=0.0):
    place, yaw = waypoint.transform.location, waypoint.transform.rotation.yaw
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return Pose(
        place.x + forward * cos - right * sin, place.y + forward * sin + right * cos, place.z + up, 0.0, yaw
    )


def car(pose, actor_id=77, lights=0, type_id="vehicle.lincoln.mkz_2020"):
    box = Box(Pose(0.0, 0.0, EXTENT[2]), EXTENT)
    return DrawnActor(actor_id, type_id, pose, box, (170, 30, 30), Tag.CAR, light_flags=lights)


def depth_of(image):
    code = (
        image[..., 2].astype(np.int64)
        + 256 * image[..., 1].astype(np.int64)
        + 65536 * image[..., 0].astype(np.int64)
    )
    return 1000.0 * code / (2**24 - 1)


def test_a_car_ahead_fills_its_projected_box(renderer, road):
    eye = ahead(road, 0.0, up=1.7)
    renderer.begin_tick([car(ahead(road, 20.0, right=1.0))], {}, DAY)
    labels = renderer.camera("instance_segmentation", SPEC, eye)
    mask = (labels[..., 1].astype(int) + 256 * labels[..., 0].astype(int)) == 77
    rows, columns = np.nonzero(mask)
    # the rear face: 20 - 2.4 m ahead, 1 m to the right, from the road to 1.5 m
    rear = 20.0 - EXTENT[0]
    left, right = 256 + FOCAL * (1.0 - EXTENT[1]) / rear, 256 + FOCAL * (1.0 + EXTENT[1]) / rear
    bottom, top = 128 + FOCAL * 1.7 / rear, 128 + FOCAL * (1.7 - 1.5) / 20.0
    # a car is rounder than its box, hence inside it by a few pixels, and never outside
    assert left - 1 <= columns.min() <= left + 4
    assert right - 4 <= columns.max() <= right + 1
    assert bottom - 4 <= rows.max() <= bottom + 1
    assert top - 2 <= rows.min() <= top + 4
    semantic = renderer.camera("semantic_segmentation", SPEC, eye)
    assert (semantic[..., 2][mask] == Tag.CAR).all()
    assert not (semantic[..., 2][~mask] == Tag.CAR).any()
    assert (labels[..., 2] == semantic[..., 2]).all()


def test_depth_is_along_the_optical_axis(renderer, road):
    eye = ahead(road, 0.0, up=1.7)
    renderer.begin_tick([], {}, DAY)
    depth = depth_of(renderer.camera("depth", SPEC, eye))
    semantic = renderer.camera("semantic_segmentation", SPEC, eye)[..., 2]
    for row in (160, 190, 220, 250):
        expected = 1.7 * FOCAL / (row + 0.5 - 128)
        on_road = semantic[row] == Tag.ROAD
        assert on_road.sum() > 30
        assert np.abs(depth[row][on_road] - expected).max() < 0.01 * expected
    assert depth[semantic == Tag.SKY].min() == 1000.0


def test_depth_of_a_box_is_its_distance(renderer, road):
    crate = DrawnActor(
        5,
        "static.prop.box01",
        ahead(road, 12.0),
        Box(Pose(0, 0, 1.0), (1.0, 1.0, 1.0)),
        (0, 0, 0),
        Tag.DYNAMIC,
    )
    renderer.begin_tick([crate], {}, DAY)
    depth = depth_of(renderer.camera("depth", SPEC, ahead(road, 0.0, up=1.0)))
    assert depth[128, 256] == pytest.approx(11.0, abs=0.01)
    # turned about its own axis, an edge comes nearer by sqrt(2) - 1
    pose = ahead(road, 12.0)
    turned = Pose(pose.x, pose.y, pose.z, 0.0, pose.yaw + 45.0)
    renderer.begin_tick([DrawnActor(5, crate.type_id, turned, crate.box, (0, 0, 0), Tag.DYNAMIC)], {}, DAY)
    depth = depth_of(renderer.camera("depth", SPEC, ahead(road, 0.0, up=1.0)))
    assert depth[128, 254:258].min() == pytest.approx(12.0 - math.sqrt(2.0), abs=0.03)


def test_what_stands_right_of_the_road_is_right_in_the_picture(renderer, road):
    renderer.begin_tick([car(ahead(road, 15.0, right=3.0))], {}, DAY)
    labels = renderer.camera("instance_segmentation", SPEC, ahead(road, 0.0, up=1.7))
    assert np.nonzero(labels[..., 1] == 77)[1].mean() > 256
    up = ahead(road, 0.0, up=1.7)
    looking_up = Pose(up.x, up.y, up.z, 10.0, up.yaw)
    lower = renderer.camera("instance_segmentation", SPEC, looking_up)
    assert np.nonzero(lower[..., 1] == 77)[0].mean() > np.nonzero(labels[..., 1] == 77)[0].mean() + 30


def _patch(renderer, network, scene, colour):
    light = network.furniture.lights[0]
    stop = light.stop_poses[0]
    heading = math.radians(stop.yaw)
    bulb = next(b for b in scene.signals.bulbs if b.sign_id == light.sign_id and b.colour == colour)
    eye = bulb.position - 30.0 * np.array([math.cos(heading), math.sin(heading), 0.0])
    eye[2] = stop.z + 1.7
    renderer.begin_tick([], {light.sign_id: colour}, DAY)
    image = renderer.camera("rgb", SPEC, Pose(*eye, 0.0, stop.yaw)).astype(int)
    v = int(128 - FOCAL * (bulb.position[2] - eye[2]) / 30.0)
    return image[v - 2 : v + 3, 254:259, :3].reshape(-1, 3)


def test_a_lit_bulb_shows_its_colour_from_30_m(renderer, network, scene):
    blue, green, red = _patch(renderer, network, scene, LightColour.RED).max(0)
    assert red > 200 and red > green + 80 and red > blue + 80
    blue, green, red = _patch(renderer, network, scene, LightColour.GREEN).max(0)
    assert green > 200 and green > red + 80
    blue, green, red = _patch(renderer, network, scene, LightColour.YELLOW).max(0)
    assert red > 200 and green > 120 and blue < green - 60


def test_the_picture_changes_when_the_light_turns_red(renderer, network):
    light = network.furniture.lights[0]
    stop = light.stop_poses[0]
    heading = math.radians(stop.yaw)
    eye = Pose(
        stop.x - 3.0 * math.cos(heading), stop.y - 3.0 * math.sin(heading), stop.z + 1.7, 0.0, stop.yaw
    )
    pictures = []
    for colour in (LightColour.GREEN, LightColour.RED):
        renderer.begin_tick([], {light.sign_id: colour}, DAY)
        pictures.append(renderer.camera("rgb", SPEC, eye).astype(int))
    changed = np.abs(pictures[1] - pictures[0]).max(2) > 40
    assert 8 < changed.sum() < 2000


def test_brake_lights_light_up(renderer, road):
    eye = ahead(road, 0.0, up=1.7)
    reds = []
    for flags in (0, 8):
        renderer.begin_tick([car(ahead(road, 10.0), lights=flags)], {}, DAY)
        image = renderer.camera("rgb", SPEC, eye).astype(int)
        reds.append(((image[..., 2] > 220) & (image[..., 1] < 120)).sum())
    assert reds[1] > reds[0] + 20


def test_night_is_darker_but_not_black(renderer, road):
    eye = ahead(road, 0.0, up=1.7)
    means = []
    for altitude in (55.0, -30.0):
        renderer.begin_tick([], {}, Weather(sun_altitude_angle=altitude))
        means.append(renderer.camera("rgb", SPEC, eye)[..., :3].mean())
    assert 8.0 < means[1] < 0.5 * means[0]


def test_open_doors_stand_out_to_their_sides(renderer, road):
    eye, body = ahead(road, 0.0, up=1.7), car(ahead(road, 12.0))
    seen = []
    for doors in (0b0000, 0b0001, 0b0010):
        renderer.begin_tick([replace(body, open_doors=doors)], {}, DAY)
        labels = renderer.camera("semantic_segmentation", SPEC, eye)[..., 2]
        columns = np.flatnonzero((labels == Tag.CAR).any(0))
        seen.append((columns.min(), columns.max()))
    shut, left, right = seen
    assert left[0] < shut[0] - 5 and left[1] == shut[1]
    assert right[1] > shut[1] + 5 and right[0] == shut[0]


EMERGENCY = [row for row in VEHICLE_SPECS if is_emergency(row)]


def test_emergency_vehicles_are_those_of_the_library():
    special = {b.type_id for b in vehicle_blueprints() if b.default("special_type") == "emergency"}
    assert set(EMERGENCY) == special and len(special) == 4


@pytest.mark.parametrize("type_id", EMERGENCY)
def test_the_light_bar_of_emergency_vehicles_shines_by_the_special_lights(renderer, road, type_id):
    """Its left half red with Special1, its right half blue with Special2, by day and by night."""
    extent = VEHICLE_SPECS[type_id].box.extent
    box = Box(Pose(0.0, 0.0, extent[2]), extent)
    body = DrawnActor(77, type_id, ahead(road, 14.0), box, (200, 20, 20), Tag.CAR)
    eye, middle = ahead(road, 0.0, up=3.5), SPEC.width // 2
    for weather in (DAY, replace(DAY, sun_altitude_angle=-30.0)):
        dark, first, second = (
            lit_picture(renderer, replace(body, light_flags=flags), eye, weather)
            for flags in (0, 0x100, 0x200)
        )
        for lit, channel, half in ((first, 2, np.s_[:, :middle]), (second, 0, np.s_[:, middle:])):
            brighter = lit[..., channel] - dark[..., channel] > 60
            assert brighter.sum() > 10 and brighter[half].sum() == brighter.sum()
    other = replace(body, type_id="vehicle.dodge.charger_2020")
    pictures = [lit_picture(renderer, replace(other, light_flags=flags), eye, DAY) for flags in (0, 0x300)]
    assert np.array_equal(*pictures)  # other vehicles have none
    vertices = build_model(model_key(type_id, Tag.CAR, extent, 0.0)).vertices
    assert vertices[:, 2].max() <= extent[2] + 0.01  # the bar stands within the box


def lit_picture(renderer, actor, eye, weather):
    renderer.begin_tick([actor], {}, weather)
    return renderer.camera("rgb", SPEC, eye)[..., :3].astype(int)


def test_the_fire_trucks_box_is_in_its_colour(renderer, road):
    type_id = "vehicle.carlamotors.firetruck"
    extent = VEHICLE_SPECS[type_id].box.extent
    box = Box(Pose(0.0, 0.0, extent[2]), extent)
    for key, red in ((type_id, True), ("vehicle.carlamotors.carlacola", False)):
        body = DrawnActor(77, key, ahead(road, 14.0), box, (170, 20, 20), Tag.TRUCK)
        seen = lit_picture(renderer, body, ahead(road, 0.0, up=2.0), DAY)
        blue, _, reds = seen[SPEC.height // 2 - 20, SPEC.width // 2]
        assert bool(reds > blue + 60) is red


def test_the_special_lights_flash_in_turn():
    vehicle = object.__new__(Vehicle)
    seen = []
    for flags in (0x300, 0x100, 0x201):
        vehicle.light_flags = flags
        seen.append([vehicle.lit_flags(0.05 * tick) for tick in range(20)])
    both, left, right = seen
    assert both == ([0x100] * 5 + [0x200] * 5) * 2
    assert left == ([0x100] * 5 + [0] * 5) * 2 and right == ([1] * 5 + [0x201] * 5) * 2


def test_headlights_and_rain_show(renderer, road):
    """At night a car's beams light the road before it; under rain clouds the day is darker."""
    eye = ahead(road, 0.0, up=1.7)
    night = Weather(sun_altitude_angle=-30.0)
    means = []
    for actors in ([], [car(ahead(road, -4.0))]):  # its front is just behind the camera
        renderer.begin_tick(actors, {}, night)
        image = renderer.camera("rgb", SPEC, eye)
        labels = renderer.camera("semantic_segmentation", SPEC, eye)[..., 2]
        means.append(image[labels == Tag.ROAD, :3].mean())
    assert means[1] > 1.3 * means[0]
    skies = []
    for rain in (0.0, 100.0):
        renderer.begin_tick([], {}, Weather(cloudiness=100.0, sun_altitude_angle=45.0, precipitation=rain))
        skies.append(renderer.camera("rgb", SPEC, eye)[..., :3].mean())
    assert skies[1] < 0.9 * skies[0]


def test_fog_takes_what_is_far_and_rain_darkens_and_wets_the_road(renderer, road):
    eye = ahead(road, 0.0, up=1.7)

    def draw(**weather):
        renderer.begin_tick([], {}, Weather(cloudiness=100.0, sun_altitude_angle=45.0, **weather))
        return renderer.camera("rgb", SPEC, eye)[..., :3].astype(float)

    clear, fog = draw(), draw(fog_density=60.0, fog_distance=2.0)
    metres = depth_of(renderer.camera("depth", SPEC, eye))
    changed = [
        np.abs(fog - clear)[(metres > a) & (metres < b)].mean() for a, b in ((3, 8), (15, 30), (50, 150))
    ]
    assert changed[0] * 1.5 < changed[1] < changed[2]
    labels = renderer.camera("semantic_segmentation", SPEC, eye)[..., 2]
    near, far = ((labels == Tag.ROAD) & (metres > a) & (metres < b) for a, b in ((0, 6), (20, 60)))
    assert draw(precipitation=100.0)[near].mean() < 0.9 * clear[near].mean()
    assert draw(wetness=100.0)[far].mean() > 1.1 * clear[far].mean()  # it mirrors the bright sky


def test_shadows_fall_away_from_the_sun(renderer, road):
    yaw = road.transform.rotation.yaw

    def shadow(turn: float, along: float) -> np.ndarray:
        """Road that a car darkens; the sun at an angle to the view, and high, to clear the houses."""
        weather = Weather(sun_altitude_angle=58.0, sun_azimuth_angle=yaw + turn)
        eye = ahead(road, along, up=1.7)
        renderer.begin_tick([], {}, weather)
        empty = renderer.camera("rgb", SPEC, eye).astype(int)
        renderer.begin_tick([car(ahead(road, along + 14.0))], {}, weather)
        image = renderer.camera("rgb", SPEC, eye).astype(int)
        labels = renderer.camera("semantic_segmentation", SPEC, eye)[..., 2]
        return (image.sum(2) < empty.sum(2) - 45) & (labels == Tag.ROAD)

    # where trees leave the most of the road in the sun, from the right and from the left
    places = [
        [shadow(turn, distance) for turn in (90.0, -90.0)] for distance in (8.0, 11.0, 14.0, 17.0, 20.0)
    ]
    shadows = max(places, key=lambda pair: min(darker.sum() for darker in pair))
    assert min(darker.sum() for darker in shadows) > 40
    middles = [np.nonzero(darker)[1].mean() for darker in shadows]
    assert middles[0] < 256 - 8 and middles[1] > 256 + 8


@pytest.mark.parametrize("kind", ["rgb", "depth", "semantic_segmentation", "instance_segmentation"])
def test_equal_calls_give_equal_pictures(scene, renderer, road, kind):
    person, bike = Box(Pose(), (0.19, 0.19, 0.93)), Box(Pose(0, 0, 0.8), (0.74, 0.3, 0.8))
    walker = ahead(road, 10.0, 2.0, 0.93)
    actors = [
        car(ahead(road, 15.0), lights=8),
        DrawnActor(9, "walker.pedestrian.0001", walker, person, (0, 0, 0), Tag.PEDESTRIAN, stride_m=0.4),
        DrawnActor(10, "vehicle.bh.crossbike", ahead(road, 9.0, -2.0), bike, (20, 90, 160), Tag.BICYCLE),
    ]
    states = dict.fromkeys(scene.signals.rows, LightColour.RED)
    eye = ahead(road, 0.0, up=1.7)
    renderer.begin_tick(actors, states, DAY)
    first = renderer.camera(kind, SPEC, eye)
    renderer.begin_tick(actors[:1], {}, Weather(cloudiness=80.0, sun_altitude_angle=20.0))
    renderer.camera(kind, SPEC, eye)
    renderer.begin_tick(actors, states, DAY)
    assert renderer.camera(kind, SPEC, eye).tobytes() == first.tobytes()
    other = Renderer(scene, CpuMaker(threads=2))
    other.begin_tick(actors, states, DAY)
    assert other.camera(kind, SPEC, eye).tobytes() == first.tobytes()
    other.close()


def test_people_and_riders_have_their_tags(renderer, road):
    bike = DrawnActor(
        10,
        "vehicle.bh.crossbike",
        ahead(road, 8.0),
        Box(Pose(0, 0, 0.8), (0.74, 0.3, 0.8)),
        (20, 90, 160),
        Tag.BICYCLE,
    )
    renderer.begin_tick([bike], {}, DAY)
    tags = set(np.unique(renderer.camera("semantic_segmentation", SPEC, ahead(road, 0.0, up=1.5))[..., 2]))
    assert {Tag.BICYCLE, Tag.RIDER, Tag.ROAD, Tag.SKY} <= tags


def test_odd_sizes_and_narrow_views_are_drawn(renderer, road):
    for spec in (CameraSpec(1, 1, 90.0), CameraSpec(37, 23, 10.0), CameraSpec(801, 601, 150.0)):
        assert renderer.camera("rgb", spec, ahead(road, 0.0, up=1.7)).shape == (spec.height, spec.width, 4)


def test_a_camera_that_cannot_be_says_so(renderer, road):
    with pytest.raises(SensorError, match="Did you mean 'depth'"):
        renderer.camera("dept", SPEC, ahead(road, 0.0))
    with pytest.raises(SensorError, match="0x256"):
        renderer.camera("rgb", CameraSpec(0, 256, 80.0), ahead(road, 0.0))
