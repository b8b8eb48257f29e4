"""The tick log as Parquet: the same ticks in columns, read ten times as fast. Needs pyarrow (extra `report`).

A column for every key of a tick; spans, plan, reasoning, ego and control are nested. A tick that does not fit
the columns exactly (keys of another agent's, a null in a plan) also keeps its whole text in `raw`, so that
nothing a log holds is lost. Header and damage are in the file's metadata, `tickdrive.header` and
`tickdrive.damage`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import UNSET

from tickdrive.agents.tick_line import TickLine, WholeTickLine, whole_tick_decoder
from tickdrive.agents.tick_log import TickReader, check_header
from tickdrive.planner.errors import DataError
from tickdrive.planner.files import opened_atomically

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_TICKS = 16384
_HEADER, _DAMAGE = b"tickdrive.header", b"tickdrive.damage"
_EGO_FLOATS = ("yaw_deg", "speed_mps", "acceleration_mps2", "yaw_rate_dps", "remaining_m")
_PEDALS = ("throttle", "steer", "brake")


def write_parquet(reader: TickReader, path: Path, group_ticks: int = GROUP_TICKS) -> int:
    """Write a log's ticks as Parquet, row group by row group.

    Args:
        reader: the log.
        path: the file; replaced only when the new one is whole.
        group_ticks: ticks in memory at a time, and of a row group.

    Returns:
        The number of ticks.

    Raises:
        DataError: pyarrow is missing, or the file cannot be written.
    """
    arrow = _pyarrow()
    import pyarrow.parquet as parquet

    schema = _schema(arrow)
    ticks = 0
    lines = reader.lines()
    try:
        with (
            opened_atomically(path) as file,
            parquet.ParquetWriter(
                file, schema, compression="zstd", use_dictionary=_dictionary_columns(schema)
            ) as writer,
        ):
            while chunk := list(islice(lines, group_ticks)):
                writer.write_table(_table(arrow, schema, chunk))
                ticks += len(chunk)
            writer.add_key_value_metadata(
                {_HEADER: msgspec.json.encode(reader.header), _DAMAGE: msgspec.json.encode(reader.damage)}
            )
    except OSError as error:
        raise DataError(
            f"Parquet file {path} cannot be written: {error.strerror or error}.",
            "Name a file in a folder that can be written.",
        ) from error
    return ticks


class ParquetReader:
    """Reads a log's Parquet form row group by row group.

    Args:
        path: the file.

    Attributes:
        path: the file.
        header: line 1 of the log it was made of.
        damage: what was wrong with lines of that log that had to be left out.

    Raises:
        DataError: pyarrow is missing, the file is damaged, or was not made of a tick log.
    """

    def __init__(self, path: Path) -> None:
        arrow = _pyarrow()
        import pyarrow.parquet as parquet

        self.path = path
        try:
            self._file = parquet.ParquetFile(path)
        except (arrow.ArrowException, OSError) as error:
            raise DataError(
                f"Parquet file {path} is damaged: {error}.", "Make it again with tickdrive latency --parquet."
            ) from error
        metadata = self._file.metadata.metadata or {}
        header = msgspec.json.decode(metadata[_HEADER]) if _HEADER in metadata else None
        self.header: Mapping[str, Any] = check_header(path, header)
        self.damage: list[str] = msgspec.json.decode(metadata.get(_DAMAGE, b"[]"))

    def ticks(self) -> Iterator[dict[str, Any]]:
        """Every tick as a dict with all its keys, as the log had it."""
        for group in range(self._file.num_row_groups):
            for row in self._read(group, None).to_pylist():
                yield _tick(row)

    def row_groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The columns named, a row group at a time; text of few values is dictionary-encoded."""
        for group in range(self._file.num_row_groups):
            yield self._read(group, columns)

    def _read(self, group: int, columns: Sequence[str] | None) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=columns, use_threads=False)
        except OSError as error:
            raise DataError(
                f"Parquet file {self.path} is damaged: {error}.",
                "Make it again with tickdrive latency --parquet.",
            ) from error


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            "pyarrow is not installed.", "Parquet needs it: pip install 'tickdrive[report]'."
        ) from error
    return pyarrow


