"""The second judge: what it follows, hears and compares; under a real leaderboard: test_upstream_real.py."""

from __future__ import annotations

import carla
import pytest

from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import EventKind, ScenarioSignal, SignalKind
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.results import INFRACTION_KEYS
from tickdrive.leaderboard.routes import Route, read_routes
from tickdrive.leaderboard.scenarios.spec import ScenarioSpec
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.upstream.misdeeds import MISDEEDS, misdeed_routes
from tickdrive.leaderboard.upstream.second_judge import Drive, signal_of
from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.bench_criteria import CriteriaBenchOptions, compare, run

TOWN = "TickTown01"
TICKS = 120


@pytest.fixture(scope="module")
def town() -> carla.Map:
    return carla.Map(TOWN, read_town(TOWN))


def test_another_client_follows_a_drive_without_missing_a_frame(simulator, town):
    start = next(w for w in town.generate_waypoints(25.0) if len(w.next(60.0)) == 1 and not w.is_junction)
    ends = [each.transform.location for each in (start, start.next(60.0)[0])]
    route = Route("0", TOWN, tuple((p.x, p.y, p.z) for p in ends))
    with CarlaSession(simulator.host, simulator.port, is_alive=simulator.alive) as session:
        session.load(TOWN, seed=0)
        library = session.world.get_blueprint_library()
        place = start.transform
        place.location.z += 0.3
        ego = session.world.spawn_actor(library.find("vehicle.lincoln.mkz_2020"), place)
        barrier = start.next(20.0)[0].transform
        session.world.spawn_actor(library.find("static.prop.streetbarrier"), barrier)
        other = carla.Client(simulator.host, simulator.port)
        other.set_timeout(20.0)
        other.get_world()
        for _ in range(5):
            begin = session.tick().frame
        drive = Drive(other, route, begin, ego.id, EvaluationConfig(rules="2.1"))
        drive.signal("ScenarioTimeout_a", True, begin + 2)
        for _ in range(TICKS):
            ego.apply_control(carla.VehicleControl(throttle=0.6))
            end = session.tick().frame
        for _ in range(3):  # frames after the drive are none of it
            session.tick()
        found = drive.finish(end, "Agent crashed")
        drive.close()
    assert (found["frames"], found["missing"], found["ended_frame"]) == (TICKS, [], None)
    record = found["record"]
    assert record["status"] == "Failed - Agent crashed" and record["meta"]["duration_game"] == TICKS * 0.05
    counts = {key: len(record["infractions"][key]) for key in INFRACTION_KEYS if record["infractions"][key]}
    assert counts == {"collisions_layout": 1, "scenario_timeouts": 1}
    assert 20.0 < record["scores"]["score_route"] < 60.0
    (timeout,) = (each for each in found["infractions"] if each["kind"] == "scenario_timeouts")
    assert timeout["frame"] == begin + 2


def test_what_scenarios_tell():
    scenarios = (ScenarioSpec("a", "Accident", None), ScenarioSpec("b", "YieldToEmergencyVehicle", None))
    route = Route("0", TOWN, ((0, 0, 0), (1, 0, 0)), scenarios)
    started = signal_of("ScenarioRouteNumber1", True, route)
    assert started == ScenarioSignal(SignalKind.STARTED, "YieldToEmergencyVehicle")
    assert signal_of("ScenarioRouteNumber0", False, route) == ScenarioSignal(SignalKind.ENDED, "Accident")
    assert signal_of("ScenarioTimeout_a", True, route) == ScenarioSignal(SignalKind.TIMED_OUT)
    assert signal_of("ScenarioTimeout_a", False, route) is None
    off = signal_of("AC_SwitchWrongDirectionTest", False, route)
    assert off == ScenarioSignal(SignalKind.DIRECTION_TEST_OFF)


def test_every_kind_of_infraction_has_its_misdeed(town, tmp_path):
    assert {misdeed.kind for misdeed in MISDEEDS.values()} == set(EventKind)
    text, deeds, missing = misdeed_routes([{}, {TOWN: town}], times=1)
    assert not missing and list(deeds.values()) == list(MISDEEDS)
    path = tmp_path / "routes.xml"
    path.write_text(text)
    for route in read_routes(path):
        expected = MISDEEDS[deeds[route.id]].scenario
        assert [scenario.type for scenario in route.scenarios] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("suite", "subset", "said"),
    [
        ("bench2drive", "", "needs a scenario in every route"),
        ("leaderboard-2.1", "1", "--subset is of a route file"),
        ("leaderboard-2.2", "", "leaderboard-2.1"),
    ],
)
def test_what_cannot_be_compared_is_said(suite, subset, said):
    with pytest.raises(ConfigError, match=said):
        run(CriteriaBenchOptions(suite, None, None, None, subset=subset))


def test_two_judgements_agree_or_it_is_said_in_what_they_do_not():
    infractions = {key: [] for key in INFRACTION_KEYS}
    scores = {"score_route": 90.0, "score_penalty": 0.5, "score_composed": 45.0}
    theirs = {"status": "Completed", "infractions": {**infractions, "red_light": ["a"]}, "scores": scores}
    ours = {"record": {**theirs, "scores": {**scores, "score_composed": 45.9}}, "missing": []}
    assert compare("crawl", TOWN, theirs, ours)["agree"]
    record = {
        **theirs,
        "status": "Perfect",
        "infractions": infractions,
        "scores": {**scores, "score_route": 88.0},
    }
    row = compare("crawl", TOWN, theirs, {"record": record, "missing": [7]})
    assert not row["agree"]
    assert row["differs"] == [
        "status: Completed | Perfect",
        "red_light: 1 | 0",
        "score_route: 90.0 | 88.0",
        "1 frames were not seen",
    ]
    assert compare("crawl", TOWN, theirs, None)["differs"] == ["no record of ours"]
