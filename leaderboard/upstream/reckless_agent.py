"""An agent that drives badly on purpose, on each route in the way that its configuration names.

For `tickdrive bench criteria`, whose question is whether two judges agree: it looks into the evaluator, puts
things in its own way and turns the lights, so it is no agent to compare with. Its configuration is a JSON
file, route -> misdeed (see `misdeeds`).
"""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import carla
from srunner.scenariomanager.carla_data_provider import CarlaDataProvider

from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track

_CRUISE_MPS = 8.0
_CRAWL_MPS = 2.0
_BEGIN_M = 25.0
_ASIDE_M = 60.0
_OBSTACLE_M = 14.0
_TO_LINE_M = 9.0
_LANE_M = 2.0
_GAP_M = 7.0
_STUCK_TICKS = 60
_WRONG_WAY_M = 120
_APART_M = 50
_RUN_UP_POINTS = 10
_WINDOW = 40
_PULSE_S = 60.0
_SCENARIO_S = 250.0
_OBSTACLES = {
    "hit pedestrian": ("walker.pedestrian.0001", 1.0),
    "hit vehicle": ("vehicle.audi.tt", 0.4),
    "hit obstacle": ("static.prop.streetbarrier", 0.1),
}
_OFFSETS_M = {"leave road": 4.0, "oncoming lane": -3.5}


def get_entry_point() -> str:
    """Name of the agent class, as the leaderboards ask for it."""
    return "RecklessAgent"


def _other_way(town: carla.Map, way: list[carla.Transform], junction: int) -> list[carla.Transform]:
    """Through the junction and on, to where the route does not go."""
    before = town.get_waypoint(way[max(junction - 2, 0)].location)
    ways = []
    for inside in before.next(4.0):
        on = [inside]
        while len(on) < _WRONG_WAY_M and (following := on[-1].next(1.0)):
            on.append(following[0])
        ways.append([each.transform for each in on])

    def aside_m(other: list[carla.Transform]) -> float:
        there = other[min(_APART_M, len(other) - 1)].location
        return min(there.distance(each.location) for each in way)

    return max(ways, key=aside_m)


