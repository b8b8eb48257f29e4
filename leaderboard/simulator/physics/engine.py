"""The physics engine: what the world asks of vehicles, walkers and props, and the step that moves them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import (
    Box,
    Contact,
    Ground,
    Kinematics,
    SolidBox,
    Tag,
    VehicleCommand,
    VehicleSpec,
)
from tickdrive.leaderboard.simulator.physics import bodies as bd
from tickdrive.leaderboard.simulator.physics.checks import check_spec
from tickdrive.leaderboard.simulator.physics.collide import (
    CELL_M,
    PLAN_COLUMNS,
    SolidGrid,
    first_overlap,
    resolve,
)
from tickdrive.leaderboard.simulator.physics.dynamics import AIR_DENSITY_KGPM3, advance
from tickdrive.leaderboard.simulator.physics.vertical import heights_of, sample_points, settle
from tickdrive.planner.errors import ServerError

SUBSTEP_S = 0.005
_PROP_DENSITY_KGPM3 = 60.0


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What `carla.Vehicle.get_telemetry_data` tells of a vehicle; forces in newtons.

    `throttle`, `brake` and `steer` are what has reached engine, brakes and wheels, which lags the command.
    """

    speed_mps: float
    steer: float
    throttle: float
    brake: float
    engine_rpm: float
    gear: int
    drag_n: float


