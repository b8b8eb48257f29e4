"""Everything a tick came to, and how it stands in the log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tickdrive.agents.control import Control
from tickdrive.agents.tick_log import LatencyRecord, TickRecord, logged_ego
from tickdrive.agents.types import EgoState, Reasoning, RouteGuidance
from tickdrive.planner.tracing import TickTrace
from tickdrive.planner.types import Plan


@dataclass(frozen=True)
class TickOutput:
    """A tick, for film, live line and log.

    Attributes:
        frame: simulator frame.
        sim_s: simulated time.
        image: (H, W, 3) uint8 BGR of the planning camera, or None.
        points_in_ego: (N, 3) LiDAR points of the last rotation, metres; empty where there are none.
        ego: where the ego is believed to be.
        guidance: the route's wish.
        plan: the plan that was driven, (1, T, 2) in the present ego frame, or None.
        reasoning: why, or None where the extractor does not say.
        rung: how the plan was come by; the table is in `agents/stack.py`.
        guarded: whether the plan was shortened because something stands on it (`agents/guard.py`).
        steps: denoising steps run in this tick.
        control: pedals and wheel.
        trace: spans.
        outside_ms: wall time since the previous tick's return; None on the first.
        predicted_ms: what the tick budget expected; None without one.
        preempted: involuntary context switches in the tick; None where the system does not count them.
        latency: what the latency model says; None with the model off.
    """

    frame: int
    sim_s: float
    image: np.ndarray | None
    points_in_ego: np.ndarray
    ego: EgoState
    guidance: RouteGuidance
    plan: Plan | None
    reasoning: Reasoning | None
    rung: str
    guarded: bool
    steps: int
    control: Control
    trace: TickTrace
    outside_ms: float | None
    predicted_ms: float | None
    preempted: int | None
    latency: LatencyRecord | None

    def record(self) -> TickRecord:
        """The tick as the log holds it."""
        ego, plan, control = self.ego, self.plan, self.control
        step_seen = any(span.name == "step" for span in self.trace.spans)
        return TickRecord(
            frame=self.frame,
            sim_s=self.sim_s,
            trace=self.trace,
            outside_ms=self.outside_ms,
            steps=self.steps,
            granularity="step" if step_seen else "plan",
            rung=self.rung,
            reasoning=None if self.reasoning is None else self.reasoning.probabilities,
            ego={
                **logged_ego(ego),
                "command": self.guidance.command.name,
                "remaining_m": round(self.guidance.remaining_m, 1),
            },
            plan=None if plan is None else plan.waypoints_in_ego[0],
            control={
                "throttle": round(control.throttle, 4),
                "steer": round(control.steer, 4),
                "brake": round(control.brake, 4),
            },
            guarded=self.guarded,
            engine="" if plan is None else plan.engine,
            predicted_ms=self.predicted_ms,
            preempted=self.preempted,
            latency=self.latency,
        )


def failed_tick(
    frame: int, sim_s: float, trace: TickTrace, outside_ms: float | None, error: Exception
) -> TickRecord:
    """The record of a tick that ends the route."""
    return TickRecord(
        frame=frame,
        sim_s=sim_s,
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
