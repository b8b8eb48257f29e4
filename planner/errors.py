"""One error style: every error says what was wrong and how to mend it.

The command line prints these without a traceback; anything else that escapes is a defect of ours and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TickdriveError(Exception):
    """Base of all errors a user can mend.

    Args:
        what: what was wrong, naming the value that was got.
        mend: what to do about it; may be empty where `what` says it already.
    """

    def __init__(self, what: str, mend: str = "") -> None:
        self.what = what
        self.mend = mend
        super().__init__(f"{what} {mend}".strip())


class ConfigError(TickdriveError):
    """A configuration file or option has a wrong key or value."""


class CheckpointError(TickdriveError):
    """A checkpoint is missing, damaged, or made for another network."""


class SensorError(TickdriveError):
    """A sensor is missing, misplaced or delivers what cannot be used."""


class PlannerError(TickdriveError):
    """The planner was called wrongly, or its result cannot be driven."""


class EngineNotReadyError(PlannerError):
    """An engine would have to build what takes seconds, and was told not to."""


class RouteError(TickdriveError):
    """A route file or a route in it cannot be used."""


class ServerError(TickdriveError):
    """A simulator cannot be started, reached, or has died."""


class DataError(TickdriveError):
    """A recording, log or results file cannot be read."""


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """Sentence that lists what is allowed and, where one is near, the likely intent.

    Args:
        got: the name that is not known.
        allowed: the names that are.

    Returns:
        For example ``"Did you mean 'seed'? Known: compact, light, medium, seed."``
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names)}."
