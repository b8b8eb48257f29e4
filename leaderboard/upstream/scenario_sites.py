"""Where scenario_runner's scenarios can be tried in towns at hand: a short route for each type.

The official routes are nearly all in CARLA's large maps. What a type needs of a road (lanes, a junction, a
turn) is looked for in the towns there are, and a route is laid through it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

import carla

_SIGNAL = "1000001"
_STEP_M = 2.0
_TURN_DEG = 40.0
_JUNCTION_RUN_UP_M = 60.0
_JUNCTION_TRIGGER_M = 30.0
# metres before the trigger, of the whole lane, beyond a junction; many scenarios end some way behind their
# place, so the longest that a town has is taken
_SIZES = ((60.0, 300.0, 120.0), (50.0, 200.0, 80.0), (30.0, 120.0, 40.0))
_CAR_M = 2.0
# the route goes on so far, through whatever comes: a probe that has arrived ends its scenario unfinished
_TAIL_M = 240.0
_RAMP_M = 60.0
_BESIDE = {
    "parking": (carla.LaneType.Parking, carla.LaneType.Shoulder),
    "bicycles": (carla.LaneType.Biking,),
}
Parameters = Mapping[str, str | tuple[str, str]]
_TWO_WAYS = (
    "AccidentTwoWays",
    "ConstructionObstacleTwoWays",
    "ParkedObstacleTwoWays",
)
_OBSTACLE: Parameters = {"distance": "40", "direction": "right", "speed": "40"}
_FLOW: Parameters = {"flow_speed": "9", "source_dist_interval": ("20", "30")}
_OPPOSITE: Parameters = {"frequency": ("30", "90")}


@dataclass(frozen=True)
class Need:
    """What a scenario type asks of a road.

    Attributes:
        road: "lane", "lanes" (another in the same direction, to the left), "two ways"
            (the next lane is the opposite one), "parking" or "bicycles" (room for them beside), "junction".
        turn: of the route through a junction: left, right or straight.
        signals: whether the junction has lights; None: either.
        crossroads: the junction can be left in all three directions.
        parameters: of the scenario: name -> value, or (from, to).
        at_start: it triggers where the route begins.
        flow: traffic: "beside" the route in the lane to its left, "through" the junction as the route,
            "across" it towards the route, "main road" past the arm that the route comes from, or "ramp": a
            vehicle that comes into the lane to the right of the route.
    """

    road: str
    turn: str = "straight"
    signals: bool | None = None
    crossroads: bool = False
    parameters: Parameters = field(default_factory=dict)
    flow: str = ""
    at_start: bool = False


NEEDS: Mapping[str, Need] = {
    **{
        name: Need("lanes", parameters=_OBSTACLE)
        for name in ("Accident", "ConstructionObstacle", "ParkedObstacle")
    },
    **{name: Need("two ways", parameters={**_OBSTACLE, **_OPPOSITE}) for name in _TWO_WAYS},
    "HazardAtSideLane": Need(
        "lanes",
        parameters={
            "distance": "40",
            "speed": "40",
            "bicycle_drive_distance": "50",
            "bicycle_speed": "8",
        },
    ),
    "HazardAtSideLaneTwoWays": Need(
        "two ways",
        parameters={
            "distance": "40",
            "frequency": "90",
            "bicycle_drive_distance": "50",
            "bicycle_speed": "8",
        },
    ),
    "VehicleOpensDoorTwoWays": Need("parking", parameters={"distance": "40", **_OPPOSITE}),
    "HardBreakRoute": Need("lane"),
    "ControlLoss": Need("lane"),
    "InvadingTurn": Need("two ways", parameters={"distance": "60", "offset": "0.27"}),
    "DynamicObjectCrossing": Need("lane", parameters={"distance": "40", "direction": "right"}),
    "ParkingCrossingPedestrian": Need("parking", parameters={"distance": "40", "direction": "right"}),
    "ParkingCutIn": Need("parking", parameters={"direction": "right"}),
    "ParkingExit": Need(
        "parking",
        parameters={"direction": "right", "front_vehicle_distance": "9", "behind_vehicle_distance": "9"},
        at_start=True,
    ),
    "StaticCutIn": Need("lanes", parameters={"distance": "50", "direction": "left"}),
    "HighwayCutIn": Need("junction", "straight", False, flow="ramp"),
    "SequentialLaneChange": Need("lanes"),
    "YieldToEmergencyVehicle": Need("lanes", parameters={"distance": "30"}),
    "EnterActorFlow": Need("lanes", parameters=_FLOW, flow="beside"),
    "EnterActorFlowV2": Need("junction", parameters=_FLOW, flow="through"),
    "HighwayExit": Need("junction", parameters=_FLOW, flow="through"),
    "MergerIntoSlowTraffic": Need("lanes", parameters=_FLOW, flow="beside"),
    "MergerIntoSlowTrafficV2": Need("junction", parameters=_FLOW, flow="through"),
    "InterurbanActorFlow": Need("junction", "left", False, True, _FLOW, flow="across"),
    "InterurbanAdvancedActorFlow": Need("junction", "left", parameters=_FLOW, flow="main road"),
    "CrossingBicycleFlow": Need("bicycles", parameters=_FLOW, flow="beside"),
    "BlockedIntersection": Need("junction", "left"),
    "PedestrianCrossing": Need("junction", "straight", True),
    "PriorityAtJunction": Need("junction", "straight", True),
    "OppositeVehicleRunningRedLight": Need("junction", "straight", True, True, {"direction": "right"}),
    "OppositeVehicleTakingPriority": Need("junction", "straight", False, True, {"direction": "right"}),
    "NoSignalJunctionCrossingRoute": Need("junction", "straight", False),
    "SignalizedJunctionLeftTurn": Need("junction", "left", True, True, _FLOW),
    "SignalizedJunctionRightTurn": Need("junction", "right", True, True, _FLOW),
    "NonSignalizedJunctionLeftTurn": Need("junction", "left", False, True, _FLOW),
    "NonSignalizedJunctionRightTurn": Need("junction", "right", False, True, _FLOW),
    "SignalizedJunctionLeftTurnEnterFlow": Need("junction", "left", True, True, _FLOW),
    "NonSignalizedJunctionLeftTurnEnterFlow": Need("junction", "left", False, True, _FLOW),
    "T_Junction": Need("junction", "right"),
    "VehicleTurningRoute": Need("junction", "right"),
    "VehicleTurningRoutePedestrian": Need("junction", "right"),
    "VanillaSignalizedTurnEncounterGreenLight": Need("junction", "right", True),
    "VanillaSignalizedTurnEncounterGreenLightLong": Need("junction", "right", True),
    "VanillaSignalizedTurnEncounterRedLight": Need("junction", "right", True),
    "VanillaSignalizedTurnEncounterRedLightLong": Need("junction", "right", True),
    "VanillaNonSignalizedTurn": Need("junction", "right", False),
    "VanillaNonSignalizedTurnEncounterStopsign": Need("junction", "right", False),
    "VanillaNonSignalizedTurnEncounterStopsignLong": Need("junction", "right", False),
}
"""Scenario types of routes, of the leaderboards and Bench2Drive."""


@dataclass(frozen=True)
class Site:
    """A place for a scenario.

    Attributes:
        waypoints: of the route, as far as the scenario's road goes.
        trigger: where the scenario triggers.
        tail: how the route goes on.
        traffic: start and end of the traffic, where they do not follow from the waypoints.
    """

    waypoints: tuple[carla.Waypoint, ...]
    trigger: carla.Waypoint
    tail: tuple[carla.Waypoint, ...] = ()
    traffic: tuple[carla.Waypoint, ...] = ()


def find_sites(town: carla.Map, need: Need, size: tuple[float, float, float] = _SIZES[-1]) -> Iterator[Site]:
    """Places in a town that have what is needed, spread over it.

    Args:
        town: where to look.
        need: of the scenario.
        size: metres before the trigger, of the whole lane, and beyond a junction.
    """
    for start in town.generate_waypoints(31.0):
        if start.is_junction or start.lane_type != carla.LaneType.Driving:
            continue
        run_up_m, lane_m, beyond_m = size
        if need.road == "junction":
            site = _junction_site(start, need, beyond_m)
        else:
            site = _lane_site(start, need, run_up_m, lane_m)
        if site is not None:
            yield site


def _lane_site(start: carla.Waypoint, need: Need, run_up_m: float, length_m: float) -> Site | None:
    way = _straight_on(start, length_m)
    if way is None or not all(_has(each, need.road) for each in way[:: len(way) // 6]):
        return None
    return Site((way[0], way[-1]), way[1 if need.at_start else int(run_up_m / _STEP_M)])


def _straight_on(start: carla.Waypoint, length_m: float) -> list[carla.Waypoint] | None:
    """The lane ahead, where there is no junction on it."""
    way = [start]
    while len(way) * _STEP_M < length_m:
        following = way[-1].next(_STEP_M)
        if len(following) != 1 or following[0].is_junction:
            return None
        way.append(following[0])
    return way


def _has(lane: carla.Waypoint, road: str) -> bool:
    left, right = lane.get_left_lane(), lane.get_right_lane()
    if road == "lane":
        return True
    if road in _BESIDE:
        room_m = _CAR_M if road == "parking" else 0.0
        return right is not None and right.lane_type in _BESIDE[road] and right.lane_width >= room_m
    drivable = left is not None and left.lane_type == carla.LaneType.Driving
    return drivable and (left.lane_id * lane.lane_id > 0) == (road == "lanes")


def _junction_site(start: carla.Waypoint, need: Need, beyond_m: float) -> Site | None:
    way = [start]
    while not way[-1].is_junction:
        following = way[-1].next(_STEP_M)
        if not following or len(way) * _STEP_M > 3 * _JUNCTION_RUN_UP_M:
            return None
        way.append(following[0])
    before = way[-2]
    if len(way) * _STEP_M < _JUNCTION_RUN_UP_M:
        return None
    # lights stand some metres before a junction or on its own roads
    has_signals = bool(way[-10].get_landmarks_of_type(40.0, _SIGNAL, False))
    if need.signals is not None and has_signals != need.signals:
        return None
    exits = [exit_ for inside in before.next(_STEP_M) if (exit_ := _through(inside)) is not None]
    if need.crossroads and {"left", "straight", "right"} - {_turn(before, exit_) for exit_ in exits}:
        return None
    for exit_ in exits:
        if _turn(before, exit_) == need.turn:
            beyond = _straight_on(exit_, beyond_m)
            traffic = () if beyond is None else _traffic(need, before, way[-1], exits, exit_, beyond[-1])
            if beyond is not None and traffic is not None:
                at = len(way) - int(_JUNCTION_RUN_UP_M / _STEP_M)
                trigger = way[len(way) - int(_JUNCTION_TRIGGER_M / _STEP_M)]
                tail = tuple(_onward(beyond[-1], _TAIL_M))
                return Site((way[at], beyond[5], beyond[-1]), trigger, tail, traffic)
    return None


def _onward(start: carla.Waypoint, length_m: float) -> Iterator[carla.Waypoint]:
    """Waypoints every 30 m, as straight on as the roads go, each outside a junction."""
    here, travelled_m, told_m = start, 0.0, 0.0
    while travelled_m < length_m:
        following = here.next(_STEP_M)
        if not following:
            return
        here = min(following, key=lambda each: abs(_bend(start, each)))
        travelled_m += _STEP_M
        if not here.is_junction:
            start = here
            if travelled_m - told_m >= 30.0:
                told_m = travelled_m
                yield here


def _traffic(
    need: Need,
    before: carla.Waypoint,
    inside: carla.Waypoint,
    exits: Sequence[carla.Waypoint],
    exit_: carla.Waypoint,
    beyond: carla.Waypoint,
) -> tuple[carla.Waypoint, ...] | None:
    """Start and end of a junction's traffic; empty if it follows from the route, None if it cannot be."""
    if need.flow == "main road":
        oncoming = beyond.get_left_lane()
        right = next((each for each in exits if _turn(before, each) == "right"), None)
        end = None if right is None else next(iter(right.next(40.0)), None)
        opposite = None if end is None else end.get_left_lane()
        lanes = (oncoming, opposite)
        if any(each is None or each.lane_type != carla.LaneType.Driving for each in lanes):
            return None
        return oncoming, end
    if need.flow == "ramp":
        for entry, _ in inside.get_junction().get_waypoints(carla.LaneType.Driving):
            merged = _through(entry)
            left = None if merged is None else merged.get_left_lane()
            ramp = entry.previous(_RAMP_M)
            if (
                left is not None
                and (left.road_id, left.lane_id) == (exit_.road_id, exit_.lane_id)
                and ramp
                and ramp[0].road_id != before.road_id
            ):
                return ramp[0], ramp[0]
        return None
    return ()


