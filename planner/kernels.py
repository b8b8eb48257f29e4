# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Triton kernels for a handful of tokens: what is left of the decoder when everything else is hoisted.

At six tokens a product is its weights' way from memory, and what is around it costs latency only. A layer is
four kernels, each ending where every program needs what all others made: the scores of a few folded keys,
their values, and the two products of the feed-forward. Norms ride along: with s and t the modulation,

    W ((x - mean) / dev * s + t) + b = (W (x s) - mean W s) / dev + (W t + b)

so a product reads x s as it is, and needs mean and deviation (`stats`, summed from blocks of columns) only
behind it; W s and W t + b are hoisted.

Rows are tokens; groups of `GROUP` rows share a modulation (a plan's points, or a plan's history at one step).
Residual streams are fp32, operands of a product are of the weights' type, sums are fp32. A product that is
split along its inner axis leaves its parts to be summed by whoever reads them.

`PDL` (programmatic dependent launch, from Hopper on) starts a kernel while the one before it drains. It
fetches what nobody writes (weights, keys, values), then waits before it reads what others wrote. Every kernel
waits, so that the order of the chain holds.
"""

from __future__ import annotations

import triton
import triton.language as tl

_RMS_EPS = tl.constexpr(1e-6)


@triton.jit
def _let_next_start(PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait(PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _gelu(x):
    return x * 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _add_both(first, second, more_first, more_second):
    return first + more_first, second + more_second


@triton.jit
def _sums(tokens):
    """Sum and sum of squares of all of a tile, in one reduction: each costs barriers."""
    return tl.reduce((tl.ravel(tokens), tl.ravel(tokens * tokens)), 0, _add_both)


@triton.jit
def _to_l2(address):
    """Fetch lines into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _summed(x, partial, bias, gate, at, real, size, PARTS: tl.constexpr):
    """The residual stream at some places: x, and behind a split product gate (bias + its parts)."""
    tokens = tl.load(x + at[0], mask=real, other=0.0)
    if PARTS:
        more = tl.load(bias + at[1], mask=real, other=0.0).to(tl.float32)
        for part in tl.static_range(PARTS):
            more += tl.load(partial + part * size + at[0], mask=real, other=0.0)
        tokens += more * tl.load(gate + at[1], mask=real, other=0.0).to(tl.float32)
    return tokens


