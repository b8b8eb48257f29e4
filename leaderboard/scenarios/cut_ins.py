"""Vehicles that cut in before the ego, and the parked ego that has to get out.

After scenario_runner `parking_cut_in.py`, `cut_in_with_static_vehicle.py`, `highway_cut_in.py` and
`parking_exit.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import carla
import numpy as np

from tickdrive.leaderboard.scenarios import places
from tickdrive.leaderboard.scenarios.base import CAR, NEW_CAR, SPAWN_LIFT_M, Scenario
from tickdrive.leaderboard.scenarios.behaviour import Behaviour, each_tick, first_of, sequence, until
from tickdrive.leaderboard.scenarios.driver import PathDriver
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.spec import Place, choice, number, place

_LIT_CAR = {"base_type": "car", "has_lights": "true"}
_STEP_M = 2.0
_WAY_M = 200.0


@dataclass(frozen=True)
class SideParameters:
    """Of `ParkingCutIn`: the side from which it comes (anything but left is right, as upstream takes it)."""

    side: str = choice("direction", "right", "left", lenient=True)


@dataclass(frozen=True)
class StaticCutInParameters:
    """Of `StaticCutIn`: metres from the trigger to the first standing vehicle, and the side of their lane."""

    distance_m: float = number("distance", 100.0)
    side: str = choice("direction", "right", "left")


@dataclass(frozen=True)
class HighwayCutInParameters:
    """Of `HighwayCutIn`: where the other vehicle starts."""

    start: Place = place("other_actor_location")


@dataclass(frozen=True)
class ParkingExitParameters:
    """Of `ParkingExit`: the side on which the ego is parked, and the distances of its neighbours."""

    side: str = choice("direction", "right", "left")
    front_m: float = number("front_vehicle_distance", 20.0)
    behind_m: float = number("behind_vehicle_distance", 10.0)
    flow_distance_m: float = number("flow_distance", 25.0)
    speed_kmh: float = number("speed", 60.0)


def change_path(
    lane: carla.Waypoint, side: str, same_m: float, change_m: float, other_m: float
) -> np.ndarray:
    """(N, 3) way from a lane to the next one (`BasicAgent.lane_change`).

    Raises:
        NoPlace: there is no such lane.
    """
    own = places.lane_path(lane, max(same_m, _STEP_M), _STEP_M)
    over = places.need_lane(places.on(own[-1], max(change_m, _STEP_M)), side)
    return places.points_of(own + places.lane_path(over, other_m, _STEP_M))


def smooth(path: np.ndarray) -> np.ndarray:
    """The same way with a point about every 2 m, for the pursuit."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    travelled = np.concatenate(([0.0], np.cumsum(steps)))
    at = np.arange(0.0, travelled[-1], _STEP_M)
    return np.stack([np.interp(at, travelled, path[:, axis]) for axis in range(3)], axis=1)


class ParkingCutIn(Scenario):
    """A parked car, behind another one, drives off before the ego."""

    parameters_type = SideParameters
    parameters: SideParameters
    _BLOCKER_M, _CUT_IN_M, _END_M = 28.0, 35.0, 30.0
    _SPEED_MPS = 20.0 / 3.6  # `BasicAgent`'s own
    _MERGE_M = 7.0

    def set_up(self) -> None:
        """Park both."""
        self._park(self._BLOCKER_M)
        self._car = self._park(self._CUT_IN_M)
        self._lane = places.on(self.trigger, self._CUT_IN_M)

    def _park(self, ahead_m: float) -> carla.Vehicle:
        side = self.parameters.side
        parking = places.need_lane(places.on(self.trigger, ahead_m), side)
        car = self.vehicle(places.aside(parking, 0.0, SPAWN_LIFT_M), attributes=NEW_CAR, parked=True)
        shift_m = (parking.lane_width - car.bounding_box.extent.y) / 4
        car.set_transform(places.aside(parking, shift_m if side == "right" else -shift_m, 0.05))
        return car

    def play(self) -> Behaviour:
        """It drives off when the ego is 2.35 s or 10 m away, for 30 m."""
        stage = self.stage
        stage.background.leave_space_ahead(self._CUT_IN_M + 10.0)
        collision = self._lane.transform.location
        yield from until(lambda: stage.arrives(collision, 2.35, 10.0))
        lanes = places.lane_path(places.on(self._lane, self._MERGE_M), _WAY_M)
        start = self._car.get_location()
        path = np.concatenate((np.array([(start.x, start.y, start.z)]), places.points_of(lanes)))
        driver = PathDriver(self._car, smooth(path), self._SPEED_MPS)
        yield from first_of(each_tick(driver.step), stage.until_driven(self._END_M, self._car))


