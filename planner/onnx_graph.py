"""A whole plan as one ONNX graph: encoder, hoist, and the denoising loop unrolled for one step count."""

from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from tickdrive.planner.diffusion import sample_schedule
from tickdrive.planner.engine import example_inputs
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.hoisted_attention import TwofoldDecoder, folded_decoder
from tickdrive.planner.hoisted_decoder import Conditions, FoldedDecoder
from tickdrive.planner.hoisted_encoder import FoldedEncoder
from tickdrive.planner.layers import time_embedding
from tickdrive.planner.packed import plain_products
from tickdrive.planner.policy import DiffusionPolicy

INPUT_NAMES = ("observation_tokens", "vl_tokens", "reasoning_tokens", "ego_status", "noise")
_OPSET = 17
_BLOCK = 32
_INT8_ACTIVATIONS = 4
"""ONNX Runtime's accuracy level at which activations are quantised too."""

Predict = Callable[[torch.Tensor], torch.Tensor]
"""Noisy trajectory to predicted noise, both (B, T, 2)."""


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
        conditions = self.decoder.hoist(memory, context, ego_status, self.times)
        flat = self._flat(noise)
        steps = self._predict_flat if flat else self._predict_whole
        trajectory = noise[0] if flat else noise
        levels = zip(self.schedule.alpha_bars, self.schedule.alpha_bars_next, steps(conditions), strict=True)
        for level, level_next, predict in levels:
            predicted = predict(trajectory)
            clean = (trajectory - math.sqrt(1.0 - level) * predicted) * (1.0 / math.sqrt(level))
            if self.clip:
                clean = clean.clamp(-1.0, 1.0)
            trajectory = math.sqrt(level_next) * clean + math.sqrt(1.0 - level_next) * predicted
        return trajectory[None] if flat else trajectory

    def _flat(self, noise: torch.Tensor) -> bool:
        return len(noise) == 1 and isinstance(self.decoder, TwofoldDecoder)

    def _predict_whole(self, conditions: Conditions) -> Iterator[Predict]:
        """Each step's network, any batch and decoder."""
        axes = (2, 1, 1, 1, 0)  # of the steps
        for step in range(len(self.times)):
            now = [part.select(axis, step) for part, axis in zip(conditions, axes, strict=True)]
            yield functools.partial(_call, self.decoder, now)

    def _predict_flat(self, conditions: Conditions) -> Iterator[Predict]:
        """Each step's network for a batch of one: what the steps need comes out of five splits.

        A runtime charges a microsecond for each view that torch gives for nothing; unbinding axis after axis
        they would be a third of the graph.
        """
        decoder, steps = self.decoder, len(self.times)
        width, layers = decoder.width, decoder.n_layer
        modulation, keys, key_bias, values, state = conditions
        parts = modulation[:, :, :, 0, 0].permute(2, 1, 0, 3).reshape(-1).split(width)
        rows = key_bias.shape[-1]
        by_step = [part[:, :, 0].transpose(0, 1) for part in (keys.transpose(-1, -2), key_bias, values)]
        key_rows, value_rows = (by_step[i].reshape(-1, width).split(rows) for i in (0, 2))
        biases = by_step[1].reshape(-1).split(rows)
        states = state[:, 0].split(1)

        def run(step: int, trajectory: torch.Tensor) -> torch.Tensor:
            tokens = decoder.embed(trajectory)
            for layer in range(layers):
                at = step * layers + layer
                given = parts[6 * at : 6 * at + 6]
                tokens = decoder.layer(
                    layer, tokens, given, key_rows[at].transpose(0, 1), biases[at], value_rows[at]
                )
            return decoder.head(tokens, states[step])

        for step in range(steps):
            yield functools.partial(run, step)


def _call(decoder: FoldedDecoder, now: Sequence[torch.Tensor], trajectory: torch.Tensor) -> torch.Tensor:
    return decoder.predict(trajectory, *now)


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
            cast(Any, out),  # this exporter writes to a file object as well
            input_names=list(INPUT_NAMES),
            output_names=["trajectory"],
            opset_version=_OPSET,
            dynamo=False,
        )
    return out.getvalue()


def quantise_products(model: bytes) -> bytes:
    """The same plan with INT8 products: weights and activations of 8 bits, a scale for each 32 of them.

    Raises:
        PlannerError: the extra `cpu-int8` is not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            MatMulNBitsQuantizer,
        )
    except ModuleNotFoundError as error:
        raise PlannerError(
            f"INT8 needs {error.name}, which is not installed.", "pip install 'tickdrive[cpu-int8]'."
        ) from error
    form = DefaultWeightOnlyQuantConfig(
        block_size=_BLOCK, is_symmetric=True, accuracy_level=_INT8_ACTIVATIONS, bits=8
    )
    quantiser = MatMulNBitsQuantizer(onnx.load_from_string(model), algo_config=form)
    quantiser.process()
    return quantiser.model.model.SerializeToString()
