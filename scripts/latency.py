"""`tickdrive latency`: where the milliseconds of a drive went, and what differs between drives."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from tickdrive.agents.tick_log import TickReader, open_log
from tickdrive.leaderboard.latency import LatencySummary, summarize
from tickdrive.leaderboard.latency_diff import LatencyDiff, compare
from tickdrive.leaderboard.latency_limits import check_limits, parse_limit
from tickdrive.leaderboard.latency_tables import (
    counted,
    diff_table,
    latency_table,
    letters,
    longest_table,
    side_by_side_table,
)
from tickdrive.leaderboard.longest_ticks import longest_ticks
from tickdrive.leaderboard.tick_table import TickTable, read_table
from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.output import console, error_console, write_json

LIMIT_STATUS = 3
"""Exit status where a limit of `--fail-over` holds."""


@dataclass(frozen=True)
class LatencyOptions:
    """The command's options; see `tickdrive latency --help`."""

    logs: tuple[Path, ...]
    budget_ms: float = 50.0
    fail_over: tuple[str, ...] = ()
    parquet: Path | None = None
    trace: Path | None = None
    json_file: Path | None = None


def run(options: LatencyOptions) -> None:
    """Print what logs say; exit with 3 where a limit holds.

    Raises:
        DataError: a log cannot be read or holds no ticks, or a file cannot be written.
        ConfigError: a limit is wrong, or an export was asked of several logs.
    """
    limits = [parse_limit(text) for text in options.fail_over]
    if len(options.logs) > 1 and (options.parquet or options.trace):
        raise ConfigError(
            f"--{'parquet' if options.parquet else 'trace'} makes one file of one log, and "
            f"{len(options.logs)} logs were given.",
            "Give one log.",
        )
    if options.parquet:
        _export_parquet(options.logs[0], options.parquet)
    if options.trace:
        _export_trace(options.logs[0], options.trace, options.budget_ms)
    figures, summaries, diff = _show(options)
    names = [str(path) for path in options.logs]
    held = check_limits(limits, list(zip(names, summaries, strict=True)), diff)
    write_json(options.json_file, {**figures, "limits_held": held})
    for told in held:
        error_console.print("limit held: ", style="bold red", end="")
        error_console.print(told, markup=False, soft_wrap=True)
    if held:
        sys.exit(LIMIT_STATUS)


def _show(options: LatencyOptions) -> tuple[dict[str, Any], list[LatencySummary], LatencyDiff | None]:
    if len(options.logs) == 1:
        table = _read(options.logs[0])
        summary = summarize(table, options.budget_ms)
        title = f"Tick latency by stage, ms, {escape(str(table.path))}"
        console.print(latency_table(summary, title=title))
        return _show_one(table, summary), [summary], None
    tables = [_read(path) for path in options.logs]
    summaries = [summarize(table, options.budget_ms) for table in tables]
    console.print(side_by_side_table(summaries))
    logs = []
    for letter, table, summary in zip(letters(len(tables)), tables, summaries, strict=True):
        console.print(f"\n[bold]{letter}[/]: {escape(str(table.path))}", soft_wrap=True)
        logs.append(_show_one(table, summary))
    figures: dict[str, Any] = {"schema": 1, "logs": logs}
    if len(tables) != 2:
        return figures, summaries, None
    diff = compare(tables[0], tables[1], options.budget_ms)
    console.print()
    console.print(diff_table(diff))
    for sentence in diff.statement():
        console.print(f"- {sentence}", markup=False)
    return {**figures, "diff": diff.to_json()}, summaries, diff


def _read(path: Path) -> TickTable:
    table = read_table(path)
    for damage in table.damage:
        error_console.print(f"{table.path}: {damage}", style="yellow", markup=False, soft_wrap=True)
    return table


def _show_one(table: TickTable, summary: LatencySummary) -> dict[str, Any]:
    """What a log tells beside the table by stage; all of it for machines."""
    longest = longest_ticks(table)
    console.print(f"engines: {counted(summary.engines)}", markup=False, soft_wrap=True)
    console.print(longest_table(longest))
    return {
        **summary.to_json(),
        "log": str(table.path),
        "damage": list(table.damage),
        "longest": [tick.to_json() for tick in longest],
    }


def _export_parquet(log: Path, path: Path) -> None:
    from tickdrive.agents.tick_parquet import write_parquet

    reader = open_log(log)
    if not isinstance(reader, TickReader):
        raise ConfigError(f"{reader.path} is Parquet already.", "Leave --parquet out.")
    ticks = write_parquet(reader, path)
    console.print(f"{ticks} ticks: {path}", markup=False, soft_wrap=True)


def _export_trace(log: Path, path: Path, budget_ms: float) -> None:
    from tickdrive.leaderboard.trace_export import write_trace

    events = write_trace(log, path, budget_ms)
    console.print(f"{events} events: {path}", markup=False, soft_wrap=True)
    console.print("open it at https://ui.perfetto.dev or chrome://tracing", style="dim")
