"""Where the ego is: GNSS, IMU and speedometer, fused by an extended Kalman filter.

State: x, y [m, world], yaw [rad], the scale of the GNSS sensor against the plan's projection along x and y,
and the slip of the rear tyres [rad s2/m], which tells how the origin swings in a turn. Speed and yaw rate
drive the prediction; fixes and the compass correct it.

Servers and evaluators disagree on what a GNSS sensor gives: latitude may grow with y or against it, and the
metres may carry a Mercator scale of 0.9996 or the ellipsoid's. The plan says what the *evaluator* thinks
(`geodesy.PlanProjection`); the *sensor* is modelled as

    z = pivot_z + diag(k_x, sign k_y) (position - pivot) + noise

with pivot = pivot_z = 0, the map's geo-reference. One filter runs for each sign. Fixes whose y does not fit
the route's start, or whose displacement does not fit compass times speed, make the wrong one improbable, and
it is dropped. Where the start lies at y = 0 nothing tells them apart, and nothing needs to, until the ego
moves in y. Should no sign fit the start at all, the pivot is set to the start (a sensor with another
reference), for both signs.

CARLA: left-handed, x east, y south, yaw clockwise from +x. Its compass is 0 where the ego looks to -y, so
yaw = compass - 90 degrees; due north or south it can be NaN, where upstream takes the arc cosine of a
number a little above 1.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from tickdrive.agents.config import LocalizationConfig, MountConfig
from tickdrive.agents.geodesy import PlanProjection
from tickdrive.agents.types import EgoState, Observation
from tickdrive.leaderboard.simulator.geometry import wrap_deg

_LOGGER = logging.getLogger(__name__)

_X, _Y, _YAW, _KX, _KY, _SLIP = range(6)
_PLAN_SIGN_LOG_PRIOR = 0.5
_SETTLED_LOG_ODDS = 12.0
_MAX_PENALTY = 12.5
"""Half of the largest squared residual that counts against a hypothesis: one outlier cannot settle it."""
_START_FIXES = 8
_LOST_AFTER = 20
"""Fixes rejected in a row after which the filter believes them rather than itself."""
_POSITION_NOISE_MPS = 0.06
_MISSING_SPEED_SIGMA_MPS = 1.5
_MISSING_GYRO_SIGMA_DPS = 8.0
_MAX_STEP_S = 1.0


@dataclass(frozen=True)
class GnssCalibration:
    """What is believed of the GNSS sensor against the plan's projection.

    Attributes:
        y_sign: +1 where it agrees with the plan, -1 where it is mirrored.
        scale: (k_x, k_y).
        settled: whether the other sign has been ruled out.
        anchored: whether the sensor had to be tied to the route's start instead of the map's reference.
    """

    y_sign: int
    scale: tuple[float, float]
    settled: bool
    anchored: bool


class _Hypothesis:
    """One extended Kalman filter, for one sign of y."""

    def __init__(
        self,
        sign: int,
        log_odds: float,
        start_xy: np.ndarray,
        start_yaw_rad: float,
        config: LocalizationConfig,
        pivot: np.ndarray,
        pivot_z: np.ndarray,
    ) -> None:
        self.sign = sign
        self.log_odds = log_odds
        self.pivot = pivot
        self.pivot_z = pivot_z
        self.rejected = 0
        self.rear_axle_m = config.rear_axle_m
        self.state = np.array([start_xy[0], start_xy[1], start_yaw_rad, 1.0, 1.0, config.slip_s2pm])
        sigma = [config.start_sigma_m] * 2 + [math.radians(20.0)] + [config.scale_sigma] * 2
        sigma += [config.slip_sigma_s2pm]
        self.covariance = np.diag(np.square(sigma))

    def predict(self, dt: float, speed: float, yaw_rate: float, q: np.ndarray) -> None:
        """Motion by dt, at the yaw halfway through the step.

        Single-track model: the rear axle moves sideways only by its tyres' slip, speed * slip * (speed * yaw
        rate), and the origin, ahead of it, swings out of the turn.
        """
        state = self.state
        turn = yaw_rate * min(1.0, abs(speed))
        lateral = (self.rear_axle_m - state[_SLIP] * speed * speed) * turn
        middle = state[_YAW] + 0.5 * yaw_rate * dt
        cos, sin = math.cos(middle), math.sin(middle)
        dx = (speed * cos - lateral * sin) * dt
        dy = (speed * sin + lateral * cos) * dt
        state[_X] += dx
        state[_Y] += dy
        state[_YAW] = _wrap(state[_YAW] + yaw_rate * dt)
        jacobian = np.eye(6)
        jacobian[_X, _YAW], jacobian[_Y, _YAW] = -dy, dx
        swing = speed * speed * turn * dt
        jacobian[_X, _SLIP], jacobian[_Y, _SLIP] = swing * sin, -swing * cos
        p = jacobian @ self.covariance @ jacobian.T
        # q: along, across, yaw (variances of this step)
        along, across = q[0], q[1]
        p[_X, _X] += along * cos * cos + across * sin * sin
        p[_Y, _Y] += along * sin * sin + across * cos * cos
        p[_X, _Y] += (along - across) * sin * cos
        p[_Y, _X] = p[_X, _Y]
        p[_YAW, _YAW] += q[2]
        self.covariance = p

    def correct_yaw(self, yaw_rad: float, variance: float) -> None:
        """Compass."""
        gain = self.covariance[:, _YAW] / (self.covariance[_YAW, _YAW] + variance)
        self.state = self.state + gain * _wrap(yaw_rad - self.state[_YAW])
        self.state[_YAW] = _wrap(self.state[_YAW])
        self.covariance = self.covariance - np.outer(gain, self.covariance[_YAW])

    def correct_position(self, z: np.ndarray, lever: np.ndarray, variance: float, gate: float) -> bool:
        """A fix, in the plan's metres. `lever` is the antenna in the ego frame. False: rejected."""
        cos, sin = math.cos(self.state[_YAW]), math.sin(self.state[_YAW])
        arm = np.array([lever[0] * cos - lever[1] * sin, lever[0] * sin + lever[1] * cos])
        offset = self.state[:2] + arm - self.pivot
        kx, ky = self.state[_KX], self.sign * self.state[_KY]
        innovation = z - (self.pivot_z + np.array([kx * offset[0], ky * offset[1]]))
        h = np.zeros((2, 6))
        h[0, _X], h[1, _Y] = kx, ky
        h[0, _KX], h[1, _KY] = offset[0], self.sign * offset[1]
        h[0, _YAW], h[1, _YAW] = -kx * arm[1], ky * arm[0]
        ph = self.covariance @ h.T
        s = h @ ph
        s[0, 0] += variance
        s[1, 1] += variance
        det = s[0, 0] * s[1, 1] - s[0, 1] * s[1, 0]
        inverse = np.array([[s[1, 1], -s[0, 1]], [-s[1, 0], s[0, 0]]]) / det
        distance = float(innovation @ inverse @ innovation)
        self.log_odds -= min(0.5 * distance, _MAX_PENALTY) + 0.5 * math.log(det)
        if distance > gate * gate:
            self.rejected += 1
            return False
        self.rejected = 0
        gain = ph @ inverse
        self.state = self.state + gain @ innovation
        covariance = self.covariance - gain @ ph.T
        self.covariance = 0.5 * (covariance + covariance.T)
        return True


