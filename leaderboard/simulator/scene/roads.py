"""The shape of an OpenDRIVE road network, evaluated in numpy: lane borders at any station.

The lanes' structure, widths and road marks are read from the file; `carla.Map` answers single waypoints only,
and a scene needs a hundred thousand border points at once. Source of the formulas: ASAM OpenDRIVE 1.4
(chapters 5.3 reference line, 5.3.5 elevation, 5.3.7 lanes). CARLA's world is OpenDRIVE's with y negated.
As on CARLA, superelevation is not applied.
"""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import numpy as np

FloatArray = np.ndarray


@dataclass(frozen=True, slots=True)
class Poly:
    """Cubic a + b ds + c ds^2 + d ds^3 from station `s` on."""

    s: float
    a: float
    b: float
    c: float
    d: float


def evaluate(polys: tuple[Poly, ...], s: FloatArray) -> FloatArray:
    """Value of a piecewise cubic at stations `s`; zero where there is none."""
    if not polys:
        return np.zeros_like(s)
    starts = np.array([p.s for p in polys])
    table = np.array([(p.a, p.b, p.c, p.d) for p in polys])
    index = np.clip(np.searchsorted(starts, s + 1e-9, side="right") - 1, 0, len(polys) - 1)
    ds = s - starts[index]
    a, b, c, d = table[index].T
    return a + ds * (b + ds * (c + ds * d))


@dataclass(frozen=True, slots=True)
class RoadMark:
    """A lane border's painted mark from a station within its section on."""

    s_offset: float
    kind: str
    colour: str
    width_m: float


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane of a section: OpenDRIVE id (positive left of the reference line), type, width and marks."""

    lane_id: int
    kind: str
    widths: tuple[Poly, ...]
    marks: tuple[RoadMark, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A piece of the reference line: kind and its numbers (start, heading, length, shape)."""

    kind: str
    s: float
    x: float
    y: float
    heading: float
    length: float
    shape: tuple[float, ...]


