"""Runs an upstream evaluator over a set of routes, in as many attempts as it takes.

An evaluator is given all routes that have no verdict yet. Its process and the simulator are watched from
here: if one dies or hangs, the route under way has lost its progress, both are started anew, and that route
is tried again, a set number of times. What upstream says of a route is kept as it says it.
"""

from __future__ import annotations

import copy
import os
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tickdrive.leaderboard.carla_session import free_port, server_answers
from tickdrive.leaderboard.upstream.attempt import Attempt
from tickdrive.leaderboard.upstream.checkout import Checkout
from tickdrive.leaderboard.upstream.records import (
    AGENT_CRASHED,
    SENSORS_INVALID,
    SIMULATION_CRASHED,
    Drive,
    Records,
    verdicts,
)
from tickdrive.leaderboard.upstream.runner import RunnerSpec
from tickdrive.leaderboard.upstream.simulators import DIED, SILENT, FalseStarts, SimulatorHost
from tickdrive.planner.errors import ConfigError, ServerError
from tickdrive.planner.files import write_atomically

_HANG_MARGIN_S = 60.0


@dataclass(frozen=True)
class UpstreamAgent:
    """An agent as the evaluator's command line names it.

    Attributes:
        path: its file.
        config: what its setup is given.
        track: of the leaderboard.
        logs: folder for its logs, in place of the run's own.
    """

    path: Path
    config: str
    track: str = "SENSORS"
    logs: Path | None = None


@dataclass(frozen=True)
class SuiteSettings:
    """How a suite is run.

    Attributes:
        repetitions: how often each route is driven.
        seed: of the Traffic Manager.
        timeout_s: upstream's ``--timeout``: for the agent's setup, a tick, a call to the simulator.
        hang_s: how long simulated time may stand still; None: `timeout_s` and a minute, so that upstream's
            own timeouts come first.
        retries: how often a route whose drive was lost is tried again.
    """

    repetitions: int = 1
    seed: int = 0
    timeout_s: float = 300.0
    hang_s: float | None = None
    retries: int = 2

    @property
    def hangs_after_s(self) -> float:
        """When a standstill counts as one."""
        return self.timeout_s + _HANG_MARGIN_S if self.hang_s is None else self.hang_s


class SuiteObserver(Protocol):
    """Told what happens."""

    def at(self, drive: Drive, sim_s: float) -> None:
        """A drive is under way."""

    def done(self, drive: Drive, record: Mapping[str, Any], wall_s: float) -> None:
        """A drive has its verdict."""

    def lost(self, drive: Drive | None, why: str, again: bool) -> None:
        """A drive (or, None, a start) was lost."""


