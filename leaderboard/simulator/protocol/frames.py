"""Binary layouts of CARLA 0.9.16's streams: little endian, packed.

Read from the debug information of the carla 0.9.16 wheel (`SensorHeaderSerializer::Header`,
`EpisodeStateSerializer::Header`, `ActorDynamicState`, the sensor serializers, `Token`); public copies of
the sources are older or newer and differ in the size of `ActorDynamicState`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import msgpack
import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose


class SensorKind(IntEnum):
    """Index in `SensorRegistry` of this version: how the client knows what a frame holds."""

    COLLISION = 0
    DEPTH = 1
    NORMALS = 2
    DVS = 3
    GNSS = 4
    IMU = 5
    LANE_INVASION = 6
    OBSTACLE = 7
    OPTICAL_FLOW = 8
    RADAR = 9
    SEMANTIC_LIDAR = 10
    LIDAR = 11
    RSS = 12
    RGB = 13
    SEMANTIC = 14
    INSTANCE = 15
    WORLD = 17


HEADER = struct.Struct("<QQd6f")
EPISODE_STATE = struct.Struct("<Qdf3iI")
ACTOR_STATE = struct.Struct("<IB15f54s")
VEHICLE_STATE = struct.Struct("<fff???ifB?IB")
WALKER_STATE = struct.Struct("<3ff?")
LIGHT_STATE = struct.Struct("<32s4fI?B")
SIGN_STATE = struct.Struct("<32s")
IMAGE = struct.Struct("<IIf")
LIDAR = struct.Struct("<fI")
RADAR_POINT = np.dtype([("velocity", "<f4"), ("azimuth", "<f4"), ("altitude", "<f4"), ("depth", "<f4")])
SEMANTIC_POINT = np.dtype([("xyz", "<f4", 3), ("cos_incidence", "<f4"), ("actor", "<u4"), ("tag", "<u4")])
#: events of the DVS camera: pixel, simulated time in nanoseconds, brighter or darker
DVS_EVENT = np.dtype([("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("pol", "?")])
_TOKEN = struct.Struct("<IHBB16x")
TOKEN_BYTES = 24
#: bit of the world frame that tells clients to fetch the map again
MAP_CHANGED = 1
#: and to fetch the street lamps again
LIGHTS_CHANGED = 2
_TCP = 1
_ADDRESS_NOT_SET = 0

assert HEADER.size == 48 and EPISODE_STATE.size == 36 and ACTOR_STATE.size == 119
assert VEHICLE_STATE.size == 30 and WALKER_STATE.size == 17 and LIGHT_STATE.size == 54
assert _TOKEN.size == TOKEN_BYTES and DVS_EVENT.itemsize == 13


def token(stream_id: int, port: int) -> bytes:
    """Stream token; its address is left out, so the client uses the host of its RPC connection."""
    return _TOKEN.pack(stream_id, port, _TCP, _ADDRESS_NOT_SET)


def header(kind: SensorKind, frame: int, elapsed_s: float, pose: Pose) -> bytes:
    """Header of every stream frame; `pose` is the sensor's in the world."""
    return HEADER.pack(kind, frame, elapsed_s, pose.x, pose.y, pose.z, pose.pitch, pose.yaw, pose.roll)


def image(width: int, height: int, fov_deg: float, pixels: np.ndarray) -> bytes:
    """Body of an image frame.

    `pixels` is (height, width, 4) uint8 BGRA, of optical flow (height, width, 2) float32, of a DVS camera
    (N,) of `DVS_EVENT`.
    """
    return IMAGE.pack(width, height, fov_deg) + pixels.tobytes()


def lidar(horizontal_angle_rad: float, counts: np.ndarray, points: np.ndarray) -> bytes:
    """Body of a LiDAR frame; `points` (N, 4) float32 or (N,) of `SEMANTIC_POINT`, by channel."""
    return (
        LIDAR.pack(horizontal_angle_rad, len(counts))
        + np.ascontiguousarray(counts, "<u4").tobytes()
        + np.ascontiguousarray(points).tobytes()
    )


def message(*fields: Any) -> bytes:
    """Body of the sensors whose data is a msgpack array (GNSS, IMU, collision, obstacle)."""
    return msgpack.packb(list(fields), use_bin_type=True)
