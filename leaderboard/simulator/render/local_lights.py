"""Light of street lamps and headlights on what is near them, in the dark.

No shadows: a lamp shines through what stands in its way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from tickdrive.leaderboard.simulator.interfaces import DrawnActor, LightBit, Tag

CELL_M = 8.0
CELLS = 32
MOST_IN_CELL = 8
LAMP_REACH_M = 20.0
BEAM_REACH_M = 40.0
# radiance times square metres, chosen by eye: a white paper under a lamp, and 10 m before a car, is at 0.6
_LAMP_POWER = 46.0
_BEAM_POWER = 210.0
# keeps the light next to a lamp finite, and flattens a beam as its reflector does
_LAMP_SOFT_M2, _BEAM_SOFT_M2 = 20.0, 60.0
_BEAM_COLOUR = (1.0, 0.97, 0.88)
_BEAM_TILT = -0.045
_LIT_VEHICLES = frozenset({Tag.CAR, Tag.TRUCK, Tag.BUS, Tag.MOTORCYCLE})


@dataclass(frozen=True)
class LocalLights:
    """Lights near a camera, in a grid of square cells around it.

    Attributes:
        lights: (K, 12) position, direction, colour times power, reach, softening, 1 for a beam.
        cells: (CELLS, CELLS, MOST_IN_CELL) numbers of lights, rows along y.
        counts: (CELLS, CELLS) how many.
        origin: (2,) x, y of the grid's corner.
    """

    lights: np.ndarray
    cells: np.ndarray
    counts: np.ndarray
    origin: np.ndarray


def no_lights() -> LocalLights:
    """By day."""
    return LocalLights(
        np.zeros((0, 12)), np.zeros((1, 1, 1), np.int32), np.zeros((1, 1), np.int32), np.zeros(2)
    )


def lamp_lights(positions: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(N, 12) street lamps that shine down; (N, 3) positions, and colours 0-1 times their strength."""
    lit = colours.max(axis=1, initial=0.0) > 0.01
    out = np.zeros((int(lit.sum()), 12))
    out[:, :3] = positions[lit]
    out[:, 3:6] = (0.0, 0.0, -1.0)
    out[:, 6:9] = _LAMP_POWER * colours[lit]
    out[:, 9:] = (LAMP_REACH_M, _LAMP_SOFT_M2, 0.0)
    return out


def beam_lights(actors: Sequence[DrawnActor], matrices: np.ndarray, dark: bool) -> np.ndarray:
    """(N, 12) headlights, one for each vehicle; (A, 3, 4) box frame to world of the actors."""
    out = []
    for actor, matrix in zip(actors, matrices, strict=True):
        on = actor.light_flags & (LightBit.LOW_BEAM | LightBit.HIGH_BEAM)
        if actor.tag not in _LIT_VEHICLES or not (on or dark):
            continue
        x, _, z = actor.box.extent
        position = matrix[:, :3] @ np.array([x + 0.05, 0.0, min(0.7, z) - z]) + matrix[:, 3]
        direction = matrix[:, 0] + _BEAM_TILT * matrix[:, 2]
        out.append(
            [*position, *direction, *(_BEAM_POWER * np.array(_BEAM_COLOUR)), BEAM_REACH_M, _BEAM_SOFT_M2, 1.0]
        )
    return np.array(out).reshape(-1, 12)


def arrange(lights: np.ndarray, eye: np.ndarray) -> LocalLights:
    """Sort (K, 12) lights into the grid around a camera at (3,)."""
    if not len(lights):
        return no_lights()
    half = 0.5 * CELLS * CELL_M
    origin = np.floor(eye[:2] / CELL_M) * CELL_M - half
    cells = np.zeros((CELLS, CELLS, MOST_IN_CELL), np.int32)
    counts = np.zeros((CELLS, CELLS), np.int32)
    # the nearest first: where a cell is full, the farthest are left out
    near = np.argsort(np.linalg.norm(lights[:, :2] - eye[:2], axis=1), kind="stable")
    lights = np.ascontiguousarray(lights[near])
    _fill(lights, origin, cells, counts)
    return LocalLights(lights, cells, counts, origin)


@numba.njit(cache=True, nogil=True)
def _fill(lights, origin, cells, counts):  # type: ignore[no-untyped-def]
    rows, columns, most = cells.shape
    for k in range(lights.shape[0]):
        reach = lights[k, 9]
        x, y = lights[k, 0], lights[k, 1]
        if lights[k, 11] > 0.5:  # a beam covers a disc ahead of it
            reach *= 0.5
            x, y = x + reach * lights[k, 3], y + reach * lights[k, 4]
        x, y = x - origin[0], y - origin[1]
        for r in range(max(0, int((y - reach) / CELL_M)), min(rows, int((y + reach) / CELL_M) + 1)):
            for c in range(max(0, int((x - reach) / CELL_M)), min(columns, int((x + reach) / CELL_M) + 1)):
                dx = max(0.0, abs((c + 0.5) * CELL_M - x) - 0.5 * CELL_M)
                dy = max(0.0, abs((r + 0.5) * CELL_M - y) - 0.5 * CELL_M)
                if dx * dx + dy * dy < reach * reach and counts[r, c] < most:
                    cells[r, c, counts[r, c]] = k
                    counts[r, c] += 1


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def light_at(px, py, pz, nx, ny, nz, lights, cells, counts, origin):  # type: ignore[no-untyped-def]
    """Radiance r, g, b that a white surface at a point with a normal gives back."""
    red, green, blue = 0.0, 0.0, 0.0
    c, r = math.floor((px - origin[0]) / CELL_M), math.floor((py - origin[1]) / CELL_M)
    if c < 0 or r < 0 or r >= counts.shape[0] or c >= counts.shape[1]:
        return red, green, blue
    for k in range(counts[r, c]):
        n = cells[r, c, k]
        dx, dy, dz = px - lights[n, 0], py - lights[n, 1], pz - lights[n, 2]
        square = dx * dx + dy * dy + dz * dz
        reach = lights[n, 9]
        ahead = dx * lights[n, 3] + dy * lights[n, 4] + dz * lights[n, 5]
        beam = lights[n, 11] > 0.5
        narrow = 0.80 if beam else 0.10
        # outside of the reach, or of the cone
        if square >= reach * reach or ahead <= 0.0 or ahead * ahead < narrow * narrow * square:
            continue
        facing = -(nx * dx + ny * dy + nz * dz)
        # a beam grazes the road; its grain faces the lamp
        graze = beam and nz > 0.7
        if facing <= 0.0 and not graze:
            continue
        away = 1.0 / math.sqrt(square + 1e-6)
        facing *= away
        if graze:
            facing = max(0.22, facing)
        # from the edge at 37 degrees to the full beam at 11; of a lamp from 84 to 49
        part = min(1.0, (ahead * away - narrow) * (5.5555 if beam else 1.8182))
        edge = 1.0 - square / (reach * reach)
        strength = part * part * facing * edge * edge / (square + lights[n, 10])
        red += strength * lights[n, 6]
        green += strength * lights[n, 7]
        blue += strength * lights[n, 8]
    return red, green, blue
