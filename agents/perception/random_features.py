"""Random tokens in place of a perception: for timing a planner that no perception was trained with.

They cost what drawing them costs, and stand for no extractor's time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tickdrive.agents.config import PerceptionConfig
from tickdrive.agents.perception.base import register_extractor
from tickdrive.agents.types import PlannerInputs, Reasoning
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

RANDOM_SPAN = "random_features"
"""In place of `vl` and `reasoning`, so that nobody takes it for an extractor's time."""


class RandomExtractor:
    """Draws tokens anew each tick, on the planner's device, in fp32, which every engine takes.

    Args:
        policy: the planner's sizes.
        tokens: numbers of VL and of reasoning tokens.
        device: torch device.
    """

    def __init__(self, policy: PolicyConfig, tokens: tuple[int, int], device: torch.device) -> None:
        self.device = device
        self._policy = policy
        self._tokens = tokens
        self._generator = torch.Generator(device).manual_seed(0)

    @property
    def name(self) -> str:
        """For the log."""
        return f"random float32 {self.device}"

    def example_inputs(self) -> PlannerInputs:
        """See `FeatureExtractor.example_inputs`; of any size, for nothing looks at them."""
        policy = self._policy
        return PlannerInputs(
            image=np.zeros((1, 1, 3), np.uint8),
            lidar_bev=np.zeros((policy.n_observation, 1, 1, 1), np.uint8),
            ego_status=np.zeros((policy.n_status, policy.status_width), np.float32),
        )

    def extract(
        self, inputs: PlannerInputs, tracer: Tracer | None = None
    ) -> tuple[Features, Reasoning | None]:
        """See `FeatureExtractor.extract`; the inputs are not looked at, the only span is `RANDOM_SPAN`."""
        policy = self._policy
        n_vl, n_reasoning = self._tokens
        with (tracer or Tracer()).span(RANDOM_SPAN, str(self.device)):
            features = Features(
                vl_tokens=self._draw(n_vl, policy.vl_width),
                reasoning_tokens=self._draw(n_reasoning, policy.reasoning_width),
                observation_tokens=self._draw(policy.n_observation, policy.observation_width),
            )
        return features, None

    def _draw(self, count: int, width: int) -> torch.Tensor:
        return torch.randn(1, count, width, generator=self._generator, device=self.device)


def _build(
    config: PerceptionConfig, folder: Path | None, policy: PolicyConfig, device: torch.device
) -> RandomExtractor:
    n_vl, n_reasoning = config.random_tokens
    return RandomExtractor(policy, (n_vl, n_reasoning), device)


register_extractor("random", _build)
