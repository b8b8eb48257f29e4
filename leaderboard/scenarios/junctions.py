"""Turns against traffic, and who does not let the ego pass.

After scenario_runner `signalized_junction_left_turn.py`, `signalized_junction_right_turn.py`,
`opposite_vehicle_taking_priority.py`, `blocked_intersection.py`, `green_traffic_light.py`, and Bench2Drive's
`left_turn_enter_flow.py`, `vanilla_turn.py` and `t_junction.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import carla
import numpy as np

from tickdrive.leaderboard.scenarios import places
from tickdrive.leaderboard.scenarios.base import SPAWN_LIFT_M, Scenario
from tickdrive.leaderboard.scenarios.behaviour import (
    Behaviour,
    all_of,
    each_tick,
    first_of,
    forever,
    sequence,
    until,
)
from tickdrive.leaderboard.scenarios.driver import PathDriver
from tickdrive.leaderboard.scenarios.flows import flow_between, run_flow
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.spec import choice, interval, number

_GREEN_DELAY_S = 5.0
_END_M = 10.0
_GREEN, _RED = carla.TrafficLightState.Green, carla.TrafficLightState.Red
_LIGHT = carla.VehicleLightState
States = Mapping[carla.TrafficLight, carla.TrafficLightState]


@dataclass(frozen=True)
class FlowParameters:
    """Of traffic that crosses the ego's way.

    Attributes:
        speed_mps: of its vehicles.
        gap_m: between them, drawn from this interval.
    """

    speed_mps: float = number("flow_speed", 20.0)
    gap_m: tuple[float, float] = interval("source_dist_interval", (25.0, 50.0))


@dataclass(frozen=True)
class OppositeParameters:
    """Of the vehicle that takes the ego's right of way: where it comes from."""

    side: str = choice("direction", "right", "left", "opposite")


class AtJunction(Scenario):
    """Base of what happens at the next junction."""

    def _find_junction(self) -> None:
        self._entry = places.junction_ahead(self.trigger)
        self._junction = self._entry.get_junction()

    def _light_of(self, lane: carla.Waypoint) -> carla.TrafficLight:
        """The light whose stop line is nearest (`get_closest_traffic_light`)."""
        here = lane.transform.location
        stops = [
            (here.distance(stop.transform.location), light.id, light)
            for light in self.stage.junction_lights(self._junction)
            for stop in light.get_stop_waypoints()
        ]
        if not stops:
            raise NoPlace("the junction has no traffic lights")
        return min(stops, key=lambda s: s[:2])[2]

    def _states(self, *green: carla.TrafficLight) -> States:
        """Green for some lights, red for the junction's others."""
        ids = {light.id for light in green}
        lights = self.stage.junction_lights(self._junction)
        return {light: _GREEN if light.id in ids else _RED for light in lights}

    def _hold_lights(self, *phases: tuple[States, float | None]) -> Behaviour:
        """Phases of lights after each other; None lasts until closed."""
        for states, seconds in phases:
            with self.stage.lights(states):
                yield from self.stage.wait_s(seconds) if seconds is not None else forever()

    def _out_of_junction(self) -> Behaviour:
        yield from self.stage.until_through_junction()
        yield from self.stage.until_driven(_END_M)


