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
# by name: Bench2Drive has one more than the leaderboards
_FAILURES = {"AgentError": "Agent crashed", "TickRuntimeError": "TickRuntime"}


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

        from leaderboard.scenarios.scenario_manager import ScenarioManager  # upstream's

        run, tick = ScenarioManager.run_scenario, ScenarioManager._tick_scenario

        def frame() -> int:
            return int(CarlaDataProvider.get_world().get_snapshot().frame)

        # a tick that the agent or a limit breaks off is judged by nobody: a drive ends with the one before
        judged_up_to = 0

        def judged(manager: Any) -> None:
            nonlocal judged_up_to
            judged_up_to = frame()
            self._ask(begin=judged_up_to, hero=manager.ego_vehicles[0].id)
            failure = "Simulation crashed"
            try:
                run(manager)
                failure = ""
            except Exception as error:
                failure = _FAILURES.get(type(error).__name__, failure)
                raise
            finally:
                self._ask(end=judged_up_to, failure=failure)

        def ticked(manager: Any) -> None:
            nonlocal judged_up_to
            tick(manager)
            judged_up_to = frame()
            self._ask(tick=judged_up_to)

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
