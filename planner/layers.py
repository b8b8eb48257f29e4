"""The layers that the planner's network is made of.

Shapes: B batch, T tokens, d = `n_emb`, H heads of width d / H. Masks are bool, True where a token is real.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

NORM_EPS = 1e-6
MODULATION_PARTS = 9
"""shift, scale, gate for each of memory attention, trajectory attention and feed-forward, in this order."""
MERGED_MODULATION_PARTS = 6
"""shift, scale, gate for the merged attention and for feed-forward, in this order."""


def time_embedding(timestep: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Sinusoidal embedding of the diffusion timestep (Vaswani et al. 2017, section 3.5).

    Frequencies are computed in at least fp32 whatever the network's dtype, so that a network cast to
    bf16 sees the same times.

    Args:
        timestep: (B,) timesteps.
        width: even width d of the embedding.
        dtype: of the result.

    Returns:
        (B, d): sines, then cosines.
    """
    work = torch.float64 if dtype == torch.float64 else torch.float32
    half = width // 2
    exponent = torch.arange(half, device=timestep.device, dtype=work) / max(half - 1, 1)
    angle = timestep.to(work)[:, None] * torch.exp(-math.log(10000.0) * exponent)[None]
    return torch.cat((angle.sin(), angle.cos()), dim=-1).to(dtype)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Scaled dot product attention in which a sample without one real token gets zeros, not NaN.

    Args:
        query: (B, H, T_q, d / H).
        key: (B, H, T_k, d / H).
        value: (B, H, T_k, d / H).
        mask: (B, T_k) bool, or None when every token is real.
        dropout: probability, of attention weights.

    Returns:
        (B, H, T_q, d / H).
    """
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    some = mask.any(dim=-1)
    allowed = (mask | ~some[:, None])[:, None, None, :]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    return out * some[:, None, None, None].to(out.dtype)


class HeadRMSNorm(nn.Module):
    """RMSNorm of each head-sized slice of a token, with a weight per head.

    It acts on the *input* of the query and key projections (the studied architecture), which keeps those
    projections linear: a query projection can be folded into the keys.
    """

    def __init__(self, width: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.weight = nn.Parameter(torch.ones(n_head, width // n_head))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(…, d) -> (…, d)."""
        return (head_rms(tokens, self.n_head).unflatten(-1, (self.n_head, -1)) * self.weight).flatten(-2)


def head_rms(tokens: torch.Tensor, n_head: int) -> torch.Tensor:
    """Divide each head-sized slice of (…, d) tokens by its root mean square."""
    slices = tokens.unflatten(-1, (n_head, -1))
    if torch.onnx.is_in_onnx_export():
        return exported_rms(slices).flatten(-2)
    # torch's kernel, and its gradient's most of all, is slow for short slices
    if tokens.requires_grad:
        scale = torch.rsqrt(slices.float().square().mean(-1, keepdim=True) + NORM_EPS)
        return (slices * scale.to(tokens.dtype)).flatten(-2)
    return F.rms_norm(slices, (slices.shape[-1],), eps=NORM_EPS).flatten(-2)


