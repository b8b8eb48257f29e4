import math

import numpy as np
import pytest

from tickdrive.agents.config import CameraConfig, LidarConfig, MountConfig, RigConfig, load_agent_config
from tickdrive.agents.sensors import SensorRig
from tickdrive.planner.config import to_yaml
from tickdrive.planner.errors import ConfigError, SensorError


def tick(frame=7, **change):
    image = np.zeros((256, 512, 4), np.uint8)
    image[..., 0], image[..., 2], image[..., 3] = 10, 30, 255
    data = {
        "front": (frame, image),
        "lidar": (frame, np.array([[1.0, 2.0, -2.4, 0.5]], np.float32)),
        "imu": (frame, np.array([0.1, 0.2, 9.8, 0.0, 0.0, 0.3, 1.5])),
        "gnss": (frame, np.array([0.001, 0.002, 3.0])),
        "speed": (frame, {"speed": 4.5}),
    }
    data.update(change)
    return {name: item for name, item in data.items() if item != "absent"}


def rig():
    return SensorRig.from_config(load_agent_config().rig)


def test_shipped_rig_is_what_the_leaderboard_wants():
    specs = {spec["id"]: spec for spec in rig().sensors()}
    assert set(specs) == {"front", "lidar", "imu", "gnss", "speed"}
    assert specs["front"]["type"] == "sensor.camera.rgb"
    assert {"x", "y", "z", "roll", "pitch", "yaw", "width", "height", "fov"} <= set(specs["front"])
    assert specs["speed"] == {"type": "sensor.speedometer", "reading_frequency": 20, "id": "speed"}


def test_decode_units_and_colours():
    observation = rig().decode(tick(), 1.25)
    assert observation.frame == 7 and observation.sim_s == 1.25 and observation.missing == ()
    assert observation.images["front"].shape == (256, 512, 3)
    assert observation.images["front"][0, 0].tolist() == [10, 0, 30]
    assert observation.lidar_in_ego[0].tolist() == pytest.approx([1.0, 2.0, 0.0, 0.5], abs=1e-6)
    assert observation.speed_mps == 4.5
    assert observation.imu.compass_rad == 1.5


def test_lidar_mount_is_applied_as_carla_rotates():
    config = RigConfig(lidar=LidarConfig(id="lidar", x=0.5, z=2.0, yaw=90.0))
    points = SensorRig.from_config(config).decode(tick(), 0.0).lidar_in_ego
    # yaw is clockwise from above: the sensor's x is the ego's right (y), its y the ego's back (-x)
    assert points[0, :3].tolist() == pytest.approx([0.5 - 2.0, 1.0, -0.4], abs=1e-5)


def test_nan_compass_is_none_and_not_missing():
    imu = np.array([0.0, 0.0, 9.8, 0.0, 0.0, 0.0, math.nan])
    observation = rig().decode(tick(imu=(7, imu)), 0.0)
    assert observation.imu is not None and observation.imu.compass_rad is None
    assert observation.missing == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("front", "absent"),
        ("front", (7, None)),
        ("speed", (7, {"speed": None})),
        ("speed", (7, {"speed": math.nan})),
        ("gnss", (7, np.array([math.nan, 0.0, 0.0]))),
        ("imu", (7, np.full(7, math.nan))),
        ("lidar", "absent"),
        ("front", (5, np.zeros((256, 512, 4), np.uint8))),  # two frames late
    ],
)
def test_what_is_missing_or_late_is_named(name, value):
    observation = rig().decode(tick(**{name: value}), 0.0)
    assert observation.missing == (name,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("front", (7, np.zeros((128, 512, 4), np.uint8))),
        ("front", (7, np.zeros((256, 512, 4), np.float32))),
        ("lidar", (7, np.zeros((5, 3), np.float32))),
        ("lidar", (7, np.zeros((5, 4), np.float64))),
        ("imu", (7, np.zeros(6))),
        ("gnss", (7, "north")),
        ("speed", 3.0),
    ],
)
def test_wrong_forms_are_errors_that_name_the_sensor(name, value):
    with pytest.raises(SensorError, match=name):
        rig().decode(tick(**{name: value}), 0.0)


def test_rules_of_the_leaderboard():
    with pytest.raises(SensorError, match=r"3\.50 m"):
        SensorRig.from_config(RigConfig(lidar=LidarConfig(id="lidar", z=3.5)))
    many = [CameraConfig(id=f"c{i}") for i in range(9)]
    with pytest.raises(SensorError, match="allows 8"):
        SensorRig.from_config(RigConfig(cameras=many, planning_camera="c0"))
    with pytest.raises(SensorError, match="allows 4"):
        SensorRig.from_config(RigConfig(cameras=many[:5], planning_camera="c0"), "SENSORS_QUALIFIER")
    with pytest.raises(SensorError, match="twice"):
        SensorRig.from_config(RigConfig(imu=MountConfig(id="gnss")))


def test_config_survives_being_written_and_read(tmp_path):
    config = load_agent_config(None, ["rig.lidar=null", "planner.steps=5"])
    assert config.rig.lidar is None
    assert "lidar" not in {spec["id"] for spec in SensorRig.from_config(config.rig).sensors()}
    path = tmp_path / "a+b.yaml"
    path.write_text(to_yaml(config))
    assert load_agent_config(path) == config


def test_config_errors_name_file_and_key(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("planner: {stepz: 5}")
    with pytest.raises(ConfigError, match=r"agent\.yaml.*stepz.*steps"):
        load_agent_config(path)
    path.write_text("planner: {steps: 0}")
    with pytest.raises(ConfigError, match=r"agent\.yaml.*planner\.steps"):
        load_agent_config(path)
    path.write_text("rig: {planning_camera: frnt}")
    with pytest.raises(ConfigError, match=r"Did you mean 'front'"):
        load_agent_config(path)
