"""The encoder block as the hoisted engine runs it: what `encode_conditions` gives, in fewer products.

What is folded: the pooling query is a constant, so it goes into the key projection, and the values are
projected after pooling; query, key and value of an encoder layer are one product.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.layers import EncoderLayer, FeedForward, TokenPool
from tickdrive.planner.network import TransformerForDiffusion, at_least_one, join_context
from tickdrive.planner.packed import PackedLinear


class FoldedEncoder(nn.Module):
    """Features to memory and context.

    Args:
        network: in at least fp32, on its device.
        dtype: of the arranged weights.
    """

    position: torch.Tensor

    def __init__(self, network: TransformerForDiffusion, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.vl_pool = _FoldedPool(network.vl_pool, dtype)
        self.reasoning_pool = _FoldedPool(network.reasoning_pool, dtype)
        self.observation = PackedLinear.of(network.observation, dtype)
        self.register_buffer("position", network.memory_position.to(dtype))
        self.memory_norm = copy.deepcopy(network.memory_norm).to(dtype)
        self.layers = nn.ModuleList(
            _FoldedLayer(layer, dtype) for layer in network.encoder if isinstance(layer, EncoderLayer)
        )
        self.norm = copy.deepcopy(network.encoder_norm).to(dtype)
        self.mlp = _FoldedFeedForward(network.memory_mlp, dtype)

    def forward(
        self,
        observation_tokens: torch.Tensor,
        vl_tokens: torch.Tensor,
        reasoning_tokens: torch.Tensor,
        vl_mask: torch.Tensor | None = None,
        reasoning_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """`encode_conditions`, with context and mask joined.

        Args:
            observation_tokens: (B, n_observation, observation_width).
            vl_tokens: (B, N_vl, vl_width).
            reasoning_tokens: (B, N_r, reasoning_width).
            vl_mask: (B, N_vl), or None.
            reasoning_mask: (B, N_r), or None.

        Returns:
            Memory (B, M, d), context tokens (B, N, d) and their mask (B, N), None where all are real.
        """
        vl_tokens, vl_mask = at_least_one(vl_tokens.to(self.dtype), vl_mask)
        reasoning_tokens, reasoning_mask = at_least_one(reasoning_tokens.to(self.dtype), reasoning_mask)
        vl_features, vl = self.vl_pool(vl_tokens, vl_mask)
        reasoning_features, reasoning = self.reasoning_pool(reasoning_tokens, reasoning_mask)
        memory = self.encode_memory(observation_tokens.to(self.dtype), vl, reasoning)
        context, mask = join_context(vl_features, reasoning_features, vl_mask, reasoning_mask)
        return memory, context, mask

    def encode_memory(
        self, observation_tokens: torch.Tensor, vl: torch.Tensor, reasoning: torch.Tensor
    ) -> torch.Tensor:
        """The transformer encoder: (B, M, d), as `TransformerForDiffusion.encode_memory`."""
        observed = self.observation(observation_tokens)
        tokens = self.memory_norm(torch.cat((observed, vl, reasoning), dim=1) + self.position)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        return tokens + self.mlp(tokens)


class _FoldedPool(nn.Module):
    """`TokenPool` with its constant query folded into the keys, and values projected after pooling."""

    keys: torch.Tensor
    key_bias: torch.Tensor
    value: torch.Tensor
    value_bias: torch.Tensor

    def __init__(self, pool: TokenPool, dtype: torch.dtype) -> None:
        super().__init__()
        attention = pool.attention
        heads, width = attention.n_head, attention.q.in_features
        query = attention.q(pool.query[0, 0]).view(heads, -1) / math.sqrt(width // heads)
        keys = torch.einsum("he,hed->dh", query, attention.k.weight.view(heads, -1, width))
        self.register_buffer("keys", keys.to(dtype))
        self.register_buffer("key_bias", (query * attention.k.bias.view(heads, -1)).sum(-1).to(dtype))
        value = attention.v.weight.view(heads, -1, width).transpose(1, 2)
        self.register_buffer("value", value.to(dtype).contiguous())
        self.register_buffer("value_bias", attention.v.bias.to(dtype))
        self.projection = PackedLinear.of(pool.projection, dtype)
        self.norm = copy.deepcopy(pool.norm).to(dtype)
        self.out = PackedLinear.of(attention.out, dtype)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
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


class _FoldedLayer(nn.Module):
    """`EncoderLayer` with query, key and value in one product."""

    def __init__(self, layer: EncoderLayer, dtype: torch.dtype) -> None:
        super().__init__()
        attention = layer.attention
        parts = (attention.q, attention.k, attention.v)
        self.n_head = attention.n_head
        self.qkv = PackedLinear(
            torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]), dtype
        )
        self.out = PackedLinear.of(attention.out, dtype)
        self.attention_norm = copy.deepcopy(layer.attention_norm).to(dtype)
        self.ffn_norm = copy.deepcopy(layer.ffn_norm).to(dtype)
        self.ffn = _FoldedFeedForward(layer.ffn, dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, M, d) -> (B, M, d)."""
        batch, count, width = tokens.shape
        qkv = self.qkv(self.attention_norm(tokens)).view(batch, count, 3, self.n_head, -1)
        query, key, value = qkv.transpose(1, 3).unbind(2)  # each (B, H, M, d / H)
        seen = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(seen.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.ffn(self.ffn_norm(tokens))


class _FoldedFeedForward(nn.Module):
    """`FeedForward` on packed weights."""

    def __init__(self, ffn: FeedForward, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = PackedLinear.of(ffn.up, dtype, gelu=True)
        self.down = PackedLinear.of(ffn.down, dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(…, d) -> (…, d)."""
        return self.down(self.up(tokens))
