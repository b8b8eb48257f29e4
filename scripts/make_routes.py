"""Makes the shipped route files: ``python -m tickdrive.scripts.make_routes [--check]``.

A route is written down as the junctions it passes; its keypoints follow from the town's plan. Training
routes are drawn by a seed so that together they pass as many turns as possible; none of them passes the
same junctions as a route of `default.xml`, `shipped.xml` or `sweep.xml`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import carla

from tickdrive import configs
from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.leaderboard.simulator.towns.build import BuiltRoad, build_town
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator.towns.plan import TownPlan, wrap
from tickdrive.leaderboard.upstream.scenario_sites import routes_for
from tickdrive.planner.errors import RouteError
from tickdrive.scripts.make_towns import PLANS

TRAINING_ROUTES = 96
TRAINING_LENGTH_M = (200.0, 460.0)
_SEED = 20
_CANDIDATES = 600
#: keypoint in the lane that the next turn starts from, this far before the junction
_BEFORE_JUNCTION_M = 22.0
#: about the way through a junction
_JUNCTION_M = 22.0

CLEAR_NOON = {"cloudiness": 5.0, "sun_azimuth_angle": 0.0, "sun_altitude_angle": 75.0}
WEATHERS = (
    CLEAR_NOON,
    {"cloudiness": 60.0, "sun_azimuth_angle": 45.0, "sun_altitude_angle": 60.0},
    {"cloudiness": 10.0, "sun_azimuth_angle": 100.0, "sun_altitude_angle": 30.0},
    {"cloudiness": 20.0, "sun_azimuth_angle": 250.0, "sun_altitude_angle": 22.0},
    {"cloudiness": 90.0, "sun_azimuth_angle": 0.0, "sun_altitude_angle": 50.0, "wetness": 30.0},
    {"cloudiness": 40.0, "sun_azimuth_angle": 180.0, "sun_altitude_angle": 45.0},
)

#: types of `scenarios.xml`: one or two of each kind of thing that happens
SCENARIOS = (
    "DynamicObjectCrossing",
    "PedestrianCrossing",
    "VehicleTurningRoute",
    "ParkedObstacleTwoWays",
    "Accident",
    "ConstructionObstacleTwoWays",
    "HazardAtSideLane",
    "HardBreakRoute",
    "StaticCutIn",
    "SignalizedJunctionLeftTurn",
    "NonSignalizedJunctionRightTurn",
    "OppositeVehicleRunningRedLight",
    "OppositeVehicleTakingPriority",
    "BlockedIntersection",
    "MergerIntoSlowTraffic",
    "YieldToEmergencyVehicle",
    "ControlLoss",
    "InvadingTurn",
    "VanillaNonSignalizedTurnEncounterStopsign",
)


@dataclass(frozen=True)
class Journey:
    """A route as its author thinks of it.

    Attributes:
        route_id: id in the file.
        town: town name.
        via: junctions; the route starts on the street from the first to the second and ends on the street
            from the last but one to the last.
        start_m: from the first street's beginning.
        end_m: from the last street's beginning.
        weather: values of `carla.WeatherParameters`.
    """

    route_id: str
    town: str
    via: tuple[str, ...]
    start_m: float
    end_m: float
    weather: dict[str, float]

    @property
    def turns(self) -> list[tuple[str, str, str]]:
        """(from, junction, to) of each junction passed."""
        return list(zip(self.via, self.via[1:], self.via[2:], strict=False))


def _journey(route_id: str, town: str, via: str, start_m: float, end_m: float) -> Journey:
    return Journey(route_id, town, tuple(via.split()), start_m, end_m, CLEAR_NOON)


DEFAULT = (
    # right (with priority), left at a signal, left at a signal
    _journey("default", "TickTown01", "B1 B2 C2 C3 B3", 20.0, 85.0),
)
SHIPPED = (
    _journey("tt01_arterial", "TickTown01", "A4 A3 B3 C3 D3", 35.0, 90.0),
    _journey("tt01_stops", "TickTown01", "D1 D2 E2 E3", 20.0, 90.0),
    _journey("tt01_jog", "TickTown01", "C5 C4 D4 D3", 25.0, 110.0),
    _journey("tt01_winding", "TickTown01", "E2 D2 C2 C1", 25.0, 80.0),
    _journey("tt03_skew", "TickTown03", "A1 B1 C1 C2 C3", 20.0, 70.0),
    _journey("tt03_north", "TickTown03", "D2 C2 B2 B3", 20.0, 75.0),
    _journey("heldout_tt02_main", "TickTown02", "W M Q N2 E", 20.0, 80.0),
    _journey("heldout_tt02_lanes", "TickTown02", "N1 M P R Q", 20.0, 30.0),
    _journey("heldout_tt02_south", "TickTown02", "S1 S2 R Q M", 15.0, 75.0),
)
# short, so that a latency sweep drives them often: two signals and a turn each
SWEEP = (
    _journey("lefts", "TickTown01", "B2 C2 C3 B3", 90.0, 60.0),
    _journey("straight_left", "TickTown01", "C1 C2 C3 B3", 75.0, 60.0),
    _journey("left_straight", "TickTown03", "D2 C2 C1 C0", 65.0, 60.0),
)


class TownStreets:
    """A town's streets by the junctions they join, for laying out journeys."""

    def __init__(self, plan: TownPlan) -> None:
        self.name = plan.name
        self.plan = plan
        self.map = carla.Map(plan.name, read_town(plan.name))
        self.planner = RoutePlanner(self.map)
        self._roads: dict[tuple[str, str], tuple[BuiltRoad, bool]] = {}
        self.next: dict[str, list[str]] = {name: [] for name in plan.crossings}
        for street, road in zip(plan.streets, build_town(plan).roads, strict=True):
            self._roads[street.start, street.end] = (road, True)
            self._roads[street.end, street.start] = (road, False)
            self.next[street.start].append(street.end)
            self.next[street.end].append(street.start)

    def length_m(self, a: str, b: str) -> float:
        """Length of the street from one junction to another."""
        return self._roads[a, b][0].track.length

    def keypoints(self, journey: Journey) -> list[carla.Location]:
        """Start, a point before each junction in the lane to be in, and goal."""
        legs = list(itertools.pairwise(journey.via))
        points = []
        for index, (a, b) in enumerate(legs):
            following = journey.via[index + 2] if index + 2 < len(journey.via) else None
            came_from = journey.via[index - 1] if index else None
            lane = self._lane(came_from, a, b, following)
            if index == 0:
                points.append(self._at(a, b, journey.start_m, lane))
            if following is None:
                points.append(self._at(a, b, journey.end_m, lane))
            else:
                points.append(self._at(a, b, self.length_m(a, b) - _BEFORE_JUNCTION_M, lane))
        return points

    def _lane(self, came_from: str | None, a: str, b: str, following: str | None) -> int:
        """Lane from the centre line: inner for a left turn ahead, outer for a right one, else as it came."""
        road, _ = self._roads[a, b]
        if following is not None:
            turn = self._turn(a, b, following)
            if abs(turn) > 0.5:
                return 1 if turn > 0 else road.kind.lanes
        if came_from is not None:
            turn = self._turn(came_from, a, b)
            if turn < -0.5:
                return road.kind.lanes
        return 1

    def _turn(self, a: str, b: str, c: str) -> float:
        before, onward = self._roads[a, b]
        after, forward = self._roads[b, c]
        _, _, h0 = before.track.at(before.track.length if onward else 0.0)
        _, _, h1 = after.track.at(0.0 if forward else after.track.length)
        return wrap((h1 if forward else h1 + math.pi) - (h0 if onward else h0 + math.pi))

    def _at(self, a: str, b: str, along_m: float, lane: int) -> carla.Location:
        road, forward = self._roads[a, b]
        s = along_m if forward else road.track.length - along_m
        waypoint = self.map.get_waypoint_xodr(road.road_id, -lane if forward else lane, s)
        if waypoint is None:
            raise RouteError(f"{self.name}: no lane {lane} at {s:.1f} m of the street {a}-{b}.", "")
        return waypoint.transform.location


