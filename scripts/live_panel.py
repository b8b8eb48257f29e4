"""`tickdrive drive --watch`: the stages of the tick as bars against the budget, while the route is driven."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tickdrive.leaderboard.observer import RouteStart, TickView
from tickdrive.planner.tracing import TickTrace
from tickdrive.scripts.watching import LiveLine, driven_by_stack

_WINDOW = 200
_SCALE = 1.25
"""The bars reach this far, in budgets."""
_AROUND = 9
"""Lines of the panel that are no stage."""
_TEXT_WIDTH = 36
_EIGHTHS = " ▏▎▍▌▋▊▉"


class StageWindow:
    """What the stages took in the last ticks. Spans of one name in one tick (denoising steps) are summed."""

    def __init__(self, ticks: int = _WINDOW) -> None:
        self._ticks = ticks
        self._children: dict[str | None, list[str]] = {None: []}
        self._times: dict[str, deque[float]] = {}
        self._last: dict[str, float] = {}

    def add(self, trace: TickTrace) -> None:
        """A tick is over."""
        sums: dict[str, float] = {}
        for span in trace.spans:
            sums[span.name] = sums.get(span.name, 0.0) + span.ms
            if span.name not in self._times:
                self._times[span.name] = deque(maxlen=self._ticks)
                self._children.setdefault(span.parent, []).append(span.name)
        for name, ms in sums.items():
            self._times[name].append(ms)
        self._last = sums

    def stages(self, depths: int = 2, parent: str | None = None) -> Iterator[tuple[str, float | None, float]]:
        """(name, milliseconds in the last tick, their 95th percentile), children indented below their parent.

        The first is None where the stage did not run in the last tick.
        """
        for name in self._children.get(parent, ()):
            yield name, self._last.get(name), float(np.percentile(np.array(self._times[name]), 95))
            if depths > 1:
                for child, last, p95 in self.stages(depths - 1, name):
                    yield f"  {child}", last, p95


@dataclass
class _Driven:
    """What the agent's ticks came to so far."""

    stages: StageWindow = field(default_factory=StageWindow)
    totals: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    rungs: Counter[str] = field(default_factory=Counter)
    ticks: int = 0
    misses: int = 0
    notes: Text = field(default_factory=Text)


class LivePanel(LiveLine):
    """The panel on a terminal; elsewhere the plain line.

    Of an agent that is not ours only the total is known: in the wrapper its own `run_step`, else what the
    evaluator measures.
    """

    refresh_s = 0.2

    def __init__(self, console: Console, budget_ms: float) -> None:
        super().__init__(console, budget_ms)
        self._driven = _Driven()

    def on_route_start(self, start: RouteStart) -> None:
        """A new route, new figures."""
        self._driven = _Driven()
        super().on_route_start(start)

    def on_tick(self, tick: TickView) -> None:
        """Every tick counts; a few a second are shown."""
        self._count(tick)
        super().on_tick(tick)

    def _count(self, tick: TickView) -> None:
        driven = self._driven
        total_ms = tick.timing.agent_ms
        meter = getattr(tick.agent, "tickdrive_meter", None)
        if meter is not None and meter.last is not None:
            total_ms = meter.last.trace.total_ms
            driven.rungs[meter.last.rung] += 1
            if meter.last.latency is not None:  # in ticks in which it is busy the agent takes no time
                driven.stages.add(meter.last.trace)
            driven.notes = Text(meter.last.engine)
        elif driven_by_stack(tick.agent) and (output := tick.agent.last) is not None:
            total_ms = output.trace.total_ms
            driven.stages.add(output.trace)
            driven.rungs[output.rung] += 1
            driven.notes = Text("" if output.plan is None else f"{output.steps} steps, {output.plan.engine}")
            if output.reasoning is not None:
                driven.notes.append(f"  {output.reasoning.decision.name}", style="bold")
                driven.notes.append(f" {output.reasoning.probability:.2f}")
            if output.guarded:
                driven.notes.append("  guarded", style="yellow")
        driven.totals.append(total_ms)
        driven.ticks += 1
        driven.misses += total_ms > self._budget_ms

    def _view(self, tick: TickView) -> RenderableType:
        driven = self._driven
        width = max(self._console.width - 4 - _TEXT_WIDTH, 8)
        rows = list(driven.stages.stages())
        if len(rows) + _AROUND > self._console.height:
            rows = list(driven.stages.stages(depths=1))
        table = Table.grid(padding=(0, 1))
        table.add_column(width=16, no_wrap=True)
        table.add_column(justify="right", width=8, no_wrap=True)
        table.add_column(justify="right", width=8, no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_row("[dim]ms", "[dim]last", "[dim]p95", self._scale(width))
        for name, last, p95 in rows:
            table.add_row(
                name, "-" if last is None else f"{last:.1f}", f"{p95:.1f}", self._bar(last, p95, width)
            )
        p95 = float(np.percentile(np.array(driven.totals), 95))
        bar = self._bar(driven.totals[-1], p95, width)
        table.add_row("[bold]total", f"[bold]{driven.totals[-1]:.1f}", f"[bold]{p95:.1f}", bar)
        return Panel(
            Group(self._drive_line(tick), table, self._counts(), driven.notes),
            title=f"[bold]{escape(self._start.route.id if self._start else '')}",
            title_align="left",
            border_style="bright_black",
            width=self._console.width,
        )

    def _drive_line(self, tick: TickView) -> Text:
        line = self._progress(tick)
        line.append(f"{tick.ticks_per_s:4.1f} ticks/s", style="dim")
        return line

    def _counts(self) -> Text:
        driven = self._driven
        line = Text(overflow="fold")
        share = 100.0 * driven.misses / driven.ticks
        line.append(
            f"missed {driven.misses} of {driven.ticks} ({share:.1f} %)", style="red" if driven.misses else ""
        )
        for rung, count in driven.rungs.most_common():
            line.append(f"  {rung} ")
            line.append(str(count), style="green" if rung == "planned" else "yellow")
        return line

    def _scale(self, width: int) -> Text:
        """The head of the bars: where the budget lies."""
        label = f"{self._budget_ms:g}"
        at = self._cell(self._budget_ms, width)
        return Text("0".ljust(max(at - len(label) // 2, 1)) + label, style="dim")

    def _bar(self, last_ms: float | None, p95_ms: float, width: int) -> Text:
        """The last tick as a bar, the 95th percentile as a mark, the budget as a line down all bars."""
        cells = [" "] * width
        styles = ["green"] * width
        budget = self._cell(self._budget_ms, width)
        exact = min(max(last_ms or 0.0, 0.0) / (_SCALE * self._budget_ms), 1.0) * width
        for cell in range(int(exact)):
            cells[cell] = "█"
            styles[cell] = "green" if cell < budget else "red"
        if int(exact) < width and (part := _EIGHTHS[int(8 * (exact % 1.0))]) != " ":
            cells[int(exact)] = part
        if cells[budget] == " ":
            cells[budget], styles[budget] = "┊", "red"
        mark = self._cell(p95_ms, width)
        if cells[mark] in " ┊":
            beyond = p95_ms > _SCALE * self._budget_ms
            cells[mark], styles[mark] = "▸" if beyond else "│", "red" if p95_ms > self._budget_ms else "cyan"
        runs = groupby(zip(cells, styles, strict=True), key=itemgetter(1))
        return Text.assemble(*(("".join(cell for cell, _ in run), style) for style, run in runs))

    def _cell(self, ms: float, width: int) -> int:
        return min(int(ms / (_SCALE * self._budget_ms) * width), width - 1)
