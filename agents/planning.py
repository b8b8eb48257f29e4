"""The planner as the stack sees it: the diffusion engine, or the straight line of the ablation."""

from __future__ import annotations

import dataclasses
import time
from typing import Protocol

import numpy as np
import torch

from tickdrive.agents.config import PlannerConfig
from tickdrive.planner.engine import PlannerEngine
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import STATUS_FIELDS, Features, Plan

CONSTANT_VELOCITY_MIN_MPS = 4.0
"""Speed of the constant-velocity plan at rest: literally keeping 0 m/s would never set off."""


class Planner(Protocol):
    """Plans once a tick.

    Attributes:
        status_width: width of the ego status it takes (14 or 22).
        needs_features: whether perception has to run for it.
    """

    status_width: int
    needs_features: bool

    @property
    def name(self) -> str:
        """Of the planner or its engine, for the log."""
        ...

    def plan(
        self,
        features: Features | None,
        ego_status: np.ndarray,
        speed_mps: float,
        steps: int,
        tracer: Tracer,
    ) -> Plan:
        """A plan from a tick's features.

        Args:
            features: perception's tokens; None where `needs_features` is false.
            ego_status: (4, status_width) float32, oldest first.
            speed_mps: present speed.
            steps: denoising steps.
            tracer: gets the engine's spans.
        """
        ...


class DiffusionPlannerStage:
    """Features and ego status through a planner engine, from a noise that is fixed for the route.

    The starting noise picks which of the possible plans is sampled. Drawing it anew each tick makes the car
    waver between them; kept, successive plans change only as the conditions do. It is drawn once, from
    `seed`; `noise_scale` 0 starts from zeros.

    Args:
        engine: built and warm; shared between routes.
        config: seed, noise scale, delay.
        zero_tokens: ablation: the engine sees zeros instead of all of perception's tokens.
    """

    needs_features = True

    def __init__(self, engine: PlannerEngine, config: PlannerConfig, zero_tokens: bool = False) -> None:
        self._engine = engine
        self._delay_s = config.delay_ms / 1e3
        self._zero_tokens = zero_tokens
        self.status_width = engine.config.status_width
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.randn(1, engine.config.horizon, 2, generator=generator) * config.noise_scale
        self._noise = noise.to(engine.device)

    @property
    def name(self) -> str:
        """Engine, dtype and device."""
        return self._engine.label

    def plan(
        self,
        features: Features | None,
        ego_status: np.ndarray,
        speed_mps: float,
        steps: int,
        tracer: Tracer,
    ) -> Plan:
        """See `Planner.plan`.

        Raises:
            PlannerError: there are no features, the engine refuses its inputs, or the plan is not finite.
        """
        if features is None:
            raise PlannerError(
                "The diffusion planner was asked to plan without features.", "Run perception first."
            )
        if self._zero_tokens:
            features = dataclasses.replace(
                features,
                vl_tokens=torch.zeros_like(features.vl_tokens),
                reasoning_tokens=torch.zeros_like(features.reasoning_tokens),
                observation_tokens=torch.zeros_like(features.observation_tokens),
            )
        status = torch.from_numpy(ego_status).unsqueeze(0).to(self._engine.device)
        if self._delay_s:
            with tracer.span("delay"):
                time.sleep(self._delay_s)
        return self._engine.plan(features, status, self._noise, steps, tracer)


class ConstantVelocityPlanner:
    """Ablation: straight ahead at the present speed, or at 4 m/s where the car is slower."""

    needs_features = False

    def __init__(self, horizon: int = 6, dt_s: float = 0.5) -> None:
        self.status_width = STATUS_FIELDS
        self._times_s = dt_s * np.arange(1, horizon + 1, dtype=np.float32)
        self._dt_s = dt_s

    @property
    def name(self) -> str:
        """For the log."""
        return "constant_velocity"

    def plan(
        self,
        features: Features | None,
        ego_status: np.ndarray,
        speed_mps: float,
        steps: int,
        tracer: Tracer,
    ) -> Plan:
        """See `Planner.plan`; only the speed is used."""
        waypoints = np.zeros((1, len(self._times_s), 2), dtype=np.float32)
        waypoints[0, :, 0] = max(speed_mps, CONSTANT_VELOCITY_MIN_MPS) * self._times_s
        return Plan(waypoints_in_ego=waypoints, dt_s=self._dt_s, steps=0, engine=self.name)
