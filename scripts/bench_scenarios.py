"""`tickdrive bench scenarios`: whether scenario_runner's scenario types run on the embedded simulator."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import carla

from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.simulator.towns.catalogue import read_town, read_xodr, town_files, town_names
from tickdrive.leaderboard.upstream import probe_agent_path
from tickdrive.leaderboard.upstream.carla_root import make_carla_root
from tickdrive.leaderboard.upstream.checkout import Checkout, open_checkout
from tickdrive.leaderboard.upstream.records import Drive, Records
from tickdrive.leaderboard.upstream.scenario_sites import NEEDS, routes_for
from tickdrive.leaderboard.upstream.simulators import Embedded, SimulatorHost, StartedByEvaluator
from tickdrive.leaderboard.upstream.suite_run import SuiteRun, SuiteSettings, UpstreamAgent
from tickdrive.scripts.output import console, show_rows
from tickdrive.scripts.paths import new_run_folder
from tickdrive.scripts.suite_progress import SuiteProgress

_SKIPPED = re.compile(r"Skipping scenario '.*' due to setup error: (.*)")


@dataclass(frozen=True)
class ScenarioBenchOptions:
    """The command's options."""

    suite: str
    leaderboard_root: Path | None
    scenario_runner_root: Path | None
    towns: Path | None
    types: tuple[str, ...] = ()
    out: Path | None = None
    json_file: Path | None = None


def run(options: ScenarioBenchOptions) -> None:
    """Drive a short route with each type, and print what became of it.

    Raises:
        TickdriveError: a checkout or a folder cannot be used.
    """
    checkout = open_checkout(options.suite, options.leaderboard_root, options.scenario_runner_root)
    folder = (options.out or new_run_folder("scenarios")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    known = checkout.scenario_types()
    types = options.types or tuple(kind for kind in NEEDS if kind in known)
    own, shipped = town_maps(options.towns)
    text, placed, missing = routes_for(types, own | shipped)
    routes_file = folder / "routes.xml"
    routes_file.write_text(text)
    rows = [{"type": kind, "error": why} for kind, why in missing.items()]
    if placed:
        rows += _drive(checkout, options, folder, routes_file, placed)
    columns = ("type", "town", "started", "ended", "verdict", "error")
    rows.sort(key=lambda row: types.index(row["type"]))
    show_rows("Scenarios", [{c: row.get(c, "") for c in columns} for row in rows], options.json_file)
    started, ended = (
        sum(bool(row.get("started")) for row in rows),
        sum(bool(row.get("ended")) for row in rows),
    )
    console.print(f"  {len(rows)} types: {started} started, {ended} ended")


def town_maps(folder: Path | None) -> tuple[dict[str, carla.Map], dict[str, carla.Map]]:
    """The towns at hand: a user's own, and the shipped ones."""
    own = {name: read_xodr(path) for name, path in (town_files(folder) if folder else {}).items()}
    shipped = {name: read_town(name) for name in town_names() if name not in own}
    maps = [{name: carla.Map(name, text) for name, text in each.items()} for each in (own, shipped)]
    return maps[0], maps[1]


def embedded_simulator(
    checkout: Checkout, folder: Path, towns: Path | None, town: str
) -> tuple[Checkout, SimulatorHost]:
    """The embedded simulator for an evaluator: started here, or where the evaluator looks for its CARLA.

    Args:
        checkout: whose evaluator.
        folder: of the run; logs go into `logs` in it, which is there afterwards.
        towns: folder of further towns.
        town: loaded first.

    Returns:
        The checkout, with a CARLA where its evaluator starts one itself; and the simulator.
    """
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    if not checkout.suite.starts_carla:
        return checkout, Embedded(town, towns, 0, logs)
    root = make_carla_root(folder / "carla", towns)
    roots = checkout.leaderboard_root, checkout.scenario_runner_root
    return open_checkout(checkout.suite.name, *roots, root), StartedByEvaluator()


def _drive(
    checkout: Checkout,
    options: ScenarioBenchOptions,
    folder: Path,
    routes_file: Path,
    placed: Mapping[str, tuple[str, str]],
) -> list[dict[str, Any]]:
    routes = read_routes(routes_file)
    drives = {Drive(route.name, 0): placed[route.id] for route in routes}
    records = Records(folder / "results.json", list(drives), resume=False)
    checkout, simulator = embedded_simulator(checkout, folder, options.towns, routes[0].town)
    with SuiteProgress(console, len(drives), dict.fromkeys(drives, 1.0)) as progress:
        suite = SuiteRun(
            checkout,
            routes_file,
            records,
            UpstreamAgent(probe_agent_path(), ""),
            folder,
            simulator,
            SuiteSettings(retries=0, timeout_s=120.0),
            progress,
        )
        suite.run()
    errors = _errors(folder / "logs")
    rows = []
    for drive, (kind, town) in drives.items():
        record = records.of(drive) or {}
        row = {"type": kind, "town": town, "verdict": record.get("status", ""), **_seen(suite, drive)}
        row["error"] = errors.get(drive.route, "")
        rows.append(row)
    return rows


def _seen(suite: SuiteRun, drive: Drive) -> dict[str, Any]:
    """What the probe wrote down of a route's scenario."""
    path = suite.save_folder(drive) / f"scenarios-{drive.route}.json"
    for seen in json.loads(path.read_text()).values() if path.exists() else ():
        return {"started": "yes" if "started_s" in seen else "", "ended": seen.get("ended", "")}
    return {}


def _errors(logs: Path) -> dict[str, str]:
    """Route -> what upstream says went wrong, from the evaluator's logs."""
    errors: dict[str, str] = {}
    route = ""
    for path in sorted(logs.glob("evaluator-*.log")):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            if found := re.search(r"Preparing (RouteScenario_\S+)", line):
                route = found.group(1)
            elif found := _SKIPPED.search(line):
                errors[route] = found.group(1)
            elif line.startswith("Traceback"):
                last = next((each for each in lines[number + 1 :] if not each.startswith((" ", "\t"))), "")
                errors.setdefault(route, last)
    return errors
