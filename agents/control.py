"""From a planned trajectory to pedals and steering wheel.

Lateral: pure pursuit (Coulter 1992) of a point on the plan from the rear axle, with a look-ahead that grows
with speed: delta = atan(2 L sin(alpha) / l), L the wheelbase, l the distance from the rear axle to the point,
alpha its bearing.
Longitudinal: the acceleration that, starting at the present speed, reaches the plan's first waypoints at
their times; a linear pedal map turns it into throttle or brake, and a slow integrator removes what that map
gets wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tickdrive.agents.config import ControlConfig
from tickdrive.agents.curves import hermite
from tickdrive.planner.errors import PlannerError


@dataclass(frozen=True)
class Control:
    """Pedals and wheel, ranges as `carla.VehicleControl`: throttle and brake 0..1, steer -1 (left) .. 1."""

    throttle: float
    steer: float
    brake: float


class TrajectoryFollower:
    """Follows the latest plan; holds a little state (steer, integrator, standing still).

    Args:
        config: gains and geometry.
    """

    def __init__(self, config: ControlConfig | None = None) -> None:
        self._config = config or ControlConfig()
        self.reset()

    def reset(self) -> None:
        """Forget the past: a new route."""
        self._steer = 0.0
        self._integral = 0.0
        self._holding = False
        self._braking = False

    def step(
        self,
        waypoints_in_ego: np.ndarray,
        dt_s: float,
        speed_mps: float,
        delta_s: float,
        path_in_ego: np.ndarray | None = None,
    ) -> Control:
        """The control for the next tick.

        Args:
            waypoints_in_ego: (T, 2) metres, x forward, y right; waypoint i stands at (i + 1) * dt_s.
            dt_s: time between waypoints.
            speed_mps: present forward speed.
            delta_s: time since the last call (the tick).
            path_in_ego: (T, 2) to steer along, where that is more than the waypoints: those of a plan that
                was shortened end too near to aim at. None for the waypoints themselves.

        Raises:
            PlannerError: the plan has another shape or is not finite.
        """
        plan = np.asarray(waypoints_in_ego, dtype=np.float64)
        if plan.ndim != 2 or plan.shape[1] != 2 or len(plan) < 2 or not np.isfinite(plan).all():
            raise PlannerError(
                f"The plan to follow has shape {plan.shape}"
                + ("." if plan.ndim != 2 else " or is not finite."),
                "Give (T, 2) finite metres with T of at least 2.",
            )
        path = np.vstack([np.zeros((1, 2)), plan])
        arc = arc_length(path)
        times = np.arange(len(path)) * dt_s
        if self._stand_still(arc, times, speed_mps):
            self._integral = 0.0
            self._braking = True
            return Control(throttle=0.0, steer=self._steer, brake=self._config.hold_brake)
        acceleration = self._wanted_acceleration(plan, arc, times, speed_mps)
        throttle, brake = self._pedals(acceleration, speed_mps, delta_s)
        curve = _smooth(path if path_in_ego is None else np.vstack([np.zeros((1, 2)), path_in_ego]))
        curve_arc = arc_length(curve)
        steer = self._wheel(curve, curve_arc, speed_mps, delta_s)
        return Control(throttle=throttle, steer=steer, brake=brake)

    def _stand_still(self, arc: np.ndarray, times: np.ndarray, speed: float) -> bool:
        """Whether to hold the brake at rest; two thresholds, so that a plan at the edge does not creep."""
        config = self._config
        length = float(np.interp(config.stop_horizon_s, times, arc))
        if self._holding:
            self._holding = length < config.go_length_m
        else:
            # a plan that comes to its end may be cut short a little earlier than one that creeps on
            ends = arc[-1] - arc[-2] < 0.1
            limit = config.go_length_m if ends else config.stop_length_m
            self._holding = length < limit and abs(speed) < config.hold_speed_mps
        return self._holding

    def _wanted_acceleration(
        self, plan: np.ndarray, arc: np.ndarray, times: np.ndarray, speed: float
    ) -> float:
        """Least squares over the first 1.5 s of s(t) = v t + a t^2 / 2, v the present speed."""
        # at least two waypoints, whatever the plan's spacing
        count = max(2, int(np.searchsorted(times[1:], 1.5 + 1e-6)))
        t, s = times[1 : 1 + count], arc[1 : 1 + count]
        # arc length has no sign: a first waypoint behind the ego asks for less than standing still
        if plan[0, 0] < -0.1:
            s = np.minimum(s, 0.0)
        basis = 0.5 * t * t
        weight = 1.0 / t
        acceleration = float(np.sum(weight * basis * (s - speed * t)) / np.sum(weight * basis * basis))
        # a plan that ends within reach: brake as the remaining way demands, v^2 / 2d
        end = float(arc[-1])
        if float(arc[-1] - arc[-2]) < 0.25 * (times[-1] - times[-2]) and speed > 0.3:
            acceleration = min(acceleration, -speed * speed / (2.0 * max(end - 0.3, 0.3)))
        return float(np.clip(acceleration, -8.0, 4.0))

    def _pedals(self, acceleration: float, speed: float, delta_s: float) -> tuple[float, float]:
        config = self._config
        if abs(acceleration) < 1.5 and speed > 0.5:
            self._integral += config.integral_gain * acceleration * delta_s
            self._integral = float(np.clip(self._integral, -config.integral_limit, config.integral_limit))
        # between throttle and brake lies coasting; a margin keeps the foot from dancing between them
        threshold = -config.coast_mps2 * (0.6 if self._braking else 1.2)
        self._braking = acceleration < threshold
        if self._braking:
            return 0.0, float(
                np.clip((-acceleration - 0.8 * config.coast_mps2) * config.brake_per_mps2, 0.0, 1.0)
            )
        throttle = (
            config.throttle_base
            + config.throttle_per_mps * speed
            + (config.throttle_per_mps2 + config.throttle_per_mps2_per_mps * speed) * acceleration
            + self._integral
        )
        return float(np.clip(throttle, 0.0, config.max_throttle)), 0.0

    def _wheel(self, path: np.ndarray, arc: np.ndarray, speed: float, delta_s: float) -> float:
        config = self._config
        lookahead = float(np.clip(config.lookahead_s * speed, config.lookahead_min_m, config.lookahead_max_m))
        if arc[-1] < 0.5:
            # too short a path to aim at: keep the wheel where it is
            return self._steer
        point = _point_at(path, arc, lookahead)
        x, y = point[0] + config.rear_axle_m, point[1]
        distance = math.hypot(x, y)
        angle = math.atan2(2.0 * config.wheelbase_m * (y / distance), distance)
        wanted = float(np.clip(math.degrees(angle) / config.max_steer_deg, -1.0, 1.0))
        step = config.steer_rate_per_s * delta_s
        self._steer += float(np.clip(wanted - self._steer, -step, step))
        return self._steer


def arc_length(points: np.ndarray) -> np.ndarray:
    """(N,) metres along the line through (N, 2) points."""
    return np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])


def _smooth(path: np.ndarray, pieces: int = 4) -> np.ndarray:
    """Cubic Hermite curve through the waypoints (Catmull-Rom in time).

    Waypoints of a turn lie metres apart: aiming at the straight line between them cuts it.
    """
    tangent = np.empty_like(path)
    tangent[1:-1] = 0.5 * (path[2:] - path[:-2])
    tangent[0] = 1.5 * (path[1] - path[0]) - 0.5 * tangent[1]
    tangent[-1] = 1.5 * (path[-1] - path[-2]) - 0.5 * tangent[-2]
    u = (np.arange(pieces) / pieces)[:, None]
    curve = hermite(path[:-1, None], path[1:, None], tangent[:-1, None], tangent[1:, None], u)
    return np.vstack([curve.reshape(-1, 2), path[-1:]])


def _point_at(path: np.ndarray, arc: np.ndarray, length_m: float) -> np.ndarray:
    """Point at an arc length; beyond the end, straight on along the last piece that is long enough."""
    if length_m <= arc[-1]:
        return np.array([np.interp(length_m, arc, path[:, 0]), np.interp(length_m, arc, path[:, 1])])
    # direction from the point a metre before the end, so that bunched last waypoints do not decide it
    back = max(arc[-1] - 1.0, 0.0)
    before = np.array([np.interp(back, arc, path[:, 0]), np.interp(back, arc, path[:, 1])])
    direction = path[-1] - before
    norm = math.hypot(direction[0], direction[1])
    direction = direction / norm if norm > 1e-3 else np.array([1.0, 0.0])
    return path[-1] + direction * (length_m - arc[-1])
