"""Scenarios played in the embedded simulator, through the real client, before an ego on rails.

The town is loaded once; each test finds a place for its scenario, and drives past it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import carla
import numpy as np
import pytest
from scenario_play import SIZES, TOWN, Play, ScenarioPlayer, flat, put_ego

from tickdrive import configs
from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import RouteLine, SignalKind
from tickdrive.leaderboard.evaluation_config import TrafficConfig
from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.leaderboard.routes import read_named_routes
from tickdrive.leaderboard.scenarios import base, places
from tickdrive.leaderboard.scenarios.background import Background
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.traffic import Traffic
from tickdrive.leaderboard.upstream.scenario_sites import Need, find_sites

ROUTES = Path(next(iter(configs.__path__))) / "routes"


@pytest.fixture(scope="module")
def session(simulator):
    with CarlaSession(simulator.host, simulator.port, is_alive=simulator.alive) as session:
        session.load(TOWN, seed=0)
        yield session


@pytest.fixture
def play(session, tmp_path):
    return ScenarioPlayer(session, tmp_path)


def test_a_pedestrian_steps_out_before_the_ego(play):
    def stops_for_walker(seen: Play) -> float:
        now_s = seen.ego[-1][0] if seen.ego else 0.0
        last = [track[-1] for track in seen.tracks("walker") if track]
        return 0.0 if any(at_s == now_s and speed > 0.5 for at_s, _, speed in last) else 8.0

    seen = play("DynamicObjectCrossing", speed_of=stops_for_walker)
    assert seen.outcome.state == "ended", seen.outcome
    (walker,) = seen.tracks("walker")
    (begins_s, start, _) = next(entry for entry in walker if entry[2] > 0.5)
    ego_then = next(entry for entry in seen.ego if entry[0] >= begins_s)
    # 2.1 s before the ego would be there, across its lane, at 2 m/s
    distance_m = float(np.linalg.norm(ego_then[1] - start))
    assert 2.0 * 8.0 - 2 < distance_m < 2.1 * 8.0 + 6
    lane = np.array([(p.x, p.y) for p in seen.stage.line.locations])
    offsets = [float(np.linalg.norm(lane - position, axis=1).min()) for _, position, _ in walker]
    assert min(offsets) < 0.7 and offsets[-1] > 3.0
    assert max(speed for *_, speed in walker) == pytest.approx(2.0, abs=0.2)


def test_the_vehicle_ahead_brakes_stands_and_drives_on(play):
    def keeps_clear(seen: Play) -> float:
        return (
            0.0
            if seen.outcome.started_s is not None and seen.ego[-1][0] < seen.outcome.started_s + 11
            else 8.0
        )

    seen = play("HardBreakRoute", speed_of=keeps_clear)
    assert seen.outcome.state == "ended", seen.outcome
    (lead,) = seen.tracks("vehicle")
    speeds = {round(t - seen.outcome.started_s, 2): v for t, _, v in lead}
    assert max(speeds.values()) > 5.0, "it was driving like the ego"
    assert speeds[3.0] < 0.1 and speeds[9.0] < 0.1
    assert lead[-1][2] > 1.0


def test_an_obstacle_blocks_the_lane_and_times_out(play, monkeypatch):
    monkeypatch.setattr(base, "TIMEOUT_S", 4.0)

    def stops_behind_it(seen: Play) -> float:
        return 0.0 if seen.outcome.started_s is not None else 8.0

    seen = play("ParkedObstacleTwoWays", speed_of=stops_behind_it)
    assert seen.outcome.state == "timed out", seen.outcome
    assert seen.outcome.ended_s - seen.outcome.started_s == pytest.approx(4.0, abs=0.2)
    told = [signal.kind for signal in seen.rules.take()]
    assert told.count(SignalKind.TIMED_OUT) == 1
    assert told.count(SignalKind.BLOCKED_TEST_OFF) == told.count(SignalKind.BLOCKED_TEST_ON) == 1
    assert seen.rules.standing_allowed == seen.rules.opposite_lane_allowed == 0
    (parked,) = seen.tracks("vehicle")
    lane = np.array([(p.x, p.y) for p in seen.stage.line.locations])
    assert np.linalg.norm(lane - parked[-1][1], axis=1).min() < 1.5
    trigger = flat(seen.stage.map.get_waypoint(seen.stage.line.locations[30]).transform.location)
    assert float(np.linalg.norm(parked[-1][1] - trigger)) == pytest.approx(40.0, abs=6.0)
    assert seen.tracks("static.prop.warningaccident")


def test_opposite_traffic_comes_where_the_ego_must_pass_and_its_lane_is_allowed(play):
    def waits(seen: Play) -> float:
        near = seen.outcome.started_s is not None and seen.ego[-1][0] > seen.outcome.started_s + 3.0
        return 0.0 if near else 8.0

    seen = play(
        "ParkedObstacleTwoWays", speed_of=waits, most_s=22, each_tick=lambda p: p.rules.opposite_lane_allowed
    )
    assert seen.outcome.state == "running at the route's end"
    assert set(seen.seen) == {0, 1}
    coming = [track for track in seen.tracks("vehicle") if max(v for *_, v in track) > 3.0]
    assert coming
    heading = coming[0][-1][1] - coming[0][0][1]
    route = seen.ego[-1][1] - seen.ego[0][1]
    assert float(heading @ route) < 0


def test_a_red_light_is_run_before_the_ego(play, session):
    def watch(seen: Play) -> object:
        state = seen.stage.ego.get_traffic_light_state()
        return None if not seen.stage.ego.is_at_traffic_light() else state

    before = {
        light.id: light.get_green_time() for light in session.world.get_actors().filter("*traffic_light")
    }
    seen = play("OppositeVehicleRunningRedLight", each_tick=watch)
    assert seen.outcome.state == "ended", seen.outcome
    (intruder,) = seen.tracks("vehicle")
    assert max(speed for *_, speed in intruder) == pytest.approx(60 / 3.6, abs=0.5)
    assert {s for s in seen.seen if s is not None} <= {carla.TrafficLightState.Green}
    # it crosses the route within a second and a half of the ego
    route = np.array([(p.x, p.y) for p in seen.stage.line.locations])
    crossing = min(intruder, key=lambda entry: float(np.linalg.norm(route - entry[1], axis=1).min()))
    ego_there = min(seen.ego, key=lambda entry: float(np.linalg.norm(entry[1] - crossing[1])))
    assert abs(ego_there[0] - crossing[0]) < 1.5
    after = {
        light.id: light.get_green_time() for light in session.world.get_actors().filter("*traffic_light")
    }
    assert after == before


def test_a_left_turn_meets_a_flow(play):
    seen = play("SignalizedJunctionLeftTurn", speed_mps=6.0)
    assert seen.outcome.state == "ended", seen.outcome
    flow = seen.tracks("vehicle")
    assert len(flow) >= 2
    assert all(max(v for *_, v in track) == pytest.approx(9.0, abs=0.5) for track in flow[:2])


def test_an_emergency_vehicle_that_is_held_up_is_an_infraction(play):
    seen = play("YieldToEmergencyVehicle", most_s=20, speed_mps=5.0)
    (comes,) = seen.tracks("vehicle")
    assert max(v for *_, v in comes) > 20.0
    assert float(np.linalg.norm(comes[-1][1] - seen.ego[-1][1])) < 15.0, "it follows closely"
    assert SignalKind.NOT_YIELDED in [signal.kind for signal in seen.rules.take()]


def test_cones_close_the_lane(play):
    seen = play("ConstructionObstacleTwoWays", most_s=6.5)
    assert len(seen.tracks("static.prop.constructioncone")) == 7
    assert seen.tracks("static.prop.warningconstruction")


def test_a_parked_car_opens_its_door(play, monkeypatch):
    opened = []
    real = carla.Vehicle.open_door
    monkeypatch.setattr(
        carla.Vehicle, "open_door", lambda self, door: opened.append((door, real(self, door)))
    )
    seen = play("VehicleOpensDoorTwoWays", most_s=12, road="two ways")  # it stands on the shoulder
    assert opened == [(carla.VehicleDoor.FL, None)], seen.outcome
    parked = seen.tracks("vehicle")[0]
    assert max(speed for *_, speed in parked[20:]) < 0.3
    lane = np.array([(p.x, p.y) for p in seen.stage.line.locations])
    assert 1.0 < np.linalg.norm(lane - parked[-1][1], axis=1).min() < 4.0


def test_a_scenario_without_room_is_skipped_and_says_why(play, session):
    blockers = []

    def block(site) -> None:
        library = session.world.get_blueprint_library()
        lane = site.trigger.next(40.0)[0].transform
        lane.location.z += 0.5
        blockers.append(session.world.spawn_actor(library.find("vehicle.mitsubishi.fusorosa"), lane))
        session.tick()

    try:
        seen = play("ParkedObstacle", most_s=1.0, before=block, site_number=0)
    finally:
        for blocker in blockers:
            blocker.destroy()
        session.tick()
    assert seen.outcome.state == "skipped"
    assert "no room for vehicle" in seen.outcome.why


def test_traffic_makes_room_is_held_and_drives_on(session):
    (route,) = read_named_routes(str(ROUTES / "default.xml"))
    points = RoutePlanner(session.map).trace(route.locations())
    line = RouteLine(points)
    ego = put_ego(session, line)
    traffic = Traffic(session, ego, line, TrafficConfig(vehicles=5, walkers=0), seed=0)
    try:
        traffic.spawn()
        session.tick()
        traffic.start()
        for _ in range(60):
            session.tick()
        background = Background(traffic, line, ego.get_location, lambda: 0)
        lead, others = traffic.lead, [v for v in traffic.living() if v is not traffic.lead]
        assert lead in background.ahead(60.0)
        background.leave_space_ahead(60.0)
        assert traffic.lead is None and not lead.is_alive
        moved = others[0]
        background.make_room(moved.get_location())
        session.tick()
        assert moved.is_alive and moved.get_location().distance(ego.get_location()) > 45.0
        assert min(moved.get_location().distance(v.get_location()) for v in others[1:]) > 6.0
        driving = [v for v in others if v.get_velocity().length() > 2.0]
        assert driving
        with background.held(driving):
            for _ in range(80):
                session.tick()
            assert max(v.get_velocity().length() for v in driving) < 0.3
        for _ in range(60):
            session.tick()
        assert max(v.get_velocity().length() for v in driving) > 1.0
    finally:
        traffic.destroy()
        ego.destroy()
        session.tick()


def test_cyclists_cross_before_a_turning_ego(play, session):
    """Our towns have no bicycle lanes: an avenue's outer lane becomes one. Loads that town: keep it last."""
    start = session.map.get_waypoint(carla.Location(-290.0, 5.25, 0.0))
    lanes = {places.lane_key(w) for w in places.lane_path(start, 190.0)}
    root = ET.fromstring(read_town(TOWN))
    for road in root.iter("road"):
        for lane in road.iter("lane"):
            if (int(road.attrib["id"]), int(lane.attrib["id"])) in lanes:
                lane.set("type", "biking")
    session.load("TickTownBicycles", seed=0, opendrive=ET.tostring(root, encoding="unicode"))
    junction = places.junction_ahead(session.map.get_waypoint(carla.Location(-290.0, 1.75, 0.0))).junction_id
    need = Need("junction", "left", parameters={"flow_speed": "5", "source_dist_interval": ("8", "12")})
    site = next(
        s
        for s in find_sites(session.map, need, SIZES[-1])
        if places.junction_ahead(s.trigger).junction_id == junction
        and abs(s.trigger.transform.rotation.yaw + 90.0) < 5.0
    )
    flow = '<start_actor_flow x="-220" y="5.25" z="0"/>'
    seen = play("CrossingBicycleFlow", speed_mps=5.0, site=site, need=need, extra=flow)
    assert seen.outcome.state == "ended", seen.outcome
    cyclists = seen.tracks("vehicle")
    assert len(cyclists) >= 4
    through = [t for t in cyclists if t[0][1][0] < -170.0 and t[-1][1][0] > -150.0]
    assert through, "some cross the whole junction"
    assert all(abs(position[1] - 5.25) < 1.0 for track in through for _, position, _ in track)
