"""The encoder block with its transformer on our own kernels: five launches a layer."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from tickdrive.planner.fused_decoder import Side
from tickdrive.planner.fused_ops import (
    FoldedNorm,
    Launch,
    Stream,
    Weights,
    normed,
    product,
    product_onto,
    self_attend,
)
from tickdrive.planner.hoisted_encoder import FoldedEncoder
from tickdrive.planner.layers import EncoderLayer
from tickdrive.planner.network import TransformerForDiffusion, at_least_one, join_context
from tickdrive.planner.types import Features


class FusedEncoder(FoldedEncoder):
    """Features to memory and context.

    Args:
        network: in at least fp32, on its device.
        dtype: of the arranged weights.
        launch: how kernels are launched.
    """

    def __init__(self, network: TransformerForDiffusion, dtype: torch.dtype, launch: Launch) -> None:
        super().__init__(network, dtype)
        self.launch = launch
        self.n_head = network.config.n_head
        layers = [layer for layer in network.encoder if isinstance(layer, EncoderLayer)]
        self.blocks = [_Block(layer, dtype) for layer in layers]
        self.layers = nn.ModuleList()  # kept once, as above
        ffn = network.memory_mlp
        self.memory_up = Weights.of(ffn.up.weight, ffn.up.bias, dtype)
        self.memory_down = Weights.of(ffn.down.weight, ffn.down.bias, dtype)

    def read(
        self, features: Features, side: Side
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What comes before the transformer.

        Args:
            features: of this engine's dtype.
            side: stream for the reasoning tokens; joined.

        Returns:
            Observation tokens; pooled VL and reasoning token (B, 1, d); context (B, N, d) and its mask.
        """
        with side.run():
            tokens, reasoning_mask = at_least_one(features.reasoning_tokens, features.reasoning_mask)
            reasoning_features, reasoning = self.reasoning_pool(tokens, reasoning_mask)
        tokens, vl_mask = at_least_one(features.vl_tokens, features.vl_mask)
        vl_features, vl = self.vl_pool(tokens, vl_mask)
        side.join()
        context, mask = join_context(vl_features, reasoning_features, vl_mask, reasoning_mask)
        return features.observation_tokens, vl, reasoning, context, mask

    def encode_memory(
        self, observation_tokens: torch.Tensor, vl: torch.Tensor, reasoning: torch.Tensor
    ) -> torch.Tensor:
        """See `FoldedEncoder.encode_memory`."""
        launch = self.launch
        observed = self.observation(observation_tokens)
        tokens = torch.cat((observed, vl, reasoning), dim=1) + self.position
        shape = tokens.shape
        stream = normed(tokens.float().flatten(0, 1), None, self.memory_norm, self.dtype, launch)
        for block in self.blocks:
            stream = block.run(stream, shape[1], self.n_head, launch)
        stream = normed(stream.tokens, None, self.norm, self.dtype, launch)
        hidden = product(stream.narrow, self.memory_up, launch, gelu=True)
        return product_onto(hidden, self.memory_down, stream.tokens, launch).narrow.view(shape)


class _NormedLinear:
    """A LayerNorm folded into the linear layer behind it: the same for all rows."""

    def __init__(
        self, norm: nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
    ) -> None:
        weight, bias = weight.detach(), bias.detach()
        self.weights = Weights.of(weight * norm.weight.detach(), bias, dtype)
        # of the weights as they are rounded: what is subtracted is what was added
        fold = self.weights.weight.float().sum(1)
        bias = bias.float() + weight.float() @ norm.bias.detach().float()
        self.norm = FoldedNorm(fold[None], bias[None], norm.eps, group=1)

    def __call__(self, stream: Stream, launch: Launch, gelu: bool = False) -> torch.Tensor:
        norm = dataclasses.replace(self.norm, group=len(stream.tokens))
        return product(stream.narrow, self.weights, launch, (norm, stream.stats), gelu)


class _Block:
    """`EncoderLayer`."""

    def __init__(self, layer: EncoderLayer, dtype: torch.dtype) -> None:
        attention = layer.attention
        parts = (attention.q, attention.k, attention.v)
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        self.qkv = _NormedLinear(layer.attention_norm, weight, bias, dtype)
        self.out = Weights.of(attention.out.weight, attention.out.bias, dtype)
        self.up = _NormedLinear(layer.ffn_norm, layer.ffn.up.weight, layer.ffn.up.bias, dtype)
        self.down = Weights.of(layer.ffn.down.weight, layer.ffn.down.bias, dtype)

    def run(self, stream: Stream, n_tokens: int, n_head: int, launch: Launch) -> Stream:
        """(B M, d) -> the same."""
        seen = self_attend(self.qkv(stream, launch), n_tokens, n_head, launch)
        stream = product_onto(seen, self.out, stream.tokens, launch)
        return product_onto(self.up(stream, launch, gelu=True), self.down, stream.tokens, launch)
