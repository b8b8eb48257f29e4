"""The hoisted engine on the CPU with each stage recorded once: torch replays it without going through Python.

At six tokens an operation takes one or two microseconds, and getting to it from Python as long again; a
plan is some 1,500 of them. A recording (`torch.jit.trace`) is of fixed shapes, so there is one for each that
`warm_up` was told to expect. A plan of other shapes, with padded tokens or without one token of a kind runs
as in the hoisted engine; that is said once in the log.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tickdrive.planner.engine import Part, PlannerEngine, example_inputs
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.hoisted import HoistedEngine, Stages
from tickdrive.planner.hoisted_decoder import Conditions, FoldedDecoder
from tickdrive.planner.hoisted_encoder import FoldedEncoder
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.types import Features

log = logging.getLogger(__name__)

_SETTLING_RUNS = 3
"""Replays until torch has profiled and optimised a recording."""

Shapes = tuple[int, int, int, int]
"""Batch, VL tokens, reasoning tokens, steps."""


class TracedEngine(HoistedEngine):
    """See the module's text."""

    name = "traced"

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        if device.type != "cpu":
            raise PlannerError(f"The traced engine was asked to run on {device}.", "It runs on the cpu.")
        super().__init__(policy, device, dtype)
        self._traces: dict[Shapes, Stages] = {}
        self._told = False

    def _prepare(self, batch: int, n_vl: int, n_reasoning: int, steps: int, build: bool) -> None:
        shapes = (batch, n_vl, n_reasoning, steps)
        if shapes not in self._traces:
            self._traces[shapes] = self._trace(shapes)

    def _stages_for(self, features: Features, steps: int) -> Stages:
        shapes = (*features.vl_tokens.shape[:2], features.reasoning_tokens.shape[1], steps)
        padded = features.vl_mask is not None or features.reasoning_mask is not None
        if shapes in self._traces and not padded:
            self._note = ""
            return self._traces[shapes]
        reason = "tokens are padded" if padded else f"not warmed up for {shapes}"
        self._note = f"fell back from the recording: {reason}"
        if not self._told:
            self._told = True
            log.warning(
                "planner engine %r plans without its recording, some milliseconds slower: %s",
                self.label,
                "tokens are padded"
                if padded
                else f"it was not warmed up for {shapes} (batch, VL and reasoning tokens, steps)",
            )
        return super()._stages_for(features, steps)

    def parts(self) -> tuple[Part, ...]:
        """A recording has no parts: stages, steps and what is around them can be told apart."""
        return PlannerEngine.parts(self)

    def _release(self) -> None:
        super()._release()
        self._traces = {}

    def _trace(self, shapes: Shapes) -> Stages:
        batch, n_vl, n_reasoning, steps = shapes
        assert self._encoder is not None and self._decoder is not None
        features, status, noise = example_inputs(self.config, batch, n_vl, n_reasoning, self.device, seed=0)
        tokens = (features.observation_tokens, features.vl_tokens, features.reasoning_tokens)
        with torch.inference_mode():
            encode, encoded = _record(_Encode(self._encoder), tokens)
            given = (*encoded, status.to(self.dtype), self._schedule(steps)[1])
            hoist, hoisted = _record(_Hoist(self._decoder), given)
            axes = (2, 1, 1, 1, 0)  # of the steps
            step = [part.select(axis, 0) for part, axis in zip(hoisted, axes, strict=True)]
            predict, _ = _record(_Predict(self._decoder), (noise.to(self.trajectory_dtype), *step))
        # padded tokens never come here, so there is no mask to hand on
        return Stages(
            lambda observed, vl, reasoning, *_: (*encode(observed, vl, reasoning), None),
            lambda memory, context, status, times, _: Conditions(*hoist(memory, context, status, times)),
            predict,
        )


class _Encode(nn.Module):
    def __init__(self, encoder: FoldedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.encoder(*tokens)[:2]


class _Hoist(nn.Module):
    def __init__(self, decoder: FoldedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.decoder.hoist(*given))


class _Predict(nn.Module):
    def __init__(self, decoder: FoldedDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.decoder.predict(*given)


def _record(stage: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[Callable[..., Any], Any]:
    """A recording of a stage, settled, and what it returns."""
    with warnings.catch_warnings():
        # that shapes become constants is the point; that torch.jit is deprecated is why there is a plain path
        warnings.simplefilter("ignore")
        recording = torch.jit.freeze(torch.jit.trace(stage.eval(), given, check_trace=False))
    for _ in range(_SETTLING_RUNS):
        result = recording(*given)
    return recording, result
