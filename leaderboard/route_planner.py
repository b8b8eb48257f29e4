"""From a route's keypoints to the dense route, its commands, and the sparse plan an agent is given.

The behaviour is upstream's, because the plan an agent sees must be the one the public leaderboards give it:
the graph search and turn commands of CARLA 0.9.16's `agents/navigation/global_route_planner.py`, and
`interpolate_trajectory`, `downsample_route` and `_location_to_gps` of leaderboard 2.x's
`leaderboard/utils/route_manipulation.py`.

World frame is CARLA's (left-handed, x east, y south, metres).
"""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import carla
import networkx as nx
import numpy as np

from tickdrive.agents.types import Command
from tickdrive.planner.errors import RouteError

PLAN_GAP_M = 200.0
"""Largest gap of the plan under leaderboard 2.x (`autonomous_agent.py: set_global_plan`)."""
BENCH2DRIVE_PLAN_GAP_M = 50.0

# global_route_planner.py, `_turn_decision`: what bends less than this is "straight".
_STRAIGHT_BELOW_RAD = math.radians(35.0)
# global_route_planner.py, `trace_route`: a lane change lands this many path points further on.
_LANE_CHANGE_POINTS = 5
# A keypoint farther from every driving lane is of another town.
_FARTHEST_OFF_M = 100.0
_LANE_CHANGES = (Command.CHANGE_LANE_LEFT, Command.CHANGE_LANE_RIGHT)
# route_manipulation.py, `_location_to_gps`
_EARTH_RADIUS_M = 6378137.0
_DEFAULT_REFERENCE = (42.0, 2.0)


class RoutePoint(NamedTuple):
    """A point of a route; unpacks like upstream's ``(transform, RoadOption)`` pairs."""

    transform: carla.Transform
    command: Command


@dataclass
class _Segment:
    """One lane of one road section, from the map's topology, with the waypoints between its ends."""

    entry: carla.Waypoint
    exit: carla.Waypoint
    entry_vertex: tuple[float, float, float]
    exit_vertex: tuple[float, float, float]
    path: list[carla.Waypoint]


@dataclass
class _Edge:
    """What the search graph knows of a segment (LANE_FOLLOW) or a lane change (no path)."""

    command: Command
    entry: carla.Waypoint
    exit: carla.Waypoint
    path: list[carla.Waypoint]
    in_junction: bool
    exit_direction: np.ndarray | None = None
    chord_direction: np.ndarray | None = None

    @property
    def crosses_junction(self) -> bool:
        return self.command is Command.LANE_FOLLOW and self.in_junction


