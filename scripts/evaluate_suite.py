"""`tickdrive evaluate --suite …`: an upstream leaderboard or Bench2Drive, unmodified, run to its results."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from tickdrive.agents.shared_models import check_models
from tickdrive.leaderboard.carla_session import parse_address
from tickdrive.leaderboard.routes import Route, read_routes
from tickdrive.leaderboard.upstream.carla_root import make_carla_root
from tickdrive.leaderboard.upstream.checkout import Checkout, open_checkout, unknown_scenarios
from tickdrive.leaderboard.upstream.latency_file import latency_of, latency_path
from tickdrive.leaderboard.upstream.records import Drive, Records
from tickdrive.leaderboard.upstream.simulators import Embedded, Running, SimulatorHost, StartedByEvaluator
from tickdrive.leaderboard.upstream.suite_run import SuiteRun, SuiteSettings, UpstreamAgent
from tickdrive.planner.errors import ConfigError, DataError, RouteError
from tickdrive.planner.files import write_atomically
from tickdrive.scripts.agent_choice import choose_upstream_agent, models_config
from tickdrive.scripts.known_towns import in_known_towns
from tickdrive.scripts.output import console, error_console, warn_if_nothing_to_resume, write_json
from tickdrive.scripts.paths import new_run_folder
from tickdrive.scripts.stopping import terminated_as_interrupted
from tickdrive.scripts.suite_progress import SuiteProgress

_MANIFEST = "suite.json"


@dataclass(frozen=True)
class SuiteOptions:
    """The command's options; see `tickdrive evaluate --help`."""

    suite: str
    routes: Path
    leaderboard_root: Path | None
    scenario_runner_root: Path | None
    carla_root: Path | None = None
    towns: Path | None = None
    renderer: str = "cpu"
    carla: str | None = None
    subset: str = ""
    skip_unknown_towns: bool = False
    agent: str = "diffusion"
    agent_config: str | None = None
    wrap: bool = True
    track: str = "SENSORS"
    agent_settings: tuple[str, ...] = ()
    settings: SuiteSettings = field(default_factory=SuiteSettings)
    out: Path | None = None
    resume: bool = False
    json_file: Path | None = None


