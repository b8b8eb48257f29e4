"""Buildings along the roads: seeded, set back from the sidewalk, never on a road, sidewalk or each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import Tag
from tickdrive.leaderboard.simulator.scene.ground import TerrainGrid
from tickdrive.leaderboard.simulator.scene.mesh import (
    RGB,
    Material,
    MaterialTable,
    MeshBuilder,
    Shade,
    box_mesh,
)
from tickdrive.leaderboard.simulator.scene.objects import BUILT, GroundUse, ObjectRegister, upright_box

WALLS: tuple[RGB, ...] = (
    (178, 96, 74), (196, 150, 112), (214, 202, 178), (160, 158, 154), (202, 178, 134), (136, 82, 66),
    (184, 190, 194), (150, 128, 108), (222, 214, 200), (128, 138, 146), (204, 140, 100), (170, 176, 160),
)  # fmt: skip
ROOFS: tuple[RGB, ...] = ((140, 66, 52), (96, 70, 62), (92, 94, 98), (122, 86, 66))
SHOP_FRONTS: tuple[RGB, ...] = ((70, 72, 76), (118, 104, 92), (58, 74, 86), (132, 126, 116), (96, 58, 50))
SHOP_HEIGHT_M = 3.8
STOREY_M = 3.2


@dataclass(frozen=True)
class Frontage:
    """A line that houses may face: outer border of a road's paving.

    Attributes:
        points: (n, 3) world points.
        outward: (n, 2) unit vectors away from the road.
        fast: a road on which one does not live.
    """

    points: np.ndarray
    outward: np.ndarray
    fast: bool


class _District:
    """Smooth seeded noise 0-1 over the town: low is suburb, high is centre."""

    def __init__(self, rng: np.random.Generator, cell_m: float = 140.0) -> None:
        self._table = rng.random((16, 16))
        self._cell = cell_m

    def at(self, x: float, y: float) -> float:
        u, v = x / self._cell, y / self._cell
        c, r = math.floor(u), math.floor(v)
        fu, fv = u - c, v - r
        t = self._table
        low = t[r % 16, c % 16] * (1 - fu) + t[r % 16, (c + 1) % 16] * fu
        high = t[(r + 1) % 16, c % 16] * (1 - fu) + t[(r + 1) % 16, (c + 1) % 16] * fu
        return float(low * (1 - fv) + high * fv)


def build_buildings(
    frontages: list[Frontage],
    use: GroundUse,
    terrain: TerrainGrid,
    builder: MeshBuilder,
    table: MaterialTable,
    register: ObjectRegister,
    rng: np.random.Generator,
) -> None:
    """Line the frontages with buildings, then a taller second row behind them."""
    district = _District(rng)
    for row in (0, 1):
        for frontage in frontages:
            _line(frontage, row, district, use, terrain, builder, table, register, rng)


def _line(
    frontage: Frontage,
    row: int,
    district: _District,
    use: GroundUse,
    terrain: TerrainGrid,
    builder: MeshBuilder,
    table: MaterialTable,
    register: ObjectRegister,
    rng: np.random.Generator,
) -> None:
    steps = np.linalg.norm(np.diff(frontage.points[:, :2], axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    at = 2.0 + 6.0 * rng.random()
    while at < along[-1] - 4.0:
        wide, deep = rng.uniform(11.0, 24.0), rng.uniform(10.0, 17.0)
        back = rng.uniform(2.2, 4.5) if row == 0 else rng.uniform(24.0, 40.0)
        if frontage.fast:
            back += rng.uniform(14.0, 26.0)
        skipped = rng.random() < (0.72 if frontage.fast else (0.10 if row == 0 else 0.45))
        placed = False
        for shrink in () if skipped else (1.0, 0.62):
            half_x, half_y = 0.5 * wide * shrink, 0.5 * deep * shrink
            middle = min(at + half_x, float(along[-1]))
            foot = np.array([np.interp(middle, along, frontage.points[:, k]) for k in range(3)])
            out = np.array([np.interp(middle, along, frontage.outward[:, k]) for k in range(2)])
            out /= max(float(np.linalg.norm(out)), 1e-6)
            x, y = foot[:2] + out * (back + half_y)
            yaw = math.atan2(out[1], out[0]) - 0.5 * math.pi
            if abs(terrain.height(x, y) - foot[2]) > 3.0 or use.rectangle(
                x, y, yaw, half_x + 1.4, half_y + 1.4
            ):
                continue
            use.rectangle(x, y, yaw, half_x, half_y, BUILT)
            _building(
                x,
                y,
                yaw,
                half_x,
                half_y,
                district.at(x, y) + 0.25 * row,
                terrain,
                builder,
                table,
                register,
                rng,
            )
            at = middle + half_x + (rng.uniform(0.6, 1.6) if rng.random() < 0.55 else rng.uniform(3.0, 9.0))
            placed = True
            break
        if not placed:
            at += rng.uniform(4.0, 8.0)


def _building(
    x: float, y: float, yaw: float, half_x: float, half_y: float, centrality: float, terrain: TerrainGrid,
    builder: MeshBuilder, table: MaterialTable, register: ObjectRegister, rng: np.random.Generator,
) -> None:  # fmt: skip
    cos, sin = math.cos(yaw), math.sin(yaw)

    def world(px: float, py: float, pz: float) -> np.ndarray:
        return np.array([x + cos * px - sin * py, y + sin * px + cos * py, pz])

    grounds = [terrain.height(*world(sx * half_x, sy * half_y, 0.0)[:2]) for sx in (-1, 1) for sy in (-1, 1)]
    base, low = max(grounds), min(grounds) - 0.6
    house = centrality < 0.42 and half_x < 11.0
    storeys = 2 if house else int(rng.integers(2, 4) + max(0.0, centrality - 0.3) * rng.uniform(4.0, 11.0))
    top = base + 0.6 + STOREY_M * storeys + (0.0 if house else SHOP_HEIGHT_M - STOREY_M)
    wall = WALLS[int(rng.integers(len(WALLS)))]
    seed = float(rng.integers(1, 1000))
    roof_rise = 0.38 * half_y * 2 if house else 0.0
    box = upright_box(
        world(0, 0, 0.5 * (low + top + roof_rise)), (half_x, half_y, 0.5 * (top + roof_rise - low)), yaw
    )
    instance = register.add("House" if house else "Building", Tag.BUILDING, box)

    corners = [(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)]
    share = float(rng.uniform(0.42, 0.68)) if not house else 0.36
    shop = SHOP_FRONTS[int(rng.integers(len(SHOP_FRONTS)))]
    split = low if house else base + SHOP_HEIGHT_M
    for k in range(4):
        a, b = corners[k], corners[(k + 1) % 4]
        p, q = world(*a, 0.0), world(*b, 0.0)
        width = float(np.linalg.norm(q - p))
        tangent = (q - p) / width
        bays = max(1, round((width - 1.0) / 3.0))
        pitch = (width - 1.0) / bays
        start = float(p @ tangent) + 0.5
        first = base + 0.4 if house else split
        upper = Material(
            Tag.BUILDING, wall, Shade.FACADE, (start, first, pitch, STOREY_M, share, seed + 0.01 * k)
        )
        pieces = [(split, top, table.add(upper))]
        if not house:
            front = (start, base, (width - 1.0) / max(1, bays // 2), SHOP_HEIGHT_M, 0.8, seed + 0.5)
            pieces.append((low, split, table.add(Material(Tag.BUILDING, shop, Shade.FACADE, front))))
        for z0, z1, material in pieces:
            quad = np.array([[*p[:2], z0], [*q[:2], z0], [*q[:2], z1], [*p[:2], z1]])
            builder.add_quads(quad[None], material, instance)
    if house:
        _gable(world, half_x, half_y, top, roof_rise, wall, builder, table, instance, rng)
        return
    trim = table.add(
        Material(Tag.BUILDING, (min(wall[0] + 22, 255), min(wall[1] + 24, 255), min(wall[2] + 26, 255)))
    )
    for z, out, thick in ((split, 0.14, 0.16), (top + 0.25, 0.2, 0.42)):
        builder.add(*box_mesh(world(0, 0, z), (half_x + out, half_y + out, thick), yaw), trim, instance)
    grey = table.add(Material(Tag.BUILDING, (128, 128, 130)))
    for _ in range(int(rng.integers(0, 3))):
        spot = world(rng.uniform(-0.5, 0.5) * half_x, rng.uniform(-0.5, 0.5) * half_y, top + 1.0)
        size = (rng.uniform(0.8, 2.0), rng.uniform(0.8, 1.6), 0.9)
        builder.add(*box_mesh(spot, size, yaw), grey, instance)


def _gable(world, half_x, half_y, top, rise, wall, builder, table, instance, rng) -> None:  # type: ignore[no-untyped-def]
    """Pitched roof with eaves, ridge along the street, over the two gable walls."""
    roof = table.add(Material(Tag.BUILDING, ROOFS[int(rng.integers(len(ROOFS)))]))
    plain = table.add(Material(Tag.BUILDING, wall))
    eave, slope = 0.45, rise / half_y
    for sy in (-1, 1):
        low_y, low_z = sy * (half_y + eave), top - eave * slope
        quad = [
            world(-half_x - eave, low_y, low_z),
            world(half_x + eave, low_y, low_z),
            world(half_x + eave, 0, top + rise),
            world(-half_x - eave, 0, top + rise),
        ]
        builder.add_quads(np.array(quad)[None], roof, instance)
    for sx in (-1, 1):
        triangle = [
            world(sx * half_x, -half_y, top),
            world(sx * half_x, half_y, top),
            world(sx * half_x, 0, top + rise),
        ]
        builder.add(np.array(triangle), np.array([[0, 1, 2]]), plain, instance)
    chimney = world(0.5 * half_x, 0.25 * half_y, top + rise)
    builder.add(*box_mesh(chimney, (0.35, 0.35, 0.9)), plain, instance)
