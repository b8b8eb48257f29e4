"""A sweep's plan, its manifest, and table and pictures from results."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from rich.console import Console

from tickdrive.agents.config import AgentConfig, LatencyConfig, PlannerConfig
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.sweep.drive_result import DRIVE_NAME, DriveResult
from tickdrive.leaderboard.sweep.plan import (
    MANIFEST_NAME,
    Manifest,
    SweepDrive,
    SweepPoint,
    open_sweep,
    sweep_drives,
    sweep_points,
)
from tickdrive.leaderboard.sweep.plot import plot_sweep
from tickdrive.leaderboard.sweep.summary import Sweep, summarize_sweep, sweep_notes, sweep_tables
from tickdrive.planner.errors import ConfigError, DataError

ROUTES = (
    Route("a", "TickTown01", ((0.0, 0.0, 0.0), (50.0, 0.0, 0.0))),
    Route("b", "TickTown02", ((0.0, 0.0, 0.0), (50.0, 0.0, 0.0))),
)


def result(drive: SweepDrive, **values: object) -> DriveResult:
    late = drive.point.latency_ms / 2000.0 * (0.5 if drive.point.compensation else 1.0)
    defaults: dict[str, object] = {
        "status": "Completed",
        "score": 90.0 - 60.0 * late + drive.seed,
        "completion": 100.0,
        "success": late < 0.4,
        "infractions": {"collisions_vehicle": 1, "min_speed_infractions": 2} if late > 0.2 else {},
        "driven_km": 0.25,
        "game_s": 50.0,
        "wall_s": 60.0,
        "ticks": 1000,
        "past_horizon": 100 if late > 0.4 else 0,
        "commit": "abc",
    }
    point = drive.point
    identity = (point.latency_ms, point.compensation, drive.route_id, drive.seed)
    return DriveResult(*identity, **{**defaults, **values})  # type: ignore[arg-type]


def made(latencies: tuple[float, ...] = (0.0, 30.0, 200.0, 2000.0)) -> list[SweepDrive]:
    return list(sweep_drives(sweep_points(latencies, "both"), ["a", "b"], [0, 1]))


def sweep_of(drives: list[SweepDrive], results: dict[SweepDrive, DriveResult]) -> Sweep:
    manifest = Manifest.make(AgentConfig(), EvaluationConfig(), ROUTES)
    return summarize_sweep(manifest, drives, results, {drives[-1]: "the simulator failed"})


def printed(sweep: Sweep, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in (*sweep_tables(sweep), *sweep_notes(sweep)):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


# -- plan ------------------------------------------------------------------------------------------------


def test_compensation_is_tried_on_and_off_from_200_ms():
    points = sweep_points((0, 30, 75, 200, 500, 1000, 2000), "both")
    assert len(points) == 11
    assert [p.latency_ms for p in points if not p.compensation] == [200, 500, 1000, 2000]
    assert len(list(sweep_drives(points, ["a", "b", "c"], [0, 1, 2]))) == 99
    assert not any(p.compensation for p in sweep_points((0, 30, 200), "off"))


def test_every_drive_has_a_folder_of_its_own():
    drives = made()
    assert len({drive.folder for drive in drives}) == len(drives)


@pytest.mark.parametrize("latencies", [(), (0, 0), (-1,), (70_000,)])
def test_latencies_that_cannot_be_driven_are_refused(latencies):
    with pytest.raises(ConfigError):
        sweep_points(latencies, "both")


def test_a_point_sets_the_latency_model():
    base = LatencyConfig(rounding="subtick", busy="hold")
    late = SweepPoint(200.0, False).latency(base)
    assert (late.mode, late.ms, late.compensation) == ("fixed", 200.0, False)
    assert (late.rounding, late.busy) == ("subtick", "hold")
    assert SweepPoint(0.0, True).latency(late).mode == "off"


# -- manifest --------------------------------------------------------------------------------------------


def test_a_sweep_goes_on_with_the_same_configuration_and_further_routes(tmp_path):
    first = Manifest.make(AgentConfig(), EvaluationConfig(), ROUTES[:1])
    open_sweep(tmp_path, first)
    again, other_commit = open_sweep(tmp_path, Manifest.make(AgentConfig(), EvaluationConfig(seed=3), ROUTES))
    assert set(again.routes) == {"a", "b"} and not other_commit
    assert again.agent_hash == first.agent_hash and len(again.checkpoint) == 64


def test_another_configuration_is_an_error_that_says_what_differs(tmp_path):
    open_sweep(tmp_path, Manifest.make(AgentConfig(), EvaluationConfig(), ROUTES))
    agent = AgentConfig(planner=PlannerConfig(steps=5), latency=LatencyConfig(rounding="subtick"))
    moved = replace(ROUTES[0], keypoints_in_world=((0.0, 0.0, 0.0), (60.0, 0.0, 0.0)))
    other = Manifest.make(agent, EvaluationConfig(blocked_s=30.0), (moved,))
    other = replace(other, checkpoint="f" * 64)
    with pytest.raises(DataError) as caught:
        open_sweep(tmp_path, other)
    for part in (
        "planner.steps was 10, now it is 5",
        "latency.rounding was quantised, now it is subtick",
        "evaluation.blocked_s was None, now it is 30.0",
        "the checkpoint was",
        "the route a was another one",
    ):
        assert part in caught.value.what


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("{")
    with pytest.raises(DataError, match=MANIFEST_NAME):
        open_sweep(tmp_path, Manifest.make(AgentConfig(), EvaluationConfig(), ROUTES))


# -- results ---------------------------------------------------------------------------------------------


def test_a_result_reads_back_and_belongs_to_its_drive(tmp_path):
    one, other = made()[:2]
    assert DriveResult.read(tmp_path, one) is None
    written = result(one, infractions={"collisions_vehicle": 2, "collisions_layout": 1, "red_light": 1})
    written.write(tmp_path)
    assert DriveResult.read(tmp_path, one) == written and written.collisions == 3
    with pytest.raises(DataError, match="another drive"):
        DriveResult.read(tmp_path, other)
    (tmp_path / DRIVE_NAME).write_text('{"schema": 1, "sco')
    with pytest.raises(DataError, match=DRIVE_NAME):
        DriveResult.read(tmp_path, one)


def test_rows_say_what_the_drives_say():
    drives = made()
    sweep = sweep_of(drives, {drive: result(drive) for drive in drives})
    rows = {(row.point.latency_ms, row.point.compensation): row for row in sweep.rows}
    assert len(rows) == 6 and sweep.missing == {}
    zero, worst = rows[0.0, True], rows[2000.0, False]
    assert zero.score.value == 90.5 and zero.score_change is None and zero.success.value == 1.0
    assert worst.score_change is not None
    # paired: what seeds differ by is not in the interval
    assert (worst.score_change.value, worst.score_change.low) == (-60.0, -60.0)
    assert worst.collisions_per_km is not None and worst.collisions_per_km.value == 4.0
    assert worst.collisions_per_drive.value == 1.0 and worst.past_horizon == 0.1
    assert rows[2000.0, True].score.value == 60.5


def test_blocked_drives_and_missing_ones_are_counted():
    drives = made()
    results = {drive: result(drive) for drive in drives[:-2]}
    results[drives[0]] = result(drives[0], status="Failed - Agent got blocked", commit="def")
    sweep = sweep_of(drives, results)
    assert sweep.rows[0].blocked == 1
    assert sweep.missing == {drives[-2]: "not driven yet", drives[-1]: "the simulator failed"}
    text = printed(sweep)
    assert "1 of 2" not in text.splitlines()[0] and "2 of 24 drives are missing" in text
    assert "3 of 4" in text and "different commits: abc, def" in text


def test_the_tables_fit_80_columns_whole():
    drives = made((0.0, 30.0, 75.0, 200.0, 500.0, 1000.0, 2000.0))
    text = printed(sweep_of(drives, {drive: result(drive, score=100.0 * drive.seed) for drive in drives}))
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    for word in ("ms", "comp.", "score", "success %", "coll./km", "past plan %", "blocked"):
        assert word in text


def test_the_machine_form_has_all_of_it():
    drives = made()
    content = json.loads(json.dumps(sweep_of(drives, {d: result(d) for d in drives[:-1]}).to_json()))
    assert content["schema"] == 1 and len(content["rows"]) == 6 and len(content["drives"]) == 23
    assert content["missing"][0]["why"] == "the simulator failed"
    assert content["rows"][-1]["latency_ms"] == 2000.0 and content["rows"][-1]["compensation"] is False
    assert set(content["rows"][0]["score"]) == {"value", "low", "high"}


# -- picture ---------------------------------------------------------------------------------------------


def test_the_pictures_show_both_lines_and_the_known_latencies(tmp_path: Path):
    drives = made()
    png, svg = plot_sweep(sweep_of(drives, {drive: result(drive) for drive in drives}), tmp_path)
    image = cv2.imread(str(png))
    assert image.shape[1] > 1500 and (image[0, 0] == 255).all()
    for colour_rgb in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        near = np.abs(image[..., ::-1].astype(int) - colour_rgb).max(axis=-1) < 12
        assert near.sum() > 500
    text = svg.read_text()
    ElementTree.fromstring(text)
    for words in (
        "<!-- Driving score -->",
        "<!-- Success, % of drives -->",
        "<!-- 50 ms -->",
        "<!-- 198 ms -->",
    ):
        assert words in text
    for words in ("<!-- latency compensated -->", "<!-- not compensated (tried from 200 ms) -->"):
        assert words in text


@pytest.mark.parametrize("latencies", [(0.0,), (200.0,), (0.0, 30.0)])
def test_a_small_sweep_has_a_picture_too(tmp_path: Path, latencies):
    drives = made(latencies)[:1]
    png, _ = plot_sweep(sweep_of(drives, {drive: result(drive) for drive in drives}), tmp_path)
    assert cv2.imread(str(png)) is not None
