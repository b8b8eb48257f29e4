from __future__ import annotations

import math

import numpy as np
import pytest

from tickdrive.agents.expert import Expert, ExpertPlan
from tickdrive.agents.expert_scene import ExpertScene, Mover, StopLine
from tickdrive.agents.types import Decision

STRAIGHT = np.stack([np.arange(0.0, 200.0), np.zeros(200)], axis=1)


def mover(
    x: float, y: float, speed: float = 0.0, yaw_deg: float = 0.0, actor_id: int = 1, walker: bool = False
) -> Mover:
    yaw = math.radians(yaw_deg)
    half = (0.2, 0.2) if walker else (2.45, 1.05)
    return Mover(
        actor_id,
        walker,
        np.array([x, y]),
        speed * np.array([math.cos(yaw), math.sin(yaw)]),
        yaw_deg,
        0.0,
        *half,
    )


def scene(
    ego: Mover,
    *others: Mover,
    lights: dict[int, str] | None = None,
    sim_s: float = 0.0,
    yellow_left_s: dict[int, float] | None = None,
) -> ExpertScene:
    return ExpertScene(sim_s, ego, 50 / 3.6, others, lights or {}, yellow_left_s or {})


def drive(
    expert: Expert, start: Mover, seconds: float, others=(), lights=None, yellow_until_s=0.0, watch=None
) -> tuple[Mover, list[ExpertPlan]]:
    """Let the ego go where the plan says, a tick at a time; others keep their speed."""
    ego, plans = start, []
    for tick in range(int(seconds * 20)):
        sim_s = tick * 0.05
        moved = [
            Mover(
                m.actor_id, m.is_walker, m.position + sim_s * m.velocity, m.velocity, m.yaw_deg, 0.0,
                m.half_length_m, m.half_width_m,
            )
            for m in others
        ]  # fmt: skip
        colours = lights(sim_s) if lights else {}
        left_s = {light: yellow_until_s - sim_s for light, colour in colours.items() if colour == "yellow"}
        plan = expert.plan(scene(ego, *moved, lights=colours, sim_s=sim_s, yellow_left_s=left_s))
        plans.append(plan)
        # The plan's first half second says the acceleration and the turn of this tick.
        first = plan.waypoints_in_ego[0]
        mean_speed = float(np.hypot(*first)) / 0.5
        speed = max(0.0, ego.speed_mps + (mean_speed - ego.speed_mps) / 0.25 * 0.05)
        if mean_speed < 0.02:
            speed = 0.0
        turn = math.degrees(2.0 * math.atan2(first[1], max(first[0], 0.1))) if mean_speed > 0.2 else 0.0
        yaw = ego.yaw_deg + turn * 0.1
        direction = np.array([math.cos(math.radians(yaw)), math.sin(math.radians(yaw))])
        ego = mover(*(ego.position + speed * 0.05 * direction), speed, yaw)
        if watch is not None:
            watch(sim_s + 0.05, ego)
    return ego, plans


def test_free_road_is_driven_at_cruise_speed():
    ego, plans = drive(Expert(STRAIGHT, ()), mover(0, 0), 12.0)
    assert ego.speed_mps == pytest.approx(10.5, abs=0.6)
    assert plans[-1].decision is Decision.CRUISE
    assert np.all(np.diff(plans[-1].waypoints_in_ego[:, 0]) > 3.0)
    assert np.abs(plans[-1].waypoints_in_ego[:, 1]).max() < 0.05


def test_a_red_light_is_stopped_for_before_the_line_and_left_on_green():
    expert = Expert(STRAIGHT, [StopLine(7, 80.0, True, 87.0)])
    ego, plans = drive(expert, mover(20, 0, 8.0), 15.0, lights=lambda _: {7: "red"})
    front = ego.position[0] + 2.45
    assert 78.0 < front < 80.0
    assert ego.speed_mps < 0.05
    assert plans[-1].decision is Decision.STOP_LIGHT and plans[-1].light == "red"
    assert np.abs(plans[-1].waypoints_in_ego).max() < 0.3
    go = expert.plan(scene(ego, lights={7: "green"}, sim_s=99.0))
    assert go.decision is Decision.CRUISE and go.waypoints_in_ego[-1, 0] > 4.0


