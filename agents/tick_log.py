"""The tick log: JSON Lines, a header and then one line a tick, safe against a kill at any moment.

Line 1 is ``{"type": "header", "schema": 2, ...}``; each further line is
``{"type": "tick", "frame", "sim_s", "total_ms", "spans": [{"name", "parent", "start_ms", "ms"}],
"other_ms", "outside_ms", "steps", "granularity", "rung", "guarded", "engine", "predicted_ms", "preempted",
"latency", "reasoning", "ego", "plan", "control"}``.

A line is written with one `write` call on an unbuffered file descriptor, so a killed process loses at most
the tick in flight. A log whose last line is cut off is read up to the damage, and says so.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np

from tickdrive.agents.tick_line import TickLine, tick_decoder
from tickdrive.agents.types import EgoState
from tickdrive.planner.errors import DataError
from tickdrive.planner.tracing import TickTrace

if TYPE_CHECKING:
    from tickdrive.agents.tick_parquet import ParquetReader

SCHEMA = 2
_DAMAGE_TOLD = 20
"""Damaged lines that are told one by one; of further ones only the number."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatencyRecord:
    """Simulated latency of the plan in force.

    Attributes:
        mode: of the model: "measured", "fixed" or "trace".
        us: latency L of that plan, microseconds; None before the first plan.
        observed_frame: the frame it was planned from; None before the first plan.
        busy: whether a later plan is still being computed, so that this tick's observation was not taken.
        past_horizon: whether the plan in force has run out.
    """

    mode: str
    us: int | None
    observed_frame: int | None
    busy: bool
    past_horizon: bool = False


@dataclass(frozen=True)
class TickRecord:
    """One tick as the log holds it.

    Attributes:
        frame: the simulator's frame number.
        sim_s: simulated time of the observation.
        trace: spans from `run_step`'s entry to (just before) its return.
        outside_ms: wall time between the previous `run_step`'s return and this one's entry, that is, what
            simulator and evaluator took; None on the first tick.
        steps: denoising steps run in this tick; 0 where no planner ran.
        granularity: "step" where the engine tells denoising steps apart, else "plan".
        rung: how the plan in force was come by (`agents/stack.py` has the table).
        reasoning: class -> probability, or None.
        ego: position_in_world, yaw_deg, speed_mps, ...
        plan: (T, 2) waypoints in the ego frame, metres, or None.
        control: throttle, steer, brake.
        guarded: whether the plan was shortened because something stands on it.
        engine: what made the plan in force; a fallback from a faster engine is named here.
        predicted_ms: what the tick budget expected this tick to take; None without a budget.
        preempted: involuntary context switches during the tick: the machine was busy elsewhere.
        latency: what the latency model says of the plan in force; None with the model off.
    """

    frame: int
    sim_s: float
    trace: TickTrace
    outside_ms: float | None
    steps: int
    granularity: str
    rung: str
    reasoning: Mapping[str, float] | None
    ego: Mapping[str, Any]
    plan: np.ndarray | None
    control: Mapping[str, float]
    guarded: bool = False
    engine: str = ""
    predicted_ms: float | None = None
    preempted: int | None = None
    latency: LatencyRecord | None = None


def logged_ego(ego: EgoState) -> dict[str, Any]:
    """Where the ego is believed to be, as a tick's `ego` holds it."""
    return {
        "position_in_world": [round(float(value), 3) for value in ego.position_in_world],
        "yaw_deg": round(ego.yaw_deg, 3),
        "speed_mps": round(ego.speed_mps, 3),
        "acceleration_mps2": round(ego.acceleration_mps2, 3),
        "yaw_rate_dps": round(ego.yaw_rate_dps, 3),
        "source": ego.source,
    }


