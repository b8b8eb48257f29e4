"""The sensor rig: what the agent asks the leaderboard for, and the decoding of what it gets.

CARLA's dicts end here: `SensorRig.decode` turns a tick's `input_data` into a typed `Observation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.agents.config import MountConfig, RigConfig
from tickdrive.agents.types import GnssSample, ImuSample, Observation
from tickdrive.leaderboard.simulator.geometry import rotation_matrix
from tickdrive.planner.errors import SensorError

MAX_RADIUS_M = 3.0
"""Furthest a sensor may sit from the ego's origin (upstream leaderboard, `sensors/…/agent_wrapper.py`)."""

SENSOR_LIMITS: dict[str, dict[str, int]] = {
    # upstream leaderboard, `autoagents/agent_wrapper.py`: SENSORS_LIMITS, QUALIFIER_SENSORS_LIMITS
    "SENSORS": {
        "sensor.camera.rgb": 8,
        "sensor.lidar.ray_cast": 2,
        "sensor.other.radar": 4,
        "sensor.other.gnss": 1,
        "sensor.other.imu": 1,
        "sensor.speedometer": 1,
    },
    "SENSORS_QUALIFIER": {
        "sensor.camera.rgb": 4,
        "sensor.lidar.ray_cast": 1,
        "sensor.other.radar": 2,
        "sensor.other.gnss": 1,
        "sensor.other.imu": 1,
        "sensor.speedometer": 1,
    },
}

MAX_LAG_FRAMES = 1
"""A reading this many frames behind the newest still counts as this tick's; an older one is missing."""


@dataclass(frozen=True)
class SensorRig:
    """A rig checked against the leaderboard's rules; build it with `from_config`."""

    config: RigConfig
    track: str
    lidar_rotation: np.ndarray

    @classmethod
    def from_config(cls, config: RigConfig, track: str = "SENSORS") -> SensorRig:
        """Check and build.

        Raises:
            SensorError: the leaderboard would reject the rig; says which sensor and why.
        """
        mount = config.lidar or MountConfig()
        rig = cls(config, track, rotation_matrix(mount.pitch, mount.yaw, mount.roll).astype(np.float32))
        check_sensors(rig.sensors(), track)
        return rig

    def sensors(self) -> list[dict[str, Any]]:
        """The leaderboard's `sensors()` list."""
        specs: list[dict[str, Any]] = [
            {
                "type": "sensor.camera.rgb",
                **_pose(camera),
                "width": camera.width,
                "height": camera.height,
                "fov": camera.fov,
                "id": camera.id,
            }
            for camera in self.config.cameras
        ]
        if self.config.lidar is not None:
            specs.append(
                {"type": "sensor.lidar.ray_cast", **_pose(self.config.lidar), "id": self.config.lidar.id}
            )
        specs.append({"type": "sensor.other.imu", **_pose(self.config.imu), "id": self.config.imu.id})
        specs.append({"type": "sensor.other.gnss", **_pose(self.config.gnss), "id": self.config.gnss.id})
        specs.append({"type": "sensor.speedometer", "reading_frequency": 20, "id": self.config.speedometer})
        return specs

    def decode(self, input_data: Mapping[str, tuple[int, Any]], timestamp: float) -> Observation:
        """Turn one tick's `input_data` into an observation.

        A sensor that is absent, lags more than a frame, or gives NaN where a number is needed is named in
        `Observation.missing`; that is for the caller to handle. Data of a wrong form is an error.

        Args:
            input_data: sensor id -> (frame, data), as every leaderboard hands it to `run_step`.
            timestamp: simulated seconds.

        Raises:
            SensorError: data of a shape or type that the rig's sensor cannot give.
        """
        newest, missing, take = _taker(input_data)

        images: dict[str, np.ndarray] = {}
        for camera in self.config.cameras:
            data = take(camera.id)
            if data is not None:
                images[camera.id] = _image(camera.id, data, camera.height, camera.width)
        lidar = None
        if self.config.lidar is not None:
            data = take(self.config.lidar.id)
            if data is not None:
                lidar = self._lidar_in_ego(data)
        imu = _imu(self.config.imu.id, take(self.config.imu.id), missing)
        gnss = _gnss(self.config.gnss.id, take(self.config.gnss.id), missing)
        speed = _speed(self.config.speedometer, take(self.config.speedometer), missing)
        return Observation(
            frame=newest,
            sim_s=float(timestamp),
            images=images,
            lidar_in_ego=lidar,
            gnss=gnss,
            imu=imu,
            speed_mps=speed,
            missing=tuple(missing),
        )

    def _lidar_in_ego(self, data: Any) -> np.ndarray:
        """(N, 4) float32 from the sensor's frame into the ego's; intensity untouched."""
        mount = self.config.lidar
        assert mount is not None
        points = np.asarray(data)
        if points.ndim != 2 or points.shape[1] != 4 or points.dtype != np.float32:
            raise SensorError(
                f"LiDAR {mount.id!r} gave {points.dtype} {points.shape}.",
                "The leaderboard gives float32 (N, 4): x, y, z, intensity.",
            )
        out = np.empty_like(points)
        np.matmul(points[:, :3], self.lidar_rotation.T, out=out[:, :3])
        out[:, :3] += np.array([mount.x, mount.y, mount.z], dtype=np.float32)
        out[:, 3] = points[:, 3]
        return out


