from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tickdrive.leaderboard.latency import summarize
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


def test_percentiles_misses_and_order_of_stages():
    totals = np.arange(1.0, 101.0)
    ticks = [
        tick(t, [("decode", None, 0.1 * t), ("planner", None, 0.5 * t), ("encode", "planner", 0.2 * t)])
        for t in totals
    ]
    ticks[0]["spans"].append({"name": "hoist", "parent": "planner", "start_ms": 0.0, "ms": 1.0})
    summary = summarize(ticks, budget_ms=90.0)
    assert [s.name for s in summary.stages] == ["total", "decode", "planner", "encode", "hoist", "other"]
    assert [s.depth for s in summary.stages] == [0, 1, 1, 2, 2, 1]
    total = summary.stage("total")
    assert (total.p50_ms, total.max_ms, total.n) == (np.percentile(totals, 50), 100.0, 100)
    assert total.p95_ms == pytest.approx(np.percentile(totals, 95))
    assert summary.misses == 10
    assert summary.stage("hoist").n == 1


def test_repeated_spans_of_one_tick_are_summed():
    steps = [("denoise", None, 2.0), ("step", "denoise", 0.5), ("step", "denoise", 1.5)]
    assert summarize([tick(3.0, steps)]).stage("step").max_ms == 2.0


def test_no_ticks_is_an_error():
    with pytest.raises(DataError, match="no ticks"):
        summarize([])


def test_the_command_prints_the_table_and_writes_the_json(tmp_path):
    log = tmp_path / "ticks.jsonl"
    lines = [{"type": "header", "schema": 2}, *(tick(40.0 + k, [("vl", None, 20.0)]) for k in range(20))]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "l.json"
    result = CliRunner().invoke(app, ["latency", str(log), "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "9 of 20 ticks" in result.output and "vl" in result.output
    figures = json.loads(out.read_text())
    assert figures["schema"] == 1 and figures["ticks"] == 20 and figures["misses"] == 9
    assert set(figures["stages"]["total"]) == {"p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "n"}
    assert figures["stages"]["outside"]["p50_ms"] == 10.0
