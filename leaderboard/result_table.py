"""The leaderboard's result table of a route, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tickdrive.leaderboard.results import RouteRecord
from tickdrive.leaderboard.scenarios.outcome import State

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


def scenarios_text(data: Mapping[str, Any]) -> Text | None:
    """What became of the scenarios of a results file's routes; None where there were none.

    Counts, and a line for each that did not run to its end.
    """
    outcomes = [
        (route_id, outcome)
        for route_id, of_route in data["tickdrive"]["scenarios"].items()
        for outcome in of_route
    ]
    if not outcomes:
        return None
    counts = Counter(outcome["state"] for _, outcome in outcomes)
    lines = [f"Scenarios: {', '.join(f'{n} {state}' for state, n in counts.most_common())}"]
    for route_id, outcome in outcomes:
        if outcome["state"] in (State.SKIPPED.value, State.FAILED.value, State.TIMED_OUT.value):
            why = f": {outcome['why']}" if outcome["why"] else ""
            lines.append(f"  {route_id}: {outcome['name']} ({outcome['type']}) {outcome['state']}{why}")
    return Text("\n".join(lines))
