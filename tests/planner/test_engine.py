import copy
import dataclasses
import logging
import re

import numpy as np
import pytest
import torch

from tickdrive.planner import hoisted, packed
from tickdrive.planner.engine import build_engine, example_inputs
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.gru import FoldedGru
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.tracing import Tracer

SMALL = PolicyConfig(
    n_emb=48, n_head=4, n_layer=3, n_encoder_layer=2, vl_width=24, reasoning_width=20, observation_width=16
)
CPU = torch.device("cpu")


MERGED = dataclasses.replace(SMALL, merged_attention=True)


@pytest.fixture(scope="module")
def policy():
    return randomize(DiffusionPolicy(SMALL)).eval()


@pytest.fixture(scope="module", params=[SMALL, MERGED], ids=["twofold", "merged"])
def either(request):
    return randomize(DiffusionPolicy(request.param)).eval()


def inputs_of(batch=1, n_vl=11, n_reasoning=4, seed=1, padded=False):
    features, status, noise = example_inputs(SMALL, batch, n_vl, n_reasoning, CPU, seed)
    if padded:
        vl_mask = torch.rand(batch, n_vl, generator=torch.Generator().manual_seed(seed)) < 0.6
        reasoning_mask = torch.ones(batch, n_reasoning, dtype=torch.bool)
        reasoning_mask[0] = False  # a sample without one real reasoning token
        features.vl_tokens[~vl_mask] = float("nan")
        features.reasoning_tokens[~reasoning_mask] = float("nan")
        features = dataclasses.replace(features, vl_mask=vl_mask, reasoning_mask=reasoning_mask)
    return features, status, noise


def rel_err(got, want, policy):
    center = ((policy.normalizer.low_m + policy.normalizer.high_m) / 2).numpy()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - center))


def plan(policy, name, inputs, steps=10, dtype="fp64"):
    engine = build_engine(name, policy, "cpu", dtype)
    if name == "traced":  # elsewhere the first plan warms up well enough
        record(engine, inputs, steps)
    return engine.plan(*inputs, steps).waypoints_in_ego


def record(engine, inputs, *steps):
    """Warm an engine up for the shapes of some inputs."""
    features = inputs[0]
    engine.warm_up(features.vl_tokens.shape[1], features.reasoning_tokens.shape[1], len(inputs[2]), steps, 1)


@pytest.mark.parametrize("name", ["cached", "hoisted", "traced"])
@pytest.mark.parametrize("batch, padded", [(1, False), (1, True), (3, True), (8, False)])
def test_engines_are_exact_algebra(either, name, batch, padded):
    inputs = inputs_of(batch, padded=padded, seed=batch)
    want = plan(either, "reference", inputs)
    assert np.abs(plan(either, name, inputs) - want).max() < 1e-9


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 100])
def test_the_hoist_is_exact_for_any_step_count(either, steps):
    inputs = inputs_of(2)
    want = plan(either, "reference", inputs, steps)
    for name in ("hoisted", "traced"):
        assert np.abs(plan(either, name, inputs, steps) - want).max() < 1e-9


@pytest.mark.parametrize("n_vl, n_reasoning", [(1, 0), (0, 1), (0, 0), (70, 9)])
def test_the_hoist_is_exact_for_any_number_of_tokens(either, n_vl, n_reasoning):
    inputs = inputs_of(2, n_vl, n_reasoning)
    want = plan(either, "reference", inputs)
    for name in ("hoisted", "traced"):
        assert np.abs(plan(either, name, inputs) - want).max() < 1e-9


def test_the_fused_gru_that_cuda_uses_is_the_same(policy):
    inputs = inputs_of(2)
    engine = build_engine("hoisted", policy, "cpu", "fp64")
    want = engine.plan(*inputs, 10).waypoints_in_ego
    decoder, network = engine._decoder, copy.deepcopy(policy.network)
    decoder.head_gru = FoldedGru(network.head.gru, torch.float64, fused=True)
    decoder.status_gru = FoldedGru(network.ego_status.history, torch.float64, fused=True)
    assert np.abs(engine.plan(*inputs, 10).waypoints_in_ego - want).max() < 1e-9


def test_reference_is_the_policys_own_sampling(policy):
    features, status, noise = inputs_of(2)
    got = plan(policy, "reference", (features, status, noise), dtype="fp32")
    np.testing.assert_allclose(got, policy.conditional_sample(features, status, noise).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "name, dtype, bound",
    [
        ("cached", "fp32", 1e-5),
        ("hoisted", "fp32", 1e-5),
        ("traced", "fp32", 1e-5),
        # ten steps on random weights, which do not pull the trajectory back as trained ones do
        ("cached", "bf16", 8e-2),
        ("hoisted", "bf16", 8e-2),
        ("traced", "bf16", 8e-2),
        ("cached", "fp16", 1e-2),
        ("hoisted", "fp16", 1e-2),
    ],
)
def test_dtypes_stay_close_to_fp32(either, name, dtype, bound):
    for seed in range(3):
        inputs = inputs_of(2, seed=seed, padded=seed == 1)
        want = plan(either, "reference", inputs, dtype="fp32")
        assert rel_err(plan(either, name, inputs, dtype=dtype), want, either) < bound


