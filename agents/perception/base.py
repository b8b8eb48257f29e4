"""What a feature extractor is: it turns a tick's inputs into tokens for the planner and words for the log.

Extractors are known by name (`perception.kind` of the agent's configuration) and built by `load_extractor`;
the built-in ones go the same way as any other that calls `register_extractor`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch

from tickdrive.agents.config import PerceptionConfig
from tickdrive.agents.types import PlannerInputs, Reasoning
from tickdrive.planner.checkpoint import PERCEPTION_FOLDER
from tickdrive.planner.errors import CheckpointError, ConfigError, did_you_mean
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

VL_SPAN = "vl"
REASONING_SPAN = "reasoning"
"""Names of the two spans that every extractor times its work by (kind `random` has its own, see there)."""


class FeatureExtractor(Protocol):
    """Perception as the agent sees it. Shared between routes and without state of its own."""

    @property
    def name(self) -> str:
        """Kind, device and dtype, for the log."""
        ...

    def example_inputs(self) -> PlannerInputs:
        """Blank inputs of the sizes it takes, to warm up with."""
        ...

    def extract(
        self, inputs: PlannerInputs, tracer: Tracer | None = None
    ) -> tuple[Features, Reasoning | None]:
        """Tokens of one tick.

        Args:
            inputs: the tick's picture, bird's-eye history and ego status.
            tracer: gets the spans `vl` (VL and observation tokens) and `reasoning`.

        Returns:
            Features of batch 1 on the extractor's device, and what the reasoning tokens say (None where the
            extractor cannot put it into words).
        """
        ...


Builder = Callable[[PerceptionConfig, Path | None, PolicyConfig, torch.device], FeatureExtractor]
"""(configuration, folder of trained weights or None, the planner's sizes, device) -> extractor."""

_BUILDERS: dict[str, Builder] = {}
_BUILT_IN = {
    "compact": "tickdrive.agents.perception.compact",
    "vlm": "tickdrive.agents.perception.vlm",
    "random": "tickdrive.agents.perception.random_features",
}


def register_extractor(name: str, builder: Builder) -> None:
    """Make an extractor known by a name. The last registration of a name holds."""
    _BUILDERS[name] = builder


def load_extractor(
    config: PerceptionConfig,
    planner_checkpoint: Path | None,
    policy: PolicyConfig,
    device: torch.device | str = "cpu",
) -> FeatureExtractor:
    """Build the extractor that a configuration names, ready to run.

    Args:
        config: kind, model, and where its weights are.
        planner_checkpoint: folder of the planner's checkpoint; its `perception` folder is used where the
            configuration names no other.
        policy: the planner's sizes, which the tokens have to fit.
        device: torch device.

    Raises:
        ConfigError: there is no extractor of that name, or what it needs is not installed.
        CheckpointError: its weights are missing, damaged, or their tokens do not fit the planner.
    """
    if config.kind in _BUILT_IN and config.kind not in _BUILDERS:
        import_module(_BUILT_IN[config.kind])  # registers itself; transformers loads only now
    if config.kind not in _BUILDERS:
        raise ConfigError(
            f"There is no feature extractor {config.kind!r}.",
            did_you_mean(config.kind, {*_BUILDERS, *_BUILT_IN}),
        )
    folder: Path | None = None
    if config.checkpoint:
        folder = Path(config.checkpoint).expanduser()
    elif planner_checkpoint is not None:
        folder = Path(planner_checkpoint) / PERCEPTION_FOLDER
    return _BUILDERS[config.kind](config, folder, policy, torch.device(device))


def check_widths(source: str, features: Features, policy: PolicyConfig) -> None:
    """Refuse tokens that the planner cannot take.

    Raises:
        CheckpointError: names the kind of token and both widths.
    """
    for kind, tokens, width in (
        ("VL", features.vl_tokens, policy.vl_width),
        ("reasoning", features.reasoning_tokens, policy.reasoning_width),
        ("observation", features.observation_tokens, policy.observation_width),
    ):
        if tokens.shape[-1] != width:
            raise CheckpointError(
                f"{source} gives {kind} tokens of width {tokens.shape[-1]}; the planner takes {width}.",
                "Use the perception that the planner was trained with.",
            )
