"""Road surfaces, sidewalks with curbs, and lane markings, lane by lane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import Tag
from tickdrive.leaderboard.simulator.scene.ground import SurfaceIndex
from tickdrive.leaderboard.simulator.scene.junctions import pave_gaps
from tickdrive.leaderboard.simulator.scene.mesh import Material, MaterialTable, MeshBuilder, Shade
from tickdrive.leaderboard.simulator.scene.roads import Road, RoadMark, Section

SIDEWALK_HEIGHT_M = 0.15
MARKING_LIFT_M = 0.012
# US-style dashes shortened for town speeds
DASH_M, GAP_M = 3.0, 4.5

ROAD_KINDS = frozenset(
    {
        *("driving", "bidirectional", "shoulder", "parking", "biking", "restricted", "border", "stop", "bus"),
        *("taxi", "HOV", "entry", "exit", "onRamp", "offRamp", "connectingRamp", "slipLane"),
        *("mwyEntry", "mwyExit", "special1", "special2", "special3"),
    }
)
WALK_KINDS = frozenset({"sidewalk", "walking", "curb"})
GREEN_KINDS = frozenset({"median"})
RAIL_KINDS = frozenset({"tram", "rail"})

ASPHALT = Material(Tag.ROAD, (103, 101, 98), Shade.ASPHALT)
SHOULDER = Material(Tag.ROAD, (110, 108, 105), Shade.ASPHALT)
CYCLEWAY = Material(Tag.ROAD, (132, 84, 74), Shade.ASPHALT)
RAIL = Material(Tag.RAIL_TRACK, (98, 92, 84), Shade.ASPHALT)
SIDEWALK = Material(Tag.SIDEWALK, (158, 153, 145), Shade.PAVING)
CURB = Material(Tag.SIDEWALK, (188, 186, 180))
GREEN = Material(Tag.TERRAIN, (94, 108, 62), Shade.GRASS)
BARRIER = Material(Tag.GUARD_RAIL, (176, 174, 168))
DECK = Material(Tag.BRIDGE, (150, 148, 142))
MARKING_RGB = {
    "standard": (232, 232, 226),
    "white": (232, 232, 226),
    "yellow": (226, 178, 44),
    "blue": (60, 110, 200),
    "green": (60, 150, 80),
    "red": (196, 56, 48),
    "orange": (230, 130, 40),
}


@dataclass
class Strip:
    """One lane over one section: inner and outer border points in the world frame.

    Attributes:
        road: its road.
        kind: OpenDRIVE lane type.
        inner: (n, 3) border nearer to the reference line.
        outer: (n, 3) the other border.
        side: 1 left of the reference line, -1 right of it.
        outermost: no paved lane follows outwards.
    """

    road: Road
    kind: str
    inner: np.ndarray
    outer: np.ndarray
    side: int
    outermost: bool

    def quads(self) -> np.ndarray:
        """(n - 1, 4, 3) pieces of the surface."""
        return np.stack([self.inner[:-1], self.inner[1:], self.outer[1:], self.outer[:-1]], axis=1)


@dataclass
class PavedSurfaces:
    """What the later steps of the scene need of the roads.

    Attributes:
        road: surface that vehicles drive on.
        walk_quads: (N, 4, 3) sidewalk surface.
        road_triangles: (M, 3, 3) road surface.
        edges: (K, 2, 3) outer borders of the road where nothing paved follows.
    """

    road: SurfaceIndex
    walk_quads: np.ndarray
    road_triangles: np.ndarray
    edges: np.ndarray


def lane_strips(roads: tuple[Road, ...]) -> list[Strip]:
    """All lanes wide enough to be seen."""
    strips = []
    for road in roads:
        for section in road.sections:
            s = road.stations(section, fine_m=1.5 if road.in_junction else 2.0)
            if len(s) < 2:
                continue
            borders = road.borders(section, s)
            points = {lane_id: road.points(s, t) for lane_id, t in borders.items()}
            for lane_id, lane in section.lanes.items():
                inner = lane_id - int(math.copysign(1, lane_id)) if lane_id else 0
                if lane_id == 0 or lane.kind == "none" or inner not in points:
                    continue
                if np.abs(borders[lane_id] - borders[inner]).max() < 0.05:
                    continue
                side = 1 if lane_id > 0 else -1
                beyond = section.lanes.get(lane_id + side)
                outermost = beyond is None or beyond.kind == "none"
                strips.append(Strip(road, lane.kind, points[inner], points[lane_id], side, outermost))
    return strips


def _triangles(quads: np.ndarray) -> np.ndarray:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]) if len(quads) else np.zeros((0, 3, 3))


def _covered(surface: SurfaceIndex, points: np.ndarray, reach_m: float = 1.0) -> np.ndarray:
    heights = surface.heights(points)
    return np.abs(heights - points[:, 2]) < reach_m  # NaN compares false


def build_paved(strips: list[Strip], builder: MeshBuilder, table: MaterialTable) -> PavedSurfaces:
    """Add road and sidewalk meshes to the builder."""
    by_kind = dict.fromkeys(ROAD_KINDS, ASPHALT)
    by_kind |= {"shoulder": SHOULDER, "parking": SHOULDER, "border": SHOULDER, "biking": CYCLEWAY}
    road_quads: list[np.ndarray] = []
    for strip in strips:
        quads = strip.quads()
        if strip.kind in ROAD_KINDS or strip.kind in RAIL_KINDS:
            # connecting roads overlap: of one colour, that cannot be seen
            look = ASPHALT if strip.road.in_junction else by_kind.get(strip.kind, RAIL)
            builder.add_quads(quads, table.add(look))
            road_quads.append(quads)
    road = np.concatenate(road_quads) if road_quads else np.zeros((0, 4, 3))
    triangles = _triangles(road)
    index = SurfaceIndex(triangles)

    walk = []
    for strip in strips:
        if strip.kind in WALK_KINDS or strip.kind in GREEN_KINDS:
            material = table.add(SIDEWALK if strip.kind in WALK_KINDS else GREEN)
            walk.append(_raised(strip, index, builder, material, table.add(CURB)))
    walk_quads = np.concatenate(walk) if walk else np.zeros((0, 4, 3))
    gaps = _gaps(strips, walk_quads)
    if len(gaps):
        builder.add(gaps.reshape(-1, 3), np.arange(3 * len(gaps)).reshape(-1, 3), table.add(ASPHALT))
        triangles = np.concatenate([triangles, gaps])
        index = SurfaceIndex(triangles)
    edges = [
        np.stack([strip.outer[:-1], strip.outer[1:]], axis=1)
        for strip in strips
        if strip.outermost and strip.kind in ROAD_KINDS
    ]
    edge = np.concatenate(edges) if edges else np.zeros((0, 2, 3))
    if len(edge):
        outward = np.concatenate([_outward(s) for s in strips if s.outermost and s.kind in ROAD_KINDS])
        edge = edge[~_covered(index, edge.mean(1) + 0.3 * outward)]
    return PavedSurfaces(index, walk_quads, triangles, edge)


def _gaps(strips: list[Strip], walk_quads: np.ndarray) -> np.ndarray:
    by_junction: dict[str, list[np.ndarray]] = {}
    for strip in strips:
        if strip.road.in_junction and strip.kind in ROAD_KINDS:
            by_junction.setdefault(strip.road.junction, []).append(strip.quads())
    out = [pave_gaps(np.concatenate(quads), walk_quads) for quads in by_junction.values()]
    return np.concatenate(out) if out else np.zeros((0, 3, 3))


def _outward(strip: Strip) -> np.ndarray:
    across = (strip.outer - strip.inner)[:-1] + (strip.outer - strip.inner)[1:]
    return across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)


def _raised(strip: Strip, road: SurfaceIndex, builder: MeshBuilder, top: int, curb: int) -> np.ndarray:
    """Raised strip with curbs, left out where the road network lets it cross a roadway. Returns its quads."""
    length = np.linalg.norm(np.diff(0.5 * (strip.inner + strip.outer), axis=0), axis=1)
    width = float(np.linalg.norm(strip.outer - strip.inner, axis=1).mean())
    samples = []
    for a in (0.05, 0.35, 0.65, 0.95):
        for b in (0.05, 0.35, 0.65, 0.95):
            samples.append(_blend(strip, a, b))
    hit = _covered(road, np.concatenate(samples)).reshape(len(samples), -1)
    blocked = np.logical_or.reduce(hit, axis=0)
    kept: list[np.ndarray] = []
    lift = np.array([0.0, 0.0, SIDEWALK_HEIGHT_M])
    walls: list[np.ndarray] = []
    for k in range(len(length)):
        cells_s = max(1, math.ceil(length[k] / 0.5)) if blocked[k] else 1
        cells_t = max(1, math.ceil(width / 0.5)) if blocked[k] else 1
        along = np.linspace(0.0, 1.0, cells_s + 1)[:, None, None]
        over = np.linspace(0.0, 1.0, cells_t + 1)[None, :, None]
        inner = strip.inner[k] * (1 - along) + strip.inner[k + 1] * along
        outer = strip.outer[k] * (1 - along) + strip.outer[k + 1] * along
        grid = inner * (1 - over) + outer * over
        quads = np.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], axis=2)
        free = np.ones((cells_s, cells_t), bool)
        if blocked[k]:
            flat = quads.reshape(-1, 4, 3)
            probes = np.concatenate(
                [flat.mean(1)] + [0.15 * flat.mean(1) + 0.85 * flat[:, c] for c in range(4)]
            )
            free = ~_covered(road, probes).reshape(5, -1).any(0).reshape(cells_s, cells_t)
        kept.append(quads[free] + lift)
        framed = np.pad(free, 1)
        first, last = k == 0 or blocked[k - 1], k == len(length) - 1 or blocked[k + 1]
        framed[0, 1:-1] = free[0] & (not first)
        framed[-1, 1:-1] = free[-1] & (not last)
        for (i, j), (c0, c1) in {(-1, 0): (0, 3), (1, 0): (1, 2), (0, -1): (0, 1), (0, 1): (3, 2)}.items():
            beyond = framed[1 + i : framed.shape[0] - 1 + i, 1 + j : framed.shape[1] - 1 + j]
            open_edge = free & ~beyond
            low = quads[open_edge][:, [c0, c1]]
            if len(low):
                drop = np.array([0.0, 0.0, 0.35])
                walls.append(
                    np.stack([low[:, 0] - drop, low[:, 1] - drop, low[:, 1] + lift, low[:, 0] + lift], 1)
                )
    quads_kept = np.concatenate(kept)
    builder.add_quads(quads_kept, top)
    if walls:
        builder.add_quads(np.concatenate(walls), curb)
    return quads_kept


def _blend(strip: Strip, a: float, b: float) -> np.ndarray:
    inner = strip.inner[:-1] * (1 - a) + strip.inner[1:] * a
    outer = strip.outer[:-1] * (1 - a) + strip.outer[1:] * a
    return inner * (1 - b) + outer * b


def build_markings(roads: tuple[Road, ...], builder: MeshBuilder, table: MaterialTable) -> None:
    """Add lane markings of all roads outside junctions (inside, connecting roads overlap)."""
    for road in roads:
        if road.in_junction:
            continue
        for section in road.sections:
            fine = road.stations(section)
            for lane_id, lane in section.lanes.items():
                marks = sorted(lane.marks, key=lambda m: m.s_offset)
                for k, mark in enumerate(marks):
                    start = section.start_s + max(mark.s_offset, 0.0)
                    end = section.start_s + marks[k + 1].s_offset if k + 1 < len(marks) else section.end_s
                    if end - start > 0.2:
                        _mark(
                            road, section, lane_id, mark, start, min(end, section.end_s), fine, builder, table
                        )


def _mark(
    road: Road, section: Section, lane_id: int, mark: RoadMark, start: float, end: float,
    fine: np.ndarray, builder: MeshBuilder, table: MaterialTable,
) -> None:  # fmt: skip
    styles = [part for part in mark.kind.split() if part in ("solid", "broken")]
    if not styles:
        return
    width = mark.width_m if 0.05 <= mark.width_m <= 0.6 else 0.14
    row = table.add(
        Material(Tag.ROAD_LINE, MARKING_RGB.get(mark.colour, MARKING_RGB["white"]), Shade.MARKING)
    )
    for k, style in enumerate(styles):
        shift = 0.0 if len(styles) == 1 else (k - 0.5) * 2.0 * width
        if style == "solid":
            stations = np.unique(np.concatenate([[start], fine[(fine > start) & (fine < end)], [end]]))
            pairs = np.stack([stations[:-1], stations[1:]], 1)
        else:
            begin = np.arange(
                math.ceil(start / (DASH_M + GAP_M)) * (DASH_M + GAP_M), end - 0.5, DASH_M + GAP_M
            )
            half = 0.5 * DASH_M
            pairs = np.concatenate(
                [np.stack([begin, begin + half], 1), np.stack([begin + half, begin + DASH_M], 1)]
            )
            pairs = np.minimum(pairs, end)
        if not len(pairs):
            continue
        flat = pairs.reshape(-1)
        t = road.borders(section, flat)[lane_id] + shift
        left = road.points(flat, t + 0.5 * width).reshape(-1, 2, 3)
        right = road.points(flat, t - 0.5 * width).reshape(-1, 2, 3)
        quads = np.stack([left[:, 0], left[:, 1], right[:, 1], right[:, 0]], axis=1)
        quads[..., 2] += MARKING_LIFT_M
        builder.add_quads(quads, row)
