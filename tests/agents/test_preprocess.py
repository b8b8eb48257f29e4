import math
import time

import numpy as np
import pytest

from tickdrive.agents.preprocess import (
    BevConfig,
    LidarBev,
    PreprocessConfig,
    Preprocessor,
    image_for_network,
    rasterize,
    to_present_ego,
)
from tickdrive.agents.types import EgoState
from tickdrive.planner.errors import ConfigError, SensorError


def points(*rows):
    return np.array(rows, np.float32)


def ego(sim_s=0.0, x=0.0, y=0.0, yaw=0.0):
    return EgoState(round(sim_s * 20), sim_s, np.array([x, y]), yaw, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("point", "cell"),
    [
        ((10.1, 0.1, 1.0), (1, 75, 64)),  # obstacle ahead, a touch to the right
        ((10.1, -0.1, 1.0), (1, 75, 63)),  # ... to the left
        ((47.9, -31.9, 0.0), (0, 0, 0)),  # far left corner of the ground channel
        ((-15.9, 31.9, 3.0), (2, 127, 127)),  # rear right, high
    ],
)
def test_a_point_lands_in_its_cell(point, cell):
    raster = rasterize(np.array([[*point, 0.5]], np.float32))
    assert raster.shape == (3, 128, 128) and raster.dtype == np.uint8
    assert np.argwhere(raster).tolist() == [list(cell)]
    assert raster[cell] == 16


def test_what_is_outside_or_the_ego_or_not_a_number_is_dropped():
    points = np.array(
        [
            [48.1, 0, 1],
            [-16.1, 0, 1],
            [10, 32.1, 1],
            [10, 0, 8.1],
            [10, 0, -0.6],
            [1.0, 0.5, 1.4],
            [np.nan, 0, 1],
        ]
    )
    assert not rasterize(points.astype(np.float32)).any()
    assert not rasterize(np.empty((0, 4), np.float32)).any()


def test_counts_saturate():
    raster = rasterize(np.tile(np.array([[10.1, 0.1, 1.0]], np.float32), (100, 1)))
    assert raster.max() == 255


def test_points_of_the_standing_world_move_against_the_ego():
    past, present = ego(0.0, x=5.0, y=-3.0, yaw=30.0), ego(0.05, x=6.0, y=-2.5, yaw=75.0)
    world = np.array([20.0, 10.0])

    def seen_from(state):
        delta, yaw = world - state.position_in_world, math.radians(state.yaw_deg)
        return np.array(
            [
                delta[0] * math.cos(yaw) + delta[1] * math.sin(yaw),
                -delta[0] * math.sin(yaw) + delta[1] * math.cos(yaw),
            ]
        )

    point = np.array([[*seen_from(past), 1.5, 0.3]], np.float32)
    moved = to_present_ego(point, past, present)
    np.testing.assert_allclose(moved[0], [*seen_from(present), 1.5, 0.3], atol=1e-5)


def test_merging_two_half_sweeps_compensates_the_motion():
    bev = LidarBev()
    # one post stands at world (20.2, 3.2); the ego drives 1 m between the halves, and both halves see it
    bev.step(points([20.2, 3.2, 1.0, 0.5]), ego(0.0))
    out = bev.step(points([19.2, 3.2, 1.0, 0.5]), ego(0.05, x=1.0))
    present = out[-1]
    assert np.count_nonzero(present) == 1 and present.max() == 32
    # two ticks later the first half is too old to count
    out = bev.step(None, ego(0.10, x=2.0))
    assert out[-1].max() == 16
    out = bev.step(None, ego(0.20, x=3.0))
    assert not out[-1].any()


