"""Where things that ship are, and where runs go."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import tickdrive.configs


def configs_folder() -> Path:
    """The shipped `configs/`."""
    return Path(next(iter(tickdrive.configs.__path__)))


def routes_file(name: str) -> Path:
    """A shipped route file, for example "default"."""
    return configs_folder() / "routes" / f"{name}.xml"


def new_run_folder(name: str) -> Path:
    """`runs/<date>-<name>`, numbered on if it is there already; made here."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    base = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{stem}"
    folder, number = base, 2
    while folder.exists():
        folder, number = base.with_name(f"{base.name}-{number}"), number + 1
    folder.mkdir(parents=True)
    return folder
