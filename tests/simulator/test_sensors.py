"""Sensors through the real client: one frame a tick, and what IMU, GNSS and collision sensors say."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from typing import Any

import carla
import numpy as np
import pytest

from tickdrive.leaderboard.simulator.inertial import GeoReference, compass_rad

Listen = Callable[..., "queue.Queue[Any]"]


@pytest.fixture
def listen(fresh_world: carla.World, ego: carla.Vehicle) -> Any:
    sensors: list[carla.Sensor] = []

    def start(type_id: str, mount: carla.Transform | None = None, **attributes: object) -> queue.Queue[Any]:
        blueprint = fresh_world.get_blueprint_library().find(type_id)
        for name, value in attributes.items():
            blueprint.set_attribute(name, str(value))
        sensors.append(fresh_world.spawn_actor(blueprint, mount or carla.Transform(), attach_to=ego))
        received: queue.Queue[Any] = queue.Queue()
        sensors[-1].listen(received.put)
        return received

    yield start
    for each in sensors:
        each.stop()
        each.destroy()


def drain(received: queue.Queue[Any], count: int) -> list[Any]:
    return [received.get(timeout=10.0) for _ in range(count)]


def test_every_sensor_delivers_each_tick_once(fresh_world: carla.World, listen: Listen) -> None:
    front = carla.Transform(carla.Location(x=1.3, z=1.7))
    size = {"image_size_x": 64, "image_size_y": 32}
    cameras = ("rgb", "depth", "semantic_segmentation", "instance_segmentation", "normals", "optical_flow")
    queues = [listen(f"sensor.camera.{kind}", front, **size) for kind in cameras]
    queues += [listen(f"sensor.other.{kind}", front) for kind in ("imu", "gnss", "radar")]
    queues += [
        listen("sensor.lidar.ray_cast", front, range=50),
        listen("sensor.lidar.ray_cast_semantic", front),
    ]
    ticked = [fresh_world.tick() for _ in range(20)]
    for received in queues:
        assert [each.frame for each in drain(received, 20)] == ticked
        assert received.empty()


def test_sensor_tick_thins_frames(fresh_world: carla.World, listen: Listen) -> None:
    received = listen("sensor.other.gnss", sensor_tick=0.2)
    first = fresh_world.tick()
    for _ in range(20):
        fresh_world.tick()
    assert [each.frame - first for each in drain(received, 6)] == [0, 4, 8, 12, 16, 20]
    assert received.empty()


def test_cameras_are_silent_without_rendering(fresh_world: carla.World, listen: Listen) -> None:
    settings = fresh_world.get_settings()
    settings.no_rendering_mode = True
    fresh_world.apply_settings(settings)
    camera = listen("sensor.camera.rgb", image_size_x=32, image_size_y=32)
    lidar = listen("sensor.lidar.ray_cast")
    for _ in range(3):
        fresh_world.tick()
    drain(lidar, 3)
    assert camera.empty()


def test_imu_at_rest_shows_gravity_and_heading(
    fresh_world: carla.World, ego: carla.Vehicle, listen: Listen
) -> None:
    received = listen("sensor.other.imu")
    for _ in range(10):
        fresh_world.tick()
    data = drain(received, 10)[-1]
    pose = ego.get_transform()
    gravity = data.accelerometer
    assert math.sqrt(gravity.x**2 + gravity.y**2 + gravity.z**2) == pytest.approx(9.81, abs=0.02)
    assert gravity.z == pytest.approx(9.81, abs=0.2)
    assert data.compass == pytest.approx(math.radians(pose.rotation.yaw + 90.0) % (2 * math.pi), abs=1e-4)
    assert data.gyroscope.z == pytest.approx(0.0, abs=1e-3)


def test_imu_agrees_with_the_motion_of_the_car(
    fresh_world: carla.World, ego: carla.Vehicle, listen: Listen
) -> None:
    received = listen("sensor.other.imu")
    ego.apply_control(carla.VehicleControl(throttle=0.8, steer=0.3))
    poses, speeds = [], []
    for _ in range(30):
        fresh_world.tick()
        poses.append(ego.get_transform())
        speeds.append(ego.get_velocity().length())
    data = drain(received, 30)
    yaw = np.unwrap(np.radians([each.rotation.yaw for each in poses]))
    turned = sum(each.gyroscope.z for each in data[1:]) * 0.05
    assert turned == pytest.approx(yaw[-1] - yaw[0], rel=0.05, abs=0.01)
    assert abs(turned) > 0.1
    gained = sum(each.accelerometer.x for each in data[1:]) * 0.05
    assert gained == pytest.approx(speeds[-1] - speeds[0], rel=0.15)


def test_imu_noise_has_the_asked_size_and_repeats_by_seed(fresh_world: carla.World, listen: Listen) -> None:
    received = listen("sensor.other.imu", noise_gyro_bias_z=0.5, noise_accel_stddev_x=1.0, noise_seed=3)
    for _ in range(200):
        fresh_world.tick()
    data = drain(received, 200)
    assert np.mean([each.gyroscope.z for each in data]) == pytest.approx(0.5, abs=1e-3)
    assert np.std([each.accelerometer.x for each in data]) == pytest.approx(1.0, rel=0.2)
    assert np.std([each.accelerometer.y for each in data]) < 0.05


@pytest.mark.parametrize(
    ("forward", "angle_deg"), [((0, -1), 0.0), ((1, 0), 90.0), ((0, 1), 180.0), ((-1, 0), 270.0)]
)
def test_compass_counts_from_north_clockwise(forward: tuple[float, float], angle_deg: float) -> None:
    assert compass_rad(*forward) == pytest.approx(math.radians(angle_deg), abs=1e-9)


def test_gnss_is_the_leaderboards_projection(
    fresh_world: carla.World, ego: carla.Vehicle, listen: Listen
) -> None:
    """The formula of the leaderboard's `_location_to_gps`, written out again."""
    received = listen("sensor.other.gnss")
    fresh_world.tick()
    (data,) = drain(received, 1)
    reference = GeoReference.from_xodr(fresh_world.get_map().to_opendrive())
    radius = 6378137.0
    place = ego.get_location()
    scale = math.cos(reference.latitude_deg * math.pi / 180.0)
    mx = scale * reference.longitude_deg * math.pi * radius / 180.0 + place.x
    my = scale * radius * math.log(math.tan((90.0 + reference.latitude_deg) * math.pi / 360.0)) - place.y
    assert data.longitude == pytest.approx(mx * 180.0 / (math.pi * radius * scale), abs=1e-8)
    latitude = 360.0 * math.atan(math.exp(my / (radius * scale))) / math.pi - 90.0
    assert data.latitude == pytest.approx(latitude, abs=1e-8)
    assert data.altitude == pytest.approx(place.z, abs=1e-3)


