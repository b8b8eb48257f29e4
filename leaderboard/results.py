"""The results file: upstream's JSON, plus latency, written so that no kill loses or repeats a route.

Schema: leaderboard 2.x `leaderboard/utils/statistics_manager.py` (`Results`, `RouteRecord`, `GlobalRecord`).
Beyond it the file has two blocks at its top that upstream's readers ignore: `latency`, and `tickdrive`
(rules, agent, seed, the routes in order, every infraction's tick and place, what became of the scenarios).
Every record also has `criteria`, its table.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.criteria.base import Event, EventKind
from tickdrive.leaderboard.scenarios.outcome import ScenarioOutcome
from tickdrive.leaderboard.scoring import Failure, Scores
from tickdrive.leaderboard.tick_timing import TimingHistogram
from tickdrive.planner.errors import DataError
from tickdrive.planner.files import write_atomically

INFRACTION_KEYS = tuple(kind.value for kind in EventKind)
ENTRY_STATUSES = ("Started", "Finished", "Rejected", "Crashed", "Invalid")
# statistics_manager.py, `compute_global_statistics`: label -> where its value comes from
_LABELS = (
    ("Avg. driving score", "score_composed"),
    ("Avg. route completion", "score_route"),
    ("Avg. infraction penalty", "score_penalty"),
    ("Collisions with pedestrians", "collisions_pedestrian"),
    ("Collisions with vehicles", "collisions_vehicle"),
    ("Collisions with layout", "collisions_layout"),
    ("Red lights infractions", "red_light"),
    ("Stop sign infractions", "stop_infraction"),
    ("Off-road infractions", "outside_route_lanes"),
    ("Route deviations", "route_dev"),
    ("Route timeouts", "route_timeout"),
    ("Agent blocked", "vehicle_blocked"),
    ("Yield emergency vehicles infractions", "yield_emergency_vehicle_infractions"),
    ("Scenario timeouts", "scenario_timeouts"),
    ("Min speed infractions", "min_speed_infractions"),
)
_OUTSIDE_METRES = re.compile(r"about ([0-9.eE+-]+) meters")


@dataclass(frozen=True)
class CriterionRow:
    """A row of the result table. `result` is SUCCESS or FAILURE; `unit` is empty where there is no value."""

    name: str
    result: str
    value: float
    unit: str


@dataclass(frozen=True)
class PlacedInfraction:
    """An infraction with the moment and the place at which it became known.

    Attributes:
        kind: as in `RouteRecord.infractions`.
        frame: the simulator's frame; for what grows (driving outside the lanes), the first.
        sim_s: simulated seconds since the route's start.
        position_in_world: (x, y) of the ego then, metres.
        message: upstream's wording, as it stands in the record.
    """

    kind: str
    frame: int
    sim_s: float
    position_in_world: tuple[float, float]
    message: str


@dataclass(frozen=True)
class RouteRecord:
    """The result of one route.

    Attributes:
        index: place of the route in the evaluation.
        route_id: ``RouteScenario_<id>_rep<k>``.
        status: upstream's words, see `scoring.route_status`.
        infractions: kind -> messages; every kind is present.
        scores: score_route, score_penalty, score_composed.
        meta: route_length [m], duration_game [s], duration_system [s].
        criteria: rows of the result table.
    """

    index: int
    route_id: str
    status: str
    num_infractions: int
    infractions: Mapping[str, list[str]]
    scores: Mapping[str, float]
    meta: Mapping[str, float]
    criteria: tuple[CriterionRow, ...] = ()

    @property
    def simulation_crashed(self) -> bool:
        """Whether it failed for no fault of the agent: a resumed evaluation drives it again."""
        return Failure.SIMULATION.value in self.status

    @staticmethod
    def build(
        index: int,
        route_id: str,
        status: str,
        events: Sequence[Event],
        scores: Scores,
        length_m: float,
        game_s: float,
        system_s: float,
        criteria: Sequence[CriterionRow] = (),
    ) -> RouteRecord:
        """Record of a drive's events and scores."""
        infractions: dict[str, list[str]] = {key: [] for key in INFRACTION_KEYS}
        for event in events:
            infractions[event.kind.value].append(event.message)
        return RouteRecord(
            index=index,
            route_id=route_id,
            status=status,
            num_infractions=len(events),
            infractions=infractions,
            scores={
                "score_route": scores.route,
                "score_penalty": scores.penalty,
                "score_composed": scores.composed,
            },
            meta={
                "route_length": round(length_m, 3),
                "duration_game": round(game_s, 3),
                "duration_system": round(system_s, 3),
            },
            criteria=tuple(criteria),
        )

    @staticmethod
    def from_json(data: Any) -> RouteRecord:
        """Read a record back; `criteria` may be absent (upstream's own files)."""
        rows = tuple(CriterionRow(**row) for row in data.get("criteria", ()))
        keys = ("index", "route_id", "status", "num_infractions", "infractions", "scores", "meta")
        record = RouteRecord(**{key: data[key] for key in keys}, criteria=rows)
        for name, value in {**record.scores, **record.meta}.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}")
        return record


