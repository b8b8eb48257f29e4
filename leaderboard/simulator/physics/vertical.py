"""Motion up and down: bodies follow the ground, fall where there is none, and take its slope."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

GRAVITY_MPS2 = 9.81
# ground this much above a body is a roof over it, not something it stands on (scenarios park actors below)
REACH_UP_M = 1.0
# ground this much below a body is out of its springs' reach: it falls
REACH_DOWN_M = 0.2
SPRING_TIME_S = 0.05
JUMP_MPS = 3.5
#: a vehicle that comes down faster strikes the ground with more than its wheels (a fall of 1.8 m)
HARD_LANDING_MPS = 6.0
_AT_REST = 1e-4
_MIN_HALF_TRACK_M = 0.15  # two-wheelers

_VEHICLE, _WALKER = 0, 1


@njit(cache=True)
def sample_points(bodies: np.ndarray, points: np.ndarray) -> None:
    """Places whose ground height `settle` needs: (N, 4, 3); below four wheels, or four times the origin.

    The third coordinate is the height of the body's foot, the hint for the ground's layer.
    """
    for i in range(bodies.shape[0]):
        body = bodies[i]
        foot = body.z if body.kind == _VEHICLE else body.z + body.box_z - body.half_z
        cos, sin = math.cos(body.yaw), math.sin(body.yaw)
        side = max(body.half_track, _MIN_HALF_TRACK_M)
        for k in range(4):
            x = y = 0.0
            if body.kind == _VEHICLE:
                x = body.front_axle if k < 2 else -body.rear_axle
                y = -side if k % 2 == 0 else side
            points[i, k, 0] = body.x + cos * x - sin * y
            points[i, k, 1] = body.y + sin * x + cos * y
            points[i, k, 2] = foot


@njit(cache=True)
def _follow(now: float, target: float, share: float) -> float:
    """First-order approach that arrives."""
    step = target - now
    return target if abs(step) < _AT_REST else now + step * share


@njit(cache=True)
def settle(bodies: np.ndarray, heights: np.ndarray, dt: float) -> None:
    """Vertical motion over one step, and the accelerations of the whole step.

    Args:
        bodies: records after the plane's motion.
        heights: (N, 4) ground heights at `sample_points`, NaN where there is none.
        dt: seconds of the whole step.
    """
    share = 1.0 - math.exp(-dt / SPRING_TIME_S)
    for i in range(bodies.shape[0]):
        body = bodies[i]
        pitch_before, roll_before = body.pitch, body.roll
        body.landing_ns = 0.0
        if body.simulated:
            offset = 0.0 if body.kind == _VEHICLE else body.half_z - body.box_z
            ground = (heights[i, 0] + heights[i, 1] + heights[i, 2] + heights[i, 3]) / 4.0
            rest = ground + offset
            if body.jump and body.grounded:
                body.vz = JUMP_MPS
                body.grounded = 0
            body.jump = 0
            falling = 0.0 if body.grounded else -body.vz
            supported = rest <= body.z + REACH_UP_M  # false for NaN
            near = supported and (body.z <= rest + REACH_DOWN_M if body.grounded else body.z <= rest)
            if near and body.vz <= JUMP_MPS * 0.9:
                cos, sin = math.cos(body.yaw), math.sin(body.yaw)
                if body.kind == _VEHICLE:
                    base = body.front_axle + body.rear_axle
                    track = 2.0 * max(body.half_track, _MIN_HALF_TRACK_M)
                    up_front = (heights[i, 0] + heights[i, 1] - heights[i, 2] - heights[i, 3]) / 2.0
                    up_right = (heights[i, 1] + heights[i, 3] - heights[i, 0] - heights[i, 2]) / 2.0
                    body.slope_pitch = math.atan2(up_front, base)
                    body.slope_roll = -math.atan2(up_right, track)
                # along the slope first, so that only bumps are smoothed and a ramp is followed without lag
                along = body.vx * cos + body.vy * sin
                across = -body.vx * sin + body.vy * cos
                ahead = along * math.tan(body.slope_pitch) - across * math.tan(body.slope_roll)
                z = _follow(body.z + dt * ahead, rest, share)
                body.vz = (z - body.z) / dt
                if z != body.z:
                    body.moved = 1
                body.z = z
                body.grounded = 1
            else:
                body.grounded = 0
                body.vz += dt * (body.force_z / body.mass - GRAVITY_MPS2)
                body.z += dt * body.vz
                if supported and body.z <= rest:
                    body.z, body.vz, body.grounded = rest, 0.0, 1
                body.moved = 1
            if body.grounded and falling > HARD_LANDING_MPS and body.kind == _VEHICLE:
                body.landing_ns = body.mass * falling
            if body.held and body.held_vz != 0.0:
                body.vz = body.held_vz
            if body.kind == _VEHICLE:
                if (
                    body.vx == 0.0
                    and body.vy == 0.0
                    and abs(body.lean_pitch) + abs(body.lean_roll) < _AT_REST
                ):
                    body.lean_pitch = body.lean_roll = 0.0
                body.pitch = _follow(body.pitch, body.slope_pitch + body.lean_pitch, share)
                body.roll = _follow(body.roll, body.slope_roll + body.lean_roll, share)
        body.pitch_rate = (body.pitch - pitch_before) / dt
        body.roll_rate = (body.roll - roll_before) / dt
        body.ax = (body.vx - body.before_vx) / dt
        body.ay = (body.vy - body.before_vy) / dt
        body.az = (body.vz - body.before_vz) / dt
        body.before_vx, body.before_vy, body.before_vz = body.vx, body.vy, body.vz
        body.force_x = body.force_y = body.force_z = 0.0


def heights_of(ground: object, points: np.ndarray) -> np.ndarray:
    """(N,) heights of `interfaces.Ground` at (N, 3) points."""
    height = ground.height  # type: ignore[attr-defined]
    return np.array([height(x, y, z) for x, y, z in points.tolist()])
