"""A whole plan as one ONNX graph: encoder, hoist, and the denoising loop unrolled for one step count."""

from __future__ import annotations

import io
import math
import warnings

import torch
from torch import nn

from tickdrive.planner.diffusion import sample_schedule
from tickdrive.planner.engine import example_inputs
from tickdrive.planner.hoisted_attention import folded_decoder
from tickdrive.planner.hoisted_encoder import FoldedEncoder
from tickdrive.planner.layers import time_embedding
from tickdrive.planner.packed import plain_products
from tickdrive.planner.policy import DiffusionPolicy

INPUT_NAMES = ("observation_tokens", "vl_tokens", "reasoning_tokens", "ego_status", "noise")
_OPSET = 17


class PlanGraph(nn.Module):
    """Conditioning tokens, ego status and noise to the denoised trajectory; nothing is masked.

    Args:
        policy: trained policy, on the CPU in fp32.
        steps: denoising steps.
    """

    times: torch.Tensor

    def __init__(self, policy: DiffusionPolicy, steps: int) -> None:
        super().__init__()
        network = policy.network
        with plain_products():
            self.encoder = FoldedEncoder(network, torch.float32)
            self.decoder = folded_decoder(network, torch.float32)
        self.schedule = sample_schedule(policy.config, steps)
        self.clip = policy.config.clip_sample
        t = torch.tensor(self.schedule.timesteps)
        times = time_embedding(t, policy.config.n_emb, torch.float32)[:, None]
        self.register_buffer("times", times)

    def forward(
        self,
        observation_tokens: torch.Tensor,
        vl_tokens: torch.Tensor,
        reasoning_tokens: torch.Tensor,
        ego_status: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """(B, T, 2) normalised trajectory."""
        memory, context, _ = self.encoder(observation_tokens, vl_tokens, reasoning_tokens)
        hoisted = self.decoder.hoist(memory, context, ego_status, self.times)
        axes = (2, 1, 1, 1, 0)  # of the steps
        trajectory = noise
        levels = zip(self.schedule.alpha_bars, self.schedule.alpha_bars_next, strict=True)
        for index, (level, level_next) in enumerate(levels):
            now = [part.select(axis, index) for part, axis in zip(hoisted, axes, strict=True)]
            predicted = self.decoder.predict(trajectory, *now)
            clean = (trajectory - math.sqrt(1.0 - level) * predicted) * (1.0 / math.sqrt(level))
            if self.clip:
                clean = clean.clamp(-1.0, 1.0)
            trajectory = math.sqrt(level_next) * clean + math.sqrt(1.0 - level_next) * predicted
        return trajectory


def export_plan(policy: DiffusionPolicy, batch: int, n_vl: int, n_reasoning: int, steps: int) -> bytes:
    """The ONNX model of a plan of these shapes.

    Args:
        policy: trained policy, on the CPU in fp32.
        batch: plans at once.
        n_vl: VL tokens, at least 1.
        n_reasoning: reasoning tokens, at least 1.
        steps: denoising steps.
    """
    graph = PlanGraph(policy, steps).eval().requires_grad_(False)
    features, status, noise = example_inputs(
        policy.config, batch, n_vl, n_reasoning, torch.device("cpu"), seed=0
    )
    given = (
        features.observation_tokens,
        features.vl_tokens,
        features.reasoning_tokens,
        status,
        noise,
    )
    out = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that shapes become constants is the point
        torch.onnx.export(
            graph,
            given,
            out,
            input_names=list(INPUT_NAMES),
            output_names=["trajectory"],
            opset_version=_OPSET,
            dynamo=False,
        )
    return out.getvalue()
