"""An agent that drives a route whatever happens on it, and notes what becomes of its scenarios.

For `tickdrive bench scenarios`: it looks into the evaluator, so it is no agent to compare with. Where it is
stuck or thrown off, it is put further on along the route.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import carla
from agents.navigation.basic_agent import BasicAgent
from srunner.scenariomanager.carla_data_provider import CarlaDataProvider

from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track

_SPEED_KMH = 30
_STUCK_TICKS = 80
_PUT_ON_POINTS = 14
_OFF_ROUTE_M = 8.0


def get_entry_point() -> str:
    """Name of the agent class, as the leaderboards ask for it."""
    return "ProbeAgent"


class ProbeAgent(AutonomousAgent):  # type: ignore[misc,unused-ignore]
    """See the module."""

    def setup(self, path_to_conf_file: str) -> None:
        """Nothing is known of the route yet."""
        self.track = Track.SENSORS
        self._driver: BasicAgent | None = None
        self._stuck = 0
        self._seen: dict[str, dict[str, Any]] = {}

    def sensors(self) -> list[dict[str, Any]]:
        """One, as an agent without any is never ticked."""
        return [{"type": "sensor.speedometer", "reading_frequency": 20, "id": "speed"}]

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Follow the route."""
        if self._driver is None:
            self._begin()
        self._note(timestamp)
        assert self._driver is not None
        control = self._driver.run_step()
        moving = self._ego.get_velocity().length() > 0.5
        self._stuck = 0 if moving else self._stuck + 1
        if self._stuck > _STUCK_TICKS or min(self._distances()) > _OFF_ROUTE_M:
            self._put_on()
        return control

    def destroy(self) -> None:
        """Write down what was seen."""
        if self._driver is None:
            return
        self._note(None)
        path = Path(os.environ["SAVE_PATH"]) / f"scenarios-{self._route.config.name}.json"
        path.write_text(json.dumps(self._seen))
        self._driver = None

    def _begin(self) -> None:
        evaluator = next(o for o in gc.get_objects() if type(o).__name__ == "LeaderboardEvaluator")
        self._route = evaluator.route_scenario
        self._ego = CarlaDataProvider.get_hero_actor()
        town = CarlaDataProvider.get_map()
        self._way = [
            (town.get_waypoint(transform.location), option) for transform, option in self._route.route
        ]
        options = {"ignore_vehicles": True, "ignore_traffic_lights": True}
        self._driver = BasicAgent(self._ego, _SPEED_KMH, options, town)
        self._driver.set_global_plan(self._way)

    def _distances(self) -> list[float]:
        here = self._ego.get_location()
        return [here.distance(waypoint.transform.location) for waypoint, _ in self._way]

    def _put_on(self) -> None:
        distances = self._distances()
        at = min(distances.index(min(distances)) + _PUT_ON_POINTS, len(self._way) - 1)
        place = self._way[at][0].transform
        place.location.z += 0.5
        self._ego.set_transform(place)
        assert self._driver is not None
        self._driver.set_global_plan(self._way[at:])
        self._stuck = 0

    def _note(self, sim_s: float | None) -> None:
        for scenario in self._route.list_scenarios:
            seen = self._seen.setdefault(scenario.config.name, {"type": scenario.config.type})
            tree = scenario.behavior_tree
            if tree is None:
                continue
            # on a route: the trigger, the scenario, and a wait for ever
            status = tree.children[min(1, len(tree.children) - 1)].status.name
            if status != "INVALID":
                seen.setdefault("started_s", sim_s)
            if status in ("SUCCESS", "FAILURE"):
                seen.setdefault("ended", status)
                seen.setdefault("ended_s", sim_s)
