"""Hostile bytes, dying clients, dead servers."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import carla
import msgpack
import psutil
import pytest

from tickdrive.leaderboard.simulator.launch import SimulatorProcess, free_port_pair
from tickdrive.planner.errors import ServerError


def raw_call(server: SimulatorProcess, method: str, *args: object) -> list[object]:
    with socket.create_connection((server.host, server.port), timeout=10.0) as connection:
        connection.sendall(msgpack.packb([0, 1, method, [[False], *args]], use_bin_type=True))
        unpacker = msgpack.Unpacker(raw=False)
        while True:
            data = connection.recv(1 << 16)
            assert data, "the server closed the connection"
            unpacker.feed(data)
            for message in unpacker:
                return [message[2], message[3]]


def still_serves(server: SimulatorProcess) -> None:
    server.check()
    client = carla.Client(server.host, server.port)
    client.set_timeout(10.0)
    assert client.get_world().wait_for_tick(5.0).frame > 0


def test_garbage_on_either_port(server: SimulatorProcess) -> None:
    chance = random.Random(7)
    for port in (server.port, server.port + 1):
        for size in (1, 4, 5, 100, 5000):
            with socket.create_connection((server.host, port), timeout=5.0) as connection:
                connection.sendall(chance.randbytes(size))
        with socket.create_connection((server.host, port), timeout=5.0) as connection:
            connection.sendall(b"\xdd\xff\xff\xff\xff" * 100)
    still_serves(server)


def test_huge_announcements_cost_nothing(server: SimulatorProcess) -> None:
    before = psutil.Process(server.pid).memory_info().rss
    for head in (b"\xc6\xff\xff\xff\xff", b"\xdd\x00\x00\x3f\xff" * 900, b"\xdf\xff\xff\xff\xff"):
        with socket.create_connection((server.host, server.port), timeout=5.0) as connection:
            connection.sendall(b"\x94\x00\x01" + head)
            time.sleep(0.1)
    assert psutil.Process(server.pid).memory_info().rss - before < 300 << 20
    still_serves(server)


NAN = float("nan")
BAD_CALLS = [
    ("spawn_actor", "x", "y"),
    ("spawn_actor", [1, "vehicle.tesla.model3", []], [[NAN, 0, 0], [0, 0, 0]]),
    ("spawn_actor", [1, "vehicle.tesla.modl3", []], [[0, 0, 5], [0, 0, 0]]),
    ("spawn_actor", [1, "vehicle.tesla.model3", [["color", 5]]], [[0, 0, 5], [0, 0, 0]]),
    ("spawn_actor_with_parent", [1, "sensor.other.imu", []], [[0, 0, 0], [0, 0, 0]], 999999, 0),
    ("destroy_actor", "one"),
    ("destroy_actor", 1),
    ("set_actor_transform", 1, [[0, 0, float("inf")], [0, 0, 0]]),
    ("apply_control_to_vehicle", 1, [0, 0, 0, False, False, False, 0]),
    ("get_physics_control", 10**12),
    ("set_episode_settings", [True, False, [True, NAN], True, 0.01, 10, 0.0, True, 1.0, 1.0, True]),
    ("set_episode_settings", []),
    ("set_weather_parameters", [0.0] * 13),
    ("get_sensor_token", 4_000_000),
    ("load_new_episode", "../../etc/passwd", True, 0),
    ("apply_batch", "no list", False),
    ("set_traffic_light_state", 1, 9),
    ("get_environment_objects", 1000),
    ("cast_ray", [0, 0, NAN], [0, 0, 0]),
    ("tick_cue", 1, 2, 3),
    ("add_traffic_manager_running", ["localhost"]),
    ("copy_opendrive_to_file", 5),
]


@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: call[0])
def test_bad_arguments_get_an_error_response(server: SimulatorProcess, call: tuple[object, ...]) -> None:
    error, result = raw_call(server, *call)  # type: ignore[arg-type]
    assert error is None
    flag, detail = result[0]  # type: ignore[index]
    assert (flag is True or flag == 0) and detail[0]


def test_bad_opendrive_is_refused_and_the_world_stays(server: SimulatorProcess, client: carla.Client) -> None:
    before = client.get_world().id
    for junk, says in (
        ("<OpenDRIVE></nonsense>", "is not valid XML"),
        ("junk", "is not valid XML"),
        ("<a/>", "<a>"),
    ):
        with pytest.raises(RuntimeError, match=says) as caught:
            client.generate_opendrive_world(junk)
        assert "in the server" not in str(caught.value)  # the caller's to mend, no defect of ours
    assert raw_call(server, "get_episode_info")[1][0][1][0] == before  # type: ignore[index]
    still_serves(server)


def test_unknown_commands_fail_alone(server: SimulatorProcess) -> None:
    commands = [[[99, []]], [[1, [12345678]]], "junk", [[0, []]]]
    error, result = raw_call(server, "apply_batch", commands, False)
    assert error is None and [each[0][0] for each in result] == [0, 0, 0, 0]  # type: ignore[union-attr]


def test_a_subscriber_that_never_reads_does_not_stop_the_others(
    server: SimulatorProcess, fresh_world: carla.World
) -> None:
    with socket.create_connection((server.host, server.port + 1)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall((1).to_bytes(4, "little"))
        frames = [fresh_world.tick() for _ in range(200)]
    assert frames == list(range(frames[0], frames[0] + 200))


CRASHING_CLIENT = """
import carla, os, signal, sys
client = carla.Client("127.0.0.1", int(sys.argv[1])); client.set_timeout(20.0)
world = client.get_world()
settings = world.get_settings(); settings.synchronous_mode = True; settings.fixed_delta_seconds = 0.05
world.apply_settings(settings)
traffic = client.get_trafficmanager(int(sys.argv[2])); traffic.set_synchronous_mode(True)
library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
car = world.spawn_actor(library.find("vehicle.tesla.model3"), points[0])
car.set_autopilot(True, int(sys.argv[2]))
camera = world.spawn_actor(library.find("sensor.camera.rgb"), carla.Transform(), attach_to=car)
camera.listen(lambda image: None)
for _ in range(5): world.tick()
print(car.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_world_survives_its_ticking_client(
    server: SimulatorProcess, client: carla.Client, fresh_world: carla.World
) -> None:
    traffic_port = free_port_pair()
    killed = subprocess.run(
        [sys.executable, "-c", CRASHING_CLIENT, str(server.port), str(traffic_port)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    car = int(killed.stdout.split()[-1])
    frame = fresh_world.tick()
    assert fresh_world.tick() == frame + 1
    assert fresh_world.get_actor(car).type_id == "vehicle.tesla.model3"
    assert raw_call(server, "is_traffic_manager_running", traffic_port)[1] == [[1, False]]
    client.apply_batch_sync([carla.command.DestroyActor(car)], True)
    assert car not in {each.id for each in fresh_world.get_actors()}


def test_an_orphaned_synchronous_world_goes_on_by_itself(
    start_server: Callable[..., SimulatorProcess],
) -> None:
    server = start_server()
    watcher = carla.Client(server.host, server.port)
    watcher.set_timeout(10.0)
    world = watcher.get_world()
    subprocess.run(
        [sys.executable, "-c", CRASHING_CLIENT, str(server.port), str(free_port_pair())],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert world.wait_for_tick(10.0).frame > 0
    assert not world.get_settings().synchronous_mode


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no map 'Nowhere'"):
        SimulatorProcess.start("Nowhere")
    with pytest.raises(ServerError, match="cannot be read"):
        SimulatorProcess.start(xodr_path=tmp_path / "missing.xodr")
    with pytest.raises(ServerError, match="exactly one"):
        SimulatorProcess.start()


def test_a_dead_server_is_noticed(start_server: Callable[..., SimulatorProcess]) -> None:
    server = start_server()
    assert server.alive() and server.peak_rss_mb() > 50.0
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while server.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ServerError, match="ended with status -9"):
        server.check()


def test_sigterm_ends_the_server_cleanly_and_its_ports_are_free(
    start_server: Callable[..., SimulatorProcess],
) -> None:
    server = start_server()
    port = server.port
    server.stop()
    assert server._process.returncode == 0
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((server.host, port))


PARENT = """
import sys, time
from tickdrive.leaderboard.simulator.launch import SimulatorProcess
server = SimulatorProcess.start(xodr_path=sys.argv[1])
print(server.pid, flush=True)
time.sleep(600)
"""


def test_the_server_ends_with_its_parent(straight_road: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(straight_road)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10.0
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
