"""Which agent a command drives: one of ours, or anyone's, measured in the wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tickdrive.agents.config import AgentConfig, TickLogConfig, load_agent_config
from tickdrive.agents.wrapped_config import WrappedConfig, load_wrapped_config
from tickdrive.leaderboard.agent_loading import BUILT_IN, AgentSpec, agent_file, load_agent_class
from tickdrive.leaderboard.upstream.suite_run import UpstreamAgent
from tickdrive.planner.config import load_config, to_yaml
from tickdrive.planner.errors import ConfigError

AGENT_CONFIG_FILE = "config.yaml"
_WRAPPER = "wrapped"
_OURS = tuple(name for name in BUILT_IN if name != _WRAPPER)


@dataclass(frozen=True)
class AgentChoice:
    """An agent, ready for the evaluator.

    Attributes:
        spec: how it is loaded and what its setup is given.
        config: its configuration, where it is one of ours.
    """

    spec: AgentSpec
    config: AgentConfig | None


def models_config(agent: str, agent_config: str | None, settings: Sequence[str]) -> AgentConfig | None:
    """The configuration whose models an agent drives with; None where it has none of ours.

    Commands ask first: what is wrong with them is said before a folder is made or a simulator started.

    Raises:
        ConfigError: a key or value is wrong.
    """
    if agent != "diffusion":
        return None
    config = load_agent_config(agent_config, settings)
    return config if config.planner.kind == "diffusion" else None


def choose_agent(
    agent: str,
    agent_config: str | None,
    settings: Sequence[str],
    folder: Path,
    wrap: bool = True,
    log_name: str = "",
) -> AgentChoice:
    """Settle who drives, and write its whole configuration into the run's folder.

    Args:
        agent: a built-in name, or the path of any leaderboard agent.
        agent_config: its configuration; another's agent gets it word for word.
        settings: ``key=value`` changes: of our agent's configuration, or of the wrapper's.
        folder: the run's; logs go there.
        wrap: measure another's agent; False drives it bare, without a log.
        log_name: the log's file name; empty: one named after each route.

    Raises:
        ConfigError: there is no such agent, or a key or value is wrong.
    """
    log = TickLogConfig(enabled=True, dir=str(folder.resolve()), file=log_name)
    if agent in _OURS:
        config = replace(load_agent_config(agent_config, settings), tick_log=log)
        path = write_agent_config(config, folder)
        return AgentChoice(AgentSpec(agent, str(path), agent == "diffusion" and not log_name), config)
    if not wrap and agent != _WRAPPER:
        if settings:
            raise ConfigError("--set changes tickdrive's agents and its wrapper only.", "Leave it out.")
        load_agent_class(AgentSpec(agent))  # what is wrong with it is said before a simulator is started
        return AgentChoice(AgentSpec(agent, agent_config or ""), None)
    if agent == _WRAPPER or _is_wrapper(agent):
        wrapped = load_wrapped_config(agent_config, settings)
    else:
        # only the wrapper's own settings are looked up in a file; the agent's are the agent's
        wrapped = load_config(WrappedConfig, None, settings)
        wrapped = replace(wrapped, agent=agent, agent_config=agent_config or "")
    load_agent_class(AgentSpec(wrapped.agent))
    if Path(wrapped.agent).is_file():
        wrapped = replace(wrapped, agent=str(Path(wrapped.agent).resolve()))
    wrapped = replace(wrapped, save_names=False, tick_log=log)
    path = write_agent_config(wrapped, folder, f"--agent {_WRAPPER} ")
    return AgentChoice(AgentSpec(_WRAPPER, str(path), not log_name, label=wrapped.agent), None)


def choose_upstream_agent(
    agent: str,
    agent_config: str | None,
    settings: Sequence[str],
    folder: Path,
    wrap: bool,
    track: str,
    save_names: bool,
) -> UpstreamAgent:
    """Settle who drives under an upstream leaderboard; logs go where `SAVE_PATH` says, each route's apart.

    ``--set tick_log.dir`` puts these folders elsewhere. A file's ``tick_log`` counts for nothing: that of an
    earlier run, which is there to drive with again, names that run's own log.

    Args:
        agent: "diffusion", or the path of any leaderboard agent. It is not loaded here: it may import what
            only the leaderboard's process has.
        agent_config: see `choose_agent`.
        settings: likewise.
        folder: the run's.
        wrap: measure another's agent.
        track: of another's agent; ours has its own.
        save_names: the leaderboard appends the route's name to the configuration, as its agents expect.

    Raises:
        ConfigError: there is no such agent, or a key or value is wrong.
    """
    if agent == "diffusion":
        config = load_agent_config(agent_config, settings)
        logs = _log_folder(config.tick_log, settings)
        config = replace(config, tick_log=TickLogConfig(enabled=True))
        return UpstreamAgent(
            agent_file(agent), str(write_agent_config(config, folder).resolve()), config.track, logs
        )
    path = Path(agent).resolve()
    if not path.is_file():
        raise ConfigError(
            f"There is no agent {agent!r}.",
            "Under an upstream leaderboard it is 'diffusion' or the path of an agent's Python file.",
        )
    # upstream hands the text on as it is; a file's path is to be found from any folder
    own = agent_config or ""
    own = str(Path(own).resolve()) if own and Path(own).exists() else own
    if _is_wrapper(str(path)):
        wrapped = load_wrapped_config(own, settings)
    elif wrap:
        wrapped = replace(load_config(WrappedConfig, None, settings), agent=str(path), agent_config=own)
    else:
        if settings:
            raise ConfigError("--set changes tickdrive's agents and its wrapper only.", "Leave it out.")
        return UpstreamAgent(path, own, track)
    logs = _log_folder(wrapped.tick_log, settings)
    wrapped = replace(wrapped, save_names=save_names, tick_log=TickLogConfig(enabled=True))
    config_path = write_agent_config(wrapped, folder, f"--agent {_WRAPPER} ").resolve()
    return UpstreamAgent(agent_file(_WRAPPER), str(config_path), track, logs)


def _log_folder(log: TickLogConfig, settings: Sequence[str]) -> Path | None:
    """Where ``--set`` wants the logs; None where it says nothing."""
    asked = any(item.startswith("tick_log.dir=") for item in settings)
    return Path(log.dir).resolve() if asked and log.dir else None


def agent_config_text(folder: Path) -> str | None:
    """The agent's configuration as a run's folder holds it: a comment, then YAML. None: it has none."""
    path = folder / AGENT_CONFIG_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _is_wrapper(agent: str) -> bool:
    import tickdrive.agents.wrapped_agent as wrapper

    return Path(agent).is_file() and Path(agent).samefile(wrapper.__file__)


def write_agent_config(config: AgentConfig | WrappedConfig, folder: Path, agent_option: str = "") -> Path:
    """Write an agent's whole configuration into a run's folder, from where the agent reads it.

    Args:
        config: the agent's.
        folder: the run's.
        agent_option: what `tickdrive drive` needs to drive it again, beside the file.
    """
    path = folder / AGENT_CONFIG_FILE
    text = (
        f"# the agent of this run; drive with it again: tickdrive drive {agent_option}--agent-config {path}\n"
    )
    path.write_text(text + to_yaml(config), encoding="utf-8")
    return path
