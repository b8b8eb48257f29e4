"""The leaderboard's result table of a route, for the terminal."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tickdrive.leaderboard.results import RouteRecord

_STYLES = {"SUCCESS": "green", "FAILURE": "red"}


def results_table(record: RouteRecord) -> Group:
    """A route's criteria, scores and infractions, after upstream's `leaderboard/utils/result_writer.py`."""
    ok = not record.status.startswith("Failed") and record.num_infractions == 0
    table = Table(
        title=f"Results of {record.route_id}: {record.status}",
        title_justify="left",
        title_style="bold green"
        if ok
        else "bold red"
        if record.status.startswith("Failed")
        else "bold yellow",
    )
    table.add_column("Criterion")
    table.add_column("Result")
    table.add_column("Value", justify="right")
    for row in record.criteria:
        value = f"{row.value:g} {row.unit}" if row.unit else ""
        table.add_row(row.name, f"[{_STYLES[row.result]}]{row.result}[/]", value)
    table.add_section()
    table.add_row("Route completion", "", f"{record.scores['score_route']:.2f} %")
    table.add_row("Infraction penalty", "", f"{record.scores['score_penalty']:.3f}")
    table.add_row("Driving score", "", f"{record.scores['score_composed']:.2f}", style="bold")
    game_s, system_s = record.meta["duration_game"], record.meta["duration_system"]
    ratio = game_s / system_s if system_s else 0.0
    messages = [message for messages in record.infractions.values() for message in messages]
    duration = f"{game_s:.1f} s simulated, {system_s:.1f} s of wall time ({ratio:.2f}x)"
    lines = [f"{record.meta['route_length']:.0f} m in {duration}", *messages]
    return Group(table, *(Text(line) for line in lines))
