"""One route, from the loaded town to its record, as upstream's `ScenarioManager` drives it."""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import carla

from tickdrive.leaderboard.agent_loading import AgentSpec, build_agent, step_agent, time_limit
from tickdrive.leaderboard.autonomous_agent import PrivilegedAgent
from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import DriveClock, EgoTick, RouteLine
from tickdrive.leaderboard.criteria.collisions import CollisionSensor
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.observer import Observer, RouteStart, TickView
from tickdrive.leaderboard.results import PlacedInfraction, RouteRecord
from tickdrive.leaderboard.route_judge import (
    EGO_LIFT_M,
    JudgeLimits,
    RouteJudge,
    judged_line,
    red_lights,
    traffic_lights,
)
from tickdrive.leaderboard.route_planner import RoutePlanner, geo_reference, gps_plan
from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.scenarios.director import ScenarioDirector
from tickdrive.leaderboard.scenarios.outcome import ScenarioOutcome
from tickdrive.leaderboard.scenarios.rules import ScenarioRules
from tickdrive.leaderboard.scenarios.stage import Stage
from tickdrive.leaderboard.scoring import Failure, route_status, score
from tickdrive.leaderboard.sensor_interface import (
    AgentSensors,
    SensorInterface,
    SensorsInvalid,
    SensorTimeout,
    validate_sensors,
)
from tickdrive.leaderboard.tick_timing import TickTiming, TimingHistogram
from tickdrive.leaderboard.traffic import Traffic
from tickdrive.planner.errors import RouteError, ServerError

_LOGGER = logging.getLogger(__name__)
_RATE_WINDOW = 20


@dataclass(frozen=True)
class RouteTask:
    """A route to be driven, its place in the evaluation, and its seed."""

    route: Route
    route_id: str
    index: int
    total: int
    seed: int


