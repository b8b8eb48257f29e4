"""Routes for the reckless agent: where each rule can be broken in the towns at hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import carla

from tickdrive.leaderboard.criteria.base import EventKind
from tickdrive.leaderboard.upstream.scenario_sites import Need, Site, find_sites, route_xml

_STOP = "206"
_NEAR_STOP_M = 12.0
# metres before the trigger, of the whole lane, beyond a junction
_SIZES = ((60.0, 200.0, 80.0), (40.0, 120.0, 40.0))
_DRIVEN = (carla.LaneType.Driving, carla.LaneType.Parking)
# upstream's background traffic takes a town whose name holds "Town03" for it, and wants its junctions
_MISTAKEN = ("TickTown03",)
_OBSTACLE = {"distance": "40", "direction": "right", "speed": "40"}


@dataclass(frozen=True)
class Misdeed:
    """One way of driving badly.

    Attributes:
        need: of the road.
        kind: the infraction that it is for.
        scenario: type of a scenario that it needs; empty for none.
        stops: a stop sign must stand at the junction.
        at_edge: no lane that may be driven in lies to the right.
    """

    need: Need
    kind: EventKind
    scenario: str = ""
    stops: bool = False
    at_edge: bool = False


_LANE = Need("lane")

MISDEEDS: Mapping[str, Misdeed] = {
    "run red light": Misdeed(Need("junction", "straight", True), EventKind.RED_LIGHT),
    "run stop sign": Misdeed(Need("junction", "straight", None), EventKind.STOP_SIGN, stops=True),
    "hit pedestrian": Misdeed(_LANE, EventKind.COLLISION_PEDESTRIAN),
    "hit vehicle": Misdeed(_LANE, EventKind.COLLISION_VEHICLE),
    "hit obstacle": Misdeed(_LANE, EventKind.COLLISION_STATIC),
    "leave road": Misdeed(_LANE, EventKind.OUTSIDE_ROUTE_LANES, at_edge=True),
    "oncoming lane": Misdeed(Need("two ways"), EventKind.OUTSIDE_ROUTE_LANES),
    "crawl": Misdeed(_LANE, EventKind.MIN_SPEED),
    "leave route": Misdeed(Need("junction", "straight", crossroads=True), EventKind.ROUTE_DEVIATION),
    "stand": Misdeed(_LANE, EventKind.VEHICLE_BLOCKED),
    "dawdle": Misdeed(_LANE, EventKind.ROUTE_TIMEOUT),
    "wait out scenario": Misdeed(
        Need("two ways", parameters={**_OBSTACLE, "frequency": ("30", "90")}),
        EventKind.SCENARIO_TIMEOUT,
        "ParkedObstacleTwoWays",
    ),
    "hold up ambulance": Misdeed(
        Need("lanes", parameters={"distance": "30"}),
        EventKind.YIELD_EMERGENCY_VEHICLE,
        "YieldToEmergencyVehicle",
    ),
}
"""Every kind of infraction has one; `reckless_agent` knows how each is done."""


def misdeed_routes(
    towns: Sequence[Mapping[str, carla.Map]], names: Sequence[str] = tuple(MISDEEDS), times: int = 2
) -> tuple[str, dict[str, str], dict[str, str]]:
    """A route file with each misdeed so many times, in different towns where several have room for it.

    Args:
        towns: name -> map; those of a later entry are taken where the earlier have too few places.
        names: of `MISDEEDS`.
        times: how often each.

    Returns:
        The file's text; route id -> misdeed; and misdeed -> why there are fewer routes for it.
    """
    texts: list[str] = []
    deeds: dict[str, str] = {}
    missing: dict[str, str] = {}
    for number, name in enumerate(names):
        misdeed = MISDEEDS[name]
        places = list(itertools.islice(_places(towns, misdeed, number), times))
        if len(places) < times:
            missing[name] = (
                f"{len(places)} of {times} places in {', '.join(t for each in towns for t in each)}"
            )
        for town, site in places:
            route_id = str(len(texts))
            text = route_xml(route_id, town, misdeed.scenario or "none", misdeed.need, site)
            if not misdeed.scenario:
                start, end = text.index("<scenario name"), text.index("</scenarios>")
                text = text[:start] + text[end:]
            texts.append(text)
            deeds[route_id] = name
    return f"<routes>{''.join(texts)}</routes>", deeds, missing


def _places(
    towns: Sequence[Mapping[str, carla.Map]], misdeed: Misdeed, first: int
) -> Iterator[tuple[str, Site]]:
    """Places from each town in turn, a town's largest first."""
    for maps in filter(None, towns):
        names = [name for name in maps if name not in _MISTAKEN]
        names = names[first % len(names) :] + names[: first % len(names)]
        found = [_sites(name, maps[name], misdeed) for name in names]
        for in_turn in itertools.zip_longest(*found):
            yield from (each for each in in_turn if each is not None)


def _sites(name: str, town: carla.Map, misdeed: Misdeed) -> Iterator[tuple[str, Site]]:
    taken = set()
    for size in _SIZES:
        sites = (site for site in find_sites(town, misdeed.need, size) if _suits(site, misdeed))
        # the first place that is found is often at a map's edge
        for site in itertools.islice(sites, 0 if misdeed.stops else 1, None, 3):
            if site.waypoints[0].id not in taken:
                taken.add(site.waypoints[0].id)
                yield name, site


def _suits(site: Site, misdeed: Misdeed) -> bool:
    if misdeed.stops and not _has_stop(site):
        return False
    beside = site.trigger.get_right_lane()
    return not (misdeed.at_edge and beside is not None and beside.lane_type in _DRIVEN)


def _has_stop(site: Site) -> bool:
    way = site.trigger
    while not way.is_junction:
        if way.get_landmarks_of_type(_NEAR_STOP_M, _STOP, True):
            return True
        following = way.next(2.0)
        if not following:
            return False
        way = following[0]
    return False
