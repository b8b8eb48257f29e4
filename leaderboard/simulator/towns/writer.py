"""Writes a built town as OpenDRIVE 1.4, in the dialect that CARLA's parser reads.

`<outline>` stands directly under `<object>` (only then does CARLA see a crosswalk), `laneChange` is always
given (without it CARLA allows every change), and each lane through a junction is a road of its own.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tickdrive.leaderboard.simulator.towns.build import (
    CROSSWALK_WIDTH_M,
    BuiltJunction,
    BuiltRoad,
    BuiltTown,
    Reference,
    Signal,
    Way,
)
from tickdrive.leaderboard.simulator.towns.furniture import TIMES_CODE
from tickdrive.leaderboard.simulator.towns.plan import StreetKind, Track

_MARGIN_M = 30.0
#: signals of a small town: short, so that a red light lasts at most 16 s
_TIMES = "8 3 1"


def write_opendrive(town: BuiltTown) -> str:
    """OpenDRIVE text of a town; equal towns give equal texts."""
    root = ET.Element("OpenDRIVE")
    _header(root, town)
    for road in town.roads:
        _road(root, road)
    for junction in town.junctions:
        for way in junction.ways:
            _way(root, way)
    for junction in town.junctions:
        for sequence, (controller, signals) in enumerate(junction.controllers):
            name = "approach" + "-".join(map(str, signals))
            element = _sub(root, "controller", name=name, id=controller, sequence=sequence)
            for signal in signals:
                _sub(element, "control", signalId=signal, type="0")
            _sub(element, "userData", code=TIMES_CODE, value=_TIMES)
    for junction in town.junctions:
        _junction(root, junction)
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _header(root: ET.Element, town: BuiltTown) -> None:
    xs = [x for road in town.roads for x in road.track.points(5.0)[:, 0]]
    ys = [y for road in town.roads for y in road.track.points(5.0)[:, 1]]
    header = _sub(
        root,
        "header",
        revMajor=1,
        revMinor=4,
        name=town.plan.name,
        version=1,
        date="2025-01-01T00:00:00",
        north=max(ys) + _MARGIN_M,
        south=min(ys) - _MARGIN_M,
        east=max(xs) + _MARGIN_M,
        west=min(xs) - _MARGIN_M,
        vendor="tickdrive",
    )
    lat, lon = town.plan.geo_reference
    _sub(
        header, "geoReference"
    ).text = f"+proj=tmerc +lat_0={lat:g} +lon_0={lon:g} +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m +no_defs"


def _road(root: ET.Element, road: BuiltRoad) -> None:
    element = _open_road(root, road.road_id, road.name, road.track, -1, road.kind.limit_kmh)
    link = element.find("link")
    assert link is not None
    _sub(link, "predecessor", elementType="junction", elementId=road.start_junction)
    _sub(link, "successor", elementType="junction", elementId=road.end_junction)
    section = _section(element)
    kind = road.kind
    left = _sub(section, "left")
    for lane_id in range(kind.lanes + 2, 0, -1):
        _street_lane(left, lane_id, kind)
    _centre(section, "solid" if kind.lanes > 1 else "broken", "yellow")
    right = _sub(section, "right")
    for lane_id in range(1, kind.lanes + 3):
        _street_lane(right, -lane_id, kind)
    objects = _sub(element, "objects")
    for number, crosswalk in enumerate(road.crosswalks):
        item = _sub(
            objects,
            "object",
            id=10 * road.road_id + number + 10000,
            name="crosswalk",
            type="crosswalk",
            s=crosswalk.s,
            t=0.0,
            zOffset=0.0,
            orientation="none",
            hdg=0.0,
            pitch=0.0,
            roll=0.0,
            length=CROSSWALK_WIDTH_M,
            width=2 * crosswalk.half_length_m,
        )
        outline = _sub(item, "outline")
        half_u, half_v = 0.5 * CROSSWALK_WIDTH_M, crosswalk.half_length_m
        for u, v in (
            (-half_u, -half_v),
            (half_u, -half_v),
            (half_u, half_v),
            (-half_u, half_v),
            (-half_u, -half_v),
        ):
            _sub(outline, "cornerLocal", u=u, v=v, z=0.0)
    _signals(element, road.signals, road.references)


def _way(root: ET.Element, way: Way) -> None:
    name = f"{way.from_road}to{way.to_road}"
    element = _open_road(root, way.way_id, name, way.track, way.junction, way.limit_kmh)
    link = element.find("link")
    assert link is not None
    ends = {True: "end", False: "start"}
    _sub(
        link,
        "predecessor",
        elementType="road",
        elementId=way.from_road,
        contactPoint=ends[way.from_end],
    )
    _sub(
        link,
        "successor",
        elementType="road",
        elementId=way.to_road,
        contactPoint=ends[not way.to_start],
    )
    section = _section(element)
    _centre(section, "none", "standard")
    right = _sub(section, "right")
    lane = _lane(right, -1, "driving", way.widths_m, way.track.length)
    link = ET.Element("link")
    _sub(link, "predecessor", id=way.from_lane)
    _sub(link, "successor", id=way.to_lane)
    lane.insert(0, link)
    _mark(lane, "none", "none")
    if way.curb is not None:
        a, b = way.curb
        shoulder = _lane(right, -2, "shoulder", (a.shoulder_m, b.shoulder_m), way.track.length)
        _mark(shoulder, "none", "none")
        sidewalk = _lane(right, -3, "sidewalk", (a.sidewalk_m, b.sidewalk_m), way.track.length)
        _mark(sidewalk, "none", "none")
    _sub(element, "objects")
    _signals(element, way.signals, [])


def _junction(root: ET.Element, junction: BuiltJunction) -> None:
    element = _sub(root, "junction", id=junction.junction_id, name=junction.name)
    for number, way in enumerate(junction.ways):
        connection = _sub(
            element,
            "connection",
            id=number,
            incomingRoad=way.from_road,
            connectingRoad=way.way_id,
            contactPoint="start",
        )
        _sub(connection, "laneLink", **{"from": way.from_lane, "to": -1})
    for sequence, (controller, _) in enumerate(junction.controllers):
        _sub(element, "controller", id=controller, type="0", sequence=sequence)


def _open_road(
    root: ET.Element, road_id: int, name: str, track: Track, junction: int, limit_kmh: int
) -> ET.Element:
    road = _sub(root, "road", name=name, length=track.length, id=road_id, junction=junction)
    _sub(road, "link")
    _sub(_sub(road, "type", s=0.0, type="town"), "speed", max=limit_kmh, unit="km/h")
    view = _sub(road, "planView")
    s = 0.0
    for piece in track.pieces:
        geometry = _sub(view, "geometry", s=s, x=piece.x, y=piece.y, hdg=piece.heading, length=piece.length)
        if piece.curvature:
            _sub(geometry, "arc", curvature=piece.curvature)
        else:
            _sub(geometry, "line")
        s += piece.length
    _sub(_sub(road, "elevationProfile"), "elevation", s=0.0, a=0.0, b=0.0, c=0.0, d=0.0)
    _sub(road, "lateralProfile")
    return road


def _section(road: ET.Element) -> ET.Element:
    lanes = _sub(road, "lanes")
    _sub(lanes, "laneOffset", s=0.0, a=0.0, b=0.0, c=0.0, d=0.0)
    return _sub(lanes, "laneSection", s=0.0)


def _centre(section: ET.Element, mark: str, colour: str) -> None:
    lane = _sub(_sub(section, "center"), "lane", id=0, type="none", level="false")
    _mark(lane, mark, "none", colour)


def _street_lane(parent: ET.Element, lane_id: int, kind: StreetKind) -> None:
    number = abs(lane_id)
    if number <= kind.lanes:
        lane = _lane(parent, lane_id, "driving", (kind.lane_width_m,) * 2, 1.0)
        inner = number < kind.lanes
        _mark(lane, "broken" if inner else "solid", "both" if inner else "none")
        return
    shoulder = number == kind.lanes + 1
    width = kind.shoulder_m if shoulder else kind.sidewalk_m
    lane = _lane(parent, lane_id, "shoulder" if shoulder else "sidewalk", (width, width), 1.0)
    _mark(lane, "none", "none")


def _lane(
    parent: ET.Element, lane_id: int, kind: str, widths_m: tuple[float, float], length_m: float
) -> ET.Element:
    """A lane whose width goes smoothly from one end's to the other's."""
    lane = _sub(parent, "lane", id=lane_id, type=kind, level="false")
    more = widths_m[1] - widths_m[0]
    c, d = 3.0 * more / length_m**2, -2.0 * more / length_m**3
    _sub(lane, "width", sOffset=0.0, a=widths_m[0], b=0.0, c=c, d=d)
    return lane


def _mark(lane: ET.Element, kind: str, lane_change: str, colour: str = "standard") -> None:
    _sub(
        lane,
        "roadMark",
        sOffset=0.0,
        type=kind,
        weight="standard",
        color=colour,
        width=0.15,
        laneChange=lane_change,
    )


def _signals(road: ET.Element, signals: list[Signal], references: list[Reference]) -> None:
    parent = _sub(road, "signals")
    for signal in signals:
        light = signal.type_id == "1000001"
        element = _sub(
            parent,
            "signal",
            name=signal.name,
            id=signal.signal_id,
            s=signal.s,
            t=signal.t,
            zOffset=0.0,
            hOffset=signal.turn,
            roll=0.0,
            pitch=0.0,
            orientation="+" if signal.forward else "-",
            dynamic="yes" if light else "no",
            country="OpenDRIVE",
            type=signal.type_id,
            subtype=signal.value,
            value=float(signal.value),
            unit="km/h" if signal.value > 0 else "",
            text="",
            height=1.0,
            width=0.6,
        )
        _validity(element, signal.lanes)
    for reference in references:
        element = _sub(
            parent,
            "signalReference",
            id=reference.signal_id,
            s=reference.s,
            t=0.0,
            orientation="+" if reference.forward else "-",
        )
        _validity(element, reference.lanes)


def _validity(parent: ET.Element, lanes: tuple[int, int]) -> None:
    _sub(parent, "validity", fromLane=lanes[0], toLane=lanes[1])


def _sub(parent: ET.Element, tag: str, **attributes: object) -> ET.Element:
    return ET.SubElement(parent, tag, {key: _text(value) for key, value in attributes.items()})


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    # ten decimals: where headings are rounded more coarsely, long roads miss their junctions
    text = f"{value:.10f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