class RecklessAgent(AutonomousAgent):  # type: ignore[misc,unused-ignore]
    """See the module."""

    def setup(self, path_to_conf_file: str) -> None:
        """Read what is to be done."""
        self.track = Track.SENSORS
        # Bench2Drive adds names to it, each behind a "+"
        path, *_ = path_to_conf_file.split("+")
        self._deeds: dict[str, str] = json.loads(Path(path).read_text())
        self._ego: carla.Vehicle | None = None
        self._obstacle: carla.Actor | None = None
        self._index = 0
        self._stuck = 0
        self._stood_since: float | None = None

    def sensors(self) -> list[dict[str, Any]]:
        """One, as an agent without any is never ticked."""
        return [{"type": "sensor.speedometer", "reading_frequency": 20, "id": "speed"}]

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Drive the route, badly."""
        if self._ego is None:
            self._begin()
        assert self._ego is not None
        place = self._ego.get_transform()
        self._advance(place.location)
        speed_mps = self._ego.get_velocity().length()
        if self._to_do:
            self._act()
        target_mps, offset_m = self._intent(timestamp, speed_mps)
        target_mps = min(target_mps, self._ahead_mps(place, speed_mps))
        self._clear_way(speed_mps, target_mps)
        return self._control(place, speed_mps, target_mps, offset_m)

    def destroy(self) -> None:
        """Take away what was put there."""
        self._remove_obstacle()
        self._ego = None

    def _begin(self) -> None:
        evaluator = next(o for o in gc.get_objects() if type(o).__name__ == "LeaderboardEvaluator")
        route = evaluator.route_scenario
        self._ego = CarlaDataProvider.get_hero_actor()
        self._deed = self._deeds[route.config.name]
        self._way = [transform for transform, _ in route.route]
        town = CarlaDataProvider.get_map()
        # a route may begin at the edge of a junction
        later = range(_RUN_UP_POINTS, len(self._way))
        inside = (i for i in later if town.get_waypoint(self._way[i].location).is_junction)
        junction = next(inside, len(self._way) - 1)
        if self._deed == "leave route":
            self._way = [*self._way[:junction], *_other_way(town, self._way, junction)]
        self._driven_m = [0.0]
        for i in range(1, len(self._way)):
            step_m = self._way[i].location.distance(self._way[i - 1].location)
            self._driven_m.append(self._driven_m[-1] + step_m)
        self._junction_m = self._driven_m[junction]
        self._to_do = self._deed in (*_OBSTACLES, "run red light")
        if self._deed == "run red light":
            self._turn_lights(carla.TrafficLightState.Green)

    def _act(self) -> None:
        """Do what is to be done once, when its time has come."""
        driven_m = self._driven_m[self._index]
        if self._deed == "run red light":
            if driven_m > self._junction_m - _TO_LINE_M:
                self._turn_lights(carla.TrafficLightState.Red)
                self._to_do = False
        elif driven_m > _BEGIN_M:
            name, lift_m = _OBSTACLES[self._deed]
            index = next(i for i, m in enumerate(self._driven_m) if m > driven_m + _OBSTACLE_M)
            at = self._way[index]
            place = carla.Transform(at.location + carla.Location(z=lift_m), at.rotation)
            world = CarlaDataProvider.get_world()
            self._obstacle = world.try_spawn_actor(world.get_blueprint_library().find(name), place)
            self._to_do = self._obstacle is None

    def _turn_lights(self, state: carla.TrafficLightState) -> None:
        for light in CarlaDataProvider.get_all_actors().filter("traffic.traffic_light*"):
            light.set_state(state)
            light.freeze(True)

    def _ahead_mps(self, place: carla.Transform, speed_mps: float) -> float:
        """Speed that keeps a gap to traffic in front: what is to be hit is hit, and nothing before."""
        forward, right = place.get_forward_vector(), place.get_right_vector()
        slowest_mps = math.inf
        for other in CarlaDataProvider.get_all_actors().filter("vehicle.*"):
            if other.attributes["role_name"] != "background":
                continue
            towards = other.get_location() - place.location
            ahead_m = towards.dot(forward)
            if 0.0 < ahead_m < _GAP_M + 1.5 * speed_mps and abs(towards.dot(right)) < _LANE_M:
                too_near = ahead_m < _GAP_M
                slowest_mps = min(slowest_mps, 0.0 if too_near else other.get_velocity().length())
        return slowest_mps

    def _advance(self, here: carla.Location) -> None:
        ahead = range(self._index, min(self._index + _WINDOW, len(self._way)))
        self._index = min(ahead, key=lambda i: self._way[i].location.distance(here))

    def _intent(self, now_s: float, speed_mps: float) -> tuple[float, float]:
        """Speed to drive at, and how far to the right of the route."""
        driven_m, deed = self._driven_m[self._index], self._deed
        begun = driven_m > _BEGIN_M
        if deed in _OFFSETS_M and _BEGIN_M < driven_m < self._driven_m[-1] - _BEGIN_M:
            return _CRUISE_MPS, _OFFSETS_M[deed]
        if deed in ("crawl", "hold up ambulance"):
            return _CRAWL_MPS if deed == "crawl" else _CRUISE_MPS / 2, 0.0
        if deed == "stand" and begun:
            return 0.0, 0.0
        if deed == "dawdle" and begun:  # never standing for so long that it is blocked
            return (1.0 if now_s % _PULSE_S < 1.0 else 0.0), 0.0
        if deed == "wait out scenario" and driven_m > _ASIDE_M:
            self._stood_since = self._stood_since or now_s
            if now_s - self._stood_since < _SCENARIO_S:
                return 0.0, 0.0
        return _CRUISE_MPS, 0.0

    def _clear_way(self, speed_mps: float, target_mps: float) -> None:
        """What was hit, and is in the way now, has served its turn."""
        if self._obstacle is None or speed_mps > 0.5 or target_mps == 0.0:
            self._stuck = 0
            return
        self._stuck += 1
        if self._stuck > _STUCK_TICKS:
            self._remove_obstacle()

    def _remove_obstacle(self) -> None:
        if self._obstacle is not None:
            self._obstacle.destroy()
            self._obstacle = None

    def _control(
        self, place: carla.Transform, speed_mps: float, target_mps: float, offset_m: float
    ) -> carla.VehicleControl:
        """Pure pursuit of a point beside the route."""
        ahead_m = max(5.0, 0.9 * speed_mps)
        goal_m = self._driven_m[self._index] + ahead_m
        index = next((i for i, m in enumerate(self._driven_m) if m >= goal_m), len(self._way) - 1)
        aim = self._way[index]
        point = aim.location + aim.get_right_vector() * offset_m
        dx, dy = point.x - place.location.x, point.y - place.location.y
        bearing = math.atan2(dy, dx) - math.radians(place.rotation.yaw)
        bearing = math.atan2(math.sin(bearing), math.cos(bearing))
        steer = max(-1.0, min(1.0, 1.2 * bearing))
        lacking = target_mps - speed_mps
        if target_mps == 0.0:
            return carla.VehicleControl(brake=1.0, hand_brake=speed_mps < 0.2)
        return carla.VehicleControl(
            throttle=max(0.0, min(0.75, 0.4 * lacking)), brake=max(0.0, min(1.0, -0.3 * lacking)), steer=steer
        )
