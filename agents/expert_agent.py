"""The privileged expert as a leaderboard agent: `tickdrive drive --agent expert`.

Unlike the agent under test it connects to the server and reads the true state of the world. Its scores say
how well the routes can be driven at all, and its plans are what the planner is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import carla
import numpy as np

from tickdrive.agents.control import TrajectoryFollower
from tickdrive.agents.expert import Expert, ExpertPlan
from tickdrive.agents.expert_scene import ExpertScene, find_stop_lines, read_scene
from tickdrive.leaderboard.autonomous_agent import AutonomousAgent, Track
from tickdrive.planner.errors import ServerError

TICK_S = 0.05


def get_entry_point() -> str:
    """Name of the agent class, as the leaderboards ask for it."""
    return "ExpertAgent"


class ExpertAgent(AutonomousAgent):
    """Drives by `Expert` and the same `TrajectoryFollower` as the diffusion agent."""

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        super().__init__(carla_host, carla_port, debug)
        self._address = (carla_host, int(carla_port))
        self.plan: ExpertPlan | None = None

    def set_global_plan(
        self,
        global_plan_gps: Sequence[tuple[dict[str, float], Any]],
        global_plan_world_coord: Sequence[tuple[carla.Transform, Any]],
    ) -> None:
        """Keep the dense route too: the expert is privileged, the agent under test is not."""
        super().set_global_plan(global_plan_gps, global_plan_world_coord)
        self._dense_route = [transform.location for transform, _ in global_plan_world_coord]

    def setup(self, path_to_conf_file: str) -> None:
        """Prepare for a route; the expert has no configuration file."""
        self.track = Track.SENSORS
        self._follower = TrajectoryFollower()
        self._expert: Expert | None = None
        # Connected now: in synchronous mode a client sees the actors only from the next tick on.
        self._client = carla.Client(*self._address)
        self._client.set_timeout(20.0)
        self._world = self._client.get_world()

    def sensors(self) -> list[dict[str, Any]]:
        """The expert needs none but a speedometer (an agent without sensors is never ticked)."""
        return [{"type": "sensor.speedometer", "reading_frequency": 20, "id": "speed"}]

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Plan from the true state and follow the plan."""
        if self._expert is None:
            self._find_route()
        assert self._expert is not None
        scene = read_scene(self._world, self._ego)
        self.plan = self._expert.plan(scene)
        return self.control_for(self.plan, scene)

    def control_for(self, plan: ExpertPlan, scene: ExpertScene) -> carla.VehicleControl:
        """The control that follows a plan from the present state."""
        speed = float(scene.ego.velocity @ _forward(scene.ego.yaw_deg))
        control = self._follower.step(plan.waypoints_in_ego, 0.5, speed, TICK_S)
        return carla.VehicleControl(
            throttle=control.throttle, steer=control.steer, brake=control.brake, manual_gear_shift=False
        )

    def destroy(self) -> None:
        """Forget the route."""
        self._expert = None

    def _find_route(self) -> None:
        vehicles = self._world.get_actors().filter("vehicle.*")
        heroes = [v for v in vehicles if v.attributes.get("role_name") == "hero"]
        if not heroes:
            raise ServerError(
                f"No vehicle with role_name 'hero' on {self._address[0]}:{self._address[1]}.",
                "The expert drives the ego that the evaluator spawns: run it through an evaluation.",
            )
        self._ego = heroes[0]
        expert = Expert(np.array([(place.x, place.y) for place in self._dense_route]), ())
        expert.stop_lines = find_stop_lines(self._world, expert.xy, expert.yaw, expert.s)
        self._expert = expert


def _forward(yaw_deg: float) -> np.ndarray:
    yaw = np.radians(yaw_deg)
    return np.array([np.cos(yaw), np.sin(yaw)])
