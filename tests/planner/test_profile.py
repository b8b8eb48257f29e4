import json
import re

import pytest
import torch
from typer.testing import CliRunner

from tickdrive.planner.benchmark import FormSpec
from tickdrive.planner.diagnosis import Diagnosis, _elsewhere, diagnose
from tickdrive.planner.engine import build_engine, engine_names, example_inputs
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.profile import profile_engine
from tickdrive.planner.random_weights import randomize
from tickdrive.scripts.cli import app
from tickdrive.scripts.profile import conclusion

TINY = PolicyConfig(
    n_emb=16, n_head=2, n_layer=3, n_encoder_layer=1, vl_width=8, reasoning_width=8, observation_width=8
)
CPU = torch.device("cpu")
STEPS = 4


@pytest.fixture(scope="module")
def policy():
    return randomize(DiffusionPolicy(TINY)).eval()


def profile_of(policy, name, runs=3):
    engine = build_engine(name, policy, "cpu", "fp32")
    engine.warm_up(6, 3, 1, (STEPS,), runs=1)
    sets = [example_inputs(TINY, 1, 6, 3, CPU, seed) for seed in range(2)]
    return profile_engine(engine, sets, STEPS, runs)


@pytest.mark.parametrize("name", ["reference", "cached", "hoisted", "traced", "auto"])
def test_children_add_up_to_their_parent(policy, name):
    profile = profile_of(policy, name)
    parents = 0
    for _, node in profile.root.walk():
        assert node.total_ms >= 0.0
        if node.children:
            parents += 1
            assert node.children[-1].name == "other"
            assert sum(child.total_ms for child in node.children) == pytest.approx(node.total_ms, rel=1e-9)
    assert parents >= 1
    assert profile.apart == (name in ("reference", "cached", "hoisted"))


STEPWISE = {
    "ego status",
    "time embedding",
    "input embedding",
    "decoder",
    "trajectory head",
    "layer 1",
    "layer 2",
    "layer 3",
}
ENCODER = {"VL projection and pooling", "reasoning projection and pooling", "transformer encoder"}


def test_the_tree_is_the_studys(policy):
    nodes = {path[1:]: node for path, node in profile_of(policy, "reference").root.walk()}
    model = ("denoising loop", "model forward")
    for name in ("time embedding", "ego status", "input embedding", "decoder", "trajectory head"):
        assert nodes[(*model, name)].calls == STEPS
    for name in ENCODER:
        assert nodes[(*model, "encoder block", name)].calls == STEPS
    for index in (1, 2, 3):
        assert nodes[(*model, "decoder", f"layer {index}")].calls == STEPS
    assert nodes["denoising loop", "scheduler"].calls == STEPS


def test_cached_and_hoisted_encode_once_and_hoist_the_histories_path(policy):
    cached = {path[1:]: node for path, node in profile_of(policy, "cached").root.walk()}
    hoisted = {path[1:]: node for path, node in profile_of(policy, "hoisted").root.walk()}
    for nodes in (cached, hoisted):
        assert {path[1] for path in nodes if len(path) == 2 and path[0] == "encoder block"} == {
            *ENCODER,
            "other",
        }
        assert nodes[("encoder block",)].calls == 1
        assert nodes["denoising loop", "model forward"].calls == STEPS
    hoist = "hoist (once a plan)"
    assert hoisted[hoist, "history tokens' path", "layer 3"].calls == 1
    assert hoisted["denoising loop", "model forward", "layer 3"].calls == STEPS
    assert (hoist, "ego status") in hoisted


def test_an_engine_is_as_it_was_afterwards(policy):
    engine = build_engine("hoisted", policy, "cpu", "fp32")
    inputs = example_inputs(TINY, 1, 6, 3, CPU, 0)
    before = engine.plan(*inputs, STEPS).waypoints_in_ego
    owners = [part.owner for part in engine.parts()]
    names = [set(vars(owner)) for owner in owners]
    profile_engine(engine, [inputs], STEPS, 2)
    assert [set(vars(owner)) for owner in owners] == names
    assert (engine.plan(*inputs, STEPS).waypoints_in_ego == before).all()


def test_each_suspicion_is_measured(policy):
    spec = FormSpec("", "reference", "auto", batch=2, steps=20)
    found = diagnose(policy, spec, CPU, trained=False, tokens=(6, 3), seconds=0.01, runs=3, extraction_ms=1e6)
    steps, batch, device, processing, extraction = found.findings
    assert re.search(r"100 steps .*10 steps .*5 steps .*1 steps", steps.measured)
    assert 0.0 < steps.share < 1.0 and "10 steps would save" in steps.verdict
    assert "batch 8" in batch.measured and "batch 2 costs" in batch.verdict
    assert "to the device" in processing.measured and 0.0 < processing.share < 0.5
    assert extraction.share > 0.5
    if not torch.cuda.is_available():
        assert device.share is None and "not measured" in device.verdict
    options = {item.option: item for item in found.savings}
    assert {"engine cached fp32", "engine hoisted fp32", "engine traced fp32", "engine hoisted bf16"} <= set(
        options
    )
    if "onnx" in engine_names(CPU):
        assert "rounding" in options["engine onnx int8"].cost
    assert {"steps 10", "steps 5", "steps 1", "merged_attention=true"} <= set(options)
    assert "steps 100" not in options  # dearer, not cheaper
    assert options["engine hoisted fp32"].rel_err < 1e-5 < options["engine hoisted bf16"].rel_err
    merged = options["merged_attention=true"]
    assert "training" in merged.cost and merged.rel_err is None


def test_the_command_profiles_a_config_of_ones_own(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("policy: {n_emb: 16, n_head: 2, n_layer: 2, vl_width: 8, reasoning_width: 8}\n")
    out = tmp_path / "profile.json"
    arguments = ["profile", "--config", str(config), "--set", "policy.n_layer=3", "--tokens", "6,3"]
    arguments += ["--steps", "2", "--seconds", "0.01", "--json", str(out)]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    assert max(len(line) for line in done.output.splitlines() if "┃" in line or "│" in line) <= 100
    found = json.loads(out.read_text())
    assert found["schema"] == 1 and found["steps"] == 2
    assert "plan/denoising loop/model forward/decoder/layer 3" in {row["path"] for row in found["tree"]}
    assert len(found["suspicions"]) == 5 and found["options"] and found["conclusion"]


def test_a_busy_machine_is_told(policy):
    profile = profile_of(policy, "hoisted")
    for times, busy in ((1.0, False), (1.4, False), (1.6, True), (0.6, True), (0.75, False)):
        found = Diagnosis(profile, times * profile.plan_ms, (), ())
        said = [line for line in conclusion(found) if "busy with something else" in line]
        assert len(said) == busy
        assert all(f"{found.p50_ms:.4g} ms among the options" in line for line in said)


def test_naming_two_networks_is_refused():
    done = CliRunner().invoke(app, ["profile", "--preset", "seed", "--checkpoint", "compact"])
    assert done.exit_code != 0 and "More than one network" in str(done.exception)


def test_an_engine_of_one_device_is_compared_with_the_quickest_of_the_other():
    quickest = engine_names(CPU)[-1]
    assert _elsewhere(FormSpec("yours", "fused", "fp16", batch=2), CPU) == FormSpec(
        "yours", quickest, batch=2
    )
    for name in ("hoisted", "auto"):
        assert _elsewhere(FormSpec("yours", name), CPU) == FormSpec("yours", name)
