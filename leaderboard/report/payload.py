"""A route's data as the page reads it: JSON, with typed arrays as base64 of little-endian bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from tickdrive.leaderboard.latency import summarize
from tickdrive.leaderboard.report.columns import NO_PLAN_CM, ShownColumns
from tickdrive.leaderboard.report.run_folder import RouteFiles
from tickdrive.leaderboard.tick_table import Labels

SCHEMA = 1
PLAN_STEP_S = 0.5
"""Time between two waypoints of a logged plan (docs/formats.md)."""
_TYPES = {"float32": "f32", "float64": "f64", "int32": "i32", "int16": "i16", "uint16": "u16", "uint8": "u8"}


def packed(array: np.ndarray) -> dict[str, Any]:
    """``{"type", "shape", "data"}`` of an array; `web/data.js` reads it.

    Raises:
        KeyError: the page has no typed array of this kind.
    """
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {
        "type": _TYPES[array.dtype.name],
        "shape": list(array.shape),
        "data": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def unpacked(item: Mapping[str, Any]) -> np.ndarray:
    """The array again, for tests and for those who read a report by program."""
    name = next(name for name, short in _TYPES.items() if short == item["type"])
    dtype = np.dtype(name).newbyteorder("<")
    return np.frombuffer(base64.b64decode(item["data"]), dtype).reshape(item["shape"])


def route_payload(route: RouteFiles, shown: ShownColumns, budget_ms: float) -> dict[str, Any]:
    """Everything of one route but its pictures."""
    table = route.table
    summary = summarize(table, budget_ms)
    latency_ms = np.where(table.latency_us < 0, np.nan, table.latency_us / 1e3)
    floats = ("total_ms", "other_ms", "outside_ms", "predicted_ms", "x_m", "y_m", "yaw_deg", "speed_mps")
    flags = ("guarded", "busy", "past_horizon")
    return {
        "schema": SCHEMA,
        "route_id": route.route_id,
        "budget_ms": budget_ms,
        "header": {key: value for key, value in table.header.items() if key not in ("type", "schema")},
        "record": route.record,
        "infractions": [asdict(infraction) for infraction in route.infractions],
        "map": route.route_map,
        "notes": list(route.notes),
        "summary": summary.to_json(),
        "errors": {str(place): text for place, text in shown.errors.items()},
        "no_plan_cm": NO_PLAN_CM,
        "plan_step_s": PLAN_STEP_S,
        "classes": list(shown.classes),
        "stages": [
            {**asdict(stage), "ms": packed(table.stage_ms[stage.name].astype(np.float32))}
            for stage in table.stages
        ],
        "names": {
            "rung": _names(table.rung),
            "engine": _names(table.engine),
            "command": {"values": list(shown.commands), "index": packed(shown.command)},
        },
        "columns": {
            "frame": packed(table.frame.astype(np.int32)),
            "sim_s": packed(table.sim_s),
            "steps": packed(np.minimum(table.steps, 255).astype(np.uint8)),
            "preempted": packed(table.preempted),
            "latency_ms": packed(latency_ms.astype(np.float32)),
            "observed_frame": packed(table.observed_frame.astype(np.int32)),
            "remaining_m": packed(shown.remaining_m),
            "probability": packed(shown.probability),
            "plan_cm": packed(shown.plan_cm),
            **{name: packed(getattr(table, name).astype(np.float32)) for name in floats},
            **{name: packed(getattr(table, name)) for name in ("throttle", "steer", "brake")},
            **{name: packed(getattr(table, name).astype(np.uint8)) for name in flags},
        },
    }


def _names(labels: Labels) -> dict[str, Any]:
    return {"values": list(labels.names), "index": packed(labels.codes)}
