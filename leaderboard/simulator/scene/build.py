"""Builds a town's scene from its road network: meshes, solids and the ground.

Deterministic: the same network gives the same scene, seeded by a digest of its name and OpenDRIVE text.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import RoadFurniture, SolidBox, Tag
from tickdrive.leaderboard.simulator.scene.buildings import Frontage, build_buildings
from tickdrive.leaderboard.simulator.scene.ground import (
    SceneGround,
    SurfaceIndex,
    TerrainGrid,
    terrain_from_surface,
)
from tickdrive.leaderboard.simulator.scene.mesh import Material, MaterialTable, Mesh, MeshBuilder, Shade
from tickdrive.leaderboard.simulator.scene.objects import (
    ROAD,
    WALK,
    EnvironmentObject,
    GroundUse,
    ObjectRegister,
    upright_box,
)
from tickdrive.leaderboard.simulator.scene.roads import parse_roads
from tickdrive.leaderboard.simulator.scene.signals import SignalBuilder, Signals
from tickdrive.leaderboard.simulator.scene.street import StreetLamps, build_lamps, build_trees
from tickdrive.leaderboard.simulator.scene.surfaces import (
    BARRIER,
    DECK,
    ROAD_KINDS,
    SIDEWALK_HEIGHT_M,
    WALK_KINDS,
    PavedSurfaces,
    Strip,
    build_markings,
    build_paved,
    lane_strips,
)

GRASS = Material(Tag.TERRAIN, (96, 110, 62), Shade.GRASS)
USED_MARGIN_M = 70.0
FAST_ROAD_KMH = 75.0
# a border this high above the terrain is a bridge's and gets a wall
BRIDGE_M = 1.2
TREE_DETAIL_M = 55.0


class Network(Protocol):
    """What a scene needs of a road network (see `towns.network.RoadNetwork`)."""

    @property
    def name(self) -> str:
        """Map name."""
        ...

    @property
    def xodr(self) -> str:
        """OpenDRIVE text."""
        ...

    @property
    def map(self) -> Any:
        """The `carla.Map` of it."""
        ...

    @property
    def furniture(self) -> RoadFurniture:
        """Lights, signs and crosswalks."""
        ...


@dataclass(frozen=True)
class SceneLayer:
    """A mesh that the cameras draw between two distances.

    Attributes:
        mesh: triangles in the world frame.
        near_m: drawn beyond this distance of its chunk.
        far_m: drawn up to this distance.
        traced: whether LiDAR and shadow rays meet it.
    """

    mesh: Mesh
    near_m: float
    far_m: float
    traced: bool


@dataclass(frozen=True)
class TownScene:
    """A town dressed up.

    Attributes:
        name: the town's.
        layers: meshes; they share `materials`.
        materials: rows that the meshes' material numbers mean.
        solids: what a vehicle can hit.
        ground: heights of roads, sidewalks and terrain.
        environment_objects: level objects with boxes in the world frame.
        signals: traffic light heads.
        lamps: street lamps.
    """

    name: str
    layers: tuple[SceneLayer, ...]
    materials: tuple[Material, ...]
    solids: tuple[SolidBox, ...]
    ground: SceneGround
    environment_objects: tuple[EnvironmentObject, ...]
    signals: Signals
    lamps: StreetLamps


def build_scene(network: Network) -> TownScene:
    """Dress a road network up with surfaces, markings, buildings, trees, lamps and its furniture.

    Args:
        network: any OpenDRIVE town.

    Returns:
        The scene; equal for equal networks.
    """
    digest = hashlib.sha256(f"{network.name}\0{network.xodr}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest[:16], np.uint32))
    roads = parse_roads(network.xodr)
    table, register = MaterialTable(), ObjectRegister(network.name)
    base, near, far = MeshBuilder(), MeshBuilder(), MeshBuilder()

    strips = lane_strips(roads)
    paved = build_paved(strips, base, table)
    build_markings(roads, base, table)
    walk = paved.walk_quads
    walk_triangles = np.concatenate([walk[:, [0, 1, 2]], walk[:, [0, 2, 3]]])
    triangles = np.concatenate([paved.road_triangles, walk_triangles])
    terrain = terrain_from_surface(_samples(paved))
    ground = SceneGround(SurfaceIndex(triangles), terrain)
    _terrain_mesh(terrain, base, table)

    corners = triangles.reshape(-1, 3) if len(triangles) else np.zeros((1, 3))
    use = GroundUse(corners[:, :2].min(0) - USED_MARGIN_M, corners[:, :2].max(0) + USED_MARGIN_M)
    use.paint(paved.road_triangles, ROAD)
    use.paint(walk_triangles, WALK)
    _edges(paved, terrain, base, table, register)
    signals = SignalBuilder(network.map, use, ground, base, table, register).build(network.furniture)
    lamps = build_lamps(_curbs(strips), use, ground, base, table, register, rng)
    frontages = _frontages(strips)
    build_buildings(frontages, use, terrain, base, table, register, rng)
    build_trees(frontages, use, ground, near, far, table, register, rng)
    layers = (
        SceneLayer(base.build(), 0.0, math.inf, True),
        SceneLayer(near.build(), 0.0, TREE_DETAIL_M, True),
        SceneLayer(far.build(), TREE_DETAIL_M, 400.0, False),
    )
    return TownScene(
        network.name,
        layers,
        tuple(table.rows),
        tuple(register.solids),
        ground,
        tuple(register.objects),
        signals,
        lamps,
    )


def _samples(paved: PavedSurfaces) -> np.ndarray:
    """Points over all paved surfaces, dense enough that no terrain cell under them is missed."""
    out = []
    walk = paved.walk_quads - [0.0, 0.0, SIDEWALK_HEIGHT_M]
    walk_triangles = np.concatenate([walk[:, [0, 1, 2]], walk[:, [0, 2, 3]]])
    for triangles in (paved.road_triangles, walk_triangles):
        for a in np.linspace(0.0, 1.0, 7):
            for b in np.linspace(0.0, 1.0 - a, max(1, round(7 * (1 - a)))):
                u, v = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
                out.append(triangles[:, 0] + a * u + b * v)
    return np.concatenate(out)


def _terrain_mesh(terrain: TerrainGrid, builder: MeshBuilder, table: MaterialTable) -> None:
    rows, columns = terrain.heights.shape
    x = terrain.origin_x + terrain.cell_m * np.arange(columns)
    y = terrain.origin_y + terrain.cell_m * np.arange(rows)
    # flat stretches far from any road need no fine grid: merge runs of level cells along x
    h = terrain.heights
    grass = table.add(GRASS)
    quads = []
    for r in range(rows - 1):
        c = 0
        while c < columns - 1:
            end = c + 1
            while end < columns - 1 and end - c < 8 and np.ptp(h[r : r + 2, c : end + 2]) < 1e-3:
                end += 1
            quads.append((c, r, end))
            c = end
    q = np.array(quads)
    c0, r0, c1 = q[:, 0], q[:, 1], q[:, 2]
    corner = [(x[c0], y[r0], h[r0, c0]), (x[c1], y[r0], h[r0, c1]), (x[c1], y[r0 + 1], h[r0 + 1, c1]),
              (x[c0], y[r0 + 1], h[r0 + 1, c0])]  # fmt: skip
    builder.add_quads(np.stack([np.stack(p, 1) for p in corner], 1), grass)
    # beyond the grid, level ground to the horizon
    x0, x1, y0, y1, reach = x[0], x[-1], y[0], y[-1], 1500.0
    z = float(np.median(np.concatenate([h[0], h[-1], h[:, 0], h[:, -1]])))
    ring = [(x0 - reach, x1 + reach, y0 - reach, y0), (x0 - reach, x1 + reach, y1, y1 + reach),
            (x0 - reach, x0, y0, y1), (x1, x1 + reach, y0, y1)]  # fmt: skip
    builder.add_quads(np.array([[(a, c, z), (b, c, z), (b, d, z), (a, d, z)] for a, b, c, d in ring]), grass)


def _frontages(strips: list[Strip]) -> list[Frontage]:
    return [
        Frontage(strip.outer, _outward_at(strip), strip.road.speed_kmh > FAST_ROAD_KMH)
        for strip in strips
        if strip.outermost and not strip.road.in_junction
    ]


def _curbs(strips: list[Strip]) -> list[Frontage]:
    """Borders at which lamps stand: the road's side of sidewalks, or the outer border where there is none."""
    out = []
    for strip in strips:
        if strip.road.in_junction:
            continue
        if strip.kind in WALK_KINDS:
            out.append(Frontage(strip.inner, _outward_at(strip), False))
        elif strip.outermost and strip.kind in ROAD_KINDS:
            out.append(Frontage(strip.outer, _outward_at(strip), False))
    return out