def test_gnss_noise(fresh_world: carla.World, listen: Listen) -> None:
    clean = listen("sensor.other.gnss")
    noisy = listen("sensor.other.gnss", noise_lat_bias=1e-3, noise_alt_stddev=2.0)
    for _ in range(200):
        fresh_world.tick()
    truth, data = drain(clean, 200), drain(noisy, 200)
    assert np.mean([a.latitude - b.latitude for a, b in zip(data, truth, strict=True)]) == pytest.approx(1e-3)
    assert np.std([each.altitude for each in data]) == pytest.approx(2.0, rel=0.2)


def test_a_crash_is_told_to_both_sides(fresh_world: carla.World, ego: carla.Vehicle, listen: Listen) -> None:
    mine = listen("sensor.other.collision")
    library = fresh_world.get_blueprint_library()
    pose = ego.get_transform()
    pose.location += 8.0 * pose.get_forward_vector()
    pose.location.z += 0.3
    other = fresh_world.spawn_actor(library.find("vehicle.tesla.model3"), pose)
    other.apply_control(carla.VehicleControl(brake=1.0))
    sensor = fresh_world.spawn_actor(
        library.find("sensor.other.collision"), carla.Transform(), attach_to=other
    )
    theirs: queue.Queue[Any] = queue.Queue()
    sensor.listen(theirs.put)
    ego.set_target_velocity(8.0 * ego.get_transform().get_forward_vector())
    for _ in range(30):
        fresh_world.tick()
    hit, told = mine.get(timeout=5.0), theirs.get(timeout=5.0)
    assert hit.frame == told.frame
    assert (hit.actor.id, hit.other_actor.id) == (ego.id, other.id)
    assert (told.actor.id, told.other_actor.id) == (other.id, ego.id)
    assert hit.normal_impulse.length() > 100.0
    opposed = hit.normal_impulse + told.normal_impulse
    assert opposed.length() < 1e-3 * hit.normal_impulse.length()
    sensor.stop()


