"""A process whose server is gone: it ends, whatever holds it up, and drives no more."""

from __future__ import annotations

import subprocess
import sys
import textwrap

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
