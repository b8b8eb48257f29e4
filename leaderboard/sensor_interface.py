"""An agent's sensors: what may be asked for, spawning it with the leaderboard's attributes, collecting data.

Limits and attributes are upstream's: leaderboard 2.x `autoagents/agent_wrapper.py` (`SENSORS_LIMITS`,
`QUALIFIER_SENSORS_LIMITS`, `_preprocess_sensor_spec`) and `envs/sensor_interface.py`. Poses are in the ego
frame (CARLA's: x forward, y right, z up, metres, degrees).
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import carla
import numpy as np

from tickdrive.planner.errors import SensorError, did_you_mean

MAX_RADIUS_M = 3.0
SENSOR_LIMITS: Mapping[str, int] = {
    "sensor.camera.rgb": 8,
    "sensor.lidar.ray_cast": 2,
    "sensor.other.radar": 4,
    "sensor.other.gnss": 1,
    "sensor.other.imu": 1,
    "sensor.opendrive_map": 1,
    "sensor.speedometer": 1,
}
QUALIFIER_LIMITS: Mapping[str, int] = {
    **SENSOR_LIMITS,
    "sensor.camera.rgb": 4,
    "sensor.lidar.ray_cast": 1,
    "sensor.other.radar": 2,
}
SENSOR_ICONS: Mapping[str, str] = {
    "sensor.camera.rgb": "carla_camera",
    "sensor.lidar.ray_cast": "carla_lidar",
    "sensor.other.radar": "carla_radar",
    "sensor.other.gnss": "carla_gnss",
    "sensor.other.imu": "carla_imu",
    "sensor.opendrive_map": "carla_opendrive_map",
    "sensor.speedometer": "carla_speedometer",
}
"""Names in the results file's `sensors` (upstream `leaderboard_evaluator.py: sensors_to_icons`)."""
_PSEUDO = ("sensor.opendrive_map", "sensor.speedometer")
_FIXED_ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "sensor.camera.rgb": {},
    "sensor.lidar.ray_cast": {
        "range": "85",
        "rotation_frequency": "10",
        "channels": "64",
        "upper_fov": "10",
        "lower_fov": "-30",
        "points_per_second": "600000",
        "atmosphere_attenuation_rate": "0.004",
        "dropoff_general_rate": "0.45",
        "dropoff_intensity_limit": "0.8",
        "dropoff_zero_intensity": "0.4",
    },
    "sensor.other.radar": {"points_per_second": "1500", "range": "100"},
    "sensor.other.gnss": {
        "noise_alt_stddev": "0.000005",
        "noise_lat_stddev": "0.000005",
        "noise_lon_stddev": "0.000005",
        "noise_alt_bias": "0.0",
        "noise_lat_bias": "0.0",
        "noise_lon_bias": "0.0",
    },
    "sensor.other.imu": {
        "noise_accel_stddev_x": "0.001",
        "noise_accel_stddev_y": "0.001",
        "noise_accel_stddev_z": "0.015",
        "noise_gyro_stddev_x": "0.001",
        "noise_gyro_stddev_y": "0.001",
        "noise_gyro_stddev_z": "0.001",
    },
}
_CHOSEN_ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "sensor.camera.rgb": {"image_size_x": "width", "image_size_y": "height", "fov": "fov"},
    "sensor.other.radar": {"horizontal_fov": "horizontal_fov", "vertical_fov": "vertical_fov"},
}
_NEEDED_POSE: Mapping[str, tuple[str, ...]] = {
    "sensor.other.gnss": ("x", "y", "z"),
}
_ROTATION_FREE = ("sensor.other.gnss", *_PSEUDO)
_LOGGER = logging.getLogger(__name__)


class SensorsInvalid(SensorError):
    """The agent asks for sensors that its track does not allow."""


class SensorTimeout(SensorError):
    """A sensor did not deliver in time."""


@dataclass
class TickClock:
    """Present frame and simulated seconds since the route's start; set by the evaluator before each step."""

    frame: int = 0
    sim_s: float = 0.0


