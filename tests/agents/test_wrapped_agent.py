"""Any agent in the wrapper: it must see what it would see alone, and its latency be felt by the rule."""

import gc
import importlib
import json
import math
import socket
import sys
import textwrap
import traceback
import types
import weakref
from enum import Enum
from pathlib import Path

import carla
import numpy as np
import pytest

import tickdrive.agents.config
from tickdrive.agents.route_log import SetupArgument
from tickdrive.agents.tick_log import read_log
from tickdrive.leaderboard.autonomous_agent import AutonomousAgent, PrivilegedAgent, Track
from tickdrive.leaderboard.route_planner import downsample
from tickdrive.planner.errors import ConfigError, DataError, PlannerError

WRAPPER = Path(tickdrive.agents.config.__file__).resolve().parent / "wrapped_agent.py"
BRAKE = "brake"

AGENT = """
import carla
from {base} import AutonomousAgent, Track

def get_entry_point():
    return "TheirAgent"

class TheirAgent(AutonomousAgent):
    built = []

    def __init__(self, *arguments):
        self.calls = [("init", arguments)]
        self.built.append(self)
        super().__init__(*arguments)

    def set_global_plan(self, gps, world):
        self.calls.append(("plan", len(gps)))
        super().set_global_plan(gps, world)

    def setup(self, path_to_conf_file):
        self.calls.append(("setup", path_to_conf_file))
        self.track = Track.MAP
        self.seen = []

    def sensors(self):
        return [
            {{"type": "sensor.other.gnss", "x": 0.0, "y": 0.0, "z": 0.0, "id": "GPS"}},
            {{"type": "sensor.speedometer", "reading_frequency": 20, "id": "SPEED"}},
        ]

    def run_step(self, input_data, timestamp):
        self.seen.append(input_data["SPEED"][0])
        if len(self.seen) == getattr(self, "fails_at", 0):
            raise ZeroDivisionError("theirs")
        if getattr(self, "exits", False):
            raise SystemExit(3)
        self.control = carla.VehicleControl(throttle=self.seen[-1] / 1000, gear=2)
        return self.control

    def destroy(self):
        self.calls.append(("destroy",))

    def get_metric_info(self):
        return {{"ticks": len(self.seen)}}
"""


class RoadOption(Enum):
    LANEFOLLOW = 4


def plan(points=3):
    gps = [({"lat": 0.0, "lon": 1e-3 * k, "z": 0.0}, RoadOption.LANEFOLLOW) for k in range(points)]
    metres = 1e-3 * math.radians(1.0) * 6378137.0
    world = [
        (carla.Transform(carla.Location(metres * k, 0.0, 0.0)), RoadOption.LANEFOLLOW) for k in range(points)
    ]
    return gps, world


