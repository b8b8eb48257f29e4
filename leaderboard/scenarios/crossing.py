"""Pedestrians and cyclists who step onto the road before the ego.

After scenario_runner `object_crash_vehicle.py`, `object_crash_intersection.py` and `pedestrian_crossing.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import carla

from tickdrive.leaderboard.scenarios import places
from tickdrive.leaderboard.scenarios.base import NEW_CAR, Scenario
from tickdrive.leaderboard.scenarios.behaviour import Behaviour, all_of, until
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.spec import choice, number, word

_END_M = 40.0
_NEAR_M = 6.0
_ATTEMPTS = 6
_RETRY_M = 0.4
_WALKER_LIFT_M = 1.2


@dataclass(frozen=True)
class DynamicObjectParameters:
    """Of `DynamicObjectCrossing`.

    Attributes:
        distance_m: from the trigger to where the walker crosses.
        side: from which it comes.
        blocker: blueprint of what hides it.
        angle_deg: its way against the straight one across the road.
    """

    distance_m: float = number("distance", 12.0)
    side: str = choice("direction", "right", "left")
    blocker: str = word("blocker_model", "static.prop.vendingmachine")
    angle_deg: float = number("crossing_angle", 0.0, -90.0, 90.0)


@dataclass(frozen=True)
class ParkedCrossingParameters:
    """Of `ParkingCrossingPedestrian`; see `DynamicObjectParameters`."""

    distance_m: float = number("distance", 12.0)
    side: str = choice("direction", "right", "left")
    angle_deg: float = number("crossing_angle", 0.0, -90.0, 90.0)


def beside(lane: carla.Waypoint, right_m: float, lift_m: float, yaw_deg: float) -> carla.Transform:
    """On a sidewalk, or to the right of a lane that is none, turned (`get_sidewalk_transform`)."""
    on_sidewalk = lane.lane_type == carla.LaneType.Sidewalk
    return places.aside(lane, 0.0 if on_sidewalk else right_m, lift_m, yaw_deg)


def retried(try_at: Callable[[carla.Waypoint], None], first: carla.Waypoint) -> None:
    """Try places, each a little further on than the one before.

    Raises:
        NoPlace: of the last attempt.
    """
    lane = first
    for attempt in range(_ATTEMPTS):
        try:
            try_at(lane)
            return
        except NoPlace:
            if attempt == _ATTEMPTS - 1:
                raise
            lane = places.on(lane, _RETRY_M)


class DynamicObjectCrossing(Scenario):
    """A walker steps out from behind something at the roadside."""

    parameters_type = DynamicObjectParameters
    parameters: DynamicObjectParameters

    def set_up(self) -> None:
        """Put what hides the walker at the roadside."""
        retried(self._set_up_at, places.far_on(self.trigger, self.parameters.distance_m))

    def _set_up_at(self, lane: carla.Waypoint) -> None:
        p = self.parameters
        sign = 1.0 if p.side == "right" else -1.0
        edge, _ = places.outermost(lane, p.side)
        turned = 0.0 if "vehicle" in p.blocker else 90.0
        hide = beside(edge, sign * 1.5, 0.0, sign * turned)
        if p.blocker.startswith("vehicle"):
            blocker = self.vehicle(hide, p.blocker, {}, parked=True)
        else:
            blocker = self.prop(p.blocker, hide)
        try:
            start = places.on(edge, blocker.bounding_box.extent.x + 0.5)
        except NoPlace:
            self.remove(blocker)
            raise
        self._blocker = blocker
        self._start = beside(start, sign * 1.2, _WALKER_LIFT_M, sign * (270.0 - p.angle_deg))
        self._collision = lane.transform.location

    def play(self) -> Behaviour:
        """The walker waits until the ego is about two seconds away, and crosses the whole road."""
        p, stage = self.parameters, self.stage
        stage.background.leave_space_ahead(p.distance_m + 10.0)
        walker = self.walker(self._start)
        reaction_s = 2.1 + 0.1 * math.floor(p.angle_deg / 5)
        yield from until(lambda: stage.arrives(self._collision, reaction_s, _NEAR_M))
        stage.background.make_room_across(self._collision)
        length_m = 2 * self._collision.distance(self._start.location)
        yield from self.walk(walker, self._start.rotation.yaw, 2.0, length_m)
        self.remove(walker)
        self.remove(self._blocker)
        yield from stage.until_driven(_END_M)


class ParkingCrossingPedestrian(Scenario):
    """A walker steps out from before a parked car."""

    parameters_type = ParkedCrossingParameters
    parameters: ParkedCrossingParameters

    def set_up(self) -> None:
        """Park the car."""
        p = self.parameters
        sign = 1.0 if p.side == "right" else -1.0
        lane = places.on(self.trigger, p.distance_m)
        parked = places.aside(lane, sign * lane.lane_width, 0.5)
        self._blocker = self.vehicle(parked, attributes=NEW_CAR, parked=True)
        crossing = places.on(lane, self._blocker.bounding_box.extent.x + 0.5)
        turned = 270.0 - p.angle_deg if p.side == "right" else 90.0 + p.angle_deg
        self._start = places.aside(crossing, sign * crossing.lane_width, _WALKER_LIFT_M, turned)
        self._collision = crossing.transform.location

    def play(self) -> Behaviour:
        """As `DynamicObjectCrossing`, over 8 m."""
        p, stage = self.parameters, self.stage
        stage.background.leave_space_ahead(p.distance_m + 15.0)
        walker = self.walker(self._start)
        reaction_s = 2.15 + 0.1 * math.floor(p.angle_deg / 5)
        yield from until(lambda: stage.arrives(self._collision, reaction_s, _NEAR_M))
        yield from self.walk(walker, self._start.rotation.yaw, 2.0, 8.0)
        self.remove(walker)
        self.remove(self._blocker)
        yield from stage.until_driven(_END_M)


class VehicleTurningRoute(Scenario):
    """A cyclist crosses the road that the ego has just turned into."""

    _SPEED_MPS = 1.8
    _BEHIND_JUNCTION_M = 11.0

    def set_up(self) -> None:
        """Let the cyclist wait at the roadside."""
        stage = self.stage
        exit_ = places.route_exit(stage.points, stage.map, self.trigger.transform.location)
        retried(self._set_up_at, places.on(exit_, self._BEHIND_JUNCTION_M))

    def _set_up_at(self, lane: carla.Waypoint) -> None:
        edge, _ = places.outermost(lane, "right")
        self._start = beside(edge, 1.5, 0.2, 270.0)
        self._cyclist = self.vehicle(self._start, "vehicle.diamondback.century", {}, parked=True)
        self._collision = lane.transform.location

    def play(self) -> Behaviour:
        """Across the road at walking speed."""
        stage = self.stage
        yield from until(lambda: stage.arrives(self._collision, 1.8, _NEAR_M))
        self._cyclist.apply_control(carla.VehicleControl(hand_brake=False))
        stage.background.make_room_across(self._collision)
        length_m = 2 * self._collision.distance(self._start.location)
        yield from self.roll(self._cyclist, self._start.rotation.yaw, self._SPEED_MPS, length_m)
        self.remove(self._cyclist)
        yield from stage.until_driven(_END_M)


class VehicleTurningRoutePedestrian(Scenario):
    """A walker crosses the road that the ego turns into, right behind the junction."""

    _SPEED_MPS = 1.8

    def set_up(self) -> None:
        """Find both sides of the road."""
        stage = self.stage
        exit_ = places.route_exit(stage.points, stage.map, self.trigger.transform.location)
        lane = places.on(exit_, 0.5)
        right, _ = places.outermost(lane, "right")
        opposite = places.opposite_direction(lane)
        left, _ = places.outermost(opposite[-1], "right") if opposite else places.outermost(lane, "left")
        self._width_m = right.transform.location.distance(left.transform.location)
        entry, out = self.trigger.transform.get_forward_vector(), exit_.transform.get_forward_vector()
        to_left = entry.x * out.y - entry.y * out.x < 0
        # upstream starts it where the ego turns away from; lanes of the other direction look the other way
        if to_left or opposite:
            self._start = beside(right if to_left else left, 1.5, _WALKER_LIFT_M, 270.0)
        else:
            self._start = beside(left, -1.5, _WALKER_LIFT_M, 90.0)
        self._collision = lane.transform.location

    def play(self) -> Behaviour:
        """Over the whole road."""
        stage = self.stage
        walker = self.walker(self._start)
        yield from until(lambda: stage.arrives(self._collision, 2.2, _NEAR_M))
        stage.background.make_room_across(self._collision)
        yield from self.walk(walker, self._start.rotation.yaw, self._SPEED_MPS, self._width_m)
        self.remove(walker)
        yield from stage.until_driven(_END_M)


class PedestrianCrossing(Scenario):
    """Three walkers cross before the ego at the junction's entry."""

    # `_walker_data`: metres along and to the right of the sidewalk's end
    _PLACES = ((0.4, 1.5), (1.0, 2.5), (1.6, 0.5))

    def set_up(self) -> None:
        """Find the sidewalk's end."""
        lane = places.last_before_junction(self.trigger)
        sidewalk, _ = places.outermost(lane, "right")
        if sidewalk.lane_type != carla.LaneType.Sidewalk:
            raise NoPlace("the road has no sidewalk to the right")
        self._collision = lane.transform.location
        self._starts = []
        for along_m, right_m in self._PLACES:
            start = places.aside(sidewalk, right_m, _WALKER_LIFT_M, 270.0)
            forward = sidewalk.transform.get_forward_vector()
            start.location += carla.Location(along_m * forward.x, along_m * forward.y, 0.0)
            self._starts.append(start)

    def play(self) -> Behaviour:
        """They go when the ego is 3.5 s away. Upstream's never ends, here it does when all are over."""
        stage = self.stage
        stage.background.leave_space_ahead(stage.tick.location.distance(self._collision))
        walkers = [self.walker(start) for start in self._starts]
        yield from until(lambda: stage.arrives(self._collision, 3.5, 12.0))
        crossings = (self._cross(w, s) for w, s in zip(walkers, self._starts, strict=True))
        yield from all_of(*crossings, stage.until_driven(_END_M))

    def _cross(self, walker: carla.Walker, start: carla.Transform) -> Behaviour:
        yield from self.stage.wait_s(self.stage.random.uniform(0.0, 1.5))
        length_m = 2.3 * start.location.distance(self._collision)
        yield from self.walk(walker, start.rotation.yaw, self.stage.random.uniform(1.3, 2.0), length_m)
        self.remove(walker)
