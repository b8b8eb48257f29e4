"""Trees and street lamps along the roads and on the open ground."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import Tag
from tickdrive.leaderboard.simulator.scene.buildings import Frontage
from tickdrive.leaderboard.simulator.scene.ground import SceneGround
from tickdrive.leaderboard.simulator.scene.mesh import (
    Material,
    MaterialTable,
    Mesh,
    MeshBuilder,
    Shade,
    box_mesh,
    sphere_mesh,
    tube_mesh,
)
from tickdrive.leaderboard.simulator.scene.objects import (
    PLANTED,
    ROAD,
    GroundUse,
    ObjectRegister,
    upright_box,
)

BARK = Material(Tag.VEGETATION, (98, 78, 60))
LEAVES = tuple(
    Material(Tag.VEGETATION, rgb, Shade.FOLIAGE, smooth=True)
    for rgb in ((86, 122, 52), (70, 108, 48), (104, 130, 58), (62, 96, 54), (122, 128, 60), (78, 116, 66))
)
STEEL = Material(Tag.POLE, (104, 108, 112))
LAMP_GLASS = Material(Tag.POLE, (236, 232, 214))
MOST_TREES = 1600
LAMP_EVERY_M = 30.0


def _blob(
    rng: np.random.Generator,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    around: int,
) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = sphere_mesh(centre, radii, around, max(3, around * 2 // 3))
    offset = vertices - np.asarray(centre)
    # vertices at one place (the poles) must move together
    bump = 1.0 + 0.13 * np.sin(7.1 * offset[:, 0] + rng.uniform(0, 6)) * np.cos(
        6.3 * offset[:, 1] + 5.0 * offset[:, 2]
    )
    return np.asarray(centre) + offset * bump[:, None], faces


def tree_template(rng: np.random.Generator, kind: int, detailed: bool) -> Mesh:
    """A tree about 6 m tall; material 0 is bark, 1 leaves."""
    builder = MeshBuilder()
    around = 9 if detailed else 5
    if kind == 2:  # conifer
        builder.add(*tube_mesh((0, 0, -0.3), (0, 0, 1.6), 0.16, 0.13, 6 if detailed else 3), 0)
        for k in range(4 if detailed else 2):
            z = 1.0 + (1.35 if detailed else 2.4) * k
            wide = 1.75 - (0.38 if detailed else 0.7) * k
            tall = 2.0 if detailed else 3.2
            builder.add(*tube_mesh((0, 0, z), (0, 0, z + tall), wide, 0.06, around), 1)
    else:
        stem = 2.3 if kind == 0 else 1.8
        builder.add(*tube_mesh((0, 0, -0.3), (0, 0, stem + 0.6), 0.19, 0.11, 7 if detailed else 3), 0)
        blobs = (
            [((0.0, 0.0, stem + 1.9), (1.75, 1.7, 1.55)), ((0.75, 0.35, stem + 1.0), (1.15, 1.1, 0.95)),
             ((-0.65, 0.5, stem + 1.25), (1.1, 1.1, 1.0)), ((-0.1, -0.8, stem + 1.1), (1.15, 1.0, 0.95))]
            if kind == 0
            else [((0.0, 0.0, stem + 1.7), (1.15, 1.15, 2.0)), ((0.25, 0.2, stem + 0.8), (1.2, 1.15, 1.1))]
        )  # fmt: skip
        for centre, radii in blobs if detailed else blobs[:1]:
            grow = 1.0 if detailed else 1.18
            vertices, faces = _blob(rng, centre, (grow * radii[0], grow * radii[1], grow * radii[2]), around)
            builder.add(vertices, faces, 1)
    return builder.build()


def build_trees(
    frontages: list[Frontage], use: GroundUse, ground: SceneGround, near: MeshBuilder, far: MeshBuilder,
    table: MaterialTable, register: ObjectRegister, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Rows of street trees behind the sidewalks and loose ones on open ground."""
    spots: list[tuple[float, float, float]] = []
    for frontage in frontages:
        steps = np.concatenate(
            [[0.0], np.cumsum(np.linalg.norm(np.diff(frontage.points[:, :2], axis=0), axis=1))]
        )
        at = rng.uniform(3.0, 8.0)
        while at < steps[-1]:
            back = rng.uniform(0.9, 1.4) if not frontage.fast else rng.uniform(5.0, 10.0)
            p = [np.interp(at, steps, frontage.points[:, k]) for k in range(3)]
            o = [np.interp(at, steps, frontage.outward[:, k]) for k in range(2)]
            spots.append((p[0] + back * o[0], p[1] + back * o[1], p[2]))
            at += rng.uniform(9.0, 15.0)
    rows, columns = use.cells.shape
    count = min(9000, int(rows * columns * use.resolution**2 / 140.0))
    loose = rng.random((count, 2)) * [columns, rows] * use.resolution + use.origin
    taken = np.array([use.rectangle(x, y, 0.0, 2.6, 2.6) == 0 for x, y in loose], bool).reshape(-1)
    spots.extend((x, y, math.nan) for x, y in loose[taken][: MOST_TREES // 2])

    places, kinds = [], []
    for x, y, level in spots[: 4 * MOST_TREES]:
        z = ground.terrain.height(x, y)
        if (level == level and abs(z - level) > 2.5) or use.rectangle(x, y, 0.0, 0.55, 0.55):
            continue
        use.rectangle(x, y, 0.0, 1.6, 1.6, PLANTED)
        scale = rng.uniform(0.75, 1.3)
        places.append((x, y, z, rng.uniform(0, 2 * math.pi), scale, scale * rng.uniform(0.9, 1.25)))
        kinds.append(int(rng.choice(3, p=(0.5, 0.3, 0.2))))
        if len(places) >= MOST_TREES:
            break
    place, kind = np.array(places).reshape(-1, 6), np.array(kinds, int)
    for variant in range(3):
        chosen = place[kind == variant]
        colours = rng.integers(len(LEAVES), size=len(chosen))
        numbers = np.array([_register_tree(register, p) for p in chosen], np.uint16)
        for detailed, builder in ((True, near), (False, far)):
            template = tree_template(rng, variant, detailed)
            for colour, leaves in enumerate(LEAVES):
                rows_of = np.array([table.add(BARK), table.add(leaves)], np.int32)
                coloured = Mesh(
                    template.vertices, template.faces, rows_of[template.materials], template.instances
                )
                builder.add_copies(coloured, chosen[colours == colour], numbers[colours == colour])


def _register_tree(register: ObjectRegister, place: np.ndarray) -> int:
    x, y, z, _, wide, tall = (float(v) for v in place)
    crown = upright_box(np.array([x, y, z + 2.9 * tall]), (1.9 * wide, 1.9 * wide, 2.9 * tall))
    trunk = upright_box(np.array([x, y, z + 1.2 * tall]), (0.18 * wide, 0.18 * wide, 1.2 * tall))
    return register.add("Tree", Tag.VEGETATION, crown, solid_box=trunk)


LAMP_GLASS_AT_M = (2.1, 0.0, 7.42)


@dataclass(frozen=True)
class StreetLamps:
    """Where the lamps' lights are, (N, 3) world frame, and the material row of each one's glass (N,)."""

    positions: np.ndarray
    rows: np.ndarray


def lamp_template(steel: int) -> Mesh:
    """A street lamp without its glass, whose arm reaches along its own x axis."""
    builder = MeshBuilder()
    builder.add(*tube_mesh((0, 0, -0.4), (0, 0, 0.9), 0.14, 0.11, 7), steel)
    builder.add(*tube_mesh((0, 0, 0.9), (0, 0, 7.2), 0.085, 0.06, 7), steel)
    builder.add(*tube_mesh((0, 0, 7.1), (1.9, 0, 7.5), 0.05, 0.04, 6), steel)
    builder.add(*box_mesh((2.1, 0, 7.5), (0.42, 0.15, 0.06)), steel)
    return builder.build()


def glass_template(glass: int) -> Mesh:
    """The glass of a street lamp."""
    builder = MeshBuilder()
    builder.add(*box_mesh(LAMP_GLASS_AT_M, (0.34, 0.11, 0.03)), glass)
    return builder.build()


def build_lamps(
    curbs: list[Frontage], use: GroundUse, ground: SceneGround, builder: MeshBuilder, table: MaterialTable,
    register: ObjectRegister, rng: np.random.Generator,
) -> StreetLamps:  # fmt: skip
    """Street lamps just behind the curb; each has glass of its own, which can be lit."""
    template = lamp_template(table.add(STEEL))
    places, numbers = [], []
    for curb in curbs:
        steps = np.concatenate(
            [[0.0], np.cumsum(np.linalg.norm(np.diff(curb.points[:, :2], axis=0), axis=1))]
        )
        for at in np.arange(rng.uniform(6.0, 16.0), max(0.0, steps[-1] - 4.0), LAMP_EVERY_M):
            p = np.array([np.interp(at, steps, curb.points[:, k]) for k in range(3)])
            o = np.array([np.interp(at, steps, curb.outward[:, k]) for k in range(2)])
            x, y = p[:2] + 0.55 * o
            if use.rectangle(x, y, 0.0, 0.3, 0.3) & ~2:
                continue
            if ROAD & use.rectangle(x, y, 0.0, 0.4, 0.4):
                continue
            z = ground.height(x, y, p[2])
            use.rectangle(x, y, 0.0, 1.2, 1.2, PLANTED)
            yaw = math.atan2(-o[1], -o[0])
            places.append((x, y, z, yaw, 1.0, 1.0))
            box = upright_box(np.array([x, y, z + 3.75]), (0.12, 0.12, 3.75))
            numbers.append(register.add("StreetLamp", Tag.POLE, box))
    place, number = np.array(places).reshape(-1, 6), np.array(numbers, np.uint16)
    builder.add_copies(template, place, number)
    rows = np.array([table.add(LAMP_GLASS, own_row=True) for _ in places], np.int64)
    if len(rows):
        builder.add_copies(glass_template(int(rows[0])), place, number, rows - rows[0])
    x, _, z = LAMP_GLASS_AT_M
    reach = np.stack([x * np.cos(place[:, 3]), x * np.sin(place[:, 3]), np.full(len(place), z)], axis=1)
    return StreetLamps(place[:, :3] + reach, rows)