class SuiteRun:
    """One evaluation.

    Args:
        checkout: whose evaluator.
        routes_file: upstream's route file.
        records: what is to be driven of it, and what is known already.
        agent: who drives.
        folder: of the run; an absolute path.
        simulator: where it drives.
        settings: how.
        observer: told what happens.
        judge: socket of a second judge of the drives (see `second_judge`), where one listens.
    """

    def __init__(
        self,
        checkout: Checkout,
        routes_file: Path,
        records: Records,
        agent: UpstreamAgent,
        folder: Path,
        simulator: SimulatorHost,
        settings: SuiteSettings,
        observer: SuiteObserver,
        judge: Path | None = None,
    ) -> None:
        self._checkout = checkout
        self._routes_file = routes_file
        self._records = records
        self._agent = agent
        self._folder = folder
        self._simulator = simulator
        self._settings = settings
        self._observer = observer
        self._judge = judge
        self._checkpoint = folder / "attempt" / "results.json"
        self._losses: Counter[Drive] = Counter()
        self._false_starts = FalseStarts(settings.retries, lambda why, again: observer.lost(None, why, again))

    def run(self) -> None:
        """Drive until every drive has a verdict.

        Raises:
            ConfigError: upstream rejects the agent's sensors.
            ServerError: the simulator cannot be had, or the evaluator ends before its first route.
        """
        try:
            while pending := self._records.pending():
                # upstream's repetitions are all of a file's routes or none: here each is a run of its own
                repetition = min(drive.repetition for drive in pending)
                self._attempt([drive for drive in pending if drive.repetition == repetition])
        finally:
            self._simulator.stop()

    def save_folder(self, drive: Drive) -> Path:
        """`SAVE_PATH` while a route is driven; Bench2Drive's own tools want all routes in one."""
        own = f"rep{drive.repetition}" if self._checkout.suite.starts_carla else drive.route_id
        return (self._agent.logs or self._folder / "save") / own

    def _attempt(self, drives: Sequence[Drive]) -> None:
        if not self._false_starts.prepare(self._simulator):
            return
        for drive in drives:
            self._put_aside_logs(drive)
        environment = self._environment(self.save_folder(drives[0]))
        attempt = Attempt(
            self._command(drives),
            self._checkpoint,
            self._log_path(),
            environment,
            self._checkout.working_folder,
        )
        driven = {drive.route: drive for drive in drives}
        why: str | None = None
        try:
            while why is None and not attempt.crashed and attempt.running():
                self._listen(attempt, driven)
                if not self._simulator.alive():
                    why = DIED
                elif attempt.still_s() > self._settings.hangs_after_s:
                    why = f"simulated time stood still for {attempt.still_s():.0f} s"
                    if not server_answers(self._simulator.host, self._simulator.port):
                        why = SILENT
        except KeyboardInterrupt:
            attempt.end()
            self._listen(attempt, driven)
            raise
        finally:
            attempt.end()
        simulator_died = not self._simulator.alive() and not self._checkout.suite.starts_carla
        simulator_died = simulator_died or why in (DIED, SILENT)
        self._listen(attempt, driven, simulator_died)
        if why is None and attempt.status:
            why = f"the evaluator ended with status {attempt.status}"
        if why is None and not attempt.verdicts:
            why = "the evaluator ended without a result"
        if why is not None:
            self._simulator.discard()
        self._account(attempt, why, simulator_died)

    def _listen(
        self, attempt: Attempt, driven: Mapping[str, Drive], simulator_died: bool | None = None
    ) -> None:
        """Take what the evaluator tells and wrote; whether the simulator died is asked if not known."""
        for event in attempt.events():
            if "route" in event:
                attempt.begins(driven[str(event["route"]).rpartition("_rep")[0]])
            elif attempt.under_way is not None:
                self._observer.at(attempt.under_way, float(event["sim_s"]))
        content = attempt.results()
        if content and content["sensors"]:
            self._records.sensors = content["sensors"]
        for record in verdicts(content)[len(attempt.verdicts) :]:
            if simulator_died is None:  # asked after reading: what it died before, it may be the reason of
                simulator_died = not self._simulator.alive()
            attempt.verdicts.append(record)
            drive = driven[record["route_id"].rpartition("_rep")[0]]
            status = record["status"]
            if status == SENSORS_INVALID:
                raise ConfigError(
                    f"The leaderboard rejects the agent's sensors (track {self._agent.track}).",
                    f"{attempt.log_path} says which and why.",
                )
            # upstream stops then, but cleans up first, which takes a timeout for every call to what is gone
            attempt.crashed = attempt.crashed or status == SIMULATION_CRASHED
            of_simulator = status == SIMULATION_CRASHED or (simulator_died and status == AGENT_CRASHED)
            if of_simulator and self._lose(drive, status.removeprefix("Failed - ")):
                continue
            self._records.add(drive, record)
            self._observer.done(drive, record, attempt.wall_s(drive))
            if attempt.under_way == drive:
                attempt.under_way = None

    def _account(self, attempt: Attempt, why: str | None, simulator_died: bool) -> None:
        """What becomes of the route under way, or of a run that did not begin."""
        drive = attempt.under_way
        if drive is not None and self._records.of(drive) is None and not attempt.has_verdict(drive):
            if not self._lose(drive, why or "no result"):
                status = SIMULATION_CRASHED if simulator_died else AGENT_CRASHED
                self._records.lost(self._checkout, drive, status)
                record = self._records.of(drive)
                assert record is not None
                self._observer.done(drive, record, attempt.wall_s(drive))
            return
        if attempt.verdicts or why is None:
            self._false_starts.end()
            return
        if not self._false_starts.add(why, mendable=simulator_died):
            raise ServerError(
                f"No route began: {why}. The evaluator's log ends:\n{attempt.tail()}",
                f"The whole log is {attempt.log_path}.",
            )

    def _lose(self, drive: Drive, why: str) -> bool:
        """Count a lost drive; whether it is tried again."""
        self._losses[drive] += 1
        again = self._losses[drive] <= self._settings.retries
        self._observer.lost(drive, why, again)
        return again

    def _put_aside_logs(self, drive: Drive) -> None:
        """A lost drive's tick logs stay, but are not the route's."""
        folder = self.save_folder(drive)
        folder.mkdir(parents=True, exist_ok=True)
        for path in tick_logs(folder, drive):
            path.rename(path.with_name(f"lost-{int(time.time() * 1000)}-{path.name}"))

    def _log_path(self) -> Path:
        folder = self._folder / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"evaluator-{len(list(folder.glob('evaluator-*.log'))) + 1}.log"

    def _environment(self, save: Path) -> dict[str, str]:
        environment = {
            **os.environ,
            "LEADERBOARD_ROOT": str(self._checkout.leaderboard_root),
            "SCENARIO_RUNNER_ROOT": str(self._checkout.scenario_runner_root),
            "SAVE_PATH": str(save),
            "CHECKPOINT_ENDPOINT": str(self._records.path),
            "ROUTES": str(self._routes_file),
            "TEAM_AGENT": str(self._agent.path),
            "TEAM_CONFIG": self._agent.config,
        }
        if self._checkout.carla_root is not None:
            environment["CARLA_ROOT"] = str(self._checkout.carla_root)
        if self._checkout.suite.starts_carla:
            environment["IS_BENCH2DRIVE"] = "True"
        return environment

    def _command(self, drives: Sequence[Drive]) -> RunnerSpec:
        folder = self._folder / "attempt"
        folder.mkdir(exist_ok=True)
        routes = folder / "routes.xml"
        self._checkpoint.unlink(missing_ok=True)
        write_atomically(routes, part_of(self._routes_file, {drive.route for drive in drives}))
        arguments = {
            "host": self._simulator.host,
            "port": self._simulator.port,
            "traffic-manager-port": free_port(),
            "traffic-manager-seed": self._settings.seed,
            "timeout": self._settings.timeout_s,
            "routes": routes,
            "repetitions": 1,
            "agent": self._agent.path,
            "agent-config": self._agent.config,
            "track": self._agent.track,
            "checkpoint": self._checkpoint,
            "debug-checkpoint": folder / "live.txt",
        }
        return RunnerSpec(
            script=str(self._checkout.evaluator),
            arguments=[f"--{name}={value}" for name, value in arguments.items()],
            python_path=self._checkout.python_path,
            # upstream counts every run's repetitions from 0
            save_folders={f"{drive.route}_rep0": str(self.save_folder(drive)) for drive in drives},
            parent=os.getpid(),
            events=-1,
            judge=str(self._judge or ""),
        )


def part_of(routes_file: Path, names: set[str]) -> bytes:
    """A route file with only these routes, as they are in it."""
    root = ET.parse(routes_file).getroot()
    part = ET.Element(root.tag, root.attrib)
    for route in root.iter("route"):
        if f"RouteScenario_{route.get('id')}" in names:
            part.append(copy.deepcopy(route))
    return ET.tostring(part, encoding="utf-8", xml_declaration=True)


def tick_logs(folder: Path, drive: Drive) -> list[Path]:
    """A drive's tick logs, the latest last."""
    # upstream's own name of the repetition: see `SuiteRun.run`
    logs = [*folder.glob("ticks*.jsonl"), *folder.glob(f"{drive.route}_rep*.ticks*.jsonl")]
    return sorted(logs, key=lambda path: path.stat().st_mtime)
