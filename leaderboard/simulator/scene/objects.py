"""Level objects (for `World.get_environment_objects` and physics) and the map of what ground is taken."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numba
import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, SolidBox, Tag

ROAD, WALK, BUILT, PLANTED = 1, 2, 4, 8
_MOST_CELLS = 48_000_000


@dataclass(frozen=True, slots=True)
class EnvironmentObject:
    """A static object of the level: `object_id` is stable for a town, `box` in the world frame."""

    object_id: int
    name: str
    tag: Tag
    box: Box


@dataclass
class ObjectRegister:
    """Numbers level objects and keeps their boxes.

    Instances in segmentation images count down from 65535, away from the ids of actors.
    """

    town: str
    objects: list[EnvironmentObject] = field(default_factory=list)
    solids: list[SolidBox] = field(default_factory=list)

    def add(self, kind: str, tag: Tag, box: Box, solid: bool = True, solid_box: Box | None = None) -> int:
        """Register an object and return its instance number; `solid_box` is what a car hits of it."""
        number = len(self.objects)
        name = f"{kind}_{number:05d}"
        digest = hashlib.sha256(f"{self.town}/{name}".encode()).digest()
        self.objects.append(EnvironmentObject(int.from_bytes(digest[:8], "little"), name, tag, box))
        if solid:
            self.solids.append(SolidBox(solid_box or box, tag))
        return 65535 - number % 30000


def upright_box(centre: np.ndarray, extent: tuple[float, float, float], yaw_rad: float = 0.0) -> Box:
    """`Box` around a centre in the world frame."""
    x, y, z = (float(v) for v in centre)
    return Box(Pose(x, y, z, yaw=math.degrees(yaw_rad)), extent)


@numba.njit(cache=True, nogil=True)
def _paint_triangles(cells, origin_x, origin_y, resolution, corners, flag):  # type: ignore[no-untyped-def]
    """Set `flag` in every cell whose centre lies within half a cell of a triangle."""
    rows, columns = cells.shape
    for i in range(corners.shape[0]):
        t = corners[i]
        area = (t[1, 0] - t[0, 0]) * (t[2, 1] - t[0, 1]) - (t[2, 0] - t[0, 0]) * (t[1, 1] - t[0, 1])
        sign = 1.0 if area > 0 else -1.0
        low_x = min(t[0, 0], t[1, 0], t[2, 0]) - resolution
        high_x = max(t[0, 0], t[1, 0], t[2, 0]) + resolution
        low_y = min(t[0, 1], t[1, 1], t[2, 1]) - resolution
        high_y = max(t[0, 1], t[1, 1], t[2, 1]) + resolution
        for r in range(
            max(0, int((low_y - origin_y) / resolution)), min(rows, int((high_y - origin_y) / resolution) + 1)
        ):
            for c in range(
                max(0, int((low_x - origin_x) / resolution)),
                min(columns, int((high_x - origin_x) / resolution) + 1),
            ):
                x = origin_x + (c + 0.5) * resolution
                y = origin_y + (r + 0.5) * resolution
                inside = True
                for e in range(3):
                    ex = t[(e + 1) % 3, 0] - t[e, 0]
                    ey = t[(e + 1) % 3, 1] - t[e, 1]
                    length = math.sqrt(ex * ex + ey * ey) + 1e-9
                    if sign * (ex * (y - t[e, 1]) - ey * (x - t[e, 0])) / length < -0.5 * resolution:
                        inside = False
                        break
                if inside:
                    cells[r, c] |= flag


@numba.njit(cache=True, nogil=True)
def _rectangle(cells, origin_x, origin_y, resolution, x, y, yaw, half_x, half_y, flag):  # type: ignore[no-untyped-def]
    """Flags met within an oriented rectangle; sets `flag` there too where it is not 0."""
    rows, columns = cells.shape
    cos, sin = math.cos(yaw), math.sin(yaw)
    reach_x = abs(cos) * half_x + abs(sin) * half_y + resolution
    reach_y = abs(sin) * half_x + abs(cos) * half_y + resolution
    found = 0
    r0 = math.floor((y - reach_y - origin_y) / resolution)
    r1 = math.floor((y + reach_y - origin_y) / resolution)
    c0 = math.floor((x - reach_x - origin_x) / resolution)
    c1 = math.floor((x + reach_x - origin_x) / resolution)
    for r in range(max(0, r0), min(rows - 1, r1) + 1):
        for c in range(max(0, c0), min(columns - 1, c1) + 1):
            dx = origin_x + (c + 0.5) * resolution - x
            dy = origin_y + (r + 0.5) * resolution - y
            if abs(cos * dx + sin * dy) > half_x + 0.5 * resolution:
                continue
            if abs(cos * dy - sin * dx) > half_y + 0.5 * resolution:
                continue
            found |= cells[r, c]
            if flag:
                cells[r, c] |= flag
    return found


class GroundUse:
    """A raster of who uses the ground: ROAD, WALK, BUILT and PLANTED flags.

    Args:
        low: (2,) lowest x, y to cover.
        high: (2,) highest.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        size = np.maximum(high - low, 1.0)
        self.resolution = max(0.5, math.sqrt(float(size[0] * size[1]) / _MOST_CELLS))
        self.origin = low
        columns, rows = (size / self.resolution).astype(int) + 1
        self.cells = np.zeros((rows, columns), np.uint8)

    def paint(self, triangles: np.ndarray, flag: int) -> None:
        """Mark the ground under (N, 3, 3) triangles."""
        _paint_triangles(
            self.cells, self.origin[0], self.origin[1], self.resolution,
            np.ascontiguousarray(triangles, np.float64), np.uint8(flag),
        )  # fmt: skip

    def rectangle(
        self, x: float, y: float, yaw_rad: float, half_x: float, half_y: float, take: int = 0
    ) -> int:
        """Flags found within a rectangle; marks it with `take` as well."""
        return int(
            _rectangle(
                self.cells,
                self.origin[0],
                self.origin[1],
                self.resolution,
                float(x),
                float(y),
                float(yaw_rad),
                float(half_x),
                float(half_y),
                np.uint8(take),
            )
        )
