import pytest

from tickdrive.leaderboard.sensor_interface import (
    SensorInterface,
    SensorsInvalid,
    SensorTimeout,
    sensor_attributes,
    validate_sensors,
)

POSE = {"x": 0.0, "y": 0.0, "z": 1.6, "roll": 0.0, "pitch": 0.0, "yaw": 0.0}
CAMERA = {"type": "sensor.camera.rgb", "id": "front", "width": 512, "height": 256, "fov": 80, **POSE}


def test_data_of_other_frames_is_dropped_and_of_this_one_collected():
    interface = SensorInterface(timeout_s=0.2)
    interface.register_sensor("a", "sensor.speedometer", None)
    interface.register_sensor("b", "sensor.speedometer", None)
    for tag, frame in (("a", 1), ("b", 1), ("a", 2), ("b", 2)):
        interface.update_sensor(tag, f"{tag}{frame}", frame)
    assert interface.get_data(2) == {"a": (2, "a2"), "b": (2, "b2")}


def test_silent_sensors_are_named():
    interface = SensorInterface(timeout_s=0.05)
    for tag in ("a", "gnss", "lidar"):
        interface.register_sensor(tag, "sensor.speedometer", None)
    interface.update_sensor("a", 0, 7)
    with pytest.raises(SensorTimeout, match=r"gnss, lidar for frame 7 within 0\.05 s"):
        interface.get_data(7)
    assert interface.waited_ms >= 50.0


def test_the_leaderboards_attributes():
    lidar = sensor_attributes({"type": "sensor.lidar.ray_cast", "id": "l", **POSE})
    assert lidar["channels"] == "64" and lidar["rotation_frequency"] == "10" and lidar["range"] == "85"
    assert sensor_attributes(CAMERA) == {"image_size_x": "512", "image_size_y": "256", "fov": "80"}
    assert (
        sensor_attributes({"type": "sensor.other.gnss", "id": "g", **POSE})["noise_lat_stddev"] == "0.000005"
    )


@pytest.mark.parametrize(
    ("sensors", "track", "said"),
    [
        ([CAMERA, CAMERA], "SENSORS", "two|Two"),
        ([{**CAMERA, "z": 3.1}], "SENSORS", "3.10 m"),
        ([{**CAMERA, "id": str(i)} for i in range(9)], "SENSORS", "9 sensors of type sensor.camera.rgb"),
        ([{**CAMERA, "id": str(i)} for i in range(5)], "SENSORS_QUALIFIER", "4 are allowed"),
        ([{"type": "sensor.opendrive_map", "id": "m"}], "SENSORS", "track SENSORS"),
        ([{"type": "sensor.camera.depth", "id": "d", **POSE}], "SENSORS", "sensor.camera.rgb"),
        ([{k: v for k, v in CAMERA.items() if k != "fov"}], "SENSORS", "lacks fov"),
        ([{"type": "sensor.camera.rgb"}], "SENSORS", "'id'"),
    ],
)
def test_what_the_leaderboard_refuses(sensors, track, said):
    with pytest.raises(SensorsInvalid, match=said):
        validate_sensors(sensors, track, track)


def test_what_it_allows():
    sensors = [
        CAMERA,
        {"type": "sensor.opendrive_map", "id": "m"},
        {"type": "sensor.other.gnss", "id": "g", **POSE},
    ]
    validate_sensors(sensors, "MAP", "MAP")
    with pytest.raises(SensorsInvalid, match="track MAP"):
        validate_sensors(sensors, "MAP", "SENSORS")
