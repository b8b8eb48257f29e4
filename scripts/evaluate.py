"""`tickdrive evaluate`: a route file, every route scored; resumes where it stopped."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from tickdrive.agents.shared_models import check_models
from tickdrive.leaderboard.carla_session import parse_address
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.evaluator import RESULTS_NAME, EvaluationOutcome
from tickdrive.leaderboard.frames import FrameKeeper
from tickdrive.leaderboard.observer import Observer
from tickdrive.leaderboard.result_table import scenarios_text
from tickdrive.leaderboard.retried_evaluation import EvaluationJob, RetriedEvaluation
from tickdrive.leaderboard.route_map import RouteMapKeeper
from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.upstream.simulators import Embedded, Running, SimulatorHost
from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError
from tickdrive.planner.files import write_atomically
from tickdrive.scripts.agent_choice import AGENT_CONFIG_FILE, agent_config_text, choose_agent, models_config
from tickdrive.scripts.drive import split_settings
from tickdrive.scripts.known_towns import in_known_towns
from tickdrive.scripts.output import console, error_console, warn_if_nothing_to_resume, write_json
from tickdrive.scripts.paths import configs_folder, new_run_folder
from tickdrive.scripts.session import ready_text
from tickdrive.scripts.stopping import terminated_as_interrupted
from tickdrive.scripts.watching import LiveLine

LOGS_FOLDER = "logs"


@dataclass(frozen=True)
class EvaluateOptions:
    """The command's options; see `tickdrive evaluate --help`."""

    routes: Path
    subset: str = ""
    agent: str = "diffusion"
    agent_config: str | None = None
    wrap: bool = True
    settings: tuple[str, ...] = ()
    rules: str = "2.0"
    seed: int = 0
    repetitions: int = 1
    carla: str | None = None
    towns: Path | None = None
    skip_unknown_towns: bool = False
    renderer: str = "cpu"
    out: Path | None = None
    resume: bool = False
    frames: bool = False
    retries: int = 2
    hang_s: float | None = None
    json_file: Path | None = None


