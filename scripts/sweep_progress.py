"""What one sees of a sweep while it drives: the drives under way, those done, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from tickdrive.leaderboard.sweep.drive_result import DriveResult
from tickdrive.leaderboard.sweep.plan import SweepDrive, SweepPoint
from tickdrive.scripts.sweep_drive import DriveProgress


class SweepProgress:
    """A bar over all drives and one for each under way; every drive that ends is a line above them.

    Elsewhere than on a terminal only the lines are printed.

    Args:
        console: where to.
        drives: all of the sweep.
        results: those done; the sweep adds to it.
        jobs: drives at a time.
    """

    def __init__(
        self,
        console: Console,
        drives: Sequence[SweepDrive],
        results: Mapping[SweepDrive, DriveResult],
        jobs: int,
    ) -> None:
        self._console = console
        self._drives, self._results, self._jobs = drives, results, jobs
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._all = self._progress.add_task("all drives", total=len(drives), completed=len(results), note="")
        self._under_way: dict[SweepDrive, tuple[TaskID, float]] = {}
        self._lost: set[SweepDrive] = set()

    def at(self, drive: SweepDrive, where: DriveProgress) -> None:
        """A drive is under way."""
        if drive not in self._under_way:
            bar = self._progress.add_task(str(drive), total=1.0, note="")
            self._under_way[drive] = bar, time.monotonic()
        bar, _ = self._under_way[drive]
        self._progress.update(bar, completed=where.fraction, note=f"{where.sim_s:.0f} s driven")

    def done(self, drive: SweepDrive, result: DriveResult) -> None:
        """A drive has its result."""
        self._end(drive)
        left = self._time_left()
        self._progress.update(self._all, completed=len(self._results), note=left)
        line = (
            f"  {len(self._results):>3} of {len(self._drives)}  {drive}: {result.score:.1f}, {result.status}"
            f"  ({result.wall_s:.0f} s)"
        )
        self._console.print(
            line if self._console.is_terminal else f"{line}  {left}", markup=False, soft_wrap=True
        )

    def failed(self, drive: SweepDrive, why: str) -> None:
        """A drive has none."""
        self._end(drive)
        self._lost.add(drive)
        self._console.print(f"  {drive}: {why}", style="yellow", markup=False, soft_wrap=True)

    def _end(self, drive: SweepDrive) -> None:
        bar, _ = self._under_way.pop(drive, (None, 0.0))
        if bar is not None:
            self._progress.remove_task(bar)

    def _time_left(self) -> str:
        minutes = time_left_s(self._drives, self._results, self._jobs) / 60.0
        return f"about {minutes:.0f} min left" if minutes >= 1.0 else "less than a minute left"

    def __enter__(self) -> SweepProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def time_left_s(drives: Sequence[SweepDrive], results: Mapping[SweepDrive, DriveResult], jobs: int) -> float:
    """Wall time that the rest will take, by what drives took so far.

    Latencies differ much (while a plan is computed, the planner is not run): a drive is taken to be as long
    as those of its own point were, or, before there are any, as all.

    Args:
        drives: all.
        results: of those done, at least one.
        jobs: drives at a time.
    """
    by_point: dict[SweepPoint, list[float]] = {}
    for drive, result in results.items():
        by_point.setdefault(drive.point, []).append(result.wall_s)
    overall = sum(result.wall_s for result in results.values()) / len(results)
    rest = 0.0
    for drive in drives:
        if drive not in results:
            known = by_point.get(drive.point)
            rest += sum(known) / len(known) if known else overall
    return rest / jobs
