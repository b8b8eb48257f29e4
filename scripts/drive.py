"""`tickdrive drive`: one route, watched, filmed, timed and scored."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tickdrive.agents.config import AgentConfig
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.evaluator import EvaluationOutcome, Evaluator
from tickdrive.leaderboard.film import FilmCamera
from tickdrive.leaderboard.frames import FrameKeeper
from tickdrive.leaderboard.latency import LatencySummary, summarize
from tickdrive.leaderboard.latency_tables import latency_table
from tickdrive.leaderboard.observer import Observer
from tickdrive.leaderboard.result_table import results_table, scenarios_text
from tickdrive.leaderboard.route_map import RouteMapKeeper
from tickdrive.leaderboard.routes import Route, read_named_routes
from tickdrive.leaderboard.scoring import AGENT_FAILURES
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.tick_table import read_table
from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError, RouteError
from tickdrive.scripts.agent_choice import choose_agent, models_config
from tickdrive.scripts.live_panel import LivePanel
from tickdrive.scripts.output import console, error_console, write_json
from tickdrive.scripts.paths import configs_folder, new_run_folder, routes_file
from tickdrive.scripts.session import Server, server
from tickdrive.scripts.watching import FilmMaker, LiveLine

LOG_NAME = "ticks.jsonl"


@dataclass(frozen=True)
class DriveOptions:
    """The command's options; see `tickdrive drive --help`."""

    route: str | None = None
    town: str | None = None
    xodr: Path | None = None
    seed: int = 0
    renderer: str = "cpu"
    agent: str = "diffusion"
    agent_config: str | None = None
    wrap: bool = True
    watch: bool = False
    settings: tuple[str, ...] = ()
    carla: str | None = None
    out: Path | None = None
    video: bool = True
    frames: bool = True
    json_file: Path | None = None


def run(options: DriveOptions) -> None:
    """Drive one route and show what came of it.

    Raises:
        TickdriveError: an option, a file or the simulator cannot be used.
    """
    agent_settings, evaluation_settings = split_settings(options.settings)
    evaluation = load_config(
        EvaluationConfig, configs_folder() / "evaluation.yaml", [*evaluation_settings, f"seed={options.seed}"]
    )
    route, opendrive = _route(options)
    town = route.town if route else options.town or next(iter(opendrive))
    if options.carla is None and town not in opendrive:
        read_town(town)  # an unknown one is said before the seconds that models take
    started = time.monotonic()
    models = models_config(options.agent, options.agent_config, agent_settings)
    if models is not None:
        load_models(models)
    folder = options.out or new_run_folder(route.id if route else town)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = choose_agent(options.agent, options.agent_config, agent_settings, folder, options.wrap, LOG_NAME)
    with server(
        console,
        options.carla,
        town,
        options.xodr,
        options.seed,
        folder / "simulator.log",
        renderer=options.renderer,
    ) as simulator:
        if route is None:
            route = _drawn_route(simulator, town, options, opendrive)
        live = (LivePanel if options.watch else LiveLine)(console, evaluation.budget_ms)
        observers: list[Observer] = [live, RouteMapKeeper(folder)]
        if options.frames:
            observers.append(FrameKeeper(folder, evaluation.budget_ms))
        if options.video:
            observers.append(
                FilmMaker(
                    folder / "drive.mp4", film_camera(chosen.config or AgentConfig()), evaluation.budget_ms
                )
            )
        evaluator = Evaluator(
            evaluation,
            simulator.host,
            simulator.port,
            simulator.is_alive,
            opendrive,
            renderer="" if options.carla else options.renderer,
        )
        outcome = evaluator.run([route], chosen.spec, folder, observers)
    if live.first_tick_at is not None:
        console.print(f"  first tick after {live.first_tick_at - started:.1f} s", style="dim")
    show_outcome(outcome, folder, options.json_file, evaluation.budget_ms)


