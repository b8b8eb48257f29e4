"""`TransformerForDiffusion`: predicts the noise in a noisy trajectory, from what was seen and where to go.

One part for each row of the study's table: time embedding, ego status, encoder block (VL projection and
pooling, reasoning projection and pooling, transformer encoder), input embedding, decoder, trajectory head.
"""

from __future__ import annotations

import torch
from torch import nn

from tickdrive.planner.layers import (
    DecoderLayer,
    EgoStatusEncoder,
    EncoderLayer,
    FeedForward,
    MergedDecoderLayer,
    TokenPool,
    TrajectoryHead,
    time_embedding,
)
from tickdrive.planner.network_config import PolicyConfig


class TransformerForDiffusion(nn.Module):
    """The planner's network.

    Shapes: B batch, d = `n_emb`, M = `n_memory` memory tokens, T = `horizon` waypoints. Masks are bool, True
    where a token is real; None when all are. Token sets may be of any length, zero included.

    Args:
        config: sizes.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        d, drop = config.n_emb, config.p_drop_attn
        # conditioning
        self.ego_status = EgoStatusEncoder(config.status_width, d)
        # encoder block
        self.vl_pool = TokenPool(config.vl_width, d, config.n_head, drop)
        self.reasoning_pool = TokenPool(config.reasoning_width, d, config.n_head, drop)
        self.observation = nn.Linear(config.observation_width, d)
        self.memory_position = nn.Parameter(torch.randn(1, config.n_memory, d) * 0.02)
        self.memory_norm = nn.LayerNorm(d)
        self.encoder = nn.ModuleList(
            EncoderLayer(d, config.n_head, drop) for _ in range(config.n_encoder_layer)
        )
        self.encoder_norm = nn.LayerNorm(d)
        self.memory_mlp = FeedForward(d, drop)
        # input embedding
        self.trajectory = nn.Linear(2, d)
        self.history = nn.Linear(config.status_width, d)
        self.position = nn.Parameter(torch.randn(1, config.n_status + config.horizon, d) * 0.02)
        self.segment = nn.Parameter(torch.randn(2, d) * 0.02)
        self.input_norm = nn.LayerNorm(d)
        self.drop = nn.Dropout(config.p_drop_emb)
        # decoder: every layer an object of its own
        kind = MergedDecoderLayer if config.merged_attention else DecoderLayer
        self.decoder = nn.ModuleList(kind(d, config.n_head, drop) for _ in range(config.n_layer))
        self.head = TrajectoryHead(d)
        for layer in self.decoder:  # AdaLN-zero: the decoder starts as the identity
            assert isinstance(layer, DecoderLayer | MergedDecoderLayer)
            nn.init.zeros_(layer.modulation.weight)
            nn.init.zeros_(layer.modulation.bias)

    def encode_conditions(
        self,
        cond: torch.Tensor,
        gen_vit_tokens: torch.Tensor,
        reasoning_query_tokens: torch.Tensor,
        vl_mask: torch.Tensor | None = None,
        reasoning_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What does not depend on the timestep: run once a plan.

        Args:
            cond: (B, n_observation, observation_width) observation tokens, oldest first.
            gen_vit_tokens: (B, N_vl, vl_width) vision-language tokens.
            reasoning_query_tokens: (B, N_r, reasoning_width) reasoning tokens.
            vl_mask: (B, N_vl).
            reasoning_mask: (B, N_r).

        Returns:
            memory (B, M, d), vl_features (B, N_vl, d), reasoning_features (B, N_r, d).
        """
        vl_features, vl = self.vl_pool(*at_least_one(gen_vit_tokens, vl_mask))
        reasoning_features, reasoning = self.reasoning_pool(
            *at_least_one(reasoning_query_tokens, reasoning_mask)
        )
        return (
            self.encode_memory(cond, vl, reasoning),
            vl_features[:, : gen_vit_tokens.shape[1]],
            reasoning_features[:, : reasoning_query_tokens.shape[1]],
        )

    def encode_memory(self, cond: torch.Tensor, vl: torch.Tensor, reasoning: torch.Tensor) -> torch.Tensor:
        """The transformer encoder.

        Args:
            cond: (B, n_observation, observation_width).
            vl: (B, 1, d) pooled VL token.
            reasoning: (B, 1, d) pooled reasoning token.

        Returns:
            (B, M, d) memory.
        """
        tokens = torch.cat((self.observation(cond), vl, reasoning), dim=1) + self.memory_position
        tokens = self.drop(self.memory_norm(tokens))
        for layer in self.encoder:
            tokens = layer(tokens)
        tokens = self.encoder_norm(tokens)
        return tokens + self.memory_mlp(tokens)

    def decode_trajectory(
        self,
        trajectory: torch.Tensor,
        t: torch.Tensor,
        memory: torch.Tensor,
        vl_features: torch.Tensor,
        reasoning_features: torch.Tensor,
        ego_status: torch.Tensor,
        vl_mask: torch.Tensor | None = None,
        reasoning_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One prediction: run once a denoising step.

        Args:
            trajectory: (B, T, 2) noisy normalised trajectory.
            t: (B,) timesteps, 0..num_train_timesteps - 1.
            memory: (B, M, d) of `encode_conditions`, as are the next two.
            vl_features: (B, N_vl, d).
            reasoning_features: (B, N_r, d).
            ego_status: (B, n_status, status_width), oldest first.
            vl_mask: (B, N_vl).
            reasoning_mask: (B, N_r).

        Returns:
            (B, T, 2) predicted noise.
        """
        conditioning = self.conditioning(t, ego_status)
        context, mask = join_context(vl_features, reasoning_features, vl_mask, reasoning_mask)
        tokens = self.embed_input(trajectory, ego_status)
        tokens = self.decode(tokens, memory, context, mask, conditioning)
        return self.head(tokens, conditioning)[:, -self.config.horizon :]

    def decode(
        self,
        tokens: torch.Tensor,
        memory: torch.Tensor,
        context: torch.Tensor,
        mask: torch.Tensor | None,
        conditioning: torch.Tensor,
    ) -> torch.Tensor:
        """All decoder layers; arguments and result as in `DecoderLayer.forward`."""
        for layer in self.decoder:
            tokens = layer(tokens, memory, context, mask, conditioning)
        return tokens

    def forward(
        self,
        trajectory: torch.Tensor,
        t: torch.Tensor,
        cond: torch.Tensor,
        gen_vit_tokens: torch.Tensor,
        reasoning_query_tokens: torch.Tensor,
        ego_status: torch.Tensor,
        vl_mask: torch.Tensor | None = None,
        reasoning_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`encode_conditions`, then `decode_trajectory`; (B, T, 2) predicted noise."""
        encoded = self.encode_conditions(
            cond, gen_vit_tokens, reasoning_query_tokens, vl_mask, reasoning_mask
        )
        return self.decode_trajectory(trajectory, t, *encoded, ego_status, vl_mask, reasoning_mask)

    def conditioning(self, t: torch.Tensor, ego_status: torch.Tensor) -> torch.Tensor:
        """AdaLN conditioning (B, d): time embedding plus ego status."""
        ego = self.ego_status(ego_status)
        return self.embed_time(t, ego.dtype) + ego

    def embed_time(self, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Time embedding (B, d) of (B,) timesteps."""
        return time_embedding(t, self.config.n_emb, dtype)

    def embed_input(self, trajectory: torch.Tensor, ego_status: torch.Tensor) -> torch.Tensor:
        """Decoder tokens (B, n_status + T, d): history, then noisy trajectory."""
        tokens = torch.cat((self.embed_history(ego_status), self.embed_trajectory(trajectory)), dim=1)
        return self.drop(tokens)

    def embed_history(self, ego_status: torch.Tensor) -> torch.Tensor:
        """Decoder tokens (B, n_status, d) of the ego status samples."""
        tokens = self.history(ego_status) + self.position[:, : self.config.n_status] + self.segment[0]
        return self.input_norm(tokens)

    def embed_trajectory(self, trajectory: torch.Tensor) -> torch.Tensor:
        """Decoder tokens (B, T, d) of the noisy trajectory."""
        tokens = self.trajectory(trajectory) + self.position[:, self.config.n_status :] + self.segment[1]
        return self.input_norm(tokens)


def join_context(
    vl_features: torch.Tensor,
    reasoning_features: torch.Tensor,
    vl_mask: torch.Tensor | None,
    reasoning_mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """VL and reasoning tokens side by side, (B, N_vl + N_r, d), with their joint mask."""
    context = torch.cat((vl_features, reasoning_features), dim=1)
    if context.shape[1] == 0:
        return at_least_one(context, None)
    if vl_mask is None and reasoning_mask is None:
        return context, None
    masks = [
        torch.ones(features.shape[:2], dtype=torch.bool, device=features.device) if mask is None else mask
        for features, mask in ((vl_features, vl_mask), (reasoning_features, reasoning_mask))
    ]
    return context, torch.cat(masks, dim=1)


def at_least_one(tokens: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An empty token set becomes one masked token, so that no attention meets an empty axis."""
    if tokens.shape[1]:
        return tokens, mask
    batch, _, width = tokens.shape
    return tokens.new_zeros(batch, 1, width), torch.zeros(batch, 1, dtype=torch.bool, device=tokens.device)
