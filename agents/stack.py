"""One tick from sensors to pedals, every stage timed and every failure counted. Knows no leaderboard.

What cannot be done in time, or fails, takes the tick down a ladder; each rung is counted and logged:

| rung | what is driven |
|---|---|
| `planned` | this tick's plan from this tick's sensors |
| `fewer_steps` | the same with fewer denoising steps: all of them did not fit the budget (`tick_budget.py`) |
| `partial_sensors` | this tick's plan, though a sensor other than the planning camera gave nothing |
| `stale_features` | a plan from an earlier tick's features, moved to where the ego is now: perception did \
not fit the budget, or the planning camera gave nothing |
| `previous_plan` | the last good plan, moved to where the ego is now: nothing fitted, or something failed |
| `safe_stop` | brakes: after `ladder.stale_ticks` or `ladder.previous_plan_ticks` of these in a row |
| `busy`, `hold` | under a latency model (`delayed_driving.py`), while a plan is being computed |

`ladder.max_failures` planner failures in a row end the route with the planner's own error.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.agents.config import AgentConfig
from tickdrive.agents.control import Control
from tickdrive.agents.delayed_driving import DelayedDriving, Driven
from tickdrive.agents.front_end import FrontEnd, FrontEndOutput
from tickdrive.agents.guard import CollisionGuard
from tickdrive.agents.planning import ConstantVelocityPlanner, DiffusionPlannerStage, Planner
from tickdrive.agents.plans import PlanToDrive, check_plan
from tickdrive.agents.preemption import involuntary_switches
from tickdrive.agents.shared_models import SharedModels, shared_models
from tickdrive.agents.tick_budget import Choice, TickBudget
from tickdrive.agents.tick_log import TickLog
from tickdrive.agents.tick_output import TickOutput, failed_tick
from tickdrive.agents.types import EgoState, Reasoning
from tickdrive.planner.errors import PlannerError, SensorError
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features, Plan

_LOGGER = logging.getLogger(__name__)


@dataclass
class _Seen:
    """The last features, what they were seen from, and the plan that was made from them."""

    features: Features | None
    reasoning: Reasoning | None
    ego: EgoState
    ego_status: np.ndarray
    plan: Plan | None = None


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
        self._budget: TickBudget | None = None
        if config.planner.kind == "constant_velocity":
            self._planner = ConstantVelocityPlanner()
        else:
            self._models = models or shared_models(config)
            self._planner = DiffusionPlannerStage(
                self._models.engine, config.planner, config.perception.zero_tokens
            )
            if config.budget.enabled and self._models.timing is not None:
                self._budget = TickBudget(
                    config.budget, self._models.timing, config.ladder.previous_plan_ticks
                )
        self.front_end = FrontEnd(
            config, global_plan_gps, global_plan_world_coord, self._planner.status_width
        )
        self._driving = DelayedDriving(config.latency, config.control)
        self._guard = CollisionGuard(config.guard)
        self._log = log
        self._tracer = Tracer()
        self._control = Control(0.0, 0.0, 0.0)
        self._seen: _Seen | None = None
        self._stale_ticks = 0
        self._good: PlanToDrive | None = None
        self._ticks_since_plan = 0
        self._failures = 0
        self._steps = 0
        self._predicted_ms: float | None = None
        self._entered_ns = 0
        self._planned_ns = 0
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
        # the collector waits until the tick is over: it walks everything alive, which takes milliseconds
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._tick(input_data, timestamp)
        finally:
            if collecting:
                gc.enable()

    def _tick(
        self, input_data: Mapping[str, tuple[int, Any]], timestamp: float
    ) -> tuple[Control, TickOutput]:
        self._entered_ns = time.perf_counter_ns()
        outside_ms = None if self._returned_ns is None else (self._entered_ns - self._returned_ns) / 1e6
        switches = involuntary_switches()
        self._steps, self._predicted_ms = 0, None
        tracer = self._tracer
        tracer.begin()
        try:
            front = self.front_end.step(
                input_data, timestamp, self._control.throttle, self._control.brake, tracer
            )
            made = self._plan(front) if self._driving.begin(timestamp, front.ego.frame) else None
            self._planned_ns = time.perf_counter_ns()
            with tracer.span("control"):
                driven = self._driving.drive(made, front.ego, self._elapsed_us())
        except (SensorError, PlannerError) as error:
            trace = tracer.end()
            if self._log is not None:
                frame = self.last.frame + 1 if self.last else 0
                self._log.append(failed_tick(frame, float(timestamp), trace, outside_ms, error))
            raise
        self._control = driven.control
        rung = self._driving.busy_rung if made is None else made.rung
        self.rungs[rung] += 1
        output = self._output(front, made, driven, rung, outside_ms, switches)
        self.last = output
        if self._log is not None:
            self._log.append(output.record())
        self._returned_ns = time.perf_counter_ns()
        if self._budget is not None:
            self._budget.note_tail((self._returned_ns - self._planned_ns) / 1e6)
        self._driving.finish(self._elapsed_us())
        return driven.control, output

    def close(self) -> None:
        """End the route; weights stay in the process."""
        if self._log is not None:
            self._log.close()
        if any(rung != "planned" for rung in self.rungs):
            _LOGGER.warning("ticks by rung: %s", dict(self.rungs))

    def _output(
        self,
        front: FrontEndOutput,
        made: PlanToDrive | None,
        driven: Driven,
        rung: str,
        outside_ms: float | None,
        switches: int | None,
    ) -> TickOutput:
        shown = made if driven.plan is None else driven.plan
        now = involuntary_switches()
        return TickOutput(
            frame=front.ego.frame,
            sim_s=front.ego.sim_s,
            image=front.observation.images.get(self._config.rig.planning_camera),
            points_in_ego=front.points_in_ego,
            ego=front.ego,
            guidance=front.guidance,
            plan=None if driven.plan is None else driven.plan.plan,
            reasoning=None if shown is None else shown.reasoning,
            rung=rung,
            guarded=driven.plan is not None and driven.plan.path_in_ego is not None,
            steps=self._steps,
            control=driven.control,
            trace=self._tracer.end(),
            outside_ms=outside_ms,
            predicted_ms=self._predicted_ms,
            preempted=None if now is None or switches is None else now - switches,
            latency=self._driving.record(),
        )

    def _plan(self, front: FrontEndOutput) -> PlanToDrive:
        """Perception and planner as far as they fit, or the next rung down."""
        self._ticks_since_plan += 1
        try:
            planned = self._planned(front)
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
        return planned

    def _planned(self, front: FrontEndOutput) -> PlanToDrive:
        if self._planner.needs_features and front.inputs is None:
            return self._without_camera(front)
        self._stale_ticks = 0
        choice = self._choice()
        if choice.perceive:
            self._perceive(front)
            choice = self._second_choice(choice)
        self._predicted_ms = choice.predicted_ms if self._budget else None
        if not choice.steps:
            return self._previous_plan(front.ego)
        assert self._seen is not None
        plan = self._run_planner(self._seen, front, choice.steps)
        if not choice.perceive:
            rung = "stale_features"
        elif front.observation.missing:
            rung = "partial_sensors"
        else:
            rung = "planned" if choice.steps == self._config.planner.steps else "fewer_steps"
        return self._guarded(plan, self._seen, front, rung)

    def _choice(self) -> Choice:
        if self._budget is None:
            return Choice(perceive=True, steps=self._config.planner.steps, predicted_ms=0.0)
        unplanned = self._seen is not None and self._seen.plan is None
        return self._budget.choose(
            self._elapsed_us() / 1e3, unplanned, self._ticks_since_plan, self._good is not None
        )

    def _second_choice(self, choice: Choice) -> Choice:
        """Perception may have taken longer than expected, or less long."""
        if self._budget is None:
            return choice
        return self._budget.choose_steps(
            self._elapsed_us() / 1e3, choice, self._ticks_since_plan, self._good is not None
        )

    def _perceive(self, front: FrontEndOutput) -> None:
        started_ns = time.perf_counter_ns()
        features, reasoning = None, None
        if self._planner.needs_features:
            assert self._models is not None and front.inputs is not None
            features, reasoning = self._models.extractor.extract(front.inputs, self._tracer)
        self._seen = _Seen(features, reasoning, front.ego, front.ego_status)
        if self._budget is not None:
            self._budget.note_features((time.perf_counter_ns() - started_ns) / 1e6)

    def _run_planner(self, seen: _Seen, front: FrontEndOutput, steps: int) -> Plan:
        started_ns = time.perf_counter_ns()
        with self._tracer.span("planner"):
            plan = self._planner.plan(
                seen.features, seen.ego_status, front.ego.speed_mps, steps, self._tracer
            )
        if self._budget is not None:
            self._budget.note_plan(steps, (time.perf_counter_ns() - started_ns) / 1e6)
        check_plan(plan)
        seen.plan = plan
        self._steps = plan.steps
        self._ticks_since_plan = 0
        return plan

    def _guarded(self, plan: Plan, seen: _Seen, front: FrontEndOutput, rung: str) -> PlanToDrive:
        """The plan in the present ego frame, shortened where something stands on it."""
        with self._tracer.span("postprocess"):
            self._good = PlanToDrive(plan, seen.ego, rung, seen.reasoning)
            good = self._good.seen_from(front.ego)
            if good.plan is None or front.inputs is None or not self._config.guard.enabled:
                return good
            shorter = self._guard.step(
                good.plan.waypoints_in_ego[0],
                good.plan.dt_s,
                front.ego.speed_mps,
                front.points_in_ego,
                front.inputs.lidar_bev,
            )
            if shorter is None:
                return good
            return dataclasses.replace(
                good,
                plan=dataclasses.replace(good.plan, waypoints_in_ego=shorter.waypoints_in_ego[None]),
                path_in_ego=good.plan.waypoints_in_ego[0],
            )

    def _without_camera(self, front: FrontEndOutput) -> PlanToDrive:
        """The last picture's plan, where it lies in the world: planning on it again would give the same."""
        self._stale_ticks += 1
        missing = ", ".join(front.observation.missing)
        if self._seen is None or self._stale_ticks > self._config.ladder.stale_ticks:
            if self._stale_ticks == self._config.ladder.stale_ticks + 1:
                _LOGGER.warning("no data from %s; stopping", missing)
            return PlanToDrive(None, front.ego, "safe_stop", None)
        if self._stale_ticks == 1:
            _LOGGER.warning("no data from %s; driving on older features", missing)
        plan = self._seen.plan or self._run_planner(self._seen, front, self._config.planner.steps)
        return self._guarded(plan, self._seen, front, "stale_features")

    def _previous_plan(self, ego: EgoState) -> PlanToDrive:
        if self._good is None or self._failures > self._config.ladder.previous_plan_ticks:
            return PlanToDrive(None, ego, "safe_stop", None)
        seen = self._good.seen_from(ego)
        return dataclasses.replace(seen, rung="safe_stop" if seen.plan is None else "previous_plan")

    def _elapsed_us(self) -> int:
        return (time.perf_counter_ns() - self._entered_ns) // 1000
