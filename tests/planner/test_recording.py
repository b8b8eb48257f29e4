import json

import numpy as np
import pytest

from tickdrive.planner.errors import DataError
from tickdrive.planner.recording import (
    RecordedSample,
    Recording,
    RecordingMeta,
    RecordingWriter,
    find_recordings,
    shrink_semantic,
)

META = RecordingMeta(town="Small", route_id="1", seed=3, split="train", decisions=("CRUISE", "FOLLOW"))


def sample(index=0, **changes):
    rng = np.random.default_rng(index)
    values = {
        "frame": index,
        "sim_s": index * 0.25,
        "image": np.full((64, 128, 3), (200, 100, 20), np.uint8),
        "lidar_bev": rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8),
        "ego_status": rng.normal(size=(4, 22)).astype(np.float32),
        "waypoints_in_ego": rng.normal(size=(6, 2)).astype(np.float32),
        "decision": "FOLLOW",
        "light_state": "red",
        "lead_distance_m": 7.5,
        "semantic": rng.integers(0, 28, (32, 64), dtype=np.uint8),
    }
    return RecordedSample(**{**values, **changes})


def write(folder, count=3, meta=META):
    samples = [sample(i) for i in range(count)]
    with RecordingWriter(folder, meta) as writer:
        for item in samples:
            writer.append(item)
    return samples


def test_round_trip(tmp_path):
    samples = write(tmp_path / "a")
    recording = Recording.open(tmp_path / "a")
    assert recording.meta == META and not recording.messages and len(recording.lines) == 3
    for line, item in zip(recording.lines, samples, strict=True):
        np.testing.assert_array_equal(recording.lidar_bev(line), item.lidar_bev)
        np.testing.assert_array_equal(recording.semantic(line), item.semantic)
        np.testing.assert_allclose(
            recording.image(line)[10, 10], (200, 100, 20), atol=4
        )  # RGB kept through JPEG
        np.testing.assert_allclose(line.ego_status, item.ego_status, atol=1e-5)
        np.testing.assert_allclose(line.waypoints_in_ego, item.waypoints_in_ego, atol=1e-5)
        assert (line.decision, line.light_state, line.lead_distance_m) == ("FOLLOW", "red", 7.5)


def test_a_drive_cut_short_is_read_to_its_last_whole_sample(tmp_path):
    write(tmp_path / "a")
    path = tmp_path / "a" / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    recording = Recording.open(tmp_path / "a")
    assert len(recording.lines) == 2 and "cut short" in recording.messages[0]
    (tmp_path / "a" / "bev" / "000001.png").unlink()
    recording = Recording.open(tmp_path / "a")
    assert len(recording.lines) == 1 and len(recording.messages) == 2


def test_damage_before_the_end_is_an_error(tmp_path):
    write(tmp_path / "a")
    path = tmp_path / "a" / "samples.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text(rows[0] + "{oops\n" + rows[2])
    with pytest.raises(DataError, match="line 2"):
        Recording.open(tmp_path / "a")


def test_a_sample_that_could_not_be_learnt_from_is_refused(tmp_path):
    with RecordingWriter(tmp_path / "a", META) as writer:
        with pytest.raises(DataError, match="Did you mean 'CRUISE'"):
            writer.append(sample(decision="CRUSE"))
        with pytest.raises(DataError, match="light state"):
            writer.append(sample(light_state="blue"))
        with pytest.raises(DataError, match="not finite"):
            writer.append(sample(waypoints_in_ego=np.full((6, 2), np.nan)))
        with pytest.raises(DataError, match="image"):
            writer.append(sample(image=np.zeros((4, 4), np.uint8)))
    assert not Recording.open(tmp_path / "a").lines


def test_wrong_folders_and_schemas(tmp_path):
    with pytest.raises(DataError, match="no recording"):
        find_recordings([tmp_path])
    write(tmp_path / "a")
    with pytest.raises(DataError, match="already"):
        RecordingWriter(tmp_path / "a", META)
    assert [item.folder.name for item in find_recordings([tmp_path, tmp_path / "a"])] == ["a"]
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    (tmp_path / "a" / "meta.json").write_text(json.dumps({**meta, "schema": 9}))
    with pytest.raises(DataError, match="schema 9"):
        Recording.open(tmp_path / "a")
    with pytest.raises(DataError, match="split"):
        RecordingMeta(town="Small", route_id="1", seed=3, split="test", decisions=())


def test_shrinking_keeps_a_distant_light():
    tags = np.full((256, 512), 11, np.uint8)
    tags[17:20, 33] = 7  # one pixel wide, three high
    tags[100:108, 80:88] = 1
    small = shrink_semantic(tags)
    assert small.shape == (32, 64) and small[2, 4] == 7
    assert np.count_nonzero(small == 7) == 1 and small[0, 0] == 11
    with pytest.raises(DataError):
        shrink_semantic(np.zeros((100, 100), np.uint8))
