"""The tick log's header: what one has to know to compare two logs."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tickdrive.agents.config import AgentConfig
from tickdrive.agents.status import STATUS_LAYOUT
from tickdrive.planner.config import config_hash, to_dict
from tickdrive.planner.source import source_commit

_PACKAGES = ("tickdrive", "carla", "torch", "numpy", "diffusers", "transformers")


def run_header(config: Any, engine: str, route: str = "") -> dict[str, Any]:
    """Hardware, versions, commit, configuration and its hash, engine.

    Args:
        config: the agent's, a configuration dataclass.
        engine: the planner's name.
        route: the leaderboard's save name, where it gives one.
    """
    versions: dict[str, str] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")  # an agent that does without it is not made to load it
    return {
        "route": route,
        "engine": engine,
        **({"status_layout": STATUS_LAYOUT} if isinstance(config, AgentConfig) else {}),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": usable_cores(),
            "torch_threads": torch.get_num_threads() if torch else None,
            "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
            "driver": _driver(),
        },
        "versions": versions,
        "commit": source_commit(),
        "config_hash": config_hash(config),
        "config": to_dict(config),
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    """Version of the loaded NVIDIA driver; None where there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return found.group() if found else None