class JunctionTurn(AtJunction):
    """Base: the ego turns, traffic comes.

    `comes_from` is the direction of that traffic, `goes` where it turns itself (0 straight on, 1 right);
    `source_s` and `sink_s` how far from the junction it starts and ends, in seconds at its speed.
    """

    parameters_type = FlowParameters
    parameters: FlowParameters
    signals = False
    comes_from, goes = "opposite", 0
    source_s, sink_s = 4.0, 2.5
    populated = False

    def set_up(self) -> None:
        """Find where the traffic comes from and where it goes."""
        p = self.parameters
        self._find_junction()
        entries, _ = places.junction_lanes(self._junction)
        coming = places.from_direction(self._entry, entries, self.comes_from)
        entry = self._choose(coming)
        self._source = places.back_to_junction(entry, self.source_s * p.speed_mps, 5.0)
        self._sink = places.on(places.through_junction(self._source, self.goes), self.sink_s * p.speed_mps)
        if self.signals:
            self._ego_light, self._its_light = self._light_of(self.trigger), self._light_of(self._source)

    def _choose(self, coming: list[carla.Waypoint]) -> carla.Waypoint:
        return self.stage.random.choice(coming)

    def play(self) -> Behaviour:
        """Until the ego is through; a signal keeps it waiting for 5 s, then all have green."""
        p, background = self.parameters, self.stage.background
        background.clear_junction(self._junction)
        background.clear_lanes(places.same_direction(self._source), self.source_s * p.speed_mps + 20.0)
        background.clear_lanes(places.same_direction(self._sink), self.sink_s * p.speed_mps + 20.0)
        flow = flow_between(self, self._source, self._sink, p.speed_mps, p.gap_m, self.populated)
        parts = [run_flow(self, flow), self._out_of_junction()]
        with ExitStack() as stack:
            if self.signals:
                waits = self._states(self._its_light), _GREEN_DELAY_S
                parts.append(self._hold_lights(waits, (self._states(self._ego_light, self._its_light), None)))
            else:
                entries, _ = places.junction_lanes(self._junction)
                own = places.lane_key(self.trigger)
                others = [e for e in entries if places.lane_key(e) != own]
                stack.enter_context(background.held(background.at_entries(others)))
            yield from self.in_time(first_of(*parts))


class NonSignalizedJunctionLeftTurn(JunctionTurn):
    """Left, across the traffic that comes towards the ego."""


class SignalizedJunctionLeftTurn(JunctionTurn):
    """The same at traffic lights."""

    signals = True


class NonSignalizedJunctionLeftTurnEnterFlow(JunctionTurn):
    """Left, into the traffic that comes towards the ego and turns into the same road."""

    goes = 1


class SignalizedJunctionLeftTurnEnterFlow(NonSignalizedJunctionLeftTurnEnterFlow):
    """The same at traffic lights."""

    signals = True


class NonSignalizedJunctionRightTurn(JunctionTurn):
    """Right, into the traffic that comes from the left."""

    comes_from = "left"
    source_s, sink_s = 5.0, 3.0
    populated = True

    def _choose(self, coming: list[carla.Waypoint]) -> carla.Waypoint:
        return places.same_direction(coming[0])[-1]


class SignalizedJunctionRightTurn(NonSignalizedJunctionRightTurn):
    """The same at traffic lights."""

    signals = True


class OppositeVehicleTakingPriority(AtJunction):
    """An emergency vehicle crosses the junction just before the ego."""

    parameters_type = OppositeParameters
    parameters: OppositeParameters
    _SPEED_MPS = 60.0 / 3.6
    _SOURCE_M, _SINK_M = 30.0, 10.0

    def set_up(self) -> None:
        """Find its way and where it meets the ego's."""
        self._find_junction()
        entries, _ = places.junction_lanes(self._junction)
        entry = places.from_direction(self._entry, entries, self.parameters.side)[0]
        self._source = places.back_to_junction(entry, self._SOURCE_M)
        self._sink = places.on(places.through_junction(self._source), self._SINK_M)
        self._collision = places.crossing_point(self._entry, entry)

    def play(self) -> Behaviour:
        """It starts when the ego is 2.2 s or 12 m from where their ways cross; ends with the ego through."""
        stage, background = self.stage, self.stage.background
        background.clear_junction(self._junction)
        way = stage.trace(self._source, self._sink)
        background.clear_path(way)
        intruder = self.vehicle(
            places.aside(self._source, 0.0, SPAWN_LIFT_M),
            attributes={"special_type": "emergency"},
            parked=True,
        )
        self.light_up(intruder, _LIGHT.Special1, _LIGHT.Special2)
        with ExitStack() as stack:
            stack.enter_context(background.held(self._others()))
            both = all_of(stage.until_through_junction(self._junction.id), self._cross(intruder, way))
            yield from first_of(both, *self._lights())

    def _cross(self, intruder: carla.Vehicle, way: np.ndarray) -> Behaviour:
        stage = self.stage
        yield from until(lambda: stage.arrives(self._collision, 2.2, 12.0))
        driver = PathDriver(intruder, way, self._SPEED_MPS, constant=True)
        needed_s = self._source.transform.location.distance(self._sink.transform.location) / self._SPEED_MPS
        yield from first_of(each_tick(driver.step), stage.wait_s(needed_s))
        self.remove(intruder)

    def _others(self) -> list[carla.Vehicle]:
        entries, _ = places.junction_lanes(self._junction)
        own = places.lane_key(self.trigger)
        return self.stage.background.at_entries([e for e in entries if places.lane_key(e) != own])

    def _lights(self) -> list[Behaviour]:
        return []


