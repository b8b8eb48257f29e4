"""What goes into the planner and what comes out of it. Nothing here knows CARLA.

Frames: *ego* is CARLA's vehicle frame, left-handed: origin at the actor's transform at the observation
frame, x forward, y right, metres. Plan waypoint i stands at time (i + 1) * dt_s after the observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

STATUS_FIELDS = 14
"""Width of the study's ego status: speed, heading, throttle, brake, one-hot command (6), target point
x y, past position x y."""


@dataclass(frozen=True)
class Features:
    """What perception hands to the planner. Any number and width of tokens; masks mark padding.

    Attributes:
        vl_tokens: (B, N_vl, D_vl) vision-language tokens.
        reasoning_tokens: (B, N_r, D_r) reasoning query tokens.
        observation_tokens: (B, T_obs, D_obs) one feature per observed frame, oldest first.
        vl_mask: (B, N_vl) bool, True where a token is real; None when all are.
        reasoning_mask: (B, N_r) bool, likewise.
        age_ticks: ticks between the observation these were computed from and the present one.
    """

    vl_tokens: torch.Tensor
    reasoning_tokens: torch.Tensor
    observation_tokens: torch.Tensor
    vl_mask: torch.Tensor | None = None
    reasoning_mask: torch.Tensor | None = None
    age_ticks: int = 0


@dataclass(frozen=True)
class Plan:
    """A planned trajectory.

    Attributes:
        waypoints_in_ego: (B, T, 2) float32, metres, x forward and y right of the ego at the observation.
        dt_s: time between waypoints; the first one stands at +dt_s.
        steps: denoising steps that were run.
        engine: name of the engine that computed it, with any fallback it announced.
    """

    waypoints_in_ego: np.ndarray
    dt_s: float
    steps: int
    engine: str
