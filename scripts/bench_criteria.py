"""`tickdrive bench criteria`: drives judged by upstream and, at the same time, by our criteria."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.results import INFRACTION_KEYS
from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.upstream import reckless_agent_path
from tickdrive.leaderboard.upstream.checkout import Checkout, open_checkout
from tickdrive.leaderboard.upstream.misdeeds import MISDEEDS, misdeed_routes
from tickdrive.leaderboard.upstream.records import Drive, Records
from tickdrive.leaderboard.upstream.second_judge import JudgeSpec
from tickdrive.leaderboard.upstream.suite_run import SuiteRun, SuiteSettings, UpstreamAgent
from tickdrive.planner.errors import ConfigError, ServerError, did_you_mean
from tickdrive.scripts.bench_scenarios import embedded_simulator, town_maps
from tickdrive.scripts.known_towns import in_known_towns
from tickdrive.scripts.output import console, results_json, show_rows, write_json
from tickdrive.scripts.paths import new_run_folder
from tickdrive.scripts.suite_progress import SuiteProgress

_RULES = {"leaderboard-2.0": "2.0", "leaderboard-2.1": "2.1", "bench2drive": "bench2drive"}
_TIMEOUT_S = 120.0
SCORE_TOLERANCE = 1.0
"""Points by which two scores of one drive may differ."""


@dataclass(frozen=True)
class CriteriaBenchOptions:
    """The command's options; `routes` and their `subset` instead of the routes laid for each misdeed."""

    suite: str
    leaderboard_root: Path | None
    scenario_runner_root: Path | None
    towns: Path | None
    misdeeds: tuple[str, ...] = ()
    times: int = 2
    routes: Path | None = None
    subset: str = ""
    out: Path | None = None
    json_file: Path | None = None