class TickLog:
    """Appends ticks to a file.

    A disk that fills up must not end a drive: the first failing write is reported as a warning, later ticks
    are counted in `lost_ticks`, and writing is tried again at every tick.

    Args:
        path: the log; its folder is made. An existing file is replaced.
        header: what line 1 tells beside type and schema (hardware, versions, commit, config hash, engine).

    Raises:
        DataError: the file cannot be created.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.lost_ticks = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        except OSError as error:
            raise DataError(
                f"Tick log {self.path} cannot be written: {error.strerror}.",
                "Name a folder that can be written in tick_log.dir (or SAVE_PATH).",
            ) from error
        self._torn = False
        self._write({"type": "header", "schema": SCHEMA, **header})
        if self.lost_ticks:
            raise DataError(
                f"The header of tick log {self.path} cannot be written.", "Make room on the disk."
            )

    def append(self, record: TickRecord) -> None:
        """Write one tick."""
        trace = record.trace
        self._write(
            {
                "type": "tick",
                "frame": record.frame,
                "sim_s": round(record.sim_s, 6),
                "total_ms": round(trace.total_ms, 4),
                "spans": [
                    {
                        "name": span.name,
                        "parent": span.parent,
                        "start_ms": round(span.start_ms, 4),
                        "ms": round(span.ms, 4),
                    }
                    for span in trace.spans
                ],
                "other_ms": round(trace.other_ms, 4),
                "outside_ms": None if record.outside_ms is None else round(record.outside_ms, 4),
                "steps": record.steps,
                "granularity": record.granularity,
                "rung": record.rung,
                "guarded": record.guarded,
                "engine": record.engine,
                "predicted_ms": None if record.predicted_ms is None else round(record.predicted_ms, 3),
                "preempted": record.preempted,
                "latency": None if record.latency is None else asdict(record.latency),
                "reasoning": None
                if record.reasoning is None
                else {name: round(float(p), 4) for name, p in record.reasoning.items()},
                "ego": record.ego,
                "plan": None if record.plan is None else np.round(record.plan.astype(float), 3).tolist(),
                "control": record.control,
            }
        )

    def close(self) -> None:
        """Close the file; further appends are an error. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            text = json.dumps(line, separators=(",", ":"), default=_plain, allow_nan=False)
        except ValueError:  # JSON has no NaN
            text = json.dumps(_finite(line), separators=(",", ":"))
        # After a torn write the next line begins with a newline, so that one damaged line stays one.
        data = (("\n" if self._torn else "") + text + "\n").encode()
        try:
            written = os.write(self._fd, data)
            self._torn = written != len(data)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if self._fd < 0:
                raise DataError(
                    f"Tick log {self.path} is closed.", "Open a new one for the next route."
                ) from error
            if self.lost_ticks == 0:
                _LOGGER.warning(
                    "tick log %s: %s; ticks are lost until there is room again", self.path, error.strerror
                )
            self.lost_ticks += 1


@dataclass(frozen=True)
class LoadedLog:
    """A tick log read back whole; for long logs see `iter_ticks` and `leaderboard/tick_table.py`.

    Attributes:
        path: where it was read.
        header: line 1.
        ticks: the tick lines, as dicts, in order.
        damage: what was wrong with lines that had to be left out; empty for a whole log.
    """

    path: Path
    header: Mapping[str, Any]
    ticks: tuple[Mapping[str, Any], ...]
    damage: tuple[str, ...]


def read_log(path: str | Path) -> LoadedLog:
    """Read a tick log into memory, as far as it is whole.

    Raises:
        DataError: no such file, no header, or a schema this version does not know.
    """
    reader = open_log(path)
    ticks = tuple(reader.ticks())
    return LoadedLog(path=reader.path, header=reader.header, ticks=ticks, damage=tuple(reader.damage))


def iter_ticks(path: str | Path) -> Iterator[dict[str, Any]]:
    """The ticks of a log one after another, as dicts; what is damaged is left out (`open_log` tells it).

    Raises:
        DataError: as `read_log`.
    """
    return open_log(path).ticks()


