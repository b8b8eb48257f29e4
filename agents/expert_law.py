"""The expert's law: how it wants to drive, what may hold it back, and the acceleration that follows.

The Intelligent Driver Model (Treiber, Hennecke, Helbing: Congested traffic states in empirical observations
and microscopic simulations, Phys. Rev. E 62, 2000).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tickdrive.agents.types import Decision

EMERGENCY_MPS2 = 8.0
"""The strongest braking."""


@dataclass(frozen=True)
class ExpertConfig:
    """How the expert drives.

    Attributes:
        cruise_fraction: share of the speed limit it aims at.
        cruise_cap_mps: speed it never passes.
        lateral_acceleration_mps2: bound on speed in curves.
        acceleration_mps2, braking_mps2: IDM's a and b.
        headway_s: IDM's T.
        vehicle_gap_m: bumper distance kept to a standing vehicle.
        line_gap_m: front bumper to a stop line.
        walker_gap_m: front bumper to a walker's path.
        horizon, dt_s: waypoints of the plan and the time between them.
    """

    cruise_fraction: float = 0.9
    cruise_cap_mps: float = 11.0
    lateral_acceleration_mps2: float = 2.2
    acceleration_mps2: float = 2.0
    braking_mps2: float = 2.5
    headway_s: float = 1.3
    vehicle_gap_m: float = 3.5
    line_gap_m: float = 0.6
    walker_gap_m: float = 3.0
    horizon: int = 6
    dt_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Hold:
    """Bounds the speed: `distance_m` of free way for the front bumper, its end moving at `speed_mps`."""

    distance_m: float
    speed_mps: float
    keep_m: float
    decision: Decision


def idm(
    speed: float, desired: float, gap: float, lead_speed: float, keep_m: float, config: ExpertConfig
) -> float:
    """IDM's acceleration: a (1 - (v/v0)^4 - (s*/s)^2), s* = s0 + vT + v dv / (2 sqrt(ab)).

    A standing hold (line, walker) needs no time headway.
    """
    headway = config.headway_s if lead_speed > 0.1 else 0.4
    approach = (
        speed * (speed - lead_speed) / (2.0 * math.sqrt(config.acceleration_mps2 * config.braking_mps2))
    )
    wanted_gap = keep_m + max(0.0, speed * headway + approach)
    if gap <= keep_m * 0.5 and speed < 0.5:
        return -EMERGENCY_MPS2
    return max(
        -EMERGENCY_MPS2,
        config.acceleration_mps2 * (1.0 - (speed / desired) ** 4 - (wanted_gap / max(gap, 0.05)) ** 2),
    )
