"""Drives many episodes in one server process, alternating between towns, and says how its memory grew.

`python -m tickdrive.leaderboard.simulator.memory_soak --episodes 200` loads a town, spawns traffic under the
Traffic Manager, walkers, props and a car with one of every sensor, ticks, destroys it in every other episode
(else it goes with the episode), and loads the next town. Meanwhile a second client, in a process of its own,
joins every episode and listens to a sensor too.

The server keeps a few towns built and lets go of the rest, so memory levels off only once every town has been
built again: growth is the median over the last round of towns against the median over the second.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tickdrive.leaderboard.simulator.launch import SimulatorProcess, free_port_pair
from tickdrive.leaderboard.simulator.render.choice import RENDERERS

DEFAULT_TOWNS = ("TickTown01", "TickTown02", "TickTown03")
MOST_GROWTH = 0.10
#: of the last this many rounds of towns the memory is compared with the rounds before they began
_ROUNDS_COMPARED = 3

_DRIVER = """
import random, sys
import carla

host, port, traffic_port, episodes, ticks = sys.argv[1], *map(int, sys.argv[2:6])
towns = sys.argv[6].split(",")
client = carla.Client(host, port)
client.set_timeout(120.0)
traffic = client.get_trafficmanager(traffic_port)
chance = random.Random(1)
SMALL = {"image_size_x": "160", "image_size_y": "90"}


def synchronise(world, on):
    settings = world.get_settings()
    settings.synchronous_mode = on
    settings.fixed_delta_seconds = 0.05 if on else None
    world.apply_settings(settings)
    traffic.set_synchronous_mode(on)


for episode in range(episodes):
    world = client.load_world(towns[episode % len(towns)])
    synchronise(world, True)
    library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
    places = chance.sample(points, min(20, len(points)))
    ego = world.spawn_actor(library.find("vehicle.lincoln.mkz_2020"), places.pop())
    autopilot = carla.command.SetAutopilot(carla.command.FutureActor, True, traffic_port)
    kinds = sorted(each.id for each in library.filter("vehicle.*"))
    batch = [
        carla.command.SpawnActor(library.find(chance.choice(kinds)), place).then(autopilot)
        for place in places
    ]
    spawned = [each.actor_id for each in client.apply_batch_sync(batch, False) if not each.has_error()]
    for each in list(library.filter("walker.*"))[:6]:
        place = chance.choice(points)
        place.location.x += 3.0
        place.location.z += 2.0
        world.try_spawn_actor(each, place)
    world.try_spawn_actor(library.find("static.prop.trafficcone01"), chance.choice(points))
    sensors, heard = [], []
    for kind in library.filter("sensor.*"):
        for name, value in SMALL.items():
            if kind.has_attribute(name):
                kind.set_attribute(name, value)
        sensor = world.try_spawn_actor(kind, carla.Transform(carla.Location(x=1.0, z=1.8)), attach_to=ego)
        if sensor is not None:
            sensor.listen(lambda data: heard.append(data.frame))
            sensors.append(sensor)
    for _ in range(ticks):
        world.tick()
    assert heard
    for each in sensors:
        each.stop()
    if episode % 2:
        for each in sensors:
            each.destroy()
        client.apply_batch([carla.command.DestroyActor(each) for each in spawned])
    synchronise(world, False)
    print("episode", episode + 1, flush=True)
"""

_FOLLOWER = """
import sys, time
import carla

client = carla.Client(sys.argv[1], int(sys.argv[2]))
client.set_timeout(120.0)
seen = 0
while True:
    try:
        world = client.get_world()
        if world.id != seen:
            seen = world.id
            camera = world.get_blueprint_library().find("sensor.camera.depth")
            eye = world.spawn_actor(camera, carla.Transform())
            eye.listen(lambda image: None)
            world.get_map().get_spawn_points()
        world.get_actors()
    except RuntimeError:
        pass  # the episode went while it looked
    time.sleep(0.2)
