import dataclasses
import logging

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tickdrive.agents.shared_models import spare_cores
from tickdrive.planner.engine import build_engine, example_inputs
from tickdrive.planner.engine_cache import cache_folder, policy_hash
from tickdrive.planner.errors import EngineNotReadyError, PlannerError
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.warmup import warm_up_cache
from tickdrive.scripts.cli import app

pytest.importorskip("onnxruntime", reason="needs the extra cpu-int8")
pytest.importorskip("onnx", reason="needs the extra cpu-int8")

SMALL = PolicyConfig(
    n_emb=64, n_head=4, n_layer=2, n_encoder_layer=1, vl_width=32, reasoning_width=32, observation_width=32
)
MERGED = dataclasses.replace(SMALL, merged_attention=True)
CPU = torch.device("cpu")
TOKENS = (9, 3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TICKDRIVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=[SMALL, MERGED], ids=["twofold", "merged"])
def either(request):
    return randomize(DiffusionPolicy(request.param)).eval()


@pytest.fixture(scope="module")
def policy():
    return randomize(DiffusionPolicy(SMALL)).eval()


def inputs_of(batch=1, seed=1):
    return example_inputs(SMALL, batch, *TOKENS, CPU, seed)


def rel_err(got, want, policy):
    center = ((policy.normalizer.low_m + policy.normalizer.high_m) / 2).numpy()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - center))


@pytest.mark.parametrize("batch, steps", [(1, 3), (2, 1)])
def test_the_graph_is_the_reference(either, batch, steps):
    engine = build_engine("onnx", either, "cpu", "fp32")
    engine.warm_up(*TOKENS, batch, (steps,), runs=1)
    reference = build_engine("reference", either, "cpu", "fp32")
    for seed in range(2):
        inputs = inputs_of(batch, seed)
        got = engine.plan(*inputs, steps)
        assert got.engine == "onnx fp32 cpu"
        assert rel_err(got.waypoints_in_ego, reference.plan(*inputs, steps).waypoints_in_ego, either) < 1e-5


def test_int8_is_quantised_and_close(policy):
    engine = build_engine("onnx", policy, "cpu", "int8")
    engine.warm_up(*TOKENS, 1, (2,), runs=1)
    inputs = inputs_of()
    got = engine.plan(*inputs, 2)
    want = build_engine("reference", policy, "cpu", "fp32").plan(*inputs, 2).waypoints_in_ego
    assert got.engine == "onnx int8 cpu"
    assert 1e-4 < rel_err(got.waypoints_in_ego, want, policy) < 0.1  # random weights do not pull back


def test_what_was_not_built_is_planned_by_hoisted_and_said(policy, caplog):
    engine = build_engine("onnx", policy, "cpu", "fp32")
    engine.warm_up(*TOKENS, 1, (2,), runs=1)
    inputs = inputs_of()
    want = build_engine("hoisted", policy, "cpu", "fp32").plan(*inputs, 3).waypoints_in_ego
    with caplog.at_level(logging.WARNING):
        plans = [engine.plan(*inputs, 3) for _ in range(2)]
        assert engine.plan(*inputs, 2).engine == "onnx fp32 cpu"
        plans.append(engine.plan(*inputs, 3))
    for plan in plans:
        assert "fell back from onnx: not warmed up for (1, 9, 3, 3)" in plan.engine
        assert np.array_equal(plan.waypoints_in_ego, want)
    assert len(caplog.records) == 1


def test_graphs_are_loaded_from_the_cache_and_not_built_where_that_is_denied(policy, monkeypatch):
    engine = build_engine("onnx", policy, "cpu", "fp32")
    with pytest.raises(EngineNotReadyError, match="tickdrive warmup"):
        engine.warm_up(*TOKENS, 1, (2,), build=False)
    engine.warm_up(*TOKENS, 1, (2,), runs=1)
    inputs = inputs_of()
    want = engine.plan(*inputs, 2).waypoints_in_ego

    def never(*_, **__):
        raise AssertionError("exported again")

    monkeypatch.setattr("tickdrive.planner.onnx_engine.export_plan", never)
    again = build_engine("onnx", policy, "cpu", "fp32")
    again.warm_up(*TOKENS, 1, (2,), build=False)
    assert np.array_equal(again.plan(*inputs, 2).waypoints_in_ego, want)
    (entry,) = cache_folder().glob("plan-*")
    entry.write_bytes(b"half of a graph")
    with pytest.raises(EngineNotReadyError):
        build_engine("onnx", policy, "cpu", "fp32").warm_up(*TOKENS, 1, (2,), build=False)