def _through(inside: carla.Waypoint) -> carla.Waypoint | None:
    """Where a lane in a junction leaves it."""
    for _ in range(60):
        if not inside.is_junction:
            return inside
        following = inside.next(_STEP_M)
        if not following:
            return None
        inside = following[0]
    return None


def _turn(before: carla.Waypoint, after: carla.Waypoint) -> str:
    bend = _bend(before, after)
    if abs(bend) < _TURN_DEG / 2:
        return "straight"
    return "none" if abs(bend) < _TURN_DEG or abs(bend) > 180 - _TURN_DEG else "right" if bend > 0 else "left"


def _bend(before: carla.Waypoint, after: carla.Waypoint) -> float:
    return float((after.transform.rotation.yaw - before.transform.rotation.yaw + 180.0) % 360.0 - 180.0)


def route_xml(route_id: str, town: str, kind: str, need: Need, site: Site) -> str:
    """A `<route>` with the scenario."""
    places = "".join(f"<position {_place(each)}/>" for each in (*site.waypoints, *site.tail))
    values = "".join(
        f"<{name} from={quoteattr(value[0])} to={quoteattr(value[1])}/>"
        if isinstance(value, tuple)
        else f"<{name} value={quoteattr(value)}/>"
        for name, value in need.parameters.items()
    )
    trigger = f'<trigger_point {_place(site.trigger)} yaw="{site.trigger.transform.rotation.yaw:.1f}"/>'
    return (
        f'<route id={quoteattr(route_id)} town={quoteattr(town)}><weathers><weather route_percentage="0" '
        'sun_altitude_angle="70"/><weather route_percentage="100" sun_altitude_angle="70"/></weathers>'
        f"<waypoints>{places}</waypoints><scenarios><scenario name={quoteattr(kind + '_1')} "
        f"type={quoteattr(kind)}>{trigger}{values}{_flow(need, site)}</scenario></scenarios></route>"
    )


