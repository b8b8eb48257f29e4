"""Recordings in memory, ready to be trained on: bytes as recorded, decoded once by many threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from tickdrive.planner.errors import DataError
from tickdrive.planner.recording import LIGHT_STATES, SEMANTIC_SHAPE, SPLITS, Recording, SampleLine
from tickdrive.planner.supervision import LEAD_RANGE_M, SPEED_SCALE_MPS

_LOGGER = logging.getLogger(__name__)

N_TAGS = 29
"""CARLA's semantic tags, 0..28."""

NO_TAG = 255
"""Semantic cell without a known tag; the loss ignores it."""


@dataclass(frozen=True)
class SampleTensors:
    """Samples as tensors, first axis N; the whole of a split, or a batch of it.

    Attributes:
        image: (N, H, W, 3) uint8 RGB.
        lidar_bev: (N, T_obs, planes, size, size) uint8, oldest first.
        ego_status: (N, n_status, width) float32, oldest first.
        waypoints_in_ego: (N, T, 2) float32 metres.
        decision: (N,) int64 class.
        light: (N,) int64, index into `LIGHT_STATES`.
        lead: (N, 2) float32 of the vehicle ahead: distance / LEAD_RANGE_M (1: none), speed / SPEED_SCALE_MPS.
        target_speed: (N,) float32 / SPEED_SCALE_MPS.
        speed_mps: (N,) float32 of the ego.
        semantic: (N, 32, 64) uint8 tags, `NO_TAG` where unknown.
    """

    image: torch.Tensor
    lidar_bev: torch.Tensor
    ego_status: torch.Tensor
    waypoints_in_ego: torch.Tensor
    decision: torch.Tensor
    light: torch.Tensor
    lead: torch.Tensor
    target_speed: torch.Tensor
    speed_mps: torch.Tensor
    semantic: torch.Tensor

    def __len__(self) -> int:
        return len(self.decision)

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(
            tensor.numel() * tensor.element_size() for tensor in (getattr(self, f.name) for f in fields(self))
        )

    def select(self, indices: torch.Tensor, device: torch.device) -> SampleTensors:
        """The samples at `indices` (on the samples' device), on a device."""
        return replace(
            self,
            **{f.name: getattr(self, f.name)[indices].to(device, non_blocking=True) for f in fields(self)},
        )

    def to(self, device: torch.device) -> SampleTensors:
        """All samples on a device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class TrainingData:
    """All splits.

    Attributes:
        splits: split name -> samples; only those that have any.
        decisions: names of the decision classes.
        drives: split name -> drives in it.
        routes: split name -> "town/route" in it, sorted.
        dt_s: time between waypoints.
    """

    splits: dict[str, SampleTensors]
    decisions: tuple[str, ...]
    drives: dict[str, int]
    routes: dict[str, list[str]]
    dt_s: float


def load_training_data(
    recordings: Sequence[Recording],
    threads: int = 8,
    progress: Callable[[int, int], None] | None = None,
    to_train: bool = True,
) -> TrainingData:
    """Decode recordings into memory.

    Args:
        recordings: from `find_recordings`.
        threads: that decode.
        progress: called with (samples done, samples in all).
        to_train: whether there must be samples to train on; to validate a checkpoint there need not.

    Raises:
        DataError: drives that do not fit together, a route that stands in two splits, a town of `val_town`
            that was trained on, nothing to train on, or a damaged picture.
    """
    for recording in recordings:
        for message in recording.messages:
            _LOGGER.warning("%s", message)
    _check_split(recordings)
    decisions = _common(recordings, "decisions")
    dt_s = _common(recordings, "dt_s")
    for name in ("status_layout", "bev"):
        _common(recordings, name)
    total = sum(len(recording.lines) for recording in recordings)
    done = 0
    splits: dict[str, SampleTensors] = {}
    drives: dict[str, int] = {}
    routes: dict[str, list[str]] = {}
    for split in SPLITS:
        chosen = [recording for recording in recordings if recording.meta.split == split]
        rows = [(recording, line) for recording in chosen for line in recording.lines]
        if not rows:
            continue
        arrays: dict[str, np.ndarray] = {
            name: np.empty((len(rows), *shape), dtype) for name, (shape, dtype) in _forms(*rows[0]).items()
        }
        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            for _ in pool.map(partial(_fill, arrays, decisions), range(len(rows)), rows):
                done += 1
                if progress is not None:
                    progress(done, total)
        splits[split] = SampleTensors(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        drives[split] = len(chosen)
        routes[split] = sorted({f"{item.meta.town}/{item.meta.route_id}" for item in chosen})
    if to_train and "train" not in splits:
        raise DataError("No recording has split 'train'.", "Record some of the training routes.")
    return TrainingData(splits, decisions, drives, routes, dt_s)


def _forms(recording: Recording, line: SampleLine) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape of one sample and dtype of each array, from the first sample."""
    return {
        "image": (recording.image(line).shape, np.uint8),
        "lidar_bev": (recording.lidar_bev(line).shape, np.uint8),
        "ego_status": (np.shape(line.ego_status), np.float32),
        "waypoints_in_ego": (np.shape(line.waypoints_in_ego), np.float32),
        "decision": ((), np.int64),
        "light": ((), np.int64),
        "lead": ((2,), np.float32),
        "target_speed": ((), np.float32),
        "speed_mps": ((), np.float32),
        "semantic": (SEMANTIC_SHAPE, np.uint8),
    }