def route_length_m(planner: RoutePlanner, keypoints: Sequence[carla.Location]) -> float:
    """Length of the dense route through keypoints."""
    route = planner.trace(keypoints)
    places = [point.transform.location for point in route]
    return sum(a.distance(b) for a, b in itertools.pairwise(places))


def training_journeys(towns: dict[str, TownStreets], taken: Iterable[Journey]) -> list[Journey]:
    """Journeys that pass as many turns as they can; the same at every call."""
    rng = random.Random(_SEED)
    forbidden = {(j.town, j.via) for j in taken}
    seen: dict[tuple[str, tuple[str, str, str]], int] = {}
    journeys: list[Journey] = []
    names = [name for name in sorted(towns) if name != "TickTown02"]
    for number in range(TRAINING_ROUTES):
        # in proportion to the towns' turns: TickTown01 has about twice as many
        name = names[0] if number % 3 < 2 else names[1]
        best: tuple[float, Journey] | None = None
        for _ in range(_CANDIDATES):
            journey = _random_journey(rng, towns[name], number)
            if journey is None or (name, journey.via) in forbidden:
                continue
            gain = sum(_worth(seen, name, turn) for turn in set(journey.turns))
            if best is None or gain > best[0]:
                best = (gain, journey)
        if best is None:
            raise RouteError(f"{name}: no journey found.", "")
        journeys.append(best[1])
        forbidden.add((name, best[1].via))
        for turn in best[1].turns:
            seen[name, turn] = seen.get((name, turn), 0) + 1
    return journeys


