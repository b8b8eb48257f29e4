"""Latency summaries and their differences as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from tickdrive.leaderboard.latency import LatencySummary, StageLatency
from tickdrive.leaderboard.latency_diff import Difference, LatencyDiff
from tickdrive.leaderboard.longest_ticks import LongTick


def latency_table(summary: LatencySummary, title: str = "Tick latency by stage, ms") -> Table:
    """One log."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("stage", no_wrap=True)
    for name in ("p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ticks", justify="right", no_wrap=True)
    for stage in summary.stages:
        _row(table, stage, "  " * stage.depth + stage.name, bold=stage.name == "total")
    if summary.outside:
        table.add_section()
        _row(table, summary.outside, "outside the agent")
    missed = f"{summary.misses} of {summary.ticks} ticks ({100.0 * summary.miss_share:.1f} %)"
    table.caption = (
        f"{missed} missed the {summary.budget_ms:g} ms budget\n"
        f"how plans were come by: {counted(summary.rungs)}; guarded {summary.guarded}"
    )
    return table


def counted(counts: Mapping[str, int]) -> str:
    """``name count, name count``."""
    return ", ".join(f"{name or 'none'} {count}" for name, count in counts.items())


def longest_table(ticks: Sequence[LongTick]) -> Table:
    """The longest ticks of a log."""
    table = Table(title="Longest ticks", title_justify="left")
    for name in ("frame", "sim s", "ms"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("plan", no_wrap=True)
    table.add_column("why")
    for tick in ticks:
        table.add_row(str(tick.frame), f"{tick.sim_s:.2f}", f"{tick.total_ms:.1f}", tick.rung, tick.why)
    return table


def side_by_side_table(summaries: Sequence[LatencySummary]) -> Table:
    """Several logs, A, B, C, …: p50 / p95 of every stage, and misses."""
    table = Table(title="Tick latency by stage, p50 / p95 ms", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for letter in letters(len(summaries)):
        table.add_column(letter, justify="right", no_wrap=True)
    for name, depth in _stages(summaries).items():
        cells = []
        for summary in summaries:
            stage = summary.by_name.get(name)
            cells.append("" if stage is None else f"{stage.p50_ms:.1f} / {stage.p95_ms:.1f}")
        table.add_row("  " * depth + name, *cells, style="bold" if name == "total" else None)
    table.add_section()
    table.add_row("ticks", *(str(summary.ticks) for summary in summaries))
    table.add_row("missed", *(f"{100.0 * summary.miss_share:.2f} %" for summary in summaries))
    return table


def diff_table(diff: LatencyDiff) -> Table:
    """Two logs: B minus A."""
    table = Table(
        title="B minus A, ms (95 % interval; * beyond chance)", title_justify="left", caption_justify="left"
    )
    table.add_column("stage", no_wrap=True)
    table.add_column("p50", justify="right", no_wrap=True)
    table.add_column("p95", justify="right", no_wrap=True)
    names = dict.fromkeys(row.name for row in diff.rows if row.statistic != "share")
    for name in names:
        cells = (_delta(diff.row(name, statistic)) for statistic in ("p50", "p95"))
        table.add_row(name, *cells, style="bold" if name == "total" else None)
    share = diff.row("miss_share", "share")
    points = [100.0 * value for value in (share.delta, share.low, share.high)]
    told = f"missed: {points[0]:+.2f} % of the ticks ({points[1]:+.2f} to {points[2]:+.2f})"
    table.caption = f"{told}\nresampled in blocks of {diff.block_ticks[0]} and {diff.block_ticks[1]} ticks"
    return table


def letters(count: int) -> list[str]:
    """What logs are called in tables: A, B, …, Z, then L27, L28, …."""
    return [chr(ord("A") + k) if k < 26 else f"L{k + 1}" for k in range(count)]


def _delta(row: Difference) -> str:
    mark = "*" if row.differs else " "
    return f"{row.delta:+.2f} ({row.low:+.2f} to {row.high:+.2f}){mark}"


def _row(table: Table, stage: StageLatency, label: str, bold: bool = False) -> None:
    values = [f"{v:.1f}" for v in (stage.p50_ms, stage.p90_ms, stage.p95_ms, stage.p99_ms, stage.max_ms)]
    table.add_row(label, *values, str(stage.n), style="bold" if bold else None)


def _stages(summaries: Sequence[LatencySummary]) -> dict[str, int]:
    """Name -> depth of every stage of any log; a later log's own stages come after the one before them."""
    order: list[str] = []
    depths: dict[str, int] = {}
    for summary in summaries:
        after = 0
        for stage in summary.by_name.values():
            if stage.name not in depths:
                order.insert(after, stage.name)
                depths[stage.name] = stage.depth
            after = order.index(stage.name) + 1
    return {name: depths[name] for name in order}
