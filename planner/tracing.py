"""The one tracer: nested, named spans of a tick, on the host's monotonic clock.

Device work is timed to its completion: a span opened with `device=` synchronises that device before it
closes (and before it opens, so that earlier work is not charged to it).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

Clock = Callable[[], int]
"""Returns nanoseconds of a monotonic clock."""


class Span(NamedTuple):
    """One timed piece of a tick.

    Attributes:
        name: stage name, for example ``"localization"`` or ``"denoise"``.
        parent: name of the enclosing span; None directly under the tick.
        start_ms: start, from the tick's own start.
        ms: duration.
    """

    name: str
    parent: str | None
    start_ms: float
    ms: float


@dataclass(frozen=True, slots=True)
class TickTrace:
    """All spans of one tick, in the order in which they were opened.

    Attributes:
        total_ms: from `Tracer.begin` to `Tracer.end`.
        spans: every span, parents before their children.
        other_ms: what no top-level span covers.
    """

    total_ms: float
    spans: tuple[Span, ...]
    other_ms: float


class Tracer:
    """Collects the spans of one tick at a time.

    `begin()`, any number of nested `span(...)`, then `end()`. A span that an exception leaves through is
    closed and kept, so a failing stage is in the log with the time it took. Calling `span` outside a tick
    is allowed and records nothing, so that library code need not know whether it is being watched.
    """

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self._clock = clock
        self._origin_ns = 0
        self._active = False
        self._open: list[int] = []
        # name, parent index, start ns, end ns; a list, so that a tick costs no allocation beyond it
        self._rows: list[list] = []

    @property
    def active(self) -> bool:
        """Whether a tick is being recorded."""
        return self._active

    def begin(self) -> None:
        """Start a tick; whatever an unfinished one had collected is dropped."""
        self._rows = []
        self._open = []
        self._active = True
        self._origin_ns = self._clock()

    def span(self, name: str, device: str | None = None) -> _OpenSpan:
        """Time a block: ``with tracer.span("decode"): ...``.

        Args:
            name: stage name.
            device: torch device string; a CUDA device is synchronised at both ends.
        """
        return _OpenSpan(self, name, _synchronizer(device))

    def add(self, name: str, ms: float) -> None:
        """Record a span measured elsewhere (for example by device events), as ending now."""
        if not self._active:
            return
        now = self._clock()
        parent = self._open[-1] if self._open else None
        self._rows.append([name, parent, now - int(ms * 1e6), now])

    def end(self) -> TickTrace:
        """Finish the tick and return what it recorded."""
        end_ns = self._clock()
        self._active = False
        rows = self._rows
        spans = []
        covered_ns = 0
        for name, parent, start, stop in rows:
            stop = stop or end_ns
            if parent is None:
                covered_ns += stop - start
            spans.append(
                Span(
                    name=name,
                    parent=None if parent is None else rows[parent][0],
                    start_ms=(start - self._origin_ns) / 1e6,
                    ms=(stop - start) / 1e6,
                )
            )
        total_ns = end_ns - self._origin_ns
        return TickTrace(total_ms=total_ns / 1e6, spans=tuple(spans), other_ms=(total_ns - covered_ns) / 1e6)


class _OpenSpan:
    """The block of one span. A class, not a generator: entering and leaving one costs half as much."""

    __slots__ = ("_name", "_open", "_row", "_synchronize", "_tracer")

    def __init__(self, tracer: Tracer, name: str, synchronize: Callable[[], None] | None) -> None:
        self._tracer = tracer
        self._name = name
        self._synchronize = synchronize
        self._row: list | None = None

    def __enter__(self) -> None:
        tracer = self._tracer
        if not tracer._active:
            return
        if self._synchronize:
            self._synchronize()
        # Held here: `begin` may start another tick before this block ends.
        self._open = tracer._open
        self._row = [self._name, self._open[-1] if self._open else None, tracer._clock(), 0]
        tracer._rows.append(self._row)
        self._open.append(len(tracer._rows) - 1)

    def __exit__(self, *_: object) -> None:
        if self._row is None:
            return
        if self._synchronize:
            self._synchronize()
        self._row[3] = self._tracer._clock()
        self._open.pop()


def _synchronizer(device: str | None) -> Callable[[], None] | None:
    if device is None or not device.startswith("cuda"):
        return None
    import torch

    return lambda: torch.cuda.synchronize(device)
