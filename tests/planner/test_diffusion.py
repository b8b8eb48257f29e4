import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from tickdrive.planner.diffusion import (
    TrajectoryNormalizer,
    add_noise,
    alpha_bar_table,
    ddim_scheduler,
    ddpm_scheduler,
    sample_schedule,
)
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.network_config import PolicyConfig

CONFIG = PolicyConfig()
FULL = PolicyConfig(first_timestep=99)


def alpha_bar(t):
    """The schedule written out (Nichol and Dhariwal 2021, equation 17, beta capped at 0.999)."""

    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    return math.prod(1.0 - min(1.0 - f((i + 1) / 100) / f(i / 100), 0.999) for i in range(t + 1))


def predict(x, t):
    """Some noise prediction that depends on everything."""
    return torch.sin(3.0 * x + 0.05 * t) * 0.8


def run(scheduler, timesteps, indices, x):
    for t, index in zip(timesteps, indices, strict=True):
        x = scheduler.step(predict(x, t), index, x).prev_sample
    return x


def test_the_noise_schedule_is_the_formula():
    table = alpha_bar_table("squaredcos_cap_v2", 100)
    for t in (0, 1, 50, 98, 99):
        assert float(table[t]) == pytest.approx(alpha_bar(t), rel=1e-4)


def test_ten_steps_visit_evenly_from_the_noisiest_and_end_clean():
    schedule = sample_schedule(FULL, 10)
    assert schedule.timesteps == (99, 89, 79, 69, 59, 49, 39, 29, 19, 9)
    assert sample_schedule(CONFIG, 10).timesteps == (95, 85, 76, 66, 57, 47, 37, 28, 18, 9)
    assert schedule.alpha_bars_next[:-1] == schedule.alpha_bars[1:] and schedule.alpha_bars_next[-1] == 1.0


@pytest.mark.parametrize("config", [CONFIG, FULL])
def test_every_count_visits_distinct_falling_timesteps(config):
    for steps in range(1, 101):
        timesteps = sample_schedule(config, steps).timesteps
        assert len(timesteps) == steps
        assert all(a > b for a, b in itertools.pairwise(timesteps))
        assert timesteps[0] == max(config.first_timestep, steps - 1) and timesteps[-1] >= 0


@pytest.mark.parametrize("steps", [0, -1, 101, 2.0, "10", True])
def test_a_wrong_step_count_says_what_is_allowed(steps):
    with pytest.raises(PlannerError, match=r"1\.\.100"):
        sample_schedule(CONFIG, steps)


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 33, 60, 96, 100])
@pytest.mark.parametrize("config", [CONFIG, FULL])
def test_ddim_is_the_written_formula(config, steps):
    # Song et al. 2021, equation 12 with sigma 0, x0 clipped to the data's range
    x = torch.randn(2, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scheduler, schedule = ddim_scheduler(config, steps)
    got = run(scheduler, schedule.timesteps, range(steps - 1, -1, -1), x)
    ts = list(schedule.timesteps)
    for t, following in zip(ts, [*ts[1:], -1], strict=True):
        level, level_next = alpha_bar(t), alpha_bar(following) if following >= 0 else 1.0
        eps = predict(x, t)
        clean = ((x - math.sqrt(1 - level) * eps) / math.sqrt(level)).clamp(-1, 1)
        x = math.sqrt(level_next) * clean + math.sqrt(1 - level_next) * eps
    # diffusers keeps its betas in fp32
    torch.testing.assert_close(got, x, atol=2e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 100])
def test_ddim_equals_diffusers_own_spacing_where_that_is_right(steps):
    x = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own = DDIMScheduler(
        100,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=True,
        timestep_spacing="trailing",
        prediction_type="epsilon",
    )
    own.set_timesteps(steps)
    scheduler, schedule = ddim_scheduler(FULL, steps)
    assert list(schedule.timesteps) == own.timesteps.tolist()
    levels = torch.tensor(schedule.alpha_bars[::-1], dtype=torch.float64)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), levels, atol=0, rtol=1e-4)
    # Both in fp64: at t = 99 the rounding of fp32, another on each machine, is multiplied by 2,000.
    scheduler.alphas_cumprod = levels
    own.alphas_cumprod = alpha_bar_table("squaredcos_cap_v2", 100)
    want = run(own, own.timesteps.tolist(), own.timesteps.tolist(), x)
    torch.testing.assert_close(
        run(scheduler, schedule.timesteps, range(steps - 1, -1, -1), x), want, atol=1e-4, rtol=1e-4
    )


def test_ddpm_with_all_steps_is_diffusers_own():
    own = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=True, variance_type="fixed_small")
    own.set_timesteps(100)
    scheduler, schedule = ddpm_scheduler(CONFIG, 100)
    assert list(schedule.timesteps) == own.timesteps.tolist() == list(range(99, -1, -1))
    x = torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(2))
    results = []
    for sampler in (own, scheduler):
        generator, y = torch.Generator().manual_seed(3), x
        for t in range(99, -1, -1):
            y = sampler.step(predict(y, t), t, y, generator=generator).prev_sample
        results.append(y)
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)


def test_ddim_recovers_the_clean_trajectory_from_a_true_noise_oracle():
    clean = torch.rand(3, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 1.8 - 0.9
    for steps in (1, 5, 10, 13):
        scheduler, schedule = ddim_scheduler(CONFIG, steps)
        x = torch.randn(3, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        for index, level in zip(range(steps - 1, -1, -1), schedule.alpha_bars, strict=True):
            eps = (x - math.sqrt(level) * clean) / math.sqrt(1 - level)
            x = scheduler.step(eps, index, x).prev_sample
        torch.testing.assert_close(x, clean, atol=1e-9, rtol=0)


def test_the_first_step_is_well_conditioned():
    # 1 / sqrt(alpha_bar) multiplies the prediction's rounding
    assert 1 / math.sqrt(sample_schedule(CONFIG, 10).alpha_bars[0]) < 20
    assert 1 / math.sqrt(sample_schedule(FULL, 10).alpha_bars[0]) > 1000


def test_add_noise_is_diffusers_own():
    clean, noise = torch.randn(2, 5, 6, 2, generator=torch.Generator().manual_seed(6))
    t = torch.tensor([0, 3, 50, 98, 99])
    own = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2")
    torch.testing.assert_close(add_noise(CONFIG, clean, noise, t), own.add_noise(clean, noise, t))


def test_normalizer_maps_the_fitted_range_inside_one_and_back():
    trajectories = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6, 2)).astype(np.float32)) * 7
    trajectories[..., 1] *= 0.001  # a coordinate that hardly moves
    normalizer = TrajectoryNormalizer(6)
    normalizer.fit(trajectories)
    scaled = normalizer.normalize(trajectories)
    assert scaled.abs().max() <= 1.0 and scaled[..., 0].abs().max() > 0.85
    assert scaled[..., 1].abs().max() < 0.1  # not blown up
    torch.testing.assert_close(normalizer.denormalize(scaled), trajectories, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "bad", [torch.zeros(0, 6, 2), torch.zeros(3, 5, 2), torch.full((3, 6, 2), float("nan"))]
)
def test_normalizer_refuses_what_bounds_cannot_come_from(bad):
    with pytest.raises(PlannerError):
        TrajectoryNormalizer(6).fit(bad)
