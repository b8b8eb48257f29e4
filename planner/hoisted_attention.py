"""What the trajectory attends to in the hoisted engine, for each of the two kinds of decoder layer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.hoisted_decoder import FoldedDecoder
from tickdrive.planner.layers import (
    MERGED_MODULATION_PARTS,
    MODULATION_PARTS,
    NORM_EPS,
    Attention,
    DecoderLayer,
    MergedDecoderLayer,
    attend,
    head_rms,
)
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.packed import LayeredLinear, PackedLinear, weight_bytes


def folded_decoder(network: TransformerForDiffusion, dtype: torch.dtype) -> FoldedDecoder:
    """The decoder of a network, arranged for the hoist and the loop."""
    return (MergedDecoder if network.config.merged_attention else TwofoldDecoder)(network, dtype)


class TwofoldDecoder(FoldedDecoder):
    """Memory attends to the context, the trajectory to that memory: all of it hoisted but a thin product."""

    fold_q: torch.Tensor
    fold_q_bias: torch.Tensor
    fold_out: torch.Tensor
    out_bias_share: torch.Tensor

    def __init__(self, network: TransformerForDiffusion, dtype: torch.dtype) -> None:
        super().__init__(network, dtype)
        layers = [layer for layer in network.decoder if isinstance(layer, DecoderLayer)]
        memory = [layer.memory_attention for layer in layers]
        trajectory = [layer.trajectory_attention for layer in layers]
        heads, head_width = self.n_head, network.config.head_width
        self.n_memory = network.config.n_memory
        # memory <- context, all layers at once
        self.memory_q = LayeredLinear(
            [_normed_q(item) for item in memory], [item.q.bias for item in memory], dtype
        )
        self.context_k = self.join([(_normed_k(item), item.k.bias) for item in memory])
        self.context_v = self.join([(item.v.weight, item.v.bias) for item in memory])
        self.memory_out = LayeredLinear(
            [item.out.weight for item in memory], [item.out.bias for item in memory], dtype
        )
        # trajectory <- memory
        self.k = LayeredLinear(
            [_normed_k(item) for item in trajectory], [item.k.bias for item in trajectory], dtype
        )
        self.v = LayeredLinear(
            [item.v.weight for item in trajectory], [item.v.bias for item in trajectory], dtype
        )
        fold_q = torch.stack([_normed_q(item).view(heads, head_width, -1) for item in trajectory])
        self.keep("fold_q", fold_q)
        fold_q_bias = torch.stack([item.q.bias.view(heads, head_width) for item in trajectory])
        self.keep("fold_q_bias", fold_q_bias / math.sqrt(head_width))
        fold_out = [item.out.weight.t().reshape(heads, head_width, -1) for item in trajectory]
        self.keep("fold_out", torch.stack(fold_out))
        out_bias = torch.stack([item.out.bias for item in trajectory])
        self.keep("out_bias_share", out_bias[:, None, None, None] / heads)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""
        folded = self.n_memory * self.n_head
        read = self.n_layer * (6 * self.width + folded + 2 * folded * self.width) + self.width
        return steps * (weight_bytes(*self.loop_weights()) + batch * read * self.dtype.itemsize)

    def attend(
        self,
        index: int,
        tokens: torch.Tensor,
        slices: torch.Tensor,
        gate: torch.Tensor,
        keys: torch.Tensor,
        key_bias: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """See `FoldedDecoder.attend`."""
        scores = _product(key_bias, slices, keys)
        by_head, over = ((self.n_head, -1), -1) if torch.onnx.is_in_onnx_export() else ((-1, self.n_head), -2)
        weights = scores.view(*slices.shape[:-1], *by_head).softmax(dim=over).view(scores.shape)
        return _product(tokens, weights, values)

    def conditions(
        self,
        conditioning: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `FoldedDecoder.conditions`."""
        layers, heads, width = self.n_layer, self.n_head, self.width
        steps, batch = conditioning.shape[:2]
        tokens = memory.shape[1]
        modulation = self.modulation(F.silu(conditioning))
        modulation = modulation.view(steps, batch, layers, MODULATION_PARTS, 1, width)
        modulation = modulation.permute(3, 2, 0, 1, 4, 5).contiguous()
        seen = self.context_heads(context)
        updated = self.updated_memory(memory, *seen, modulation[:3], mask)
        key, value = self.trajectory_heads(updated)

        def arranged(folded: torch.Tensor) -> torch.Tensor:
            parts = folded.view(layers, heads, steps, batch, tokens, -1)
            if torch.onnx.is_in_onnx_export():  # a softmax over the last axis, each step's in one piece
                parts = parts.permute(2, 0, 3, 1, 4, 5).reshape(steps, layers, batch, tokens * heads, -1)
                return parts.transpose(0, 1)
            # M before H: a softmax over the middle axis runs across the heads' lanes at once
            return parts.permute(0, 2, 3, 4, 1, 5).reshape(layers, steps, batch, tokens * heads, -1)

        key_bias = arranged(torch.matmul(key, self.fold_q_bias[..., None])).transpose(-1, -2)
        keys = arranged(torch.matmul(key, self.fold_q))
        values = arranged(torch.matmul(value, self.fold_out))
        # a head's weights sum to 1: a share of the bias in each value adds up to the bias
        values = (values + self.out_bias_share) * modulation[5]
        return modulation[3:], keys.transpose(-1, -2), key_bias, values

    def context_heads(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (L B, H, N, d / H) of the context (B, N, d) for the memory's attention."""
        key = _by_layer(self, self.context_k(head_rms(context, self.n_head)))
        return key, _by_layer(self, self.context_v(context))

    def updated_memory(
        self,
        memory: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        modulation: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The memory of every layer and step.

        Args:
            memory: (B, M, d).
            key: of `context_heads`.
            value: likewise.
            modulation: (3, L, S, B, 1, d) shift, 1 + scale and gate of the memory's attention.
            mask: (B, N) of the context, or None.

        Returns:
            (L, S B M, d).
        """
        shift, scale, gate = modulation
        layers, heads, width = self.n_layer, self.n_head, self.width
        steps, (batch, tokens) = shift.shape[1], memory.shape[:2]
        normed = F.layer_norm(memory, (width,), eps=NORM_EPS)
        query = self.memory_q(head_rms(torch.addcmul(shift, normed, scale), heads).view(layers, -1, width))
        query = query.view(layers, steps, batch, tokens, heads, -1).permute(0, 2, 4, 1, 3, 5)
        query = query.reshape(layers * batch, heads, steps * tokens, -1)
        seen = _attend(query, key, value, None if mask is None else mask.repeat(layers, 1))
        seen = seen.view(layers, batch, heads, steps, tokens, -1).permute(0, 3, 1, 4, 2, 5)
        seen = self.memory_out(seen.reshape(layers, -1, width)).view(layers, steps, batch, tokens, width)
        return torch.addcmul(memory, gate, seen).reshape(layers, -1, width)

    def trajectory_heads(self, updated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (L, H, S B M, d / H), views, that the trajectory attends to.

        Args:
            updated: of `updated_memory`.
        """
        shape = (self.n_layer, -1, self.n_head, self.width // self.n_head)
        key = self.k(head_rms(updated, self.n_head)).view(shape).transpose(1, 2)
        return key, self.v(updated).view(shape).transpose(1, 2)


class MergedDecoder(FoldedDecoder):
    """One attention over memory and context: its keys and values depend on the layer alone.

    With hundreds of tokens to attend to, folding the query projection into every one of them would cost
    more than it saves: query and output projections stay in the loop.
    """

    def __init__(self, network: TransformerForDiffusion, dtype: torch.dtype) -> None:
        super().__init__(network, dtype)
        layers = [layer for layer in network.decoder if isinstance(layer, MergedDecoderLayer)]
        merged = [layer.attention for layer in layers]
        scale = 1.0 / math.sqrt(network.config.head_width)
        self.n_memory = network.config.n_memory
        self.k = self.join([(_normed_k(item), item.k.bias) for item in merged])
        self.v = self.join([(item.v.weight, item.v.bias) for item in merged])
        self.q = nn.ModuleList(PackedLinear(_normed_q(item), item.q.bias * scale, dtype) for item in merged)
        self.out = nn.ModuleList(PackedLinear.of(item.out, dtype) for item in merged)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""
        read = self.n_layer * self.width * (6 + 2 * (self.n_memory + n_context)) + self.width
        weights = weight_bytes(*self.loop_weights(), self.q, self.out)
        return steps * (weights + batch * read * self.dtype.itemsize)

    def attend(
        self,
        index: int,
        tokens: torch.Tensor,
        slices: torch.Tensor,
        gate: torch.Tensor,
        keys: torch.Tensor,
        key_bias: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """See `FoldedDecoder.attend`."""
        query = self.q[index](slices).unflatten(-1, (self.n_head, -1)).transpose(-2, -3)
        scores = query @ keys
        if key_bias.shape[-1]:
            scores = scores + (key_bias if key_bias.dim() == 1 else key_bias.unsqueeze(-3))
        seen = scores.softmax(dim=-1) @ values
        return torch.addcmul(tokens, gate, self.out[index](seen.transpose(-2, -3).flatten(-2)))

    def history_tokens(
        self,
        tokens: torch.Tensor,
        modulation: torch.Tensor,
        keys: torch.Tensor,
        key_bias: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """See `FoldedDecoder.history_tokens`: all steps' tokens are queries to the same keys."""
        steps, (batch, count, width) = modulation.shape[2], tokens.shape
        tokens = tokens.repeat(1, steps, 1)  # (B, S n, d)
        for index in range(self.n_layer):
            parts = modulation[:, index].transpose(1, 2).expand(-1, -1, -1, count, -1).flatten(2, 3)
            given = keys[index, 0], key_bias[index, 0], values[index, 0]
            tokens = self.layer(index, tokens, parts.unbind(0), *given)
        return tokens.view(batch, steps, count, width).transpose(0, 1).reshape(-1, count, width)

    def conditions(
        self,
        conditioning: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `FoldedDecoder.conditions`."""
        layers, width = self.n_layer, self.width
        steps, batch = conditioning.shape[:2]
        modulation = self.modulation(F.silu(conditioning))
        modulation = modulation.view(steps, batch, layers, MERGED_MODULATION_PARTS, 1, width)
        modulation = modulation.permute(3, 2, 0, 1, 4, 5).contiguous()
        seen = torch.cat((memory, context), dim=1)
        key = _by_layer(self, self.k(head_rms(seen, self.n_head))).unflatten(0, (layers, batch))
        value = _by_layer(self, self.v(seen)).unflatten(0, (layers, batch))
        bias = key.new_zeros(layers, batch, 1, 0)
        if mask is not None:
            mask = F.pad(mask, (memory.shape[1], 0), value=True)  # memory tokens are always real
            bias = key.new_zeros(mask.shape).masked_fill(~mask, -math.inf)[:, None].expand(layers, -1, -1, -1)
        # each step's are the same: no copy
        keys, key_bias, values = (
            part[:, None].expand(-1, steps, *part.shape[1:]) for part in (key.transpose(-1, -2), bias, value)
        )
        return modulation, keys, key_bias, values


def _by_layer(decoder: FoldedDecoder, tokens: torch.Tensor) -> torch.Tensor:
    """(B, N, L d) -> (L B, H, N, d_head); a view for a batch of one."""
    batch, count = tokens.shape[:2]
    tokens = tokens.view(batch, count, decoder.n_layer, decoder.n_head, -1).permute(2, 0, 3, 1, 4)
    return tokens.reshape(decoder.n_layer * batch, decoder.n_head, count, -1)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """`attend`, for a few dozen queries on the CPU without torch's fused form, which is slower there."""
    if query.is_cuda or mask is not None:
        return attend(query, key, value, mask)
    shape = query.shape
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    scale = 1.0 / math.sqrt(shape[-1])
    scores = torch.baddbmm(query.new_zeros(()), query, key.transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(scores.softmax(dim=-1), value).view(shape)


def _product(bias: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rows times weight plus bias, in one operation, with or without a batch axis."""
    return torch.addmm(bias, rows, weight) if rows.dim() == 2 else torch.baddbmm(bias, rows, weight)


def _normed_q(attention: Attention) -> torch.Tensor:
    """Query projection with its norm's weight folded in, (d_out, d_in)."""
    assert attention.q_norm is not None
    return attention.q.weight * attention.q_norm.weight.flatten()


def _normed_k(attention: Attention) -> torch.Tensor:
    """Key projection with its norm's weight folded in, (d_out, d_in)."""
    assert attention.k_norm is not None
    return attention.k.weight * attention.k_norm.weight.flatten()
