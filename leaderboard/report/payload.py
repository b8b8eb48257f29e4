"""A route's data as the page reads it: JSON, with typed arrays as base64 of little-endian bytes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from tickdrive.leaderboard.latency import summarize
from tickdrive.leaderboard.report.columns import NO_PLAN_CM, Columns
from tickdrive.leaderboard.report.run_folder import RouteFiles

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


def route_payload(route: RouteFiles, columns: Columns, budget_ms: float) -> dict[str, Any]:
    """Everything of one route but its pictures."""
    summary = summarize(route.ticks, budget_ms)
    stages = {
        name: {"parent": columns.parents[name], "ms": packed(ms)} for name, ms in columns.stages.items()
    }
    return {
        "schema": SCHEMA,
        "route_id": route.route_id,
        "budget_ms": budget_ms,
        "header": {key: value for key, value in route.header.items() if key not in ("type", "schema")},
        "record": route.record,
        "infractions": [asdict(infraction) for infraction in route.infractions],
        "map": route.route_map,
        "notes": list(route.notes),
        "summary": summary.to_json(),
        "depths": {stage.name: stage.depth for stage in summary.stages},
        "errors": {str(place): text for place, text in columns.errors.items()},
        "no_plan_cm": NO_PLAN_CM,
        "plan_step_s": PLAN_STEP_S,
        "classes": list(columns.classes),
        "stages": stages,
        "names": {
            name: {"values": list(names.values), "index": packed(names.index)}
            for name, names in columns.names.items()
        },
        "columns": {
            "frame": packed(columns.frame),
            "sim_s": packed(columns.sim_s),
            "total_ms": packed(columns.total_ms),
            "other_ms": packed(columns.other_ms),
            "guarded": packed(columns.guarded),
            "steps": packed(columns.steps),
            "probability": packed(columns.probability),
            "plan_cm": packed(columns.plan_cm),
            "latency_ms": packed(columns.latency_ms),
            "observed_frame": packed(columns.observed_frame),
            "busy": packed(columns.busy),
            "past_horizon": packed(columns.past_horizon),
            **{name: packed(values) for name, values in columns.floats.items()},
        },
    }