def test_plans_are_fp32_metres_with_their_facts(policy):
    engine = build_engine("hoisted", policy, "cpu", "fp32")
    result = engine.plan(*inputs_of(2), 5)
    assert result.waypoints_in_ego.dtype == np.float32 and result.waypoints_in_ego.shape == (2, 6, 2)
    assert (result.dt_s, result.steps, result.engine) == (0.5, 5, "hoisted fp32 cpu")
    kept = result.waypoints_in_ego.copy()
    engine.plan(*inputs_of(2, seed=7), 5)  # a later plan does not overwrite an earlier one's result
    assert np.array_equal(result.waypoints_in_ego, kept)


@pytest.mark.parametrize("name", ["reference", "cached", "hoisted", "traced", "auto"])
def test_inputs_are_left_as_they_were_and_plans_repeat(policy, name):
    features, status, noise = inputs_of(1)
    before = [t.clone() for t in (features.vl_tokens, features.reasoning_tokens, status, noise)]
    engine = build_engine(name, policy, "cpu", "fp32")
    record(engine, (features, status, noise), 10)
    first = engine.plan(features, status, noise, 10).waypoints_in_ego
    second = engine.plan(features, status, noise, 10).waypoints_in_ego
    assert np.array_equal(first, second)
    after = (features.vl_tokens, features.reasoning_tokens, status, noise)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_later_changes_to_the_policy_do_not_reach_an_engine(policy):
    own = copy.deepcopy(policy)
    inputs = inputs_of(1)
    for name in ("reference", "cached", "hoisted", "traced"):
        engine = build_engine(name, own, "cpu", "fp32")
        record(engine, inputs, 3)
        before = engine.plan(*inputs, 3).waypoints_in_ego
        randomize(own, seed=3)
        own.normalizer.high_m.mul_(2.0)
        assert np.array_equal(engine.plan(*inputs, 3).waypoints_in_ego, before), name
        own = copy.deepcopy(policy)


@pytest.mark.parametrize(
    "name, stages",
    [
        ("reference", ["denoise"]),
        ("cached", ["encode", "denoise"]),
        ("hoisted", ["encode", "hoist", "denoise"]),
        ("traced", ["encode", "hoist", "denoise"]),
        ("auto", ["encode", "hoist", "denoise"]),
    ],
)
def test_spans(policy, name, stages):
    engine, tracer = build_engine(name, policy, "cpu", "fp32"), Tracer()
    record(engine, inputs_of(1), 5)
    tracer.begin()
    engine.plan(*inputs_of(1), 5, tracer)
    trace = tracer.end()
    assert [span.name for span in trace.spans if span.parent is None] == stages
    assert [span.name for span in trace.spans if span.parent == "denoise"] == ["step"] * 5


def replace_features(**changes):
    def change(inputs):
        return dataclasses.replace(inputs[0], **changes), inputs[1], inputs[2]

    return change


@pytest.mark.parametrize(
    "change, steps, message",
    [
        (lambda i: (i[0], i[1], i[2][:, :5]), 10, r"noise has shape \(1, 5, 2\).*\(1, 6, 2\)"),
        (lambda i: (i[0], i[1], i[2][:0]), 10, "noise has shape"),
        (lambda i: (i[0], i[1], i[2].half()), 10, "noise is of torch.float16"),
        (lambda i: (i[0], i[1][:, :, :13], i[2]), 10, r"ego_status.*\(1, 4, 14\)"),
        (lambda i: (i[0], i[1].double(), i[2]), 10, "ego_status is of torch.float64"),
        (lambda i: (i[0], i[1].to("meta"), i[2]), 10, "ego_status is on meta.*expects cpu"),
        (replace_features(vl_tokens=torch.zeros(1, 11, 25)), 10, r"vl_tokens.*\(1, any, 24\)"),
        (replace_features(reasoning_tokens=torch.zeros(2, 3, 20)), 10, "reasoning_tokens"),
        (replace_features(observation_tokens=torch.zeros(1, 3, 16)), 10, "observation_tokens"),
        (replace_features(vl_mask=torch.ones(1, 10, dtype=torch.bool)), 10, r"vl_mask.*\(1, 11\)"),
        (replace_features(reasoning_mask=torch.ones(1, 4)), 10, "reasoning_mask.*torch.bool"),
        (lambda i: i, 0, r"1\.\.100"),
        (lambda i: i, 101, r"1\.\.100"),
        (lambda i: i, 10.0, r"1\.\.100"),
        (lambda i: (i[0], i[1] * float("nan"), i[2]), 10, "not finite"),
    ],
)
@pytest.mark.parametrize("name", ["hoisted", "traced", "auto"])
def test_wrong_calls_say_what_was_expected(policy, name, change, steps, message):
    engine = build_engine(name, policy, "cpu", "fp32")
    with pytest.raises(PlannerError, match=message):
        engine.plan(*change(inputs_of(1)), steps)
    if name == "auto":
        assert engine.label == "traced fp32 cpu"  # a caller's error is no reason to fall back


