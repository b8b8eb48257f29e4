"""The OpenGL renderer against the processor's, on whatever plays OpenGL here (Mesa's llvmpipe in CI)."""

from __future__ import annotations

import asyncio
import gc
import math
import queue
import sys
import weakref
from dataclasses import replace

import carla
import numpy as np
import pytest

from tickdrive.leaderboard.simulator.camera_benchmark import WEATHERS
from tickdrive.leaderboard.simulator.episode import TownLibrary
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, CameraSpec, DrawnActor, LightColour, Tag, Weather
from tickdrive.leaderboard.simulator.launch import SimulatorProcess
from tickdrive.leaderboard.simulator.render import choice
from tickdrive.leaderboard.simulator.render.assets import pack_town
from tickdrive.leaderboard.simulator.render.gl import device as gl_device
from tickdrive.leaderboard.simulator.render.gl.device import NoEgl, open_device
from tickdrive.leaderboard.simulator.render.gl.pictures import EglMaker
from tickdrive.leaderboard.simulator.render.gl.shadows import casting
from tickdrive.leaderboard.simulator.render.renderer import Renderer
from tickdrive.leaderboard.simulator.scene.build import build_scene
from tickdrive.leaderboard.simulator.scene.mesh import MaterialArrays
from tickdrive.leaderboard.simulator.simulation import Simulation
from tickdrive.leaderboard.simulator.spawn import spawn
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork
from tickdrive.planner.errors import ConfigError, ServerError

SPEC = CameraSpec(480, 300, 90.0)
# mean absolute difference, of 255, and share of pixels with one of more than 16: edges of shadows, mostly
MOST_APART = {
    "noon": (0.55, 0.015),
    "dusk": (0.3, 0.006),
    "rain": (0.15, 0.004),
    "fog": (0.35, 0.01),
    "night": (0.3, 0.006),
}


@pytest.fixture(scope="module")
def device():
    try:
        device = open_device()
    except NoEgl as error:
        pytest.skip(f"no OpenGL here: {error}")
    yield device
    device.close()


@pytest.fixture(scope="module")
def maker(device):
    return EglMaker(device)


@pytest.fixture(scope="module")
def network():
    return RoadNetwork.from_xodr("TickTown02", read_town("TickTown02"))


@pytest.fixture(scope="module")
def scene(network):
    return build_scene(network)


@pytest.fixture(scope="module")
def pair(scene, maker):
    """The processor's renderer and OpenGL's, of one town."""
    renderers = Renderer(scene), Renderer(scene, maker)
    yield renderers
    for renderer in renderers:
        renderer.close()


@pytest.fixture(scope="module")
def views(network):
    """Poses of a camera on the road, before traffic lights and elsewhere."""
    points = network.map.generate_waypoints(20.0)
    places = [points[k].transform for k in (3, 42)]
    light = network.furniture.lights[0].stop_poses[0]
    heading = math.radians(light.yaw)
    before = Pose(
        light.x - 12 * math.cos(heading), light.y - 12 * math.sin(heading), light.z + 1.7, 0.0, light.yaw
    )
    return [
        before,
        *(Pose(p.location.x, p.location.y, p.location.z + 1.7, -3.0, p.rotation.yaw) for p in places),
    ]


def traffic(network, step=0.0):
    """Cars and a few people all over the town, `step` metres further on."""
    actors = []
    for number, point in enumerate(network.map.generate_waypoints(20.0)[::4]):
        at, yaw = point.transform.location, point.transform.rotation.yaw
        cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        x, y = at.x + step * cos, at.y + step * sin
        if number % 3:
            body = Box(Pose(0.0, 0.0, 0.75), (2.4, 0.95, 0.75))
            pose = Pose(x, y, at.z, 0.0, yaw)
            lights = (0, 8, 2)[number % 3]
            actors.append(
                DrawnActor(300 + number, "vehicle.audi.a2", pose, body, (30, 60, 170), Tag.CAR, lights)
            )
        else:
            body = Box(Pose(), (0.19, 0.19, 0.93))
            pose = Pose(x - 2.0 * sin, y + 2.0 * cos, at.z + 0.93, 0.0, yaw)
            actors.append(
                DrawnActor(
                    300 + number,
                    "walker.pedestrian.0001",
                    pose,
                    body,
                    (0, 0, 0),
                    Tag.PEDESTRIAN,
                    stride_m=step,
                )
            )
    return actors


def both(pair, kind, pose, spec=SPEC):
    return [renderer.camera(kind, spec, pose).astype(np.int64) for renderer in pair]


def begin(pair, network, scene, weather, step=0.0):
    for renderer in pair:
        renderer.begin_tick(
            traffic(network, step), dict.fromkeys(scene.signals.rows, LightColour.RED), WEATHERS[weather]
        )


