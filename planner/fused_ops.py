"""The Triton kernels as functions of tensors; tiles are chosen here, shapes checked by nobody but the engine.

See `tickdrive.planner.kernels` for what they compute. Importing this module needs Triton, which comes with
torch's CUDA builds. With `TRITON_INTERPRET=1` in the environment they run on the CPU, slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from tickdrive.planner import kernels

QUANT = 32
"""Weights along a row that share a scale in INT8."""
_LINE = 128
"""Bytes of a line of the L2 cache."""
_MAX_ROWS = 64
_COLUMNS = 64
"""Columns of one program of the attention's values."""
_SCORE_WARPS = 8
_VALUE_WARPS = 2
"""Warps of a program; measured on an H100 (`docs/performance.md`), as the tiles are."""
_OUTPUTS = 16
"""Output columns of one program of a product: the least that the tensor cores take."""


@dataclass(frozen=True)
class Weights:
    """A linear layer's weights as the kernels read them.

    Attributes:
        weight: (N, K), of the engine's dtype or int8.
        bias: (N,).
        scale: (N, K / QUANT) of int8 weights, else empty.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(
        cls, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, quantised: bool = False
    ) -> Weights:
        """Copies in a dtype; quantised to the nearest of 255 steps, a scale for each `QUANT` in a row."""
        bias = bias.detach().to(dtype).contiguous()
        weight = weight.detach()
        if not quantised:
            return cls(weight.to(dtype).contiguous(), bias, weight.new_empty(0, dtype=dtype))
        blocks = weight.float().unflatten(1, (-1, QUANT))
        # rounded first, so that the weights are rounded to the steps that will be used
        scale = (blocks.abs().amax(-1) / 127.0).clamp_(min=1e-7).to(dtype)
        narrow = (blocks / scale.float()[..., None]).round_().clamp_(-127.0, 127.0)
        return cls(narrow.flatten(1).to(torch.int8).contiguous(), bias, scale.contiguous())

    @property
    def bytes(self) -> int:
        """That reading them all reads."""
        return sum(item.numel() * item.element_size() for item in (self.weight, self.bias, self.scale))


@dataclass(frozen=True)
class Stream:
    """Tokens between layers, and what the next product needs of them.

    Attributes:
        tokens: (R, D) fp32.
        narrow: (R, D) of the engine's dtype, scaled by the norm that follows.
        stats: (R, blocks, 2) sums and sums of squares of `tokens` over blocks of columns.
    """

    tokens: torch.Tensor
    narrow: torch.Tensor
    stats: torch.Tensor


@dataclass(frozen=True)
class FoldedNorm:
    """A LayerNorm with scale and shift, folded into the product behind it.

    Attributes:
        fold: (groups, N) weights times scale.
        bias: (groups, N) weights times shift, plus the bias; of the same strides.
        eps: of the LayerNorm.
        group: rows of a group.
    """

    fold: torch.Tensor
    bias: torch.Tensor
    eps: float
    group: int


@dataclass(frozen=True)
class Split:
    """A product whose parts nobody has summed yet: gate * (bias + their sum) is to be added to a residual.

    Attributes:
        parts: (parts, R, N) fp32.
        bias: (N,).
        gate: (groups, N), a view whose rows may lie apart.
    """

    parts: torch.Tensor
    bias: torch.Tensor
    gate: torch.Tensor


@dataclass(frozen=True)
class Launch:
    """How kernels are launched.

    Attributes:
        pdl: programmatic dependent launch (Hopper and later).
        prefetch: fetch weights into the L2 cache before waiting; not in Triton's interpreter.
        at_once: programs that surely run at once, and may wait for each other; none in the interpreter.
    """

    pdl: bool = False
    prefetch: bool = False
    at_once: int = 0

    def line(self, weight: torch.Tensor) -> int:
        """Weights on a line of the L2 cache; 0 where nothing is fetched ahead."""
        return _LINE // weight.element_size() if self.prefetch else 0

    def options(self) -> dict[str, bool]:
        """What a launch takes besides a kernel's own arguments; the interpreter knows none."""
        return {"launch_pdl": True} if self.pdl else {}


