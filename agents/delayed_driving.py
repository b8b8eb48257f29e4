"""The controller under a latency model: which plan is in force, and what the pedals do meanwhile.

`follow`: while a plan is being computed the controller goes on along the plan in force, as seen from where
the ego is at each tick. `hold`: the control is computed from its own observation and then kept, as an agent
does whose whole step is late. With mode "off" the plan of a tick is in force at once: a plain controller.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from tickdrive.agents.config import ControlConfig, LatencyConfig
from tickdrive.agents.control import Control, TrajectoryFollower
from tickdrive.agents.latency_model import Applied, LatencyModel
from tickdrive.agents.plans import PlanToDrive
from tickdrive.agents.tick_log import LatencyRecord
from tickdrive.agents.types import TICK_S, EgoState

SAFE_STOP_BRAKE = 0.6


@dataclass
class _Value:
    """What was computed from one observation."""

    plan: PlanToDrive
    anchored: PlanToDrive | None
    """As it is driven: in its place and time since it took effect; None before."""
    control: Control | None = None
    """Under `hold`."""


@dataclass(frozen=True)
class Driven:
    """A tick's control, and the plan behind it as seen now.

    Attributes:
        control: pedals and wheel.
        plan: in the present ego frame; None before the first plan.
        past_horizon: whether the plan in force has run out, so that the car is being stopped.
    """

    control: Control
    plan: PlanToDrive | None
    past_horizon: bool


class DelayedDriving:
    """Turns plans into controls, each plan once its latency has passed.

    Each tick: `begin`, `drive`, and at the very end `finish`.

    Args:
        latency: the model.
        control: gains of the follower.

    Raises:
        DataError: the log whose latencies are to be replayed cannot be.
    """

    def __init__(self, latency: LatencyConfig, control: ControlConfig) -> None:
        self._config = latency
        self._model: LatencyModel[_Value] = LatencyModel(latency)
        self._follower = TrajectoryFollower(control)
        self._last_sim_s: float | None = None
        self._control = Control(0.0, 0.0, 0.0)
        self._past_horizon = False

    @property
    def busy_rung(self) -> str:
        """Name of the rung of a tick whose observation is not taken."""
        return "hold" if self._config.busy == "hold" else "busy"

    def begin(self, timestamp: float, frame: int) -> bool:
        """A tick begins; whether the agent is free to plan in it."""
        return self._model.begin(timestamp, frame)

    def drive(self, made: PlanToDrive | None, ego: EgoState, elapsed_us: int) -> Driven:
        """The control for the tick that begins.

        Args:
            made: what was planned from this tick's observation; None where it was not taken.
            ego: now.
            elapsed_us: wall time since `run_step` was entered.
        """
        delta_s = TICK_S if self._last_sim_s is None else min(max(ego.sim_s - self._last_sim_s, 0.001), 1.0)
        if made is not None or self._config.busy != "hold":
            self._last_sim_s = ego.sim_s
        if made is not None:
            value = _Value(made, anchored=None)
            if self._config.busy == "hold":
                value.control = self._follow(self._follower, made, delta_s)
            self._model.computed(value)
        driven = self._mixed(self._model.applied(elapsed_us), ego, delta_s)
        self._control = driven.control
        self._past_horizon = driven.past_horizon
        return driven

    def finish(self, elapsed_us: int) -> None:
        """The tick returns: its latency is known."""
        self._model.finish(elapsed_us)

    def record(self) -> LatencyRecord | None:
        """For the tick's line in the log."""
        return self._model.record(self._past_horizon)

    def _mixed(self, applied: Applied[_Value], ego: EgoState, delta_s: float) -> Driven:
        if applied.weight_new == 1.0:
            return self._driven(self._follower, applied.new, ego, delta_s)
        # the old plan's control is what the follower would have done; its state goes on with the new plan
        old = self._driven(copy.copy(self._follower), applied.old, ego, delta_s).control
        driven = self._driven(self._follower, applied.new, ego, delta_s)
        new, share = driven.control, applied.weight_new
        mixed = Control(
            throttle=share * new.throttle + (1.0 - share) * old.throttle,
            steer=share * new.steer + (1.0 - share) * old.steer,
            brake=share * new.brake + (1.0 - share) * old.brake,
        )
        return Driven(mixed, driven.plan, driven.past_horizon)

    def _driven(
        self, follower: TrajectoryFollower, value: _Value | None, ego: EgoState, delta_s: float
    ) -> Driven:
        if value is None:
            return Driven(self._braking(), None, False)
        if value.control is not None:
            return Driven(value.control, value.plan.seen_from(ego), False)
        if value.anchored is None:
            value.anchored = self._anchored(value.plan, ego)
        seen = value.anchored.seen_from(ego)
        past_horizon = seen.plan is None and value.plan.plan is not None
        return Driven(self._follow(follower, seen, delta_s), seen, past_horizon)

    def _anchored(self, plan: PlanToDrive, ego: EgoState) -> PlanToDrive:
        if plan.ego is ego:
            return plan
        return plan.joined(ego) if self._config.compensation else plan.as_if_made(ego)

    def _follow(self, follower: TrajectoryFollower, plan: PlanToDrive, delta_s: float) -> Control:
        if plan.plan is None:
            return self._braking()
        return follower.step(
            plan.plan.waypoints_in_ego[0], plan.plan.dt_s, plan.ego.speed_mps, delta_s, plan.path_in_ego
        )

    def _braking(self) -> Control:
        return Control(throttle=0.0, steer=self._control.steer, brake=SAFE_STOP_BRAKE)
