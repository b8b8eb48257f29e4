"""The guard acts on what stands in the way, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tickdrive.agents.config import GuardConfig
from tickdrive.agents.guard import CollisionGuard, GuardedPlan
from tickdrive.agents.preprocess import rasterize
from tickdrive.planner.errors import ConfigError

TIMES = 0.5 * np.arange(1, 7)
GUARD = CollisionGuard(GuardConfig())


def straight(speed: float) -> np.ndarray:
    return np.stack([speed * TIMES, np.zeros(6)], axis=1)


def thing(x: float, y: float, height: float = 1.6) -> np.ndarray:
    """A box 1 m wide and 0.4 m deep, as a LiDAR sees its near side."""
    z, across = np.meshgrid(np.linspace(0.1, height, 8), np.linspace(-0.5, 0.5, 9))
    return np.stack([np.full(z.size, x), y + across.ravel(), z.ravel()], axis=1).astype(np.float32)


def guard(
    plan: np.ndarray, speed: float, now: np.ndarray, before: np.ndarray | None = None
) -> GuardedPlan | None:
    """`before`: where the things were half a second ago, in the present ego frame."""
    history = np.stack([rasterize(now if before is None else before)] * 3 + [rasterize(now)])
    return GUARD.step(plan, 0.5, speed, now, history)


def test_a_plan_into_a_standing_thing_stops_before_it():
    shorter = guard(straight(8.0), 8.0, thing(12.0, 0.3))
    assert shorter is not None
    assert shorter.gap_m == pytest.approx(12.0 - 2.45, abs=0.6)
    assert shorter.deceleration_mps2 == pytest.approx(64.0 / (2 * (shorter.gap_m - 1.0)))
    x = shorter.waypoints_in_ego[:, 0]
    assert np.all(np.diff(x) > -1e-3) and x[-1] == pytest.approx(shorter.gap_m - 1.0, abs=0.3)
    assert np.abs(shorter.waypoints_in_ego[:, 1]).max() < 1e-6


def test_what_is_far_enough_to_brake_gently_is_left_to_the_planner():
    assert guard(straight(8.0), 8.0, thing(25.0, 0.0)) is None


def test_a_vehicle_ahead_that_drives_as_fast_is_no_thing_in_the_way():
    assert guard(straight(8.0), 8.0, thing(9.0, 0.0), thing(5.0, 0.0)) is None
    braking = guard(straight(8.0), 8.0, thing(9.0, 0.0), thing(8.5, 0.0))
    assert braking is not None and braking.speed_mps < 2.5


def test_what_stands_beside_the_way_is_passed():
    assert guard(straight(8.0), 8.0, thing(10.0, 2.6)) is None
    assert guard(straight(8.0), 8.0, thing(10.0, -2.6)) is None


def test_the_way_is_the_plans_and_not_straight_ahead():
    angle = 8.0 * TIMES / 12.0
    right_turn = np.stack([12.0 * np.sin(angle), 12.0 * (1.0 - np.cos(angle))], axis=1)
    assert guard(right_turn, 8.0, thing(12.0, -1.0)) is None
    on_the_arc = thing(12.0 * np.sin(0.9), 12.0 * (1.0 - np.cos(0.9)))
    assert guard(right_turn, 8.0, on_the_arc) is not None


def test_a_climbing_road_is_no_thing():
    x, y = np.meshgrid(np.arange(3.0, 40.0, 0.2), np.arange(-6.0, 6.0, 0.2))
    road = np.stack([x.ravel(), y.ravel(), 0.1 * x.ravel()], axis=1).astype(np.float32)
    assert guard(straight(8.0), 8.0, road) is None


def test_without_points_or_speed_nothing_is_guarded():
    assert guard(straight(8.0), 8.0, np.empty((0, 3), np.float32)) is None
    assert guard(straight(8.0), 0.3, thing(5.0, 0.0)) is None


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="strongest"):
        GuardConfig(deceleration_mps2=8.0, strongest_mps2=4.0)