def _schema(arrow: Any) -> pa.Schema:
    text = arrow.dictionary(arrow.int32(), arrow.string())
    span = [("name", text), ("parent", text), ("start_ms", arrow.float64()), ("ms", arrow.float64())]
    latency = [
        ("mode", text),
        ("us", arrow.int64()),
        ("observed_frame", arrow.int64()),
        ("busy", arrow.bool_()),
        ("past_horizon", arrow.bool_()),
    ]
    ego = [("position_in_world", arrow.list_(arrow.float64()))]
    ego += [(name, arrow.float64()) for name in _EGO_FLOATS] + [("source", text), ("command", text)]
    return arrow.schema(
        [
            ("frame", arrow.int64()),
            ("sim_s", arrow.float64()),
            ("total_ms", arrow.float64()),
            ("spans", arrow.list_(arrow.field("element", arrow.struct(span)))),
            ("other_ms", arrow.float64()),
            ("outside_ms", arrow.float64()),
            ("steps", arrow.int32()),
            ("granularity", text),
            ("rung", text),
            ("guarded", arrow.bool_()),
            ("engine", text),
            ("predicted_ms", arrow.float64()),
            ("preempted", arrow.int32()),
            ("latency", arrow.struct(latency)),
            ("reasoning", arrow.map_(arrow.string(), arrow.float64())),
            ("ego", arrow.struct(ego)),
            ("plan", arrow.list_(arrow.list_(arrow.float64()))),
            ("control", arrow.struct([(name, arrow.float64()) for name in _PEDALS])),
            ("raw", arrow.string()),
        ]
    )


def _table(arrow: Any, schema: pa.Schema, chunk: Sequence[tuple[bytes, TickLine]]) -> pa.Table:
    """A row group."""
    lines: list[TickLine | WholeTickLine] = []
    raw: list[str | None] = []
    for text, line in chunk:
        try:
            lines.append(whole_tick_decoder.decode(text))
            raw.append(None)
        except msgspec.ValidationError:
            lines.append(line)
            raw.append(text.decode().strip())
    columns = {
        name: [getattr(line, name, None) for line in lines]
        for name in schema.names
        if name not in ("spans", "latency", "ego", "control", "raw")
    }
    arrays = {name: arrow.array(values, schema.field(name).type) for name, values in columns.items()}
    arrays["spans"] = _span_lists(arrow, schema.field("spans").type, lines)
    arrays["raw"] = arrow.array(raw, arrow.string())
    for name in ("latency", "ego", "control"):
        parts = [_parts(getattr(line, name)) for line in lines]
        arrays[name] = arrow.array(parts, schema.field(name).type)
    return arrow.table([arrays[name] for name in schema.names], schema=schema)


def _span_lists(arrow: Any, kind: Any, lines: Iterable[TickLine | WholeTickLine]) -> pa.ListArray:
    counts = [len(line.spans) for line in lines]
    spans = [span for line in lines for span in line.spans]
    fields = list(kind.value_type)
    values = [
        arrow.array([getattr(span, field.name, None) for span in spans], field.type) for field in fields
    ]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return arrow.ListArray.from_arrays(
        arrow.array(offsets), arrow.StructArray.from_arrays(values, fields=fields), type=kind
    )


def _parts(value: msgspec.Struct | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {name: None if part is UNSET else part for name, part in msgspec.structs.asdict(value).items()}


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    """Columns of few different texts; numbers hardly repeat."""
    nested = (
        "spans.list.element.name",
        "spans.list.element.parent",
        "latency.mode",
        "ego.source",
        "ego.command",
    )
    return [name for name in ("granularity", "rung", "engine") if name in schema.names] + list(nested)


def _tick(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the log's line had it."""
    raw = row.pop("raw")
    if raw is not None:
        return msgspec.json.decode(raw)
    for name in ("ego", "control"):
        row[name] = {key: value for key, value in row[name].items() if value is not None}
    if row["reasoning"] is not None:
        row["reasoning"] = dict(row["reasoning"])
    return {"type": "tick", **row}
