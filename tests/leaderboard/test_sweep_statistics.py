"""Intervals against closed forms and scipy's values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tickdrive.leaderboard.sweep.statistics import mean, rate, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # scipy 1.17: binomtest(successes, n).proportion_ci(method="wilson")
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (9, 9, 0.700855, 1.0), (1, 9, 0.019891, 0.435)],
)
def test_wilson_is_scipys_interval(successes, n, low, high):
    estimate = wilson(successes, n)
    assert estimate.value == successes / n
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-5)


def test_wilson_solves_its_own_equation():
    """Its bounds are the p at which |share - p| is z standard deviations of p."""
    estimate = wilson(7, 23)
    for p in (estimate.low, estimate.high):
        assert abs(7 / 23 - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 23), rel=1e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_no_share_is_refused(successes, n):
    with pytest.raises(ValueError, match="no share"):
        wilson(successes, n)


def test_the_bootstrap_of_a_mean_is_the_normal_interval_for_many_values():
    values = np.random.default_rng(3).normal(70.0, 20.0, 400).tolist()
    estimate = mean(values)
    half = 1.959964 * np.std(values) / math.sqrt(len(values))
    assert estimate.value == pytest.approx(np.mean(values))
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.1)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.1)


def test_the_bootstrap_of_two_values_is_known_exactly():
    """Resamples of {0, 1} have the means 0, 0.5 and 1 with 1/4, 1/2 and 1/4: the 95 % bounds are 0 and 1."""
    estimate = mean([0.0, 1.0])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


def test_the_bootstrap_of_a_sweeps_few_values_is_scipys():
    values = [93.8, 98.5, 89.6, 68.3, 100.0, 59.7, 89.7, 39.5, 48.6]
    estimate = mean(values)
    # scipy 1.17: bootstrap((values,), np.mean, method="percentile", n_resamples=200_000)
    assert (estimate.low, estimate.high) == pytest.approx((61.9, 89.82), abs=0.6)


def test_pairing_takes_out_what_differs_between_routes():
    at_zero, late = [100.0, 60.0, 20.0] * 3, [90.0, 50.0, 10.0] * 3
    change = mean([b - a for a, b in zip(at_zero, late, strict=True)])
    assert (change.value, change.low, change.high) == (-10.0, -10.0, -10.0)
    assert mean(late).high - mean(late).low > 30.0


def test_figures_are_the_same_when_made_again():
    assert mean([1.0, 5.0, 9.0]) == mean([1.0, 5.0, 9.0])


def test_one_value_has_no_interval_and_none_no_mean():
    assert mean([3.0]).low is None and mean([3.0]).value == 3.0
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_a_rate_weighs_by_exposure():
    estimate = rate([1, 3], [1.0, 3.0])
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)
    assert rate([4, 0], [1.0, 3.0]).value == 1.0


def test_a_rate_of_many_drives_has_the_poisson_interval():
    events = np.random.default_rng(5).poisson(2.0, 500).tolist()
    estimate = rate(events, [0.5] * 500)
    half = 1.959964 * math.sqrt(sum(events)) / 250.0
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.05)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.05)


def test_no_event_is_no_proof_of_none():
    """Poisson: the upper bound u of zero events solves exp(-u) = 0.025."""
    estimate = rate([0, 0, 0], [0.3, 0.3, 0.4])
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert math.exp(-estimate.high * 1.0) == pytest.approx(0.025)
    with pytest.raises(ValueError, match="exposure"):
        rate([0], [0.0])
