"""The privileged expert: a three-second plan from the true state of the world, and why.

It follows the dense route with the Intelligent Driver Model (Treiber, Hennecke, Helbing: Congested traffic
states in empirical observations and microscopic simulations, Phys. Rev. E 62, 2000) held back by whatever is
ahead: vehicles, red lights, stop signs, walkers, crossing traffic. The plan is a roll-out of that law with a
kinematic bicycle on the route, so it also tells the way back from a perturbed pose. It has the form of the
diffusion planner's output, is driven by the same follower, and is what the planner learns to imitate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tickdrive.agents.expert_law import EMERGENCY_MPS2, ExpertConfig, Hold, idm
from tickdrive.agents.expert_lights import LightAhead, LightRule
from tickdrive.agents.expert_scene import ExpertScene, Mover, StopLine
from tickdrive.agents.types import Decision


@dataclass(frozen=True)
class ExpertPlan:
    """What the expert would do.

    Attributes:
        waypoints_in_ego: (T, 2) of the centre of the ego's bounding box, metres, x forward, y right.
        decision: what binds it.
        light: colour of the next light within 40 m on the route: none, green, yellow, red.
        lead_distance_m: bumper to the vehicle ahead on the route within 40 m, or None.
        lead_speed_mps: of that vehicle.
        target_speed_mps: speed at the end of the plan.
        lateral_error_m: distance of the ego from the route.
    """

    waypoints_in_ego: np.ndarray
    decision: Decision
    light: str
    lead_distance_m: float | None
    lead_speed_mps: float | None
    target_speed_mps: float
    lateral_error_m: float


_WHEELBASE_M = 2.86
_LOOK_AHEAD_M = 60.0
_START_M = 100.0
_ROLL_S = 0.1
_CLEARED_M = 1.5
"""What must be across a junction's edge behind the rear bumper: the criterion looks 1 m back, and a tick's
way is half a metre."""


class Expert:
    """Plans along one route.

    Args:
        route_xy: (N, 2) dense route (about 1 m apart) in the world.
        stop_lines: lights and stop signs on it, sorted by distance along it.
        config: how to drive.
    """

    def __init__(
        self, route_xy: np.ndarray, stop_lines: Sequence[StopLine], config: ExpertConfig | None = None
    ) -> None:
        self.config = config or ExpertConfig()
        self.xy = np.asarray(route_xy, dtype=float)
        steps = np.hypot(*np.diff(self.xy, axis=0).T)
        keep = np.concatenate([[True], steps > 0.05])
        self.xy = self.xy[keep]
        self.s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(self.xy, axis=0).T))])
        self.yaw = _route_yaw(self.xy)
        self.curve_speed = _curve_speed(self.xy, self.s, self.config)
        self.stop_lines = tuple(stop_lines)
        self.progress_s = 0.0
        self._served: dict[tuple[int, float], float] = {}
        self._light_rules: dict[tuple[int, float], LightRule] = {}
        self._waited_s = 0.0
        self._last_sim_s: float | None = None

    def plan(self, scene: ExpertScene) -> ExpertPlan:
        """Plan from the present state; call once a tick (it keeps count of stops at stop signs)."""
        ego = scene.ego
        self._advance(ego.position)
        delta_s = 0.0 if self._last_sim_s is None else scene.sim_s - self._last_sim_s
        self._last_sim_s = scene.sim_s
        speed = max(0.0, float(np.dot(ego.velocity, _unit(ego.yaw_deg))))
        self._waited_s = self._waited_s + delta_s if speed < 0.1 else 0.0
        cruise = min(scene.speed_limit_mps * self.config.cruise_fraction, self.config.cruise_cap_mps)
        movers = self._mover_holds(scene, speed, cruise)
        holds = [*self._line_holds(scene, speed, cruise, movers, delta_s), *movers]
        free = self._free_acceleration(speed, self.progress_s, cruise)
        binding: Hold | None = None
        strongest = free - 0.3
        for hold in holds:
            wanted = idm(speed, max(cruise, 0.1), hold.distance_m, hold.speed_mps, hold.keep_m, self.config)
            if wanted < strongest:
                strongest, binding = wanted, hold
        waypoints, end_speed = self._roll_out(ego, speed, cruise, holds)
        lead = min(
            (h for h in holds if h.decision is Decision.FOLLOW), key=lambda h: h.distance_m, default=None
        )
        near_lead = lead if lead is not None and lead.distance_m < 40.0 else None
        return ExpertPlan(
            waypoints_in_ego=waypoints,
            decision=Decision.CRUISE if binding is None else binding.decision,
            light=self._next_light(scene, ego),
            lead_distance_m=None if near_lead is None else near_lead.distance_m,
            lead_speed_mps=None if near_lead is None else near_lead.speed_mps,
            target_speed_mps=end_speed,
            lateral_error_m=float(np.hypot(*(self._point_at(self.progress_s) - ego.position))),
        )

    def _advance(self, position: np.ndarray) -> None:
        """Move `progress_s` to the route's nearest point: near its start at first, then near the last."""
        if self._last_sim_s is None:
            # only the route's first part: a closed loop ends where it starts
            near = self.xy[self.s < _START_M]
            self.progress_s = float(self.s[int(np.argmin(np.hypot(*(near - position).T)))])
        self.progress_s = max(self.progress_s - 1.0, self._project(position, self.progress_s))

    def _project(self, position: np.ndarray, near_s: float) -> float:
        """Distance along the route of its point nearest to `position`, 3 m before to 12 m after `near_s`."""
        first = max(int(np.searchsorted(self.s, near_s - 3.0)) - 1, 0)
        last = min(int(np.searchsorted(self.s, near_s + 12.0)) + 1, len(self.s) - 1)
        start, step = self.xy[first:last], np.diff(self.xy[first : last + 1], axis=0)
        if len(start) == 0:
            return float(self.s[-1])
        length = np.hypot(step[:, 0], step[:, 1])
        offset = position - start
        along = np.clip((offset[:, 0] * step[:, 0] + offset[:, 1] * step[:, 1]) / length**2, 0.0, 1.0)
        distance = np.hypot(offset[:, 0] - along * step[:, 0], offset[:, 1] - along * step[:, 1])
        best = int(np.argmin(distance))
        return float(self.s[first + best] + along[best] * length[best])

    def _next_light(self, scene: ExpertScene, ego: Mover) -> str:
        for line in self.stop_lines:
            front_s = self.progress_s + ego.half_length_m
            if line.is_light and line.entry_s >= front_s and line.route_s < front_s + 40.0:
                colour = scene.light_colours.get(line.actor_id, "none")
                return colour if colour in ("green", "yellow", "red") else "none"
        return "none"

    def _line_holds(
        self, scene: ExpertScene, speed: float, cruise: float, movers: Sequence[Hold], delta_s: float
    ) -> list[Hold]:
        holds = []
        for line in self.stop_lines:
            gap = line.route_s - self.progress_s - scene.ego.half_length_m
            if gap > _LOOK_AHEAD_M:
                continue
            key = (line.actor_id, round(line.route_s, 1))
            if line.is_light:
                light = LightAhead(
                    scene.light_colours.get(line.actor_id, "off"),
                    gap,
                    gap + line.entry_s - line.route_s,
                    speed,
                )
                # what must be behind it, and the time for that
                way_m = light.entry_m + 2.0 * scene.ego.half_length_m + _CLEARED_M
                left_s = scene.yellow_left_s.get(line.actor_id, 0.0)
                clears = partial(self._gets_on, speed, cruise, movers, way_m, left_s)
                stop_m = self._light_rules.setdefault(key, LightRule()).way_m(light, clears)
                if stop_m is not None:
                    holds.append(Hold(max(stop_m, 0.0), 0.0, self.config.line_gap_m, Decision.STOP_LIGHT))
                continue
            served = self._served.get(key, 0.0)
            if gap >= -1.0 and served < 1.0:
                if speed < 0.1 and gap < 4.0:
                    self._served[key] = served + delta_s
                holds.append(Hold(max(gap, 0.0), 0.0, self.config.line_gap_m, Decision.STOP_SIGN))
        return holds

    def _gets_on(
        self, speed: float, cruise: float, holds: Sequence[Hold], way_m: float, seconds: float
    ) -> bool:
        """Whether the law covers a way within a time, held back by `holds`."""
        travelled, elapsed = 0.0, 0.0
        while elapsed < seconds:
            step_s = min(_ROLL_S, seconds - elapsed)
            wanted = self._law(speed, self.progress_s + travelled, cruise, holds, elapsed, travelled)
            new_speed = max(0.0, speed + wanted * step_s)
            travelled += 0.5 * (speed + new_speed) * step_s
            speed = new_speed
            elapsed += step_s
        return travelled >= way_m

    def _mover_holds(self, scene: ExpertScene, speed: float, cruise: float) -> list[Hold]:
        ego = scene.ego
        ahead = (self.s >= self.progress_s - 2.0) & (self.s <= self.progress_s + _LOOK_AHEAD_M)
        index = np.flatnonzero(ahead)
        path, path_s, path_yaw = self.xy[index], self.s[index] - self.progress_s, self.yaw[index]
        holds = []
        for mover in scene.others:
            offset = mover.position - ego.position
            forward = float(np.dot(offset, _unit(ego.yaw_deg)))
            if forward < -ego.half_length_m - 1.0 and not mover.is_walker:
                # Behind: traffic that follows keeps its own distance.
                continue
            hold = (
                self._walker_hold(mover, ego, speed, path, path_s)
                if mover.is_walker
                else self._vehicle_hold(mover, ego, speed, cruise, path, path_s, path_yaw)
            )
            if hold is not None:
                holds.append(hold)
        return holds

    def _vehicle_hold(
        self,
        mover: Mover,
        ego: Mover,
        speed: float,
        cruise: float,
        path: np.ndarray,
        path_s: np.ndarray,
        path_yaw: np.ndarray,
    ) -> Hold | None:
        # Two drivers that wait for each other at a junction must not wait for ever: squeeze past.
        reach = ego.half_width_m + (0.25 if self._waited_s < 6.0 else 0.0)
        on_path = _touch(mover.corners(), path, path_s, reach)
        if on_path is not None:
            nearest, at = on_path
            along = float(np.dot(mover.velocity, _unit(float(path_yaw[at]))))
            aligned = abs(_wrap(mover.yaw_deg - float(path_yaw[at]))) < 50.0
            gap = nearest - ego.half_length_m
            if gap > -ego.half_length_m:
                decision = Decision.FOLLOW if aligned else Decision.YIELD_VEHICLE
                return Hold(max(gap, 0.0), max(along, 0.0), self.config.vehicle_gap_m, decision)
        if mover.speed_mps < 0.3:
            return None
        # Not on the way yet: will it be, when we are there?
        for ahead_s in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
            will_touch = _touch(mover.corners(ahead_s), path, path_s, reach)
            if will_touch is None:
                continue
            nearest, at = will_touch
            heading = mover.yaw_deg + mover.yaw_rate_dps * ahead_s
            crossing = abs(_wrap(heading - float(path_yaw[at])))
            reached = _travelled(speed, max(speed, 0.6 * cruise), ahead_s)
            if crossing < 35.0 and mover.speed_mps > speed:
                continue
            if (
                nearest - ego.half_length_m - 2.0 < reached + 3.0
                and reached - 6.0 < nearest + 2.0 * ego.half_length_m
            ):
                return Hold(max(nearest - ego.half_length_m, 0.0), 0.0, 2.0, Decision.YIELD_VEHICLE)
        return None

    def _walker_hold(
        self, mover: Mover, ego: Mover, speed: float, path: np.ndarray, path_s: np.ndarray
    ) -> Hold | None:
        # a walker that stands beside the way, waiting for us, must not be waited for for ever
        patient = self._waited_s < 6.0 or mover.speed_mps > 0.1
        reach = ego.half_width_m + (0.6 if patient else 0.2)
        for ahead_s in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
            touch = _touch(mover.corners(ahead_s), path, path_s, reach)
            if touch is None:
                continue
            gap = touch[0] - ego.half_length_m
            if gap < -1.0:
                return None
            arrives_s = gap / max(speed, 0.5)
            # We are past before it steps in, or it is gone long before we come.
            clear_s = (gap + 2.0 * ego.half_length_m + 1.0) / max(speed, 0.5)
            if ahead_s > clear_s + 0.5 or (ahead_s == 0.0 and arrives_s > 6.0 and mover.speed_mps > 0.5):
                return None
            return Hold(max(gap, 0.0), 0.0, self.config.walker_gap_m, Decision.YIELD_PEDESTRIAN)
        return None

    def _free_acceleration(self, speed: float, at_s: float, cruise: float) -> float:
        """IDM's free-road term, with the speed that the curves ahead allow as the desired one."""
        wanted = self._allowed_speed(at_s, speed, cruise)
        if speed > wanted:
            return max(-self.config.braking_mps2, 1.5 * (wanted - speed))
        return self.config.acceleration_mps2 * (1.0 - (speed / max(wanted, 0.1)) ** 4)

    def _allowed_speed(self, at_s: float, speed: float, cruise: float) -> float:
        window = (self.s >= at_s) & (self.s <= at_s + max(8.0, speed * speed / 2.0))
        if not window.any():
            return 0.0
        # A curve's speed must be reached when the curve is: v^2 = v_curve^2 + 2 b d.
        reachable = np.sqrt(self.curve_speed[window] ** 2 + 2.0 * 1.5 * (self.s[window] - at_s))
        return float(min(cruise, reachable.min()))

    def _roll_out(
        self, ego: Mover, speed: float, cruise: float, holds: Sequence[Hold]
    ) -> tuple[np.ndarray, float]:
        """Integrate the law over the plan's horizon with a kinematic bicycle steered by pure pursuit."""
        config = self.config
        yaw = math.radians(ego.yaw_deg)
        heading = np.array([math.cos(yaw), math.sin(yaw)])
        rear = ego.position - heading * (_WHEELBASE_M / 2.0)
        at_s, travelled = self.progress_s, 0.0
        steps_per_waypoint = round(config.dt_s / _ROLL_S)
        out = []
        for step in range(config.horizon * steps_per_waypoint):
            elapsed = step * _ROLL_S
            wanted = self._law(speed, at_s, cruise, holds, elapsed, travelled)
            new_speed = max(0.0, speed + wanted * _ROLL_S)
            distance = 0.5 * (speed + new_speed) * _ROLL_S
            speed = new_speed
            goal = self._point_at(at_s + max(2.5, 0.45 * speed + 0.8))
            to_goal = goal - rear
            bearing = math.atan2(to_goal[1], to_goal[0]) - yaw
            curvature = 2.0 * math.sin(bearing) / max(float(np.hypot(*to_goal)), 1.0)
            curvature = max(-0.19, min(0.19, curvature))
            yaw_before = yaw
            yaw += curvature * distance
            middle = 0.5 * (yaw + yaw_before)
            rear = rear + distance * np.array([math.cos(middle), math.sin(middle)])
            travelled += distance
            centre = rear + (_WHEELBASE_M / 2.0) * np.array([math.cos(yaw), math.sin(yaw)])
            at_s = self._project(centre, at_s)
            if (step + 1) % steps_per_waypoint == 0:
                out.append(centre)
        offsets = np.array(out) - ego.position
        right = np.array([-heading[1], heading[0]])
        return np.stack([offsets @ heading, offsets @ right], axis=1).astype(np.float32), speed

    def _law(
        self,
        speed: float,
        at_s: float,
        cruise: float,
        holds: Sequence[Hold],
        elapsed: float,
        travelled: float,
    ) -> float:
        """Acceleration `elapsed` seconds and `travelled` metres from now."""
        wanted = self._free_acceleration(speed, at_s, cruise)
        for hold in holds:
            gap = hold.distance_m + hold.speed_mps * elapsed - travelled
            wanted = min(wanted, idm(speed, max(cruise, 0.1), gap, hold.speed_mps, hold.keep_m, self.config))
        return max(wanted, -EMERGENCY_MPS2)

    def _point_at(self, s: float) -> np.ndarray:
        """Point of the route; straight on beyond its end."""
        if s > self.s[-1]:
            return self.xy[-1] + (s - self.s[-1]) * _unit(float(self.yaw[-1]))
        return np.array([np.interp(s, self.s, self.xy[:, 0]), np.interp(s, self.s, self.xy[:, 1])])


