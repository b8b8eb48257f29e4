"""The diffusion process: schedules, the samplers, and the scaling of trajectories.

Equations are those of DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, equation 12) and DDPM (Ho et
al. 2020). In the code `alpha_bar` is diffusers' `alphas_cumprod`, DDIM's alpha_t. All arithmetic on the
trajectory is fp32 (fp64 where a test asks for it), whatever the network's dtype.

Which timesteps are visited
---------------------------
Sampling in n steps visits t_i = floor(N (n - i) / n + 1/2) - 1, i = 0..n-1, with N = `first_timestep` + 1:
diffusers' "trailing" spacing (Lin et al. 2023, https://arxiv.org/abs/2305.08891) of the first N timesteps.
It starts at the noisiest timestep, as pure noise demands ("leading" starts 10 steps of 100 at t = 90 and
one step at t = 0, where it would take pure noise for a nearly clean trajectory), and always ends in the
clean trajectory (alpha_bar = 1).

Two things are put right. diffusers steps from t to t - 100 // n, which is not the next timestep visited
unless n divides 100 (and for `linspace` not even then); here each scheduler is built on the *respaced*
process (Nichol and Dhariwal 2021), whose timesteps are 0..n-1, so that diffusers' own step is exact for
every count. And N is 96 rather than 100 by default: `squaredcos_cap_v2` ends in alpha_bar = 2.4e-7 (its
beta is capped at 0.999), where the clean trajectory read from a predicted noise, x0 = (x - sqrt(1 -
alpha_bar) eps) / sqrt(alpha_bar), is 2,000 times the prediction's error, clipped: the step decides nothing,
and in bf16 decides it differently. At t = 95 the factor is 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from tickdrive.planner.errors import PlannerError
from tickdrive.planner.network_config import PolicyConfig

MIN_RANGE_M = 0.5
"""A coordinate that hardly moves in the data is scaled by at least this range, so noise is not blown up."""


@dataclass(frozen=True)
class SampleSchedule:
    """The timesteps one sampling visits, and the noise levels there.

    Attributes:
        timesteps: training timesteps, noisiest first.
        alpha_bars: alpha_bar at each.
        alpha_bars_next: alpha_bar that each step leads to; the last is 1, the clean trajectory.
    """

    timesteps: tuple[int, ...]
    alpha_bars: tuple[float, ...]
    alpha_bars_next: tuple[float, ...]


@lru_cache(maxsize=16)
def alpha_bar_table(beta_schedule: str, num_train_timesteps: int) -> torch.Tensor:
    """(num_train_timesteps,) fp64 alpha_bar, from diffusers' betas."""
    scheduler: Any = DDPMScheduler(num_train_timesteps=num_train_timesteps, beta_schedule=beta_schedule)
    return torch.cumprod(1.0 - scheduler.betas.double(), dim=0)


def sample_schedule(config: PolicyConfig, steps: int, first_timestep: int | None = None) -> SampleSchedule:
    """The timesteps that `steps` denoising steps visit.

    Args:
        config: schedule and defaults.
        steps: 1..num_train_timesteps.
        first_timestep: noisiest one; None for the config's. More steps than it allows reach beyond it.

    Raises:
        PlannerError: a count out of range.
    """
    check_steps(config, steps)
    count = max((config.first_timestep if first_timestep is None else first_timestep) + 1, steps)
    timesteps = tuple(int(count * (steps - i) / steps + 0.5) - 1 for i in range(steps))
    table = alpha_bar_table(config.beta_schedule, config.num_train_timesteps)
    levels = tuple(float(table[t]) for t in timesteps)
    return SampleSchedule(timesteps, levels, (*levels[1:], 1.0))


