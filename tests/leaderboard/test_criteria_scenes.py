"""Criteria on scenes made on purpose in the embedded simulator, through the real client."""

import math

import carla
import numpy as np
import pytest

from tickdrive.agents.expert import Expert
from tickdrive.agents.expert_scene import find_stop_lines, read_scene
from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import EgoTick, EventKind, RouteLine, ScenarioSignal, SignalKind
from tickdrive.leaderboard.criteria.collisions import CollisionSensor
from tickdrive.leaderboard.criteria.lanes import OutsideRouteLanes
from tickdrive.leaderboard.criteria.lights import RedLight, watch_light
from tickdrive.leaderboard.criteria.stops import StopSign
from tickdrive.leaderboard.route_judge import red_lights, traffic_lights
from tickdrive.leaderboard.route_planner import RoutePlanner

STEP_M = 0.4  # a tick's way at 8 m/s


@pytest.fixture(scope="module")
def session(simulator):
    with CarlaSession(simulator.host, simulator.port, is_alive=simulator.alive) as session:
        session.load("TickTown01", seed=0)
        yield session


@pytest.fixture
def ego(session):
    blueprint = session.world.get_blueprint_library().find("vehicle.lincoln.mkz_2020")
    vehicle = session.world.spawn_actor(blueprint, session.map.get_spawn_points()[0])
    session.tick()
    yield vehicle
    vehicle.destroy()
    session.tick()


def slide(session, ego, transforms, criterion, speed=8.0, signals=()):
    """Move the ego along a path, one transform a tick, and show every tick to the criterion."""
    ego.set_simulate_physics(False)
    for transform in transforms:
        ego.set_transform(transform)
        snapshot = session.tick()
        velocity = transform.get_forward_vector() * speed
        criterion.update(
            EgoTick(
                snapshot.frame,
                snapshot.timestamp.elapsed_seconds,
                ego.get_transform(),
                velocity,
                red_lights=red_lights(traffic_lights(session.world)),
                signals=tuple(signals),
            )
        )


def lane_path(waypoint, before_m, after_m):
    """Transforms along a lane, from before a waypoint to beyond it."""
    path, back = [], waypoint
    for _ in range(int(before_m / STEP_M)):
        previous = back.previous(STEP_M)
        if not previous:
            break
        back = previous[0]
        path.insert(0, back.transform)
    forward = waypoint
    for _ in range(int(after_m / STEP_M)):
        path.append(forward.transform)
        following = forward.next(STEP_M)
        if not following:
            break
        forward = following[0]
    return path


def signal_approach(session):
    """A light, and the last waypoint of a lane that it stops."""
    for light in session.world.get_actors().filter("traffic.traffic_light*"):
        line = watch_light(session.map, light).lines[0]
        middle = carla.Location(
            (line.left.x + line.right.x) / 2, (line.left.y + line.right.y) / 2, line.left.z
        )
        waypoint = session.map.get_waypoint(middle)
        if not waypoint.is_junction and len(lane_path(waypoint, 15.0, 1.0)) > 30:
            return light, waypoint
    raise AssertionError("the town has no signalised approach")


@pytest.mark.parametrize(
    ("state", "expected"), [(carla.TrafficLightState.Red, 1), (carla.TrafficLightState.Green, 0)]
)
def test_running_a_red_light_is_one_infraction(session, ego, state, expected):
    light, waypoint = signal_approach(session)
    light.set_state(state)
    light.freeze(True)
    session.tick()
    lights = list(session.world.get_actors().filter("traffic.traffic_light*"))
    criterion = RedLight(session.map, lights, 2 * ego.bounding_box.extent.x)
    slide(session, ego, lane_path(waypoint, 14.0, 20.0), criterion)
    light.freeze(False)
    assert [e.kind for e in criterion.events] == [EventKind.RED_LIGHT] * expected
    if expected:
        assert criterion.events[0].other_actor == light.id
        assert f"Agent ran a red light {light.id} at (x=" in criterion.events[0].message


def test_waiting_at_the_line_is_no_infraction(session, ego):
    light, waypoint = signal_approach(session)
    light.set_state(carla.TrafficLightState.Red)
    light.freeze(True)
    session.tick()
    lights = list(session.world.get_actors().filter("traffic.traffic_light*"))
    criterion = RedLight(session.map, lights, 2 * ego.bounding_box.extent.x)
    path = lane_path(waypoint, 14.0, 0.0)
    slide(session, ego, path + [path[-1]] * 20, criterion)
    light.freeze(False)
    assert not criterion.events