@dataclass(frozen=True)
class Section:
    """Lanes that hold from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    lanes: dict[int, Lane]


@dataclass(frozen=True)
class Road:
    """A road: reference line, heights and lane sections."""

    road_id: int
    junction: str
    length: float
    geometries: tuple[Geometry, ...]
    elevation: tuple[Poly, ...]
    lane_offset: tuple[Poly, ...]
    sections: tuple[Section, ...]
    speed_kmh: float

    @property
    def in_junction(self) -> bool:
        """Whether it connects roads through a junction."""
        return self.junction != "-1"

    def reference(self, s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """OpenDRIVE x, y and heading (radians) of the reference line at stations `s`."""
        s = np.asarray(s, np.float64)
        x, y, heading = np.zeros_like(s), np.zeros_like(s), np.zeros_like(s)
        starts = np.array([g.s for g in self.geometries])
        index = np.clip(np.searchsorted(starts, s + 1e-9, side="right") - 1, 0, len(starts) - 1)
        for k in np.unique(index):
            at = index == k
            g = self.geometries[k]
            u, v, turn = _local(g, np.clip(s[at] - g.s, 0.0, g.length))
            cos, sin = math.cos(g.heading), math.sin(g.heading)
            x[at], y[at] = g.x + cos * u - sin * v, g.y + sin * u + cos * v
            heading[at] = g.heading + turn
        return x, y, heading

    def points(self, s: FloatArray, t: FloatArray) -> FloatArray:
        """(N, 3) world points (CARLA's frame) at stations `s` and lateral offsets `t` (left positive)."""
        x, y, heading = self.reference(s)
        z = evaluate(self.elevation, np.asarray(s, np.float64))
        return np.stack([x - t * np.sin(heading), -(y + t * np.cos(heading)), z], axis=-1)

    def borders(self, section: Section, s: FloatArray) -> dict[int, FloatArray]:
        """Outer lateral border of each lane of a section at stations `s`; key 0 is the centre line."""
        out = {0: evaluate(self.lane_offset, s)}
        ds = s - section.start_s
        for sign in (1, -1):
            t = out[0]
            for lane_id in sorted((i for i in section.lanes if i * sign > 0), key=abs):
                t = t + sign * np.maximum(evaluate(section.lanes[lane_id].widths, ds), 0.0)
                out[lane_id] = t
        return out

    def stations(self, section: Section, longest_m: float = 16.0, fine_m: float = 2.0) -> FloatArray:
        """Stations to sample a section at: few where it is straight, flat and even."""
        cuts = {section.start_s, section.end_s}
        cuts |= {g.s for g in self.geometries}
        cuts |= {p.s for p in self.elevation} | {p.s for p in self.lane_offset}
        for lane in section.lanes.values():
            cuts |= {section.start_s + p.s for p in lane.widths}
        inside = sorted(c for c in cuts if section.start_s <= c <= section.end_s)
        out = [inside[0]]
        for a, b in itertools.pairwise(inside):
            if b - a < 1e-3:
                continue
            step = fine_m if self._bends(section, a, b) else longest_m
            count = max(1, math.ceil((b - a) / step))
            out.extend(a + (b - a) * (k + 1) / count for k in range(count))
        return np.array(out)

    def _bends(self, section: Section, a: float, b: float) -> bool:
        mid = 0.5 * (a + b)

        def curved(polys: tuple[Poly, ...], at: float) -> bool:
            return any(
                abs(p.c) > 1e-9 or abs(p.d) > 1e-9 for p in [p for p in polys if p.s <= at + 1e-6][-1:]
            )

        geometry = [g for g in self.geometries if g.s <= mid][-1:]
        if any(g.kind != "line" for g in geometry):
            return True
        if curved(self.elevation, mid) or curved(self.lane_offset, mid):
            return True
        return any(curved(lane.widths, mid - section.start_s) for lane in section.lanes.values())


def _local(g: Geometry, ds: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Position and heading along a geometry in its own frame."""
    if g.kind == "arc" and abs(g.shape[0]) > 1e-9:
        curvature = g.shape[0]
        turn = curvature * ds
        return np.sin(turn) / curvature, (1.0 - np.cos(turn)) / curvature, turn
    if g.kind == "spiral":
        # clothoid: heading is quadratic in ds; positions by Simpson's rule on 64 intervals
        k0, k1 = g.shape
        rate = (k1 - k0) / max(g.length, 1e-9)
        fraction = np.linspace(0.0, 1.0, 65)
        along = ds[:, None] * fraction
        angle = along * (k0 + 0.5 * rate * along)
        weight: np.ndarray = np.ones(65)
        weight[1:-1:2], weight[2:-1:2] = 4.0, 2.0
        weight = weight / (3.0 * 64.0)
        return ds * (np.cos(angle) @ weight), ds * (np.sin(angle) @ weight), ds * (k0 + 0.5 * rate * ds)
    if g.kind == "poly3":
        a, b, c, d = g.shape
        v = a + ds * (b + ds * (c + ds * d))
        return ds, v, np.arctan(b + ds * (2 * c + 3 * d * ds))
    if g.kind == "paramPoly3":
        au, bu, cu, du, av, bv, cv, dv, normalised = g.shape
        p = ds / max(g.length, 1e-9) if normalised else ds
        u = au + p * (bu + p * (cu + p * du))
        v = av + p * (bv + p * (cv + p * dv))
        return u, v, np.arctan2(bv + p * (2 * cv + 3 * dv * p), bu + p * (2 * cu + 3 * du * p))
    return ds, np.zeros_like(ds), np.zeros_like(ds)


def _number(element: ElementTree.Element, name: str, default: float = 0.0) -> float:
    text = element.get(name)
    try:
        return float(text) if text is not None else default
    except ValueError:
        return default


def _polys(parent: ElementTree.Element | None, path: str, key: str = "s") -> tuple[Poly, ...]:
    if parent is None:
        return ()
    found = [Poly(_number(e, key), *(_number(e, k) for k in "abcd")) for e in parent.findall(path)]
    return tuple(sorted(found, key=lambda p: p.s))


def _geometry(element: ElementTree.Element) -> Geometry:
    kind = "line"
    values: tuple[float, ...] = ()
    for child in element:
        kind = child.tag
        if kind == "arc":
            values = (_number(child, "curvature"),)
        elif kind == "spiral":
            values = (_number(child, "curvStart"), _number(child, "curvEnd"))
        elif kind == "poly3":
            values = tuple(_number(child, k) for k in "abcd")
        elif kind == "paramPoly3":
            numbers = [_number(child, k) for k in ("aU", "bU", "cU", "dU", "aV", "bV", "cV", "dV")]
            values = (*numbers, 0.0 if child.get("pRange") == "arcLength" else 1.0)
    return Geometry(
        kind, _number(element, "s"), _number(element, "x"), _number(element, "y"),
        _number(element, "hdg"), _number(element, "length"), values,
    )  # fmt: skip


def _lane(element: ElementTree.Element) -> Lane:
    marks = tuple(
        RoadMark(
            _number(m, "sOffset"),
            m.get("type", "none"),
            m.get("color", "standard"),
            _number(m, "width", 0.12),
        )
        for m in element.findall("roadMark")
    )
    widths = _polys(element, "width", "sOffset")
    return Lane(int(element.get("id", "0")), element.get("type", "none"), widths, marks)


def parse_roads(xodr: str) -> tuple[Road, ...]:
    """Roads of an OpenDRIVE document, in the file's order.

    Raises:
        xml.etree.ElementTree.ParseError: the text is not XML (`carla.Map` has refused it before).
    """
    root = ElementTree.fromstring(xodr.encode())
    roads = []
    for element in root.findall("road"):
        length = _number(element, "length")
        geometries = tuple(
            sorted((_geometry(g) for g in element.findall("planView/geometry")), key=lambda g: g.s)
        )
        if not geometries or length <= 0.0:
            continue
        found = sorted(element.findall("lanes/laneSection"), key=lambda e: _number(e, "s"))
        starts = [_number(e, "s") for e in found] + [length]
        sections = tuple(
            Section(starts[k], starts[k + 1], {lane.lane_id: lane for lane in map(_lane, e.iter("lane"))})
            for k, e in enumerate(found)
            if starts[k + 1] - starts[k] > 1e-3
        )
        elevation = _polys(element.find("elevationProfile"), "elevation")
        speed = element.find("type/speed")
        limit = _number(speed, "max", 50.0) if speed is not None else 50.0
        if speed is not None:
            limit *= {"mph": 1.609, "m/s": 3.6}.get(speed.get("unit", "m/s"), 1.0)
        roads.append(
            Road(
                int(element.get("id", "0")),
                element.get("junction", "-1"),
                length,
                geometries,
                elevation,
                _polys(element.find("lanes"), "laneOffset"),
                sections,
                limit,
            )
        )
    return tuple(roads)
