"""An evaluation that goes on when its simulator dies, hangs or is not to be reached.

A process that has lost a simulator can drive no more (see `simulator_watch.keep_lost`), so routes are driven
in a process of its own, which is watched from here. Where it ends, or stands still, without being done, the
route under way has lost its progress: simulator and process are started anew, and the route is tried again, a
set number of times. The results on disk are what the processes hand on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.agent_loading import AgentSpec
from tickdrive.leaderboard.carla_session import server_answers
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.evaluator import EvaluationOutcome, Evaluator, conclude, open_results
from tickdrive.leaderboard.observer import Observer, RouteStart, TickView
from tickdrive.leaderboard.results import Results
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.scoring import Failure
from tickdrive.leaderboard.simulator_watch import EXIT_SIMULATOR_LOST, leave_process, lost_server
from tickdrive.leaderboard.upstream.runner import end_with
from tickdrive.leaderboard.upstream.simulators import DIED, SILENT, FalseStarts, SimulatorHost
from tickdrive.planner.errors import ServerError, TickdriveError

_POLL_S = 0.2
_BEAT_S = 1.0
_HANG_MARGIN_S = 60.0
_INTERRUPT_S = 30.0
_LAST_WORDS_S = 15.0


@dataclass(frozen=True)
class EvaluationJob:
    """What is evaluated; it is handed to other processes.

    Attributes:
        config: how routes are driven and scored.
        routes: what to drive.
        agent: who drives.
        folder: of the results.
        observers: makes those that watch the drives, in the process that drives.
        renderer: that the embedded simulator was asked for; empty for another server.
    """

    config: EvaluationConfig
    routes: tuple[Route, ...]
    agent: AgentSpec
    folder: Path
    observers: Callable[[], Sequence[Observer]]
    renderer: str = ""


class RetriedEvaluation:
    """Evaluates until every route has a result.

    Args:
        job: what is evaluated.
        simulator: where.
        retries: how often a route whose drive was lost is tried again; then its record says so, and the next
            is driven.
        hang_s: how long simulated time may stand still; None: the longest timeout of the configuration and a
            minute, so that those come first.
        on_loss: told of each loss: the route (None: none had begun), why, and whether it is tried again.
    """

    def __init__(
        self,
        job: EvaluationJob,
        simulator: SimulatorHost,
        retries: int,
        hang_s: float | None,
        on_loss: Callable[[str | None, str, bool], None],
    ) -> None:
        self._job = job
        self._simulator = simulator
        self._retries = retries
        config = job.config
        longest_s = max(config.agent_timeout_s, config.server_timeout_s, config.limits().sensor_timeout_s)
        self._hang_s = longest_s + _HANG_MARGIN_S if hang_s is None else hang_s
        self._on_loss = on_loss
        self._losses: Counter[str] = Counter()
        self._false_starts = FalseStarts(retries, lambda why, again: on_loss(None, why, again))
        self._given_up: dict[str, Failure] = {}

    def run(self, resume: bool) -> EvaluationOutcome:
        """Drive all routes that have no result yet.

        Args:
            resume: keep the results that are there.

        Raises:
            TickdriveError: see `Evaluator.run`; and a `ServerError` where the simulator cannot be had.
        """
        results = self._results(resume)
        interrupted = done = False
        try:
            while not done and results.pending():
                done = self._attempt()
                results = self._results(True)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self._simulator.stop()
        results = self._results(True)
        return conclude(results, interrupted, crashed=Failure.SIMULATION in self._given_up.values())

    def _results(self, resume: bool) -> Results:
        job = self._job
        return open_results(
            job.config, job.routes, job.agent, job.folder, resume, self._given_up, renderer=job.renderer
        )

    def _attempt(self) -> bool:
        """One process; whether it is done with all routes."""
        process = _DrivingProcess()
        try:
            if not self._false_starts.prepare(self._simulator):
                return False
            process.begin(_Drive(self._job, self._simulator.host, self._simulator.port, dict(self._given_up)))
            why = self._watch(process)
        except KeyboardInterrupt:
            process.interrupt()
            raise
        finally:
            process.end()
        if process.done:
            return True
        simulator_died = not self._simulator.alive() or not self._answers()
        if process.error is not None and not (isinstance(process.error, ServerError) and simulator_died):
            raise process.error
        if why is None:
            why = f"the evaluator ended with status {process.status}"
        if simulator_died:
            why = SILENT if self._simulator.alive() else DIED
        self._simulator.discard()
        self._lose(process.under_way, why, simulator_died or process.crashed)
        return False

    def _answers(self) -> bool:
        return server_answers(self._simulator.host, self._simulator.port)

    def _watch(self, process: _DrivingProcess) -> str | None:
        """Until the process has ended, or is to be ended: then, why."""
        died_at: float | None = None
        while process.running():
            if died_at is None and not self._simulator.alive():
                died_at = time.monotonic()
                process.tell_loss()
            if died_at is not None and time.monotonic() - died_at > _LAST_WORDS_S:
                return DIED
            if process.still_s() > self._hang_s:
                return f"simulated time stood still for {process.still_s():.0f} s"
        return Failure.SIMULATION.value if process.crashed else None

    def _lose(self, route_id: str | None, why: str, of_simulator: bool) -> None:
        if route_id is None:
            if not self._false_starts.add(why):
                raise ServerError(f"No route began: {why}.", "Look at the simulator's log.")
            return
        self._false_starts.end()
        self._losses[route_id] += 1
        again = self._losses[route_id] <= self._retries
        if not again:
            self._given_up[route_id] = Failure.SIMULATION if of_simulator else Failure.AGENT_CRASHED
        self._on_loss(route_id, why, again)


@dataclass(frozen=True)
class _Drive:
    """What a driving process is told."""

    job: EvaluationJob
    host: str
    port: int
    given_up: dict[str, Failure]


class _DrivingProcess:
    """A process that drives, seen from the one that watches it.

    It is started before it is told what to do: it imports while the simulator starts.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid()))
        # until it has a session of its own, Ctrl-C would reach it, too
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # or its end would not be seen here
        self._told_at = time.monotonic()
        self._last: Any = None
        self.under_way: str | None = None
        self.error: Exception | None = None
        self.done = self.crashed = False

    @property
    def status(self) -> int | None:
        """Exit status; negative: the signal that ended it."""
        return self._process.exitcode

    def begin(self, drive: _Drive) -> None:
        """Drive."""
        self._told_at = time.monotonic()
        with suppress(BrokenPipeError):  # it died while it started; `running` says so
            self._connection.send(drive)

    def tell_loss(self) -> None:
        """The simulator has died: it is to write down what there is, and end."""
        with suppress(BrokenPipeError):
            self._connection.send(None)

    def running(self) -> bool:
        """Wait a moment, hear what it tells, and say whether there is more to come."""
        try:
            while self._connection.poll(_POLL_S):
                self._hear(*self._connection.recv())
        except (EOFError, ConnectionResetError):
            self._process.join()
            return False
        return True

    def still_s(self) -> float:
        """How long nothing new was told."""
        return time.monotonic() - self._told_at

    def interrupt(self) -> None:
        """Have it stop and keep what it has; it is given a while."""
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)
            self._process.join(_INTERRUPT_S)

    def end(self) -> None:
        """End it, whatever it does."""
        if self.done:
            self._process.join(_INTERRUPT_S)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def _hear(self, kind: str, content: Any) -> None:
        if (kind, content) != self._last:  # simulated time that stands still is the same
            self._last, self._told_at = (kind, content), time.monotonic()
        if kind == "route":
            self.under_way = content
        elif kind == "end":
            self.crashed = content
            self.done = not content
        elif kind == "error":
            self.error = content


