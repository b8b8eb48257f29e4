"""`apply_batch`: the 22 commands, each run by the RPC method of the same meaning."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.rpc import MethodTable, raw
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.simulation import Simulation
from tickdrive.leaderboard.simulator.spawn import spawn

log = logging.getLogger(__name__)

#: methods in the order of `rpc::Command::CommandType`; spawning is the first and done here
_METHODS = (
    "spawn_actor",
    "destroy_actor",
    "apply_control_to_vehicle",
    "apply_ackermann_control_to_vehicle",
    "apply_control_to_walker",
    "apply_physics_control",
    "set_actor_transform",
    "set_walker_state",
    "set_actor_target_velocity",
    "set_actor_target_angular_velocity",
    "add_actor_impulse",
    "add_actor_force",
    "add_actor_angular_impulse",
    "add_actor_torque",
    "set_actor_simulate_physics",
    "set_actor_enable_gravity",
    "set_actor_autopilot",
    "show_vehicle_debug_telemetry",
    "set_vehicle_light_state",
    "set_actor_location",
    "console_command",
    "set_traffic_light_state",
)
_SPAWN, _CONSOLE = 0, 20
_MAX_FOLLOWING = 64


class CommandService:
    """The batch method.

    Args:
        simulation: what it acts on.
        methods: the other methods, by name.
    """

    def __init__(self, simulation: Simulation, methods: MethodTable) -> None:
        self._sim = simulation
        self._methods = methods

    @raw
    def apply_batch(self, client: object, commands: Any, do_tick: Any = False) -> Any:
        """Run commands in order; `vector<CommandResponse>`, one for each, an error stops only its own.

        Raises:
            RequestError: `commands` is no list; a real client cannot send that.
        """
        responses = [self._run(each) for each in wire.sequence(commands, "commands")]
        if wire.boolean(do_tick, "do_tick"):
            ticked = self._sim.tick_cue(client)
            if not isinstance(ticked, int):
                return self._after(ticked, responses)
        return responses

    async def _after(self, ticked: Awaitable[int], responses: list[Any]) -> list[Any]:
        await ticked
        return responses

    def _run(self, command: Any) -> list[Any]:
        try:
            kind, fields = self._open(command)
            if kind == _SPAWN:
                return wire.ok(self._spawn(fields))
            return wire.ok(self._call(kind, fields))
        except RequestError as error:
            return wire.failed(str(error))
        except Exception as error:
            log.exception("a command failed")
            return wire.failed(f"{type(error).__name__}: {error}")

    @staticmethod
    def _open(command: Any) -> tuple[int, list[Any]]:
        """Command = [[variant index, fields]]."""
        (variant,) = wire.sequence(command, "command", 1, 1)
        index, fields = wire.sequence(variant, "command", 2, 2)
        return wire.integer(index, "command type", 0, len(_METHODS) - 1), list(
            wire.sequence(fields, "command")
        )

    def _spawn(self, fields: list[Any]) -> int:
        if len(fields) < 3:
            raise RequestError("A spawn command needs description, transform and parent.")
        # the attachment byte is uninitialised memory of the client where there is no parent
        parent = wire.optional(fields[2], "parent")
        actor = spawn(
            self._sim.world, fields[0], fields[1], None if parent is None else wire.integer(parent, "parent")
        )
        following = wire.sequence(fields[5], "do_after", 0, _MAX_FOLLOWING) if len(fields) > 5 else ()
        for each in following:
            kind, after = self._open(each)
            if kind == _SPAWN or not after:
                raise RequestError("Only commands to the new actor can follow its spawn.")
            # the client wrote 0: it could not know the id
            self._call(kind, [actor.actor_id, *after[1:]])
        return actor.actor_id

    def _call(self, kind: int, fields: list[Any]) -> int:
        self._methods[_METHODS[kind]].call(None, fields)
        if kind == _CONSOLE or not fields:
            return 0
        return fields[0] if isinstance(fields[0], int) else 0
