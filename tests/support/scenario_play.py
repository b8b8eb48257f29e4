"""Plays one scenario in the embedded simulator before an ego on rails, and notes what happens."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import carla
import numpy as np

from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import EgoTick, RouteLine
from tickdrive.leaderboard.evaluation_config import TrafficConfig
from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.leaderboard.routes import Route, read_routes
from tickdrive.leaderboard.scenarios.director import ScenarioDirector
from tickdrive.leaderboard.scenarios.driver import PathDriver
from tickdrive.leaderboard.scenarios.outcome import ScenarioOutcome
from tickdrive.leaderboard.scenarios.rules import ScenarioRules
from tickdrive.leaderboard.scenarios.stage import Stage
from tickdrive.leaderboard.traffic import Traffic
from tickdrive.leaderboard.upstream.scenario_sites import NEEDS, Need, Site, find_sites, route_xml

TOWN = "TickTown01"
SIZES = ((30.0, 160.0, 60.0), (30.0, 120.0, 40.0))
Track = list[tuple[float, np.ndarray, float]]
"""Per tick: time [s], (2,) position, speed [m/s]."""


@dataclass
class Play:
    """What was seen of a scenario: the ego, and all actors that were not there before."""

    outcome: ScenarioOutcome
    rules: ScenarioRules
    stage: Stage
    ego: Track = field(default_factory=list)
    others: dict[int, Track] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    seen: list[object] = field(default_factory=list)

    def tracks(self, kind: str) -> list[Track]:
        """Of all actors whose type begins so, in the order in which they came."""
        return [self.others[i] for i, name in self.kinds.items() if name.startswith(kind)]

    def note(self, session: CarlaSession, tick: EgoTick, known: set[int]) -> None:
        """Take a tick down."""
        self.ego.append((tick.sim_s, flat(tick.location), tick.speed_mps))
        for actor in session.world.get_actors():
            at = actor.get_location()
            if actor.id in known or actor.type_id.startswith("sensor") or at == carla.Location():
                continue
            velocity = actor.get_velocity()
            self.kinds[actor.id] = actor.type_id
            track = self.others.setdefault(actor.id, [])
            track.append((tick.sim_s, flat(at), math.hypot(velocity.x, velocity.y)))


@dataclass
class ScenarioPlayer:
    """Plays scenarios of a type at a place of the town; `folder` takes the route file."""

    session: CarlaSession
    folder: Path

    def __call__(
        self,
        kind: str,
        speed_mps: float = 8.0,
        most_s: float = 40.0,
        site_number: int = 1,
        speed_of: Callable[[Play], float] | None = None,
        each_tick: Callable[[Play], object] | None = None,
        before: Callable[[Site], None] | None = None,
        road: str | None = None,
        site: Site | None = None,
        need: Need | None = None,
        extra: str = "",
    ) -> Play:
        """The ego holds `speed_mps`, or what `speed_of` says, until the scenario or the route is over."""
        session = self.session
        need = need or dataclasses.replace(NEEDS[kind], road=road or NEEDS[kind].road)
        sites = itertools.chain.from_iterable(find_sites(session.map, need, size) for size in SIZES)
        site = site or next(itertools.islice(sites, site_number, None))
        route = self._route(kind, need, site, extra)
        if before is not None:
            before(site)
        known = {actor.id for actor in session.world.get_actors()}
        planner = RoutePlanner(session.map)
        points = planner.trace(route.locations())
        line = RouteLine(points)
        ego = put_ego(session, line)
        known.add(ego.id)
        traffic = Traffic(session, ego, line, TrafficConfig(vehicles=0, walkers=0), 0)
        stage = Stage(session, ego, points, line, planner, traffic, ScenarioRules(), seed=0)
        director = ScenarioDirector(stage, route.scenarios, 100.0, lambda text: None, session.answers)
        director.build()
        driver = PathDriver(ego, np.array([(p.x, p.y) for p in line.locations]), speed_mps, constant=True)
        result = Play(director.outcomes()[0], stage.rules, stage)
        try:
            begun_s = session.world.get_snapshot().timestamp.elapsed_seconds
            for _ in range(int(most_s * 20)):
                driver.speed_mps = speed_mps if speed_of is None else speed_of(result)
                if driver.step():
                    break
                snapshot = session.tick()
                sim_s = snapshot.timestamp.elapsed_seconds - begun_s
                tick = EgoTick(snapshot.frame, sim_s, ego.get_transform(), ego.get_velocity())
                director.on_tick(tick)
                result.note(session, tick, known)
                if each_tick is not None:
                    result.seen.append(each_tick(result))
                result.outcome = director.outcomes()[0]
                if result.outcome.ended_s is not None:
                    break
            director.finish()
        finally:
            director.close()
            ego.destroy()
            session.tick()
        actors = session.world.get_actors()
        left = {a.id for a in actors if a.type_id.startswith(("vehicle", "walker", "static"))}
        assert left <= known, "a scenario left actors in the world"
        return result

    def _route(self, kind: str, need: Need, site: Site, extra: str) -> Route:
        text = route_xml("0", TOWN, kind, need, site).replace("</scenario>", f"{extra}</scenario>")
        path = self.folder / "routes.xml"
        path.write_text(f"<routes>{text}</routes>")
        return read_routes(path)[0]


def put_ego(session: CarlaSession, line: RouteLine) -> carla.Vehicle:
    """An ego at a route's start."""
    start = carla.Transform(line.transforms[0].location + carla.Location(z=0.3), line.transforms[0].rotation)
    blueprint = session.world.get_blueprint_library().find("vehicle.lincoln.mkz_2020")
    ego = session.world.spawn_actor(blueprint, start)
    session.tick()
    return ego


def flat(location: carla.Location) -> np.ndarray:
    """(2,) in the plane."""
    return np.array((location.x, location.y))
