"""A tick log as columns: what summaries compute on. A million ticks take about 150 MB.

Built tick by tick from JSON Lines, or row group by row group from Parquet, so that no log is ever in memory
as a whole. Plans and reasoning are not in it: `agents.tick_log.iter_ticks` gives those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tickdrive.agents.tick_line import ControlLine, EgoLine, LatencyLine, SpanLine, TickLine
from tickdrive.agents.tick_log import TickReader, open_log

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_TICKS = 4096
_NO_EGO, _NO_CONTROL, _NO_LATENCY = EgoLine(), ControlLine(), LatencyLine()


@dataclass(frozen=True)
class Labels:
    """One name for every tick.

    Attributes:
        codes: (N,) uint16, indices into `names`.
        names: in the order in which they first came.
    """

    codes: np.ndarray
    names: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How many ticks have each name, most frequent first."""
        counted = np.bincount(self.codes, minlength=len(self.names))
        order = np.argsort(-counted, kind="stable")
        return {self.names[i]: int(counted[i]) for i in order if counted[i]}


@dataclass(frozen=True)
class Stage:
    """A stage that ran in some tick.

    Attributes:
        name: of its spans.
        parent: of the first of them; None directly under the tick.
        depth: 0 directly under the tick.
    """

    name: str
    parent: str | None
    depth: int


@dataclass(frozen=True)
class TickTable:
    """A log of N ticks. Floats that a tick does not tell are NaN.

    Attributes:
        path: where it was read.
        header: line 1 of the log.
        damage: what was wrong with lines that had to be left out.
        frame: (N,) int64, the simulator's.
        sim_s: (N,) float64, simulated time of the observation.
        total_ms: (N,) float64. The other milliseconds are float32, good to 0.1 us up to 1 s.
        other_ms: (N,) inside `run_step`, in no stage.
        outside_ms: (N,) between two ticks: simulator and evaluator.
        steps: (N,) int32 denoising steps.
        rung: how the plan in force was come by.
        guarded: (N,) bool, the plan was shortened by the guard.
        engine: what made the plan.
        predicted_ms: (N,) what the budget expected.
        preempted: (N,) int32 involuntary context switches; -1 where not counted.
        latency_mode: of the latency model; "" with the model off.
        latency_us: (N,) int64 latency of the plan in force; -1 without.
        observed_frame: (N,) int64 frame that plan was made from; -1 without.
        busy: (N,) bool, a later plan was still being computed.
        past_horizon: (N,) bool, the plan in force had run out.
        x_m, y_m: (N,) float32 position of the ego [world].
        yaw_deg, speed_mps: (N,) float32 of the ego.
        throttle, steer, brake: (N,) float32 as driven.
        stages: in the order in which they run, children below their parent.
        stage_ms: stage -> (N,) float32, spans of one name summed; NaN in ticks in which it did not run.
    """

    path: Path
    header: Mapping[str, Any]
    damage: tuple[str, ...]
    frame: np.ndarray
    sim_s: np.ndarray
    total_ms: np.ndarray
    other_ms: np.ndarray
    outside_ms: np.ndarray
    steps: np.ndarray
    rung: Labels
    guarded: np.ndarray
    engine: Labels
    predicted_ms: np.ndarray
    preempted: np.ndarray
    latency_mode: Labels
    latency_us: np.ndarray
    observed_frame: np.ndarray
    busy: np.ndarray
    past_horizon: np.ndarray
    x_m: np.ndarray
    y_m: np.ndarray
    yaw_deg: np.ndarray
    speed_mps: np.ndarray
    throttle: np.ndarray
    steer: np.ndarray
    brake: np.ndarray
    stages: tuple[Stage, ...]
    stage_ms: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.total_ms)


def read_table(path: str | Path) -> TickTable:
    """Read a log (a run's folder, its JSON Lines, or Parquet) as columns, as far as it is whole.

    Raises:
        DataError: no such file, no header, or a schema this version does not know.
    """
    reader = open_log(path)
    builder = _Builder()
    if isinstance(reader, TickReader):
        lines = (line for _, line in reader.lines())
        while chunk := list(islice(lines, _CHUNK_TICKS)):
            builder.add_lines(chunk)
    else:
        for group in reader.row_groups(_PARQUET_COLUMNS):
            builder.add_row_group(group)
    return builder.table(reader.path, reader.header, tuple(reader.damage))


TEXT_COLUMNS = ("rung", "engine", "latency_mode")
COLUMNS: Mapping[str, type[np.generic]] = {
    "frame": np.int64,
    "sim_s": np.float64,
    "total_ms": np.float64,
    "other_ms": np.float32,
    "outside_ms": np.float32,
    "steps": np.int32,
    "guarded": np.bool_,
    "predicted_ms": np.float32,
    "preempted": np.int32,
    "latency_us": np.int64,
    "observed_frame": np.int64,
    "busy": np.bool_,
    "past_horizon": np.bool_,
    "x_m": np.float32,
    "y_m": np.float32,
    "yaw_deg": np.float32,
    "speed_mps": np.float32,
    "throttle": np.float32,
    "steer": np.float32,
    "brake": np.float32,
}


