"""Our control as CARLA takes it."""

from __future__ import annotations

import carla

from tickdrive.agents.control import Control


def vehicle_control(control: Control) -> carla.VehicleControl:
    """Pedals and wheel in CARLA's own type; gears are CARLA's business."""
    return carla.VehicleControl(
        throttle=control.throttle,
        steer=control.steer,
        brake=control.brake,
        hand_brake=False,
        reverse=False,
        manual_gear_shift=False,
    )
