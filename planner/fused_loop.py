"""One plan's denoising loop in one persistent CUDA kernel (`loop_kernel.cu`), compiled here.

Its programs wait for each other and keep two layers' weights in shared memory: it is made for a batch of one,
for types of 16 bits and for devices with more than 200 KB of shared memory and a multiprocessor for each
program (Hopper and later). Elsewhere the loop runs on the Triton kernels, a launch for each phase.

All programs of a launch must come to run: two plans at once on one device, from two threads of a process,
could keep each other from it for ever. An engine plans one at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tickdrive.planner.diffusion import SampleSchedule
from tickdrive.planner.engine_cache import entry_path, read_entry, write_entry
from tickdrive.planner.errors import EngineNotReadyError
from tickdrive.planner.fused_ops import gru_given_bias
from tickdrive.planner.layers import NORM_EPS
from tickdrive.planner.network_config import PolicyConfig

_SOURCES = ("loop_parts.cu", "loop_phases.cu", "loop_kernel.cu")
_NAME = "loop_kernel"
_COLUMNS = 8
"""Of D, for one program."""
_THREADS = 288
"""Of a program: eight warps that compute, one that fetches."""
_MAX_HEADS = 256
"""Over all waypoints: a thread's for each."""
_PACE = 300
"""Clocks between two sixteenths of a layer's weights; measured on an H100."""
_MAX_TOKENS = 8
"""Waypoints, and memory tokens: what the tensor cores take at once."""


@dataclass(frozen=True)
class LoopWeights:
    """What every step uses, of the engine's dtype.

    Attributes:
        up: (L, 4 D, D) of the feed-forward.
        down: (L, D, 4 D).
        down_bias: (L, D).
        out_bias: (L, D) of the trajectory's attention.
        gru: with `head_norm` in front, in at least fp32.
        head_norm: LayerNorm, in at least fp32.
        head_out: linear layer, as are the next.
        points: (2, D) embedding of a point.
        points_bias: (T, D).
        input_norm: LayerNorm.
    """

    up: torch.Tensor
    down: torch.Tensor
    down_bias: torch.Tensor
    out_bias: torch.Tensor
    gru: nn.GRU
    head_norm: nn.LayerNorm
    head_out: nn.Linear
    points: torch.Tensor
    points_bias: torch.Tensor
    input_norm: nn.LayerNorm


@dataclass(frozen=True)
class Hoisted:
    """What the loop reads of what was hoisted, for a batch of one.

    Attributes:
        modulation: (S, L, 9, D).
        fold: (L, S, 4 D) fp32.
        bias: (L, S, 4 D) fp32.
        keys: (L, H, S M, D).
        key_bias: (L, H, S M).
        values: (L, H, S M, D).
    """

    modulation: torch.Tensor
    fold: torch.Tensor
    bias: torch.Tensor
    keys: torch.Tensor
    key_bias: torch.Tensor
    values: torch.Tensor


