import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickdrive.leaderboard.criteria.base import Event, EventKind
from tickdrive.leaderboard.scoring import Failure, Rules, is_bench2drive_success, route_status, score
from tickdrive.planner.errors import ConfigError


def event(kind: EventKind, percent: float | None = None) -> Event:
    return Event(kind, 1, 0.05, "message", percent=percent)


FIXED = [
    (EventKind.COLLISION_PEDESTRIAN, 0.50, 1.0),
    (EventKind.COLLISION_VEHICLE, 0.60, 0.7),
    (EventKind.COLLISION_STATIC, 0.65, 0.6),
    (EventKind.RED_LIGHT, 0.70, 0.4),
    (EventKind.STOP_SIGN, 0.80, 0.25),
    (EventKind.SCENARIO_TIMEOUT, 0.70, 0.4),
    (EventKind.YIELD_EMERGENCY_VEHICLE, 0.70, 0.4),
]


@pytest.mark.parametrize(("kind", "factor", "addend"), FIXED)
def test_one_infraction(kind, factor, addend):
    assert score(100.0, [event(kind)], Rules.V2_0).composed == pytest.approx(100 * factor)
    assert score(100.0, [event(kind)], Rules.BENCH2DRIVE).composed == pytest.approx(100 * factor)
    assert score(100.0, [event(kind)], Rules.V2_1).penalty == pytest.approx(1 / (1 + addend), abs=1e-6)


def test_several_infractions_multiply_or_add():
    events = [event(EventKind.RED_LIGHT), event(EventKind.RED_LIGHT), event(EventKind.COLLISION_VEHICLE)]
    assert score(80.0, events, Rules.V2_0).composed == pytest.approx(80 * 0.7 * 0.7 * 0.6)
    assert score(80.0, events, Rules.V2_1).composed == pytest.approx(80 / (1 + 0.4 + 0.4 + 0.7), abs=1e-4)


def test_minimum_speed():
    events = [event(EventKind.MIN_SPEED, percent=40.0)]
    assert score(100.0, events, Rules.V2_0).penalty == pytest.approx(1 - 0.3 * 0.6)
    assert score(100.0, events, Rules.V2_1).penalty == pytest.approx(1 / (1 + 0.4 * 0.6), abs=1e-6)
    assert score(100.0, events, Rules.BENCH2DRIVE).penalty == 1.0


def test_outside_lanes_counts_once_under_all_rules():
    events = [event(EventKind.OUTSIDE_ROUTE_LANES, percent=25.0), event(EventKind.STOP_SIGN)]
    assert score(100.0, events, Rules.V2_0).penalty == pytest.approx(0.75 * 0.8)
    assert score(100.0, events, Rules.V2_1).penalty == pytest.approx(0.75 / 1.25)


def test_ends_of_a_route_cost_nothing_but_completion():
    for kind in (EventKind.ROUTE_DEVIATION, EventKind.VEHICLE_BLOCKED, EventKind.ROUTE_TIMEOUT):
        assert score(33.0, [event(kind)], Rules.V2_0).composed == pytest.approx(33.0)


percents = st.floats(0.0, 250.0)
events_strategy = st.lists(
    st.one_of(
        st.sampled_from([k for k, *_ in FIXED]).map(event),
        percents.map(lambda p: event(EventKind.MIN_SPEED, p)),
        st.floats(0.0, 100.0).map(lambda p: event(EventKind.OUTSIDE_ROUTE_LANES, p)),
    ),
    max_size=12,
)


@given(st.floats(0.0, 100.0), events_strategy, st.sampled_from(Rules))
def test_scores_stay_in_bounds(route, events, rules):
    scores = score(route, events, rules)
    assert 0.0 <= scores.penalty <= 1.0
    assert 0.0 <= scores.composed <= scores.route + 1e-6 <= 100.0 + 2e-6
    assert scores.composed == pytest.approx(route * scores.penalty, abs=1e-3)


@given(st.floats(0.0, 100.0), events_strategy, events_strategy, st.sampled_from(Rules))
def test_more_infractions_never_raise_the_score(route, events, more, rules):
    assert score(route, events + more, rules).composed <= score(route, events, rules).composed + 1e-6


@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0), events_strategy, st.sampled_from(Rules))
def test_further_never_scores_less(a, b, events, rules):
    less, further = sorted((a, b))
    assert score(less, events, rules).composed <= score(further, events, rules).composed + 1e-6


@given(
    st.permutations([event(k) for k, *_ in FIXED] + [event(EventKind.MIN_SPEED, 50.0)]),
    st.sampled_from(Rules),
)
def test_order_does_not_matter(events, rules):
    straight = score(100.0, sorted(events, key=lambda e: e.kind.name), rules)
    assert score(100.0, events, rules).composed == pytest.approx(straight.composed, abs=1e-5)


def test_statuses_are_upstreams():
    assert route_status(True, []) == "Perfect"
    assert route_status(True, [event(EventKind.RED_LIGHT)]) == "Completed"
    assert route_status(False, [event(EventKind.VEHICLE_BLOCKED)]) == "Failed - Agent got blocked"
    assert route_status(False, [event(EventKind.ROUTE_TIMEOUT)]) == "Failed - Agent timed out"
    assert route_status(False, [event(EventKind.ROUTE_DEVIATION)]) == "Failed - Agent deviated from the route"
    assert (
        route_status(False, [event(EventKind.RED_LIGHT)], Failure.AGENT_CRASHED) == "Failed - Agent crashed"
    )
    assert route_status(False, [], Failure.SIMULATION) == "Failed - Simulation crashed"
    assert route_status(False, []) == "Failed"


def test_bench2drive_success_ignores_minimum_speed():
    assert is_bench2drive_success("Completed", {"min_speed_infractions": ["m"], "red_light": []})
    assert not is_bench2drive_success("Completed", {"min_speed_infractions": [], "red_light": ["m"]})
    assert not is_bench2drive_success("Failed", {})


def test_an_unknown_rule_names_the_known():
    with pytest.raises(ConfigError, match=r"2\.0"):
        Rules.parse("2.5")