def test_crossing_a_line_is_an_event(fresh_world: carla.World, ego: carla.Vehicle, listen: Listen) -> None:
    received = listen("sensor.other.lane_invasion")
    fresh_world.tick()
    pose = ego.get_transform()
    sideways = pose.get_right_vector()
    for step in range(24):
        pose.location += 0.25 * sideways
        ego.set_transform(pose)
        fresh_world.tick()
        if step % 6 == 0:
            time.sleep(0.02)
    assert received.get(timeout=5.0).crossed_lane_markings


def test_a_sensor_with_unusable_attributes_is_refused(fresh_world: carla.World) -> None:
    blueprint = fresh_world.get_blueprint_library().find("sensor.camera.rgb")
    blueprint.set_attribute("image_size_x", "1000000")
    with pytest.raises(RuntimeError, match="image_size_x"):
        fresh_world.spawn_actor(blueprint, carla.Transform())


def test_normals_flow_and_events_of_a_road_that_passes(
    fresh_world: carla.World, ego: carla.Vehicle, listen: Listen
) -> None:
    front, size = carla.Transform(carla.Location(x=1.5, z=1.7)), {"image_size_x": 160, "image_size_y": 90}
    queues = [listen(f"sensor.camera.{kind}", front, **size) for kind in ("normals", "optical_flow", "dvs")]
    ego.enable_constant_velocity(carla.Vector3D(8.0, 0.0, 0.0))
    for _ in range(6):
        fresh_world.tick()
    normals, flow = (drain(received, 6)[-1] for received in queues[:2])
    ground = np.frombuffer(normals.raw_data, np.uint8).reshape(90, 160, 4)[85, 80, :3]
    assert ground[0] > 250 and abs(int(ground[1]) - 128) < 4 and abs(int(ground[2]) - 128) < 4
    # the road 1.7 m below came 0.4 m nearer: row v = f h / z
    motion = np.frombuffer(flow.raw_data, np.float32).reshape(90, 160, 2)[85, 80]
    now_px = 85.5 - 45.0
    before_px = 80.0 * 1.7 / (80.0 * 1.7 / now_px + 0.4)
    assert -motion[1] * 45.0 == pytest.approx(now_px - before_px, rel=0.02)
    assert abs(motion[0]) < 0.01
    events = drain(queues[2], 5)[-1]  # the first picture has none
    layout = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("pol", "?")])
    found = np.frombuffer(events.raw_data, layout)
    assert len(found) == len(events) > 20
    assert found["x"].max() < 160 and found["y"].max() < 90 and {True, False} == set(found["pol"].tolist())
    last_s = found["t"][-1] / 1e9
    assert np.all(np.diff(found["t"]) >= 0) and events.timestamp - 0.051 < last_s < events.timestamp + 1e-6


def test_what_is_not_served_says_what_is(fresh_world: carla.World) -> None:
    library = fresh_world.get_blueprint_library()
    for name in ("sensor.other.v2x", "sensor.other.rss", "sensor.camera.cosmos_visualization"):
        with pytest.raises(RuntimeError, match=r"does not serve.*sensor\.camera\.rgb"):
            fresh_world.spawn_actor(library.find(name), carla.Transform())