def data(frame):
    return {"SPEED": (frame, {"speed": 2.0}), "GPS": (frame, np.array([0.0, 1e-6 * frame, 0.0]))}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes an agent's file, with a module name of its own, and the wrapper's configuration of it."""
    for name in ("SAVE_PATH", "IS_BENCH2DRIVE", "TICKDRIVE_WRAPPED_AGENT", "TICKDRIVE_WRAPPED_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = []

    def written(settings="", base="tickdrive.leaderboard.autonomous_agent", source=AGENT):
        names.append(f"their_agent_{tmp_path.name.replace('-', '_')}_{len(names)}")
        path = tmp_path / f"{names[-1]}.py"
        path.write_text(textwrap.dedent(source).format(base=base))
        config = tmp_path / "wrapped.yaml"
        config.write_text(
            f"agent: {path}\nagent_config: their.yaml\ntick_log: {{dir: {tmp_path / 'logs'}}}\n{settings}\n"
        )
        return config

    yield written
    for name in names:
        sys.modules.pop(name, None)


def wrapper_class():
    """As `leaderboard_evaluator.py` loads it."""
    name = WRAPPER.name.split(".")[0]
    sys.modules.pop(name, None)
    sys.path.insert(0, str(WRAPPER.parent))
    try:
        module = importlib.import_module(name)
    finally:
        sys.modules.pop(name, None)
    assert str(WRAPPER.parent) not in sys.path
    return getattr(module, module.get_entry_point())


def set_up(config):
    agent = wrapper_class()("localhost", 2000, True)
    agent.set_global_plan(*plan())
    agent.setup(str(config))
    agent.sensors()
    return agent


def drive(agent, frames):
    return [agent.run_step(data(frame), 1.7 + 0.05 * frame) for frame in range(frames)]


def in_force(controls):
    """The frame that each control was made from; "brake" before the first."""
    return [BRAKE if c.brake == 1.0 and c.throttle == 0.0 else round(1000 * c.throttle) for c in controls]


def test_the_agent_gets_what_it_would_get_alone(write):
    agent = set_up(write())
    assert agent.calls == [("init", ("localhost", 2000, True)), ("plan", 3), ("setup", "their.yaml")]
    assert agent.track is Track.MAP
    assert [sensor["id"] for sensor in agent.sensors()] == ["GPS", "SPEED"]
    theirs = agent.built[0]
    assert type(theirs).__name__ == "TheirAgent" and isinstance(theirs, AutonomousAgent)
    assert agent.sensor_interface is theirs.sensor_interface
    controls = drive(agent, 3)
    assert controls[2] is theirs.control and theirs.seen == [0, 1, 2]
    assert agent.get_metric_info() == {"ticks": 3}
    agent.destroy()
    assert theirs.calls[-1] == ("destroy",)
    assert agent.run_step.__func__ is type(theirs).run_step


def test_what_the_evaluator_sets_is_set_on_the_agent(write):
    agent = wrapper_class()("localhost", 2000, False)
    assert hasattr(agent, "plan_gap_m") and not hasattr(agent, "track")
    agent.plan_gap_m = 50.0  # before there is an agent, as tickdrive's evaluator does
    agent.set_global_plan(*plan(9))
    agent.setup(str(write()))
    kept = downsample(plan(9)[1], 50.0)
    assert len(agent._global_plan) == len(kept) != len(downsample(plan(9)[1], 200.0))
    agent.world = "world"
    assert agent.built[0].world == "world"
    del agent.world
    assert not hasattr(agent, "world") and not hasattr(agent.built[0], "world")


def test_it_is_of_its_agents_class_for_whoever_asks(write):
    agent = wrapper_class()("localhost", 2000, False)
    assert not isinstance(agent, AutonomousAgent)
    agent.set_global_plan(*plan())
    agent.setup(str(write(source=AGENT.replace("AutonomousAgent", "PrivilegedAgent"))))
    assert isinstance(agent, PrivilegedAgent)
    agent.use_world("world", "ego", ())
    assert agent.built[0].world == "world"


def test_its_own_call_collects_the_data(write):
    agent = set_up(write())
    interface = agent.sensor_interface
    for tag in ("GPS", "SPEED"):
        interface.register_sensor(tag, "", None)
    for frame in (7, 8):
        for tag, (_, value) in data(frame).items():
            interface.update_sensor(tag, value, frame)
        interface.clock.frame, interface.clock.sim_s = frame, 0.05 * frame
        control = agent()
    assert in_force([control]) == [8] and agent.seen == [7, 8]
    assert agent.tickdrive_meter.rungs == {"planned": 2}


def test_it_opens_no_connection(write, monkeypatch):
    def denied(*_, **__):
        raise AssertionError("the wrapper tried to reach a server")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, denied)
    for name in ("Client", "World", "Map"):
        monkeypatch.setattr(carla, name, denied)
    agent = set_up(write("latency: {mode: measured}"))
    drive(agent, 5)
    agent.destroy()


def test_more_arguments_than_upstreams_go_through(write):
    source = AGENT.replace("(self, path_to_conf_file)", "(self, path_to_conf_file, index=None)").replace(
        "(self, input_data, timestamp)", "(self, input_data, timestamp, sensors=None)"
    )
    agent = wrapper_class()("localhost", 2000)
    agent.set_global_plan(*plan())
    agent.setup(str(write(source=source)), 4)
    assert in_force([agent.run_step(data(3), timestamp=0.0, sensors=[])]) == [3]


@pytest.mark.parametrize(
    ("latency_us", "expected"),
    [
        (0, [0, 1, 2, 3, 4, 5]),
        (1, [BRAKE, 0, 1, 2, 3, 4]),
        (49_999, [BRAKE, 0, 1, 2, 3, 4]),
        (50_000, [BRAKE, 0, 1, 2, 3, 4]),
        (50_001, [BRAKE, BRAKE, 0, 0, 2, 2, 4]),
        (2_000_000, [BRAKE] * 40 + [0] * 40 + [40] * 40 + [80]),
    ],
)
def test_hold_applies_the_control_late_and_freezes_it(write, tmp_path, latency_us, expected):
    agent = set_up(write(f"latency: {{mode: fixed, ms: {latency_us / 1000}}}"))
    controls = drive(agent, len(expected))
    assert in_force(controls) == expected
    late = max(math.ceil(latency_us / 50_000), 1)
    observed = list(range(0, len(expected), late))
    assert agent.seen == observed  # while it is busy the agent is not asked
    assert all(c.gear == 2 for c, frame in zip(controls, expected, strict=True) if frame != BRAKE)
    agent.destroy()
    ticks = read_log(tmp_path / "logs").ticks
    assert [t["rung"] for t in ticks] == [
        "planned" if k in observed else "hold" for k in range(len(expected))
    ]
    assert [t["latency"]["observed_frame"] for t in ticks] == [None if k == BRAKE else k for k in expected]
    assert [bool(t["spans"]) for t in ticks] == [k in observed for k in range(len(expected))]


def test_subtick_mixes_the_old_and_the_new(write):
    agent = set_up(write("latency: {mode: fixed, ms: 30, rounding: subtick}"))
    controls = drive(agent, 4)
    for k, control in enumerate(controls):
        old, new = max(k - 1, 0) / 1000 * (k > 0), k / 1000
        assert control.throttle == pytest.approx(0.6 * old + 0.4 * new, abs=1e-6)
    assert controls[0].brake == pytest.approx(0.6) and controls[1].brake == 0.0


def test_measured_latency_is_the_agents_own(write, tmp_path):
    source = AGENT.replace(
        "        if getattr", "        import time; time.sleep(0.12)\n        if getattr", 1
    )
    agent = set_up(write("latency: {mode: measured}", source=source))
    drive(agent, 7)
    agent.destroy()
    ticks = read_log(tmp_path / "logs").ticks
    stated = [t["latency"]["us"] for t in ticks if t["latency"]["us"] is not None]
    assert stated and stated[0] >= 120_000
    assert stated[0] <= ticks[0]["total_ms"] * 1000 + 1
    assert agent.seen[1] == math.ceil(stated[0] / 50_000)


def test_a_log_is_replayed(write, tmp_path):
    agent = set_up(write())
    drive(agent, 5)
    agent.destroy()
    path = tmp_path / "logs" / "ticks.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for tick, ms in zip(lines[1:], (120.0, 10.0, 60.0, 10.0, 10.0), strict=True):
        tick["total_ms"] = ms
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    replayed = set_up(write(f"latency: {{mode: trace, trace: {path}}}"))
    drive(replayed, 9)
    assert replayed.seen == [0, 3, 4, 6, 7, 8]


def test_the_agent_may_go_on_to_change_the_control_it_returned(write):
    change = "        vars(self).get('control', carla.VehicleControl()).steer = 1.0\n"
    source = AGENT.replace("        self.seen.append", change + "        self.seen.append", 1)
    agent = set_up(write("latency: {mode: fixed, ms: 50}", source=source))
    assert [control.steer for control in drive(agent, 4)] == [0.0] * 4


def test_the_log_tells_total_control_ego_and_who_drove(write, tmp_path):
    agent = set_up(write())
    drive(agent, 30)
    agent.destroy()
    log = read_log(tmp_path / "logs")
    assert log.damage == () and len(log.ticks) == 30
    assert log.header["engine"] == "TheirAgent" and log.header["agent"]["name"] == "TheirAgent"
    assert log.header["config"]["agent_config"] == "their.yaml" and log.header["hardware"]["cores"] >= 1
    tick = log.ticks[-1]
    assert (tick["frame"], tick["rung"], tick["engine"], tick["latency"]) == (
        29,
        "planned",
        "TheirAgent",
        None,
    )
    assert tick["control"] == {"throttle": 0.029, "steer": 0.0, "brake": 0.0}
    assert [(span["name"], span["parent"]) for span in tick["spans"]] == [("agent", None)]
    assert 0.0 < tick["spans"][0]["ms"] <= tick["total_ms"]
    assert tick["outside_ms"] > 0.0 and log.ticks[0]["outside_ms"] is None
    # 1e-6 degrees a tick are 0.11 m
    assert tick["ego"]["position_in_world"] == pytest.approx([3.2, 0.0], abs=0.6)
    assert tick["ego"]["speed_mps"] == 2.0


def test_without_a_plan_in_both_frames_the_log_tells_the_speed(write, tmp_path):
    agent = set_up(write())
    agent._global_plan_world_coord = None
    drive(agent, 2)
    agent.destroy()
    assert read_log(tmp_path / "logs").ticks[1]["ego"] == {"speed_mps": 2.0}


def test_data_that_the_log_cannot_use_does_not_end_the_drive(write, tmp_path, caplog):
    agent = set_up(write())
    for frame in range(3):
        agent.run_step({**data(frame), "GPS": (frame, "nowhere")}, 0.05 * frame)
    agent.destroy()
    assert [t["ego"] for t in read_log(tmp_path / "logs").ticks] == [{}] * 3
    assert caplog.text.count("where the ego is") == 1


@pytest.mark.parametrize("latency", ["", "latency: {mode: fixed, ms: 100}"])
def test_an_error_of_the_agent_passes_through_and_is_logged(write, tmp_path, latency):
    agent = set_up(write(latency))
    agent.fails_at = 2
    with pytest.raises(ZeroDivisionError, match="theirs") as caught:
        drive(agent, 9)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    agent.destroy()
    ticks = read_log(tmp_path / "logs").ticks
    assert [t["rung"] for t in ticks][-1] == "failed" and agent.seen == [0, 2 if latency else 1]
    assert ticks[-1]["ego"]["error"] == "ZeroDivisionError: theirs" and ticks[-1]["control"] == {}


def test_an_agent_that_exits_is_logged_too(write, tmp_path):
    agent = set_up(write())
    agent.exits = True
    with pytest.raises(SystemExit):
        drive(agent, 1)
    agent.destroy()
    assert read_log(tmp_path / "logs").ticks[0]["ego"]["error"] == "SystemExit: 3"


def test_what_is_no_control_passes_through_or_is_named(write):
    source = AGENT.replace("        return self.control", "        return None")
    agent = set_up(write(source=source))
    assert agent.run_step(data(0), 0.0) is None
    agent = set_up(write("latency: {mode: measured}", source=source))
    with pytest.raises(PlannerError, match="returned NoneType"):
        agent.run_step(data(0), 0.0)


def test_a_failing_setup_is_the_agents_own_and_leaves_no_log(write, tmp_path):
    agent = wrapper_class()("localhost", 2000, False)
    agent.set_global_plan(*plan())
    source = AGENT.replace("        self.track = Track.MAP", "        raise OSError('no weights')")
    with pytest.raises(OSError, match="no weights"):
        agent.setup(str(write(source=source)))
    agent.destroy()
    assert agent.calls[-1] == ("destroy",) and not (tmp_path / "logs").exists()


def test_an_agent_is_released_with_its_route(write):
    """Not at the next garbage collection: it may hold the GPU's memory."""
    source = AGENT.replace("        self.built.append(self)\n", "")
    agent = set_up(write(source=source))
    drive(agent, 2)
    alive = weakref.ref(agent._wrapping.agent)
    gc.disable()
    try:
        agent.destroy()
        del agent
        assert alive() is None
    finally:
        gc.enable()


