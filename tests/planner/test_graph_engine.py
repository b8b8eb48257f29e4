"""Engines of the GPU, on the CPU: what would be recorded runs anew, kernels in Triton's interpreter."""

import copy
import dataclasses
import importlib.util
import logging
import shutil

import numpy as np
import pytest
import torch

from tickdrive.planner.auto_engine import AutoEngine
from tickdrive.planner.engine import build_engine, example_inputs
from tickdrive.planner.errors import EngineNotReadyError, PlannerError
from tickdrive.planner.graph_engine import CompiledEngine, GraphEngine
from tickdrive.planner.hoisted import HoistedEngine
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.packed import plain_products
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.tracing import Tracer

CPU = torch.device("cpu")
CONFIG = PolicyConfig(
    n_emb=32, n_head=2, n_layer=1, n_encoder_layer=1, vl_width=24, reasoning_width=20, observation_width=16
)
MERGED = dataclasses.replace(CONFIG, merged_attention=True)
STEPS = 2
TOKENS = (9, 3)
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TICKDRIVE_CACHE", str(tmp_path / "cache"))
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture(scope="module")
def policy():
    return randomize(DiffusionPolicy(CONFIG)).eval()


def kind(name):
    if name == "graph":
        return GraphEngine
    from tickdrive.planner.fused_engine import FusedEngine

    return FusedEngine


engines = pytest.mark.parametrize("name", ["graph", pytest.param("fused", marks=needs_triton)])


def warm(name, policy, dtype=torch.float32, batch=1, steps=(STEPS,)):
    engine = kind(name)(policy, CPU, dtype)
    engine.warm_up(*TOKENS, batch, steps, runs=1)
    return engine


def inputs_of(batch=1, n_vl=TOKENS[0], n_reasoning=TOKENS[1], seed=1, padded=False, config=CONFIG):
    features, status, noise = example_inputs(config, batch, n_vl, n_reasoning, CPU, seed)
    if padded:
        mask = torch.rand(batch, n_vl, generator=torch.Generator().manual_seed(seed)) < 0.6
        features.vl_tokens[~mask] = float("nan")
        features = dataclasses.replace(features, vl_mask=mask)
    return features, status, noise


def rel_err(got, want, policy):
    center = ((policy.normalizer.low_m + policy.normalizer.high_m) / 2).numpy()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - center))


def error(engine, policy, inputs, steps=STEPS):
    want = build_engine("reference", policy, "cpu", "fp32").plan(*inputs, steps)
    for tensor in engine.static_outputs():
        tensor.fill_(torch.nan)
    return rel_err(engine.plan(*inputs, steps).waypoints_in_ego, want.waypoints_in_ego, policy)


@engines
@pytest.mark.parametrize("batch, padded", [(1, False), (3, True)])
def test_a_plan_is_the_references(policy, name, batch, padded):
    engine = warm(name, policy, batch=batch)
    assert error(engine, policy, inputs_of(batch, padded=padded)) < BOUNDS[torch.float32]
    assert engine.plan_note == ""


@engines
def test_narrow_types_stay_close(policy, name):
    # Triton's interpreter has no products in bf16
    for dtype in (torch.float16, torch.bfloat16) if name == "graph" else (torch.float16,):
        engine = warm(name, policy, dtype)
        assert max(error(engine, policy, inputs_of(seed=seed)) for seed in (1, 2)) < BOUNDS[dtype]


@needs_triton
def test_int8_weights_stay_close():
    config = dataclasses.replace(CONFIG, n_emb=64, n_head=2)
    policy = randomize(DiffusionPolicy(config)).eval()
    engine = warm("fused", policy, torch.int8)
    assert engine.label == "fused int8 cpu"
    errors = [error(engine, policy, inputs_of(seed=seed, config=config)) for seed in (1, 2)]
    assert 1e-5 < max(errors) < 5e-2  # narrow weights did run
    with pytest.raises(EngineNotReadyError, match="multiple of 64"):
        kind("fused")(randomize(DiffusionPolicy(CONFIG)), CPU, torch.int8)


@engines
def test_fewer_tokens_are_padded_into_the_recording(policy, name):
    engine = warm(name, policy)
    for n_vl, n_reasoning in ((4, 3), (9, 1), (0, 3)):
        inputs = inputs_of(n_vl=n_vl, n_reasoning=n_reasoning)
        assert error(engine, policy, inputs) < BOUNDS[torch.float32]
        assert engine.plan_note == ""


@engines
def test_what_was_not_recorded_is_planned_without_and_said_once(policy, name, caplog):
    engine = warm(name, policy)
    with caplog.at_level(logging.WARNING):
        for inputs, steps in ((inputs_of(2), STEPS), (inputs_of(n_vl=10), STEPS), (inputs_of(), 1)):
            assert error(engine, policy, inputs, steps) < BOUNDS[torch.float32]
            assert "without its graph: not warmed up for (" in engine.plan_note
    assert len(caplog.records) == 1 and "(2, 9, 3, 2)" in caplog.text


