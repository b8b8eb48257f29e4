"""The result of a sweep: a row for each latency, as a table and as `sweep.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tickdrive.leaderboard.sweep.drive_result import DriveResult
from tickdrive.leaderboard.sweep.plan import COMPENSATED_FROM_MS, Manifest, SweepDrive, SweepPoint
from tickdrive.leaderboard.sweep.statistics import Estimate, mean, rate, wilson

SCHEMA = 1


@dataclass(frozen=True)
class SweepRow:
    """All drives at one point.

    Attributes:
        point: latency and compensation.
        drives: that are done.
        planned: that were asked for.
        score: mean driving score.
        score_change: mean of its difference to the drive of the same route and seed at 0 ms; None at 0 ms and
            where there are no such pairs.
        success: share of drives, 0 to 1.
        collisions_per_km: over all kilometres driven; None where none was.
        collisions_per_drive: mean.
        completion: mean share of the route, 0 to 100.
        past_horizon: share of all ticks, 0 to 1.
        blocked: drives that ended so.
        statuses: status -> drives.
    """

    point: SweepPoint
    drives: int
    planned: int
    score: Estimate
    score_change: Estimate | None
    success: Estimate
    collisions_per_km: Estimate | None
    collisions_per_drive: Estimate
    completion: Estimate
    past_horizon: float
    blocked: int
    statuses: Mapping[str, int]


@dataclass(frozen=True)
class Sweep:
    """A sweep as far as it is driven.

    Attributes:
        manifest: how it was driven.
        rows: by latency, compensated first; points without a drive have none.
        results: of all drives that are done.
        missing: drive -> why it has no result.
    """

    manifest: Manifest
    rows: tuple[SweepRow, ...]
    results: tuple[DriveResult, ...]
    missing: Mapping[SweepDrive, str]

    @property
    def commits(self) -> list[str]:
        """Of the drives."""
        return sorted({result.commit or "unknown" for result in self.results})

    def to_json(self) -> dict[str, Any]:
        """``{"schema", "manifest", "rows", "drives", "missing"}``; intervals are 95 %."""
        rows = []
        for row in self.rows:
            content = asdict(row)
            content.pop("point")
            rows.append({**asdict(row.point), **content})
        missing = [
            {
                "latency_ms": drive.point.latency_ms,
                "compensation": drive.point.compensation,
                "route_id": drive.route_id,
                "seed": drive.seed,
                "why": why,
            }
            for drive, why in self.missing.items()
        ]
        return {
            "schema": SCHEMA,
            "manifest": asdict(self.manifest),
            "rows": rows,
            "drives": [asdict(result) for result in self.results],
            "missing": missing,
        }


def summarize_sweep(
    manifest: Manifest,
    drives: Sequence[SweepDrive],
    results: Mapping[SweepDrive, DriveResult],
    reasons: Mapping[SweepDrive, str] | None = None,
) -> Sweep:
    """Rows from results.

    Args:
        manifest: of the sweep.
        drives: all that were asked for.
        results: of those that are done.
        reasons: why others are not.
    """
    reasons = reasons or {}
    points = list(dict.fromkeys(drive.point for drive in drives))
    at_zero = {
        (result.route_id, result.seed): result.score for result in results.values() if not result.latency_ms
    }
    rows = []
    for point in sorted(points, key=lambda p: (p.latency_ms, not p.compensation)):
        planned = [drive for drive in drives if drive.point == point]
        done = [results[drive] for drive in planned if drive in results]
        if done:
            rows.append(_row(point, done, len(planned), at_zero))
    missing = {drive: reasons.get(drive, "not driven yet") for drive in drives if drive not in results}
    done = [results[drive] for drive in drives if drive in results]
    return Sweep(manifest, tuple(rows), tuple(done), missing)


def _row(
    point: SweepPoint,
    done: Sequence[DriveResult],
    planned: int,
    at_zero: Mapping[tuple[str, int], float],
) -> SweepRow:
    changes = [r.score - at_zero[r.route_id, r.seed] for r in done if (r.route_id, r.seed) in at_zero]
    collisions, km = [r.collisions for r in done], [r.driven_km for r in done]
    return SweepRow(
        point=point,
        drives=len(done),
        planned=planned,
        score=mean([r.score for r in done]),
        score_change=mean(changes) if changes and point.latency_ms else None,
        success=wilson(sum(r.success for r in done), len(done)),
        collisions_per_km=rate(collisions, km) if sum(km) > 0 else None,
        collisions_per_drive=mean(collisions),
        completion=mean([r.completion for r in done]),
        past_horizon=sum(r.past_horizon for r in done) / max(sum(r.ticks for r in done), 1),
        blocked=sum(r.blocked for r in done),
        statuses=dict(Counter(r.status for r in done)),
    )


def sweep_tables(sweep: Sweep) -> tuple[Table, Table]:
    """The rows for the terminal, in two tables so that they fit 80 columns."""
    costs = _table("What latency costs", ("drives", "score", "vs 0 ms", "success %", "coll./km"))
    how = _table("How the drives went", ("coll./drive", "route %", "past plan %", "blocked"))
    previous: SweepPoint | None = None
    for row in sweep.rows:
        point = row.point
        if previous is not None and point.latency_ms != previous.latency_ms >= COMPENSATED_FROM_MS:
            costs.add_section()
            how.add_section()
        previous = point
        name = (
            f"{point.latency_ms:g}",
            "" if not point.latency_ms else "on" if point.compensation else "off",
        )
        costs.add_row(
            *name,
            str(row.drives) if row.drives == row.planned else f"[yellow]{row.drives} of {row.planned}[/]",
            _cell(row.score, ".1f"),
            _cell(row.score_change, "+.1f", between=" to "),
            _cell(row.success, ".0f", 100.0),
            _cell(row.collisions_per_km, ".2f"),
        )
        how.add_row(
            *name,
            f"{row.collisions_per_drive.value:.2f}",
            f"{row.completion.value:.0f}",
            f"{100.0 * row.past_horizon:.1f}",
            str(row.blocked),
        )
    return costs, how


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("ms", justify="right")
    table.add_column("comp.")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _cell(estimate: Estimate | None, form: str, scale: float = 1.0, between: str = "–") -> str:
    """The value, and below it its interval."""
    if estimate is None:
        return ""
    value = format(scale * estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value}\n[dim]{scale * estimate.low:{form}}{between}{scale * estimate.high:{form}}[/]"


def sweep_notes(sweep: Sweep) -> list[str]:
    """What has to be said below the tables, in rich's markup."""
    notes = [
        "[dim]Below a figure its 95 % interval: bootstrap over the drives (vs 0 ms: over pairs",
        "[dim]of route and seed), Wilson's for success. comp.: planning for when the plan takes",
        "[dim]effect. past plan: ticks in which the plan in force had run out.",
    ]
    if len(sweep.commits) > 1:
        notes.append(f"[yellow]driven at different commits: {', '.join(sweep.commits)}")
    if sweep.missing:
        total = len(sweep.missing) + len(sweep.results)
        notes.append(f"[yellow]{len(sweep.missing)} of {total} drives are missing")
    return notes