def run(options: CriteriaBenchOptions) -> None:
    """Drive badly, judge twice, and print where the judges differ.

    Raises:
        TickdriveError: a checkout or a folder cannot be used.
    """
    if options.suite not in _RULES:
        raise ConfigError(f"--suite is {options.suite!r}.", did_you_mean(options.suite, [*_RULES]))
    for name in options.misdeeds:
        if name not in MISDEEDS:
            raise ConfigError(f"There is no misdeed {name!r}.", did_you_mean(name, [*MISDEEDS]))
    if options.subset and options.routes is None:
        raise ConfigError("--subset is of a route file.", "Name the file with --routes.")
    if options.suite == "bench2drive" and options.routes is None:
        raise ConfigError(
            "Bench2Drive's evaluator needs a scenario in every route, and most misdeeds have none.",
            "Name its own routes: --routes bench2drive220.xml.",
        )
    checkout = open_checkout(options.suite, options.leaderboard_root, options.scenario_runner_root)
    folder = (options.out or new_run_folder("criteria")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    names = options.misdeeds or tuple(MISDEEDS)
    if options.routes is not None:
        routes_file = options.routes.resolve()
        given = in_known_towns(read_routes(routes_file, options.subset), options.towns, skip=True)
        deeds = {route.id: name for route, name in zip(given, itertools.cycle(names), strict=False)}
    else:
        text, deeds, missing = misdeed_routes(town_maps(options.towns), names, options.times)
        routes_file = folder / "routes.xml"
        routes_file.write_text(text)
        for name, why in missing.items():
            console.print(f"  {name}: {why}", style="yellow")
    rows = _drive(checkout, options, folder, routes_file, deeds)
    _show(rows, options.json_file)


def _drive(
    checkout: Checkout,
    options: CriteriaBenchOptions,
    folder: Path,
    routes_file: Path,
    deeds: Mapping[str, str],
) -> list[dict[str, Any]]:
    routes = [route for route in read_routes(routes_file) if route.id in deeds]
    drives = {Drive(route.name, 0): route for route in routes}
    config = folder / "misdeeds.json"
    config.write_text(json.dumps({route.name: deeds[route.id] for route in routes}))
    checkout, simulator = embedded_simulator(checkout, folder, options.towns, routes[0].town)
    records = Records(folder / "results.json", list(drives), resume=False)
    judged = folder / "judged"
    with (
        second_judge(routes_file, _RULES[options.suite], judged, folder / "logs" / "judge.log") as judge,
        SuiteProgress(console, len(drives), dict.fromkeys(drives, 1.0)) as progress,
    ):
        suite = SuiteRun(
            checkout,
            routes_file,
            records,
            UpstreamAgent(reckless_agent_path(), str(config)),
            folder,
            simulator,
            SuiteSettings(retries=0, timeout_s=_TIMEOUT_S),
            progress,
            judge,
        )
        suite.run()
    return [
        compare(deeds[route.id], route.town, records.of(drive) or {}, _read(judged / f"{route.name}.json"))
        for drive, route in drives.items()
    ]


@contextmanager
def second_judge(routes_file: Path, rules: str, out: Path, log_path: Path) -> Iterator[Path]:
    """A process that judges what an upstream evaluator drives; its socket.

    Raises:
        ServerError: it could not be started.
    """
    out.mkdir(exist_ok=True)
    # the path of a socket may not be long
    with tempfile.TemporaryDirectory(prefix="tickdrive-") as short, log_path.open("wb") as log:
        spec = JudgeSpec(f"{short}/judge", str(routes_file), rules, str(out), os.getpid())
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tickdrive.leaderboard.upstream.second_judge",
                json.dumps(asdict(spec)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"listening\n":
                raise ServerError("The second judge could not be started.", f"Its log is {log_path}.")
            yield Path(spec.socket)
        finally:
            process.terminate()
            process.wait()


def compare(
    deed: str, town: str, upstream: Mapping[str, Any], ours: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Two judgements of one drive: what each says, and whether they agree."""
    row: dict[str, Any] = {"misdeed": deed, "town": town, "agree": False, "upstream": dict(upstream)}
    if not upstream or ours is None:
        return {**row, "differs": ["no record of upstream" if not upstream else "no record of ours"]}
    record = ours["record"]
    differs = []
    if upstream["status"] != record["status"]:
        differs.append(f"status: {upstream['status']} | {record['status']}")
    for key in INFRACTION_KEYS:
        theirs, own = upstream["infractions"].get(key, []), record["infractions"][key]
        if len(theirs) != len(own):
            differs.append(f"{key}: {len(theirs)} | {len(own)}")
    for key in ("score_route", "score_penalty", "score_composed"):
        allowed = SCORE_TOLERANCE / (100.0 if key == "score_penalty" else 1.0)
        if abs(upstream["scores"][key] - record["scores"][key]) > allowed:
            differs.append(f"{key}: {upstream['scores'][key]} | {record['scores'][key]}")
    same_words = all(
        sorted(upstream["infractions"].get(key, [])) == sorted(record["infractions"][key])
        for key in INFRACTION_KEYS
    )
    if ours["missing"]:
        differs.append(f"{len(ours['missing'])} frames were not seen")
    return {**row, "ours": dict(ours), "differs": differs, "agree": not differs, "same_words": same_words}


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text())) if path.exists() else None


def _show(rows: list[dict[str, Any]], json_file: Path | None) -> None:
    shown, kinds = [], Counter[str]()
    for row in rows:
        theirs, ours = row["upstream"], (row.get("ours") or {}).get("record", {})
        counts = {key: len(theirs.get("infractions", {}).get(key, [])) for key in INFRACTION_KEYS}
        kinds.update({key: count for key, count in counts.items() if count})
        score, own = (each.get("scores", {}).get("score_composed") for each in (theirs, ours))
        shown.append(
            {
                "misdeed": row["misdeed"],
                "town": row["town"],
                "status": theirs.get("status", ""),
                "infractions": ", ".join(f"{count} {key}" for key, count in counts.items() if count),
                "upstream": score,
                "ours": own,
                "same words": "yes" if row.get("same_words") else "no",
                "frames": (row.get("ours") or {}).get("frames"),
                "differs": "; ".join(row["differs"]),
            }
        )
    show_rows("Criteria", shown, None)
    write_json(json_file, results_json(rows))
    agreed = sum(row["agree"] for row in rows)
    gaps = sum(len((row.get("ours") or {}).get("missing", ())) for row in rows)
    console.print(f"  {agreed} of {len(rows)} drives judged alike; {gaps} frames missed")
    rare = [f"{key} {kinds[key]}" for key in INFRACTION_KEYS if kinds[key] < 2]
    console.print(f"  fewer than twice: {', '.join(rare) or 'no kind of infraction'}")
