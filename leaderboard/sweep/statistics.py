"""Intervals for few drives: Wilson for shares, bootstrap for means and rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_Z = 1.959963984540054
"""Standard normal quantile of (1 + CONFIDENCE) / 2."""
_RESAMPLES = 10_000
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; the bounds are None where one drive tells nothing of the spread."""

    value: float
    low: float | None
    high: float | None


def wilson(successes: int, n: int) -> Estimate:
    """A share and Wilson's score interval (Wilson 1927), which holds for few drives and at 0 and 1.

    Raises:
        ValueError: n is below 1, or successes are not within 0 and n.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is no share")
    share = successes / n
    scale = 1.0 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / scale
    half = _Z / scale * math.sqrt(share * (1.0 - share) / n + _Z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(share, low, high)


def mean(values: Sequence[float]) -> Estimate:
    """The mean and its percentile bootstrap interval (Efron 1979), the values resampled as a whole.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no values")
    data = np.asarray(values, float)
    if len(data) < 2:
        return Estimate(float(data.mean()), None, None)
    return Estimate(float(data.mean()), *_bounds(data[_draws(len(data))].mean(axis=1)))


def rate(events: Sequence[int], exposures: Sequence[float]) -> Estimate:
    """Events per unit of exposure over all drives, drives resampled.

    Where nothing happened the upper bound is Poisson's exact one, -ln(0.025) events: no drives without a
    collision are not proof that there are none.

    Args:
        events: of each drive.
        exposures: of each drive, for example its kilometres; together above 0.

    Raises:
        ValueError: there is no exposure, or the two are not of the same length.
    """
    counts, weights = np.asarray(events, float), np.asarray(exposures, float)
    if counts.shape != weights.shape or not weights.sum() > 0:
        raise ValueError("events need an exposure each, not all of them 0")
    value = float(counts.sum() / weights.sum())
    if not counts.any():
        return Estimate(0.0, 0.0, -math.log((1.0 - CONFIDENCE) / 2.0) / float(weights.sum()))
    if len(counts) < 2:
        return Estimate(value, None, None)
    draws = _draws(len(counts))
    exposed = weights[draws].sum(axis=1)
    drawn = counts[draws].sum(axis=1)[exposed > 0] / exposed[exposed > 0]
    return Estimate(value, *_bounds(drawn))


def _draws(n: int) -> np.ndarray:
    """(resamples, n) indices, the same at every call: a figure does not change when it is made again."""
    return np.random.default_rng(_SEED).integers(n, size=(_RESAMPLES, n))


def _bounds(samples: np.ndarray) -> tuple[float, float]:
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(samples, (tail, 100.0 - tail))
    return float(low), float(high)
