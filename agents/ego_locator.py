"""Where the ego is, for the log of an agent whose sensors we do not choose."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tickdrive.agents.config import LocalizationConfig, MountConfig
from tickdrive.agents.geodesy import PlanProjection
from tickdrive.agents.localization import Localizer
from tickdrive.agents.route import read_plan
from tickdrive.agents.sensors import decode_motion
from tickdrive.agents.tick_log import logged_ego
from tickdrive.planner.errors import RouteError

_LOGGER = logging.getLogger(__name__)
_POSE = ("x", "y", "z", "roll", "pitch", "yaw")


class EgoLocator:
    """Follows the ego by the agent's own GNSS, IMU and speedometer, as far as it has them.

    Args:
        sensors: what the agent's `sensors()` returned.
        plan_gps: the leaderboard's plan as the agent was given it; may be empty.
        plan_world: the same points in the world frame.
    """

    def __init__(
        self, sensors: Iterable[Mapping[str, Any]], plan_gps: Sequence[Any], plan_world: Sequence[Any]
    ) -> None:
        by_type = {str(sensor.get("type")): sensor for sensor in sensors}
        self._ids = tuple(
            str(by_type.get(kind, {}).get("id", ""))
            for kind in ("sensor.other.gnss", "sensor.other.imu", "sensor.speedometer")
        )
        self._localizer: Localizer | None = None
        self._usable = True
        if self._ids[0] and plan_gps and plan_world:
            try:
                self._localizer = _localizer(by_type["sensor.other.gnss"], plan_gps, plan_world)
            except RouteError as error:
                _LOGGER.warning("the log will not tell where the ego is: %s", error)

    def find(self, input_data: Mapping[str, tuple[int, Any]], sim_s: float) -> dict[str, Any]:
        """What is known of the ego in a tick, as the log's `ego`: all, the speed alone, or nothing."""
        if not self._usable:
            return {}
        try:
            observation = decode_motion(input_data, sim_s, *self._ids)
            if self._localizer is not None:
                return logged_ego(self._localizer.update(observation))
        except Exception as error:  # another's agent must not fail by what is only for the log
            _LOGGER.warning("the log will not tell where the ego is: %s", error)
            self._usable = False
            return {}
        return {} if observation.speed_mps is None else {"speed_mps": round(observation.speed_mps, 3)}


def _localizer(gnss: Mapping[str, Any], plan_gps: Sequence[Any], plan_world: Sequence[Any]) -> Localizer:
    points = read_plan(plan_gps, plan_world)
    xy = np.array([(point.x, point.y) for point in points])
    return Localizer(
        PlanProjection.fit([(point.lat_deg, point.lon_deg) for point in points], xy),
        xy[0],
        points[0].yaw_deg,
        LocalizationConfig(),
        MountConfig(id=str(gnss["id"]), **{key: float(gnss.get(key, 0.0)) for key in _POSE}),
    )
