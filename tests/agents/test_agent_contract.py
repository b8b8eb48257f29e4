"""The agent as a leaderboard meets it: loaded by path, denied any server, given only the thinned plan."""

import importlib
import json
import math
import os
import socket
import sys
import types
from enum import Enum
from pathlib import Path

import carla
import numpy as np
import pytest
import torch

import tickdrive.agents.config
from tickdrive.agents import shared_models
from tickdrive.agents.perception import base as perception
from tickdrive.agents.tick_log import read_log
from tickdrive.agents.types import Decision, Reasoning
from tickdrive.planner.errors import CheckpointError, ConfigError, RouteError, SensorError
from tickdrive.planner.network_config import preset
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.types import Features

AGENT = Path(tickdrive.agents.config.__file__).resolve().parent / "diffusion_agent.py"
M_TO_DEG = 360.0 / (2.0 * math.pi * 6378137.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class RoadOption(Enum):  # upstream's names and values
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4


class TinyExtractor:
    name = "tiny"

    def example_inputs(self):
        return None

    def extract(self, inputs, tracer=None):
        return Features(torch.ones(1, 8, 16), torch.ones(1, 3, 16), torch.ones(1, 4, 256)), Reasoning(
            Decision.CRUISE, 1.0, {"CRUISE": 1.0}
        )


def load_by_path():
    """As `leaderboard_evaluator.py` does it."""
    name = AGENT.name.split(".")[0]
    sys.modules.pop(name, None)
    sys.path.insert(0, str(AGENT.parent))
    try:
        module = importlib.import_module(name)
    finally:
        if sys.path[0] == str(AGENT.parent):
            sys.path.pop(0)
        sys.modules.pop(name, None)
    return getattr(module, module.get_entry_point())


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    """A config with a tiny random checkpoint, in a process whose model cache starts empty."""
    monkeypatch.setattr(shared_models, "_CACHE", {})
    monkeypatch.setitem(perception._BUILDERS, "compact", lambda *_: TinyExtractor())
    monkeypatch.delenv("SAVE_PATH", raising=False)
    monkeypatch.delenv("IS_BENCH2DRIVE", raising=False)
    sizes = {"n_emb": 32, "n_head": 4, "n_layer": 2, "n_encoder_layer": 1, "vl_width": 16}
    policy = DiffusionPolicy(preset("compact", reasoning_width=16, **sizes))
    randomize(policy, seed=0).save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "agent.yaml"
    path.write_text(
        f"planner: {{checkpoint: {tmp_path / 'checkpoint'}, steps: 3, device: cpu}}\n"
        f"tick_log: {{dir: {tmp_path / 'logs'}}}\n"
        "budget: {enabled: false}\n"  # else a busy machine has its say in what is driven
    )
    return path


def dense_plan(length=400, turn_at=150):
    """1 m apart, as the evaluator interpolates it: east, then south (a right turn)."""
    gps, world = [], []
    for s in range(length):
        x, y = (float(s), 0.0) if s < turn_at else (float(turn_at), float(s - turn_at))
        option = RoadOption.RIGHT if turn_at - 5 <= s < turn_at + 5 else RoadOption.LANEFOLLOW
        yaw = 0.0 if s < turn_at else 90.0
        gps.append(({"lat": -y * M_TO_DEG, "lon": x * M_TO_DEG, "z": 0.0}, option))
        world.append((carla.Transform(carla.Location(x, y, 0.0), carla.Rotation(yaw=yaw)), option))
    return gps, world


def input_data(frame, x=0.0):
    rng = np.random.default_rng(frame)
    return {
        "front": (frame, rng.integers(0, 255, (256, 512, 4), np.uint8)),
        "lidar": (frame, rng.uniform(-20.0, 20.0, (300, 4)).astype(np.float32)),
        "imu": (frame, np.array([0.0, 0.0, 9.81, 0.0, 0.0, 0.0, math.pi / 2.0])),
        "gnss": (frame, np.array([0.0, x * M_TO_DEG, 0.0])),
        "speed": (frame, {"speed": 2.0}),
    }


def built(config, port=2000):
    agent = load_by_path()("localhost", port, False)
    agent.set_global_plan(*dense_plan())
    agent.setup(str(config))
    return agent


def test_loading_by_path_leaves_the_modules_of_others_alone(config_file):
    cls = load_by_path()
    assert cls.__name__ == "DiffusionAgent" and cls.get_ros_version() == -1
    assert str(AGENT.parent) not in [os.path.abspath(entry) for entry in sys.path if entry]
    assert sys.modules["types"] is types and not hasattr(types, "EgoState")


def test_denied_any_connection_and_any_dense_route_it_drives(config_file, monkeypatch):
    def denied(*_, **__):
        raise AssertionError("the agent tried to reach a server")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, denied)
    monkeypatch.setattr(socket, "create_connection", denied)
    for name in ("Client", "World", "Map"):
        monkeypatch.setattr(carla, name, denied)
    # the client library connects below Python: somebody listens where the server would be
    with socket.create_server(("127.0.0.1", 0)) as listener:
        agent = built(config_file, listener.getsockname()[1])
        for frame in range(40):
            control = agent.run_step(input_data(frame, x=0.1 * frame), 0.05 * frame)
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert isinstance(control, carla.VehicleControl) and control.manual_gear_shift is False
    # only the plan as the base class thins it out: ends, and where the command changes
    assert "set_global_plan" not in vars(type(agent))
    assert len(agent._global_plan) == len(agent.stack.front_end.route.points) <= 6
    assert not [v for v in vars(agent).values() if isinstance(v, list | tuple) and len(v) > 20]
    assert agent.stack.rungs == {"planned": 40}
    agent.destroy()


