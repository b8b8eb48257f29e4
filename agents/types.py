"""What flows through the agent, stage by stage. CARLA's dicts end at `sensors.py`; these begin there.

Frames and units (CARLA is left-handed: x forward / east, y right / south, z up; yaw in degrees, clockwise
seen from above, 0 along +x):
*world* is CARLA's map frame; *ego* has its origin at the vehicle actor's transform at the observation
frame, x forward, y right. Positions are metres, speeds m/s, angles degrees unless the name says `_rad`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

TICK_US = 50_000
"""One tick of the leaderboards: 20 Hz."""
TICK_S = TICK_US / 1e6


class Command(IntEnum):
    """Route commands, with the numbers of CARLA's `RoadOption`."""

    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANE_FOLLOW = 4
    CHANGE_LANE_LEFT = 5
    CHANGE_LANE_RIGHT = 6


class Decision(IntEnum):
    """Why the expert drives as it does: the classes that the reasoning tokens are supervised with."""

    CRUISE = 0
    """Free road: drive at the route's speed."""
    FOLLOW = 1
    """A vehicle ahead limits the speed."""
    STOP_LIGHT = 2
    """A red or yellow light is being stopped for."""
    STOP_SIGN = 3
    """A stop sign is being stopped for."""
    YIELD_PEDESTRIAN = 4
    """A walker is on, or about to step on, the way."""
    YIELD_VEHICLE = 5
    """Crossing or oncoming traffic has the right of way at a junction."""
    GO_ROUND = 6
    """An obstacle in the lane is being driven around."""


@dataclass(frozen=True)
class ImuSample:
    """One IMU reading in the sensor's (= ego's) axes.

    Attributes:
        acceleration_mps2: (3,) x forward, y right, z up; gravity included, as CARLA gives it.
        angular_velocity_radps: (3,) as CARLA gives it.
        compass_rad: 0 is north; None when the sensor gave NaN.
    """

    acceleration_mps2: np.ndarray
    angular_velocity_radps: np.ndarray
    compass_rad: float | None


@dataclass(frozen=True)
class GnssSample:
    """One GNSS fix: degrees, degrees, metres."""

    lat_deg: float
    lon_deg: float
    alt_m: float


@dataclass(frozen=True)
class Observation:
    """All sensors of one tick. What is missing is None (or absent from `images`) and named in `missing`.

    Attributes:
        frame: the simulator's frame number.
        sim_s: simulated time.
        images: sensor id -> (H, W, 3) uint8 BGR.
        lidar_in_ego: (N, 4) float32 x, y, z [m, ego frame] and intensity; half a sweep at 20 Hz.
        gnss: position fix.
        imu: inertial reading.
        speed_mps: speedometer, forward positive.
        missing: ids of sensors of the rig that gave nothing usable this tick.
    """

    frame: int
    sim_s: float
    images: Mapping[str, np.ndarray]
    lidar_in_ego: np.ndarray | None
    gnss: GnssSample | None
    imu: ImuSample | None
    speed_mps: float | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class EgoState:
    """Where the agent believes it is.

    Attributes:
        position_in_world: (2,) x, y.
        yaw_deg: in (-180, 180].
        speed_mps: forward positive.
        acceleration_mps2: along x of the ego.
        yaw_rate_dps: degrees per second, clockwise seen from above positive.
        source: how it was made, for the log: "fix", "dead_reckoning" or "start".
    """

    frame: int
    sim_s: float
    position_in_world: np.ndarray
    yaw_deg: float
    speed_mps: float
    acceleration_mps2: float
    yaw_rate_dps: float
    source: str = "fix"


@dataclass(frozen=True)
class TargetPoint:
    """A point of the leaderboard's sparse plan, seen from the ego, with the command that begins there."""

    position_in_ego: np.ndarray
    command: Command


@dataclass(frozen=True)
class RouteGuidance:
    """What the route asks for now.

    Attributes:
        command: the command in force at the ego.
        target: the next point of the plan that is still ahead.
        next_target: the one after it (the last point again at the route's end).
        remaining_m: straight-line length of what is left of the sparse plan.
    """

    command: Command
    target: TargetPoint
    next_target: TargetPoint
    remaining_m: float


@dataclass(frozen=True)
class PlannerInputs:
    """The network's inputs of one tick before perception: what a recording stores and inference uses.

    Attributes:
        image: (H, W, 3) uint8 RGB of the planning camera.
        lidar_bev: (T_obs, C, H, W) uint8 bird's-eye occupancy, oldest frame first, all in the present ego
            frame.
        ego_status: (T_obs, status) float32, oldest first (layout: `agents/status.py`).
    """

    image: np.ndarray
    lidar_bev: np.ndarray
    ego_status: np.ndarray


@dataclass(frozen=True)
class Reasoning:
    """What the reasoning tokens say, for the log.

    Attributes:
        decision: most likely class.
        probability: of that class.
        probabilities: class name -> probability.
    """

    decision: Decision
    probability: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