@dataclass
class Results:
    """All results of an evaluation, bound to their file.

    Args:
        path: the results file.
        route_ids: ``RouteScenario_<id>_rep<k>`` of every route, in order.
        notes: the `tickdrive` block: rules, agent, seed and the like.
    """

    path: Path
    route_ids: tuple[str, ...]
    notes: dict[str, Any] = field(default_factory=dict)
    records: dict[str, RouteRecord] = field(default_factory=dict)
    entry_status: str = "Started"
    sensors: list[str] = field(default_factory=list)
    timing: TimingHistogram = field(default_factory=TimingHistogram)
    route_timing: dict[str, Any] = field(default_factory=dict)
    budget_ms: float = 50.0
    infractions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    scenarios: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @staticmethod
    def open(
        path: str | Path,
        route_ids: Sequence[str],
        notes: Mapping[str, Any],
        resume: bool,
        budget_ms: float = 50.0,
        given_up: Mapping[str, Failure] | None = None,
    ) -> Results:
        """Start a results file, or take up an old one.

        Args:
            path: the results file; with `resume` it may or may not exist.
            route_ids: the routes to be driven, in order, each once.
            notes: what must be equal for two runs to belong together.
            resume: keep the records of `path`; else an existing file is replaced.
            budget_ms: of a tick, for the count of misses.
            given_up: routes that were lost too often, and why: those without a record get an empty one.

        Raises:
            DataError: the file to resume is damaged, or belongs to other routes or settings.
        """
        path = Path(path)
        if len(set(route_ids)) != len(route_ids):
            raise DataError("A route occurs twice in the evaluation.", "Give each route and repetition once.")
        results = Results(path, tuple(route_ids), dict(notes), budget_ms=budget_ms)
        if resume and path.exists():
            results._take_up(read_results(path), given_up or {})
        for route_id, failure in (given_up or {}).items():
            results._give_up(route_id, failure)
        results.write()
        return results

    def _take_up(self, data: Mapping[str, Any], given_up: Mapping[str, Failure]) -> None:
        notes = data.get("tickdrive") or {}
        if notes.get("routes") != list(self.route_ids):
            raise DataError(
                f"{self.path} belongs to other routes than those asked for.",
                "Resume with the same routes, or choose another output folder.",
            )
        for key, value in self.notes.items():
            if key in notes and notes[key] != value and key != "skipped_scenarios":
                raise DataError(
                    f"{self.path} was made with {key}={notes[key]!r}, now it is {value!r}.",
                    "Resume with the same settings, or choose another output folder.",
                )
        for item in data["_checkpoint"]["records"]:
            record = RouteRecord.from_json(item)
            if not record.simulation_crashed or record.route_id in given_up:
                self.records[record.route_id] = record
        self.sensors = list(data.get("sensors", []))
        latency = data.get("latency") or {}
        self.timing = TimingHistogram.from_json(latency.get("histogram", {}))
        self.route_timing = {k: v for k, v in latency.get("routes", {}).items() if k in self.records}
        placed = notes.get("infractions", {})
        self.infractions = {k: v for k, v in placed.items() if k in self.records}
        self.scenarios = {k: v for k, v in notes.get("scenarios", {}).items() if k in self.records}

    def _give_up(self, route_id: str, failure: Failure) -> None:
        if route_id not in self.records:
            self.records[route_id] = RouteRecord.build(
                index=self.route_ids.index(route_id),
                route_id=route_id,
                status=f"Failed - {failure.value}",
                events=(),
                scores=Scores(0.0, 1.0, 0.0),
                length_m=0.0,
                game_s=0.0,
                system_s=0.0,
            )

    def pending(self) -> list[str]:
        """Routes without a record, in order."""
        return [route_id for route_id in self.route_ids if route_id not in self.records]

    def begin(self) -> None:
        """Note on disk that a route is under way."""
        self.entry_status = "Started"
        self.write()

    def finish(
        self,
        record: RouteRecord,
        timing: TimingHistogram,
        infractions: Sequence[PlacedInfraction] = (),
        scenarios: Sequence[ScenarioOutcome] = (),
    ) -> None:
        """Add a route's record, where its infractions happened, what became of its scenarios, and write."""
        self.records[record.route_id] = record
        self.infractions[record.route_id] = [asdict(infraction) for infraction in infractions]
        self.scenarios[record.route_id] = [asdict(outcome) for outcome in scenarios]
        if not record.simulation_crashed:  # it is driven again, or was not driven to an end
            self.timing.add(timing)
        self.route_timing[record.route_id] = timing.summary(self.budget_ms)
        self.write()

    def conclude(self) -> None:
        """Settle the entry status as upstream does and write the file."""
        if not self.pending():
            self.entry_status = "Finished"
        for record in self.records.values():
            if record.simulation_crashed:
                self.entry_status = "Crashed"
            elif Failure.AGENT_SENSORS.value in record.status:
                self.entry_status = "Rejected"
        self.write()

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        records = [self.records[r] for r in self.route_ids if r in self.records]
        overall = global_record(records) if records else {}
        return {
            "_checkpoint": {
                "global_record": overall,
                "progress": [len(records), len(self.route_ids)],
                "records": [asdict(r) for r in records],
            },
            "entry_status": self.entry_status,
            "eligible": self.entry_status == "Finished",
            "sensors": self.sensors,
            "values": [_value(overall, key) for _, key in _LABELS] if overall else [],
            "labels": [label for label, _ in _LABELS] if overall else [],
            "latency": {
                **self.timing.summary(self.budget_ms),
                "routes": self.route_timing,
                "histogram": self.timing.to_json(),
            },
            "tickdrive": {
                **self.notes,
                "routes": list(self.route_ids),
                "infractions": self.infractions,
                "scenarios": self.scenarios,
            },
        }

    def write(self) -> None:
        """Replace the file in one step: a reader, and a kill, see the old content or the new, never half."""
        write_json_atomically(self.path, self.to_json())


