"""Checkpoints: a folder with `config.json` and `model.safetensors`. Nothing is ever unpickled.

`config.json` carries the format's name and version, the network's configuration, free metadata, and the
SHA-256 of the weights, so that a half-written or mixed-up folder is noticed. The perception's checkpoint uses
the same functions under another format name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from tickdrive.planner.errors import CheckpointError
from tickdrive.planner.files import write_atomically

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PERCEPTION_FOLDER = "perception"
"""Beside the planner's files, in a checkpoint that has both."""
_AGAIN = "Fetch or train it again."


def write_checkpoint(
    folder: str | Path,
    format_name: str,
    version: int,
    config: Mapping[str, Any],
    module: nn.Module,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, each file whole or not at all.

    The weights land before the configuration that vouches for them; a reader that comes between the two
    sees a hash that does not match, never a wrong network.

    Args:
        folder: created where missing.
        format_name: what the folder holds, for example ``"tickdrive-diffusion-policy"``.
        version: of the format; raise it when an old checkpoint would no longer mean the same.
        config: JSON-able configuration.
        module: its `state_dict` is kept.
        metadata: JSON-able facts for the reader (data, steps, commit, …).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    payload = save_safetensors(tensors, metadata={"format": "pt"})
    document = {
        "format": format_name,
        "version": version,
        "weights_sha256": hashlib.sha256(payload).hexdigest(),
        "config": dict(config),
        "metadata": dict(metadata or {}),
    }
    write_atomically(folder / WEIGHTS_FILE, payload)
    write_atomically(folder / CONFIG_FILE, (json.dumps(document, indent=2) + "\n").encode())


def read_document(folder: str | Path, format_name: str, version: int) -> dict[str, Any]:
    """Read and check `config.json`.

    Returns:
        The document, with keys `config`, `metadata` and `weights_sha256` among others.

    Raises:
        CheckpointError: the folder or file is missing or damaged, or of another format or version.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {folder}.", "Check the path.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no {CONFIG_FILE}, so it is no checkpoint.", "Check the path."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}).", _AGAIN) from error
    if not isinstance(document, dict) or document.get("format") != format_name:
        got = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise CheckpointError(
            f"{path} is of format {got!r}; {format_name!r} was expected.", "Check the path."
        )
    if document.get("version") != version:
        raise CheckpointError(
            f"{path} is of version {document.get('version')!r}; this program reads version {version}.",
            "Use the release that wrote it, or train it again.",
        )
    for key, kind in (("config", dict), ("metadata", dict), ("weights_sha256", str)):
        if not isinstance(document.get(key), kind):
            raise CheckpointError(f"{path} has no valid {key!r}.", _AGAIN)
    return document


def read_weights(folder: str | Path, document: Mapping[str, Any], module: nn.Module) -> None:
    """Read `model.safetensors` into a module, strictly.

    Args:
        folder: of the checkpoint.
        document: from `read_document`.
        module: of the configuration in the document; its tensors are overwritten.

    Raises:
        CheckpointError: the file is missing, truncated or not the one its configuration vouches for; a
            tensor is missing, unknown, of another shape, or not finite.
    """
    path = Path(folder) / WEIGHTS_FILE
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).", _AGAIN) from error
    try:
        tensors = load_safetensors(payload)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}).", _AGAIN) from error
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path} does not fit its network: {_some('missing', missing)}{_some('unknown', unknown)}".rstrip(
                " ;"
            )
            + ".",
            "It was written by another version of the network; train it again.",
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name!r} has shape {tuple(tensor.shape)}, "
                f"the network needs {tuple(expected[name].shape)}.",
                f"{CONFIG_FILE} and {WEIGHTS_FILE} do not belong together; fetch or train them again.",
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {name!r} holds NaN or infinity.", "Its training diverged; train it again."
            )
    if hashlib.sha256(payload).hexdigest() != document["weights_sha256"]:
        raise CheckpointError(
            f"{path} is not the file that {CONFIG_FILE} beside it was written for (SHA-256 differs).", _AGAIN
        )
    module.load_state_dict(tensors, strict=True)


def _some(label: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{label} {', '.join(map(repr, names[:3]))}{more}; "
