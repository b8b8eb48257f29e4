"""Results of an upstream run: on disk in upstream's form after every route, merged by upstream's own code.

The file is upstream's at any time: while routes are missing it is what upstream writes between two routes
(`entry_status` "Started", no global record). It is replaced as a whole, so a kill leaves the last state.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.upstream.checkout import Checkout
from tickdrive.planner.errors import DataError
from tickdrive.planner.files import write_atomically

SIMULATION_CRASHED = "Failed - Simulation crashed"
AGENT_CRASHED = "Failed - Agent crashed"
SENSORS_INVALID = "Failed - Agent's sensors were invalid"
_UNFINISHED = "Started"
_MERGE_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Drive:
    """A route to be driven, once.

    Attributes:
        route: its name without repetition, `RouteScenario_<id>`.
        repetition: counts from 0.
    """

    route: str
    repetition: int

    @property
    def route_id(self) -> str:
        """As results files have it."""
        return f"{self.route}_rep{self.repetition}"


class Records:
    """What is known of a run.

    Args:
        path: the results file.
        drives: all that are to be driven, in upstream's order.
        resume: go on with what the file holds.

    Raises:
        DataError: there is a file and it is not to be gone on with, or it is damaged or of other routes.
    """

    def __init__(self, path: Path, drives: Sequence[Drive], resume: bool) -> None:
        self.path = path
        self._drives = tuple(drives)
        self._records: dict[str, dict[str, Any]] = {}
        self.sensors: list[str] = []
        if path.exists():
            if not resume:
                raise DataError(f"{path} exists already.", "Go on with it (--resume), or give another --out.")
            self._read()

    def _read(self) -> None:
        content = read_checkpoint(self.path)
        if content is None:
            raise DataError(f"{self.path} is no results file.", "Give another --out, or delete it.")
        known = {drive.route_id for drive in self._drives}
        for record in content["_checkpoint"]["records"]:
            if record["route_id"] not in known:
                raise DataError(
                    f"{self.path} has a result of {record['route_id']}, which is not among the routes now.",
                    "Give the routes (and --subset, --repetitions) of that run, or another --out.",
                )
            self._records[record["route_id"]] = record
        self.sensors = content["sensors"]

    def add(self, drive: Drive, record: Mapping[str, Any]) -> None:
        """Take a drive's record, and write the file."""
        self._records[drive.route_id] = {**record, "route_id": drive.route_id}
        self.write()

    def of(self, drive: Drive) -> Mapping[str, Any] | None:
        """A drive's record, where it has one."""
        return self._records.get(drive.route_id)

    def pending(self) -> tuple[Drive, ...]:
        """Drives without a record, in order."""
        return tuple(drive for drive in self._drives if drive.route_id not in self._records)

    def finished(self) -> list[dict[str, Any]]:
        """Records in upstream's order, numbered as it does."""
        done = [drive.route_id for drive in self._drives if drive.route_id in self._records]
        return [{**self._records[route_id], "index": i} for i, route_id in enumerate(done)]

    def write(self) -> None:
        """Write the file as upstream does between two routes."""
        records = self.finished()
        content = {
            "_checkpoint": {
                "global_record": {},
                "progress": [len(records), len(self._drives)],
                "records": records,
            },
            "entry_status": "Started",
            "eligible": False,
            "sensors": self.sensors,
            "values": [],
            "labels": [],
        }
        write_atomically(self.path, json.dumps(content, indent=4).encode())

    def conclude(self, checkout: Checkout) -> None:
        """Have upstream's own code add the global record, once every drive has its own.

        Raises:
            DataError: upstream's code could not; what is known is in the file nevertheless.
        """
        self.write()
        if not self.pending():
            _upstream(checkout, "conclude", str(self.path))

    def lost(self, checkout: Checkout, drive: Drive, status: str) -> None:
        """Give up on a drive: upstream's own code makes the record of a route that failed.

        Raises:
            DataError: upstream's code could not.
        """
        made = _upstream(checkout, "lost", drive.route_id, status.removeprefix("Failed - "))
        self.add(drive, json.loads(made))


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """A results file of upstream's; None where there is none, or (upstream is writing) only part of one."""
    try:
        content = json.loads(path.read_text())
        content["_checkpoint"]["records"], content["sensors"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(content)


def verdicts(content: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Records of routes that are done; upstream also lists the one under way."""
    records = content["_checkpoint"]["records"] if content else []
    return [record for record in records if record["status"] != _UNFINISHED]


def _upstream(checkout: Checkout, *command: str) -> str:
    """Call `merge.py` in a process of its own: upstream's packages must not come into this one."""
    roots = json.dumps(checkout.python_path)
    run = subprocess.run(
        [sys.executable, "-m", "tickdrive.leaderboard.upstream.merge", roots, *command],
        capture_output=True,
        text=True,
        timeout=_MERGE_TIMEOUT_S,
        cwd=checkout.working_folder,
    )
    if run.returncode:
        raise DataError(
            f"Upstream's statistics_manager.py failed on the results: {run.stderr.strip()[-800:]}",
            "The routes' records are kept.",
        )
    return run.stdout.splitlines()[-1] if run.stdout else ""
