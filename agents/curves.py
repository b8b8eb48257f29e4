"""A curve between two points of which the directions are known."""

from __future__ import annotations

import numpy as np


def hermite(
    p0: np.ndarray, p1: np.ndarray, m0: np.ndarray, m1: np.ndarray, u: np.ndarray | float
) -> np.ndarray:
    """Points of the cubic Hermite curve, at `u` from 0 to 1; all arguments broadcast.

    Args:
        p0: (..., 2) where it begins.
        p1: (..., 2) where it ends.
        m0: (..., 2) its tangent at the beginning, by `u`.
        m1: (..., 2) its tangent at the end.
        u: (..., 1), or a number.
    """
    h00, h10 = 2 * u**3 - 3 * u**2 + 1, u**3 - 2 * u**2 + u
    h01, h11 = 3 * u**2 - 2 * u**3, u**3 - u**2
    return h00 * p0 + h10 * m0 + h01 * p1 + h11 * m1
