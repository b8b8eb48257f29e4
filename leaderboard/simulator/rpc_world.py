"""RPC methods about the world as a whole: versions, maps, episodes, settings, weather, Traffic Managers.

Method names and results are those of `CarlaServer.cpp` at 0.9.16.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.client_gate import SettingsGate
from tickdrive.leaderboard.simulator.episode import OPENDRIVE_MAP, EpisodeSettings, Town
from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.rpc import MAX_REQUEST_BYTES, value, void
from tickdrive.leaderboard.simulator.protocol.streams import WORLD_STREAM
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.rpc_table import refusal
from tickdrive.leaderboard.simulator.scene.objects import EnvironmentObject
from tickdrive.leaderboard.simulator.simulation import LOAD_HOLD_S, Simulation
from tickdrive.leaderboard.simulator.spawn import pack_definitions

VERSION = "0.9.16"
_ANY_TAG = 255
_MAX_HITS = 32
#: a client on this machine has read a snapshot, and its Traffic Manager has made a step, after so long
_SEEN_S = 0.1
_NO_RECORDER = "This simulator records nothing: use `tickdrive record`."


class WorldService:
    """RPC methods of the world.

    Args:
        simulation: what they act on.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation
        self._gate = SettingsGate()

    # versions, maps and episodes

    @value
    def version(self) -> str:
        """Version of the protocol."""
        return VERSION

    @value
    def get_available_maps(self) -> list[str]:
        """All towns, in CARLA's long form."""
        return [f"/Game/Carla/Maps/{name}" for name in self._sim.library.names()]

    @void
    async def load_new_episode(
        self, client: object, name: Any, reset_settings: Any = True, layers: Any = 0
    ) -> None:
        """`load_world`, `reload_world` (an empty name) and the second half of `generate_opendrive_world`."""
        long_name = wire.text(name, "map name")
        reset = wire.boolean(reset_settings, "reset_settings")
        short = long_name.rsplit("/", 1)[-1]
        current = self._sim.world.town
        loop = asyncio.get_running_loop()
        town: Awaitable[Town]
        if short == OPENDRIVE_MAP and self._sim.pending_xodr is not None:
            xodr = self._sim.pending_xodr
            town = loop.run_in_executor(None, self._sim.library.from_xodr, OPENDRIVE_MAP, xodr)
        elif short in ("", current.name):
            town = loop.run_in_executor(None, lambda: current)
        else:
            town = loop.run_in_executor(None, self._sim.library.named, short)
        if any(owner is client for _, owner in self._sim.traffic_managers.values()):
            town = self._when_built(town, client)
        elif self._sim.traffic_managers:
            town = self._when_built(town, None)
        await self._sim.load(town, reset)
        await self._gate.shut(client, LOAD_HOLD_S)

    async def _when_built(self, town: Awaitable[Town], client: object | None) -> Town:
        built = await town
        if not self._sim.settings.synchronous:
            await self._clear_traffic()
        if client is not None:
            self._gate.expect_restart(client)
        return built

    async def _clear_traffic(self) -> None:
        """Take away the vehicles before the town, while no asynchronous Traffic Manager is in a step.

        Of a vehicle that the newest snapshot has not, the client makes up a state of uninitialised memory;
        in the midst of a step its Traffic Manager takes a speed limit from it, asks for landmarks within
        a negative distance, and `Map::GetNext` throws, which ends the client's process.
        """
        owners = {id(owner): owner for _, owner in self._sim.traffic_managers.values()}.values()
        for owner in owners:
            await self._gate.shut(owner, LOAD_HOLD_S)
        self._sim.clear_vehicles()
        await asyncio.sleep(_SEEN_S)
        for owner in owners:
            self._gate.open(owner)
        await asyncio.sleep(_SEEN_S)

    @void
    def copy_opendrive_to_file(self, xodr: Any, parameters: Any = None) -> None:
        """First half of `generate_opendrive_world`; generation parameters have no meaning here."""
        self._sim.pending_xodr = wire.text(xodr, "opendrive", MAX_REQUEST_BYTES)

    @value
    def get_episode_info(self) -> list[Any]:
        """`EpisodeInfo`: id and the token of the world stream."""
        return [self._sim.world.episode_id, [self._sim.hub.token(WORLD_STREAM)]]

    @value
    def get_sensor_token(self, client: object, stream_id: Any) -> list[bytes]:
        """Token of a stream; ticks wait for whoever asks to connect."""
        number = wire.integer(stream_id, "stream id")
        if not self._sim.hub.is_known(number):
            raise RequestError(f"There is no stream {number}.", "Its sensor may have been destroyed.")
        self._sim.hub.expect(number)
        if number == WORLD_STREAM:
            self._gate.open(client)
        return [self._sim.hub.token(number)]

    @value
    def get_map_info(self) -> list[Any]:
        """`MapInfo`: name and recommended spawn points."""
        town = self._sim.world.town
        return [town.map_name, [wire.pack_pose(each) for each in town.network.spawn_points]]

    @value
    def get_map_data(self) -> str:
        """The OpenDRIVE text."""
        return self._sim.world.town.network.xodr

    @value
    def get_navigation_mesh(self) -> bytes:
        """There is none."""
        return b""

    @value
    def get_required_files(self, client: object, folder: Any = "", download: Any = True) -> list[str]:
        """None: with files a client would cache them by name in its home for ever."""
        if folder == "TM":
            self._gate.map_read(client)
        return []

    @value
    def request_file(self, name: Any) -> bytes:
        """There is none to request."""
        return b""

    @void
    def load_map_layer(self, layer: Any) -> None:
        """Towns here have one layer."""

    @void
    def unload_map_layer(self, layer: Any) -> None:
        """Towns here have one layer."""

    # settings and ticks

    @value
    async def get_episode_settings(self, client: object) -> list[Any]:
        """Current settings; who asks again and again is answered slowly."""
        await self._gate.pass_through(client, self._sim.world.frame)
        return self._sim.settings.pack()

    @value
    def set_episode_settings(self, settings: Any) -> int:
        """Take new settings; returns the frame of the snapshot that carries them."""
        return self._sim.apply_settings(EpisodeSettings.unpack(settings))

    @value
    def tick_cue(self, client: object) -> int | Awaitable[int]:
        """Tick; returns the frame."""
        return self._sim.tick_cue(client)

    # blueprints and scenery

    @value
    def get_actor_definitions(self) -> list[Any]:
        """The blueprint library."""
        return pack_definitions()

    @value
    def get_spectator(self) -> list[Any]:
        """The spectator."""
        return self._sim.describe(self._sim.world.spectator)

    @value
    def get_weather_parameters(self) -> list[float]:
        """Weather; its sun lights the cameras."""
        return wire.pack_weather(self._sim.world.weather)

    @void
    def set_weather_parameters(self, weather: Any) -> None:
        """Set the weather."""
        world = self._sim.world
        world.weather = wire.weather(weather)
        world.street_lights.follow(world.weather)

    @value
    def get_imui_gravity(self) -> float:
        """Gravity that IMUs show."""
        return 9.81

    @void
    def set_imui_gravity(self, gravity: Any) -> None:
        """Refused: gravity here is the Earth's."""
        if abs(wire.number(gravity, "gravity") - 9.81) > 0.01:
            raise refusal("set_imui_gravity")

    def _objects(self, tag: Any) -> list[EnvironmentObject]:
        wanted = wire.integer(tag, "tag", 0, 255)
        objects = self._sim.world.town.scene.environment_objects
        return [each for each in objects if wanted in (_ANY_TAG, each.tag)]

    @value
    def get_all_level_BBs(self, tag: Any) -> list[Any]:
        """World bounding boxes of the town's objects of a tag."""
        return [wire.pack_box(each.box, 0) for each in self._objects(tag)]

    @value
    def get_environment_objects(self, tag: Any) -> list[Any]:
        """The town's objects of a tag, with ids that hold for the town."""
        return [
            [
                wire.pack_pose(each.box.pose),
                wire.pack_box(each.box, 0),
                each.object_id,
                each.name,
                int(each.tag),
            ]
            for each in self._objects(tag)
        ]

    @void
    def enable_environment_objects(self, ids: Any, enable: Any) -> None:
        """Refused where something is to be hidden: scenery is fixed."""
        if not wire.boolean(enable, "enable"):
            raise refusal("enable_environment_objects")

    @value
    def get_names_of_all_objects(self) -> list[str]:
        """Names as in `get_environment_objects`."""
        return [each.name for each in self._objects(_ANY_TAG)]

    # rays

    def _renderer(self) -> Any:
        world = self._sim.world
        renderer = world.town.renderer
        renderer.begin_tick(
            world.drawn_actors(), world.light_colours(), world.weather, world.street_lights.drawn()
        )
        return renderer

    @value
    def cast_ray(self, start: Any, end: Any) -> list[Any]:
        """Everything between two points, nearest first, as `LabelledPoint`s."""
        first, last = np.array(wire.vector(start, "start")), np.array(wire.vector(end, "end"))
        length = float(np.linalg.norm(last - first))
        if length < 1e-6:
            return []
        renderer, direction, travelled = self._renderer(), (last - first) / length, 0.0
        points: list[Any] = []
        while travelled < length and len(points) < _MAX_HITS:
            hit = renderer.cast_ray(first + travelled * direction, direction, length - travelled)
            if hit is None:
                break
            travelled += float(hit[0])
            points.append([wire.pack_vector(first + travelled * direction), int(hit[1])])
            travelled += 0.01
        return points

    @value
    def project_point(self, start: Any, direction: Any, distance: Any) -> list[Any]:
        """First thing hit from a point: (found, `LabelledPoint`)."""
        origin = np.array(wire.vector(start, "location"))
        heading = np.array(wire.vector(direction, "direction"))
        length = float(np.linalg.norm(heading))
        if length < 1e-9:
            raise RequestError("project_point needs a direction that is not zero.")
        hit = self._renderer().cast_ray(origin, heading / length, wire.number(distance, "distance"))
        if hit is None:
            return [False, [[0.0, 0.0, 0.0], 0]]
        return [True, [wire.pack_vector(origin + heading / length * float(hit[0])), int(hit[1])]]

    # Traffic Managers: they run in clients, and are found through this register

    @value
    def is_traffic_manager_running(self, port: Any) -> bool:
        """Whether one is registered at a port."""
        return wire.integer(port, "port", 0, 65535) in self._sim.traffic_managers

    @value
    def get_traffic_manager_running(self, port: Any) -> list[Any]:
        """Host and port of a registered one."""
        number = wire.integer(port, "port", 0, 65535)
        if number not in self._sim.traffic_managers:
            raise RequestError(f"No Traffic Manager is registered at port {number}.")
        return [self._sim.traffic_managers[number][0], number]

    @value
    def add_traffic_manager_running(self, client: object, info: Any) -> bool:
        """Register one; False where the port is taken."""
        host, port = wire.sequence(info, "info", 2, 2)
        number = wire.integer(port, "port", 0, 65535)
        if number in self._sim.traffic_managers:
            return False
        self._sim.traffic_managers[number] = (wire.text(host, "host", 255), client)
        return True

    @value
    def destroy_traffic_manager(self, port: Any) -> bool:
        """Forget one."""
        return self._sim.traffic_managers.pop(wire.integer(port, "port", 0, 65535), None) is not None

    # street lamps, and what needs no answer here

    @value
    def query_lights_state(self, client_id: Any = None) -> list[Any]:
        """State of the street lamps."""
        return self._sim.world.street_lights.pack()

    @void
    def update_lights_state(self, client_id: Any, lights: Any, discard: Any = False) -> None:
        """Switch, dim and colour street lamps."""
        self._sim.world.street_lights.update(lights)

    @void
    def update_day_night_cycle(self, client_id: Any, active: Any) -> None:
        """Let street lamps follow the sun, or stay as they are."""
        self._sim.world.street_lights.set_cycle(wire.boolean(active, "active"))

    @void
    def set_annotations_traverse_translucency(self, enable: Any) -> None:
        """Nothing here is translucent."""

    @void
    def draw_debug_shape(self, shape: Any) -> None:
        """Nothing is drawn: there is no window."""

    @void
    def clear_debug_shape(self) -> None:
        """Nothing is drawn."""

    @void
    def clear_debug_string(self) -> None:
        """Nothing is drawn."""

    @value
    def console_command(self, command: Any) -> bool:
        """No console: False."""
        return False

    @value
    def start_recorder(self, name: Any, additional_data: Any = False) -> str:
        """Says that nothing is recorded."""
        return _NO_RECORDER

    @void
    def stop_recorder(self) -> None:
        """Nothing is recorded."""

    @value
    def show_recorder_file_info(self, name: Any, show_all: Any = False) -> str:
        """Says that nothing is recorded."""
        return _NO_RECORDER

    @value
    def show_recorder_collisions(self, name: Any, first: Any = 0, second: Any = 0) -> str:
        """Says that nothing is recorded."""
        return _NO_RECORDER

    @value
    def show_recorder_actors_blocked(self, name: Any, time: Any = 0, distance: Any = 0) -> str:
        """Says that nothing is recorded."""
        return _NO_RECORDER

    @value
    def replay_file(
        self,
        name: Any,
        start: Any = 0,
        duration: Any = 0,
        follow: Any = 0,
        sensors: Any = False,
        offset: Any = 0,
    ) -> str:
        """Says that nothing is recorded."""
        return _NO_RECORDER

    @void
    def set_replayer_time_factor(self, factor: Any) -> None:
        """Nothing is replayed."""

    @void
    def set_replayer_ignore_hero(self, ignore: Any) -> None:
        """Nothing is replayed."""

    @void
    def set_replayer_ignore_spectator(self, ignore: Any) -> None:
        """Nothing is replayed."""

    @void
    def stop_replayer(self, keep_actors: Any = True) -> None:
        """Nothing is replayed."""

    @value
    def are_gbuffers_enabled(self, actor_id: Any) -> bool:
        """Never."""
        return False

    @void
    def disable_sensor_for_ros(self, stream_id: Any) -> None:
        """Never enabled."""

    @value
    def is_sensor_enabled_for_ros(self, stream_id: Any) -> bool:
        """Never."""
        return False