def product(
    x: torch.Tensor,
    weights: Weights,
    launch: Launch,
    norm: tuple[FoldedNorm, torch.Tensor] | None = None,
    gelu: bool = False,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """[gelu](x W^T + b) of all rows.

    Args:
        x: (R, K) of the engine's dtype.
        weights: (N, K).
        launch: how to.
        norm: of the rows, and their `Stream.stats`; its bias takes the place of the weights'.
        gelu: apply GELU (by erf).
        out_dtype: of the result; None for x's.

    Returns:
        (R, N).
    """
    out = x.new_empty(len(x), len(weights.weight), dtype=out_dtype or x.dtype)
    _launch_product(x, weights, out, launch, norm, gelu)
    return out


def product_onto(x: torch.Tensor, weights: Weights, residual: torch.Tensor, launch: Launch) -> Stream:
    """The residual + x W^T + b, ready for a product with a norm whose scale is folded into its weights.

    Args:
        x: (R, K) of the engine's dtype.
        weights: (N, K).
        residual: (R, N) fp32.
        launch: how to.
    """
    narrow = x.new_empty(residual.shape)
    stats = residual.new_empty(len(x), triton.cdiv(residual.shape[1], _OUTPUTS), 2)
    stream = Stream(torch.empty_like(residual), narrow, stats)
    _launch_product(x, weights, stream.tokens, launch, onto=(residual, stream))
    return stream


def split_product(x: torch.Tensor, weights: Weights, gate: torch.Tensor, launch: Launch) -> Split:
    """Product x W^T in parts, for whoever reads it to sum.

    Args:
        x: (R, K) of the engine's dtype.
        weights: (N, K).
        gate: (groups, N) of what it will be added to.
        launch: how to.
    """
    count = 4 if x.shape[1] % 64 == 0 else 1
    parts = x.new_empty(count, len(x), len(weights.weight), dtype=torch.float32)
    _launch_product(x, weights, parts, launch, split=count)
    return Split(parts, weights.bias, gate)


def _launch_product(
    x: torch.Tensor,
    weights: Weights,
    out: torch.Tensor,
    launch: Launch,
    norm: tuple[FoldedNorm, torch.Tensor] | None = None,
    gelu: bool = False,
    onto: tuple[torch.Tensor, Stream] | None = None,
    split: int = 1,
) -> None:
    rows, inner = x.shape
    columns = len(weights.weight)
    span = inner // split
    tile = tile_of(rows, span // 2, onto is None)
    folded, stats = norm or (None, x)
    blocks = stats.shape[1] if folded else 1
    grid = (triton.cdiv(columns, tile.columns), triton.cdiv(rows, tile.rows), split)
    if onto is not None:
        assert grid[0] == onto[1].stats.shape[1]
    kernels.product_kernel[grid](
        x,
        weights.weight,
        weights.scale,
        folded.bias if folded else weights.bias,
        folded.fold if folded else x,
        stats,
        onto[0] if onto else x,
        out,
        onto[1].narrow if onto else x,
        onto[1].stats if onto else x,
        rows,
        folded.fold.stride(0) if folded and len(folded.fold) > 1 else 0,
        folded.eps if folded else 0.0,
        K=inner,
        N=columns,
        SPAN=span,
        GROUP=folded.group if folded else 1,
        NORM=folded is not None,
        BLOCKS=blocks,
        GELU=gelu,
        RESIDUAL=onto is not None,
        QUANT=QUANT if weights.weight.dtype == torch.int8 else 0,
        PREFETCH=launch.line(weights.weight),
        PDL=launch.pdl,
        BR=tile.rows,
        BN=tile.columns,
        BK=tile.inner,
        BLOCKS_P=triton.next_power_of_2(blocks),
        STAGES=tile.stages,
        num_warps=tile.warps,
        **launch.options(),
    )


def attend(
    tokens: torch.Tensor,
    before: Split | None,
    modulation: tuple[torch.Tensor, ...],
    keys: torch.Tensor,
    key_bias: torch.Tensor,
    values: torch.Tensor,
    out_bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    launch: Launch,
    group: int,
    n_memory: int,
) -> Stream:
    """The tokens [+ before] + gate * (their attention to a few folded keys and values + out_bias).

    Args:
        tokens: (R, D) fp32.
        before: what is still to be added to them.
        modulation: shift, scale, gate, and the scale of the norm that follows, (groups, D) each, rows lying
            apart by the same stride.
        keys: (H, groups M, D), perhaps a part of more: heads lie `stride(0)` apart.
        key_bias: (H, groups M), likewise.
        values: (H, groups M, D), likewise, of the same strides as `keys`.
        out_bias: (D,).
        eps: of the norm.
        dtype: of `Stream.narrow`.
        launch: how to.
        group: rows of a group.
        n_memory: M.
    """
    rows, width = tokens.shape
    heads = len(keys)
    shift, scale, gate, next_scale = modulation
    weights = tokens.new_empty(rows, n_memory, heads)
    parts, bias, before_gate = (before.parts, before.bias, before.gate) if before else (tokens, gate, gate)
    count = len(parts) if before else 0
    kernels.scores_kernel[(rows, heads)](
        tokens,
        parts,
        bias,
        before_gate,
        shift,
        scale,
        keys,
        key_bias,
        weights,
        rows,
        scale.stride(0),
        keys.stride(0),
        key_bias.stride(0),
        eps,
        PARTS=count,
        D=width,
        H=heads,
        W=width // heads,
        M=n_memory,
        GROUP=group,
        PDL=launch.pdl,
        HP=triton.next_power_of_2(heads),
        MP=triton.next_power_of_2(n_memory),
        num_warps=_SCORE_WARPS,
        **launch.options(),
    )
    blocks = triton.cdiv(width, _COLUMNS)
    stream = Stream(
        torch.empty_like(tokens),
        torch.empty_like(tokens, dtype=dtype),
        tokens.new_empty(rows, blocks, 2),
    )
    kernels.values_kernel[(rows, blocks)](
        tokens,
        parts,
        bias,
        before_gate,
        weights,
        values,
        out_bias,
        gate,
        next_scale,
        stream.tokens,
        stream.narrow,
        stream.stats,
        rows,
        scale.stride(0),
        values.stride(0),
        PARTS=count,
        D=width,
        H=heads,
        M=n_memory,
        GROUP=group,
        PDL=launch.pdl,
        PAIRS=triton.next_power_of_2(heads * n_memory),
        BC=_COLUMNS,
        num_warps=_VALUE_WARPS,
        **launch.options(),
    )
    return stream


def self_attend(qkv: torch.Tensor, n_tokens: int, n_head: int, launch: Launch) -> torch.Tensor:
    """Self-attention among the few tokens of each sample: (B M, 3 D) -> (B M, D)."""
    rows, width = len(qkv), qkv.shape[1] // 3
    out = qkv.new_empty(rows, width)
    kernels.self_attend_kernel[(rows // n_tokens, n_head)](
        qkv,
        out,
        (width // n_head) ** -0.5,
        H=n_head,
        W=width // n_head,
        M=n_tokens,
        PDL=launch.pdl,
        MP=max(16, triton.next_power_of_2(n_tokens)),
        num_warps=1,
        **launch.options(),
    )
    return out


def normed(
    tokens: torch.Tensor,
    before: Split | None,
    norm: torch.nn.LayerNorm,
    dtype: torch.dtype,
    launch: Launch,
    group: int = 1,
) -> Stream:
    """LayerNorm of the tokens [+ before].

    Args:
        tokens: (R, D) fp32.
        before: what is still to be added to them.
        norm: with weights of the engine's dtype.
        dtype: of `Stream.narrow`.
        launch: how to.
        group: rows of a group of `before`.
    """
    rows, width = tokens.shape
    stream = Stream(
        torch.empty_like(tokens), torch.empty_like(tokens, dtype=dtype), tokens.new_empty(rows, 1, 2)
    )
    kernels.norm_kernel[(rows,)](
        tokens,
        before.parts if before else tokens,
        before.bias if before else norm.bias,
        before.gate if before else norm.bias,
        norm.weight,
        norm.bias,
        stream.tokens,
        stream.narrow,
        stream.stats,
        rows,
        before.gate.stride(0) if before else 0,
        norm.eps,
        PARTS=len(before.parts) if before else 0,
        D=width,
        GROUP=group,
        PDL=launch.pdl,
        BD=triton.next_power_of_2(width),
        num_warps=4,
        **launch.options(),
    )
    return stream


def gru_given_bias(gru: torch.nn.GRU) -> torch.Tensor:
    """(3 D,) bias of a GRU's projected input: b_i, and b_h of reset and update gate, added anyway."""
    bias = gru.get_parameter("bias_ih_l0").detach().clone()
    both = 2 * gru.hidden_size
    bias[:both] += gru.get_parameter("bias_hh_l0").detach()[:both]
    return bias


def gru_weights(weight: torch.Tensor) -> torch.Tensor:
    """(3 D, D) W_h with the rows of one program together: (D / 16, 3, 16, D)."""
    width = weight.shape[1]
    return weight.view(3, width // _OUTPUTS, _OUTPUTS, width).transpose(0, 1).contiguous()


def gru(
    given: torch.Tensor,
    state: torch.Tensor,
    weight: torch.Tensor,
    candidate_bias: torch.Tensor,
    arrived: torch.Tensor,
    launch: Launch,
) -> torch.Tensor:
    """A GRU over a few tokens (see `tickdrive.planner.gru`).

    Args:
        given: (B, T, 3 D) fp32: W_i x + b_i, with b_h of reset and update gate added.
        state: (B, D) fp32 that it starts from.
        weight: of `gru_weights`.
        candidate_bias: (D,) b_h of the candidate.
        arrived: (ceil(B / 8),) int32 zeros; counts programs.
        launch: how to.

    Returns:
        (T, B, D) fp32 states.
    """
    (rows, width), tokens = state.shape, given.shape[1]
    tile = tile_of(min(rows, 16), width // 2)
    states = state.new_empty(tokens, rows, width)
    grid = (triton.cdiv(width, _OUTPUTS), triton.cdiv(rows, tile.rows))
    # all tokens in one launch where all programs fit on the device at once: they wait for each other
    count = tokens if grid[0] * grid[1] <= launch.at_once else 1
    for first in range(0, tokens, count):
        kernels.gru_kernel[grid](
            given,
            states[first - 1] if first else state,
            weight,
            candidate_bias,
            states,
            arrived,
            rows,
            first,
            T=tokens,
            COUNT=count,
            D=width,
            PREFETCH=launch.line(weight),
            PDL=launch.pdl,
            BR=tile.rows,
            BN=_OUTPUTS,
            BK=tile.inner,
            STAGES=tile.stages,
            num_warps=4,
            **launch.options(),
        )
    return states


@dataclass(frozen=True)
class Tile:
    """Block shapes of a product.

    Attributes:
        rows: tokens of a program.
        columns: outputs of a program.
        inner: of the inner axis, at a time.
        stages: such blocks under way.
        warps: of a program.
    """

    rows: int
    columns: int
    inner: int
    stages: int
    warps: int


def tile_of(rows: int, inner: int, wide: bool = False) -> Tile:
    """Block shapes: enough programs for every multiprocessor, and enough bytes under way in each.

    Args:
        rows: tokens.
        inner: length of one of the sums that a product is made of.
        wide: whether a program may have more columns where tokens are many, and cost more than weights.
    """
    tokens = min(_MAX_ROWS, max(8, triton.next_power_of_2(rows)))
    few = tokens <= 16
    reach = 128 if few else 64
    while inner % reach:
        reach //= 2
    if wide and not few:
        return Tile(tokens, 4 * _OUTPUTS, reach, 3, 4)
    return Tile(tokens, _OUTPUTS, reach, 4, 1 if few else 2)
