"""What one sees of an upstream evaluation: the route under way, those done, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tickdrive.leaderboard.upstream.records import Drive

_STARTING = "evaluator and simulator are starting"  # with Bench2Drive that takes it half a minute


class SuiteProgress:
    """A bar over the routes; every verdict is a line above it. Elsewhere than on a terminal: only the lines.

    Args:
        console: where to.
        total: drives in all.
        pending: those without a verdict, with the length of each, m.
        driven: length, m, and wall time, s, of those that an evaluation that is resumed has driven.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        pending: Mapping[Drive, float],
        driven: Sequence[tuple[float, float]] = (),
    ) -> None:
        self._console = console
        self._total = total
        self._pending = dict(pending)
        self._driven_m = sum((length_m for length_m, _ in driven), 0.0)
        self._driven_s = sum((wall_s for _, wall_s in driven), 0.0)
        self._driven = len(driven)
        self._began: tuple[Drive, float] | None = None
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[note]}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        done = total - len(pending)
        self._bar = self._progress.add_task("routes", total=total, completed=done, note=_STARTING)

    def at(self, drive: Drive, sim_s: float) -> None:
        """A drive is under way."""
        if self._began is None or self._began[0] != drive:
            self._began = drive, time.monotonic()
        note = f"{drive.route_id}: {sim_s:.0f} s simulated; {self._time_left()}"
        self._progress.update(self._bar, note=note)

    def done(self, drive: Drive, record: Mapping[str, Any], wall_s: float) -> None:
        """A drive has its verdict."""
        length_m = self._pending.pop(drive, 0.0)
        self._driven += 1
        self._driven_m += length_m
        self._driven_s += wall_s
        self._began = None
        done = self._total - len(self._pending)
        self._progress.update(self._bar, completed=done)
        score, game_s = record["scores"]["score_composed"], record["meta"]["duration_game"]
        line = (
            f"  {done:>3} of {self._total}  {drive.route_id}: {score:.1f}, {record['status']}"
            f"  ({game_s:.0f} s simulated in {wall_s:.0f} s)"
        )
        if not self._console.is_terminal:
            line += f"  {self._time_left()}"
        self._console.print(line, markup=False, soft_wrap=True)

    def lost(self, drive: Drive | None, why: str, again: bool) -> None:
        """A drive, or a start, was lost."""
        what = drive.route_id if drive else "start"
        then = "tried again" if again else "given up"
        self._console.print(f"  {what}: {why}; {then}", style="yellow", markup=False, soft_wrap=True)

    def _time_left(self) -> str:
        left_s = time_left_s(
            [*self._pending.values()],
            self._driven_m,
            self._driven_s,
            time.monotonic() - self._began[1] if self._began else 0.0,
        )
        if left_s is None:
            return "no estimate before the first verdict" if self._pending else ""
        text = f"about {left_s / 60.0:.0f} min left" if left_s >= 60.0 else "less than a minute left"
        return f"{text} (by {self._driven} driven)" if self._pending else ""

    def __enter__(self) -> SuiteProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def time_left_s(
    pending_m: Sequence[float], driven_m: float, driven_s: float, under_way_s: float
) -> float | None:
    """Wall time that the rest will take, by how long a metre of route took so far.

    Args:
        pending_m: lengths of the routes without a verdict.
        driven_m: metres of route with one; `driven_s` the wall time they took.
        driven_s: see there.
        under_way_s: how long the present route has been driven.

    Returns:
        None where nothing is known yet.
    """
    if not driven_m:
        return None
    return max(sum(pending_m) * driven_s / driven_m - under_way_s, 0.0)