def test_bench2drive_what_is_appended_goes_on_to_the_agent(write, tmp_path, monkeypatch):
    monkeypatch.setenv("SAVE_PATH", str(tmp_path / "save"))
    config = write("tick_log: {dir: ''}".replace("tick_log", "# tick_log"))
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "tick_log" not in line))
    argument = str(config)
    for route in range(40):  # the argument grows with every route, past the longest name a file can have
        argument += f"+RouteScenario_{route}_rep0_Town12_ParkingCutIn_1_11_25_18_00_00"
        agent = wrapper_class()("localhost", 2000, 0)
        agent.set_global_plan(*plan())
        agent.setup(argument)
        assert agent.calls[-1] == ("setup", "their.yaml" + argument.removeprefix(str(config)))
        drive(agent, 1)
        agent.destroy()
    logs = sorted(path.name for path in (tmp_path / "save").iterdir())
    assert len(logs) == 40
    assert "RouteScenario_39_rep0_Town12_ParkingCutIn_1_11_25_18_00_00.ticks.jsonl" in logs


def test_a_setup_argument_is_taken_apart(tmp_path):
    path = tmp_path / "a+b.yaml"
    path.write_text("")
    assert SetupArgument.parse(str(path)) == SetupArgument(str(path))
    assert SetupArgument.parse(f"{path}+one+two") == SetupArgument(str(path), "+one+two")
    assert SetupArgument.parse(f"{path}+one+two").save_name == "two"
    assert SetupArgument.parse("+one") == SetupArgument("", "+one")
    assert SetupArgument.parse(None) == SetupArgument("") and SetupArgument.parse("").save_name == ""
    assert SetupArgument.parse("gone.yaml+" + 300 * "x").config == "gone.yaml"


