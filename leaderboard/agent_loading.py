"""Loading an agent by name or by path, as the leaderboards do."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from tickdrive.leaderboard.sensor_interface import SensorInterface
from tickdrive.planner.errors import ConfigError, TickdriveError, did_you_mean

BUILT_IN: Mapping[str, str] = {
    "diffusion": "tickdrive.agents.diffusion_agent",
    "expert": "tickdrive.agents.expert_agent",
    "wrapped": "tickdrive.agents.wrapped_agent",
}
_LOGGER = logging.getLogger(__name__)


class AgentTimeout(Exception):
    """The agent took longer than it may for its setup or a step."""


@dataclass(frozen=True)
class AgentSpec:
    """Which agent drives.

    Attributes:
        agent: a built-in name ("diffusion", "expert", "wrapped") or the path of a Python file.
        config: handed to the agent's `setup`; for leaderboard agents the path of their configuration.
        save_names: append ``+<route id>`` to it, as Bench2Drive does: every route has a log of its own.
        label: what results call it, where that is not `agent`: the agent in the wrapper.
    """

    agent: str
    config: str = ""
    save_names: bool = False
    label: str = ""

    def setup_argument(self, route_id: str) -> str:
        """What the agent's `setup` is given for a route."""
        return f"{self.config}+{route_id}" if self.save_names else self.config


def load_agent_class(spec: AgentSpec) -> type:
    """Import an agent's module and return the class that its `get_entry_point` names.

    A file is loaded as the leaderboards do: its folder goes first on `sys.path`, and the module's name is
    the file's name up to the first dot.

    Raises:
        ConfigError: there is no such agent, it cannot be imported, or it does not follow the contract.
    """
    module = _import(spec.agent)
    entry = getattr(module, "get_entry_point", None)
    if not callable(entry):
        raise ConfigError(
            f"Agent {spec.agent!r} defines no get_entry_point().", "Define it to return the class's name."
        )
    with _its_failures_told(Path(module.__file__ or spec.agent), "fails in get_entry_point()"):
        name = entry()
    agent_class = getattr(module, str(name), None)
    if not inspect.isclass(agent_class):
        raise ConfigError(
            f"Agent {spec.agent!r}: get_entry_point() names {name!r}, which is no class of its module."
        )
    return agent_class


def agent_file(name: str) -> Path:
    """File of a built-in agent, as an upstream leaderboard is given it."""
    spec = importlib.util.find_spec(BUILT_IN[name])
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).resolve()


def _import(agent: str) -> ModuleType:
    if agent in BUILT_IN:
        return importlib.import_module(BUILT_IN[agent])
    path = Path(agent)
    if path.suffix != ".py":
        raise ConfigError(
            f"There is no agent {agent!r}.", f"{did_you_mean(agent, BUILT_IN)} Or give a .py file."
        )
    if not path.is_file():
        raise ConfigError(f"Agent file {path} does not exist.", "Check the path.")
    path = path.resolve()
    name = path.name.split(".")[0]
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "/") != path:
        raise ConfigError(
            f"Agent file {path} is called like the module {name!r}, which is already loaded.",
            "Rename the file.",
        )
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    with _its_failures_told(path, "cannot be imported"):
        module = importlib.import_module(name)
    return module


@contextmanager
def _its_failures_told(agent: Path, what: str) -> Iterator[None]:
    """Turn what an agent's own code raises into an error that names its line: our frames tell nothing."""
    try:
        yield
    except TickdriveError:
        raise
    except (Exception, SystemExit) as error:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        lines = [f"Agent file {agent} {what}: {type(error).__name__}: {message}", *_places(error, agent)]
        raise ConfigError("\n".join(lines), "Mend it there.") from None


def _places(error: BaseException, agent: Path) -> list[str]:
    """Where it happened: the line of the agent's file that ran last, and the one that raised, if another."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [i for i, frame in enumerate(frames) if frame.filename == str(agent)]
    places: list[tuple[str, int | None, str | None]] = []
    if own:
        places = [(frame.filename, frame.lineno, frame.line) for frame in (frames[own[-1]], frames[-1])]
    if isinstance(error, SyntaxError):  # the line that does not parse never ran
        places[1:] = [(error.filename or str(agent), error.lineno, error.text)]
    return [
        f'  File "{file}", line {number}: {(text or "").strip()}'
        for file, number, text in dict.fromkeys(places)
        if number is not None and not file.startswith("<frozen")
    ]


def build_agent(agent_class: type, host: str, port: int, debug: bool, config: str) -> Any:
    """Construct an agent: `cls(host, port, debug)`, or leaderboard 1.0's `cls(path_to_config)`."""
    parameters = inspect.signature(agent_class).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if takes_any or len(positional) >= 2:
        return agent_class(host, port, debug)
    return agent_class(config)


def step_agent(agent: Any, frame: int, sim_s: float) -> tuple[Any, float]:
    """One step of an agent of ours or of upstream's base class.

    Upstream's `__call__` asks scenario_runner for the time; here its two parts are called one by one.

    Returns:
        the control, and the milliseconds that were spent waiting for sensors.
    """
    interface = agent.sensor_interface
    if isinstance(interface, SensorInterface):
        interface.clock.frame, interface.clock.sim_s = frame, sim_s
        return agent(), interface.waited_ms
    data = interface.get_data(frame)
    control = agent.run_step(data, sim_s)
    control.manual_gear_shift = False
    return control, 0.0


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `AgentTimeout` in the block after that time.

    Works where the process can be interrupted: in the main thread, on systems with SIGALRM. Elsewhere the
    block runs without a limit (said once in the log).
    """
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        _say_unwatched()
        yield
        return

    def expired(number: int, frame: FrameType | None) -> None:
        raise AgentTimeout(f"The agent took longer than {seconds:g} s.")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


_unwatched_said = False


def _say_unwatched() -> None:
    global _unwatched_said
    if not _unwatched_said:
        _unwatched_said = True
        _LOGGER.warning("agents run without a time limit here: it needs the main thread and SIGALRM")