def _fill(
    arrays: dict[str, np.ndarray], decisions: tuple[str, ...], i: int, row: tuple[Recording, SampleLine]
) -> None:
    recording, line = row
    semantic = recording.semantic(line)
    lead = 1.0 if line.lead_distance_m is None else min(1.0, max(0.0, line.lead_distance_m / LEAD_RANGE_M))
    values = {
        "image": recording.image(line),
        "lidar_bev": recording.lidar_bev(line),
        "ego_status": np.asarray(line.ego_status, np.float32),
        "waypoints_in_ego": np.asarray(line.waypoints_in_ego, np.float32),
        "decision": decisions.index(line.decision),
        "light": LIGHT_STATES.index(line.light_state),
        "lead": (lead, 0.0 if lead >= 1.0 else (line.lead_speed_mps or 0.0) / SPEED_SCALE_MPS),
        "target_speed": line.target_speed_mps / SPEED_SCALE_MPS,
        "speed_mps": line.speed_mps,
        "semantic": NO_TAG if semantic is None else np.where(semantic < N_TAGS, semantic, NO_TAG),
    }
    for name, value in values.items():
        target = arrays[name]
        if isinstance(value, np.ndarray) and value.shape != target.shape[1:]:
            raise DataError(
                f"{recording.folder}: {name} of sample {line.index} has shape {value.shape}, others have "
                f"{target.shape[1:]}.",
                "Train on recordings of one rig and one planner preset.",
            )
        target[i] = value


def _check_split(recordings: Sequence[Recording]) -> None:
    seen: dict[tuple[str, str], str] = {}
    towns: dict[str, str] = {}
    for recording in recordings:
        meta = recording.meta
        key = (meta.town, meta.route_id)
        if seen.setdefault(key, meta.split) != meta.split:
            raise DataError(
                f"Route {meta.route_id} of {meta.town} is in split {seen[key]!r} and in {meta.split!r}.",
                "A route belongs to one split; record it again or leave one drive out.",
            )
        kind = "val_town" if meta.split == "val_town" else "train"
        if towns.setdefault(meta.town, kind) != kind:
            raise DataError(
                f"Town {meta.town} is in split 'val_town' and is trained on as well.",
                "A town of val_town must not be seen in training.",
            )


def _common(recordings: Sequence[Recording], name: str) -> Any:
    """The value that all drives share."""
    first = getattr(recordings[0].meta, name)
    for recording in recordings:
        if getattr(recording.meta, name) != first:
            raise DataError(
                f"{recording.folder} has {name} {getattr(recording.meta, name)!r}, others have {first!r}.",
                "Train on recordings that were made alike.",
            )
    return first
