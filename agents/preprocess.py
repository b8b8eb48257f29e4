"""From sensors to the network's inputs: the planning camera's picture and the LiDAR seen from above.

The bird's-eye raster (`BEV_CHANNELS`, row, column): row 0 is furthest ahead, column 0 furthest left, so that
it reads like a map with the ego's forward direction up. Each value counts the returns in the cell, 16 a
return, saturating at 255.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from tickdrive.agents.route import to_ego
from tickdrive.agents.types import EgoState, PlannerInputs
from tickdrive.planner.errors import ConfigError, SensorError

BEV_LAYOUT = 2
"""Of the raster's history; checkpoints and recordings depend on it. In layout 2 every frame is moved into the
present ego frame, so that what stands still stays in its cell and what moves leaves a track."""

BEV_CHANNELS = ("ground", "obstacle", "high")
"""Channels of the raster: road surface and kerbs; what a car can hit; what it passes under."""


@dataclass(frozen=True)
class BevConfig:
    """Geometry of the bird's-eye raster. Checkpoints depend on it.

    Attributes:
        cell_m: edge of a cell.
        ahead_m: the raster reaches from here …
        behind_m: … back to here,
        side_m: and as far to the left and to the right.
        ground_m: heights in the ego frame (0 is the road) between these two are "ground",
        obstacle_m: between `ground_m[1]` and this "obstacle", and
        high_m: between that and this "high". What is above or below is dropped.
        own_half_length_m, own_half_width_m: box around the ego whose returns are the ego itself.
        counts_per_return: raster value of one return.
        merge_s: half sweeps younger than this are merged (10 Hz rotation, 20 Hz ticks).
        n_frames, period_s: frames of the history and the time between them.
    """

    cell_m: float = 0.5
    ahead_m: float = 48.0
    behind_m: float = 16.0
    side_m: float = 32.0
    ground_m: tuple[float, float] = (-0.5, 0.3)
    obstacle_m: float = 2.2
    high_m: float = 8.0
    own_half_length_m: float = 2.6
    own_half_width_m: float = 1.15
    counts_per_return: int = 16
    merge_s: float = 0.09
    n_frames: int = 4
    period_s: float = 0.5

    def __post_init__(self) -> None:
        if self.cell_m <= 0 or self.rows < 1 or self.columns < 1:
            raise ConfigError(
                f"The bird's-eye raster reaches {self.ahead_m} m ahead, {self.behind_m} m behind and "
                f"{self.side_m} m aside in cells of {self.cell_m} m.",
                "Give a positive cell size and reach.",
            )
        if not self.ground_m[0] < self.ground_m[1] < self.obstacle_m < self.high_m:
            raise ConfigError("The raster's heights do not rise.", "Give ground < obstacle < high.")

    @property
    def rows(self) -> int:
        """Cells along x."""
        return round((self.ahead_m + self.behind_m) / self.cell_m)

    @property
    def columns(self) -> int:
        """Cells along y."""
        return round(2 * self.side_m / self.cell_m)


@dataclass(frozen=True)
class PreprocessConfig:
    """What the network is fed with. Checkpoints depend on it.

    Attributes:
        image_width, image_height: picture size; another rig's picture is resized to it.
        bev: the raster.
    """

    image_width: int = 512
    image_height: int = 256
    bev: BevConfig = field(default_factory=BevConfig)


def image_for_network(image_bgr: np.ndarray, config: PreprocessConfig | None = None) -> np.ndarray:
    """The planning camera's picture as the network takes it.

    The whole picture is kept: with a level camera lights hang in its upper half, and no bonnet is in view.

    Args:
        image_bgr: (H, W, 3) uint8 BGR, as `Observation.images` has it.
        config: size wanted.

    Returns:
        (H, W, 3) uint8 RGB, contiguous, of the configured size.

    Raises:
        SensorError: not such a picture.
    """
    config = config or PreprocessConfig()
    if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3:
        raise SensorError(
            f"A picture is {image_bgr.dtype} {image_bgr.shape}.", "Give uint8 (height, width, 3) BGR."
        )
    size = (config.image_width, config.image_height)
    if image_bgr.shape[1::-1] != size:
        smaller = image_bgr.shape[1] > size[0]
        image_bgr = cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    rgb = np.empty((config.image_height, config.image_width, 3), np.uint8)
    for channel in range(3):  # three strided copies are faster than one through a reversed view
        rgb[:, :, channel] = image_bgr[:, :, 2 - channel]
    return rgb


def rasterize(points_in_ego: np.ndarray, config: BevConfig | None = None) -> np.ndarray:
    """Bird's-eye raster of points.

    Args:
        points_in_ego: (N, >=3) float x, y, z in metres (x forward, y right, z up, 0 at the road).
        config: geometry.

    Returns:
        (len(BEV_CHANNELS), rows, columns) uint8.
    """
    config = config or BevConfig()
    shape = (len(BEV_CHANNELS), config.rows, config.columns)
    if not len(points_in_ego):
        return np.zeros(shape, np.uint8)
    x, y, z = points_in_ego[:, 0], points_in_ego[:, 1], points_in_ego[:, 2]
    # NaN compares false everywhere, so it falls out here as well
    keep = (
        (x > -config.behind_m)
        & (x < config.ahead_m)
        & (np.abs(y) < config.side_m)
        & (z > config.ground_m[0])
        & (z < config.high_m)
        & ~((np.abs(x) < config.own_half_length_m) & (np.abs(y) < config.own_half_width_m))
    )
    x, y, z = x[keep], y[keep], z[keep]
    row = ((config.ahead_m - x) * (1.0 / config.cell_m)).astype(np.int32)
    column = ((y + config.side_m) * (1.0 / config.cell_m)).astype(np.int32)
    # a sum in float32 can round up onto the far edge
    np.minimum(row, config.rows - 1, out=row)
    np.minimum(column, config.columns - 1, out=column)
    channel = (z >= config.ground_m[1]).astype(np.int32) + (z >= config.obstacle_m)
    flat = (channel * config.rows + row) * config.columns + column
    counts = np.bincount(flat, minlength=shape[0] * shape[1] * shape[2])
    return np.minimum(counts * config.counts_per_return, 255).astype(np.uint8).reshape(shape)


def to_present_ego(points_in_past_ego: np.ndarray, past: EgoState, present: EgoState) -> np.ndarray:
    """Points of the standing world, from the ego frame of an earlier tick into the present one.

    Args:
        points_in_past_ego: (N, >=3); columns from z on are kept.
        past: ego when they were measured.
        present: ego now.

    Returns:
        An array of the same shape, float32.
    """
    turn = math.radians(past.yaw_deg - present.yaw_deg)
    yaw = math.radians(present.yaw_deg)
    delta = np.asarray(past.position_in_world, float) - np.asarray(present.position_in_world, float)
    # the past origin in the present ego frame: forward = (cos, sin), right = (-sin, cos) of the yaw
    shift_x = delta[0] * math.cos(yaw) + delta[1] * math.sin(yaw)
    shift_y = -delta[0] * math.sin(yaw) + delta[1] * math.cos(yaw)
    out = np.array(points_in_past_ego, dtype=np.float32)
    x, y = points_in_past_ego[:, 0], points_in_past_ego[:, 1]
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    out[:, 0] = x * cos - y * sin + np.float32(shift_x)
    out[:, 1] = x * sin + y * cos + np.float32(shift_y)
    return out


class LidarBev:
    """The LiDAR's bird's-eye history, one raster a tick.

    A 20 Hz tick brings half a rotation; the half before it is moved by the ego's own motion and merged in.
    Older frames of the history are moved likewise, as pictures. Where a tick has no LiDAR the last half sweep
    alone is used, and where that is too old the raster is empty.

    Args:
        config: geometry.

    Attributes:
        points_in_ego: (N, 3) merged points of the last tick.
    """

    def __init__(self, config: BevConfig | None = None) -> None:
        self.config = config or BevConfig()
        self._sweeps: deque[tuple[EgoState, np.ndarray]] = deque()
        self._frames: deque[tuple[EgoState, np.ndarray]] = deque()
        self.points_in_ego = np.empty((0, 3), np.float32)

    def reset(self) -> None:
        """Forget everything: a new route."""
        self._sweeps.clear()
        self._frames.clear()

    def step(self, lidar_in_ego: np.ndarray | None, ego: EgoState) -> np.ndarray:
        """Add a tick.

        Args:
            lidar_in_ego: (N, >=3) this tick's points in the ego frame, or None.
            ego: the ego's pose and time at this tick.

        Returns:
            (n_frames, channels, rows, columns) uint8, oldest first, all in the present ego frame. Where the
            history is shorter than it should be, the oldest frame there is stands in.
        """
        now = ego.sim_s
        if self._frames and now <= self._frames[-1][0].sim_s:
            self.reset()  # time ran backwards: another route in the same object
        if lidar_in_ego is not None:
            self._sweeps.append((ego, lidar_in_ego))
        while self._sweeps and now - self._sweeps[0][0].sim_s > self.config.merge_s:
            self._sweeps.popleft()
        parts = [
            points if past is ego else to_present_ego(points, past, ego) for past, points in self._sweeps
        ]
        nothing = np.empty((0, 3), np.float32)
        self.points_in_ego = np.concatenate([part[:, :3] for part in parts]) if parts else nothing
        self._frames.append((ego, rasterize(self.points_in_ego, self.config)))
        horizon_s = (self.config.n_frames - 1) * self.config.period_s
        while len(self._frames) > 1 and now - self._frames[1][0].sim_s >= horizon_s - 1e-6:
            self._frames.popleft()
        ages_s = [(self.config.n_frames - 1 - i) * self.config.period_s for i in range(self.config.n_frames)]
        return np.stack([self._at(now - age_s, ego) for age_s in ages_s])

    def _at(self, sim_s: float, present: EgoState) -> np.ndarray:
        """The frame nearest to a time, as seen from the present."""
        past, raster = min(self._frames, key=lambda item: abs(item[0].sim_s - sim_s))
        if past is present:
            return raster
        turn = math.radians(past.yaw_deg - present.yaw_deg)
        return move_raster(raster, turn, to_ego(past.position_in_world, present), self.config)


def move_raster(
    raster: np.ndarray, turn_rad: float, past_in_ego: np.ndarray, config: BevConfig
) -> np.ndarray:
    """An older raster in the present ego frame; cells that it did not reach are 0.

    Args:
        raster: (channels, rows, columns) uint8, in the ego frame of its own time.
        turn_rad: heading at that time relative to the present one, to the right positive.
        past_in_ego: (2,) where the ego was, in the present ego frame [m].
        config: geometry.
    """
    # For each cell of the result: which cell of the old raster? A point q of the present frame was at
    # R(-turn) (q - past) then; x = ahead - (row + 1/2) cell, y = (column + 1/2) cell - side.
    cos, sin = math.cos(turn_rad), math.sin(turn_rad)
    cell, ahead, side = config.cell_m, config.ahead_m, config.side_m
    dx = ahead - 0.5 * cell - float(past_in_ego[0])
    dy = 0.5 * cell - side - float(past_in_ego[1])
    to_old = np.array(
        [
            [cos, sin, (-sin * dx + cos * dy + side) / cell - 0.5],
            [-sin, cos, (ahead - cos * dx - sin * dy) / cell - 0.5],
        ]
    )
    size = raster.shape[2], raster.shape[1]
    # bilinear: the nearest cell alone would lose things of one cell, a walker for example
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([cv2.warpAffine(plane, to_old, size, flags=flags) for plane in raster])


class Preprocessor:
    """Picture and raster history of a route, tick by tick.

    Args:
        config: sizes.
    """

    def __init__(self, config: PreprocessConfig | None = None) -> None:
        self.config = config or PreprocessConfig()
        self.lidar_bev = LidarBev(self.config.bev)

    def reset(self) -> None:
        """Forget everything: a new route."""
        self.lidar_bev.reset()

    def step(
        self, image_bgr: np.ndarray, lidar_in_ego: np.ndarray | None, ego: EgoState, ego_status: np.ndarray
    ) -> PlannerInputs:
        """The network's inputs of a tick.

        Args:
            image_bgr: (H, W, 3) uint8 of the planning camera.
            lidar_in_ego: (N, >=3) points; None where the tick has none.
            ego: the ego at that time.
            ego_status: (T_obs, status) float32 of `agents/status.py`.

        Raises:
            SensorError: the picture has a form that it cannot have.
        """
        lidar_bev = self.lidar_bev.step(lidar_in_ego, ego)
        return PlannerInputs(image_for_network(image_bgr, self.config), lidar_bev, ego_status)
