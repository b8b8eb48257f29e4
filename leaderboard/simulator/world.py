"""One episode: its actors, its clock, and how a tick moves them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tickdrive.leaderboard.simulator.actors import (
    Actor,
    FrictionTrigger,
    SensorActor,
    TrafficLight,
    TrafficSign,
    Vehicle,
    Walker,
    into_frame,
)
from tickdrive.leaderboard.simulator.episode import Town
from tickdrive.leaderboard.simulator.geometry import Pose, compose, rotation_matrix
from tickdrive.leaderboard.simulator.interfaces import (
    Box,
    Contact,
    DrawnActor,
    LightColour,
    Tag,
    VehicleCommand,
    Weather,
)
from tickdrive.leaderboard.simulator.physics.engine import PhysicsEngine
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.street_lights import StreetLights
from tickdrive.leaderboard.simulator.towns.lights import TrafficLightSystem

AnyActor = TypeVar("AnyActor", bound=Actor)

#: speed limits change rarely and cost a map look-up each: every vehicle asks once in so many ticks
_SPEED_LIMIT_TICKS = 10
_LIGHT_BOX = Box(Pose(z=2.0), (0.3, 0.3, 2.0))
_SIGN_BOX = Box(Pose(z=1.25), (0.1, 0.4, 1.25))
_SPECTATOR = Pose(z=30.0, pitch=-30.0)


class Ids:
    """Counters that outlive episodes: actor ids, stream ids and frames never repeat."""

    def __init__(self, first_stream: int) -> None:
        self.actor = 0
        self.stream = first_stream
        self.frame = 0

    def next_actor(self) -> int:
        """A fresh actor id."""
        self.actor += 1
        return self.actor

    def next_stream(self) -> int:
        """A fresh stream id."""
        self.stream += 1
        return self.stream


class World:
    """The state of an episode. Iteration is by actor id everywhere, so equal inputs give equal worlds.

    Args:
        town: where it takes place.
        seed: of everything random on the server's side.
        episode_id: number of the episode.
        ids: counters shared with earlier episodes.
        on_removed: called for every actor that goes.
    """

    def __init__(
        self,
        town: Town,
        seed: int,
        episode_id: int,
        ids: Ids,
        on_removed: Callable[[Actor], None] = lambda actor: None,
    ) -> None:
        self.town = town
        self.seed = seed
        self.episode_id = episode_id
        self.elapsed_s = 0.0
        self._ticks = 0
        self.weather = Weather()
        self.actors: dict[int, Actor] = {}
        self.physics = PhysicsEngine(town.scene.ground, town.scene.solids)
        furniture = town.network.furniture
        self.street_lights = StreetLights(town.scene.lamps.positions)
        self.lights = TrafficLightSystem(furniture.lights, seed)
        self._ids = ids
        self._on_removed = on_removed
        self._spawned_sensors = 0
        self._first_id = ids.actor
        self._triggers: list[FrictionTrigger] = []
        self.spectator = self.add(Actor(self.new_id(), "spectator", 0, (), _SPECTATOR))
        self.light_by_sign: dict[str, TrafficLight] = {}
        for light in furniture.lights:
            self.light_by_sign[light.sign_id] = self.add(
                TrafficLight(
                    self.new_id(),
                    "traffic.traffic_light",
                    0,
                    (),
                    light.pose,
                    _LIGHT_BOX,
                    (Tag.TRAFFIC_LIGHT,),
                    spec=light,
                    trigger=into_frame(light.pose, light.trigger),
                )
            )
        for sign in furniture.signs:
            self.add(
                TrafficSign(
                    self.new_id(),
                    sign.type_id,
                    0,
                    (),
                    sign.pose,
                    _SIGN_BOX,
                    (Tag.TRAFFIC_SIGN,),
                    spec=sign,
                    trigger=into_frame(sign.pose, sign.trigger),
                )
            )

    @property
    def frame(self) -> int:
        """Number of the last tick; grows over episodes."""
        return self._ids.frame

    def new_id(self) -> int:
        """A fresh actor id."""
        return self._ids.next_actor()

    def new_stream(self) -> int:
        """A fresh stream id."""
        return self._ids.next_stream()

    def noise_seed(self, sensor_seed: int) -> list[int]:
        """Seed of a new sensor's noise: the world's, the sensor's own, and its place in the episode."""
        self._spawned_sensors += 1
        return [self.seed, sensor_seed & 0xFFFFFFFF, self._spawned_sensors]

    def add(self, actor: AnyActor) -> AnyActor:
        """Take in an actor; its id must be fresh."""
        self.actors[actor.actor_id] = actor
        if isinstance(actor, FrictionTrigger):
            self._triggers.append(actor)
        return actor

    def remove(self, actor_id: int) -> None:
        """Take out an actor and all that is mounted on it.

        Raises:
            RequestError: there is no such actor, or it is a part of the town.
        """
        actor = self.get(actor_id)
        if actor is self.spectator or isinstance(actor, TrafficLight | TrafficSign):
            raise RequestError(f"{actor.type_id} (id={actor_id}) is a part of the town and stays.")
        for child in [each for each in self.actors.values() if each.parent_id == actor_id]:
            self.remove(child.actor_id)
        del self.actors[actor_id]
        if actor.is_solid:
            self.physics.remove(actor_id)
        if isinstance(actor, FrictionTrigger):
            self._triggers.remove(actor)
            self._set_friction()
        self._on_removed(actor)

    def get(self, actor_id: int) -> Actor:
        """An actor by id.

        Raises:
            RequestError: there is none.
        """
        actor = self.actors.get(actor_id)
        if actor is None:
            raise RequestError(f"actor not found (id={actor_id}).")
        return actor

    def get_as(self, actor_id: int, kind: type[AnyActor]) -> AnyActor:
        """An actor by id that must be of a kind.

        Raises:
            RequestError: there is none, or it is of another kind.
        """
        actor = self.get(actor_id)
        if not isinstance(actor, kind):
            raise RequestError(f"{actor.type_id} (id={actor_id}) is no {kind.__name__.lower()}.")
        return actor

    def of_kind(self, kind: type[AnyActor]) -> Iterator[AnyActor]:
        """All actors of a kind, by id."""
        return (each for each in self.actors.values() if isinstance(each, kind))

    def place(self, actor: Actor, pose: Pose) -> None:
        """Teleport; for a mounted actor `pose` is relative to its parent, as on a CARLA server."""
        if actor.pose_in_parent is not None and actor.parent_id in self.actors:
            actor.pose_in_parent = pose
            actor.pose = compose(self.actors[actor.parent_id].pose, pose)
        else:
            actor.pose = pose
        if actor.is_solid:
            self.physics.set_pose(actor.actor_id, actor.pose)
        self._move_mounted()

    def tick(self, delta_s: float) -> list[Contact]:
        """Advance by one step and return who touched whom."""
        self.lights.step(delta_s)
        for vehicle in self.of_kind(Vehicle):
            if vehicle.ackermann is not None:
                command = ackermann_command(vehicle, delta_s)
                if command != vehicle.command:
                    vehicle.command = command
                    self.physics.set_vehicle_command(vehicle.actor_id, command)
        if self._triggers:
            self._set_friction()
        contacts = self.physics.step(delta_s)
        self._ids.frame += 1
        self.elapsed_s += delta_s
        self._ticks += 1
        self._read_back(delta_s)
        self._move_mounted()
        return contacts

    def _set_friction(self) -> None:
        """Give vehicles the tyre friction of the trigger that their centre is in, or their own again."""
        for vehicle in self.of_kind(Vehicle):
            inside = [each for each in self._triggers if _contains(each, vehicle.box_in_world().pose)]
            friction = inside[-1].tire_friction if inside else None
            if friction == vehicle.slippery:
                continue
            vehicle.slippery, spec = friction, vehicle.spec
            if friction is not None:
                wheels = tuple(replace(wheel, tire_friction=friction) for wheel in spec.wheels)
                spec = replace(spec, wheels=wheels)
            self.physics.set_vehicle_spec(vehicle.actor_id, spec)

    def skip_frame(self) -> None:
        """Number a snapshot without moving anything."""
        self._ids.frame += 1

    def _read_back(self, delta_s: float) -> None:
        for actor in self.actors.values():
            if not actor.is_solid or actor.pose_in_parent is not None:
                continue
            motion = self.physics.kinematics(actor.actor_id)
            actor.pose = motion.pose
            actor.velocity = motion.velocity
            actor.angular_velocity = motion.angular_velocity
            actor.acceleration = motion.acceleration
            if isinstance(actor, Vehicle):
                actor.gear, actor.engine_rpm = motion.gear, motion.engine_rpm
                self._look_around(actor)
            elif isinstance(actor, Walker):
                actor.stride_m += float(np.hypot(motion.velocity[0], motion.velocity[1])) * delta_s

    def _look_around(self, vehicle: Vehicle) -> None:
        sign_id = self.lights.governing_light(vehicle.pose, vehicle.box)
        vehicle.light_id = 0 if sign_id is None else self.light_by_sign[sign_id].actor_id
        # counted within the episode, as frames and ids go on over episodes
        if (self._ticks + vehicle.actor_id - self._first_id) % _SPEED_LIMIT_TICKS == 0:
            vehicle.speed_limit_kmh = self.town.network.speed_limit_kmh(vehicle.pose)

    def _move_mounted(self) -> None:
        """Parents have lower ids than what is mounted on them, so one pass in id order is enough."""
        for actor in self.actors.values():
            if actor.pose_in_parent is None:
                continue
            parent = self.actors[actor.parent_id]
            actor.pose = compose(parent.pose, actor.pose_in_parent)
            actor.velocity = parent.velocity
            actor.angular_velocity = parent.angular_velocity
            actor.acceleration = parent.acceleration
            if actor.is_solid:
                self.physics.set_pose(actor.actor_id, actor.pose)

    def light_colours(self) -> Mapping[str, LightColour]:
        """Colour of every signal head, by OpenDRIVE id."""
        return {sign_id: self.lights.colour(sign_id) for sign_id in self.light_by_sign}

    def drawn_actors(self) -> list[DrawnActor]:
        """What the renderer has to draw besides the town."""
        drawn = []
        for actor in self.actors.values():
            if not actor.is_solid:
                continue
            vehicle = actor if isinstance(actor, Vehicle) else None
            drawn.append(
                DrawnActor(
                    actor.actor_id,
                    actor.type_id,
                    actor.pose,
                    actor.box,
                    vehicle.colour_rgb if vehicle else (128, 128, 128),
                    actor.tags[0] if actor.tags else Tag.NONE,
                    vehicle.lit_flags(self.elapsed_s) if vehicle else 0,
                    actor.stride_m if isinstance(actor, Walker) else 0.0,
                    vehicle.open_doors if vehicle else 0,
                )
            )
        return drawn

    def sensors(self) -> list[SensorActor]:
        """All sensors, by id."""
        return list(self.of_kind(SensorActor))


