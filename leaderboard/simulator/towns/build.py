"""From a plan to roads, ways through the junctions, and furniture: all that an OpenDRIVE file says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from shapely.geometry import Point, Polygon
from shapely.ops import unary_union

from tickdrive.leaderboard.simulator.towns.plan import (
    MINOR_STOP,
    SIGNAL,
    Arm,
    PlanError,
    StreetKind,
    TownPlan,
    Track,
    arms_of,
    centre_line,
    connecting_line,
    wrap,
)

FIRST_JUNCTION_ID = 1001
FIRST_WAY_ID = 2001
FIRST_SIGNAL_ID = 3001
FIRST_CONTROLLER_ID = 4001

CROSSWALK_WIDTH_M = 3.0
CROSSWALK_GAP_M = 0.5
#: from the junction's edge to the stop line, where there is a crosswalk between them, and where not
STOP_BEHIND_CROSSWALK_M = 4.6
STOP_AT_JUNCTION_M = 1.0
#: a head farther from the stop line than this is too small in the ego's picture
FARTHEST_HEAD_M = 30.0
_STRAIGHT_WITHIN = math.radians(30.0)


@dataclass(frozen=True)
class Crosswalk:
    """A crosswalk across a road, centred at station `s`, from curb to curb."""

    s: float
    half_length_m: float


@dataclass(frozen=True)
class Signal:
    """A signal: the pole's station and offset on its road, and how it is turned against the road there.

    Attributes:
        lanes: first and last lane governed by the signal itself; (0, 0) where only references do.
    """

    signal_id: int
    type_id: str
    name: str
    s: float
    t: float
    turn: float
    forward: bool
    lanes: tuple[int, int]
    value: int = -1


@dataclass(frozen=True)
class Reference:
    """A traffic light that governs lanes of another road than the one its pole stands by."""

    signal_id: int
    s: float
    forward: bool
    lanes: tuple[int, int]


@dataclass
class BuiltRoad:
    """A street between two junctions."""

    road_id: int
    name: str
    track: Track
    kind: StreetKind
    start_junction: int
    end_junction: int
    crosswalks: list[Crosswalk] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)


@dataclass
class Way:
    """One lane through a junction; its reference line is the lane's left border.

    Attributes:
        from_road, from_lane, from_end: where it comes from; `from_end` whether from the road's end.
        to_road, to_lane, to_start: where it leads; `to_start` whether to the road's start.
        widths_m: lane width at both ends.
        curb: cross-section whose shoulder and sidewalk run along it, where it is the outermost.
    """

    way_id: int
    junction: int
    track: Track
    from_road: int
    from_lane: int
    from_end: bool
    to_road: int
    to_lane: int
    to_start: bool
    widths_m: tuple[float, float]
    limit_kmh: int
    curb: tuple[StreetKind, StreetKind] | None
    signals: list[Signal] = field(default_factory=list)


@dataclass
class BuiltJunction:
    """A junction with its ways and, where it is signalised, its controllers: (id, heads green together)."""

    junction_id: int
    name: str
    ways: list[Way]
    controllers: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


@dataclass(frozen=True)
class BuiltTown:
    """All of a town."""

    plan: TownPlan
    roads: tuple[BuiltRoad, ...]
    junctions: tuple[BuiltJunction, ...]


class _Numbers:
    def __init__(self) -> None:
        self.way = itertools.count(FIRST_WAY_ID)
        self.signal = itertools.count(FIRST_SIGNAL_ID)
        self.controller = itertools.count(FIRST_CONTROLLER_ID)


def build_town(plan: TownPlan) -> BuiltTown:
    """Lay out a plan.

    Raises:
        PlanError: something does not fit.
    """
    arms = arms_of(plan)
    junction_ids = {name: FIRST_JUNCTION_ID + i for i, name in enumerate(plan.crossings)}
    roads = []
    for index, street in enumerate(plan.streets):
        cuts = {arm.at_start: arm.cut_m for found in arms.values() for arm in found if arm.street == index}
        track = centre_line(plan, street, cuts[True], cuts[False])
        ends = junction_ids[street.start], junction_ids[street.end]
        roads.append(BuiltRoad(index + 1, f"{street.start}-{street.end}", track, street.kind, *ends))
    numbers = _Numbers()
    junctions = []
    for name, found in arms.items():
        crossing = plan.crossings[name]
        junction = BuiltJunction(junction_ids[name], name, _ways(junction_ids[name], found, roads, numbers))
        if crossing.control != MINOR_STOP:
            for arm in found:
                _add_crosswalk(arm, roads[arm.street])
        if crossing.control == SIGNAL:
            _add_lights((crossing.x, crossing.y), junction, found, roads, numbers)
        for arm in found:
            if arm.stops:
                _add_stop(arm, roads[arm.street], crossing.control, numbers)
        junctions.append(junction)
    for found in arms.values():
        for arm in found:
            if any(other.kind.limit_kmh != arm.kind.limit_kmh for other in found):
                _add_limit(arm, roads[arm.street], numbers)
    return BuiltTown(plan, tuple(roads), tuple(junctions))


def _ways(junction_id: int, arms: list[Arm], roads: list[BuiltRoad], numbers: _Numbers) -> list[Way]:
    ways = []
    for index, arm in enumerate(arms):
        # seen by traffic that comes in, the arm to its right is the next one anticlockwise
        for step in range(1, len(arms)):
            other = arms[(index + step) % len(arms)]
            turn = wrap(other.heading - arm.heading - math.pi)
            rightmost = step == 1
            for lane_in, lane_out in _lane_pairs(arm, other, turn):
                start = _lane_pose(roads[arm.street], arm, lane_in, incoming=True)
                end = _lane_pose(roads[other.street], other, lane_out, incoming=False)
                outermost = rightmost and lane_in == arm.kind.lanes
                ways.append(
                    Way(
                        next(numbers.way),
                        junction_id,
                        connecting_line(start, end),
                        roads[arm.street].road_id,
                        lane_in if arm.at_start else -lane_in,
                        not arm.at_start,
                        roads[other.street].road_id,
                        -lane_out if other.at_start else lane_out,
                        other.at_start,
                        (arm.kind.lane_width_m, other.kind.lane_width_m),
                        30 if abs(turn) > _STRAIGHT_WITHIN else min(arm.kind.limit_kmh, other.kind.limit_kmh),
                        (arm.kind, other.kind) if outermost else None,
                    )
                )
    return ways


def _lane_pairs(arm: Arm, other: Arm, turn: float) -> list[tuple[int, int]]:
    """(lane in, lane out), counted from the centre line, for a turn (positive to the left)."""
    lanes_in, lanes_out = arm.kind.lanes, other.kind.lanes
    if turn > _STRAIGHT_WITHIN:
        return [(1, 1)]
    if turn < -_STRAIGHT_WITHIN:
        return [(lanes_in, lanes_out)]
    if lanes_in != lanes_out:
        raise PlanError("streets that go straight on through a junction must have as many lanes")
    return [(lane, lane) for lane in range(1, lanes_in + 1)]


def _lane_pose(road: BuiltRoad, arm: Arm, lane: int, incoming: bool) -> tuple[float, float, float]:
    """The left border of a lane, in its direction of travel, where its street meets the junction."""
    x, y, heading = road.track.at(0.0 if arm.at_start else road.track.length)
    if arm.at_start == incoming:
        heading = wrap(heading + math.pi)
    offset = (lane - 1) * arm.kind.lane_width_m
    return x + offset * math.sin(heading), y - offset * math.cos(heading), heading


def _station(road: BuiltRoad, arm: Arm, from_junction_m: float) -> float:
    return from_junction_m if arm.at_start else road.track.length - from_junction_m


def _incoming_lanes(arm: Arm) -> tuple[int, int]:
    return (1, arm.kind.lanes) if arm.at_start else (-arm.kind.lanes, -1)


def _add_crosswalk(arm: Arm, road: BuiltRoad) -> None:
    s = _station(road, arm, CROSSWALK_GAP_M + 0.5 * CROSSWALK_WIDTH_M)
    road.crosswalks.append(Crosswalk(s, arm.kind.half_width_m))


def _add_stop(arm: Arm, road: BuiltRoad, control: str, numbers: _Numbers) -> None:
    setback = STOP_AT_JUNCTION_M if control == MINOR_STOP else STOP_BEHIND_CROSSWALK_M
    _add_roadside(arm, road, numbers, setback, "206", "Sign_Stop", -1, incoming=True)


def _add_limit(arm: Arm, road: BuiltRoad, numbers: _Numbers) -> None:
    """A speed limit sign for traffic that leaves the junction by this arm."""
    setback = min(9.0, 0.3 * road.track.length)
    limit = arm.kind.limit_kmh
    _add_roadside(arm, road, numbers, setback, "274", f"Speed_{limit}", limit, incoming=False)


def _add_roadside(
    arm: Arm,
    road: BuiltRoad,
    numbers: _Numbers,
    from_junction_m: float,
    type_id: str,
    name: str,
    value: int,
    incoming: bool,
) -> None:
    forward = arm.at_start != incoming
    side = -1.0 if forward else 1.0
    lanes = (-arm.kind.lanes, -1) if forward else (1, arm.kind.lanes)
    road.signals.append(
        Signal(
            next(numbers.signal),
            type_id,
            name,
            _station(road, arm, from_junction_m),
            side * (arm.kind.half_width_m + 0.6),
            0.0 if forward else math.pi,
            forward,
            lanes,
            value,
        )
    )


def _add_lights(
    centre: tuple[float, float],
    junction: BuiltJunction,
    arms: list[Arm],
    roads: list[BuiltRoad],
    numbers: _Numbers,
) -> None:
    """A head for each approach, on the far side of the junction, and a controller for each road through it.

    Approaches that face each other are green together, and who turns left gives way: with a phase for each
    approach, as in CARLA's own towns, a light would be red three quarters of the time.
    """
    paved = [Polygon(way.track.band(0.0, -_paved_width(way))).buffer(0.0) for way in junction.ways]
    paved += [
        Polygon(roads[a.street].track.band(a.kind.half_width_m, -a.kind.half_width_m)).buffer(0.0)
        for a in arms
    ]
    keep_off = unary_union(paved).buffer(0.55)
    phases: list[tuple[float, list[int]]] = []  # heading of the first approach, heads
    for arm in arms:
        x, y = _pole(centre, arm, arms, keep_off)
        line, s, t, tangent = _beside([*junction.ways, *(roads[a.street] for a in arms)], x, y)
        travel = wrap(arm.heading + math.pi)
        signal_id = next(numbers.signal)
        line.signals.append(
            Signal(
                signal_id,
                "1000001",
                "Signal_3Light_Post01",
                s,
                t,
                wrap(travel - tangent),
                True,
                (0, 0),
            )
        )
        road = roads[arm.street]
        road.references.append(
            Reference(
                signal_id,
                _station(road, arm, STOP_BEHIND_CROSSWALK_M),
                not arm.at_start,
                _incoming_lanes(arm),
            )
        )
        facing = (ids for heading, ids in phases if abs(wrap(heading - travel)) < _STRAIGHT_WITHIN)
        ids = next(facing, None)
        if ids is None:
            phases.append((arm.heading, [signal_id]))
        else:
            ids.append(signal_id)
    junction.controllers += [(next(numbers.controller), tuple(ids)) for _, ids in phases]


def _paved_width(way: Way) -> float:
    return max(way.widths_m) + (max(kind.shoulder_m for kind in way.curb) if way.curb else 0.0)


def _pole(centre: tuple[float, float], arm: Arm, arms: list[Arm], keep_off: Polygon) -> tuple[float, float]:
    """Where an approach's pole stands: beyond the crossing street, as near the right curb as may be."""
    ahead = (-math.cos(arm.heading), -math.sin(arm.heading))
    right = (ahead[1], -ahead[0])
    beyond = 0.0
    for other in arms:
        turn = abs(wrap(other.heading - arm.heading - math.pi))
        if turn > math.radians(45.0) and other is not arm:
            beyond = max(beyond, other.kind.half_width_m / math.sin(turn))
    best: tuple[float, float, float] | None = None
    for forward in (beyond + 0.25 * i for i in range(40)):
        from_line = forward + arm.cut_m + STOP_BEHIND_CROSSWALK_M
        if from_line > FARTHEST_HEAD_M:
            break
        for aside in (arm.kind.half_width_m - 1.0 + 0.25 * i for i in range(36)):
            x = centre[0] + forward * ahead[0] + aside * right[0]
            y = centre[1] + forward * ahead[1] + aside * right[1]
            cost = abs(aside - arm.kind.half_width_m - 0.8) + 0.5 * (forward - beyond)
            if (best is None or cost < best[0]) and not keep_off.contains(Point(x, y)):
                best = (cost, x, y)
    if best is None:
        raise PlanError(f"no place for a traffic light within {FARTHEST_HEAD_M:g} m of the stop line")
    return best[1], best[2]


