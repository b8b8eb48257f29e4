"""The leaderboard's sparse plan, followed: target points and the command in force.

The plan is what the leaderboard hands to an agent after its own downsampling (a point at every change of
command, and at least every 200 m; Bench2Drive 50 m). The command on point i holds from that point on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.agents.types import Command, EgoState, RouteGuidance, TargetPoint
from tickdrive.leaderboard.simulator.geometry import wrap_deg
from tickdrive.planner.errors import RouteError

_REACH_M = 2.0
"""Nearer than this a point counts as reached."""
_PASS_M = 15.0
"""Within this distance, crossing the point's line (across its lane) counts as passing it."""
_WIDE_M = 35.0
"""A point passed this wide is dropped once it falls behind; further off, the leaderboard ends the route."""


@dataclass(frozen=True)
class PlanPoint:
    """A point of the plan: world frame, metres and degrees; the command holds from here on."""

    x: float
    y: float
    yaw_deg: float
    command: Command
    lat_deg: float
    lon_deg: float


def read_plan(
    global_plan_gps: Sequence[Any], global_plan_world_coord: Sequence[Any]
) -> tuple[PlanPoint, ...]:
    """The plan in one form, whichever leaderboard gave it.

    Args:
        global_plan_gps: [({"lat", "lon", "z"}, RoadOption)].
        global_plan_world_coord: [(carla.Transform or Location, RoadOption)], the same points.

    Raises:
        RouteError: the two differ in length, hold fewer than two points, or an entry cannot be read.
    """
    if len(global_plan_gps) != len(global_plan_world_coord):
        raise RouteError(
            f"The plan has {len(global_plan_gps)} GPS and {len(global_plan_world_coord)} world points.",
            "Pass both as the leaderboard gives them to set_global_plan.",
        )
    if len(global_plan_world_coord) < 2:
        raise RouteError(
            f"The plan has {len(global_plan_world_coord)} points; a route needs 2.", "Check the route file."
        )
    places = [_place(entry) for entry in global_plan_world_coord]
    points = []
    for index, (gps, world) in enumerate(zip(global_plan_gps, global_plan_world_coord, strict=True)):
        x, y, yaw = places[index]
        if yaw is None:
            ahead = places[min(index + 1, len(places) - 1)]
            behind = places[max(index - 1, 0)] if index + 1 == len(places) else places[index]
            yaw = math.degrees(math.atan2(ahead[1] - behind[1], ahead[0] - behind[0]))
        lat, lon = _lat_lon(gps)
        points.append(PlanPoint(x, y, yaw, _command(world[1]), lat, lon))
    return tuple(points)


class RouteTracker:
    """Keeps the place on the plan and says what comes next. Purely a function of the states it is shown.

    Args:
        global_plan_gps: as the leaderboard gives it, downsampled.
        global_plan_world_coord: likewise.

    Raises:
        RouteError: see `read_plan`.
    """

    def __init__(self, global_plan_gps: Sequence[Any], global_plan_world_coord: Sequence[Any]) -> None:
        self.points = read_plan(global_plan_gps, global_plan_world_coord)
        # the ego starts at point 0
        self._next = 1
        self._nearest_m = math.inf

    @property
    def next_index(self) -> int:
        """Index of the point being driven to; the last one stays the target at the end."""
        return self._next

    def step(self, ego: EgoState) -> RouteGuidance:
        """Drop the points that are reached or behind, and describe the next ones.

        Returns:
            Targets in the present ego frame, metres.
        """
        last = len(self.points) - 1
        while self._next < last:
            # two points can be passed in one tick where they lie close together; one that is reached takes
            # with it an earlier one that was missed
            if self._passed(self._next, ego):
                self._advance(self._next + 1)
            elif self._next + 1 < last and self._reached(self._next + 1, ego):
                self._advance(self._next + 2)
            else:
                break
        distance = self._distance(self._next, ego)
        self._nearest_m = min(self._nearest_m, distance)
        after = min(self._next + 1, last)
        remaining = distance + sum(
            math.hypot(b.x - a.x, b.y - a.y)
            for a, b in zip(self.points[self._next : last], self.points[self._next + 1 :], strict=True)
        )
        return RouteGuidance(
            command=self.points[self._next - 1].command,
            target=self._target(self._next, ego),
            next_target=self._target(after, ego),
            remaining_m=remaining,
        )

    def _advance(self, index: int) -> None:
        self._next = min(index, len(self.points) - 1)
        self._nearest_m = math.inf

    def _distance(self, index: int, ego: EgoState) -> float:
        point = self.points[index]
        return math.hypot(point.x - ego.position_in_world[0], point.y - ego.position_in_world[1])

    def _reached(self, index: int, ego: EgoState) -> bool:
        return self._distance(index, ego) <= _REACH_M and self._aligned(index, ego)

    def _passed(self, index: int, ego: EgoState) -> bool:
        distance = self._distance(index, ego)
        if distance <= _REACH_M:
            return True
        if not self._aligned(index, ego):
            return False
        point = self.points[index]
        yaw = math.radians(point.yaw_deg)
        beyond = (ego.position_in_world[0] - point.x) * math.cos(yaw) + (
            ego.position_in_world[1] - point.y
        ) * math.sin(yaw)
        if distance <= _PASS_M:
            return beyond >= 0.0
        # passed wide: it was near, is behind, and the distance grows again
        return beyond >= 3.0 and self._nearest_m <= _WIDE_M and distance > self._nearest_m + 3.0

    def _aligned(self, index: int, ego: EgoState) -> bool:
        """Whether the ego drives the point's way; keeps a road that comes back close by from counting."""
        return abs(wrap_deg(ego.yaw_deg - self.points[index].yaw_deg)) < 100.0

    def _target(self, index: int, ego: EgoState) -> TargetPoint:
        point = self.points[index]
        return TargetPoint(to_ego(np.array([point.x, point.y]), ego), point.command)


def to_ego(point_in_world: np.ndarray, ego: EgoState) -> np.ndarray:
    """(..., 2) float64 world points in the ego frame: x forward, y right, metres."""
    yaw = math.radians(ego.yaw_deg)
    delta = np.asarray(point_in_world, dtype=np.float64) - ego.position_in_world
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.stack(
        [delta[..., 0] * cos + delta[..., 1] * sin, delta[..., 1] * cos - delta[..., 0] * sin], axis=-1
    )


def _place(entry: Any) -> tuple[float, float, float | None]:
    """x, y and, where the plan has it, yaw."""
    try:
        pose = entry[0]
        location = getattr(pose, "location", pose)
        rotation = getattr(pose, "rotation", None)
        yaw = None if rotation is None else float(rotation.yaw)
        return float(location.x), float(location.y), yaw
    except (TypeError, IndexError, AttributeError) as error:
        raise RouteError(
            f"A world point of the plan is {entry!r}.", "Expected (carla.Transform, RoadOption)."
        ) from error


def _lat_lon(entry: Any) -> tuple[float, float]:
    try:
        gps: Mapping[str, float] = entry[0]
        return float(gps["lat"]), float(gps["lon"])
    except (TypeError, IndexError, KeyError) as error:
        raise RouteError(
            f"A GPS point of the plan is {entry!r}.", "Expected ({'lat', 'lon', 'z'}, RoadOption)."
        ) from error


def _command(option: Any) -> Command:
    """`RoadOption` (or its number) as a command; VOID (-1) and what is unknown mean: follow the lane."""
    try:
        return Command(int(getattr(option, "value", option)))
    except (TypeError, ValueError):
        return Command.LANE_FOLLOW