class OppositeVehicleRunningRedLight(OppositeVehicleTakingPriority):
    """The same at traffic lights: the ego has green, it has red."""

    def set_up(self) -> None:
        """Find the ego's light, too; where the junction has none, upstream plays it without."""
        super().set_up()
        has_lights = bool(self.stage.junction_lights(self._junction))
        self._ego_light = self._light_of(self.trigger) if has_lights else None

    def _others(self) -> list[carla.Vehicle]:
        return []  # they have red

    def _lights(self) -> list[Behaviour]:
        light = self._ego_light
        return [self._hold_lights((self._states(light), None))] if light is not None else []


class BlockedIntersection(AtJunction):
    """Behind the turn somebody stands."""

    _BEHIND_M, _NEAR_M, _WAIT_S = 5.0, 13.0, 10.0

    def set_up(self) -> None:
        """Find the place."""
        self._find_junction()
        stage = self.stage
        exit_ = places.route_exit(stage.points, stage.map, self.trigger.transform.location)
        self._place = places.on(exit_, self._BEHIND_M)

    def play(self) -> Behaviour:
        """For 10 s after the ego has come within 13 m."""
        stage = self.stage
        stage.background.clear_junction(self._junction)
        blocker = self.vehicle(places.aside(self._place, 0.0, SPAWN_LIFT_M), parked=True)
        self.light_up(blocker, _LIGHT.Brake)
        at = self._place.transform.location
        wait = sequence(until(lambda: stage.near(at, self._NEAR_M)), stage.wait_s(self._WAIT_S))
        yield from self.in_time(wait)


class PriorityAtJunction(AtJunction):
    """The ego has green until it is through."""

    def set_up(self) -> None:
        """Find its light."""
        self._find_junction()
        self._ego_light = self._light_of(self.trigger)

    def play(self) -> Behaviour:
        """All others have red."""
        through = self.stage.until_through_junction(self._junction.id)
        yield from first_of(through, self._hold_lights((self._states(self._ego_light), None)))


class VanillaNonSignalizedTurn(AtJunction):
    """A turn where nothing happens."""

    def set_up(self) -> None:
        """There must be a junction."""
        self._find_junction()

    def play(self) -> Behaviour:
        """Until the ego is through."""
        yield from self._out_of_junction()


class VanillaNonSignalizedTurnEncounterStopsign(VanillaNonSignalizedTurn):
    """The same, with a stop sign."""


class VanillaNonSignalizedTurnEncounterStopsignLong(VanillaNonSignalizedTurn):
    """The same, with a stop sign."""


class VanillaSignalizedTurnEncounterRedLight(VanillaNonSignalizedTurn):
    """A turn at a light that is red for 5 s, then green."""

    def set_up(self) -> None:
        """Find the light."""
        super().set_up()
        self._ego_light = self._light_of(self.trigger)

    def play(self) -> Behaviour:
        """Until the ego is through."""
        phases = (self._states(), _GREEN_DELAY_S), (self._states(self._ego_light), None)
        yield from first_of(self._out_of_junction(), self._hold_lights(*phases))


class VanillaSignalizedTurnEncounterRedLightLong(VanillaSignalizedTurnEncounterRedLight):
    """The same."""


class VanillaSignalizedTurnEncounterGreenLight(VanillaSignalizedTurnEncounterRedLight):
    """A turn at a light that is green for 5 s, then red for 5 s; that is upstream's whole scenario."""

    def play(self) -> Behaviour:
        """Until the ego is through or the lights are done."""
        phases = (self._states(self._ego_light), _GREEN_DELAY_S), (self._states(), _GREEN_DELAY_S)
        yield from first_of(self._out_of_junction(), self._hold_lights(*phases))


class VanillaSignalizedTurnEncounterGreenLightLong(VanillaSignalizedTurnEncounterGreenLight):
    """The same."""
