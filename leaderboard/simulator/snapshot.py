"""The world frame: the state of every actor, as clients see the world."""

from __future__ import annotations

import time

from tickdrive.leaderboard.simulator.actors import Actor, TrafficLight, TrafficSign, Vehicle, Walker
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import LightColour
from tickdrive.leaderboard.simulator.protocol import frames
from tickdrive.leaderboard.simulator.protocol.frames import SensorKind
from tickdrive.leaderboard.simulator.world import World

_ACTIVE = 1
_NO_FAILURE = 0
_NOWHERE = Pose()


def world_frame(world: World, delta_s: float, map_changed: bool, lights_changed: bool = False) -> bytes:
    """Header, episode state, and 119 bytes for every live actor.

    Clients take `get_actors()`, `is_alive` and every transform from here alone, so every actor is listed.
    """
    episode = frames.EPISODE_STATE.pack(
        world.episode_id,
        time.time(),
        delta_s,
        0,
        0,
        0,
        frames.MAP_CHANGED * map_changed + frames.LIGHTS_CHANGED * lights_changed,
    )
    return b"".join(
        (
            frames.header(SensorKind.WORLD, world.frame, world.elapsed_s, _NOWHERE),
            episode,
            *(_actor_state(world, actor) for actor in world.actors.values()),
        )
    )


def _actor_state(world: World, actor: Actor) -> bytes:
    pose = actor.pose
    return frames.ACTOR_STATE.pack(
        actor.actor_id,
        _ACTIVE,
        pose.x,
        pose.y,
        pose.z,
        pose.pitch,
        pose.yaw,
        pose.roll,
        *actor.velocity,
        *actor.angular_velocity,
        *actor.acceleration,
        _kind_state(world, actor),
    )


def _kind_state(world: World, actor: Actor) -> bytes:
    if isinstance(actor, Vehicle):
        colour = LightColour.GREEN
        light = world.actors.get(actor.light_id)
        if isinstance(light, TrafficLight):
            colour = world.lights.colour(light.spec.sign_id)
        command = actor.command
        return frames.VEHICLE_STATE.pack(
            command.throttle,
            command.steer,
            command.brake,
            command.hand_brake,
            command.reverse,
            command.manual_gear_shift,
            command.gear if command.manual_gear_shift else actor.gear,
            actor.speed_limit_kmh,
            colour,
            actor.light_id != 0,
            actor.light_id,
            _NO_FAILURE,
        )
    if isinstance(actor, Walker):
        return frames.WALKER_STATE.pack(*actor.direction, actor.speed_mps, actor.jump)
    if isinstance(actor, TrafficLight):
        sign_id = actor.spec.sign_id
        lights = world.lights
        return frames.LIGHT_STATE.pack(
            sign_id.encode()[:31],
            lights.green_s(sign_id),
            lights.yellow_s(sign_id),
            lights.red_s(sign_id),
            lights.elapsed_s(sign_id),
            0,
            lights.is_frozen(sign_id),
            lights.colour(sign_id),
        )
    if isinstance(actor, TrafficSign):
        return frames.SIGN_STATE.pack(actor.spec.sign_id.encode()[:31])
    return b""
