"""Measures any leaderboard agent: ``--agent agents/wrapped_agent.py --agent-config my_agent.yaml``.

The YAML file names the agent's own file and configuration (`agents/wrapped_config.py`), as do the
environment variables TICKDRIVE_WRAPPED_AGENT and TICKDRIVE_WRAPPED_CONFIG. Runs under leaderboard 2.0 and
2.1, Bench2Drive, leaderboard 1.0 and tickdrive's own evaluator, and opens no CARLA client.

The wrapped agent is an untouched instance of its own class: it is constructed, given its plan, set up, called
and destroyed with the arguments that the evaluator gives, in the evaluator's order. Whatever else the
evaluator reads, calls or sets goes to it as well. Only its `run_step` has a stand-in
(`agents/agent_meter.py`).
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

# See agents/diffusion_agent.py: left on sys.path, our modules would hide others of the same name.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != _HERE]

try:
    from tickdrive.agents.agent_meter import AgentMeter
    from tickdrive.agents.ego_locator import EgoLocator
    from tickdrive.agents.route_log import SetupArgument, route_log_path
    from tickdrive.agents.run_header import run_header
    from tickdrive.agents.tick_log import TickLog
    from tickdrive.agents.wrapped_config import AGENT_VARIABLE, WrappedConfig, load_wrapped_config
    from tickdrive.leaderboard.agent_loading import AgentSpec, build_agent, load_agent_class
    from tickdrive.planner.errors import ConfigError
    from tickdrive.planner.source import source_commit
except ModuleNotFoundError as error:
    if error.name != "tickdrive":
        raise
    raise ModuleNotFoundError(
        f"tickdrive is not installed in {sys.executable}. Run: pip install {os.path.dirname(_HERE)}",
        name="tickdrive",
    ) from error

_LOGGER = logging.getLogger(__name__)
_GUARDED = "plan_gap_m"
"""tickdrive's evaluator sets this before `setup`, on agents that have it."""


def get_entry_point() -> str:
    """Name of the agent class, as the leaderboards ask for it."""
    return "WrappedAgent"


class WrappedAgent:
    """What the evaluator holds in place of the agent.

    The constructor takes what the evaluator gives: ``(host, port, debug)``, or, in leaderboard 1.0,
    ``(path_to_conf_file)``. Which agent it is, is first known from the configuration: until `setup` (in
    1.0, the constructor) what the evaluator gives and sets is kept for it.
    """

    __slots__ = ("__weakref__", "_wrapping")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        wrapping = _Wrapping(arguments, named)
        object.__setattr__(self, "_wrapping", wrapping)
        if len(arguments) == 1 and not named:  # leaderboard 1.0: the constructor calls the agent's setup
            wrapping.open(arguments[0])
            wrapping.begin()

    def set_global_plan(self, *arguments: Any, **named: Any) -> None:
        """The route's plan, for the agent."""
        self._wrapping.set_global_plan(arguments, named)

    def setup(self, path_to_conf_file: str = "", *arguments: Any, **named: Any) -> None:
        """Build the wrapped agent and set it up with its own configuration.

        Args:
            path_to_conf_file: a YAML file (`WrappedConfig`), or empty where the environment names the agent.
                What Bench2Drive appends goes on to the agent's own.
            *arguments: what a fork of a leaderboard may pass besides.
            **named: likewise.

        Raises:
            ConfigError: no agent is named, it cannot be loaded, or it is this file itself.
            DataError: the log cannot be written, or the one to be replayed not be read.
            Exception: whatever the agent's own setup raises.
        """
        wrapping = self._wrapping
        argument = wrapping.open(path_to_conf_file)
        wrapping.agent.setup(argument, *arguments, **named)
        wrapping.begin()

    def sensors(self) -> Any:
        """The agent's sensors."""
        specs = self._wrapping.agent.sensors()
        self._wrapping.note_sensors(specs)
        return specs

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """The agent's own `__call__`: it collects the sensors' data and calls `run_step`."""
        self._wrapping.calls += 1
        return self._wrapping.agent(*arguments, **named)

    def destroy(self) -> None:
        """Destroy the agent, and close its log."""
        wrapping = self._wrapping
        try:
            if wrapping.agent is not None:
                wrapping.agent.destroy()
        finally:
            wrapping.close()

    @staticmethod
    def get_ros_version() -> int:
        """The agent's, where the environment names it; it is asked before the configuration is known."""
        path = os.environ.get(AGENT_VARIABLE)
        return _ros_version(load_agent_class(AgentSpec(path))) if path else -1

    @property
    def tickdrive_meter(self) -> AgentMeter | None:
        """What measures the route being driven; None before `setup`."""
        return self._wrapping.meter

    # The rest makes the agent's attributes, and its class for isinstance, those of this object.

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        agent = self._wrapping.agent
        return WrappedAgent if agent is None else type(agent)

    def __getattr__(self, name: str) -> Any:
        wrapping = self._wrapping
        if wrapping.agent is not None:
            return getattr(wrapping.agent, name)
        if name in wrapping.early:
            return wrapping.early[name]
        raise AttributeError(f"The wrapped agent is not set up yet, and has no {name!r}.")

    def __setattr__(self, name: str, value: Any) -> None:
        wrapping = self._wrapping
        if wrapping.agent is not None:
            setattr(wrapping.agent, name, value)
        else:
            wrapping.early[name] = value

    def __delattr__(self, name: str) -> None:
        delattr(self._wrapping.agent, name)


