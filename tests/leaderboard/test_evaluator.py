"""Whole evaluations in the embedded simulator: results, failures, kills and resumes."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import carla
import pytest

from tickdrive.leaderboard.agent_loading import AgentSpec, load_agent_class
from tickdrive.leaderboard.evaluation_config import EvaluationConfig, ScenarioConfig, TrafficConfig
from tickdrive.leaderboard.evaluator import Evaluator, open_results
from tickdrive.leaderboard.observer import Observer
from tickdrive.leaderboard.result_table import scenarios_text
from tickdrive.leaderboard.results import read_results
from tickdrive.leaderboard.route_planner import downsample
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.scenarios.spec import NoParameters, Place, ScenarioSpec
from tickdrive.leaderboard.simulator.launch import SimulatorProcess
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator_watch import EXIT_SIMULATOR_LOST
from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError, DataError, RouteError, ServerError

AGENT = str(Path(__file__).parent / "agents" / "pursuit.py")
TOWN = "TickTown01"
QUIET = TrafficConfig(vehicles=0, walkers=0)


def short_routes(count: int, length_m: float = 25.0) -> list[Route]:
    """Straight pieces of lane, far from each other."""
    carla_map = carla.Map(TOWN, read_town(TOWN))
    routes = []
    for waypoint in carla_map.generate_waypoints(30.0):
        ahead = waypoint.next(3.0) and waypoint.next(3.0)[0].next(length_m)
        if not ahead or ahead[0].road_id != waypoint.road_id or ahead[0].is_junction:
            continue
        ends = [waypoint.next(3.0)[0].transform.location, ahead[0].transform.location]
        routes.append(Route(str(len(routes)), TOWN, tuple((p.x, p.y, p.z) for p in ends)))
        if len(routes) == count:
            return routes
    raise AssertionError("the town is too small")


def quiet_scenario(route: Route) -> ScenarioSpec:
    """One in which nothing happens, some metres beyond the route's start."""
    (x, y, z), (end_x, end_y, _) = route.keypoints_in_world
    length = math.hypot(end_x - x, end_y - y)
    yaw = math.degrees(math.atan2(end_y - y, end_x - x))
    at = Place(x + 6.0 * (end_x - x) / length, y + 6.0 * (end_y - y) / length, z, yaw)
    return ScenarioSpec("quiet", "T_Junction", at, NoParameters())


def agent(**options) -> AgentSpec:
    return AgentSpec(AGENT, json.dumps(options))


def evaluator(simulator, **changes) -> Evaluator:
    config = EvaluationConfig(**{"traffic": QUIET, **changes})
    return Evaluator(config, simulator.host, simulator.port, is_alive=simulator.alive)


class Watcher(Observer):
    def __init__(self):
        self.starts, self.ticks, self.ends, self.messages = [], [], [], []

    def on_message(self, text):
        self.messages.append(text)

    def on_route_start(self, start):
        self.starts.append(start)
        self.plan = start.agent._global_plan_world_coord

    def on_tick(self, tick):
        self.ticks.append(tick)

    def on_route_end(self, route_id, record):
        self.ends.append((route_id, record and record.status))


