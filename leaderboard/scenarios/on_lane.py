"""What happens on the ego's own road: the vehicle ahead brakes, an ambulance comes, the road is slippery.

After scenario_runner `hard_break.py`, `yield_to_emergency_vehicle.py`, `control_loss.py`,
`route_obstacles.py` (`HazardAtSideLane`), `invading_turn.py`, and Bench2Drive's
`sequentially_lane_change.py` and `t_junction.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import carla
import numpy as np

from tickdrive.leaderboard.criteria.base import SignalKind
from tickdrive.leaderboard.scenarios import places
from tickdrive.leaderboard.scenarios.base import CAR, SPAWN_LIFT_M, Scenario
from tickdrive.leaderboard.scenarios.behaviour import Behaviour, each_tick, first_of, forever, sequence, until
from tickdrive.leaderboard.scenarios.driver import PathDriver
from tickdrive.leaderboard.scenarios.flows import Flow, run_flow
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.spec import number

_LIGHT = carla.VehicleLightState


@dataclass(frozen=True)
class EmergencyParameters:
    """Of `YieldToEmergencyVehicle`: metres behind the trigger where the vehicle starts."""

    distance_m: float = number("distance", 140.0)


@dataclass(frozen=True)
class SideHazardParameters:
    """Of `HazardAtSideLane`.

    Attributes:
        distance_m: from the trigger to the bicycles.
        speed_kmh: see `obstacles.ObstacleParameters`.
        bicycle_kmh: their speed.
        drive_m: how far they ride.
    """

    distance_m: float = number("distance", 100.0)
    speed_kmh: float = number("speed", 60.0)
    bicycle_kmh: float = number("bicycle_speed", 10.0)
    drive_m: float = number("bicycle_drive_distance", 50.0)


@dataclass(frozen=True)
class SideHazardTwoWaysParameters(SideHazardParameters):
    """Of `HazardAtSideLaneTwoWays`; `gap_m` is what upstream sets between oncoming background vehicles."""

    gap_m: float = number("frequency", 100.0)


@dataclass(frozen=True)
class InvadingParameters:
    """Of `InvadingTurn`: metres to where the others start, and how far they come into the ego's lane."""

    distance_m: float = number("distance", 100.0)
    offset_m: float = number("offset", 0.25, -5.0, 5.0)


class HardBreakRoute(Scenario):
    """The vehicles ahead of the ego brake hard and stand for 10 s."""

    _STANDS_S, _END_M = 10.0, 15.0
    _REACH_M, _TOO_FAR_M = 150.0, 35.0
    _GAP_S, _GAP_MIN_M = 1.5, 8.0
    _WAY_M = 300.0

    def play(self) -> Behaviour:
        """Upstream always has background traffic ahead; where ours has none near, a vehicle is put there."""
        stage = self.stage
        vehicles = stage.background.ahead(self._REACH_M)
        followed = any(v.get_location().distance(stage.tick.location) < self._TOO_FAR_M for v in vehicles)
        lead = None if followed else self._put_ahead()
        with stage.background.held(vehicles):
            for vehicle in vehicles:
                vehicle.set_light_state(_LIGHT(_LIGHT.Brake))
            yield from first_of(stage.wait_s(self._STANDS_S), *([each_tick(lead.step)] if lead else []))
        for vehicle in vehicles:
            if vehicle.is_alive:
                vehicle.set_light_state(_LIGHT(_LIGHT.NONE))
        if lead is None:
            yield from stage.until_driven(self._END_M)
            return
        lead.brakes = False
        lead.vehicle.set_light_state(_LIGHT(_LIGHT.NONE))
        lead.speed_mps = max(stage.tick.speed_limit_kmh, 20.0) / 3.6
        lead.watch(stage.obstacles)
        yield from first_of(stage.until_driven(self._END_M), _drives_on(lead))

    def _put_ahead(self) -> PathDriver:
        stage = self.stage
        gap_m = max(self._GAP_MIN_M, self._GAP_S * stage.tick.speed_mps) + 2 * stage.ego_half_length_m
        lane = places.on(stage.map.get_waypoint(stage.tick.location), gap_m)
        car = self.vehicle(places.aside(lane, 0.0, SPAWN_LIFT_M), attributes=CAR)
        car.set_target_velocity(lane.transform.get_forward_vector() * stage.tick.speed_mps)
        self.light_up(car, _LIGHT.Brake)
        path = places.points_of(places.lane_path(lane, self._WAY_M))
        driver = PathDriver(car, path, stage.tick.speed_mps)
        driver.brakes = True
        return driver


def _drives_on(driver: PathDriver) -> Behaviour:
    """Drive for ever, at the path's end stand."""
    yield from each_tick(lambda: driver.step() and False)


