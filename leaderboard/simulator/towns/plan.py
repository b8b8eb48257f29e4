"""A town as its designer thinks of it: junctions, streets between them, and who has to wait where.

Coordinates are OpenDRIVE's: x east, y north, metres, headings in radians anticlockwise (CARLA's world is
this with y negated). Traffic keeps to the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

Point = tuple[float, float]

SIGNAL = "signal"
ALL_WAY_STOP = "all_way_stop"
MINOR_STOP = "minor_stop"
CONTROLS = (SIGNAL, ALL_WAY_STOP, MINOR_STOP)


@dataclass(frozen=True)
class StreetKind:
    """Cross-section and speed limit of a street; both directions are alike.

    Attributes:
        lanes: driving lanes in each direction.
        lane_width_m: of each driving lane.
        limit_kmh: speed limit.
        shoulder_m: paved strip between the outer lane and the curb.
        sidewalk_m: width of the sidewalks.
    """

    lanes: int
    lane_width_m: float
    limit_kmh: int
    shoulder_m: float = 0.4
    sidewalk_m: float = 2.3

    @property
    def half_width_m(self) -> float:
        """From the centre line to the curb."""
        return self.lanes * self.lane_width_m + self.shoulder_m


@dataclass(frozen=True)
class Bend:
    """A corner of a street's centre line, rounded by an arc."""

    x: float
    y: float
    radius_m: float


@dataclass(frozen=True)
class Street:
    """A street between two junctions, straight but for its bends."""

    start: str
    end: str
    kind: StreetKind
    bends: tuple[Bend, ...] = ()


@dataclass(frozen=True)
class Crossing:
    """A junction.

    Attributes:
        x, y: where the centre lines meet.
        control: "signal", "all_way_stop", or "minor_stop" (the narrowest streets, at a T the stem, stop).
        corner_radius_m: of the curbs.
    """

    x: float
    y: float
    control: str
    corner_radius_m: float = 6.0


@dataclass(frozen=True)
class TownPlan:
    """A whole town."""

    name: str
    crossings: dict[str, Crossing]
    streets: tuple[Street, ...]
    geo_reference: tuple[float, float] = (49.0, 8.0)


@dataclass(frozen=True)
class Piece:
    """A piece of a reference line; curvature in 1/m, positive to the left, zero for a straight line."""

    x: float
    y: float
    heading: float
    length: float
    curvature: float

    def at(self, s: float) -> tuple[float, float, float]:
        """x, y and heading at `s` metres along the piece."""
        if abs(self.curvature) < 1e-9:
            return self.x + s * math.cos(self.heading), self.y + s * math.sin(self.heading), self.heading
        turned = self.heading + s * self.curvature
        return (
            self.x + (math.sin(turned) - math.sin(self.heading)) / self.curvature,
            self.y - (math.cos(turned) - math.cos(self.heading)) / self.curvature,
            turned,
        )


@dataclass(frozen=True)
class Track:
    """A reference line: pieces that join smoothly."""

    pieces: tuple[Piece, ...]

    @property
    def length(self) -> float:
        """Metres."""
        return sum(piece.length for piece in self.pieces)

    def at(self, s: float) -> tuple[float, float, float]:
        """x, y and heading at station `s`."""
        for piece in self.pieces[:-1]:
            if s <= piece.length:
                return piece.at(s)
            s -= piece.length
        return self.pieces[-1].at(s)

    def points(self, step_m: float = 1.0) -> np.ndarray:
        """(N, 3) x, y, heading along the line."""
        count = max(2, math.ceil(self.length / step_m) + 1)
        return np.array([self.at(s) for s in np.linspace(0.0, self.length, count)])

    def band(self, left_m: float, right_m: float, step_m: float = 1.0) -> np.ndarray:
        """(2 N, 2) outline of the strip from `left_m` to `right_m` off the line (left positive)."""
        x, y, heading = self.points(step_m).T
        sides = [
            np.stack([x - t * np.sin(heading), y + t * np.cos(heading)], axis=1) for t in (left_m, right_m)
        ]
        return np.concatenate([sides[0], sides[1][::-1]])


@dataclass
class Arm:
    """The end of a street at a junction.

    Attributes:
        street: index of the street.
        at_start: whether it is the street's start that lies here.
        heading: of the centre line, leading away from the junction.
        kind: cross-section.
        cut_m: distance from the junction's centre at which the street begins.
    """

    street: int
    at_start: bool
    heading: float
    kind: StreetKind
    cut_m: float = 0.0
    stops: bool = field(default=False)


class PlanError(ValueError):
    """A plan cannot be built: streets too short for their bends, corners that do not fit."""


def wrap(angle: float) -> float:
    """The same angle in (-pi, pi]."""
    return math.pi - (math.pi - angle) % (2 * math.pi)


def arms_of(plan: TownPlan) -> dict[str, list[Arm]]:
    """The arms of each junction, anticlockwise, cut back so that the corners are as round as asked."""
    arms: dict[str, list[Arm]] = {name: [] for name in plan.crossings}
    for index, street in enumerate(plan.streets):
        points = _corner_points(plan, street)
        for name, at_start in ((street.start, True), (street.end, False)):
            here, there = (points[0], points[1]) if at_start else (points[-1], points[-2])
            heading = math.atan2(there[1] - here[1], there[0] - here[0])
            arms[name].append(Arm(index, at_start, heading, street.kind))
    for name, found in arms.items():
        found.sort(key=lambda arm: arm.heading)
        crossing = plan.crossings[name]
        if len(found) < 3:
            raise PlanError(f"junction {name} has {len(found)} arms; join the streets with a bend instead")
        for arm, following in zip(found, found[1:] + found[:1], strict=True):
            _round_corner(arm, following, crossing.corner_radius_m)
        _mark_stops(found, crossing.control)
    return arms