def test_a_route_is_driven_scored_and_watched(simulator, tmp_path):
    (route,) = short_routes(1, length_m=40.0)
    quiet = quiet_scenario(route)
    route = dataclasses.replace(route, scenarios=(ScenarioSpec("a", "Acident", None), quiet))
    watcher = Watcher()
    traffic = TrafficConfig(vehicles=6, walkers=3, crossing_walkers=1)
    outcome = evaluator(simulator, traffic=traffic).run([route], agent(), tmp_path, [watcher])
    (record,) = outcome.records
    assert record.status in ("Perfect", "Completed") and record.scores["score_route"] == 100.0
    assert not outcome.interrupted and not outcome.crashed
    data = read_results(tmp_path / "results.json")
    assert data["entry_status"] == "Finished" and data["sensors"] == ["carla_speedometer"]
    assert data["latency"]["ticks"] == len(watcher.ticks) == round(record.meta["duration_game"] * 20)
    assert data["latency"]["simulator_ms"]["p50"] > data["latency"]["agent_ms"]["p50"] > 0
    assert data["tickdrive"]["skipped_scenarios"] == {"Acident": 1}
    unknown, played = data["tickdrive"]["scenarios"]["RouteScenario_0_rep0"]
    assert unknown["state"] == "skipped" and unknown["started_s"] is None
    assert played["state"] == "running at the route's end" and played["started_s"] > 0.0
    assert [row.name for row in record.criteria][-3:-1] == [
        "ScenarioTimeoutTest",
        "YieldToEmergencyVehicleTest",
    ]
    assert "1 skipped, 1 running" in str(scenarios_text(data))
    (said,) = [message for message in watcher.messages if "Acident" in message]
    assert "route 0" in said and "'Accident'" in said
    fractions = [tick.fraction for tick in watcher.ticks]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert watcher.ticks[0].sim_s == pytest.approx(0.05)
    assert watcher.ends == [("RouteScenario_0_rep0", record.status)]
    assert len(watcher.plan) == len(downsample(watcher.starts[0].points, 200.0))


def test_scenarios_can_be_switched_off(simulator, tmp_path):
    (route,) = short_routes(1)
    route = dataclasses.replace(route, scenarios=(quiet_scenario(route),))
    watcher = Watcher()
    off = ScenarioConfig(enabled=False)
    outcome = evaluator(simulator, scenarios=off).run([route], agent(), tmp_path, [watcher])
    assert outcome.data["tickdrive"]["scenarios"] == {"RouteScenario_0_rep0": []}
    assert outcome.data["tickdrive"]["skipped_scenarios"] == {"T_Junction": 1}
    assert any("switched off" in message for message in watcher.messages)
    assert scenarios_text(outcome.data) is None


def test_a_vehicle_that_the_traffic_manager_removes_does_not_end_the_route(simulator, tmp_path):
    """It removes vehicles that have been stuck for long; here another does it for it."""

    class Remover(Watcher):
        def on_tick(self, tick):
            super().on_tick(tick)
            if len(self.ticks) == 10:
                others = [a for a in tick.world.get_actors().filter("vehicle.*") if a.id != tick.ego.id]
                assert others
                for vehicle in others:
                    vehicle.destroy()

    traffic = TrafficConfig(vehicles=4, walkers=2, lead_vehicle=False)
    outcome = evaluator(simulator, traffic=traffic).run(short_routes(1), agent(), tmp_path, [Remover()])
    (record,) = outcome.records
    assert record.status in ("Perfect", "Completed")
    assert not outcome.crashed


def test_nothing_is_left_in_the_world(simulator, tmp_path):
    evaluator(simulator, traffic=TrafficConfig(vehicles=5, walkers=2)).run(short_routes(1), agent(), tmp_path)
    client = carla.Client(simulator.host, simulator.port)
    client.set_timeout(20.0)
    world = client.get_world()
    assert not world.get_settings().synchronous_mode
    world.wait_for_tick()
    left = [a.type_id for a in world.get_actors() if a.type_id.startswith(("vehicle", "walker", "sensor"))]
    assert left == []


def test_the_same_seed_gives_the_same_drive(simulator, tmp_path):
    """Bit for bit, from fresh servers: the Traffic Manager's choices depend on actor ids, which only grow."""

    class Trail(Observer):
        def __init__(self):
            self.places = []

        def on_tick(self, tick):
            actors = [
                *tick.world.get_actors().filter("vehicle.*"),
                *tick.world.get_actors().filter("walker.*"),
            ]
            places = (a.get_transform() for a in sorted(actors, key=lambda a: a.id))
            self.places.append([(t.location.x, t.location.y, t.rotation.yaw) for t in places])

    traffic = TrafficConfig(vehicles=10, walkers=4, crossing_walkers=1)
    trails = []
    for seeds in ((3, 4), (3,)):
        with SimulatorProcess.start(town=TOWN, log_path=tmp_path / "simulator.log") as server:
            for seed in seeds:
                trail = Trail()
                evaluator(server, seed=seed, traffic=traffic).run(short_routes(1), agent(), tmp_path, [trail])
                trails.append(trail.places)
    assert trails[0] == trails[2]
    assert trails[0] != trails[1]


