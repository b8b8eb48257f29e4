"""What a run left in its folder, route by route, and what of it is missing or damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickdrive.agents.tick_log import logs_below
from tickdrive.leaderboard.evaluator import RESULTS_NAME
from tickdrive.leaderboard.frames import FRAME_NAME, FRAMES_FOLDER
from tickdrive.leaderboard.latency import TICK_BUDGET_MS
from tickdrive.leaderboard.results import PlacedInfraction, read_results
from tickdrive.leaderboard.route_map import MAP_NAME
from tickdrive.leaderboard.tick_table import TickTable, read_table
from tickdrive.planner.errors import DataError

_LOG_NAME = re.compile(r"(?:(?P<route>.+)\.)?ticks(?:-(?P<number>\d+))?\.jsonl")


@dataclass(frozen=True)
class RouteFiles:
    """One route of a run.

    Attributes:
        route_id: the record's, or the log's name where there is no record.
        table: of the tick log, at least one tick.
        record: of the results file; None where the route has none (stopped, or no results file).
        infractions: with tick and place; empty where the results file has no places.
        route_map: `route_map.RouteMapKeeper`'s file; None where there is none.
        frames: simulator frame -> picture.
        notes: what is missing or damaged, a sentence each.
    """

    route_id: str
    table: TickTable
    record: Mapping[str, Any] | None
    infractions: tuple[PlacedInfraction, ...]
    route_map: Mapping[str, Any] | None
    frames: Mapping[int, Path]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RunFiles:
    """A run: its routes, the tick's budget, how it was evaluated (rules, seed, agent), what is missing."""

    name: str
    routes: tuple[RouteFiles, ...]
    budget_ms: float
    evaluation: Mapping[str, Any]
    notes: tuple[str, ...]


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder, of `tickdrive drive` or `tickdrive evaluate`.

    Raises:
        DataError: no tick log with ticks in it is there, or none can be read.
    """
    logs = _logs(folder)
    notes: list[str] = []
    results: Mapping[str, Any] = {}
    try:
        results = read_results(folder / RESULTS_NAME)
    except DataError as error:
        notes.append(f"No result of the route: {error.what}")
    records = {record["route_id"]: record for record in results.get("_checkpoint", {}).get("records", ())}
    routes: list[RouteFiles] = []
    failures: list[DataError] = []
    for route, path in logs.items():
        try:
            routes.append(_route(folder, route, path, records, results))
        except DataError as error:
            failures.append(error)
            notes.append(f"{path.name} is left out: {error.what}")
    if not routes:
        raise failures[0]
    unlogged = [route_id for route_id in records if route_id not in {route.route_id for route in routes}]
    if unlogged:
        notes.append(f"Routes with a result but without a tick log, left out: {', '.join(unlogged)}.")
    order = list(records)
    routes.sort(key=lambda route: order.index(route.route_id) if route.route_id in order else len(order))
    return RunFiles(
        name=folder.resolve().name,
        routes=tuple(routes),
        budget_ms=_budget_ms(results, routes[0].table.header),
        evaluation={
            key: value
            for key, value in results.get("tickdrive", {}).items()
            if key in ("agent", "rules", "seed", "skipped_scenarios")
        },
        notes=tuple(notes),
    )


def _budget_ms(results: Mapping[str, Any], header: Mapping[str, Any]) -> float:
    """The evaluation's; without results the agent's own, else a tick."""
    agents = ((header.get("config") or {}).get("budget") or {}).get("tick_ms", TICK_BUDGET_MS)
    return float((results.get("latency") or {}).get("budget_ms", agents))


def _logs(folder: Path) -> dict[str, Path]:
    """Route (empty for a drive's only one) -> its log; of several attempts the last."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        match = _LOG_NAME.fullmatch(path.name)
        if match is None:
            continue
        route, number = match["route"] or "", int(match["number"] or 1)
        if number > found.get(route, (0, path))[0]:
            found[route] = (number, path)
    if not found:
        below = dict.fromkeys(str((folder / log).parent) for log in logs_below(folder))
        raise DataError(
            f"{folder} holds no tick log (ticks.jsonl).",
            f"Give a folder that does: {', '.join(list(below)[:5])}."
            if below
            else "Give the folder of a run of `tickdrive drive` or `evaluate` with the diffusion agent.",
        )
    return {route: path for route, (_, path) in found.items()}


def _route(
    folder: Path,
    route: str,
    path: Path,
    records: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Any],
) -> RouteFiles:
    table = read_table(path)
    if not len(table):
        raise DataError(f"{path} holds no ticks.", "Drive at least one tick, then make the report again.")
    notes = [f"{path.name}: {damage}." for damage in table.damage]
    route_id = route or next(iter(records), "") or path.name.removesuffix(".jsonl")
    record = records.get(route_id)
    if record is None and records:
        notes.append("The route has no result: it was stopped before its end.")
    placed = (results.get("tickdrive") or {}).get("infractions") or {}
    infractions = _infractions(placed.get(route_id, ()))
    if record is not None and record["num_infractions"] and not infractions:
        notes.append("The results file does not say where the infractions happened: they are listed only.")
    route_map = _map(folder / (f"{route}.{MAP_NAME}" if route else MAP_NAME))
    if route_map is None:
        notes.append("No map was kept with this run: roads and route are not drawn.")
    frames = _frames(folder / FRAMES_FOLDER / route if route else folder / FRAMES_FOLDER)
    if not frames:
        notes.append("No camera pictures were kept with this run (--frames).")
    return RouteFiles(
        route_id=route_id,
        table=table,
        record=record,
        infractions=infractions,
        route_map=route_map,
        frames=frames,
        notes=tuple(notes),
    )


def _infractions(items: Any) -> tuple[PlacedInfraction, ...]:
    return tuple(
        PlacedInfraction(
            kind=str(item["kind"]),
            frame=int(item["frame"]),
            sim_s=float(item["sim_s"]),
            position_in_world=(float(item["position_in_world"][0]), float(item["position_in_world"][1])),
            message=str(item["message"]),
        )
        for item in items
    )


def _map(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("schema") == 1 else None


def _frames(folder: Path) -> dict[int, Path]:
    """Simulator frame -> picture, in order."""
    if not folder.is_dir():
        return {}
    named = ((FRAME_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in named if match))
