from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tickdrive.leaderboard.latency import summarize
from tickdrive.leaderboard.latency_diff import compare
from tickdrive.leaderboard.latency_limits import check_limits, parse_limit
from tickdrive.leaderboard.log_reading_benchmark import write_synthetic_log
from tickdrive.leaderboard.tick_table import TickTable, read_table
from tickdrive.planner.errors import ConfigError

BUDGET_MS = 32.0


def drive(folder: Path, seed: int, slower_ms: float = 0.0, ticks: int = 1200) -> Path:
    path = folder / f"{seed}-{slower_ms}-{ticks}.jsonl"
    if not path.exists():
        write_synthetic_log(path, ticks, seed, slower_ms)
    return path


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drives")


def table(folder: Path, seed: int, slower_ms: float = 0.0) -> TickTable:
    return read_table(drive(folder, seed, slower_ms))


def test_a_slower_planner_is_found_and_nothing_else(drives):
    diff = compare(table(drives, 1), table(drives, 2, slower_ms=4.0), BUDGET_MS)
    planner = diff.row("planner", "p50")
    assert planner.differs and planner.low < 4.0 < planner.high and planner.low > 0.0
    assert diff.row("total", "p50").differs and diff.row("miss_share", "share").differs
    differing = {row.name for row in diff.rows if row.differs}
    assert differing >= {"total", "planner", "denoise", "step"}
    assert not differing & {"vl", "decode", "control", "outside"}
    said = diff.statement()
    assert any(sentence.startswith("planner is slower in B: p50") for sentence in said)
    assert any("misses the budget in" in sentence for sentence in said)


def test_the_other_way_round_it_is_faster(drives):
    diff = compare(table(drives, 2, slower_ms=4.0), table(drives, 1), BUDGET_MS)
    assert diff.row("planner", "p50").delta < 0.0
    assert any(sentence.startswith("planner is faster in B") for sentence in diff.statement())


def test_a_log_against_itself_differs_in_nothing(drives):
    diff = compare(table(drives, 1), table(drives, 1), BUDGET_MS)
    assert all(row.delta == 0.0 and not row.differs for row in diff.rows)
    assert diff.statement() == ["No stage differs beyond chance."]


def test_drives_of_one_kind_are_seldom_told_apart(drives):
    """Load drifts over 20 ticks: with single ticks resampled, most of these pairs would be told apart."""
    tables = [table(drives, seed) for seed in range(10, 20)]
    diffs = [compare(a, b, BUDGET_MS) for a, b in zip(tables[::2], tables[1::2], strict=True)]
    assert sum(any(row.differs for row in diff.rows) for diff in diffs) <= 1
    covered = np.mean([row.low <= 0.0 <= row.high for diff in diffs for row in diff.rows])
    assert covered > 0.85
    assert all(min(diff.block_ticks) > 5 for diff in diffs), "autocorrelation was seen"


def test_stages_of_one_log_only_are_told(drives, tmp_path):
    a = drive(drives, 1)
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(a.read_text().replace('"vl"', '"camera"'))
    diff = compare(read_table(a), read_table(renamed), BUDGET_MS)
    assert (diff.only_a, diff.only_b) == (("vl",), ("camera",))
    assert "Only in B: camera." in diff.statement()


@pytest.mark.parametrize("ticks", [1, 2, 30])
def test_few_ticks_tell_nothing_and_break_nothing(tmp_path, ticks):
    a, b = (read_table(drive(tmp_path, seed, ticks=ticks)) for seed in (1, 2))
    diff = compare(a, b, BUDGET_MS)
    assert all(np.isfinite([row.low, row.high, row.delta]).all() for row in diff.rows)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("total.p95 > 20", True),
        ("total.p95>1000", False),
        ("planner.p50 >= 1e-3", True),
        ("misses < 1", False),
        ("miss_share <= 1", True),
        ("outside.max > 0", True),
        ("step.n < 10", False),
    ],
)
def test_limits_hold_or_not(drives, text, holds):
    summary = summarize(table(drives, 1), BUDGET_MS)
    assert bool(check_limits([parse_limit(text)], [("log", summary)], None)) is holds


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("total.p95 50", "FIGURE OPERATOR NUMBER"),
        ("total.p95 > fifty", "FIGURE OPERATOR NUMBER"),
        ("total.p95 > nan", "FIGURE OPERATOR NUMBER"),
        ("", "FIGURE OPERATOR NUMBER"),
        ("total.p95 => 50", "operator '=>'"),
        ("total.p95_ms > 50", "Did you mean 'p95'"),
        ("total.p96 > 50", "Known: max, n, p50, p90, p95, p99"),
        ("total > 50", r"total\.p95"),
        ("mises > 5", "Did you mean 'misses'"),
        ("diff.total.max > 5", "p50, p95"),
        ("diff.misses > 5", "miss_share"),
    ],
)
def test_a_wrong_limit_says_what_was_meant(text, meant):
    with pytest.raises(ConfigError, match=meant):
        parse_limit(text)


def test_a_limit_on_a_stage_that_is_not_there_is_an_error(drives):
    summary = summarize(table(drives, 1), BUDGET_MS)
    with pytest.raises(ConfigError, match="Did you mean 'planner'"):
        check_limits([parse_limit("planer.p95 > 5")], [("log", summary)], None)
    with pytest.raises(ConfigError, match="two logs"):
        check_limits([parse_limit("diff.total.p95 > 5")], [("log", summary)], None)


def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tickdrive.scripts.cli", "latency", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_exit_status_is_3_where_a_limit_holds(drives, tmp_path):
    log, out = drive(drives, 1), tmp_path / "f.json"
    fine = run_command(log, "--fail-over", "total.p95 > 500", "--fail-over", "miss_share > 0.9")
    assert fine.returncode == 0 and "limit" not in fine.stderr
    over = run_command(log, "--fail-over", "total.p95 > 500", "--fail-over", "total.p50 > 5", "--json", out)
    assert over.returncode == 3 and "total.p50 > 5: it is" in over.stderr
    assert "500" not in over.stderr and "Tick latency" in over.stdout
    assert len(json.loads(out.read_text())["limits_held"]) == 1
    wrong = run_command(log, "--fail-over", "total.p95ms > 5")
    assert wrong.returncode == 1 and "Did you mean 'p95'" in wrong.stderr and "Traceback" not in wrong.stderr


def test_two_logs_are_compared_by_the_command(drives, tmp_path):
    a, b, out = drive(drives, 1), drive(drives, 2, slower_ms=4.0), tmp_path / "f.json"
    done = run_command(a, b, "--fail-over", "diff.planner.p50 > 2", "--json", out)
    assert done.returncode == 3 and "diff.planner.p50 > 2: it is" in done.stderr
    assert "planner is slower in B" in done.stdout and "95 % interval" in done.stdout
    figures = json.loads(out.read_text())
    planner = figures["diff"]["stages"]["planner"]["p50"]
    assert planner["differs"] and planner["low"] < planner["delta"] < planner["high"]
    assert len(figures["logs"]) == 2 and figures["logs"][1]["stages"]["planner"]["n"] == 1200
    assert run_command(a, b, "--fail-over", "diff.planner.p50 > 20").returncode == 0
