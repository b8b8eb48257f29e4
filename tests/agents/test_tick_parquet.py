from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from tickdrive.agents.tick_log import LatencyRecord, TickLog, TickReader, TickRecord, iter_ticks, read_log
from tickdrive.agents.tick_parquet import write_parquet
from tickdrive.leaderboard.log_reading_benchmark import write_synthetic_log
from tickdrive.leaderboard.tick_table import Labels, TickTable, read_table
from tickdrive.planner.errors import DataError
from tickdrive.planner.tracing import Span, TickTrace

RECORD = TickRecord(
    frame=7,
    sim_s=0.35,
    trace=TickTrace(30.0, (Span("planner", None, 1.0, 20.0), Span("step", "planner", 2.0, 5.0)), 10.0),
    outside_ms=12.5,
    steps=10,
    granularity="step",
    rung="planned",
    reasoning={"CRUISE": 0.75, "FOLLOW": 0.25},
    ego={
        "position_in_world": [1.5, -2.5],
        "yaw_deg": 90.0,
        "speed_mps": 5.0,
        "acceleration_mps2": 0.5,
        "yaw_rate_dps": 0.1,
        "source": "fix",
        "command": "LEFT",
        "remaining_m": 100.0,
    },
    plan=np.arange(12.0).reshape(6, 2),
    control={"throttle": 0.5, "steer": -0.25, "brake": 0.0},
    guarded=True,
    engine="traced",
    predicted_ms=31.0,
    preempted=2,
    latency=LatencyRecord("fixed", 75_000, 5, True, False),
)
ODD = [
    # the first tick, a failed one, one with what no column holds
    dataclasses.replace(RECORD, outside_ms=None, predicted_ms=None, preempted=None, latency=None),
    dataclasses.replace(
        RECORD, ego={"error": "x"}, control={}, plan=None, reasoning=None, rung="failed", engine=""
    ),
    dataclasses.replace(RECORD, plan=np.array([[1.0, np.nan]])),
    dataclasses.replace(RECORD, ego={"speed_mps": float("inf"), "lane": 3}, reasoning={}),
    dataclasses.replace(RECORD, ego={"yaw_deg": 3.0}, control={"steer": 0.1}),
    dataclasses.replace(RECORD, latency=LatencyRecord("measured", None, None, False, True)),
    dataclasses.replace(RECORD, trace=TickTrace(3.0, (), 3.0)),
]


def write(path: Path, records: list[TickRecord]) -> Path:
    log = TickLog(path, {"engine": "traced", "config": {"planner": {"steps": 10}}})
    for record in records:
        log.append(record)
    log.close()
    return path


def assert_same(a: TickTable, b: TickTable) -> None:
    for field in dataclasses.fields(TickTable):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, field.name)
            assert one.dtype == other.dtype
        elif isinstance(one, Labels):
            np.testing.assert_array_equal(one.codes, other.codes)
            assert one.names == other.names
        elif field.name == "stage_ms":
            assert list(one) == list(other)
            for name in one:
                np.testing.assert_array_equal(one[name], other[name], name)
        elif field.name != "path":
            assert one == other, field.name


def test_nothing_is_lost(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD, *ODD, RECORD])
    made = tmp_path / "ticks.parquet"
    assert write_parquet(TickReader(log), made) == 9
    assert list(iter_ticks(made)) == list(iter_ticks(log))
    assert read_log(made).header == read_log(log).header
    assert_same(read_table(log), read_table(made))