class _Beat(Observer):
    """Tells which route begins and, once a second, the simulated time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told_at = 0.0

    def on_route_begin(self, route_id: str) -> None:
        """Tell it."""
        self._connection.send(("route", route_id))

    def on_message(self, text: str) -> None:
        """It does something."""
        self._connection.send(("message", text))

    def on_route_start(self, start: RouteStart) -> None:
        """It is set up."""
        self._connection.send(("start", start.route_id))

    def on_tick(self, tick: TickView) -> None:
        """It drives."""
        if time.monotonic() - self._told_at >= _BEAT_S:
            self._told_at = time.monotonic()
            self._connection.send(("tick", tick.sim_s))


def _serve(connection: Connection, parent: int) -> None:
    """The driving process."""
    os.setsid()  # Ctrl-C is for the one that watches
    end_with(parent)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        drive: _Drive = connection.recv()
        _evaluate(drive, connection)
    except (KeyboardInterrupt, EOFError):
        pass
    except Exception as error:
        if not isinstance(error, TickdriveError):
            traceback.print_exc()
        with suppress(OSError):
            connection.send(("error", error))
    if lost_server():  # the interpreter's own end would wait for what the client left behind
        leave_process()
    sys.stdout.flush()


def _evaluate(drive: _Drive, connection: Connection) -> None:
    job = drive.job

    def on_lost(outcome: EvaluationOutcome) -> None:
        connection.send(("end", True))
        leave_process(status=EXIT_SIMULATOR_LOST)

    def is_alive() -> bool:
        return not connection.poll()  # nothing else is told any more, see `tell_loss`

    evaluator = Evaluator(
        job.config, drive.host, drive.port, is_alive, on_lost=on_lost, renderer=job.renderer
    )
    observers = [_Beat(connection), *job.observers()]
    outcome = evaluator.run(
        job.routes, job.agent, job.folder, observers, resume=True, given_up=drive.given_up
    )
    if not outcome.interrupted:
        connection.send(("end", outcome.crashed))
