"""The privileged expert as a leaderboard agent: `tickdrive drive --agent expert`.

Unlike the agent under test it reads the true state of the world. Its scores say
how well the routes can be driven at all, and its plans are what the planner is trained on.
"""

from __future__ import annotations

from typing import Any

import carla
import numpy as np

from tickdrive.agents.carla_control import vehicle_control
from tickdrive.agents.control import TrajectoryFollower
from tickdrive.agents.expert import Expert, ExpertPlan
from tickdrive.agents.expert_scene import ExpertScene, find_stop_lines, read_scene
from tickdrive.agents.types import TICK_S
from tickdrive.leaderboard.autonomous_agent import PrivilegedAgent, Track


def get_entry_point() -> str:
    """Name of the agent class, as the leaderboards ask for it."""
    return "ExpertAgent"


class ExpertAgent(PrivilegedAgent):
    """Drives by `Expert` and the same `TrajectoryFollower` as the diffusion agent."""

    plan: ExpertPlan | None = None

    def setup(self, path_to_conf_file: str) -> None:
        """Prepare for a route; the expert has no configuration file."""
        self.track = Track.SENSORS
        self._follower = TrajectoryFollower()
        self._expert: Expert | None = None
        self._boxes: dict[int, carla.BoundingBox] = {}

    def sensors(self) -> list[dict[str, Any]]:
        """The expert needs none but a speedometer (an agent without sensors is never ticked)."""
        return [{"type": "sensor.speedometer", "reading_frequency": 20, "id": "speed"}]

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Plan from the true state and follow the plan."""
        scene = self.read_scene()
        self.plan = self.expert.plan(scene)
        return self.control_for(self.plan, scene)

    def read_scene(self) -> ExpertScene:
        """The true state of the world around the ego."""
        return read_scene(self.world, self.ego, self._boxes)

    def control_for(self, plan: ExpertPlan, scene: ExpertScene) -> carla.VehicleControl:
        """The control that follows a plan from the present state."""
        speed = float(scene.ego.velocity @ _forward(scene.ego.yaw_deg))
        control = self._follower.step(plan.waypoints_in_ego, self.expert.config.dt_s, speed, TICK_S)
        return vehicle_control(control)

    def destroy(self) -> None:
        """Forget the route."""
        self._expert = None
        self._boxes = {}

    @property
    def expert(self) -> Expert:
        """The expert on this route; made at the first step, when world and route are known."""
        if self._expert is None:
            places = [point.transform.location for point in self.route]
            expert = Expert(np.array([(place.x, place.y) for place in places]), ())
            expert.stop_lines = find_stop_lines(self.world, expert.xy, expert.yaw, expert.s)
            self._expert = expert
        return self._expert


def _forward(yaw_deg: float) -> np.ndarray:
    yaw = np.radians(yaw_deg)
    return np.array([np.cos(yaw), np.sin(yaw)])
