"""Random weights mean something: every branch weighs, and whatever is corrupted shows in every engine."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from tickdrive.planner.engine import build_engine, example_inputs
from tickdrive.planner.network_config import PolicyConfig, preset
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import branch_shares, randomize

CPU = torch.device("cpu")
ENGINES = ("cached", "hoisted", "traced")
STEPS = 2
TOKENS = (11, 4)
FP32_BOUND = 1e-5
TWOFOLD = PolicyConfig(
    n_emb=48, n_head=4, n_layer=2, n_encoder_layer=2, vl_width=24, reasoning_width=20, observation_width=16
)
MERGED = dataclasses.replace(TWOFOLD, merged_attention=True)
ATTENTION = {
    TWOFOLD: ("memory_attention", "trajectory_attention"),
    MERGED: ("attention",),
}
SHARED = (
    "ego_status.current",
    "ego_status.history",
    "vl_pool.projection",
    "vl_pool.attention.k",
    "reasoning_pool.norm",
    "reasoning_pool.attention.v",
    "observation",
    "encoder.0.attention.out",
    "encoder.1.ffn.down",
    "memory_mlp.down",
    "trajectory",
    "history",
    "input_norm",
    "head.initial",
    "head.gru",
    "head.out",
)


def parts_of(config):
    projections = ("q", "q_norm", "k", "k_norm", "v", "out")
    own = [f"{name}.{part}" for name in ATTENTION[config] for part in projections]
    own += ["ffn.up", "ffn.down", "modulation"]
    return [f"decoder.{layer}.{part}" for layer in range(config.n_layer) for part in own] + list(SHARED)


@pytest.fixture(scope="module")
def policies():
    return {config: randomize(DiffusionPolicy(config)).eval() for config in (TWOFOLD, MERGED)}


@pytest.fixture(scope="module")
def inputs():
    return example_inputs(TWOFOLD, 2, *TOKENS, CPU, seed=5)


def warm(name, policy):
    engine = build_engine(name, policy, "cpu", "fp32")
    engine.warm_up(*TOKENS, 2, (STEPS,), runs=1)
    return engine


def plan(engine, inputs):
    return engine.plan(*inputs, STEPS).waypoints_in_ego


def rel_err(got, want, policy):
    center = ((policy.normalizer.low_m + policy.normalizer.high_m) / 2).numpy()
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - center))


@pytest.mark.parametrize(
    "name",
    ["compact", "compact+merged_attention=true", "light", "medium", "seed", "seed+merged_attention=true"],
)
def test_every_branch_weighs_at_least_a_tenth_of_its_residual(name):
    policy = randomize(DiffusionPolicy(preset(name))).eval()
    config = policy.config
    tokens = (512, 7) if config.vl_width == 2560 else (192, 7)
    for timestep, seed in ((95, 1), (5, 2)):
        shares = branch_shares(policy, example_inputs(config, 1, *tokens, CPU, seed), timestep)
        branches = (2 if config.merged_attention else 3) * config.n_layer + 2 * config.n_encoder_layer
        assert len(shares) == branches + 3 + 6 + 2  # conditioning, embeddings, memory MLP and head
        assert min(shares.values()) >= 0.1, sorted(shares.items(), key=lambda item: item[1])[:3]
        assert max(shares.values()) < 3.0  # and none drowns the rest


@torch.no_grad()
def layer_sizes(policy, inputs):
    sizes = []
    hooks = [
        module.register_forward_hook(lambda *call: sizes.append(float(call[2].std())))
        for module in policy.network.decoder
    ]
    features, status, trajectory = inputs
    encoded = policy.encode_conditions(features)
    policy.decode_trajectory(trajectory, torch.tensor([95, 95]), *encoded, status)
    for hook in hooks:
        hook.remove()
    return sizes


def test_every_parameter_is_drawn_and_activations_stay_near_1(policies, inputs):
    for config, policy in policies.items():
        before = DiffusionPolicy(config)
        with torch.no_grad():
            for parameter in before.network.parameters():
                parameter.fill_(torch.nan)
        drawn = randomize(before)
        assert all(torch.isfinite(parameter).all() for parameter in drawn.network.parameters())
        assert all(parameter.std() > 0.01 for parameter in drawn.network.parameters())
        sizes = layer_sizes(policy, inputs)
        assert len(sizes) == config.n_layer and all(0.3 < size < 4.0 for size in sizes)


@pytest.mark.parametrize("config", [TWOFOLD, MERGED], ids=["twofold", "merged"])
@pytest.mark.parametrize("name", ENGINES)
def test_corrupting_any_part_fails_parity(policies, inputs, name, config):
    policy = policies[config]
    want = plan(build_engine("reference", policy, "cpu", "fp32"), inputs)
    assert rel_err(plan(warm(name, policy), inputs), want, policy) < FP32_BOUND
    for part in parts_of(config):
        broken = copy.deepcopy(policy)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in broken.network.get_submodule(part).parameters():
                # not a mere scaling, which a norm behind it would undo
                parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
        assert rel_err(plan(warm(name, broken), inputs), want, policy) > 20 * FP32_BOUND, part


@pytest.mark.parametrize("config", [TWOFOLD, MERGED], ids=["twofold", "merged"])
@pytest.mark.parametrize("name", ENGINES)
def test_leaving_any_branch_out_fails_parity(policies, inputs, name, config):
    policy = policies[config]
    want = plan(build_engine("reference", policy, "cpu", "fp32"), inputs)
    branches = 2 if config.merged_attention else 3
    for layer in range(config.n_layer):
        for branch in range(branches):
            broken = copy.deepcopy(policy)
            modulation = broken.network.decoder[layer].modulation
            gate = slice((3 * branch + 2) * config.n_emb, (3 * branch + 3) * config.n_emb)
            with torch.no_grad():
                modulation.weight[gate] = 0.0
                modulation.bias[gate] = 0.0
            error = rel_err(plan(warm(name, broken), inputs), want, policy)
            assert error > 100 * FP32_BOUND, (layer, branch)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("step", range(STEPS))
def test_corrupting_any_timestep_fails_parity(policies, inputs, name, step):
    policy = policies[TWOFOLD]
    engine = warm(name, policy)
    if name == "cached":
        scheduler, schedule = engine._scheduler(STEPS)
        times = list(schedule.timesteps)
        times[step] = times[(step + 1) % STEPS]
        wrong = dataclasses.replace(schedule, timesteps=tuple(times))
        engine._scheduler = lambda steps: (scheduler, wrong)
    else:
        _, embedded = engine._schedule(STEPS)
        with torch.inference_mode():  # where the engine made it
            embedded[step] = embedded[(step + 1) % STEPS].clone()
    want = plan(build_engine("reference", policy, "cpu", "fp32"), inputs)
    assert rel_err(plan(engine, inputs), want, policy) > 20 * FP32_BOUND