class RoutePlanner:
    """Finds the way between keypoints on a map.

    Args:
        carla_map: the town's map.
        resolution_m: distance between the route's points.
    """

    def __init__(self, carla_map: carla.Map, resolution_m: float = 1.0) -> None:
        self._map = carla_map
        self._resolution_m = resolution_m
        self._graph: nx.DiGraph[int] = nx.DiGraph()
        self._nodes: dict[tuple[float, float, float], int] = {}
        self._edge_of_lane: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._previous_command: Command | None = None
        self._junction_end = -1
        segments = self._read_topology()
        self._add_segments(segments)
        self._add_loose_ends(segments)
        self._add_lane_changes(segments)

    def trace(self, waypoints: Sequence[carla.Location]) -> list[RoutePoint]:
        """Dense route through all keypoints, in their order.

        Args:
            waypoints: at least two locations, in the world frame; each is moved to the nearest driving lane.

        Returns:
            Points about `resolution_m` apart, each with the command in force there.

        Raises:
            RouteError: fewer than two keypoints, one far off every lane, or no way between two of them.
        """
        if len(waypoints) < 2:
            raise RouteError(
                f"The route has {len(waypoints)} keypoint(s).", "Give at least its start and its goal."
            )
        for location in waypoints:  # however far, CARLA's map has a nearest lane
            lane = self._map.get_waypoint(location).transform.location
            off_m = math.hypot(lane.x - location.x, lane.y - location.y)
            if off_m > _FARTHEST_OFF_M:
                raise RouteError(
                    f"The keypoint ({_text(location)}) is {off_m:.0f} m off the nearest lane.",
                    "Check that the route belongs to this town.",
                )
        self._previous_command, self._junction_end = None, -1
        route: list[RoutePoint] = []
        for origin, destination in itertools.pairwise(waypoints):
            route += [RoutePoint(w.transform, command) for w, command in self.trace_pair(origin, destination)]
        return route

    # -- the graph ---------------------------------------------------------------------------------------

    def _read_topology(self) -> list[_Segment]:
        segments = []
        for entry, exit_ in self._map.get_topology():
            end = exit_.transform.location
            path: list[carla.Waypoint] = []
            if entry.transform.location.distance(end) > self._resolution_m:
                following = entry.next(self._resolution_m)
                while following and following[0].transform.location.distance(end) > self._resolution_m:
                    path.append(following[0])
                    following = following[0].next(self._resolution_m)
            else:
                following = entry.next(self._resolution_m)
                if not following:
                    continue
                path.append(following[0])
            segments.append(_Segment(entry, exit_, _vertex(entry), _vertex(exit_), path))
        return segments

    def _add_segments(self, segments: Iterable[_Segment]) -> None:
        for segment in segments:
            start, end = self._node(segment.entry_vertex), self._node(segment.exit_vertex)
            self._edge_of_lane[_lane(segment.entry)] = (start, end)
            chord = _xyz(segment.exit.transform.location) - _xyz(segment.entry.transform.location)
            edge = _Edge(
                Command.LANE_FOLLOW,
                segment.entry,
                segment.exit,
                segment.path,
                segment.entry.is_junction,
                exit_direction=_xyz(segment.exit.transform.get_forward_vector()),
                chord_direction=chord / max(float(np.linalg.norm(chord)), 1e-9),
            )
            self._graph.add_edge(start, end, length=len(segment.path) + 1, edge=edge)

    def _add_loose_ends(self, segments: Iterable[_Segment]) -> None:
        """Lanes that end without a successor are no topology entry of their own; they get an edge here."""
        count = 0
        for segment in segments:
            end = segment.exit
            if _lane(end) in self._edge_of_lane:
                continue
            count += 1
            start = self._node(segment.exit_vertex)
            self._edge_of_lane[_lane(end)] = (start, -count)
            path = []
            following = end.next(self._resolution_m)
            while following and _lane(following[0]) == _lane(end):
                path.append(following[0])
                following = following[0].next(self._resolution_m)
            if path:
                vertex = path[-1].transform.location
                self._graph.add_node(-count, vertex=(vertex.x, vertex.y, vertex.z))
                edge = _Edge(Command.LANE_FOLLOW, end, path[-1], path, end.is_junction)
                self._graph.add_edge(start, -count, length=len(path) + 1, edge=edge)

    def _add_lane_changes(self, segments: Iterable[_Segment]) -> None:
        """Free edges to the neighbouring lane, at the first point of a segment where changing is allowed."""
        for segment in segments:
            if segment.entry.is_junction:
                continue
            wanted = {Command.CHANGE_LANE_RIGHT, Command.CHANGE_LANE_LEFT}
            for waypoint in segment.path:
                for command in sorted(wanted, reverse=True):
                    if self._add_lane_change(segment, waypoint, command):
                        wanted.discard(command)
                if not wanted:
                    break

    def _add_lane_change(self, segment: _Segment, waypoint: carla.Waypoint, command: Command) -> bool:
        if command is Command.CHANGE_LANE_RIGHT:
            marking, allowed, step = (
                waypoint.right_lane_marking,
                carla.LaneChange.Right,
                waypoint.get_right_lane,
            )
        else:
            marking, allowed, step = waypoint.left_lane_marking, carla.LaneChange.Left, waypoint.get_left_lane
        if not marking or not marking.lane_change & allowed:
            return False
        beside = step()
        if beside is None or beside.lane_type != carla.LaneType.Driving or beside.road_id != waypoint.road_id:
            return False
        target = self._localize(beside.transform.location)
        if target is None:
            return False
        edge = _Edge(command, waypoint, beside, [], False)
        self._graph.add_edge(self._node(segment.entry_vertex), target[0], length=0, edge=edge)
        return True

    def _node(self, vertex: tuple[float, float, float]) -> int:
        if vertex not in self._nodes:
            self._nodes[vertex] = len(self._nodes)
            self._graph.add_node(self._nodes[vertex], vertex=vertex)
        return self._nodes[vertex]

    # -- the search --------------------------------------------------------------------------------------

    def _localize(self, location: carla.Location) -> tuple[int, int] | None:
        waypoint = self._map.get_waypoint(location)
        return None if waypoint is None else self._edge_of_lane.get(_lane(waypoint))

    def _search(self, origin: carla.Location, destination: carla.Location) -> list[int]:
        ends = []
        for name, location in (("start", origin), ("goal", destination)):
            edge = self._localize(location)
            if edge is None:
                raise RouteError(
                    f"The {name} ({_text(location)}) is on no lane of the map.",
                    "Check that the route belongs to this town.",
                )
            ends.append(edge)
        vertices = self._graph.nodes
        try:
            nodes = nx.astar_path(
                self._graph,
                ends[0][0],
                ends[1][0],
                heuristic=lambda a, b: math.dist(vertices[a]["vertex"], vertices[b]["vertex"]),
                weight="length",
            )
        except (nx.NetworkXNoPath, nx.NodeNotFound) as error:
            raise RouteError(
                f"There is no way from ({_text(origin)}) to ({_text(destination)}).",
                "Check the keypoints' order and that each lies on a lane in the direction of travel.",
            ) from error
        return [*nodes, ends[1][1]]

    def trace_pair(
        self, origin: carla.Location, destination: carla.Location
    ) -> list[tuple[carla.Waypoint, Command]]:
        """Upstream's `trace_route`: the waypoints between two places, each with the command in force there.

        Raises:
            RouteError: a place is off the map, or there is no way.
        """
        nodes = self._search(origin, destination)
        current = self._map.get_waypoint(origin)
        goal = self._map.get_waypoint(destination)
        trace: list[tuple[carla.Waypoint, Command]] = []
        for i in range(len(nodes) - 1):
            if not self._graph.has_edge(nodes[i], nodes[i + 1]):
                raise RouteError(
                    f"The goal ({_text(destination)}) lies on a lane that ends at once.",
                    "Move the goal onto a longer lane.",
                )
            command = self._command(i, nodes)
            edge: _Edge = self._graph.edges[nodes[i], nodes[i + 1]]["edge"]
            if edge.command is not Command.LANE_FOLLOW:
                trace.append((current, command))
                target: _Edge = self._graph.edges[self._edge_of_lane[_lane(edge.exit)]]["edge"]
                if target.path:
                    index = _closest(current, target.path) + _LANE_CHANGE_POINTS
                    current = target.path[min(index, len(target.path) - 1)]
                else:
                    current = target.exit
                trace.append((current, command))
                continue
            path = [edge.entry, *edge.path, edge.exit]
            first = _closest(current, path)
            on_last_edges = len(nodes) - i <= 2
            past_goal = first > _closest(goal, path)
            for waypoint in path[first:]:
                current = waypoint
                trace.append((current, command))
                if not on_last_edges:
                    continue
                if current.transform.location.distance(destination) < 2 * self._resolution_m:
                    break
                if _lane(current) == _lane(goal) and past_goal:
                    break
        return trace

    def _command(self, index: int, nodes: Sequence[int]) -> Command:
        """Command of the edge that leaves node `index`: upstream's `_turn_decision`."""
        edge: _Edge = self._graph.edges[nodes[index], nodes[index + 1]]["edge"]
        command = edge.command
        if index > 0:
            inside = self._junction_end > 0 and self._junction_end != nodes[index - 1]
            if self._previous_command is not None and inside and edge.crosses_junction:
                command = self._previous_command
            else:
                self._junction_end = -1
                before: _Edge = self._graph.edges[nodes[index - 1], nodes[index]]["edge"]
                entering = before.command is Command.LANE_FOLLOW and not before.in_junction
                if entering and edge.crosses_junction:
                    turn = self._turn(before, index, nodes)
                    if turn is None:
                        return command
                    command = turn
        self._previous_command = command
        return command

    def _turn(self, before: _Edge, index: int, nodes: Sequence[int]) -> Command | None:
        """Left, right or straight over the whole junction, also relative to the other ways through it."""
        last = self._graph.edges[nodes[index], nodes[index + 1]]["edge"]
        for a, b in zip(nodes[index:], nodes[index + 1 :], strict=False):
            edge: _Edge = self._graph.edges[a, b]["edge"]
            if not edge.crosses_junction:
                break
            last, self._junction_end = edge, b
        heading, leaving = before.exit_direction, last.exit_direction
        if heading is None or leaving is None:  # a loose end has no directions
            return None
        others = []
        for neighbour in self._graph.successors(nodes[index]):
            other: _Edge = self._graph.edges[nodes[index], neighbour]["edge"]
            is_other = neighbour != nodes[index + 1] and other.command is Command.LANE_FOLLOW
            if is_other and other.chord_direction is not None:
                others.append(float(np.cross(heading, other.chord_direction)[2]))
        others = others or [0.0]
        cross = float(np.cross(heading, leaving)[2])
        norms = float(np.linalg.norm(heading) * np.linalg.norm(leaving))
        if math.acos(float(np.clip(np.dot(heading, leaving) / norms, -1.0, 1.0))) < _STRAIGHT_BELOW_RAD:
            return Command.STRAIGHT
        if cross < min(others):
            return Command.LEFT
        if cross > max(others):
            return Command.RIGHT
        return Command.LEFT if cross < 0 else Command.RIGHT


