"""One tick from sensors to pedals, every stage timed and every failure counted. Knows no leaderboard.

When a stage fails the tick goes down a ladder, rung by rung, and each rung is counted and logged:

| rung | what is driven |
|---|---|
| `planned` | this tick's plan from this tick's sensors |
| `partial_sensors` | this tick's plan, though a sensor other than the planning camera gave nothing |
| `stale_features` | a new plan from the last picture's features: the planning camera gave nothing |
| `previous_plan` | the last good plan, seen from where the ego is now: perception or planner failed |
| `safe_stop` | brakes: after `ladder.stale_ticks` or `ladder.previous_plan_ticks` of these in a row |

`ladder.max_failures` planner failures in a row end the route with the planner's own error.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.agents.config import AgentConfig
from tickdrive.agents.control import Control, TrajectoryFollower
from tickdrive.agents.front_end import FrontEnd, FrontEndOutput
from tickdrive.agents.guard import CollisionGuard
from tickdrive.agents.planning import ConstantVelocityPlanner, DiffusionPlannerStage, Planner
from tickdrive.agents.route import to_ego
from tickdrive.agents.shared_models import SharedModels, shared_models
from tickdrive.agents.tick_log import TickLog, TickRecord
from tickdrive.agents.types import EgoState, Reasoning, RouteGuidance
from tickdrive.planner.errors import PlannerError, SensorError
from tickdrive.planner.tracing import TickTrace, Tracer
from tickdrive.planner.types import Features, Plan

_LOGGER = logging.getLogger(__name__)

SAFE_STOP_BRAKE = 0.6
_TICK_S = 0.05
_MAX_WAYPOINT_M = 300.0
"""A waypoint further off than this within the plan's 3 s (100 m/s) cannot be driven."""


@dataclass(frozen=True)
class TickOutput:
    """Everything a tick came to, for film, live line and log.

    Attributes:
        frame: simulator frame.
        sim_s: simulated time.
        image: (H, W, 3) uint8 BGR of the planning camera, or None.
        ego: where the ego is believed to be.
        guidance: the route's wish.
        plan: the plan that was driven, (1, T, 2) in the present ego frame, or None.
        reasoning: why, or None where the extractor does not say.
        rung: see the module's table.
        guarded: whether the plan was shortened because something stands on it (`agents/guard.py`).
        control: pedals and wheel.
        trace: spans.
        outside_ms: wall time since the previous tick's return; None on the first.
    """

    frame: int
    sim_s: float
    image: np.ndarray | None
    ego: EgoState
    guidance: RouteGuidance
    plan: Plan | None
    reasoning: Reasoning | None
    rung: str
    guarded: bool
    control: Control
    trace: TickTrace
    outside_ms: float | None


@dataclass(frozen=True)
class _Planned:
    plan: Plan | None
    reasoning: Reasoning | None
    rung: str
    path_in_ego: np.ndarray | None = None
    """To steer along, where the plan was shortened."""


