"""The stand-in for CARLA's `agents`, driving real actors through the real client."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import carla
import networkx as nx
import pytest

from tickdrive.leaderboard.upstream.fallback.agents.navigation.basic_agent import BasicAgent
from tickdrive.leaderboard.upstream.fallback.agents.navigation.constant_velocity_agent import (
    ConstantVelocityAgent,
)
from tickdrive.leaderboard.upstream.fallback.agents.navigation.global_route_planner import GlobalRoutePlanner
from tickdrive.leaderboard.upstream.fallback.agents.navigation.local_planner import LocalPlanner, RoadOption
from tickdrive.leaderboard.upstream.fallback.agents.tools import misc
from tickdrive.leaderboard.upstream.fallback.distutils.util import strtobool
from tickdrive.leaderboard.upstream.fallback.distutils.version import LooseVersion

TOWN = "TickTown01"


@pytest.fixture
def world(simulator) -> Iterator[carla.World]:
    client = carla.Client(simulator.host, simulator.port)
    client.set_timeout(30.0)
    world = client.load_world(TOWN)
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    world.tick()
    yield world
    settings.synchronous_mode, settings.fixed_delta_seconds = False, None
    world.apply_settings(settings)


def spawn(world: carla.World, waypoint: carla.Waypoint) -> carla.Vehicle:
    at = carla.Transform(waypoint.transform.location + carla.Location(z=0.3), waypoint.transform.rotation)
    vehicle = world.spawn_actor(world.get_blueprint_library().find("vehicle.lincoln.mkz_2020"), at)
    for _ in range(5):
        world.tick()
    return vehicle


def straight(world: carla.World, length_m: float = 90.0, lanes: int = 1) -> carla.Waypoint:
    """The start of a stretch without junctions, with so many lanes in its direction."""
    for waypoint in world.get_map().generate_waypoints(20.0):
        ahead = waypoint.next(length_m)
        beside = waypoint.get_right_lane()
        wide = lanes == 1 or (
            beside is not None
            and beside.lane_type == carla.LaneType.Driving
            and beside.lane_id * waypoint.lane_id > 0
        )
        if len(ahead) == 1 and ahead[0].road_id == waypoint.road_id and wide:
            return waypoint
    raise AssertionError("the town has no such stretch")


def drive(world: carla.World, agent: BasicAgent, vehicle: carla.Vehicle, ticks: int) -> None:
    for _ in range(ticks):
        vehicle.apply_control(agent.run_step())
        world.tick()
        if agent.done():
            return


def test_the_basic_agent_drives_round_a_corner_to_its_goal(world):
    town = world.get_map()
    planner = GlobalRoutePlanner(town, 2.0)
    turns = {RoadOption.LEFT, RoadOption.RIGHT}
    changes = {RoadOption.CHANGELANELEFT, RoadOption.CHANGELANERIGHT}
    places = [place.location for place in town.get_spawn_points()]
    for start_at, goal in itertools.pairwise(places):
        way = planner.trace_route(start_at, goal)
        options = {option for _, option in way}
        if (
            options & turns
            and not options & changes
            and way[0][0].transform.location.distance(start_at) < 3.0
        ):
            break
    start = town.get_waypoint(start_at)
    vehicle = spawn(world, start)
    agent = BasicAgent(vehicle, 30, {"ignore_traffic_lights": True}, town, planner)
    agent.set_destination(goal)
    end = agent.get_local_planner().get_plan()[-1][0].transform.location
    furthest = 0.0
    for _ in range(4000):
        drive(world, agent, vehicle, 1)
        lane = town.get_waypoint(vehicle.get_location()).transform.location
        furthest = max(furthest, vehicle.get_location().distance_2d(lane))
        if agent.done():
            break
    assert agent.done()
    assert vehicle.get_location().distance(end) < 6.0
    assert furthest < 1.8  # it kept to its lanes
    assert agent.run_step().brake == 1.0


def test_it_stops_behind_a_standing_car_and_drives_on_when_told_to_ignore_it(world):
    start = straight(world)
    vehicle, other = spawn(world, start), spawn(world, start.next(40.0)[0])
    agent = BasicAgent(vehicle, 30)
    agent.set_destination(start.next(85.0)[0].transform.location)
    drive(world, agent, vehicle, 300)
    gap = vehicle.get_location().distance(other.get_location())
    assert misc.get_speed(vehicle) < 0.5
    assert 4.5 < gap < 15.0
    agent.ignore_vehicles()
    assert not agent._vehicle_obstacle_detected().obstacle_was_found
    assert agent.run_step().throttle > 0.0


def test_it_waits_at_a_red_light_until_that_is_green(world):
    light = next(
        each
        for each in world.get_actors().filter("*traffic_light*")
        if len(each.get_stop_waypoints()[0].previous(30.0)) == 1
    )
    stop = light.get_stop_waypoints()[0]
    light.set_state(carla.TrafficLightState.Red)
    light.freeze(True)
    vehicle = spawn(world, stop.previous(30.0)[0])
    agent = BasicAgent(vehicle, 30)
    beyond = misc.get_trafficlight_trigger_location(light)
    agent.set_destination(world.get_map().get_waypoint(beyond).next(25.0)[0].transform.location)
    drive(world, agent, vehicle, 300)
    assert misc.get_speed(vehicle) < 0.5
    stood = vehicle.get_location()
    assert stood.distance(stop.transform.location) < 20.0
    light.set_state(carla.TrafficLightState.Green)
    drive(world, agent, vehicle, 60)
    assert vehicle.get_location().distance(stood) > 3.0


def test_a_lane_change_ends_in_the_other_lane(world):
    start = straight(world, 120.0, lanes=2)
    vehicle = spawn(world, start)
    agent = BasicAgent(vehicle, 40)
    agent.set_destination(start.next(110.0)[0].transform.location)
    drive(world, agent, vehicle, 60)
    lane = world.get_map().get_waypoint(vehicle.get_location()).lane_id
    agent.lane_change("right", other_lane_time=2)
    assert [option for _, option in agent.get_local_planner().get_plan()].count(
        RoadOption.CHANGELANERIGHT
    ) == 1
    drive(world, agent, vehicle, 120)
    assert world.get_map().get_waypoint(vehicle.get_location()).lane_id != lane


def test_the_constant_velocity_agent_keeps_its_speed_and_notes_a_collision(world):
    start = straight(world)
    vehicle, other = spawn(world, start), spawn(world, start.next(60.0)[0])
    agent = ConstantVelocityAgent(vehicle, 36, {"ignore_vehicles": True})
    agent.set_global_plan([(w, RoadOption.LANEFOLLOW) for w in start.next_until_lane_end(2.0)])
    drive(world, agent, vehicle, 60)
    assert misc.get_speed(vehicle) == pytest.approx(36.0, abs=1.0)
    assert not agent.has_collided
    drive(world, agent, vehicle, 60)
    assert agent.has_collided
    agent.stop_constant_velocity()
    agent.destroy_sensor()
    assert agent.run_step().throttle == 0.0
    assert other.is_alive


def test_a_local_planner_without_a_plan_follows_the_road(world):
    vehicle = spawn(world, straight(world))
    planner = LocalPlanner(vehicle, {"target_speed": 25})
    for _ in range(100):
        vehicle.apply_control(planner.run_step())
        world.tick()
    assert misc.get_speed(vehicle) == pytest.approx(25.0, abs=3.0)
    lane = world.get_map().get_waypoint(vehicle.get_location()).transform.location
    assert vehicle.get_location().distance_2d(lane) < 1.0


def test_no_way_is_networkx_own_error(world):
    planner = GlobalRoutePlanner(world.get_map(), 2.0)
    start = straight(world).transform.location
    planner._planner._graph.remove_edges_from([*planner._planner._graph.edges])
    with pytest.raises(nx.NetworkXNoPath, match="There is no way"):
        planner.trace_route(start, straight(world).next(80.0)[0].transform.location)


def test_angles_and_distances():
    here = carla.Transform(carla.Location(0, 0, 0), carla.Rotation(yaw=90))
    ahead, behind = carla.Transform(carla.Location(0, 10, 0)), carla.Transform(carla.Location(0, -10, 0))
    assert misc.is_within_distance(ahead, here, 20, [0, 90])
    assert not misc.is_within_distance(behind, here, 20, [0, 90])
    assert misc.is_within_distance(behind, here, 20)
    assert not misc.is_within_distance(ahead, here, 5)
    assert misc.compute_magnitude_angle(ahead.location, here.location, 0) == pytest.approx((10, 90))
    assert misc.vector(here.location, ahead.location) == pytest.approx([0, 1, 0])


def test_versions_and_words():
    assert LooseVersion("0.9.9") < LooseVersion("0.9.16") < LooseVersion("0.10")
    assert LooseVersion("1.0rc1") < LooseVersion("1.0.1")
    assert LooseVersion("0.9.16") == "0.9.16"
    assert (strtobool("True"), strtobool("off")) == (1, 0)
    with pytest.raises(ValueError, match="maybe"):
        strtobool("maybe")
