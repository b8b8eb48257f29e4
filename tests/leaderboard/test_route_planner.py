from itertools import pairwise

import carla
import pytest

from tickdrive.agents.types import Command
from tickdrive.leaderboard.route_planner import (
    RoutePlanner,
    downsample,
    geo_reference,
    gps_plan,
    location_to_gps,
)
from tickdrive.leaderboard.simulator.towns.catalogue import read_town, town_names
from tickdrive.planner.errors import RouteError


@pytest.fixture(scope="module", params=town_names())
def town(request):
    carla_map = carla.Map(request.param, read_town(request.param))
    return carla_map, RoutePlanner(carla_map)


def routes(carla_map, planner, count=25):
    """Routes between places all over the town, by a fixed rule."""
    # 3 m on: the very end of a lane belongs to two roads
    places = [w.next(3.0)[0] for w in carla_map.generate_waypoints(35.0) if not w.is_junction and w.next(3.0)]
    places = [w for w in places if not w.is_junction]
    for i in range(count):
        start, goal = places[(i * 7) % len(places)], places[(i * 13 + 5) % len(places)]
        if start.transform.location.distance(goal.transform.location) > 40:
            yield start, goal, planner.trace([start.transform.location, goal.transform.location])


def test_routes_join_start_and_goal_in_small_steps(town):
    carla_map, planner = town
    joined = 0
    for start, goal, route in routes(carla_map, planner):
        if any(p.command in (Command.CHANGE_LANE_LEFT, Command.CHANGE_LANE_RIGHT) for p in route):
            continue  # upstream's search may end a lane change beyond or short of the goal
        if (start.road_id, start.lane_id) == (goal.road_id, goal.lane_id):
            continue  # a goal behind the start on its own lane: upstream stops at once
        joined += 1
        assert route[0].transform.location.distance(start.transform.location) < 3.0
        assert route[-1].transform.location.distance(goal.transform.location) < 3.0
        for before, after in pairwise(route):
            assert before.transform.location.distance(after.transform.location) < 2.1
    assert joined > 3


def test_commands_agree_with_the_turn_made_at_the_junction(town):
    carla_map, planner = town
    turns = 0
    for _, _, route in routes(carla_map, planner):
        i = 0
        while i < len(route):
            command, j = route[i].command, i
            while j < len(route) and route[j].command == command:
                j += 1
            if command in (Command.LEFT, Command.RIGHT, Command.STRAIGHT) and i > 0 and j < len(route):
                before, after = route[i - 1].transform.rotation.yaw, route[j].transform.rotation.yaw
                turned = (after - before + 180) % 360 - 180  # clockwise positive: right
                wanted = {Command.LEFT: -90, Command.RIGHT: 90, Command.STRAIGHT: 0}[command]
                assert abs(turned - wanted) < 50, (command, turned)
                turns += 1
            i = j
    assert turns > 5


def test_via_points_are_driven_over(town):
    carla_map, planner = town
    _, _, direct = next(routes(carla_map, planner))
    via = direct[len(direct) // 2].transform.location
    route = planner.trace([direct[0].transform.location, via, direct[-1].transform.location])
    assert min(p.transform.location.distance(via) for p in route) < 1.5


def line(commands, step_m=1.0):
    return [(carla.Transform(carla.Location(x=i * step_m)), c) for i, c in enumerate(commands)]


def test_downsampling_keeps_what_upstream_keeps():
    lane, left, change = Command.LANE_FOLLOW, Command.LEFT, Command.CHANGE_LANE_LEFT
    # first, first of each command, last
    assert downsample(line([lane] * 5 + [left] * 5 + [lane] * 5), 200) == [0, 5, 10, 14]
    # every point of a lane change, and not the first after it
    assert downsample(line([lane] * 4 + [change] * 2 + [lane] * 5), 200) == [0, 4, 5, 10]
    # the gap counts from the point after a kept one, and is passed, not met
    assert downsample(line([lane] * 120), 50) == [0, 52, 104, 119]


def test_gps_of_the_plan_is_spherical_mercator():
    reference = (48.99, 8.0)
    origin = location_to_gps(*reference, carla.Location())
    assert origin["lat"] == pytest.approx(48.99) and origin["lon"] == pytest.approx(8.0)
    metre = 1.0 / 111319.49
    east = location_to_gps(*reference, carla.Location(x=100.0))
    south = location_to_gps(*reference, carla.Location(y=100.0, z=2.0))
    cosine = 0.65619
    assert east["lon"] - 8.0 == pytest.approx(100 * metre / cosine, rel=1e-3)
    assert south["lat"] - 48.99 == pytest.approx(-100 * metre, rel=1e-3)
    assert south["z"] == 2.0


def test_plan_and_reference_of_a_town(town):
    carla_map, planner = town
    lat, lon = geo_reference(carla_map.to_opendrive())
    _, _, route = next(routes(carla_map, planner))
    plan = gps_plan(route, (lat, lon))
    assert len(plan) == len(route) and plan[3][1] == route[3].command
    assert abs(plan[0][0]["lat"] - lat) < 0.1 and abs(plan[0][0]["lon"] - lon) < 0.1
    assert geo_reference("<OpenDRIVE><header/></OpenDRIVE>") == (42.0, 2.0)


def test_one_keypoint_is_no_route(town):
    with pytest.raises(RouteError, match="1 keypoint"):
        town[1].trace([carla.Location()])


def test_a_keypoint_of_another_town_is_named(town):
    carla_map, planner = town
    start = carla_map.generate_waypoints(35.0)[0].transform.location
    with pytest.raises(
        RouteError, match=r"m off the nearest lane\. Check that the route belongs to this town"
    ):
        planner.trace([start, carla.Location(99999.0, 2.0, 0.0)])