def test_contract_of_the_return_value_and_sensors(config_file):
    agent = built(config_file)
    assert agent.track.value == "SENSORS"
    assert {spec["id"] for spec in agent.sensors()} == {"front", "lidar", "imu", "gnss", "speed"}
    control = agent.run_step(input_data(1), 0.0)
    control.manual_gear_shift = False  # upstream writes it
    assert 0.0 <= control.throttle <= 1.0 and 0.0 <= control.brake <= 1.0 and -1.0 <= control.steer <= 1.0
    assert agent.last.plan.waypoints_in_ego.shape == (1, 6, 2)
    agent.destroy()
    agent.destroy()


def test_weights_are_loaded_once_and_every_route_has_its_log(config_file, tmp_path):
    engines = []
    for _ in range(2):
        agent = built(config_file)
        agent.run_step(input_data(1), 0.0)
        engines.append(agent.stack._models.engine)
        agent.destroy()
    assert engines[0] is engines[1]
    logs = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in logs] == ["ticks-2.jsonl", "ticks.jsonl"]
    log = read_log(logs[1])
    assert len(log.ticks) == 1
    assert {"hardware", "versions", "commit", "config_hash", "engine"} <= set(log.header)


def test_bench2drive(config_file, tmp_path, monkeypatch):
    monkeypatch.setenv("IS_BENCH2DRIVE", "True")
    monkeypatch.setenv("SAVE_PATH", str(tmp_path / "save"))
    text = config_file.read_text().splitlines()[0]
    config_file.write_text(text)  # no tick_log.dir: SAVE_PATH it is
    agent = load_by_path()("localhost", 2000)
    agent.set_global_plan(*dense_plan())
    agent.setup(f"{config_file}+RouteScenario_1+RouteScenario_2")
    for frame in range(3):
        agent.run_step(input_data(frame), 0.05 * frame)
    info = agent.get_metric_info()
    assert set(info) == {
        "acceleration",
        "angular_velocity",
        "forward_vector",
        "right_vector",
        "location",
        "rotation",
    }
    agent.destroy()
    assert len(read_log(tmp_path / "save" / "RouteScenario_2.ticks.jsonl").ticks) == 3
    saved = json.loads((tmp_path / "save" / "RouteScenario_2" / "metric_info.json").read_text())
    assert list(saved) == ["0", "1", "2"] and saved["2"]["rotation"] == info["rotation"]


class LeaderboardOneAgent:
    """Base class as leaderboard 1.0 has it: `setup` from the constructor, the plan afterwards."""

    def __init__(self, path_to_conf_file):
        self._global_plan = None
        self._global_plan_world_coord = None
        self.setup(path_to_conf_file)

    def set_global_plan(self, gps, world):
        self._global_plan, self._global_plan_world_coord = gps[::50], world[::50]

    @staticmethod
    def get_ros_version():
        return -1


def test_upstreams_base_class_is_taken_and_leaderboard_1_constructs(config_file, monkeypatch):
    upstream = types.ModuleType("leaderboard.autoagents.autonomous_agent")
    upstream.AutonomousAgent = LeaderboardOneAgent
    upstream.Track = Enum("Track", {"SENSORS": "SENSORS", "MAP": "MAP"})
    for name in ("leaderboard", "leaderboard.autoagents"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, upstream.__name__, upstream)
    cls = load_by_path()
    assert issubclass(cls, LeaderboardOneAgent)
    agent = cls(str(config_file))
    assert agent.track is upstream.Track.SENSORS
    with pytest.raises(RouteError, match="set_global_plan"):
        agent.run_step(input_data(0), 0.0)
    agent.set_global_plan(*dense_plan())
    assert isinstance(agent.run_step(input_data(0), 0.0), carla.VehicleControl)
    agent.destroy()


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("planer: {}", ConfigError, r"agent\.yaml.*planer.*planner"),
        ("planner: {checkpoint: nosuch}", CheckpointError, "nosuch"),
        ("planner: {dtype: fp23}", ConfigError, r"planner\.dtype.*fp32"),
        ("rig: {gnss: {id: gnss, z: 9.0}}", SensorError, r"gnss.*9\.00 m"),
        ("track: MAP", ConfigError, "track"),
        ("planner: [", ConfigError, r"agent\.yaml"),
    ],
)
def test_setup_errors_say_what_to_mend(config_file, text, error, says):
    config_file.write_text(text)
    with pytest.raises(error, match=says):
        built(config_file)


def test_a_damaged_checkpoint_is_named(config_file, tmp_path):
    weights = next((tmp_path / "checkpoint").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        built(config_file)


def test_a_missing_config_file_is_named():
    with pytest.raises(ConfigError, match=r"no/such\.yaml"):
        built("no/such.yaml")