class YieldToEmergencyVehicle(Scenario):
    """An emergency vehicle comes from behind, much faster; the ego has to leave its lane."""

    parameters_type = EmergencyParameters
    parameters: EmergencyParameters
    _FASTER_MPS = 25.0
    _BRAKING_MPS2 = 20.0
    _NEAR_M, _PATIENCE_S, _END_M = 50.0, 10.0, 50.0
    _WAY_M = 600.0

    _comes: carla.Vehicle | None = None
    _behind = False

    def set_up(self) -> None:
        """Find its start."""
        self._start = places.back(self.trigger, self.parameters.distance_m)

    def play(self) -> Behaviour:
        """Until it has been within 50 m of the ego for 10 s, or is 50 m past it."""
        stage = self.stage
        stage.background.clear_lane(120.0, self.parameters.distance_m + 20.0)
        self._comes = self.vehicle(
            places.aside(self._start, 0.0, SPAWN_LIFT_M), attributes={"special_type": "emergency"}
        )
        self.light_up(self._comes, _LIGHT.Special1, _LIGHT.Special2)
        path = places.points_of(places.lane_path(self._start, self._WAY_M))
        # upstream's stops at once, and comes close "to pressure the ego"
        driver = PathDriver(
            self._comes, path, 0.0, constant=True, obstacles=stage.obstacles, braking_mps2=self._BRAKING_MPS2
        )
        yield  # spawned in this tick
        try:
            yield from first_of(
                each_tick(lambda: self._hurry(driver)), self._until_near(), self._until_past()
            )
        finally:
            driver.let_go()

    def _hurry(self, driver: PathDriver) -> bool:
        stage = self.stage
        driver.speed_mps = stage.tick.speed_mps + self._FASTER_MPS
        at, forward = driver.vehicle.get_location(), driver.vehicle.get_transform().get_forward_vector()
        self._behind = bool((stage.tick.location - at).dot(forward) > 0)
        return driver.step()

    def _until_near(self) -> Behaviour:
        comes = self._comes
        assert comes is not None
        yield from until(lambda: self.stage.near(comes.get_location(), self._NEAR_M))
        yield from self.stage.wait_s(self._PATIENCE_S)

    def _until_past(self) -> Behaviour:
        yield from until(lambda: self._comes is not None and not self._behind)
        yield from self.stage.until_driven(self._END_M, self._comes)

    def judge_end(self) -> None:
        """It must be before the ego in the end (`YieldToEmergencyVehicleTest`)."""
        if self._comes is not None and self._behind:
            self.stage.rules.tell(SignalKind.NOT_YIELDED)


class ControlLoss(Scenario):
    """Debris on the road; over it the ego's steering and throttle are disturbed."""

    unused = ("distance", "direction", "speed")
    # `ControlLoss._distance` and the mean and deviation of its noise
    _AT_M = (14.0, 48.0, 74.0)
    _END_M, _NEAR_M = 110.0, 2.0
    _THROTTLE, _STEER = (0.03, 0.01), (0.055, 0.015)

    def set_up(self) -> None:
        """Put the debris there."""
        self._debris = []
        for at_m in self._AT_M:
            lane = places.on_to_junction(self.trigger, at_m)
            self.prop("static.prop.dirtdebris01", lane.transform)
            self._debris.append(lane.transform.location)

    def play(self) -> Behaviour:
        """Each of the three in turn, until the ego has come 110 m."""
        slips = [self._slip(at) for at in self._debris]
        after = self.stage.until_driven(self._END_M - self._AT_M[-1])
        yield from first_of(sequence(*slips, after), self.stage.until_driven(self._END_M))

    def _slip(self, at: carla.Location) -> Behaviour:
        stage, draw = self.stage, self.stage.random
        yield from until(lambda: stage.near(at, self._NEAR_M))
        throttle_sign, steer_sign = draw.choice((1, -1)), draw.choice((1, -1))

        def disturb(control: carla.VehicleControl) -> None:
            throttle = control.throttle + draw.gauss(throttle_sign * self._THROTTLE[0], self._THROTTLE[1])
            steer = control.steer + draw.gauss(steer_sign * self._STEER[0], self._STEER[1])
            control.throttle, control.steer = min(max(throttle, 0.0), 1.0), min(max(steer, -1.0), 1.0)

        stage.filters.append(disturb)
        try:
            yield from until(lambda: not stage.near(at, self._NEAR_M))
        finally:
            stage.filters.remove(disturb)