def split_settings(settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--set` values: the evaluation's are written `evaluation.KEY=VALUE`, the others are the agent's."""
    prefix = "evaluation."
    evaluation = [item.removeprefix(prefix) for item in settings if item.startswith(prefix)]
    return [item for item in settings if not item.startswith(prefix)], evaluation


def film_camera(config: AgentConfig) -> FilmCamera:
    """The planning camera of an agent's rig."""
    camera = next(c for c in config.rig.cameras if c.id == config.rig.planning_camera)
    return FilmCamera(camera.x, camera.y, camera.z, camera.pitch, camera.yaw, camera.fov)


def show_outcome(outcome: EvaluationOutcome, folder: Path, json_file: Path | None, budget_ms: float) -> None:
    """Print the tables and the paths; exit with 1 when the simulator died and 130 after Ctrl-C."""
    for record in outcome.records:
        console.print(results_table(record))
    if (scenarios := scenarios_text(outcome.data)) is not None:
        console.print(scenarios)
    summary = _latency(folder, budget_ms)
    if summary is not None:
        console.print(latency_table(summary))
    for name in ("results.json", LOG_NAME, "drive.mp4", "config.yaml"):
        if (folder / name).exists():
            console.print(f"  {folder / name}", markup=False, soft_wrap=True)
    write_json(
        json_file,
        {
            "schema": 1,
            "results": [dataclasses.asdict(record) for record in outcome.records],
            "latency": None if summary is None else summary.to_json(),
        },
    )
    if outcome.crashed:
        error_console.print("[bold red]the simulator died[/]; see simulator.log in the run's folder")
        sys.exit(1)
    if any(record.status in AGENT_FAILURES for record in outcome.records):
        error_console.print("[bold red]the agent failed[/]; its message stands above")
        sys.exit(1)
    if outcome.interrupted:
        error_console.print("stopped; what was driven is in the run's folder")
        sys.exit(130)


def _latency(folder: Path, budget_ms: float) -> LatencySummary | None:
    path = folder / LOG_NAME
    if not path.exists():
        return None
    table = read_table(path)
    return summarize(table, budget_ms) if len(table) else None


def load_models(config: AgentConfig) -> None:
    """Load the weights where it can be watched, before the agent finds them in the process's cache."""
    from tickdrive.agents.shared_models import shared_models

    started = time.monotonic()
    with console.status("loading and warming up the planner"):
        models = shared_models(config)
    console.print(
        f"  planner engine {models.engine.label} ready after {time.monotonic() - started:.1f} s",
        style="dim",
        markup=False,
        soft_wrap=True,
    )


def _route(options: DriveOptions) -> tuple[Route | None, dict[str, str]]:
    """The route to drive, None where it is still to be drawn, and OpenDRIVE text for the server."""
    opendrive: dict[str, str] = {}
    if options.xodr is not None:
        if options.town is not None:
            raise ConfigError("--town and --xodr were both given.", "Give one of them.")
        try:
            opendrive[options.xodr.stem] = options.xodr.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RouteError(f"OpenDRIVE file {options.xodr} cannot be read: {error}.") from error
    if options.route is None and (options.town or options.xodr):
        return None, opendrive
    routes = read_named_routes(options.route or str(routes_file("default")))
    if len(routes) > 1:
        ids = ", ".join(route.id for route in routes)
        raise RouteError(
            f"{options.route} holds {len(routes)} routes: {ids}.",
            f"Name one ({options.route}:{routes[0].id}), or drive all with `tickdrive evaluate`.",
        )
    route = routes[0]
    if options.xodr is not None:
        route = replace(route, town=options.xodr.stem)
    elif options.town is not None and options.town != route.town:
        raise ConfigError(f"--town is {options.town}, but the route is in {route.town}.", "Leave --town out.")
    return route, opendrive


def _drawn_route(simulator: Server, town: str, options: DriveOptions, opendrive: dict[str, str]) -> Route:
    import carla

    from tickdrive.leaderboard.carla_session import CarlaSession
    from tickdrive.leaderboard.draw_route import draw_route

    if town in opendrive:
        return draw_route(town, carla.Map(town, opendrive[town]), options.seed)
    with CarlaSession(simulator.host, simulator.port, is_alive=simulator.is_alive) as session:
        session.check_towns([town])
        session.load(town, options.seed)
        return draw_route(town, session.map, options.seed)