class RouteRun:
    """Drives one route.

    Args:
        session: connected; the route's town is loaded by `run`.
        task: the route.
        agent_class: built once, for this route.
        spec: of the agent.
        config: of the evaluation.
        observer: told of everything.
        opendrive: OpenDRIVE text of the town, where the server has no such map itself.

    Attributes:
        timing: of the ticks so far.
        sensor_types: the agent's sensors, once it is set up.
        stop_evaluation: no further route may be driven.
        on_crash: called when the simulator is found dead or failing, before anything else is done.
    """

    def __init__(
        self,
        session: CarlaSession,
        task: RouteTask,
        agent_class: type,
        spec: AgentSpec,
        config: EvaluationConfig,
        observer: Observer,
        opendrive: str | None = None,
    ) -> None:
        self._session = session
        self._task = task
        self._agent_class = agent_class
        self._spec = spec
        self._config = config
        self._limits = config.limits()
        self._observer = observer
        self._opendrive = opendrive
        self._agent: Any = None
        self._ego: carla.Vehicle | None = None
        self._sensors: AgentSensors | None = None
        self._traffic: Traffic | None = None
        self._director: ScenarioDirector | None = None
        self._rules = ScenarioRules()
        self._line: RouteLine | None = None
        self._judge: RouteJudge | None = None
        self._lights: list[carla.TrafficLight] = []
        self._started = 0.0
        self._observed = False
        self._last_weather_percent = 0.0
        self.sensor_types: list[str] = []
        self.timing = TimingHistogram()
        self.stop_evaluation = False
        self.on_crash: Callable[[], None] = lambda: None

    def run(self) -> RouteRecord:
        """Drive the route.

        Returns:
            its record. `stop_evaluation` then says whether no further route may be driven (the simulator
            died, or the sensors are not allowed).

        Raises:
            RouteError: the route does not fit the town.
            KeyboardInterrupt: passed on after cleaning up; the route has no record then.
        """
        failure: Failure | None = None
        self._started = time.time()
        record: RouteRecord | None = None
        try:
            try:
                failure = self._prepare() or self._drive()
            except (ServerError, SensorTimeout) as error:
                failure = self._crashed(str(error))
            except RuntimeError as error:  # what the client raises when a call fails
                failure = self._crashed(f"{error}\n{traceback.format_exc()}")
            record = self._record(failure)
            return record
        finally:
            try:
                if self._observed:
                    self._observer.on_route_end(self._task.route_id, record)
            finally:
                self._clean_up()

    # -- before the first step ---------------------------------------------------------------------------

    def _prepare(self) -> Failure | None:
        task, session = self._task, self._session
        self._observer.on_message(f"Loading {task.route.town}")
        session.load(task.route.town, task.seed, self._opendrive)
        planner = RoutePlanner(session.map)
        points = planner.trace(task.route.locations())
        line = self._line = judged_line(points)
        if line.length_m < 1.0:
            raise RouteError(f"{task.route.source}: route {task.route.id!r} has no length.", "Move its goal.")
        session.world.set_weather(task.route.weather_at(0.0))
        ego = self._spawn_ego(points[0].transform)
        self._traffic = Traffic(session, ego, line, self._config.traffic, task.seed)
        if task.route.scenarios and self._config.scenarios.enabled:
            self._direct(Stage(session, ego, points, line, planner, self._traffic, self._rules, task.seed))
        self._traffic.spawn()
        self._observer.on_message("Setting up the agent")
        failure = self._set_up_agent(points, ego)
        if failure is not None:
            return failure
        self._lights = traffic_lights(session.world)
        limits = JudgeLimits(self._config.scoring_rules, self._limits.blocked_s, self._config.deviation_m)
        collisions = CollisionSensor(session.world, ego, self._rules)
        self._judge = RouteJudge(session.world, session.map, ego, line, collisions, limits)
        for _ in range(self._config.warm_up_ticks):
            self._snapshot = session.tick()
        self._traffic.start()
        if isinstance(self._agent, PrivilegedAgent):
            self._agent.use_world(session.world, ego, points)
        start = RouteStart(
            task.route_id,
            task.route,
            task.index + 1,
            task.total,
            tuple(points),
            line.length_m,
            session.world,
            ego,
            self._agent,
        )
        self._observed = True
        self._observer.on_route_start(start)
        return None

    def _spawn_ego(self, start: carla.Transform) -> carla.Vehicle:
        lifted = carla.Location(start.location.x, start.location.y, start.location.z + EGO_LIFT_M)
        blueprint = self._session.world.get_blueprint_library().find(self._config.ego_vehicle)
        blueprint.set_attribute("role_name", "hero")
        ego = self._session.world.try_spawn_actor(blueprint, carla.Transform(lifted, start.rotation))
        if ego is None:
            raise RouteError(
                f"{self._task.route.source}: route {self._task.route.id!r} starts where no vehicle fits.",
                "Move its first waypoint.",
            )
        self._ego = ego
        self._session.tick()
        return ego

    def _direct(self, stage: Stage) -> None:
        """Build the scenarios around the start, before the traffic takes their room."""
        self._director = ScenarioDirector(
            stage,
            self._task.route.scenarios,
            self._config.scenarios.build_ahead_m,
            self._observer.on_message,
            self._session.answers,
        )
        self._director.build()
        self._session.tick()

    def _set_up_agent(self, points: list[Any], ego: carla.Vehicle) -> Failure | None:
        host, port = ("", 0) if self._config.hide_server else (self._session.host, self._session.port)
        reference = geo_reference(self._session.map.to_opendrive())
        try:
            with time_limit(self._config.agent_timeout_s):
                self._agent = build_agent(self._agent_class, host, port, False, self._spec.config)
                if hasattr(self._agent, "plan_gap_m"):
                    self._agent.plan_gap_m = self._limits.plan_gap_m
                self._agent.set_global_plan(gps_plan(points, reference), points)
                self._agent.setup(self._spec.setup_argument(self._task.route_id))
                sensors = list(self._agent.sensors())
            track = getattr(self._agent.track, "value", self._agent.track)
            validate_sensors(sensors, str(track), self._config.track)
        except SensorsInvalid as error:
            self._say(str(error))
            self.stop_evaluation = True
            return Failure.AGENT_SENSORS
        except (Exception, SystemExit):
            if not self._session.answers():
                return self._crashed("The simulator was lost while the agent was set up.")
            self._say(traceback.format_exc())
            return Failure.AGENT_SETUP
        self.sensor_types = [str(s["type"]) for s in sensors]
        interface = self._agent.sensor_interface
        if isinstance(interface, SensorInterface):
            interface.timeout_s = self._limits.sensor_timeout_s
        self._sensors = AgentSensors(self._session.world, ego, sensors, interface)
        return None

    # -- the loop ----------------------------------------------------------------------------------------

    def _drive(self) -> Failure | None:
        """Tick until the route ends; returns what ended it from outside the criteria."""
        assert self._ego is not None and self._sensors is not None and self._traffic is not None
        assert self._judge is not None
        clock = DriveClock(self._snapshot.frame)
        self._observer.on_message("Driving")
        ticks = 0
        finished_at: deque[float] = deque(maxlen=_RATE_WINDOW)
        while not self._judge.over:
            if self._limits.max_ticks and ticks >= self._limits.max_ticks:
                return Failure.TICKS
            t0 = time.perf_counter()
            snapshot = self._session.tick()
            self._sensors.on_tick(snapshot.frame)
            sim_s = clock.advance(snapshot.frame, snapshot.timestamp.delta_seconds)
            t1 = time.perf_counter()
            try:
                with time_limit(self._config.agent_timeout_s):
                    control, waited_ms = step_agent(self._agent, snapshot.frame, sim_s)
            except SensorTimeout:
                raise
            except (Exception, SystemExit):  # an agent that exits must not take the evaluation along
                if not self._session.answers():
                    return self._crashed("The simulator was lost while the agent computed.")
                self._say(traceback.format_exc())
                return Failure.AGENT_CRASHED
            t2 = time.perf_counter()
            if self._director is not None:
                self._director.on_control(control)
            self._ego.apply_control(control)
            tick = self._look(snapshot.frame, sim_s)
            new_events = self._judge.update(tick)
            self._traffic.on_tick(tick, self._judge.travelled_m)
            self._follow_weather()
            t3 = time.perf_counter()
            timing = TickTiming(
                simulator_ms=(t1 - t0) * 1e3 + waited_ms,
                agent_ms=(t2 - t1) * 1e3 - waited_ms,
                evaluator_ms=(t3 - t2) * 1e3,
            )
            self.timing.record(timing)
            ticks += 1
            finished_at.append(t3)
            rate = (len(finished_at) - 1) / (t3 - finished_at[0]) if len(finished_at) > 1 else 0.0
            self._observer.on_tick(
                TickView(
                    snapshot.frame,
                    sim_s,
                    self._judge.percent / 100.0,
                    tick.speed_mps,
                    rate,
                    timing,
                    control,
                    new_events,
                    self._session.world,
                    self._ego,
                    self._agent,
                )
            )
        return None

    def _look(self, frame: int, sim_s: float) -> EgoTick:
        assert self._ego is not None and self._traffic is not None
        transform = self._ego.get_transform()
        tick = EgoTick(
            frame=frame,
            sim_s=sim_s,
            transform=transform,
            velocity_in_world=self._ego.get_velocity(),
            speed_limit_kmh=self._ego.get_speed_limit(),
            traffic_speeds_mps=self._traffic.speeds_mps(transform.location),
            red_lights=red_lights(self._lights),
        )
        if self._director is None:
            return tick
        self._director.on_tick(tick)
        return replace(tick, signals=self._rules.take())

    def _follow_weather(self) -> None:
        assert self._judge is not None
        percent = self._judge.percent
        if len(self._task.route.weathers) > 1 and percent - self._last_weather_percent >= 1.0:
            self._session.world.set_weather(self._task.route.weather_at(percent))
            self._last_weather_percent = percent

    def infractions(self) -> tuple[PlacedInfraction, ...]:
        """All infractions so far, in time's order."""
        return self._judge.infractions() if self._judge else ()

    # -- the end -----------------------------------------------------------------------------------------

    def scenarios(self) -> tuple[ScenarioOutcome, ...]:
        """What became of the route's scenarios; empty where they are off."""
        return self._director.outcomes() if self._director is not None else ()

    def _record(self, failure: Failure | None) -> RouteRecord:
        task, system_s = self._task, time.time() - self._started
        if self._judge is not None:
            if self._director is not None:
                self._director.finish()
                self._judge.settle(self._rules.take())
            return self._judge.record(task.index, task.route_id, failure, system_s)
        return RouteRecord.build(
            index=task.index,
            route_id=task.route_id,
            status=route_status(False, (), failure),
            events=(),
            scores=score(0.0, (), self._config.scoring_rules),
            length_m=self._line.length_m if self._line else 0.0,
            game_s=0.0,
            system_s=system_s,
        )

    def record_lost(self) -> RouteRecord:
        """The route's record, and its end for observers; for another thread while `run` hangs in a call."""
        self._say("The simulator has ended.")
        record = self._record(Failure.SIMULATION)
        if self._observed:
            self._observer.on_route_end(self._task.route_id, record)
        return record

    def _crashed(self, reason: str) -> Failure:
        self.on_crash()
        self._say(reason)
        self._session.answers()  # one that does not is not asked again in cleaning up
        self.stop_evaluation = True
        return Failure.SIMULATION

    def _say(self, text: str) -> None:
        _LOGGER.error("%s: %s", self._task.route_id, text.strip())
        self._observer.on_message(text.strip())

    def _clean_up(self) -> None:
        """Agent first (it may hold the world), then sensors, then actors; each on its own."""
        steps = []
        if self._sensors is not None:
            steps.append(self._sensors.destroy)
        if self._judge is not None:
            steps.append(self._judge.close)
        if self._director is not None:
            steps.append(self._director.close)
        if self._traffic is not None:
            steps.append(self._traffic.destroy)
        if self._ego is not None:
            steps.append(self._ego.destroy)
        if self._agent is not None:
            self._clean(self._agent.destroy)
        for step in steps:
            if not self._session.dead:  # on a dead server it would wait for the client's timeout
                self._clean(step)
        self._agent = None

    def _clean(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:
            _LOGGER.warning("cleaning up %s: %s", self._task.route_id, error)
