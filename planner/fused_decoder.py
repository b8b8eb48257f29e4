"""The decoder of the hoisted form on our own kernels: a step is four launches a layer, and nine for the head.

What is folded is `tickdrive.planner.hoisted`'s, but for the gate and the output bias of the trajectory's
attention, which the kernel applies: a pass over all folded values costs more. Tokens are fp32 between
kernels.

A single plan's loop is one persistent kernel where the device allows (`tickdrive.planner.fused_loop`); the
kernels here serve batches, INT8, fp32, other devices, and the history tokens' path of all steps but the
first.

With a second stream, what does not depend on each other runs side by side: the conditioning beside the
encoder, the history tokens' path through the layers beside the first step's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton

from tickdrive.planner import kernels
from tickdrive.planner.diffusion import SampleSchedule
from tickdrive.planner.errors import EngineNotReadyError
from tickdrive.planner.fused_loop import Hoisted, LoopWeights, PersistentLoop, why_not
from tickdrive.planner.fused_ops import (
    QUANT,
    FoldedNorm,
    Launch,
    Stream,
    Weights,
    attend,
    gru,
    gru_given_bias,
    gru_weights,
    normed,
    product,
    split_product,
)
from tickdrive.planner.hoisted_attention import TwofoldDecoder
from tickdrive.planner.layers import MODULATION_PARTS, NORM_EPS, DecoderLayer
from tickdrive.planner.network import TransformerForDiffusion

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What the denoising begins with, none of which waits for features.

    Attributes:
        history: (B, n_status, d) fp32 tokens.
        starts: (S, B, d) fp32 states of the head's GRU before them.
        trajectory: (B T, 2) fp32 noise.
        tokens: (B T, d) fp32 of it.
        arrived: (S + 1, S B) int32 zeros: counts programs of each step's GRU, and of the history's.
        memory: of `PersistentLoop.memory`; None where that loop will not run.
    """

    history: torch.Tensor
    starts: torch.Tensor
    trajectory: torch.Tensor
    tokens: torch.Tensor
    arrived: torch.Tensor
    memory: torch.Tensor | None


