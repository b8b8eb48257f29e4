"""What a vehicle must be to be simulated."""

from __future__ import annotations

import math

from tickdrive.leaderboard.simulator.interfaces import VehicleSpec
from tickdrive.leaderboard.simulator.physics.bodies import MAX_GEARS, MAX_TORQUE_POINTS
from tickdrive.planner.errors import ServerError


def check_spec(spec: VehicleSpec) -> None:
    """Refuse a vehicle that cannot be simulated; clients can ask for one by `apply_physics_control`.

    Raises:
        ServerError: names the value that is wrong.
    """

    def require(fine: bool, what: str, mend: str) -> None:
        if not fine:
            raise ServerError(f"{spec.type_id}: {what}.", mend)

    def finite(*values: float) -> bool:
        return all(math.isfinite(value) for value in values)

    def positive(*values: float) -> bool:
        return finite(*values) and min(values) > 0.0

    require(positive(spec.mass_kg), f"the mass is {spec.mass_kg} kg", "Give a positive mass.")
    for wheel in spec.wheels:
        require(
            positive(wheel.radius_m), f"a wheel's radius is {wheel.radius_m} m", "Give a positive radius."
        )
        require(finite(*wheel.position), f"a wheel is at {wheel.position}", "Give finite positions.")
        require(
            finite(wheel.tire_friction, wheel.max_brake_torque_nm, wheel.max_handbrake_torque_nm)
            and min(wheel.tire_friction, wheel.max_brake_torque_nm, wheel.max_handbrake_torque_nm) >= 0.0,
            "a wheel's friction or brake torque is negative or not finite",
            "Give values of 0 or more.",
        )
        require(
            0.0 <= wheel.max_steer_deg < 90.0,
            f"a wheel steers by {wheel.max_steer_deg} degrees",
            "Give an angle from 0 to below 90.",
        )
    require(
        any(wheel.position[0] > 0.0 for wheel in spec.wheels)
        and any(wheel.position[0] < 0.0 for wheel in spec.wheels),
        "the wheels are not before and behind the centre",
        "Give at least one wheel with positive and one with negative x.",
    )
    require(
        1 <= len(spec.forward_gears) <= MAX_GEARS and positive(*spec.forward_gears),
        f"the forward gears are {spec.forward_gears}",
        f"Give 1 to {MAX_GEARS} positive ratios.",
    )
    rpms = [rpm for rpm, _ in spec.torque_curve]
    require(
        1 <= len(rpms) <= MAX_TORQUE_POINTS
        and finite(*rpms, *(torque for _, torque in spec.torque_curve))
        and rpms == sorted(rpms),
        f"the torque curve has {len(rpms)} points or they are not in order",
        f"Give 1 to {MAX_TORQUE_POINTS} points with rising rpm.",
    )
    require(
        positive(spec.max_rpm, spec.final_ratio) and finite(spec.drag_coefficient),
        "max_rpm, the final ratio or the drag coefficient is out of range",
        "Give positive, finite numbers.",
    )