def _flow(need: Need, site: Site) -> str:
    """Start and end of the traffic that some scenarios send."""
    if not need.flow:
        return ""
    if site.traffic:
        ends = list(site.traffic)
    elif need.flow == "across":  # from the far side of the junction towards it
        start, end = site.waypoints[-1], site.waypoints[0]
        ends = [each.get_left_lane() or each for each in (start, end)]
    elif need.flow == "through":
        ends = [site.trigger.next(10.0)[0], site.waypoints[-1]]
    else:
        lane = site.trigger.get_left_lane() or site.trigger
        behind, ahead = lane.previous(25.0), lane.next(120.0)
        if need.road == "bicycles":
            lane = site.trigger.get_right_lane() or site.trigger
        ends = [(behind or [lane])[0], (ahead or [lane])[0]]
    first, second = (
        ("other_actor_location", "end_location")
        if need.flow == "ramp"
        else ("start_actor_flow", "end_actor_flow")
    )
    return f"<{first} {_place(ends[0])}/><{second} {_place(ends[1])}/>"


def _place(waypoint: carla.Waypoint) -> str:
    at = waypoint.transform.location
    return f'x="{at.x:.1f}" y="{at.y:.1f}" z="{at.z:.1f}"'


def routes_for(
    types: Sequence[str], towns: Mapping[str, carla.Map], site_of_town: int = 1
) -> tuple[str, dict[str, tuple[str, str]], dict[str, str]]:
    """A route file that has each type once.

    Args:
        types: scenario types.
        towns: name -> map, in the order in which they are looked through.
        site_of_town: which of the fitting places is taken, from 0: the first is often at a map's edge.

    Returns:
        The file's text; route id -> (type, town); and type -> why there is no route for it.
    """
    texts, placed, missing = [], {}, {}
    for number, kind in enumerate(types):
        need = NEEDS.get(kind)
        if need is None:
            missing[kind] = "what it needs of a road is not known here"
            continue
        for size, (town, map_) in itertools.product(_SIZES, towns.items()):
            found = list(itertools.islice(find_sites(map_, need, size), site_of_town + 1))
            if found:
                placed[str(number)] = (kind, town)
                texts.append(route_xml(str(number), town, kind, need, found[-1]))
                break
        else:
            missing[kind] = f"no place for it in {', '.join(towns)} ({need.road}, {need.turn})"
    return f"<routes>{''.join(texts)}</routes>", placed, missing
