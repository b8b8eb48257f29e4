"""The LiDAR against the planes and boxes its points must lie on, and CARLA's scan pattern and noise."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from tickdrive.leaderboard.simulator.geometry import Pose, rotation_matrix
from tickdrive.leaderboard.simulator.interfaces import Box, DrawnActor, LidarSpec, Tag, Weather
from tickdrive.leaderboard.simulator.render import embree
from tickdrive.leaderboard.simulator.render.renderer import Renderer
from tickdrive.leaderboard.simulator.scene.build import build_scene
from tickdrive.leaderboard.simulator.towns.catalogue import read_town, town_names
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork
from tickdrive.planner.errors import ServerError

# no drop-off, no noise: what is hit is returned
CLEAN = LidarSpec(
    channels=32,
    range_m=60.0,
    points_per_second=320_000,
    rotation_frequency_hz=20.0,
    dropoff_general_rate=0.0,
    dropoff_intensity_limit=0.0,
    dropoff_zero_intensity=0.0,
)
DELTA_S = 0.05


@pytest.fixture(scope="module")
def network():
    name = min(town_names(), key=lambda n: len(read_town(n)))
    return RoadNetwork.from_xodr(name, read_town(name))


@pytest.fixture(scope="module")
def renderer(network):
    renderer = Renderer(build_scene(network))
    yield renderer
    renderer.close()


@pytest.fixture(scope="module")
def place(network):
    """A pose on a straight, level lane."""
    for waypoint in network.map.generate_waypoints(5.0):
        far = waypoint.next(40.0)
        if not waypoint.is_junction and far and far[0].road_id == waypoint.road_id:
            transform = waypoint.transform
            if abs(far[0].transform.rotation.yaw - transform.rotation.yaw) < 0.01:
                return Pose(
                    transform.location.x,
                    transform.location.y,
                    transform.location.z,
                    0,
                    transform.rotation.yaw,
                )
    pytest.fail("the town has no straight road")


def shifted(pose, forward=0.0, up=0.0):
    yaw = math.radians(pose.yaw)
    return Pose(
        pose.x + forward * math.cos(yaw), pose.y + forward * math.sin(yaw), pose.z + up, 0.0, pose.yaw
    )


def crate(pose, actor_id=31):
    return DrawnActor(
        actor_id, "static.prop.box01", pose, Box(Pose(0, 0, 1.0), (1, 1, 1)), (9, 9, 9), Tag.DYNAMIC
    )


def sweep(renderer, pose, spec=CLEAN, angle=0.0, seed=1):
    return renderer.lidar(spec, pose, angle, DELTA_S, np.random.default_rng(seed))


def test_road_points_lie_in_the_roads_plane(renderer, place):
    renderer.begin_tick([], {}, Weather())
    result = sweep(renderer, shifted(place, up=2.4))
    on_road = result.points[result.hit_tag == Tag.ROAD]
    near = np.hypot(on_road[:, 0], on_road[:, 1]) < 20
    assert near.sum() > 500
    assert np.abs(on_road[near, 2] + 2.4).max() < 0.02
    # cos of incidence on a level plane is the sine of the ray's descent
    road = result.hit_tag == Tag.ROAD
    reach = np.linalg.norm(result.points[:, :3], axis=1)
    assert np.abs(result.cos_incidence - np.abs(result.points[:, 2]) / reach)[road].max() < 0.02


def test_points_on_a_box_lie_on_its_faces(renderer, place):
    renderer.begin_tick([crate(shifted(place, 8.0))], {}, Weather())
    result = sweep(renderer, shifted(place, up=1.5))
    on_box = result.points[result.hit_actor == 31]
    assert len(on_box) > 30
    assert (result.hit_tag[result.hit_actor == 31] == Tag.DYNAMIC).all()
    local = on_box[:, :3].astype(float) - (8.0, 0.0, -0.5)
    assert np.abs(np.abs(local).max(1) - 1.0).max() < 0.005
    assert on_box[:, 0].min() == pytest.approx(7.0, abs=0.005)


def test_a_moved_box_is_hit_where_it_is_now(renderer, place):
    for forward in (6.0, 14.0, 9.0):
        renderer.begin_tick([crate(shifted(place, forward))], {}, Weather())
        on_box = sweep(renderer, shifted(place, up=1.0)).points[:, 0]
        assert renderer.cast_ray(shifted(place, up=1.0).location, forward_of(place), 50.0)[
            0
        ] == pytest.approx(forward - 1.0, abs=0.01)
        assert np.isfinite(on_box).all()
    renderer.begin_tick([], {}, Weather())
    assert not (sweep(renderer, shifted(place, up=1.0)).hit_actor == 31).any()


def forward_of(pose):
    return rotation_matrix(0.0, pose.yaw, 0.0)[:, 0]


def test_points_are_in_the_sensors_frame(renderer, place):
    renderer.begin_tick([crate(shifted(place, 8.0))], {}, Weather())
    mounted = shifted(place, up=1.5)
    turned = Pose(mounted.x, mounted.y, mounted.z, 0.0, mounted.yaw - 90.0)
    on_box = sweep(renderer, turned)
    on_box = on_box.points[on_box.hit_actor == 31]
    # looking left, the box ahead lies to the right (y)
    assert np.abs(on_box[:, 1] - 7.0).min() < 0.01 and np.abs(on_box[:, 0]).max() < 1.05


def test_points_come_by_channel_from_the_uppermost(renderer, place):
    renderer.begin_tick([], {}, Weather())
    result = sweep(renderer, shifted(place, up=2.4))
    assert result.counts.sum() == len(result.points) == len(result.hit_actor)
    channel = np.repeat(np.arange(CLEAN.channels), result.counts)
    reach = np.linalg.norm(result.points[:, :3], axis=1)
    elevation = np.degrees(np.arcsin(result.points[:, 2] / reach))
    expected = CLEAN.upper_fov_deg - channel * (CLEAN.upper_fov_deg - CLEAN.lower_fov_deg) / (
        CLEAN.channels - 1
    )
    assert np.abs(elevation - expected).max() < 0.01


def test_half_a_rotation_covers_half_the_circle(renderer, place):
    renderer.begin_tick([], {}, Weather())
    half = LidarSpec(
        32,
        60.0,
        320_000,
        10.0,
        dropoff_general_rate=0.0,
        dropoff_intensity_limit=0.0,
        dropoff_zero_intensity=0.0,
    )
    first = sweep(renderer, shifted(place, up=2.4), half)
    second = sweep(renderer, shifted(place, up=2.4), half, first.horizontal_angle_rad)
    assert first.horizontal_angle_rad == pytest.approx(math.pi)
    assert math.sin(second.horizontal_angle_rad) == pytest.approx(0.0, abs=1e-6)
    # the scan starts at -180 degrees, behind the sensor, and turns over its left (y < 0)
    assert (first.points[:, 1] < 0.02).all() and (second.points[:, 1] > -0.02).all()


def test_intensity_falls_by_the_atmosphere(renderer, place):
    renderer.begin_tick([], {}, Weather())
    result = sweep(renderer, shifted(place, up=2.4))
    reach = np.linalg.norm(result.points[:, :3].astype(float), axis=1)
    assert np.allclose(result.points[:, 3], np.exp(-CLEAN.atmosphere_attenuation_rate * reach), atol=1e-5)
    assert reach.max() <= CLEAN.range_m + 1e-3


def test_drop_off_takes_its_share(renderer, place):
    renderer.begin_tick([], {}, Weather())
    full = len(sweep(renderer, shifted(place, up=2.4)).points)
    thinned = LidarSpec(32, 60.0, 320_000, 20.0, dropoff_general_rate=0.45, dropoff_intensity_limit=0.0,
                        dropoff_zero_intensity=0.0)  # fmt: skip
    assert len(sweep(renderer, shifted(place, up=2.4), thinned).points) == pytest.approx(
        0.55 * full, rel=0.05
    )


def test_noise_lies_along_the_ray(renderer, place):
    renderer.begin_tick([], {}, Weather())
    noisy = LidarSpec(32, 60.0, 320_000, 20.0, dropoff_general_rate=0.0, dropoff_intensity_limit=0.0,
                      dropoff_zero_intensity=0.0, noise_stddev_m=0.1)  # fmt: skip
    clean, noise = sweep(renderer, shifted(place, up=2.4)), sweep(renderer, shifted(place, up=2.4), noisy)
    a, b = clean.points[:, :3].astype(float), noise.points[:, :3].astype(float)
    error = np.linalg.norm(b, axis=1) - np.linalg.norm(a, axis=1)
    assert error.std() == pytest.approx(0.1, rel=0.05)
    assert np.abs(np.cross(a, b)).max() < 0.02


def test_equal_draws_give_equal_sweeps(renderer, place):
    renderer.begin_tick([crate(shifted(place, 8.0))], {}, Weather())
    spec = LidarSpec(64, 85.0, 600_000, 10.0, noise_stddev_m=0.02)
    one, other = (sweep(renderer, shifted(place, up=2.4), spec, seed=4) for _ in range(2))
    assert one.points.tobytes() == other.points.tobytes()
    assert one.points.dtype == np.float32 and one.hit_actor.dtype == np.uint32


def test_a_ray_tells_what_it_meets(renderer, place):
    renderer.begin_tick([crate(shifted(place, 8.0)), crate(shifted(place, 14.0), 32)], {}, Weather())
    origin = shifted(place, up=1.0).location
    distance, tag, actor = renderer.cast_ray(origin, 3.0 * forward_of(place), 50.0)
    assert (distance, tag, actor) == (pytest.approx(7.0, abs=0.01), Tag.DYNAMIC, 31)
    distance, _, actor = renderer.cast_ray(origin, forward_of(place), 50.0, ignore_actor=31)
    assert (distance, actor) == (pytest.approx(13.0, abs=0.02), 32)
    distance, tag, actor = renderer.cast_ray(origin, np.array([0.0, 0.0, -1.0]), 50.0)
    assert distance == pytest.approx(1.0, abs=0.02) and tag in (Tag.ROAD, Tag.ROAD_LINE) and actor == 0
    assert renderer.cast_ray(origin, np.array([0.0, 0.0, 1.0]), 50.0) is None
    assert renderer.cast_ray(origin, forward_of(place), 5.0) is None


def test_a_missing_embree_is_named(monkeypatch):
    monkeypatch.setattr(embree.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerError, match="pip install 'embreex"):
        embree.load_embree.__wrapped__()


def test_a_second_scene_leaves_no_thread_spinning():
    """Each with a device of its own had a worker of TBB's burn a core, for as long as the process lived."""
    faces = np.arange(3 * 200_000).reshape(-1, 3)
    vertices = np.random.default_rng(0).normal(size=(faces.size, 3)).astype(np.float32)
    worlds = [embree.TraceWorld(vertices, faces) for _ in range(2)]
    before_s = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before_s < 0.25
    for world in worlds:
        world.close()
