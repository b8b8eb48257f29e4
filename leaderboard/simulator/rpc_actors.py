"""RPC methods about actors: spawning, moving, controlling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator import vehicle_wire
from tickdrive.leaderboard.simulator.actors import NO_BOX, Actor, Vehicle, Walker
from tickdrive.leaderboard.simulator.geometry import Pose, rotation_matrix
from tickdrive.leaderboard.simulator.physics.engine import PhysicsEngine
from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.rpc import value, void
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.simulation import Simulation
from tickdrive.leaderboard.simulator.spawn import spawn
from tickdrive.leaderboard.simulator.world import World

_MAX_WALK_MPS = 20.0
_ATTACHMENTS = range(4)


class ActorService:
    """RPC methods of actors.

    Args:
        simulation: what they act on.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation

    @property
    def _world(self) -> World:
        return self._sim.world

    def _actor(self, actor_id: Any) -> Actor:
        return self._world.get(wire.integer(actor_id, "actor"))

    def _vehicle(self, actor_id: Any) -> Vehicle:
        return self._world.get_as(wire.integer(actor_id, "actor"), Vehicle)

    def _walker(self, actor_id: Any) -> Walker:
        return self._world.get_as(wire.integer(actor_id, "actor"), Walker)

    def _body(self, actor_id: Any) -> tuple[Actor, PhysicsEngine]:
        actor = self._actor(actor_id)
        if not actor.is_solid:
            raise RequestError(f"{actor.type_id} (id={actor.actor_id}) has no physics.")
        return actor, self._world.physics

    # existence

    @value
    def spawn_actor(self, description: Any, transform: Any) -> list[Any]:
        """Spawn in the world; `rpc::Actor`."""
        return self._sim.describe(spawn(self._world, description, transform, None))

    @value
    def spawn_actor_with_parent(
        self, description: Any, transform: Any, parent: Any, attachment: Any = 0, socket: Any = ""
    ) -> list[Any]:
        """Spawn mounted on another actor; every attachment type is rigid."""
        if wire.integer(attachment, "attachment", 0, 255) not in _ATTACHMENTS:
            raise RequestError(f"Attachment type {attachment} is unknown.")
        parent_id = wire.integer(parent, "parent")
        return self._sim.describe(spawn(self._world, description, transform, parent_id))

    @value
    def destroy_actor(self, actor_id: Any) -> bool:
        """Destroy an actor and what is mounted on it."""
        self._world.remove(wire.integer(actor_id, "actor"))
        return True

    @value
    def get_actors_by_id(self, ids: Any) -> list[Any]:
        """`rpc::Actor` of those that live."""
        numbers = [wire.integer(each, "actor") for each in wire.sequence(ids, "ids")]
        actors = self._world.actors
        return [self._sim.describe(actors[each]) for each in numbers if each in actors]

    @value
    def get_actor_bounding_box(self, actor_id: Any) -> list[Any]:
        """Box in the actor's frame; of a missing actor a zero box, as a CARLA server answers."""
        actor = self._world.actors.get(wire.integer(actor_id, "actor"))
        return wire.pack_box(NO_BOX if actor is None else actor.box, 0 if actor is None else actor.actor_id)

    # motion

    @void
    def set_actor_location(self, actor_id: Any, location: Any) -> None:
        """Teleport, keeping the rotation."""
        actor = self._actor(actor_id)
        x, y, z = wire.vector(location, "location")
        now = actor.pose if actor.pose_in_parent is None else actor.pose_in_parent
        self._world.place(actor, Pose(x, y, z, now.pitch, now.yaw, now.roll))

    @void
    def set_actor_transform(self, actor_id: Any, transform: Any) -> None:
        """Teleport."""
        self._world.place(self._actor(actor_id), wire.pose(transform))

    @void
    def set_actor_target_velocity(self, actor_id: Any, velocity: Any) -> None:
        """Velocity from the next step on, m/s in the world."""
        actor, physics = self._body(actor_id)
        physics.set_velocity(actor.actor_id, np.array(wire.vector(velocity, "velocity")))

    @void
    def set_actor_target_angular_velocity(self, actor_id: Any, velocity: Any) -> None:
        """Turn rate from the next step on, degrees per second in the world."""
        actor, physics = self._body(actor_id)
        physics.set_angular_velocity(actor.actor_id, np.array(wire.vector(velocity, "angular velocity")))

    @void
    def enable_actor_constant_velocity(self, actor_id: Any, velocity: Any) -> None:
        """Hold a velocity in the vehicle's frame."""
        actor, physics = self._body(actor_id)
        physics.set_constant_velocity(actor.actor_id, np.array(wire.vector(velocity, "velocity")))

    @void
    def disable_actor_constant_velocity(self, actor_id: Any) -> None:
        """Let go."""
        actor, physics = self._body(actor_id)
        physics.set_constant_velocity(actor.actor_id, None)

    @void
    def add_actor_impulse(self, actor_id: Any, impulse: Any) -> None:
        """Impulse at the centre of mass, N s in the world."""
        actor, physics = self._body(actor_id)
        physics.add_impulse(actor.actor_id, np.array(wire.vector(impulse, "impulse")))

    @void
    def add_actor_impulse_at_location(self, actor_id: Any, impulse: Any, location: Any) -> None:
        """Impulse at a point: its push, and its turn about z."""
        actor, physics = self._body(actor_id)
        push = np.array(wire.vector(impulse, "impulse"))
        arm = np.array(wire.vector(location, "location")) - actor.pose.location
        physics.add_impulse(actor.actor_id, push)
        self._turn(actor, float(np.cross(arm, push)[2]))

    @void
    def add_actor_force(self, actor_id: Any, force: Any) -> None:
        """Force during the next step, N in the world."""
        actor, physics = self._body(actor_id)
        physics.add_force(actor.actor_id, np.array(wire.vector(force, "force")))

    @void
    def add_actor_force_at_location(self, actor_id: Any, force: Any, location: Any) -> None:
        """Force at a point during the next step: its push, and its turn about z."""
        actor, physics = self._body(actor_id)
        push = np.array(wire.vector(force, "force"))
        arm = np.array(wire.vector(location, "location")) - actor.pose.location
        physics.add_force(actor.actor_id, push)
        self._turn(actor, float(np.cross(arm, push)[2]) * self._sim.settings.delta_s)

    @void
    def add_actor_angular_impulse(self, actor_id: Any, impulse: Any) -> None:
        """Angular impulse, N m s in the world; bodies turn about z only."""
        actor, _ = self._body(actor_id)
        self._turn(actor, wire.vector(impulse, "angular impulse")[2])

    @void
    def add_actor_torque(self, actor_id: Any, torque: Any) -> None:
        """Torque during the next step, N m in the world; bodies turn about z only."""
        actor, _ = self._body(actor_id)
        self._turn(actor, wire.vector(torque, "torque")[2] * self._sim.settings.delta_s)

    def _turn(self, actor: Actor, angular_impulse_nms: float) -> None:
        mass_kg = actor.spec.mass_kg if isinstance(actor, Vehicle) else 75.0
        half_x, half_y, _ = actor.box.extent
        inertia = mass_kg * (half_x**2 + half_y**2) / 3.0
        change_dps = math.degrees(angular_impulse_nms / max(inertia, 1.0))
        rate = np.array([0.0, 0.0, float(actor.angular_velocity[2]) + change_dps])
        self._world.physics.set_angular_velocity(actor.actor_id, rate)

    @void
    def set_actor_simulate_physics(self, actor_id: Any, enabled: Any) -> None:
        """Switch an actor's physics."""
        actor, physics = self._body(actor_id)
        physics.set_simulate_physics(actor.actor_id, wire.boolean(enabled, "enabled"))

    @void
    def set_actor_collisions(self, actor_id: Any, enabled: Any) -> None:
        """Switch an actor's collisions."""
        actor, physics = self._body(actor_id)
        physics.set_collisions(actor.actor_id, wire.boolean(enabled, "enabled"))

    @void
    def set_actor_enable_gravity(self, actor_id: Any, enabled: Any) -> None:
        """Without gravity an actor keeps its height: here that is without physics for walkers and props."""
        actor, physics = self._body(actor_id)
        on = wire.boolean(enabled, "enabled")
        if not isinstance(actor, Vehicle):
            physics.set_simulate_physics(actor.actor_id, on)

    @void
    def set_actor_dead(self, actor_id: Any) -> None:
        """The actor stays where it is, without collisions."""
        actor, physics = self._body(actor_id)
        physics.set_simulate_physics(actor.actor_id, False)
        physics.set_collisions(actor.actor_id, False)

    # vehicles

    @void
    def apply_control_to_vehicle(self, actor_id: Any, control: Any) -> None:
        """`VehicleControl`, held until the next."""
        vehicle = self._vehicle(actor_id)
        vehicle.command, vehicle.ackermann = wire.vehicle_control(control), None
        self._world.physics.set_vehicle_command(vehicle.actor_id, vehicle.command)

    @void
    def apply_ackermann_control_to_vehicle(self, actor_id: Any, control: Any) -> None:
        """Ackermann target: steer rad, steer speed rad/s, speed m/s, acceleration m/s2, jerk (not used)."""
        vehicle = self._vehicle(actor_id)
        items = wire.sequence(control, "control", 5, 6)
        steer, rate, speed, acceleration = (wire.number(each, "control") for each in items[:4])
        vehicle.ackermann = (steer, abs(rate), speed, abs(acceleration))

    @value
    def get_ackermann_controller_settings(self, actor_id: Any) -> list[float]:
        """Gains as last set."""
        return list(self._vehicle(actor_id).ackermann_settings)

    @void
    def apply_ackermann_controller_settings(self, actor_id: Any, settings: Any) -> None:
        """Kept and given back; the controller here has one loop."""
        items = wire.sequence(settings, "settings", 6, 6)
        self._vehicle(actor_id).ackermann_settings = tuple(wire.number(each, "settings") for each in items)

    @value
    def get_physics_control(self, actor_id: Any) -> list[Any]:
        """`VehiclePhysicsControl`."""
        vehicle = self._vehicle(actor_id)
        return vehicle_wire.pack_physics(vehicle.spec, vehicle.pose, vehicle.physics_control)

    @void
    def apply_physics_control(self, actor_id: Any, control: Any) -> None:
        """Mass, engine, gears, drag, wheels' friction, radius, steer and brakes; the rest is kept as text."""
        vehicle = self._vehicle(actor_id)
        spec = vehicle_wire.unpack_physics(control, vehicle.spec)
        self._world.physics.set_vehicle_spec(vehicle.actor_id, spec)
        vehicle.spec, vehicle.physics_control = spec, list(control)

    @value
    def get_telemetry_data(self, actor_id: Any) -> list[Any]:
        """Speed, steer, throttle, brake, engine speed, gear, drag, wheels."""
        vehicle = self._vehicle(actor_id)
        return vehicle_wire.pack_telemetry(vehicle, self._world.physics.telemetry(vehicle.actor_id))

    @void
    def show_vehicle_debug_telemetry(self, actor_id: Any, enabled: Any = True) -> None:
        """There is no window to show it in."""
        self._vehicle(actor_id)

    @value
    def get_vehicle_light_state(self, actor_id: Any) -> list[int]:
        """`VehicleLightState` bits."""
        return [self._vehicle(actor_id).light_flags]

    @void
    def set_vehicle_light_state(self, actor_id: Any, state: Any) -> None:
        """Set the bits; cameras see brake lights, indicators and head lights."""
        flags = state[0] if isinstance(state, list) and state else state
        self._vehicle(actor_id).light_flags = wire.integer(flags, "light state")

    @value
    def get_vehicle_light_states(self) -> list[Any]:
        """(id, bits) of every vehicle."""
        return [[each.actor_id, each.light_flags] for each in self._world.of_kind(Vehicle)]

    @value
    def get_wheel_steer_angle(self, actor_id: Any, wheel: Any) -> float:
        """Steer angle of a wheel in degrees."""
        vehicle = self._vehicle(actor_id)
        return self._world.physics.wheel_steer_deg(vehicle.actor_id, wire.integer(wheel, "wheel", 0, 255))

    @void
    def set_actor_autopilot(self, actor_id: Any, enabled: Any) -> None:
        """The Traffic Manager registers the vehicle in the client; nothing to do here."""
        self._vehicle(actor_id)

    @void
    def restore_physx_physics(self, actor_id: Any) -> None:
        """The physics were never changed."""

    # walkers

    @void
    def apply_control_to_walker(self, actor_id: Any, control: Any) -> None:
        """`WalkerControl`: direction in the world, speed m/s, jump."""
        walker = self._walker(actor_id)
        direction, speed, jump = wire.sequence(control, "control", 3, 3)
        walker.direction = wire.vector(direction, "control.direction")
        walker.speed_mps = max(0.0, min(_MAX_WALK_MPS, wire.number(speed, "control.speed")))
        walker.jump = wire.boolean(jump, "control.jump")
        self._world.physics.set_walker_control(
            walker.actor_id, np.array(walker.direction), walker.speed_mps, walker.jump
        )

    @void
    def set_walker_state(self, actor_id: Any, transform: Any, speed: Any) -> None:
        """Teleport a walker that walks at a speed along its heading."""
        walker = self._walker(actor_id)
        pose = wire.pose(transform)
        self._world.place(walker, pose)
        forward = rotation_matrix(0.0, pose.yaw, 0.0)[:, 0]
        walker.direction = (float(forward[0]), float(forward[1]), 0.0)
        walker.speed_mps = max(0.0, min(_MAX_WALK_MPS, wire.number(speed, "speed")))
        self._world.physics.set_walker_control(walker.actor_id, forward, walker.speed_mps, False)
