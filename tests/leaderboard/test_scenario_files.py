"""Scenarios as route files have them: known types, their parameters, and what is wrong with them."""

from pathlib import Path

import pytest

from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.scenarios.behaviour import all_of, first_of, forever, until
from tickdrive.leaderboard.scenarios.registry import SCENARIOS
from tickdrive.leaderboard.scenarios.spec import Place
from tickdrive.leaderboard.upstream.scenario_sites import NEEDS
from tickdrive.planner.errors import RouteError

TRIGGER = '<trigger_point x="1" y="2" z="0" yaw="90"/>'
# of bench2drive220.xml, where each occurs five times
BENCH2DRIVE = """
Accident AccidentTwoWays BlockedIntersection ConstructionObstacle ConstructionObstacleTwoWays ControlLoss
CrossingBicycleFlow DynamicObjectCrossing EnterActorFlow HardBreakRoute HazardAtSideLane
HazardAtSideLaneTwoWays HighwayCutIn HighwayExit InterurbanActorFlow InterurbanAdvancedActorFlow InvadingTurn
MergerIntoSlowTraffic MergerIntoSlowTrafficV2 NonSignalizedJunctionLeftTurn
NonSignalizedJunctionLeftTurnEnterFlow NonSignalizedJunctionRightTurn OppositeVehicleRunningRedLight
OppositeVehicleTakingPriority ParkedObstacle ParkedObstacleTwoWays ParkingCrossingPedestrian ParkingCutIn
ParkingExit PedestrianCrossing SequentialLaneChange SignalizedJunctionLeftTurn
SignalizedJunctionLeftTurnEnterFlow SignalizedJunctionRightTurn StaticCutIn T_Junction
VanillaNonSignalizedTurn VanillaNonSignalizedTurnEncounterStopsign VanillaSignalizedTurnEncounterGreenLight
VanillaSignalizedTurnEncounterRedLight VehicleOpensDoorTwoWays VehicleTurningRoute
VehicleTurningRoutePedestrian YieldToEmergencyVehicle
"""


def read(tmp_path: Path, scenario: str):
    path = tmp_path / "routes.xml"
    path.write_text(
        '<routes><route id="7" town="Town01"><waypoints><position x="0" y="0" z="0"/>'
        f'<position x="9" y="0" z="0"/></waypoints><scenarios>{scenario}</scenarios></route></routes>'
    )
    (spec,) = read_routes(path)[0].scenarios
    return spec


def test_every_type_of_bench2drive_and_the_leaderboard_is_known():
    assert len(BENCH2DRIVE.split()) == 44
    assert set(BENCH2DRIVE.split()) <= set(SCENARIOS)
    extra = {"EnterActorFlowV2", "PriorityAtJunction"}  # of leaderboard 2.1's files beside those
    assert extra <= set(SCENARIOS)
    assert set(SCENARIOS) <= set(NEEDS)  # `tickdrive bench scenarios` finds a place for each


def test_parameters_are_typed_and_default_to_upstreams(tmp_path):
    given = read(
        tmp_path,
        f'<scenario name="A" type="AccidentTwoWays">{TRIGGER}<distance value="70"/>'
        '<frequency from="30" to="80"/></scenario>',
    )
    assert given.trigger == Place(1.0, 2.0, 0.0, 90.0)
    assert (given.parameters.distance_m, given.parameters.gap_m) == (70.0, (30.0, 80.0))
    assert given.parameters.side == "right"
    bare = read(tmp_path, f'<scenario name="A" type="ConstructionObstacle">{TRIGGER}</scenario>')
    assert (bare.parameters.distance_m, bare.parameters.speed_kmh) == (100.0, 60.0)
    flow = '<start_actor_flow x="1" y="2" z="3"/><end_actor_flow x="4" y="5" z="6"/>'
    stream = read(tmp_path, f'<scenario name="E" type="EnterActorFlow">{TRIGGER}{flow}</scenario>')
    assert stream.parameters.end == Place(4.0, 5.0, 6.0)


def test_unknown_types_are_kept_to_be_reported(tmp_path):
    spec = read(tmp_path, f'<scenario name="X" type="Acident">{TRIGGER}<anything a="1"/></scenario>')
    assert spec.type == "Acident" and not spec.known


def test_an_unused_element_is_warned_of_with_what_may_be_meant(tmp_path, caplog):
    read(tmp_path, f'<scenario name="A" type="Accident">{TRIGGER}<distence value="9"/></scenario>')
    assert "distence" in caplog.text and "distance" in caplog.text


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("Accident", "", "no <trigger_point>"),
        ("Accident", '<trigger_point x="1" y="2" z="0"/>', "has no 'yaw'"),
        ("Accident", '<trigger_point x="1" y="b" z="0" yaw="0"/>', "y is 'b'"),
        ("Accident", f'{TRIGGER}<distance value="far"/>', "<distance> is value='far'"),
        ("Accident", f'{TRIGGER}<distance value="-4"/>', "number from 0"),
        ("Accident", f'{TRIGGER}<distance val="4"/>', "<distance> has no 'value'"),
        ("Accident", f'{TRIGGER}<direction value="up"/>', "'right' or 'left'"),
        ("AccidentTwoWays", f'{TRIGGER}<frequency from="9" to="3"/>', "from='9', to='3'"),
        ("EnterActorFlow", TRIGGER, "no <start_actor_flow>"),
        ("DynamicObjectCrossing", f'{TRIGGER}<crossing_angle value="91"/>', "-90 to 90"),
        ("", TRIGGER, "has no 'type'"),
    ],
)
def test_what_is_wrong_is_named_with_route_and_scenario(tmp_path, kind, body, said):
    with pytest.raises(RouteError) as caught:
        read(tmp_path, f'<scenario name="Sc_1" type="{kind}">{body}</scenario>')
    message = str(caught.value)
    assert said in message and "route '7'" in message and "'Sc_1'" in message and "routes.xml" in message


def test_behaviours_end_with_the_first_or_the_last_and_clean_up():
    ticks, closed = [], []

    def noted(name, count):
        try:
            for _ in range(count):
                ticks.append(name)
                yield
        finally:
            closed.append(name)

    list(first_of(noted("a", 5), noted("b", 2), forever()))
    assert ticks == ["a", "b", "a", "b", "a"] and sorted(closed) == ["a", "b"]
    assert len(list(all_of(noted("c", 3), noted("d", 1)))) == 3
    assert list(until(lambda: True)) == []
    running = first_of(noted("e", 9))
    next(running)
    running.close()
    assert closed[-1] == "e"
