"""The planner at the wheel while the expert says what it would do from there.

A planner that has only seen the expert's drives does not know the places its own small errors lead it to.
Recorded with the planner driving and the expert labelling, those places become part of the training (DAgger:
Ross, Gordon and Bagnell 2011, https://arxiv.org/abs/1011.0686).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from tickdrive.agents.config import AgentConfig
from tickdrive.agents.control import Control, TrajectoryFollower
from tickdrive.agents.front_end import FrontEndOutput
from tickdrive.agents.planning import DiffusionPlannerStage
from tickdrive.agents.plans import shift_plan
from tickdrive.agents.shared_models import shared_models
from tickdrive.agents.types import EgoState
from tickdrive.planner.errors import ConfigError
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Plan


class Student:
    """Drives by a checkpoint, on the inputs that are being recorded.

    Args:
        config: of the agent; `planner.checkpoint` names the checkpoint.
        status_width: of the ego status that is recorded.
        stride_ticks: a new plan every so many ticks, the last one moved along in between.

    Raises:
        TickdriveError: the checkpoint cannot be used, or takes another ego status.
    """

    def __init__(self, config: AgentConfig, status_width: int, stride_ticks: int = 2) -> None:
        models = shared_models(config)
        self._extractor = models.extractor
        self._planner = DiffusionPlannerStage(models.engine, config.planner)
        self._steps = config.planner.steps
        if self._planner.status_width != status_width:
            raise ConfigError(
                f"{models.checkpoint} takes an ego status of width {self._planner.status_width}; "
                f"{status_width} is recorded.",
                "Let a checkpoint drive that was trained on such recordings.",
            )
        self._follower = TrajectoryFollower(config.control)
        self._stride_ticks = stride_ticks
        self._planned: tuple[Plan, EgoState] | None = None
        self._age_ticks = 0

    def take_over(self) -> None:
        """Forget the last plan: someone else has driven since."""
        self._planned = None
        self._follower.reset()

    def control(self, seen: FrontEndOutput, tick_s: float) -> Control | None:
        """The student's control for this tick; None where it has no picture to plan from."""
        if self._planned is None or self._age_ticks >= self._stride_ticks:
            if seen.inputs is None:
                return None
            tracer = Tracer()
            features, _ = self._extractor.extract(seen.inputs, tracer)
            plan = self._planner.plan(features, seen.ego_status, seen.ego.speed_mps, self._steps, tracer)
            self._planned, self._age_ticks = (plan, seen.ego), 0
        plan, then = self._planned
        self._age_ticks += 1
        if self._age_ticks > 1:
            plan = shift_plan(plan, then, seen.ego)
        return self._follower.step(plan.waypoints_in_ego[0], plan.dt_s, seen.ego.speed_mps, tick_s)


@dataclass(frozen=True)
class TurnsConfig:
    """When the student drives and when the expert.

    Attributes:
        student_share: share of the time in which the student drives; 0 is never.
        stretch_s: shortest and longest stretch of the student.
        lost_m: distance from the route beyond which the expert takes over.
        stuck_s: time of standing where the expert would drive, after which it takes over.
        rescue_s: for how long the expert then drives.
    """

    student_share: float = 0.0
    stretch_s: tuple[float, float] = (8.0, 30.0)
    lost_m: float = 2.0
    stuck_s: float = 6.0
    rescue_s: float = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stretch_s", tuple(self.stretch_s))
        if not 0.0 <= self.student_share <= 1.0:
            raise ConfigError(f"student_share is {self.student_share}.", "Give a share of the time, 0 to 1.")


class Turns:
    """Says each tick whether the student is at the wheel.

    Args:
        config: when.
        rng: draws the stretches.
    """

    def __init__(self, config: TurnsConfig, rng: np.random.Generator) -> None:
        self._config = config
        self._rng = rng
        self.student = bool(rng.random() < config.student_share)
        self._left_s = self._stretch_s()
        self._stuck_s = 0.0

    def step(self, delta_s: float, lateral_error_m: float, speed_mps: float, wanted_mps: float) -> bool:
        """Go on by a tick.

        Args:
            delta_s: the tick.
            lateral_error_m: distance of the ego from the route.
            speed_mps: of the ego.
            wanted_mps: speed at the end of the expert's plan.
        """
        if self._config.student_share == 0.0:
            return False
        self._stuck_s = self._stuck_s + delta_s if speed_mps < 0.2 and wanted_mps > 2.0 else 0.0
        lost = lateral_error_m > self._config.lost_m or self._stuck_s > self._config.stuck_s
        if self.student and lost:
            self.rescue()
            return self.student
        self._left_s -= delta_s
        if self._left_s <= 0.0:
            share = self._config.student_share
            # by turns; a student that is to drive all the time gives the wheel back only when it is lost
            self.student = not self.student or share == 1.0
            self._left_s = self._stretch_s()
        return self.student

    def rescue(self) -> None:
        """The expert takes over for a while."""
        self.student = False
        self._left_s = self._config.rescue_s
        self._stuck_s = 0.0

    def _stretch_s(self) -> float:
        seconds = float(self._rng.uniform(*self._config.stretch_s))
        share = self._config.student_share
        return seconds if self.student or share == 0.0 else seconds * (1.0 - share) / share


def student_config(config: AgentConfig, checkpoint: str, steps: int) -> AgentConfig:
    """The agent's configuration with another checkpoint and step count at the wheel, on one CPU thread."""
    planner = dataclasses.replace(config.planner, checkpoint=checkpoint, steps=steps)
    return dataclasses.replace(config, planner=planner, threads=1)
