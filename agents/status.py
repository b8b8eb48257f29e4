"""The ego status that the planner is conditioned on: 4 samples 0.5 s apart, oldest first.

Layout 1 (`STATUS_LAYOUT`); checkpoints depend on it.

| column | content | unit and scale |
|---|---|---|
| 0 | speed at the sample's time | m/s / 10 |
| 1 | heading at the sample's time, relative to the present one | rad, clockwise (to the right) positive |
| 2 | throttle applied in the tick before the sample | 0..1 |
| 3 | brake, likewise | 0..1 |
| 4-9 | command in force, one-hot: left, right, straight, lane follow, change left, change right | 0 or 1 |
| 10-11 | target point x y, in the ego frame of the sample's time | m / 50, clipped to +-100 m |
| 12-13 | position at the sample's time x y, in the present ego frame | m / 10, clipped to +-30 m |
| width 22: 14-15 | next target point x y, frame as 10-11 | m / 50, clipped to +-100 m |
| width 22: 16-21 | next command, that begins at the target point, one-hot as 4-9 | 0 or 1 |

A target beyond 100 m is clipped along its ray, so that its direction stays true. Where the history is
shorter than 1.5 s the oldest sample there is stands in for what is missing.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from tickdrive.agents.route import to_ego
from tickdrive.agents.types import EgoState, RouteGuidance
from tickdrive.leaderboard.simulator.geometry import wrap_deg
from tickdrive.planner.errors import ConfigError

STATUS_LAYOUT = 1
STATUS_WIDTHS = (14, 22)
N_STATUS = 4
STATUS_PERIOD_S = 0.5
SPEED_SCALE_MPS = 10.0
TARGET_SCALE_M = 50.0
TARGET_LIMIT_M = 100.0
PAST_SCALE_M = 10.0
PAST_LIMIT_M = 30.0


@dataclass(frozen=True)
class _Sample:
    ego: EgoState
    throttle: float
    brake: float
    own: np.ndarray
    """(width,) with the columns that do not depend on the present filled in."""


class EgoStatusHistory:
    """Collects a sample each tick and lays the status out.

    Args:
        width: 14 (the study's), or 22 with the next target and command.

    Raises:
        ConfigError: another width.
    """

    def __init__(self, width: int = 14) -> None:
        if width not in STATUS_WIDTHS:
            raise ConfigError(
                f"The planner wants an ego status of width {width}.",
                f"Layout {STATUS_LAYOUT} has widths {' and '.join(map(str, STATUS_WIDTHS))}.",
            )
        self.width = width
        self._samples: deque[_Sample] = deque()

    def reset(self) -> None:
        """Forget everything: a new route."""
        self._samples.clear()

    def step(self, ego: EgoState, guidance: RouteGuidance, throttle: float, brake: float) -> np.ndarray:
        """Add this tick's sample and return the status.

        Args:
            ego: now.
            guidance: now, targets in the present ego frame.
            throttle: last control applied, 0..1.
            brake: likewise.

        Returns:
            (4, width) float32, oldest first.
        """
        self._samples.append(_Sample(ego, throttle, brake, self._own_columns(ego, guidance, throttle, brake)))
        horizon_s = (N_STATUS - 1) * STATUS_PERIOD_S
        # keep one sample at or beyond the horizon
        while len(self._samples) > 1 and ego.sim_s - self._samples[1].ego.sim_s >= horizon_s - 1e-6:
            self._samples.popleft()
        out = np.empty((N_STATUS, self.width), dtype=np.float32)
        for row in range(N_STATUS):
            sample = self._at(ego.sim_s - (N_STATUS - 1 - row) * STATUS_PERIOD_S)
            out[row] = sample.own
            out[row, 1] = math.radians(wrap_deg(sample.ego.yaw_deg - ego.yaw_deg))
            past = to_ego(sample.ego.position_in_world, ego)
            out[row, 12:14] = _clip(past, PAST_LIMIT_M) / PAST_SCALE_M
        return out

    def _at(self, sim_s: float) -> _Sample:
        """The sample nearest to a time; the oldest where the history does not reach back so far."""
        best = self._samples[0]
        for sample in self._samples:
            if abs(sample.ego.sim_s - sim_s) > abs(best.ego.sim_s - sim_s):
                break
            best = sample
        return best

    def _own_columns(
        self, ego: EgoState, guidance: RouteGuidance, throttle: float, brake: float
    ) -> np.ndarray:
        own = np.zeros(self.width, dtype=np.float32)
        own[0] = ego.speed_mps / SPEED_SCALE_MPS
        own[2] = throttle
        own[3] = brake
        own[3 + int(guidance.command)] = 1.0
        own[10:12] = _clip(guidance.target.position_in_ego, TARGET_LIMIT_M) / TARGET_SCALE_M
        if self.width >= 22:
            own[14:16] = _clip(guidance.next_target.position_in_ego, TARGET_LIMIT_M) / TARGET_SCALE_M
            own[15 + int(guidance.target.command)] = 1.0
        return own


def _clip(point: np.ndarray, limit_m: float) -> np.ndarray:
    """Shorten a vector to the limit along its own ray."""
    length = math.hypot(point[0], point[1])
    return point if length <= limit_m else point * (limit_m / length)
