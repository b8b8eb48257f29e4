"""The folder that programs take for a CARLA installation: its script starts the real simulator."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import carla
import pytest

from tickdrive.leaderboard.simulator.launch import free_port_pair
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator_watch import PortProbe
from tickdrive.leaderboard.upstream.carla_root import CarlaFlags, make_carla_root, parse_flags, server_command
from tickdrive.planner.errors import ConfigError, ServerError


def test_carlas_flags_are_read():
    flags = parse_flags(
        [
            "/Game/Carla/Maps/Town01",
            "-RenderOffScreen",
            "-nosound",
            "-carla-rpc-port=3000",
            "-quality-level=Low",
        ]
    )
    assert flags == CarlaFlags(3000, "Town01", ("-RenderOffScreen", "-nosound", "-quality-level=Low"))
    assert parse_flags([]) == CarlaFlags(2000, "", ())
    assert parse_flags(["-carla-port=2500", "-carla-streaming-port=0"]).port == 2500


@pytest.mark.parametrize("flag", ["-carla-rpc-port=", "-carla-rpc-port=x", "-carla-rpc-port=70000"])
def test_a_port_that_is_none_is_named(flag):
    with pytest.raises(ConfigError, match=flag):
        parse_flags([flag])


def test_streams_on_another_port_are_refused():
    with pytest.raises(ConfigError, match="streams on the RPC port's next, 2001"):
        parse_flags(["-carla-streaming-port=2005"])


def test_the_servers_command_has_what_the_script_was_made_with(tmp_path, capsys):
    (tmp_path / "Mine.xodr").write_text(read_town("TickTown02"))
    own = ["--seed=4", f"--towns={tmp_path}", "--renderer=auto"]
    command = server_command(own, ["Mine", "-carla-rpc-port=3000", "-nosound"], "77")
    assert command[3:] == (
        f"--town Mine --port 3000 --seed 4 --towns {tmp_path} --renderer auto --watch-process 77".split()
    )
    assert "no use for -nosound" in capsys.readouterr().err


def test_a_folder_of_another_carla_is_left_alone(tmp_path):
    (tmp_path / "CarlaUE4.sh").write_text("#!/bin/sh\n# Unreal\n")
    with pytest.raises(ConfigError, match="a CARLA is installed there"):
        make_carla_root(tmp_path)
    with pytest.raises(ServerError, match="is no folder"):
        make_carla_root(tmp_path / "new", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no renderer 'elg'"):
        make_carla_root(tmp_path / "new", renderer="elg")


def test_the_script_starts_the_simulator_which_ends_with_the_process_it_is_told_to_watch(tmp_path):
    towns = tmp_path / "my towns"
    towns.mkdir()
    (towns / "Mine.xodr").write_text(read_town("TickTown02"))
    root = make_carla_root(tmp_path / "carla root", towns)
    assert make_carla_root(tmp_path / "carla root", towns) == root  # again: no complaint
    assert (root / "PythonAPI/carla/agents/navigation/basic_agent.py").is_file()
    maps = root / "CarlaUE4/Content/Carla/Maps/OpenDrive"  # where Bench2Drive's ability tool reads them
    assert (maps / "Mine.xodr").read_text() == (maps / "TickTown02.xodr").read_text()
    port = free_port_pair()
    watched = subprocess.Popen([shutil.which("sleep") or "sleep", "600"])
    server = subprocess.Popen(
        # as Bench2Drive does
        f"'{root / 'CarlaUE4.sh'}' -RenderOffScreen -nosound -carla-rpc-port={port} -graphicsadapter=0",
        shell=True,
        env={**os.environ, "TICKDRIVE_WATCH_PID": str(watched.pid)},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 120.0
        while not PortProbe("127.0.0.1", port).answers():  # a client that is refused never tries again
            assert time.monotonic() < until and server.poll() is None
            time.sleep(0.2)
        client = carla.Client("localhost", port)
        client.set_timeout(20.0)
        assert client.get_server_version() == "0.9.16"
        assert client.get_world().get_map().name.endswith("Mine")
        assert "/Game/Carla/Maps/Mine" in client.get_available_maps()
        client.load_world("TickTown02")
        assert client.load_world("Mine").get_map().name.endswith("Mine")
        del client
    finally:
        watched.kill()
        watched.wait()
    assert server.wait(timeout=20.0) == 0