@pytest.mark.parametrize("weather", WEATHERS)
def test_colours_agree(pair, network, scene, views, weather):
    """Sun, shadows, sky, textures, fog, wetness, lamps, beams, halos: what is left are edges of shadows."""
    begin(pair, network, scene, weather)
    for pose in views:
        ours, theirs = both(pair, "rgb", pose)
        apart = np.abs(ours - theirs)[..., :3]
        assert ours[..., :3].std() > 15.0 or weather == "night"  # there is something to see
        mean, share = MOST_APART[weather]
        assert apart.mean() < mean
        assert (apart.max(axis=2) > 16).mean() < share
        assert (theirs[..., 3] == 255).all()


def test_the_suns_disc_and_its_glints_agree(pair, views):
    """A dark car between the camera and the sun."""
    view = views[1]
    heading = math.radians(view.yaw)
    x, y = view.x + 7.0 * math.cos(heading), view.y + 7.0 * math.sin(heading)
    body = Box(Pose(0.0, 0.0, 0.75), (2.4, 0.95, 0.75))
    place = Pose(x, y, view.z - 1.7, 0.0, view.yaw + 30.0)
    car = DrawnActor(7, "vehicle.audi.a2", place, body, (30, 30, 40), Tag.CAR)
    for renderer in pair:
        renderer.begin_tick([car], {}, Weather(sun_altitude_angle=32.0, sun_azimuth_angle=view.yaw + 5.0))
    eye = Pose(view.x, view.y, view.z + 0.8, 8.0, view.yaw)
    darkest = [picture[..., :3].min(axis=2) for picture in both(pair, "rgb", eye)]
    tag = both(pair, "semantic_segmentation", eye)[0][..., 2]
    for part, bright in ((Tag.CAR, 150), (Tag.SKY, 252)):
        ours, theirs = ((each > bright) & (tag == part) for each in darkest)
        assert ours.sum() > 60
        assert (ours != theirs).sum() < 0.05 * ours.sum()