def test_a_late_yellow_is_driven_through():
    line = StopLine(7, 80.0, True, 87.0)
    late = scene(mover(72, 0, 9.0), lights={7: "yellow"}, yellow_left_s={7: 3.0})
    assert Expert(STRAIGHT, [line]).plan(late).decision is Decision.CRUISE
    early = scene(mover(50, 0, 8.0), lights={7: "yellow"}, yellow_left_s={7: 3.0})
    assert Expert(STRAIGHT, [line]).plan(early).decision is Decision.STOP_LIGHT


def test_a_yellow_that_would_be_red_before_the_junction_is_reached_is_braked_for():
    # seed 3 of the default route: 3.1 m/s2 to the stop line, and 3 s do not take the rear to the junction
    expert = Expert(STRAIGHT, [StopLine(7, 80.0, True, 87.0)])
    ego, plans = drive(
        expert,
        mover(80.0 - 5.2 - 2.45, 0, 5.7),
        8.0,
        # the car ahead is as slow, so that there is no getting away either
        others=[mover(91.5, 0, 5.0, actor_id=2)],
        lights=lambda s: {7: "yellow" if s < 3.0 else "red"},
        yellow_until_s=3.0,
    )
    assert plans[0].decision is Decision.STOP_LIGHT
    assert ego.speed_mps < 0.05 and ego.position[0] + 2.45 < 87.0


@pytest.mark.parametrize(("speed_mps", "slow_lead"), [(3.0, False), (5.5, True), (9.0, False)])
def test_whatever_the_distance_at_which_yellow_comes_the_junction_is_not_entered_on_red(speed_mps, slow_lead):
    for front_to_line_m in np.arange(-6.5, 18.0, 2.4):
        crossed_s: list[float] = []

        def watch(sim_s: float, ego: Mover, crossed_s: list[float] = crossed_s) -> None:
            # the criterion's segment behind the car lies across the junction's edge
            if ego.position[0] - 2.45 - 1.0 < 87.0 < ego.position[0] - 0.8 * 2.45:
                crossed_s.append(sim_s)

        drive(
            Expert(STRAIGHT, [StopLine(7, 80.0, True, 87.0)]),
            mover(80.0 - front_to_line_m - 2.45, 0, speed_mps),
            6.0,
            others=[mover(94.0 if slow_lead else 190.0, 0, 3.5, actor_id=2)],
            lights=lambda s: {7: "yellow" if s < 3.0 else "red"},
            yellow_until_s=3.0,
            watch=watch,
        )
        assert not any(sim_s > 3.0 for sim_s in crossed_s), front_to_line_m


def test_who_stands_past_the_stop_line_waits_there_until_it_is_green():
    # 2.4 m past the place that CARLA calls a light's stop waypoint, 4.6 m before the junction
    expert = Expert(STRAIGHT, [StopLine(7, 80.0, True, 87.0)])
    ego, plans = drive(expert, mover(79.95, 0, 0.0), 3.0, lights=lambda _: {7: "red"})
    assert {p.decision for p in plans} == {Decision.STOP_LIGHT} and plans[-1].light == "red"
    assert ego.position[0] == pytest.approx(79.95, abs=0.01)
    go = expert.plan(scene(ego, lights={7: "green"}, sim_s=99.0))
    assert go.decision is Decision.CRUISE and go.light == "green" and go.waypoints_in_ego[-1, 0] > 4.0


def test_who_is_in_the_junction_leaves_it():
    plan = Expert(STRAIGHT, [StopLine(7, 80.0, True, 87.0)]).plan(
        scene(mover(85.0, 0, 2.0), lights={7: "red"})
    )
    assert plan.decision is Decision.CRUISE and plan.light == "none"