@triton.jit
def _weights(
    w,
    w_scale,
    col,
    inner,
    first,
    real,
    K: tl.constexpr,
    QUANT: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    weight = tl.load(w + col[:, None] * K + inner[None, :], mask=real[:, None], other=0)
    if QUANT:
        block = first // QUANT + tl.arange(0, BK // QUANT)
        step = w_scale + col[:, None] * (K // QUANT) + block[None, :]
        step = tl.load(step, mask=real[:, None], other=0.0)
        blocks = tl.reshape(weight.to(step.dtype), (BN, BK // QUANT, QUANT))
        weight = tl.reshape(blocks * step[:, :, None], (BN, BK))
    return weight


@triton.jit
def product_kernel(
    x,  # (R, K) of the weights' type
    w,  # (N, K), maybe int8
    w_scale,  # (N, K / QUANT)
    bias,  # (N,); with NORM (groups, N), rows `fold_stride` apart: W t + b
    fold,  # (groups, N), likewise: W s
    stats,  # (R, BLOCKS, 2) sums and sums of squares of x's row before scaling
    residual,  # (R, N) fp32
    out,  # (R, N); of a split product (parts, R, N) fp32
    narrow_out,  # (R, N), with RESIDUAL: out in the weights' type
    stats_out,  # (R, programs, 2), with RESIDUAL
    rows,
    fold_stride,
    eps,
    K: tl.constexpr,
    N: tl.constexpr,
    SPAN: tl.constexpr,  # of K, for one program
    GROUP: tl.constexpr,
    NORM: tl.constexpr,
    BLOCKS: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    QUANT: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
    BR: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BLOCKS_P: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The product x W^T of a few rows, with what surrounds it."""
    col = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.program_id(1) * BR + tl.arange(0, BR)
    part = tl.program_id(2)
    real = row < rows
    real_col = col < N
    first = part * SPAN
    _let_next_start(PDL)
    if PREFETCH:
        for k in tl.static_range(0, SPAN, PREFETCH * 8):
            # eight lines of 128 bytes a row at a time; past the end it is the last line again
            line = tl.minimum(k + tl.arange(0, 8) * PREFETCH, SPAN - 1)
            _to_l2(w + tl.minimum(col, N - 1)[:, None] * K + first + line[None, :])
    there = real_col[:, None] & real[None, :]
    target = row[None, :] * N + col[:, None]
    plus = tl.zeros((BN, BR), tl.float32)
    scaled = tl.zeros((BN, BR), tl.float32)
    if NORM:
        by_group = (row // GROUP)[None, :] * fold_stride + col[:, None]
        plus += tl.load(bias + by_group, mask=there, other=0.0).to(tl.float32)
        scaled += tl.load(fold + by_group, mask=there, other=0.0).to(tl.float32)
    else:
        if SPAN == K:
            plus += tl.load(bias + col, mask=real_col, other=0.0).to(tl.float32)[:, None]
    _wait(PDL)
    mean = tl.zeros((BR,), tl.float32)
    inverse = mean + 1.0
    if NORM:
        block = tl.arange(0, BLOCKS_P)
        where = stats + (row[:, None] * BLOCKS + block[None, :]) * 2
        known = real[:, None] & (block < BLOCKS)[None, :]
        mean = tl.sum(tl.load(where, mask=known, other=0.0), 1) / K
        square = tl.sum(tl.load(where + 1, mask=known, other=0.0), 1) / K
        inverse = tl.rsqrt(square - mean * mean + eps)
    if RESIDUAL:
        plus += tl.load(residual + target, mask=there, other=0.0)
    # two sums at a time: an addition to the same one waits for the last
    summed = tl.zeros((BN, BR), tl.float32)
    more = tl.zeros((BN, BR), tl.float32)
    HALF: tl.constexpr = SPAN // 2
    for k in tl.range(0, HALF, BK, num_stages=STAGES):
        inner = first + k + tl.arange(0, BK)
        weight = _weights(w, w_scale, col, inner, first + k, real_col, K, QUANT, BN, BK)
        tokens = tl.load(x + row[:, None] * K + inner[None, :], mask=real[:, None], other=0.0)
        summed = tl.dot(weight, tl.trans(tokens), summed, input_precision="ieee")
        inner = inner + HALF
        weight = _weights(w, w_scale, col, inner, first + HALF + k, real_col, K, QUANT, BN, BK)
        tokens = tl.load(x + row[:, None] * K + inner[None, :], mask=real[:, None], other=0.0)
        more = tl.dot(weight, tl.trans(tokens), more, input_precision="ieee")
    summed = (summed + more - mean[None, :] * scaled) * inverse[None, :] + plus
    if GELU:
        summed = _gelu(summed)
    if RESIDUAL:
        tl.store(narrow_out + target, summed.to(narrow_out.dtype.element_ty), mask=there)
        where = stats_out + (row * tl.num_programs(0) + tl.program_id(0)) * 2
        kept = tl.where(there, summed, 0.0)
        tl.store(where, tl.sum(kept, 0), mask=real)
        tl.store(where + 1, tl.sum(kept * kept, 0), mask=real)
    tl.store(out + part * rows * N + target, summed.to(out.dtype.element_ty), mask=there)


@triton.jit
def scores_kernel(
    x,  # (R, D) fp32
    partial,  # (PARTS, R, D) fp32 of the product before
    before_bias,  # (D,)
    before_gate,  # (groups, D), rows `modulation_stride` apart
    shift,  # (groups, D), likewise
    scale,
    keys,  # (H, groups M, D), heads `head_stride` apart
    key_bias,  # (H, groups M), heads `bias_stride` apart
    weights,  # (R, M, H) fp32: softmax of the scores
    rows,
    modulation_stride,
    head_stride,
    bias_stride,
    eps,
    PARTS: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    M: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
    HP: tl.constexpr,
    MP: tl.constexpr,
):
    """Softmax of one row's scores in one head."""
    row = tl.program_id(0)
    of_head = tl.program_id(1)
    group = row // GROUP
    head = tl.arange(0, HP)
    token = tl.arange(0, MP)
    at = head[:, None] * W + tl.arange(0, W)[None, :]
    real = at < D
    _let_next_start(PDL)
    start = keys + of_head * head_stride + (group * M + token) * D
    known = (token < M)[:, None, None] & real[None, :, :]
    key = tl.load(start[:, None, None] + at[None, :, :], mask=known, other=0.0)
    bias = tl.load(key_bias + of_head * bias_stride + group * M + token, mask=token < M, other=0.0)
    by = tl.load(scale + group * modulation_stride + at, mask=real, other=0.0).to(tl.float32)
    plus = tl.load(shift + group * modulation_stride + at, mask=real, other=0.0).to(tl.float32)
    _wait(PDL)
    places = (row * D + at, at)
    gate = before_gate + group * modulation_stride
    tokens = _summed(x, partial, before_bias, gate, places, real, rows * D, PARTS)
    total, squares = _sums(tokens)
    mean = total / D
    slices = (tokens - mean) * tl.rsqrt(squares / D - mean * mean + eps) * by + plus
    # each head-sized slice by its length: its RMSNorm, whose sqrt(W) cancels the scores' 1 / sqrt(W)
    slices = slices * tl.rsqrt(tl.sum(slices * slices, 1) + W * _RMS_EPS)[:, None]
    scores = tl.sum(tl.reshape(key.to(tl.float32) * slices[None, :, :], (MP, HP * W)), 1) + bias.to(
        tl.float32
    )
    scores = tl.where(token < M, scores, -1e30)
    attention = tl.exp(scores - tl.max(scores, 0))
    attention = attention / tl.sum(attention, 0)
    tl.store(weights + (row * M + token) * H + of_head, attention, mask=token < M)


@triton.jit
def values_kernel(
    x,  # (R, D) fp32
    partial,  # (PARTS, R, D) fp32 of the product before
    before_bias,  # (D,)
    before_gate,  # (groups, D), rows `modulation_stride` apart
    weights,  # (R, M, H) fp32
    values,  # (H, groups M, D), heads `head_stride` apart
    out_bias,  # (D,)
    gate,  # (groups, D)
    next_scale,  # (groups, D): of the norm that follows
    out,  # (R, D) fp32
    narrow_out,  # (R, D): out * next_scale
    stats_out,  # (R, programs, 2)
    rows,
    modulation_stride,
    head_stride,
    PARTS: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    M: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
    PAIRS: tl.constexpr,
    BC: tl.constexpr,
):
    """What one row attends to, added to it; some columns."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    group = row // GROUP
    col = block * BC + tl.arange(0, BC)
    real = col < D
    pair = tl.arange(0, PAIRS)  # memory token m, head h at m H + h
    there = pair < M * H
    _let_next_start(PDL)
    start = values + pair % H * head_stride + (group * M + pair // H) * D
    value = tl.load(start[:, None] + col[None, :], mask=there[:, None] & real[None, :], other=0.0)
    by = tl.load(gate + group * modulation_stride + col, mask=real, other=0.0).to(tl.float32)
    next_by = tl.load(next_scale + group * modulation_stride + col, mask=real, other=0.0).to(tl.float32)
    plus = tl.load(out_bias + col, mask=real, other=0.0).to(tl.float32)
    _wait(PDL)
    attention = tl.load(weights + row * (M * H) + pair, mask=there, other=0.0)
    places = (row * D + col, col)
    before = before_gate + group * modulation_stride
    tokens = _summed(x, partial, before_bias, before, places, real, rows * D, PARTS)
    tokens += by * (tl.sum(value.to(tl.float32) * attention[:, None], 0) + plus)
    tokens = tl.where(real, tokens, 0.0)
    tl.store(out + row * D + col, tokens, mask=real)
    tl.store(narrow_out + row * D + col, (tokens * next_by).to(narrow_out.dtype.element_ty), mask=real)
    where = stats_out + (row * tl.num_programs(1) + block) * 2
    total, squares = _sums(tokens)
    tl.store(where, total)
    tl.store(where + 1, squares)


@triton.jit
def self_attend_kernel(
    qkv,  # (B, M, 3, H, W)
    out,  # (B, M, H, W)
    root,  # 1 / sqrt(W)
    H: tl.constexpr,
    W: tl.constexpr,
    M: tl.constexpr,
    PDL: tl.constexpr,
    MP: tl.constexpr,
):
    """Attention among the few tokens of a sample, in one head."""
    sample = tl.program_id(0)
    head = tl.program_id(1)
    token = tl.arange(0, MP)
    inside = tl.arange(0, W)
    real = (token < M)[:, None] & (inside < W)[None, :]
    _let_next_start(PDL)
    _wait(PDL)
    where = qkv + (sample * M + token)[:, None] * (3 * H * W) + head * W + inside[None, :]
    query = tl.load(where, mask=real, other=0.0)
    key = tl.load(where + H * W, mask=real, other=0.0)
    value = tl.load(where + 2 * H * W, mask=real, other=0.0)
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * root
    scores = tl.where((token < M)[None, :], scores, -1e30)
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    seen = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    target = out + (sample * M + token)[:, None] * (H * W) + head * W + inside[None, :]
    tl.store(target, seen.to(out.dtype.element_ty), mask=real)


@triton.jit
def gru_kernel(
    given,  # (B, T, 3 D) fp32: W_i x + b_i, with b_h of reset and update gate added
    state,  # (B, D) fp32
    w,  # (D / BN, 3, BN, D) W_h, a program's rows together
    candidate_bias,  # (D,)
    states,  # (T, B, D) fp32
    arrived,  # (programs along the rows,) int32, zero; with COUNT above 1
    rows,
    first,  # token
    T: tl.constexpr,
    COUNT: tl.constexpr,  # tokens; above 1 all programs must be running at once
    D: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
    BR: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Some units of a GRU, for one token or all."""
    row = tl.program_id(1) * BR + tl.arange(0, BR)
    line = tl.arange(0, 4 * BN)  # gate, then unit; the fourth gate is padding
    col = tl.program_id(0) * BN + tl.arange(0, BN)
    real = row < rows
    start = w + (tl.program_id(0) * (3 * BN) + tl.minimum(line, 3 * BN - 1)) * D
    _let_next_start(PDL)
    if PREFETCH:
        for k in tl.static_range(0, D, PREFETCH * 8):
            ahead = tl.minimum(k + tl.arange(0, 8) * PREFETCH, D - 1)
            _to_l2(start[:, None] + ahead[None, :])
    gate = tl.arange(0, 4)[:, None, None]
    there = real[None, :] & (col < D)[:, None]
    bias = tl.load(candidate_bias + col, mask=col < D, other=0.0).to(tl.float32)[:, None]
    target = row[None, :] * D + col[:, None]
    used = (line < 3 * BN)[:, None]
    HALF: tl.constexpr = D // 2
    _wait(PDL)
    known = state
    for step in tl.static_range(COUNT):
        token = first + step
        where = given + (row * T + token)[None, :] * (3 * D) + col[:, None]
        for_reset = tl.load(where, mask=there, other=0.0)
        for_update = tl.load(where + D, mask=there, other=0.0)
        for_candidate = tl.load(where + 2 * D, mask=there, other=0.0)
        before = tl.load(known + target, mask=there, other=0.0, cache_modifier=".cg")
        # two sums at a time: an addition to the same one waits for the last
        summed = tl.zeros((4 * BN, BR), tl.float32)
        more = tl.zeros((4 * BN, BR), tl.float32)
        for k in tl.range(0, HALF, BK, num_stages=STAGES):
            inner = k + tl.arange(0, BK)
            at = known + row[:, None] * D + inner[None, :]
            weight = tl.load(start[:, None] + inner[None, :], mask=used, other=0.0)
            now = tl.load(at, mask=real[:, None], other=0.0, cache_modifier=".cg").to(weight.dtype)
            summed = tl.dot(weight, tl.trans(now), summed, input_precision="ieee")
            weight = tl.load(start[:, None] + inner[None, :] + HALF, mask=used, other=0.0)
            now = tl.load(at + HALF, mask=real[:, None], other=0.0, cache_modifier=".cg").to(weight.dtype)
            more = tl.dot(weight, tl.trans(now), more, input_precision="ieee")
        gates = tl.reshape(summed + more, (4, BN, BR))
        reset = _sigmoid(tl.sum(tl.where(gate == 0, gates, 0.0), 0) + for_reset)
        update = _sigmoid(tl.sum(tl.where(gate == 1, gates, 0.0), 0) + for_update)
        candidate = reset * (tl.sum(tl.where(gate == 2, gates, 0.0), 0) + bias) + for_candidate
        candidate = 2.0 * _sigmoid(2.0 * candidate) - 1.0  # tanh
        known = states + token * rows * D
        tl.store(known + target, candidate + update * (before - candidate), mask=there)
        if step + 1 < COUNT:
            # the next token needs every program's part of this one's state
            tl.debug_barrier()
            wanted = (step + 1) * tl.num_programs(0)
            tl.atomic_add(arrived + tl.program_id(1), 1, sem="release", scope="gpu")
            while tl.atomic_add(arrived + tl.program_id(1), 0, sem="acquire", scope="gpu") < wanted:
                pass
            tl.debug_barrier()


@triton.jit
def _normed(tokens, weight, bias, at, real, eps, D: tl.constexpr):
    """LayerNorm of one row, zeros behind it."""
    total, squares = _sums(tokens)
    mean = total / D
    inverse = tl.rsqrt(squares / D - mean * mean + eps)
    by = tl.load(weight + at, mask=real, other=0.0).to(tl.float32)
    plus = tl.load(bias + at, mask=real, other=0.0).to(tl.float32)
    return (tokens - mean) * inverse * by + plus


@triton.jit
def norm_kernel(
    x,  # (R, D) fp32
    partial,  # (PARTS, R, D) fp32 of the product before
    before_bias,  # (D,)
    before_gate,  # (groups, D), rows `modulation_stride` apart
    weight,  # (D,)
    bias,  # (D,)
    out,  # (R, D) fp32
    narrow_out,  # (R, D)
    stats_out,  # (R, 1, 2) of out
    rows,
    modulation_stride,
    eps,
    PARTS: tl.constexpr,
    D: tl.constexpr,
    GROUP: tl.constexpr,
    PDL: tl.constexpr,
    BD: tl.constexpr,
):
    """LayerNorm of one row."""
    row = tl.program_id(0)
    at = tl.arange(0, BD)
    real = at < D
    _let_next_start(PDL)
    _wait(PDL)
    gate = before_gate + row // GROUP * modulation_stride
    tokens = _summed(x, partial, before_bias, gate, (row * D + at, at), real, rows * D, PARTS)
    tokens = _normed(tokens, weight, bias, at, real, eps, D)
    tl.store(out + row * D + at, tokens, mask=real)
    tl.store(narrow_out + row * D + at, tokens.to(narrow_out.dtype.element_ty), mask=real)
    total, squares = _sums(tl.where(real, tokens, 0.0))
    tl.store(stats_out + 2 * row, total)
    tl.store(stats_out + 2 * row + 1, squares)


@triton.jit
def advance_kernel(
    normed,  # (B T, D) fp32 tokens behind the head's norm
    states,  # (T, B, D) fp32 of the head's GRU
    trajectory,  # (B T, 2) fp32
    head_out,  # (2, D)
    head_out_bias,  # (2,)
    points,  # (2, D)
    points_bias,  # (T, D)
    input_norm,  # (D,)
    input_norm_bias,
    next_trajectory,  # (B T, 2) fp32
    tokens_out,  # (B T, D) fp32
    batch,
    root,  # sqrt(alpha_bar)
    noise,  # sqrt(1 - alpha_bar)
    next_root,
    next_noise,
    input_eps,
    T: tl.constexpr,
    D: tl.constexpr,
    PREDICT: tl.constexpr,
    CLIP: tl.constexpr,
    EMBED: tl.constexpr,
    PDL: tl.constexpr,
    BD: tl.constexpr,
):
    """One row's predicted noise, DDIM's step, and the token of the next step."""
    row = tl.program_id(0)
    at = tl.arange(0, BD)
    real = at < D
    _let_next_start(PDL)
    _wait(PDL)
    x_now = tl.load(trajectory + 2 * row)
    y_now = tl.load(trajectory + 2 * row + 1)
    if PREDICT:
        tokens = tl.load(normed + row * D + at, mask=real, other=0.0)
        tokens += _gelu(tl.load(states + (row % T * batch + row // T) * D + at, mask=real, other=0.0))
        for_x = tokens * tl.load(head_out + at, mask=real, other=0.0).to(tl.float32)
        for_y = tokens * tl.load(head_out + D + at, mask=real, other=0.0).to(tl.float32)
        predicted_x, predicted_y = tl.reduce((for_x, for_y), 0, _add_both)
        predicted_x += tl.load(head_out_bias).to(tl.float32)
        predicted_y += tl.load(head_out_bias + 1).to(tl.float32)
        x_now = (x_now - noise * predicted_x) / root
        y_now = (y_now - noise * predicted_y) / root
        if CLIP:
            x_now = tl.minimum(tl.maximum(x_now, -1.0, tl.PropagateNan.ALL), 1.0, tl.PropagateNan.ALL)
            y_now = tl.minimum(tl.maximum(y_now, -1.0, tl.PropagateNan.ALL), 1.0, tl.PropagateNan.ALL)
        x_now = next_root * x_now + next_noise * predicted_x
        y_now = next_root * y_now + next_noise * predicted_y
        tl.store(next_trajectory + 2 * row, x_now)
        tl.store(next_trajectory + 2 * row + 1, y_now)
    if EMBED:
        tokens = tl.load(points_bias + row % T * D + at, mask=real, other=0.0).to(tl.float32)
        tokens += x_now * tl.load(points + at, mask=real, other=0.0).to(tl.float32)
        tokens += y_now * tl.load(points + D + at, mask=real, other=0.0).to(tl.float32)
        tokens = _normed(tokens, input_norm, input_norm_bias, at, real, input_eps, D)
        tl.store(tokens_out + row * D + at, tokens, mask=real)
