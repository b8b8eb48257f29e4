"""What a report shows of a tick beyond the table of `leaderboard/tick_table.py`: plan, reasoning, route."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tickdrive.agents.tick_log import iter_ticks

NO_PLAN_CM = -32768
"""Fills the plans of ticks without one."""


@dataclass(frozen=True)
class ShownColumns:
    """Of N ticks.

    Attributes:
        remaining_m: (N,) float32 to the goal; NaN where the log has no value.
        command: (N,) uint8, indices into `commands`.
        commands: commands of the route, in the order in which they first came.
        classes: reasoning classes.
        probability: (N, classes) uint16, in 1/10000 as the log rounds them.
        plan_cm: (N, T, 2) int16, ego frame, x forward and y right, centimetres; `NO_PLAN_CM` fills.
        errors: place of a tick -> why it ended the route.
    """

    remaining_m: np.ndarray
    command: np.ndarray
    commands: tuple[str, ...]
    classes: tuple[str, ...]
    probability: np.ndarray
    plan_cm: np.ndarray
    errors: Mapping[int, str]


def shown_columns(path: Path) -> ShownColumns:
    """Read a log once more, for what the table leaves out; its ticks are the table's.

    Raises:
        DataError: as `iter_ticks`.
    """
    remaining_m: list[float] = []
    command: list[int] = []
    commands: dict[str, int] = {}
    classes: dict[str, int] = {}
    reasoning: list[Mapping[str, Any]] = []
    plans: list[np.ndarray] = []
    errors: dict[int, str] = {}
    for place, tick in enumerate(iter_ticks(path)):
        ego = tick.get("ego") or {}
        remaining_m.append(_number(ego.get("remaining_m")))
        command.append(commands.setdefault(str(ego.get("command") or ""), len(commands)))
        reasoning.append(tick.get("reasoning") or {})
        for name in reasoning[-1]:
            classes.setdefault(name, len(classes))
        plans.append(_plan(tick.get("plan")))
        if "error" in ego:
            errors[place] = str(ego["error"])
    probability = np.zeros((len(reasoning), len(classes)), np.uint16)
    for row, said in enumerate(reasoning):
        for name, value in said.items():
            probability[row, classes[name]] = round(1e4 * min(max(value or 0.0, 0.0), 1.0))
    plan_cm = np.full((len(plans), max(map(len, plans), default=0), 2), NO_PLAN_CM, np.int16)
    for row, plan in enumerate(plans):
        plan_cm[row, : len(plan)] = plan
    return ShownColumns(
        remaining_m=np.array(remaining_m, np.float32),
        command=np.array(command, np.uint8),
        commands=tuple(commands),
        classes=tuple(classes),
        probability=probability,
        plan_cm=plan_cm,
        errors=errors,
    )


def _plan(points: Any) -> np.ndarray:
    """(T, 2) int16 centimetres; null coordinates are filled."""
    metres = np.array(points or np.zeros((0, 2)), dtype=float).reshape(-1, 2)
    centimetres = np.clip(np.round(100.0 * metres), -32767, 32767)
    return np.where(np.isfinite(metres), centimetres, NO_PLAN_CM).astype(np.int16)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