class PhysicsEngine:
    """Moves actors; knows nothing of clients, episodes or sensors.

    Deterministic: the same calls give bitwise the same states, whatever else was added and removed before.

    Args:
        ground: height of the drivable surface.
        layout: the town's solid boxes; only their yaw is used, they stand upright.
    """

    def __init__(self, ground: Ground, layout: Sequence[SolidBox]) -> None:
        self._ground = ground
        self._solids = SolidGrid(tuple(layout))
        self._bodies: np.ndarray = np.zeros(0, bd.BODY)
        self._index: Mapping[int, int] = {}
        self._heights: np.ndarray = np.zeros((0, 4))
        self._contacts = np.zeros((1024, 2), np.int64)
        self._sums = np.zeros((1024, 2))
        self._reindex()

    # adding and removing

    def add_vehicle(self, actor_id: int, spec: VehicleSpec, pose: Pose) -> None:
        """Add a vehicle at rest.

        Raises:
            ServerError: the spec cannot be simulated, or the id is taken.
        """
        check_spec(spec)
        body = bd.new_body(actor_id, bd.VEHICLE, int(spec.tag), spec.box, pose, spec.mass_kg)
        bd.set_vehicle_parameters(body[0], spec)
        body["gear"], body["rpm"] = 1, 0.0
        self._insert(actor_id, body)

    def add_walker(self, actor_id: int, box: Box, pose: Pose) -> None:
        """Add a walker at rest; the origin of its frame is CARLA's, the centre of the box."""
        self._insert(
            actor_id, bd.new_body(actor_id, bd.WALKER, int(Tag.PEDESTRIAN), box, pose, bd.WALKER_MASS_KG)
        )

    def add_prop(self, actor_id: int, box: Box, pose: Pose, tag: Tag) -> None:
        """Add a prop. It stands fast until `set_simulate_physics` lets it be pushed, as CARLA's props do."""
        half_x, half_y, half_z = box.extent
        mass = min(max(_PROP_DENSITY_KGPM3 * 8.0 * half_x * half_y * half_z, 1.0), 200.0)
        body = bd.new_body(actor_id, bd.PROP, int(tag), box, pose, mass)
        body["simulated"] = 0
        self._insert(actor_id, body)

    def remove(self, actor_id: int) -> None:
        """Remove an actor."""
        index = self._at(actor_id)
        self._bodies = np.delete(self._bodies, index)
        self._heights = np.delete(self._heights, index, 0)
        self._reindex()

    def _insert(self, actor_id: int, body: np.ndarray) -> None:
        if actor_id in self._index or actor_id <= 0:
            raise ServerError(
                f"Physics cannot take an actor with id {actor_id}.", "Ids are positive and used once."
            )
        index = int(np.searchsorted(self._bodies["actor_id"], actor_id))
        self._bodies = np.insert(self._bodies, index, body[0])
        self._heights = np.insert(self._heights, index, 0.0, 0)
        self._reindex()

    def _reindex(self) -> None:
        self._index = {int(actor_id): k for k, actor_id in enumerate(self._bodies["actor_id"])}
        self._plans = np.zeros((len(self._bodies), PLAN_COLUMNS))
        self._points = np.zeros((len(self._bodies), 4, 3))

    def _at(self, actor_id: int) -> int:
        try:
            return self._index[actor_id]
        except KeyError:
            raise ServerError(
                f"Physics has no actor with id {actor_id}.", "It was removed, or never had a body."
            ) from None

    def _body(self, actor_id: int) -> bd.Body:
        return self._bodies[self._at(actor_id)]

    # what clients ask for

    def set_vehicle_spec(self, actor_id: int, spec: VehicleSpec) -> None:
        """Change a vehicle's dynamics while it drives (`apply_physics_control`).

        Raises:
            ServerError: the spec cannot be simulated.
        """
        check_spec(spec)
        body = self._body(actor_id)
        bd.set_vehicle_parameters(body, spec)
        body["gear"] = min(int(body["gear"]), len(spec.forward_gears))

    def set_vehicle_command(self, actor_id: int, command: VehicleCommand) -> None:
        """Hold a control until the next one; values beyond their range are clipped, as CARLA clips them."""
        body = self._body(actor_id)
        body["throttle_command"] = _clipped(command.throttle, 0.0, 1.0)
        body["brake_command"] = _clipped(command.brake, 0.0, 1.0)
        body["steer_command"] = _clipped(command.steer, -1.0, 1.0)
        body["hand_brake_command"] = 1.0 if command.hand_brake else 0.0
        body["reverse_command"] = command.reverse
        body["manual_command"] = command.manual_gear_shift
        body["gear_command"] = max(-1, min(command.gear, bd.MAX_GEARS))

    def set_walker_control(
        self, actor_id: int, direction_in_world: Sequence[float] | np.ndarray, speed_mps: float, jump: bool
    ) -> None:
        """Walk: (3,) direction (its plan part is used, normalised), speed, and whether to jump once."""
        body = self._body(actor_id)
        x, y = float(direction_in_world[0]), float(direction_in_world[1])
        length = math.hypot(x, y)
        usable = math.isfinite(length) and length > 1e-9
        body["walk_x"], body["walk_y"] = (x / length, y / length) if usable else (0.0, 0.0)
        body["walk_speed"] = max(speed_mps, 0.0) if math.isfinite(speed_mps) else 0.0
        body["jump"] = jump

    def set_pose(self, actor_id: int, pose: Pose) -> None:
        """Put an actor somewhere; it keeps its velocity."""
        bd.place(self._body(actor_id), pose)

    def set_velocity(self, actor_id: int, velocity_in_world: Sequence[float] | np.ndarray) -> None:
        """Set the velocity once, (3,) m/s; forces change it from there."""
        body = self._body(actor_id)
        body["vx"], body["vy"], body["vz"] = velocity_in_world

    def set_angular_velocity(self, actor_id: int, dps: Sequence[float] | np.ndarray) -> None:
        """Set the yaw rate once, from (3,) degrees per second about world x, y, z; bodies do not tumble."""
        self._body(actor_id)["yaw_rate"] = math.radians(dps[2])

    def set_constant_velocity(
        self, actor_id: int, velocity_in_vehicle: Sequence[float] | np.ndarray | None
    ) -> None:
        """Hold a velocity, (3,) m/s in the vehicle's frame, until None lets go."""
        body = self._body(actor_id)
        body["held"] = velocity_in_vehicle is not None
        body["held_vx"], body["held_vy"], body["held_vz"] = (
            velocity_in_vehicle if velocity_in_vehicle is not None else (0.0, 0.0, 0.0)
        )

    def set_simulate_physics(self, actor_id: int, simulate: bool) -> None:
        """Without physics an actor stays where it is put, at velocity zero, and others bounce off it."""
        body = self._body(actor_id)
        body["simulated"] = simulate
        body["vx"] = body["vy"] = body["vz"] = body["yaw_rate"] = 0.0
        body["moved"] = 1

    def set_collisions(self, actor_id: int, collides: bool) -> None:
        """Whether an actor meets anything but the ground."""
        self._body(actor_id)["collides"] = collides

    def add_impulse(self, actor_id: int, impulse_ns: Sequence[float] | np.ndarray) -> None:
        """Change the momentum at once by (3,) N s in the world frame."""
        body = self._body(actor_id)
        for axis, part in zip(("vx", "vy", "vz"), impulse_ns, strict=True):
            body[axis] += part / body["mass"]
        if impulse_ns[2] > 0.0:
            body["grounded"] = 0

    def add_force(self, actor_id: int, force_n: Sequence[float] | np.ndarray) -> None:
        """Apply (3,) newtons in the world frame during the next step."""
        body = self._body(actor_id)
        for axis, part in zip(("force_x", "force_y", "force_z"), force_n, strict=True):
            body[axis] += part

    # stepping

    def step(self, dt_s: float) -> list[Contact]:
        """Advance everything.

        Args:
            dt_s: seconds, cut into substeps of at most `SUBSTEP_S`.

        Returns:
            What collided: each pair of actors from both sides, the town from the actor's side.

        Raises:
            ServerError: the step is not positive, or a body has left all bounds.
        """
        if not (math.isfinite(dt_s) and dt_s > 0.0):
            raise ServerError(
                f"A physics step of {dt_s} s is impossible.", "Give a positive number of seconds."
            )
        bodies, solids = self._bodies, self._solids
        substeps = max(1, math.ceil(dt_s / SUBSTEP_S - 1e-9))
        h = dt_s / substeps
        count = 0
        for _ in range(substeps):
            advance(bodies, h)
            count = resolve(
                *(bodies, self._plans, solids.plans, solids.starts, solids.items, solids.frame, CELL_M),
                *(self._contacts, self._sums, count),
            )
            if count < 0:  # the table is full: the pair that found no place is resolved, not reported
                count = len(self._contacts)
        self._sample_ground()
        settle(bodies, self._heights, dt_s)
        return self._reported(count)

    def _sample_ground(self) -> None:
        """Refresh the ground's height below whatever has moved."""
        moved = np.flatnonzero((self._bodies["moved"] != 0) & (self._bodies["simulated"] != 0))
        self._bodies["moved"] = 0
        if not len(moved):
            return
        sample_points(self._bodies, self._points)
        wheeled = self._bodies["kind"][moved] == bd.VEHICLE
        for some, samples in ((moved[wheeled], 4), (moved[~wheeled], 1)):
            if len(some):
                points = self._points[some, :samples].reshape(-1, 3)
                self._heights[some] = heights_of(self._ground, points).reshape(-1, samples)

    def _reported(self, count: int) -> list[Contact]:
        out = []
        for (first, second), (jx, jy) in zip(
            self._contacts[:count].tolist(), self._sums[:count].tolist(), strict=True
        ):
            a = self._bodies[first]
            impulse = np.array([jx, jy, 0.0])
            if second < 0:
                out.append(Contact(int(a["actor_id"]), 0, Tag(int(self._solids.tags[-1 - second])), impulse))
                continue
            b = self._bodies[second]
            out.append(Contact(int(a["actor_id"]), int(b["actor_id"]), Tag(int(b["tag"])), impulse))
            out.append(Contact(int(b["actor_id"]), int(a["actor_id"]), Tag(int(a["tag"])), -impulse))
        for row in np.flatnonzero(self._bodies["landing_ns"]).tolist():
            body = self._bodies[row]
            impulse = np.array([0.0, 0.0, float(body["landing_ns"])])
            out.append(Contact(int(body["actor_id"]), 0, Tag.GROUND, impulse))
        return out

    # asking

    def kinematics(self, actor_id: int) -> Kinematics:
        """Motion of an actor after the last step."""
        return _kinematics(tuple(self._body(actor_id).item()))

    def telemetry(self, actor_id: int) -> Telemetry:
        """A vehicle's engine, pedals and drag."""
        body = self._body(actor_id)
        speed = math.hypot(body["vx"], body["vy"])
        return Telemetry(
            speed_mps=speed,
            steer=float(body["steer"]),
            throttle=float(body["throttle"]),
            brake=float(body["brake"]),
            engine_rpm=float(body["rpm"]),
            gear=int(body["gear"]),
            drag_n=float(0.5 * AIR_DENSITY_KGPM3 * body["drag_area"] * speed * speed),
        )

    def stride_m(self, actor_id: int) -> float:
        """Distance a walker has walked."""
        return float(self._body(actor_id)["stride"])

    def wheel_steer_deg(self, actor_id: int, wheel_index: int) -> float:
        """Angle of a wheel (front left, front right, rear left, rear right), positive to the right."""
        body = self._body(actor_id)
        if wheel_index not in (0, 1) or body["road_wheel"] == 0.0:
            return 0.0
        # Ackermann's rule: all wheels turn about one point on the rear axle's line
        cotangent = 1.0 / math.tan(body["road_wheel"])
        base = body["front_axle"] + body["rear_axle"]
        side = body["half_track"] if wheel_index == 1 else -body["half_track"]
        return math.degrees(math.atan(1.0 / (cotangent - side / base)))

    def overlap(self, box_in_world: Box, ignore: frozenset[int] = frozenset()) -> int | None:
        """Whether a box is free.

        Returns:
            The lowest id of the actors it overlaps, 0 where it overlaps only the town, None where it is free.
        """
        pose, (half_x, half_y, half_z) = box_in_world.pose, box_in_world.extent
        yaw = math.radians(pose.yaw)
        box = np.array(
            [
                *(pose.x, pose.y, math.cos(yaw), math.sin(yaw), half_x, half_y),
                *(pose.z - half_z, pose.z + half_z, math.hypot(half_x, half_y)),
            ]
        )
        ignored = np.isin(self._bodies["actor_id"], list(ignore))
        found = first_overlap(self._bodies, self._solids.plans, box, ignored)
        if found == len(self._bodies):
            return None
        return 0 if found < 0 else int(self._bodies["actor_id"][found])


