"""`tickdrive latency-sweep`: the same routes at several latencies, and what latency costs."""

from __future__ import annotations

import fcntl
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tickdrive.agents.config import LATENCY_ROUNDINGS, AgentConfig, load_agent_config
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.routes import read_named_routes
from tickdrive.leaderboard.sweep.drive_result import DriveResult
from tickdrive.leaderboard.sweep.plan import (
    COMPENSATION,
    Manifest,
    SweepDrive,
    open_sweep,
    sweep_drives,
    sweep_points,
)
from tickdrive.leaderboard.sweep.plot import load_matplotlib, plot_sweep
from tickdrive.leaderboard.sweep.summary import Sweep, summarize_sweep, sweep_notes, sweep_tables
from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError, DataError, TickdriveError, did_you_mean
from tickdrive.scripts.drive import split_settings
from tickdrive.scripts.jobs import JobLoss, JobReport, JobResult, run_jobs
from tickdrive.scripts.output import console, error_console, write_json
from tickdrive.scripts.paths import configs_folder, new_run_folder, routes_file
from tickdrive.scripts.sweep_drive import OUTPUT_NAME, DriveEnd, DriveProgress, SweepTask, run_drive
from tickdrive.scripts.sweep_progress import SweepProgress

JSON_NAME = "sweep.json"
BLOCKED_S = 60.0
"""Standing for so long ends a drive, as with Bench2Drive: a third of the leaderboard's own limit."""
_ATTEMPTS = 2
_OWN_KEYS = {
    "latency.mode": "--latencies",
    "latency.ms": "--latencies",
    "latency.trace": "--latencies",
    "latency.rounding": "--rounding",
    "latency.compensation": "--compensation",
    "evaluation.seed": "--seeds",
    "evaluation.repetitions": "--seeds",
}


@dataclass(frozen=True)
class SweepOptions:
    """The command's options; see `tickdrive latency-sweep --help`."""

    latencies_ms: tuple[float, ...]
    routes: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    agent_config: Path | None = None
    settings: tuple[str, ...] = ()
    rounding: str = "quantised"
    compensation: str = "both"
    out: Path | None = None
    jobs: int = 1
    json_file: Path | None = None


