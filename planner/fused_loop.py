"""One plan's denoising loop in one persistent CUDA kernel (`loop_kernel.cu`), compiled here.

Its programs wait for each other and keep a layer's weights in shared memory, the next one's coming in as they
are used: it is made for a batch of one, for types of 16 bits and for Hopper, whose clusters it needs; later
devices were not tried. Elsewhere the loop runs on the Triton kernels, a launch for each phase.

All programs of a launch must come to run. The driver is asked whether they fit; but two plans at once on one
device, from two threads of a process, could keep each other from it for ever. An engine plans one at a time.
"""

from __future__ import annotations

import ctypes
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
_THREADS = 384
"""Of a program: eight warps that compute, and four of which one fetches."""
_COUNTS = 4 * 32
"""Integers for a launch's counts of programs that have arrived: a line of memory for each group."""
_LAUNCHES = 3
"""Of a plan, at most: the first step's history; that step and the next one's layers; all the rest."""
_CLUSTERS = (4, 2)
"""Sizes to choose from, the best first: programs that share the attention."""
_MAX_TOKENS = 8
"""Waypoints, and memory tokens: what the tensor cores take at once."""


class _LaunchConfig(ctypes.Structure):
    """The driver's `CUlaunchConfig`."""

    _fields_ = (
        *((f"{of}_{axis}", ctypes.c_uint) for of in ("grid", "block") for axis in "xyz"),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    )


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
        self._programs, self._layers = width // _COLUMNS, config.n_layer
        self._cluster = cluster = cluster_size(config)
        own = owned(self._programs, cluster)
        gru_input, gru_bias = _behind_norm(weights.gru, weights.head_norm)
        recurrent = weights.gru.get_parameter("weight_hh_l0").detach()
        gru = [units_of(part.to(dtype), own) for part in (gru_input, recurrent)]
        down = parted(weights.down, cluster)
        both = [lines_in_order(weights.up), lines_in_order(down, 8 * cluster)]
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
            "C": cluster,
            "CLIP": int(config.clip_sample),
            "BF16": int(dtype == torch.bfloat16),
            "EPS": f"{NORM_EPS}f",
            "HEAD_EPS": f"{weights.head_norm.eps}f",
            "INPUT_EPS": f"{weights.input_norm.eps}f",
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
                properties = torch.cuda.get_device_properties(self._device)
                # with what only this generation has: registers that move between warps
                target = f"{properties.major}{properties.minor}a"
                binary, _ = _utils._nvrtc_compile(self._source, _NAME, target)
                write_entry(path, binary)
            kernels: Any = _utils._cuda_load_module(binary, [_NAME])
            kernel = kernels[_NAME]
            kernel.set_shared_memory_config(self._shared_bytes)
            self._check_room(kernel, _utils)
        self._kernel = kernel

    def _check_room(self, kernel: Any, driver: Any) -> None:
        """Programs wait for each other: all must be there at once.

        Raises:
            RuntimeError: the device has no room for so many clusters.
        """
        launch = _LaunchConfig(self._programs, 1, 1, _THREADS, 1, 1, self._shared_bytes, None, None, 0)
        count, needed = ctypes.c_int(), self._programs // self._cluster
        library = getattr(driver, "_get_gpu_runtime_library", None) or driver._get_cuda_library
        query = library().cuOccupancyMaxActiveClusters
        status = query(ctypes.byref(count), kernel.func, ctypes.byref(launch))
        if status == 0 and count.value < needed:
            raise RuntimeError(f"this device runs {count.value} of its {needed} clusters at once")

    def memory(self, horizon: int, steps: int) -> torch.Tensor:
        """Where the programs of a plan's launches will tell each other, all bits set: nothing is told yet.

        Args:
            horizon: T.
            steps: S.
        """
        words = _LAUNCHES * _COUNTS + sum(self._told(horizon, steps)) + sum(self._told(horizon, 1))
        return torch.full((words,), -1, dtype=torch.int32, device=self._device)

    def _told(self, horizon: int, steps: int) -> tuple[int, int, int]:
        """Words of tokens behind each item, of hidden layers in 16 bits, and of the GRU's states."""
        width = self._programs * _COLUMNS
        layers = self._layers * steps
        return (layers + steps) * horizon * width, layers * horizon * 2 * width, steps * horizon * width

    def start(
        self,
        tokens: torch.Tensor,
        trajectory: torch.Tensor,
        hoisted: Hoisted,
        schedule: SampleSchedule,
        memory: torch.Tensor,
    ) -> LoopRun:
        """A plan's buffers.

        Args:
            tokens: (T, D) fp32 of the noise.
            trajectory: (T, 2) fp32, the noise; it is denoised in place.
            hoisted: see there.
            schedule: of the S steps.
            memory: of `memory`, for this plan alone.
        """
        levels = self._levels.get(schedule)
        if levels is None:  # kept: a graph must not copy from the host while it is recorded
            pairs = zip(schedule.alpha_bars, schedule.alpha_bars_next, strict=True)
            roots = [[math.sqrt(of) for of in (now, 1.0 - now, then, 1.0 - then)] for now, then in pairs]
            levels = self._levels[schedule] = torch.tensor(roots, device=tokens.device)
        given = [hoisted.modulation, hoisted.fold, hoisted.bias, hoisted.keys, hoisted.key_bias]
        horizon, steps = len(tokens), len(schedule.timesteps)
        numbers = (steps, hoisted.fold.stride(0), hoisted.bias.stride(0))
        # in this order each begins at a multiple of 16 bytes
        sizes = [_COUNTS] * _LAUNCHES + [*self._told(horizon, steps), *self._told(horizon, 1)]
        *counts, x, hidden, states, past_x, past_hidden, past_states = memory.split(sizes)
        own, past = (x, hidden, states), (past_x, past_hidden, past_states)

        def launch(
            items: range, history: torch.Tensor, first: int = 0, of: torch.Tensor | None = None
        ) -> None:
            """Some items.

            Args:
                items: layers of a step, then its head, and so on.
                history: (…, D) fp32 states of the GRU before each step's waypoints.
                first: step of the first of them.
                of: (n, D) fp32 tokens of the history, in place of the waypoints'.
            """
            recurring = 0
            rows, told = tokens, own
            if of is not None:
                recurring, told = len(of), past
                rows = nn.functional.pad(of, (0, 0, 0, horizon - recurring))
            arguments = [rows, *told, trajectory, counts.pop(), self._items, *given, hoisted.values]
            arguments += [history, levels, *self._small, items.start, items.stop, *numbers, first, recurring]
            self._kernel((self._programs, 1, 1), (_THREADS, 1, 1), arguments, self._shared_bytes)

        past_state = past_states.view(torch.float32).view(horizon, -1)
        return LoopRun(launch, self._layers + 1, steps, past_state)


