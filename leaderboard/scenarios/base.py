"""A scenario: sets up what must be there before the ego comes, and plays once it has come."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import carla

from tickdrive.leaderboard.criteria.base import SignalKind
from tickdrive.leaderboard.scenarios.behaviour import Behaviour, each_tick, first_of
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.spec import NoParameters, ScenarioSpec
from tickdrive.leaderboard.scenarios.stage import Stage

TIMEOUT_S = 240.0
"""`_scenario_timeout` of all upstream scenarios that have one."""
SPAWN_LIFT_M = 0.2
"""So much above the road vehicles are spawned (`CarlaDataProvider.request_new_actor`)."""
_WALKER_ASIDE_M = (0.0, 0.7, -0.7, 1.4, -1.4)
CAR = {"base_type": "car", "special_type": ""}
NEW_CAR = {"base_type": "car", "generation": "2"}


class Scenario(ABC):
    """One scenario of one route.

    Args:
        spec: as the route file has it; `spec.parameters` is of `parameters_type`.
        stage: what it acts on.

    Attributes:
        timed_out: the ego did not get past it in `TIMEOUT_S`.
    """

    parameters_type: ClassVar[type[Any]] = NoParameters
    unused: ClassVar[tuple[str, ...]] = ()
    """Elements that upstream's files have for this type and its code does not read."""

    def __init__(self, spec: ScenarioSpec, stage: Stage) -> None:
        assert spec.trigger is not None, "only known types, which have a trigger, are built"
        self.spec = spec
        self.stage = stage
        self.parameters: Any = spec.parameters
        self.timed_out = False
        self.trigger = stage.map.get_waypoint(spec.trigger.location)
        self._actors: list[carla.Actor] = []

    def set_up(self) -> None:  # noqa: B027 - many scenarios have nothing to set up
        """Find the places, and spawn what the ego may see before the scenario starts.

        Raises:
            NoPlace: the road, or the room on it, is not what the scenario needs.
        """

    @abstractmethod
    def play(self) -> Behaviour:
        """The scenario from its trigger to its end.

        Raises:
            NoPlace: what has to be spawned now finds no room.
        """

    def judge_end(self) -> None:  # noqa: B027 - only few scenarios judge
        """The scenario is over, or the route is while it runs; must not call the simulator."""

    def close(self) -> None:
        """Destroy what it has spawned."""
        for actor in list(self._actors):
            self.remove(actor)

    # -- what scenarios share ----------------------------------------------------------------------------

    def vehicle(
        self,
        transform: carla.Transform,
        pattern: str = "vehicle.*",
        attributes: dict[str, str] | None = None,
        parked: bool = False,
    ) -> carla.Vehicle:
        """Spawn a vehicle; with `parked`, its hand brake is on.

        Raises:
            NoPlace: there is no room for it.
        """
        vehicle = self._spawn(pattern, transform, CAR if attributes is None else attributes)
        if parked:
            vehicle.apply_control(carla.VehicleControl(hand_brake=True))
        return vehicle

    def walker(self, transform: carla.Transform) -> carla.Walker:
        """Spawn a walker, which can be hurt; somewhat aside where another walker or a post is in its place.

        Raises:
            NoPlace: there is no room for it.
        """
        right = transform.get_right_vector()
        for aside_m in _WALKER_ASIDE_M:
            at = transform.location + carla.Location(aside_m * right.x, aside_m * right.y, 0.0)
            try:
                return self._spawn("walker.pedestrian.*", carla.Transform(at, transform.rotation), {})
            except NoPlace:
                if aside_m == _WALKER_ASIDE_M[-1]:
                    raise
        raise AssertionError("unreachable")

    def prop(self, kind: str, transform: carla.Transform) -> carla.Actor:
        """Spawn a prop that nothing moves.

        Raises:
            NoPlace: there is no room for it.
        """
        prop = self._spawn(kind, transform, {})
        prop.set_simulate_physics(False)
        return prop

    def remove(self, actor: carla.Actor) -> None:
        """Take one of its actors out of the world."""
        if actor in self._actors:
            self._actors.remove(actor)
            self.stage.actors.pop(actor.id, None)
            if actor.is_alive:
                actor.destroy()

    def light_up(self, vehicle: carla.Vehicle, *lights: carla.VehicleLightState) -> None:
        """Switch lights of a vehicle on."""
        state = carla.VehicleLightState.NONE
        for light in lights:
            state |= light
        vehicle.set_light_state(carla.VehicleLightState(state))

    def walk(self, walker: carla.Walker, yaw_deg: float, speed_mps: float, distance_m: float) -> Behaviour:
        """A walker goes straight on, for a distance or the time that it needs for it (`KeepVelocity`)."""
        yaw = math.radians(yaw_deg)
        direction = carla.Vector3D(math.cos(yaw), math.sin(yaw), 0.0)
        walker.apply_control(carla.WalkerControl(direction=direction, speed=speed_mps))
        yield from first_of(
            self.stage.wait_s(distance_m / speed_mps), self.stage.until_driven(distance_m, walker)
        )
        if walker.is_alive:
            walker.apply_control(carla.WalkerControl(direction=direction, speed=0.0))

    def roll(self, vehicle: carla.Vehicle, yaw_deg: float, speed_mps: float, distance_m: float) -> Behaviour:
        """A vehicle goes straight on at a forced speed (`KeepVelocity` with `force_speed`)."""
        yaw = math.radians(yaw_deg)
        velocity = carla.Vector3D(speed_mps * math.cos(yaw), speed_mps * math.sin(yaw), 0.0)

        def step() -> bool:
            if vehicle.is_alive:
                vehicle.set_target_velocity(velocity)
                vehicle.apply_control(carla.VehicleControl(throttle=1.0))  # riders pedal
            return False

        yield from first_of(
            each_tick(step),
            self.stage.wait_s(distance_m / speed_mps),
            self.stage.until_driven(distance_m, vehicle),
        )

    def in_time(self, behaviour: Behaviour) -> Behaviour:
        """A behaviour that the ego must get past (`ScenarioTimeout`).

        After `TIMEOUT_S` it is closed, which is an infraction; until it ends the ego is not called blocked.
        """
        with self.stage.rules.allow_standing():
            yield from first_of(behaviour, self._time_out())

    def _time_out(self) -> Behaviour:
        yield from self.stage.wait_s(TIMEOUT_S)
        self.timed_out = True
        self.stage.rules.tell(SignalKind.TIMED_OUT)

    def _spawn(self, pattern: str, transform: carla.Transform, attributes: dict[str, str]) -> carla.Actor:
        blueprint = self.stage.blueprint(pattern, attributes)
        if blueprint is None:
            raise NoPlace(f"the simulator has no {pattern} with {attributes}")
        if blueprint.has_attribute("role_name"):
            blueprint.set_attribute("role_name", "scenario")
        if blueprint.has_attribute("is_invincible"):
            blueprint.set_attribute("is_invincible", "false")
        if pattern.startswith("vehicle"):
            self.stage.background.make_room(transform.location)
        actor = self.stage.world.try_spawn_actor(blueprint, transform)
        if actor is None:
            at = transform.location
            raise NoPlace(f"no room for {blueprint.id} at x={at.x:.1f}, y={at.y:.1f}")
        self._actors.append(actor)
        self.stage.actors[actor.id] = actor
        return actor