def downsample(route: Sequence[tuple[carla.Transform, Any]], max_gap_m: float = PLAN_GAP_M) -> list[int]:
    """Indices of the points that an agent is given: upstream's `downsample_route`, quirks included.

    Kept are the first point, every point of a lane change, the first point after a change of command
    (unless the change ends a lane change), one whenever more than `max_gap_m` was counted since the last
    (a kept point's own hop is not counted), and the last.
    """
    lane_changes = {int(c) for c in _LANE_CHANGES}
    kept: list[int] = []
    previous: int | None = None
    gap_m = 0.0
    for i, (transform, option) in enumerate(route):
        command = int(option.value)
        changed = previous is not None and previous != command and previous not in lane_changes
        if previous is None or command in lane_changes or changed or gap_m > max_gap_m or i == len(route) - 1:
            kept.append(i)
            gap_m = 0.0
        else:
            gap_m += transform.location.distance(route[i - 1][0].location)
        previous = command
    return kept


def geo_reference(opendrive: str) -> tuple[float, float]:
    """Latitude and longitude [deg] of the map's origin, as upstream's `_get_latlon_ref` reads them."""
    lat, lon = _DEFAULT_REFERENCE
    for element in ET.fromstring(opendrive).iterfind("header/geoReference"):
        for item in (element.text or "").split(" "):
            if "+lat_0" in item:
                lat = float(item.split("=")[1])
            if "+lon_0" in item:
                lon = float(item.split("=")[1])
    return lat, lon


