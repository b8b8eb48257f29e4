"""CARLA's geometry: left-handed, x forward, y right, z up, metres; rotations in degrees.

Rotation order is Unreal's: yaw about z, then pitch about y (nose up positive), then roll about x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Pose:
    """Location in metres and rotation in degrees, in the frame that the variable's name says."""

    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0

    @property
    def location(self) -> np.ndarray:
        """(3,) float64 x, y, z."""
        return np.array([self.x, self.y, self.z])

    def matrix(self) -> np.ndarray:
        """(4, 4) float64: takes points of this frame into the parent frame."""
        out = np.eye(4)
        out[:3, :3] = rotation_matrix(self.pitch, self.yaw, self.roll)
        out[:3, 3] = (self.x, self.y, self.z)
        return out


def rotation_matrix(pitch_deg: float, yaw_deg: float, roll_deg: float) -> np.ndarray:
    """(3, 3) rotation of Unreal's FRotator: columns are the frame's forward, right and up axes.

    Source: LibCarla `geom/Transform.h` (`GetMatrix`).
    """
    pitch, yaw, roll = math.radians(pitch_deg), math.radians(yaw_deg), math.radians(roll_deg)
    cp, sp = math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    cr, sr = math.cos(roll), math.sin(roll)
    return np.array(
        [
            [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr],
            [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr],
            [sp, -cp * sr, cp * cr],
        ]
    )


def pose_from_matrix(matrix: np.ndarray) -> Pose:
    """Inverse of `Pose.matrix`."""
    pitch = math.degrees(math.asin(max(-1.0, min(1.0, float(matrix[2, 0])))))
    yaw = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    roll = math.degrees(math.atan2(-matrix[2, 1], matrix[2, 2]))
    return Pose(float(matrix[0, 3]), float(matrix[1, 3]), float(matrix[2, 3]), pitch, yaw, roll)


def compose(parent_in_world: Pose, child_in_parent: Pose) -> Pose:
    """Pose in the world of a child that is mounted rigidly on a parent."""
    return pose_from_matrix(parent_in_world.matrix() @ child_in_parent.matrix())


def wrap_deg(angle_deg: float) -> float:
    """The same angle in (-180, 180]."""
    wrapped = math.fmod(angle_deg, 360.0)
    if wrapped <= -180.0:
        return wrapped + 360.0
    return wrapped - 360.0 if wrapped > 180.0 else wrapped
