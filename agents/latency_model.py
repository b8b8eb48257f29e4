"""What latency does to an agent, in simulated time, under any leaderboard.

The leaderboards stop simulated time while an agent thinks. With a latency model the agent behaves as if time
had gone on: an observation is taken at simulated time t, computing on it takes L, and what was computed takes
effect at e = t + L; the next observation is the first frame at or after e. Rounded to ticks (`quantised`), it
is applied from the first frame at or after e on, that is, ceil(L / tick) frames after the observation;
`subtick` applies, over the tick that contains e, the time-weighted mean of the old and the new control. L is
the whole agent's, from `run_step`'s entry to its return.

Times are integer microseconds, so that an L of exactly one tick is one tick.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from tickdrive.agents.config import LatencyConfig
from tickdrive.agents.tick_log import LatencyRecord, read_log
from tickdrive.agents.types import TICK_US
from tickdrive.planner.errors import DataError

_SNAP_US = 1_000
_LOGGER = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Applied(Generic[T]):
    """What is in force over the tick that begins.

    Attributes:
        old: what was in force before; None where nothing was.
        new: what is in force at the tick's end; None before the first.
        weight_new: share of the tick that `new` has: 1 but for the tick that contains e under `subtick`.
    """

    old: T | None
    new: T | None
    weight_new: float


@dataclass
class _Computed(Generic[T]):
    value: T
    frame: int
    at_us: int
    latency_us: int | None

    @property
    def effective_us(self) -> int | None:
        return None if self.latency_us is None else self.at_us + self.latency_us


class LatencyModel(Generic[T]):
    """Decides which observations an agent takes, and from when on what it computed is applied.

    Each tick: `begin`; where it says so, compute and hand over with `computed`; `applied`; and at the very
    end `finish` with the time the tick took, which is L in mode "measured".

    Args:
        config: mode and rounding; mode "off" is L = 0.
        tick_us: length of a tick.

    Raises:
        DataError: the log of mode "trace" cannot be read, or holds no plan.
    """

    def __init__(self, config: LatencyConfig, tick_us: int = TICK_US) -> None:
        self._config = config
        self._tick_us = tick_us
        self._known = _known_latencies(config)
        self._origin_s: float | None = None
        self._now_us = 0
        self._frame = 0
        self._in_force: _Computed[T] | None = None
        self._pending: _Computed[T] | None = None

    def begin(self, timestamp: float, frame: int) -> bool:
        """A tick begins.

        Args:
            timestamp: simulated seconds.
            frame: the observation's.

        Returns:
            Whether the agent is free to take this observation.
        """
        self._now_us, self._frame = self._to_us(timestamp), frame
        pending = self._pending
        if pending and pending.effective_us is not None and pending.effective_us <= self._now_us:
            self._in_force, self._pending = pending, None
        return self._pending is None

    def computed(self, value: T) -> None:
        """Hand over what is computed from this tick's observation."""
        latency_us = None if self._known is None else next(self._known)
        made = _Computed(value, self._frame, self._now_us, latency_us)
        if latency_us == 0:
            self._in_force = made
        else:
            self._pending = made

    def applied(self, elapsed_us: int = 0) -> Applied[T]:
        """What is in force over the tick that begins now.

        Args:
            elapsed_us: what this tick has taken so far: the best that can be known of a latency that is being
                measured, where `subtick` needs it at once.
        """
        old = None if self._in_force is None else self._in_force.value
        pending = self._pending
        if pending is not None and self._config.rounding == "subtick":
            latency_us = elapsed_us if pending.latency_us is None else pending.latency_us
            left_us = pending.at_us + latency_us - self._now_us
            if left_us < self._tick_us:
                return Applied(old, pending.value, 1.0 - max(left_us, 0) / self._tick_us)
        return Applied(old, old, 1.0)

    def finish(self, elapsed_us: int) -> None:
        """The tick returns, `elapsed_us` after its entry."""
        pending = self._pending
        if pending is not None and pending.latency_us is None and pending.frame == self._frame:
            pending.latency_us = max(elapsed_us, 0)

    def record(self, past_horizon: bool = False) -> LatencyRecord | None:
        """For the tick's line in the log; None with the model off."""
        if self._config.mode == "off":
            return None
        made = self._in_force
        return LatencyRecord(
            mode=self._config.mode,
            us=None if made is None else made.latency_us,
            observed_frame=None if made is None else made.frame,
            busy=self._pending is not None and self._pending.frame != self._frame,
            past_horizon=past_horizon,
        )

    def _to_us(self, timestamp: float) -> int:
        """Microseconds since the first tick, set on the grid of ticks where it is near it."""
        if self._origin_s is None:
            self._origin_s = timestamp
        exact = (timestamp - self._origin_s) * 1e6
        on_grid = round(exact / self._tick_us) * self._tick_us
        return on_grid if abs(exact - on_grid) < _SNAP_US else round(exact)


def logged_latencies_us(ticks: Sequence[dict]) -> list[int]:  # type: ignore[type-arg]
    """Latencies of a log's plans, in the order of their observations: what mode "trace" replays.

    A log written with a model on states them; in one without, a tick's total is its plan's.
    """
    stated = {
        tick["latency"]["observed_frame"]: int(tick["latency"]["us"])
        for tick in ticks
        if tick.get("latency") and tick["latency"]["us"] is not None
    }
    if stated:
        return [stated[frame] for frame in sorted(stated)]
    return [round(1000.0 * float(tick["total_ms"])) for tick in ticks if not tick.get("latency")]


def _known_latencies(config: LatencyConfig) -> Iterator[int] | None:
    """Latency of one observation after the other, where it is known beforehand."""
    if config.mode == "measured":
        return None
    if config.mode in ("off", "fixed"):
        return itertools.repeat(round(1000.0 * config.ms))
    log = read_log(config.trace)
    latencies = logged_latencies_us(log.ticks)  # type: ignore[arg-type]
    if not latencies:
        raise DataError(f"{log.path} holds no latencies to replay.", "Give the log of a drive.")
    return _replayed(latencies, str(log.path))


def _replayed(latencies: Sequence[int], path: str) -> Iterator[int]:
    yield from latencies
    _LOGGER.warning("all %d latencies of %s have been replayed: from the start again", len(latencies), path)
    while True:
        yield from latencies