class StaticCutIn(Scenario):
    """Out of a standing queue on the next lane a vehicle cuts in."""

    parameters_type = StaticCutInParameters
    parameters: StaticCutInParameters
    unused = ("speed",)
    _GAP_M, _BEHIND, _AHEAD = 11.0, 2, 3
    _SPEED_MPS = 60.0 / 3.6
    _END_M = 70.0

    def set_up(self) -> None:
        """Find the queue's places."""
        self._lanes = [places.on(self.trigger, self.parameters.distance_m)]
        for _ in range(self._BEHIND + self._AHEAD):
            self._lanes.append(places.on(self._lanes[-1], self._GAP_M))
        self._queue = [places.need_lane(lane, self.parameters.side) for lane in self._lanes]
        if any(lane.lane_type != carla.LaneType.Driving for lane in self._queue):
            raise NoPlace(f"the next lane to the {self.parameters.side} is no driving lane")

    def play(self) -> Behaviour:
        """The queue appears with the trigger, as upstream's; the third cuts in when the ego is 2.7 s away."""
        stage, side = self.stage, self.parameters.side
        length_m = self.parameters.distance_m + self._GAP_M * len(self._lanes)
        stage.background.leave_space_ahead(length_m)
        stage.background.clear_lanes(self._queue)
        stands = [places.aside(lane, 0.0, SPAWN_LIFT_M) for lane in self._queue]
        cars = [self.vehicle(stand, attributes=_LIT_CAR, parked=True) for stand in stands]
        collision = self._lanes[self._BEHIND]
        yield from until(lambda: stage.arrives(collision.transform.location, 2.7, 15.0))
        speed_mps = max(stage.tick.speed_mps, 3.0)
        back_to = "right" if side == "left" else "left"
        path = change_path(self._queue[self._BEHIND], back_to, 0.0, 3.0 * speed_mps, _WAY_M)
        driver = PathDriver(cars[self._BEHIND], smooth(path), speed_mps)
        cut_in = sequence(
            first_of(each_tick(driver.step), stage.until_driven(5.0 * speed_mps, cars[self._BEHIND])),
            self._drive_off(driver),
        )
        yield from first_of(cut_in, stage.wait_s(30.0))

    def _drive_off(self, driver: PathDriver) -> Behaviour:
        driver.speed_mps = self._SPEED_MPS
        driver.watch(self.stage.obstacles)
        yield from first_of(each_tick(driver.step), self.stage.until_driven(self._END_M, driver.vehicle))


class HighwayCutIn(Scenario):
    """A vehicle from a ramp arrives when the ego does, and cuts in."""

    parameters_type = HighwayCutInParameters
    parameters: HighwayCutInParameters
    unused = ("end_location",)
    _CUT_IN_M, _END_M = 10.0, 5.0
    _MOST_MPS = 40.0

    def set_up(self) -> None:
        """Find where both come together."""
        self._start = self.stage.map.get_waypoint(self.parameters.start.location)
        self._target = places.on(places.through_junction(self._start), self._CUT_IN_M)
        self._reference = places.through_junction(self.trigger).transform

    def play(self) -> Behaviour:
        """It arrives with the ego (`SyncArrivalWithAgent`), then changes the lane (`CutIn`)."""
        stage = self.stage
        stage.background.clear_lanes([self._start, self._target])
        stage.background.leave_space_ahead(170.0)
        car = self.vehicle(places.aside(self._start, 0.0, SPAWN_LIFT_M), attributes=_LIT_CAR)
        path = stage.trace(self._start, self._target)
        beyond = places.points_of(places.lane_path(self._target, _WAY_M))
        driver = PathDriver(car, np.concatenate((path, beyond[1:])), 0.0, constant=True)
        target = self._target.transform.location

        def keep_pace() -> bool:
            left_m = car.get_location().distance(target)
            ego_left_m = stage.tick.location.distance(self._reference.location)
            arrives_s = ego_left_m / max(stage.tick.speed_mps, 0.1)
            driver.speed_mps = min(left_m / max(arrives_s, 0.1), self._MOST_MPS)
            driver.step()
            return stage.passed(self._reference) or (left_m < self._END_M)

        yield  # spawned in this tick
        yield from each_tick(keep_pace)
        speed_mps = max(0.8 * stage.tick.speed_mps, 3.0)
        here = stage.map.get_waypoint(car.get_location())
        try:
            way = change_path(here, "left", 0.3 * speed_mps, 2.0 * speed_mps, 3.0 * speed_mps)
        finally:
            driver.let_go()
        merge = PathDriver(car, smooth(way), speed_mps)
        yield from first_of(each_tick(merge.step), stage.wait_s(15.0))


class ParkingExit(Scenario):
    """The ego starts between parked cars and has to get out; must be the first of its route."""

    parameters_type = ParkingExitParameters
    parameters: ParkingExitParameters
    _SIDE_M = 50.0

    def set_up(self) -> None:
        """Put the ego into the parking lane, a car before and one behind it, and one on the lane beside."""
        p, stage = self.parameters, self.stage
        parking = places.need_lane(self.trigger, p.side)
        self._park(places.on(parking, p.front_m))
        self._park(places.back(parking, p.behind_m))
        stage.ego.set_transform(self._at_edge(parking, stage.ego))
        self._beside: carla.Vehicle | None = None

    def _park(self, lane: carla.Waypoint) -> None:
        car = self.vehicle(places.aside(lane, 0.0, SPAWN_LIFT_M), attributes=NEW_CAR, parked=True)
        car.set_transform(self._at_edge(lane, car))

    def _at_edge(self, lane: carla.Waypoint, car: carla.Vehicle) -> carla.Transform:
        shift_m = (lane.lane_width - car.bounding_box.extent.y) / 4
        return places.aside(lane, shift_m if self.parameters.side == "right" else -shift_m, 0.05)

    def play(self) -> Behaviour:
        """Until the ego has come 15 m beyond the car before it."""
        stage = self.stage
        yield  # the ego's place was the passing car's until it was moved
        car = self.vehicle(places.aside(self.trigger, 0.0, SPAWN_LIFT_M), attributes=CAR)
        way = places.points_of(places.lane_path(self.trigger, self._SIDE_M))
        driver = PathDriver(car, way, 20.0 / 3.6, obstacles=stage.obstacles)

        def pass_by() -> bool:
            if car.is_alive and driver.step():
                self.remove(car)
            return False

        out = stage.until_driven(self.parameters.front_m + 15.0)
        yield from self.in_time(first_of(each_tick(pass_by), out))
