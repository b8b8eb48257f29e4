"""Route files: leaderboard 2.x and Bench2Drive, and leaderboard 1.0's older form.

Format as read by leaderboard 2.x's `leaderboard/utils/route_parser.py`; leaderboard 1.0 wrote
``<waypoint x y z pitch roll yaw/>`` directly under the route.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

import carla

from tickdrive.leaderboard.scenarios.registry import read_scenario
from tickdrive.leaderboard.scenarios.spec import ScenarioSpec
from tickdrive.planner.errors import RouteError, did_you_mean

MAX_FILE_BYTES = 64 * 1024 * 1024
_TOWN = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*|/[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_ROUTE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# route_parser.py: `carla.WeatherParameters(sun_altitude_angle=70, cloudiness=50)` underlies every weather
_BASE_WEATHER = {"sun_altitude_angle": 70.0, "cloudiness": 50.0}
# weather_sim.py, `RouteWeatherBehavior.get_route_weathers`: what is interpolated
_WEATHER_FIELDS = (
    "cloudiness",
    "precipitation",
    "precipitation_deposits",
    "wind_intensity",
    "sun_azimuth_angle",
    "sun_altitude_angle",
    "wetness",
    "fog_distance",
    "fog_density",
    "fog_falloff",
    "scattering_intensity",
    "mie_scattering_scale",
    "rayleigh_scattering_scale",
    "dust_storm",
)
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeatherKeypoint:
    """Weather at a point of the route; in between it is interpolated.

    Attributes:
        route_percent: 0 to 100.
        values: `carla.WeatherParameters` field -> value, for the fields that the file sets.
    """

    route_percent: float
    values: tuple[tuple[str, float], ...]

    def parameters(self) -> carla.WeatherParameters:
        """The weather at this keypoint."""
        weather = carla.WeatherParameters(**_BASE_WEATHER)
        for name, value in self.values:
            setattr(weather, name, value)
        return weather


@dataclass(frozen=True)
class Route:
    """One route of a file.

    Attributes:
        id: as the file has it.
        town: map name.
        keypoints_in_world: (x, y, z) [m] to be joined by `RoutePlanner.trace`.
        scenarios: what the file asks for, in its order; also types that are not known here.
        weathers: in the order of their percentage; never empty.
        source: the file, for messages.
    """

    id: str
    town: str
    keypoints_in_world: tuple[tuple[float, float, float], ...]
    scenarios: tuple[ScenarioSpec, ...] = ()
    weathers: tuple[WeatherKeypoint, ...] = (WeatherKeypoint(0.0, ()),)
    source: str = ""

    @property
    def name(self) -> str:
        """Name in results files, without the repetition."""
        return f"RouteScenario_{self.id}"

    def locations(self) -> list[carla.Location]:
        """The keypoints, for `RoutePlanner.trace`."""
        return [carla.Location(x=x, y=y, z=z) for x, y, z in self.keypoints_in_world]

    def weather_at(self, route_percent: float) -> carla.WeatherParameters:
        """Weather at a point of the route, linear between keypoints and constant beyond them."""
        points = self.weathers
        if route_percent <= points[0].route_percent:
            return points[0].parameters()
        for before, after in itertools.pairwise(points):
            if route_percent <= after.route_percent:
                share = (route_percent - before.route_percent) / (after.route_percent - before.route_percent)
                a, b = before.parameters(), after.parameters()
                for name in _WEATHER_FIELDS:
                    start = getattr(a, name)
                    setattr(a, name, start + share * (getattr(b, name) - start))
                return a
        return points[-1].parameters()


def read_routes(path: str | Path, subset: str = "") -> tuple[Route, ...]:
    """Read a route file.

    Args:
        path: XML file.
        subset: upstream's `--routes-subset`: ids and ranges of ids in the file's order, for example
            ``"0,3,7-9"``; empty for all.

    Raises:
        RouteError: naming the file, the route's id where it is known, and what is wrong.
    """
    path = Path(path)
    root = _parse(path)
    elements = list(root.iter("route"))
    if not elements:
        raise RouteError(f"{path} holds no <route>.", "Give a leaderboard route file.")
    routes = [_read_route(element, path, i) for i, element in enumerate(elements)]
    seen: set[str] = set()
    for route in routes:
        if route.id in seen:
            raise RouteError(
                f"{path}: the route id {route.id!r} occurs twice.", "Give each route its own id."
            )
        seen.add(route.id)
    return tuple(_select(routes, subset, path))


def read_named_routes(text: str) -> tuple[Route, ...]:
    """Routes as a command line names them: ``FILE``, or ``FILE:IDS`` with the ids of `read_routes`.

    Raises:
        RouteError: see `read_routes`.
    """
    path, colon, subset = text.rpartition(":")
    if colon and not Path(text).exists():
        return read_routes(path, subset)
    return read_routes(text)


def _parse(path: Path) -> ET.Element:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RouteError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB.", "Split the route file.")
        data = path.read_bytes()
    except OSError as error:
        raise RouteError(f"Route file {path} cannot be read: {error.strerror}.", "Check the path.") from error

    def refuse(*_: object) -> None:
        raise RouteError(
            f"{path} declares a document type.", "Remove the <!DOCTYPE ...> from the route file."
        )

    checker = expat.ParserCreate()
    # entities expand without bound and can name other files; no route needs them
    checker.StartDoctypeDeclHandler = refuse
    try:
        checker.Parse(data, True)
        return ET.fromstring(data)
    except (expat.ExpatError, ET.ParseError, ValueError) as error:
        raise RouteError(f"{path} is not valid XML: {error}.", "Mend that line.") from error


def _read_route(element: ET.Element, path: Path, index: int) -> Route:
    route_id = element.get("id")
    if route_id is None or not _ROUTE_ID.fullmatch(route_id):
        got = "no id" if route_id is None else f"the id {route_id!r}"
        raise RouteError(
            f"{path}: route number {index + 1} has {got}.", "Use letters, digits, '_', '-' and '.'."
        )
    where = f"{path}: route {route_id!r}"
    town = element.get("town") or element.get("map")
    if not town:
        raise RouteError(f"{where} names no town.", 'Write <route id="..." town="...">.')
    if not _TOWN.fullmatch(town):
        raise RouteError(f"{where}: the town {town!r} is no map name.", "Give a name such as Town01.")
    holder = element.find("waypoints")
    positions = list(element.iterfind("waypoint")) if holder is None else list(holder.iter("position"))
    keypoints = tuple(_xyz(p, where, f"waypoint {i + 1}") for i, p in enumerate(positions))
    if len(keypoints) < 2:
        raise RouteError(
            f"{where} has {len(keypoints)} waypoint(s).", "Give at least its start and its goal."
        )
    return Route(
        id=route_id,
        town=town,
        keypoints_in_world=keypoints,
        scenarios=tuple(read_scenario(s, where) for s in element.iterfind("scenarios/scenario")),
        weathers=_read_weathers(element, where),
        source=str(path),
    )


def _read_weathers(element: ET.Element, where: str) -> tuple[WeatherKeypoint, ...]:
    holder = element.find("weathers")
    weathers = list(element.iterfind("weather")) if holder is None else list(holder.iterfind("weather"))
    keypoints = []
    for weather in weathers:
        percent = _number(weather.get("route_percentage", "0"), where, "weather: route_percentage")
        if not 0.0 <= percent <= 100.0:
            raise RouteError(
                f"{where}: weather at {percent:g} % of the route.", "Give a percentage from 0 to 100."
            )
        values = []
        for name, text in weather.attrib.items():
            if name in _WEATHER_FIELDS:
                values.append((name, _number(text, where, f"weather: {name}")))
            elif name not in ("route_percentage", "id"):
                # upstream ignores these too, with a warning
                hint = did_you_mean(name, _WEATHER_FIELDS)
                _LOGGER.warning("%s: weather has no %r, ignored. %s", where, name, hint)
        keypoints.append(WeatherKeypoint(percent, tuple(values)))
    keypoints.sort(key=lambda k: k.route_percent)
    for before, after in itertools.pairwise(keypoints):
        if before.route_percent == after.route_percent:
            raise RouteError(
                f"{where}: two weathers at {before.route_percent:g} %.", "Give each its own percentage."
            )
    return tuple(keypoints) or (WeatherKeypoint(0.0, ()),)


def _xyz(element: ET.Element, where: str, what: str) -> tuple[float, float, float]:
    values = []
    for key in ("x", "y", "z"):
        text = element.get(key)
        if text is None:
            raise RouteError(f"{where}: {what} has no {key!r}.", "Give x, y and z in metres.")
        values.append(_number(text, where, f"{what}: {key}"))
    return values[0], values[1], values[2]


def _number(text: str, where: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RouteError(f"{where}: {what} is {text!r}.", "Give a finite number.")
    return value


def _select(routes: Sequence[Route], subset: str, path: Path) -> list[Route]:
    if not subset.strip():
        return list(routes)
    ids = [route.id for route in routes]
    chosen: set[int] = set()
    for part in (p.strip() for p in subset.split(",")):
        # an id may itself hold a dash, so an exact match comes first
        start, _dash, end = (part, "", part) if part in ids else part.partition("-")
        for name in (start, end):
            if name not in ids:
                raise RouteError(
                    f"{path} has no route {name!r} (subset {subset!r}).", did_you_mean(name, ids)
                )
        first, last = ids.index(start), ids.index(end)
        if last < first:
            raise RouteError(f"Subset {part!r} runs backwards in {path}.", f"Write {end}-{start}.")
        chosen.update(range(first, last + 1))
    return [routes[i] for i in sorted(chosen)]