class SensorInterface:
    """Collects one tick's data of all registered sensors.

    Attributes:
        clock: the present tick.
        timeout_s: how long `get_data` waits for the next sensor.
        waited_ms: how long the last `get_data` waited; it is the simulator's time, not the agent's.
    """

    def __init__(self, timeout_s: float = 10.0) -> None:
        self.clock = TickClock()
        self.timeout_s = timeout_s
        self.waited_ms = 0.0
        self._sensors: dict[str, Any] = {}
        self._queue: Queue[tuple[str, int, Any]] = Queue()

    def register_sensor(self, tag: str, sensor_type: str, sensor: Any) -> None:
        """Announce a sensor whose data `get_data` must wait for."""
        if tag in self._sensors:
            raise SensorsInvalid(f"Two sensors have the id {tag!r}.", "Give each its own.")
        self._sensors[tag] = sensor

    def update_sensor(self, tag: str, data: Any, frame: int) -> None:
        """Hand in data; called from the client's threads."""
        if tag not in self._sensors:
            raise SensorError(f"Data came for the sensor {tag!r}, which was not registered.")
        self._queue.put((tag, frame, data))

    def get_data(self, frame: int) -> dict[str, tuple[int, Any]]:
        """Data of every registered sensor at `frame`; what came for other frames is dropped.

        Returns:
            sensor id -> (frame, data).

        Raises:
            SensorTimeout: a sensor stayed silent for `timeout_s`; the message names those that are missing.
        """
        start = time.perf_counter()
        data: dict[str, tuple[int, Any]] = {}
        try:
            while len(data) < len(self._sensors):
                tag, at, value = self._queue.get(timeout=self.timeout_s)
                if at == frame:
                    data[tag] = (at, value)
        except Empty:
            missing = ", ".join(sorted(set(self._sensors) - set(data)))
            raise SensorTimeout(
                f"No data from {missing} for frame {frame} within {self.timeout_s:g} s.",
                "The simulator may be overloaded or gone: look at its log, or ask for fewer sensors.",
            ) from None
        finally:
            self.waited_ms = (time.perf_counter() - start) * 1e3
        return data


class SensorCallback:
    """Turns a CARLA measurement into the array of the leaderboard's `input_data`.

    Camera (H, W, 4) uint8 BGRA; LiDAR (N, 4) float32 x y z intensity; radar (N, 4) float32 depth, altitude,
    azimuth, velocity; GNSS (3,) latitude, longitude, altitude; IMU (7,) acceleration, gyroscope, compass.
    """

    def __init__(self, tag: str, sensor_type: str, sensor: Any, interface: Any) -> None:
        self._tag = tag
        self._interface = interface
        interface.register_sensor(tag, sensor_type, sensor)

    def __call__(self, data: Any) -> None:
        """Hand one measurement in; called by the client."""
        self._interface.update_sensor(self._tag, _to_array(data), data.frame)


def _to_array(data: Any) -> np.ndarray:
    if isinstance(data, carla.Image):
        pixels = np.frombuffer(data.raw_data, dtype=np.uint8)
        return pixels.reshape(data.height, data.width, 4).copy()  # the buffer dies with the message
    if isinstance(data, carla.LidarMeasurement):
        return np.frombuffer(data.raw_data, dtype=np.float32).reshape(-1, 4).copy()
    if isinstance(data, carla.RadarMeasurement):
        return np.flip(np.frombuffer(data.raw_data, dtype=np.float32).reshape(-1, 4), 1).copy()
    if isinstance(data, carla.GnssMeasurement):
        return np.array([data.latitude, data.longitude, data.altitude])
    if isinstance(data, carla.IMUMeasurement):
        a, g = data.accelerometer, data.gyroscope
        return np.array([a.x, a.y, a.z, g.x, g.y, g.z, data.compass])
    raise SensorError(f"A sensor delivered {type(data).__name__}, which no agent can ask for.")


