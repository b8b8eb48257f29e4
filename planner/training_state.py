"""The state of a training on disk: one safetensors file, replaced whole, never pickled.

Tensors are the trained and the averaged weights and AdamW's moments; the file's header has the rest as JSON.
There is no state of random generators to keep: every step is seeded by its own number (see `step_seed`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import nn

from tickdrive.planner.errors import CheckpointError
from tickdrive.planner.files import write_atomically
from tickdrive.planner.training_config import MAY_DIFFER_ON_RESUME

STATE_FILE = "state.safetensors"
SCHEMA = 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is, and what it is.

    Attributes:
        step: optimizer steps done.
        steps: in all.
        elapsed_s: spent training so far, over all its runs.
        training: `TrainingConfig` as a dict.
        policy: `PolicyConfig` as a dict.
        perception: the perception's configuration as a dict.
        data: counts by split, and what else the report tells of the data.
        metrics: of the last validation.
        schema: of this file.
    """

    step: int
    steps: int
    elapsed_s: float
    training: dict[str, Any]
    policy: dict[str, Any]
    perception: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def step_seed(seed: int, step: int) -> int:
    """Seed of all that is random in a step: a resumed training draws what an uninterrupted one would."""
    return (seed * 1_000_003 + step * _GOLDEN + 1) % (1 << 63)


def save_state(
    folder: Path,
    progress: TrainingProgress,
    modules: Mapping[str, nn.Module],
    averaged: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    names: Mapping[torch.Tensor, str],
) -> None:
    """Replace the state file.

    Args:
        folder: of the run.
        progress: the file's JSON part.
        modules: "policy" and "perception".
        averaged: the same, averaged.
        optimizer: AdamW over their parameters.
        names: a unique name of each parameter.
    """
    tensors: dict[str, torch.Tensor] = {}
    for prefix, group in (("model", modules), ("ema", averaged)):
        for key, module in group.items():
            for name, tensor in module.state_dict().items():
                tensors[f"{prefix}.{key}.{name}"] = tensor.detach().cpu().contiguous()
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            tensors[f"adam.{names[parameter]}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    header = {"progress": json.dumps(asdict(progress))}
    write_atomically(folder / STATE_FILE, save_safetensors(tensors, metadata=header))


def read_progress(folder: str | Path) -> TrainingProgress:
    """The JSON part of a run's state.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {STATE_FILE}.", "Give the folder of a training run.")
    try:
        with safe_open(str(path), framework="pt") as file:
            document = json.loads((file.metadata() or {})["progress"])
        if document.get("schema") != SCHEMA:
            raise CheckpointError(
                f"{path} is of schema {document.get('schema')!r}, not {SCHEMA}.", "Start the training again."
            )
        return TrainingProgress(**document)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}).", "Start the training again.") from error


def load_state(
    folder: str | Path,
    modules: Mapping[str, nn.Module] | None,
    averaged: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None = None,
    names: Mapping[torch.Tensor, str] | None = None,
) -> TrainingProgress:
    """Read a state into modules and optimizer.

    Args:
        folder: of the run.
        modules: filled with the trained weights; None to leave them out.
        averaged: filled with the averaged weights.
        optimizer: gets its moments; None to leave them out.
        names: as `save_state`.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not fit the modules.
    """
    progress = read_progress(folder)
    path = Path(folder) / STATE_FILE
    with safe_open(str(path), framework="pt") as file:
        keys = set(file.keys())
        for prefix, group in (("model", modules or {}), ("ema", averaged)):
            for key, module in group.items():
                start = f"{prefix}.{key}."
                tensors = {
                    name.removeprefix(start): file.get_tensor(name) for name in keys if name.startswith(start)
                }
                try:
                    module.load_state_dict(tensors, strict=True)
                except RuntimeError as error:
                    raise CheckpointError(
                        f"{path} does not fit the network: {str(error).splitlines()[-1].strip()}",
                        "Resume with the configuration that the run was started with.",
                    ) from error
        if optimizer is not None and names is not None:
            for parameter, name in names.items():
                start = f"adam.{name}."
                entry = {
                    key.removeprefix(start): file.get_tensor(key)
                    for key in (f"{start}step", f"{start}exp_avg", f"{start}exp_avg_sq")
                    if key in keys
                }
                if entry:
                    # the step count stays where AdamW keeps it: on the CPU, unless it is fused or capturable
                    optimizer.state[parameter] = {
                        key: value if key == "step" and not _fused(optimizer) else value.to(parameter.device)
                        for key, value in entry.items()
                    }
    return progress


def check_same_training(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Refuse to resume with settings that would make it another training.

    Raises:
        CheckpointError: names the first setting that differs.
    """
    for key in sorted(then.keys() | now.keys()):
        if key in MAY_DIFFER_ON_RESUME:
            continue
        # the header went through JSON, where tuples are lists
        before, after = json.loads(json.dumps([then.get(key), now.get(key)], default=str))
        if before != after:
            raise CheckpointError(
                f"{folder} was started with {what} {key}={before!r}, now it is {after!r}.",
                "Resume with the same settings, or train into another folder.",
            )


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))
