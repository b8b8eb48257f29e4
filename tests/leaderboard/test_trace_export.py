from __future__ import annotations

import gzip
import json
from collections import defaultdict

import pytest
from typer.testing import CliRunner

from tickdrive.leaderboard.log_reading_benchmark import write_synthetic_log
from tickdrive.leaderboard.trace_export import trace_events, write_trace
from tickdrive.planner.errors import DataError
from tickdrive.scripts.cli import app


def tick(total_ms: float, spans: list[tuple[str, str | None, float, float]], **more: object) -> dict:
    named = [{"name": n, "parent": p, "start_ms": s, "ms": ms} for n, p, s, ms in spans]
    return {"type": "tick", "frame": 1, "total_ms": total_ms, "spans": named, "rung": "planned"} | more


def check_format(events: list[dict]) -> None:
    """What the format's documentation asks of each event, and that slices of a thread nest."""
    slices: dict[tuple, list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        assert event["ph"] in "XiCM" and isinstance(event["name"], str) and event["ts"] >= 0
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert event["dur"] >= 0
            start, end = (round(1000 * ns) for ns in (event["ts"], event["ts"] + event["dur"]))
            slices[event["pid"], event["tid"]].append((start, end))
        elif event["ph"] == "i":
            assert event["s"] in ("g", "p", "t")
        elif event["ph"] == "C":
            assert event["args"] and all(isinstance(value, (int, float)) for value in event["args"].values())
        else:
            assert event["name"] in ("process_name", "thread_name", "thread_sort_index")
    for track in slices.values():
        open_ends: list[int] = []
        for start, end in track:
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1], "slices of a thread must nest"
            open_ends.append(end)


def named(events: list[dict], name: str) -> list[dict]:
    return [event for event in events if event["name"] == name]


def test_ticks_spans_and_the_time_between_lie_where_they_were():
    ticks = [
        tick(30.0, [("vl", None, 1.0, 10.0), ("planner", None, 12.0, 15.0), ("step", "planner", 13.0, 5.0)]),
        tick(60.0, [("vl", None, 0.5, 50.0)], outside_ms=20.0, rung="safe_stop", guarded=True),
    ]
    ticks[1]["ego"] = {"speed_mps": 4.5}
    events = list(trace_events(iter(ticks), budget_ms=50.0))
    check_format(events)
    assert [(e["ts"], e["dur"]) for e in named(events, "tick")] == [(0.0, 30_000.0), (50_000.0, 60_000.0)]
    assert [(e["ts"], e["dur"]) for e in named(events, "vl")] == [(1000.0, 10_000.0), (50_500.0, 50_000.0)]
    (outside,), (step,) = named(events, "outside"), named(events, "step")
    assert (outside["ts"], outside["dur"]) == (30_000.0, 20_000.0) and outside["tid"] != step["tid"]
    assert (step["ts"], step["dur"]) == (13_000.0, 5_000.0)
    (miss,), (rung,) = named(events, "miss"), named(events, "safe_stop")
    assert miss["ts"] == 110_000.0 and miss["args"] == {"over_ms": 10.0} and rung["ts"] == 50_000.0
    assert named(events, "guarded") and not named(events, "planned")
    assert [e["args"]["ms"] for e in named(events, "total_ms")] == [30.0, 60.0]
    assert [e["args"]["mps"] for e in named(events, "speed_mps")] == [4.5]
    threads = {e["args"]["name"]: e["tid"] for e in named(events, "thread_name")}
    assert threads == {"agent": step["tid"], "simulator and evaluator": outside["tid"]}


def test_rounded_times_that_pass_their_parents_are_cut_to_it():
    spans = [
        ("planner", None, 1.0, 9.0001),
        ("encode", "planner", 1.0, 4.0001),
        ("denoise", "planner", 5.0, 5.0003),
        ("step", "denoise", 5.0, 5.0005),
        ("control", None, 10.0, 0.5001),
        ("orphan", "gone", 10.4, 9.0),
    ]
    events = list(trace_events(iter([tick(10.5, spans), tick(1.0, [])]), budget_ms=50.0))
    check_format(events)
    assert {e["name"] for e in events if e.get("cat") == "stage"} == {name for name, *_ in spans}


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_the_command_writes_a_whole_json_file(tmp_path, name):
    log = tmp_path / "ticks.jsonl"
    write_synthetic_log(log, 200)
    result = CliRunner().invoke(app, ["latency", str(log), "--trace", str(tmp_path / name)])
    assert result.exit_code == 0, result.output
    raw = (tmp_path / name).read_bytes()
    if name.endswith(".gz"):
        raw = gzip.decompress(raw)
    trace = json.loads(raw)
    assert trace["displayTimeUnit"] == "ms" and trace["otherData"]["engine"] == "synthetic"
    check_format(trace["traceEvents"])
    assert len(named(trace["traceEvents"], "tick")) == 200
    assert len(named(trace["traceEvents"], "step")) == 2000
    assert f"{len(trace['traceEvents'])} events" in result.output


def test_a_trace_of_no_ticks_is_json_too(tmp_path):
    (tmp_path / "ticks.jsonl").write_text('{"type":"header","schema":2}\n')
    write_trace(tmp_path, tmp_path / "t.json", 50.0)
    check_format(json.loads((tmp_path / "t.json").read_text())["traceEvents"])


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    write_synthetic_log(tmp_path / "ticks.jsonl", 3)
    with pytest.raises(DataError, match="cannot be written"):
        write_trace(tmp_path, tmp_path / "none" / "t.json", 50.0)