def _worth(seen: dict[tuple[str, tuple[str, str, str]], int], town: str, turn: tuple[str, str, str]) -> float:
    """What passing a turn again is worth; most where not even its approach has been driven."""
    times = seen.get((town, turn), 0)
    new_approach = not any(name == town and known[:2] == turn[:2] for name, known in seen)
    return 2.0 if new_approach else 1.0 / (1.0 + 8.0 * times)


def _random_journey(rng: random.Random, town: TownStreets, number: int) -> Journey | None:
    """Starts not far before a junction and ends not far after one, so that turns make up much of it."""
    wanted_m = rng.uniform(*TRAINING_LENGTH_M)
    via = [rng.choice(sorted(town.next))]
    via.append(rng.choice(town.next[via[0]]))
    first_m = town.length_m(via[0], via[1])
    start_m = max(8.0, first_m - rng.uniform(45.0, 75.0))
    travelled = first_m - start_m
    while True:
        via.append(rng.choice([name for name in town.next[via[-1]] if name != via[-2]]))
        travelled += _JUNCTION_M
        length = town.length_m(via[-2], via[-1])
        if travelled + length + _JUNCTION_M + 40.0 > wanted_m:
            break
        travelled += length
    end_m = min(rng.uniform(35.0, 65.0), length - 18.0)
    if end_m < 30.0 or travelled + end_m < TRAINING_LENGTH_M[0] or len(set(via)) < len(via) - 1:
        return None
    weather = WEATHERS[number % len(WEATHERS)]
    return Journey(f"train_{number:02d}", town.name, tuple(via), round(start_m, 1), round(end_m, 1), weather)


def routes_xml(towns: dict[str, TownStreets], journeys: Iterable[Journey]) -> str:
    """A leaderboard 2.x route file."""
    root = ET.Element("routes")
    for journey in journeys:
        route = ET.SubElement(root, "route", id=journey.route_id, town=journey.town)
        weathers = ET.SubElement(route, "weathers")
        for percent in ("0", "100"):
            values = {key: f"{value:g}" for key, value in journey.weather.items()}
            ET.SubElement(weathers, "weather", {"route_percentage": percent, **values})
        waypoints = ET.SubElement(route, "waypoints")
        for point in towns[journey.town].keypoints(journey):
            # + 0.0 turns -0.0 into 0.0
            values = {key: f"{round(getattr(point, key), 2) + 0.0:.2f}" for key in "xyz"}
            ET.SubElement(waypoints, "position", values)
        ET.SubElement(route, "scenarios")
    ET.indent(root, "  ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def make_all() -> dict[str, str]:
    """Text of every shipped route file, by file name."""
    towns = {plan.name: TownStreets(plan) for plan in (make() for make in PLANS)}
    training = training_journeys(towns, (*DEFAULT, *SHIPPED))
    files = {"default.xml": DEFAULT, "shipped.xml": SHIPPED, "sweep.xml": SWEEP, "training.xml": training}
    texts = {name: routes_xml(towns, journeys) for name, journeys in files.items()}
    return {**texts, "scenarios.xml": scenario_routes_xml()}


def scenario_routes_xml() -> str:
    """A short route for each of `SCENARIOS`, named after it, where a town first has the road for it."""
    name = PLANS[0]().name
    text, placed, missing = routes_for(SCENARIOS, {name: carla.Map(name, read_town(name))}, 0)
    if missing:
        raise RouteError(f"{name} has no place for {', '.join(missing)}.", "")
    root = ET.fromstring(text)
    for route in root:
        route.set("id", placed[route.get("id", "")][0])
    ET.indent(root, "  ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def main() -> int:
    """Write the files, or with ``--check`` say whether those on disk are what this script gives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    check = parser.parse_args().check
    folder = Path(next(iter(configs.__path__))) / "routes"
    stale = 0
    for name, text in make_all().items():
        path = folder / name
        differs = not path.exists() or path.read_text(encoding="utf-8") != text
        stale += differs
        if differs and not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{name}: {text.count('<route ')} routes{', changed' if differs else ''}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
