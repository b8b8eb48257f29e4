"""Streams of vehicles that a scenario sends along a way for as long as it lasts.

After scenario_runner `atomic_behaviors.py`: `ActorFlow`, `OppositeActorFlow`, `InvadingActorFlow` and
`BicycleFlow`. Upstream drives the first with the Traffic Manager at a constant velocity, the others with a
`BasicAgent`; here all are driven by `PathDriver`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import carla
import numpy as np

from tickdrive.leaderboard.scenarios import places
from tickdrive.leaderboard.scenarios.base import CAR, SPAWN_LIFT_M, Scenario
from tickdrive.leaderboard.scenarios.behaviour import Behaviour
from tickdrive.leaderboard.scenarios.driver import PathDriver
from tickdrive.leaderboard.scenarios.places import NoPlace

_SINK_M = 2.0
FLOW_CAR = {**CAR, "has_lights": "true"}
BICYCLE = {"base_type": "bicycle"}


@dataclass(frozen=True)
class Flow:
    """A stream of vehicles.

    Attributes:
        path_in_world: (N, 3) their way, about 1 or 2 m a step.
        speed_mps: of all vehicles.
        gap_m: they follow each other at a distance drawn from this interval.
        constant: they keep their speed and ignore everybody until the ego touches one of them, as upstream's;
            otherwise they brake for what is in front of them.
        populated: the way is full of them at the start.
        bicycles: bicycles instead of cars.
        skip_in_world: (M, 3) points of the way where none may be spawned at the start (junctions).
    """

    path_in_world: np.ndarray
    speed_mps: float
    gap_m: tuple[float, float]
    constant: bool = True
    populated: bool = False
    bicycles: bool = False
    skip_in_world: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def attributes(self) -> dict[str, str]:
        """Of the blueprints to draw from."""
        return BICYCLE if self.bicycles else FLOW_CAR


def run_flow(scenario: Scenario, flow: Flow) -> Behaviour:
    """Send a flow until closed; the background leaves its way."""
    stage = scenario.stage
    stage.background.clear_path(flow.path_in_world)
    drivers: list[PathDriver] = []
    untouched = flow.constant
    gap_m = stage.random.uniform(*flow.gap_m)

    def spawn(index: int) -> bool:
        path = flow.path_in_world[index:]
        if len(path) < 3:
            return False
        heading = path[1] - path[0]
        yaw = math.degrees(math.atan2(heading[1], heading[0]))
        x, y, z = (float(each) for each in path[0])
        at = carla.Location(x, y, z + SPAWN_LIFT_M)
        try:
            vehicle = scenario.vehicle(
                carla.Transform(at, carla.Rotation(yaw=yaw)), "vehicle.*", flow.attributes
            )
        except NoPlace:
            return False  # somebody stands there: tried again in the next tick
        driver = PathDriver(vehicle, path, flow.speed_mps, untouched, None if untouched else stage.obstacles)
        drivers.append(driver)
        return True

    try:
        if flow.populated:
            last = flow.path_in_world[0]
            for index, point in enumerate(flow.path_in_world[1:], 1):
                if float(np.linalg.norm(point - last)) < gap_m:
                    continue
                if len(flow.skip_in_world) and np.linalg.norm(flow.skip_in_world - point, axis=1).min() < 1.0:
                    continue
                if spawn(index):
                    last, gap_m = point, stage.random.uniform(*flow.gap_m)
            drivers.reverse()  # the one nearest to the source last
        while True:
            if untouched and any(d.vehicle.id in stage.rules.touched for d in drivers):
                untouched = False
                for driver in drivers:
                    driver.watch(stage.obstacles)
            for driver in list(drivers):
                if not driver.vehicle.is_alive or driver.step() or driver.left_m < _SINK_M:
                    drivers.remove(driver)
                    scenario.remove(driver.vehicle)
            if (not drivers or _from_source_m(flow, drivers[-1]) > gap_m) and spawn(0):
                gap_m = stage.random.uniform(*flow.gap_m)
            yield
    finally:
        for driver in drivers:
            scenario.remove(driver.vehicle)


def _from_source_m(flow: Flow, driver: PathDriver) -> float:
    return float(np.linalg.norm(flow.path_in_world[0, :2] - driver.position()))


def flow_between(
    scenario: Scenario,
    source: carla.Waypoint,
    sink: carla.Waypoint,
    speed_mps: float,
    gap_m: tuple[float, float],
    populated: bool = False,
    in_junctions: bool = False,
) -> Flow:
    """A flow from one place to another, by the shortest way.

    Raises:
        RouteError: there is no way.
    """
    path = scenario.stage.trace(source, sink)
    skip = np.zeros((0, 3))
    if populated and not in_junctions:
        inside = [p for p in path if _in_junction(scenario, p)]
        skip = np.array(inside) if inside else skip
    return Flow(path, speed_mps, gap_m, populated=populated, skip_in_world=skip)


def _in_junction(scenario: Scenario, point: np.ndarray) -> bool:
    location = carla.Location(*(float(each) for each in point))
    return bool(scenario.stage.map.get_waypoint(location).is_junction)


def opposite_flow(scenario: Scenario, lane: carla.Waypoint, gap_m: tuple[float, float]) -> Flow:
    """Traffic on the opposite lane past a place, at the speed limit (`OppositeActorFlow`)."""
    limit_kmh = scenario.stage.tick.speed_limit_kmh
    reach_m = 1.5 * limit_kmh + 30.0
    source = places.back_to_junction(lane, reach_m)
    sink = places.on_to_junction(lane, reach_m)
    length_m = source.transform.location.distance(sink.transform.location)
    path = places.points_of(places.lane_path(source, length_m))
    return Flow(path, limit_kmh / 3.6, gap_m, constant=False)