def _round_corner(a: Arm, b: Arm, radius_m: float) -> None:
    """Cut two neighbouring arms (b anticlockwise of a) so that a curb of the radius fits between them."""
    angle = (b.heading - a.heading) % (2 * math.pi)
    if angle > math.radians(150.0):
        return  # the flat side of a T
    sine, cosine = math.sin(angle), math.cos(angle)
    tangent = radius_m / math.tan(angle / 2)
    width_a, width_b = a.kind.half_width_m, b.kind.half_width_m
    a.cut_m = max(a.cut_m, (width_b + width_a * cosine) / sine + tangent)
    b.cut_m = max(b.cut_m, (width_a + width_b * cosine) / sine + tangent)


def _mark_stops(arms: list[Arm], control: str) -> None:
    if control not in CONTROLS:
        raise PlanError(f"control {control!r} is none of {', '.join(CONTROLS)}")
    if control == SIGNAL:
        return
    if control == ALL_WAY_STOP:
        for arm in arms:
            arm.stops = True
        return
    if len(arms) == 3:
        # the stem of a T is the arm that continues straight into no other
        def straightness(arm: Arm) -> float:
            return min(abs(wrap(o.heading - arm.heading - math.pi)) for o in arms if o is not arm)

        max(arms, key=straightness).stops = True
        return
    narrowest = min(arm.kind.limit_kmh + 100 * arm.kind.lanes for arm in arms)
    for arm in arms:
        arm.stops = arm.kind.limit_kmh + 100 * arm.kind.lanes == narrowest
    if all(arm.stops for arm in arms):
        for arm, other in ((arms[0], arms[1]), (arms[2], arms[3])):
            arm.stops, other.stops = True, False


def centre_line(plan: TownPlan, street: Street, start_cut_m: float, end_cut_m: float) -> Track:
    """A street's reference line between the junctions at its ends."""
    points = _corner_points(plan, street)
    radii = [0.0, *(bend.radius_m for bend in street.bends), 0.0]
    tangents = [0.0] * len(points)
    for i in range(1, len(points) - 1):
        turn = wrap(_heading(points[i], points[i + 1]) - _heading(points[i - 1], points[i]))
        tangents[i] = radii[i] * math.tan(abs(turn) / 2)
    tangents[0], tangents[-1] = start_cut_m, end_cut_m
    pieces: list[Piece] = []
    for i in range(len(points) - 1):
        heading = _heading(points[i], points[i + 1])
        straight = math.dist(points[i], points[i + 1]) - tangents[i] - tangents[i + 1]
        if straight < 1.0:
            raise PlanError(
                f"street {street.start}-{street.end}: {straight:.1f} m left straight after corner {i}"
            )
        x = points[i][0] + tangents[i] * math.cos(heading)
        y = points[i][1] + tangents[i] * math.sin(heading)
        pieces.append(Piece(x, y, heading, straight, 0.0))
        if i + 2 < len(points):
            turn = wrap(_heading(points[i + 1], points[i + 2]) - heading)
            x, y, _ = pieces[-1].at(straight)
            pieces.append(
                Piece(x, y, heading, abs(turn) * radii[i + 1], math.copysign(1 / radii[i + 1], turn))
            )
    return Track(tuple(pieces))


def connecting_line(start: tuple[float, float, float], end: tuple[float, float, float]) -> Track:
    """Way through a junction from one pose (x, y, heading) to another: straight, arc, straight.

    Raises:
        PlanError: the poses do not face each other that way.
    """
    (x0, y0, h0), (x1, y1, h1) = start, end
    dx, dy = x1 - x0, y1 - y0
    turn = wrap(h1 - h0)
    if abs(turn) < math.radians(0.5):
        offset = -dx * math.sin(h0) + dy * math.cos(h0)
        if abs(offset) > 0.02:
            raise PlanError(f"lanes that go straight on are {offset:.2f} m apart")
        return Track((Piece(x0, y0, math.atan2(dy, dx), math.hypot(dx, dy), 0.0),))
    # where the two tangents meet: start + a * direction0 = end - b * direction1
    sine = math.sin(turn)
    a = (dx * math.sin(h1) - dy * math.cos(h1)) / sine
    b = (dy * math.cos(h0) - dx * math.sin(h0)) / sine
    if a < 0.05 or b < 0.05:
        raise PlanError(f"no arc joins {start} and {end}")
    tangent = min(a, b)
    radius = tangent / math.tan(abs(turn) / 2)
    pieces = []
    if a - tangent > 0.01:
        pieces.append(Piece(x0, y0, h0, a - tangent, 0.0))
        x0, y0, _ = pieces[-1].at(a - tangent)
    pieces.append(Piece(x0, y0, h0, abs(turn) * radius, math.copysign(1 / radius, turn)))
    if b - tangent > 0.01:
        x0, y0, heading = pieces[-1].at(pieces[-1].length)
        pieces.append(Piece(x0, y0, heading, b - tangent, 0.0))
    return Track(tuple(pieces))


def _corner_points(plan: TownPlan, street: Street) -> list[Point]:
    a, b = plan.crossings[street.start], plan.crossings[street.end]
    return [(a.x, a.y), *((bend.x, bend.y) for bend in street.bends), (b.x, b.y)]


def _heading(a: Point, b: Point) -> float:
    return math.atan2(b[1] - a[1], b[0] - a[0])