def run(options: SuiteOptions) -> None:
    """Drive all routes that have no verdict yet, and print the table.

    Raises:
        TickdriveError: an option, a checkout, a file or the simulator cannot be used.
    """
    if options.resume and options.out is None:
        raise ConfigError("--resume needs the folder to go on in.", "Give it with --out.")
    checkout = open_checkout(
        options.suite, options.leaderboard_root, options.scenario_runner_root, options.carla_root
    )
    if checkout.suite.starts_carla and options.carla is not None:
        raise ConfigError(
            f"--suite {options.suite} starts CARLA itself.", "Give --carla-root instead of --carla."
        )
    routes = read_routes(options.routes, options.subset)
    towns = options.towns or checkout.towns
    # what towns another server has is not known
    if options.carla is None and not (checkout.suite.starts_carla and options.carla_root is not None):
        routes = in_known_towns(routes, towns, options.skip_unknown_towns)
    _check_scenarios(routes, checkout)
    models = models_config(options.agent, options.agent_config, options.agent_settings)
    if models is not None:
        check_models(models)
    folder = (options.out or new_run_folder(f"{options.suite}-{options.routes.stem}")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    drives = [Drive(route.name, k) for route in routes for k in range(options.settings.repetitions)]
    warn_if_nothing_to_resume(options.resume, folder / "results.json")
    records = Records(folder / "results.json", drives, options.resume)
    agent = choose_upstream_agent(
        options.agent,
        options.agent_config,
        options.agent_settings,
        folder,
        options.wrap,
        options.track,
        save_names=checkout.suite.starts_carla,
    )
    _keep_manifest(folder, options, agent)
    if checkout.suite.starts_carla and options.carla_root is None:
        root = make_carla_root(folder / "carla", towns, options.settings.seed, options.renderer)
        checkout = open_checkout(options.suite, options.leaderboard_root, options.scenario_runner_root, root)
    lengths_m = {route.name: _length_m(route) for route in routes}
    pending = {drive: lengths_m[drive.route] for drive in records.pending()}
    before = [
        (lengths_m[drive.route], wall_s)
        for drive in drives
        if (record := records.of(drive)) and (wall_s := record["meta"]["duration_system"])
    ]
    with SuiteProgress(console, len(drives), pending, before) as progress:
        suite = SuiteRun(
            checkout,
            options.routes.resolve(),
            records,
            agent,
            folder,
            _simulator(options, checkout, routes, towns, folder),
            options.settings,
            progress,
        )
        interrupted = _drive(suite)
    records.conclude(checkout)
    driven = [drive for drive in drives if records.of(drive) is not None]
    latency = latency_of(driven, suite.save_folder)
    write_json(latency_path(records.path), latency)
    content = json.loads(records.path.read_text())
    if driven:
        console.print(_table(content, latency))
    console.print(f"  {records.path}", markup=False, soft_wrap=True)
    write_json(
        options.json_file, {"schema": 1, "results": content["_checkpoint"]["records"], "global": content}
    )
    if interrupted:
        error_console.print(f"stopped; go on with --resume --out {folder}", soft_wrap=True)
        sys.exit(130)


def _drive(suite: SuiteRun) -> bool:
    """Run it; whether it was stopped, by Ctrl-C or SIGTERM."""
    try:
        with terminated_as_interrupted():
            suite.run()
    except KeyboardInterrupt:
        return True
    return False


def _check_scenarios(routes: Sequence[Route], checkout: Checkout) -> None:
    """Say before anything starts what upstream would skip without a word, or stumble over."""
    types = [scenario.type for route in routes for scenario in route.scenarios]
    for name, count in unknown_scenarios(types, checkout).items():
        console.print(
            f"  {count} of type {name}: not known to this scenario_runner, the leaderboard skips them",
            style="yellow",
        )
    bare = [route.id for route in routes if not route.scenarios]
    if bare and checkout.suite.starts_carla:
        raise RouteError(
            f"Bench2Drive's evaluator needs a scenario in every route; {', '.join(bare)} have none.",
            "Leave them out with --subset.",
        )


def _simulator(
    options: SuiteOptions, checkout: Checkout, routes: Sequence[Route], towns: Path | None, folder: Path
) -> SimulatorHost:
    if checkout.suite.starts_carla:
        return StartedByEvaluator()
    if options.carla is not None:
        return Running(*parse_address(options.carla), options.settings.timeout_s, first_wait_s=0.0)
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    return Embedded(routes[0].town, towns, options.settings.seed, logs, options.renderer)


def _keep_manifest(folder: Path, options: SuiteOptions, agent: UpstreamAgent) -> None:
    """Results of two evaluations must not be mixed.

    Raises:
        ConfigError: says what differs.
    """
    path = folder / _MANIFEST
    now = {
        "suite": options.suite,
        "agent": options.agent,
        "agent_config": options.agent_config or "",
        "set": list(options.agent_settings),
        "track": agent.track,
        "seed": options.settings.seed,
        "wrap": options.wrap,
        "renderer": "" if options.carla else options.renderer,
    }
    if path.exists():
        try:
            # older ones do not tell the renderer
            before: Mapping[str, Any] = {"renderer": now["renderer"], **json.loads(path.read_text())}
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}.", "Give another --out.") from error
        differs = [
            f"{key} was {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]
        ]
        if differs:
            raise ConfigError(
                f"The results in {folder} are of another evaluation: {'; '.join(differs)}.",
                "Repeat the options of that evaluation, or give another --out.",
            )
    write_atomically(path, (json.dumps(now, indent=2) + os.linesep).encode())


def _length_m(route: Route) -> float:
    places = route.locations()
    return sum(a.distance(b) for a, b in itertools.pairwise(places))


def _table(content: Mapping[str, Any], latency: Mapping[str, Any]) -> Table:
    """All routes, a line each, and upstream's mean."""
    checkpoint = content["_checkpoint"]
    table = Table(title=f"Evaluation: {content['entry_status']}", title_justify="left")
    for name in ("route", "status"):
        table.add_column(name)
    for name in ("score", "done %", "penalty", "infr.", "sim s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for record in checkpoint["records"]:
        scores = record["scores"]
        total = latency["routes"].get(record["route_id"], {}).get("stages", {}).get("total")
        table.add_row(
            record["route_id"].removeprefix("RouteScenario_"),
            record["status"],
            f"{scores['score_composed']:.1f}",
            f"{scores['score_route']:.1f}",
            f"{scores['score_penalty']:.2f}",
            str(record["num_infractions"]),
            f"{record['meta']['duration_game']:.0f}",
            f"{total['p50_ms']:.1f}" if total else "",
            f"{total['p99_ms']:.1f}" if total else "",
        )
    if checkpoint["global_record"]:
        table.add_section()
        mean = checkpoint["global_record"]["scores_mean"]
        table.add_row(
            "mean",
            "",
            f"{mean['score_composed']:.1f}",
            f"{mean['score_route']:.1f}",
            f"{mean['score_penalty']:.2f}",
            style="bold",
        )
    return table
