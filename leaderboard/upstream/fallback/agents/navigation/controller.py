"""PID control of speed and steering, with the gains' meaning and the limits of CARLA's `controller.py`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import carla

from ..tools.misc import get_speed

_REMEMBERED = 10
_STEER_STEP = 0.1
"""Steering moves by no more than this in a step."""


class _Pid:
    """A PID term over the last errors; output in [-1, 1]."""

    def __init__(self, K_P: float = 1.0, K_I: float = 0.0, K_D: float = 0.0, dt: float = 0.03) -> None:
        self._errors: deque[float] = deque(maxlen=_REMEMBERED)
        self.change_parameters(K_P, K_I, K_D, dt)

    def change_parameters(self, K_P: float, K_I: float, K_D: float, dt: float) -> None:
        """Change the gains and the time of a step, s."""
        self._k_p, self._k_i, self._k_d, self._dt = K_P, K_I, K_D, dt

    def _respond(self, error: float) -> float:
        self._errors.append(error)
        out = self._k_p * error
        if len(self._errors) >= 2:
            out += self._k_d * (self._errors[-1] - self._errors[-2]) / self._dt
            out += self._k_i * sum(self._errors) * self._dt
        return max(-1.0, min(1.0, out))


class PIDLongitudinalController(_Pid):
    """Speed: positive is throttle, negative brake."""

    def __init__(self, vehicle: carla.Vehicle, **gains: float) -> None:
        super().__init__(**gains)
        self._vehicle = vehicle

    def run_step(self, target_speed: float, debug: bool = False) -> float:
        """Pedal position for a speed in km/h."""
        return self._respond(target_speed - get_speed(self._vehicle))


class PIDLateralController(_Pid):
    """Steering towards a waypoint, or `offset` metres right of it."""

    def __init__(self, vehicle: carla.Vehicle, offset: float = 0, **gains: float) -> None:
        super().__init__(**gains)
        self._vehicle = vehicle
        self._offset = offset

    def set_offset(self, offset: float) -> None:
        """Change the offset; scenario_runner also writes `_offset`."""
        self._offset = offset

    def run_step(self, waypoint: carla.Waypoint) -> float:
        """Steering in [-1, 1], positive to the right."""
        here = self._vehicle.get_transform()
        goal = waypoint.transform.location
        if self._offset:
            right = waypoint.transform.get_right_vector()
            goal = goal + carla.Location(x=self._offset * right.x, y=self._offset * right.y)
        ahead = here.get_forward_vector()
        x, y = goal.x - here.location.x, goal.y - here.location.y
        if not (x or y):
            return self._respond(1.0)  # CARLA's own: no direction counts as one radian
        return self._respond(math.atan2(ahead.x * y - ahead.y * x, ahead.x * x + ahead.y * y))


class VehiclePIDController:
    """Both together."""

    def __init__(
        self,
        vehicle: carla.Vehicle,
        args_lateral: Mapping[str, Any],
        args_longitudinal: Mapping[str, Any],
        offset: float = 0,
        max_throttle: float = 0.75,
        max_brake: float = 0.3,
        max_steering: float = 0.8,
    ) -> None:
        self.max_brake, self.max_throt, self.max_steer = max_brake, max_throttle, max_steering
        self.past_steering = vehicle.get_control().steer
        self._lon_controller = PIDLongitudinalController(vehicle, **args_longitudinal)
        self._lat_controller = PIDLateralController(vehicle, offset, **args_lateral)

    def run_step(self, target_speed: float, waypoint: carla.Waypoint) -> carla.VehicleControl:
        """Control towards a waypoint at a speed in km/h."""
        pedal = self._lon_controller.run_step(target_speed)
        steer = self._lat_controller.run_step(waypoint)
        steer = max(self.past_steering - _STEER_STEP, min(self.past_steering + _STEER_STEP, steer))
        self.past_steering = max(-self.max_steer, min(self.max_steer, steer))
        return carla.VehicleControl(
            throttle=max(0.0, min(pedal, self.max_throt)),
            brake=max(0.0, min(-pedal, self.max_brake)),
            steer=self.past_steering,
        )

    def change_longitudinal_PID(self, args_longitudinal: Mapping[str, Any]) -> None:
        """Change the gains of the speed."""
        self._lon_controller.change_parameters(**args_longitudinal)

    def change_lateral_PID(self, args_lateral: Mapping[str, Any]) -> None:
        """Change the gains of the steering."""
        self._lat_controller.change_parameters(**args_lateral)

    def set_offset(self, offset: float) -> None:
        """Drive so many metres right of the waypoints."""
        self._lat_controller.set_offset(offset)