class HazardAtSideLane(Scenario):
    """Two cyclists ride slowly at the edge of the ego's lane."""

    parameters_type = SideHazardParameters
    parameters: SideHazardParameters
    two_ways = False
    _BICYCLES = ("vehicle.bh.crossbike", "vehicle.diamondback.century", "vehicle.gazelle.omafiets")
    _APART_M, _OFFSET, _END_M = 9.0, 0.55, 50.0
    _NEAR_M, _WAIT_S = 50.0, 5.0

    def set_up(self) -> None:
        """Let them wait."""
        first = places.on_to_junction(self.trigger, self.parameters.distance_m)
        self._right_m = self._OFFSET * first.lane_width / 2
        self._riders: list[tuple[carla.Vehicle, np.ndarray]] = []
        for lane in (first, places.on_to_junction(first, self._APART_M)):
            kind = self.stage.random.choice(self._BICYCLES)
            rider = self.vehicle(places.aside(lane, self._right_m, 0.5), kind, {}, parked=True)
            way = places.lane_path(lane, self.parameters.drive_m)
            self._riders.append((rider, places.points_of(way, self._right_m)))

    def play(self) -> Behaviour:
        """Until the ego is past the second one and 50 m further."""
        stage = self.stage
        stage.background.leave_space_ahead(self.parameters.distance_m + self._APART_M + 20.0)
        speed_mps = self.parameters.bicycle_kmh / 3.6
        rides = [self._ride(PathDriver(rider, way, speed_mps)) for rider, way in self._riders]
        yield from self.in_time(first_of(self._overtaken(), *rides, self._let_pass()))

    def _ride(self, driver: PathDriver) -> Behaviour:
        yield from each_tick(driver.step)
        driver.vehicle.apply_control(carla.VehicleControl(hand_brake=True, brake=1.0))
        yield from forever()

    def _overtaken(self) -> Behaviour:
        stage = self.stage
        last = self._riders[-1][0]
        half_m = stage.ego_half_length_m + last.bounding_box.extent.x

        def in_front() -> bool:
            beyond = places.aside(stage.map.get_waypoint(last.get_location()), 0.0)
            forward = beyond.get_forward_vector()
            return bool((stage.tick.location - beyond.location).dot(forward) > half_m)

        yield from until(in_front)
        yield from stage.until_driven(self._END_M)

    def _let_pass(self) -> Behaviour:
        stage, first = self.stage, self._riders[0][0]
        yield from until(lambda: stage.near(first.get_location(), self._NEAR_M))
        yield from stage.wait_s(self._WAIT_S)
        if not self.two_ways:
            yield from forever()
        # upstream leaves the test off for the rest of the route, which looks like an oversight
        with stage.rules.allow_opposite_lane():
            yield from forever()


class HazardAtSideLaneTwoWays(HazardAtSideLane):
    """The same where the ego has to use the opposite lane."""

    parameters_type = SideHazardTwoWaysParameters
    two_ways = True


class InvadingTurn(Scenario):
    """In a bend those who come use a part of the ego's lane, because cones take a part of theirs."""

    parameters_type = InvadingParameters
    parameters: InvadingParameters
    _GAP_M, _SOURCE_M, _NEAR_M = 40.0, 30.0, 50.0
    _CONE_M, _CONES_FROM_M, _HALF_CAR_M = 5.0, 10.0, 0.7

    def set_up(self) -> None:
        """Find both ends of their way."""
        self._end = places.on(self.trigger, self.parameters.distance_m + self._SOURCE_M)
        self._source = places.need_lane(self._end, "left")
        sink = places.need_lane(self.trigger, "left")
        if sink.lane_type != carla.LaneType.Driving or sink.lane_id * self.trigger.lane_id > 0:
            raise NoPlace("the next lane to the left is not the opposite one")
        length_m = self.parameters.distance_m + self._SOURCE_M
        self._way = places.lane_path(self._source, length_m)
        self._left_m = self.parameters.offset_m + sink.lane_width / 2 - self._HALF_CAR_M

    def play(self) -> Behaviour:
        """Until the ego is where they start."""
        stage = self.stage
        stage.background.clear_lane(self.parameters.distance_m)
        lane = places.on(self._source, self._CONES_FROM_M)
        for _ in range(int(0.5 * self.parameters.distance_m / self._CONE_M)):
            lane = places.on(lane, self._CONE_M)
            self.prop("static.prop.constructioncone", places.aside(lane, 0.8 * lane.lane_width / 2, 0.1))
        path = places.points_of(self._way, -self._left_m)
        limit_mps = stage.tick.speed_limit_kmh / 3.6
        flow = Flow(path, limit_mps, (self._GAP_M, self._GAP_M), constant=False)
        end = self._end.transform
        done = until(lambda: stage.passed(end) and stage.near(end.location, self._NEAR_M))
        yield from self.in_time(first_of(run_flow(self, flow), done))


class SequentialLaneChange(Scenario):
    """The route changes lanes, one after the other; nothing else happens."""

    _LENGTH_M = 200.0

    def play(self) -> Behaviour:
        """For 200 m."""
        yield from self.in_time(self.stage.until_driven(self._LENGTH_M))


class T_Junction(SequentialLaneChange):
    """A T-junction where nothing happens."""
