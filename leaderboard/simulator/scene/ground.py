"""Heights of the drivable and walkable surfaces, exact to the mesh, over several levels; and the terrain.

Road and sidewalk triangles are kept in the cells of a coarse grid; a query tests the few triangles of its
cell. Bridges therefore need no special case: the layer nearest to a hint is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

CELL_M = 4.0
TERRAIN_CELL_M = 8.0
# a surface further than this from the hint yields to the terrain where that is nearer
LAYER_M = 1.5


@numba.njit(cache=True, nogil=True)
def _bin_triangles(corners, origin_x, origin_y, columns, rows, cell, starts, items):  # type: ignore[no-untyped-def]
    """Cell lists of triangles (by their bounding boxes). Counts where `items` is empty, else fills it."""
    counting = items.shape[0] == 0
    for i in range(corners.shape[0]):
        x0 = min(corners[i, 0, 0], corners[i, 1, 0], corners[i, 2, 0])
        x1 = max(corners[i, 0, 0], corners[i, 1, 0], corners[i, 2, 0])
        y0 = min(corners[i, 0, 1], corners[i, 1, 1], corners[i, 2, 1])
        y1 = max(corners[i, 0, 1], corners[i, 1, 1], corners[i, 2, 1])
        c0 = max(0, math.floor((x0 - origin_x) / cell))
        c1 = min(columns - 1, math.floor((x1 - origin_x) / cell))
        r0 = max(0, math.floor((y0 - origin_y) / cell))
        r1 = min(rows - 1, math.floor((y1 - origin_y) / cell))
        for r in range(r0, r1 + 1):
            for c in range(c0, c1 + 1):
                if not _overlaps(corners[i], origin_x + c * cell, origin_y + r * cell, cell):
                    continue
                k = r * columns + c
                if counting:
                    starts[k + 1] += 1
                else:
                    items[starts[k]] = i
                    starts[k] += 1


@numba.njit(cache=True, nogil=True)
def _overlaps(corner, x, y, cell):  # type: ignore[no-untyped-def]
    """Whether a triangle's edges leave any part of a cell inside (conservative separating-axis test)."""
    area = (corner[1, 0] - corner[0, 0]) * (corner[2, 1] - corner[0, 1]) - (corner[2, 0] - corner[0, 0]) * (
        corner[1, 1] - corner[0, 1]
    )
    sign = 1.0 if area > 0 else -1.0
    half = 0.5 * cell
    for e in range(3):
        ax, ay = corner[e, 0], corner[e, 1]
        nx = -(corner[(e + 1) % 3, 1] - ay) * sign
        ny = (corner[(e + 1) % 3, 0] - ax) * sign
        reach = nx * (x + half - ax) + ny * (y + half - ay) + half * (abs(nx) + abs(ny))
        if reach < -1e-6:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _surface(corners, starts, items, origin_x, origin_y, columns, rows, cell, x, y, hint):  # type: ignore[no-untyped-def]
    """Height of the triangle over (x, y) nearest to the hint, NaN where there is none."""
    c = math.floor((x - origin_x) / cell)
    r = math.floor((y - origin_y) / cell)
    best = np.nan
    if c < 0 or r < 0 or c >= columns or r >= rows:
        return best
    gap = 1e30
    k = r * columns + c
    for m in range(starts[k], starts[k + 1]):
        t = corners[items[m]]
        ux = t[1, 0] - t[0, 0]
        uy = t[1, 1] - t[0, 1]
        vx = t[2, 0] - t[0, 0]
        vy = t[2, 1] - t[0, 1]
        det = ux * vy - uy * vx
        if abs(det) < 1e-12:
            continue
        px = x - t[0, 0]
        py = y - t[0, 1]
        a = (px * vy - py * vx) / det
        b = (ux * py - uy * px) / det
        if a < -1e-4 or b < -1e-4 or a + b > 1.0001:
            continue
        z = t[0, 2] + a * (t[1, 2] - t[0, 2]) + b * (t[2, 2] - t[0, 2])
        if abs(z - hint) < gap:
            gap = abs(z - hint)
            best = z
    return best


@numba.njit(cache=True, nogil=True)
def _terrain(heights, origin_x, origin_y, cell, x, y):  # type: ignore[no-untyped-def]
    """Height of the terrain's triangles (cells split from their low x, low y corner)."""
    u = min(max((x - origin_x) / cell, 0.0), heights.shape[1] - 1.001)
    v = min(max((y - origin_y) / cell, 0.0), heights.shape[0] - 1.001)
    c, r = int(u), int(v)
    u -= c
    v -= r
    z00, z11 = heights[r, c], heights[r + 1, c + 1]
    if u >= v:
        z10 = heights[r, c + 1]
        return z00 + u * (z10 - z00) + v * (z11 - z10)
    z01 = heights[r + 1, c]
    return z00 + v * (z01 - z00) + u * (z11 - z01)


@numba.njit(cache=True, nogil=True)
def _height(corners, starts, items, grid, heights, terrain_grid, x, y, hint):  # type: ignore[no-untyped-def]
    z = _surface(corners, starts, items, grid[0], grid[1], int(grid[2]), int(grid[3]), grid[4], x, y, hint)
    if not math.isnan(z) and abs(z - hint) <= LAYER_M:
        return z
    base = _terrain(heights, terrain_grid[0], terrain_grid[1], terrain_grid[2], x, y)
    if math.isnan(z) or abs(base - hint) < abs(z - hint):
        return base
    return z