"""


@dataclass(frozen=True, slots=True)
class MemoryOutcome:
    """Resident memory of the server in MB after each episode, and the driving client's exit status."""

    towns: tuple[str, ...]
    resident_mb: tuple[float, ...]
    seconds: float
    status: int
    log: str

    @property
    def compared_mb(self) -> tuple[float, float]:
        """Median over the rounds of towns after the first, and over the last ones."""
        span = len(self.towns) * _ROUNDS_COMPARED
        first = self.resident_mb[len(self.towns) : len(self.towns) + span]
        return statistics.median(first or self.resident_mb), statistics.median(self.resident_mb[-span:])

    @property
    def growth(self) -> float:
        """Share by which memory grew between the two."""
        before, after = self.compared_mb
        return after / before - 1.0


def soak(
    server: SimulatorProcess, towns: Sequence[str], episodes: int, ticks: int, followers: int
) -> MemoryOutcome:
    """Drive episodes on a running server.

    Args:
        server: with all of `towns`.
        towns: loaded one after the other, again and again.
        episodes: how many.
        ticks: of each.
        followers: further clients that join every episode.
    """
    where = [server.host, str(server.port)]
    python = [sys.executable, "-X", "faulthandler", "-c"]
    others = [subprocess.Popen([*python, _FOLLOWER, *where]) for _ in range(followers)]
    options = [str(free_port_pair(server.host)), str(episodes), str(ticks), ",".join(towns)]
    process, resident_mb, lines = psutil.Process(server.pid), [], []
    started = time.monotonic()
    driver = subprocess.Popen(
        [*python, _DRIVER, *where, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert driver.stdout is not None
    try:
        for line in driver.stdout:
            if not line.startswith("episode "):
                lines.append(line)
                continue
            resident_mb.append(process.memory_info().rss / 2**20)
            if len(resident_mb) % 10 == 0:
                print(f"{len(resident_mb):4d} episodes: {resident_mb[-1]:7.1f} MB", flush=True)
    finally:
        if driver.poll() is None and len(resident_mb) < episodes:
            driver.kill()
        status = driver.wait()
        for other in others:
            other.kill()
            other.wait()
    return MemoryOutcome(
        tuple(towns), tuple(resident_mb), time.monotonic() - started, status, "".join(lines[-20:])
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak a server of its own; status 1 where memory grew by 10 % or more, or not all episodes ended."""
    parser = argparse.ArgumentParser(prog="python -m tickdrive.leaderboard.simulator.memory_soak")
    parser.add_argument("--town", action="append", help="may be repeated; default: the shipped ones")
    parser.add_argument("--towns", type=Path, help="folder of further towns, as <name>.xodr")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--ticks", type=int, default=20, help="of each episode")
    parser.add_argument("--followers", type=int, default=1, help="further clients")
    parser.add_argument("--renderer", choices=RENDERERS, default="cpu", help="what draws the cameras")
    options = parser.parse_args(arguments)
    towns = tuple(options.town or DEFAULT_TOWNS)
    with SimulatorProcess.start(towns[0], towns=options.towns, renderer=options.renderer) as server:
        outcome = soak(server, towns, options.episodes, options.ticks, options.followers)
        if not outcome.resident_mb:
            print(f"no episode ended (status {outcome.status})\n{outcome.log}\n{server.tail()}")
            return 1
    before, after = outcome.compared_mb
    print(
        f"{len(outcome.resident_mb)} episodes in {outcome.seconds:.0f} s, {len(towns)} towns: "
        f"{before:.0f} MB -> {after:.0f} MB ({100 * outcome.growth:+.1f} %)"
    )
    passed = len(outcome.resident_mb) >= options.episodes and outcome.growth < MOST_GROWTH
    if not passed:
        print(f"FAILED (status {outcome.status})\n{outcome.log}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
