"""Places for scenarios, found in the shipped towns."""

from __future__ import annotations

import itertools

import carla
import pytest

from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.upstream.scenario_sites import NEEDS, Need, find_sites, routes_for

TOWN = "TickTown01"


@pytest.fixture(scope="module")
def town() -> carla.Map:
    return carla.Map(TOWN, read_town(TOWN))


def ahead(waypoint: carla.Waypoint, length_m: float) -> list[carla.Waypoint]:
    way = [waypoint]
    while len(way) < length_m and (following := way[-1].next(1.0)):
        way.append(following[0])
    return way


def test_a_signalised_left_turn_is_one(town):
    sites = list(itertools.islice(find_sites(town, Need("junction", "left", True)), 3))
    assert sites
    for site in sites:
        first, exit_, last = site.waypoints
        turn = (exit_.transform.rotation.yaw - first.transform.rotation.yaw) % 360.0
        assert 220.0 < turn < 320.0  # yaw grows to the right
        assert not site.trigger.is_junction
        assert any(each.is_junction for each in ahead(site.trigger, 60.0))
        assert site.trigger.get_landmarks_of_type(80.0, "1000001", False)
        assert not any(each.is_junction for each in ahead(exit_, 20.0))
        assert last.transform.location.distance(exit_.transform.location) > 20.0


def test_lanes_and_two_ways_have_the_neighbour_they_need(town):
    beside = next(find_sites(town, Need("lanes"))).trigger
    assert beside.get_left_lane().lane_id * beside.lane_id > 0
    opposite = next(find_sites(town, Need("two ways"))).trigger
    assert opposite.get_left_lane().lane_id * opposite.lane_id < 0


def test_a_route_file_has_each_type_once_or_says_why_not(town, tmp_path):
    types = ("Accident", "SignalizedJunctionLeftTurn", "CrossingBicycleFlow", "Unheard")
    text, placed, missing = routes_for(types, {TOWN: town})
    path = tmp_path / "routes.xml"
    path.write_text(text)
    routes = read_routes(path)
    assert placed == {"0": ("Accident", TOWN), "1": ("SignalizedJunctionLeftTurn", TOWN)}
    assert [route.scenarios[0].type for route in routes] == ["Accident", "SignalizedJunctionLeftTurn"]
    assert "bicycles" in missing["CrossingBicycleFlow"]
    assert "not known" in missing["Unheard"]
    assert NEEDS["Accident"].parameters["distance"] == "40"