def test_wrong_builds_say_what_is_known(policy):
    with pytest.raises(PlannerError, match="Did you mean 'hoisted'"):
        build_engine("hoist", policy)
    with pytest.raises(PlannerError, match="Did you mean 'bf16'"):
        build_engine("auto", policy, "cpu", "bf61")
    with pytest.raises(PlannerError, match="no torch device"):
        build_engine("auto", policy, "gpu")
    with pytest.raises(PlannerError, match="fp32"):
        build_engine("reference", policy, "cpu", "bf16")
    if not torch.cuda.is_available():
        with pytest.raises(PlannerError, match="no CUDA"):
            build_engine("auto", policy, "cuda")


def test_a_closed_engine_refuses_and_closes_again(policy):
    for name in ("reference", "cached", "hoisted", "traced", "auto"):
        engine = build_engine(name, policy, "cpu", "fp32")
        engine.close()
        engine.close()
        with pytest.raises(PlannerError, match="closed"):
            engine.plan(*inputs_of(1), 10)


def test_falling_back_is_announced_once_and_recorded(policy, monkeypatch, caplog):
    inputs = inputs_of(1)
    want = plan(policy, "reference", inputs, dtype="fp32")
    engine = build_engine("auto", policy, "cpu", "fp32")

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("no room for the hoist")

    monkeypatch.setattr(hoisted.HoistedEngine, "_sample", out_of_memory)
    with caplog.at_level(logging.WARNING):
        plans = [engine.plan(*inputs, 10) for _ in range(3)]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and all("no room for the hoist" in text for text in said)  # traced, then hoisted
    for got in plans:
        assert got.engine.startswith("cached fp32 cpu (fell back from traced fp32 cpu: no room")
        assert rel_err(got.waypoints_in_ego, want, policy) < 1e-5


def test_an_engine_that_cannot_be_built_is_passed_over(policy, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("not implemented here")

    monkeypatch.setattr(hoisted.HoistedEngine, "__init__", broken)
    with caplog.at_level(logging.WARNING):
        engine = build_engine("auto", policy, "cpu", "fp32")
    assert "not implemented here" in caplog.text and engine.label.startswith("cached fp32 cpu (fell back")


def test_an_engine_that_breaks_while_warming_up_is_passed_over(policy, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("this torch records nothing")

    monkeypatch.setattr(torch.jit, "trace", broken)
    engine = build_engine("auto", policy, "cpu", "fp32")
    with caplog.at_level(logging.WARNING):
        record(engine, inputs_of(1), 10)
    assert "this torch records nothing" in caplog.text
    assert engine.plan(*inputs_of(1), 10).engine.startswith("hoisted fp32 cpu (fell back from traced")


@pytest.mark.parametrize(
    "inputs, steps, reason",
    [
        (inputs_of(1), 4, r"not warmed up for \(1, 11, 4, 4\)"),
        (inputs_of(2), 10, r"not warmed up for \(2, 11, 4, 10\)"),
        (inputs_of(1, padded=True), 10, "padded"),
    ],
)
def test_what_was_not_recorded_is_planned_all_the_same_and_said_once(policy, caplog, inputs, steps, reason):
    want = plan(policy, "hoisted", inputs, steps, "fp32")
    engine = build_engine("traced", policy, "cpu", "fp32")
    record(engine, inputs_of(1), 10)
    with caplog.at_level(logging.WARNING):
        assert not caplog.records
        for _ in range(2):
            np.testing.assert_array_equal(engine.plan(*inputs, steps).waypoints_in_ego, want)
    assert len(caplog.records) == 1 and re.search(reason, caplog.text)


def test_the_recording_is_what_runs(policy, monkeypatch):
    engine = build_engine("traced", policy, "cpu", "fp32")
    record(engine, inputs_of(1), 10, 5)

    def plain(*_):
        raise AssertionError("went through Python")

    monkeypatch.setattr(hoisted.HoistedEngine, "_stages_for", plain)
    for steps in (10, 5):
        engine.plan(*inputs_of(1), steps)


def test_without_packed_products_the_plan_is_the_same_and_it_is_said_once(policy, monkeypatch, caplog):
    def missing(*_):
        raise RuntimeError("no such operator")

    inputs = inputs_of(1)
    want = plan(policy, "reference", inputs, dtype="fp32")
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", missing)
    packed.packing_works.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for name in ("hoisted", "traced"):
                assert rel_err(plan(policy, name, inputs, dtype="fp32"), want, policy) < 1e-5
    finally:
        packed.packing_works.cache_clear()
    assert len(caplog.records) == 1 and "no such operator" in caplog.text


def test_warm_up_plans_at_the_counts_asked_for(policy, monkeypatch):
    engine = build_engine("hoisted", policy, "cpu", "fp32")
    engine.warm_up(n_vl=5, n_reasoning=2, batch=2, steps=(10, 5), runs=1)
    assert set(engine._schedules) == {10, 5}