class Localizer:
    """Fuses GNSS, IMU and speedometer into an `EgoState` at the actor's transform.

    Args:
        projection: the plan's own relation of GPS to world.
        start_xy_in_world: (2,) the plan's first point, metres.
        start_yaw_deg: heading of the route there.
        config: noise levels.
        gnss_mount: where the antenna sits; its lever arm is removed.
    """

    def __init__(
        self,
        projection: PlanProjection,
        start_xy_in_world: np.ndarray,
        start_yaw_deg: float,
        config: LocalizationConfig | None = None,
        gnss_mount: MountConfig | None = None,
    ) -> None:
        self._config = config or LocalizationConfig()
        mount = gnss_mount or MountConfig(id="gnss")
        self._lever = np.array([mount.x, mount.y])
        self._projection = projection
        self._start_xy = np.asarray(start_xy_in_world, dtype=np.float64)[:2].copy()
        self._start_yaw = math.radians(start_yaw_deg)
        zero = np.zeros(2)
        self._hypotheses = [
            _Hypothesis(sign, prior, self._start_xy, self._start_yaw, self._config, zero, zero)
            for sign, prior in ((1, _PLAN_SIGN_LOG_PRIOR), (-1, 0.0))
        ]
        self._anchored = False
        self._first_fixes: list[np.ndarray] = []
        self._fixes = 0
        self._last_sim_s: float | None = None
        self._speed = 0.0
        self._acceleration = 0.0
        self._yaw_rate = 0.0
        self._compass_yaw: float | None = None
        self.rejected_fixes = 0

    @property
    def calibration(self) -> GnssCalibration:
        """What is believed of the GNSS sensor now."""
        best = self._best()
        return GnssCalibration(
            y_sign=best.sign,
            scale=(float(best.state[_KX]), float(best.state[_KY])),
            settled=len(self._hypotheses) == 1,
            anchored=self._anchored,
        )

    @property
    def position_sigma_m(self) -> float:
        """Standard deviation of the position that the filter believes, the larger axis."""
        p = self._best().covariance
        return math.sqrt(max(p[_X, _X], p[_Y, _Y]))

    def update(self, observation: Observation) -> EgoState:
        """Advance to the observation's time and correct by what it holds; call once a tick, in order."""
        dt = self._step_s(observation.sim_s)
        speed, yaw_rate = self._motion(observation, dt)
        if dt > 0.0:
            self._predict(observation, dt, speed, yaw_rate)
        self._speed, self._yaw_rate = speed, yaw_rate
        imu = observation.imu
        if imu is not None and imu.compass_rad is not None:
            yaw = _wrap(imu.compass_rad - math.pi / 2.0)
            for hypothesis in self._hypotheses:
                hypothesis.correct_yaw(yaw, math.radians(self._config.compass_sigma_deg) ** 2)
        source = "dead_reckoning" if self._fixes else "start"
        if observation.gnss is not None:
            fix = self._projection.to_world(observation.gnss.lat_deg, observation.gnss.lon_deg)
            if self._fix(fix):
                source = "fix"
        state = self._best().state
        return EgoState(
            frame=observation.frame,
            sim_s=observation.sim_s,
            position_in_world=state[:2].copy(),
            yaw_deg=wrap_deg(math.degrees(state[_YAW])),
            speed_mps=self._speed,
            acceleration_mps2=self._acceleration,
            yaw_rate_dps=math.degrees(self._yaw_rate),
            source=source,
        )

    def _step_s(self, sim_s: float) -> float:
        last, self._last_sim_s = self._last_sim_s, sim_s
        if last is None:
            return 0.0
        # a gap beyond a second is bridged as one second: the fixes will tell what happened in it
        return min(max(sim_s - last, 0.0), _MAX_STEP_S)

    def _motion(self, observation: Observation, dt: float) -> tuple[float, float]:
        """Speed [m/s] and yaw rate [rad/s] now, as far as the sensors tell."""
        imu = observation.imu
        speed = observation.speed_mps
        if speed is None:
            # hold, pushed by the accelerometer where there is one; never through zero
            push = float(imu.acceleration_mps2[0]) * dt if imu is not None else 0.0
            speed = self._speed + float(np.clip(push, -8.0 * dt, 8.0 * dt))
            if self._speed * speed < 0.0:
                speed = 0.0
        if dt > 0.0:
            slope = (speed - self._speed) / dt
            self._acceleration += 0.4 * (float(np.clip(slope, -12.0, 12.0)) - self._acceleration)
        yaw_rate = float(imu.angular_velocity_radps[2]) if imu is not None else 0.9 * self._yaw_rate
        return speed, yaw_rate

    def _predict(self, observation: Observation, dt: float, speed: float, yaw_rate: float) -> None:
        config = self._config
        mean_speed = 0.5 * (self._speed + speed)
        mean_yaw_rate = 0.5 * (self._yaw_rate + yaw_rate)
        speed_sigma = (
            config.speed_sigma_mps if observation.speed_mps is not None else _MISSING_SPEED_SIGMA_MPS
        )
        gyro_sigma = config.gyro_sigma_dps if observation.imu is not None else _MISSING_GYRO_SIGMA_DPS
        still = observation.speed_mps is not None and abs(mean_speed) < 0.02
        floor = 0.0 if still else _POSITION_NOISE_MPS**2 * dt
        along = floor + (0.0 if still else (speed_sigma * dt) ** 2)
        across = floor + (0.03 * mean_speed * dt) ** 2 + (0.15 * mean_yaw_rate * dt) ** 2
        q = np.array([along, across, (math.radians(gyro_sigma) * dt) ** 2 + 1e-10])
        for hypothesis in self._hypotheses:
            hypothesis.predict(dt, mean_speed, mean_yaw_rate, q)

    def _fix(self, fix: np.ndarray) -> bool:
        variance = self._config.gnss_sigma_m**2
        best = self._best()
        accepted = False
        for hypothesis in self._hypotheses:
            taken = hypothesis.correct_position(fix, self._lever, variance, self._config.gate_sigma)
            accepted |= taken and hypothesis is best
        self._fixes += 1
        self.rejected_fixes += not accepted
        if self._fixes <= _START_FIXES:
            self._first_fixes.append(fix)
            if self._fixes == _START_FIXES and all(h.rejected >= _START_FIXES - 1 for h in self._hypotheses):
                self._anchor()
                return True
        self._settle()
        best = self._best()
        if best.rejected >= _LOST_AFTER:
            _LOGGER.warning("localisation: %d fixes in a row disagree; taking them as true", best.rejected)
            best.covariance[_X, _X] += 100.0**2
            best.covariance[_Y, _Y] += 100.0**2
            best.rejected = 0
        return accepted

    def _settle(self) -> None:
        """Drop a sign that has become improbable."""
        if len(self._hypotheses) < 2:
            return
        first, second = sorted(self._hypotheses, key=lambda h: h.log_odds, reverse=True)
        if first.log_odds - second.log_odds > _SETTLED_LOG_ODDS and self._fixes >= 3:
            self._hypotheses = [first]
            if first.sign < 0:
                _LOGGER.info("localisation: the GNSS sensor's y is mirrored against the plan's")

    def _anchor(self) -> None:
        """No sign puts the first fixes at the route's start: tie the sensor to the start instead."""
        mean = np.median(np.array(self._first_fixes), axis=0)
        _LOGGER.warning(
            "localisation: the first fixes lie %.0f m from the route's start; the GNSS is tied to the start",
            float(np.hypot(*(mean - self._start_xy))),
        )
        self._anchored = True
        yaw = float(self._best().state[_YAW])
        position = self._best().state[:2].copy()
        self._hypotheses = [
            _Hypothesis(sign, 0.0, position, yaw, self._config, position.copy(), mean) for sign in (1, -1)
        ]

    def _best(self) -> _Hypothesis:
        if len(self._hypotheses) == 1:
            return self._hypotheses[0]
        return max(self._hypotheses, key=lambda h: h.log_odds)


def _wrap(angle_rad: float) -> float:
    return math.remainder(angle_rad, 2.0 * math.pi)
