from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from tickdrive.agents.tick_log import iter_ticks
from tickdrive.leaderboard.log_reading_benchmark import write_synthetic_log
from tickdrive.leaderboard.rerun_export import write_rerun
from tickdrive.planner.errors import DataError

chunk = pytest.importorskip("rerun.chunk")


def read_back(path: Path) -> dict[str, list]:
    """Entity -> the values of its rows, by the component's column, in order."""
    rows: dict[str, list] = defaultdict(list)
    for piece in chunk.RrdReader(path).stream():
        batch = piece.to_record_batch()
        for name in batch.schema.names:
            rows[f"{piece.entity_path}|{name}"] += batch[name].to_pylist()
    return rows


def test_the_recording_holds_what_the_log_says(tmp_path):
    log = tmp_path / "ticks.jsonl"
    write_synthetic_log(log, 50)
    lines = log.read_text().splitlines()
    odd = json.loads(lines[11]) | {"plan": None, "rung": "safe_stop"}
    log.write_text("\n".join([*lines[:11], json.dumps(odd), *lines[12:]]) + "\n")
    (tmp_path / "frames").mkdir()
    for frame in (20, 45, 99_999):
        cv2.imwrite(str(tmp_path / "frames" / f"{frame}.jpg"), np.full((8, 16, 3), 128, np.uint8))
    points = np.array([[100, -250, 30], [2000, 400, -10]], np.int16)
    np.savez_compressed(tmp_path / "frames" / "20.lidar.npz", points_in_ego=points)
    recorded = write_rerun(tmp_path, tmp_path / "drive.rrd", budget_ms=30.0)
    assert (recorded.ticks, recorded.plans, recorded.images, recorded.lidars) == (50, 49, 2, 1)
    rows = read_back(tmp_path / "drive.rrd")
    ticks = list(iter_ticks(log))

    def values(entity: str, component: str) -> list:
        (key,) = [key for key in rows if key.startswith(f"/{entity}|") and key.endswith(component)]
        return rows[key]

    totals = [value[0] for value in values("latency/total", "Scalars:scalars")]
    assert totals == pytest.approx([tick["total_ms"] for tick in ticks])
    assert rows["/latency/total|tick"] == list(range(50))
    steps = [value[0] for value in values("latency/step", "Scalars:scalars")]
    assert steps[0] == pytest.approx(sum(s["ms"] for s in ticks[0]["spans"] if s["name"] == "step"), abs=1e-3)
    plans = values("map/plan", "LineStrips2D:strips")
    assert [len(plan) for plan in plans] == [int(tick["plan"] is not None) for tick in ticks]
    ego = ticks[0]["ego"]
    yaw = np.radians(ego["yaw_deg"])
    x, y = np.array(ticks[0]["plan"][-1])
    ahead = np.array([x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw)])
    assert plans[0][0][0] == pytest.approx(ego["position_in_world"], abs=1e-3)
    assert plans[0][0][-1] == pytest.approx(np.array(ego["position_in_world"]) + ahead, abs=1e-3)
    assert rows["/camera|tick"] == [0, 25]
    assert [at.total_seconds() for at in rows["/camera|sim"]] == [0.0, 1.25]
    blob = values("camera", "EncodedImage:blob")[0][0]
    assert bytes(blob) == (tmp_path / "frames" / "20.jpg").read_bytes()
    (shown,) = values("lidar", "Points3D:positions")
    assert shown == [pytest.approx(p, abs=1e-4) for p in ([1.0, 2.5, 0.3], [20.0, -4.0, -0.1])]
    assert any("safe_stop" in text[0] for text in values("events", "TextLog:text"))
    assert len(values("map/driven", "Points2D:positions")[0]) == 50


def test_the_command_says_what_is_in_it(tmp_path):
    write_synthetic_log(tmp_path / "ticks.jsonl", 10)
    command = [sys.executable, "-m", "tickdrive.scripts.cli", "rerun", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "10 ticks, 10 plans, no camera frames" in done.stdout and "no LiDAR" in done.stdout
    assert (tmp_path / "drive.rrd").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive.rrd", "ticks.jsonl"]


def test_no_ticks_and_no_place_are_errors(tmp_path):
    (tmp_path / "ticks.jsonl").write_text('{"type":"header","schema":2}\n')
    with pytest.raises(DataError, match="no ticks"):
        write_rerun(tmp_path, tmp_path / "drive.rrd", 50.0)
    write_synthetic_log(tmp_path / "ticks.jsonl", 2)
    with pytest.raises(DataError, match="cannot be written"):
        write_rerun(tmp_path, tmp_path / "none" / "drive.rrd", 50.0)


def test_without_rerun_the_extra_is_named(tmp_path):
    write_synthetic_log(tmp_path / "ticks.jsonl", 2)
    script = (
        "import sys; sys.modules['rerun'] = None; from tickdrive.scripts.cli import main; "
        f"sys.argv = ['tickdrive', 'rerun', {str(tmp_path)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "tickdrive[rerun]" in done.stderr and "Traceback" not in done.stderr
