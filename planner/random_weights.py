"""Random weights under which a parity check or a timing means something.

A fresh network's AdaLN gates are zero, so its decoder is the identity: any defect in it would go unseen. Here
every parameter is drawn, at a scale that keeps activations near 1 and gives every branch its share of the
residual.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from tickdrive.planner.layers import DecoderLayer, HeadRMSNorm, MergedDecoderLayer
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