def test_a_changed_checkpoint_has_another_key(policy):
    other = randomize(DiffusionPolicy(SMALL), seed=1)
    same = randomize(DiffusionPolicy(SMALL))
    assert policy_hash(policy) == policy_hash(same) != policy_hash(other)


def test_auto_takes_what_was_measured_to_be_the_fastest(policy, monkeypatch, caplog):
    def times(forms, seconds, min_runs=5):  # onnx, traced, hoisted
        return [[1.0], [2.0], [3.0]]

    monkeypatch.setattr("tickdrive.planner.warmup.take_turns", times)
    rows = warm_up_cache(policy, CPU, batch=1, tokens=TOKENS, steps=(2,), seconds=0.01)
    assert {(row.engine, row.chosen) for row in rows} == {
        ("onnx", True),
        ("traced", False),
        ("hoisted", False),
    }
    engine = build_engine("auto", policy, "cpu", "fp32")
    assert engine.label == "traced fp32 cpu"
    engine.warm_up(*TOKENS, 1, (2,), build=False)
    assert engine.plan(*inputs_of(), 2).engine == "onnx fp32 cpu"
    for entry in cache_folder().glob("plan-*"):
        entry.unlink()
    slower = build_engine("auto", policy, "cpu", "fp32")
    with caplog.at_level(logging.WARNING):
        slower.warm_up(*TOKENS, 1, (2,), build=False)
    assert "no graph of (1, 9, 3, 2)" in caplog.text
    assert slower.plan(*inputs_of(), 2).engine.startswith("traced fp32 cpu (fell back from onnx")


def test_without_the_extra_it_is_said_what_to_install(policy, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PlannerError, match="cpu-int8"):
        build_engine("onnx", policy, "cpu", "fp32")
    rows = warm_up_cache(policy, CPU, batch=1, tokens=TOKENS, steps=(2,), seconds=0.01)
    assert any(row.engine == "onnx" and row.p50_ms is None and "cpu-int8" in row.why_not for row in rows)


def test_auto_in_int8_is_the_engine_that_quantises(policy, caplog):
    engine = build_engine("auto", policy, "cpu", "int8")
    engine.warm_up(*TOKENS, 1, (2,), runs=1, build=False)
    assert engine.label.startswith("hoisted fp32 cpu (fell back from onnx int8 cpu: ")  # and not yet built
    warm_up_cache(policy, CPU, "int8", tokens=TOKENS, steps=(2,), seconds=0.01)
    engine = build_engine("auto", policy, "cpu", "int8")
    engine.warm_up(*TOKENS, 1, (2,), runs=1, build=False)
    assert engine.plan(*inputs_of(), 2).engine == "onnx int8 cpu"


def test_only_onnx_runs_int8(policy):
    with pytest.raises(PlannerError, match="Engine onnx does"):
        build_engine("hoisted", policy, "cpu", "int8")


def test_the_command_builds_for_as_many_threads_as_the_agent_takes_and_prints(policy, tmp_path):
    policy.save_pretrained(tmp_path / "mine")
    before = torch.get_num_threads()
    torch.set_num_threads(spare_cores() + 1)
    done = CliRunner().invoke(
        app, ["warmup", "--checkpoint", str(tmp_path / "mine"), "--steps", "2", "--tokens", "9,3"]
    )
    built_for = torch.get_num_threads()
    torch.set_num_threads(before)
    assert done.exit_code == 0, done.output
    assert built_for == spare_cores()
    assert "engine auto:" in done.output and len(list(cache_folder().glob("choice-*"))) == 1