def _outward_at(strip: Strip) -> np.ndarray:
    """(n, 2) unit vectors across the lane, outwards, at each station.

    They come from the road's direction, for a lane may be of zero width at an end.
    """
    forward = np.gradient(0.5 * (strip.inner + strip.outer)[:, :2], axis=0)
    # left of the travel direction is -y at heading 0 in CARLA's frame
    left = np.stack([forward[:, 1], -forward[:, 0]], axis=1) * strip.side
    return left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-9)


def _edges(
    paved: PavedSurfaces,
    terrain: TerrainGrid,
    builder: MeshBuilder,
    table: MaterialTable,
    register: ObjectRegister,
) -> None:
    """Skirts at the roads' borders; walls on bridges."""
    if not len(paved.edges):
        return
    middle = paved.edges.mean(1)
    above = np.array([z - terrain.height(x, y) for x, y, z in middle])
    high = above > BRIDGE_M
    depth = np.where(high, 0.9, 0.4)
    a, b = paved.edges[:, 0], paved.edges[:, 1]
    down = np.stack([np.zeros_like(depth), np.zeros_like(depth), depth], 1)
    deck = table.add(DECK)
    builder.add_quads(np.stack([a, b, b - down, a - down], 1), deck)
    wall = table.add(BARRIER)
    for p, q in paved.edges[high]:
        length = float(np.linalg.norm(q - p))
        if length < 0.05:
            continue
        yaw = math.atan2(q[1] - p[1], q[0] - p[0])
        box = upright_box(0.5 * (p + q) + [0, 0, 0.45], (0.5 * length, 0.1, 0.45), yaw)
        number = register.add("Barrier", Tag.GUARD_RAIL, box)
        side = np.array([-math.sin(yaw), math.cos(yaw), 0.0]) * 0.1
        up = np.array([0.0, 0.0, 0.9])
        a0, b0, a1, b1 = p - side, q - side, p + side, q + side
        quads = [
            (a0, b0, b0 + up, a0 + up),
            (a1, b1, b1 + up, a1 + up),
            (a0 + up, b0 + up, b1 + up, a1 + up),
        ]
        builder.add_quads(np.array(quads), wall, number)