def test_a_stop_sign_is_served_once():
    expert = Expert(STRAIGHT, [StopLine(3, 60.0, False, 60.0)])
    ego, plans = drive(expert, mover(20, 0, 8.0), 20.0)
    speeds = np.array([np.hypot(*p.waypoints_in_ego[0]) for p in plans])
    assert speeds.min() < 0.02
    assert any(p.decision is Decision.STOP_SIGN for p in plans)
    assert ego.position[0] > 80.0


def test_a_slower_vehicle_is_followed_at_a_safe_distance():
    lead = mover(30, 0.3, 4.0, actor_id=2)
    ego, plans = drive(Expert(STRAIGHT, ()), mover(0, 0, 9.0), 15.0, others=[lead])
    gap = 30 + 4.0 * 15 - ego.position[0] - 4.9
    assert 4.0 < gap < 14.0
    assert ego.speed_mps == pytest.approx(4.0, abs=0.6)
    assert plans[-1].decision is Decision.FOLLOW
    assert plans[-1].lead_distance_m == pytest.approx(gap, abs=1.0)
    assert plans[-1].lead_speed_mps == pytest.approx(4.0)


def test_traffic_in_the_next_lane_and_behind_binds_nothing():
    plan = Expert(STRAIGHT, ()).plan(
        scene(mover(20, 0, 8.0), mover(35, 3.5, 8.0), mover(32, -3.5, 8.0, 180.0), mover(10, 0, 12.0))
    )
    assert plan.decision is Decision.CRUISE


def test_a_walker_stepping_onto_the_way_is_yielded_to():
    crossing = mover(45, 6.0, 1.4, -90.0, actor_id=5, walker=True)
    ego, plans = drive(Expert(STRAIGHT, ()), mover(10, 0, 8.0), 5.0, others=[crossing])
    assert any(p.decision is Decision.YIELD_PEDESTRIAN for p in plans)
    assert ego.position[0] + 2.45 < 44.0
    away = mover(45, -6.0, 1.4, -90.0, walker=True)
    assert Expert(STRAIGHT, ()).plan(scene(mover(20, 0, 8.0), away)).decision is Decision.CRUISE


def test_crossing_traffic_that_would_be_hit_is_yielded_to():
    crossing = mover(40, 14.0, 7.0, -90.0)
    plan = Expert(STRAIGHT, ()).plan(scene(mover(24, 0, 7.0), crossing))
    assert plan.decision is Decision.YIELD_VEHICLE


def test_a_perturbed_pose_is_led_back_to_the_route():
    plan = Expert(STRAIGHT, ()).plan(scene(mover(20, -1.2, 7.0, -8.0)))
    yaw = math.radians(-8.0)
    y_in_world = -1.2 + plan.waypoints_in_ego @ np.array([math.sin(yaw), math.cos(yaw)])
    assert abs(y_in_world[-1]) < 0.3
    assert plan.lateral_error_m == pytest.approx(1.2, abs=0.01)


def test_a_curve_is_taken_within_the_lateral_acceleration():
    angle = np.linspace(0, math.pi / 2, 16)
    arc = np.stack([60 + 10 * np.sin(angle), 10 - 10 * np.cos(angle)], axis=1)
    route = np.vstack([STRAIGHT[:60], arc, np.stack([np.full(50, 70.0), np.arange(11.0, 61.0)], axis=1)])
    ego, plans = drive(Expert(route, ()), mover(10, 0, 8.0), 13.0)
    assert max(p.lateral_error_m for p in plans) < 0.5
    assert ego.position[1] > 20.0
    assert 2.0 < ego.yaw_deg < 91.5 and ego.yaw_deg > 85.0


def test_the_route_end_is_reached():
    expert = Expert(STRAIGHT[:60], ())
    ego, _ = drive(expert, mover(0, 0, 5.0), 14.0)
    assert expert.progress_s > 57.0 and ego.position[0] > 57.0