class Side:
    """A second stream, where there is one; else everything runs in turn.

    Args:
        stream: of the device, or None.
    """

    def __init__(self, stream: torch.cuda.Stream | None) -> None:
        self._stream = stream

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """What the block queues runs beside what the current stream is given from now on.

        Tensors that the block reads must be kept until `join`: torch would hand their memory out again.
        """
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """The current stream goes on when the other is done."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


class Conditioning(NamedTuple):
    """What the layers need that depends on time and ego status alone, for all layers and steps.

    Attributes:
        vector: (S, B, d).
        modulation: (S B, L, 9, d) AdaLN of all layers.
        fold: (L, S B, 4 d) fp32 feed-forward weights times the norm's scale.
        bias: (L, S B, 4 d) likewise times its shift, plus the bias.
    """

    vector: torch.Tensor
    modulation: torch.Tensor
    fold: torch.Tensor
    bias: torch.Tensor


class Folded(NamedTuple):
    """What the trajectory attends to, for all layers and steps.

    Attributes:
        keys: (L, H, S B M, d) queries folded in.
        key_bias: (L, H, S B M).
        values: (L, H, S B M, d) output projection folded in.
    """

    keys: torch.Tensor
    key_bias: torch.Tensor
    values: torch.Tensor


class FusedDecoder(TwofoldDecoder):
    """See the module's text.

    Args:
        network: in at least fp32, on its device; its heads a power of two wide, of at least 16.
        dtype: of the arranged weights.
        quantised: keep the feed-forward weights in INT8.

    Raises:
        EngineNotReadyError: a network that the kernels are not made for.
    """

    fold_up: torch.Tensor

    def __init__(self, network: TransformerForDiffusion, dtype: torch.dtype, quantised: bool = False) -> None:
        config = network.config
        width = config.head_width
        if config.merged_attention or width < 16 or width != triton.next_power_of_2(width):
            raise EngineNotReadyError(
                f"The fused engine was given merged_attention {config.merged_attention}, heads {width} wide.",
                "It runs two attentions a layer, heads 16, 32, 64 or 128 wide. Use engine compiled.",
            )
        if quantised and config.n_emb % (2 * QUANT):
            raise EngineNotReadyError(
                f"The fused engine was asked for INT8 weights at width {config.n_emb}.",
                f"Its blocks need a multiple of {2 * QUANT}. Use fp16.",
            )
        super().__init__(network, dtype)
        layers = [layer for layer in network.decoder if isinstance(layer, DecoderLayer)]
        self.ups = [Weights.of(layer.ffn.up.weight, layer.ffn.up.bias, dtype, quantised) for layer in layers]
        self.downs = [
            Weights.of(layer.ffn.down.weight, layer.ffn.down.bias, dtype, quantised) for layer in layers
        ]
        up = torch.stack([layer.ffn.up.weight.detach().t() for layer in layers])
        self.keep("fold_up", _as_quantised(self.ups) if quantised else up)
        self.up_bias = torch.stack([layer.ffn.up.bias.detach().float() for layer in layers])[:, None]
        self.up = self.down = torch.nn.ModuleList()  # kept once, as above
        self.out_biases = [layer.trajectory_attention.out.bias.detach().to(dtype) for layer in layers]
        gru = network.head.gru
        recurrent, recurrent_bias = (
            gru.get_parameter(f"{name}_l0").detach() for name in ("weight_hh", "bias_hh")
        )
        self.gru_given = Weights.of(gru.get_parameter("weight_ih_l0"), gru_given_bias(gru), dtype)
        self.gru_recurrent = gru_weights(recurrent.to(dtype))
        self.gru_candidate = recurrent_bias[2 * self.width :].to(dtype).contiguous()
        self.horizon = config.horizon
        self.clip = config.clip_sample
        self.loop = None if quantised else self._persistent_loop(network)

    def _persistent_loop(self, network: TransformerForDiffusion) -> PersistentLoop | None:
        """The loop in one kernel, where the device and the network allow."""
        reason = why_not(network.config, self.dtype, self.points.device)
        if reason is not None:
            log.info(
                "planner engine 'fused' runs its loop kernel by kernel: the persistent one is %s", reason
            )
            return None
        weights = LoopWeights(
            up=torch.stack([item.weight for item in self.ups]),
            down=torch.stack([item.weight for item in self.downs]),
            down_bias=torch.stack([item.bias for item in self.downs]),
            out_bias=torch.stack(self.out_biases),
            gru=network.head.gru,
            head_norm=network.head.norm,
            head_out=network.head.out,
            points=self.points,
            points_bias=self.points_bias,
            input_norm=self.input_norm,
        )
        return PersistentLoop(weights, network.config)

    def load_loop(self, build: bool) -> None:
        """Have the persistent loop ready, where there is one; see `PersistentLoop.load`.

        Args:
            build: compile it if need be.

        Raises:
            EngineNotReadyError: it would have to be compiled, and may not.
        """
        if self.loop is None:
            return
        try:
            self.loop.load(build)
        except (RuntimeError, AttributeError, ImportError, TypeError, ValueError) as error:
            self.loop = None
            log.warning(
                "planner engine 'fused' runs its loop kernel by kernel, a millisecond slower: the persistent "
                "one cannot be used (%s)",
                str(error).strip().splitlines()[0],
            )

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""
        folded = self.n_memory * self.n_head
        read = self.n_layer * (6 * self.width + folded + 2 * folded * self.width) + self.width
        weights = sum(item.bytes for item in (*self.ups, *self.downs, self.gru_given))
        weights += self.gru_recurrent.numel() * self.gru_recurrent.element_size()
        return steps * (weights + batch * read * self.dtype.itemsize)

    def conditioning(self, ego_status: torch.Tensor, times: torch.Tensor) -> Conditioning:
        """What depends on time and ego status alone.

        Args:
            ego_status: (B, n_status, status_width), oldest first, of the engine's dtype.
            times: (S, 1, d) time embeddings.
        """
        vector = times + self.ego(ego_status)
        modulation = self.modulation(F.silu(vector)).view(-1, self.n_layer, MODULATION_PARTS, self.width)
        rows = len(modulation)
        both = modulation[:, :, 6:8].permute(1, 2, 0, 3).reshape(self.n_layer, 2 * rows, self.width)
        bias, fold = _product_fp32(both, self.fold_up).split(rows, dim=1)
        return Conditioning(vector, modulation, fold, bias + self.up_bias)

    def fold(
        self,
        given: Conditioning,
        memory: torch.Tensor,
        context_heads: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
    ) -> Folded:
        """Keys and values for the trajectory.

        Args:
            given: of `conditioning`.
            memory: (B, M, d).
            context_heads: of `TwofoldDecoder.context_heads`.
            mask: (B, N) of the context, or None.
        """
        batch = len(memory)
        parts = (
            given.modulation[:, :, :3]
            .view(-1, batch, self.n_layer, 3, 1, self.width)
            .permute(3, 2, 0, 1, 4, 5)
        )
        updated = self.updated_memory(memory, *context_heads, parts, mask)
        key, value = self.trajectory_heads(updated)
        shape = (self.n_layer, self.n_head, updated.shape[1], self.width)
        key, value = key.flatten(0, 1), value.flatten(0, 1)
        keys = torch.bmm(key, self.fold_q.flatten(0, 1)).view(shape)
        values = torch.bmm(value, self.fold_out.flatten(0, 1)).view(shape)
        bias = torch.bmm(key, self.fold_q_bias.flatten(0, 1)[..., None]).view(shape[:3])
        return Folded(keys, bias, values)

    def layers(
        self,
        tokens: torch.Tensor,
        given: Conditioning,
        folded: Folded,
        first: int,
        group: int,
        launch: Launch,
    ) -> Stream:
        """All layers, and the head's norm behind them.

        Args:
            tokens: (R, d) fp32.
            given: see there.
            folded: see there.
            first: step times batch of the first group of tokens.
            group: tokens of a group.
            launch: how to launch.

        Returns:
            (R, d) normed tokens.
        """
        memory = self.n_memory
        before = None
        for index in range(self.n_layer):
            part = given.modulation[first:, index].unbind(1)
            keys, key_bias, values = (item[index, :, first * memory :] for item in folded)
            stream = attend(
                tokens,
                before,
                (part[3], part[4], part[5], part[7]),
                keys,
                key_bias,
                values,
                self.out_biases[index],
                NORM_EPS,
                self.dtype,
                launch,
                group,
                memory,
            )
            norm = FoldedNorm(given.fold[index, first:], given.bias[index, first:], NORM_EPS, group)
            hidden = product(stream.narrow, self.ups[index], launch, (norm, stream.stats), gelu=True)
            tokens, before = stream.tokens, split_product(hidden, self.downs[index], part[8], launch)
        return normed(tokens, before, self.head_norm, self.dtype, launch, group)

    def head_states(
        self,
        tokens: Stream,
        state: torch.Tensor,
        n_tokens: int,
        arrived: torch.Tensor,
        launch: Launch,
        side: Side | None = None,
    ) -> torch.Tensor:
        """The head's GRU over its normed tokens.

        Args:
            tokens: (B T, d), normed.
            state: (B, d) fp32 that it starts from.
            n_tokens: T.
            arrived: see `gru`.
            launch: how to launch.
            side: to join before `state` is read.

        Returns:
            (T, B, d) fp32 states.
        """
        given = product(tokens.narrow, self.gru_given, launch, out_dtype=torch.float32)
        given = given.view(len(state), n_tokens, -1)
        if side is not None:
            side.join()
        return gru(given, state, self.gru_recurrent, self.gru_candidate, arrived, launch)

    def beginning(
        self, ego_status: torch.Tensor, noise: torch.Tensor, given: Conditioning, launch: Launch
    ) -> Beginning:
        """See `Beginning`.

        Args:
            ego_status: (B, n_status, status_width).
            noise: (B, T, 2) fp32.
            given: of `conditioning`.
            launch: how to launch.
        """
        batch, horizon = noise.shape[:2]
        steps = len(given.vector)
        history = self.input_norm(ego_status @ self.history + self.history_bias).float()
        starts = torch.tanh(self.head_initial(given.vector)).float()
        trajectory = noise.reshape(-1, 2).clone()
        tokens = self._advance(None, None, trajectory, None, launch)[1]
        arrived = torch.zeros(steps + 1, steps * batch, dtype=torch.int32, device=noise.device)
        memory = None
        if self.loop is not None and self.loop.loaded and batch == 1:
            memory = self.loop.memory(horizon, steps)
        return Beginning(history, starts, trajectory, tokens, arrived, memory)

    def history_states(
        self, given: Conditioning, folded: Folded, beginning: Beginning, launch: Launch, first: int = 0
    ) -> torch.Tensor:
        """The head's state (S - first, B, d), fp32, after the history; see `FoldedDecoder.history_state`.

        Args:
            given: see there.
            folded: see there.
            beginning: see there.
            launch: how to launch.
            first: step, of those that are left.
        """
        starts = beginning.starts[first:]
        steps, batch, width = starts.shape
        count = beginning.history.shape[1]
        tokens = beginning.history.expand(steps, -1, -1, -1).reshape(-1, width)
        stream = self.layers(tokens, given, folded, first * batch, count, launch)
        states = self.head_states(stream, starts.reshape(-1, width), count, beginning.arrived[-1], launch)
        return states[-1].view(steps, batch, width)

    def denoise(
        self,
        given: Conditioning,
        folded: Folded,
        beginning: Beginning,
        schedule: SampleSchedule,
        launch: Launch,
        side: Side,
    ) -> torch.Tensor:
        """The history tokens' path and the loop: DDIM over the folded decoder.

        Args:
            given: see there.
            folded: see there.
            beginning: see there.
            schedule: of the S steps.
            launch: how to launch.
            side: stream for the history's path.

        Returns:
            (B, T, 2) denoised normalised trajectory.
        """
        trajectory, tokens = beginning.trajectory, beginning.tokens
        levels = list(zip(schedule.alpha_bars, schedule.alpha_bars_next, strict=True))
        batch = beginning.starts.shape[1]
        horizon = len(tokens) // batch
        if beginning.memory is not None:
            assert self.loop is not None
            hoisted = Hoisted(given.modulation, given.fold, given.bias, *folded)
            whole = self.loop.start(tokens, trajectory, hoisted, schedule, beginning.memory)
            # two kernels whose programs wait for their like must not run side by side
            beside = dataclasses.replace(launch, at_once=0)
            if len(levels) > 1:
                with side.run():
                    states = self.history_states(given, folded, beginning, beside, first=1)
            whole.begin(beginning.history[0], beginning.starts[0])
            if len(levels) > 1:
                side.join()
                whole.rest(states)
            return trajectory.view(batch, horizon, 2)
        with side.run():
            states = self.history_states(given, folded, beginning, launch)
        for step, level in enumerate(levels):
            stream = self.layers(tokens, given, folded, step * batch, horizon, launch)
            first = side if step == 0 else None
            run = self.head_states(stream, states[step], horizon, beginning.arrived[step], launch, first)
            last = step == len(levels) - 1
            trajectory, tokens = self._advance(stream.tokens, run, trajectory, level, launch, embed=not last)
        return trajectory.view(batch, horizon, 2)

    def _advance(
        self,
        tokens: torch.Tensor | None,
        states: torch.Tensor | None,
        trajectory: torch.Tensor,
        level: tuple[float, float] | None,
        launch: Launch,
        embed: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The head's output, DDIM's step and the next step's tokens; without `level`, the tokens alone."""
        rows = len(trajectory)
        ahead, embedded = torch.empty_like(trajectory), trajectory.new_empty(rows, self.width)
        now, then = level or (1.0, 1.0)
        kernels.advance_kernel[(rows,)](
            trajectory if tokens is None else tokens,
            trajectory if states is None else states,
            trajectory,
            self.head_out.weight,
            self.head_out.bias,
            self.points,
            self.points_bias,
            self.input_norm.weight,
            self.input_norm.bias,
            ahead,
            embedded,
            rows // self.horizon,
            math.sqrt(now),
            math.sqrt(1.0 - now),
            math.sqrt(then),
            math.sqrt(1.0 - then),
            self.input_norm.eps,
            T=self.horizon,
            D=self.width,
            PREDICT=level is not None,
            CLIP=self.clip,
            EMBED=embed,
            PDL=launch.pdl,
            BD=triton.next_power_of_2(self.width),
            num_warps=4,
            **launch.options(),
        )
        return ahead, embedded


def _as_quantised(layers: list[Weights]) -> torch.Tensor:
    """(L, K, N) the weights that the kernels will make of INT8 ones, so that folds are of the same."""
    wide = [(item.weight.unflatten(1, (-1, QUANT)) * item.scale[..., None]).flatten(1) for item in layers]
    return torch.stack(wide).transpose(1, 2)


def _product_fp32(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Batched product whose sums are not rounded to the operands' type."""
    if rows.is_cuda and rows.dtype != torch.float32:
        return torch.bmm(rows, weights, out_dtype=torch.float32)
    return torch.bmm(rows.float(), weights.float())
