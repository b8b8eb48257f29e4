"""Something stands on the ego's lane: an accident, a parked vehicle, construction; a door opens.

The variants `…TwoWays` make the ego use the opposite lane, on which traffic comes. After scenario_runner
`route_obstacles.py`, `construction_crash_vehicle.py` and `vehicle_opens_door.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import carla

from tickdrive.leaderboard.scenarios import places
from tickdrive.leaderboard.scenarios.base import NEW_CAR, SPAWN_LIFT_M, Scenario
from tickdrive.leaderboard.scenarios.behaviour import Behaviour, first_of, forever, until
from tickdrive.leaderboard.scenarios.flows import opposite_flow, run_flow
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.spec import choice, interval, number

_END_M = 50.0
_WAIT_S = 5.0
_ON_ROAD = (carla.LaneType.Driving, carla.LaneType.Parking)
_MOST_LANES = 20
_LIGHT = carla.VehicleLightState


@dataclass(frozen=True)
class ObstacleParameters:
    """Of an obstacle that the ego passes on the next lane of its direction.

    Attributes:
        distance_m: from the trigger to the obstacle.
        side: of the lane on which it stands.
        speed_kmh: to which upstream limits the passing traffic; not used here (see `docs/scenarios.md`).
    """

    distance_m: float = number("distance", 120.0)
    side: str = choice("direction", "right", "left")
    speed_kmh: float = number("speed", 60.0)


@dataclass(frozen=True)
class TwoWaysParameters(ObstacleParameters):
    """Of an obstacle that the ego passes on the opposite lane.

    Attributes:
        gap_m: between the vehicles that come, drawn from this interval.
    """

    gap_m: tuple[float, float] = interval("frequency", (20.0, 100.0))


@dataclass(frozen=True)
class ConstructionParameters(ObstacleParameters):
    """Of `ConstructionObstacle`."""

    distance_m: float = number("distance", 100.0)


@dataclass(frozen=True)
class ConstructionTwoWaysParameters(TwoWaysParameters):
    """Of `ConstructionObstacleTwoWays`."""

    distance_m: float = number("distance", 100.0)


@dataclass(frozen=True)
class DoorParameters(TwoWaysParameters):
    """Of `VehicleOpensDoorTwoWays`."""

    distance_m: float = number("distance", 50.0)


class LaneObstacle(Scenario):
    """Base: the ego must get past `self._place`, and 50 m beyond `self._last` if no junction comes before."""

    parameters_type: ClassVar[type[ObstacleParameters]] = ObstacleParameters
    parameters: ObstacleParameters
    two_ways = False
    near_m = 50.0
    sign = "static.prop.warningaccident"

    _place: carla.Waypoint
    _last: carla.Waypoint

    def play(self) -> Behaviour:
        """Until the ego is past; where it has to use the opposite lane, traffic comes there."""
        self._begin()
        end = places.on_to_junction(self._last, _END_M).transform
        yield from self.in_time(first_of(until(lambda: self.stage.passed(end)), self._side_traffic()))

    def _begin(self) -> None:
        reach_m = self.trigger.transform.location.distance(self._last.transform.location)
        self.stage.background.leave_space_ahead(reach_m + 20.0)

    def _side_traffic(self) -> Behaviour:
        place = self._place.transform.location
        yield from until(lambda: self.stage.near(place, self.near_m))
        yield from self.stage.wait_s(_WAIT_S)
        if self.two_ways:
            yield from self._opposite_traffic(self._place)
        yield from forever()

    def _opposite_traffic(self, lane: carla.Waypoint) -> Behaviour:
        opposite = places.need_lane(lane, "left")
        assert isinstance(self.parameters, TwoWaysParameters)
        with self.stage.rules.allow_opposite_lane():
            yield from run_flow(self, opposite_flow(self, opposite, self.parameters.gap_m))

    def _need_opposite(self, lane: carla.Waypoint) -> None:
        if self.two_ways:
            beside = places.need_lane(lane, "left")
            if beside.lane_type != carla.LaneType.Driving:
                raise NoPlace("the next lane to the left is no driving lane")

    def _put_sign(self) -> None:
        """A warning beside the road at the trigger (`_spawn_side_prop`)."""
        side = self.parameters.side
        last, lane = self.trigger, places.lane_at_side(self.trigger, side)
        for _ in range(_MOST_LANES):
            if lane is None or lane.lane_type not in _ON_ROAD or lane.lane_id * last.lane_id < 0:
                break
            last, lane = lane, places.lane_at_side(lane, side)
        sign = 1.0 if side == "right" else -1.0
        if lane is None or lane.lane_id * last.lane_id < 0:  # nothing there: beside the last lane
            self.prop(self.sign, places.aside(last, sign * 0.8 * last.lane_width, 0.2, 90.0))
        else:
            self.prop(self.sign, places.aside(lane, sign * 0.3 * last.lane_width, 0.2, 90.0))

    def _stand(
        self, lane: carla.Waypoint, share: float, pattern: str, attributes: dict[str, str]
    ) -> carla.Vehicle:
        sign = 1.0 if self.parameters.side == "right" else -1.0
        at = places.aside(lane, sign * share * lane.lane_width / 2, 1.0)
        return self.vehicle(at, pattern, attributes, parked=True)


class Accident(LaneObstacle):
    """A police car and two damaged cars stand on the lane."""

    def set_up(self) -> None:
        """Put all of it there."""
        self._put_sign()
        police_at = places.on_to_junction(self.trigger, self.parameters.distance_m)
        self._place = places.on_to_junction(police_at, 10.0)
        self._last = places.on_to_junction(self._place, 6.0)
        self._need_opposite(self._last)
        police = self._stand(police_at, 0.6, "vehicle.dodge.charger_police_2020", {})
        self.light_up(police, _LIGHT.Special1, _LIGHT.Special2, _LIGHT.Position)
        for lane in (self._place, self._last):
            self._stand(lane, 0.6, "vehicle.*", NEW_CAR)


class AccidentTwoWays(Accident):
    """The same, to be passed on the opposite lane."""

    parameters_type = TwoWaysParameters
    two_ways = True


class ParkedObstacle(LaneObstacle):
    """A car stands on the lane with its hazard lights on."""

    def set_up(self) -> None:
        """Put it there."""
        self._put_sign()
        self._place = self._last = places.on_to_junction(self.trigger, self.parameters.distance_m)
        self._need_opposite(self._place)
        car = self._stand(self._place, 0.7, "vehicle.*", NEW_CAR)
        self.light_up(car, _LIGHT.RightBlinker, _LIGHT.LeftBlinker, _LIGHT.Position)


class ParkedObstacleTwoWays(ParkedObstacle):
    """The same, to be passed on the opposite lane."""

    parameters_type = TwoWaysParameters
    two_ways = True


class ConstructionObstacle(LaneObstacle):
    """Cones and signs close the lane."""

    parameters_type: ClassVar[type[ObstacleParameters]] = ConstructionParameters
    near_m = 30.0
    sign = "static.prop.warningconstruction"
    # `_create_construction_setup`: rows of cones, their number and distance [m]
    _ROWS = ((4, 2.0), (3, 1.0))

    def set_up(self) -> None:
        """Warn of it; the cones come with the trigger, as upstream's."""
        self._put_sign()
        self._place = self._last = places.on(self.trigger, self.parameters.distance_m)
        self._need_opposite(self._place)

    def _begin(self) -> None:
        self.stage.background.clear_lane(self.parameters.distance_m + 40.0)
        centre = self._place.transform
        forward, yaw = centre.get_forward_vector(), centre.rotation.yaw

        def ahead(metres: float, lift_m: float, turned: float) -> carla.Transform:
            at = centre.location + carla.Location(metres * forward.x, metres * forward.y, lift_m)
            return carla.Transform(at, carla.Rotation(yaw=yaw + turned))

        self.prop("static.prop.trafficwarning", ahead(-5.0, 0.0, 270.0))
        self.prop("static.prop.dirtdebris02", ahead(2.0, 1.0, 90.0))
        for location in self._cones():
            self.prop("static.prop.constructioncone", carla.Transform(location, centre.rotation))

    def _cones(self) -> list[carla.Location]:
        """A row along the lane's inner edge, then one across to the other edge."""
        right = 1.0 if self.parameters.side == "right" else -1.0
        corner = places.aside(self._place, -right * 0.85 * self.trigger.lane_width / 2, 0.1)
        forward, across = corner.get_forward_vector(), corner.get_right_vector() * right
        cones = []
        at = corner.location
        for (count, step_m), way in zip(self._ROWS, (forward, across), strict=True):
            for _ in range(count):
                at = carla.Location(at.x + step_m * way.x, at.y + step_m * way.y, at.z)
                cones.append(at)
        return cones


