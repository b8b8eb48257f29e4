"""An agent bare and in the wrapper, through whole routes of the embedded simulator."""

import json
from pathlib import Path

import carla
import pytest

from tickdrive.agents.tick_log import read_log
from tickdrive.leaderboard.agent_loading import AgentSpec
from tickdrive.leaderboard.evaluation_config import EvaluationConfig, TrafficConfig
from tickdrive.leaderboard.evaluator import Evaluator
from tickdrive.leaderboard.observer import Observer
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.simulator.towns.catalogue import read_town

PURSUIT = Path(__file__).parent / "agents" / "pursuit.py"
TOWN = "TickTown01"
OPTIONS = {"speed": 7.0}


@pytest.fixture(scope="module")
def route() -> Route:
    """30 m straight on."""
    for waypoint in carla.Map(TOWN, read_town(TOWN)).generate_waypoints(30.0):
        ahead = waypoint.next(3.0) and waypoint.next(3.0)[0].next(30.0)
        if ahead and ahead[0].road_id == waypoint.road_id and not ahead[0].is_junction:
            ends = (waypoint.next(3.0)[0].transform.location, ahead[0].transform.location)
            return Route("0", TOWN, tuple((p.x, p.y, p.z) for p in ends))
    raise AssertionError("the town has no straight of 33 m")


class Controls(Observer):
    def __init__(self):
        self.controls, self.speeds = [], []

    def on_tick(self, tick):
        control = tick.control
        self.controls.append((control.throttle, control.steer, control.brake, control.gear))
        self.speeds.append(tick.speed_mps)
        self.agent_ticks = tick.agent.ticks


@pytest.fixture
def drive(simulator, route, tmp_path):
    def driven(spec: AgentSpec):
        quiet = EvaluationConfig(traffic=TrafficConfig(vehicles=0, walkers=0))
        seen = Controls()
        run = Evaluator(quiet, simulator.host, simulator.port, is_alive=simulator.alive)
        (record,) = run.run([route], spec, tmp_path / "results", [seen]).records
        return record, seen

    return driven


def wrapped(tmp_path, options=OPTIONS, settings="") -> AgentSpec:
    path = tmp_path / "wrapped.yaml"
    path.write_text(
        f"agent: {PURSUIT}\nagent_config: '{json.dumps(options)}'\nsave_names: false\n"
        f"tick_log: {{dir: {tmp_path / 'logs'}, file: ticks.jsonl}}\n{settings}\n"
    )
    return AgentSpec("wrapped", str(path), save_names=True)


def test_bare_and_wrapped_drive_the_same(drive, tmp_path):
    bare_record, bare = drive(AgentSpec(str(PURSUIT), json.dumps(OPTIONS)))
    record, seen = drive(wrapped(tmp_path))
    assert bare.controls == seen.controls and bare.speeds == seen.speeds
    assert len({throttle for throttle, *_ in seen.controls}) > 20
    assert record.status == bare_record.status and record.scores == bare_record.scores
    assert record.meta["duration_game"] == bare_record.meta["duration_game"]
    log = read_log(tmp_path / "logs")
    assert [tick["control"]["throttle"] for tick in log.ticks] == [round(c[0], 4) for c in seen.controls]
    assert {tick["rung"] for tick in log.ticks} == {"planned"} and log.damage == ()
    assert log.ticks[-1]["ego"]["speed_mps"] == pytest.approx(seen.speeds[-1], abs=0.3)


def test_held_controls_are_what_the_ego_is_driven_with(drive, tmp_path):
    record, seen = drive(wrapped(tmp_path, settings="latency: {mode: fixed, ms: 200}"))
    assert record.scores["score_route"] == 100.0
    ticks = len(seen.controls)
    assert seen.agent_ticks == -(-ticks // 4)
    assert seen.controls[0][2] == 1.0 and seen.speeds[3] < 0.1
    for k in range(0, ticks, 4):
        assert len(set(seen.controls[k : k + 4])) == 1
    rungs = [tick["rung"] for tick in read_log(tmp_path / "logs").ticks]
    assert rungs == ["hold" if k % 4 else "planned" for k in range(ticks)]


def test_a_crash_of_the_agent_is_the_agents_and_logged(drive, tmp_path):
    record, _ = drive(wrapped(tmp_path, {**OPTIONS, "crash_at": 4}))
    assert record.status == "Failed - Agent crashed"
    log = read_log(tmp_path / "logs")
    assert [tick["rung"] for tick in log.ticks] == ["planned"] * 3 + ["failed"]
    assert log.ticks[-1]["ego"]["error"] == "ValueError: run_step fails on purpose"
