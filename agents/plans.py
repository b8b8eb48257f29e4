"""Plans as they are driven: checked, moved into the present ego frame, joined where the ego has come to."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from tickdrive.agents.route import to_ego
from tickdrive.agents.types import EgoState, Reasoning
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.types import Plan

_MAX_WAYPOINT_M = 300.0
"""A waypoint further off than this within the plan's 3 s (100 m/s) cannot be driven."""

_JOIN_PIECES = 10
_JOIN_M_PER_S = 0.05


@dataclass(frozen=True)
class PlanToDrive:
    """What a tick's planning came to.

    Attributes:
        plan: (1, T, 2) in the ego frame of `ego`, waypoint i at (i + 1) dt after it; None: brake.
        ego: whose frame and time the plan is in.
        rung: how it was come by (`agents/stack.py`).
        reasoning: why, where the extractor says.
        path_in_ego: (T, 2) to steer along, where the guard shortened the plan; None: along the plan.
    """

    plan: Plan | None
    ego: EgoState
    rung: str
    reasoning: Reasoning | None
    path_in_ego: np.ndarray | None = None

    def seen_from(self, now: EgoState) -> PlanToDrive:
        """The same in the present ego frame, only what still lies in the future; None past its horizon."""
        if self.plan is None or now is self.ego:
            return self
        horizon_s = self.plan.dt_s * self.plan.waypoints_in_ego.shape[1]
        if now.sim_s - self.ego.sim_s >= horizon_s - 1e-6:
            return dataclasses.replace(self, plan=None, ego=now, path_in_ego=None)
        path = self.path_in_ego
        if path is not None:
            path = _shifted(path, self.plan.dt_s, self.ego, now)
        return dataclasses.replace(self, plan=shift_plan(self.plan, self.ego, now), ego=now, path_in_ego=path)

    def as_if_made(self, now: EgoState) -> PlanToDrive:
        """The same waypoints, taken to begin where and when the ego is now: latency is not known of."""
        return dataclasses.replace(self, ego=now)

    def joined(self, now: EgoState) -> PlanToDrive:
        """The plan where it lies in the world, begun at the point that the ego has come to.

        While it was computed the ego followed another plan. Counted from its observation it may ask for a
        place far ahead (it set off, the ego did not) or behind; so its time is set to that at which it passes
        the ego, and waypoints before that are dropped.
        """
        if self.plan is None:
            return self
        times = (
            np.arange(0, _JOIN_PIECES * self.plan.waypoints_in_ego.shape[1] + 1)
            * self.plan.dt_s
            / _JOIN_PIECES
        )
        line = np.vstack([np.zeros((1, 2)), self.plan.waypoints_in_ego[0].astype(np.float64)])
        knots = self.plan.dt_s * np.arange(len(line))
        points = np.stack([np.interp(times, knots, line[:, axis]) for axis in (0, 1)], axis=1)
        distance = np.hypot(*(points - to_ego(now.position_in_world, self.ego)).T)
        # where the plan stands still, or passes a place twice, the time that has gone by decides
        late_s = np.abs(times - (now.sim_s - self.ego.sim_s))
        along_s = float(times[np.argmin(distance + _JOIN_M_PER_S * late_s)])
        return dataclasses.replace(self, ego=dataclasses.replace(self.ego, sim_s=now.sim_s - along_s))


def shift_plan(plan: Plan, then: EgoState, now: EgoState) -> Plan:
    """An older plan as seen now: in the present ego frame, and only what still lies in the future.

    Waypoint i stands at now + (i + 1) dt again; past the plan's end its last velocity is kept.
    """
    shifted = _shifted(plan.waypoints_in_ego[0], plan.dt_s, then, now)
    return dataclasses.replace(plan, waypoints_in_ego=shifted[None].astype(np.float32))


def check_plan(plan: Plan) -> None:
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


def _shifted(waypoints: np.ndarray, dt_s: float, then: EgoState, now: EgoState) -> np.ndarray:
    """(T, 2) waypoints of `then`, at the same spacing in time from now on, in the ego frame of now."""
    yaw = math.radians(then.yaw_deg)
    points = np.vstack([np.zeros((1, 2)), waypoints.astype(np.float64)])
    rotation = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
    in_ego = to_ego(points @ rotation + then.position_in_world, now)
    times = dt_s * np.arange(len(points))
    wanted = now.sim_s - then.sim_s + times[1:]
    out = np.stack([np.interp(wanted, times, in_ego[:, axis]) for axis in (0, 1)], axis=1)
    beyond = np.maximum(wanted - times[-1], 0.0)[:, None]
    return out + beyond * (in_ego[-1] - in_ego[-2]) / dt_s
