"""A route's tick log under every leaderboard: what `setup` is told of the route, and where its log goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tickdrive.agents.config import TickLogConfig


@dataclass(frozen=True)
class SetupArgument:
    """What a leaderboard gives to an agent's `setup`.

    Attributes:
        config: the configuration that was named with ``--agent-config``; may be empty.
        suffix: what Bench2Drive appended to it: ``+<save name>``, once more with every route; else empty.
    """

    config: str
    suffix: str = ""

    @classmethod
    def parse(cls, argument: object) -> SetupArgument:
        """Take a setup argument apart. The path of an existing file may hold a plus of its own."""
        given = str(argument or "")
        parts = given.split("+")
        for count in range(len(parts), 0, -1):
            path = "+".join(parts[:count])
            # not Path.is_file: it raises where the name is too long for a file, as it is after a few routes
            if os.path.isfile(path):
                return cls(path, given[len(path) :])
        return cls(parts[0], given[len(parts[0]) :])

    @property
    def save_name(self) -> str:
        """Bench2Drive's name of the present route; empty elsewhere."""
        return self.suffix.rpartition("+")[2]


def route_log_path(settings: TickLogConfig, save_name: str = "") -> Path | None:
    """Where a route's ticks go; a log that is there already is kept, unless the file is named.

    Args:
        settings: of the log.
        save_name: the leaderboard's name of the route, where it gives one.

    Returns:
        None where no log is to be written.
    """
    folder = settings.dir or os.environ.get("SAVE_PATH", "")
    if not settings.enabled or not folder:
        return None
    if settings.file:
        return Path(folder) / settings.file
    stem = f"{save_name}.ticks" if save_name else "ticks"
    path = Path(folder) / f"{stem}.jsonl"
    number = 2
    while path.exists():
        path = Path(folder) / f"{stem}-{number}.jsonl"
        number += 1
    return path
