"""What must hold of an OpenDRIVE text before `carla.Map` may see it.

CARLA's parser trusts its input: where a link points nowhere or a road has no lanes, it reads past the end of
something and takes the process with it. So the text is looked through here, in words that name what is
wrong, and a text that did not ship with tickdrive is then opened in a process of its own first.
"""

from __future__ import annotations

import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from xml.parsers import expat

from tickdrive.planner.errors import TickdriveError

MAX_XODR_BYTES = 64 * 1024 * 1024
_PROBE_TIMEOUT_S = 120.0
_SHAPES = {"line", "arc", "spiral", "poly3", "paramPoly3"}
#: what a client and this simulator ask of a map, tried where a crash harms nobody
_PROBE = """
import sys, carla
carla_map = carla.Map("probe", sys.stdin.buffer.read().decode("utf-8"))
carla_map.get_topology()
for waypoint in carla_map.generate_waypoints(20.0):
    waypoint.next(2.0), waypoint.previous(2.0), waypoint.get_left_lane(), waypoint.get_right_lane()
    waypoint.left_lane_marking, waypoint.right_lane_marking
    waypoint.is_junction and waypoint.get_junction()
carla_map.get_crosswalks()
for landmark in carla_map.get_all_landmarks():
    landmark.transform
    for lane_id in {lane for pair in landmark.get_lane_validities() for lane in pair} - {0}:
        carla_map.get_waypoint_xodr(landmark.road_id, lane_id, max(landmark.s, 0.0))
carla_map.get_waypoint(carla.Location())
"""


class TownError(TickdriveError):
    """An OpenDRIVE file cannot be used as a town."""


def parse_opendrive(name: str, xodr: str) -> ET.Element:
    """Parse and check an OpenDRIVE text.

    Args:
        name: of the town, for messages.
        xodr: the text.

    Returns:
        The `<OpenDRIVE>` element.

    Raises:
        TownError: it is too large, not XML, declares a document type, is not OpenDRIVE, or its roads,
            lanes and links are such that `carla.Map` cannot read them.
    """
    where = f"Town {name!r}"
    data = xodr.encode("utf-8", "surrogateescape")
    if len(data) > MAX_XODR_BYTES:
        raise TownError(
            f"{where}: the OpenDRIVE text is larger than {MAX_XODR_BYTES >> 20} MiB.", "Cut the map."
        )
    root = _parse_xml(where, data)
    if root.tag != "OpenDRIVE":
        raise TownError(f"{where}: the root element is <{root.tag}>.", "Give an OpenDRIVE (.xodr) file.")
    roads = root.findall("road")
    if not roads:
        raise TownError(f"{where} has no <road>.", "Give an OpenDRIVE file with roads.")
    ids = _unique_ids(where, "road", roads)
    junctions = _unique_ids(where, "junction", root.findall("junction"))
    for road in roads:
        _check_road(f"{where}: road {road.get('id')}", road, ids, junctions)
    if not any(lane.get("type") == "driving" for road in roads for lane in road.iter("lane")):
        raise TownError(f"{where} has no lane of type 'driving'.", "Give roads that cars can use.")
    signals = {element.get("id") for element in root.iter("signal")}
    for tag, key in (("signalReference", "id"), ("control", "signalId")):
        for element in root.iter(tag):
            if element.get(key) not in signals:
                raise TownError(
                    f"{where}: a <{tag}> has {key}={element.get(key)!r}, which is no signal.",
                    "Mend it or take it out.",
                )
    for junction in root.findall("junction"):
        for connection in junction.findall("connection"):
            for key in ("incomingRoad", "connectingRoad"):
                if connection.get(key) not in ids:
                    raise TownError(
                        f"{where}: junction {junction.get('id')} has {key}={connection.get(key)!r}, "
                        "which is no road.",
                        "Mend the connection.",
                    )
    return root


