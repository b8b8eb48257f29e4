"""Every RPC that the 0.9.16 client library can send, and what this server makes of it.

The server takes its refusals from here, docs/rpc.md is printed from here (`python -m
tickdrive.leaderboard.simulator.rpc_table`), and tests hold both, and the methods that the client library
contains, against it. Names are those that `carla::client::detail::Client` passes to rpclib.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tickdrive.leaderboard.simulator.protocol.rpc import Method, MethodTable, Reply
from tickdrive.leaderboard.simulator.protocol.wire import RequestError


class State(Enum):
    """What happens to a call."""

    SERVED = "served"
    HARMLESS = "harmless"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC.

    Attributes:
        name: on the wire.
        state: what happens to it.
        note: what differs from a CARLA server; of a refused one, why.
        instead: what to do where it is refused.
        reply: how a refused one is answered; the others say so where they are implemented.
    """

    name: str
    state: State
    note: str = ""
    instead: str = ""
    reply: Reply = Reply.VOID

    def refusal(self) -> RequestError:
        """The error that says why, and what to do."""
        return RequestError(f"{self.name}: {self.note}", self.instead)


def _served(name: str, note: str = "", instead: str = "") -> Rpc:
    return Rpc(name, State.SERVED, note, instead)


def _harmless(name: str, note: str) -> Rpc:
    return Rpc(name, State.HARMLESS, note)


def _refused(name: str, why: str, instead: str, reply: Reply = Reply.VOID) -> Rpc:
    return Rpc(name, State.REFUSED, why, instead, reply)


_NO_BONES = "Actors here have no bones: an empty list."
_NO_REPLAY = "Nothing is replayed."
_NO_RECORDER = "Nothing is recorded; the answer says so and names `tickdrive record`."
_NO_DRAWING = "There is no window to draw in."
_LAMPS = "Street lamps; of other lights there are none."
_USE_SENSORS = "Use sensor.camera.depth, semantic_segmentation or instance_segmentation."
_USE_TRANSFORM = "Use the actor's get_transform()."
_NO_COMPONENTS = "Actors here are of one piece."
_NO_TEXTURES = "Surfaces here have fixed colours and no textures."
_CARLA = "Run a CARLA server for texture changes."
_OWN_PHYSICS = "Leave the vehicle on the simulator's own physics."

