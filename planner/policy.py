"""`DiffusionPolicy`: network, scaling and diffusion together. It trains, samples, and is what is saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.checkpoint import read_document, read_weights, write_checkpoint
from tickdrive.planner.diffusion import TrajectoryNormalizer, add_noise, ddim_scheduler, ddpm_scheduler
from tickdrive.planner.errors import CheckpointError, ConfigError, PlannerError, did_you_mean
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.types import Features

FORMAT = "tickdrive-diffusion-policy"
VERSION = 1
LATER_KEYS = frozenset({"merged_attention"})
"""Keys of the configuration that came after the format: a checkpoint without one means its default."""
SAMPLERS = ("ddim", "ddpm")


@dataclass(frozen=True)
class TrainingBatch:
    """What `DiffusionPolicy.compute_loss` learns from.

    Attributes:
        features: (B, …) tokens; gradients flow into them.
        ego_status: (B, n_status, status_width), oldest first.
        trajectory_in_ego: (B, T, 2) metres, what the expert drove.
        weight: (B,) of each sample in the mean, or None for equal ones.
    """

    features: Features
    ego_status: torch.Tensor
    trajectory_in_ego: torch.Tensor
    weight: torch.Tensor | None = None


@dataclass(frozen=True)
class DiffusionLoss:
    """Result of `compute_loss`.

    Attributes:
        loss: scalar, weighted mean, with gradients.
        per_sample: (B,) detached mean squared error of the predicted noise.
    """

    loss: torch.Tensor
    per_sample: torch.Tensor


class DiffusionPolicy(nn.Module):
    """Plans a trajectory by denoising.

    Args:
        config: sizes and diffusion settings.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.network = TransformerForDiffusion(config)
        self.normalizer = TrajectoryNormalizer(config.horizon)
        # facts about the training that the checkpoint carries along
        self.metadata: dict[str, Any] = {}

    @property
    def dtype(self) -> torch.dtype:
        """The network's dtype."""
        return self.network.position.dtype

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.position.device

    def encode_conditions(self, features: Features) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Memory (B, M, d), VL features (B, N_vl, d), reasoning features (B, N_r, d); see the network's."""
        return self.network.encode_conditions(
            features.observation_tokens.to(self.dtype),
            features.vl_tokens.to(self.dtype),
            features.reasoning_tokens.to(self.dtype),
            features.vl_mask,
            features.reasoning_mask,
        )

    def decode_trajectory(
        self,
        trajectory: torch.Tensor,
        t: torch.Tensor,
        memory: torch.Tensor,
        vl_features: torch.Tensor,
        reasoning_features: torch.Tensor,
        ego_status: torch.Tensor,
        vl_mask: torch.Tensor | None = None,
        reasoning_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predicted noise (B, T, 2) in the dtype of the noisy normalised `trajectory`; see the network's."""
        prediction = self.network.decode_trajectory(
            trajectory.to(self.dtype),
            t,
            memory,
            vl_features,
            reasoning_features,
            ego_status.to(self.dtype),
            vl_mask,
            reasoning_mask,
        )
        return prediction.to(trajectory.dtype)

    def compute_loss(
        self,
        batch: TrainingBatch,
        noise: torch.Tensor | None = None,
        timesteps: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: int = 1,
    ) -> DiffusionLoss:
        """Mean squared error of the predicted noise (Ho et al. 2020, equation 14).

        Args:
            batch: samples.
            noise: (B * draws, T, 2); drawn where None.
            timesteps: (B * draws,) integer; drawn where None.
            generator: source of what is drawn, on the policy's device; None for torch's global one.
            draws: noisy versions of each sample. The encoder runs once for all of them, so that a few more
                cost little; sample b's stand at b * draws .. (b + 1) * draws - 1.

        Raises:
            PlannerError: a shape does not fit.
        """
        config = self.config
        shape = tuple(batch.trajectory_in_ego.shape)
        if len(shape) != 3 or shape[1:] != (config.horizon, 2):
            raise PlannerError(
                f"trajectory_in_ego has shape {shape}.", f"Give (B, {config.horizon}, 2) metres."
            )
        count = shape[0] * draws
        clean = self.normalizer.normalize(batch.trajectory_in_ego.float()).repeat_interleave(draws, dim=0)
        if noise is None:
            noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        if timesteps is None:
            timesteps = torch.randint(
                config.num_train_timesteps, (count,), generator=generator, device=clean.device
            )
        if noise.shape != clean.shape or tuple(timesteps.shape) != (count,):
            raise PlannerError(
                f"noise has shape {tuple(noise.shape)} and timesteps {tuple(timesteps.shape)}.",
                f"Give {tuple(clean.shape)} and {(count,)}.",
            )
        encoded = self.encode_conditions(batch.features)
        vl_mask, reasoning_mask = batch.features.vl_mask, batch.features.reasoning_mask
        status = batch.ego_status
        if draws > 1:
            encoded = tuple(part.repeat_interleave(draws, dim=0) for part in encoded)  # type: ignore[assignment]
            status = status.repeat_interleave(draws, dim=0)
            vl_mask = None if vl_mask is None else vl_mask.repeat_interleave(draws, dim=0)
            reasoning_mask = (
                None if reasoning_mask is None else reasoning_mask.repeat_interleave(draws, dim=0)
            )
        noisy = add_noise(config, clean, noise, timesteps)
        prediction = self.decode_trajectory(noisy, timesteps, *encoded, status, vl_mask, reasoning_mask)
        error = F.mse_loss(prediction, noise, reduction="none").mean(dim=(1, 2))
        per_sample = error.unflatten(0, (-1, draws)).mean(dim=1)
        if batch.weight is None:
            loss = per_sample.mean()
        else:
            loss = (per_sample * batch.weight).sum() / batch.weight.sum().clamp(min=1e-6)
        return DiffusionLoss(loss=loss, per_sample=per_sample.detach())

    @torch.no_grad()
    def conditional_sample(
        self,
        features: Features,
        ego_status: torch.Tensor,
        noise: torch.Tensor,
        steps: int | None = None,
        sampler: str = "ddim",
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Sample a plan with diffusers' schedulers; the encoder runs once.

        DDIM is deterministic (eta 0): the same noise gives the same plan. DDPM adds noise at each step, from
        `generator`. Call `eval()` first: dropout is left as the module's mode has it.

        Args:
            features: conditions.
            ego_status: (B, n_status, status_width), oldest first.
            noise: (B, T, 2) standard normal, fp32.
            steps: denoising steps; None for the config's `num_inference_steps` (DDPM: all of training's).
            sampler: `ddim` or `ddpm`.
            generator: for `ddpm`.

        Returns:
            (B, T, 2) waypoints in the ego frame, metres.

        Raises:
            PlannerError: an unknown sampler, or a step count out of range.
        """
        config = self.config
        if sampler == "ddim":
            scheduler, schedule = ddim_scheduler(
                config, config.num_inference_steps if steps is None else steps
            )
        elif sampler == "ddpm":
            scheduler, schedule = ddpm_scheduler(
                config, config.num_train_timesteps if steps is None else steps
            )
        else:
            raise PlannerError(f"There is no sampler {sampler!r}.", did_you_mean(sampler, SAMPLERS))
        encoded = self.encode_conditions(features)
        masks = (features.vl_mask, features.reasoning_mask)
        trajectory = noise if noise.dtype == torch.float64 else noise.float()
        extra = {"generator": generator} if sampler == "ddpm" else {}
        for index, t in zip(range(len(schedule.timesteps) - 1, -1, -1), schedule.timesteps, strict=True):
            time = torch.full((len(noise),), t, device=noise.device)
            prediction = self.decode_trajectory(trajectory, time, *encoded, ego_status, *masks)
            trajectory = scheduler.step(prediction, index, trajectory, **extra).prev_sample
        return self.normalizer.denormalize(trajectory)

    def save_pretrained(self, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Write `config.json` and `model.safetensors` into a folder, atomically.

        Args:
            folder: created where missing.
            metadata: JSON-able facts about the training; None for what the policy was loaded with.
        """
        facts = self.metadata if metadata is None else metadata
        write_checkpoint(folder, FORMAT, VERSION, dataclasses.asdict(self.config), self, facts)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> DiffusionPolicy:
        """Read a checkpoint, ready to plan (`eval` mode).

        Raises:
            CheckpointError: it is missing, damaged, of another version, or does not fit its network.
        """
        document = read_document(folder, FORMAT, VERSION)
        got = document["config"]
        known = {item.name for item in dataclasses.fields(PolicyConfig)}
        for key in got:
            if key not in known:
                raise CheckpointError(
                    f"{folder}: config has an unknown key {key!r}.", did_you_mean(key, known)
                )
        lacking = known - got.keys() - LATER_KEYS
        if lacking:
            raise CheckpointError(f"{folder}: config lacks {sorted(lacking)}.", "Fetch or train it again.")
        try:
            policy = cls(PolicyConfig(**got))
        except (ConfigError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: its config is not valid: {error}", "Fetch or train it again."
            ) from error
        read_weights(folder, document, policy)
        policy.metadata = dict(document["metadata"])
        return policy.to(device).eval()
