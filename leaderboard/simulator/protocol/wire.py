"""CARLA's msgpack values: strict decoders for what clients send, encoders for what they get.

Layouts are the `MSGPACK_DEFINE_ARRAY` orders of LibCarla's `geom/` and `rpc/` headers at 0.9.16. A decoder
never trusts its input: wrong types, short arrays, NaN and absurd magnitudes raise `RequestError`, whose
text is sent back to the client.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, VehicleCommand, Weather
from tickdrive.planner.errors import ServerError

#: no coordinate, speed or force that a client may set exceeds this; keeps float32 streams finite
LIMIT = 1e7
_MAX_TEXT = 4096


class RequestError(ServerError):
    """A request that cannot be served; the text goes to the client that made it."""


def number(value: Any, name: str) -> float:
    """A finite float of sane size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"{name}: expected a number, got {_show(value)}.")
    out = float(value)
    if not math.isfinite(out) or abs(out) > LIMIT:
        raise RequestError(f"{name}: {out} is not a finite number within {LIMIT:g}.")
    return out


def integer(value: Any, name: str, low: int = 0, high: int = 2**32 - 1) -> int:
    """An int within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name}: expected an integer, got {_show(value)}.")
    if not low <= value <= high:
        raise RequestError(f"{name}: {value} is outside [{low}, {high}].")
    return value


def boolean(value: Any, name: str) -> bool:
    """A bool; 0 and 1 pass too."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise RequestError(f"{name}: expected true or false, got {_show(value)}.")


def text(value: Any, name: str, longest: int = _MAX_TEXT) -> str:
    """A str of bounded length."""
    if not isinstance(value, str):
        raise RequestError(f"{name}: expected text, got {_show(value)}.")
    if len(value) > longest:
        raise RequestError(f"{name}: {len(value)} characters are more than {longest}.")
    return value


def sequence(value: Any, name: str, least: int = 0, most: int = 1 << 20) -> Sequence[Any]:
    """A list with least..most items."""
    if not isinstance(value, list | tuple):
        raise RequestError(f"{name}: expected an array, got {_show(value)}.")
    if not least <= len(value) <= most:
        raise RequestError(f"{name}: expected {least} to {most} items, got {len(value)}.")
    return value


def optional(value: Any, name: str) -> Any | None:
    """`boost::optional`: `[false]` or `[true, value]`."""
    items = sequence(value, name, 1, 2)
    if not boolean(items[0], name):
        return None
    if len(items) < 2:
        raise RequestError(f"{name}: an optional that says it holds a value holds none.")
    return items[1]


def vector(value: Any, name: str) -> tuple[float, float, float]:
    """`Vector3D` or `Location`."""
    x, y, z = sequence(value, name, 3, 3)
    return number(x, f"{name}.x"), number(y, f"{name}.y"), number(z, f"{name}.z")


def pose(value: Any, name: str = "transform") -> Pose:
    """`Transform`: location in metres, rotation pitch, yaw, roll in degrees."""
    place, rotation = sequence(value, name, 2, 2)
    x, y, z = vector(place, f"{name}.location")
    pitch, yaw, roll = vector(rotation, f"{name}.rotation")
    return Pose(x, y, z, pitch, yaw, roll)


def vehicle_control(value: Any) -> VehicleCommand:
    """`VehicleControl`; pedals and steer are clamped to their ranges as Unreal does, NaN is refused."""
    items = sequence(value, "control", 7, 8)
    return VehicleCommand(
        throttle=_clamp(number(items[0], "control.throttle"), 0.0, 1.0),
        steer=_clamp(number(items[1], "control.steer"), -1.0, 1.0),
        brake=_clamp(number(items[2], "control.brake"), 0.0, 1.0),
        hand_brake=boolean(items[3], "control.hand_brake"),
        reverse=boolean(items[4], "control.reverse"),
        manual_gear_shift=boolean(items[5], "control.manual_gear_shift"),
        gear=integer(items[6], "control.gear", -128, 127),
    )


def weather(value: Any) -> Weather:
    """`WeatherParameters`: 14 floats."""
    items = sequence(value, "weather", 14, 14)
    return Weather(*(number(each, f"weather[{index}]") for index, each in enumerate(items)))


def pack_vector(values: Sequence[float] | np.ndarray) -> list[float]:
    """Three floats as msgpack wants them."""
    return [float(values[0]), float(values[1]), float(values[2])]


def pack_pose(value: Pose) -> list[list[float]]:
    """`Transform`."""
    return [[value.x, value.y, value.z], [value.pitch, value.yaw, value.roll]]


def pack_box(value: Box, actor_id: int) -> list[Any]:
    """`BoundingBox`: location, extent, rotation, actor id."""
    centre = value.pose
    return [
        [centre.x, centre.y, centre.z],
        [float(each) for each in value.extent],
        [centre.pitch, centre.yaw, centre.roll],
        actor_id,
    ]


def pack_weather(value: Weather) -> list[float]:
    """`WeatherParameters`."""
    return [float(getattr(value, name)) for name in value.__dataclass_fields__]


def ok(value: Any) -> list[Any]:
    """`rpc::Response<T>` holding a value: an array of one variant, index 1."""
    return [[1, value]]


def failed(message: str) -> list[Any]:
    """`rpc::Response<T>` holding a `ResponseError`: variant index 0."""
    return [[0, [message]]]


#: `rpc::Response<void>` without an error: an array of one empty optional
VOID: list[Any] = [[False]]


def void_failed(message: str) -> list[Any]:
    """`rpc::Response<void>` holding a `ResponseError`."""
    return [[True, [message]]]


def _clamp(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def _show(value: Any) -> str:
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
