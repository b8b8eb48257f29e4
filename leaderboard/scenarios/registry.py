"""All scenario types that this evaluator runs, by the names that route files use."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from tickdrive.leaderboard.scenarios import crossing, cut_ins, junctions, merging, obstacles, on_lane
from tickdrive.leaderboard.scenarios.base import Scenario
from tickdrive.leaderboard.scenarios.spec import ScenarioSpec, read_parameters, read_place
from tickdrive.planner.errors import RouteError

SCENARIOS: Mapping[str, type[Scenario]] = {
    cls.__name__: cls
    for cls in (
        crossing.DynamicObjectCrossing,
        crossing.ParkingCrossingPedestrian,
        crossing.PedestrianCrossing,
        crossing.VehicleTurningRoute,
        crossing.VehicleTurningRoutePedestrian,
        obstacles.Accident,
        obstacles.AccidentTwoWays,
        obstacles.ConstructionObstacle,
        obstacles.ConstructionObstacleTwoWays,
        obstacles.ParkedObstacle,
        obstacles.ParkedObstacleTwoWays,
        obstacles.VehicleOpensDoorTwoWays,
        cut_ins.HighwayCutIn,
        cut_ins.ParkingCutIn,
        cut_ins.ParkingExit,
        cut_ins.StaticCutIn,
        junctions.BlockedIntersection,
        junctions.NonSignalizedJunctionLeftTurn,
        junctions.NonSignalizedJunctionLeftTurnEnterFlow,
        junctions.NonSignalizedJunctionRightTurn,
        junctions.OppositeVehicleRunningRedLight,
        junctions.OppositeVehicleTakingPriority,
        junctions.PriorityAtJunction,
        junctions.SignalizedJunctionLeftTurn,
        junctions.SignalizedJunctionLeftTurnEnterFlow,
        junctions.SignalizedJunctionRightTurn,
        junctions.VanillaNonSignalizedTurn,
        junctions.VanillaNonSignalizedTurnEncounterStopsign,
        junctions.VanillaNonSignalizedTurnEncounterStopsignLong,
        junctions.VanillaSignalizedTurnEncounterGreenLight,
        junctions.VanillaSignalizedTurnEncounterGreenLightLong,
        junctions.VanillaSignalizedTurnEncounterRedLight,
        junctions.VanillaSignalizedTurnEncounterRedLightLong,
        merging.CrossingBicycleFlow,
        merging.EnterActorFlow,
        merging.EnterActorFlowV2,
        merging.HighwayExit,
        merging.InterurbanActorFlow,
        merging.InterurbanAdvancedActorFlow,
        merging.MergerIntoSlowTraffic,
        merging.MergerIntoSlowTrafficV2,
        on_lane.ControlLoss,
        on_lane.HardBreakRoute,
        on_lane.HazardAtSideLane,
        on_lane.HazardAtSideLaneTwoWays,
        on_lane.InvadingTurn,
        on_lane.SequentialLaneChange,
        on_lane.T_Junction,
        on_lane.YieldToEmergencyVehicle,
    )
}


def read_scenario(element: ET.Element, where: str) -> ScenarioSpec:
    """Read a ``<scenario>``.

    Args:
        element: of the route file.
        where: file and route, for messages.

    Raises:
        RouteError: names route, scenario, element and attribute of what is missing or cannot be read. Of a
            type that is not known here only name, type and trigger point are read.
    """
    name, kind = element.get("name") or "unnamed", element.get("type")
    where = f"{where}: scenario {name!r}"
    if not kind:
        raise RouteError(f"{where} has no 'type'.", 'Write <scenario name="…" type="…">.')
    point = element.find("trigger_point")
    scenario = SCENARIOS.get(kind)
    if point is None:
        if scenario is not None:
            raise RouteError(f"{where} has no <trigger_point>.", "Add <trigger_point x=… y=… z=… yaw=…/>.")
        return ScenarioSpec(name, kind, None)
    trigger = read_place(point.attrib, where, "the trigger point")
    if scenario is None:
        return ScenarioSpec(name, kind, trigger)
    elements = {each.tag: each.attrib for each in element if each.tag not in ("trigger_point", "other_actor")}
    parameters: Any = read_parameters(scenario.parameters_type, elements, where, scenario.unused)
    return ScenarioSpec(name, kind, trigger, parameters)