_PARQUET_COLUMNS = (
    *("frame", "sim_s", "total_ms", "other_ms", "outside_ms", "steps", "rung", "guarded", "engine"),
    *("predicted_ms", "preempted", "latency", "ego.position_in_world", "ego.yaw_deg", "ego.speed_mps"),
    *("control", "spans.list.element.name", "spans.list.element.parent", "spans.list.element.ms"),
)


class _Builder:
    """Gathers chunks of columns."""

    def __init__(self) -> None:
        self._chunks: dict[str, list[np.ndarray]] = {name: [] for name in (*COLUMNS, *TEXT_COLUMNS)}
        self._names: dict[str, dict[str, int]] = {name: {} for name in TEXT_COLUMNS}
        self._ticks = 0
        self._stage_code: dict[str, int] = {}
        self._parents: dict[str, str | None] = {}
        self._stage_chunks: list[list[tuple[int, np.ndarray]]] = []

    def add_lines(self, lines: Sequence[TickLine]) -> None:
        """A chunk of ticks as JSON Lines tell them."""
        ego = [line.ego or _NO_EGO for line in lines]
        control = [line.control or _NO_CONTROL for line in lines]
        latency = [line.latency or _NO_LATENCY for line in lines]
        columns: dict[str, Any] = {
            name: [getattr(line, name) for line in lines]
            for name in ("frame", "sim_s", "total_ms", "other_ms", "outside_ms", "steps", "rung", "guarded")
        }
        columns |= {
            "engine": [line.engine for line in lines],
            "predicted_ms": [line.predicted_ms for line in lines],
            "preempted": [_or_minus_one(line.preempted) for line in lines],
            "latency_mode": [said.mode for said in latency],
            "latency_us": [_or_minus_one(said.us) for said in latency],
            "observed_frame": [_or_minus_one(said.observed_frame) for said in latency],
            "busy": [said.busy for said in latency],
            "past_horizon": [said.past_horizon for said in latency],
            "x_m": [_item(state.position_in_world, 0) for state in ego],
            "y_m": [_item(state.position_in_world, 1) for state in ego],
            "yaw_deg": [state.yaw_deg for state in ego],
            "speed_mps": [state.speed_mps for state in ego],
            "throttle": [pedals.throttle for pedals in control],
            "steer": [pedals.steer for pedals in control],
            "brake": [pedals.brake for pedals in control],
        }
        spans: list[SpanLine] = [span for line in lines for span in line.spans]
        for span in spans:
            if span.name not in self._parents:
                self._parents[span.name] = span.parent
        names = list(self._parents)
        code = {name: k for k, name in enumerate(names)}
        self.add(
            columns,
            names,
            list(self._parents.values()),
            np.array([len(line.spans) for line in lines]),
            np.array([code[span.name] for span in spans], np.int64),
            np.array([span.ms for span in spans]),
        )

    def add_row_group(self, group: pa.Table) -> None:
        """A chunk of ticks as Parquet tells them."""
        import pyarrow.compute as compute

        def part(struct: str, name: str) -> Any:
            return compute.struct_field(group[struct], name)

        columns: dict[str, Any] = {
            name: _numbers(group[name], COLUMNS[name])
            for name in ("frame", "sim_s", "total_ms", "other_ms", "outside_ms", "steps", "guarded")
        }
        columns |= {name: _numbers(group[name], COLUMNS[name]) for name in ("predicted_ms", "preempted")}
        columns |= {name: _labels(group[name]) for name in ("rung", "engine")}
        columns["latency_mode"] = _labels(part("latency", "mode"))
        columns["latency_us"] = _numbers(part("latency", "us"), np.int64)
        for name in ("observed_frame", "busy", "past_horizon"):
            columns[name] = _numbers(part("latency", name), COLUMNS[name])
        for struct, names in {
            "ego": ("yaw_deg", "speed_mps"),
            "control": ("throttle", "steer", "brake"),
        }.items():
            columns |= {name: _numbers(part(struct, name), np.float32) for name in names}
        columns["x_m"], columns["y_m"] = _positions(part("ego", "position_in_world").combine_chunks())
        lists = group["spans"].combine_chunks()
        spans = lists.flatten()
        labels = _labels(spans.field("name"))
        parent = spans.field("parent")
        _, first = np.unique(labels.codes, return_index=True)  # codes are in order of first occurrence
        self.add(
            columns,
            labels.names,
            [parent[int(at)].as_py() for at in first],
            np.diff(lists.offsets.to_numpy()),
            labels.codes.astype(np.int64),
            spans.field("ms").to_numpy(),
        )

    def add(
        self,
        columns: Mapping[str, Any],
        names: Sequence[str],
        parents: Sequence[str | None],
        counts: np.ndarray,
        codes: np.ndarray,
        ms: np.ndarray,
    ) -> None:
        """A chunk of n ticks.

        Args:
            columns: every column of `COLUMNS` and `TEXT_COLUMNS`, (n,); text as `Labels` or as a list.
            names: the stages' names that `codes` point to.
            parents: of those stages.
            counts: (n,) spans of each tick.
            codes: (sum of counts,) each span's name.
            ms: (sum of counts,) each span's duration.
        """
        for name, dtype in COLUMNS.items():
            self._chunks[name].append(np.asarray(columns[name], dtype))
        for name in TEXT_COLUMNS:
            self._chunks[name].append(self._coded(self._names[name], columns[name]))
        ticks = len(counts)
        index = np.repeat(np.arange(ticks), counts) + codes * ticks
        size = ticks * len(names)
        summed = np.bincount(index, weights=ms, minlength=size).astype(np.float32)
        summed[np.bincount(index, minlength=size) == 0] = np.nan
        for name, parent, stage_ms in zip(names, parents, summed.reshape(len(names), ticks), strict=True):
            if np.isnan(stage_ms).all():
                continue
            if name not in self._stage_code:
                self._stage_code[name] = len(self._stage_chunks)
                self._parents.setdefault(name, parent)
                self._stage_chunks.append([])
            self._stage_chunks[self._stage_code[name]].append((self._ticks, stage_ms.copy()))
        self._ticks += ticks

    def table(self, path: Path, header: Mapping[str, Any], damage: tuple[str, ...]) -> TickTable:
        """Everything added. Chunks are freed as they are joined: memory never holds both."""
        joined: dict[str, Any] = {}
        for name, chunks in self._chunks.items():
            dtype = COLUMNS.get(name, np.uint16)
            joined[name] = np.concatenate(chunks) if chunks else np.empty(0, dtype)
            chunks.clear()
        for name in TEXT_COLUMNS:
            joined[name] = Labels(joined[name], tuple(self._names[name]))
        stage_ms: dict[str, np.ndarray] = {}
        for name, code in self._stage_code.items():
            column = np.full(self._ticks, np.nan, np.float32)
            for start, values in self._stage_chunks[code]:
                column[start : start + len(values)] = values
            self._stage_chunks[code] = []
            stage_ms[name] = column
        stages = _in_order({name: self._parents[name] for name in self._stage_code})
        return TickTable(path=path, header=header, damage=damage, stages=stages, stage_ms=stage_ms, **joined)

    def _coded(self, known: dict[str, int], labels: Labels | list[str]) -> np.ndarray:
        if isinstance(labels, list):
            return np.array([known.setdefault(label, len(known)) for label in labels], np.uint16)
        table = np.array([known.setdefault(label, len(known)) for label in labels.names], np.uint16)
        return table[labels.codes]


