"""The state of everything that physics moves: one record an actor, in a numpy array that numba works on.

Angles are radians and lengths metres, in CARLA's left-handed world frame (x forward, y right, z up; yaw turns
x towards y, positive pitch lifts the nose, positive roll lowers the right side). The array is kept in the
order of actor ids, so results depend on the ids alone, not on the order of calls.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, VehicleSpec

# one record of an array of `BODY`; numba reads its fields as attributes, which numpy's types do not know
Body: TypeAlias = Any

VEHICLE = 0
WALKER = 1
PROP = 2

MAX_GEARS = 12
MAX_TORQUE_POINTS = 32

# friction of CARLA's asphalt times `tire_friction`: 3.5, the default, becomes mu = 1.05, a good dry road
FRICTION_PER_TIRE_FRICTION = 0.3
WALKER_MASS_KG = 75.0

_FLOATS = (
    # pose and motion in the world; before_* is the velocity at the end of the last step
    *("x", "y", "z", "yaw", "pitch", "roll", "vx", "vy", "vz", "yaw_rate"),
    *("before_vx", "before_vy", "before_vz", "ax", "ay", "az", "pitch_rate", "roll_rate"),
    # bounding box in the actor's frame: centre, yaw, half sizes
    *("box_x", "box_y", "box_z", "box_yaw", "half_x", "half_y", "half_z"),
    *("mass", "inertia", "force_x", "force_y", "force_z"),
    # slope of the ground below; impulse of a hard landing in the last step
    *("slope_pitch", "slope_roll", "landing_ns"),
    # velocity a client holds constant, in the actor's frame
    *("held_vx", "held_vy", "held_vz"),
    # walkers: wanted direction and speed; seconds left on the ground after being hit
    *("walk_x", "walk_y", "walk_speed", "knocked_s", "stride"),
    # vehicles: what the client commands, and what reaches engine, brakes and wheels
    *("throttle_command", "brake_command", "steer_command", "hand_brake_command"),
    *("throttle", "brake", "steer", "hand_brake", "road_wheel", "shift_s", "rpm"),
    *("along_acceleration", "lean_pitch", "lean_roll"),
    # vehicles: parameters, see `set_vehicle_parameters`
    *("front_axle", "rear_axle", "half_track", "cg_height", "wheel_radius", "friction"),
    *("front_stiffness", "rear_stiffness", "max_steer", "brake_torque", "hand_brake_torque"),
    *("drag_area", "peak_torque", "max_rpm", "final_ratio"),
)
_INTEGERS = (
    *("actor_id", "kind", "simulated", "collides", "held", "grounded", "blocked", "jump", "moved", "tag"),
    *("reverse_command", "manual_command", "gear_command", "gear", "gears_count", "torque_count"),
)
BODY = np.dtype(
    [(name, np.float64) for name in _FLOATS]
    + [(name, np.int64) for name in _INTEGERS]
    + [
        ("gears", np.float64, (MAX_GEARS,)),
        ("torque_rpm", np.float64, (MAX_TORQUE_POINTS,)),
        ("torque_nm", np.float64, (MAX_TORQUE_POINTS,)),
    ],
    align=True,
)


def new_body(actor_id: int, kind: int, tag: int, box: Box, pose: Pose, mass_kg: float) -> np.ndarray:
    """One record (shape (1,)) at rest at a pose."""
    body = np.zeros(1, BODY)
    body["actor_id"], body["kind"], body["tag"] = actor_id, kind, tag
    body["simulated"] = body["collides"] = body["moved"] = 1
    body["mass"] = mass_kg
    place(body[0], pose)
    set_box(body[0], box)
    return body


def place(body: Body, pose: Pose) -> None:
    """Put a body at a pose; its velocity stays."""
    body["x"], body["y"], body["z"] = pose.x, pose.y, pose.z
    body["yaw"], body["pitch"], body["roll"] = (math.radians(a) for a in (pose.yaw, pose.pitch, pose.roll))
    body["lean_pitch"] = body["lean_roll"] = 0.0
    body["moved"] = 1


def set_box(body: Body, box: Box) -> None:
    """Take over a bounding box; inertia is that of a homogeneous box about the vertical axis."""
    body["box_x"], body["box_y"], body["box_z"] = box.pose.x, box.pose.y, box.pose.z
    body["box_yaw"] = math.radians(box.pose.yaw)
    body["half_x"], body["half_y"], body["half_z"] = box.extent
    body["inertia"] = body["mass"] * (box.extent[0] ** 2 + box.extent[1] ** 2) / 3.0


def set_vehicle_parameters(body: Body, spec: VehicleSpec) -> None:
    """Take over the dynamics of a vehicle.

    Args:
        body: one record.
        spec: checked by `checks.check_spec`.
    """
    front = [wheel for wheel in spec.wheels if wheel.position[0] >= 0.0]
    rear = [wheel for wheel in spec.wheels if wheel.position[0] < 0.0]
    body["mass"] = spec.mass_kg
    set_box(body, spec.box)
    body["front_axle"] = sum(wheel.position[0] for wheel in front) / len(front)
    body["rear_axle"] = -sum(wheel.position[0] for wheel in rear) / len(rear)
    body["half_track"] = max(abs(wheel.position[1]) for wheel in spec.wheels)
    body["cg_height"] = 0.7 * spec.box.extent[2]
    body["wheel_radius"] = sum(wheel.radius_m for wheel in spec.wheels) / len(spec.wheels)
    body["friction"] = (
        FRICTION_PER_TIRE_FRICTION * sum(wheel.tire_friction for wheel in spec.wheels) / len(spec.wheels)
    )
    # slip stiffness of an axle per newton of its load; the front's is lower, so cars understeer a little
    body["front_stiffness"], body["rear_stiffness"] = 12.0, 13.0
    body["max_steer"] = math.radians(max(wheel.max_steer_deg for wheel in spec.wheels))
    body["brake_torque"] = sum(wheel.max_brake_torque_nm for wheel in spec.wheels)
    body["hand_brake_torque"] = sum(wheel.max_handbrake_torque_nm for wheel in rear)
    frontal_area_m2 = 0.85 * 4.0 * spec.box.extent[1] * spec.box.extent[2]
    body["drag_area"] = spec.drag_coefficient * frontal_area_m2
    body["peak_torque"] = max(torque for _, torque in spec.torque_curve)
    body["max_rpm"], body["final_ratio"] = spec.max_rpm, spec.final_ratio
    body["gears_count"], body["torque_count"] = len(spec.forward_gears), len(spec.torque_curve)
    body["gears"][: len(spec.forward_gears)] = spec.forward_gears
    body["torque_rpm"][: len(spec.torque_curve)] = [rpm for rpm, _ in spec.torque_curve]
    body["torque_nm"][: len(spec.torque_curve)] = [torque for _, torque in spec.torque_curve]