def test_a_leaderboard_that_the_agent_does_not_know_appends_in_vain(write):
    config = write("save_names: false")
    agent = wrapper_class()("localhost", 2000, False)
    agent.set_global_plan(*plan())
    agent.setup(f"{config}+route")
    assert agent.calls[-1] == ("setup", "their.yaml")


class LeaderboardOneAgent:
    """Base class as leaderboard 1.0 has it: `setup` from the constructor, the plan afterwards."""

    def __init__(self, path_to_conf_file):
        self._global_plan = self._global_plan_world_coord = None
        self.setup(path_to_conf_file)

    def set_global_plan(self, gps, world):
        self._global_plan, self._global_plan_world_coord = gps, world


@pytest.fixture
def upstream(monkeypatch):
    """Stands where an upstream leaderboard's own base class does."""
    module = types.ModuleType("leaderboard.autoagents.autonomous_agent")
    module.AutonomousAgent = LeaderboardOneAgent
    module.Track = Enum("Track", {"SENSORS": "SENSORS", "MAP": "MAP"})
    for name in ("leaderboard", "leaderboard.autoagents"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_leaderboard_1_constructs_with_the_configuration(write, upstream, tmp_path):
    agent = wrapper_class()(str(write(base=upstream.__name__)))
    assert isinstance(agent, LeaderboardOneAgent) and agent.track is upstream.Track.MAP
    agent.set_global_plan(*plan())
    assert agent.calls == [("init", ("their.yaml",)), ("setup", "their.yaml"), ("plan", 3)]
    agent.sensors()
    assert in_force(drive(agent, 3)) == [0, 1, 2]
    agent.destroy()
    assert len(read_log(tmp_path / "logs").ticks) == 3


def test_the_environment_names_the_agent(write, tmp_path, monkeypatch):
    config = write()
    agent_file = json.loads(json.dumps(config.read_text().splitlines()[0].removeprefix("agent: ")))
    monkeypatch.setenv("TICKDRIVE_WRAPPED_AGENT", agent_file)
    monkeypatch.setenv("TICKDRIVE_WRAPPED_CONFIG", "weights.ckpt+their.py")
    monkeypatch.setenv("SAVE_PATH", str(tmp_path / "save"))
    agent = set_up("")
    assert agent.calls[-1] == ("setup", "weights.ckpt+their.py")
    drive(agent, 1)
    agent.destroy()
    assert len(read_log(tmp_path / "save").ticks) == 1


def test_a_ros_agent_must_be_named_in_the_environment(write, monkeypatch):
    source = AGENT + "\n    @staticmethod\n    def get_ros_version():\n        return 1\n"
    config = write(source=source)
    cls = wrapper_class()
    assert cls.get_ros_version() == -1
    with pytest.raises(ConfigError, match=r"ROS 1.*TICKDRIVE_WRAPPED_AGENT"):
        set_up(config)
    monkeypatch.setenv("TICKDRIVE_WRAPPED_AGENT", config.read_text().splitlines()[0].removeprefix("agent: "))
    assert cls.get_ros_version() == 1
    assert set_up(config).calls[-1] == ("setup", "their.yaml")


def test_what_is_not_measured_or_logged_is_said(write, caplog):
    source = AGENT + "\n    def __call__(self):\n        return carla.VehicleControl()\n"
    config = write(source=source)
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "tick_log" not in line))
    agent = set_up(config)
    assert "SAVE_PATH" in caplog.text
    agent()
    agent.destroy()
    assert "nothing is measured" in caplog.text


