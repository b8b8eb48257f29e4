"""Real servers and real clients for the simulator's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import carla
import pytest

from tickdrive.leaderboard.simulator.launch import SimulatorProcess

SMALL_TOWN = "TickTown02"
#: the least that is a town: one straight road with a lane each way
STRAIGHT = """<?xml version="1.0"?>
<OpenDRIVE><header revMajor="1" revMinor="4" name="straight" version="1"><geoReference><![CDATA[
+proj=tmerc +lat_0=49 +lon_0=8]]></geoReference></header>
<road name="r" length="300" id="1" junction="-1"><type s="0" type="town"><speed max="50" unit="km/h"/></type>
<planView><geometry s="0" x="0" y="0" hdg="0" length="300"><line/></geometry></planView>
<elevationProfile><elevation s="0" a="0" b="0" c="0" d="0"/></elevationProfile><lateralProfile/>
<lanes><laneSection s="0">
<left><lane id="1" type="driving" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/>
<roadMark sOffset="0" type="solid" weight="standard" color="standard" width="0.15"/></lane></left>
<center><lane id="0" type="none" level="false">
<roadMark sOffset="0" type="broken" weight="standard" color="standard" width="0.15"/></lane></center>
<right><lane id="-1" type="driving" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/>
<roadMark sOffset="0" type="solid" weight="standard" color="standard" width="0.15"/></lane></right>
</laneSection></lanes></road></OpenDRIVE>
"""


@pytest.fixture(scope="session")
def server() -> Iterator[SimulatorProcess]:
    """One server for the whole session; tests take the world as they find it and `fresh_world` resets it."""
    with SimulatorProcess.start(SMALL_TOWN) as running:
        yield running


@pytest.fixture(scope="session")
def straight_road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("town") / "straight.xodr"
    path.write_text(STRAIGHT)
    return path


@pytest.fixture
def start_server(straight_road: Path) -> Iterator[Callable[..., SimulatorProcess]]:
    """Starts more servers, on the straight road unless told otherwise; they end with the test."""
    running: list[SimulatorProcess] = []

    def start(**options: object) -> SimulatorProcess:
        if "town" not in options:
            options.setdefault("xodr_path", straight_road)
        running.append(SimulatorProcess.start(**options))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def client(server: SimulatorProcess) -> carla.Client:
    connected = carla.Client(server.host, server.port)
    connected.set_timeout(30.0)
    return connected


@pytest.fixture
def fresh_world(client: carla.Client) -> Iterator[carla.World]:
    """A new episode in synchronous mode at 20 Hz; asynchronous again afterwards."""
    world = client.reload_world()
    synchronise(world)
    yield world
    settings = world.get_settings()
    settings.synchronous_mode = False
    settings.no_rendering_mode = False
    settings.fixed_delta_seconds = None
    world.apply_settings(settings)


def synchronise(world: carla.World, delta_s: float = 0.05) -> None:
    settings = world.get_settings()
    settings.synchronous_mode = True
    settings.fixed_delta_seconds = delta_s
    world.apply_settings(settings)
    world.tick()


@pytest.fixture
def ego(fresh_world: carla.World) -> carla.Vehicle:
    """A car at rest on the road."""
    blueprint = fresh_world.get_blueprint_library().find("vehicle.lincoln.mkz_2020")
    vehicle = fresh_world.spawn_actor(blueprint, fresh_world.get_map().get_spawn_points()[0])
    for _ in range(10):
        fresh_world.tick()
    return vehicle
