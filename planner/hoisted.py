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
* Output into values. out = sum_hj a_hj (W_o,h v_hj) + b_o.
* Norm weights into the projection behind them; the 1 / sqrt(d_head) of the scores cancels the RMSNorm's
  sqrt(d_head).
* GELU's constants: with u = x / sqrt(2), gelu(x) = (u + u erf(u)) / sqrt(2), so they go into the
  projections around it.
* The pooling query is a constant: it folds into the key projection, and the values are projected after
  pooling.

Shapes below: L layers, S steps, B batch, M memory tokens, N context tokens, T tokens, H heads, d width.
The order (L, S, B, …) makes every [layer][step] a contiguous block.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.diffusion import SampleSchedule, sample_schedule
from tickdrive.planner.engine import PlannerEngine, _step_span
from tickdrive.planner.layers import (
    MODULATION_PARTS,
    NORM_EPS,
    Attention,
    DecoderLayer,
    TokenPool,
    attend,
    head_rms,
    time_embedding,
)
from tickdrive.planner.network import TransformerForDiffusion, _at_least_one, join_context
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features


@dataclass(frozen=True)
class LayerConditions:
    """What one decoder layer needs besides the tokens, at one step (or at all of them, flattened).

    Attributes:
        shift_a: (B, 1, d) AdaLN of the attention; `scale_a` is already 1 + scale.
        scale_a: (B, 1, d).
        keys: (B, d, M H) queries folded in; a transposed view.
        key_bias: (B, 1, M H).
        values: (B, M H, d) output projection folded in, but for its bias.
        gate_a: (B, 1, d) AdaLN gate of the attention.
        shift_f: (B, 1, d) AdaLN of the feed-forward.
        scale_f: (B, 1, d), 1 + scale.
        gate_f: (B, 1, d).
    """

    shift_a: torch.Tensor
    scale_a: torch.Tensor
    keys: torch.Tensor
    key_bias: torch.Tensor
    values: torch.Tensor
    gate_a: torch.Tensor
    shift_f: torch.Tensor
    scale_f: torch.Tensor
    gate_f: torch.Tensor


