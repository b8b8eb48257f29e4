"""Drives one vehicle of a scenario along a path, without the Traffic Manager.

A vehicle of the Traffic Manager must be taken out of it before the world changes, and its way cannot be
prescribed; so scenario vehicles are steered here. Steering is pure pursuit (Coulter 1992): steering angle
= atan(2 L sin(alpha) / d) with wheelbase L, look-ahead distance d and angle alpha to the point there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import carla
import numpy as np

_WHEELBASE_SHARE = 0.6  # of a vehicle's length
_LOOK_AHEAD_S = 0.6
_LOOK_AHEAD_MIN_M = 4.0
_SEARCH_POINTS = 20
_ARRIVED_M = 2.0
_STANDSTILL_GAP_M = 2.0
_BESIDE_M = 0.4


@dataclass(frozen=True)
class Obstacle:
    """Another vehicle or walker: (2,) position [m], (2,) velocity [m/s], half its length and width [m]."""

    actor_id: int
    position_in_world: np.ndarray
    velocity_in_world: np.ndarray
    half_length_m: float
    half_width_m: float


class PathDriver:
    """Drives a vehicle along a path at a speed.

    Args:
        vehicle: at the path's start or somewhere on it, looking along it.
        path_in_world: (N, 2) or (N, 3) points [m], about 2 m apart; heights are not used.
        speed_mps: to keep.
        constant: hold the speed whatever comes (CARLA's `enable_constant_velocity`), as upstream's flows and
            constant-velocity agents do; otherwise throttle and brake.
        obstacles: if given, the driver slows down for what it returns that is on its path.
        braking_mps2: with which it counts on stopping in time.

    Attributes:
        speed_mps: may be changed at any time.
        brakes: full brake, whatever the speed.
    """

    def __init__(
        self,
        vehicle: carla.Vehicle,
        path_in_world: np.ndarray,
        speed_mps: float,
        constant: bool = False,
        obstacles: Callable[[], Sequence[Obstacle]] | None = None,
        braking_mps2: float = 4.0,
    ) -> None:
        self.vehicle = vehicle
        self.speed_mps = speed_mps
        self.brakes = False
        self._path = path_in_world[:, :2]
        steps_m = np.linalg.norm(np.diff(self._path, axis=0), axis=1)
        self._travelled_m = np.concatenate(([0.0], np.cumsum(steps_m)))
        self._constant = constant
        self._obstacles = obstacles
        self._braking_mps2 = braking_mps2
        extent = vehicle.bounding_box.extent
        self._half_length_m, self._half_width_m = extent.x, extent.y
        self._wheelbase_m = 2 * extent.x * _WHEELBASE_SHARE
        self._max_steer = math.radians(max(w.max_steer_angle for w in vehicle.get_physics_control().wheels))
        self._index = 0
        self._held_mps: float | None = None
        self._ticks = 0

    @property
    def left_m(self) -> float:
        """Path still ahead."""
        return float(self._travelled_m[-1] - self._travelled_m[self._index])

    def position(self) -> np.ndarray:
        """(2,) where the vehicle is; in the tick in which it was spawned, the path's start."""
        if self._ticks <= 1:
            return np.asarray(self._path[0])
        at = self.vehicle.get_location()
        return np.array((at.x, at.y))

    def step(self) -> bool:
        """Drive one tick; whether the path's end is reached."""
        self._ticks += 1
        if self._ticks == 1:
            return False  # spawned in this tick: its transform is known from the next one on
        transform, velocity = self.vehicle.get_transform(), self.vehicle.get_velocity()
        here = np.array((transform.location.x, transform.location.y))
        speed_mps = math.hypot(velocity.x, velocity.y)
        window = self._path[self._index : self._index + _SEARCH_POINTS]
        self._index += int(np.argmin(np.linalg.norm(window - here, axis=1)))
        if self.left_m < _ARRIVED_M:
            return True
        wanted_mps = 0.0 if self.brakes else min(self.speed_mps, self._allowed_mps())
        control = carla.VehicleControl(steer=self._steer(transform, speed_mps))
        if self._constant:
            self._hold(wanted_mps)
            control.throttle = 0.3 if wanted_mps > 0 else 0.0  # wheels turn and riders pedal
        else:
            error = wanted_mps - speed_mps
            control.throttle = (
                min(max(0.3 * error + 0.2, 0.0), 0.9) if error > -0.3 and wanted_mps > 0 else 0.0
            )
            control.brake = min(max(-0.4 * error, 0.0), 1.0) if error < -0.3 else 0.0
            if self.brakes or wanted_mps == 0.0:
                control.brake = 1.0
        self.vehicle.apply_control(control)
        return False

    def watch(self, obstacles: Callable[[], Sequence[Obstacle]]) -> None:
        """From now on drive by throttle and brake, and slow down for what is on the path."""
        self._obstacles = obstacles
        if self._constant:
            self._constant = False
            self.let_go()

    def let_go(self) -> None:
        """Hold no speed any more."""
        if self._held_mps is not None and self.vehicle.is_alive:
            self.vehicle.disable_constant_velocity()
        self._held_mps = None

    def _hold(self, speed_mps: float) -> None:
        if self._held_mps is None or abs(speed_mps - self._held_mps) > 0.05:
            self.vehicle.enable_constant_velocity(carla.Vector3D(speed_mps, 0.0, 0.0))
            self._held_mps = speed_mps

    def _steer(self, transform: carla.Transform, speed_mps: float) -> float:
        ahead_m = max(_LOOK_AHEAD_MIN_M, _LOOK_AHEAD_S * speed_mps)
        further = np.searchsorted(self._travelled_m, self._travelled_m[self._index] + ahead_m)
        target = self._path[min(int(further), len(self._path) - 1)]
        yaw = math.radians(transform.rotation.yaw)
        rear_m = 0.5 * self._wheelbase_m
        dx = target[0] - transform.location.x + rear_m * math.cos(yaw)
        dy = target[1] - transform.location.y + rear_m * math.sin(yaw)
        alpha = math.atan2(dy, dx) - yaw
        angle = math.atan(2 * self._wheelbase_m * math.sin(alpha) / max(math.hypot(dx, dy), 1.0))
        return min(max(angle / self._max_steer, -1.0), 1.0)

    def _allowed_mps(self) -> float:
        """What lets the vehicle stop behind whatever is on its path: v^2 = u^2 + 2 b d."""
        if self._obstacles is None:
            return math.inf
        reach_m = 10.0 + self.speed_mps**2 / (2 * self._braking_mps2)
        end = int(np.searchsorted(self._travelled_m, self._travelled_m[self._index] + reach_m)) + 1
        ahead = self._path[self._index : end]
        along = ahead[-1] - ahead[0]
        allowed = math.inf
        for other in self._obstacles():
            if other.actor_id == self.vehicle.id:
                continue
            distances = np.linalg.norm(ahead - other.position_in_world, axis=1)
            nearest = int(np.argmin(distances))
            if distances[nearest] > self._half_width_m + other.half_width_m + _BESIDE_M or nearest == 0:
                continue
            gap_m = float(self._travelled_m[self._index + nearest] - self._travelled_m[self._index])
            gap_m -= self._half_length_m + other.half_length_m + _STANDSTILL_GAP_M
            direction = along / max(float(np.linalg.norm(along)), 1e-6)
            its_mps = max(float(other.velocity_in_world @ direction), 0.0)
            allowed = min(allowed, math.sqrt(max(its_mps**2 + 2 * self._braking_mps2 * gap_m, 0.0)))
        return allowed