def check_steps(config: PolicyConfig, steps: int) -> None:
    """Refuse a step count that cannot be run.

    Raises:
        PlannerError: it is no whole number in 1..num_train_timesteps.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= config.num_train_timesteps:
        raise PlannerError(
            f"{steps!r} denoising steps were asked for.",
            f"Give a whole number in 1..{config.num_train_timesteps}.",
        )


def ddim_scheduler(config: PolicyConfig, steps: int) -> tuple[Any, SampleSchedule]:
    """Diffusers' DDIM scheduler for the respaced process, deterministic (eta 0) by default.

    Its timesteps are `steps - 1 .. 0`; the network's are those of the returned schedule, in the same order.
    """
    schedule = sample_schedule(config, steps)
    scheduler = DDIMScheduler(
        num_train_timesteps=steps,
        trained_betas=_betas(schedule),
        clip_sample=config.clip_sample,
        prediction_type=config.prediction_type,
        set_alpha_to_one=True,
    )
    return _exact(scheduler, schedule, steps), schedule


def ddpm_scheduler(config: PolicyConfig, steps: int) -> tuple[Any, SampleSchedule]:
    """Diffusers' DDPM scheduler, the study's sampler (100 steps), over all training timesteps."""
    schedule = sample_schedule(config, steps, first_timestep=config.num_train_timesteps - 1)
    scheduler = DDPMScheduler(
        num_train_timesteps=steps,
        trained_betas=_betas(schedule),
        clip_sample=config.clip_sample,
        prediction_type=config.prediction_type,
        variance_type="fixed_small",
    )
    return _exact(scheduler, schedule, steps), schedule


def _betas(schedule: SampleSchedule) -> list[float]:
    rising = [1.0, *reversed(schedule.alpha_bars)]
    return [1.0 - rising[i + 1] / rising[i] for i in range(len(rising) - 1)]


def _exact(scheduler: Any, schedule: SampleSchedule, steps: int) -> Any:
    """Put the unrounded levels in: diffusers keeps fp32 ones, which would bound an fp64 parity at 1e-7."""
    scheduler.alphas_cumprod = torch.tensor(schedule.alpha_bars[::-1], dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    return scheduler


def add_noise(
    config: PolicyConfig, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise.

    Args:
        config: schedule.
        clean: (B, T, 2) normalised trajectory.
        noise: (B, T, 2), standard normal.
        timesteps: (B,) integer.
    """
    table = alpha_bar_table(config.beta_schedule, config.num_train_timesteps).to(clean.device)
    level = table[timesteps][:, None, None]
    return level.sqrt().to(clean.dtype) * clean + (1.0 - level).sqrt().to(clean.dtype) * noise


class TrajectoryNormalizer(nn.Module):
    """Min-max scaling of trajectories to [-1, 1], for each waypoint and coordinate.

    Bounds are kept per waypoint, since a plan's first waypoint spans a tenth of what its last one does. They
    are buffers in metres, and travel with the checkpoint.

    Args:
        horizon: waypoints.
    """

    low_m: torch.Tensor
    high_m: torch.Tensor

    def __init__(self, horizon: int) -> None:
        super().__init__()
        # before any data: up to 20 m/s ahead, and a turn of 5 m radius's worth to either side
        reach = torch.arange(1, horizon + 1, dtype=torch.float32)[:, None]
        self.register_buffer("low_m", reach * torch.tensor([-1.0, -5.0]))
        self.register_buffer("high_m", reach * torch.tensor([10.0, 5.0]))

    @torch.no_grad()
    def fit(self, trajectories_in_ego: torch.Tensor, margin: float = 0.05) -> None:
        """Take the bounds from data.

        Args:
            trajectories_in_ego: (N, T, 2) metres.
            margin: share of the range that is added at either end, so that the extremes are not on the clip.

        Raises:
            PlannerError: wrong shape, no trajectory, or a value that is not finite.
        """
        expected = tuple(self.low_m.shape)
        if (
            trajectories_in_ego.ndim != 3
            or tuple(trajectories_in_ego.shape[1:]) != expected
            or not len(trajectories_in_ego)
        ):
            raise PlannerError(
                f"Bounds were to be fitted to trajectories of shape {tuple(trajectories_in_ego.shape)}.",
                f"Give (N, {expected[0]}, 2) with N of at least 1.",
            )
        if not torch.isfinite(trajectories_in_ego).all():
            raise PlannerError(
                "A trajectory that bounds were to be fitted to is not finite.", "Mend the recording."
            )
        low, high = trajectories_in_ego.amin(0).float(), trajectories_in_ego.amax(0).float()
        grow = (MIN_RANGE_M - (high - low)).clamp(min=0.0) / 2 + margin * (high - low)
        self.low_m.copy_(low - grow)
        self.high_m.copy_(high + grow)

    def normalize(self, trajectory_in_ego: torch.Tensor) -> torch.Tensor:
        """(B, T, 2) metres -> about [-1, 1], fp32 or wider."""
        low, high = self._bounds(trajectory_in_ego)
        return 2.0 * (trajectory_in_ego - low) / (high - low) - 1.0

    def denormalize(self, trajectory: torch.Tensor) -> torch.Tensor:
        """(B, T, 2) in [-1, 1] -> metres."""
        low, high = self._bounds(trajectory)
        return (trajectory + 1.0) / 2.0 * (high - low) + low

    def _bounds(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.low_m.to(like.dtype), self.high_m.to(like.dtype)
