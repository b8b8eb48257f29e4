"""Drives a set of routes with one agent, and keeps their results on disk after every one.

The flow is upstream's `leaderboard_evaluator.py`: per route the world is loaded anew, ego, traffic and agent
are made, and the route is driven and scored; a dead simulator or sensors that are not allowed stop the
evaluation, any other failure only its route.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.agent_loading import AgentSpec, load_agent_class
from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.observer import Observer, Observers
from tickdrive.leaderboard.results import Results, RouteRecord
from tickdrive.leaderboard.route_run import RouteRun, RouteTask
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.scenarios.registry import SCENARIOS
from tickdrive.leaderboard.scoring import Failure
from tickdrive.leaderboard.sensor_interface import SENSOR_ICONS
from tickdrive.leaderboard.simulator_watch import PortProbe, SimulatorWatch, leave_process
from tickdrive.planner.config import config_hash
from tickdrive.planner.errors import RouteError, did_you_mean

RESULTS_NAME = "results.json"


@dataclass(frozen=True)
class EvaluationOutcome:
    """What an evaluation left behind.

    Attributes:
        path: the results file.
        data: its content.
        records: of all routes that are done, in order, those of resumed runs included.
        interrupted: stopped by Ctrl-C; the route under way has no record.
        crashed: stopped because the simulator died; that route is driven again on resume.
    """

    path: Path
    data: Mapping[str, Any]
    records: tuple[RouteRecord, ...]
    interrupted: bool
    crashed: bool


class Evaluator:
    """Evaluates agents on a CARLA server, embedded or real.

    Args:
        config: how routes are driven and scored.
        host: the server's address.
        port: its RPC port.
        is_alive: says whether the server's process lives, where that is known.
        opendrive: town -> OpenDRIVE text, for towns that the server does not have itself.
        on_lost: called with the outcome, on another thread, when the server died while the main thread hangs
            in a call to it (see `simulator_watch`). The process is ended when it returns.
        renderer: that the embedded simulator was asked for; empty for another server. It is noted.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        host: str = "127.0.0.1",
        port: int = 2000,
        is_alive: Callable[[], bool] | None = None,
        opendrive: Mapping[str, str] | None = None,
        on_lost: Callable[[EvaluationOutcome], None] | None = None,
        renderer: str = "",
    ) -> None:
        self._config = config
        self._host, self._port = host, port
        self._is_alive = is_alive or PortProbe(host, port)
        self._on_lost = on_lost or (lambda outcome: None)
        self._opendrive = dict(opendrive or {})
        self._renderer = renderer

    def run(
        self,
        routes: Sequence[Route],
        agent: AgentSpec,
        out_dir: str | Path,
        observers: Sequence[Observer] = (),
        resume: bool = False,
        given_up: Mapping[str, Failure] | None = None,
    ) -> EvaluationOutcome:
        """Drive all routes that have no record yet.

        Args:
            routes: what to drive, each `config.repetitions` times.
            agent: who drives.
            out_dir: `results.json` is written there.
            observers: told of everything.
            resume: go on with the results in `out_dir`; without it they are replaced.
            given_up: routes that are not to be tried again, see `Results.open`.

        Raises:
            RouteError: no routes, a town the server does not have, or a route that does not fit its town.
            ConfigError: the agent cannot be loaded.
            ServerError: the server cannot be reached or has another version than the client.
            DataError: the results to resume are damaged or belong to another evaluation.
        """
        if not routes:
            raise RouteError("There are no routes to drive.", "Give at least one.")
        observer = Observers(tuple(observers))
        agent_class = load_agent_class(agent)
        tasks = make_tasks(routes, self._config)
        results = open_results(
            self._config, routes, agent, out_dir, resume, given_up, observer, self._renderer
        )
        pending = set(results.pending())
        if not pending:
            return conclude(results, interrupted=False, crashed=False)
        with CarlaSession(
            self._host, self._port, self._config.tick_hz, self._config.server_timeout_s, self._is_alive
        ) as session:
            session.check_towns({t.route.town for t in tasks} - set(self._opendrive))
            interrupted = crashed = False
            try:
                crashed = self._drive(session, tasks, pending, agent_class, agent, results, observer)
            except KeyboardInterrupt:
                interrupted = True
            # before the session is closed: a server that dies in that moment costs the process
            return conclude(results, interrupted, crashed)

    def _drive(
        self,
        session: CarlaSession,
        tasks: Sequence[RouteTask],
        pending: set[str],
        agent_class: type,
        spec: AgentSpec,
        results: Results,
        observer: Observer,
    ) -> bool:
        for task in tasks:
            if task.route_id not in pending:
                continue
            results.begin()
            observer.on_route_begin(task.route_id)
            opendrive = self._opendrive.get(task.route.town)
            run = RouteRun(session, task, agent_class, spec, self._config, observer, opendrive)

            def take_over(run: RouteRun = run) -> None:
                results.finish(run.record_lost(), run.timing, run.infractions(), run.scenarios())
                outcome = conclude(results, interrupted=False, crashed=True)
                self._on_lost(outcome)
                leave_process(
                    f"The simulator died. Results so far: {outcome.path}; resume to drive the rest."
                )

            watch = SimulatorWatch(self._is_alive, take_over)
            run.on_crash = watch.settle
            watch.start()
            try:
                record = run.run()
            finally:
                watch.settle()
            if run.sensor_types and not results.sensors:
                results.sensors = [SENSOR_ICONS[kind] for kind in run.sensor_types]
            results.finish(record, run.timing, run.infractions(), run.scenarios())
            if run.stop_evaluation:
                return record.simulation_crashed
        return False