def test_a_failing_agent_ends_its_route_only(simulator, tmp_path):
    routes = short_routes(2)
    watcher = Watcher()
    outcome = evaluator(simulator).run(routes, agent(crash_at=5), tmp_path, [watcher])
    assert [r.status for r in outcome.records] == ["Failed - Agent crashed"] * 2
    assert any("run_step fails on purpose" in message for message in watcher.messages)
    outcome = evaluator(simulator).run(routes[:1], agent(exit_at=3), tmp_path)
    assert outcome.records[0].status == "Failed - Agent crashed"
    outcome = evaluator(simulator).run(routes[:1], agent(fail_setup=True), tmp_path)
    assert outcome.records[0].status == "Failed - Agent couldn't be set up"
    outcome = evaluator(simulator, agent_timeout_s=0.5).run(routes[:1], agent(sleep_at=4), tmp_path)
    assert outcome.records[0].status == "Failed - Agent crashed"


def test_sensors_that_are_not_allowed_stop_the_evaluation(simulator, tmp_path):
    sensors = [{"type": "sensor.opendrive_map", "id": "map"}]
    outcome = evaluator(simulator).run(short_routes(2), agent(sensors=sensors), tmp_path)
    assert [r.status for r in outcome.records] == ["Failed - Agent's sensors were invalid"]
    assert outcome.data["entry_status"] == "Rejected" and not outcome.data["eligible"]


def test_all_sensors_of_the_leaderboard_arrive(simulator, tmp_path):
    pose = {"x": 0.5, "y": 0.0, "z": 1.8, "roll": 0.0, "pitch": 0.0, "yaw": 0.0}
    sensors = [
        {"type": "sensor.camera.rgb", "id": "front", "width": 64, "height": 32, "fov": 90, **pose},
        {"type": "sensor.lidar.ray_cast", "id": "lidar", **pose},
        {"type": "sensor.other.imu", "id": "imu", **pose},
        {"type": "sensor.other.gnss", "id": "gnss", **pose},
        {"type": "sensor.speedometer", "id": "speed"},
        {"type": "sensor.opendrive_map", "id": "map"},
    ]

    class Inputs(Watcher):
        def on_tick(self, tick):
            super().on_tick(tick)
            self.data = (tick.frame, tick.agent.data)

    inputs = Inputs()
    run = evaluator(simulator, track="MAP")
    run.run(short_routes(1, length_m=8.0), agent(sensors=sensors, track="MAP"), tmp_path, [inputs])
    frame, data = inputs.data
    assert sorted(data) == ["front", "gnss", "imu", "lidar", "map", "speed"]
    assert {at for at, _ in data.values()} == {frame}
    assert data["front"][1].shape == (32, 64, 4) and data["front"][1].dtype.name == "uint8"
    assert data["lidar"][1].shape[1] == 4 and len(data["lidar"][1]) > 1000
    assert data["imu"][1].shape == (7,) and data["gnss"][1].shape == (3,)
    assert data["speed"][1]["speed"] > 1.0 and "<OpenDRIVE" in data["map"][1]["opendrive"]


def test_bench2drive_caps_ticks_and_gives_a_denser_plan(simulator, tmp_path):
    watcher = Watcher()
    config = {"rules": "bench2drive", "max_ticks": 15}
    outcome = evaluator(simulator, **config).run(short_routes(1, 25.0), agent(speed=1.0), tmp_path, [watcher])
    assert outcome.records[0].status == "Failed - TickRuntime" and len(watcher.ticks) == 15
    assert watcher.starts[0].agent.plan_gap_m == 50.0


def test_a_standing_agent_is_blocked(simulator, tmp_path):
    watcher = Watcher()
    routes = short_routes(1)
    outcome = evaluator(simulator, blocked_s=1.0).run(routes, agent(speed=0.0), tmp_path, [watcher])
    assert outcome.records[0].status == "Failed - Agent got blocked"
    (message,) = outcome.records[0].infractions["vehicle_blocked"]
    (placed,) = outcome.data["tickdrive"]["infractions"][outcome.records[0].route_id]
    assert (placed["kind"], placed["message"]) == ("vehicle_blocked", message)
    last = watcher.ticks[-1]
    assert (placed["frame"], placed["sim_s"]) == (last.frame, pytest.approx(last.sim_s, abs=1e-3))
    assert placed["position_in_world"] == pytest.approx(routes[0].keypoints_in_world[0][:2], abs=1.5)


