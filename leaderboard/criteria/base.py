"""What criteria see of a tick, what they report, and the route's own measures.

World frame is CARLA's (left-handed, x east, y south, metres, yaw in degrees).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import carla

from tickdrive.leaderboard.route_planner import RoutePoint


class EventKind(Enum):
    """Kinds of infraction; the values are the keys of the results file (`statistics_manager.py`)."""

    COLLISION_STATIC = "collisions_layout"
    COLLISION_PEDESTRIAN = "collisions_pedestrian"
    COLLISION_VEHICLE = "collisions_vehicle"
    RED_LIGHT = "red_light"
    STOP_SIGN = "stop_infraction"
    OUTSIDE_ROUTE_LANES = "outside_route_lanes"
    MIN_SPEED = "min_speed_infractions"
    YIELD_EMERGENCY_VEHICLE = "yield_emergency_vehicle_infractions"
    SCENARIO_TIMEOUT = "scenario_timeouts"
    ROUTE_DEVIATION = "route_dev"
    VEHICLE_BLOCKED = "vehicle_blocked"
    ROUTE_TIMEOUT = "route_timeout"


@dataclass(frozen=True)
class Event:
    """One infraction.

    Attributes:
        kind: what happened.
        frame: the simulator's frame.
        sim_s: simulated seconds since the route's start.
        message: upstream's wording; tools read numbers out of it.
        percent: for OUTSIDE_ROUTE_LANES the share of the completed route spent outside, for MIN_SPEED the
            ego's speed as a share of the traffic's; None for the other kinds.
        other_actor: id of the actor concerned (collision partner, light, sign); None where there is none.
    """

    kind: EventKind
    frame: int
    sim_s: float
    message: str
    percent: float | None = None
    other_actor: int | None = None


class SignalKind(Enum):
    """What a scenario on the route can tell the criteria."""

    STARTED = "started"
    ENDED = "ended"
    TIMED_OUT = "timed out"
    NOT_YIELDED = "the ego did not yield"
    BLOCKED_TEST_OFF = "standing is allowed"
    BLOCKED_TEST_ON = "standing is no longer allowed"
    DIRECTION_TEST_OFF = "oncoming lanes are allowed"
    DIRECTION_TEST_ON = "oncoming lanes are no longer allowed"


@dataclass(frozen=True)
class ScenarioSignal:
    """News of a scenario at one tick; in scenario_runner, a variable on py_trees' blackboard.

    Attributes:
        kind: what is told.
        scenario_type: as in the route file; empty where the scenario is not known.
    """

    kind: SignalKind
    scenario_type: str = ""


class DriveClock:
    """Simulated seconds since a drive began, counted as upstream does (scenario_runner `timer.py`, GameTime).

    CARLA tells a tick's length in single precision, where 0.05 s is a little more, and upstream adds the
    lengths up. So a limit of whole ticks is passed at its last tick; differences of `elapsed_seconds` would
    pass it then or a tick later, as their rounding has it.

    Args:
        frame: the last one before the drive.

    Attributes:
        sim_s: the time.
    """

    def __init__(self, frame: int) -> None:
        self.sim_s = 0.0
        self._frame = frame

    def advance(self, frame: int, delta_s: float) -> float:
        """A frame of the drive has come; the time at it. `delta_s` is its `timestamp.delta_seconds`."""
        self.sim_s += delta_s * (frame - self._frame)
        self._frame = frame
        return self.sim_s


@dataclass(frozen=True)
class EgoTick:
    """The ego at one tick, and what of its surroundings the criteria need.

    Attributes:
        frame: the simulator's frame.
        sim_s: simulated seconds since the route's start.
        transform: of the ego actor, world frame.
        velocity_in_world: m/s.
        speed_limit_kmh: in force for the ego.
        traffic_speeds_mps: of the background traffic's vehicles.
        red_lights: ids of the traffic lights that are red.
        signals: of the route's scenarios at this tick, in order.
        emergency_vehicle: where that of a scenario is, world frame; None where there is none.
    """

    frame: int
    sim_s: float
    transform: carla.Transform
    velocity_in_world: carla.Vector3D
    speed_limit_kmh: float = 30.0
    traffic_speeds_mps: tuple[float, ...] = ()
    red_lights: frozenset[int] = frozenset()
    signals: tuple[ScenarioSignal, ...] = ()
    emergency_vehicle: carla.Transform | None = None

    @property
    def location(self) -> carla.Location:
        """Position of the ego actor."""
        return self.transform.location

    @property
    def speed_mps(self) -> float:
        """Horizontal speed, as upstream's `calculate_velocity` takes it."""
        return math.hypot(self.velocity_in_world.x, self.velocity_in_world.y)


class Criterion(ABC):
    """Watches a drive and collects events.

    Attributes:
        name: as in the leaderboard's result table.
        unit: of `value`, empty where there is only success or failure.
    """

    name = ""
    unit = ""

    def __init__(self) -> None:
        self._events: list[Event] = []

    @abstractmethod
    def update(self, tick: EgoTick) -> None:
        """Look at one tick; called once for every tick, in order."""

    @property
    def events(self) -> tuple[Event, ...]:
        """What was found so far."""
        return tuple(self._events)

    @property
    def failed(self) -> bool:
        """Whether the result table says FAILURE."""
        return bool(self._events)

    @property
    def value(self) -> float:
        """Number in the result table: by default, how many events."""
        return float(len(self._events))

    @property
    def ends_route(self) -> bool:
        """Whether the route is over because of this criterion."""
        return False

    def finish(self, tick: EgoTick, over: bool) -> None:  # noqa: B027 - most have nothing left to settle
        """Settle what only the end of the route decides.

        Args:
            tick: the last one.
            over: a criterion ended the route, not a failure from outside.
        """

    def close(self) -> None:  # noqa: B027 - most criteria hold nothing
        """Release sensors."""


class RouteLine:
    """A dense route with its travelled distances, and the test for having passed a point of it.

    Args:
        route: at least two points, not all in one place.
    """

    def __init__(self, route: Sequence[RoutePoint]) -> None:
        self.transforms = [point.transform for point in route]
        self.locations = [t.location for t in self.transforms]
        self._forwards = [t.get_forward_vector() for t in self.transforms]
        self.travelled_m = [0.0]
        for before, after in pairwise(self.locations):
            self.travelled_m.append(self.travelled_m[-1] + before.distance(after))

    def __len__(self) -> int:
        return len(self.transforms)

    @property
    def length_m(self) -> float:
        """Length along the route."""
        return self.travelled_m[-1]

    def passed(self, index: int, location: carla.Location) -> bool:
        """Whether a location lies beyond route point `index`, in its direction of travel."""
        return (location - self.locations[index]).dot(self._forwards[index]) > 0

    def advance(self, index: int, location: carla.Location, window: int) -> int:
        """The last point passed among those up to `window` after `index`; `index` when there is none."""
        result = index
        for i in range(index, min(index + window + 1, len(self))):
            if self.passed(i, location):
                result = i
        return result


def describe(location: carla.Location) -> str:
    """Location as upstream writes it in its messages."""
    return f"(x={round(location.x, 3)}, y={round(location.y, 3)}, z={round(location.z, 3)})"
