"""The decoder and head as the hoisted engine runs them: what goes before the loop, and what stays in it.

See `tickdrive.planner.hoisted` for the algebra. Shapes: L layers, S steps, B batch, M memory tokens,
N context tokens, T tokens, H heads, d width. The order (L, S, B, …) makes every [layer][step] a contiguous
block. A batch of one loses its axis in the loop: a LayerNorm then takes scale and shift along, and products
are plain.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.gru import FoldedGru
from tickdrive.planner.layers import MODULATION_PARTS, NORM_EPS, Attention, DecoderLayer, attend, head_rms
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.packed import LayeredLinear, PackedLinear


class Conditions(NamedTuple):
    """What the layers need besides the tokens, for all layers and steps.

    Attributes:
        modulation: (6, L, S, B, 1, d) AdaLN shift, 1 + scale and gate of attention and of feed-forward.
        keys: (L, S, B, d, M H) queries folded in; a transposed view.
        key_bias: (L, S, B, 1, M H).
        values: (L, S, B, M H, d) output projection folded in, but for its bias.
        state: (S, B, d) of the head's GRU after the history tokens.
    """

    modulation: torch.Tensor
    keys: torch.Tensor
    key_bias: torch.Tensor
    values: torch.Tensor
    state: torch.Tensor


class FoldedDecoder(nn.Module):
    """The weights of decoder, head and conditioning, arranged for the hoist and the loop.

    Args:
        network: in at least fp32, on its device.
        dtype: of the arranged weights.
    """

    fold_q: torch.Tensor
    fold_q_bias: torch.Tensor
    fold_out: torch.Tensor
    out_bias: torch.Tensor
    norm_floor: torch.Tensor
    history: torch.Tensor
    history_bias: torch.Tensor
    points: torch.Tensor
    points_bias: torch.Tensor

    def __init__(self, network: TransformerForDiffusion, dtype: torch.dtype) -> None:
        super().__init__()
        config = network.config
        self.n_layer, self.n_head, self.width = config.n_layer, config.n_head, config.n_emb
        self.dtype = dtype
        layers = [layer for layer in network.decoder if isinstance(layer, DecoderLayer)]
        memory = [layer.memory_attention for layer in layers]
        trajectory = [layer.trajectory_attention for layer in layers]
        heads, head_width = self.n_head, config.head_width

        def keep(name: str, tensor: torch.Tensor) -> None:
            self.register_buffer(name, tensor.to(dtype).contiguous())

        def join(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> PackedLinear:
            weights, biases = zip(*parts, strict=True)
            return PackedLinear(torch.cat(weights), torch.cat(biases), dtype)

        # conditioning
        self.status = PackedLinear.of(network.ego_status.current, dtype)
        self.status_gru = FoldedGru(network.ego_status.history, dtype)
        self.modulation = join([(layer.modulation.weight, _bias_and_one(layer)) for layer in layers])
        # memory <- context, all layers at once
        self.memory_q = LayeredLinear(
            [_normed_q(item) for item in memory], [item.q.bias for item in memory], dtype
        )
        self.context_k = join([(_normed_k(item), item.k.bias) for item in memory])
        self.context_v = join([(item.v.weight, item.v.bias) for item in memory])
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
        keep("fold_q", fold_q)
        fold_q_bias = torch.stack([item.q.bias.view(heads, head_width) for item in trajectory])
        keep("fold_q_bias", fold_q_bias / math.sqrt(head_width))
        fold_out = [item.out.weight.t().reshape(heads, head_width, -1) for item in trajectory]
        keep("fold_out", torch.stack(fold_out))
        keep("out_bias", torch.stack([item.out.bias for item in trajectory]))
        # loop
        self.up = nn.ModuleList(PackedLinear.of(layer.ffn.up, dtype, gelu=True) for layer in layers)
        self.down = nn.ModuleList(PackedLinear.of(layer.ffn.down, dtype) for layer in layers)
        keep("norm_floor", network.position.new_tensor(math.sqrt(head_width * NORM_EPS)))
        # input and head
        split = config.n_status
        keep("history", network.history.weight.t())
        keep("history_bias", network.position[0, :split] + network.segment[0] + network.history.bias)
        keep("points", network.trajectory.weight.t())
        keep("points_bias", network.position[0, split:] + network.segment[1] + network.trajectory.bias)
        self.input_norm = copy.deepcopy(network.input_norm).to(dtype)
        self.head_norm = copy.deepcopy(network.head.norm).to(dtype)
        self.head_initial = PackedLinear.of(network.head.initial, dtype)
        self.head_gru = FoldedGru(network.head.gru, dtype)
        self.head_out = copy.deepcopy(network.head.out).to(dtype)

    def hoist(
        self,
        memory: torch.Tensor,
        context: torch.Tensor,
        ego_status: torch.Tensor,
        times: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> Conditions:
        """Everything before the loop.

        Args:
            memory: (B, M, d).
            context: (B, N, d).
            ego_status: (B, n_status, status_width), oldest first.
            times: (S, 1, d) time embeddings.
            mask: (B, N) of the context, or None.
        """
        steps, batch = len(times), len(ego_status)
        conditioning = times + self._ego(ego_status)
        modulation, keys, key_bias, values = self._conditions(conditioning, memory, context, mask)
        # the history's path through the layers: all steps are one batch
        tokens = self.input_norm(ego_status @ self.history + self.history_bias)
        tokens = tokens.expand(steps, -1, -1, -1).flatten(0, 1)
        for index in range(self.n_layer):
            given = (modulation[:, index], keys[index], key_bias[index], values[index])
            parts = [part.flatten(0, 1) for part in (*given[0].unbind(0), *given[1:])]
            tokens = self._layer(index, tokens, parts[:6], *parts[6:])
        start = torch.tanh(self.head_initial(conditioning)).flatten(0, 1)
        state = self.head_gru(self.head_norm(tokens).transpose(0, 1), start)[-1].view(steps, batch, -1)
        return Conditions(modulation, keys, key_bias, values, state)

    def predict(
        self,
        trajectory: torch.Tensor,
        modulation: torch.Tensor,
        keys: torch.Tensor,
        key_bias: torch.Tensor,
        values: torch.Tensor,
        state: torch.Tensor,
    ) -> torch.Tensor:
        """One denoising step's network, from that step's `Conditions`.

        Args:
            trajectory: (B, T, 2) noisy normalised points.
            modulation: (6, L, B, 1, d).
            keys: (L, B, d, M H).
            key_bias: (L, B, 1, M H).
            values: (L, B, M H, d).
            state: (B, d).

        Returns:
            (B, T, 2) predicted noise.
        """
        single = len(trajectory) == 1
        tokens = self.input_norm(trajectory.to(self.dtype) @ self.points + self.points_bias)
        if single:
            tokens = tokens[0]
            modulation, key_bias = modulation[:, :, 0, 0], key_bias[:, 0, 0]
            keys, values = keys[:, 0], values[:, 0]
        layers = zip(modulation.unbind(1), keys.unbind(0), key_bias.unbind(0), values.unbind(0), strict=True)
        for index, (parts, *attended) in enumerate(layers):
            tokens = self._layer(index, tokens, parts.unbind(0), *attended)
        normed = self.head_norm(tokens)
        by_time = normed[:, None] if single else normed.transpose(0, 1)
        run = self.head_gru(by_time, state)
        run = run[:, 0] if single else run.transpose(0, 1)
        return self.head_out(normed + F.gelu(run)).to(trajectory.dtype).view(trajectory.shape)

    def _layer(
        self,
        index: int,
        tokens: torch.Tensor,
        modulation: Sequence[torch.Tensor],
        keys: torch.Tensor,
        key_bias: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """What is left of a decoder layer: (B, T, d) or, for a batch of one, (T, d), to the same.

        Args:
            index: of the layer.
            tokens: (B, T, d), or (T, d).
            modulation: as in `Conditions`, each (B, 1, d), or (d,).
            keys: (B, d, M H), or (d, M H).
            key_bias: (B, 1, M H), or (M H,).
            values: (B, M H, d), or (M H, d).
        """
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation
        shape = tokens.shape
        slices = _modulate(tokens, shift_a, scale_a).view(*shape[:-1], self.n_head, -1)
        # the slice's RMSNorm but for its sqrt(d_head), which cancels the scores' 1 / sqrt(d_head)
        norm = torch.hypot(torch.linalg.vector_norm(slices, dim=-1, keepdim=True), self.norm_floor)
        scores = _product(key_bias, (slices / norm).view(shape), keys)
        weights = scores.view(*shape[:-1], -1, self.n_head).softmax(dim=-2).view(scores.shape)
        tokens = torch.addcmul(tokens, gate_a, _product(self.out_bias[index], weights, values))
        out = self.down[index](self.up[index](_modulate(tokens, shift_f, scale_f)))
        return torch.addcmul(tokens, gate_f, out)

    def _ego(self, ego_status: torch.Tensor) -> torch.Tensor:
        """`EgoStatusEncoder`: (B, d)."""
        start = ego_status.new_zeros(len(ego_status), self.width)
        history = self.status_gru(ego_status.transpose(0, 1), start)[-1]
        return self.status(ego_status[:, -1]) + history

    def _conditions(
        self,
        conditioning: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """All but the state of `Conditions`.

        Args:
            conditioning: (S, B, d).
            memory: (B, M, d).
            context: (B, N, d).
            mask: (B, N), or None.
        """
        layers, heads, width = self.n_layer, self.n_head, self.width
        steps, batch = conditioning.shape[:2]
        tokens = memory.shape[1]
        modulation = self.modulation(F.silu(conditioning))
        modulation = modulation.view(steps, batch, layers, MODULATION_PARTS, 1, width)
        modulation = modulation.permute(3, 2, 0, 1, 4, 5).contiguous()
        shift, scale, gate = modulation[:3]
        # 1. memory <- context: (L, S, B, M, d)
        normed = F.layer_norm(memory, (width,), eps=NORM_EPS)
        query = self.memory_q(head_rms(torch.addcmul(shift, normed, scale), heads).view(layers, -1, width))
        query = query.view(layers, steps, batch, tokens, heads, -1).permute(0, 2, 4, 1, 3, 5)
        query = query.reshape(layers * batch, heads, steps * tokens, -1)
        key = self._context(self.context_k(head_rms(context, heads)))
        value = self._context(self.context_v(context))
        seen = _attend(query, key, value, None if mask is None else mask.repeat(layers, 1))
        seen = seen.view(layers, batch, heads, steps, tokens, -1).permute(0, 3, 1, 4, 2, 5)
        seen = self.memory_out(seen.reshape(layers, -1, width)).view(layers, steps, batch, tokens, width)
        updated = torch.addcmul(memory, gate, seen).view(layers, -1, width)
        # 2. keys and values for the trajectory, with query and output projections folded in
        key = self.k(head_rms(updated, heads)).view(layers, -1, heads, width // heads).transpose(1, 2)
        value = (
            self.v(updated).view(layers, -1, heads, width // heads).transpose(1, 2)
        )  # (L, H, S B M, d_head)
        # M before H: a softmax over the middle axis runs across the heads' lanes at once
        shape = (layers, steps, batch, tokens * heads)
        key_bias = torch.einsum("lhre,lhe->lrh", key, self.fold_q_bias).reshape(*shape[:3], 1, -1)
        keys = torch.einsum("lhre,lhed->lrhd", key, self.fold_q).reshape(*shape, width)
        values = torch.einsum("lhre,lhed->lrhd", value, self.fold_out).reshape(*shape, width)
        return modulation[3:], keys.transpose(-1, -2), key_bias, values

    def _context(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, L d) -> (L B, H, N, d_head); a view for a batch of one."""
        batch, count = tokens.shape[:2]
        tokens = tokens.view(batch, count, self.n_layer, self.n_head, -1).permute(2, 0, 3, 1, 4)
        return tokens.reshape(self.n_layer * batch, self.n_head, count, -1)


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


def _modulate(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """AdaLN, the scale being 1 + scale already."""
    if scale.dim() == 1:
        return F.layer_norm(tokens, scale.shape, scale, shift, NORM_EPS)
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS), scale)


def _product(bias: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Rows times weight plus bias, in one operation, with or without a batch axis."""
    return torch.addmm(bias, rows, weight) if rows.dim() == 2 else torch.baddbmm(bias, rows, weight)


def _bias_and_one(layer: DecoderLayer) -> torch.Tensor:
    """The modulation's bias, with the 1 of 1 + scale added."""
    bias = layer.modulation.bias.detach().view(MODULATION_PARTS, -1).clone()
    bias[1::3] += 1.0
    return bias.flatten()


def _normed_q(attention: Attention) -> torch.Tensor:
    """Query projection with its norm's weight folded in, (d_out, d_in)."""
    assert attention.q_norm is not None
    return attention.q.weight * attention.q_norm.weight.flatten()


def _normed_k(attention: Attention) -> torch.Tensor:
    """Key projection with its norm's weight folded in, (d_out, d_in)."""
    assert attention.k_norm is not None
    return attention.k.weight * attention.k_norm.weight.flatten()