class ConstructionObstacleTwoWays(ConstructionObstacle):
    """The same, to be passed on the opposite lane."""

    parameters_type = ConstructionTwoWaysParameters
    two_ways = True


class VehicleOpensDoorTwoWays(LaneObstacle):
    """A parked car opens its door when the ego comes."""

    parameters_type = DoorParameters
    two_ways = True

    def set_up(self) -> None:
        """Park the car at the edge of its lane that is next to the ego's."""
        side = self.parameters.side
        self._place = self._last = places.on(self.trigger, self.parameters.distance_m)
        parking = places.need_lane(self._place, side)
        towards_road = -1.0 if side == "right" else 1.0
        doors = {"has_dynamic_doors": "true", "base_type": "car"}
        at = places.aside(parking, 0.0, SPAWN_LIFT_M)
        self._car = self.vehicle(at, "vehicle.*", doors, parked=True)
        half_m = self._car.bounding_box.extent.y
        moved = places.aside(parking, towards_road * (parking.lane_width - half_m) / 4, 0.05)
        self._car.set_transform(moved)

    def _side_traffic(self) -> Behaviour:
        stage, place = self.stage, self._place.transform.location
        yield from until(lambda: stage.arrives(place, 3.0, 10.0))
        door = carla.VehicleDoor.FR if self.parameters.side == "left" else carla.VehicleDoor.FL
        self._car.open_door(door)
        with stage.background.held(stage.background.behind()):
            yield from stage.wait_s(_WAIT_S)
            # upstream sends it along the lane to the left of the parking one, which is the ego's own
            if places.opposite_direction(self._place):
                yield from self._opposite_traffic(places.same_direction(self._place)[0])
            yield from forever()