def test_halos_of_bulbs_agree(pair, network, scene):
    light = network.furniture.lights[0]
    yaw = light.stop_poses[0].yaw
    bulb = next(b for b in scene.signals.bulbs if (b.sign_id, b.colour) == (light.sign_id, LightColour.RED))
    eye = bulb.position - 30.0 * np.array([math.cos(math.radians(yaw)), math.sin(math.radians(yaw)), 0.0])
    patches = []
    for state in (LightColour.RED, LightColour.OFF):
        for renderer in pair:
            renderer.begin_tick([], {light.sign_id: state}, WEATHERS["noon"])
        middle = (
            slice(SPEC.height // 2 - 4, SPEC.height // 2 + 4),
            slice(SPEC.width // 2 - 4, SPEC.width // 2 + 4),
        )
        patches.append([picture[middle] for picture in both(pair, "rgb", Pose(*eye, 0.0, yaw))])
    (ours, theirs), (dark, _) = patches
    assert np.abs(ours - dark).max() > 100
    assert np.abs(ours - theirs).max() <= 4


def test_all_but_level_ground_throws_shadows(scene):
    town, tag = pack_town(scene), MaterialArrays.of(scene.materials).tag
    of_face = tag[town.materials]
    casts = casting(town, tag, scene.ground.terrain)
    assert casts[~np.isin(of_face, (Tag.ROAD, Tag.ROAD_LINE, Tag.TERRAIN))].all()
    assert casts[of_face == Tag.ROAD].mean() < 0.5  # what is left are the road's borders
    # over terrain that lies deeper, roads are bridges
    deep = replace(scene.ground.terrain, heights=scene.ground.terrain.heights - 5.0)
    assert casting(town, tag, deep)[of_face == Tag.ROAD].all()


def test_labels_agree(pair, network, scene, views):
    begin(pair, network, scene, "noon")
    seen = set()
    for pose in views:
        ours, theirs = both(pair, "instance_segmentation", pose)
        assert (ours == theirs).all(axis=2).mean() > 0.9995
        seen |= set(np.unique(theirs[..., 2]))
        ours, theirs = both(pair, "semantic_segmentation", pose)
        assert (ours == theirs).all(axis=2).mean() > 0.9995
    assert {Tag.CAR, Tag.PEDESTRIAN, Tag.ROAD, Tag.SKY, Tag.BUILDING, Tag.TRAFFIC_LIGHT} <= seen


def test_depth_and_normals_agree(pair, network, scene, views):
    begin(pair, network, scene, "noon")
    weights = np.array([65536, 256, 1])
    for pose in views:
        ours, theirs = (
            picture[..., :3] @ weights * (1000.0 / (2**24 - 1)) for picture in both(pair, "depth", pose)
        )
        # an edge may fall on the pixel beside it
        assert (np.abs(ours - theirs) < 0.001 + 1e-4 * ours).mean() > 0.9995
        ours, theirs = both(pair, "normals", pose)
        assert (np.abs(ours - theirs).max(axis=2) <= 2).mean() > 0.9995


def test_flow_agrees(pair, network, scene, views):
    begin(pair, network, scene, "noon")
    before = pair[0].placements()
    begin(pair, network, scene, "noon", step=0.8)
    for pose in views:
        then = Pose(pose.x - 0.5, pose.y + 0.2, pose.z, pose.pitch, pose.yaw + 1.0)
        ours, theirs = (renderer.flow(SPEC, pose, then, before) for renderer in pair)
        assert np.abs(ours).max() > 0.01
        assert (np.abs(ours - theirs).max(axis=2) < 1e-4).mean() > 0.9995


def test_pictures_of_a_tick_do_not_disturb_each_other(pair, network, scene, views):
    """Other sizes, kinds and places between, and the same again: equal bit for bit."""
    renderer = pair[1]
    begin(pair, network, scene, "noon")
    first = renderer.camera("rgb", SPEC, views[1])
    for spec in (CameraSpec(1, 1, 90.0), CameraSpec(37, 23, 10.0), CameraSpec(401, 301, 150.0)):
        ours, theirs = both(pair, "semantic_segmentation", views[2], spec)
        assert (ours == theirs).all(axis=2).mean() > 0.99
        assert renderer.camera("rgb", spec, views[2]).shape == (spec.height, spec.width, 4)
    begin(pair, network, scene, "night")
    renderer.camera("rgb", SPEC, views[1])
    begin(pair, network, scene, "noon")
    assert renderer.camera("rgb", SPEC, views[1]).tobytes() == first.tobytes()


def test_a_towns_buffers_go_with_it(scene, maker, device):
    renderer = Renderer(scene, maker)
    renderer.camera("rgb", SPEC, Pose(z=2.0))
    card = renderer._pictures._card
    buffers = [weakref.ref(each.buffer) for each in card._storage.values()]
    del card
    assert len(buffers) > 6
    del renderer
    gc.collect()
    assert not any(each() for each in buffers)
    # their memory on the card goes before the next job
    assert len(device.context.objects) >= len(buffers)
    assert device.do(lambda: len(device.context.objects)) == 0


def test_what_opengl_refuses_is_an_error_of_the_server(device):
    with pytest.raises(ServerError, match=r"OpenGL on .* failed: .*--renderer cpu"):
        device.do(lambda: device.context.buffer(reserve=1 << 46))
    assert device.do(lambda: 7) == 7  # and it is not told again


def test_a_lost_card_ends_the_server(device, maker, monkeypatch):
    """Its cameras would be silent for ever, and who waits for them with it."""
    library = TownLibrary(maker)
    simulation = Simulation(library, library.named("TickTown02"), seed=0, stream_port=2001)
    spawn(simulation.world, [0, "sensor.camera.rgb", []], [[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]], None)
    monkeypatch.setattr(simulation.hub, "is_heard", lambda stream: True)
    pictures = simulation.world.town.renderer._pictures
    monkeypatch.setattr(
        pictures, "_camera", lambda kind, view: device.context.buffer(reserve=1 << 46), raising=True
    )
    with pytest.raises(ServerError, match="OpenGL on"):
        asyncio.run(asyncio.wait_for(simulation.run(), 20.0))


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(NoEgl, match=r"moderngl is missing.*pip install 'tickdrive\[egl\]'"):
        choice.choose_pictures("egl")
    assert choice.choose_pictures("auto").description == f"cpu ({choice.NO_CARD})"
    with pytest.raises(ConfigError, match="no renderer 'elg'"):
        choice.choose_pictures("elg")
    monkeypatch.undo()
    monkeypatch.setenv("GLCONTEXT_DEVICE_INDEX", "99")
    monkeypatch.setattr(gl_device, "_library", lambda what, *names: names[0])
    with pytest.raises(NoEgl, match=r"(device 0: .*--renderer cpu|moderngl is missing)"):
        choice.choose_pictures("egl")


def test_auto_takes_no_card_that_the_processor_plays(device, caplog):
    if not device.software:
        pytest.skip(f"{device.renderer} is a card")
    assert choice.choose_pictures("auto").description == f"cpu ({choice.NO_CARD})"
    assert "auto" in caplog.text and device.renderer in caplog.text
    named = choice.choose_pictures("egl")
    assert named.description.startswith(f"egl, {device.renderer}") and "cpu is faster" in named.description


def test_the_server_draws_with_it_and_says_so(device):
    with SimulatorProcess.start("TickTown02", renderer="egl") as server:
        assert server.drawn_by.startswith("egl, ") and device.renderer in server.drawn_by
        client = carla.Client(server.host, server.port)
        client.set_timeout(30.0)
        world = client.get_world()
        settings = world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
        world.apply_settings(settings)
        blueprint = world.get_blueprint_library().find("sensor.camera.rgb")
        place = world.get_map().get_spawn_points()[0]
        place.location.z += 2.0
        camera = world.spawn_actor(blueprint, place)
        pictures = queue.Queue()
        camera.listen(pictures.put)
        world.tick()
        picture = pictures.get(timeout=30.0)
        assert np.frombuffer(picture.raw_data, np.uint8).std() > 15.0
        camera.stop()