@numba.njit(cache=True, nogil=True)
def _surface_many(corners, starts, items, grid, points, out):  # type: ignore[no-untyped-def]
    for i in range(points.shape[0]):
        out[i] = _surface(
            corners, starts, items, grid[0], grid[1], int(grid[2]), int(grid[3]), grid[4],
            points[i, 0], points[i, 1], points[i, 2],
        )  # fmt: skip


class SurfaceIndex:
    """Triangles that can be asked for their height.

    Args:
        corners: (N, 3, 3) triangle corners in the world frame.
    """

    def __init__(self, corners: np.ndarray) -> None:
        self.corners = np.ascontiguousarray(corners, np.float64)
        low = self.corners.reshape(-1, 3).min(0) if len(corners) else np.zeros(3)
        high = self.corners.reshape(-1, 3).max(0) if len(corners) else np.ones(3)
        columns = int((high[0] - low[0]) / CELL_M) + 1
        rows = int((high[1] - low[1]) / CELL_M) + 1
        self.grid = np.array([low[0], low[1], columns, rows, CELL_M])
        counts = np.zeros(columns * rows + 1, np.int64)
        empty = np.zeros(0, np.int64)
        _bin_triangles(self.corners, low[0], low[1], columns, rows, CELL_M, counts, empty)
        self.starts = np.cumsum(counts)
        self.items = np.zeros(max(int(self.starts[-1]), 1), np.int64)
        _bin_triangles(self.corners, low[0], low[1], columns, rows, CELL_M, self.starts.copy(), self.items)

    def heights(self, points: np.ndarray) -> np.ndarray:
        """(N,) height of the surface over each (N, 3) point nearest to the point's z; NaN where none is."""
        out = np.empty(len(points))
        _surface_many(
            self.corners, self.starts, self.items, self.grid, np.ascontiguousarray(points, np.float64), out
        )
        return out


@dataclass(frozen=True)
class TerrainGrid:
    """Terrain heights (rows, columns) at the corners of square cells; row is y, column is x."""

    origin_x: float
    origin_y: float
    cell_m: float
    heights: np.ndarray

    def height(self, x: float, y: float) -> float:
        """Terrain height at (x, y); beyond the grid that of its edge."""
        return float(_terrain(self.heights, self.origin_x, self.origin_y, self.cell_m, x, y))


class SceneGround:
    """`interfaces.Ground` of a town: roads, sidewalks and the terrain between them."""

    def __init__(self, surface: SurfaceIndex, terrain: TerrainGrid) -> None:
        self._surface = surface
        self.terrain = terrain
        self._terrain_grid = np.array([terrain.origin_x, terrain.origin_y, terrain.cell_m])
        self.height(0.0, 0.0, 0.0)  # compile now, not in the first tick

    def height(self, x: float, y: float, z_hint: float) -> float:
        """Surface height in metres over (x, y), of the layer nearest to `z_hint`."""
        s = self._surface
        return _height(
            s.corners, s.starts, s.items, s.grid, self.terrain.heights, self._terrain_grid, x, y, z_hint
        )


def terrain_from_surface(points: np.ndarray, margin_m: float = 240.0) -> TerrainGrid:
    """Terrain that passes just below the lowest road at each place and flows smoothly between roads.

    Args:
        points: (N, 3) samples of the road and sidewalk surfaces.
        margin_m: how far it goes beyond them.
    """
    if not len(points):
        points = np.zeros((1, 3))
    cell = TERRAIN_CELL_M
    low = np.floor((points[:, :2].min(0) - margin_m) / cell) * cell
    size = np.ceil((points[:, :2].max(0) + margin_m - low) / cell).astype(int) + 1
    known = np.full((size[1], size[0]), np.inf)
    column = ((points[:, 0] - low[0]) / cell).astype(int)
    row = ((points[:, 1] - low[1]) / cell).astype(int)
    for dr in (0, 1):
        for dc in (0, 1):
            np.minimum.at(known, (row + dr, column + dc), points[:, 2])
    # below the road everywhere in its cell, however the cell's triangles slope
    lowest = known.copy()
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            shifted = np.roll(known, (dr, dc), (0, 1))
            lowest = np.where(np.isfinite(known), np.minimum(lowest, shifted), lowest)
    fixed = np.isfinite(lowest)
    heights = _fill(np.where(fixed, lowest - 0.05, 0.0), fixed)
    return TerrainGrid(float(low[0]), float(low[1]), cell, np.ascontiguousarray(heights))


def _fill(values: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """Smooth surface through the fixed cells: a pyramid of means gives the start, then relaxation."""
    if fixed.all() or not fixed.any():
        return values
    weight = fixed.astype(np.float64)
    rows, columns = values.shape
    half_rows, half_columns = (rows + 1) // 2, (columns + 1) // 2
    padded = np.zeros((2, 2 * half_rows, 2 * half_columns))
    padded[0, :rows, :columns], padded[1, :rows, :columns] = values * weight, weight
    summed = padded.reshape(2, half_rows, 2, half_columns, 2).sum(axis=(2, 4))
    coarse_fixed = summed[1] > 0
    coarse = _fill(np.where(coarse_fixed, summed[0] / np.maximum(summed[1], 1e-9), 0.0), coarse_fixed)
    out = np.where(fixed, values, np.repeat(np.repeat(coarse, 2, 0), 2, 1)[:rows, :columns])
    for _ in range(24):
        edge = np.pad(out, 1, mode="edge")
        mean = 0.25 * (edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:])
        out = np.where(fixed, values, mean)
    return out
