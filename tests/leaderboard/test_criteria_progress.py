"""Criteria on scripted drives: no simulator, no map."""

import math
import struct
from dataclasses import replace

import carla
import pytest

from tickdrive.agents.types import Command
from tickdrive.leaderboard.criteria.base import (
    DriveClock,
    EgoTick,
    EventKind,
    RouteLine,
    ScenarioSignal,
    SignalKind,
)
from tickdrive.leaderboard.criteria.collisions import Collisions, Contact, kind_of
from tickdrive.leaderboard.criteria.lights import segments_meet
from tickdrive.leaderboard.criteria.progress import Blocked, InRoute, RouteCompletion, RouteTimeout
from tickdrive.leaderboard.criteria.scenarios import (
    EMERGENCY_SCENARIO,
    ScenarioTimeouts,
    YieldToEmergencyVehicle,
)
from tickdrive.leaderboard.criteria.speed import MinimumSpeed
from tickdrive.leaderboard.route_planner import RoutePoint
from tickdrive.leaderboard.scoring import Rules

DT = 0.05


def straight(length_m: int = 100) -> RouteLine:
    return RouteLine(
        [
            RoutePoint(carla.Transform(carla.Location(x=float(i))), Command.LANE_FOLLOW)
            for i in range(length_m + 1)
        ]
    )


def tick(
    n: int, x: float, y: float = 0.0, speed: float = 5.0, traffic=(), limit: float = 36.0, **more
) -> EgoTick:
    return EgoTick(
        n,
        n * DT,
        carla.Transform(carla.Location(x=x, y=y)),
        carla.Vector3D(speed, 0, 0),
        limit,
        tuple(traffic),
        **more,
    )


def drive(
    criterion, speed: float, seconds: float, start_m: float = 0.0, y: float = 0.0, first: int = 1, **kwargs
) -> int:
    """Drive along x; returns the number of the next tick."""
    n = first
    for _ in range(round(seconds / DT)):
        criterion.update(tick(n, start_m + speed * (n - first + 1) * DT, y, speed, **kwargs))
        n += 1
        if criterion.ends_route:
            break
    return n


def test_completion_grows_and_snaps_to_100_near_the_goal():
    completion = RouteCompletion(straight())
    drive(completion, 10.0, 5.0)
    assert completion.percent == pytest.approx(50.0, abs=1.1) and not completion.ends_route
    drive(completion, 10.0, 5.2, start_m=50.0)
    assert completion.ends_route and completion.percent == 100.0 and not completion.failed


def test_the_route_ends_a_tick_after_the_goal_as_upstreams():
    completion = RouteCompletion(straight(10))
    n = 0
    while not completion.done:
        n += 1
        completion.update(tick(n, 0.5 * n))
    assert completion.percent == 100.0 and not completion.ends_route
    completion.update(tick(n + 1, 0.5 * n))
    assert completion.ends_route


def test_completion_is_not_had_by_jumping_ahead():
    completion = RouteCompletion(straight())
    completion.update(tick(1, 90.0))
    assert completion.percent <= 2.0


def test_beside_the_goal_is_not_at_the_goal():
    completion = RouteCompletion(straight())
    drive(completion, 10.0, 10.5, y=11.0)
    assert not completion.ends_route and completion.percent == pytest.approx(100.0)
    assert completion.failed


def test_deviation_ends_the_route_at_30_m():
    inside, outside = InRoute(straight()), InRoute(straight())
    inside.update(tick(1, 0.0, 29.9))
    outside.update(tick(1, 0.0, 30.1))
    assert not inside.ends_route
    assert outside.ends_route and outside.events[0].kind is EventKind.ROUTE_DEVIATION
    outside.update(tick(2, 0.0, 50.0))
    assert len(outside.events) == 1


def test_far_from_the_route_for_too_long_is_deviation_too():
    near, far = InRoute(straight()), InRoute(straight())
    drive(near, 10.0, 9.0, y=14.0)
    drive(far, 10.0, 9.0, y=16.0)
    assert not near.ends_route and far.ends_route


def test_blocked_only_when_standing_longer_than_allowed():
    blocked = Blocked(max_s=60.0)
    n = drive(blocked, 0.0, 59.0)
    n = drive(blocked, 5.0, 1.0, first=n)
    n = drive(blocked, 0.05, 60.0, first=n)
    assert not blocked.ends_route
    drive(blocked, 0.0, 0.2, first=n)
    assert blocked.ends_route and blocked.events[0].kind is EventKind.VEHICLE_BLOCKED


