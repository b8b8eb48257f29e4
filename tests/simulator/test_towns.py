"""The shipped towns: made again by their script, and drivable without end."""

from __future__ import annotations

import math
import random

import carla
import networkx as nx
import numpy as np
import pytest
from shapely.geometry import Polygon

from tickdrive.leaderboard.simulator.geometry import wrap_deg
from tickdrive.leaderboard.simulator.interfaces import LightTimes
from tickdrive.leaderboard.simulator.towns.build import FARTHEST_HEAD_M, FIRST_WAY_ID, build_town
from tickdrive.leaderboard.simulator.towns.catalogue import read_town, town_names
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork
from tickdrive.leaderboard.simulator.towns.plan import (
    Bend,
    Crossing,
    PlanError,
    Street,
    StreetKind,
    TownPlan,
    centre_line,
    connecting_line,
)
from tickdrive.planner.errors import ServerError
from tickdrive.scripts.make_towns import PLANS, make_all

TOWNS = ("TickTown01", "TickTown02", "TickTown03")


@pytest.fixture(scope="module")
def networks() -> dict[str, RoadNetwork]:
    return {name: RoadNetwork.from_xodr(name, read_town(name)) for name in TOWNS}


def test_the_files_are_what_the_plans_give() -> None:
    made = make_all()
    assert set(made) == set(TOWNS) <= set(town_names())
    for name, text in made.items():
        assert text == read_town(name), f"{name} is stale: run scripts/make_towns.py"
        assert len(text) < 1.5e6


def test_an_unknown_town_is_named() -> None:
    with pytest.raises(ServerError, match=r"'TickTown1'.*Did you mean 'TickTown01'"):
        read_town("TickTown1")


@pytest.mark.parametrize("name", TOWNS)
def test_wandering_never_ends_and_never_jumps(networks: dict[str, RoadNetwork], name: str) -> None:
    rng = random.Random(1)
    network = networks[name]
    for start in rng.sample(network.spawn_points, 12):
        waypoint = network.map.get_waypoint(carla.Location(start.x, start.y, start.z))
        for _ in range(700):
            choices = waypoint.next(2.0)
            assert choices, f"dead end at {waypoint.transform.location}"
            following = rng.choice(choices)
            a, b = waypoint.transform, following.transform
            assert 1.0 < a.location.distance(b.location) < 2.6
            turned = (b.rotation.yaw - a.rotation.yaw + 180.0) % 360.0 - 180.0
            # 2 m on a circle of 5.5 m
            assert abs(turned) < 21.0
            waypoint = following


@pytest.mark.parametrize("name", TOWNS)
def test_every_lane_is_reached_from_every_other(networks: dict[str, RoadNetwork], name: str) -> None:
    graph: nx.DiGraph[tuple[int, int]] = nx.DiGraph()
    for waypoint in networks[name].map.generate_waypoints(4.0):
        lane = waypoint.road_id, waypoint.lane_id
        for other in waypoint.next(4.0):
            graph.add_edge(lane, (other.road_id, other.lane_id))
    assert nx.is_strongly_connected(graph)


@pytest.mark.parametrize("name", TOWNS)
def test_lanes_change_only_between_lanes_of_one_direction(
    networks: dict[str, RoadNetwork], name: str
) -> None:
    changes = 0
    for waypoint in networks[name].map.generate_waypoints(15.0):
        left, right = waypoint.get_left_lane(), waypoint.get_right_lane()
        for allowed, beside in ((carla.LaneChange.Left, left), (carla.LaneChange.Right, right)):
            if waypoint.lane_change & allowed:
                assert beside.lane_type == carla.LaneType.Driving
                assert beside.lane_id * waypoint.lane_id > 0
                changes += 1
    assert changes > 20


@pytest.mark.parametrize("make", PLANS)
def test_streets_overlap_nowhere_and_blocks_have_room(make) -> None:  # type: ignore[no-untyped-def]
    town = build_town(make())
    outlines = []
    for road in town.roads:
        half = road.kind.half_width_m + road.kind.sidewalk_m
        outlines.append(Polygon(road.track.band(half, -half)))
    for i, a in enumerate(outlines):
        assert a.is_valid
        for b in outlines[i + 1 :]:
            # neighbouring arms of a junction share no more than the fringe of a sidewalk
            assert a.intersection(b).area < 1.0


@pytest.mark.parametrize("make", PLANS)
def test_turns_can_be_driven(make) -> None:  # type: ignore[no-untyped-def]
    for junction in build_town(make()).junctions:
        for way in junction.ways:
            for piece in way.track.pieces:
                if not piece.curvature:
                    continue
                # the reference line is the lane's left border
                to_centre = 0.5 * max(way.widths_m) * math.copysign(1.0, piece.curvature)
                radius = abs(1.0 / piece.curvature) + to_centre
                assert radius >= (9.0 if piece.curvature > 0 else 6.0)


