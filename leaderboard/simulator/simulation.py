"""The running simulator: the current world, its settings, who ticks it, and what streams out of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any

from tickdrive.leaderboard.simulator.actors import (
    Actor,
    Vehicle,
    contact_sides,
    describe,
    describe_town_part,
)
from tickdrive.leaderboard.simulator.episode import EpisodeSettings, Town, TownLibrary
from tickdrive.leaderboard.simulator.interfaces import Contact, Tag
from tickdrive.leaderboard.simulator.protocol import frames
from tickdrive.leaderboard.simulator.protocol.frames import SensorKind
from tickdrive.leaderboard.simulator.protocol.streams import WORLD_STREAM, StreamHub
from tickdrive.leaderboard.simulator.sensors import View
from tickdrive.leaderboard.simulator.snapshot import world_frame
from tickdrive.leaderboard.simulator.world import Ids, World
from tickdrive.planner.errors import ServerError

log = logging.getLogger(__name__)

#: the answer to a load comes this much after its first snapshot: see `Simulation.load`
LOAD_HOLD_S = 0.3
#: a synchronous world whose ticking client died goes on by itself after so long without a tick
ORPHAN_GRACE_S = 2.0
_POLL_S = 0.001


class Simulation:
    """Owns the world. Everything runs on one asyncio loop; only towns are built beside it.

    Args:
        library: where towns come from.
        town: the town to begin with.
        seed: of everything random on the server's side.
        stream_port: TCP port of the streams.
    """

    def __init__(self, library: TownLibrary, town: Town, seed: int, stream_port: int) -> None:
        self.library = library
        self.seed = seed
        self.settings = EpisodeSettings()
        self.hub = StreamHub(stream_port, self._is_stream, self._greeting)
        self.pending_xodr: str | None = None
        #: Traffic Managers by port: host, and the client connection that registered it
        self.traffic_managers: dict[int, tuple[str, object]] = {}
        self.ticks = 0
        self._ids = Ids(first_stream=WORLD_STREAM)
        self._episodes = 0
        self._streams: dict[int, int] = {}
        self._last_sent_s: dict[int, float] = {}
        self._ticker: object | None = None
        self._orphaned_at: float | None = None
        self._fatal: ServerError | None = None
        self._loading = asyncio.Lock()
        self._frame_done: asyncio.Event = asyncio.Event()
        self.world = self._new_world(town)
        self._map_changed = True

    def _new_world(self, town: Town) -> World:
        self._episodes += 1
        return World(town, self.seed, self._episodes, self._ids, self._forget)

    def _forget(self, actor: Actor) -> None:
        if actor.stream_id:
            self.hub.close(actor.stream_id)
            self._last_sent_s.pop(actor.actor_id, None)

    def _is_stream(self, stream_id: int) -> bool:
        return stream_id == WORLD_STREAM or any(each.stream_id == stream_id for each in self.world.sensors())

    def _greeting(self, stream_id: int) -> bytes | None:
        """A client that joins a standing synchronous world sees it before the next tick."""
        if stream_id != WORLD_STREAM or not self.settings.synchronous:
            return None
        return world_frame(self.world, self.settings.delta_s, False)

    def describe(self, actor: Actor) -> list[Any]:
        """`rpc::Actor` of an actor."""
        return describe(actor, self.hub.token(actor.stream_id) if actor.stream_id else b"")

    # loading

    async def load(self, build: Awaitable[Town], reset_settings: bool) -> None:
        """Begin a new episode.

        The old world keeps answering while the town is built. Then the first snapshot of the new episode
        goes out at once, but the caller, and with it the client, is let go only `LOAD_HOLD_S` later: on
        seeing the new episode id the client's streaming thread stops and restarts the Traffic Managers of
        its process (`Episode.cpp`, `OnEpisodeChanged`), and a tick that its main thread gives them
        meanwhile is forgotten, so that `TrafficManagerLocal::SynchronousTick` waits for ever. With the
        snapshot first, the restart is over before the main thread goes on. See also `apply_settings` and
        `client_gate`.
        """
        async with self._loading:
            town = await build
            old = self.world
            for actor in old.sensors():
                self._forget(actor)
            self.world = self._new_world(town)
            self._last_sent_s.clear()
            if reset_settings:
                self.settings = EpisodeSettings()
            self._map_changed = True
            self.publish()
            await asyncio.sleep(LOAD_HOLD_S)

    def clear_vehicles(self) -> None:
        """Take away all vehicles and show a world without them."""
        for vehicle in list(self.world.of_kind(Vehicle)):
            if vehicle.actor_id in self.world.actors:
                self.world.remove(vehicle.actor_id)
        self.publish()

    # ticking

    def publish(self) -> int:
        """Send a snapshot under a new frame number without moving the world; returns the number."""
        self.world.skip_frame()
        self._send_world(self.settings.delta_s)
        return self.world.frame

    def tick(self) -> int:
        """Advance the world by a step and stream it: first the snapshot, then the sensors.

        Clients wait for the snapshot, some of them holding locks that their sensor callbacks need.
        """
        delta_s = self.settings.delta_s
        contacts = self.world.tick(delta_s)
        self.ticks += 1
        self._send_world(delta_s)
        self._send_collisions(contacts)
        self._send_sensors(delta_s)
        return self.world.frame

    def _send_world(self, delta_s: float) -> None:
        if self.hub.is_heard(WORLD_STREAM):
            lamps = self.world.street_lights
            self.hub.send(WORLD_STREAM, world_frame(self.world, delta_s, self._map_changed, lamps.changed))
            self._map_changed = lamps.changed = False
        self._frame_done.set()
        self._frame_done = asyncio.Event()

    def _send_collisions(self, contacts: list[Contact]) -> None:
        if not contacts:
            return
        world = self.world
        listeners = [
            each
            for each in world.sensors()
            if each.type_id == "sensor.other.collision" and self.hub.is_heard(each.stream_id)
        ]
        for actor_id, other_id, tag, impulse in contact_sides(contacts) if listeners else ():
            for sensor in listeners:
                if sensor.parent_id != actor_id or actor_id not in world.actors:
                    continue
                other = world.actors.get(other_id)
                told = self.describe(other) if other is not None else describe_town_part(Tag(tag))
                body = frames.message(
                    self.describe(world.actors[actor_id]), told, [float(each) for each in impulse]
                )
                head = frames.header(SensorKind.COLLISION, world.frame, world.elapsed_s, sensor.pose)
                self.hub.send(sensor.stream_id, head + body)

    def _send_sensors(self, delta_s: float) -> None:
        world = self.world
        view = View(world, self.describe)
        for actor in world.sensors():
            sensor = actor.sensor
            if sensor is None:
                continue
            sensor.track(actor, delta_s)
            if not self.hub.is_heard(actor.stream_id):
                continue
            if sensor.needs_rendering and self.settings.no_rendering:
                continue
            last_s = self._last_sent_s.get(actor.actor_id)
            since_s = delta_s if last_s is None else world.elapsed_s - last_s
            # half a nanosecond of slack: 0.05 added up is not exactly a multiple of 0.1
            if last_s is not None and since_s + 1e-6 < actor.sensor_tick_s:
                continue
            self._last_sent_s[actor.actor_id] = world.elapsed_s
            view.delta_s = since_s
            try:
                payload = sensor.observe(actor, view)
            except ServerError as error:
                self._fatal = error
                raise
            except Exception:
                log.exception("%s (id=%d) failed in frame %d", actor.type_id, actor.actor_id, world.frame)
                continue
            if payload is not None:
                self.hub.send(actor.stream_id, payload)

    def tick_cue(self, client: object) -> int | Awaitable[int]:
        """A client's tick: now, or once those who asked for a stream have connected to it."""
        if not self.settings.synchronous:
            # the frame that comes next, so that the client waits until it has seen one
            return self._next_frame()
        self._ticker, self._orphaned_at = client, None
        if self.hub.awaiting():
            return self._tick_when_joined()
        return self.tick()

    async def _tick_when_joined(self) -> int:
        while self.hub.awaiting():
            await asyncio.sleep(_POLL_S)
        return self.tick()

    async def _next_frame(self) -> int:
        if not self.anyone():
            return self.world.frame
        await self._frame_done.wait()
        return self.world.frame

    # settings and clients

    def apply_settings(self, settings: EpisodeSettings) -> int:
        """Take new settings and publish a snapshot that carries them.

        Returns the snapshot's frame. The client waits for it, and because its streaming thread handles
        frames one by one, a restart of its Traffic Managers that an earlier frame began is over by then.
        """
        self.settings = settings
        self._orphaned_at = None
        return self.publish()

    def client_lost(self, client: object) -> None:
        """A client is gone: its Traffic Managers with it; its actors stay, as on a CARLA server."""
        for port in [port for port, (_, owner) in self.traffic_managers.items() if owner is client]:
            del self.traffic_managers[port]
        if self._ticker is client:
            self._ticker = None
            if self.settings.synchronous:
                self._orphaned_at = time.monotonic()

    def anyone(self) -> bool:
        """Whether somebody follows the world."""
        return self.hub.is_heard(WORLD_STREAM)

    async def run(self) -> None:
        """Free-run in asynchronous mode, in real time; take over a synchronous world that lost its ticker.

        Raises:
            ServerError: what draws or senses cannot go on (the graphics card is lost).
        """
        while self._fatal is None:
            started = time.monotonic()
            if self._orphaned_at is not None and started - self._orphaned_at > ORPHAN_GRACE_S:
                log.warning("the client that ticked is gone: the world goes on in asynchronous mode")
                self.apply_settings(
                    EpisodeSettings(False, self.settings.no_rendering, self.settings.fixed_delta_s)
                )
            if not self.settings.synchronous and self.anyone() and not self.hub.awaiting():
                try:
                    self.tick()
                except Exception:
                    log.exception("a tick failed")
            spent = time.monotonic() - started
            await asyncio.sleep(max(_POLL_S, self.settings.delta_s - spent))
        raise self._fatal
