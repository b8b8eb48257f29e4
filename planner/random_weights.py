"""Random weights under which a parity check or a timing means something.

A fresh network's AdaLN gates are zero, so its decoder is the identity: any defect in it would go unseen. Here
every parameter is drawn, at a scale that keeps activations near 1 and gives every branch its share of the
residual.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.planner.engine import Inputs
from tickdrive.planner.layers import Attention, DecoderLayer, EncoderLayer, HeadRMSNorm, MergedDecoderLayer
from tickdrive.planner.policy import DiffusionPolicy


@torch.no_grad()
def randomize(policy: DiffusionPolicy, seed: int = 0) -> DiffusionPolicy:
    """Draw every parameter of a policy's network anew, in place; the scaling keeps its bounds.

    Args:
        policy: any; its network may be in any dtype.
        seed: of the draw, which is the same on every device.

    Returns:
        The policy.
    """
    generator = torch.Generator().manual_seed(seed)

    def fill(parameter: torch.Tensor, mean: float, std: float) -> None:
        draw = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(draw * std + mean)

    for module in policy.network.modules():
        if isinstance(module, nn.Linear):
            fill(module.weight, 0.0, 1.0 / math.sqrt(module.in_features))
            fill(module.bias, 0.0, 0.2)
        elif isinstance(module, nn.LayerNorm | HeadRMSNorm):
            fill(module.weight, 1.0, 0.2)
            if isinstance(module, nn.LayerNorm):
                fill(module.bias, 0.0, 0.2)
        elif isinstance(module, nn.GRU):
            for name, parameter in module.named_parameters():
                fill(parameter, 0.0, 1.0 / math.sqrt(parameter.shape[-1]) if "weight" in name else 0.2)
    for module in policy.network.modules():
        if isinstance(module, Attention):
            # scores of deviation 2: over hundreds of tokens a flatter attention is but their mean
            module.q.weight.mul_(2.0)
    network = policy.network
    for parameter in (network.vl_pool.query, network.reasoning_pool.query, network.position, network.segment):
        fill(parameter, 0.0, 0.7)
    fill(network.memory_position, 0.0, 0.7)
    for layer in network.decoder:
        assert isinstance(layer, DecoderLayer | MergedDecoderLayer)
        # parts of about 0.5: a gate that closes no branch, a shift and scale that matter
        fill(layer.modulation.weight, 0.0, 0.6 / math.sqrt(layer.modulation.in_features))
        fill(layer.modulation.bias, 0.0, 0.3)
    # keeps the denoised trajectory off the clip at [-1, 1], behind which a defect could hide
    network.head.out.weight.mul_(0.5)
    return policy


@torch.no_grad()
def branch_shares(policy: DiffusionPolicy, inputs: Inputs, timestep: int) -> dict[str, float]:
    """What each branch adds, over what it is added to: the norm of the one over that of the other.

    Args:
        policy: any.
        inputs: features, ego status and the noisy trajectory.
        timestep: of the prediction.

    Returns:
        By the branch's name. In a sum of equals (conditioning, embeddings) each is taken over the others.
    """
    network = policy.network
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(module: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        seen[module] = (given[0], out[0] if isinstance(out, tuple) else out)

    handles = [module.register_forward_hook(watch) for module in network.modules()]
    features, status, trajectory = inputs
    t = torch.full((len(trajectory),), timestep)
    network(
        trajectory,
        t,
        features.observation_tokens,
        features.vl_tokens,
        features.reasoning_tokens,
        status,
        features.vl_mask,
        features.reasoning_mask,
    )
    for handle in handles:
        handle.remove()
    shares: dict[str, float] = {}

    def add(name: str, branch: torch.Tensor, residual: torch.Tensor) -> None:
        shares[name] = float(branch.norm() / residual.expand(branch.shape).norm())

    def add_sum(name: str, parts: dict[str, torch.Tensor]) -> None:
        for part, tensor in parts.items():
            others = [other for key, other in parts.items() if key != part]
            rest = sum(others[1:], others[0])
            add(f"{name}.{part}", tensor.expand(torch.broadcast_shapes(tensor.shape, rest.shape)), rest)

    ego = network.ego_status
    time = network.embed_time(t, policy.dtype)
    current, history = seen[ego.current][1], seen[ego][1] - seen[ego.current][1]
    add_sum("conditioning", {"time": time, "current": current, "history": history})
    split = policy.config.n_status
    for name, embedding, segment, position in (
        ("history", network.history, network.segment[0], network.position[0, :split]),
        ("trajectory", network.trajectory, network.segment[1], network.position[0, split:]),
    ):
        add_sum(f"input.{name}", {"tokens": seen[embedding][1], "segment": segment, "position": position})
    for index, block in enumerate(network.encoder):
        assert isinstance(block, EncoderLayer)
        tokens, attended = seen[block][0], seen[block.attention][1]
        add(f"encoder.{index}.attention", attended, tokens)
        add(f"encoder.{index}.ffn", seen[block.ffn][1], tokens + attended)
    memory, update = seen[network.memory_mlp]
    add("memory_mlp", update, memory)
    for index, layer in enumerate(network.decoder):
        assert isinstance(layer, DecoderLayer | MergedDecoderLayer)
        tokens = seen[layer][0]
        parts = seen[layer.modulation][1][:, None].chunk(
            layer.modulation.out_features // tokens.shape[-1], -1
        )
        gates = list(parts[2::3])
        attention = layer.attention if isinstance(layer, MergedDecoderLayer) else layer.trajectory_attention
        if isinstance(layer, DecoderLayer):
            gated = gates.pop(0) * seen[layer.memory_attention][1]
            add(f"decoder.{index}.memory_attention", gated, memory + update)
        gated = gates[0] * seen[attention][1]
        add(f"decoder.{index}.attention", gated, tokens)
        add(f"decoder.{index}.ffn", gates[1] * seen[layer.ffn][1], tokens + gated)
    normed = seen[network.head.norm][1]
    add("head.gru", F.gelu(seen[network.head.gru][1]), normed)
    return shares
