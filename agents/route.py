"""The leaderboard's sparse plan, followed: target points and the command in force.

The plan is what the leaderboard hands to an agent after its own downsampling (a point at every change of
command, and at least every 200 m; Bench2Drive 50 m). The command on point i holds from that point on.

Where the road bends on the way to a point far off, the way to it is no straight line, and who drives towards
it leaves the road. So points are put in between there, on the curve that the headings at both ends suggest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.agents.curves import hermite
from tickdrive.agents.types import Command, EgoState, RouteGuidance, TargetPoint
from tickdrive.leaderboard.simulator.geometry import wrap_deg
from tickdrive.planner.errors import RouteError

_REACH_M = 2.0
"""Nearer than this a point counts as reached."""
_PASS_M = 15.0
"""Within this distance, crossing the point's line (across its lane) counts as passing it."""
_WIDE_M = 35.0
"""A point passed this wide is dropped once it falls behind; further off, the leaderboard ends the route."""


_FILL_GAP_M = 60.0
"""Points nearer to each other have nothing put between them; Bench2Drive's are just over 50 m apart."""
_FILLED_GAP_M = 50.0
"""At most as far apart are points where something was."""
_BEND_DEG = (10.0, 80.0)
"""Between a heading and the straight line to the other point: below, the road hardly bends; above, it may go
anywhere."""
_CURVE_PULL = 1.25
"""Length of the curve's tangents over the distance of its ends; 1.0 to 2.5 were tried. On Bench2Drive-220's
routes in Town04 and Town10HD, planned with points 200 m apart, the straight line is 11 to 29 m off the road
where it bends most, the curve 1 to 5 m."""


@dataclass(frozen=True)
class WayPoint:
    """A point to drive to: world frame, metres and degrees; the command holds from here on."""

    x: float
    y: float
    yaw_deg: float
    command: Command


@dataclass(frozen=True)
class PlanPoint(WayPoint):
    """One of the plan's own."""

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
        headed = all(hasattr(entry[0], "rotation") for entry in global_plan_world_coord)
        self.way: tuple[WayPoint, ...] = with_bends(self.points) if headed else self.points
        # the ego starts at point 0
        self._next = 1
        self._nearest_m = math.inf

    @property
    def next_index(self) -> int:
        """Index on `way` of the point being driven to; the last one stays the target at the end."""
        return self._next

    def step(self, ego: EgoState) -> RouteGuidance:
        """Drop the points that are reached or behind, and describe the next ones.

        Returns:
            Targets in the present ego frame, metres.
        """
        last = len(self.way) - 1
        while self._next < last:
            # two points can be passed in one tick where they lie close together; one that is reached takes
            # with it an earlier one that was missed
            if self._passed(self._next, ego):
                self._advance(self._next + 1)
                continue
            reached = next((index for index in self._soon(last) if self._reached(index, ego)), None)
            if reached is None:
                break
            self._advance(reached + 1)
        distance = self._distance(self._next, ego)
        self._nearest_m = min(self._nearest_m, distance)
        after = min(self._next + 1, last)
        remaining = distance + sum(
            math.hypot(b.x - a.x, b.y - a.y)
            for a, b in zip(self.way[self._next : last], self.way[self._next + 1 :], strict=True)
        )
        return RouteGuidance(
            command=self.way[self._next - 1].command,
            target=self._target(self._next, ego),
            next_target=self._target(after, ego),
            remaining_m=remaining,
        )

    def _soon(self, last: int) -> Iterator[int]:
        """Indices behind the next point up to the second of the plan's own, and before the last."""
        own = 0
        for index in range(self._next, last):
            if index > self._next:
                yield index
            own += isinstance(self.way[index], PlanPoint)
            if own == 2:
                return

    def _advance(self, index: int) -> None:
        self._next = min(index, len(self.way) - 1)
        self._nearest_m = math.inf

    def _distance(self, index: int, ego: EgoState) -> float:
        point = self.way[index]
        return math.hypot(point.x - ego.position_in_world[0], point.y - ego.position_in_world[1])

    def _reached(self, index: int, ego: EgoState) -> bool:
        return self._distance(index, ego) <= _REACH_M and self._aligned(index, ego)

    def _passed(self, index: int, ego: EgoState) -> bool:
        distance = self._distance(index, ego)
        if distance <= _REACH_M:
            return True
        if not self._aligned(index, ego):
            return False
        point = self.way[index]
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
        return abs(wrap_deg(ego.yaw_deg - self.way[index].yaw_deg)) < 100.0

    def _target(self, index: int, ego: EgoState) -> TargetPoint:
        point = self.way[index]
        return TargetPoint(to_ego(np.array([point.x, point.y]), ego), point.command)


def with_bends(points: Sequence[WayPoint]) -> tuple[WayPoint, ...]:
    """The way with points put in where it bends between two that are far apart.

    They lie on a cubic Hermite curve, and carry the command of the point before.
    """
    way = [points[0]]
    for a, b in itertools.pairwise(points):
        gap_m = math.hypot(b.x - a.x, b.y - a.y)
        chord_deg = math.degrees(math.atan2(b.y - a.y, b.x - a.x))
        bend_deg = max(abs(wrap_deg(point.yaw_deg - chord_deg)) for point in (a, b))
        if gap_m > _FILL_GAP_M and _BEND_DEG[0] < bend_deg <= _BEND_DEG[1]:
            count = math.ceil(gap_m / _FILLED_GAP_M)
            way += [_on_curve(a, b, index / count) for index in range(1, count)]
        way.append(b)
    return tuple(way)


def _on_curve(a: WayPoint, b: WayPoint, t: float) -> WayPoint:
    """The point at `t` from 0 to 1."""
    ends = np.array([[a.x, a.y], [b.x, b.y]])
    yaws = np.radians([a.yaw_deg, b.yaw_deg])
    tangents = np.stack([np.cos(yaws), np.sin(yaws)], axis=1) * _CURVE_PULL * np.hypot(*(ends[1] - ends[0]))
    place = hermite(ends[0], ends[1], tangents[0], tangents[1], t)
    way = np.array([6 * t**2 - 6 * t, 6 * t - 6 * t**2]) @ ends
    way += np.array([3 * t**2 - 4 * t + 1, 3 * t**2 - 2 * t]) @ tangents
    yaw_deg = math.degrees(math.atan2(way[1], way[0]))
    return WayPoint(float(place[0]), float(place[1]), yaw_deg, a.command)


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