def test_only_what_fits_no_column_is_kept_as_text(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD, *ODD])
    write_parquet(TickReader(log), tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    kept = [k for k, text in enumerate(table["raw"].to_pylist()) if text is not None]
    assert kept == [2, 3, 4], "the failed tick's error, the null in the plan, the lane"
    assert table["plan"][0].as_py() == RECORD.plan.tolist()
    assert table["spans"][0].as_py()[1] == {"name": "step", "parent": "planner", "start_ms": 2.0, "ms": 5.0}


def test_the_table_holds_what_the_log_says(tmp_path):
    table = read_table(write(tmp_path / "ticks.jsonl", [RECORD, *ODD]))
    assert table.frame.tolist() == [7] * 8 and table.sim_s[0] == 0.35
    assert [(s.name, s.parent, s.depth) for s in table.stages] == [
        ("planner", None, 0),
        ("step", "planner", 1),
    ]
    assert table.stage_ms["step"][0] == 5.0 and np.isnan(table.stage_ms["step"][7])
    assert table.preempted.tolist() == [2, -1, 2, 2, 2, 2, 2, 2]
    assert table.latency_us.tolist()[:2] == [75_000, -1] and table.observed_frame[0] == 5
    assert [table.latency_mode.names[code] for code in table.latency_mode.codes[:2]] == ["fixed", ""]
    assert table.busy[0] and not table.busy[1] and table.past_horizon[6]
    assert (table.x_m[0], table.y_m[0], table.yaw_deg[0], table.speed_mps[0]) == (1.5, -2.5, 90.0, 5.0)
    assert np.isnan(table.x_m[2]) and np.isnan(table.throttle[2])
    assert (table.throttle[0], table.steer[0], table.brake[0]) == (0.5, -0.25, 0.0)
    assert np.isnan(table.outside_ms[1]) and table.outside_ms[0] == 12.5
    assert table.guarded.all() and table.engine.counts() == {"traced": 7, "": 1}


def test_many_row_groups_are_one_log(tmp_path):
    log, made = tmp_path / "ticks.jsonl", tmp_path / "ticks.parquet"
    write_synthetic_log(log, 700)
    write_parquet(TickReader(log), made, group_ticks=300)
    assert parquet.ParquetFile(made).num_row_groups == 3
    assert_same(read_table(log), read_table(made))


def test_damage_is_read_around_and_goes_along(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD] * 4)
    lines = log.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'"total_ms":30.0', b'"total_ms":"30"')
    log.write_bytes(b"\n".join(lines)[:-30])
    table = read_table(log)
    assert len(table) == 2 and len(table.damage) == 2
    assert "line 3 is no tick" in table.damage[0] and "total_ms" in table.damage[0]
    assert "line 5 is damaged" in table.damage[1]
    assert len(list(iter_ticks(log))) == 2, "both ways of reading leave out the same"
    write_parquet(TickReader(log), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").damage == table.damage


def test_a_log_full_of_damage_is_told_in_few_lines(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD])
    with log.open("ab") as file:
        file.write(b"{broken\n" * 1000)
    table = read_table(log)
    assert len(table) == 1 and len(table.damage) == 21
    assert table.damage[-1] == "980 more lines are left out"


def test_ticks_come_before_the_rest_is_read(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD] * 3)
    with log.open("ab") as file:
        file.write(b"{broken\n")
    reader = TickReader(log)
    ticks = reader.ticks()
    assert next(ticks)["frame"] == 7 and reader.damage == []
    assert len(list(ticks)) == 2 and len(reader.damage) == 1


def test_an_empty_log_goes_to_parquet_and_back(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [])
    assert write_parquet(TickReader(log), tmp_path / "t.parquet") == 0
    assert len(read_table(tmp_path / "t.parquet")) == len(read_table(log)) == 0


def test_a_failed_export_leaves_the_old_file(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD] * 3)
    made = tmp_path / "t.parquet"
    write_parquet(TickReader(log), made)
    before = made.read_bytes()
    reader = TickReader(log)
    log.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        write_parquet(reader, made)
    assert made.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
    with pytest.raises(DataError, match="cannot be written"):
        write_parquet(TickReader(write(log, [RECORD])), tmp_path / "none" / "t.parquet")


@pytest.mark.parametrize("cut", [10, 2000])
def test_a_damaged_parquet_file_is_one_clear_error(tmp_path, cut):
    write_parquet(TickReader(write(tmp_path / "ticks.jsonl", [RECORD] * 50)), tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[:-cut])
    with pytest.raises(DataError, match="damaged"):
        read_table(tmp_path / "t.parquet")


def test_parquet_of_something_else_is_no_tick_log(tmp_path):
    import pyarrow as pa

    parquet.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="not a tick log"):
        read_table(tmp_path / "t.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD])
    arguments = ["tickdrive", "latency", str(log), "--parquet", str(tmp_path / "t.parquet")]
    script = (
        "import sys; sys.modules['pyarrow'] = None; from tickdrive.scripts.cli import main; "
        f"sys.argv = {arguments!r}; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "tickdrive[report]" in done.stderr and "Traceback" not in done.stderr


def test_the_command_writes_and_reads_parquet(tmp_path):
    log = write(tmp_path / "ticks.jsonl", [RECORD] * 20)
    command = [sys.executable, "-m", "tickdrive.scripts.cli", "latency"]
    made, first, second = (tmp_path / name for name in ("t.parquet", "a.json", "b.json"))
    subprocess.run([*command, log, "--parquet", made, "--json", first], check=True, capture_output=True)
    subprocess.run([*command, made, "--json", second], check=True, capture_output=True)
    a, b = (json.loads(path.read_text()) for path in (first, second))
    assert a.pop("log") != b.pop("log") and a == b
