"""A process whose server is gone: it ends, whatever holds it up, and drives no more."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import psutil
import pytest

# PyDLL holds the GIL, as calls of the client do that wait for a dead server.
HANGS = """
    import ctypes
    from tickdrive.leaderboard.backstop import Backstop
    backstop = Backstop("127.0.0.1", {port}, grace_s=0.5)
    print(flush=True)
    ctypes.PyDLL(None).pause()
"""
DISMISSES = """
    import time
    from tickdrive.leaderboard.backstop import Backstop
    backstop = Backstop("127.0.0.1", {port}, grace_s=0.5)
    print(flush=True)
    time.sleep(0.5)
    backstop.dismiss()
    time.sleep(5.0)
    print("lives")
"""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Something that listens."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening


def start(code: str, server: socket.socket) -> subprocess.Popen[str]:
    script = textwrap.dedent(code).format(port=server.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "\n", "it did not start"
    return process


def test_a_process_that_hangs_with_the_gil_held_is_killed_and_told_why(server: socket.socket) -> None:
    process = start(HANGS, server)
    server.close()
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert "died, and 0.5 s later the process that drove in it had not ended" in said


def test_a_process_whose_server_lives_is_left_alone_and_its_backstop_ends_with_it(
    server: socket.socket,
) -> None:
    process = start(HANGS, server)
    (backstop,) = psutil.Process(process.pid).children()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    process.kill()
    process.communicate()
    backstop.wait(timeout=10)


def test_a_process_that_is_done_with_its_server_is_left_alone(server: socket.socket) -> None:
    process = start(DISMISSES, server)
    server.close()
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, said, errors) == (0, "lives\n", "")


LOSES = """
    import os, signal, sys
    from tickdrive.leaderboard.carla_session import CarlaSession
    from tickdrive.leaderboard.simulator.launch import SimulatorProcess
    from tickdrive.leaderboard.simulator_watch import leave_process
    from tickdrive.planner.errors import ServerError

    first, second = (SimulatorProcess.start("TickTown02") for _ in range(2))
    try:
        with CarlaSession(first.host, first.port, is_alive=first.alive) as session:
            session.load("TickTown02", seed=0)
            os.kill(first.pid, signal.SIGKILL)
            while first.alive():
                pass
            session.tick()
    except ServerError as error:
        print(error.what)
    try:
        with CarlaSession(second.host, second.port, is_alive=second.alive) as session:
            session.load("TickTown02", seed=0)
    except ServerError as error:
        print(error.what)
    second.stop()
    leave_process(status=0)
"""


def test_a_process_that_lost_a_simulator_is_refused_another() -> None:
    """It would hang in its first tick there: that is for all Traffic Managers, and the first one's waits."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOSES)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "The simulator has ended."
    assert second.startswith("This process has lost a simulator")