def test_history_is_half_a_second_apart_oldest_first_and_padded_at_the_start():
    bev = LidarBev(BevConfig(merge_s=0.01))
    # the ego stands; a car ahead comes 10 m nearer each second
    for tick in range(41):
        out = bev.step(points([40.25 - tick * 0.5, 0.25, 1.0, 0.0]), ego(tick * 0.05))
        if tick == 0:
            assert (out == out[-1]).all()
    rows = [int(np.argwhere(frame)[0][1]) for frame in out]
    # ticks 10, 20, 30, 40
    assert rows == [15 + 10, 15 + 20, 15 + 30, 15 + 40]


def test_what_stands_still_stays_in_its_cell_while_the_ego_drives_and_turns():
    config = BevConfig(merge_s=0.01)
    bev = LidarBev(config)
    posts = np.array([[22.0, 6.0], [30.0, -9.0], [14.0, 11.0]])
    for tick in range(41):
        yaw_deg = 0.7 * tick
        here = ego(tick * 0.05, x=0.25 * tick, y=0.06 * tick, yaw=yaw_deg)
        yaw = math.radians(yaw_deg)
        offset = posts - here.position_in_world
        seen = np.column_stack(
            [
                offset @ (math.cos(yaw), math.sin(yaw)),
                offset @ (-math.sin(yaw), math.cos(yaw)),
                np.ones(3),
                np.zeros(3),
            ]
        )
        out = bev.step(seen.astype(np.float32), here)
    present = np.argwhere(out[-1][1])
    assert len(present) == 3
    for frame in out[:-1]:
        cells = np.argwhere(frame[1])
        assert len(cells) >= 3
        for cell in cells:  # rounding twice to cells may shift by one
            assert np.abs(present - cell).max(axis=1).min() <= 1


def test_a_clock_that_runs_backwards_is_another_route():
    bev = LidarBev()
    bev.step(points([20.0, 0.0, 1.0, 0.0]), ego(10.0))
    assert not bev.step(None, ego(0.0)).any()


def test_image_is_rgb_of_the_networks_size():
    bgra = np.zeros((256, 512, 4), np.uint8)
    bgra[..., 0], bgra[..., 2] = 10, 200
    image = image_for_network(bgra[:, :, :3])
    assert image.shape == (256, 512, 3) and image.flags["C_CONTIGUOUS"]
    assert image[0, 0].tolist() == [200, 0, 10]
    large = np.full((512, 1024, 3), 7, np.uint8)
    assert image_for_network(large).shape == (256, 512, 3)
    with pytest.raises(SensorError, match="float"):
        image_for_network(large.astype(np.float32))


def test_preprocessor_gives_the_networks_inputs():
    steps = Preprocessor(PreprocessConfig())
    status = np.zeros((4, 22), np.float32)
    picture = np.zeros((256, 512, 3), np.uint8)
    steps.step(picture, points([20.2, 0.2, 1.0, 0.0]), ego(0.0), status)
    inputs = steps.step(picture, None, ego(0.05), status)
    assert inputs.lidar_bev.shape == (4, 3, 128, 128) and inputs.lidar_bev[-1].any()
    assert inputs.image.shape == (256, 512, 3) and inputs.ego_status is status


def test_bad_geometry_is_refused():
    with pytest.raises(ConfigError):
        BevConfig(cell_m=0.0)
    with pytest.raises(ConfigError):
        BevConfig(obstacle_m=0.1)


def test_a_full_sweep_is_rasterised_in_the_time_of_a_tick():
    rng = np.random.default_rng(0)
    sweep = np.column_stack(
        [
            rng.uniform(-60, 80, 30000),
            rng.uniform(-60, 60, 30000),
            rng.uniform(-0.5, 6, 30000),
            np.ones(30000),
        ]
    ).astype(np.float32)
    bev = LidarBev()
    best_ms = math.inf
    for tick in range(8):
        start = time.perf_counter()
        bev.step(sweep, ego(tick * 0.05))
        best_ms = min(best_ms, 1e3 * (time.perf_counter() - start))
    assert best_ms < 25.0  # about 2.5 ms on an idle core; this only catches a change of complexity