def exported_rms(slices: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """RMSNorm over the last axis, times `scale`, written as ONNX Runtime makes one operation of it.

    ONNX before opset 23 has none; the runtime knows this pattern only with a weight behind it.
    """
    weight = torch.full(slices.shape[-1:], scale)
    mean = slices.pow(2).mean(-1, keepdim=True)
    return slices / torch.sqrt(mean + NORM_EPS) * weight


class Attention(nn.Module):
    """Multi-head attention from one set of tokens to another, on torch's fused path.

    Args:
        width: d.
        n_head: H.
        qk_norm: normalise the inputs of the query and key projections (`HeadRMSNorm`).
        dropout: of attention weights, in training.
    """

    def __init__(self, width: int, n_head: int, qk_norm: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_head = n_head
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.q_norm = HeadRMSNorm(width, n_head) if qk_norm else None
        self.k_norm = HeadRMSNorm(width, n_head) if qk_norm else None

    def forward(
        self, tokens: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`tokens` (B, T_q, d) attend to `context` (B, T_k, d) where `mask` (B, T_k) is True; (B, T_q, d)."""
        query = self._heads(self.q(self.q_norm(tokens) if self.q_norm else tokens))
        key = self._heads(self.k(self.k_norm(context) if self.k_norm else context))
        value = self._heads(self.v(context))
        out = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.out(out.transpose(1, 2).flatten(-2))

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (self.n_head, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear d -> 4d, GELU, Linear 4d -> d."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(…, d) -> (…, d)."""
        return self.drop(self.down(F.gelu(self.up(tokens))))


class TokenPool(nn.Module):
    """Projects tokens of a foreign width to d, and pools them into one by a learned query."""

    def __init__(self, token_width: int, width: int, n_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.projection = nn.Linear(token_width, width)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = Attention(width, n_head, qk_norm=False, dropout=dropout)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Project and pool.

        Args:
            tokens: (B, N, D); contents under padding may be anything, NaN included.
            mask: (B, N) bool, or None.

        Returns:
            The projected tokens (B, N, d) and the pooled one (B, 1, d).
        """
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
        projected = self.norm(self.projection(tokens))
        return projected, self.attention(self.query.expand(len(tokens), -1, -1), projected, mask)


class EncoderLayer(nn.Module):
    """Pre-LN transformer encoder layer: self-attention, then GELU feed-forward."""

    def __init__(self, width: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, n_head, qk_norm=False, dropout=dropout)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = FeedForward(width, dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, d) -> (B, T, d)."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed)
        return tokens + self.ffn(self.ffn_norm(tokens))


def modulate(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """AdaLN (Peebles and Xie 2023): LayerNorm without weights, then scale and shift from the conditioning.

    Args:
        tokens: (B, T, d).
        shift: (B, 1, d).
        scale: (B, 1, d), 0 being no change.
    """
    return F.layer_norm(tokens, tokens.shape[-1:], eps=NORM_EPS) * (1.0 + scale) + shift


class DecoderLayer(nn.Module):
    """One decoder layer under AdaLN-zero; no self-attention.

    1. The encoder memory attends to the VL and reasoning tokens (gated residual).
    2. The trajectory attends to that memory (gated residual).
    3. Feed-forward of the trajectory (gated residual).

    The updated memory is this layer's own: the next layer starts from the encoder's again.
    """

    def __init__(self, width: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.memory_attention = Attention(width, n_head, qk_norm=True, dropout=dropout)
        self.trajectory_attention = Attention(width, n_head, qk_norm=True, dropout=dropout)
        self.ffn = FeedForward(width, dropout)
        self.modulation = nn.Linear(width, MODULATION_PARTS * width)

    def forward(
        self,
        tokens: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor | None,
        conditioning: torch.Tensor,
    ) -> torch.Tensor:
        """One layer.

        Args:
            tokens: (B, T, d) embedded history and trajectory.
            memory: (B, M, d) of the encoder.
            context: (B, N, d) projected VL and reasoning tokens.
            context_mask: (B, N) bool, or None.
            conditioning: (B, d) of timestep and ego status.

        Returns:
            (B, T, d).
        """
        parts = self.modulation(F.silu(conditioning))[:, None].chunk(MODULATION_PARTS, dim=-1)
        shift, scale, gate = parts[0:3]
        memory = memory + gate * self.memory_attention(modulate(memory, shift, scale), context, context_mask)
        shift, scale, gate = parts[3:6]
        tokens = tokens + gate * self.trajectory_attention(modulate(tokens, shift, scale), memory)
        shift, scale, gate = parts[6:9]
        return tokens + gate * self.ffn(modulate(tokens, shift, scale))


class MergedDecoderLayer(nn.Module):
    """One decoder layer with one cross-attention over memory, VL and reasoning tokens; AdaLN-zero.

    1. The trajectory attends to memory and context together (gated residual).
    2. Feed-forward of the trajectory (gated residual).
    """

    def __init__(self, width: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, n_head, qk_norm=True, dropout=dropout)
        self.ffn = FeedForward(width, dropout)
        self.modulation = nn.Linear(width, MERGED_MODULATION_PARTS * width)

    def forward(
        self,
        tokens: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        context_mask: torch.Tensor | None,
        conditioning: torch.Tensor,
    ) -> torch.Tensor:
        """As `DecoderLayer.forward`."""
        parts = self.modulation(F.silu(conditioning))[:, None].chunk(MERGED_MODULATION_PARTS, dim=-1)
        seen = torch.cat((memory, context), dim=1)
        mask = None if context_mask is None else F.pad(context_mask, (memory.shape[1], 0), value=True)
        shift, scale, gate = parts[0:3]
        tokens = tokens + gate * self.attention(modulate(tokens, shift, scale), seen, mask)
        shift, scale, gate = parts[3:6]
        return tokens + gate * self.ffn(modulate(tokens, shift, scale))


class EgoStatusEncoder(nn.Module):
    """Ego status for the conditioning: the present through a Linear, the history through a GRU, summed."""

    def __init__(self, status_width: int, width: int) -> None:
        super().__init__()
        self.current = nn.Linear(status_width, width)
        self.history = nn.GRU(status_width, width, batch_first=True)

    def forward(self, ego_status: torch.Tensor) -> torch.Tensor:
        """(B, n_status, status_width), oldest first -> (B, d)."""
        _, last = self.history(ego_status)
        return self.current(ego_status[:, -1]) + last[-1]


class TrajectoryHead(nn.Module):
    """LayerNorm, unidirectional GRU over the tokens, GELU residual, Linear d -> 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.initial = nn.Linear(width, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, 2)

    def forward(self, tokens: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """(B, T, d) tokens and (B, d) conditioning, from which the GRU's state starts -> (B, T, 2)."""
        normed = self.norm(tokens)
        run, _ = self.gru(normed, torch.tanh(self.initial(conditioning))[None])
        return self.out(normed + F.gelu(run))