def location_to_gps(lat_ref: float, lon_ref: float, location: carla.Location) -> dict[str, float]:
    """Upstream's `_location_to_gps`: spherical Mercator at the reference, y south.

    Returns:
        ``{"lat": degrees, "lon": degrees, "z": metres}``.
    """
    scale = math.cos(math.radians(lat_ref))
    x = scale * math.radians(lon_ref) * _EARTH_RADIUS_M + location.x
    y = scale * _EARTH_RADIUS_M * math.log(math.tan(math.radians(90.0 + lat_ref) / 2.0)) - location.y
    lon = math.degrees(x / (_EARTH_RADIUS_M * scale))
    lat = math.degrees(2.0 * math.atan(math.exp(y / (_EARTH_RADIUS_M * scale)))) - 90.0
    return {"lat": lat, "lon": lon, "z": location.z}


def gps_plan(
    route: Sequence[RoutePoint], reference: tuple[float, float]
) -> list[tuple[dict[str, float], Command]]:
    """The route in GPS coordinates, as `set_global_plan` wants it beside the one in world coordinates."""
    return [(location_to_gps(*reference, point.transform.location), point.command) for point in route]


def _vertex(waypoint: carla.Waypoint) -> tuple[float, float, float]:
    """Node key of a lane's end: whole metres, so that ends that meet are one node."""
    location = waypoint.transform.location
    x, y, z = np.round([location.x, location.y, location.z], 0)
    return float(x), float(y), float(z)


def _text(location: carla.Location) -> str:
    return f"{location.x:.1f}, {location.y:.1f}, {location.z:.1f}"


def _lane(waypoint: carla.Waypoint) -> tuple[int, int, int]:
    return waypoint.road_id, waypoint.section_id, waypoint.lane_id


def _xyz(vector: Any) -> np.ndarray:
    return np.array([vector.x, vector.y, vector.z])


def _closest(waypoint: carla.Waypoint, path: Sequence[carla.Waypoint]) -> int:
    location = waypoint.transform.location
    return min(range(len(path)), key=lambda i: path[i].transform.location.distance(location))
