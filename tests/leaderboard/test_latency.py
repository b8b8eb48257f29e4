from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tickdrive.leaderboard.latency import LatencySummary, summarize
from tickdrive.leaderboard.longest_ticks import longest_ticks
from tickdrive.leaderboard.tick_table import TickTable, read_table
from tickdrive.planner.errors import DataError
from tickdrive.scripts.cli import app


def tick(total: float, spans: list[tuple[str, str | None, float]], outside: float | None = 10.0) -> dict:
    top = sum(ms for _, parent, ms in spans if parent is None)
    return {
        "type": "tick",
        "frame": 1,
        "total_ms": total,
        "spans": [{"name": n, "parent": p, "start_ms": 0.0, "ms": ms} for n, p, ms in spans],
        "other_ms": total - top,
        "outside_ms": outside,
        "rung": "planned",
    }


@pytest.fixture
def table_of(tmp_path: Path) -> Callable[[list[dict]], TickTable]:
    def read(ticks: list[dict]) -> TickTable:
        return read_table(write_log(tmp_path / "made.jsonl", ticks))

    return read


def write_log(path: Path, ticks: list[dict]) -> Path:
    lines = [{"type": "header", "schema": 2}, *ticks]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_percentiles_misses_and_order_of_stages(table_of):
    totals = np.arange(1.0, 101.0)
    ticks = [
        tick(t, [("decode", None, 0.1 * t), ("planner", None, 0.5 * t), ("encode", "planner", 0.2 * t)])
        for t in totals
    ]
    ticks[0]["spans"].append({"name": "hoist", "parent": "planner", "start_ms": 0.0, "ms": 1.0})
    summary = summarize(table_of(ticks), budget_ms=90.0)
    assert [s.name for s in summary.stages] == ["total", "decode", "planner", "encode", "hoist", "other"]
    assert [s.depth for s in summary.stages] == [0, 1, 1, 2, 2, 1]
    total = summary.stage("total")
    assert (total.p50_ms, total.max_ms, total.n) == (np.percentile(totals, 50), 100.0, 100)
    assert total.p95_ms == pytest.approx(np.percentile(totals, 95))
    assert summary.misses == 10
    assert summary.stage("hoist").n == 1


def test_repeated_spans_of_one_tick_are_summed(table_of):
    steps = [("denoise", None, 2.0), ("step", "denoise", 0.5), ("step", "denoise", 1.5)]
    assert summarize(table_of([tick(3.0, steps)])).stage("step").max_ms == 2.0


def test_no_ticks_is_an_error(table_of):
    with pytest.raises(DataError, match="no ticks"):
        summarize(table_of([]))


def test_rungs_guard_and_engines_are_counted(table_of):
    ticks = [tick(10.0, []) for _ in range(5)]
    ticks[1]["rung"] = ticks[2]["rung"] = "safe_stop"
    ticks[3] |= {"guarded": True, "engine": "traced"}
    summary: LatencySummary = summarize(table_of(ticks), budget_ms=10.0)
    assert summary.rungs == {"planned": 3, "safe_stop": 2} and summary.guarded == 1
    assert summary.engines == {"": 4, "traced": 1}
    assert summary.misses == 0, "on the budget is within it"


def test_the_longest_ticks_say_what_made_them_long(table_of):
    def usual(vl: float = 10.0, planner: float = 12.0, step: float = 5.0, other: float = 0.0) -> dict:
        spans = [("vl", None, vl), ("planner", None, planner), ("step", "planner", step)]
        return tick(vl + planner + other, spans) | {"preempted": 0}

    ticks = [usual() for _ in range(50)]
    ticks[0] = usual(vl=60.0)
    ticks[10] = usual(planner=52.0, step=44.0) | {"preempted": 3}
    ticks[20] = usual(planner=42.0)
    ticks[30] = usual(other=25.0)
    ticks[40] = usual()
    ticks[40]["total_ms"] += 15.0
    ticks[40]["spans"].append({"name": "collection", "parent": None, "start_ms": 0.0, "ms": 15.0})
    longest = longest_ticks(table_of(ticks), 5)
    assert [t.index for t in longest] == [0, 10, 20, 30, 40]
    assert [t.stage for t in longest] == ["vl", "step", "planner", "other", "collection"]
    assert [t.excess_ms for t in longest] == pytest.approx([50.0, 39.0, 30.0, 25.0, 15.0])
    assert longest[0].is_first and "first tick" in longest[0].why
    assert longest[1].preempted == 3 and "preempted 3 times" in longest[1].why
    assert "preempted" not in longest[2].why


def test_a_tick_that_does_not_know_about_preemption_says_nothing_of_it(table_of):
    (only,) = longest_ticks(table_of([tick(10.0, [])]))
    assert only.preempted is None and only.stage == "other"


def test_the_command_prints_the_table_and_writes_the_json(tmp_path):
    log = write_log(tmp_path / "ticks.jsonl", [tick(40.0 + k, [("vl", None, 20.0)]) for k in range(20)])
    out = tmp_path / "l.json"
    result = CliRunner().invoke(app, ["latency", str(log), "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "9 of 20 ticks" in result.output and "vl" in result.output
    figures = json.loads(out.read_text())
    assert figures["schema"] == 1 and figures["ticks"] == 20 and figures["misses"] == 9
    assert set(figures["stages"]["total"]) == {"p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "n"}
    assert figures["stages"]["outside"]["p50_ms"] == 10.0
    assert figures["miss_share"] == 0.45 and figures["rungs"] == {"planned": 20}
    assert figures["longest"][0]["total_ms"] == 59.0 and len(figures["longest"]) == 5
    assert figures["damage"] == [] and figures["limits_held"] == []


def test_several_logs_stand_side_by_side(tmp_path):
    logs = [
        str(write_log(tmp_path / f"{k}.jsonl", [tick(10.0 + k, [(f"s{k}", None, 5.0)])] * 20))
        for k in range(3)
    ]
    out = tmp_path / "l.json"
    result = CliRunner().invoke(app, ["latency", *logs, "--json", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert [log["stages"]["total"]["p50_ms"] for log in figures["logs"]] == [10.0, 11.0, 12.0]
    assert "diff" not in figures
    assert "s0" in result.output and "s2" in result.output and "12.0 / 12.0" in result.output


def test_damage_is_told_and_the_rest_is_summarised(tmp_path):
    log = write_log(tmp_path / "ticks.jsonl", [tick(10.0, [])] * 5)
    log.write_bytes(log.read_bytes()[:-20])
    result = CliRunner().invoke(app, ["latency", str(log)])
    assert result.exit_code == 0 and "line 6 is damaged" in result.output and "0 of 4 ticks" in result.output


def test_a_run_folder_without_the_log_names_the_logs_that_are_there(tmp_path):
    write_log(tmp_path / "RouteScenario_1.ticks.jsonl", [tick(10.0, [])])
    with pytest.raises(DataError, match=r"RouteScenario_1\.ticks\.jsonl"):
        read_table(tmp_path)
