from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tickdrive.agents.tick_log import TickLog, TickRecord, read_log
from tickdrive.planner.errors import DataError
from tickdrive.planner.tracing import Span, TickTrace


def record(frame: int, total_ms: float = 30.0) -> TickRecord:
    return TickRecord(
        frame=frame,
        sim_s=frame * 0.05,
        trace=TickTrace(
            total_ms=total_ms,
            spans=(Span("planner", None, 1.0, 20.0), Span("encode", "planner", 1.0, 5.0)),
            other_ms=total_ms - 20.0,
        ),
        outside_ms=12.5,
        steps=10,
        granularity="plan",
        rung="planned",
        reasoning={"CRUISE": np.float32(0.75)},
        ego={"position_in_world": np.array([1.0, 2.0]), "yaw_deg": 90.0, "speed_mps": np.float64(5.0)},
        plan=np.zeros((6, 2), np.float32),
        control={"throttle": 0.5, "steer": 0.0, "brake": 0.0},
    )


def test_what_is_written_is_read_back(tmp_path):
    log = TickLog(tmp_path / "run" / "ticks.jsonl", {"engine": "hoisted", "commit": "abc"})
    for frame in (5, 6):
        log.append(record(frame))
    log.close()
    loaded = read_log(tmp_path / "run")
    assert (loaded.header["schema"], loaded.header["engine"]) == (2, "hoisted")
    assert [t["frame"] for t in loaded.ticks] == [5, 6]
    tick = loaded.ticks[0]
    assert tick["spans"][1] == {"name": "encode", "parent": "planner", "start_ms": 1.0, "ms": 5.0}
    assert tick["ego"]["position_in_world"] == [1.0, 2.0]
    assert tick["reasoning"] == {"CRUISE": 0.75}
    assert loaded.damage == ()


@pytest.mark.parametrize("cut", [1, 17, 200])
def test_a_truncated_tail_costs_the_last_tick_only_and_is_told(tmp_path, cut):
    path = tmp_path / "ticks.jsonl"
    log = TickLog(path, {})
    for frame in range(4):
        log.append(record(frame))
    log.close()
    path.write_bytes(path.read_bytes()[: -cut - 1])
    loaded = read_log(path)
    assert [t["frame"] for t in loaded.ticks] == [0, 1, 2]
    assert len(loaded.damage) == 1 and "line 5" in loaded.damage[0]


def test_damage_in_the_middle_leaves_the_rest_readable(tmp_path):
    path = tmp_path / "ticks.jsonl"
    log = TickLog(path, {})
    for frame in range(3):
        log.append(record(frame))
    log.close()
    lines = path.read_bytes().split(b"\n")
    lines[2] = b"\xff\x00garbage"
    path.write_bytes(b"\n".join(lines))
    loaded = read_log(path)
    assert [t["frame"] for t in loaded.ticks] == [0, 2]
    assert "line 3" in loaded.damage[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no header"),
        ('{"type": "tick"}\n', "no header"),
        ('{"type": "header", "schema": 99}\n', "schema 99"),
    ],
)
def test_what_is_no_log_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "ticks.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_log(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "none.jsonl")


def test_a_killed_writer_loses_at_most_the_tick_in_flight(tmp_path):
    path = tmp_path / "ticks.jsonl"
    script = textwrap.dedent(
        f"""
        import sys
        from tickdrive.agents.tick_log import TickLog, TickRecord
        from tickdrive.planner.tracing import TickTrace
        trace = TickTrace(1.0, (), 1.0)
        log = TickLog({str(path)!r}, {{}})
        for frame in range(100000):
            log.append(TickRecord(frame, 0.0, trace, None, 0, "plan", "planned", None, {{}}, None, {{}}))
            print(frame, flush=True)
        """
    )
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 50:
            os.kill(writer.pid, signal.SIGKILL)
            break
    told = [int(x) for x in writer.stdout.read().split()]
    writer.wait()
    frames = [t["frame"] for t in read_log(path).ticks]
    assert frames == list(range(len(frames)))
    assert frames[-1] >= max([50, *told])


def test_a_full_disk_is_counted_and_does_not_end_the_drive(tmp_path, caplog):
    if not hasattr(resource, "RLIMIT_FSIZE"):
        pytest.skip("no file size limit on this system")
    path = tmp_path / "ticks.jsonl"
    script = textwrap.dedent(
        f"""
        import resource, signal
        from tickdrive.agents.tick_log import TickLog, TickRecord
        from tickdrive.planner.tracing import TickTrace
        trace = TickTrace(1.0, (), 1.0)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = TickLog({str(path)!r}, {{}})
        def append(frame):
            log.append(TickRecord(frame, 0.0, trace, None, 0, "plan", "planned", None, {{}}, None, {{}}))
        append(0)
        size = __import__("os").path.getsize({str(path)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, resource.RLIM_INFINITY))
        append(1); append(2)
        lost = log.lost_ticks
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        append(3)
        print(lost, log.lost_ticks)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2"]
    assert "ticks are lost" in done.stderr
    loaded = read_log(path)
    assert [t["frame"] for t in loaded.ticks] == [0, 3]
    assert len(loaded.damage) == 1


def test_an_unwritable_place_is_an_error_that_names_the_key(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match=r"tick_log\.dir"):
        TickLog(blocker / "ticks.jsonl", {})


def test_every_line_is_json_with_the_documented_keys(tmp_path):
    path = tmp_path / "ticks.jsonl"
    log = TickLog(path, {"engine": "x"})
    log.append(record(1))
    log.close()
    header, tick = (json.loads(line) for line in path.read_text().splitlines())
    assert header["type"] == "header"
    stated = "type frame sim_s total_ms spans other_ms outside_ms steps granularity rung guarded"
    stated += " engine predicted_ms preempted latency reasoning ego plan control"
    assert list(tick) == stated.split()


def test_what_is_not_finite_is_written_as_null(tmp_path):
    path = tmp_path / "ticks.jsonl"
    log = TickLog(path, {})
    odd = record(1)
    log.append(dataclasses.replace(odd, plan=np.array([[1.0, np.nan]]), ego={"speed_mps": np.float32("inf")}))
    log.close()
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    (tick,) = read_log(path).ticks
    assert tick["plan"] == [[1.0, None]] and tick["ego"] == {"speed_mps": None} and tick["frame"] == 1
