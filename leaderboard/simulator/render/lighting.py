"""Light from the weather: sun, sky, fog and wetness, in linear radiance (white paper in full sun is about 1).

The colours are chosen by eye to read like CARLA's; no atmosphere is simulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import Weather

SKY_WIDTH, SKY_HEIGHT = 720, 160
# sine of the elevation of the sky table's first row; below it the horizon's colour is drawn
SKY_LOW = -0.06


@dataclass(frozen=True)
class Lighting:
    """What the shading kernels need of the weather.

    Attributes:
        sun_direction: (3,) unit vector to the sun, world frame.
        sun: (3,) radiance that a white surface square to the sun gives.
        sky_ambient: (3,) radiance of a white surface facing up, sun apart.
        ground_ambient: (3,) the same facing down.
        fog_per_m: extinction; fog_start_m: where it begins.
        wetness: 0-1.
        night: 0 by day, 1 in the dark.
        sky: (SKY_HEIGHT, SKY_WIDTH, 3) float32 radiance; see `sky_directions`.
    """

    sun_direction: np.ndarray
    sun: np.ndarray
    sky_ambient: np.ndarray
    ground_ambient: np.ndarray
    fog_per_m: float
    fog_start_m: float
    wetness: float
    night: float
    sky: np.ndarray

    @property
    def casts_shadows(self) -> bool:
        """Whether the sun is bright and high enough."""
        return bool(self.sun.max() > 0.06 and self.sun_direction[2] > 0.01)


def _step(low: float, high: float, value: float) -> float:
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


def weather_key(weather: Weather) -> tuple[float, ...]:
    """What the light depends on, rounded: weathers with equal keys share one `Lighting`."""
    return (
        round(weather.sun_azimuth_angle * 2) / 2, round(weather.sun_altitude_angle * 2) / 2,
        round(weather.cloudiness), round(weather.fog_density), round(weather.fog_distance),
        round(max(weather.wetness, weather.precipitation_deposits, weather.precipitation)),
        round(weather.precipitation / 5), round(weather.dust_storm / 5),
    )  # fmt: skip


def lighting_of(weather: Weather) -> Lighting:
    """Light of a weather; the sun's azimuth turns from x towards y, as yaw does."""
    azimuth, altitude = math.radians(weather.sun_azimuth_angle), weather.sun_altitude_angle
    height = math.radians(altitude)
    sun_direction = np.array(
        [math.cos(height) * math.cos(azimuth), math.cos(height) * math.sin(azimuth), math.sin(height)]
    )
    day = _step(-8.0, 16.0, altitude)
    risen = _step(-1.0, 9.0, altitude)
    low_sun = math.exp(-(((altitude - 2.0) / 9.0) ** 2))
    cloud = min(max(weather.cloudiness / 100.0, 0.0), 1.0)
    cover = _step(0.25, 1.0, cloud)

    warm = _step(2.0, 32.0, altitude)
    sun = np.array([1.0, 0.62 + 0.33 * warm, 0.34 + 0.52 * warm]) * 1.12 * risen * (1.0 - 0.88 * cover)
    clear_sky = (
        np.array([0.30, 0.38, 0.52]) * (0.08 + 0.92 * day) + np.array([0.16, 0.07, 0.03]) * low_sun * risen
    )
    # rain clouds are thick
    thick = 1.0 - 0.45 * min(max(weather.precipitation / 100.0, 0.0), 1.0) * cover
    grey_sky = np.array([0.52, 0.54, 0.57]) * (0.07 + 0.93 * day) * thick
    sky_ambient = clear_sky * (1.0 - cover) + grey_sky * cover
    floor = np.array([0.120, 0.125, 0.150])
    sky_ambient = np.maximum(sky_ambient, floor)
    ground_ambient = 0.42 * sky_ambient + 0.16 * sun * max(0.0, float(sun_direction[2]))
    fog = min(max(weather.fog_density / 100.0, 0.0), 1.0) + weather.precipitation / 100.0 * 0.08
    fog += weather.dust_storm / 100.0 * 0.4
    wet = min(
        max(max(weather.wetness, weather.precipitation_deposits, weather.precipitation) / 100.0, 0.0), 1.0
    )
    sky = _sky(sun_direction, altitude, day, low_sun, cloud, cover, sun) * thick
    haze = sky[int(math.sqrt(0.1) * SKY_HEIGHT)].mean(0)
    blend = min(1.0, 1.6 * fog)
    sky = sky * (1.0 - blend) + haze * blend
    extinction = 1.0 / 1900.0 + 0.028 * fog**1.4
    return Lighting(
        sun_direction, sun * (1.0 - 0.6 * min(fog, 1.0)), sky_ambient, ground_ambient, extinction,
        float(max(weather.fog_distance, 0.0)), wet, 1.0 - _step(-4.0, 7.0, altitude),
        np.ascontiguousarray(sky, np.float32),
    )  # fmt: skip


