"""What a leaderboard loads: ``--agent agents/diffusion_agent.py --agent-config configs/agent.yaml``.

Runs under leaderboard 2.0 and 2.1, Bench2Drive, leaderboard 1.0 and tickdrive's own evaluator. It opens no
CARLA client and keeps no dense route: it reads `input_data` and the plan as the base class thins it out.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

# A leaderboard puts this file's folder first on sys.path. Our modules are called types, config, control, …:
# left there, they would hide modules of the same name from everything that is imported later.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != _HERE]

import carla  # noqa: E402

try:
    from tickdrive.agents.carla_control import vehicle_control
    from tickdrive.agents.config import AgentConfig, load_agent_config
    from tickdrive.agents.route_log import SetupArgument, route_log_path
    from tickdrive.agents.run_header import run_header
    from tickdrive.agents.sensors import SensorRig
    from tickdrive.agents.shared_models import shared_models
    from tickdrive.agents.stack import DrivingStack
    from tickdrive.agents.tick_log import TickLog
    from tickdrive.agents.tick_output import TickOutput
    from tickdrive.planner.errors import RouteError
except ModuleNotFoundError as error:
    if error.name != "tickdrive":
        raise
    raise ModuleNotFoundError(
        f"tickdrive is not installed in {sys.executable}. Run: pip install {os.path.dirname(_HERE)}",
        name="tickdrive",
    ) from error

# Who runs us decides the base class: an upstream leaderboard has loaded its own before it loads an agent.
if "leaderboard.autoagents.autonomous_agent" in sys.modules:
    from leaderboard.autoagents.autonomous_agent import AutonomousAgent, Track
else:
    from tickdrive.leaderboard.autonomous_agent import AutonomousAgent, Track

_LOGGER = logging.getLogger(__name__)


def get_entry_point() -> str:
    """Name of the agent class, as the leaderboards ask for it."""
    return "DiffusionAgent"


class DiffusionAgent(AutonomousAgent):  # type: ignore[misc,unused-ignore]
    """Sensors in, `carla.VehicleControl` out; all the work is in `tickdrive.agents.stack`.

    The constructor is the base class's: ``(host, port, debug)``, or, in leaderboard 1.0,
    ``(path_to_conf_file)``, which calls `setup` itself and hands over the plan afterwards.
    """

    _stack: DrivingStack | None = None
    _metric_info: dict[int, dict[str, list[float]]] | None = None

    def setup(self, path_to_conf_file: str = "") -> None:
        """Read the configuration and load (or find again) the weights.

        Args:
            path_to_conf_file: a YAML file, or empty for the shipped one. Bench2Drive appends
                ``+<save name>``, once more with every route.

        Raises:
            ConfigError: names the file and the key.
            CheckpointError: a checkpoint is missing, damaged, or of another network.
            SensorError: the leaderboard would reject the rig.
        """
        given = SetupArgument.parse(path_to_conf_file)
        self._save_name = given.save_name
        self._agent_config: AgentConfig = load_agent_config(given.config or None)
        self.track = Track(self._agent_config.track)
        self._rig = SensorRig.from_config(self._agent_config.rig, self._agent_config.track)
        self._stack = None
        self._metric_info = {} if os.environ.get("IS_BENCH2DRIVE") else None
        if self._agent_config.planner.kind == "diffusion":
            start = time.perf_counter()
            shared_models(self._agent_config)
            _LOGGER.info("models ready after %.1f s", time.perf_counter() - start)
        if getattr(self, "_global_plan", None):
            self._stack = self._build_stack()

    def sensors(self) -> list[dict[str, Any]]:
        """The rig, in the leaderboard's form."""
        return self._rig.sensors()

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Drive one tick.

        Raises:
            SensorError: a sensor gave data of a form that it cannot have.
            PlannerError: the planner failed too often in a row.
            RouteError: no plan was set.
        """
        if self._stack is None:  # leaderboard 1.0 sets the plan after setup
            self._stack = self._build_stack()
        control, _ = self._stack.tick(input_data, timestamp)
        if self._metric_info is not None:
            self._metric_info[len(self._metric_info)] = self.get_metric_info()
        return vehicle_control(control)

    def destroy(self) -> None:
        """End the route: close its log; weights stay in the process."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None
        if self._metric_info and os.environ.get("SAVE_PATH"):
            path = Path(os.environ["SAVE_PATH"]) / self._save_name / "metric_info.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._metric_info))
        self._metric_info = None

    @property
    def last(self) -> TickOutput | None:
        """The last tick, for film and live line."""
        return None if self._stack is None else self._stack.last

    @property
    def stack(self) -> DrivingStack | None:
        """The stack of the route being driven."""
        return self._stack

    def get_metric_info(self) -> dict[str, list[float]]:
        """What Bench2Drive's comfort tool reads, for the present tick, from the agent's own estimate.

        The team agents of that benchmark read the simulator for this; this one only has its sensors.
        World frame, left-handed: m/s2, degrees per second, unit vectors, metres, degrees (roll, pitch, yaw).
        """
        output = self.last
        if output is None:
            return {}
        ego = output.ego
        yaw = math.radians(ego.yaw_deg)
        forward, right = (math.cos(yaw), math.sin(yaw)), (-math.sin(yaw), math.cos(yaw))
        lateral = ego.speed_mps * math.radians(ego.yaw_rate_dps)
        return {
            "acceleration": [
                ego.acceleration_mps2 * forward[0] + lateral * right[0],
                ego.acceleration_mps2 * forward[1] + lateral * right[1],
                0.0,
            ],
            "angular_velocity": [0.0, 0.0, ego.yaw_rate_dps],
            "forward_vector": [*forward, 0.0],
            "right_vector": [*right, 0.0],
            "location": [float(ego.position_in_world[0]), float(ego.position_in_world[1]), 0.0],
            "rotation": [0.0, 0.0, ego.yaw_deg],
        }

    def _build_stack(self) -> DrivingStack:
        plan_gps = getattr(self, "_global_plan", None)
        if not plan_gps:
            raise RouteError("run_step was called before set_global_plan.", "Set the plan first.")
        config = self._agent_config
        stack = DrivingStack(config, plan_gps, self._global_plan_world_coord)
        path = route_log_path(config.tick_log, self._save_name)
        if path is not None:
            header = run_header(config, stack.engine_name, route=self._save_name)
            stack.attach_log(TickLog(path, header))
        return stack