def _contains(trigger: FrictionTrigger, pose: Pose) -> bool:
    frame = trigger.pose
    offset = rotation_matrix(frame.pitch, frame.yaw, frame.roll).T @ (pose.location - frame.location)
    return bool(np.all(np.abs(offset) <= trigger.box.extent))


def ackermann_command(vehicle: Vehicle, delta_s: float) -> VehicleCommand:
    """Pedals and steer for CARLA's Ackermann target: proportional in speed, capped by the acceleration asked.

    Simpler than Unreal's `AckermannController.cpp` (two PID loops), with the same inputs and steady state.
    """
    assert vehicle.ackermann is not None
    steer_rad, steer_speed_rps, speed_mps, acceleration_mps2 = vehicle.ackermann
    widest = math.radians(max((wheel.max_steer_deg for wheel in vehicle.spec.wheels), default=35.0)) or 0.6
    steer = max(-1.0, min(1.0, steer_rad / widest))
    if steer_speed_rps > 0.0:
        change = steer_speed_rps * delta_s / widest
        steer = min(vehicle.command.steer + change, max(vehicle.command.steer - change, steer))
    yaw = math.radians(vehicle.pose.yaw)
    forward_mps = float(vehicle.velocity[0] * math.cos(yaw) + vehicle.velocity[1] * math.sin(yaw))
    reverse = speed_mps < 0.0
    error = abs(speed_mps) - (-forward_mps if reverse else forward_mps)
    wanted = 1.5 * error
    if acceleration_mps2 > 0.0:
        wanted = max(-acceleration_mps2, min(acceleration_mps2, wanted))
    if speed_mps == 0.0 and abs(forward_mps) < 0.3:
        return replace(vehicle.command, throttle=0.0, steer=steer, brake=1.0, hand_brake=False)
    # a car's full throttle is worth about 4 m/s2 and its full brake about 8; rolling needs a little
    throttle = max(0.0, min(1.0, (wanted + 0.3) / 4.0)) if wanted > -0.3 else 0.0
    brake = 0.0 if throttle > 0.0 else max(0.0, min(1.0, -wanted / 8.0))
    return VehicleCommand(throttle, steer, brake, False, reverse)