class LoopRun:
    """One plan's loop in three launches, of which the last needs the history of all steps but the first.

    Args:
        launch: see `PersistentLoop.start`.
        items: of a step: its layers and its head.
        steps: S.
        past_states: (T, D) fp32 of the GRU, that the first launch tells.
    """

    def __init__(
        self, launch: Callable[..., None], items: int, steps: int, past_states: torch.Tensor
    ) -> None:
        self._launch, self._items, self._steps, self._past_states = launch, items, steps, past_states
        self._begun = min(2 * items - 1, steps * items)

    def begin(self, history: torch.Tensor, start: torch.Tensor) -> None:
        """The first step, its history in front, and the layers of the next one.

        Args:
            history: (n, D) fp32 tokens, n at most T.
            start: (1, D) fp32 state of the head's GRU before them.
        """
        self._launch(range(self._items), start, of=history)
        self._launch(range(self._begun), self._past_states[len(history) - 1 :])

    def rest(self, states: torch.Tensor) -> None:
        """What is left of the steps.

        Args:
            states: (S - 1, D) fp32 of the head's GRU after the history, of all steps but the first, which is
                not the only one.
        """
        self._launch(range(self._begun, self._steps * self._items), states, 1)


def why_not(config: PolicyConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernel cannot run such a network there; None where it can."""
    if device.type != "cuda":
        return "not on CUDA"
    width, head_width, horizon = config.n_emb, config.head_width, config.horizon
    if dtype not in (torch.float16, torch.bfloat16):
        return "for weights of 16 bits"
    if width % 32 or head_width < 16 or head_width & (head_width - 1) or head_width > 256:
        return "not for this width and number of heads"
    if not 2 <= horizon <= _MAX_TOKENS or config.n_memory > _MAX_TOKENS:
        return f"for 2 to {_MAX_TOKENS} waypoints, and at most as many memory tokens"
    if config.n_status > horizon:
        return "for no more status samples than waypoints"
    if not any(_divides(config, size) for size in _CLUSTERS):
        return "not for this number of heads at this width"
    properties: Any = torch.cuda.get_device_properties(device)  # its stub lacks some
    if properties.major != 9 or properties.multi_processor_count < width // _COLUMNS:
        return f"for compute capability 9 and {width // _COLUMNS} multiprocessors"
    if properties.shared_memory_per_block_optin < _shared_bytes(config):
        return "too wide, or of too many tokens, for this device's shared memory"
    return None


def cluster_size(config: PolicyConfig) -> int:
    """How many programs share the attention."""
    return next(size for size in _CLUSTERS if _divides(config, size))


def _divides(config: PolicyConfig, size: int) -> bool:
    """Whether heads, columns and what is to be done fit the warps of `size` programs; see `loop_parts.cu`."""
    heads = config.n_head // size
    whole = config.n_head % size == 0 and config.n_head % 2 == 0 and config.n_emb % (64 * size) == 0
    return whole and heads * config.n_memory <= 32 and config.horizon * heads <= 32


def owned(programs: int, cluster: int) -> torch.Tensor:
    """Which eight columns, counted in eights, each program owns: in the slice of its rank in its cluster."""
    return torch.arange(programs).view(cluster, -1).T.reshape(-1)


def lines_in_order(weight: torch.Tensor, own: int = 32) -> torch.Tensor:
    """Weights as `Lines::load` of the kernel reads them.

    Args:
        weight: (L, N, D), N a multiple of `own`.
        own: lines of a program, 16 or 32.

    Returns:
        (L, N / own, own D): for each program's lines its tiles of 16 x 16, each lane's 8 elements together.
    """
    layers, lines, width = weight.shape
    # line: program, tile, half, g; inner axis: pair, q, part, half, element
    split = weight.view(layers, lines // own, own // 16, 2, 8, width // 32, 4, 2, 2, 2)
    return split.permute(0, 1, 5, 7, 2, 4, 6, 8, 3, 9).reshape(layers, lines // own, -1)


def parted(weight: torch.Tensor, cluster: int) -> torch.Tensor:
    """Weights (L, D, K) by program: a cluster's columns, over each program's part of the inner axis.

    Returns:
        (L, C D, K / C): for each program 8 C lines, the eights of ranks 0, 1, ….
    """
    layers, columns, inner = weight.shape
    split = weight.view(layers, cluster, -1, 8, cluster, inner // cluster)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(layers, cluster * columns, inner // cluster)


def units_of(weight: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """(3 D, D) of a GRU to (4 D, D): the three gates of 8 units together, and 8 lines of nothing.

    Args:
        weight: see above.
        own: which eights of units, in their new order.
    """
    width = weight.shape[1]
    gates = weight.view(3, width // _COLUMNS, _COLUMNS, width).transpose(0, 1)[own]
    padded = torch.cat((gates, torch.zeros_like(gates[:, :1])), dim=1)
    return padded.reshape(4 * width, width)


def _behind_norm(gru: nn.GRU, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """A GRU's input weights (3 D, D) and bias (3 D,), the norm's and b_h of the first two gates folded in."""
    weight = gru.get_parameter("weight_ih_l0").detach()
    bias = gru_given_bias(gru) + weight @ norm.bias.detach().to(weight.dtype)
    return weight * norm.weight.detach().to(weight.dtype), bias


def _shared_bytes(config: PolicyConfig) -> int:
    """Of the kernel's `Shared`, or a little more."""
    width, heads, horizon = config.n_emb, config.n_head, config.horizon
    size = cluster_size(config)
    part, wide_row = width // size, 2 * width + 64
    slots = 128 * width + heads // size * config.n_memory * wide_row + heads * 8 * (2 * part + 16)
    slots += 2 * 2 * width + 3 * 2 * part + 16 + 256
    tokens = horizon * (3 * wide_row + 2 * (16 * heads + 16) + size * 8 + 32 + 32 * 4 + 8)
    rest = (
        config.n_layer * 16
        + 32 * 4
        + 8 * 8 * 36 * 4
        + 2 * 8 * 32 * 4
        + size * horizon * 32
        + 18 * width
        + 16 * 8
        + 64 * 8
        + 11 * 8
    )
    return slots + tokens + rest + 256  # and what alignment takes