def open_results(
    config: EvaluationConfig,
    routes: Sequence[Route],
    agent: AgentSpec,
    out_dir: str | Path,
    resume: bool,
    given_up: Mapping[str, Failure] | None = None,
    observer: Observer | None = None,
    renderer: str = "",
) -> Results:
    """The results file of an evaluation, new or to go on with; see `Results.open`."""
    return Results.open(
        Path(out_dir) / RESULTS_NAME,
        [task.route_id for task in make_tasks(routes, config)],
        notes={
            "agent": agent.label or agent.agent,
            "agent_config": agent.config,
            "rules": config.rules,
            "seed": config.seed,
            "config_hash": config_hash(config),
            **({"renderer": renderer} if renderer else {}),
            "skipped_scenarios": _skipped(routes, config.scenarios.enabled, observer or Observer()),
        },
        resume=resume,
        budget_ms=config.budget_ms,
        given_up=given_up,
    )


def conclude(results: Results, interrupted: bool, crashed: bool) -> EvaluationOutcome:
    """Settle the results, and what is to be told of them."""
    results.conclude()
    records = tuple(results.records[i] for i in results.route_ids if i in results.records)
    return EvaluationOutcome(results.path, results.to_json(), records, interrupted, crashed)


def make_tasks(routes: Sequence[Route], config: EvaluationConfig) -> list[RouteTask]:
    """Routes times repetitions, in upstream's order (all repetitions of a route after each other)."""
    total = len(routes) * config.repetitions
    return [
        RouteTask(
            route=route,
            route_id=f"{route.name}_rep{repetition}",
            index=i * config.repetitions + repetition,
            total=total,
            seed=config.seed + repetition,
        )
        for i, route in enumerate(routes)
        for repetition in range(config.repetitions)
    ]


def _skipped(routes: Sequence[Route], enabled: bool, observer: Observer) -> dict[str, int]:
    """Count the scenarios that will not run, by type, and say so: all, or those of unknown types."""
    places: dict[str, list[str]] = {}
    for route in routes:
        for scenario in route.scenarios:
            if not enabled or not scenario.known:
                places.setdefault(scenario.type, []).append(route.id)
    counts = {kind: len(where) for kind, where in sorted(places.items())}
    if not enabled and counts:
        observer.on_message(
            f"Scenarios are switched off (scenarios.enabled=false): {sum(counts.values())} are skipped."
        )
    elif counts:
        for kind, where in sorted(places.items()):
            named = ", ".join(sorted(set(where), key=where.index))
            hint = did_you_mean(kind, SCENARIOS)
            observer.on_message(f"There is no scenario type {kind!r}, skipped in route {named}. {hint}")
    return counts
