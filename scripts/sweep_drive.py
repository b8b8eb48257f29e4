"""One drive of a latency sweep, in a process of its own."""

from __future__ import annotations

import faulthandler
import os
import shutil
import sys
import time
import traceback
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from tickdrive.agents.config import AgentConfig, TickLogConfig
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.observer import Observer, TickView
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.scoring import AGENT_FAILURES, Failure
from tickdrive.leaderboard.simulator_watch import lost_server
from tickdrive.leaderboard.sweep.drive_result import DriveResult
from tickdrive.leaderboard.sweep.plan import SweepDrive
from tickdrive.planner.errors import ServerError
from tickdrive.scripts.agent_choice import write_agent_config
from tickdrive.scripts.drive import LOG_NAME
from tickdrive.scripts.jobs import LastResult, Report

OUTPUT_NAME = "drive.log"
CRASHED_SUFFIX = ".crashed"
_REPORT_EVERY_S = 1.0
_HOPELESS = (f"Failed - {Failure.AGENT_SETUP.value}", f"Failed - {Failure.AGENT_SENSORS.value}")


@dataclass(frozen=True)
class SweepTask:
    """A drive as a worker process gets it; `agent` is the sweep's, its latency is set here."""

    drive: SweepDrive
    route: Route
    agent: AgentConfig
    evaluation: EvaluationConfig
    out: Path
    commit: str | None
    attempt: int = 1

    @property
    def folder(self) -> Path:
        """Of the drive."""
        return self.out / self.drive.folder


class DriveEnd(Enum):
    """How a drive ended without a result."""

    SIMULATOR = "the simulator failed"
    AGENT = "the agent failed"
    NO_AGENT = "the agent cannot be set up"


@dataclass(frozen=True)
class DriveProgress:
    """Where a drive is."""

    fraction: float
    sim_s: float


def run_drive(task: SweepTask, report: Report) -> DriveResult | DriveEnd | LastResult:
    """Drive, and write what came of it.

    What an attempt before has left is removed, but for one that crashed: it is kept beside, for a look.

    Returns:
        the result, or why there is none; the drive's folder then tells more. As `LastResult` where the
        simulator was lost: this process is not to drive again.

    Raises:
        TickdriveError: no drive of this sweep can succeed (a route does not fit, the disk is full, …).
    """
    folder = task.folder
    if task.attempt > 1 and folder.exists():
        crashed = folder.with_name(folder.name + CRASHED_SUFFIX)
        shutil.rmtree(crashed, ignore_errors=True)
        folder.rename(crashed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_output_to(folder / OUTPUT_NAME)
    try:
        end = _drive(task, report)
    except (ServerError, RuntimeError):  # RuntimeError: what the client raises when a call fails
        traceback.print_exc()
        end = DriveEnd.SIMULATOR
    return LastResult(end) if lost_server() else end


def _drive(task: SweepTask, report: Report) -> DriveResult | DriveEnd:
    from tickdrive.leaderboard.agent_loading import AgentSpec
    from tickdrive.leaderboard.evaluator import Evaluator
    from tickdrive.leaderboard.simulator.launch import SimulatorProcess

    drive, folder = task.drive, task.folder
    config = replace(
        task.agent,
        latency=drive.point.latency(task.agent.latency),
        tick_log=TickLogConfig(enabled=True, dir=str(folder.resolve()), file=LOG_NAME),
    )
    spec = AgentSpec("diffusion", str(write_agent_config(config, folder)))
    evaluation = replace(task.evaluation, seed=drive.seed)
    started = time.monotonic()
    with SimulatorProcess.start(
        town=task.route.town, seed=drive.seed, log_path=folder / "simulator.log"
    ) as server:
        evaluator = Evaluator(evaluation, server.host, server.port, server.alive)
        outcome = evaluator.run([task.route], spec, folder, [_Reporter(report)])
    if outcome.crashed or not outcome.records:
        return DriveEnd.SIMULATOR
    record = outcome.records[0]
    if record.status in AGENT_FAILURES:
        return DriveEnd.NO_AGENT if record.status in _HOPELESS else DriveEnd.AGENT
    wall_s = time.monotonic() - started
    result = DriveResult.build(drive, record, folder / LOG_NAME, wall_s, task.commit)
    result.write(folder)
    return result


class _Reporter(Observer):
    """Says where the drive is, about once a second."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._said_at = 0.0

    def on_tick(self, tick: TickView) -> None:
        now = time.monotonic()
        if now - self._said_at >= _REPORT_EVERY_S:
            self._said_at = now
            self._report(DriveProgress(tick.fraction, tick.sim_s))


def _write_output_to(path: Path) -> None:
    """What this process and the libraries in it print goes to a file, not between other drives' lines."""
    sys.stdout.flush()
    sys.stderr.flush()
    sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(sink, number)
    os.close(sink)
    faulthandler.enable()
