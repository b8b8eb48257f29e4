"""Writes down where a route leads and which roads lie around it: a report draws its map from that alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import carla
import numpy as np

from tickdrive.leaderboard.observer import Observer, RouteStart
from tickdrive.leaderboard.results import write_json_atomically

_LOGGER = logging.getLogger(__name__)
MAP_NAME = "route.json"
_REACH_M = 120.0
"""Roads further from the route than this are not drawn."""
_STEP_M = 2.0
_TOLERANCE_M = 0.1


class RouteMapKeeper(Observer):
    """Writes the map of each route when it starts.

    ``route.json`` (or ``<route id>.route.json``) holds ``{"schema": 1, "route_id", "town", "length_m",
    "route": [[x, y], …], "lanes": [{"width_m", "points": [[x, y], …]}, …]}`` in the world frame, metres.

    Args:
        folder: the run's folder.
        by_route: whether the file is named by the route.
    """

    def __init__(self, folder: Path, by_route: bool = False) -> None:
        self._folder = folder
        self._by_route = by_route

    def on_route_start(self, start: RouteStart) -> None:
        """Write it; a full disk must not end the drive."""
        name = f"{start.route_id}.{MAP_NAME}" if self._by_route else MAP_NAME
        route = np.array([[p.transform.location.x, p.transform.location.y] for p in start.points])
        content = {
            "schema": 1,
            "route_id": start.route_id,
            "town": start.route.town,
            "length_m": round(start.length_m, 1),
            "route": rounded(thin(route)),
            "lanes": lanes_near(start.world.get_map(), route),
        }
        try:
            write_json_atomically(self._folder / name, content, indent=None)
        except OSError as error:
            _LOGGER.warning("the map of %s was not kept: %s", start.route_id, error)


def lanes_near(town: carla.Map, route_in_world: np.ndarray) -> list[dict[str, Any]]:
    """Centre lines and widths of the driving lanes within 120 m of a route.

    Args:
        town: the map.
        route_in_world: (N, 2), metres.
    """
    coarse = route_in_world[:: max(1, len(route_in_world) // 400)]
    lanes = []
    for start, end in town.get_topology():
        ends = np.array([[w.transform.location.x, w.transform.location.y] for w in (start, end)])
        away = np.hypot(*(ends[:, None] - coarse[None]).transpose(2, 0, 1)).min()
        if away > _REACH_M:
            continue
        way = [start, *start.next_until_lane_end(_STEP_M)]
        points = np.array([[w.transform.location.x, w.transform.location.y] for w in way])
        points = np.vstack([points, ends[1:]])  # joins on to the next lane without a gap
        lanes.append({"width_m": round(start.lane_width, 2), "points": rounded(thin(points))})
    return lanes


def thin(points: np.ndarray, tolerance_m: float = _TOLERANCE_M) -> np.ndarray:
    """Leave out points of a line that lie within a tolerance of what is left (Douglas and Peucker).

    Args:
        points: (N, 2), metres.
        tolerance_m: largest distance of a point left out.

    Returns:
        (M, 2), M <= N, first and last point included.
    """
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    stack = [(0, len(points) - 1)]
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        along = points[last] - points[first]
        offset = points[first + 1 : last] - points[first]
        length = float(np.hypot(*along))
        if length < 1e-9:
            away = np.hypot(offset[:, 0], offset[:, 1])
        else:
            away = np.abs(along[0] * offset[:, 1] - along[1] * offset[:, 0]) / length
        worst = int(away.argmax())
        if away[worst] > tolerance_m:
            middle = first + 1 + worst
            keep[middle] = True
            stack += [(first, middle), (middle, last)]
    return points[keep]


def rounded(points: np.ndarray) -> list[list[float]]:
    """Points to the centimetre, for JSON."""
    return [[round(float(x), 2), round(float(y), 2)] for x, y in points]