_GROUPS: dict[str, tuple[Rpc, ...]] = {
    "Versions, maps, episodes, files": (
        _served("version"),
        _served("get_available_maps"),
        _served("load_new_episode", "Maps that the server does not have, large ones too, are refused."),
        _served("copy_opendrive_to_file", "Generation parameters have no effect."),
        _served("get_episode_info"),
        _served("get_sensor_token"),
        _served("get_map_info"),
        _served("get_map_data"),
        _harmless("get_navigation_mesh", "Empty: the client then knows no random place for a walker."),
        _harmless("get_required_files", "An empty list, so that the client writes no cache."),
        _harmless("request_file", "Empty."),
        _harmless("load_map_layer", "Towns have one layer."),
        _harmless("unload_map_layer", "Towns have one layer."),
    ),
    "Settings, ticks, weather": (
        _served("get_episode_settings"),
        _served("set_episode_settings"),
        _served("tick_cue"),
        _served("get_weather_parameters"),
        _served("set_weather_parameters"),
        _served("get_imui_gravity"),
        _served(
            "set_imui_gravity",
            "Another gravity than 9.81 m/s2 is refused.",
            "Scale the measurements yourself.",
        ),
    ),
    "Scenery": (
        _served("get_all_level_BBs"),
        _served("get_environment_objects"),
        _served(
            "enable_environment_objects",
            "To hide objects is refused: scenery here is fixed.",
            "Leave it, or load a town without it with generate_opendrive_world().",
        ),
        _served("get_names_of_all_objects"),
        _served("cast_ray"),
        _served("project_point"),
        _refused("apply_color_texture_to_objects", _NO_TEXTURES, _CARLA),
        _refused("apply_float_color_texture_to_objects", _NO_TEXTURES, _CARLA),
        _harmless("set_annotations_traverse_translucency", "Nothing here is translucent."),
        _served("query_lights_state", _LAMPS),
        _served("update_lights_state"),
        _served("update_day_night_cycle"),
        _harmless("draw_debug_shape", _NO_DRAWING),
        _harmless("clear_debug_shape", _NO_DRAWING),
        _harmless("clear_debug_string", _NO_DRAWING),
    ),
    "Actors": (
        _served("get_actor_definitions"),
        _served("get_spectator"),
        _served("get_actors_by_id"),
        _served("spawn_actor", "`controller.ai.walker` is refused: use `WalkerControl`."),
        _served("spawn_actor_with_parent", "Every attachment is rigid, sockets are not known."),
        _served("destroy_actor"),
        _served("apply_batch", "With `do_tick` it is answered after the tick."),
        _served("get_actor_bounding_box"),
        _served("set_actor_location"),
        _served("set_actor_transform"),
        _served("set_actor_target_velocity"),
        _served("set_actor_target_angular_velocity"),
        _served("enable_actor_constant_velocity"),
        _served("disable_actor_constant_velocity"),
        _served("add_actor_impulse"),
        _served("add_actor_impulse_at_location", "Bodies turn about z only."),
        _served("add_actor_force"),
        _served("add_actor_force_at_location", "Bodies turn about z only."),
        _served("add_actor_angular_impulse", "Bodies turn about z only."),
        _served("add_actor_torque", "Bodies turn about z only."),
        _served("set_actor_simulate_physics"),
        _served("set_actor_collisions"),
        _served("set_actor_enable_gravity", "A vehicle keeps to the ground."),
        _served("set_actor_dead"),
        _harmless("get_actor_component_names", f"{_NO_COMPONENTS} An empty list."),
        _refused("get_actor_component_world_transform", _NO_COMPONENTS, _USE_TRANSFORM, Reply.VALUE),
        _refused("get_actor_component_relative_transform", _NO_COMPONENTS, _USE_TRANSFORM, Reply.VALUE),
        _harmless("get_actor_bone_names", _NO_BONES),
        _harmless("get_actor_bone_world_transforms", _NO_BONES),
        _harmless("get_actor_bone_relative_transforms", _NO_BONES),
        _harmless("get_actor_socket_names", "Actors here have no sockets: an empty list."),
        _harmless("get_actor_socket_world_transforms", "Actors here have no sockets: an empty list."),
        _harmless("get_actor_socket_relative_transforms", "Actors here have no sockets: an empty list."),
    ),
    "Vehicles": (
        _served("apply_control_to_vehicle"),
        _served("apply_ackermann_control_to_vehicle", "The jerk is not used."),
        _served("get_ackermann_controller_settings"),
        _harmless("apply_ackermann_controller_settings", "Kept and given back; the controller has one loop."),
        _served("get_physics_control"),
        _served("apply_physics_control", "Mass, engine, gears, drag, wheels; the rest is only kept."),
        _served("get_telemetry_data", "Of a wheel friction and turning speed; its forces are not modelled."),
        _harmless("show_vehicle_debug_telemetry", _NO_DRAWING),
        _served("get_vehicle_light_state"),
        _served("set_vehicle_light_state"),
        _served("get_vehicle_light_states"),
        _served("get_wheel_steer_angle"),
        _harmless("set_wheel_steer_direction", "Only for show on a CARLA server, and not shown."),
        _harmless("get_wheel_pitch_angle", "Always 0."),
        _harmless("set_wheel_pitch_angle", "Only for show on a CARLA server, and not shown."),
        _served(
            "open_vehicle_door", "Cameras and LiDARs see it; it strikes nothing. Bonnet and boot stay shut."
        ),
        _served("close_vehicle_door"),
        _served("set_actor_autopilot", "The Traffic Manager, in the client, drives."),
        _harmless("get_vehicle_bone_world_transforms", _NO_BONES),
        _refused("enable_carsim", "CarSim is not part of this simulator.", _OWN_PHYSICS),
        _refused("use_carsim_road", "CarSim is not part of this simulator.", _OWN_PHYSICS),
        _refused("enable_chrono_physics", "Chrono is not part of this simulator.", _OWN_PHYSICS),
        _harmless("restore_physx_physics", "The physics were never changed."),
    ),
    "Walkers": (
        _served("apply_control_to_walker"),
        _harmless("get_bones_transform", _NO_BONES),
        _harmless("set_bones_transform", "Walkers here have no bones."),
        _harmless("blend_pose", "Walkers here have no bones."),
        _harmless("get_pose_from_animation", "Walkers here have no bones."),
    ),
    "Traffic lights and Traffic Managers": (
        _served("set_traffic_light_state"),
        _served("set_traffic_light_green_time"),
        _served("set_traffic_light_yellow_time"),
        _served("set_traffic_light_red_time"),
        _served("freeze_traffic_light"),
        _served("freeze_all_traffic_lights"),
        _served("reset_traffic_light_group"),
        _served("reset_all_traffic_lights"),
        _served("get_group_traffic_lights"),
        _served("get_light_boxes"),
        _served("is_traffic_manager_running"),
        _served("get_traffic_manager_running"),
        _served("add_traffic_manager_running"),
        _served("destroy_traffic_manager"),
    ),
    "Sensors": (
        _refused(
            "set_ignored_vehicles",
            "Sensors here see every vehicle.",
            "Drop its points by object_idx of sensor.lidar.ray_cast_semantic.",
        ),
        _refused("enable_gbuffers", "Cameras here have no G-buffers.", _USE_SENSORS),
        _served("are_gbuffers_enabled", "Never."),
        _refused("get_gbuffer_token", "Cameras here have no G-buffers.", _USE_SENSORS, Reply.VALUE),
        _refused("send", "There are no V2X sensors here.", "Send messages between your own processes."),
        _refused(
            "enable_sensor_for_ros",
            "This simulator has no ROS bridge.",
            "Publish from the sensor's listen().",
        ),
        _harmless("disable_sensor_for_ros", "Never enabled."),
        _served("is_sensor_enabled_for_ros", "Never."),
    ),
    "Only as commands of apply_batch": (
        _served("set_walker_state"),
        _harmless("console_command", "There is no console."),
    ),
    "Recorder": (
        _harmless("start_recorder", _NO_RECORDER),
        _harmless("stop_recorder", _NO_RECORDER),
        _harmless("show_recorder_file_info", _NO_RECORDER),
        _harmless("show_recorder_collisions", _NO_RECORDER),
        _harmless("show_recorder_actors_blocked", _NO_RECORDER),
        _harmless("replay_file", _NO_RECORDER),
        _harmless("stop_replayer", _NO_REPLAY),
        _harmless("set_replayer_time_factor", _NO_REPLAY),
        _harmless("set_replayer_ignore_hero", _NO_REPLAY),
        _harmless("set_replayer_ignore_spectator", _NO_REPLAY),
    ),
}

