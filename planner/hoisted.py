"""The hoisted engine: the denoising loop keeps only what depends on the noisy trajectory. Exact algebra.

In this decoder a layer's memory (its attention to the VL and reasoning tokens and its gated residual),
the keys and values that the trajectory attends to, and all AdaLN parameters depend on the layer, the
timestep and the ego status, never on the noisy points. So they are one batched computation before the
loop, for all L layers and S timesteps. There is no self-attention, so the history tokens' path through
the layers belongs there too, and with it the head GRU's state after them. What is folded, and why it is
the same number:

* Query into keys. The query's norm acts on the attention input (`HeadRMSNorm`), so the projection behind
  it is linear: q . k = (W_q n + b_q) . k = n . (W_q^T k) + b_q . k. With M memory tokens that is M H rows
  per layer and step.
* Output and gate into values. g (sum_hj a_hj (W_o,h v_hj) + b_o) = sum_hj a_hj g (W_o,h v_hj + b_o / H),
  since each head's weights sum to 1. The residual is then the product's own addend.
* Norm weights into the projection behind them; the 1 / sqrt(d_head) of the scores cancels the RMSNorm's
  sqrt(d_head).

The encoder block is `tickdrive.planner.hoisted_encoder`, the decoder `tickdrive.planner.hoisted_decoder`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from tickdrive.planner.diffusion import SampleSchedule, sample_schedule
from tickdrive.planner.engine import Part, PlannerEngine, step_span
from tickdrive.planner.hoisted_attention import folded_decoder
from tickdrive.planner.hoisted_decoder import Conditions, FoldedDecoder
from tickdrive.planner.hoisted_encoder import FoldedEncoder
from tickdrive.planner.layers import time_embedding
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features


class Stages(NamedTuple):
    """The three parts of a plan, as functions.

    Attributes:
        encode: `FoldedEncoder.forward`.
        hoist: `FoldedDecoder.hoist`.
        predict: `FoldedDecoder.predict`.
    """

    encode: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
    hoist: Callable[..., Conditions]
    predict: Callable[..., torch.Tensor]


class HoistedEngine(PlannerEngine):
    """See the module's text."""

    name = "hoisted"

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(policy, device, dtype)
        self._encoder: FoldedEncoder | None = None
        self._decoder: FoldedDecoder | None = None
        self._schedules: dict[int, tuple[SampleSchedule, torch.Tensor]] = {}
        # folded in fp32 (or wider) before the cast, so that folding adds no rounding to a narrow dtype
        network = copy.deepcopy(policy.network).eval().requires_grad_(False).to(device, self.trajectory_dtype)
        self._arrange(network)

    def _arrange(self, network: TransformerForDiffusion) -> None:
        """Keep a network's weights as this engine runs them."""
        self._encoder = FoldedEncoder(network, self.dtype)
        self._decoder = folded_decoder(network, self.dtype)

    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        features = dataclasses.replace(
            features, vl_mask=_useful(features.vl_mask), reasoning_mask=_useful(features.reasoning_mask)
        )
        stages = self._stages_for(features, steps)
        device = str(self.device)
        with tracer.span("encode", device):
            tokens = (features.observation_tokens, features.vl_tokens, features.reasoning_tokens)
            memory, context, mask = stages.encode(*tokens, features.vl_mask, features.reasoning_mask)
        with tracer.span("hoist", device):
            schedule, times = self._schedule(steps)
            conditions = stages.hoist(memory, context, ego_status.to(self.dtype), times, mask)
        with tracer.span("denoise", device):
            return self._denoise(stages.predict, conditions, noise, schedule, tracer)

    def _stages_for(self, features: Features, steps: int) -> Stages:
        """What runs a plan of these shapes."""
        assert self._encoder is not None and self._decoder is not None
        return Stages(self._encoder, self._decoder.hoist, self._decoder.predict)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""
        assert self._decoder is not None
        return self._decoder.loop_bytes(batch, steps, n_context)

    def parts(self) -> tuple[Part, ...]:
        """See `PlannerEngine.parts`."""
        encoder, decoder = self._encoder, self._decoder
        assert encoder is not None and decoder is not None
        return (
            *super().parts(),
            Part(encoder.vl_pool, "forward", "VL projection and pooling"),
            Part(encoder.reasoning_pool, "forward", "reasoning projection and pooling"),
            Part(encoder, "encode_memory", "transformer encoder"),
            Part(decoder, "ego", "ego status"),
            Part(decoder, "conditions", "AdaLN and memory of all layers and steps"),
            Part(decoder, "history_state", "history tokens' path"),
            Part(decoder, "predict", "model forward"),
            Part(decoder, "embed", "input embedding"),
            Part(decoder, "layer", "layer {0}"),
            Part(decoder, "head", "trajectory head"),
            Part(self, "_advance", "scheduler"),
        )

    def _release(self) -> None:
        self._encoder = self._decoder = None

    def _schedule(self, steps: int) -> tuple[SampleSchedule, torch.Tensor]:
        """The schedule of a step count and the time embeddings (S, 1, d) of its timesteps."""
        if steps not in self._schedules:
            schedule = sample_schedule(self.config, steps)
            t = torch.tensor(schedule.timesteps, device=self.device)
            self._schedules[steps] = (
                schedule,
                time_embedding(t, self.config.n_emb, self.compute_dtype)[:, None],
            )
        return self._schedules[steps]

    def _denoise(
        self,
        predict: Callable[..., torch.Tensor],
        conditions: Conditions,
        noise: torch.Tensor,
        schedule: SampleSchedule,
        tracer: Tracer,
    ) -> torch.Tensor:
        """The loop: DDIM over the folded decoder."""
        trajectory = noise
        modulation, keys, key_bias, values, state = conditions
        given = (modulation.unbind(2), keys.unbind(1), key_bias.unbind(1), values.unbind(1), state.unbind(0))
        levels = zip(schedule.alpha_bars, schedule.alpha_bars_next, zip(*given, strict=True), strict=True)
        for level, level_next, now in levels:
            with step_span(tracer, self.device):
                predicted = predict(trajectory, *now)
                trajectory = self._advance(predicted, trajectory, level, level_next)
        return trajectory

    def _advance(
        self, predicted: torch.Tensor, trajectory: torch.Tensor, level: float, level_next: float
    ) -> torch.Tensor:
        """DDIM's step (Song et al. 2021, equation 12, sigma 0), from alpha_bar `level` to `level_next`."""
        clean = torch.sub(trajectory, predicted, alpha=math.sqrt(1.0 - level)).div_(math.sqrt(level))
        if self.config.clip_sample:
            clean.clamp_(-1.0, 1.0)
        return clean.mul_(math.sqrt(level_next)).add_(predicted, alpha=math.sqrt(1.0 - level_next))


def _useful(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask that masks nothing is none; looked at on the CPU only, where that costs no synchronisation."""
    return None if mask is not None and not mask.is_cuda and bool(mask.all()) else mask