SCRIPT = textwrap.dedent("""
    import signal, sys, json
    # a shell that runs the tests in the background leaves this signal ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path.insert(0, {folder!r})
    import importlib.util
    spec = importlib.util.spec_from_file_location("test_evaluator", {file!r})
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    from tickdrive.leaderboard.evaluator import Evaluator
    from tickdrive.leaderboard.evaluation_config import EvaluationConfig, ScenarioConfig, TrafficConfig
    traffic = TrafficConfig(vehicles={vehicles}, walkers=0, lead_vehicle=False)
    run = Evaluator(EvaluationConfig(traffic=traffic), "127.0.0.1", {port})
    agent = module.agent(speed={speed}, tell={out!r} + "/tick")
    run.run(module.short_routes({routes}, 25.0), agent, {out!r}, resume={resume})
""")


def start_evaluation(port, out, resume=False, speed=3.0, vehicles=0, routes=3) -> subprocess.Popen:
    script = SCRIPT.format(
        folder=str(Path(__file__).parent),
        file=__file__,
        port=port,
        out=str(out),
        resume=resume,
        speed=speed,
        vehicles=vehicles,
        routes=routes,
    )
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def records_in(path: Path) -> list[dict]:
    return read_results(path)["_checkpoint"]["records"] if path.exists() else []


