"""What `drive --watch` shows, of made-up ticks."""

import io
from collections import Counter
from types import SimpleNamespace

import pytest
from rich.console import Console

from tickdrive.leaderboard.tick_timing import TickTiming
from tickdrive.planner.tracing import Span, TickTrace
from tickdrive.scripts.live_panel import LivePanel, StageWindow


def trace(planner_ms=25.0, vl_ms=10.0):
    spans = [Span("vl", None, 0.0, vl_ms)] if vl_ms else []
    spans += [Span("planner", None, vl_ms, planner_ms), Span("denoise", "planner", vl_ms, planner_ms / 2)]
    spans += [Span("step", "denoise", vl_ms, planner_ms / 4)] * 2
    return TickTrace(vl_ms + planner_ms, tuple(spans), 0.0)


def view(agent, agent_ms=35.0):
    return SimpleNamespace(
        fraction=0.5,
        speed_mps=10.0,
        ticks_per_s=18.4,
        timing=TickTiming(5.0, agent_ms, 1.0),
        agent=agent,
    )


def ours(rung="planned", guarded=False, **times):
    decision = SimpleNamespace(decision=SimpleNamespace(name="FOLLOW"), probability=0.93)
    last = SimpleNamespace(
        trace=trace(**times),
        rung=rung,
        steps=10,
        plan=SimpleNamespace(engine="traced"),
        reasoning=decision,
        guarded=guarded,
    )
    return SimpleNamespace(stack=object(), last=last)


def shown(panel, console, tick):
    with console.capture() as capture:
        console.print(panel._view(tick))
    return capture.get().splitlines()


def panel_of(width=80, height=40):
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system=None)
    return LivePanel(console, 50.0), console


@pytest.mark.parametrize("width", [60, 80, 160])
def test_every_line_fits_the_terminal(width):
    panel, console = panel_of(width)
    tick = view(ours(planner_ms=500.0, vl_ms=1000.0))
    panel._count(tick)
    assert {len(line) for line in shown(panel, console, tick)} == {width}


def test_bars_are_as_long_as_the_time_and_the_budget_is_a_line():
    panel, console = panel_of()
    tick = view(ours())
    panel._count(tick)
    lines = {line[2:18].strip(): line for line in shown(panel, console, tick)}
    assert [name for name in lines if name in ("vl", "planner", "denoise", "step", "total")] == [
        "vl",
        "planner",
        "denoise",
        "total",
    ]
    budget = lines["vl"].index("┊")
    start = lines["total"].index("█")
    for name, ms in (("vl", 10.0), ("planner", 25.0), ("denoise", 12.5), ("total", 35.0)):
        assert lines[name].count("█") == pytest.approx(ms / 50.0 * (budget - start), abs=1.0)
        assert lines[name][budget] == "┊" and f"{ms:.1f}" in lines[name]
    assert lines["  denoise".strip()].startswith("│   denoise")


def test_a_miss_crosses_the_budget_and_is_counted():
    panel, console = panel_of()
    for tick in (view(ours()), view(ours(planner_ms=45.0)), view(ours("previous_plan", True))):
        panel._count(tick)
    text = "\n".join(shown(panel, console, tick))
    assert "missed 1 of 3 (33.3 %)" in text and "planned 2" in text and "previous_plan 1" in text
    assert "10 steps, traced" in text and "FOLLOW 0.93" in text and "guarded" in text
    assert "36 km/h" in text and "50.0 %" in text and "18.4 ticks/s" in text


def test_a_stage_that_did_not_run_in_the_last_tick_keeps_its_place():
    window = StageWindow()
    window.add(trace())
    window.add(trace(vl_ms=0.0))
    stages = {name: (last, p95) for name, last, p95 in window.stages()}
    assert list(stages) == ["vl", "planner", "  denoise"]
    assert stages["vl"] == (None, 10.0) and stages["planner"] == (25.0, 25.0)
    assert {name: last for name, last, _ in window.stages(depths=3)}["    step"] == 12.5


def test_the_window_forgets():
    window = StageWindow(ticks=3)
    for ms in (500.0, 1.0, 1.0, 1.0):
        window.add(trace(planner_ms=ms))
    assert {name: p95 for name, _, p95 in window.stages()}["planner"] == 1.0


def test_a_low_terminal_shows_the_stages_without_their_parts():
    panel, console = panel_of(height=10)
    tick = view(ours())
    panel._count(tick)
    lines = shown(panel, console, tick)
    assert len(lines) <= 10 and not any("denoise" in line for line in lines)


def test_of_a_wrapped_agent_the_total_is_shown():
    meter = SimpleNamespace(
        last=SimpleNamespace(trace=trace(), rung="hold", engine="TheirAgent", latency=None), rungs=Counter()
    )
    panel, console = panel_of()
    tick = view(SimpleNamespace(tickdrive_meter=meter), agent_ms=99.0)
    panel._count(tick)
    text = "\n".join(shown(panel, console, tick))
    assert "35.0" in text and "99.0" not in text and "hold 1" in text and "TheirAgent" in text
    assert "planner" not in text


def test_of_any_other_agent_what_the_evaluator_measures():
    panel, console = panel_of()
    tick = view(SimpleNamespace(last="theirs"), agent_ms=61.5)
    panel._count(tick)
    text = "\n".join(shown(panel, console, tick))
    assert "61.5" in text and "missed 1 of 1" in text


def test_without_a_terminal_the_plain_line_stands_in():
    console = Console(width=120, file=io.StringIO())
    panel = LivePanel(console, 50.0)
    panel.on_tick(view(ours()))
    assert console.file.getvalue().count("tick latency p50 35.0") == 1
