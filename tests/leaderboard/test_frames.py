"""Camera pictures for the report: which are kept, and that keeping them never holds up a drive."""

from __future__ import annotations

import logging
import shutil
import threading
from types import SimpleNamespace

import carla
import cv2
import numpy as np
import pytest

from tickdrive.leaderboard import frames
from tickdrive.leaderboard.frames import FrameKeeper, FrameWriter
from tickdrive.leaderboard.route_map import lanes_near, thin
from tickdrive.leaderboard.simulator.towns.catalogue import read_town

IMAGE = np.full((64, 128, 3), (200, 120, 40), np.uint8)


def names(folder) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.jpg"))


def tick(frame: int, total_ms: float = 30.0, events=(), image=IMAGE):
    output = SimpleNamespace(frame=frame, image=image, trace=SimpleNamespace(total_ms=total_ms))
    return SimpleNamespace(sim_s=frame * 0.05, events=events, agent=SimpleNamespace(last=output))


def start(agent=None):
    return SimpleNamespace(route_id="RouteScenario_7_rep0", agent=agent or SimpleNamespace(last=None))


def drive(keeper: FrameKeeper, ticks) -> None:
    keeper.on_route_start(start())
    for one in ticks:
        keeper.on_tick(one)
    keeper.on_route_end("RouteScenario_7_rep0", None)


def test_two_a_second_and_every_miss_and_infraction_are_kept(tmp_path):
    ticks = [tick(frame) for frame in range(1, 61)]
    ticks[13] = tick(14, total_ms=50.1)
    ticks[14] = tick(15, total_ms=50.0)
    ticks[36] = tick(37, events=("red light",))
    drive(FrameKeeper(tmp_path, budget_ms=50.0), ticks)
    assert names(tmp_path / "frames") == [1, 11, 14, 21, 31, 37, 41, 51]
    picture = cv2.imread(str(tmp_path / "frames" / "14.jpg"))
    assert picture.shape == IMAGE.shape and np.abs(picture.astype(int) - IMAGE).max() < 12


def test_the_lidars_points_are_kept_beside_the_picture(tmp_path):
    one = tick(3)
    points = np.random.default_rng(0).uniform(-60.0, 60.0, (400, 3)).astype(np.float32)
    one.agent.last.points_in_ego = points
    drive(FrameKeeper(tmp_path, budget_ms=50.0), [one])
    with np.load(tmp_path / "frames" / "3.lidar.npz", allow_pickle=False) as kept:
        assert np.abs(kept["points_in_ego"] * frames.LIDAR_UNIT_M - points[::4]).max() <= 0.0051
    drive(FrameKeeper(tmp_path, budget_ms=50.0), [tick(5)])  # a later drive's folder begins empty
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["5.jpg"]


def test_each_route_of_an_evaluation_has_its_own_folder_and_starts_empty(tmp_path):
    keeper = FrameKeeper(tmp_path, budget_ms=50.0, by_route=True)
    drive(keeper, [tick(frame) for frame in range(1, 30)])
    drive(keeper, [tick(frame) for frame in range(5, 8)])
    assert names(tmp_path / "frames" / "RouteScenario_7_rep0") == [5]


def test_ticks_and_agents_without_a_picture_leave_none(tmp_path):
    drive(FrameKeeper(tmp_path, budget_ms=50.0), [tick(1, image=None)])
    assert names(tmp_path / "frames") == []
    keeper = FrameKeeper(tmp_path / "expert", budget_ms=50.0)
    keeper.on_route_start(start(agent=object()))
    keeper.on_tick(SimpleNamespace(sim_s=0.0, events=("collision",), agent=object()))
    keeper.on_route_end("RouteScenario_7_rep0", None)
    assert not (tmp_path / "expert").exists()


def test_a_slow_disk_costs_pictures_and_never_a_tick(tmp_path, monkeypatch, caplog):
    """The writer stands still: `add` must return all the same, and say at the end what is missing."""
    released = threading.Event()
    encode = cv2.imencode

    def slow(*arguments):
        assert released.wait(60)
        return encode(*arguments)

    monkeypatch.setattr(frames.cv2, "imencode", slow)
    writer = FrameWriter(tmp_path)
    for frame in range(200):
        writer.add(frame, IMAGE)
    assert writer.dropped >= 200 - frames._QUEUE_LENGTH - 1
    released.set()
    with caplog.at_level(logging.WARNING):
        writer.close()
    assert writer.written + writer.dropped == 200 and len(names(tmp_path)) == writer.written
    assert f"{writer.dropped} camera pictures were dropped" in caplog.text


def test_a_disk_that_gives_out_ends_it_with_one_warning(tmp_path, caplog):
    writer = FrameWriter(tmp_path / "frames")
    shutil.rmtree(tmp_path / "frames")
    with caplog.at_level(logging.WARNING):
        for frame in range(20):
            writer.add(frame, IMAGE)
        writer.close()
        writer.close()
    assert (writer.written, writer.dropped) == (0, 20)
    assert caplog.text.count("no more camera pictures") == 1 and len(caplog.records) == 1


def test_a_folder_that_cannot_be_made_costs_the_pictures_only(tmp_path, caplog):
    (tmp_path / "frames").write_text("a file")
    drive(FrameKeeper(tmp_path, budget_ms=50.0), [tick(1)])
    assert "no camera pictures are kept" in caplog.text


def test_thinned_lines_stay_within_the_tolerance():
    angle = np.linspace(0, np.pi, 400)
    arc = 30.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    kept = thin(arc, 0.1)
    assert 5 < len(kept) < 60 and (kept[0] == arc[0]).all() and (kept[-1] == arc[-1]).all()
    middles = (kept[1:] + kept[:-1]) / 2
    assert (30.0 - np.hypot(middles[:, 0], middles[:, 1])).max() < 0.11
    loop = np.array([[0.0, 0.0], [5.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    assert len(thin(loop)) == 4


def test_the_lanes_around_a_route_are_those_of_the_town():
    town = carla.Map("TickTown02", read_town("TickTown02"))
    first = town.generate_waypoints(20.0)[0]
    route = np.array([[w.transform.location.x, w.transform.location.y] for w in (first, first.next(10.0)[0])])
    lanes = lanes_near(town, route)
    assert len(lanes) > 3
    for lane in lanes:
        x, y = lane["points"][len(lane["points"]) // 2]
        waypoint = town.get_waypoint(carla.Location(x, y, 0.0))
        away = np.hypot(waypoint.transform.location.x - x, waypoint.transform.location.y - y)
        assert away < 0.3 and lane["width_m"] == pytest.approx(waypoint.lane_width, abs=1.5)
