"""Loading worlds, with Traffic Managers alive; the long run is `load_world_soak`."""

from __future__ import annotations

import platform
from pathlib import Path

import carla
import numpy as np
import psutil
import pytest

from tickdrive.leaderboard.simulator.episode import give_memory_back
from tickdrive.leaderboard.simulator.launch import SimulatorProcess
from tickdrive.leaderboard.simulator.load_world_soak import MODES, soak


def test_towns_load_by_short_and_long_name(client: carla.Client) -> None:
    for name in ("TickTown03", "/Game/Carla/Maps/TickTown02"):
        world = client.load_world(name)
        assert world.get_map().name == f"Carla/Maps/{name.rsplit('/', 1)[-1]}"
        assert world.wait_for_tick(10.0).frame > 0
    with pytest.raises(RuntimeError, match="Did you mean 'TickTown02'"):
        client.load_world("TickTown2")
    assert client.load_world("TickTown02_Opt").get_map().name == "Carla/Maps/TickTown02"  # the layered copy
    assert client.get_world().get_map().name.endswith("TickTown02")


def test_a_new_episode_begins_empty_with_a_later_frame(
    client: carla.Client, fresh_world: carla.World, ego: carla.Vehicle
) -> None:
    frame, number = fresh_world.tick(), fresh_world.id
    world = client.reload_world()
    assert world.id != number
    snapshot = world.wait_for_tick(10.0)
    assert snapshot.frame > frame and snapshot.timestamp.elapsed_seconds < 10.0
    assert not world.get_settings().synchronous_mode
    assert not list(world.get_actors().filter("vehicle.*"))


def test_an_opendrive_text_becomes_a_world(client: carla.Client, straight_road: Path) -> None:
    world = client.generate_opendrive_world(straight_road.read_text())
    assert world.get_map().name == "Carla/Maps/OpenDriveMap"
    blueprint = world.get_blueprint_library().find("vehicle.tesla.model3")
    assert world.spawn_actor(blueprint, world.get_map().get_spawn_points()[0])
    client.load_world("TickTown02")


@pytest.mark.parametrize("mode", MODES)
def test_loads_with_live_traffic_neither_hang_nor_crash(server: SimulatorProcess, mode: str) -> None:
    outcome = soak(server.host, server.port, loads=6, mode=mode, timeout_s=90.0)
    assert outcome.loads == 6, outcome.log


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps freed memory")
def test_what_a_town_took_goes_back_to_the_system():
    process = psutil.Process()
    blocks = [(np.ones(8_000), np.ones(100)) for _ in range(1500)]  # what stays pins what goes
    stays = [small for _, small in blocks]
    full = process.memory_info().rss
    del blocks
    give_memory_back()
    assert process.memory_info().rss < full - 64 * 2**20
    assert len(stays) == 1500
