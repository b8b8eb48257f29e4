"""Base class of agents that run under this evaluator, with the contract of upstream's.

Upstream: leaderboard 2.x `leaderboard/autoagents/autonomous_agent.py`. An agent written against that class
runs here as well; one written against this class runs there if its base is exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import carla

from tickdrive.leaderboard.route_planner import PLAN_GAP_M, RoutePoint, downsample
from tickdrive.leaderboard.sensor_interface import SensorInterface


class Track(Enum):
    """Which sensors an agent may use; the `_QUALIFIER` tracks allow fewer of each."""

    SENSORS = "SENSORS"
    MAP = "MAP"
    SENSORS_QUALIFIER = "SENSORS_QUALIFIER"
    MAP_QUALIFIER = "MAP_QUALIFIER"


class AutonomousAgent:
    """An agent: built, given its plan, set up, ticked and destroyed once per route.

    Args:
        carla_host: address of the server; an agent that is scored must not connect to it.
        carla_port: its RPC port.
        debug: whether the evaluator runs verbosely.

    Attributes:
        track: must equal the evaluation's track.
        sensor_interface: what the evaluator's sensors deliver into.
        plan_gap_m: largest gap of the plan this agent is given; the evaluator sets it (200, Bench2Drive 50).
    """

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        self.track = Track.SENSORS
        self.sensor_interface = SensorInterface()
        self.plan_gap_m = PLAN_GAP_M
        self._global_plan: list[tuple[dict[str, float], Any]] = []
        self._global_plan_world_coord: list[tuple[carla.Transform, Any]] = []

    def set_global_plan(
        self,
        global_plan_gps: Sequence[tuple[dict[str, float], Any]],
        global_plan_world_coord: Sequence[tuple[carla.Transform, Any]],
    ) -> None:
        """Keep the plan, thinned exactly as upstream does."""
        kept = downsample(global_plan_world_coord, self.plan_gap_m)
        self._global_plan = [global_plan_gps[i] for i in kept]
        self._global_plan_world_coord = [
            (global_plan_world_coord[i][0], global_plan_world_coord[i][1]) for i in kept
        ]

    def setup(self, path_to_conf_file: str) -> None:
        """Prepare for the route and set `track`; called after `set_global_plan`."""

    def sensors(self) -> list[dict[str, Any]]:
        """The sensors wanted: dicts with type, id, pose and, for cameras, width, height and fov."""
        return []

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Drive one tick.

        Args:
            input_data: sensor id -> (frame, data).
            timestamp: simulated seconds since the route's start.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement run_step.")

    def destroy(self) -> None:
        """Release what the route held."""

    def __call__(self) -> carla.VehicleControl:
        """Collect this tick's sensor data and run one step."""
        clock = self.sensor_interface.clock
        control = self.run_step(self.sensor_interface.get_data(clock.frame), clock.sim_s)
        control.manual_gear_shift = False
        return control

    @staticmethod
    def get_ros_version() -> int:
        """-1: no ROS agent."""
        return -1


class PrivilegedAgent(AutonomousAgent):
    """An agent that reads the true state of the world: an expert, a recorder, a test.

    It is handed the evaluator's own world, whose snapshot is that of the present tick. A client of its own
    would lag behind, and sees no actor at all before its first tick.
    """

    def use_world(self, world: carla.World, ego: carla.Vehicle, route: Sequence[RoutePoint]) -> None:
        """Called once per route, before the first step.

        Args:
            world: the evaluator's world; not to be ticked.
            ego: the vehicle to be driven.
            route: the dense route.
        """
        self.world, self.ego, self.route = world, ego, tuple(route)