def _beside(
    lines: Sequence[Way | BuiltRoad], x: float, y: float
) -> tuple[Way | BuiltRoad, float, float, float]:
    """The road whose reference line passes nearest a point, with station, offset and heading there.

    Only lines with the foot of the perpendicular between their ends will do: station and offset cannot say
    that something stands beyond an end.
    """
    best: tuple[float, Way | BuiltRoad, float, float, float] | None = None
    for line in lines:
        length = line.track.length
        steps = max(2, math.ceil(length / 0.5))
        s = min(
            (length * i / steps for i in range(steps + 1)),
            key=lambda s, line=line: math.dist(line.track.at(s)[:2], (x, y)),  # type: ignore[misc]
        )
        for _ in range(20):  # slide along the tangent to the foot
            px, py, tangent = line.track.at(s)
            slide = (x - px) * math.cos(tangent) + (y - py) * math.sin(tangent)
            s = min(max(s + 0.7 * slide, 0.0), length)
        px, py, tangent = line.track.at(s)
        if abs((x - px) * math.cos(tangent) + (y - py) * math.sin(tangent)) > 1e-3:
            continue
        t = -(x - px) * math.sin(tangent) + (y - py) * math.cos(tangent)
        if best is None or abs(t) < best[0]:
            best = (abs(t), line, s, t, tangent)
    if best is None:
        raise PlanError(f"no road passes beside ({x:.1f}, {y:.1f})")
    return best[1:]