class DrivingStack:
    """Drives one route.

    Args:
        config: the agent's.
        global_plan_gps: the leaderboard's downsampled plan.
        global_plan_world_coord: the same points in the world frame.
        models: None loads (or takes from the process's cache) what the config names.
        log: where ticks go; None logs nothing.

    Attributes:
        rungs: how often each rung was stood on.
        last: the last tick.

    Raises:
        TickdriveError: the config, a checkpoint, the rig or the plan cannot be used.
    """

    def __init__(
        self,
        config: AgentConfig,
        global_plan_gps: Sequence[Any],
        global_plan_world_coord: Sequence[Any],
        models: SharedModels | None = None,
        log: TickLog | None = None,
    ) -> None:
        self._config = config
        self._models = models
        self._planner: Planner
        if config.planner.kind == "constant_velocity":
            self._planner = ConstantVelocityPlanner()
        else:
            self._models = models or shared_models(config)
            self._planner = DiffusionPlannerStage(
                self._models.engine, config.planner, config.perception.zero_tokens
            )
        self.front_end = FrontEnd(
            config, global_plan_gps, global_plan_world_coord, self._planner.status_width
        )
        self._follower = TrajectoryFollower(config.control)
        self._guard = CollisionGuard(config.guard)
        self._log = log
        self._tracer = Tracer()
        self._control = Control(0.0, 0.0, 0.0)
        self._features: Features | None = None
        self._reasoning: Reasoning | None = None
        self._stale_ticks = 0
        self._good: tuple[Plan, EgoState] | None = None
        self._failures = 0
        self._last_sim_s: float | None = None
        self._returned_ns: int | None = None
        self.rungs: Counter[str] = Counter()
        self.last: TickOutput | None = None

    @property
    def engine_name(self) -> str:
        """What plans."""
        return self._planner.name

    def attach_log(self, log: TickLog) -> None:
        """Log the ticks from now on; `close` closes it."""
        self._log = log

    def tick(self, input_data: Mapping[str, tuple[int, Any]], timestamp: float) -> tuple[Control, TickOutput]:
        """Drive one tick.

        Args:
            input_data: sensor id -> (frame, data), as the leaderboard hands it to `run_step`.
            timestamp: simulated seconds.

        Raises:
            SensorError: a sensor gave data of a form that it cannot have.
            PlannerError: the planner failed `ladder.max_failures` times in a row.
        """
        entered_ns = time.perf_counter_ns()
        outside_ms = None if self._returned_ns is None else (entered_ns - self._returned_ns) / 1e6
        tracer = self._tracer
        tracer.begin()
        try:
            front = self.front_end.step(
                input_data, timestamp, self._control.throttle, self._control.brake, tracer
            )
            planned = self._plan(front)
            with tracer.span("control"):
                control = self._follow(planned, front.ego)
        except (SensorError, PlannerError) as error:
            self._log_failure(tracer.end(), timestamp, outside_ms, error)
            raise
        self._control = control
        self.rungs[planned.rung] += 1
        trace = tracer.end()
        output = TickOutput(
            frame=front.ego.frame,
            sim_s=front.ego.sim_s,
            image=front.observation.images.get(self._config.rig.planning_camera),
            ego=front.ego,
            guidance=front.guidance,
            plan=planned.plan,
            reasoning=planned.reasoning,
            rung=planned.rung,
            guarded=planned.path_in_ego is not None,
            control=control,
            trace=trace,
            outside_ms=outside_ms,
        )
        self.last = output
        if self._log is not None:
            self._log.append(tick_record(output))
        self._returned_ns = time.perf_counter_ns()
        return control, output

    def close(self) -> None:
        """End the route; weights stay in the process."""
        if self._log is not None:
            self._log.close()
        if any(rung != "planned" for rung in self.rungs):
            _LOGGER.warning("ticks by rung: %s", dict(self.rungs))

    def _plan(self, front: FrontEndOutput) -> _Planned:
        """Perception and planner, or the next rung down."""
        try:
            rung = self._perceive(front)
            if rung == "safe_stop":
                return _Planned(None, None, rung)
            with self._tracer.span("planner"):
                plan = self._planner.plan(self._features, front.ego_status, front.ego.speed_mps, self._tracer)
            with self._tracer.span("postprocess"):
                _check(plan)
                shorter = self._guarded(plan, front)
        except Exception as error:  # whatever the planner or perception dies of, the car must still be driven
            self._failures += 1
            if self._failures >= self._config.ladder.max_failures:
                raise PlannerError(
                    f"The planner failed {self._failures} ticks in a row; the last time: {error}",
                    "ladder.max_failures sets how many are borne.",
                ) from error
            if self._failures == 1:
                _LOGGER.warning("planning failed, driving on the previous plan: %s", error, exc_info=True)
            return self._previous_plan(front.ego)
        self._failures = 0
        self._good = (plan, front.ego)
        if shorter is not None:
            return _Planned(shorter, self._reasoning, rung, plan.waypoints_in_ego[0])
        return _Planned(plan, self._reasoning, rung)

    def _guarded(self, plan: Plan, front: FrontEndOutput) -> Plan | None:
        """The plan, shortened where something stands on it."""
        if not self._config.guard.enabled or front.inputs is None:
            return None
        shorter = self._guard.step(
            plan.waypoints_in_ego[0],
            plan.dt_s,
            front.ego.speed_mps,
            front.points_in_ego,
            front.inputs.lidar_bev,
        )
        if shorter is None:
            return None
        return dataclasses.replace(plan, waypoints_in_ego=shorter.waypoints_in_ego[None])

    def _perceive(self, front: FrontEndOutput) -> str:
        """Bring the features up to date; the rung that the plan will stand on."""
        if not self._planner.needs_features:
            return "partial_sensors" if front.observation.missing else "planned"
        if front.inputs is not None:
            assert self._models is not None
            self._features, self._reasoning = self._models.extractor.extract(front.inputs, self._tracer)
            self._stale_ticks = 0
            return "partial_sensors" if front.observation.missing else "planned"
        self._stale_ticks += 1
        if self._features is None or self._stale_ticks > self._config.ladder.stale_ticks:
            if self._stale_ticks == self._config.ladder.stale_ticks + 1:
                _LOGGER.warning("no data from %s; stopping", ", ".join(front.observation.missing))
            return "safe_stop"
        if self._stale_ticks == 1:
            _LOGGER.warning(
                "no data from %s; planning on older features", ", ".join(front.observation.missing)
            )
        self._features = dataclasses.replace(self._features, age_ticks=self._stale_ticks)
        return "stale_features"

    def _previous_plan(self, ego: EgoState) -> _Planned:
        if self._good is None or self._failures > self._config.ladder.previous_plan_ticks:
            return _Planned(None, None, "safe_stop")
        plan, then = self._good
        return _Planned(shift_plan(plan, then, ego), self._reasoning, "previous_plan")

    def _follow(self, planned: _Planned, ego: EgoState) -> Control:
        delta_s = _TICK_S if self._last_sim_s is None else ego.sim_s - self._last_sim_s
        self._last_sim_s = ego.sim_s
        if planned.plan is None:
            return Control(throttle=0.0, steer=self._control.steer, brake=SAFE_STOP_BRAKE)
        plan = planned.plan
        return self._follower.step(
            plan.waypoints_in_ego[0],
            plan.dt_s,
            ego.speed_mps,
            min(max(delta_s, 0.001), 1.0),
            planned.path_in_ego,
        )

    def _log_failure(
        self, trace: TickTrace, timestamp: float, outside_ms: float | None, error: Exception
    ) -> None:
        """The tick that ends the route is in the log too."""
        if self._log is None:
            return
        self._log.append(
            TickRecord(
                frame=self.last.frame + 1 if self.last else 0,
                sim_s=float(timestamp),
                trace=trace,
                outside_ms=outside_ms,
                steps=0,
                granularity="plan",
                rung="failed",
                reasoning=None,
                ego={"error": str(error)},
                plan=None,
                control={},
            )
        )


