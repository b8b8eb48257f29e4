"""What came of one drive of a sweep: `drive.json`, written last; with it a drive is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tickdrive.agents.tick_log import read_log
from tickdrive.leaderboard.criteria.base import EventKind
from tickdrive.leaderboard.results import RouteRecord, write_json_atomically
from tickdrive.leaderboard.scoring import Failure, is_bench2drive_success
from tickdrive.leaderboard.sweep.plan import SweepDrive
from tickdrive.planner.errors import DataError

DRIVE_NAME = "drive.json"
SCHEMA = 1
COLLISIONS = (EventKind.COLLISION_PEDESTRIAN, EventKind.COLLISION_VEHICLE, EventKind.COLLISION_STATIC)


@dataclass(frozen=True)
class DriveResult:
    """One drive.

    Attributes:
        latency_ms: see `SweepPoint`.
        compensation: see `SweepPoint`.
        route_id: as in the route file.
        seed: of traffic, lights and noise.
        status: the leaderboard's words.
        score: driving score, 0 to 100.
        completion: share of the route, 0 to 100.
        success: by Bench2Drive's rule: the goal reached, and no infraction but minimum speed.
        infractions: kind -> how many; kinds without any are left out.
        driven_km: share of the route's length that was completed.
        game_s: simulated seconds.
        wall_s: and on the clock, from the start of its simulator.
        ticks: in the tick log.
        past_horizon: ticks in which the plan in force had run out.
        commit: of the source tree it was driven with.
    """

    latency_ms: float
    compensation: bool
    route_id: str
    seed: int
    status: str
    score: float
    completion: float
    success: bool
    infractions: Mapping[str, int]
    driven_km: float
    game_s: float
    wall_s: float
    ticks: int
    past_horizon: int
    commit: str | None = None

    @property
    def collisions(self) -> int:
        """With anything: vehicles, pedestrians, layout."""
        return sum(self.infractions.get(kind.value, 0) for kind in COLLISIONS)

    @property
    def blocked(self) -> bool:
        """Whether it ended because the agent stood for too long."""
        return Failure.BLOCKED.value in self.status

    @staticmethod
    def build(
        drive: SweepDrive, record: RouteRecord, log_path: Path, wall_s: float, commit: str | None
    ) -> DriveResult:
        """From the drive's record and tick log.

        Raises:
            DataError: the log cannot be read, or its ticks were not driven with the drive's latency.
        """
        ticks = read_log(log_path).ticks
        models = [tick["latency"] for tick in ticks if tick.get("latency") is not None]
        _check_latency(drive, models, log_path)
        return DriveResult(
            latency_ms=drive.point.latency_ms,
            compensation=drive.point.compensation,
            route_id=drive.route_id,
            seed=drive.seed,
            status=record.status,
            score=record.scores["score_composed"],
            completion=record.scores["score_route"],
            success=is_bench2drive_success(record.status, dict(record.infractions)),
            infractions={kind: len(messages) for kind, messages in record.infractions.items() if messages},
            driven_km=record.meta["route_length"] / 1000.0 * record.scores["score_route"] / 100.0,
            game_s=record.meta["duration_game"],
            wall_s=round(wall_s, 1),
            ticks=len(ticks),
            past_horizon=sum(bool(model["past_horizon"]) for model in models),
            commit=commit,
        )

    def write(self, folder: Path) -> None:
        """Write it whole or not at all."""
        write_json_atomically(folder / DRIVE_NAME, {"schema": SCHEMA, **asdict(self)})

    @staticmethod
    def read(folder: Path, drive: SweepDrive) -> DriveResult | None:
        """A drive's result; None where it has not been driven to its end.

        Raises:
            DataError: the file is damaged, of another schema, or of another drive.
        """
        path = folder / DRIVE_NAME
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("schema") != SCHEMA:
                raise ValueError("it is of another schema")
            result = DriveResult(**content)
            expected = (drive.point.latency_ms, drive.point.compensation, drive.route_id, drive.seed)
            if (result.latency_ms, result.compensation, result.route_id, result.seed) != expected:
                raise ValueError("it is of another drive")
            return result
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"The drive's result {path} cannot be used: {error}.", "Remove it: the drive is driven again."
            ) from error


def _check_latency(drive: SweepDrive, models: list[Mapping[str, Any]], log_path: Path) -> None:
    """A drive at the wrong latency would be a wrong point of the curve, and nobody would see."""
    wanted_us = round(drive.point.latency_ms * 1000.0)
    found = {model["us"] for model in models} - {None}
    if found != ({wanted_us} if wanted_us else set()):
        shown = ", ".join(f"{us} us" for us in sorted(found)[:3]) or "none"
        raise DataError(
            f"{log_path} was driven at a latency of {shown}; {wanted_us} us were asked for.",
            "The agent does not apply the latency model of its configuration.",
        )
