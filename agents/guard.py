"""The last look before the pedals: a plan that would run into what the LiDAR sees on it is shortened.

The guard only acts where the deceleration that is needed to stay behind the thing passes what a planner
brakes with; then the plan keeps its path and brakes along it. It knows nothing of lights, signs or who has
the right of way: that is the planner's work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tickdrive.agents.config import GuardConfig
from tickdrive.agents.control import arc_length
from tickdrive.agents.preprocess import BevConfig

_STEP_M = 0.25
_CELL_M = 0.5
_TRACK_M = 6.0
"""How far along the path a thing is looked for in the older raster; what came from aside is not there."""


@dataclass(frozen=True)
class GuardedPlan:
    """What the guard made of a plan.

    Attributes:
        waypoints_in_ego: (T, 2), shortened.
        gap_m: from the front bumper to the thing, along the plan's path.
        speed_mps: of the thing along the path.
        deceleration_mps2: that was needed.
    """

    waypoints_in_ego: np.ndarray
    gap_m: float
    speed_mps: float
    deceleration_mps2: float


class CollisionGuard:
    """Looks along each plan.

    Args:
        config: when it acts.
        bev: geometry of the raster history.
    """

    def __init__(self, config: GuardConfig, bev: BevConfig | None = None) -> None:
        self._config = config
        self._bev = bev or BevConfig()

    def step(
        self,
        waypoints_in_ego: np.ndarray,
        dt_s: float,
        speed_mps: float,
        points_in_ego: np.ndarray,
        lidar_bev: np.ndarray,
    ) -> GuardedPlan | None:
        """Shorten a plan where it must be.

        Args:
            waypoints_in_ego: (T, 2) metres, x forward, y right; waypoint i stands at (i + 1) * dt_s.
            dt_s: time between waypoints.
            speed_mps: present forward speed.
            points_in_ego: (N, >=3) LiDAR points of the last rotation [m], z 0 at the road.
            lidar_bev: (T_obs, channels, rows, columns) uint8 raster history in the present ego frame.

        Returns:
            The shortened plan, or None where the plan may be driven as it is.
        """
        config = self._config
        if speed_mps < config.min_speed_mps or not len(points_in_ego):
            return None
        reach = config.front_m + config.margin_m + speed_mps**2 / (2.0 * config.deceleration_mps2)
        path, arc = _path(waypoints_in_ego, reach)
        at = self._nearest(path, arc, self._tall_cells(points_in_ego, reach))
        if at is None:
            return None
        thing_mps = self._speed_of(path, arc, at, lidar_bev)
        gap = at - config.front_m
        closing = speed_mps - thing_mps
        if closing <= 0.0:
            return None
        needed = closing**2 / (2.0 * max(gap - config.margin_m, 0.1))
        if needed < config.deceleration_mps2:
            return None
        deceleration = min(needed, config.strongest_mps2)
        times = dt_s * np.arange(1, len(waypoints_in_ego) + 1)
        braking_s = np.minimum(times, closing / deceleration)
        allowed = thing_mps * times + closing * braking_s - 0.5 * deceleration * braking_s**2
        planned = arc_length(np.vstack([np.zeros((1, 2)), waypoints_in_ego]))[1:]
        wanted = np.minimum(planned, allowed)
        shortened = np.stack([np.interp(wanted, arc, path[:, axis]) for axis in (0, 1)], axis=1)
        return GuardedPlan(shortened.astype(np.float32), float(gap), float(thing_mps), float(needed))

    def _tall_cells(self, points: np.ndarray, reach: float) -> np.ndarray:
        """(N, 2) centres of cells ahead whose returns reach from low to high: no road, however steep."""
        config, bev = self._config, self._bev
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        near = (x > 0.0) & (x < reach + 1.0) & (np.abs(y) < config.side_m) & (z < bev.obstacle_m)
        # what is left of the car's own body
        near &= ~((x < bev.own_half_length_m) & (np.abs(y) < bev.own_half_width_m))
        x, y, z = x[near], y[near], z[near]
        if not len(x):
            return np.empty((0, 2))
        columns = round(2 * config.side_m / _CELL_M)
        cell = (x / _CELL_M).astype(np.int64) * columns + ((y + config.side_m) / _CELL_M).astype(np.int64)
        order = np.argsort(cell, kind="stable")
        cell, z = cell[order], z[order]
        first = np.flatnonzero(np.concatenate([[True], cell[1:] != cell[:-1]]))
        height = np.maximum.reduceat(z, first) - np.minimum.reduceat(z, first)
        tall = cell[first][(height > config.tall_m) & (np.maximum.reduceat(z, first) > bev.ground_m[1])]
        centres = np.stack([tall // columns, tall % columns], axis=1) + 0.5
        return centres * _CELL_M - np.array([0.0, config.side_m])

    def _nearest(self, path: np.ndarray, arc: np.ndarray, things: np.ndarray) -> float | None:
        """Distance along the path of the first thing within the corridor; None where it is free."""
        if not len(things):
            return None
        # (path points, things)
        distance = np.hypot(path[:, None, 0] - things[None, :, 0], path[:, None, 1] - things[None, :, 1])
        nearest = distance.argmin(axis=0)
        hit = distance[nearest, np.arange(len(things))] < self._config.half_width_m
        # what lies beside or behind the ego projects on the path's first point
        hit &= arc[nearest] > self._config.front_m
        return float(arc[nearest[hit]].min()) if hit.any() else None

    def _speed_of(self, path: np.ndarray, arc: np.ndarray, at: float, lidar_bev: np.ndarray) -> float:
        """Speed along the path of the thing at `at`, from where it is and was one raster ago."""
        now, before = (
            self._nearest(path, arc, self._raster_cells(lidar_bev[frame, 1])) for frame in (-1, -2)
        )
        if now is None or before is None or abs(now - at) > _TRACK_M or abs(now - before) > _TRACK_M:
            return 0.0
        return max(0.0, (now - before) / self._bev.period_s)

    def _raster_cells(self, obstacles: np.ndarray) -> np.ndarray:
        """(N, 2) centres of the cells ahead that are not empty."""
        bev = self._bev
        rows, columns = np.nonzero(obstacles)
        x = bev.ahead_m - (rows + 0.5) * bev.cell_m
        y = (columns + 0.5) * bev.cell_m - bev.side_m
        near = (x > 0.0) & (np.abs(y) < self._config.side_m)
        return np.stack([x[near], y[near]], axis=1)


def _path(waypoints: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The plan's path from the ego on, straight on beyond its end, in small steps; and the way along it."""
    corners = np.vstack([np.zeros((1, 2)), np.asarray(waypoints, dtype=np.float64)])
    moved = np.concatenate([[True], np.hypot(*np.diff(corners, axis=0).T) > 0.05])
    corners = corners[moved]
    direction = corners[-1] - corners[-2] if len(corners) > 1 else np.array([1.0, 0.0])
    end = corners[-1] + direction / np.hypot(*direction) * max(reach, 1.0)
    corners = np.vstack([corners, end])
    arc = arc_length(corners)
    along = np.arange(0.0, max(reach, float(arc[-2])) + _STEP_M, _STEP_M)
    return np.stack([np.interp(along, arc, corners[:, axis]) for axis in (0, 1)], axis=1), along
