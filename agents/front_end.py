"""The front half of a tick: raw sensors to the network's inputs. Driving and recording run this same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.agents.config import AgentConfig
from tickdrive.agents.geodesy import PlanProjection
from tickdrive.agents.localization import Localizer
from tickdrive.agents.preprocess import Preprocessor
from tickdrive.agents.route import RouteTracker
from tickdrive.agents.sensors import SensorRig
from tickdrive.agents.status import EgoStatusHistory
from tickdrive.agents.types import EgoState, Observation, PlannerInputs, RouteGuidance
from tickdrive.planner.tracing import Tracer


@dataclass(frozen=True)
class FrontEndOutput:
    """What is known of a tick before perception.

    Attributes:
        observation: decoded sensors.
        ego: where the ego is.
        guidance: what the route asks for.
        ego_status: (4, width) float32, oldest first (layout: `agents/status.py`).
        inputs: the network's inputs; None where the planning camera gave nothing.
        points_in_ego: (N, 3) LiDAR points of the last rotation, metres; empty where there are none.
    """

    observation: Observation
    ego: EgoState
    guidance: RouteGuidance
    ego_status: np.ndarray
    inputs: PlannerInputs | None
    points_in_ego: np.ndarray


class FrontEnd:
    """Decode, localise, follow the route, preprocess. One per route; ticks in order.

    Args:
        config: the agent's.
        global_plan_gps: the leaderboard's downsampled plan, [({"lat", "lon", "z"}, RoadOption)].
        global_plan_world_coord: the same points, [(carla.Transform, RoadOption)].
        status_width: 14 or 22, as the planner wants it.

    Raises:
        SensorError: the rig breaks the leaderboard's rules.
        RouteError: the plan cannot be used.
        ConfigError: another status width.
    """

    def __init__(
        self,
        config: AgentConfig,
        global_plan_gps: Sequence[Any],
        global_plan_world_coord: Sequence[Any],
        status_width: int = 14,
    ) -> None:
        self._config = config
        self.rig = SensorRig.from_config(config.rig, config.track)
        self.route = RouteTracker(global_plan_gps, global_plan_world_coord)
        points = self.route.points
        projection = PlanProjection.fit(
            [(point.lat_deg, point.lon_deg) for point in points],
            np.array([(point.x, point.y) for point in points]),
        )
        self.localizer = Localizer(
            projection,
            np.array([points[0].x, points[0].y]),
            points[0].yaw_deg,
            config.localization,
            config.rig.gnss,
        )
        self._status = EgoStatusHistory(status_width)
        self._preprocessor = Preprocessor()

    def step(
        self,
        input_data: Mapping[str, tuple[int, Any]],
        timestamp: float,
        throttle: float,
        brake: float,
        tracer: Tracer,
    ) -> FrontEndOutput:
        """One tick.

        Args:
            input_data: sensor id -> (frame, data).
            timestamp: simulated seconds.
            throttle: of the control applied since the last tick.
            brake: likewise.
            tracer: gets the spans decode, localization, route, preprocess.

        Raises:
            SensorError: a sensor gave data of a form that it cannot have.
        """
        with tracer.span("decode"):
            observation = self.rig.decode(input_data, timestamp)
        with tracer.span("localization"):
            ego = self.localizer.update(observation)
        with tracer.span("route"):
            guidance = self.route.step(ego)
        with tracer.span("preprocess"):
            status = self._status.step(ego, guidance, throttle, brake)
            inputs = self._inputs(observation, ego, status)
        points_in_ego = self._preprocessor.lidar_bev.points_in_ego
        return FrontEndOutput(observation, ego, guidance, status, inputs, points_in_ego)

    def _inputs(self, observation: Observation, ego: EgoState, status: np.ndarray) -> PlannerInputs | None:
        image = observation.images.get(self._config.rig.planning_camera)
        if image is None:
            # the raster's history goes on without a hole
            self._preprocessor.lidar_bev.step(observation.lidar_in_ego, ego)
            return None
        return self._preprocessor.step(image, observation.lidar_in_ego, ego, status)