class _Wrapping:
    """The wrapped agent and all that belongs to it; apart, so that no name of it hides one of the agent's."""

    def __init__(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._arguments, self._named = arguments, named
        self._plan: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._config = WrappedConfig()
        self._save_name = ""
        self._sensors: list[Any] = []
        self._locator: EgoLocator | None = None
        self.early: dict[str, Any] = {_GUARDED: None}
        self._own_step: Any = None
        self.calls = 0
        self.agent: Any = None
        self.meter: AgentMeter | None = None

    def open(self, argument: Any) -> str:
        """Read the configuration and build the agent; returns its own setup argument."""
        given = SetupArgument.parse(argument)
        config = self._config = load_wrapped_config(given.config)
        self._save_name = given.save_name
        own = config.agent_config + (given.suffix if config.save_names else "")
        if self.agent is not None:  # set up once more
            return own
        agent_class = load_agent_class(AgentSpec(_checked(config.agent)))
        if _ros_version(agent_class) != WrappedAgent.get_ros_version():
            raise ConfigError(
                f"{config.agent} is an agent for ROS {_ros_version(agent_class)}.",
                f"Name it in {AGENT_VARIABLE}: its ROS version is asked before the configuration is given.",
            )
        if len(self._arguments) == 1:
            self.agent = agent_class(own)
        elif self._named or len(self._arguments) != 3:
            self.agent = agent_class(*self._arguments, **self._named)
        else:
            host, port, debug = self._arguments
            self.agent = build_agent(agent_class, host, port, debug, own)
        for name, value in self.early.items():
            if name != _GUARDED or (value is not None and hasattr(self.agent, name)):
                setattr(self.agent, name, value)
        if self._plan is not None:
            self.agent.set_global_plan(*self._plan[0], **self._plan[1])
        return own

    def set_global_plan(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._plan = (arguments, named)
        if self.agent is not None:
            self.agent.set_global_plan(*arguments, **named)

    def note_sensors(self, specs: Any) -> None:
        self._sensors = [spec for spec in specs if isinstance(spec, dict)]

    def begin(self) -> None:
        """Stand in for `run_step`, once the agent is set up."""
        self._stand_back()
        name = type(self.agent).__name__
        self.meter = AgentMeter(
            self.agent.run_step, name, self._config.latency, self._open_log(name), self._locate
        )
        self._own_step = vars(self.agent).get("run_step")
        self.agent.run_step = self.meter.step

    def close(self) -> None:
        """End the route: close the log, and leave the agent as it was."""
        self._stand_back()
        self._locator = None

    def _stand_back(self) -> None:
        if self.meter is None:
            return
        self.meter.close()
        # else the agent would hold itself, and what it has on the GPU, until the next garbage collection
        del self.agent.run_step
        if self._own_step is not None:
            self.agent.run_step = self._own_step
        if self.calls and not self.meter.rungs:
            name = type(self.agent).__name__
            _LOGGER.warning("%s was called, but not its run_step: nothing is measured", name)
        self.meter, self.calls = None, 0

    def _open_log(self, name: str) -> TickLog | None:
        config = self._config
        path = route_log_path(config.tick_log, self._save_name)
        if path is None:
            if config.tick_log.enabled:
                _LOGGER.warning("%s is not logged: set SAVE_PATH or tick_log.dir", name)
            return None
        source = {"name": name, "commit": source_commit(Path(config.agent).resolve().parent)}
        return TickLog(path, {**run_header(config, name, self._save_name), "agent": source})

    def _locate(self, input_data: Any, sim_s: float) -> dict[str, Any]:
        if self._locator is None:
            gps = getattr(self.agent, "_global_plan", None) or ()
            world = getattr(self.agent, "_global_plan_world_coord", None) or ()
            self._locator = EgoLocator(self._sensors, gps, world)
        return self._locator.find(input_data, sim_s)


def _checked(agent: str) -> str:
    if agent == "wrapped" or (os.path.exists(agent) and os.path.samefile(agent, __file__)):
        raise ConfigError("The agent to wrap is the wrapper.", "Name your own agent's file.")
    return agent


def _ros_version(agent_class: type) -> int:
    return int(getattr(agent_class, "get_ros_version", lambda: -1)())