def run(options: EvaluateOptions) -> None:
    """Drive all routes of a file that have no result yet, and print the table.

    Raises:
        TickdriveError: an option, a file or the simulator cannot be used.
    """
    if options.resume and options.out is None:
        raise ConfigError("--resume needs the folder to go on in.", "Give it with --out.")
    agent_settings, evaluation_settings = split_settings(options.settings)
    evaluation = load_config(
        EvaluationConfig,
        configs_folder() / "evaluation.yaml",
        [
            f"rules='{options.rules}'",
            f"seed={options.seed}",
            f"repetitions={options.repetitions}",
            *evaluation_settings,
        ],
    )
    routes = read_routes(options.routes, options.subset)
    if options.carla is None:  # what towns another server has is not known
        routes = in_known_towns(routes, options.towns, options.skip_unknown_towns)
    models = models_config(options.agent, options.agent_config, agent_settings)
    if models is not None:
        check_models(models)
    folder = options.out or new_run_folder(options.routes.stem)
    warn_if_nothing_to_resume(options.resume, folder / RESULTS_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    before = agent_config_text(folder) if options.resume else None
    chosen = choose_agent(options.agent, options.agent_config, agent_settings, folder, options.wrap)
    if before is not None:
        _refuse_another_agent(folder, before)
    job = EvaluationJob(
        evaluation,
        routes,
        chosen.spec,
        folder,
        functools.partial(_observers, folder, evaluation.budget_ms, options.frames),
        "" if options.carla else options.renderer,
    )
    simulator = _simulator(options, routes[0].town, folder, evaluation.server_timeout_s)
    with terminated_as_interrupted():
        evaluating = RetriedEvaluation(job, simulator, options.retries, options.hang_s, _say_loss)
        outcome = evaluating.run(options.resume)
    console.print(evaluation_table(outcome))
    if (scenarios := scenarios_text(outcome.data)) is not None:
        console.print(scenarios)
    console.print(f"  {outcome.path}", markup=False, soft_wrap=True)
    write_json(
        options.json_file,
        {
            "schema": 1,
            "results": [dataclasses.asdict(record) for record in outcome.records],
            "global": outcome.data,
        },
    )
    if outcome.crashed:
        error_console.print(
            f"[bold red]the simulator died[/] too often (see {folder / LOGS_FOLDER}); "
            f"go on with --resume --out {folder}",
            soft_wrap=True,
        )
        sys.exit(1)
    if outcome.interrupted:
        error_console.print(f"stopped; go on with --resume --out {folder}", soft_wrap=True)
        sys.exit(130)


def _observers(folder: Path, budget_ms: float, frames: bool) -> list[Observer]:
    """Those who watch, in the process that drives."""
    observers: list[Observer] = [LiveLine(console, budget_ms), RouteMapKeeper(folder, by_route=True)]
    if frames:
        observers.append(FrameKeeper(folder, budget_ms, by_route=True))
    return observers


def _simulator(options: EvaluateOptions, town: str, folder: Path, wait_s: float) -> SimulatorHost:
    if options.carla is not None:
        return Running(*parse_address(options.carla), wait_s, first_wait_s=0.0)
    logs = folder / LOGS_FOLDER
    logs.mkdir(exist_ok=True)
    return _Told(town, options.towns, options.seed, logs, options.renderer)


class _Told(Embedded):
    """The embedded simulator; that and how long it starts is told."""

    def prepare(self) -> None:
        """Start it where none runs."""
        if self.alive():
            return
        started = time.monotonic()
        with console.status("starting the simulator (the first start compiles, about half a minute)"):
            super().prepare()
        console.print(ready_text(started, self.drawn_by), style="dim", markup=False, soft_wrap=True)


def _say_loss(route_id: str | None, why: str, again: bool) -> None:
    """A drive, or a start, was lost."""
    console.show_cursor(True)  # the live line's process may have had no time to
    then = "tried again" if again else "given up"
    console.print(f"  {route_id or 'start'}: {why}; {then}", style="yellow", markup=False, soft_wrap=True)


def _refuse_another_agent(folder: Path, before: str) -> None:
    """Results of two configurations must not be mixed.

    Raises:
        ConfigError: says what differs; the folder keeps its configuration.
    """
    now = agent_config_text(folder) or ""
    old, new = (set(map(str.strip, text.splitlines()[1:])) for text in (before, now))
    if old != new:
        write_atomically(folder / AGENT_CONFIG_FILE, before.encode())
        raise ConfigError(
            f"The results in {folder} are of another agent configuration: there "
            f"{'; '.join(sorted(old - new)) or 'nothing'}, now {'; '.join(sorted(new - old)) or 'nothing'}.",
            "Repeat the options of that evaluation, or give another --out.",
        )


def evaluation_table(outcome: EvaluationOutcome) -> Table:
    """All routes, a line each, and their mean."""
    table = Table(title="Evaluation", title_justify="left", caption_justify="left")
    for name in ("route", "status"):
        table.add_column(name)
    for name in ("score", "completion %", "penalty", "infractions", "km", "sim s"):
        table.add_column(name, justify="right")
    for record in outcome.records:
        scores = record.scores
        table.add_row(
            record.route_id.removeprefix("RouteScenario_"),
            record.status,
            f"{scores['score_composed']:.1f}",
            f"{scores['score_route']:.1f}",
            f"{scores['score_penalty']:.2f}",
            str(record.num_infractions),
            f"{record.meta['route_length'] / 1000:.2f}",
            f"{record.meta['duration_game']:.0f}",
        )
    if outcome.records:
        mean = sum(r.scores["score_composed"] for r in outcome.records) / len(outcome.records)
        table.add_section()
        table.add_row(f"mean of {len(outcome.records)}", "", f"{mean:.1f}", style="bold")
    return table
