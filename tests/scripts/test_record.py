"""`tickdrive record` with the real client: the expert drives, and what it writes can be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tickdrive.planner.errors import ConfigError
from tickdrive.planner.recording import Recording
from tickdrive.scripts.record import RecordOptions, parse_seeds, run


@pytest.fixture(scope="module")
def drive(short_route: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recordings")
    run(RecordOptions(routes=(short_route,), out=out, vehicles=2, walkers=2))
    return out / "TickTown02_short_seed0"


def test_a_drive_is_recorded_with_what_training_needs(drive):
    recording = Recording.open(drive)
    assert (drive / "done").read_text().startswith(("Perfect", "Completed"))
    assert recording.meta.split == "val_town" and recording.meta.town == "TickTown02"
    assert len(recording.lines) > 15 and recording.messages == ()
    line = recording.lines[-1]
    assert recording.image(line).shape == (256, 512, 3)
    assert recording.lidar_bev(line).shape == (4, 3, 128, 128)
    assert recording.lidar_bev(line)[-1].max() > 0
    semantic = recording.semantic(line)
    assert semantic is not None and 1 in semantic, "no road in sight"
    assert np.array(line.ego_status).shape == (4, 22)


def test_the_plan_that_is_recorded_is_where_the_ego_goes(drive):
    """The label of an undisturbed sample is about where the ego is half a second later."""
    lines = [line for line in Recording.open(drive).lines if not line.perturbed]
    errors = []
    for now, later in zip(lines, lines[2:], strict=False):
        if abs(later.sim_s - now.sim_s - 0.5) > 0.01 or now.speed_mps < 3.0:
            continue
        x, y, yaw = now.ego_pose
        offset = np.array(later.ego_pose[:2]) - (x, y)
        forward = np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw))])
        seen = np.array([offset @ forward, offset @ np.array([-forward[1], forward[0]])])
        errors.append(np.hypot(*(seen - now.waypoints_in_ego[0])))
    assert len(errors) > 5 and np.median(errors) < 0.5


def test_a_recorded_drive_is_not_recorded_again(drive, short_route):
    before = (drive / "samples.jsonl").stat().st_mtime_ns
    run(RecordOptions(routes=(short_route,), out=drive.parent, vehicles=2, walkers=2))
    assert (drive / "samples.jsonl").stat().st_mtime_ns == before


def test_seeds_are_read_in_every_form():
    assert parse_seeds("3") == (3,)
    assert parse_seeds("0,4") == (0, 4)
    assert parse_seeds("1-3,7") == (1, 2, 3, 7)
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds("a-b")