def test_an_agent_that_cannot_be_imported_is_told_its_line_in_the_leaderboards_process(write, tmp_path):
    """As the leaderboards print it: with a traceback, and in that none of our loading and no cause."""
    agent = tmp_path / "agent_of_no_package.py"
    agent.write_text("import os\nimport no_such_package_here\n")
    config = write()
    config.write_text(f"agent: {agent}\n")
    with pytest.raises(ConfigError) as caught:
        set_up(config)
    shown = "".join(traceback.format_exception(caught.value))
    assert f'File "{agent}", line 2: import no_such_package_here' in shown
    assert "importlib" not in shown and "During handling" not in shown


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("agnt: x.py", ConfigError, r"wrapped\.yaml.*Did you mean 'agent'"),
        ("tick_log: {dir: x}", ConfigError, "names no agent.*TICKDRIVE_WRAPPED_AGENT"),
        ("agent: gone.py", ConfigError, r"gone\.py does not exist"),
        (f"agent: {WRAPPER}", ConfigError, "is the wrapper"),
        ("agent: x.py\nlatency: {busy: follow}", ConfigError, "gives no plan"),
        ("agent: x.py\nlatency: {mode: fxed}", ConfigError, "fixed"),
        ("latency: {mode: trace, trace: gone.jsonl}", DataError, r"gone\.jsonl"),
    ],
)
def test_wrong_configuration_is_named(write, text, error, says):
    config = write()
    own = "" if "agent" in text or error is ConfigError else config.read_text().splitlines()[0]
    config.write_text(f"{own}\n{text}\n")
    with pytest.raises(error, match=says):
        set_up(config)