def write_json_atomically(path: Path, data: Any, indent: int | None = 4) -> None:
    """Write the file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(data, indent=indent, allow_nan=False).encode())


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a results file, ours or upstream's.

    Raises:
        DataError: it cannot be read, is no JSON, or lacks what every results file has; the message names it.
    """
    path = Path(path)
    mend = "Restore it from a copy, or move it away to start anew."
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        checkpoint = data["_checkpoint"]
        if data["entry_status"] not in ENTRY_STATUSES or not isinstance(checkpoint["progress"], list):
            raise ValueError("entry_status or progress is not what upstream writes")
        for record in checkpoint["records"]:
            RouteRecord.from_json(record)
    except OSError as error:
        raise DataError(
            f"Results file {path} cannot be read: {error.strerror}.", "Check the path."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"Results file {path} is damaged: {type(error).__name__}: {error}.", mend) from error
    return data


def global_record(records: Sequence[RouteRecord]) -> dict[str, Any]:
    """Upstream's global record over the routes driven so far: means, deviations, infractions per km.

    While routes are missing, means are over those that are done (upstream writes the block only at the end).
    """
    n = len(records)
    keys = ("score_composed", "score_route", "score_penalty")
    means = {key: sum(r.scores[key] for r in records) / n for key in keys}
    deviations = {
        key: round(math.sqrt(sum((r.scores[key] - means[key]) ** 2 for r in records) / (n - 1)), 3)
        if n > 1
        else 0
        for key in keys
    }
    km = max(sum(r.meta["route_length"] / 1000 * r.scores["score_route"] / 100 for r in records), 0.001)
    infractions: dict[str, float] = {}
    for key in INFRACTION_KEYS:
        if key == EventKind.OUTSIDE_ROUTE_LANES.value:  # kilometres driven outside, not divided
            infractions[key] = round(sum(_outside_m(r) for r in records) / 1000, 3)
        else:
            infractions[key] = round(sum(len(r.infractions[key]) for r in records) / km, 3)
    failed = [r for r in records if "Failed" in r.status]
    perfect = all(r.status == "Perfect" for r in records)
    return {
        "index": -1,
        "route_id": -1,
        "status": "Failed" if failed else "Perfect" if perfect else "Completed",
        "infractions": infractions,
        "scores_mean": {key: round(value, 6) for key, value in means.items()},
        "scores_std_dev": deviations,
        "meta": {
            "total_length": sum(r.meta["route_length"] for r in records),
            "duration_game": sum(r.meta["duration_game"] for r in records),
            "duration_system": sum(r.meta["duration_system"] for r in records),
            "exceptions": [[r.route_id, r.index, r.status] for r in failed],
        },
    }


def _outside_m(record: RouteRecord) -> float:
    matches = (_OUTSIDE_METRES.search(m) for m in record.infractions[EventKind.OUTSIDE_ROUTE_LANES.value])
    return sum(float(match.group(1)) for match in matches if match)


def _value(overall: Mapping[str, Any], key: str) -> str:
    return str(overall["scores_mean"][key] if key in overall["scores_mean"] else overall["infractions"][key])
