"""A tick log as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing.

The Trace Event Format's JSON object form
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): complete events ("X") for
spans, instant events ("i") for rungs, misses and the guard, counters ("C"), metadata ("M") for names;
timestamps in microseconds. The format requires events of one thread to nest; rounded times of the log may
pass their parent's by 0.1 us and are cut to it.

Time is wall time as the log tells it: a tick begins `outside_ms` after the previous one ended. Where that is
not told (after a lost tick, say) it begins at once. Writing the log's lines is in neither.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tickdrive.agents.tick_log import open_log
from tickdrive.planner.errors import DataError
from tickdrive.planner.files import opened_atomically

_PID = 1
_AGENT, _SIMULATOR = 1, 2
_NAMES = {_AGENT: "agent", _SIMULATOR: "simulator and evaluator"}


def write_trace(log: str | Path, path: Path, budget_ms: float) -> int:
    """Write a log's trace, event by event; compressed where the name ends in `.gz`.

    Args:
        log: a run's folder, its JSON Lines, or Parquet.
        path: the file; replaced only when the new one is whole.
        budget_ms: what a missed tick has passed.

    Returns:
        The number of events.

    Raises:
        DataError: the log cannot be read, or the file cannot be written.
    """
    reader = open_log(log)
    header = {key: reader.header[key] for key in ("engine", "commit", "route") if key in reader.header}
    count = 0
    try:
        with _opened(path) as file:
            start = {"displayTimeUnit": "ms", "otherData": {"log": str(reader.path), **header}}
            file.write(msgspec.json.encode(start)[:-1] + b',"traceEvents":[')
            for event in trace_events(reader.ticks(), budget_ms):
                file.write((b",\n" if count else b"\n") + msgspec.json.encode(event))
                count += 1
            file.write(b"\n]}\n")
    except OSError as error:
        raise DataError(
            f"Trace {path} cannot be written: {error.strerror}.",
            "Name a file in a folder that can be written.",
        ) from error
    return count


def trace_events(ticks: Iterator[dict[str, Any]], budget_ms: float) -> Iterator[dict[str, Any]]:
    """The events of ticks, in the order of time within each track."""
    yield _event("process_name", "M", 0, _AGENT, args={"name": "tickdrive"})
    for thread, name in _NAMES.items():
        yield _event("thread_name", "M", 0, thread, args={"name": name})
        yield _event("thread_sort_index", "M", 0, thread, args={"sort_index": thread})
    end_ns = 0
    for index, tick in enumerate(ticks):
        outside_ns = _ns(tick.get("outside_ms") or 0.0)
        if outside_ns:
            yield _complete("outside", end_ns, end_ns + outside_ns, _SIMULATOR, "simulator")
        start_ns = end_ns + outside_ns
        end_ns = start_ns + _ns(tick["total_ms"])
        yield from _tick_events(tick, index, start_ns, end_ns, budget_ms)


def _tick_events(
    tick: dict[str, Any], index: int, start_ns: int, end_ns: int, budget_ms: float
) -> Iterator[dict[str, Any]]:
    told = ("frame", "sim_s", "rung", "steps", "engine", "guarded", "preempted", "predicted_ms", "latency")
    args = {"tick": index} | {key: tick[key] for key in told if tick.get(key) is not None}
    yield _complete("tick", start_ns, end_ns, _AGENT, "tick", args)
    yield from _span_events(tick.get("spans", ()), start_ns, end_ns)
    rung = tick.get("rung")
    if rung and rung != "planned":
        yield _instant(rung, start_ns, "rung")
    if tick.get("guarded"):
        yield _instant("guarded", start_ns, "guard")
    if tick["total_ms"] > budget_ms:
        yield _instant("miss", end_ns, "miss", {"over_ms": round(tick["total_ms"] - budget_ms, 4)})
    yield _event("total_ms", "C", start_ns, _AGENT, args={"ms": tick["total_ms"]})
    speed_mps = (tick.get("ego") or {}).get("speed_mps")
    if speed_mps is not None:
        yield _event("speed_mps", "C", start_ns, _AGENT, args={"mps": speed_mps})


def _span_events(spans: list[dict[str, Any]], start_ns: int, end_ns: int) -> Iterator[dict[str, Any]]:
    """Spans, each cut to lie in its parent and behind the sibling before it."""
    # name, end, and the end of its last child; the tick itself at the bottom
    open_spans: list[tuple[str | None, int, int]] = [(None, end_ns, start_ns)]
    for span in spans:
        name, parent = span["name"], span.get("parent")
        if any(other[0] == parent for other in open_spans):
            while open_spans[-1][0] != parent:
                open_spans.pop()
        else:
            del open_spans[1:]
        outer, outer_end_ns, free_ns = open_spans[-1]
        first_ns = start_ns + _ns(span["start_ms"])
        begin_ns = min(max(first_ns, free_ns), outer_end_ns)
        stop_ns = min(max(first_ns + _ns(span["ms"]), begin_ns), outer_end_ns)
        open_spans[-1] = (outer, outer_end_ns, stop_ns)
        open_spans.append((name, stop_ns, begin_ns))
        yield _complete(name, begin_ns, stop_ns, _AGENT, "stage")


def _complete(
    name: str, begin_ns: int, end_ns: int, thread: int, category: str, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    event = _event(name, "X", begin_ns, thread, args, category)
    event["dur"] = (end_ns - begin_ns) / 1000
    return event


def _instant(name: str, at_ns: int, category: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
    return _event(name, "i", at_ns, _AGENT, args, category) | {"s": "t"}


def _event(
    name: str,
    phase: str,
    at_ns: int,
    thread: int,
    args: dict[str, Any] | None = None,
    category: str = "",
) -> dict[str, Any]:
    event: dict[str, Any] = {"name": name, "ph": phase, "ts": at_ns / 1000, "pid": _PID, "tid": thread}
    if category:
        event["cat"] = category
    if args:
        event["args"] = args
    return event


def _ns(ms: float) -> int:
    return round(ms * 1e6)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with opened_atomically(path) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile(path.stem, "wb", compresslevel=5, fileobj=file, mtime=0) as packed:
            yield packed  # type: ignore[misc]
