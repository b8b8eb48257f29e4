"""What engines build once and keep on disk: graphs, and which engine was measured to be the fastest.

Entries lie in `$TICKDRIVE_CACHE`, else in `tickdrive/` of the user's cache folder. A name tells the kind; the
key behind it stands for all that an entry depends on: weights, shapes, versions, device, threads. A changed
checkpoint or an update never meets an old entry.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tickdrive.planner.config import config_hash
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.files import write_atomically
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.timing import device_name

_FORMAT = 1
"""Raise it when what engines keep would no longer mean the same."""
_PACKAGES = ("torch", "onnx", "onnxruntime", "triton")


def cache_folder() -> Path:
    """Where entries lie; not made here."""
    own = os.environ.get("TICKDRIVE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tickdrive"


def use_compiler_caches() -> None:
    """Have Triton and torch's compiler keep what they compile beside the entries, unless told otherwise."""
    for variable, name in (("TRITON_CACHE_DIR", "triton"), ("TORCHINDUCTOR_CACHE_DIR", "inductor")):
        os.environ.setdefault(variable, str(cache_folder() / name))


def policy_hash(policy: DiffusionPolicy) -> str:
    """Hex digest of a policy's configuration and weights."""
    digest = hashlib.sha256(config_hash(policy.config).encode())
    for name, tensor in policy.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def entry_path(kind: str, weights: str, device: torch.device, suffix: str, **facts: Any) -> Path:
    """File of an entry.

    Args:
        kind: beginning of its name.
        weights: `policy_hash`.
        device: that it is for.
        suffix: end of its name.
        facts: what else it depends on.
    """
    known = {
        "format": _FORMAT,
        "weights": weights,
        "device": f"{device.type} {device_name(device)}",
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "versions": {name: _version(name) for name in _PACKAGES},
        **facts,
    }
    text = json.dumps(known, sort_keys=True, default=str)
    return cache_folder() / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}{suffix}"


def write_entry(path: Path, payload: bytes) -> None:
    """Keep an entry.

    Raises:
        PlannerError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, payload)
    except OSError as error:
        raise PlannerError(
            f"The engine cache {path.parent} cannot be written: {error.strerror}.",
            "Name another folder in TICKDRIVE_CACHE.",
        ) from error


def read_entry(path: Path) -> bytes | None:
    """An entry, or None where there is none that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
