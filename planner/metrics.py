"""What a trained planner and perception are worth on samples they were not trained on (open loop)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tickdrive.planner.augment import plain_image, plain_lidar
from tickdrive.planner.dataset import SampleTensors
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.recording import LIGHT_STATES
from tickdrive.planner.supervision import LEAD_RANGE_M, SPEED_SCALE_MPS, PerceptionModule


@torch.no_grad()
def evaluate(
    perception: PerceptionModule,
    policy: DiffusionPolicy,
    samples: SampleTensors,
    decisions: tuple[str, ...],
    majority: int,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 256,
    limit: int = 4096,
) -> dict[str, Any]:
    """Validate on a split; both modules in eval mode.

    Args:
        perception: to be judged.
        policy: to be judged, with its own number of DDIM steps and a fixed noise.
        samples: a validation split, on any device.
        decisions: names of the classes.
        majority: the class most frequent in training, whose accuracy here is the baseline.
        device: to compute on.
        dtype: for autocast; fp32 for none.
        batch_size: samples at once.
        limit: at most so many samples, evenly spread.

    Returns:
        JSON-able metrics. `ade_m` and `fde_m` are mean distances over all waypoints and at the last one; the
        same with all of perception's tokens zeroed and for a constant-velocity plan stand beside them.
    """
    count = min(limit, len(samples))
    chosen = torch.linspace(0, len(samples) - 1, count).round().long()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, policy.config.horizon, 2, generator=generator).to(device)
    kept: dict[str, list[torch.Tensor]] = {}
    for part in chosen.split(batch_size):
        batch = samples.select(part.to(samples.image.device), device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            features, predictions = perception(
                plain_image(batch.image), plain_lidar(batch.lidar_bev), batch.ego_status
            )
            start = noise.expand(len(part), -1, -1)
            plan = policy.conditional_sample(features, batch.ego_status, start)
            blind = replace(
                features,
                vl_tokens=torch.zeros_like(features.vl_tokens),
                reasoning_tokens=torch.zeros_like(features.reasoning_tokens),
                observation_tokens=torch.zeros_like(features.observation_tokens),
            )
            blind_plan = policy.conditional_sample(blind, batch.ego_status, start)
        time_s = policy.config.dt_s * torch.arange(1, policy.config.horizon + 1, device=device)
        straight = torch.zeros_like(batch.waypoints_in_ego)
        straight[:, :, 0] = batch.speed_mps[:, None] * time_s
        for name, value in {
            "error": _distance(plan, batch),
            "blind": _distance(blind_plan, batch),
            "straight": _distance(straight, batch),
            "decision": predictions.decision.argmax(1),
            "true_decision": batch.decision,
            "light": predictions.light.argmax(1),
            "true_light": batch.light,
            "lead": predictions.lead.float(),
            "true_lead": batch.lead,
            "target": (predictions.target_speed.float() - batch.target_speed).abs() * SPEED_SCALE_MPS,
        }.items():
            kept.setdefault(name, []).append(value.cpu())
    rows = {name: torch.cat(parts) for name, parts in kept.items()}
    has_lead = rows["true_lead"][:, 0] < 1.0
    lead_error_m = (rows["lead"][:, 0] - rows["true_lead"][:, 0]).abs() * LEAD_RANGE_M
    by_decision = {
        name: round(float(rows["error"][rows["true_decision"] == i].mean()), 4)
        for i, name in enumerate(decisions)
        if (rows["true_decision"] == i).any()
    }
    return {
        "samples": count,
        "ade_m": _mean(rows["error"]),
        "fde_m": _mean(rows["error"][:, -1]),
        "ade_m_by_decision": by_decision,
        "ade_zero_tokens_m": _mean(rows["blind"]),
        "ade_constant_velocity_m": _mean(rows["straight"]),
        "decision": _accuracy(rows["decision"], rows["true_decision"], decisions),
        "decision_majority": {
            "answer": decisions[majority],
            "accuracy": _mean((rows["true_decision"] == majority).float()),
        },
        "light": _accuracy(rows["light"], rows["true_light"], LIGHT_STATES),
        "lead_error_m": _mean(lead_error_m[has_lead]) if has_lead.any() else None,
        "lead_found": _accuracy((rows["lead"][:, 0] < 0.95).long(), has_lead.long(), ("none", "lead")),
        "target_speed_error_mps": _mean(rows["target"]),
    }


def _distance(plan: torch.Tensor, batch: SampleTensors) -> torch.Tensor:
    """(B, T) metres between planned and true waypoints."""
    return (plan.float() - batch.waypoints_in_ego).norm(dim=-1)


def _mean(values: torch.Tensor) -> float:
    return round(float(values.mean()), 4)


def _accuracy(got: torch.Tensor, true: torch.Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """Overall and balanced accuracy; recall, precision and count by class that occurs."""
    by_class: dict[str, Any] = {}
    for i, name in enumerate(names):
        actual, answered = true == i, got == i
        if not actual.any():
            continue
        hits = float((actual & answered).sum())
        by_class[name] = {
            "recall": round(hits / float(actual.sum()), 4),
            "precision": round(hits / float(answered.sum()), 4) if answered.any() else None,
            "n": int(actual.sum()),
        }
    recalls = [entry["recall"] for entry in by_class.values()]
    return {
        "accuracy": _mean((got == true).float()),
        "balanced_accuracy": round(sum(recalls) / len(recalls), 4),
        "by_class": by_class,
    }
