"""Where walkers stroll."""

import itertools
import random
from pathlib import Path

import carla

from tickdrive import configs
from tickdrive.leaderboard import walkers
from tickdrive.leaderboard.criteria.base import RouteLine
from tickdrive.leaderboard.evaluation_config import TrafficConfig
from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.walkers import WalkerTraffic


def test_the_search_for_sidewalks_ends_where_there_are_none(monkeypatch):
    """On a motorway it did not: the route never began."""
    (route,) = read_routes(Path(next(iter(configs.__path__))) / "routes" / "default.xml")
    town = carla.Map(route.town, read_town(route.town))
    line = RouteLine(RoutePlanner(town).trace(route.locations()))
    traffic = WalkerTraffic(None, town, line, TrafficConfig(walkers=4), random.Random(0))
    assert len(list(itertools.islice(traffic._strolls(), 4))) == 4
    monkeypatch.setattr(walkers, "_STROLL_FARTHEST_M", 0.0)
    assert list(traffic._strolls()) == []
