"""The engines that run the network step by step as it is written, with diffusers' scheduler."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tickdrive.planner.diffusion import SampleSchedule, ddim_scheduler
from tickdrive.planner.engine import Part, PlannerEngine, step_span
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.packed import weight_bytes
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features


class _StepwiseEngine(PlannerEngine):
    """What both have: the policy itself, and the scheduler as methods that a profile can watch."""

    _policy: DiffusionPolicy | None

    def parts(self) -> tuple[Part, ...]:
        """See `PlannerEngine.parts`."""
        return (
            *super().parts(),
            Part(self, "_scheduler", "scheduler set-up"),
            Part(self, "_advance", "scheduler"),
        )

    def _scheduler(self, steps: int) -> tuple[Any, SampleSchedule]:
        return ddim_scheduler(self.config, steps)

    def _advance(
        self, scheduler: Any, predicted: torch.Tensor, step: int, trajectory: torch.Tensor
    ) -> torch.Tensor:
        return scheduler.step(predicted, step, trajectory).prev_sample

    def _release(self) -> None:
        self._policy = None


class ReferenceEngine(_StepwiseEngine):
    """The study's own form: one whole forward a step, the encoder inside the loop, diffusers' scheduler."""

    name = "reference"

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(policy, device, dtype)
        if dtype not in (torch.float32, torch.float64):
            raise PlannerError(f"The reference engine was asked to run in {dtype}.", "It runs in fp32.")
        self._policy = _frozen_copy(policy, device, dtype)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""
        assert self._policy is not None
        return steps * weight_bytes(self._policy.network)

    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        assert self._policy is not None
        network = self._policy.network
        inputs = [
            tensor.to(self.dtype)
            for tensor in (
                features.observation_tokens,
                features.vl_tokens,
                features.reasoning_tokens,
                ego_status,
            )
        ]
        scheduler, schedule = self._scheduler(steps)
        trajectory = noise
        with tracer.span("denoise", str(self.device)):
            for index, t in enumerate(schedule.timesteps):
                with step_span(tracer, self.device):
                    time = torch.full((len(noise),), t, device=self.device)
                    predicted = network(trajectory, time, *inputs, features.vl_mask, features.reasoning_mask)
                    trajectory = self._advance(scheduler, predicted, steps - 1 - index, trajectory)
        return trajectory

    def parts(self) -> tuple[Part, ...]:
        """See `PlannerEngine.parts`."""
        assert self._policy is not None
        network = self._policy.network
        encoder = Part(network, "encode_conditions", "encoder block")
        return *super().parts(), encoder, *_network_parts(network, "forward")


class CachedEngine(_StepwiseEngine):
    """The study's plan A: conditions are encoded once, only the decoder runs in the loop."""

    name = "cached"

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(policy, device, dtype)
        self._policy = _frozen_copy(policy, device, dtype)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""
        assert self._policy is not None
        network = self._policy.network
        parts = (network.decoder, network.head, network.ego_status, network.trajectory, network.history)
        return steps * weight_bytes(*parts)

    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        policy = self._policy
        assert policy is not None
        device = str(self.device)
        with tracer.span("encode", device):
            encoded = policy.encode_conditions(features)
        scheduler, schedule = self._scheduler(steps)
        trajectory = noise
        with tracer.span("denoise", device):
            for index, t in enumerate(schedule.timesteps):
                with step_span(tracer, self.device):
                    time = torch.full((len(noise),), t, device=self.device)
                    predicted = policy.decode_trajectory(
                        trajectory, time, *encoded, ego_status, features.vl_mask, features.reasoning_mask
                    )
                    trajectory = self._advance(scheduler, predicted, steps - 1 - index, trajectory)
        return trajectory

    def parts(self) -> tuple[Part, ...]:
        """See `PlannerEngine.parts`."""
        assert self._policy is not None
        return *super().parts(), *_network_parts(self._policy.network, "decode_trajectory")


def _network_parts(network: TransformerForDiffusion, forward: str) -> tuple[Part, ...]:
    """The study's table: model forward and the parts of it."""
    return (
        Part(network, forward, "model forward"),
        Part(network.vl_pool, "forward", "VL projection and pooling"),
        Part(network.reasoning_pool, "forward", "reasoning projection and pooling"),
        Part(network, "encode_memory", "transformer encoder"),
        Part(network.ego_status, "forward", "ego status"),
        Part(network, "embed_time", "time embedding"),
        Part(network, "embed_input", "input embedding"),
        Part(network, "decode", "decoder"),
        *(Part(layer, "forward", f"layer {index + 1}") for index, layer in enumerate(network.decoder)),
        Part(network.head, "forward", "trajectory head"),
    )


def _frozen_copy(policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> DiffusionPolicy:
    return copy.deepcopy(policy).eval().requires_grad_(False).to(device=device, dtype=dtype)