@pytest.mark.parametrize("name", TOWNS)
def test_heads_are_seen_from_the_stop_line(networks: dict[str, RoadNetwork], name: str) -> None:
    for light in networks[name].furniture.lights:
        x = np.mean([p.x for p in light.stop_poses])
        y = np.mean([p.y for p in light.stop_poses])
        yaw = math.radians(light.stop_poses[0].yaw)
        dx, dy = light.pose.x - x, light.pose.y - y
        ahead = dx * math.cos(yaw) + dy * math.sin(yaw)
        right = dy * math.cos(yaw) - dx * math.sin(yaw)
        # beyond the junction, on the right, within the ego's picture (80 degrees wide) with room to spare
        # (carla.Map moves a signal a quarter metre along its own heading)
        assert 12.0 < ahead <= FARTHEST_HEAD_M + 0.3
        assert 0.0 < right < ahead * math.tan(math.radians(33.0))
        nearest = networks[name].map.get_waypoint(carla.Location(light.pose.x, light.pose.y))
        assert nearest.transform.location.distance(carla.Location(light.pose.x, light.pose.y)) > (
            0.5 * nearest.lane_width + 0.3
        )


@pytest.mark.parametrize("name", TOWNS)
def test_a_client_sees_lights_and_signs_as_landmarks_ahead(
    networks: dict[str, RoadNetwork], name: str
) -> None:
    network = networks[name]
    for specs, type_id in (
        (network.furniture.lights, "1000001"),
        ([s for s in network.furniture.signs if s.type_id == "traffic.stop"], "206"),
    ):
        assert len(specs) >= 4
        for spec in specs:
            for pose in spec.stop_poses:
                line = network.map.get_waypoint(carla.Location(pose.x, pose.y, pose.z))
                found = line.previous(25.0)[0].get_landmarks_of_type(40.0, type_id, False)
                assert spec.sign_id in {landmark.id for landmark in found}


@pytest.mark.parametrize("name", TOWNS)
def test_what_stands_where_in_a_town(networks: dict[str, RoadNetwork], name: str) -> None:
    network = networks[name]
    furniture = network.furniture
    assert len({light.group for light in furniture.lights}) >= 5
    by_group: dict[str, list[int]] = {}
    for light in furniture.lights:
        by_group.setdefault(light.group, []).append(light.phase)
        assert len(light.stop_poses) == len(light.lanes) in (1, 2)
        for polygon in furniture.crosswalks:
            for pose in light.stop_poses:
                assert math.dist(polygon.mean(axis=0), (pose.x, pose.y)) > 2.0
    # approaches that face each other share a phase, and the file states how long it lasts
    for phases in by_group.values():
        assert len(phases) in (3, 4) and set(phases) == {0, 1}
    for light in furniture.lights:
        for other in furniture.lights:
            if (other.group, other.phase) == (light.group, light.phase) and other is not light:
                turn = wrap_deg(other.stop_poses[0].yaw - light.stop_poses[0].yaw)
                assert abs(turn) == pytest.approx(180.0, abs=31.0)
    assert {light.times for light in furniture.lights} == {LightTimes(8.0, 3.0, 1.0)}
    assert len(furniture.crosswalks) >= 15
    limits = {network.speed_limit_kmh(pose) for pose in network.spawn_points}
    assert len(limits) >= 2 and limits <= {30.0, 40.0, 50.0, 60.0}
    # two lanes beside each other in the same direction exist
    assert any(len(light.lanes) == 2 for light in furniture.lights)


def test_ids_of_streets_and_ways_do_not_meet() -> None:
    town = build_town(PLANS[0]())
    assert max(road.road_id for road in town.roads) < 1000
    assert min(way.way_id for j in town.junctions for way in j.ways) >= FIRST_WAY_ID


def test_plans_that_do_not_fit_are_refused() -> None:
    kind = StreetKind(1, 3.5, 50)
    crossings = {"A": Crossing(0.0, 0.0, "signal"), "B": Crossing(60.0, 0.0, "signal")}
    plan = TownPlan("x", crossings, (Street("A", "B", kind, (Bend(30.0, 30.0, 90.0),)),))
    with pytest.raises(PlanError, match="left straight"):
        centre_line(plan, plan.streets[0], 10.0, 10.0)
    with pytest.raises(PlanError, match="arms"):
        build_town(plan)
    with pytest.raises(PlanError, match="no arc"):
        connecting_line((0.0, 0.0, 0.0), (-10.0, 5.0, math.pi / 2))
