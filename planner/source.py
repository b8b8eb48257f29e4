"""Which commit the source is of: said in logs, recordings of figures and benchmarks alike."""

from __future__ import annotations

import subprocess
from pathlib import Path


def source_commit(folder: Path | None = None) -> str | None:
    """Commit of the source tree that a folder is in, `-dirty` behind it where files differ; None outside one.

    Args:
        folder: None for this package's own.
    """
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder or Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