def decode_motion(
    input_data: Mapping[str, tuple[int, Any]], timestamp: float, gnss: str, imu: str, speedometer: str
) -> Observation:
    """What tells the ego's motion, of any rig: its sensors by their ids, an empty one where it has none such.

    Raises:
        SensorError: data of a shape or type that the sensor cannot have.
    """
    newest, missing, take = _taker(input_data)
    return Observation(
        frame=newest,
        sim_s=float(timestamp),
        images={},
        lidar_in_ego=None,
        gnss=_gnss(gnss, take(gnss), missing),
        imu=_imu(imu, take(imu), missing),
        speed_mps=_speed(speedometer, take(speedometer), missing),
        missing=tuple(filter(None, missing)),
    )


def check_sensors(specs: list[dict[str, Any]], track: str) -> None:
    """Apply the leaderboard's sensor rules (its `validate_sensor_configuration`).

    Raises:
        SensorError: which sensor breaks which rule.
    """
    limits = SENSOR_LIMITS[track]
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for spec in specs:
        name, kind = spec["id"], spec["type"]
        if not name:
            raise SensorError(f"A {kind} of the rig has no id.", "Give it one.")
        if name in seen:
            raise SensorError(f"Sensor id {name!r} is used twice.", "Give every sensor its own id.")
        seen.add(name)
        if kind not in limits:
            raise SensorError(f"Sensor {name!r} is a {kind}, not allowed on track {track}.", "Remove it.")
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] > limits[kind]:
            raise SensorError(
                f"The rig has {counts[kind]} of {kind}; track {track} allows {limits[kind]}.", "Remove some."
            )
        radius = math.sqrt(sum(float(spec.get(axis, 0.0)) ** 2 for axis in "xyz"))
        if radius > MAX_RADIUS_M:
            raise SensorError(
                f"Sensor {name!r} is mounted {radius:.2f} m from the ego's origin.",
                f"The leaderboard allows {MAX_RADIUS_M:g} m: move it closer.",
            )


def _taker(input_data: Mapping[str, tuple[int, Any]]) -> tuple[int, list[str], Callable[[str], Any]]:
    """The newest frame, what is missing (to be filled), and a function that takes a sensor's data."""
    newest = max((_frame(name, item) for name, item in input_data.items()), default=0)
    missing: list[str] = []

    def take(name: str) -> Any:
        item = input_data.get(name)
        if item is None or item[1] is None or newest - item[0] > MAX_LAG_FRAMES:
            missing.append(name)
            return None
        return item[1]

    return newest, missing, take


def _pose(mount: MountConfig) -> dict[str, float]:
    return {key: float(getattr(mount, key)) for key in ("x", "y", "z", "roll", "pitch", "yaw")}


def _frame(name: str, item: Any) -> int:
    try:
        frame, _ = item
        return int(frame)
    except (TypeError, ValueError) as error:
        raise SensorError(
            f"Sensor {name!r} gave {type(item).__name__}, not a (frame, data) pair.",
            "Pass `input_data` as the leaderboard hands it to run_step.",
        ) from error


def _image(name: str, data: Any, height: int, width: int) -> np.ndarray:
    """(H, W, 3) BGR view of a BGRA (or already BGR) image."""
    image = np.asarray(data)
    if image.dtype != np.uint8 or image.shape not in ((height, width, 4), (height, width, 3)):
        raise SensorError(
            f"Camera {name!r} gave {image.dtype} {image.shape}.",
            f"Its rig entry asks for uint8 ({height}, {width}, 4) BGRA.",
        )
    return image[:, :, :3]


def _vector(name: str, data: Any, size: int, what: str) -> np.ndarray:
    try:
        vector = np.asarray(data, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise SensorError(f"Sensor {name!r} gave {data!r}.", f"Expected {what}.") from error
    if vector.size != size:
        raise SensorError(f"Sensor {name!r} gave {vector.size} values.", f"Expected {what}.")
    return vector


def _imu(name: str, data: Any, missing: list[str]) -> ImuSample | None:
    if data is None:
        return None
    vector = _vector(name, data, 7, "7 values: acceleration, angular velocity, compass")
    if not np.isfinite(vector[:6]).all():
        missing.append(name)
        return None
    compass = float(vector[6])
    return ImuSample(
        acceleration_mps2=vector[:3],
        angular_velocity_radps=vector[3:6],
        compass_rad=compass if math.isfinite(compass) else None,
    )


def _gnss(name: str, data: Any, missing: list[str]) -> GnssSample | None:
    if data is None:
        return None
    lat, lon, alt = _vector(name, data, 3, "3 values: latitude, longitude, altitude")
    if not (math.isfinite(lat) and math.isfinite(lon) and abs(lat) < 89.9 and abs(lon) <= 360.0):
        missing.append(name)
        return None
    return GnssSample(lat_deg=float(lat), lon_deg=float(lon), alt_m=float(alt))


def _speed(name: str, data: Any, missing: list[str]) -> float | None:
    if data is None:
        return None
    value = data.get("speed") if isinstance(data, Mapping) else data
    if value is None:
        missing.append(name)
        return None
    speed = float(_vector(name, value, 1, "{'speed': m/s}")[0])
    if not math.isfinite(speed):
        missing.append(name)
        return None
    return speed