def _noise(x: np.ndarray, y: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Periodic value noise with smooth interpolation."""
    c, r = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = x - c, y - r
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    n = len(table)
    low = table[r % n, c % n] * (1 - u) + table[r % n, (c + 1) % n] * u
    high = table[(r + 1) % n, c % n] * (1 - u) + table[(r + 1) % n, (c + 1) % n] * u
    return low * (1 - v) + high * v


def sky_directions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit x, y, z of the sky table's cells, each (SKY_HEIGHT, SKY_WIDTH).

    Rows go with the square root of the elevation's sine (fine at the horizon), columns with the position on
    the square |x| + |y| = 1: both are cheap to invert for a pixel.
    """
    z = (SKY_LOW + (1.0 - SKY_LOW) * (np.arange(SKY_HEIGHT) / (SKY_HEIGHT - 1)) ** 2)[:, None]
    turn = (np.arange(SKY_WIDTH) + 0.5) / SKY_WIDTH * 4.0 - 1.0
    y = np.where(turn < 1.0, turn, 2.0 - turn)
    x = np.where(turn < 1.0, 1.0 - np.abs(y), np.abs(y) - 1.0)
    flat = np.sqrt(np.maximum(1.0 - z**2, 0.0)) / np.hypot(x, y)
    return x * flat, y * flat, z * np.ones_like(x)


def _sky(
    to_sun: np.ndarray,
    altitude: float,
    day: float,
    low_sun: float,
    cloud: float,
    cover: float,
    sun: np.ndarray,
) -> np.ndarray:
    x, y, z = sky_directions()
    up = np.clip(z, 0.0, 1.0)[..., None]
    zenith = np.array([0.10, 0.235, 0.56]) * (0.03 + 0.97 * day)
    horizon = np.array([0.60, 0.71, 0.84]) * (0.035 + 0.965 * day)
    toward = np.clip(x * to_sun[0] + y * to_sun[1] + z * to_sun[2], -1.0, 1.0)[..., None]
    if altitude > -12.0:
        glow_side = 0.5 + 0.5 * toward
        dusk = np.array([1.0, 0.46, 0.16]) * 0.75 * low_sun * _step(-12.0, 2.0, altitude)
        horizon = horizon + dusk * glow_side**3
    colour = zenith + (horizon - zenith) * (1.0 - up) ** 4.2
    glow = np.maximum(toward, 0.0)
    colour = colour + sun * (0.22 * glow**24 + 0.9 * glow**400) * (1.0 - 0.7 * cover)
    table = np.random.default_rng(11).random((64, 64))
    reach = 1.0 / np.maximum(z, 0.03)
    density, weight = np.zeros_like(z), 0.5
    for octave in range(5):
        scale = 0.9 * 2.0**octave
        density += weight * _noise(x * reach * scale + 7.3 * octave, y * reach * scale + 3.1 * octave, table)
        weight *= 0.5
    threshold = 0.78 - 0.62 * cloud
    opacity = np.clip((density - threshold) / 0.20, 0.0, 1.0) * min(1.0, 0.25 + 2.0 * cloud)
    opacity = (opacity * np.clip((z - 0.015) / 0.10, 0.0, 1.0))[..., None]
    shade = np.clip((density - threshold) / 0.5, 0.0, 1.0)[..., None]
    lit = np.array([0.50, 0.53, 0.58]) * (0.03 + 0.97 * day) + 0.58 * sun + 0.25 * sun * glow**8
    grey = np.array([0.40, 0.42, 0.46]) * (0.03 + 0.97 * day) + 0.12 * sun
    clouds = lit * (1 - 0.75 * shade) + grey * 0.75 * shade
    colour = colour * (1.0 - opacity) + clouds * opacity
    veil = np.array([0.60, 0.62, 0.66]) * (0.03 + 0.97 * day) * (0.85 + 0.15 * (1 - up))
    colour = colour * (1.0 - 0.8 * cover**2) + veil * 0.8 * cover**2
    return np.maximum(colour, np.array([0.006, 0.008, 0.016]))


def tone_table(size: int = 4096, brightest: float = 8.0) -> np.ndarray:
    """(size,) uint8: sRGB of linear radiance x at index sqrt(x / brightest) * (size - 1).

    The curve is Narkowicz's fit of the ACES filmic tone curve (2015), then gamma 2.2.
    """
    x = brightest * (np.arange(size) / (size - 1)) ** 2
    x = 0.92 * x
    mapped = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    return np.round(255.0 * np.clip(mapped, 0.0, 1.0) ** (1.0 / 2.2)).astype(np.uint8)
