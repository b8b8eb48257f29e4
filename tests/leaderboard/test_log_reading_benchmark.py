from __future__ import annotations

import json

from typer.testing import CliRunner

from tickdrive.leaderboard.log_reading_benchmark import write_synthetic_log
from tickdrive.leaderboard.tick_table import read_table
from tickdrive.scripts.cli import app


def test_writing_and_budget_come_first_and_reading_follows(tmp_path):
    out = tmp_path / "b.json"
    options = ["--ticks", "20", "--read-ticks", "300", "--json", str(out)]
    result = CliRunner().invoke(app, ["bench", "log", *options])
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["results"]
    for row in rows[:2]:
        assert list(row) == ["name", "ticks", "p50_ms", "p99_ms", "max_ms", "bytes_per_tick"]
    assert rows[0]["p50_ms"] <= rows[1]["p50_ms"]  # the budget's choices come on top
    assert [row["name"] for row in rows[2:]] == ["read JSON Lines", "read Parquet"]
    for row in rows[2:]:
        assert row["ticks"] == 300 and row["wall_s"] >= row["read_s"] and row["peak_mb"] > 20.0


def test_without_ticks_nothing_is_read(tmp_path):
    out = tmp_path / "b.json"
    result = CliRunner().invoke(
        app, ["bench", "log", "--ticks", "20", "--read-ticks", "0", "--json", str(out)]
    )
    assert result.exit_code == 0 and len(json.loads(out.read_text())["results"]) == 2


def test_the_synthetic_log_is_a_whole_log_with_spans_that_add_up(tmp_path):
    write_synthetic_log(tmp_path / "ticks.jsonl", 100)
    table = read_table(tmp_path)
    assert len(table) == 100 and table.damage == ()
    top = sum(table.stage_ms[stage.name] for stage in table.stages if stage.depth == 0)
    assert abs(top + table.other_ms - table.total_ms).max() < 0.01