def validate_sensors(sensors: Sequence[Mapping[str, Any]], agent_track: str, track: str) -> None:
    """Check an agent's sensors against the leaderboard's rules.

    Args:
        sensors: what `agent.sensors()` returned.
        agent_track: the agent's track.
        track: the evaluation's track.

    Raises:
        SensorsInvalid: naming the sensor and the rule.
    """
    if agent_track != track:
        raise SensorsInvalid(f"The agent is for track {agent_track}, the evaluation runs track {track}.")
    seen: set[str] = set()
    for sensor in sensors:
        for key in ("type", "id"):
            if key not in sensor:
                raise SensorsInvalid(f"A sensor lacks {key!r}: {dict(sensor)}.")
        tag, kind = str(sensor["id"]), str(sensor["type"])
        if tag in seen:
            raise SensorsInvalid(f"Two sensors have the id {tag!r}.", "Give each its own.")
        seen.add(tag)
        if kind not in SENSOR_LIMITS:
            raise SensorsInvalid(f"Sensor {tag!r} has the type {kind!r}.", did_you_mean(kind, SENSOR_LIMITS))
        if kind == "sensor.opendrive_map" and not track.startswith("MAP"):
            raise SensorsInvalid(f"Sensor {tag!r}: the map is not given on track {track}.", "Use track MAP.")
        if kind in _PSEUDO:
            continue
        pose = _NEEDED_POSE.get(kind, ("x", "y", "z", "roll", "pitch", "yaw"))
        lacking = [k for k in (*pose, *_CHOSEN_ATTRIBUTES.get(kind, {}).values()) if k not in sensor]
        if lacking:
            raise SensorsInvalid(f"Sensor {tag!r} ({kind}) lacks {', '.join(lacking)}.")
        radius_m = math.dist((0, 0, 0), (sensor["x"], sensor["y"], sensor["z"]))
        if radius_m > MAX_RADIUS_M:
            raise SensorsInvalid(
                f"Sensor {tag!r} is mounted {radius_m:.2f} m away; {MAX_RADIUS_M:g} m are allowed."
            )
    limits = QUALIFIER_LIMITS if track.endswith("_QUALIFIER") else SENSOR_LIMITS
    for kind, count in Counter(str(s["type"]) for s in sensors).items():
        if count > limits[kind]:
            raise SensorsInvalid(f"{count} sensors of type {kind} asked for; {limits[kind]} are allowed.")


class AgentSensors:
    """An agent's sensors on the ego vehicle, for the time of a route.

    The speedometer and the map are no actors: `on_tick` delivers them, from the world's own snapshot, so that
    they belong to exactly this frame (upstream polls them in a thread).
    """

    def __init__(
        self, world: carla.World, ego: carla.Vehicle, sensors: Sequence[Mapping[str, Any]], interface: Any
    ):
        self._actors: list[carla.Sensor] = []
        self._pseudo: dict[str, Callable[[], dict[str, Any]]] = {}
        self._interface = interface
        library = world.get_blueprint_library()
        for spec in sensors:
            tag, kind = str(spec["id"]), str(spec["type"])
            if kind in _PSEUDO:
                self._add_pseudo(tag, kind, world, ego)
                continue
            blueprint = library.find(kind)
            for name, value in sensor_attributes(spec).items():
                blueprint.set_attribute(name, value)
            sensor = world.spawn_actor(blueprint, _transform(spec), attach_to=ego)
            self._actors.append(sensor)
            sensor.listen(SensorCallback(tag, kind, sensor, interface))

    def _add_pseudo(self, tag: str, kind: str, world: carla.World, ego: carla.Vehicle) -> None:
        if kind == "sensor.speedometer":
            self._pseudo[tag] = lambda: {"speed": forward_speed_mps(ego.get_transform(), ego.get_velocity())}
        else:
            opendrive = world.get_map().to_opendrive()
            self._pseudo[tag] = lambda: {"opendrive": opendrive}
        self._interface.register_sensor(tag, kind, None)

    def on_tick(self, frame: int) -> None:
        """Deliver the sensors that are no actors."""
        for tag, read in self._pseudo.items():
            self._interface.update_sensor(tag, read(), frame)

    def destroy(self) -> None:
        """Stop and destroy all; a server that is gone is no error here."""
        for sensor in self._actors:
            try:
                sensor.stop()
                sensor.destroy()
            except RuntimeError as error:
                _LOGGER.debug("destroying a sensor: %s", error)
        self._actors = []
        self._pseudo = {}


def sensor_attributes(spec: Mapping[str, Any]) -> dict[str, str]:
    """Blueprint attributes of a sensor: the leaderboard's fixed ones and those the agent may choose."""
    kind = str(spec["type"])
    chosen = {name: str(spec[key]) for name, key in _CHOSEN_ATTRIBUTES.get(kind, {}).items()}
    return {**_FIXED_ATTRIBUTES[kind], **chosen}


def _transform(spec: Mapping[str, Any]) -> carla.Transform:
    location = carla.Location(x=float(spec["x"]), y=float(spec["y"]), z=float(spec["z"]))
    if spec["type"] in _ROTATION_FREE:
        return carla.Transform(location)
    rotation = carla.Rotation(pitch=float(spec["pitch"]), yaw=float(spec["yaw"]), roll=float(spec["roll"]))
    return carla.Transform(location, rotation)


def forward_speed_mps(transform: carla.Transform, velocity: carla.Vector3D) -> float:
    """Speed along the vehicle's own x, as upstream's speedometer gives it; negative in reverse."""
    forward = transform.get_forward_vector()
    return velocity.x * forward.x + velocity.y * forward.y + velocity.z * forward.z