#: every RPC by name
RPC_TABLE: dict[str, Rpc] = {each.name: each for group in _GROUPS.values() for each in group}


def refusal(name: str) -> RequestError:
    """The table's error, for methods that refuse some arguments only."""
    return RPC_TABLE[name].refusal()


def add_refusals(methods: MethodTable) -> None:
    """Answer everything that is refused, whatever its arguments are."""
    for each in RPC_TABLE.values():
        if each.state is State.REFUSED:
            methods[each.name] = Method(each.name, _raiser(each), each.reply, 0, sys.maxsize, False)


def _raiser(rpc: Rpc) -> Callable[..., Any]:
    def refuse(*_: Any) -> None:
        raise rpc.refusal()

    return refuse


def markdown() -> str:
    """docs/rpc.md."""
    counts = {state: sum(each.state is state for each in RPC_TABLE.values()) for state in State}
    out = [
        "# Every RPC of the 0.9.16 client",
        "",
        f"What the embedded simulator makes of each of the {len(RPC_TABLE)} calls that the client can send: "
        f"{counts[State.SERVED]} are",
        f"served, {counts[State.HARMLESS]} are harmless (answered, without effect), "
        f"{counts[State.REFUSED]} are refused with the error given here. Where the",
        "client waits for no answer, the error is in the server's log. Printed by",
        "`python -m tickdrive.leaderboard.simulator.rpc_table`; tests hold it against the client's API.",
    ]
    for title, group in _GROUPS.items():
        out += ["", f"## {title}", "", "| RPC | state | note |", "|---|---|---|"]
        out += [
            f"| `{each.name}` | {each.state.value} | {f'{each.note} {each.instead}'.strip()} |"
            for each in group
        ]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
