"""CARLA's ray-cast LiDAR on Embree.

Sources: CARLA 0.9.16 `Unreal/CarlaUE4/Plugins/Carla/Source/Carla/Sensor/RayCastSemanticLidar.cpp` (scan
pattern) and `RayCastLidar.cpp` (intensity, drop-off, noise). Sensor frame: x forward, y right, z up.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from tickdrive.leaderboard.simulator.interfaces import LidarSpec
from tickdrive.leaderboard.simulator.render.embree import intersect16

_SHORTEST_M = 0.02


@numba.njit(cache=True, nogil=True)
def trace(  # type: ignore[no-untyped-def]
    scene, origin, directions, range_m, face_tag, model_tag, actor_start, actor_matrix, actor_slot_tag,
    distance, hit, tag, cos_incidence,
):  # fmt: skip
    """Nearest hits of rays.

    The arrays, for N rays, A instances:
        scene: address of the Embree scene.
        origin: (3,) world frame.
        directions: (N, 3) unit vectors, world frame; a zero vector is not traced.
        face_tag: (F,) tag of the static mesh's faces.
        model_tag: (M,) slot of the models' faces.
        actor_start: (A,) first model face of each instance.
        actor_matrix: (A, 3, 4) instance to world.
        actor_slot_tag: (A, S) tag of each instance's slots.
        distance: (N,) output, metres, negative where nothing is hit.
        hit: (N,) output, 0 town or instance number from 1.
        tag, cos_incidence: (N,) outputs.
    """
    count = directions.shape[0]
    storage = np.empty(21 * 16 + 16, np.float32)
    start = ((64 - storage.ctypes.data % 64) % 64) // 4
    packet = storage[start : start + 21 * 16]
    bits = packet.view(np.uint32)
    valid_storage = np.empty(32, np.int32)
    valid_start = ((64 - valid_storage.ctypes.data % 64) % 64) // 4
    valid = valid_storage[valid_start : valid_start + 16]
    for first in range(0, count, 16):
        some = False
        for k in range(16):
            valid[k] = 0
            if first + k >= count:
                continue
            d = directions[first + k]
            if d[0] == 0.0 and d[1] == 0.0 and d[2] == 0.0:
                continue
            for axis in range(3):
                packet[axis * 16 + k] = origin[axis]
                packet[(4 + axis) * 16 + k] = d[axis]
            packet[48 + k], packet[112 + k], packet[128 + k] = _SHORTEST_M, 0.0, range_m
            bits[144 + k], bits[160 + k], bits[176 + k] = 0xFFFFFFFF, k, 0
            for row in (17, 18, 19, 20):
                bits[row * 16 + k] = 0xFFFFFFFF
            valid[k] = -1
            some = True
        if some:
            intersect16(valid.ctypes.data, scene, packet.ctypes.data, 0)
        for k in range(min(16, count - first)):
            o = first + k
            distance[o] = -1.0
            hit[o] = 0
            tag[o] = 0
            cos_incidence[o] = 0.0
            if valid[k] == 0 or bits[288 + k] == 0xFFFFFFFF:
                continue
            face = np.int64(bits[272 + k])
            instance = np.int64(bits[304 + k])
            nx, ny, nz = packet[192 + k], packet[208 + k], packet[224 + k]
            distance[o] = packet[128 + k]
            hit[o] = instance
            if instance == 0:
                tag[o] = face_tag[face]
            else:
                a = instance - 1
                m = actor_matrix[a]
                nx, ny, nz = (
                    m[0, 0] * nx + m[0, 1] * ny + m[0, 2] * nz,
                    m[1, 0] * nx + m[1, 1] * ny + m[1, 2] * nz,
                    m[2, 0] * nx + m[2, 1] * ny + m[2, 2] * nz,
                )
                tag[o] = actor_slot_tag[a, model_tag[actor_start[a] + face]]
            d = directions[o]
            length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-20
            cos_incidence[o] = abs(nx * d[0] + ny * d[1] + nz * d[2]) / length


def scan_directions(spec: LidarSpec, start_angle_rad: float, delta_s: float) -> tuple[np.ndarray, int, float]:
    """Rays of one tick.

    Args:
        spec: the LiDAR.
        start_angle_rad: its horizontal angle at the tick's start.
        delta_s: the tick.

    Returns:
        (channels * n, 3) unit directions in the sensor frame, channel by channel; n; the angle afterwards.
    """
    # RoundHalfFromZero of the source
    per_channel = math.floor(spec.points_per_second * delta_s / spec.channels + 0.5)
    start_deg = math.degrees(start_angle_rad)
    turned_deg = spec.rotation_frequency_hz * spec.horizontal_fov_deg * delta_s
    after = math.radians(math.fmod(start_deg + turned_deg, spec.horizontal_fov_deg))
    if per_channel <= 0:
        return np.zeros((0, 3)), 0, after
    step = (spec.upper_fov_deg - spec.lower_fov_deg) / (spec.channels - 1) if spec.channels > 1 else 0.0
    vertical = np.radians(spec.upper_fov_deg - step * np.arange(spec.channels))
    along = start_deg + turned_deg / per_channel * np.arange(per_channel)
    horizontal = np.radians(np.fmod(along, spec.horizontal_fov_deg) - 0.5 * spec.horizontal_fov_deg)
    cos_v = np.cos(vertical)[:, None]
    directions = np.stack(
        [
            cos_v * np.cos(horizontal), cos_v * np.sin(horizontal),
            np.sin(vertical)[:, None] * np.ones_like(horizontal),
        ],
        axis=2,
    )  # fmt: skip
    return directions.reshape(-1, 3), per_channel, after


def kept_before(spec: LidarSpec, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) rays that the general drop-off leaves (`PreprocessRays`)."""
    if spec.dropoff_general_rate <= 0.0:
        return np.ones(count, bool)
    return rng.random(count, np.float32) >= spec.dropoff_general_rate


def kept_after(spec: LidarSpec, intensity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points that the intensity's drop-off leaves (`PostprocessDetection`)."""
    draw = rng.random(len(intensity), np.float32)
    if spec.dropoff_intensity_limit <= 0.0:
        return np.ones(len(intensity), bool)
    slope = spec.dropoff_zero_intensity / spec.dropoff_intensity_limit
    return (intensity > spec.dropoff_intensity_limit) | (
        draw < slope * intensity + (1.0 - spec.dropoff_zero_intensity)
    )
