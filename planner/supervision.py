"""What perception is taught beside planning: the seam between the trainer and any perception module.

The trainer knows perception only as a `PerceptionModule`, so that `planner/` needs nothing of `agents/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from tickdrive.planner.types import Features

LEAD_RANGE_M = 40.0
"""A vehicle ahead counts up to here; distances are learnt as a share of it, and 1 means none."""

SPEED_SCALE_MPS = 10.0
"""Speeds are learnt as multiples of this."""


@dataclass(frozen=True)
class AuxiliaryPredictions:
    """What the reasoning tokens say.

    Attributes:
        decision: (B, n_decisions) logits, classes as the recording names them.
        light: (B, 4) logits: none, green, yellow, red.
        lead: (B, 2) distance to the vehicle ahead / `LEAD_RANGE_M` and its speed / `SPEED_SCALE_MPS`.
        target_speed: (B,) speed the expert wants / `SPEED_SCALE_MPS`.
        semantic: (B, n_tags, h, w) logits of a coarse semantic map; None outside training.
    """

    decision: torch.Tensor
    light: torch.Tensor
    lead: torch.Tensor
    target_speed: torch.Tensor
    semantic: torch.Tensor | None = None


M = TypeVar("M", bound=nn.Module)


def channels_last(module: M) -> M:
    """Lay the module's convolution weights out channels-last, the fast form on CPU and GPU; in place."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
    return module


class PerceptionModule(Protocol):
    """What the trainer asks of a perception `torch.nn.Module`; ours is `CompactPerception` of the agent."""

    def __call__(
        self, image: torch.Tensor, lidar_bev: torch.Tensor, ego_status: torch.Tensor
    ) -> tuple[Features, AuxiliaryPredictions]:
        """Tokens and predictions.

        Args:
            image: (B, 3, H, W) float RGB, 0..255.
            lidar_bev: (B, T_obs, planes, size, size) float, 0..1, oldest first.
            ego_status: (B, n_status, status_width) float, oldest first.
        """
        ...

    def save_pretrained(
        self, folder: str | Path, metadata: dict[str, Any] | None = None, half: bool = False
    ) -> None:
        """Write a checkpoint folder."""
        ...