def open_log(path: str | Path) -> TickReader | ParquetReader:
    """Open a log for reading: a run's folder, its JSON Lines, or a Parquet file made of them.

    Raises:
        DataError: no such file, no header, or a schema this version does not know.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "ticks.jsonl"
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
    except OSError as error:
        others = logs_below(path.parent)
        raise DataError(
            f"Tick log {path} cannot be read: {error.strerror}.",
            f"There is {', '.join(others[:5])}."
            if others
            else "Give the run's folder, its ticks.jsonl, or a Parquet file made of it.",
        ) from error
    if is_parquet:
        from tickdrive.agents.tick_parquet import ParquetReader

        return ParquetReader(path)
    return TickReader(path)


def logs_below(folder: Path) -> list[str]:
    """Tick logs of an evaluation's folder, by their paths in it; `save` is where ``--suite`` keeps them."""
    patterns = ("*ticks.jsonl", "save/*/*ticks.jsonl")
    return [str(log.relative_to(folder)) for pattern in patterns for log in sorted(folder.glob(pattern))]


class TickReader:
    """Reads a log's JSON Lines one by one: memory does not grow with the log.

    Args:
        path: the log.

    Attributes:
        path: the log.
        header: line 1.
        damage: what was wrong with lines that were left out; filled while lines are read.

    Raises:
        DataError: the file cannot be read, has no header, or a schema this version does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[str] = []
        with self._opened() as file:
            first = file.readline()
        try:
            header = msgspec.json.decode(first)
        except msgspec.DecodeError:
            header = None
        self.header = check_header(path, header)

    def ticks(self) -> Iterator[dict[str, Any]]:
        """Every tick as a dict with all its keys."""
        for text, _ in self.lines():
            yield msgspec.json.decode(text)

    def lines(self) -> Iterator[tuple[bytes, TickLine]]:
        """Every tick's text and typed form."""
        self.damage.clear()
        left_out = 0
        decode = tick_decoder.decode
        with self._opened() as file:
            file.readline()
            for number, text in enumerate(file, start=2):
                try:
                    line = decode(text)
                except msgspec.DecodeError as error:
                    told = _damage(text, number, error)
                    if told:
                        left_out += 1
                        self._tell(told, left_out)
                else:
                    yield text, line

    def _tell(self, told: str, left_out: int) -> None:
        if left_out <= _DAMAGE_TOLD:
            self.damage.append(told)
        else:
            self.damage[_DAMAGE_TOLD:] = [f"{left_out - _DAMAGE_TOLD} more lines are left out"]

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb", buffering=1 << 20) as file:
                yield file
        except OSError as error:
            raise DataError(f"Tick log {self.path} cannot be read: {error.strerror}.") from error


def check_header(path: Path, header: Any) -> Mapping[str, Any]:
    """The header, if it is one of a log that this version reads.

    Raises:
        DataError: it is none, or of another schema.
    """
    if not isinstance(header, dict) or header.get("type") != "header":
        raise DataError(
            f"{path} is not a tick log: its first line is no header.",
            "Give a ticks.jsonl that tickdrive wrote.",
        )
    if header.get("schema") != SCHEMA:
        raise DataError(
            f"{path} has tick log schema {header.get('schema')!r}; this version reads schema {SCHEMA}.",
            "Read it with the tickdrive version that wrote it (header key 'versions').",
        )
    return header


def _damage(text: bytes, number: int, error: msgspec.DecodeError) -> str | None:
    """What to tell of a line that is no tick; None for an empty line and for lines of another type."""
    text = text.rstrip(b"\n")
    if not text:
        return None
    try:
        entry = msgspec.json.decode(text)
    except msgspec.DecodeError:
        entry = None
    if not isinstance(entry, dict):
        return f"line {number} is damaged ({len(text)} bytes) and left out"
    if entry.get("type") != "tick":
        return None
    return f"line {number} is no tick that this version can read and left out: {error}"


def _finite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
