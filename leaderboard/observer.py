"""What an evaluation tells those who watch it: progress displays, films, recorders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import carla

from tickdrive.leaderboard.criteria.base import Event
from tickdrive.leaderboard.results import RouteRecord
from tickdrive.leaderboard.route_planner import RoutePoint
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.tick_timing import TickTiming


@dataclass(frozen=True)
class RouteStart:
    """A route is about to begin; the ego stands at its start, sensors are warm.

    Attributes:
        route_id: ``RouteScenario_<id>_rep<k>``.
        route: as read from the file.
        number: 1-based place among `total` routes.
        points: the dense route.
        length_m: along it.
    """

    route_id: str
    route: Route
    number: int
    total: int
    points: tuple[RoutePoint, ...]
    length_m: float
    world: carla.World
    ego: carla.Vehicle
    agent: Any


@dataclass(frozen=True)
class TickView:
    """One tick, after control and criteria.

    Attributes:
        frame: the simulator's frame.
        sim_s: simulated seconds since the route's start.
        fraction: of the route completed, 0 to 1.
        speed_mps: of the ego.
        ticks_per_s: over the last second of wall time.
        timing: of this tick.
        control: what the agent returned.
        events: infractions of this tick.
    """

    frame: int
    sim_s: float
    fraction: float
    speed_mps: float
    ticks_per_s: float
    timing: TickTiming
    control: carla.VehicleControl
    events: tuple[Event, ...]
    world: carla.World
    ego: carla.Vehicle
    agent: Any


class Observer:
    """Base of observers: override what is of interest. What it takes is in no latency figure.

    An observer must not tick the world. Sensors that it spawns on the ego in `on_route_start` it destroys in
    `on_route_end`.
    """

    def on_message(self, text: str) -> None:
        """Something worth a line: a step that takes seconds, a skipped scenario, a crash's reason."""

    def on_route_begin(self, route_id: str) -> None:
        """A route is next; nothing of it is loaded yet."""

    def on_route_start(self, start: RouteStart) -> None:
        """A route begins."""

    def on_tick(self, tick: TickView) -> None:
        """A tick is done."""

    def on_route_end(self, route_id: str, record: RouteRecord | None) -> None:
        """A route is over, the ego still there; `record` is None when it was interrupted."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, observers: tuple[Observer, ...] = ()) -> None:
        self._observers = observers

    def on_message(self, text: str) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_message(text)

    def on_route_begin(self, route_id: str) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_route_begin(route_id)

    def on_route_start(self, start: RouteStart) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_route_start(start)

    def on_tick(self, tick: TickView) -> None:
        """Pass on."""
        for observer in self._observers:
            observer.on_tick(tick)

    def on_route_end(self, route_id: str, record: RouteRecord | None) -> None:
        """Pass on, to all, even if one fails."""
        failures: list[Exception] = []
        for observer in self._observers:
            try:
                observer.on_route_end(route_id, record)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
