"""What perception is supervised with, beside the planner's diffusion loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from tickdrive.planner.dataset import NO_TAG, SampleTensors
from tickdrive.planner.supervision import AuxiliaryPredictions
from tickdrive.planner.training_config import LossWeights


def auxiliary_losses(
    predictions: AuxiliaryPredictions, batch: SampleTensors, decision_weights: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Losses of perception's own supervision, unweighted, by name; fp32 scalars."""
    has_lead = (batch.lead[:, 0] < 1.0).float()
    distance = F.smooth_l1_loss(predictions.lead[:, 0].float(), batch.lead[:, 0], beta=0.1)
    speed = F.smooth_l1_loss(predictions.lead[:, 1].float(), batch.lead[:, 1], beta=0.1, reduction="none")
    losses = {
        "decision": F.cross_entropy(predictions.decision.float(), batch.decision, weight=decision_weights),
        "light": F.cross_entropy(predictions.light.float(), batch.light),
        "lead": distance + (speed * has_lead).sum() / has_lead.sum().clamp(min=1.0),
        "target_speed": F.smooth_l1_loss(predictions.target_speed.float(), batch.target_speed, beta=0.1),
    }
    if predictions.semantic is not None:
        tags, logits = batch.semantic.long(), predictions.semantic.float()
        if logits.shape[2:] != tags.shape[1:]:  # a perception of another picture size
            logits = F.interpolate(logits, size=tags.shape[1:], mode="nearest")
        # summed and divided by hand: a batch without any tag is 0, not NaN
        summed = F.cross_entropy(logits, tags, ignore_index=NO_TAG, reduction="sum")
        losses["semantic"] = summed / (tags != NO_TAG).sum().clamp(min=1)
    return losses


def total_loss(losses: Mapping[str, torch.Tensor], weights: LossWeights) -> torch.Tensor:
    """The diffusion loss plus the weighted others."""
    total = losses["diffusion"]
    for name, value in losses.items():
        if name != "diffusion":
            total = total + getattr(weights, name) * value
    return total
