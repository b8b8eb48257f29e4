import dataclasses

import pytest
import torch

from tickdrive.planner.engine import example_inputs
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy, TrainingBatch
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.types import Features

TINY = PolicyConfig(
    n_emb=32, n_head=4, n_layer=2, n_encoder_layer=1, vl_width=24, reasoning_width=20, observation_width=16
)
CPU = torch.device("cpu")


def tiny_policy():
    return randomize(DiffusionPolicy(TINY)).eval()


def batch_of(count, seed=0):
    features, status, noise = example_inputs(TINY, count, 5, 3, CPU, seed)
    return TrainingBatch(features, status, noise * 3.0)


def test_loss_is_the_mean_squared_error_of_the_noise():
    policy, batch = tiny_policy(), batch_of(4)
    noise = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 20, 60, 99])
    clean = policy.normalizer.normalize(batch.trajectory_in_ego)
    from tickdrive.planner.diffusion import add_noise

    predicted = policy.network(
        add_noise(TINY, clean, noise, t),
        t,
        batch.features.observation_tokens,
        batch.features.vl_tokens,
        batch.features.reasoning_tokens,
        batch.ego_status,
    )
    want = (predicted - noise).square().mean(dim=(1, 2))
    got = policy.compute_loss(batch, noise=noise, timesteps=t)
    torch.testing.assert_close(got.per_sample, want.detach())
    torch.testing.assert_close(got.loss, want.mean())
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0])
    weighted = policy.compute_loss(dataclasses.replace(batch, weight=weights), noise=noise, timesteps=t)
    torch.testing.assert_close(weighted.loss, (want * weights).sum() / 4.0)


def test_several_draws_are_the_mean_of_single_ones():
    policy, batch = tiny_policy(), batch_of(3)
    noise = torch.randn(6, 6, 2, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([5, 95, 40, 41, 0, 70])
    both = policy.compute_loss(batch, noise=noise, timesteps=t, draws=2).per_sample
    single = [policy.compute_loss(batch, noise=noise[i::2], timesteps=t[i::2]).per_sample for i in (0, 1)]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_loss_draws_reproducibly_from_a_generator_and_reaches_the_features():
    policy, batch = tiny_policy(), batch_of(3)
    losses = [
        policy.compute_loss(batch, generator=torch.Generator().manual_seed(s)).loss.item() for s in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]
    tokens = batch.features.vl_tokens.clone().requires_grad_(True)
    features = dataclasses.replace(batch.features, vl_tokens=tokens)
    policy.compute_loss(dataclasses.replace(batch, features=features)).loss.backward()
    assert tokens.grad is not None and tokens.grad.abs().sum() > 0


def test_a_wrong_trajectory_or_noise_shape_is_refused():
    policy, batch = tiny_policy(), batch_of(2)
    with pytest.raises(PlannerError, match="trajectory_in_ego"):
        policy.compute_loss(dataclasses.replace(batch, trajectory_in_ego=torch.zeros(2, 5, 2)))
    with pytest.raises(PlannerError, match="noise has shape"):
        policy.compute_loss(batch, noise=torch.zeros(3, 6, 2))


def test_ddim_is_deterministic_and_depends_on_the_noise():
    policy = tiny_policy()
    features, status, noise = example_inputs(TINY, 2, 5, 3, CPU, 0)
    first = policy.conditional_sample(features, status, noise)
    assert torch.equal(first, policy.conditional_sample(features, status, noise, steps=10))
    assert not torch.allclose(first, policy.conditional_sample(features, status, noise + 0.5), atol=1e-3)
    assert first.shape == (2, 6, 2) and first.dtype == torch.float32


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_any_step_count_samples(steps):
    policy = tiny_policy()
    features, status, noise = example_inputs(TINY, 1, 5, 3, CPU, 0)
    assert torch.isfinite(policy.conditional_sample(features, status, noise, steps=steps)).all()


def test_ddpm_takes_all_steps_and_its_noise_from_the_generator():
    policy = tiny_policy()
    features, status, noise = example_inputs(TINY, 1, 5, 3, CPU, 0)
    calls = []
    policy.network.head.register_forward_hook(lambda *_: calls.append(1))

    def sample(seed):
        return policy.conditional_sample(
            features, status, noise, sampler="ddpm", generator=torch.Generator().manual_seed(seed)
        )

    first = sample(0)
    assert len(calls) == 100
    assert torch.equal(first, sample(0)) and not torch.equal(first, sample(1))
    with pytest.raises(PlannerError, match="Did you mean 'ddpm'"):
        policy.conditional_sample(features, status, noise, sampler="dpm")


def test_the_encoder_runs_once_a_sample():
    policy, calls = tiny_policy(), []
    policy.network.vl_pool.register_forward_hook(lambda *_: calls.append(1))
    features, status, noise = example_inputs(TINY, 1, 5, 3, CPU, 0)
    policy.conditional_sample(features, status, noise, steps=10)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_networks_keep_the_trajectory_in_fp32(dtype):
    policy = tiny_policy()
    features, status, noise = example_inputs(TINY, 2, 5, 3, CPU, 0)
    want = policy.conditional_sample(features, status, noise)
    policy.network.to(dtype)
    got = policy.conditional_sample(features, status, noise)
    assert got.dtype == torch.float32
    center = (policy.normalizer.low_m + policy.normalizer.high_m) / 2
    assert (got - want).norm() / (want - center).norm() < 0.05


def test_a_tiny_network_learns_two_conditioned_trajectories():
    # a VL token alone tells the two apart: conditions, network, diffusion and sampler all have to work
    torch.manual_seed(0)
    policy = DiffusionPolicy(dataclasses.replace(TINY, p_drop_attn=0.0)).train()
    time_s = torch.arange(1, 7)[:, None] * 0.5
    targets = torch.stack((time_s * torch.tensor([8.0, 1.0]), time_s * torch.tensor([4.0, -2.0])))
    policy.normalizer.fit(targets, margin=0.2)
    vl = torch.zeros(2, 4, 24)
    vl[0, 1], vl[1, 1] = 1.0, -1.0
    features = Features(vl, torch.zeros(2, 3, 20), torch.zeros(2, 4, 16))
    batch = TrainingBatch(features, torch.zeros(2, 4, 14), targets)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=250)
    losses = []
    for _ in range(250):
        loss = policy.compute_loss(batch, draws=16).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.25 * sum(losses[:20])
    policy.eval()
    noise = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(9))
    for steps, bound_m in ((10, 1.0), (5, 1.0), (2, 1.5)):
        off_m = (policy.conditional_sample(features, batch.ego_status, noise, steps=steps) - targets).norm(
            dim=-1
        )
        assert off_m.mean() < bound_m, (steps, off_m)
