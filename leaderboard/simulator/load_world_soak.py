"""Loads worlds again and again in one client whose Traffic Manager has cars, and says how it went.

`python -m tickdrive.leaderboard.simulator.load_world_soak --loads 100` starts a server and does it in
every mode. The client runs in a process of its own, because what is looked for are its hangs and crashes:

* a notification between the threads of a synchronous Traffic Manager gets lost (`traffic_watch`);
* a synchronous Traffic Manager is restarted by the client's streaming thread when a snapshot shows a new
  episode id (`Episode.cpp`, `OnEpisodeChanged`); a tick from the main thread meanwhile sets `step_begin`,
  which the end of `TrafficManagerLocal::Stop` clears, and both threads wait for ever;
* an asynchronous one reads the client's episode, which `Simulator::LoadEpisode` sets to null for a while.

All three are defects of the client. The server mends the first, and its order of answers avoids the others
(`Simulation.load`, `Simulation.apply_settings`, `client_gate`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tickdrive.leaderboard.simulator.launch import SimulatorProcess, free_port_pair

#: how a client treats its Traffic Manager around a load
MODES = ("synchronous", "settings kept", "three in a row", "asynchronous", "switched off")

_CLIENT = """
import random, sys
import carla

host, mode = sys.argv[1], sys.argv[4]
port, loads, traffic_port = (int(sys.argv[index]) for index in (2, 3, 5))
client = carla.Client(host, port)
client.set_timeout(30.0)
world = client.get_world()
traffic = client.get_trafficmanager(traffic_port)
chance = random.Random(1)


def synchronise(on):
    settings = world.get_settings()
    settings.synchronous_mode = on
    settings.fixed_delta_seconds = 0.05 if on else None
    world.apply_settings(settings)
    traffic.set_synchronous_mode(on)


done = 0
while done < loads:
    synchronise(mode != "asynchronous")
    library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
    autopilot = carla.command.SetAutopilot(carla.command.FutureActor, True, traffic_port)
    cars = [
        carla.command.SpawnActor(library.find("vehicle.tesla.model3"), point).then(autopilot)
        for point in chance.sample(points, 8)
    ]
    spawned = client.apply_batch_sync(cars, mode != "asynchronous")
    for _ in range(10):
        world.tick()
    if mode == "switched off":
        synchronise(False)
        living = [each.actor_id for each in spawned if not each.has_error()]
        client.apply_batch([carla.command.DestroyActor(each) for each in living])
    for _ in range(3 if mode == "three in a row" else 1):
        world = client.reload_world(mode != "settings kept")
        done += 1
        print("loaded", done, flush=True)
        if mode == "settings kept":
            world.tick()
"""


@dataclass(frozen=True, slots=True)
class SoakOutcome:
    """How a run went: loads that came back, exit status (None where it hung), and what it printed."""

    mode: str
    loads: int
    seconds: float
    status: int | None
    log: str


def soak(host: str, port: int, loads: int, mode: str, timeout_s: float) -> SoakOutcome:
    """Load `loads` times in one client.

    Args:
        host: of a running server.
        port: of a running server.
        loads: how often.
        mode: one of `MODES`.
        timeout_s: after which the client counts as hung.
    """
    arguments = [sys.executable, "-c", _CLIENT, host, str(port), str(loads), mode, str(free_port_pair(host))]
    started = time.monotonic()
    status: int | None
    try:
        run = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout_s, check=False)
        status, out, err = run.returncode, run.stdout, run.stderr
    except subprocess.TimeoutExpired as error:
        status, out, err = None, _text(error.stdout), _text(error.stderr)
    done = out.count("loaded")
    return SoakOutcome(
        mode, done, time.monotonic() - started, status, f"status {status}\n{out[-300:]}{err[-800:]}"
    )


def _text(data: str | bytes | None) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data or ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak every mode on a server of its own; status 1 where a client hung or crashed."""
    parser = argparse.ArgumentParser(prog="python -m tickdrive.leaderboard.simulator.load_world_soak")
    parser.add_argument("--town", default="TickTown02")
    parser.add_argument("--loads", type=int, default=100)
    parser.add_argument("--mode", choices=MODES, action="append", help="only these; may be repeated")
    options = parser.parse_args(arguments)
    failed = False
    with SimulatorProcess.start(options.town) as server:
        for mode in options.mode or MODES:
            outcome = soak(server.host, server.port, options.loads, mode, 30.0 + 5.0 * options.loads)
            passed = outcome.loads >= options.loads and outcome.status == 0
            failed |= not passed
            verdict = "ok" if passed else "FAILED"
            print(f"{mode:15s} {outcome.loads:4d} loads in {outcome.seconds:6.1f} s  {verdict}", flush=True)
            if not passed:
                print(outcome.log)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
