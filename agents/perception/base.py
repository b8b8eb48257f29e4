"""What a feature extractor is: it turns a tick's inputs into tokens for the planner and words for the log.

Extractors are known by name (`perception.kind` of the agent's configuration) and built by `build_extractor`;
the built-in ones go the same way as any other that calls `register_extractor`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

from tickdrive.agents.config import PerceptionConfig
from tickdrive.agents.types import PlannerInputs, Reasoning
from tickdrive.planner.errors import ConfigError, did_you_mean
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

VL_SPAN = "vl"
REASONING_SPAN = "reasoning"
"""Names of the two spans that every extractor times its work by."""


class FeatureExtractor(Protocol):
    """Perception as the agent sees it. Shared between routes and without state of its own."""

    @property
    def name(self) -> str:
        """Kind, device and dtype, for the log."""
        ...

    def warm_up(self) -> None:
        """Run once on blank inputs, so that the first tick is as fast as the others."""
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


Builder = Callable[[PerceptionConfig, Path | None, str], FeatureExtractor]
"""(configuration, checkpoint folder or None, torch device) -> extractor."""

_BUILDERS: dict[str, Builder] = {}
_BUILT_IN = {"compact": "tickdrive.agents.perception.compact", "vlm": "tickdrive.agents.perception.vlm"}


def register_extractor(name: str, builder: Builder) -> None:
    """Make an extractor known by a name. The last registration of a name holds."""
    _BUILDERS[name] = builder


def build_extractor(
    config: PerceptionConfig, checkpoint: Path | None = None, device: str = "cpu"
) -> FeatureExtractor:
    """Build the extractor that a configuration names.

    Args:
        config: kind and model.
        checkpoint: folder of its trained weights.
        device: torch device.

    Raises:
        ConfigError: there is no extractor of that name, or what it needs is not installed.
        CheckpointError: its weights are missing, damaged or made for another network.
    """
    if config.kind in _BUILT_IN and config.kind not in _BUILDERS:
        import_module(_BUILT_IN[config.kind])  # registers itself; torch and transformers load only now
    if config.kind not in _BUILDERS:
        raise ConfigError(
            f"There is no feature extractor {config.kind!r}.",
            did_you_mean(config.kind, {*_BUILDERS, *_BUILT_IN}),
        )
    return _BUILDERS[config.kind](config, checkpoint, device)
