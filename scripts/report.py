"""`tickdrive report`: a drive as one HTML file."""

from __future__ import annotations

import time
from pathlib import Path

from tickdrive.leaderboard.report.page import write_report
from tickdrive.scripts.output import console, error_console


def run(folder: Path, out: Path | None, budget_ms: float | None, max_mb: float) -> None:
    """Write the report and say where it is.

    Raises:
        DataError: there is no tick log to read, or the file cannot be written.
    """
    started = time.monotonic()
    report = write_report(folder, out, budget_ms, max_mb)
    for note in report.notes:
        error_console.print(note, style="yellow", markup=False)
    routes = f"{report.routes} routes, " if report.routes > 1 else ""
    console.print(
        f"  {report.path}: {routes}{report.ticks} ticks, {report.pictures} pictures, "
        f"{report.size_bytes / 1e6:.1f} MB in {time.monotonic() - started:.1f} s",
        markup=False,
        soft_wrap=True,
    )