def run(options: SweepOptions) -> None:
    """Drive all drives that have no result yet, and show what latency costs.

    Raises:
        TickdriveError: an option, a file or the simulator cannot be used, or no drive can succeed.
    """
    load_matplotlib()  # said before the hour of driving, not after
    agent, evaluation = sweep_configs(options)
    routes = {route.id: route for route in read_named_routes(options.routes or str(routes_file("sweep")))}
    points = sweep_points(options.latencies_ms, options.compensation)
    drives = list(sweep_drives(points, list(routes), options.seeds))
    folder = options.out or new_run_folder("latency-sweep")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        now = Manifest.make(agent, evaluation, list(routes.values()))
        manifest, other_commit = open_sweep(folder, now)
        if other_commit:
            console.print(
                f"drives in {folder} were driven at commit {manifest.commit}, now it is {now.commit}",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        sweep = _Sweep(folder, manifest, drives, options.jobs)
        tasks = [
            SweepTask(drive, routes[drive.route_id], agent, evaluation, folder, now.commit)
            for drive in drives
            if drive not in sweep.results
        ]
        console.print(f"{len(drives)} drives, {len(drives) - len(tasks)} of them done already")
        interrupted = False
        try:
            sweep.drive(tasks)
        except KeyboardInterrupt:
            interrupted = True
        missing = sweep.show(options.json_file)
    if interrupted:
        error_console.print(f"stopped; the same command with --out {folder} goes on")
        sys.exit(130)
    if missing:
        error_console.print(f"{missing} drives are missing; the same command with --out {folder} tries again")
        sys.exit(1)


def sweep_configs(options: SweepOptions) -> tuple[AgentConfig, EvaluationConfig]:
    """Agent and evaluation of all drives.

    The tick budget is off and arithmetic uses one thread, so that a result does not depend on the machine.

    Raises:
        ConfigError: an option is wrong, or a setting is the sweep's own.
    """
    if options.jobs < 1:
        raise ConfigError(f"--jobs is {options.jobs}.", "Give at least 1.")
    for name, got, allowed in (
        ("--rounding", options.rounding, LATENCY_ROUNDINGS),
        ("--compensation", options.compensation, COMPENSATION),
    ):
        if got not in allowed:
            raise ConfigError(f"{name} is {got!r}.", did_you_mean(got, allowed))
    if not options.seeds or len(set(options.seeds)) != len(options.seeds):
        raise ConfigError("--seeds must name each seed once, and at least one.", "Write 0-2.")
    for item in options.settings:
        key = item.partition("=")[0]
        if key in _OWN_KEYS:
            raise ConfigError(f"--set {key}: the sweep sets it itself.", f"Use {_OWN_KEYS[key]}.")
    agent_settings, evaluation_settings = split_settings(options.settings)
    evaluation = load_config(
        EvaluationConfig, configs_folder() / "evaluation.yaml", [*evaluation_settings, "repetitions=1"]
    )
    if evaluation.blocked_s is None:
        evaluation = replace(evaluation, blocked_s=BLOCKED_S)
    agent = load_agent_config(options.agent_config, agent_settings)
    if agent.threads > 1 and options.jobs > 1:
        raise ConfigError(
            f"threads is {agent.threads} and --jobs {options.jobs}: threads of several drives wait for each "
            "other for seconds.",
            "Leave threads at 1.",
        )
    agent = replace(
        agent,
        threads=agent.threads or 1,
        budget=replace(agent.budget, enabled=False),
        latency=replace(agent.latency, mode="off", ms=0.0, trace="", rounding=options.rounding),
    )
    return agent, evaluation


class _Sweep:
    """The drives, those that are done, and why others are not."""

    def __init__(self, folder: Path, manifest: Manifest, drives: Sequence[SweepDrive], jobs: int) -> None:
        self._folder = folder
        self._manifest = manifest
        self._drives = drives
        self._jobs = jobs
        self._reasons: dict[SweepDrive, str] = {}
        self.results: dict[SweepDrive, DriveResult] = {}
        for drive in drives:
            result = DriveResult.read(folder / drive.folder, drive)
            if result is not None:
                self.results[drive] = result

    def drive(self, tasks: Sequence[SweepTask]) -> None:
        """Drive, several at a time; a drive whose simulator failed is tried once more at the end."""
        queue = deque(tasks)
        with (
            SweepProgress(console, self._drives, self.results, self._jobs) as progress,
            closing(run_jobs(run_drive, queue, self._jobs)) as events,
        ):
            for event in events:
                task = event.task
                if isinstance(event, JobReport):
                    assert isinstance(event.content, DriveProgress)
                    progress.at(task.drive, event.content)
                    continue
                end = event.value if isinstance(event, JobResult) else DriveEnd.SIMULATOR
                if isinstance(end, DriveResult):
                    self.results[task.drive] = end
                    progress.done(task.drive, end)
                    continue
                why = f"{end.value}, see {task.folder / OUTPUT_NAME}"
                if isinstance(event, JobLoss):
                    why = f"{why} (its process ended with status {event.exit_code})"
                if end is DriveEnd.NO_AGENT:
                    raise TickdriveError(f"{task.drive}: {why}.", "Mend the agent's configuration.")
                if end is DriveEnd.SIMULATOR and task.attempt < _ATTEMPTS:
                    queue.append(replace(task, attempt=task.attempt + 1))
                    progress.failed(task.drive, f"{why}; it is tried once more")
                else:
                    self._reasons[task.drive] = why
                    progress.failed(task.drive, why)

    def show(self, json_file: Path | None) -> int:
        """Print table and paths, write JSON and pictures; how many drives are missing."""
        sweep = summarize_sweep(self._manifest, self._drives, self.results, self._reasons)
        content = sweep.to_json()
        write_json(self._folder / JSON_NAME, content)
        write_json(json_file, content)
        if sweep.rows:
            self._show_rows(sweep)
        for drive, why in sweep.missing.items():
            if drive in self._reasons:
                console.print(f"  missing: {drive}: {why}", style="yellow", markup=False, soft_wrap=True)
        return len(sweep.missing)

    def _show_rows(self, sweep: Sweep) -> None:
        for table in sweep_tables(sweep):
            console.print(table)
        for note in sweep_notes(sweep):
            console.print(f"  {note}", soft_wrap=True)
        for path in (self._folder / JSON_NAME, *plot_sweep(sweep, self._folder)):
            console.print(f"  {path}", markup=False, soft_wrap=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder: two sweeps in it would drive over each other's drives.

    Raises:
        DataError: another sweep is at work in it.
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"Another sweep is at work in {folder}.", "Wait for it, or choose another --out."
            ) from error
        yield


def parse_latencies(text: str) -> tuple[float, ...]:
    """`0,30,75`, milliseconds.

    Raises:
        ConfigError: no list of numbers.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--latencies is {text!r}.", "Write milliseconds by comma: 0,200,2000.") from error