class PersistentLoop:
    """The kernel with its weights; to be loaded before it runs.

    Args:
        weights: see there, on a CUDA device.
        config: of the network.
    """

    def __init__(self, weights: LoopWeights, config: PolicyConfig) -> None:
        width = config.n_emb
        dtype, device = weights.up.dtype, weights.up.device
        self._programs = width // _COLUMNS
        self._layers, self._heads = config.n_layer, config.n_head
        gru_input, gru_bias = _behind_norm(weights.gru, weights.head_norm)
        recurrent = weights.gru.get_parameter("weight_hh_l0").detach()
        gru = [units_of(part.to(dtype)) for part in (gru_input, recurrent)]
        both = [lines_in_order(weights.up), columns_in_order(weights.down)]
        head = [lines_in_order(part[None]) for part in gru]
        # (items, programs, 2, bytes): layers, then the head
        self._items = torch.cat([torch.stack(both, 2), torch.stack(head, 2)]).contiguous()
        small = [
            weights.down_bias,
            weights.out_bias,
            gru_bias,
            weights.gru.get_parameter("bias_hh_l0")[2 * width :],
        ]
        for module in (weights.head_norm, weights.head_out):
            small += [module.weight, module.bias]
        small += [weights.points, weights.points_bias, weights.input_norm.weight, weights.input_norm.bias]
        self._small = [
            part.detach().to(torch.float32 if part is gru_bias else dtype).contiguous() for part in small
        ]
        self._levels: dict[SampleSchedule, torch.Tensor] = {}
        self._shared_bytes = _shared_bytes(config)
        constants = {
            "D": width,
            "H": config.n_head,
            "M": config.n_memory,
            "L": config.n_layer,
            "T": config.horizon,
            "CLIP": int(config.clip_sample),
            "BF16": int(dtype == torch.bfloat16),
            "EPS": f"{NORM_EPS}f",
            "HEAD_EPS": f"{weights.head_norm.eps}f",
            "INPUT_EPS": f"{weights.input_norm.eps}f",
            "PACE": _PACE,
            "SHARED_BYTES": self._shared_bytes,
        }
        defines = "".join(f"#define {name} {value}\n" for name, value in constants.items())
        texts = [Path(__file__).with_name(name).read_text() for name in _SOURCES]
        self._source, self._device = "\n".join([defines, *texts]), device
        self._kernel: Any = None

    @property
    def loaded(self) -> bool:
        """Whether it can run."""
        return self._kernel is not None

    def load(self, build: bool) -> None:
        """Load the kernel from the engine cache, or compile it.

        Args:
            build: compile what the cache does not have, in some seconds.

        Raises:
            EngineNotReadyError: it would have to be compiled, and may not.
            RuntimeError: the kernel does not compile, or not load.
        """
        if self.loaded:
            return
        digest = hashlib.sha256(self._source.encode()).hexdigest()
        path = entry_path("loop", digest, self._device, ".cubin")
        binary = read_entry(path)
        if binary is None and not build:
            raise EngineNotReadyError(
                "The fused engine's persistent loop is not in the engine cache.",
                "Run `tickdrive warmup` first.",
            )
        from torch.cuda import _utils  # NVRTC comes with torch; its wrapper is not public yet

        with torch.cuda.device(self._device):
            if binary is None:
                binary, _ = _utils._nvrtc_compile(self._source, _NAME)
                write_entry(path, binary)
            kernels: Any = _utils._cuda_load_module(binary, [_NAME])
            kernel = kernels[_NAME]
            kernel.set_shared_memory_config(self._shared_bytes)
        self._kernel = kernel

    def start(
        self, tokens: torch.Tensor, noise: torch.Tensor, hoisted: Hoisted, schedule: SampleSchedule
    ) -> LoopRun:
        """A plan's buffers.

        Args:
            tokens: (T, D) fp32 of the noise; overwritten.
            noise: (1, T, 2) fp32.
            hoisted: see there.
            schedule: of the S steps.
        """
        levels = self._levels.get(schedule)
        if levels is None:  # kept: a graph must not copy from the host while it is recorded
            pairs = zip(schedule.alpha_bars, schedule.alpha_bars_next, strict=True)
            roots = [[math.sqrt(of) for of in (now, 1.0 - now, then, 1.0 - then)] for now, then in pairs]
            levels = self._levels[schedule] = torch.tensor(roots, device=tokens.device)
        count, width = tokens.shape
        floats = [count * self._heads * 8, count * self._programs * 2, count * width // 2]
        floats += [count * 2 * width, count * width]
        told = [tokens, *tokens.new_empty(sum(floats)).split(floats)]  # what programs tell each other
        trajectory = noise.reshape(-1, 2).clone()
        given = [hoisted.modulation, hoisted.fold, hoisted.bias, hoisted.keys, hoisted.key_bias]
        numbers = (len(schedule.timesteps), hoisted.fold.stride(0), hoisted.bias.stride(0))

        def launch(items: range, history: torch.Tensor) -> None:
            arrived = torch.zeros(1, dtype=torch.int32, device=tokens.device)
            arguments = [*told, trajectory, arrived, self._items, *given, hoisted.values, history, levels]
            arguments += [*self._small, items.start, items.stop, *numbers]
            self._kernel((self._programs, 1, 1), (_THREADS, 1, 1), arguments, self._shared_bytes)

        return LoopRun(launch, self._layers, numbers[0], trajectory)


class LoopRun:
    """One plan's loop in two launches: the history's path through the layers runs beside the first.

    Args:
        launch: of some items (layers of a step, then its head) with the GRU's states before the waypoints.
        layers: of a step.
        steps: S.
        trajectory: (T, 2) that is being denoised.
    """

    def __init__(
        self,
        launch: Callable[[range, torch.Tensor], None],
        layers: int,
        steps: int,
        trajectory: torch.Tensor,
    ) -> None:
        self._launch, self._layers, self._steps = launch, layers, steps
        self.trajectory = trajectory

    def first_layers(self) -> None:
        """The first step's layers."""
        self._launch(range(self._layers), self.trajectory)  # without a head no states are read

    def rest(self, states: torch.Tensor) -> None:
        """The first step's head and all other steps.

        Args:
            states: (S, D) fp32 of the head's GRU after the history tokens.
        """
        self._launch(range(self._layers, self._steps * (self._layers + 1)), states)


def why_not(config: PolicyConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernel cannot run such a network there; None where it can."""
    if device.type != "cuda":
        return "not on CUDA"
    width, head_width, horizon = config.n_emb, config.head_width, config.horizon
    scores = horizon * config.n_head
    if dtype not in (torch.float16, torch.bfloat16):
        return "for weights of 16 bits"
    if width % 32 or head_width < 16 or head_width & (head_width - 1) or head_width > 256:
        return "not for this width and number of heads"
    if not 2 <= horizon <= _MAX_TOKENS or config.n_memory > _MAX_TOKENS:
        return f"for 2 to {_MAX_TOKENS} waypoints, and at most as many memory tokens"
    if scores > _MAX_HEADS or scores * config.n_memory > width:
        return "not for so many heads at this width"
    properties: Any = torch.cuda.get_device_properties(device)  # its stub lacks some
    if properties.major < 9 or properties.multi_processor_count < width // _COLUMNS:
        return f"for compute capability 9 and {width // _COLUMNS} multiprocessors"
    if properties.shared_memory_per_block_optin < _shared_bytes(config):
        return "too wide for this device's shared memory"
    return None


def lines_in_order(weight: torch.Tensor) -> torch.Tensor:
    """Weights as `multiply32` of the kernel reads them.

    Args:
        weight: (L, N, D), N a multiple of 32.

    Returns:
        (L, N / 32, 32 D): for each program's 32 lines its tiles of 16 x 16, each lane's 8 elements together.
    """
    layers, lines, width = weight.shape
    # line: program, tile, half, g; inner axis: pair, q, part, half, element
    split = weight.view(layers, lines // 32, 2, 2, 8, width // 32, 4, 2, 2, 2)
    return split.permute(0, 1, 5, 7, 2, 4, 6, 8, 3, 9).reshape(layers, lines // 32, -1)


def columns_in_order(weight: torch.Tensor) -> torch.Tensor:
    """Weights (L, D, K) as the kernel's `down` reads them: (L, D / 8, 8 K), a lane's 8 elements together."""
    layers, columns, inner = weight.shape
    split = weight.view(layers, columns // 8, 8, inner // 32, 4, 8)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(layers, columns // 8, -1)


def units_of(weight: torch.Tensor) -> torch.Tensor:
    """(3 D, D) of a GRU to (4 D, D): the three gates of 8 units together, and 8 lines of nothing."""
    width = weight.shape[1]
    gates = weight.view(3, width // _COLUMNS, _COLUMNS, width).transpose(0, 1)
    padded = torch.cat((gates, torch.zeros_like(gates[:, :1])), dim=1)
    return padded.reshape(4 * width, width)


def _behind_norm(gru: nn.GRU, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """A GRU's input weights (3 D, D) and bias (3 D,), the norm's and b_h of the first two gates folded in."""
    weight = gru.get_parameter("weight_ih_l0").detach()
    bias = gru_given_bias(gru) + weight @ norm.bias.detach().to(weight.dtype)
    return weight * norm.weight.detach().to(weight.dtype), bias


def _shared_bytes(config: PolicyConfig) -> int:
    """Of the kernel's `Shared`, or a little more."""
    width, horizon, layers = config.n_emb, config.horizon, config.n_layer
    pairs, programs = config.n_head * config.n_memory, width // _COLUMNS
    slots = 2 * (128 * width + pairs * 16 + 48 + 256)
    keys = (math.ceil(horizon * pairs / programs) + 2) * width * 2
    rest = layers * 32 + 24 * 4 + 8 * 8 * (36 + 8) * 4 + horizon * (pairs * 4 + 32 * 4 + 8) + 6 * 8
    return slots + keys + rest + 256  # and what alignment takes
