"""`VehiclePhysicsControl` and telemetry on the wire, from and to `VehicleSpec`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.actors import Vehicle
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import VehicleSpec, WheelSpec
from tickdrive.leaderboard.simulator.physics.engine import Telemetry
from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.wire import RequestError

_CM = 100.0
_FIELDS = 17
(_TORQUE, _MAX_RPM, _FINAL_RATIO, _GEARS, _MASS, _DRAG, _WHEELS) = (0, 1, 9, 10, 11, 12, 15)
_SHIFT_DOWN, _SHIFT_UP = 0.5, 0.65


def pack_physics(spec: VehicleSpec, pose: Pose, applied: list[Any] | None) -> list[Any]:
    """`VehiclePhysicsControl`; what this physics has no use for is as last applied, else CARLA's default.

    Wheel positions are in centimetres in the world and radii in centimetres, as a CARLA server sends them.
    """
    matrix = pose.matrix()
    wheels = []
    for wheel in spec.wheels:
        place = (matrix @ np.array([*wheel.position, 1.0]))[:3] * _CM
        wheels.append(
            [
                wheel.tire_friction,
                0.25,
                wheel.max_steer_deg,
                wheel.radius_m * _CM,
                wheel.max_brake_torque_nm,
                wheel.max_handbrake_torque_nm,
                3.0,
                17.0,
                1000.0,
                wire.pack_vector(place),
            ]
        )
    out: list[Any] = list(applied) if applied is not None else [
        [], 0.0, 1.0, 0.15, 2.0, 0.35, True, 0.5, 10.0, 0.0, [], 0.0, 0.0, [0.0, 0.0, 0.0],
        [[0.0, 1.0], [20.0, 0.9], [120.0, 0.5]], [], True,
    ]  # fmt: skip
    out[_TORQUE] = [list(point) for point in spec.torque_curve]
    out[_MAX_RPM] = spec.max_rpm
    out[_FINAL_RATIO] = spec.final_ratio
    out[_GEARS] = [[ratio, _SHIFT_DOWN, _SHIFT_UP] for ratio in spec.forward_gears]
    out[_MASS] = spec.mass_kg
    out[_DRAG] = spec.drag_coefficient
    out[_WHEELS] = wheels
    return out


def unpack_physics(value: Any, spec: VehicleSpec) -> VehicleSpec:
    """The spec that a client's `VehiclePhysicsControl` asks for; physics checks that it can be simulated.

    Raises:
        RequestError: a value is of the wrong type, or the number of wheels differs.
    """
    items = wire.sequence(value, "physics control", _FIELDS, _FIELDS + 4)
    wheels = wire.sequence(items[_WHEELS], "wheels", 0, 32)
    if len(wheels) != len(spec.wheels):
        raise RequestError(f"{spec.type_id} has {len(spec.wheels)} wheels, got {len(wheels)}.")
    torque = []
    for item in wire.sequence(items[_TORQUE], "torque curve", 1, 256):
        rpm, torque_nm = wire.sequence(item, "torque curve", 2, 2)
        torque.append((wire.number(rpm, "torque curve"), wire.number(torque_nm, "torque curve")))
    gears = [
        wire.number(wire.sequence(item, "gear", 1, 3)[0], "gear ratio")
        for item in wire.sequence(items[_GEARS], "gears", 1, 32)
    ]
    return replace(
        spec,
        torque_curve=tuple(torque),
        max_rpm=wire.number(items[_MAX_RPM], "max rpm"),
        final_ratio=wire.number(items[_FINAL_RATIO], "final ratio"),
        forward_gears=tuple(gears),
        mass_kg=wire.number(items[_MASS], "mass"),
        drag_coefficient=wire.number(items[_DRAG], "drag coefficient"),
        wheels=tuple(_wheel(new, old) for new, old in zip(wheels, spec.wheels, strict=True)),
    )


def _wheel(value: Any, wheel: WheelSpec) -> WheelSpec:
    items = wire.sequence(value, "wheel", 6, 16)
    return replace(
        wheel,
        tire_friction=wire.number(items[0], "wheel.tire_friction"),
        max_steer_deg=wire.number(items[2], "wheel.max_steer_angle"),
        radius_m=wire.number(items[3], "wheel.radius") / _CM,
        max_brake_torque_nm=wire.number(items[4], "wheel.max_brake_torque"),
        max_handbrake_torque_nm=wire.number(items[5], "wheel.max_handbrake_torque"),
    )


def pack_telemetry(vehicle: Vehicle, telemetry: Telemetry) -> list[Any]:
    """`VehicleTelemetryData`; of a wheel it has friction and turning speed, its forces are not modelled."""
    wheels = [
        [
            wheel.tire_friction,
            0.0,
            0.0,
            telemetry.speed_mps / wheel.radius_m,
            *([0.0] * 7),
        ]
        for wheel in vehicle.spec.wheels
    ]
    return [
        telemetry.speed_mps,
        telemetry.steer,
        telemetry.throttle,
        telemetry.brake,
        telemetry.engine_rpm,
        # an integer: of a float the client says std::bad_cast
        int(telemetry.gear),
        telemetry.drag_n,
        wheels,
    ]
