"""The shipped route files: traceable, as the proof needs them, and apart from training."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import carla
import pytest

from tickdrive import configs
from tickdrive.agents.types import Command
from tickdrive.leaderboard.route_planner import RoutePlanner, RoutePoint
from tickdrive.leaderboard.routes import Route, read_routes
from tickdrive.leaderboard.simulator.interfaces import SignSpec, TrafficLightSpec
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork
from tickdrive.scripts.make_routes import make_all

FOLDER = Path(next(iter(configs.__path__))) / "routes"
TURNS = {Command.LEFT, Command.RIGHT}
LANE_CHANGES = {Command.CHANGE_LANE_LEFT, Command.CHANGE_LANE_RIGHT}


class Towns:
    """Networks and planners, made once each."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[RoadNetwork, RoutePlanner]] = {}

    def __getitem__(self, name: str) -> tuple[RoadNetwork, RoutePlanner]:
        if name not in self._made:
            network = RoadNetwork.from_xodr(name, read_town(name))
            self._made[name] = network, RoutePlanner(network.map)
        return self._made[name]


class Traced:
    """A route and what it meets."""

    def __init__(self, route: Route, towns: Towns) -> None:
        network, planner = towns[route.town]
        self.route = route
        self.points: list[RoutePoint] = planner.trace(route.locations())
        self.places = [point.transform.location for point in self.points]
        steps = [a.distance(b) for a, b in itertools.pairwise(self.places)]
        self.length_m = sum(steps)
        self.longest_step_m = max(steps)
        self.commands = [command for command, _ in itertools.groupby(p.command for p in self.points)]
        self.lights = [light for light in network.furniture.lights if self._passes(light)]
        stops = [sign for sign in network.furniture.signs if sign.type_id == "traffic.stop"]
        self.stops = [sign for sign in stops if self._passes(sign)]

    def _passes(self, spec: TrafficLightSpec | SignSpec) -> bool:
        """Whether the route crosses a stop line of the light or sign and goes on beyond."""
        for pose in spec.stop_poses:
            for index, point in enumerate(self.points[:-10]):
                at = point.transform
                near = math.hypot(at.location.x - pose.x, at.location.y - pose.y) < 1.2
                if near and abs((at.rotation.yaw - pose.yaw + 180) % 360 - 180) < 45 and index > 10:
                    return True
        return False


@pytest.fixture(scope="module")
def towns() -> Towns:
    return Towns()


@pytest.fixture(scope="module")
def files(towns: Towns) -> dict[str, list[Traced]]:
    names = ("default", "shipped", "sweep", "training")
    return {name: [Traced(r, towns) for r in read_routes(FOLDER / f"{name}.xml")] for name in names}


def test_the_files_are_what_the_script_gives() -> None:
    for name, text in make_all().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name} is stale: run make_routes.py"


def test_every_route_is_smooth_and_ends_where_it_says(files: dict[str, list[Traced]]) -> None:
    for traced in itertools.chain.from_iterable(files.values()):
        assert traced.longest_step_m < 12.0, traced.route.id
        x, y, z = traced.route.keypoints_in_world[-1]
        assert traced.places[-1].distance(carla.Location(x, y, z)) < 3.0
        x, y, z = traced.route.keypoints_in_world[0]
        assert traced.places[0].distance(carla.Location(x, y, z)) < 3.0
        # a detour would show as a place passed twice
        cells = [(round(p.x / 4), round(p.y / 4)) for p in traced.places]
        visits = [cell for cell, _ in itertools.groupby(cells)]
        assert len(visits) - len(set(visits)) <= 6, traced.route.id


def test_routes_start_and_end_clear_of_junctions(files: dict[str, list[Traced]], towns: Towns) -> None:
    for traced in itertools.chain.from_iterable(files.values()):
        carla_map = towns[traced.route.town][0].map
        start, goal = carla_map.get_waypoint(traced.places[0]), carla_map.get_waypoint(traced.places[-1])
        assert not start.is_junction and not start.previous(4.0)[0].is_junction
        assert not goal.is_junction and not goal.next(10.0)[0].is_junction


def test_the_default_route(files: dict[str, list[Traced]]) -> None:
    (traced,) = files["default"]
    assert traced.route.town == "TickTown01"
    assert 400.0 <= traced.length_m <= 550.0
    assert [c for c in traced.commands if c in TURNS] == [Command.RIGHT, Command.LEFT, Command.LEFT]
    assert len(traced.lights) == 2
    assert not LANE_CHANGES & set(traced.commands)
    weather = traced.route.weather_at(50.0)
    assert weather.sun_altitude_angle == 75.0 and weather.cloudiness == 5.0


def test_the_shipped_set(files: dict[str, list[Traced]]) -> None:
    shipped = files["shipped"]
    assert len(shipped) >= 8
    held_out = [t for t in shipped if t.route.town == "TickTown02"]
    assert len(held_out) * 4 >= len(shipped)
    for traced in shipped:
        assert traced.route.id.startswith("heldout_tt02" if traced in held_out else "tt0")
        assert 290.0 <= traced.length_m <= 700.0
        assert traced.lights or traced.stops
    for part in (held_out, [t for t in shipped if t not in held_out]):
        commands = {command for traced in part for command in traced.commands}
        assert {Command.LEFT, Command.RIGHT, Command.STRAIGHT} <= commands
        assert any(t.lights for t in part) and any(t.stops for t in part)
    assert any(len(light.lanes) == 2 for t in shipped for light in t.lights)


def test_the_sweep_is_short_and_meets_signals_and_turns(files: dict[str, list[Traced]]) -> None:
    assert len(files["sweep"]) == 3 and len({t.route.town for t in files["sweep"]}) == 2
    for traced in files["sweep"]:
        assert 150.0 <= traced.length_m <= 300.0
        assert len(traced.lights) == 2 and not traced.stops
        assert TURNS & set(traced.commands)


def test_the_training_set(files: dict[str, list[Traced]], towns: Towns) -> None:
    training = files["training"]
    assert len(training) == 96
    assert {t.route.town for t in training} == {"TickTown01", "TickTown03"}
    assert all(200.0 <= t.length_m <= 500.0 for t in training)
    commands = [command for traced in training for command in traced.commands]
    for command in (Command.LEFT, Command.RIGHT, Command.STRAIGHT):
        assert commands.count(command) >= 30
    assert set(commands) >= LANE_CHANGES
    assert len({t.route.weathers for t in training}) >= 5
    for town in ("TickTown01", "TickTown03"):
        furniture = towns[town][0].furniture
        met_lights = {light.sign_id for t in training if t.route.town == town for light in t.lights}
        assert met_lights == {light.sign_id for light in furniture.lights}
        met_stops = {sign.sign_id for t in training if t.route.town == town for sign in t.stops}
        assert met_stops == {sign.sign_id for sign in furniture.signs if sign.type_id == "traffic.stop"}


def test_training_and_shipped_routes_are_apart(files: dict[str, list[Traced]]) -> None:
    for judged in (*files["default"], *files["shipped"], *files["sweep"]):
        ways = _ways(judged)
        for trained in files["training"]:
            if trained.route.town != judged.route.town:
                continue
            apart = [judged.places[i].distance(trained.places[i]) for i in (0, -1)]
            assert max(apart) > 20.0, (judged.route.id, trained.route.id)
            # and no training route drives all of it as a part of its own way
            assert not ways <= _ways(trained), (judged.route.id, trained.route.id)


def _ways(traced: Traced) -> set[tuple[int, int]]:
    """Coarse cells of the ground that a route passes, 10 m wide."""
    return {(round(p.x / 10), round(p.y / 10)) for p in traced.places}
