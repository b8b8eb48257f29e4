"""`tickdrive record`: the expert drives routes, several at once, and what it sees and would do is written."""

from __future__ import annotations

import sys
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tickdrive.leaderboard.routes import Route, read_routes
from tickdrive.leaderboard.scoring import AGENT_FAILURES
from tickdrive.leaderboard.simulator_watch import lost_server
from tickdrive.planner.errors import ConfigError, TickdriveError
from tickdrive.scripts.jobs import JobLoss, JobReport, LastResult, Report, run_jobs
from tickdrive.scripts.output import console, error_console


@dataclass(frozen=True)
class RecordOptions:
    """The command's options; see `tickdrive record --help`."""

    routes: tuple[Path, ...]
    out: Path
    seeds: tuple[int, ...] = (0,)
    jobs: int = 1
    val_towns: tuple[str, ...] = ("TickTown02",)
    val_every: int = 8
    perturb: float = 0.08
    stride_ticks: int = 5
    vehicles: int = 30
    walkers: int = 16
    student: str = ""
    student_share: float = 0.7
    student_steps: int = 10
    renderer: str = "cpu"


@dataclass(frozen=True)
class _Drive:
    """One drive to record, as a worker process gets it."""

    routes_file: Path
    route_id: str
    town: str
    seed: int
    split: str
    folder: Path
    options: RecordOptions


def run(options: RecordOptions) -> None:
    """Record every route with every seed; drives that are there already are kept.

    Raises:
        TickdriveError: an option or a route file cannot be used, or no drive could be recorded.
    """
    if options.jobs < 1:
        raise ConfigError(f"--jobs is {options.jobs}.", "Give at least 1.")
    drives = [drive for path in options.routes for drive in _drives(path, options)]
    todo = [drive for drive in drives if not (drive.folder / "done").exists()]
    console.print(f"{len(drives)} drives, {len(drives) - len(todo)} of them recorded already")
    failures: list[str] = []
    columns = (TextColumn("recording"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console) as progress,
        closing(run_jobs(_record, deque(todo), options.jobs)) as events,
    ):
        bar = progress.add_task("drives", total=len(todo))
        for event in events:
            if isinstance(event, JobReport):
                continue
            if isinstance(event, JobLoss):
                message = f"{event.task.folder.name}: its process ended, probably with its simulator"
            else:
                message = event.value
            if message:
                failures.append(message)
                progress.console.print(message, style="yellow", markup=False)
            progress.advance(bar)
    if failures and len(failures) == len(todo):
        raise TickdriveError("No drive could be recorded.", "See the messages above.")
    if failures:
        error_console.print(
            f"{len(failures)} of {len(todo)} drives failed; run the command again to retry them"
        )
        sys.exit(1)


def _drives(path: Path, options: RecordOptions) -> list[_Drive]:
    drives = []
    for index, route in enumerate(read_routes(path)):
        split = _split(route, index, options)
        for seed in options.seeds:
            name = f"{route.town}_{route.id}_seed{seed}"
            # Every drive differs in light, weather and traffic, also where the seeds are the same. An odd
            # factor: a route has a vehicle ahead with every other seed.
            drives.append(
                _Drive(path, route.id, route.town, seed * 1001 + index, split, options.out / name, options)
            )
    return drives


def _split(route: Route, index: int, options: RecordOptions) -> str:
    """By route and town, never by frame."""
    if route.town in options.val_towns:
        return "val_town"
    return (
        "val_route" if options.val_every and index % options.val_every == options.val_every - 1 else "train"
    )


def _record(drive: _Drive, report: Report) -> str | LastResult:
    """Record one drive; an error message, or nothing. A process that lost its simulator drives no more."""
    try:
        message = _drive(drive)
    except (TickdriveError, OSError, RuntimeError) as error:
        message = f"{drive.folder.name}: {error}"
    return LastResult(message) if lost_server() else message


def _drive(drive: _Drive) -> str:
    import tickdrive.agents
    from tickdrive.leaderboard.agent_loading import AgentSpec
    from tickdrive.leaderboard.evaluation_config import EvaluationConfig, TrafficConfig
    from tickdrive.leaderboard.evaluator import Evaluator
    from tickdrive.leaderboard.simulator.launch import SimulatorProcess

    options = drive.options
    _discard(drive.folder)
    config = {
        "out": str(drive.folder.resolve()),
        "split": drive.split,
        "route": drive.route_id,
        "seed": drive.seed,
        "perturb": options.perturb,
        "stride_ticks": options.stride_ticks,
        "student": options.student,
        "student_share": options.student_share,
        "student_steps": options.student_steps,
    }
    results = drive.folder.with_name(drive.folder.name + ".evaluation")
    results.mkdir(parents=True, exist_ok=True)
    config_path = results / "recording.yaml"
    config_path.write_text(yaml.safe_dump(config), encoding="utf-8")
    agent = Path(next(iter(tickdrive.agents.__path__))) / "recording_agent.py"
    traffic = TrafficConfig(
        vehicles=options.vehicles,
        walkers=options.walkers,
        crossing_walkers=options.walkers // 2,
        walkers_per_crosswalk=2,
        lead_vehicle=drive.seed % 2 == 0,
    )
    evaluation = EvaluationConfig(seed=drive.seed, blocked_s=60.0, traffic=traffic)
    with SimulatorProcess.start(
        town=drive.town,
        seed=drive.seed,
        renderer=options.renderer,
        log_path=results / "simulator.log",
    ) as server:
        evaluator = Evaluator(evaluation, server.host, server.port, server.alive)
        routes = read_routes(drive.routes_file, drive.route_id)
        outcome = evaluator.run(routes, AgentSpec(str(agent), str(config_path)), results)
    if outcome.crashed or not outcome.records:
        return f"{drive.folder.name}: the simulator died, see {results / 'simulator.log'}"
    record = outcome.records[0]
    if not (drive.folder / "samples.jsonl").exists() or record.status in AGENT_FAILURES:
        return f"{drive.folder.name}: {record.status}"
    (drive.folder / "done").write_text(f"{record.status} {record.scores['score_composed']:.1f}\n")
    return ""


def _discard(folder: Path) -> None:
    """Remove what an interrupted drive left."""
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0`, `0,3,5` or `0-4`.

    Raises:
        ConfigError: none of these.
    """
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            seeds += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError as error:
        raise ConfigError(f"--seeds is {text!r}.", "Write 0, or 0,3,5, or 0-4.") from error
    return tuple(seeds)