def shift_plan(plan: Plan, then: EgoState, now: EgoState) -> Plan:
    """An older plan as seen now: in the present ego frame, and only what still lies in the future.

    Waypoint i stands at now + (i + 1) dt again; past the plan's end its last velocity is kept.
    """
    yaw = math.radians(then.yaw_deg)
    points = np.vstack([np.zeros((1, 2)), plan.waypoints_in_ego[0].astype(np.float64)])
    rotation = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
    in_ego = to_ego(points @ rotation + then.position_in_world, now)
    times = plan.dt_s * np.arange(len(points))
    wanted = now.sim_s - then.sim_s + times[1:]
    out = np.stack([np.interp(wanted, times, in_ego[:, axis]) for axis in (0, 1)], axis=1)
    beyond = np.maximum(wanted - times[-1], 0.0)[:, None]
    out += beyond * (in_ego[-1] - in_ego[-2]) / plan.dt_s
    return dataclasses.replace(plan, waypoints_in_ego=out[None].astype(np.float32))


def tick_record(output: TickOutput) -> TickRecord:
    """The tick as the log holds it."""
    ego, plan, control = output.ego, output.plan, output.control
    step_seen = any(span.name == "step" for span in output.trace.spans)
    return TickRecord(
        frame=output.frame,
        sim_s=output.sim_s,
        trace=output.trace,
        outside_ms=output.outside_ms,
        steps=0 if plan is None else plan.steps,
        granularity="step" if step_seen else "plan",
        rung=output.rung,
        reasoning=None if output.reasoning is None else output.reasoning.probabilities,
        ego={
            "position_in_world": [round(float(value), 3) for value in ego.position_in_world],
            "yaw_deg": round(ego.yaw_deg, 3),
            "speed_mps": round(ego.speed_mps, 3),
            "acceleration_mps2": round(ego.acceleration_mps2, 3),
            "yaw_rate_dps": round(ego.yaw_rate_dps, 3),
            "source": ego.source,
            "command": output.guidance.command.name,
            "remaining_m": round(output.guidance.remaining_m, 1),
        },
        plan=None if plan is None else plan.waypoints_in_ego[0],
        control={
            "throttle": round(control.throttle, 4),
            "steer": round(control.steer, 4),
            "brake": round(control.brake, 4),
        },
        guarded=output.guarded,
        engine="" if plan is None else plan.engine,
    )


def _check(plan: Plan) -> None:
    """Refuse what cannot be driven.

    Raises:
        PlannerError: not (1, T, 2), not finite, or further than a car can come.
    """
    points = plan.waypoints_in_ego
    if points.ndim != 3 or points.shape[0] != 1 or points.shape[2] != 2:
        raise PlannerError(f"The plan has shape {points.shape}.", "Expected (1, T, 2).")
    if not np.isfinite(points).all():
        raise PlannerError("The plan is not finite.", "Look at the features of this tick.")
    if np.abs(points).max() > _MAX_WAYPOINT_M:
        raise PlannerError(
            f"The plan reaches {np.abs(points).max():.0f} m.", f"At most {_MAX_WAYPOINT_M:g} m can be driven."
        )