def _in_order(parents: Mapping[str, str | None]) -> tuple[Stage, ...]:
    """Children directly below their parent, in the order in which they first ran."""
    order: list[str] = []
    depths: dict[str, int] = {}
    for name, parent in parents.items():
        if parent is None or parent not in depths:
            depths[name] = 0
            order.append(name)
            continue
        depths[name] = depths[parent] + 1
        at = order.index(parent) + 1
        while at < len(order) and depths[order[at]] > depths[parent]:
            at += 1
        order.insert(at, name)
    return tuple(Stage(name, parents[name], depths[name]) for name in order)


def _numbers(column: Any, dtype: type[np.generic]) -> np.ndarray:
    """A column; null is NaN in floats, -1 in integers, False."""
    if issubclass(dtype, np.floating):
        return column.to_numpy().astype(dtype)
    return column.fill_null(False if dtype is np.bool_ else -1).to_numpy().astype(dtype)


def _labels(column: Any) -> Labels:
    """A dictionary-encoded column; null is "". Only names that occur, in the order in which they first do."""
    coded = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    names = ["", *coded.dictionary.to_pylist()]
    codes = coded.indices.fill_null(-1).to_numpy() + 1
    found, first = np.unique(codes, return_index=True)
    found = found[np.argsort(first)]
    place = np.zeros(len(names), np.uint16)
    place[found] = np.arange(len(found))
    return Labels(place[codes], tuple(names[code] for code in found))


def _positions(lists: Any) -> tuple[np.ndarray, np.ndarray]:
    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)
    x_m, y_m = np.full((2, len(lists)), np.nan, np.float32)
    known = np.diff(offsets) >= 2
    x_m[known], y_m[known] = values[offsets[:-1][known]], values[offsets[:-1][known] + 1]
    return x_m, y_m


def _or_minus_one(value: int | None) -> int:
    return -1 if value is None else value


def _item(values: Sequence[float | None] | None, at: int) -> float | None:
    return values[at] if values is not None and at < len(values) else None