@pytest.mark.parametrize("first_tick", [4, 233, 234])
@pytest.mark.parametrize("limit_s", [60.0, 180.0])
def test_blocked_at_the_limits_last_tick_whenever_it_began(first_tick, limit_s):
    clock, blocked = DriveClock(0), Blocked(limit_s)
    (delta_s,) = struct.unpack("f", struct.pack("f", DT))  # as it comes from a server
    ticks = 0
    while not blocked.ends_route:
        ticks += 1
        sim_s = clock.advance(ticks, delta_s)
        blocked.update(replace(tick(ticks, 0.0, speed=5.0 * (ticks <= first_tick)), sim_s=sim_s))
    assert ticks - first_tick == round(limit_s / DT)


def signals(*kinds: SignalKind, scenario_type: str = "") -> tuple[ScenarioSignal, ...]:
    return tuple(ScenarioSignal(kind, scenario_type) for kind in kinds)


def test_a_scenario_that_blocks_the_way_allows_standing():
    blocked = Blocked(max_s=60.0)
    blocked.update(tick(1, 0.0, speed=0.0, signals=signals(SignalKind.BLOCKED_TEST_OFF)))
    n = drive(blocked, 0.0, 100.0, first=2)
    blocked.update(tick(n, 0.0, speed=0.0, signals=signals(SignalKind.BLOCKED_TEST_ON)))
    n = drive(blocked, 0.0, 59.0, first=n + 1)
    assert not blocked.ends_route
    drive(blocked, 0.0, 2.0, first=n)
    assert blocked.ends_route


def test_a_scenario_that_times_out_is_an_infraction():
    timeouts = ScenarioTimeouts()
    drive(timeouts, 5.0, 1.0)
    timeouts.update(tick(30, 5.0, signals=signals(SignalKind.TIMED_OUT, SignalKind.BLOCKED_TEST_ON)))
    assert [event.kind for event in timeouts.events] == [EventKind.SCENARIO_TIMEOUT]


@pytest.mark.parametrize(
    ("last_x", "gone", "expected"), [(-10.0, 0, 1), (10.0, 0, 0), (-10.0, 1, 1), (-10.0, 2, 0)]
)
def test_an_emergency_vehicle_must_be_ahead_when_its_scenario_ends(last_x, gone, expected):
    """`gone`: the vehicle is away in the last tick (1), or its scenario has never begun (2)."""
    yielding = YieldToEmergencyVehicle()
    here = carla.Transform(carla.Location(x=-20.0))
    kind = {"scenario_type": EMERGENCY_SCENARIO}
    if gone != 2:
        yielding.update(tick(1, 0.0, emergency_vehicle=here, signals=signals(SignalKind.STARTED, **kind)))
    here = carla.Transform(carla.Location(x=last_x))
    yielding.update(tick(2, 0.0, emergency_vehicle=here))
    end = None if gone else carla.Transform(carla.Location(x=99.0))
    yielding.update(tick(3, 0.0, emergency_vehicle=end, signals=signals(SignalKind.ENDED, **kind)))
    yielding.finish(tick(4, 0.0), over=True)
    assert len(yielding.events) == expected


def test_a_scenario_of_ours_tells_that_the_ego_did_not_yield():
    yielding = YieldToEmergencyVehicle()
    yielding.update(tick(7, 0.0, signals=signals(SignalKind.NOT_YIELDED)))
    yielding.finish(tick(8, 0.0), over=True)
    (event,) = yielding.events
    assert event.kind is EventKind.YIELD_EMERGENCY_VEHICLE and event.frame == 7


def test_timeout_is_300_s_plus_a_tenth_of_the_limit():
    standing = RouteTimeout(straight())
    drive(standing, 0.0, 299.9)
    assert not standing.ends_route
    standing.update(tick(round(300.2 / DT), 0.0))
    assert standing.ends_route and standing.events[0].kind is EventKind.ROUTE_TIMEOUT
    driven = RouteTimeout(straight())
    drive(driven, 10.0, 10.0, limit=36.0)
    assert driven.allowed_s == pytest.approx(300.0 + 100.0 / 1.0, abs=1.5)
    unknown_limit = RouteTimeout(straight())
    drive(unknown_limit, 10.0, 10.0, limit=0.0)
    assert unknown_limit.allowed_s == pytest.approx(300.0 + 100.0 / (30 / 3.6 / 10), abs=2.0)


def test_minimum_speed_judges_four_parts():
    slow = MinimumSpeed(straight(400))
    n = drive(slow, 5.0, 79.0, traffic=(10.0, 10.0))
    slow.finish(tick(n, 395.0), over=False)
    assert [e.percent for e in slow.events] == pytest.approx([50.0] * 4)
    assert slow.value == pytest.approx(50.0)
    fast = MinimumSpeed(straight(400))
    drive(fast, 12.0, 33.0, traffic=(10.0,))
    assert not fast.events and fast.value == pytest.approx(120.0)


