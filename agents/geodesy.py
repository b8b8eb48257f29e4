"""Latitude and longitude to the map's metres, as the leaderboard's plan relates them.

The leaderboard makes a plan's GPS from world coordinates by a Mercator projection scaled at the map's
reference latitude, with y negated (upstream leaderboard, `utils/route_manipulation.py`, `_location_to_gps`):

    x = s u + x0,   y = -s w + y0,   u = R lon,   w = R ln tan(pi/4 + lat/2),   s = cos(lat_ref)

The reference is not given to the agent, but the plan is, in both coordinates: `PlanProjection.fit` solves
for s, the sign and the offsets. The GNSS *sensor* may differ from it in sign and scale (other servers
project otherwise); that is for the localiser to find out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EARTH_RADIUS_M = 6378137.0
"""Equatorial radius, the leaderboard's `EARTH_RADIUS_EQUA`."""

_MIN_SPREAD_M = 20.0
"""An axis along which the plan extends less than this does not determine its own scale."""


def mercator(lat_deg: float | np.ndarray, lon_deg: float | np.ndarray) -> np.ndarray:
    """(..., 2) unscaled Mercator metres: east u, north w."""
    lat = np.asarray(lat_deg, dtype=np.float64)
    lon = np.asarray(lon_deg, dtype=np.float64)
    east = EARTH_RADIUS_M * np.radians(lon)
    north = EARTH_RADIUS_M * np.log(np.tan(math.pi / 4.0 + np.radians(lat) / 2.0))
    return np.stack([east, north], axis=-1)


@dataclass(frozen=True)
class PlanProjection:
    """world = gain * mercator + offset, each axis for itself.

    Attributes:
        gain: (2,) metres of world x per Mercator metre east; of world y per Mercator metre north (negative
            where y points south, as in CARLA).
        offset: (2,) world metres.
    """

    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def fit(cls, lat_lon_deg: Sequence[tuple[float, float]], xy_in_world: np.ndarray) -> PlanProjection:
        """Least squares over the plan's points.

        An axis along which the plan hardly extends takes the other one's scale (Mercator is conformal),
        and, for y, the leaderboard's sign; a plan that extends along none takes the cosine of its latitude.

        Args:
            lat_lon_deg: N points, degrees.
            xy_in_world: (N, 2) the same points in the world frame, metres.
        """
        lat = np.array([point[0] for point in lat_lon_deg])
        lon = np.array([point[1] for point in lat_lon_deg])
        plane = mercator(lat, lon)
        world = np.asarray(xy_in_world, dtype=np.float64)
        plane_mean, world_mean = plane.mean(axis=0), world.mean(axis=0)
        d_plane, d_world = plane - plane_mean, world - world_mean
        wide = (np.ptp(world, axis=0) >= _MIN_SPREAD_M) & (np.ptp(plane, axis=0) > 0.0)
        scale = math.cos(math.radians(float(lat.mean())))
        gain = np.array([scale, -scale])
        for axis in (0, 1):
            if wide[axis]:
                gain[axis] = (d_plane[:, axis] @ d_world[:, axis]) / (d_plane[:, axis] @ d_plane[:, axis])
        if wide[0] and not wide[1]:
            gain[1] = -abs(gain[0])
        elif wide[1] and not wide[0]:
            gain[0] = abs(gain[1])
        return cls(gain=gain, offset=world_mean - gain * plane_mean)

    def to_world(self, lat_deg: float, lon_deg: float) -> np.ndarray:
        """(2,) world x, y in metres, as the plan relates them."""
        return self.gain * mercator(lat_deg, lon_deg) + self.offset
