"""The real client's whole public API, and every RPC it can send, against the server and its table."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import carla
import client_walk
import pytest
from client_calls import CALLS, LAST, NOT_CALLED
from rpc_relay import RpcRelay

from tickdrive.leaderboard.simulator.launch import SimulatorProcess, free_port_pair
from tickdrive.leaderboard.simulator.rpc_table import RPC_TABLE, State, markdown

_TIMEOUT_S = 200.0
#: calls that raise the table's refusal: Python name -> RPC
_REFUSED = {
    **{f"World.apply_{kind}": "apply_color_texture_to_objects" for kind in (
        "color_texture_to_object", "color_texture_to_objects", "textures_to_object", "textures_to_objects"
    )},
    "World.apply_float_color_texture_to_object": "apply_float_color_texture_to_objects",
    "World.apply_float_color_texture_to_objects": "apply_float_color_texture_to_objects",
    "Actor.get_component_world_transform": "get_actor_component_world_transform",
    "Actor.get_component_relative_transform": "get_actor_component_relative_transform",
    "ServerSideSensor.enable_gbuffers": "enable_gbuffers",
    "ServerSideSensor.set_ignored_vehicles": "set_ignored_vehicles",
    "ServerSideSensor.listen_to_gbuffer": "get_gbuffer_token",
    "ServerSideSensor.stop_gbuffer": "get_gbuffer_token",
}  # fmt: skip
#: refused too, but the client does not wait for the error: it is in the server's log
_REFUSED_UNHEARD = (
    "enable_environment_objects",
    "enable_carsim",
    "use_carsim_road",
    "enable_chrono_physics",
    "enable_sensor_for_ros",
)
#: defects of the client library itself, whatever the server
_CLIENT_DEFECTS = {
    "ServerSideSensor.get_ignored_vehicles": "No to_python",
    "command.ShowDebugTelemetry": "No registered converter",
}
#: RPCs that no call of the walk sends -> why
_NOT_SENT = {
    "add_actor_impulse_at_location": "not in the Python API",
    "add_actor_force_at_location": "not in the Python API",
    "set_actor_dead": "not in the Python API",
    "are_gbuffers_enabled": "not in the Python API",
    "add_actor_torque": "the client sends add_actor_angular_impulse for add_torque()",
    "freeze_traffic_light": "the client sends freeze_all_traffic_lights for TrafficLight.freeze()",
    "send": "the client stops it where the sensor is no V2X sensor",
    "get_navigation_mesh": "asked for where get_required_files names files",
    "get_traffic_manager_running": "asked for by a second client of a Traffic Manager",
    "set_actor_autopilot": "inside apply_batch only",
    "set_walker_state": "inside apply_batch only",
    "console_command": "inside apply_batch only",
}
#: methods of the library's Client whose RPC is not their name in snake case
_OTHER_NAME = {
    "ApplyBatchSync": "apply_batch",
    "ApplyPhysicsControlToVehicle": "apply_physics_control",
    "CopyOpenDriveToServer": "copy_opendrive_to_file",
    "DisableForROS": "disable_sensor_for_ros",
    "EnableForROS": "enable_sensor_for_ros",
    "EnableCarSim": "enable_carsim",
    "EnableGBuffers": "enable_gbuffers",
    "AreGBuffersEnabled": "are_gbuffers_enabled",
    "SubscribeToGBuffer": "get_gbuffer_token",
    "UnSubscribeFromGBuffer": "get_gbuffer_token",
    "GetIMUISensorGravity": "get_imui_gravity",
    "SetIMUISensorGravity": "set_imui_gravity",
    "GetLevelBBs": "get_all_level_BBs",
    "GetServerVersion": "version",
    "GetTrafficManagerRunning": "get_traffic_manager_running",
    "GetVehiclePhysicsControl": "get_physics_control",
    "GetVehiclesLightStates": "get_vehicle_light_states",
    "GetVehicleTelemetryData": "get_telemetry_data",
    "IsEnabledForROS": "is_sensor_enabled_for_ros",
    "LoadEpisode": "load_new_episode",
    "LoadLevelLayer": "load_map_layer",
    "UnloadLevelLayer": "unload_map_layer",
    "QueryLightsStateToServer": "query_lights_state",
    "RestorePhysXPhysics": "restore_physx_physics",
    "SendTickCue": "tick_cue",
    "SetLightStateToVehicle": "set_vehicle_light_state",
    "SubscribeToStream": "get_sensor_token",
    "UpdateServerLightsState": "update_lights_state",
    "UseCarSimRoad": "use_carsim_road",
}
_SENDS_NOTHING = {
    "GetCacheFile", "GetClientVersion", "GetEndpoint", "GetTimeout", "SetTimeout", "SetFilesBaseFolder",
    "UnSubscribeFromStream", "Pimpl",
}  # fmt: skip


def library_methods() -> set[str]:
    """Methods of `carla::client::detail::Client`, through which every RPC goes, by the library's symbols."""
    with (
        open(carla.libcarla.__file__, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        symbols = re.findall(rb"_ZNK?5carla6client6detail6Client(\d+)([A-Za-z]\w*)", data)
    return {name[: int(length)].decode() for length, name in symbols}


def rpc_of(method: str) -> str:
    return _OTHER_NAME.get(method) or re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()


def test_every_rpc_in_the_library_is_in_the_table() -> None:
    methods = library_methods() - _SENDS_NOTHING
    assert len(methods) > 120
    both = {"add_actor_impulse_at_location", "add_actor_force_at_location"}  # overloads of one symbol name
    both |= {"apply_float_color_texture_to_objects"}
    sent = {rpc_of(each) for each in methods} | both
    assert sent ^ set(RPC_TABLE) == {"set_walker_state", "console_command"}, (
        "these two are commands of a batch"
    )


def test_docs_are_the_table() -> None:
    path = Path(__file__).parents[2] / "docs" / "rpc.md"
    assert path.read_text() == markdown(), (
        "run: python -m tickdrive.leaderboard.simulator.rpc_table > docs/rpc.md"
    )


def public_methods() -> Iterator[str]:
    """Of the client's classes, `Class.method`, and of the commands of a batch."""
    for owner in (each for each in vars(carla).values() if isinstance(each, type)):
        if not issubclass(owner, int):
            for name, attribute in vars(owner).items():
                if not name.startswith("_") and callable(attribute):
                    yield f"{owner.__name__}.{name}"
    yield from (f"command.{name}" for name, each in vars(carla.command).items() if isinstance(each, type))


def test_every_method_is_called_or_says_why_not() -> None:
    called = {
        f"{owner}.{name}" for group in (CALLS, LAST) for owner, names in group.items() for name in names
    }
    methods = set(public_methods())
    assert len(methods) > 280
    excused = {each for each in methods if each in NOT_CALLED or each.split(".")[0] in NOT_CALLED}
    assert methods - called - excused == set(), "in the client, but neither called nor in NOT_CALLED"
    assert called - methods == set(), "not in the client"
    assert called & excused == set()


@dataclass(frozen=True)
class Walk:
    """What became of the walk: error of each call (None: it came back), RPCs sent, the server's log."""

    errors: dict[str, str | None]
    sent: set[str]
    log: str


@pytest.fixture(scope="module")
def walk(straight_road: Path, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    log = tmp_path_factory.mktemp("walk") / "server.log"
    with (
        SimulatorProcess.start("TickTown02", log_path=log) as server,
        RpcRelay(server.host, server.port) as relay,
    ):
        command = [sys.executable, client_walk.__file__, server.host, str(relay.port), str(free_port_pair())]
        try:
            run = subprocess.run(
                [*command, str(straight_road)],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            assert isinstance(error.stdout, bytes)
            pytest.fail(f"hung after {error.stdout.decode().splitlines()[-1]}")
        lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
        assert run.returncode == 0 and lines[-1] == {"done": True}, f"{lines[-1:]}\n{run.stderr}"
        fresh = carla.Client(server.host, server.port)
        fresh.set_timeout(10.0)
        assert fresh.get_world().wait_for_tick(5.0).frame > 0, "the server no longer ticks"
    errors = {each["called"]: each["error"] for each in lines if "called" in each}
    return Walk(errors, relay.names, log.read_text())


def test_every_call_returns_or_is_refused_as_the_table_says(walk: Walk) -> None:
    unexpected = {}
    for name, error in walk.errors.items():
        if name in _REFUSED:
            expected = f"RuntimeError: {RPC_TABLE[_REFUSED[name]].refusal()}"
        else:
            expected = _CLIENT_DEFECTS.get(name, "")
        if (expected == "") != (error is None) or expected not in (error or ""):
            unexpected[name] = error
    assert unexpected == {}


def test_refusals_that_the_client_drops_are_in_the_log(walk: Walk) -> None:
    for name in _REFUSED_UNHEARD:
        assert str(RPC_TABLE[name].refusal()) in walk.log
    assert "unknown method" not in walk.log and "failed in the server" not in walk.log
    assert "Traceback" not in walk.log


def test_the_walk_sends_the_whole_table(walk: Walk) -> None:
    assert walk.sent - set(RPC_TABLE) == set(), "not in the table"
    assert set(RPC_TABLE) - walk.sent == set(_NOT_SENT)


def test_refusals_say_what_why_and_what_to_do() -> None:
    refused = [each for each in RPC_TABLE.values() if each.state is State.REFUSED]
    assert len(refused) >= 10
    for each in refused:
        assert each.note and each.instead and str(each.refusal()).startswith(f"{each.name}: ")


def test_large_maps_are_refused_by_name(server: SimulatorProcess, client: carla.Client) -> None:
    for town in ("Town12", "/Game/Carla/Maps/Town13/Town13"):
        with pytest.raises(RuntimeError, match=r"Town1[23].*(--towns|--xodr)"):
            client.load_world(town)
    assert client.get_world().wait_for_tick(5.0).frame > 0