def wait_for(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def test_an_evaluation_killed_in_the_middle_is_resumed(simulator, tmp_path):
    path = tmp_path / "results.json"
    process = start_evaluation(simulator.port, tmp_path, routes=8)
    wait_for(lambda: len(records_in(path)) >= 1, process)
    process.send_signal(signal.SIGKILL)  # into a route: there are more to come
    process.wait()
    before = records_in(path)
    assert 1 <= len(before) < 8
    assert read_results(path)["_checkpoint"]["progress"] == [len(before), 8]
    assert start_evaluation(simulator.port, tmp_path, resume=True, routes=8).wait(timeout=120) == 0
    after = records_in(path)
    assert after[: len(before)] == before, "what was done is neither lost nor driven again"
    assert [r["route_id"] for r in after] == [f"RouteScenario_{i}_rep0" for i in range(8)]
    assert read_results(path)["entry_status"] == "Finished"


def test_ctrl_c_leaves_valid_results(simulator, tmp_path):
    path = tmp_path / "results.json"
    process = start_evaluation(simulator.port, tmp_path, routes=40)
    wait_for(lambda: len(records_in(path)) >= 1, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    data = read_results(path)
    assert 1 <= len(data["_checkpoint"]["records"]) < 40 and data["entry_status"] == "Started"


def test_a_dying_simulator_leaves_a_record_and_a_clean_end(tmp_path):
    path = tmp_path / "results.json"
    with SimulatorProcess.start(town=TOWN, log_path=tmp_path / "simulator.log") as server:
        process = start_evaluation(server.port, tmp_path, vehicles=8, speed=1.5)
        tick = tmp_path / "tick"
        wait_for(lambda: len(records_in(path)) == 1 and 20 < int(tick.read_text() or 0) < 60, process)
        os.kill(server.pid, signal.SIGKILL)
        assert process.wait(timeout=60) in (0, EXIT_SIMULATOR_LOST)
    data = read_results(path)
    assert data["entry_status"] == "Crashed"
    assert data["_checkpoint"]["records"][-1]["status"] == "Failed - Simulation crashed"
    assert data["_checkpoint"]["records"][0]["scores"]["score_route"] == 100.0


def test_a_damaged_results_file_stops_a_resume(simulator, tmp_path):
    (tmp_path / "results.json").write_text('{"_checkpoint": ')
    with pytest.raises(DataError, match=r"results\.json"):
        evaluator(simulator).run(short_routes(1), agent(), tmp_path, resume=True)


def test_a_town_that_the_server_lacks_is_named(simulator, tmp_path):
    route = dataclasses.replace(short_routes(1)[0], town="TickTown77")
    with pytest.raises(RouteError, match=r"TickTown77.*Did you mean"):
        evaluator(simulator).run([route], agent(), tmp_path)


def test_no_server_is_an_error_with_its_address(tmp_path):
    config = EvaluationConfig(traffic=QUIET, server_timeout_s=1.0)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:29"):
        Evaluator(config, "127.0.0.1", 29).run(short_routes(1), agent(), tmp_path)


def test_another_version_of_the_server_is_an_error_with_both(tmp_path):
    code = (
        "import sys, tickdrive.leaderboard.simulator.rpc_world as w; w.VERSION = '0.9.13';"
        "from tickdrive.leaderboard.simulator.launch import free_port_pair;"
        "from tickdrive.leaderboard.simulator.server import main; port = free_port_pair();"
        f"print(port, flush=True); main(['--town', '{TOWN}', '--port', str(port)])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline())
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        with pytest.raises(ServerError, match=r"CARLA 0\.9\.13, the client here is 0\.9\."):
            Evaluator(EvaluationConfig(), "127.0.0.1", port).run(short_routes(1), agent(), tmp_path)
    finally:
        process.kill()
        process.wait()


def test_agents_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'diffusion'"):
        load_agent_class(AgentSpec("difusion"))
    with pytest.raises(ConfigError, match=r"gone\.py"):
        load_agent_class(AgentSpec(str(tmp_path / "gone.py")))
    empty = tmp_path / "agent_without_entry.py"
    empty.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="get_entry_point"):
        load_agent_class(AgentSpec(str(empty)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "import os\nimport no_such_package\n",
            "ModuleNotFoundError: No module.*no_such_package'\n.*line 2: import",
        ),
        ("x = 1\ny = = 2\n", r"SyntaxError: invalid syntax\n  File .*line 2: y = = 2$"),
        (
            "import json\njson.loads('{')\n",
            r"JSONDecodeError.*\n.*line 2: json\.loads.*\n.*json/decoder\.py\", line",
        ),
        ("import sys\nsys.exit('usage: ...')\n", r"SystemExit: usage: \.\.\.\n.*line 2: sys\.exit"),
        (
            "def get_entry_point():\n    return NAME\n",
            r"get_entry_point\(\): NameError.*\n.*line 2: return NAME$",
        ),
    ],
)
def test_an_agent_whose_code_fails_is_told_its_own_line(tmp_path, text, says):
    """And no frame of ours: neither in the message nor as the error's cause, which a leaderboard prints."""
    path = tmp_path / f"agent_that_fails_{abs(hash(text))}.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_agent_class(AgentSpec(str(path)))
    assert re.search(says, caught.value.what), caught.value.what
    assert str(path) in caught.value.what and "agent_loading" not in caught.value.what
    assert caught.value.__suppress_context__ and caught.value.__cause__ is None


def test_the_shipped_configuration_is_the_default():
    shipped = Path(__file__).parents[2] / "configs" / "evaluation.yaml"
    assert load_config(EvaluationConfig, shipped) == EvaluationConfig()


@pytest.mark.parametrize(
    "override", ["rules=3.0", "track=CAMERA", "traffic.vehicles=-1", "blocked_s=0", "trafic.walkers=1"]
)
def test_wrong_configuration_is_named(override):
    with pytest.raises(ConfigError):
        load_config(EvaluationConfig, None, [override])


def test_results_of_two_renderers_are_not_mixed(tmp_path):
    routes, agent = short_routes(1), AgentSpec("expert")
    open_results(EvaluationConfig(), routes, agent, tmp_path, resume=False, renderer="egl").write()
    again = open_results(EvaluationConfig(), routes, agent, tmp_path, resume=True, renderer="egl")
    assert again.to_json()["tickdrive"]["renderer"] == "egl"
    with pytest.raises(DataError, match="renderer='egl', now it is 'cpu'"):
        open_results(EvaluationConfig(), routes, agent, tmp_path, resume=True, renderer="cpu")
