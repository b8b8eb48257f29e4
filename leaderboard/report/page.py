"""Puts the report together: one HTML file with style, scripts, data and pictures in it."""

from __future__ import annotations

import base64
import html
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.report.columns import shown_columns
from tickdrive.leaderboard.report.payload import route_payload
from tickdrive.leaderboard.report.pictures import Candidate, Chosen, choose
from tickdrive.leaderboard.report.run_folder import RouteFiles, RunFiles, read_run
from tickdrive.planner.errors import DataError
from tickdrive.planner.files import write_atomically

REPORT_NAME = "report.html"
_WEB = Path(__file__).parent / "web"
_STYLES = ("vendor/uPlot.min.css", "style.css")
_SCRIPTS = (
    "vendor/uPlot.iife.min.js",
    "data.js",
    "theme.js",
    "charts.js",
    "map.js",
    "tick.js",
    "summary.js",
    "main.js",
)


@dataclass(frozen=True)
class WrittenReport:
    """What was written: the file, its size, how much it shows, and what it says is missing."""

    path: Path
    size_bytes: int
    routes: int
    ticks: int
    pictures: int
    notes: tuple[str, ...]


def write_report(
    folder: str | Path, out: str | Path | None = None, budget_ms: float | None = None, max_mb: float = 24.0
) -> WrittenReport:
    """Write the report of a run.

    Args:
        folder: of the run.
        out: the file; None for ``report.html`` in the folder.
        budget_ms: of a tick; None for the run's own.
        max_mb: size that the file may have (1 MB = 10^6 bytes). Pictures are made smaller and fewer for it;
            the ticks themselves (0.25 MB a thousand) are never left out.

    Raises:
        DataError: there is no tick log to read, or the file cannot be written.
    """
    run = read_run(Path(folder))
    if budget_ms is not None:
        run = replace(run, budget_ms=budget_ms)
    payloads = [
        _json(route_payload(route, shown_columns(route.table.path), run.budget_ms)) for route in run.routes
    ]
    parts = [_shell(), *payloads]
    room = max(0, int(max_mb * 1e6) - sum(len(part) for part in parts) - 20_000)
    chosen = choose(_candidates(run), room)
    notes = (*run.notes, *filter(None, [chosen.note]))
    text = _assemble(run, payloads, chosen, notes)
    path = Path(out) if out is not None else Path(folder) / REPORT_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise DataError(
            f"Report {path} cannot be written: {error.strerror}.", "Name another file with --out."
        ) from error
    return WrittenReport(
        path=path,
        size_bytes=len(text),
        routes=len(run.routes),
        ticks=sum(len(route.table) for route in run.routes),
        pictures=len(chosen.jpeg),
        notes=(*notes, *(note for route in run.routes for note in route.notes)),
    )


def _candidates(run: RunFiles) -> list[Candidate]:
    candidates = []
    for number, route in enumerate(run.routes):
        table = route.table
        ticks = {int(frame): row for row, frame in enumerate(table.frame)}
        infractions = {infraction.frame for infraction in route.infractions}
        for frame, path in route.frames.items():
            row = ticks.get(frame)
            if row is None:  # its tick is not in the log: nothing on the page could show it
                continue
            over_ms = float(table.total_ms[row]) - run.budget_ms
            sim_s = float(table.sim_s[row])
            candidates.append(
                Candidate(
                    route=number,
                    frame=frame,
                    path=path,
                    sim_s=sim_s if math.isfinite(sim_s) else 0.0,
                    infraction=frame in infractions,
                    over_ms=max(0.0, over_ms),
                )
            )
    return candidates


def _shell() -> str:
    """The page without any data."""
    text = (_WEB / "index.html").read_text(encoding="utf-8")
    styles = "\n".join((_WEB / name).read_text(encoding="utf-8") for name in _STYLES)
    scripts = "\n".join(
        f"<script>\n{(_WEB / name).read_text(encoding='utf-8')}\n</script>" for name in _SCRIPTS
    )
    return text.replace("/* style */", styles).replace("<!-- scripts -->", scripts)


def _assemble(run: RunFiles, payloads: list[str], chosen: Chosen, notes: tuple[str, ...]) -> bytes:
    overview = {"name": run.name, "evaluation": dict(run.evaluation), "notes": list(notes)}
    data = [f'<script type="application/json" id="overview">{_json(overview)}</script>\n']
    data += [f'<script type="application/json" class="route">{payload}</script>\n' for payload in payloads]
    for (route, frame), jpeg in sorted(chosen.jpeg.items()):
        text = base64.b64encode(jpeg).decode("ascii")
        data.append(f'<script type="text/plain" class="picture" data-at="{route}/{frame}">{text}</script>\n')
    before, after = _shell().split("<!-- data -->")
    title = html.escape(_title(run.routes, run.name))
    return "".join([before.replace("<!-- title -->", title), *data, after]).encode()


def _title(routes: tuple[RouteFiles, ...], name: str) -> str:
    return f"{routes[0].route_id if len(routes) == 1 else name} - tickdrive report"


def _json(value: Any) -> str:
    """JSON that can stand in a script element: no NaN, and nothing that would end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=str).replace("<", "\\u003c")