def test_bench2drive_tells_its_shorter_parts_all_the_fast_ones_too():
    fast = MinimumSpeed(straight(400), Rules.BENCH2DRIVE)
    n = drive(fast, 12.0, 33.0, traffic=(10.0,))
    fast.finish(tick(n, 395.0), over=True)
    # a part is over behind its 20 m, at the 21st: 18 times; what is left counts twice
    assert [e.percent for e in fast.events] == pytest.approx([120.0] * 20)


def test_the_last_part_of_minimum_speed_counts_twice_where_a_criterion_ends_the_route():
    slow = MinimumSpeed(straight(400))
    n = drive(slow, 5.0, 79.0, traffic=(10.0, 10.0))
    slow.finish(tick(n, 395.0), over=True)
    assert [e.percent for e in slow.events] == pytest.approx([50.0] * 5)


def test_minimum_speed_without_traffic_is_no_infraction():
    alone = MinimumSpeed(straight(400))
    n = drive(alone, 1.0, 395.0)
    alone.finish(tick(n, 395.0), over=True)
    assert not alone.events


def test_minimum_speed_of_an_unfinished_part_is_not_judged():
    stopped = MinimumSpeed(straight(400))
    n = drive(stopped, 1.0, 90.0, traffic=(10.0,))
    stopped.finish(tick(n, 90.0), over=True)
    assert not stopped.events


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        ("vehicle.tesla.model3", EventKind.COLLISION_VEHICLE),
        ("walker.pedestrian.0004", EventKind.COLLISION_PEDESTRIAN),
        ("static.prop.trafficcone01", EventKind.COLLISION_STATIC),
        ("traffic.stop", EventKind.COLLISION_STATIC),
        ("static.building", EventKind.COLLISION_STATIC),
        ("static.sidewalk", None),
    ],
)
def test_kind_of_collision(other, kind):
    assert kind_of(other) is kind


def collide(contacts, positions=None, speeds=None, ticks: int = 300) -> Collisions:
    """`contacts`: tick -> other id; the ego drives 5 m/s along x unless told otherwise."""
    collisions = Collisions()
    for n in range(1, ticks):
        for other in contacts.get(n, ()):
            collisions.report(Contact(n, other, "vehicle.audi.tt" if other else "static.wall"))
        speed = (speeds or {}).get(n, 5.0)
        collisions.update(tick(n, (positions or {}).get(n, 5.0 * n * DT), speed=speed))
    return collisions


def test_a_long_contact_is_one_collision():
    collisions = collide(dict.fromkeys(range(50, 100), (7,)), positions=dict.fromkeys(range(50, 101), 12.5))
    assert len(collisions.events) == 1
    assert collisions.events[0].other_actor == 7
    assert "vehicle.audi.tt and id=7" in collisions.events[0].message


def test_the_same_actor_counts_again_after_5_s_and_5_m():
    assert len(collide({50: (7,), 120: (7,)}).events) == 1  # 3.5 s later
    assert len(collide({50: (7,), 160: (7,)}).events) == 2  # 5.5 s and 27 m later


def test_another_actor_within_5_m_does_not_count():
    assert len(collide({50: (7,), 60: (8,)}).events) == 1
    assert len(collide({50: (7,), 80: (8,)}).events) == 2


def test_the_town_counts_by_place():
    assert len(collide({50: (0,), 60: (0,), 90: (0,)}).events) == 2


def test_being_hit_while_standing_is_no_fault():
    assert not collide({50: (7,)}, speeds=dict.fromkeys(range(40, 60), 0.0)).events


def test_a_contact_up_to_the_first_tick_does_not_count_and_one_of_a_later_tick_waits_for_it():
    collisions = Collisions()
    collisions.report(Contact(1, 7, "vehicle.audi.tt"))
    collisions.report(Contact(4, 8, "vehicle.audi.tt"))
    for n in (1, 2, 3):
        collisions.update(tick(n, float(n)))
        assert not collisions.events
    collisions.update(tick(4, 4.0))
    (event,) = collisions.events
    assert event.other_actor == 8 and "at (x=3.0," in event.message


def test_segments():
    def at(x, y):
        return carla.Location(x=x, y=y)

    assert segments_meet(at(0, -1), at(0, 1), at(-1, 0), at(1, 0))
    assert not segments_meet(at(0, 1), at(0, 2), at(-1, 0), at(1, 0))
    assert not segments_meet(at(3, -1), at(3, 1), at(-1, 0), at(1, 0))
    assert not segments_meet(at(0, 0), at(1, 0), at(2, 0), at(3, 0))


def test_route_line_passes_points_in_the_direction_of_travel():
    line = straight(10)
    assert line.length_m == pytest.approx(10.0)
    assert line.passed(3, carla.Location(x=3.1, y=4.0)) and not line.passed(3, carla.Location(x=2.9))
    assert line.advance(0, carla.Location(x=2.5), window=3) == 2
    assert math.isclose(line.travelled_m[4], 4.0)
