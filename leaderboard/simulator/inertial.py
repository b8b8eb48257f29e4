"""IMU, GNSS and collision sensors: what needs no picture of the scene."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.actors import SensorActor
from tickdrive.leaderboard.simulator.geometry import rotation_matrix
from tickdrive.leaderboard.simulator.protocol import frames
from tickdrive.leaderboard.simulator.protocol.frames import SensorKind
from tickdrive.leaderboard.simulator.sensors import Attributes, View
from tickdrive.leaderboard.simulator.world import World

GRAVITY_MPS2 = 9.81
_EARTH_RADIUS_M = 6378137.0
#: a sensor that moves further in one tick was teleported, and its differences would be nonsense
_TELEPORT_M = 10.0


@dataclass(frozen=True, slots=True)
class GeoReference:
    """Latitude and longitude of the map's origin, degrees."""

    latitude_deg: float = 42.0
    longitude_deg: float = 2.0

    @classmethod
    def from_xodr(cls, xodr: str) -> GeoReference:
        """Read `+lat_0` and `+lon_0`; CARLA's own default (42, 2) where the file says nothing."""
        found = re.search(r"<geoReference>(.*?)</geoReference>", xodr, re.S)
        text = found.group(1) if found else ""
        latitude = re.search(r"\+lat_0=([-+0-9.eE]+)", text)
        longitude = re.search(r"\+lon_0=([-+0-9.eE]+)", text)
        try:
            return cls(
                float(latitude.group(1)) if latitude else 42.0,
                float(longitude.group(1)) if longitude else 2.0,
            )
        except ValueError:
            return cls()

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Latitude and longitude in degrees of a world location in metres.

        The leaderboard's own formula (`route_manipulation.py`, `_location_to_gps`: spherical Mercator with
        `my -= y`), so that fixes agree with the GPS plan that its evaluators hand to agents. The wheel's
        `transform_to_geolocation` differs: scale 0.9996, and its latitude grows with y.
        """
        scale = math.cos(math.radians(self.latitude_deg)) * _EARTH_RADIUS_M
        mx = scale * math.radians(self.longitude_deg) + x
        my = scale * math.log(math.tan(math.radians(90.0 + self.latitude_deg) / 2.0)) - y
        latitude = 2.0 * math.degrees(math.atan(math.exp(my / scale))) - 90.0
        return latitude, math.degrees(mx / scale)


class Gnss:
    """Position in degrees and metres, with CARLA's bias and normal noise."""

    needs_rendering = False

    def __init__(self, actor: SensorActor, world: World) -> None:
        read = Attributes(actor)
        axes = ("lat", "lon", "alt")
        self._bias = [read.number(f"noise_{axis}_bias", 0.0) for axis in axes]
        self._stddev = [read.number(f"noise_{axis}_stddev", 0.0, 0.0) for axis in axes]
        self._noise = np.random.default_rng(world.noise_seed(read.whole("noise_seed", 0)))
        self._reference = GeoReference.from_xodr(world.town.network.xodr)

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """A fix needs no history."""

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Latitude, longitude, altitude."""
        latitude, longitude = self._reference.locate(actor.pose.x, actor.pose.y)
        noise = self._noise.normal(0.0, 1.0, 3)
        fix = [
            float(value + bias + stddev * draw)
            for value, bias, stddev, draw in zip(
                (latitude, longitude, actor.pose.z), self._bias, self._stddev, noise, strict=True
            )
        ]
        return view.head(SensorKind.GNSS, actor) + frames.message(*fix)


class Imu:
    """Accelerometer with gravity, gyroscope, compass.

    Source: `InertialMeasurementUnit.cpp`. Acceleration is the second derivative of the parabola through
    the sensor's last three locations, plus gravity, turned into the sensor's axes; the gyroscope is the
    body's rate in rad/s in the sensor's axes; the compass is the angle from north (0, -1) to the sensor's
    forward direction in [0, 2 pi).
    """

    needs_rendering = False

    def __init__(self, actor: SensorActor, world: World) -> None:
        read = Attributes(actor)
        self._accel_stddev = [read.number(f"noise_accel_stddev_{axis}", 0.0, 0.0) for axis in "xyz"]
        self._gyro_stddev = [read.number(f"noise_gyro_stddev_{axis}", 0.0, 0.0) for axis in "xyz"]
        self._gyro_bias = [read.number(f"noise_gyro_bias_{axis}", 0.0) for axis in "xyz"]
        self._noise = np.random.default_rng(world.noise_seed(read.whole("noise_seed", 0)))
        self._locations = [actor.pose.location] * 3
        self._deltas_s = [0.05, 0.05]

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """Remember where the sensor was."""
        location = actor.pose.location
        if float(np.linalg.norm(location - self._locations[0])) > _TELEPORT_M:
            self._locations = [location] * 3
        self._locations = [location, *self._locations[:2]]
        self._deltas_s = [delta_s, self._deltas_s[0]]

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Accelerometer m/s2, gyroscope rad/s, compass rad."""
        y0, y1, y2 = self._locations
        h1, h2 = self._deltas_s
        acceleration = -2.0 * (y1 / (h1 * h2) - y2 / (h2 * (h1 + h2)) - y0 / (h1 * (h1 + h2)))
        acceleration = acceleration + np.array([0.0, 0.0, GRAVITY_MPS2])
        axes = rotation_matrix(actor.pose.pitch, actor.pose.yaw, actor.pose.roll)
        noise = self._noise.normal(0.0, 1.0, (2, 3))
        accelerometer = axes.T @ acceleration + noise[0] * self._accel_stddev
        gyroscope = (
            np.radians(axes.T @ actor.angular_velocity) + self._gyro_bias + noise[1] * self._gyro_stddev
        )
        body = frames.message(
            [float(each) for each in accelerometer],
            [float(each) for each in gyroscope],
            compass_rad(axes[0, 0], axes[1, 0]),
        )
        return view.head(SensorKind.IMU, actor) + body


def compass_rad(forward_x: float, forward_y: float) -> float:
    """Angle from north, (0, -1) in the world, to a direction, clockwise seen from above, in [0, 2 pi)."""
    return math.atan2(forward_x, -forward_y) % (2.0 * math.pi)