def _touch(
    points: np.ndarray, path: np.ndarray, path_s: np.ndarray, reach: float
) -> tuple[float, int] | None:
    """Nearest distance along the path at which a point lies within `reach` of it, and the path's index."""
    if len(path) == 0:
        return None
    distance = np.hypot(points[:, None, 0] - path[None, :, 0], points[:, None, 1] - path[None, :, 1])
    nearest = distance.argmin(axis=1)
    touching = distance[np.arange(len(points)), nearest] < reach
    if not touching.any():
        return None
    at = int(nearest[touching].min())
    return float(path_s[at]), at


def _travelled(speed: float, towards: float, seconds: float) -> float:
    """Distance covered while speeding up to `towards` at 1.5 m/s2."""
    rise_s = min(seconds, max(0.0, (towards - speed) / 1.5))
    return speed * seconds + 0.5 * 1.5 * rise_s**2 + 1.5 * rise_s * (seconds - rise_s)


def _route_yaw(xy: np.ndarray) -> np.ndarray:
    step = np.gradient(xy, axis=0)
    return np.degrees(np.arctan2(step[:, 1], step[:, 0]))


def _curve_speed(xy: np.ndarray, s: np.ndarray, config: ExpertConfig) -> np.ndarray:
    """Speed that keeps the lateral acceleration in bounds, from the heading change over about 6 m."""
    yaw = np.unwrap(np.radians(_route_yaw(xy)))
    before = np.interp(s - 3.0, s, yaw)
    after = np.interp(s + 3.0, s, yaw)
    curvature = np.abs(after - before) / 6.0
    return np.sqrt(config.lateral_acceleration_mps2 / np.maximum(curvature, 1e-3))


def _unit(yaw_deg: float) -> np.ndarray:
    return np.array([math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))])


def _wrap(angle_deg: float) -> float:
    return (angle_deg + 180.0) % 360.0 - 180.0