def probe_map(name: str, xodr: str) -> None:
    """Open a map in a process of its own.

    Raises:
        TownError: CARLA's parser refuses it, crashes, or takes too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROBE],
            input=xodr.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TownError(
            f"Town {name!r}: CARLA's OpenDRIVE parser was not done after {_PROBE_TIMEOUT_S:g} s.",
            "Cut or mend the map.",
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = lines[-1] if done.returncode > 0 and lines else f"it crashed (signal {-done.returncode})"
        raise TownError(f"Town {name!r}: CARLA's OpenDRIVE parser cannot read it: {why}.", "Mend the map.")


def _parse_xml(where: str, data: bytes) -> ET.Element:
    def refuse(*_: object) -> None:
        raise TownError(f"{where} declares a document type.", "Remove the <!DOCTYPE ...>.")

    checker = expat.ParserCreate()
    # entities expand without bound and can name other files; no map needs them
    checker.StartDoctypeDeclHandler = refuse
    try:
        checker.Parse(data, True)
        return ET.fromstring(data)
    except (expat.ExpatError, ET.ParseError, ValueError) as error:
        raise TownError(f"{where} is not valid XML: {error}.", "Mend that line.") from error


def _unique_ids(where: str, what: str, elements: Iterable[ET.Element]) -> set[str]:
    seen: set[str] = set()
    for element in elements:
        text = element.get("id", "")
        if not text.isdecimal() or int(text) >= 2**31:
            raise TownError(f"{where}: a {what} has the id {text!r}.", "CARLA wants whole numbers from 0.")
        if text in seen:
            raise TownError(f"{where}: the {what} id {text} occurs twice.", "Give each its own.")
        seen.add(text)
    return seen


def _check_road(where: str, road: ET.Element, roads: set[str], junctions: set[str]) -> None:
    length = _number(where, road, "length")
    if not 0.0 < length < 1e6:
        raise TownError(f"{where} has the length {length:g} m.", "Roads have a positive length.")
    junction = road.get("junction", "-1")
    if junction != "-1" and junction not in junctions:
        raise TownError(
            f"{where} belongs to junction {junction!r}, which does not exist.", "Mend the attribute."
        )
    for kind in ("predecessor", "successor"):
        link = road.find(f"link/{kind}")
        if link is None:
            continue
        known = {"road": roads, "junction": junctions}.get(link.get("elementType", ""))
        if known is None or link.get("elementId") not in known:
            raise TownError(
                f"{where}: its {kind} is {link.get('elementType')} {link.get('elementId')!r}, "
                "which does not exist.",
                "Mend the link.",
            )
    pieces = road.findall("planView/geometry")
    if not pieces:
        raise TownError(f"{where} has no planView geometry.", "Give its reference line.")
    for piece in pieces:
        for key in ("s", "x", "y", "hdg", "length"):
            _number(where, piece, key)
        if not any(child.tag in _SHAPES for child in piece):
            raise TownError(
                f"{where} has a geometry without a shape.", f"Known: {', '.join(sorted(_SHAPES))}."
            )
        for child in piece:
            for key in set(child.keys()) - {"pRange"}:
                _number(where, child, key)
    _check_lanes(where, road, length)


def _check_lanes(where: str, road: ET.Element, length: float) -> None:
    sections = road.findall("lanes/laneSection")
    if not sections:
        raise TownError(f"{where} has no laneSection.", "Give its lanes.")
    for section in sections:
        start = _number(where, section, "s")
        if not -1e-6 <= start < length:
            raise TownError(f"{where}: a laneSection starts at s={start:g}.", "Keep it within the road.")
        if section.find("center/lane") is None:
            raise TownError(f"{where} has a laneSection without a centre lane.", "Give lane 0.")
        seen: set[int] = set()
        for lane in section.iter("lane"):
            try:
                lane_id = int(lane.get("id", ""))
            except ValueError:
                raise TownError(
                    f"{where} has a lane with the id {lane.get('id')!r}.", "Give a whole number."
                ) from None
            if lane_id in seen:
                raise TownError(
                    f"{where}: lane {lane_id} occurs twice in a section.", "Give each its own id."
                )
            seen.add(lane_id)
            if lane_id and lane.find("width") is None and lane.find("border") is None:
                raise TownError(f"{where}: lane {lane_id} has no width.", "Give its width.")
            for width in lane.findall("width"):
                for key in "abcd":
                    _number(where, width, key)
        for side in (-1, 1):
            count = sum(1 for lane_id in seen if lane_id * side > 0)
            if any(side * k not in seen for k in range(1, count + 1)):
                raise TownError(f"{where}: lane ids {sorted(seen)} have a gap.", "Number lanes without gaps.")


def _number(where: str, element: ET.Element, key: str) -> float:
    text = element.get(key)
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TownError(f"{where}: <{element.tag}> has {key}={text!r}.", "Give a finite number.")
    return value
