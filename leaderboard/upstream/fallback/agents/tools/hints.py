"""What an agent's detections return."""

from __future__ import annotations

from typing import NamedTuple

import carla


class ObstacleDetectionResult(NamedTuple):
    """A vehicle in the way; `distance` [m] is -1 where there is none."""

    obstacle_was_found: bool
    obstacle: carla.Actor | None
    distance: float


class TrafficLightDetectionResult(NamedTuple):
    """A red light that is to be stopped for."""

    traffic_light_was_found: bool
    traffic_light: carla.TrafficLight | None
