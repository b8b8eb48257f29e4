"""What a tick budget chooses, from what stages took."""

import pytest

from tickdrive.agents.config import BudgetConfig
from tickdrive.agents.shared_models import WarmTiming
from tickdrive.agents.tick_budget import TickBudget

TIMING = WarmTiming(features_ms=10.0, plan_ms={10: 20.0, 5: 12.0, 2: 8.0})


def budget(**changes):
    return TickBudget(BudgetConfig(**{"margin_ms": 2.0, **changes}), TIMING, patience=3)


def choose(budget, elapsed=5.0, unplanned=False, since=1, can_wait=True):
    return budget.choose(elapsed, unplanned, since, can_wait)


def test_all_steps_where_they_fit():
    choice = choose(budget())
    assert (choice.perceive, choice.steps) == (True, 10)
    assert choice.predicted_ms == pytest.approx(35.0)


@pytest.mark.parametrize(("elapsed", "steps"), [(18.0, 10), (18.1, 5), (26.0, 5), (26.1, 2), (30.0, 2)])
def test_fewer_steps_where_the_tick_is_short_of_time(elapsed, steps):
    assert choose(budget(), elapsed).steps == steps


def test_perception_alone_then_the_plan_on_it_then_nothing():
    late = budget()
    first = choose(late, elapsed=35.0)
    assert (first.perceive, first.steps) == (True, 0)
    second = choose(late, elapsed=35.0, unplanned=True)
    assert (second.perceive, second.steps) == (False, 5)
    third = choose(late, elapsed=45.0)
    assert (third.perceive, third.steps) == (False, 0)


def test_late_is_better_than_blind():
    late = budget()
    assert choose(late, elapsed=60.0, can_wait=False).steps == 2
    assert choose(late, elapsed=60.0, since=2).steps == 0
    forced = choose(late, elapsed=60.0, since=3)
    assert (forced.perceive, forced.steps) == (True, 2) and forced.predicted_ms > 50.0


def test_one_slow_plan_changes_nothing_a_slow_machine_does():
    slow = budget(history=20)
    for _ in range(20):
        slow.note_plan(10, 20.0)
    slow.note_plan(10, 90.0)
    assert choose(slow).steps == 10
    for _ in range(4):
        slow.note_plan(10, 60.0)
    assert slow.predicted_plan_ms(5) == pytest.approx(36.0)  # threefold, for counts that were not run, too
    assert choose(slow).steps == 2
    for _ in range(20):
        slow.note_plan(2, 8.0)  # and it recovers without running ten steps
    assert choose(slow).steps == 10


def test_perception_that_took_longer_leaves_fewer_steps():
    late = budget()
    choice = choose(late)
    assert late.choose_steps(15.0, choice, 1, True).steps == 10
    assert late.choose_steps(35.0, choice, 1, True).steps == 5
    assert late.choose_steps(49.0, choice, 1, True).steps == 0
    assert late.choose_steps(49.0, choice, 3, True).steps == 2
    assert late.choose_steps(49.0, choice, 1, False).steps == 2


def test_what_comes_after_the_plan_counts():
    tail = budget()
    for _ in range(20):
        tail.note_tail(9.0)
    assert choose(tail, elapsed=10.0).steps == 5
