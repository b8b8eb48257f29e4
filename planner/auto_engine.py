"""Engine `auto`: the fastest that works here, and what happens when it stops working."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from tickdrive.planner.engine import Part, PlannerEngine
from tickdrive.planner.engine_cache import policy_hash
from tickdrive.planner.errors import EngineNotReadyError, PlannerError
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features
from tickdrive.planner.warmup import measured_choice

log = logging.getLogger(__name__)


class AutoEngine(PlannerEngine):
    """The first of several engines that works; moves on to the next for good when one breaks.

    What the caller did wrong (`PlannerError`) is passed on, never taken for a broken engine.

    Args:
        policy: what to run.
        candidates: label and builder of each engine, fastest first.
        measured: likewise, of engines that come first where a measurement has shown them to be the fastest.
    """

    name = "auto"
    runs_int8 = True

    def __init__(
        self,
        policy: DiffusionPolicy,
        device: torch.device,
        dtype: torch.dtype,
        candidates: Sequence[tuple[str, Callable[[], PlannerEngine]]],
        measured: Sequence[tuple[str, Callable[[], PlannerEngine]]] = (),
    ) -> None:
        super().__init__(policy, device, dtype)
        self._weights = policy_hash(policy)
        self._candidates = list(candidates)
        self._every = [*candidates, *measured]
        self._fallen: list[str] = []
        self._engine: PlannerEngine = self._next()

    @property
    def label(self) -> str:
        """The label of the engine in use, and what it replaces."""
        return self._engine.label + "".join(f" (fell back from {reason})" for reason in self._fallen)

    def warm_up(
        self,
        n_vl: int = 64,
        n_reasoning: int = 8,
        batch: int = 1,
        steps: Sequence[int] | None = None,
        runs: int = 3,
        build: bool = True,
    ) -> None:
        """See `PlannerEngine.warm_up`; what `tickdrive warmup` found the fastest here comes first.

        An engine that breaks here, or is not ready and may not be built, is passed over.
        """
        self._prefer(measured_choice(self._weights, self.device, self.dtype, batch, n_vl, n_reasoning, steps))
        while True:
            try:
                return self._engine.warm_up(n_vl, n_reasoning, batch, steps, runs, build)
            except (RuntimeError, MemoryError, EngineNotReadyError) as error:
                self._replace(error)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`; of the engine in use."""
        return self._engine.loop_bytes(batch, steps, n_context)

    def static_outputs(self) -> tuple[torch.Tensor, ...]:
        """See `PlannerEngine.static_outputs`; of the engine in use."""
        return self._engine.static_outputs()

    def parts(self) -> tuple[Part, ...]:
        """Its own and those of the engine in use; of the latter, `_sample`'s alone ever run."""
        return *super().parts(), *self._engine.parts()

    @property
    def plan_note(self) -> str:
        """See `PlannerEngine.plan_note`; of the engine in use."""
        return self._engine.plan_note

    def _prefer(self, name: str | None) -> None:
        """Put an engine before the others, unless it is in use or has broken."""
        known = dict(self._every)
        broken = any(reason.startswith(name) for reason in self._fallen) if name else True
        if name not in known or broken or self._engine.name == name:
            return
        others = [item for item in self._every if item[0] in (self._engine.name, *dict(self._candidates))]
        try:
            better = known[name]()
        except (RuntimeError, MemoryError, PlannerError) as error:
            self._fall(name, error)
            return
        self._engine.close()
        self._engine, self._candidates = better, [item for item in others if item[0] != name]

    def _next(self) -> PlannerEngine:
        while self._candidates:
            name, build = self._candidates.pop(0)
            try:
                engine = build()
            except (RuntimeError, MemoryError, EngineNotReadyError) as error:
                self._fall(name, error)
                continue
            self.dtype = engine.dtype
            return engine
        raise PlannerError(
            f"No engine works here: {'; '.join(self._fallen)}.", "Try --engine reference on the CPU."
        )

    def _replace(self, error: BaseException) -> None:
        self._fall(self._engine.label, error)
        self._engine.close()
        self._engine = self._next()

    def _fall(self, name: str, error: BaseException) -> None:
        reason = f"{name}: {(str(error).splitlines() or [type(error).__name__])[0][:120]}"
        self._fallen.append(reason)
        log.warning(
            "planner engine %s; falling back to %s", reason, [item[0] for item in self._candidates] or "none"
        )

    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        while True:
            try:
                return self._engine._sample(features, ego_status, noise, steps, tracer)
            except (RuntimeError, MemoryError) as error:
                self._replace(error)

    def _waypoints(self, trajectory: torch.Tensor) -> np.ndarray:
        return self._engine._waypoints(trajectory)

    def _release(self) -> None:
        self._engine.close()
