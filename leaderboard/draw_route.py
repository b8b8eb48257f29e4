"""A route drawn by seed, for towns without a route file."""

from __future__ import annotations

import itertools
import random

import carla

from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.leaderboard.routes import Route
from tickdrive.planner.errors import RouteError

_TRIES = 300


def draw_route(
    town: str, carla_map: carla.Map, seed: int, min_length_m: float = 400.0, max_length_m: float = 800.0
) -> Route:
    """Draw start and goal on driving lanes, so that the way between them is about as long as asked for.

    Args:
        town: map name that the evaluation will load.
        carla_map: that map.
        seed: draws the same route for the same map again.
        min_length_m: along the route.
        max_length_m: along the route.

    Raises:
        RouteError: the map has no such route.
    """
    starts = [begin for begin, _ in carla_map.get_topology() if not begin.is_junction]
    if not starts:
        raise RouteError(f"{town} has no driving lanes outside of junctions.", "Give another OpenDRIVE file.")
    starts.sort(key=lambda w: (w.road_id, w.section_id, w.lane_id))
    planner = RoutePlanner(carla_map)
    rng = random.Random(seed)
    longest: tuple[float, tuple[carla.Location, carla.Location]] | None = None
    for _ in range(_TRIES):
        ends = [_inside(w).transform.location for w in rng.choices(starts, k=2)]
        try:
            points = planner.trace(ends)
        except RouteError:
            continue
        places = [point.transform.location for point in points]
        length = sum(a.distance(b) for a, b in itertools.pairwise(places))
        if length <= max_length_m and (longest is None or length > longest[0]):
            longest = (length, (ends[0], ends[1]))
        if min_length_m <= length <= max_length_m:
            break
    if longest is None or longest[0] < 50.0:
        raise RouteError(f"No route of 50 m or more was found in {town}.", "Give one with --route.")
    return Route(
        id=f"{town}-seed{seed}",
        town=town,
        keypoints_in_world=tuple((place.x, place.y, place.z) for place in longest[1]),
        source=f"drawn by seed {seed}",
    )


def _inside(waypoint: carla.Waypoint) -> carla.Waypoint:
    """A little way into the lane, clear of the junction it begins at."""
    ahead = waypoint.next(8.0)
    return ahead[0] if ahead and not ahead[0].is_junction else waypoint