def test_the_expert_knows_the_edge_that_is_judged_and_how_long_yellow_lasts(session, ego):
    light, waypoint = signal_approach(session)
    path = lane_path(waypoint, 14.0, 20.0)
    xy = np.array([(each.location.x, each.location.y) for each in path])
    expert = Expert(xy, ())
    line = next(
        found
        for found in find_stop_lines(session.world, expert.xy, expert.yaw, expert.s)
        if found.actor_id == light.id
    )
    at = waypoint.transform.location
    nearest = int(np.argmin(np.hypot(expert.xy[:, 0] - at.x, expert.xy[:, 1] - at.y)))
    assert line.entry_s == pytest.approx(expert.s[nearest], abs=0.6)
    assert line.route_s < line.entry_s - 1.0
    light.set_state(carla.TrafficLightState.Yellow)
    light.freeze(True)
    session.tick()
    left_s = read_scene(session.world, ego, {}).yellow_left_s[light.id]
    light.freeze(False)
    for _ in range(4):
        session.tick()
    later_s = read_scene(session.world, ego, {}).yellow_left_s[light.id]
    assert left_s == pytest.approx(light.get_yellow_time(), abs=0.06)
    assert later_s == pytest.approx(left_s - 0.2, abs=0.01)


@pytest.mark.parametrize("stopping", [False, True])
def test_a_stop_sign_wants_a_stop(session, ego, stopping):
    signs = list(session.world.get_actors().filter("traffic.stop*"))
    assert signs, "the town has stop signs"
    sign = signs[0]
    criterion = StopSign(session.map, signs)
    volume = sign.trigger_volume.location
    centre = sign.get_transform().transform(carla.Location(volume.x, volume.y, volume.z))
    path = lane_path(session.map.get_waypoint(centre), 15.0, 25.0)
    middle = min(range(len(path)), key=lambda i: path[i].location.distance(centre))
    slide(session, ego, path[:middle], criterion)
    if stopping:
        slide(session, ego, [path[middle]] * 5, criterion, speed=0.0)
    slide(session, ego, path[middle:], criterion)
    assert [e.kind for e in criterion.events] == ([] if stopping else [EventKind.STOP_SIGN])


@pytest.mark.parametrize(
    ("blueprint", "kind", "lift_m"),
    [
        ("static.prop.streetbarrier", EventKind.COLLISION_STATIC, 0.05),
        ("vehicle.audi.tt", EventKind.COLLISION_VEHICLE, 0.3),
        ("walker.pedestrian.0001", EventKind.COLLISION_PEDESTRIAN, 1.1),
    ],
)
def test_driving_into_something_is_one_collision_of_its_kind(session, ego, blueprint, kind, lift_m):
    waypoint = next(
        w
        for w in session.map.generate_waypoints(10.0)
        if not w.is_junction and len(lane_path(w, 0.0, 30.0)) > 70
    )
    start, target = waypoint.transform, waypoint.next(15.0)[0].transform
    start.location.z += 0.1
    target.location.z += lift_m
    other = session.world.spawn_actor(session.world.get_blueprint_library().find(blueprint), target)
    ego.set_transform(start)
    criterion = CollisionSensor(session.world, ego)
    session.tick()
    for _ in range(140):
        ego.apply_control(carla.VehicleControl(throttle=0.6))
        snapshot = session.tick()
        at = snapshot.timestamp.elapsed_seconds
        criterion.update(EgoTick(snapshot.frame, at, ego.get_transform(), ego.get_velocity()))
        if criterion.events and blueprint.startswith("static"):
            break
    criterion.close()
    other.destroy()
    session.tick()
    assert [e.kind for e in criterion.events] == [kind]
    assert criterion.events[0].other_actor == other.id


def straight_route(session, length_m=60.0):
    for waypoint in session.map.generate_waypoints(20.0):
        path = lane_path(waypoint, 0.0, length_m)
        turned = abs(path[0].rotation.yaw - path[-1].rotation.yaw)
        same_road = all(not session.map.get_waypoint(t.location).is_junction for t in path[::10])
        beside = waypoint.get_left_lane()
        oncoming = beside is not None and beside.lane_id * waypoint.lane_id < 0
        if len(path) > length_m / STEP_M - 3 and turned < 1.0 and same_road and oncoming:
            return path
    raise AssertionError("the town has no straight two-way road")


@pytest.mark.parametrize(
    ("sideways_m", "allowed", "share"),
    [(0.0, False, 0.0), (-3.6, False, 0.5), (-3.6, True, 0.0), (12.0, True, 0.5)],
    ids=["in lane", "oncoming lane", "oncoming lane, allowed by a scenario", "off the road"],
)
def test_distance_outside_the_lanes_is_booked(session, ego, sideways_m, allowed, share):
    path = straight_route(session)
    line = RouteLine(RoutePlanner(session.map).trace([path[0].location, path[-1].location]))
    criterion = OutsideRouteLanes(session.map, line, path[0].location)
    signals = (ScenarioSignal(SignalKind.DIRECTION_TEST_OFF),) if allowed else ()
    half = len(path) // 2
    right = path[0].get_right_vector()
    moved = [carla.Transform(t.location + right * sideways_m, t.rotation) for t in path[half:]]
    slide(session, ego, path[:half] + moved, criterion, signals=signals)
    assert criterion.percent / 100 == pytest.approx(share, abs=0.08)
    events = criterion.events
    assert len(events) == (1 if share else 0)
    if events:
        assert events[0].kind is EventKind.OUTSIDE_ROUTE_LANES
        assert math.isclose(events[0].percent, criterion.percent)