@engines
def test_a_later_plan_overwrites_no_earlier_one_and_plans_repeat(policy, name):
    engine = warm(name, policy, batch=2)
    first = engine.plan(*inputs_of(2), STEPS).waypoints_in_ego
    kept = first.copy()
    other = engine.plan(*inputs_of(2, seed=7), STEPS).waypoints_in_ego
    assert np.array_equal(first, kept) and not np.array_equal(other, kept)
    assert np.array_equal(engine.plan(*inputs_of(2), STEPS).waypoints_in_ego, kept)


@needs_triton
def test_corrupting_any_branch_fails_parity(policy):
    inputs = inputs_of()
    want = build_engine("reference", policy, "cpu", "fp32").plan(*inputs, STEPS).waypoints_in_ego
    parts = [
        "encoder.0.attention.out",
        "encoder.0.ffn_norm",
        "memory_mlp.up",
        "history",
        "head.gru",
        "head.out",
    ]
    own = ("trajectory_attention.q_norm", "trajectory_attention.out", "ffn.up", "ffn.down", "modulation")
    parts += [f"decoder.0.{part}" for part in own]
    for part in parts:
        broken = copy.deepcopy(policy)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in broken.network.get_submodule(part).parameters():
                parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
        engine = kind("fused")(broken, CPU, torch.float32)
        got = engine.plan(*inputs, STEPS).waypoints_in_ego
        assert rel_err(got, want, policy) > 20 * BOUNDS[torch.float32], part


@needs_triton
@pytest.mark.parametrize("step", range(STEPS))
def test_corrupting_any_timestep_fails_parity(policy, step):
    engine = kind("fused")(policy, CPU, torch.float32)
    _, embedded = engine._schedule(STEPS)
    embedded[step] = embedded[(step + 1) % STEPS].clone()
    assert error(engine, policy, inputs_of()) > 20 * BOUNDS[torch.float32]


@needs_triton
def test_the_kernels_refuse_networks_they_are_not_made_for():
    for config in (MERGED, dataclasses.replace(CONFIG, n_emb=48, n_head=2)):
        with pytest.raises(EngineNotReadyError, match="Use engine compiled"):
            kind("fused")(randomize(DiffusionPolicy(config)), CPU, torch.float32)


@needs_triton
def test_nothing_is_compiled_where_that_is_not_allowed(policy):
    """A set-up under a watchdog: what is not in the cache is refused, and taken from there afterwards."""
    fresh = kind("fused")(policy, CPU, torch.float32)
    with pytest.raises(EngineNotReadyError, match="tickdrive warmup"):
        fresh.warm_up(*TOKENS, 1, (STEPS,), build=False)
    warm("fused", policy)
    fresh.warm_up(*TOKENS, 1, (STEPS,), runs=1, build=False)
    assert error(fresh, policy, inputs_of()) < BOUNDS[torch.float32]
    other = copy.deepcopy(policy)
    randomize(other, seed=4)
    with pytest.raises(EngineNotReadyError):  # another checkpoint has nothing there
        kind("fused")(other, CPU, torch.float32).warm_up(*TOKENS, 1, (STEPS,), build=False)


@needs_triton
def test_auto_starts_on_the_next_engine_where_nothing_is_compiled_yet(policy, caplog):
    candidates = [
        (name, lambda name=name: kind(name)(policy, CPU, torch.float32)) for name in ("fused", "graph")
    ]
    engine = AutoEngine(policy, CPU, torch.float32, candidates)
    with caplog.at_level(logging.WARNING):
        engine.warm_up(*TOKENS, 1, (STEPS,), runs=1, build=False)
    assert "tickdrive warmup" not in engine.label and "nothing compiled" in caplog.text
    plan = engine.plan(*inputs_of(), STEPS)
    assert plan.engine.startswith(
        "graph fp32 cpu (fell back from fused fp32 cpu: The fused engine has nothing"
    )
    assert error(engine, policy, inputs_of()) < BOUNDS[torch.float32]


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="needs a C++ compiler")
def test_the_compiled_form_is_the_same():
    policy = randomize(DiffusionPolicy(CONFIG)).eval()
    with plain_products():  # as on CUDA
        engine = CompiledEngine(policy, CPU, torch.float32)
    engine.warm_up(*TOKENS, 1, (STEPS,), runs=1)
    assert error(engine, policy, inputs_of()) < BOUNDS[torch.float32]


def test_the_gpus_engines_refuse_the_cpu_and_int8_those_that_have_none(policy):
    for name in ("graph", "compiled", "fused"):
        with pytest.raises(PlannerError, match="runs on CUDA"):
            build_engine(name, policy, "cpu")
    with pytest.raises(PlannerError, match="fused on CUDA"):
        HoistedEngine(policy, CPU, torch.int8)


def test_a_closed_engine_refuses(policy):
    engine = warm("graph", policy)
    engine.close()
    with pytest.raises(PlannerError, match="closed"):
        engine.plan(*inputs_of(), STEPS)


def test_spans_of_a_recording(policy):
    engine, tracer = warm("graph", policy), Tracer()
    tracer.begin()
    engine.plan(*inputs_of(), STEPS, tracer)
    # stages come from device events, of which the CPU has none
    assert [span.name for span in tracer.end().spans] == ["copy in"]
