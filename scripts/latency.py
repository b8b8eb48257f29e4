"""`tickdrive latency`: where the milliseconds of a drive went."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from tickdrive.agents.tick_log import read_log
from tickdrive.leaderboard.latency import latency_table, summarize
from tickdrive.scripts.output import console, error_console, write_json


def run(log: Path, budget_ms: float, json_file: Path | None) -> None:
    """Print the latency table of a tick log.

    Raises:
        DataError: the log cannot be read or holds no ticks.
    """
    loaded = read_log(log)
    for damage in loaded.damage:
        error_console.print(f"{loaded.path}: {damage}", style="yellow", markup=False)
    summary = summarize(loaded.ticks, budget_ms)
    console.print(latency_table(summary, title=f"Tick latency by stage, ms, {escape(str(loaded.path))}"))
    rungs: dict[str, int] = {}
    for tick in loaded.ticks:
        rungs[str(tick.get("rung"))] = rungs.get(str(tick.get("rung")), 0) + 1
    console.print(
        "how plans were come by: " + ", ".join(f"{name} {count}" for name, count in sorted(rungs.items()))
    )
    write_json(json_file, summary.to_json())