def _clipped(value: float, low: float, high: float) -> float:
    """`value` within bounds; 0 for what is not a number."""
    return 0.0 if math.isnan(value) else max(low, min(high, value))


_COLUMN = {name: k for k, name in enumerate(bd.BODY.names or ())}
_POSE = [_COLUMN[name] for name in ("x", "y", "z", "pitch", "yaw", "roll")]


def _kinematics(row: tuple) -> Kinematics:
    x, y, z, pitch, yaw, roll = (row[k] for k in _POSE)

    def get(name: str) -> Any:
        return row[_COLUMN[name]]

    cos, sin = math.cos(yaw), math.sin(yaw)
    # positive pitch and roll rates turn against y and x: v = omega x r in the left-handed frame
    along, across = -get("roll_rate"), -get("pitch_rate")
    return Kinematics(
        pose=Pose(x, y, z, math.degrees(pitch), math.degrees(yaw), math.degrees(roll)),
        velocity=np.array([get("vx"), get("vy"), get("vz")]),
        angular_velocity=np.degrees(
            [along * cos - across * sin, along * sin + across * cos, get("yaw_rate")]
        ),
        acceleration=np.array([get("ax"), get("ay"), get("az")]),
        gear=get("gear"),
        engine_rpm=get("rpm"),
    )
