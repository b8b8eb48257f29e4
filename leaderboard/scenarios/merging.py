"""Streams that the ego has to enter, leave or cross: highways, slow traffic, interurban roads, bicycle lanes.

After scenario_runner `actor_flow.py` and `cross_bicycle_flow.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import carla
import numpy as np

from tickdrive.leaderboard.scenarios import places
from tickdrive.leaderboard.scenarios.base import Scenario
from tickdrive.leaderboard.scenarios.behaviour import Behaviour, first_of, until
from tickdrive.leaderboard.scenarios.flows import Flow, flow_between, run_flow
from tickdrive.leaderboard.scenarios.junctions import AtJunction
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.spec import Place, interval, number, place

_SINK_M = 2.0
_CLEAR_M = 60.0


@dataclass(frozen=True)
class StreamParameters:
    """Of a stream of vehicles: its ends, their speed, and the interval of the gaps between them."""

    start: Place = place("start_actor_flow")
    end: Place = place("end_actor_flow")
    speed_mps: float = number("flow_speed", 10.0)
    gap_m: tuple[float, float] = interval("source_dist_interval", (20.0, 50.0))


@dataclass(frozen=True)
class BicycleParameters:
    """Of a stream of bicycles: its start, their speed, and the interval of the gaps between them."""

    start: Place = place("start_actor_flow")
    speed_mps: float = number("flow_speed", 10.0)
    gap_m: tuple[float, float] = interval("source_dist_interval", (20.0, 50.0))


class Stream(Scenario):
    """Base: a stream runs from one place to another until the ego is where it has to be."""

    parameters_type = StreamParameters
    parameters: StreamParameters
    populated = True

    def set_up(self) -> None:
        """Find the stream's ends."""
        town = self.stage.map
        self._source = town.get_waypoint(self.parameters.start.location)
        self._sink = town.get_waypoint(self.parameters.end.location)

    def play(self) -> Behaviour:
        """Run the streams; the background keeps out of their lanes."""
        ends = self._ends()
        self.stage.background.clear_lanes([lane for pair in ends for lane in pair], _CLEAR_M)
        self._clear_more()
        flows = [
            run_flow(
                self,
                flow_between(
                    self, source, sink, self.parameters.speed_mps, self.parameters.gap_m, self.populated, True
                ),
            )
            for source, sink in ends
        ]
        yield from self.in_time(first_of(self._until_done(), *flows))

    def _ends(self) -> list[tuple[carla.Waypoint, carla.Waypoint]]:
        return [(self._source, self._sink)]

    def _clear_more(self) -> None:
        self.stage.background.leave_space_ahead(_CLEAR_M)

    def _until_done(self) -> Behaviour:
        """By default until the ego is at the stream's end, on any lane."""
        ends = [lane.transform.location for lane in places.same_direction(self._sink)]
        yield from until(lambda: any(self.stage.near(end, _SINK_M) for end in ends))


class EnterActorFlow(Stream):
    """The ego enters a road on all of whose lanes a stream runs."""

    def _ends(self) -> list[tuple[carla.Waypoint, carla.Waypoint]]:
        sources, sinks = places.same_direction(self._source), places.same_direction(self._sink)
        return list(zip(sources, sinks, strict=False))


class EnterActorFlowV2(Stream):
    """The same on one lane."""


class MergerIntoSlowTraffic(Stream):
    """The ego merges into a slow stream."""


class MergerIntoSlowTrafficV2(Stream):
    """The same."""


class HighwayExit(Stream):
    """The ego crosses the stream on the lane beside it to leave the highway."""

    def set_up(self) -> None:
        """Find the junction that the stream comes to."""
        super().set_up()
        for point in self.stage.trace(self._source, self._sink):
            here = self.stage.map.get_waypoint(carla.Location(*(float(each) for each in point)))
            if here.is_junction:
                self._junction_id: int | None = here.junction_id
                return
        self._junction_id = None

    def _clear_more(self) -> None:
        """The ego's own lane stays as it is."""

    def _until_done(self) -> Behaviour:
        yield from self.stage.until_through_junction(self._junction_id)


class InterurbanActorFlow(Stream):
    """The ego turns left across a stream."""

    populated = False

    def _until_done(self) -> Behaviour:
        yield from self.stage.until_through_junction()


class InterurbanAdvancedActorFlow(Stream):
    """The ego turns left across a stream and into another one."""

    unused = ("direction",)
    populated = False

    def set_up(self) -> None:
        """The second stream runs the other way, on the lanes to the left of the first one's ends."""
        super().set_up()
        self._second = places.need_lane(self._sink, "left"), places.need_lane(self._source, "left")
        if any(lane.lane_type != carla.LaneType.Driving for lane in self._second):
            raise NoPlace("no driving lane is to the left of the stream")

    def _ends(self) -> list[tuple[carla.Waypoint, carla.Waypoint]]:
        return [(self._source, self._sink), self._second]

    def _until_done(self) -> Behaviour:
        end = self._second[1].transform
        yield from until(lambda: self.stage.passed(end) and self.stage.near(end.location, 10.0))


class CrossingBicycleFlow(AtJunction):
    """The ego turns across a bicycle lane."""

    parameters_type = BicycleParameters
    parameters: BicycleParameters
    unused = ("end_actor_flow",)
    _BEYOND_M, _FARTHEST_M, _STEP_M = 40.0, 10.0, 2.0
    _MOST_STEPS = 500
    _RED_S = 5.0

    def set_up(self) -> None:
        """Follow the bicycle lane over the junction."""
        self._find_junction()
        start = self.parameters.start.location
        lane = self.stage.map.get_waypoint(start, lane_type=carla.LaneType.Biking)
        if lane is None or lane.transform.location.distance(start) > self._FARTHEST_M:
            raise NoPlace("no bicycle lane is where the stream shall start")
        self._way = self._over_junction(lane)
        self._signals = bool(self.stage.junction_lights(self._junction))

    def _over_junction(self, lane: carla.Waypoint) -> Sequence[carla.Waypoint]:
        way = [lane]
        beyond: carla.Location | None = None
        for _ in range(self._MOST_STEPS):
            following = places.straight_on(way[-1], self._STEP_M)
            if following is None:
                break
            way.append(following)
            at = way[-1].transform.location
            if beyond is None and way[-2].is_junction and not way[-1].is_junction:
                beyond = at
            elif beyond is not None and beyond.distance(at) > self._BEYOND_M:
                return way
        raise NoPlace(f"the bicycle lane goes over no junction and {self._BEYOND_M:g} m on")

    def play(self) -> Behaviour:
        """Until the ego is through; a signal keeps it waiting for 5 s."""
        p = self.parameters
        self.stage.background.clear_junction(self._junction)
        inside = [w for w in self._way if w.is_junction]
        flow = Flow(
            places.points_of(self._way),
            p.speed_mps,
            p.gap_m,
            populated=True,
            bicycles=True,
            skip_in_world=places.points_of(inside) if inside else np.zeros((0, 3)),
        )
        parts = [run_flow(self, flow), self.stage.until_through_junction()]
        if self._signals:
            ego_light = self._light_of(self.trigger)
            phases = (self._states(), self._RED_S), (self._states(ego_light), None)
            parts.append(self._hold_lights(*phases))
        yield from self.in_time(first_of(*parts))
