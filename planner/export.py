"""From a training run to the checkpoint that an agent loads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from tickdrive.planner.checkpoint import PERCEPTION_FOLDER
from tickdrive.planner.errors import CheckpointError
from tickdrive.planner.files import write_atomically
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.supervision import PerceptionModule
from tickdrive.planner.training_state import load_state, read_progress

MAX_BYTES = 50 * 1024 * 1024
"""The most that a shipped checkpoint may hold."""


def export_checkpoint(
    run: str | Path, out: str | Path, perception: nn.Module, command: str = "", half: bool = True
) -> dict[str, Any]:
    """Write a run's averaged weights as a checkpoint: planner, `perception/` beside it, `report.json`.

    Args:
        run: folder of a training.
        out: folder of the checkpoint; made where missing.
        perception: a module built from the run's `perception` configuration; its weights are overwritten.
        command: that trained it, for the report.
        half: keep matrices in fp16 on disk; vectors, norms and bounds stay fp32. They are fp32 once loaded.

    Returns:
        The report.

    Raises:
        CheckpointError: the run has no state, it does not fit, or the result is over 50 MB.
    """
    out = Path(out)
    policy = DiffusionPolicy(PolicyConfig(**read_progress(run).policy))
    progress = load_state(run, None, {"policy": policy, "perception": perception})
    metadata = {"step": progress.step, "steps": progress.steps, "data": progress.data, "command": command}
    stored = policy
    if half:
        stored = copy.deepcopy(policy)
        for parameter in stored.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.data.half()
    stored.save_pretrained(out, metadata)
    cast(PerceptionModule, perception).save_pretrained(out / PERCEPTION_FOLDER, metadata, half=half)
    size = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    report = {
        "schema": 1,
        "command": command,
        "finished": progress.step >= progress.steps,
        "step": progress.step,
        "steps": progress.steps,
        "elapsed_s": round(progress.elapsed_s, 1),
        "bytes": size,
        "data": progress.data,
        "training": progress.training,
        "metrics": progress.metrics,
    }
    write_atomically(out / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    if size > MAX_BYTES:
        raise CheckpointError(
            f"The checkpoint in {out} holds {size / 2**20:.1f} MB; at most {MAX_BYTES >> 20} are shipped.",
            "Export with half=True, or train a smaller one.",
        )
    return report
