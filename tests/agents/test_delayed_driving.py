"""Controls under a latency model: along the plan in force, held, mixed, and past its end."""

import math

import numpy as np
import pytest

from tickdrive.agents.config import ControlConfig, LatencyConfig
from tickdrive.agents.control import TrajectoryFollower
from tickdrive.agents.delayed_driving import SAFE_STOP_BRAKE, DelayedDriving
from tickdrive.agents.plans import PlanToDrive
from tickdrive.agents.types import EgoState
from tickdrive.planner.types import Plan

TICK_S = 0.05


def ego(tick, x=0.0, y=0.0, yaw_deg=0.0, speed=8.0):
    return EgoState(tick, tick * TICK_S, np.array([x, y]), yaw_deg, speed, 0.0, 0.0)


def plan_of(seen, speed=8.0, lateral=0.0, rung="planned"):
    times = 0.5 * np.arange(1, 7)
    points = np.stack([speed * times, lateral * times], axis=1).astype(np.float32)
    return PlanToDrive(Plan(points[None], 0.5, 10, "test"), seen, rung, None)


def drive(config, ticks, plan=plan_of, move=lambda k: ego(k, x=0.4 * k)):
    driving = DelayedDriving(config, ControlConfig())
    out = []
    for k in range(ticks):
        seen = move(k)
        made = plan(seen) if driving.begin(seen.sim_s, k) else None
        out.append((made is not None, driving.drive(made, seen, 0), driving.record()))
        driving.finish(0)
    return out


def test_off_is_the_plain_follower_on_each_ticks_plan():
    follower = TrajectoryFollower(ControlConfig())
    for k, (planned, driven, record) in enumerate(drive(LatencyConfig(), 20)):
        plan = plan_of(ego(k)).plan
        assert planned and record is None
        assert driven.control == follower.step(plan.waypoints_in_ego[0], 0.5, 8.0, TICK_S)


def test_before_the_first_plan_the_brake_is_held():
    for rounding in ("quantised", "subtick"):
        out = drive(LatencyConfig(mode="fixed", ms=200.0, rounding=rounding), 6)
        assert [driven.control.brake for _, driven, _ in out[:4]] == [SAFE_STOP_BRAKE] * 4
        assert out[4][1].control.brake == 0.0 and out[4][1].control.throttle > 0.0


def test_the_plan_in_force_is_followed_from_where_the_ego_is():
    """On the plan, at its speed: what is left of it lies straight ahead at the same speed, each tick."""
    for planned, driven, _ in drive(LatencyConfig(mode="fixed", ms=200.0), 30)[4:]:
        points = driven.plan.plan.waypoints_in_ego[0]
        assert np.allclose(points[:, 0], 8.0 * 0.5 * np.arange(1, 7), atol=0.05)
        assert np.allclose(points[:, 1], 0.0, atol=1e-6) and planned in (True, False)


def test_compensation_keeps_the_plan_in_its_place():
    """A plan that stops 16 m ahead of its observation; 8 m on, the stop is 8 m ahead. Unaware: still 16 m."""

    def stopping(seen):
        xs = np.array([4.0, 8.0, 12.0, 15.0, 16.0, 16.0], np.float32)
        return PlanToDrive(Plan(np.stack([xs, 0 * xs], 1)[None], 0.5, 10, "t"), seen, "planned", None)

    ends = {}
    for aware in (True, False):
        out = drive(LatencyConfig(mode="fixed", ms=1000.0, compensation=aware), 21, stopping)
        ends[aware] = out[20][1].plan.plan.waypoints_in_ego[0][-1, 0]
    assert ends == {True: pytest.approx(8.0, abs=0.1), False: pytest.approx(16.0, abs=1e-5)}


def test_a_plan_is_joined_where_the_ego_stands_not_where_it_should_be():
    """The ego stood while the plan to set off was computed: it sets off from here, and does not chase."""
    standing = ego(40, x=0.0, speed=0.0)
    plan = plan_of(ego(0, speed=0.0), speed=4.0)
    points = plan.joined(standing).seen_from(standing).plan.waypoints_in_ego[0]
    assert np.allclose(points[:, 0], 4.0 * 0.5 * np.arange(1, 7), atol=0.02)
    # and a plan that waits and then goes is joined by its time: the wait has been waited
    xs = np.array([0.0, 0.0, 0.0, 2.0, 4.0, 6.0], np.float32)
    waiting = PlanToDrive(Plan(np.stack([xs, 0 * xs], 1)[None], 0.5, 10, "t"), ego(0), "planned", None)
    now = ego(20, x=0.0, speed=0.0)
    assert waiting.joined(now).seen_from(now).plan.waypoints_in_ego[0][1, 0] == pytest.approx(2.0, abs=0.05)


def test_joining_holds_on_a_turned_ego():
    """World: the plan goes along +y from (10, 0); the ego is 8 m on, turned by 90 degrees like the plan."""
    then = EgoState(0, 0.0, np.array([10.0, 0.0]), 90.0, 8.0, 0.0, 0.0)
    now = EgoState(20, 1.0, np.array([10.5, 8.0]), 90.0, 8.0, 0.0, 0.0)
    points = plan_of(then).joined(now).seen_from(now).plan.waypoints_in_ego[0]
    assert np.allclose(points[:4, 0], [4.0, 8.0, 12.0, 16.0], atol=0.25)
    assert np.allclose(points[:, 1], 0.5, atol=1e-4)  # the plan lies to the right, y right


def test_past_the_horizon_the_car_is_stopped_and_it_is_said():
    out = drive(LatencyConfig(mode="fixed", ms=4000.0, compensation=False), 160)
    past = [k for k, (_, driven, record) in enumerate(out) if driven.past_horizon and record.past_horizon]
    # in force from tick 80 on, for the 3 s of its horizon, until the next at tick 160
    assert past == list(range(140, 160))
    assert all(out[k][1].control.brake == SAFE_STOP_BRAKE for k in past)


def test_hold_freezes_the_control_of_the_observation():
    def plan(seen):
        return plan_of(seen, lateral=1.0 if seen.frame >= 4 else 0.0)

    out = drive(LatencyConfig(mode="fixed", ms=200.0, busy="hold"), 12, plan)
    controls = [driven.control for _, driven, _ in out]
    assert controls[4:8] == [controls[4]] * 4 and controls[8:12] == [controls[8]] * 4
    assert controls[4].steer == 0.0 and controls[8].steer > 0.0


def test_subtick_controls_lie_between_the_old_and_the_new():
    def plan(seen):
        return plan_of(seen, speed=8.0 if seen.frame % 2 else 12.0)

    quantised = drive(LatencyConfig(mode="fixed", ms=0.0), 6, plan)
    mixed = {
        ms: drive(LatencyConfig(mode="fixed", ms=ms, rounding="subtick"), 6, plan)[3][1].control.throttle
        for ms in (5.0, 30.0)
    }
    assert mixed[5.0] != pytest.approx(mixed[30.0], abs=1e-3)
    assert mixed[5.0] == pytest.approx(quantised[3][1].control.throttle, abs=0.1)


def test_a_failed_planning_in_force_brakes():
    out = drive(
        LatencyConfig(mode="fixed", ms=50.0), 4, lambda seen: PlanToDrive(None, seen, "safe_stop", None)
    )
    assert [driven.control.brake for _, driven, _ in out] == [SAFE_STOP_BRAKE] * 4
    assert not any(driven.past_horizon for _, driven, _ in out)
    assert not math.isnan(out[-1][1].control.steer)
