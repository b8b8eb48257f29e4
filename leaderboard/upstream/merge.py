"""Upstream's own `StatisticsManager` on merged records: `python -m tickdrive.leaderboard.upstream.merge`."""

from __future__ import annotations

import inspect
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.upstream.runner import prepare


def main(arguments: list[str]) -> None:
    """``ROOTS conclude FILE`` adds the global record; ``ROOTS lost ROUTE_ID WHY`` prints a failed record."""
    roots, command, *rest = arguments
    prepare(json.loads(roots))
    if command == "conclude":
        _conclude(Path(rest[0]))
    else:
        print(json.dumps(_lost(*rest)))


def _manager(path: Path) -> Any:
    from leaderboard.utils.statistics_manager import StatisticsManager  # upstream's

    return StatisticsManager(str(path), os.devnull)


def _conclude(path: Path) -> None:
    content = json.loads(path.read_text())
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".merge-") as folder:
        whole = Path(folder) / path.name  # upstream writes in place: a kill would leave part of a file
        manager = _manager(whole)
        manager.add_file_records(str(path))
        manager.save_sensors(content["sensors"])
        manager.save_progress(*content["_checkpoint"]["progress"])
        manager.compute_global_statistics()
        manager.validate_and_write_statistics(bool(content["sensors"]), False)
        os.replace(whole, path)


def _lost(route_id: str, why: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        manager = _manager(path)
        # Bench2Drive's takes more: names of scenario, weather, folder and town, which nobody knows here
        names = list(inspect.signature(manager.create_route_data).parameters)
        manager.create_route_data(
            *(route_id if n == "route_id" else 0 if n == "index" else "" for n in names)
        )
        manager.save_progress(1, 1)
        manager.compute_route_statistics(0, failure_message=why)
        manager.write_statistics()
        records: list[dict[str, Any]] = json.loads(path.read_text())["_checkpoint"]["records"]
        return records[0]


if __name__ == "__main__":
    main(sys.argv[1:])
