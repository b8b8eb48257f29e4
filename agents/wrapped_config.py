"""Configuration of `agents/wrapped_agent.py`: which agent is measured, and what its latency does to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tickdrive.agents.config import LatencyConfig, TickLogConfig
from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError

AGENT_VARIABLE = "TICKDRIVE_WRAPPED_AGENT"
CONFIG_VARIABLE = "TICKDRIVE_WRAPPED_CONFIG"


def _hold() -> LatencyConfig:
    return LatencyConfig(busy="hold", compensation=False)


@dataclass(frozen=True)
class WrappedConfig:
    """A leaderboard agent, measured.

    Attributes:
        agent: its Python file, as it would be given with ``--agent``. Empty: `$TICKDRIVE_WRAPPED_AGENT`, and
            `$TICKDRIVE_WRAPPED_CONFIG` for the next.
        agent_config: what it would be given with ``--agent-config``, word for word.
        save_names: what Bench2Drive appends to ``--agent-config`` goes on to the agent, as it would without
            us. False where a leaderboard appends it that the agent does not know.
        latency: what the agent's latency does to its driving. Its plans are not known, only its controls:
            while it is busy the last control can be held, not a plan followed.
        tick_log: where its ticks are logged.
    """

    agent: str = ""
    agent_config: str = ""
    save_names: bool = True
    latency: LatencyConfig = field(default_factory=_hold)
    tick_log: TickLogConfig = field(default_factory=TickLogConfig)

    def __post_init__(self) -> None:
        if self.latency.busy != "hold" or self.latency.compensation:
            raise ConfigError(
                f"latency.busy={self.latency.busy}, latency.compensation={self.latency.compensation}.",
                "A wrapped agent gives no plan to follow: leave both out (busy: hold, compensation: false).",
            )


def load_wrapped_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> WrappedConfig:
    """Read a configuration; an agent that it leaves open is taken from the environment.

    Args:
        path: YAML file; None or empty for none.
        overrides: ``key=value`` strings, for example ``latency.mode=measured``.

    Raises:
        ConfigError: names the file and the key that is wrong; or no agent is named anywhere.
    """
    source = str(path or "")
    try:
        config = load_config(WrappedConfig, source or None, overrides)
    except ConfigError as error:
        if not source or source in error.what:
            raise
        raise ConfigError(f"{source}: {error.what}", error.mend) from error
    if not config.agent:
        config = replace(
            config,
            agent=os.environ.get(AGENT_VARIABLE, ""),
            agent_config=os.environ.get(CONFIG_VARIABLE, ""),
        )
    if not config.agent:
        raise ConfigError(
            f"{source or 'The configuration'} names no agent to wrap.",
            f"Set agent: <its Python file> there, or {AGENT_VARIABLE}.",
        )
    return config
