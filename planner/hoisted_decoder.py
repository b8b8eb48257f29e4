"""The decoder and head as the hoisted engine runs them: what goes before the loop, and what stays in it.

See `tickdrive.planner.hoisted` for the algebra. Shapes: L layers, S steps, B batch, M memory tokens,
N context tokens, T tokens, H heads, d width. The order (L, S, B, …) makes every [layer][step] a contiguous
block. A batch of one loses its axis in the loop: a LayerNorm then takes scale and shift along, and products
are plain.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.gru import FoldedGru
from tickdrive.planner.layers import NORM_EPS, DecoderLayer, MergedDecoderLayer, exported_rms
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.packed import PackedLinear


class Conditions(NamedTuple):
    """What the layers need besides the tokens, for all layers and steps.

    Attributes:
        modulation: (6, L, S, B, 1, d) AdaLN shift, 1 + scale and gate of attention and of feed-forward.
        keys: (L, S, B, d, M H) queries folded in; a transposed view. Merged attention:
            (L, S, B, H, d / H, M + N).
        key_bias: (L, S, B, 1, M H). Merged attention: (L, S, B, 1, M + N), -inf under padding; the last axis
            is empty where nothing is padded.
        values: (L, S, B, M H, d) output projection and gate folded in. Merged attention:
            (L, S, B, H, M + N, d / H), nothing folded in.
        state: (S, B, d) of the head's GRU after the history tokens.
    """

    modulation: torch.Tensor
    keys: torch.Tensor
    key_bias: torch.Tensor
    values: torch.Tensor
    state: torch.Tensor


class FoldedDecoder(nn.Module, ABC):
    """The weights of decoder, head and conditioning, arranged for the hoist and the loop.

    What the trajectory attends to, and how, is `tickdrive.planner.hoisted_attention`'s.

    Args:
        network: in at least fp32, on its device.
        dtype: of the arranged weights.
    """

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
        layers = [layer for layer in network.decoder if isinstance(layer, DecoderLayer | MergedDecoderLayer)]
        # conditioning
        self.status = PackedLinear.of(network.ego_status.current, dtype)
        self.status_gru = FoldedGru(network.ego_status.history, dtype)
        self.modulation = self.join(
            [(layer.modulation.weight, _bias_and_one(layer.modulation)) for layer in layers]
        )
        # loop
        self.up = nn.ModuleList(PackedLinear.of(layer.ffn.up, dtype, gelu=True) for layer in layers)
        self.down = nn.ModuleList(PackedLinear.of(layer.ffn.down, dtype) for layer in layers)
        self.keep("norm_floor", network.position.new_tensor(math.sqrt(config.head_width * NORM_EPS)))
        # input and head
        split = config.n_status
        self.keep("history", network.history.weight.t())
        self.keep("history_bias", network.position[0, :split] + network.segment[0] + network.history.bias)
        self.keep("points", network.trajectory.weight.t())
        self.keep("points_bias", network.position[0, split:] + network.segment[1] + network.trajectory.bias)
        self.input_norm = copy.deepcopy(network.input_norm).to(dtype)
        self.head_norm = copy.deepcopy(network.head.norm).to(dtype)
        self.head_initial = PackedLinear.of(network.head.initial, dtype)
        self.head_gru = FoldedGru(network.head.gru, dtype)
        self.head_out = copy.deepcopy(network.head.out).to(dtype)

    @abstractmethod
    def conditions(
        self,
        conditioning: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """All but the state of `Conditions`.

        Args:
            conditioning: (S, B, d).
            memory: (B, M, d).
            context: (B, N, d).
            mask: (B, N), or None.
        """

    @abstractmethod
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
        """A layer's attention: output projection, gate and residual included.

        Args:
            index: of the layer.
            tokens: (B, T, d), or (T, d).
            slices: the same modulated, each head-sized slice divided by its length. That is the slice's
                RMSNorm but for its sqrt(d_head), which cancels the scores' 1 / sqrt(d_head).
            gate: of the layer, (B, 1, d), or (d,).
            keys: of the layer, as in `Conditions` without its first axes.
            key_bias: likewise.
            values: likewise.

        Returns:
            (B, T, d), or (T, d).
        """

    @abstractmethod
    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""

    def loop_weights(self) -> list[nn.Module]:
        """What every step uses."""
        return [self.up, self.down, self.input_norm, self.head_norm, self.head_gru, self.head_out]

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a buffer in the engine's dtype."""
        self.register_buffer(name, tensor.to(self.dtype).contiguous())

    def join(self, parts: list[tuple[torch.Tensor, torch.Tensor]]) -> PackedLinear:
        """Layers, given as weight and bias, that share their input, as one product."""
        weights, biases = zip(*parts, strict=True)
        return PackedLinear(torch.cat(weights), torch.cat(biases), self.dtype)

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
        conditioning = times + self.ego(ego_status)
        given = self.conditions(conditioning, memory, context, mask)
        return Conditions(*given, self.history_state(ego_status, conditioning, *given))

    def history_state(
        self,
        ego_status: torch.Tensor,
        conditioning: torch.Tensor,
        modulation: torch.Tensor,
        keys: torch.Tensor,
        key_bias: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """The history tokens' path through the layers, all steps being one batch; the head's state after it.

        Args:
            ego_status: (B, n_status, status_width).
            conditioning: (S, B, d).
            modulation: as in `Conditions`, as are the next three.
            keys: as in `Conditions`.
            key_bias: as in `Conditions`.
            values: as in `Conditions`.

        Returns:
            (S, B, d).
        """
        steps, batch = conditioning.shape[:2]
        tokens = self.input_norm(ego_status @ self.history + self.history_bias)
        tokens = self.history_tokens(tokens, modulation, keys, key_bias, values)
        start = torch.tanh(self.head_initial(conditioning)).flatten(0, 1)
        return self.head_gru(self.head_norm(tokens).transpose(0, 1), start)[-1].view(steps, batch, -1)

    def history_tokens(
        self,
        tokens: torch.Tensor,
        modulation: torch.Tensor,
        keys: torch.Tensor,
        key_bias: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """The history tokens (B, n, d) after all layers, (S B, n, d); the rest as in `Conditions`."""
        tokens = tokens.expand(modulation.shape[2], -1, -1, -1).flatten(0, 1)
        for index in range(self.n_layer):
            given = (modulation[:, index], keys[index], key_bias[index], values[index])
            parts = [part.flatten(0, 1) for part in (*given[0].unbind(0), *given[1:])]
            tokens = self.layer(index, tokens, parts[:6], *parts[6:])
        return tokens

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
            keys: as in `Conditions` without S, as are the next two.
            key_bias: of the step.
            values: of the step.
            state: (B, d).

        Returns:
            (B, T, 2) predicted noise.
        """
        single = len(trajectory) == 1
        tokens = self.embed(trajectory)
        if single:
            tokens = tokens[0]
            modulation, key_bias = modulation[:, :, 0, 0], key_bias[:, 0, 0]
            keys, values = keys[:, 0], values[:, 0]
        layers = zip(modulation.unbind(1), keys.unbind(0), key_bias.unbind(0), values.unbind(0), strict=True)
        for index, (parts, *attended) in enumerate(layers):
            tokens = self.layer(index, tokens, parts.unbind(0), *attended)
        return self.head(tokens, state).to(trajectory.dtype).view(trajectory.shape)

    def embed(self, trajectory: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, d) of the noisy points."""
        return self.input_norm(trajectory.to(self.dtype) @ self.points + self.points_bias)

    def head(self, tokens: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """`TrajectoryHead` from a known state: (B, T, d) or, for a batch of one, (T, d), to (…, T, 2)."""
        normed = self.head_norm(tokens)
        single = tokens.dim() == 2
        by_time = normed[:, None] if single else normed.transpose(0, 1)
        run = self.head_gru(by_time, state)
        run = run[:, 0] if single else run.transpose(0, 1)
        return self.head_out(normed + F.gelu(run))

    def layer(
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
            keys: as in `attend`, as are the next two.
            key_bias: of the layer.
            values: of the layer.
        """
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation
        shape = tokens.shape
        slices = _modulate(tokens, shift_a, scale_a).view(*shape[:-1], self.n_head, -1)
        if torch.onnx.is_in_onnx_export():  # ONNX has no hypot
            slices = exported_rms(slices, 1.0 / math.sqrt(slices.shape[-1]))
        else:
            norm = torch.linalg.vector_norm(slices, dim=-1, keepdim=True)
            slices = slices / torch.hypot(norm, self.norm_floor)
        tokens = self.attend(index, tokens, slices.view(shape), gate_a, keys, key_bias, values)
        out = self.down[index](self.up[index](_modulate(tokens, shift_f, scale_f)))
        return torch.addcmul(tokens, gate_f, out)

    def ego(self, ego_status: torch.Tensor) -> torch.Tensor:
        """`EgoStatusEncoder`: (B, d)."""
        start = ego_status.new_zeros(len(ego_status), self.width)
        history = self.status_gru(ego_status.transpose(0, 1), start)[-1]
        return self.status(ego_status[:, -1]) + history


def _modulate(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """AdaLN, the scale being 1 + scale already."""
    if scale.dim() == 1:
        return F.layer_norm(tokens, scale.shape, scale, shift, NORM_EPS)
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS), scale)


def _bias_and_one(modulation: nn.Linear) -> torch.Tensor:
    """The modulation's bias, with the 1 of 1 + scale added."""
    bias = modulation.bias.detach().view(-1, modulation.in_features).clone()
    bias[1::3] += 1.0
    return bias.flatten()
