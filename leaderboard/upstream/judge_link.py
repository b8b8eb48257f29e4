"""In an upstream evaluator's process: tells a second judge which route begins, when, and what scenarios do.

Upstream's files stay as they are; the few calls that matter are wrapped. Before a route's first tick
upstream waits until the judge is attached, after each until the judge has seen it, and after the last until
the judge is done: simulated time stands still meanwhile, so that the drive is the same and the judge sees all
of it, actors of a few seconds' life too. Lines of JSON over a local socket, see `second_judge`.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

_WAIT_S = 120.0
_PREFIXES = ("ScenarioRouteNumber", "ScenarioTimeout_", "AC_Switch")


class JudgeLink:
    """The connection, shared by upstream's threads.

    Args:
        path: the judge's socket.
        arguments: upstream's command line, for the simulator's address.
    """

    def __init__(self, path: str, arguments: list[str]) -> None:
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        self._server = given["host"], int(given["port"])
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_WAIT_S)
        self._socket.connect(path)
        self._answers = self._socket.makefile("r")

    def install(self) -> None:
        """Wrap what upstream calls."""
        self._follow_runs()
        self._follow_signals()

    def route(self, route_id: str) -> None:
        """A route is about to be loaded."""
        host, port = self._server
        self._tell(route=route_id, host=host, port=port)

    def _tell(self, **content: Any) -> None:
        with self._lock:
            self._socket.sendall((json.dumps(content) + "\n").encode())

    def _ask(self, **content: Any) -> None:
        self._tell(**content)
        answer = self._answers.readline()
        if answer != "done\n":
            raise RuntimeError(f"the second judge ended: {answer!r}")

    def _follow_runs(self) -> None:
        from srunner.scenariomanager.carla_data_provider import CarlaDataProvider

        from leaderboard.autoagents.agent_wrapper import AgentError  # upstream's
        from leaderboard.scenarios.scenario_manager import ScenarioManager

        run, tick = ScenarioManager.run_scenario, ScenarioManager._tick_scenario

        def frame() -> int:
            return int(CarlaDataProvider.get_world().get_snapshot().frame)

        def judged(manager: Any) -> None:
            self._ask(begin=frame(), hero=manager.ego_vehicles[0].id)
            failure = "Simulation crashed"
            try:
                run(manager)
                failure = ""
            except AgentError:
                failure = "Agent crashed"
                raise
            finally:
                self._ask(end=frame(), failure=failure)

        def ticked(manager: Any) -> None:
            tick(manager)
            self._ask(tick=frame())

        ScenarioManager.run_scenario = judged
        ScenarioManager._tick_scenario = ticked

    def _follow_signals(self) -> None:
        import py_trees
        from srunner.scenariomanager.carla_data_provider import CarlaDataProvider

        blackboard = py_trees.blackboard.Blackboard
        put = blackboard.set

        def told(board: Any, name: str, value: Any, overwrite: bool = True) -> Any:
            if name.startswith(_PREFIXES) and value is not None:
                world = CarlaDataProvider.get_world()
                self._tell(signal=name, value=bool(value), frame=world.get_snapshot().frame if world else 0)
            return put(board, name, value, overwrite)

        blackboard.set = told
