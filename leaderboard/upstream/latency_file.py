"""`<checkpoint>.latency.json`: what an upstream run's tick logs say, beside results that upstream owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.latency import TICK_BUDGET_MS, summarize
from tickdrive.leaderboard.tick_table import read_table
from tickdrive.leaderboard.upstream.records import Drive
from tickdrive.leaderboard.upstream.suite_run import tick_logs
from tickdrive.planner.errors import DataError


def latency_path(checkpoint: Path) -> Path:
    """Where the latency of a results file goes."""
    return checkpoint.with_name(f"{checkpoint.name}.latency.json")


def latency_of(
    drives: Sequence[Drive], save_folder: Callable[[Drive], Path], budget_ms: float = TICK_BUDGET_MS
) -> dict[str, Any]:
    """Latency by route.

    Args:
        drives: with a verdict.
        save_folder: where a drive's logs are.
        budget_ms: of a tick.

    Returns:
        ``{"schema": 1, "budget_ms", "routes": {route id: {"log", ...}}, "unmeasured": {route id: why}}``; a
        route's form is that of ``tickdrive latency --json``.
    """
    routes: dict[str, Any] = {}
    unmeasured: dict[str, str] = {}
    for drive in drives:
        logs = tick_logs(save_folder(drive), drive)
        if not logs:
            unmeasured[drive.route_id] = "no tick log"
            continue
        try:
            summary = summarize(read_table(logs[-1]), budget_ms)
        except DataError as error:
            unmeasured[drive.route_id] = str(error)
            continue
        routes[drive.route_id] = {"log": str(logs[-1]), **summary.to_json()}
    return {"schema": 1, "budget_ms": budget_ms, "routes": routes, "unmeasured": unmeasured}
