"""What draws a town's cameras: the seam between the renderer and its two ways to draw.

`cpu_pictures.CpuPictures` draws with compiled loops, `gl.pictures.EglPictures` with OpenGL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose, rotation_matrix
from tickdrive.leaderboard.simulator.interfaces import CameraSpec
from tickdrive.leaderboard.simulator.render.stage import Stage
from tickdrive.planner.errors import SensorError


@dataclass(frozen=True)
class CameraView:
    """A camera at its place.

    Attributes:
        spec: the camera.
        pose: of the sensor, world frame.
        focal_px: focal length in pixels.
        eye: (3,) position, world frame.
        axes: (3, 3) columns forward, right, up, world frame.
    """

    spec: CameraSpec
    pose: Pose
    focal_px: float
    eye: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, spec: CameraSpec, pose: Pose) -> CameraView:
        """The view of a camera.

        Raises:
            SensorError: a size or field of view that no camera has.
        """
        if spec.width < 1 or spec.height < 1 or not 0.0 < spec.fov_deg < 180.0:
            raise SensorError(
                f"No camera can have {spec.width}x{spec.height} pixels at {spec.fov_deg} degrees."
            )
        focal_px = 0.5 * spec.width / math.tan(math.radians(0.5 * spec.fov_deg))
        axes = np.ascontiguousarray(rotation_matrix(pose.pitch, pose.yaw, pose.roll))
        return cls(spec, pose, focal_px, pose.location, axes)


class Pictures(Protocol):
    """Draws the stage; equal calls in one tick give equal pictures."""

    def camera(self, kind: str, view: CameraView) -> np.ndarray:
        """(height, width, 4) uint8 BGRA in CARLA's encoding, a new array; `kind` is of `renderer.KINDS`."""
        ...

    def flow(self, view: CameraView, before: CameraView, matrices_before: np.ndarray) -> np.ndarray:
        """Optical flow since `before`.

        Args:
            view: the camera now.
            before: then; its size is not read.
            matrices_before: (A, 3, 4) of the stage's actors, model to world, then.

        Returns:
            (height, width, 2) float32, see `Renderer.flow`.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; it draws no more."""
        ...


class PicturesMaker(Protocol):
    """Makes the pictures of a town; one for all towns of a process.

    Attributes:
        description: which renderer draws and on what, for people.
    """

    description: str

    def __call__(self, stage: Stage) -> Pictures:
        """Pictures of a stage."""
        ...