class HoistedEngine(PlannerEngine):
    """See the module's text."""

    name = "hoisted"

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(policy, device, dtype)
        # folded in fp32 (or wider) before the cast, so that folding adds no rounding to a narrow dtype
        network = copy.deepcopy(policy.network).eval().requires_grad_(False).to(device, self.trajectory_dtype)
        self._pools: list[_FoldedPool] = [
            _FoldedPool(pool, dtype) for pool in (network.vl_pool, network.reasoning_pool)
        ]
        self._decoder: _FoldedDecoder | None = _FoldedDecoder(network, dtype)
        network.decoder = nn.ModuleList()  # its weights live in the folded decoder alone
        self._network: TransformerForDiffusion | None = network.to(dtype)
        self._schedules: dict[int, tuple[SampleSchedule, torch.Tensor]] = {}

    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        decoder = self._decoder
        assert decoder is not None
        device = str(self.device)
        with tracer.span("encode", device):
            status = ego_status.to(self.dtype)
            memory, context, mask = self._encode(features)
        with tracer.span("hoist", device):
            schedule, times = self._schedule(steps)
            layers, state = self._hoist(decoder, memory, context, mask, status, times)
        with tracer.span("denoise", device):
            return self._denoise(decoder, layers, state, noise, schedule, tracer)

    def _release(self) -> None:
        self._network = self._decoder = None
        self._pools = []

    def _schedule(self, steps: int) -> tuple[SampleSchedule, torch.Tensor]:
        """The schedule of a step count and the time embeddings (S, 1, d) of its timesteps."""
        if steps not in self._schedules:
            schedule = sample_schedule(self.config, steps)
            t = torch.tensor(schedule.timesteps, device=self.device)
            self._schedules[steps] = schedule, time_embedding(t, self.config.n_emb, self.dtype)[:, None]
        return self._schedules[steps]

    def _encode(self, features: Features) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Memory (B, M, d), context tokens (B, N, d) and their mask (B, N)."""
        network = self._network
        assert network is not None
        vl_tokens, vl_mask = _at_least_one(features.vl_tokens.to(self.dtype), _useful(features.vl_mask))
        reasoning_tokens, reasoning_mask = _at_least_one(
            features.reasoning_tokens.to(self.dtype), _useful(features.reasoning_mask)
        )
        vl_features, vl = self._pools[0](vl_tokens, vl_mask)
        reasoning_features, reasoning = self._pools[1](reasoning_tokens, reasoning_mask)
        tokens = torch.cat(
            (network.observation(features.observation_tokens.to(self.dtype)), vl, reasoning), dim=1
        )
        tokens = network.memory_norm(tokens + network.memory_position)
        for layer in network.encoder:
            tokens = layer(tokens)
        tokens = network.encoder_norm(tokens)
        context, mask = join_context(vl_features, reasoning_features, vl_mask, reasoning_mask)
        return tokens + network.memory_mlp(tokens), context, mask

    def _hoist(
        self,
        decoder: _FoldedDecoder,
        memory: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
        status: torch.Tensor,
        times: torch.Tensor,
    ) -> tuple[list[list[LayerConditions]], torch.Tensor]:
        """Everything before the loop.

        Returns:
            [step][layer] conditions, and the head GRU's state (S, B, d) after the history tokens.
        """
        network = self._network
        assert network is not None
        steps, batch = len(times), len(status)
        conditioning = times + network.ego_status(status)[None]
        parts = decoder.conditions(conditioning, memory, context, mask)
        # the history's path through the layers: all steps are one batch
        tokens = network.embed_history(status).expand(steps, -1, -1, -1).flatten(0, 1)
        for index in range(decoder.n_layer):
            whole = LayerConditions(*(part[index].flatten(0, 1) for part in parts))
            tokens = decoder.layer(index, tokens, whole)
        start = torch.tanh(network.head.initial(conditioning)).flatten(0, 1)
        _, state = network.head.gru(network.head.norm(tokens), start[None])
        # [part][layer][step], by unbind: a view for each index would cost as much as a layer
        pieces = [[layer.unbind(0) for layer in part.unbind(0)] for part in parts]
        layers = [
            [LayerConditions(*(piece[index][step] for piece in pieces)) for index in range(decoder.n_layer)]
            for step in range(steps)
        ]
        return layers, state[0].view(steps, batch, -1)

    def _denoise(
        self,
        decoder: _FoldedDecoder,
        layers: list[list[LayerConditions]],
        state: torch.Tensor,
        noise: torch.Tensor,
        schedule: SampleSchedule,
        tracer: Tracer,
    ) -> torch.Tensor:
        """The loop: DDIM (Song et al. 2021, equation 12, sigma 0) over the folded decoder."""
        clip = self.config.clip_sample
        trajectory = noise
        levels = zip(schedule.alpha_bars, schedule.alpha_bars_next, strict=True)
        for step, (level, level_next) in enumerate(levels):
            with _step_span(tracer, self.device):
                tokens = decoder.embed(trajectory.to(self.dtype))
                for index, conditions in enumerate(layers[step]):
                    tokens = decoder.layer(index, tokens, conditions)
                predicted = decoder.head(tokens, state[step]).to(trajectory.dtype)
                clean = (trajectory - math.sqrt(1.0 - level) * predicted) / math.sqrt(level)
                if clip:
                    clean = clean.clamp(-1.0, 1.0)
                trajectory = math.sqrt(level_next) * clean + math.sqrt(1.0 - level_next) * predicted
        return trajectory


class _FoldedPool:
    """`TokenPool` with its constant query folded into the keys, and values projected after pooling."""

    def __init__(self, pool: TokenPool, dtype: torch.dtype) -> None:
        attention = pool.attention
        heads, width = attention.n_head, attention.q.in_features
        query = attention.q(pool.query[0, 0]).view(heads, -1) / math.sqrt(width // heads)
        self.keys = torch.einsum("he,hed->dh", query, attention.k.weight.view(heads, -1, width)).to(dtype)
        self.key_bias = (query * attention.k.bias.view(heads, -1)).sum(-1).to(dtype)
        self.value = attention.v.weight.view(heads, -1, width).transpose(1, 2).to(dtype).contiguous()
        self.value_bias = attention.v.bias.to(dtype)
        self.projection = copy.deepcopy(pool.projection).to(dtype)
        self.norm = copy.deepcopy(pool.norm).to(dtype)
        self.out = copy.deepcopy(attention.out).to(dtype)

    def __call__(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """As `TokenPool.forward`."""
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
        projected = self.norm(self.projection(tokens))
        scores = projected @ self.keys + self.key_bias  # (B, N, H)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=1).transpose(1, 2)  # (B, H, N)
        pooled = (weights @ projected).transpose(0, 1) @ self.value  # (H, B, d_head)
        pooled = pooled.transpose(0, 1).flatten(1) + self.value_bias
        if mask is not None:  # a sample without one real token pools to zeros, as in `attend`
            pooled = pooled * mask.any(dim=1, keepdim=True).to(pooled.dtype)
        return projected, self.out(pooled)[:, None]


class _FoldedDecoder:
    """The decoder's and head's weights, arranged for the hoist and the loop.

    Args:
        network: in at least fp32, on its device.
        dtype: of the arranged weights.
    """

    def __init__(self, network: TransformerForDiffusion, dtype: torch.dtype) -> None:
        config = network.config
        self.n_layer, self.n_head, self.width = config.n_layer, config.n_head, config.n_emb
        layers = [layer for layer in network.decoder if isinstance(layer, DecoderLayer)]
        memory = [layer.memory_attention for layer in layers]
        trajectory = [layer.trajectory_attention for layer in layers]
        heads, head_width = self.n_head, config.head_width

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(dtype).contiguous()

        self.modulation = keep(torch.cat([layer.modulation.weight for layer in layers]))
        self.modulation_bias = keep(torch.cat([layer.modulation.bias for layer in layers]))
        # memory <- context, all layers at once; (L, d_in, d_out) for bmm, (L d, d) for linear
        self.memory_q = keep(torch.stack([_normed_q(item).t() for item in memory]))
        self.memory_q_bias = keep(torch.stack([item.q.bias for item in memory])[:, None])
        self.context_k = keep(torch.cat([_normed_k(item) for item in memory]))
        self.context_k_bias = keep(torch.cat([item.k.bias for item in memory]))
        self.context_v = keep(torch.cat([item.v.weight for item in memory]))
        self.context_v_bias = keep(torch.cat([item.v.bias for item in memory]))
        self.memory_out = keep(torch.stack([item.out.weight.t() for item in memory]))
        self.memory_out_bias = keep(torch.stack([item.out.bias for item in memory])[:, None])
        # trajectory <- memory
        self.k = keep(torch.stack([_normed_k(item).t() for item in trajectory]))
        self.k_bias = keep(torch.stack([item.k.bias for item in trajectory])[:, None])
        self.v = keep(torch.stack([item.v.weight.t() for item in trajectory]))
        self.v_bias = keep(torch.stack([item.v.bias for item in trajectory])[:, None])
        self.fold_q = keep(torch.stack([_normed_q(item).view(heads, head_width, -1) for item in trajectory]))
        fold_q_bias = torch.stack([item.q.bias.view(heads, head_width, 1) for item in trajectory])
        self.fold_q_bias = keep(fold_q_bias / math.sqrt(head_width))
        self.fold_out = keep(
            torch.stack([item.out.weight.t().reshape(heads, head_width, -1) for item in trajectory])
        )
        self.out_bias = [keep(item.out.bias) for item in trajectory]
        # loop
        self.up = [keep(layer.ffn.up.weight.t() * math.sqrt(0.5)) for layer in layers]
        self.up_bias = [keep(layer.ffn.up.bias * math.sqrt(0.5)) for layer in layers]
        self.down = [keep(layer.ffn.down.weight.t() * math.sqrt(0.5)) for layer in layers]
        self.down_bias = [keep(layer.ffn.down.bias) for layer in layers]
        self.norm_floor = torch.tensor(math.sqrt(head_width * NORM_EPS), dtype=dtype, device=self.k.device)
        self.embedding = keep(network.trajectory.weight.t())
        position = network.position[:, config.n_status :] + network.segment[1] + network.trajectory.bias
        self.embedding_bias = keep(position)
        self.input_norm = copy.deepcopy(network.input_norm).to(dtype)
        head = copy.deepcopy(network.head).to(dtype)
        self.head_norm, self.gru, self.head_out = head.norm, head.gru, head.out
        self.cell = _GruCell(network.head.gru, dtype)
        self.fused_gru = self.k.is_cuda  # cuDNN's one call; on the CPU a hand-written cell is faster

    def conditions(
        self,
        conditioning: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """All that the layers need, in the order of `LayerConditions`, each (L, S, B, …).

        Args:
            conditioning: (S, B, d).
            memory: (B, M, d).
            context: (B, N, d).
            mask: (B, N), or None.
        """
        layers, heads, width = self.n_layer, self.n_head, self.width
        steps, batch = conditioning.shape[:2]
        tokens = memory.shape[1]
        modulation = F.linear(F.silu(conditioning), self.modulation, self.modulation_bias)
        modulation = modulation.view(steps, batch, layers, MODULATION_PARTS, 1, width).permute(
            3, 2, 0, 1, 4, 5
        )
        shift, scale, gate, shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.contiguous()
        # 1. memory <- context: (L, S, B, M, d)
        normed = F.layer_norm(memory, (width,), eps=NORM_EPS)
        query = head_rms(normed * (1.0 + scale) + shift, heads).reshape(layers, -1, width)
        query = torch.baddbmm(self.memory_q_bias, query, self.memory_q)
        query = query.view(layers, steps, batch, tokens, heads, -1).permute(0, 2, 4, 1, 3, 5)
        query = query.reshape(layers * batch, heads, steps * tokens, -1)
        key = self._context(F.linear(head_rms(context, heads), self.context_k, self.context_k_bias))
        value = self._context(F.linear(context, self.context_v, self.context_v_bias))
        seen = attend(query, key, value, None if mask is None else mask.repeat(layers, 1))
        seen = seen.view(layers, batch, heads, steps, tokens, -1).permute(0, 3, 1, 4, 2, 5)
        seen = torch.baddbmm(self.memory_out_bias, seen.reshape(layers, -1, width), self.memory_out)
        updated = (memory + gate * seen.view(layers, steps, batch, tokens, width)).view(layers, -1, width)
        # 2. keys and values for the trajectory, with query and output projections folded in
        key = torch.baddbmm(self.k_bias, head_rms(updated, heads), self.k)
        value = torch.baddbmm(self.v_bias, updated, self.v)
        key = key.view(layers, -1, heads, width // heads).transpose(1, 2)  # (L, H, S B M, d_head)
        value = value.view(layers, -1, heads, width // heads).transpose(1, 2)
        rows = (layers, heads, steps, batch, tokens, -1)
        # M before H: a softmax over the middle axis runs across the heads' lanes at once
        key_bias = (key @ self.fold_q_bias).view(*rows)[..., 0].permute(0, 2, 3, 4, 1)
        keys = (key @ self.fold_q).view(*rows).permute(0, 2, 3, 4, 1, 5)  # (L, S, B, M, H, d)
        values = (value @ self.fold_out).view(*rows).permute(0, 2, 3, 4, 1, 5)
        return (
            shift_a,
            1.0 + scale_a,
            keys.reshape(layers, steps, batch, -1, width).transpose(-1, -2),
            key_bias.reshape(layers, steps, batch, 1, -1),
            values.reshape(layers, steps, batch, -1, width),
            gate_a,
            shift_f,
            1.0 + scale_f,
            gate_f,
        )

    def _context(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, N, L d) -> (L B, H, N, d_head)."""
        batch, count = tokens.shape[:2]
        tokens = tokens.view(batch, count, self.n_layer, self.n_head, -1).permute(2, 0, 3, 1, 4)
        return tokens.reshape(self.n_layer * batch, self.n_head, count, -1)

    def embed(self, trajectory: torch.Tensor) -> torch.Tensor:
        """(B, T, 2) noisy points -> (B, T, d) tokens."""
        return self.input_norm(trajectory @ self.embedding + self.embedding_bias)

    def layer(self, index: int, tokens: torch.Tensor, given: LayerConditions) -> torch.Tensor:
        """What is left of a decoder layer: (B, T, d) -> (B, T, d)."""
        batch, count, width = tokens.shape
        normed = F.layer_norm(tokens, (width,), eps=NORM_EPS)
        normed = torch.addcmul(given.shift_a, normed, given.scale_a)
        slices = normed.view(batch, count, self.n_head, -1)
        # the slice's RMSNorm but for its sqrt(d_head), which cancels the scores' 1 / sqrt(d_head)
        norm = torch.hypot(torch.linalg.vector_norm(slices, dim=-1, keepdim=True), self.norm_floor)
        normed = (slices / norm).view(batch, count, width)
        scores = torch.baddbmm(given.key_bias, normed, given.keys)
        weights = scores.view(batch, count, -1, self.n_head).softmax(dim=2).view(batch, count, -1)
        seen = torch.baddbmm(self.out_bias[index], weights, given.values)
        tokens = torch.addcmul(tokens, given.gate_a, seen)
        normed = torch.addcmul(given.shift_f, F.layer_norm(tokens, (width,), eps=NORM_EPS), given.scale_f)
        hidden = torch.addmm(self.up_bias[index], normed.view(-1, width), self.up[index])
        hidden = torch.addcmul(hidden, hidden, torch.erf(hidden))  # GELU, its constants folded
        out = torch.addmm(self.down_bias[index], hidden, self.down[index])
        return torch.addcmul(tokens, given.gate_f, out.view(batch, count, width))

    def head(self, tokens: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(B, T, d) and the GRU's state (B, d) after the history -> (B, T, 2) predicted noise."""
        normed = self.head_norm(tokens)
        run = self.gru(normed, state[None])[0] if self.fused_gru else self.cell(normed, state)
        return self.head_out(normed + F.gelu(run))


class _GruCell:
    """A GRU (torch's convention) written out: fewer and in-place operations than torch's on the CPU."""

    def __init__(self, gru: nn.GRU, dtype: torch.dtype) -> None:
        width = gru.hidden_size
        self.width = width
        # the recurrent biases of reset and update gate simply add to the input's
        bias = gru.get_parameter("bias_ih_l0").clone()
        bias[: 2 * width] += gru.get_parameter("bias_hh_l0")[: 2 * width]
        self.input_weight = gru.get_parameter("weight_ih_l0").t().to(dtype).contiguous()
        self.input_bias = bias.to(dtype)
        self.weight = gru.get_parameter("weight_hh_l0").t().to(dtype).contiguous()
        new = torch.zeros_like(gru.get_parameter("bias_hh_l0"))
        new[2 * width :] = gru.get_parameter("bias_hh_l0")[2 * width :]
        self.bias = new.to(dtype)

    def __call__(self, tokens: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """(B, T, d) inputs and (B, d) state -> (B, T, d) outputs."""
        batch, count, width = tokens.shape
        given = torch.addmm(self.input_bias, tokens.transpose(0, 1).reshape(-1, width), self.input_weight)
        given = given.view(count, batch, 3 * width)
        gates, new = given[..., : 2 * width].unbind(0), given[..., 2 * width :].unbind(0)
        out = tokens.new_empty(count, batch, width)
        recurrent = tokens.new_empty(batch, 3 * width)
        recurrent_gates, recurrent_new = recurrent[:, : 2 * width], recurrent[:, 2 * width :]
        reset, update = recurrent_gates[:, :width], recurrent_gates[:, width:]
        for gate, candidate, target in zip(gates, new, out.unbind(0), strict=True):
            torch.addmm(self.bias, state, self.weight, out=recurrent)
            recurrent_gates.add_(gate).sigmoid_()
            candidate.addcmul_(reset, recurrent_new).tanh_()
            state = torch.lerp(candidate, state, update, out=target)
        return out.transpose(0, 1)


def _normed_q(attention: Attention) -> torch.Tensor:
    """Query projection with its norm's weight folded in, (d_out, d_in)."""
    assert attention.q_norm is not None
    return attention.q.weight * attention.q_norm.weight.flatten()


def _normed_k(attention: Attention) -> torch.Tensor:
    """Key projection with its norm's weight folded in, (d_out, d_in)."""
    assert attention.k_norm is not None
    return attention.k.weight * attention.k_norm.weight.flatten()


def _useful(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask that masks nothing is none; looked at on the CPU only, where that costs no synchronisation."""
    return None if mask is not None and not mask.is_cuda and bool(mask.all()) else mask
