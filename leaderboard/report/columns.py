"""The ticks of a log as columns: one array a quantity, missing values explicit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NO_PLAN_CM = -32768
"""Fills the plans of ticks without one."""
_FLOATS = {
    "outside_ms": ("outside_ms",),
    "predicted_ms": ("predicted_ms",),
    "x_m": ("ego", "position_in_world", 0),
    "y_m": ("ego", "position_in_world", 1),
    "yaw_deg": ("ego", "yaw_deg"),
    "speed_mps": ("ego", "speed_mps"),
    "remaining_m": ("ego", "remaining_m"),
    "throttle": ("control", "throttle"),
    "steer": ("control", "steer"),
    "brake": ("control", "brake"),
    "preempted": ("preempted",),
}
_NAMES = {"rung": ("rung",), "engine": ("engine",), "command": ("ego", "command")}


@dataclass(frozen=True)
class Names:
    """A column of names, each tick's as an index.

    Attributes:
        values: the names, in the order in which they first occur.
        index: (N,) uint8.
    """

    values: tuple[str, ...]
    index: np.ndarray


@dataclass(frozen=True)
class Columns:
    """N ticks.

    Attributes:
        frame: (N,) int32, the simulator's frame.
        sim_s: (N,) float64, simulated seconds.
        total_ms: (N,) float32.
        other_ms: (N,) float32, in no stage.
        floats: name (with its unit) -> (N,) float32, NaN where the log has no value.
        names: "rung", "engine", "command".
        guarded: (N,) uint8.
        steps: (N,) uint8, denoising steps.
        stages: span name -> (N,) float32 ms, spans of one name summed; NaN where it did not run. In the
            order in which they first ran.
        parents: span name -> name of the span around it, None at the top.
        classes: reasoning classes.
        probability: (N, classes) uint16, in 1/10000 as the log rounds them.
        plan_cm: (N, T, 2) int16, ego frame, x forward and y right, centimetres; `NO_PLAN_CM` fills.
        latency_ms: (N,) float32, the latency model's latency of the plan in force; NaN without one.
        observed_frame: (N,) int32, the frame that plan was made from; -1 without one.
        busy: (N,) uint8, whether a plan was being computed.
        past_horizon: (N,) uint8, whether the plan in force had run out.
        errors: place of a tick -> why it ended the route.
    """

    frame: np.ndarray
    sim_s: np.ndarray
    total_ms: np.ndarray
    other_ms: np.ndarray
    floats: Mapping[str, np.ndarray]
    names: Mapping[str, Names]
    guarded: np.ndarray
    steps: np.ndarray
    stages: Mapping[str, np.ndarray]
    parents: Mapping[str, str | None]
    classes: tuple[str, ...]
    probability: np.ndarray
    plan_cm: np.ndarray
    latency_ms: np.ndarray
    observed_frame: np.ndarray
    busy: np.ndarray
    past_horizon: np.ndarray
    errors: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frame)


def to_columns(ticks: Sequence[Mapping[str, Any]]) -> Columns:
    """Columns of tick lines, as `read_log` gives them."""
    n = len(ticks)
    stages, parents = _stages(ticks)
    classes = tuple(dict.fromkeys(name for tick in ticks for name in tick.get("reasoning") or ()))
    probability = np.zeros((n, len(classes)), np.uint16)
    for row, tick in enumerate(ticks):
        for column, name in enumerate(classes):
            value = (tick.get("reasoning") or {}).get(name) or 0.0
            probability[row, column] = round(1e4 * min(max(value, 0.0), 1.0))
    models = [tick.get("latency") or {} for tick in ticks]
    return Columns(
        frame=np.array([int(_number(tick.get("frame"), -1)) for tick in ticks], np.int32),
        sim_s=np.array([_number(tick.get("sim_s")) for tick in ticks], np.float64),
        total_ms=np.array([_number(tick.get("total_ms")) for tick in ticks], np.float32),
        other_ms=np.array([_number(tick.get("other_ms"), 0.0) for tick in ticks], np.float32),
        floats={
            name: np.array([_number(_at(tick, path)) for tick in ticks], np.float32)
            for name, path in _FLOATS.items()
        },
        names={name: _names([_at(tick, path) for tick in ticks]) for name, path in _NAMES.items()},
        guarded=np.array([bool(tick.get("guarded")) for tick in ticks], np.uint8),
        steps=np.array([min(int(_number(tick.get("steps"), 0)), 255) for tick in ticks], np.uint8),
        stages=stages,
        parents=parents,
        classes=classes,
        probability=probability,
        plan_cm=_plans(ticks),
        latency_ms=np.array([_number(model.get("us")) / 1e3 for model in models], np.float32),
        observed_frame=np.array([int(_number(m.get("observed_frame"), -1)) for m in models], np.int32),
        busy=np.array([bool(model.get("busy")) for model in models], np.uint8),
        past_horizon=np.array([bool(model.get("past_horizon")) for model in models], np.uint8),
        errors={i: str(t["ego"]["error"]) for i, t in enumerate(ticks) if "error" in (t.get("ego") or {})},
    )


def _stages(
    ticks: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, np.ndarray], dict[str, str | None]]:
    stages: dict[str, np.ndarray] = {}
    parents: dict[str, str | None] = {}
    for row, tick in enumerate(ticks):
        for span in tick.get("spans") or ():
            name = span["name"]
            if name not in stages:
                stages[name] = np.full(len(ticks), np.nan, np.float32)
                parents[name] = span["parent"]
            before = stages[name][row]
            stages[name][row] = span["ms"] if np.isnan(before) else before + span["ms"]
    return stages, parents


def _plans(ticks: Sequence[Mapping[str, Any]]) -> np.ndarray:
    length = max((len(tick["plan"]) for tick in ticks if tick.get("plan")), default=0)
    plans = np.full((len(ticks), length, 2), NO_PLAN_CM, np.int16)
    for row, tick in enumerate(ticks):
        if tick.get("plan"):
            metres = np.array(tick["plan"], dtype=float)  # null becomes NaN
            centimetres = np.clip(np.round(100.0 * metres), -32767, 32767)
            plans[row, : len(metres)] = np.where(np.isfinite(metres), centimetres, NO_PLAN_CM)
    return plans


def _names(values: Sequence[Any]) -> Names:
    texts = ["" if value is None else str(value) for value in values]
    known = tuple(dict.fromkeys(texts))[:256]
    place = {name: index for index, name in enumerate(known)}
    return Names(known, np.array([place.get(text, 0) for text in texts], np.uint8))


def _at(tick: Mapping[str, Any], path: Sequence[str | int]) -> Any:
    """What stands at a path of keys and places; None where it ends early."""
    value: Any = tick
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _number(value: Any, missing: float = math.nan) -> float:
    return float(value) if isinstance(value, (int, float)) else missing
