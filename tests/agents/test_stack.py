"""The stack on synthetic sensors: spans, log, shared weights' inputs, and every rung of the ladder."""

import gc
import math

import numpy as np
import pytest
import torch

from tickdrive.agents.config import load_agent_config
from tickdrive.agents.delayed_driving import SAFE_STOP_BRAKE
from tickdrive.agents.planning import ConstantVelocityPlanner, DiffusionPlannerStage
from tickdrive.agents.plans import shift_plan
from tickdrive.agents.shared_models import SharedModels, WarmTiming, resolve_checkpoint
from tickdrive.agents.stack import DrivingStack
from tickdrive.agents.tick_log import TickLog, read_log
from tickdrive.agents.types import Decision, EgoState, Reasoning
from tickdrive.planner.engine import build_engine
from tickdrive.planner.errors import CheckpointError, PlannerError, SensorError
from tickdrive.planner.network_config import preset
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features, Plan

SIZES = {"n_emb": 32, "n_head": 4, "n_layer": 2, "n_encoder_layer": 1, "vl_width": 16, "reasoning_width": 16}
M_TO_DEG = 360.0 / (2.0 * math.pi * 6378137.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Waypoint:
    def __init__(self, x, y, yaw=0.0):
        self.location = type("L", (), {"x": x, "y": y, "z": 0.0})
        self.rotation = type("R", (), {"yaw": yaw})


def plan_of_route():
    points = [(0.0, 0.0, 4), (60.0, 0.0, 3), (80.0, 0.0, 4), (300.0, 0.0, 4)]
    gps = [({"lat": -y * M_TO_DEG, "lon": x * M_TO_DEG, "z": 0.0}, c) for x, y, c in points]
    return gps, [(Waypoint(x, y), c) for x, y, c in points]


def sensors(tick, x=0.0, speed=0.0, **change):
    rng = np.random.default_rng(tick)
    data = {
        "front": (tick, rng.integers(0, 255, (256, 512, 4), np.uint8)),
        "lidar": (tick, rng.uniform(-20.0, 20.0, (500, 4)).astype(np.float32)),
        "imu": (tick, np.array([0.0, 0.0, 9.81, 0.0, 0.0, 0.0, math.pi / 2.0])),
        "gnss": (tick, np.array([0.0, x * M_TO_DEG, 0.0])),
        "speed": (tick, {"speed": speed}),
    }
    data.update(change)
    return {name: item for name, item in data.items() if item is not None}


class LinearExtractor:
    """Tokens by a fixed random projection of the picture; breaks when told to."""

    def __init__(self, config):
        self.config = config
        self.broken = None
        self.calls = 0

    def extract(self, inputs, tracer):
        self.calls += 1
        if self.broken is not None and self.broken != "nan":
            raise self.broken
        with tracer.span("vl"):
            generator = torch.Generator().manual_seed(int(inputs.image.mean() * 1000))
            vl = torch.randn(1, 8, self.config.vl_width, generator=generator)
            observation = torch.randn(
                1, self.config.n_observation, self.config.observation_width, generator=generator
            )
        with tracer.span("reasoning"):
            reasoning = torch.randn(1, 3, self.config.reasoning_width, generator=generator)
        if self.broken == "nan":
            vl = vl * float("nan")
        features = Features(vl_tokens=vl, reasoning_tokens=reasoning, observation_tokens=observation)
        return features, Reasoning(Decision.CRUISE, 0.9, {"CRUISE": 0.9, "FOLLOW": 0.1})


@pytest.fixture(scope="module")
def engine():
    policy = randomize(DiffusionPolicy(preset("compact", **SIZES)), seed=1)
    return build_engine("auto", policy, "cpu", "fp32")


def stack_of(engine, *overrides, log=None):
    config = load_agent_config(None, ["planner.steps=3", *overrides])
    extractor = LinearExtractor(engine.config)
    models = SharedModels(extractor=extractor, engine=engine, checkpoint=None)
    return DrivingStack(config, *plan_of_route(), models=models, log=log), extractor


def test_a_tick_has_every_span_and_is_logged(engine, tmp_path):
    stack, _ = stack_of(engine, log=TickLog(tmp_path / "ticks.jsonl", {"engine": "x"}))
    for tick in range(5):
        control, output = stack.tick(sensors(tick, x=tick * 0.2, speed=4.0), tick * 0.05)
        assert 0.0 <= control.throttle <= 1.0 and -1.0 <= control.steer <= 1.0 and 0.0 <= control.brake <= 1.0
    stack.close()
    top = [span.name for span in output.trace.spans if span.parent is None]
    names = "decode localization route preprocess vl reasoning planner postprocess control"
    assert top == names.split()
    children = {span.name for span in output.trace.spans if span.parent == "planner"}
    assert {"encode", "denoise"} <= children
    assert output.plan.waypoints_in_ego.shape == (1, 6, 2) and output.plan.steps == 3
    assert output.image.shape == (256, 512, 3)
    assert output.outside_ms is not None and output.outside_ms >= 0.0
    assert stack.rungs == {"planned": 5} and stack.last is output
    log = read_log(tmp_path / "ticks.jsonl")
    assert len(log.ticks) == 5 and not log.damage
    last = log.ticks[-1]
    assert last["rung"] == "planned" and last["steps"] == 3 and last["granularity"] == "step"
    assert last["reasoning"] == {"CRUISE": 0.9, "FOLLOW": 0.1}
    assert len(last["plan"]) == 6 and last["ego"]["speed_mps"] == 4.0
    assert log.ticks[0]["outside_ms"] is None
    covered = sum(span["ms"] for span in last["spans"] if span["parent"] is None)
    assert covered + last["other_ms"] == pytest.approx(last["total_ms"], abs=0.01)


def test_same_sensors_give_the_same_drive(engine):
    drives = []
    for _ in range(2):
        stack, _ = stack_of(engine)
        drives.append([stack.tick(sensors(t, speed=4.0), t * 0.05)[0] for t in range(6)])
    assert drives[0] == drives[1]


def test_missing_camera_plans_on_old_features_then_stops(engine):
    stack, extractor = stack_of(engine, "ladder.stale_ticks=3")
    stack.tick(sensors(0, speed=4.0), 0.0)
    rungs = []
    for tick in range(1, 7):
        control, output = stack.tick(sensors(tick, speed=4.0, front=None), tick * 0.05)
        rungs.append(output.rung)
    assert rungs == ["stale_features"] * 3 + ["safe_stop"] * 3
    assert output.plan is None and control.throttle == 0.0 and control.brake == SAFE_STOP_BRAKE
    assert extractor.calls == 1
    assert stack.tick(sensors(7, speed=4.0), 0.35)[1].rung == "planned"  # and it recovers
    assert stack.rungs == {"planned": 2, "stale_features": 3, "safe_stop": 3}


def test_a_missing_lidar_or_fix_is_counted_and_driven_through(engine):
    stack, _ = stack_of(engine)
    stack.tick(sensors(0, speed=4.0), 0.0)
    stack.tick(sensors(1, speed=4.0, lidar=None), 0.05)
    stack.tick(sensors(2, speed=4.0, gnss=None), 0.10)
    assert stack.rungs == {"planned": 1, "partial_sensors": 2}


def test_no_camera_from_the_start_stands_still(engine):
    stack, _ = stack_of(engine)
    _, output = stack.tick(sensors(0, front=None), 0.0)
    assert output.rung == "safe_stop" and output.control.throttle == 0.0


@pytest.mark.parametrize("broken", ["nan", RuntimeError("device lost")])
def test_failing_planner_drives_the_previous_plan_then_stops_then_ends(engine, broken, tmp_path):
    log = TickLog(tmp_path / "ticks.jsonl", {})
    stack, extractor = stack_of(engine, "ladder.previous_plan_ticks=2", "ladder.max_failures=5", log=log)
    stack.tick(sensors(0, speed=4.0), 0.0)
    extractor.broken = broken
    rungs = [stack.tick(sensors(t, speed=4.0), t * 0.05)[1].rung for t in range(1, 5)]
    assert rungs == ["previous_plan"] * 2 + ["safe_stop"] * 2
    with pytest.raises(PlannerError, match="5 ticks in a row"):
        stack.tick(sensors(5, speed=4.0), 0.25)
    stack.close()
    assert [tick["rung"] for tick in read_log(tmp_path / "ticks.jsonl").ticks][-1] == "failed"


def test_one_failure_is_forgiven(engine):
    stack, extractor = stack_of(engine, "ladder.max_failures=2")
    for tick in range(8):
        extractor.broken = RuntimeError("now and then") if tick % 2 else None
        stack.tick(sensors(tick, speed=4.0), tick * 0.05)
    assert stack.rungs == {"planned": 4, "previous_plan": 4}


def test_data_of_a_wrong_form_ends_the_route_by_name(engine):
    stack, _ = stack_of(engine)
    with pytest.raises(SensorError, match="front"):
        stack.tick(sensors(0, front=(0, np.zeros((10, 10, 4), np.uint8))), 0.0)


def test_zeroed_tokens_reach_the_engine(engine):
    seen = []

    class Spy:
        config, device, label = engine.config, engine.device, engine.label

        def plan(self, features, *rest):
            seen.append(features)
            return engine.plan(features, *rest)

    config = load_agent_config(None, ["planner.steps=3", "perception.zero_tokens=true"])
    stage = DiffusionPlannerStage(Spy(), config.planner, config.perception.zero_tokens)
    features = Features(torch.ones(1, 8, 16), torch.ones(1, 3, 16), torch.ones(1, 4, 256))
    stage.plan(features, np.zeros((4, 22), np.float32), 0.0, 3, Tracer())
    for tokens in (seen[0].vl_tokens, seen[0].reasoning_tokens, seen[0].observation_tokens):
        assert not tokens.any()


def test_constant_velocity_runs_without_perception_and_sets_off():
    plan = ConstantVelocityPlanner().plan(None, np.zeros((4, 14), np.float32), 0.0, 10, Tracer())
    assert plan.waypoints_in_ego[0, :, 0].tolist() == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    config = load_agent_config(None, ["planner.kind=constant_velocity"])
    stack = DrivingStack(config, *plan_of_route())
    control, output = stack.tick(sensors(0), 0.0)
    assert control.throttle > 0.1 and output.plan.steps == 0 and output.rung == "planned"


def test_shift_plan_is_where_the_old_plan_was():
    plan = Plan(np.array([[[2.0, 0.0], [4.0, 0.0], [6.0, 0.0]]], np.float32), 0.5, 3, "x")
    then = EgoState(0, 1.0, np.array([10.0, 5.0]), 90.0, 4.0, 0.0, 0.0)
    # facing south at 4 m/s; half a second later it stands 2 m further and has turned 90 degrees to the right
    now = EgoState(10, 1.5, np.array([10.0, 7.0]), 180.0, 4.0, 0.0, 0.0)
    # what lay ahead (south) is now to the left
    expected = [[0.0, -2.0], [0.0, -4.0], [0.0, -6.0]]
    assert np.allclose(shift_plan(plan, then, now).waypoints_in_ego[0], expected, atol=1e-5)


def test_an_unknown_checkpoint_says_what_there_is():
    with pytest.raises(CheckpointError, match=r"Checkpoint 'nosuch'"):
        resolve_checkpoint("nosuch")


def budget_stack(engine, features_ms, plan_ms, *overrides):
    """The stack with made-up times at warm-up: the budget's choice does not hang on the machine."""
    config = load_agent_config(None, ["planner.steps=3", "budget.steps=[2]", *overrides])
    extractor = LinearExtractor(engine.config)
    models = SharedModels(extractor, engine, checkpoint=None, timing=WarmTiming(features_ms, plan_ms))
    return DrivingStack(config, *plan_of_route(), models=models), extractor


def test_steps_that_do_not_fit_the_budget_are_left_out(engine):
    stack, _ = budget_stack(engine, 0.0, {3: 1e6, 2: 1e-6})
    _, output = stack.tick(sensors(0, speed=4.0), 0.0)
    assert (output.rung, output.steps, output.plan.steps) == ("fewer_steps", 2, 2)
    assert 0.0 < output.predicted_ms < 50.0


def test_perception_that_does_not_fit_drives_the_previous_plan_for_a_while(engine):
    stack, extractor = budget_stack(engine, 1e6, {3: 1e-6, 2: 1e-6}, "ladder.previous_plan_ticks=4")
    rungs = [stack.tick(sensors(t, x=0.2 * t, speed=4.0), t * 0.05)[1].rung for t in range(9)]
    # the first must plan; then no new features, until late is better than blind
    assert rungs == [
        "fewer_steps",
        *["previous_plan"] * 3,
        "fewer_steps",
        *["previous_plan"] * 3,
        "fewer_steps",
    ]
    assert extractor.calls == 3


def test_features_that_no_plan_was_made_from_are_planned_on_a_tick_later(engine):
    stack, extractor = budget_stack(engine, 0.0, {3: 1e-6, 2: 1e-6})
    stack.tick(sensors(0, speed=4.0), 0.0)
    stack._seen.plan = None  # as if the plan had not fitted
    for _ in range(5):
        stack._budget.note_features(1e6)
    _, output = stack.tick(sensors(1, x=0.2, speed=4.0), 0.05)
    assert (output.rung, output.steps, extractor.calls) == ("stale_features", 3, 1)
    # where the old plan lay: 0.2 m further on, and 0.05 s later
    then = EgoState(0, 0.0, stack._seen.ego.position_in_world, stack._seen.ego.yaw_deg, 4.0, 0.0, 0.0)
    now = output.ego
    assert np.allclose(
        output.plan.waypoints_in_ego, shift_plan(stack._seen.plan, then, now).waypoints_in_ego, atol=1e-4
    )


def test_without_a_budget_all_steps_run(engine):
    stack, _ = budget_stack(engine, 1e6, {3: 1e6, 2: 1e-6}, "budget.enabled=false")
    output = stack.tick(sensors(0, speed=4.0), 0.0)[1]
    assert (output.rung, output.steps, output.predicted_ms) == ("planned", 3, None)


def test_under_a_latency_model_observations_are_left_out_while_a_plan_is_computed(engine, tmp_path):
    log = TickLog(tmp_path / "ticks.jsonl", {"engine": "x"})
    stack, extractor = stack_of(engine, "latency.mode=fixed", "latency.ms=150", log=log)
    rungs = [stack.tick(sensors(t, x=0.2 * t, speed=4.0), t * 0.05)[1].rung for t in range(7)]
    stack.close()
    assert rungs == ["planned", "busy", "busy", "planned", "busy", "busy", "planned"]
    assert extractor.calls == 3
    ticks = read_log(tmp_path / "ticks.jsonl").ticks
    assert [t["latency"]["observed_frame"] for t in ticks] == [None] * 3 + [0] * 3 + [3]
    assert [t["steps"] for t in ticks] == [3, 0, 0, 3, 0, 0, 3]
    assert all(t["plan"] is None for t in ticks[:3]) and all(len(t["plan"]) == 6 for t in ticks[3:])


def test_the_collector_is_off_in_a_tick_and_on_again_after(engine):
    states = []

    class Watching(LinearExtractor):
        def extract(self, inputs, tracer):
            states.append(gc.isenabled())
            return super().extract(inputs, tracer)

    stack, _ = stack_of(engine)
    stack._models = SharedModels(Watching(engine.config), engine, checkpoint=None)
    stack.tick(sensors(0), 0.0)
    assert states == [False] and gc.isenabled()
    with pytest.raises(SensorError):
        stack.tick(sensors(1, front=(1, "no picture")), 0.05)
    assert gc.isenabled()
