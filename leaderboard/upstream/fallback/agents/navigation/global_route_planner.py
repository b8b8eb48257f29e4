"""`GlobalRoutePlanner`: the shortest way between two places, by tickdrive's planner of the same behaviour."""

from __future__ import annotations

import carla
import networkx as nx

from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.planner.errors import RouteError

from .local_planner import RoadOption


class GlobalRoutePlanner:
    """Finds ways on a map.

    Args:
        wmap: the town's map.
        sampling_resolution: distance between a route's points, m.
    """

    def __init__(self, wmap: carla.Map, sampling_resolution: float) -> None:
        self._planner = RoutePlanner(wmap, sampling_resolution)

    def trace_route(
        self, origin: carla.Location, destination: carla.Location
    ) -> list[tuple[carla.Waypoint, RoadOption]]:
        """Waypoints from `origin` to `destination`, each with the option in force there.

        Raises:
            networkx.NetworkXNoPath: there is none; scenario_runner waits for this very error.
        """
        try:
            trace = self._planner.trace_pair(origin, destination)
        except RouteError as error:
            raise nx.NetworkXNoPath(str(error)) from error
        return [(waypoint, RoadOption(int(command))) for waypoint, command in trace]
