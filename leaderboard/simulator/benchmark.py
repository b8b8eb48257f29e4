"""The simulator's speed: the load of a leaderboard tick, with the client in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tickdrive.leaderboard.sensor_interface import sensor_attributes
from tickdrive.leaderboard.simulator.launch import SimulatorProcess, free_port_pair
from tickdrive.planner.errors import ServerError

#: name, and the sensors of the car whose tick is timed
SUITES: dict[str, tuple[str, ...]] = {
    "no sensors": (),
    "camera": ("camera",),
    "lidar": ("lidar",),
    "leaderboard": ("camera", "lidar", "imu", "gnss"),
}
_SENSORS: dict[str, dict[str, object]] = {
    "camera": {"type": "sensor.camera.rgb", "width": 512, "height": 256, "fov": 80},
    "lidar": {"type": "sensor.lidar.ray_cast"},
    "imu": {"type": "sensor.other.imu"},
    "gnss": {"type": "sensor.other.gnss"},
}


def run_simulator_benchmark(
    ticks: int = 300,
    town: str = "TickTown01",
    vehicles: int = 30,
    walkers: int = 10,
    threads: int = 1,
    renderer: str = "cpu",
    suites: tuple[str, ...] = ("no sensors", "leaderboard"),
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Tick a busy town through the real client.

    Args:
        ticks: timed ticks of each row.
        town: a shipped town.
        vehicles: cars under the Traffic Manager.
        walkers: pedestrians under `WalkerControl`.
        threads: of the server's renderer.
        renderer: what draws the cameras, see `render.choice`.
        suites: names of `SUITES`, a row each.
        progress: told what happens.

    Returns:
        Rows with `name`, `ticks_per_s`, `p50_ms`, `p99_ms`, `peak_rss_mb` (of the server), `vehicles`,
        `walkers`, `ticks`, `town`, `drawn_by`. A tick ends when every sensor's data of its frame is with the
        client.

    Raises:
        ServerError: the server or the client failed.
    """
    tell = progress or (lambda text: None)
    rows = []
    tell(f"starting the simulator with {town}")
    with SimulatorProcess.start(town, threads=threads, renderer=renderer) as server:
        for name in suites:
            tell(f"{name}: {ticks} ticks")
            measured = _client_run(server, SUITES[name], ticks, vehicles, walkers)
            server.check()
            rows.append(
                {
                    "name": name,
                    **measured,
                    "peak_rss_mb": round(server.peak_rss_mb(), 1),
                    "ticks": ticks,
                    "town": town,
                    "drawn_by": server.drawn_by,
                }
            )
    return rows


def _client_run(
    server: SimulatorProcess, sensors: tuple[str, ...], ticks: int, vehicles: int, walkers: int
) -> dict[str, Any]:
    order = {
        "host": server.host,
        "port": server.port,
        "traffic_port": free_port_pair(server.host),
        "sensors": [_SENSORS[each] for each in sensors],
        "ticks": ticks,
        "vehicles": vehicles,
        "walkers": walkers,
    }
    command = [sys.executable, "-m", "tickdrive.leaderboard.simulator.benchmark", json.dumps(order)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if run.returncode != 0:
        server.check()
        raise ServerError(f"The benchmark's client ended with status {run.returncode}: {run.stderr[-800:]}")
    return dict(json.loads(run.stdout.splitlines()[-1]))


def _client_main(order: dict[str, Any]) -> dict[str, Any]:
    """The client's side: fill the town, tick, wait for every sensor."""
    import queue
    import random

    import carla

    chance = random.Random(0)
    client = carla.Client(order["host"], order["port"])
    client.set_timeout(60.0)
    world = client.reload_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    traffic = client.get_trafficmanager(order["traffic_port"])
    traffic.set_synchronous_mode(True)
    traffic.set_random_device_seed(0)
    library, points = world.get_blueprint_library(), world.get_map().get_spawn_points()
    cars = [each for each in library.filter("vehicle.*") if each.get_attribute("base_type").as_str() == "car"]
    autopilot = carla.command.SetAutopilot(carla.command.FutureActor, True, order["traffic_port"])
    places = chance.sample(points, min(len(points), order["vehicles"]))
    spawned = client.apply_batch_sync(
        [carla.command.SpawnActor(chance.choice(cars), each).then(autopilot) for each in places], True
    )
    vehicles = [each.actor_id for each in spawned if not each.has_error()]
    pedestrians = list(library.filter("walker.pedestrian.*"))
    walking = 0
    for point in chance.sample(points, len(points)):
        if walking == order["walkers"]:
            break
        point.location += 4.5 * point.get_right_vector() + carla.Location(z=1.0)
        walker = world.try_spawn_actor(chance.choice(pedestrians), point)
        if walker is not None:
            walker.apply_control(carla.WalkerControl(point.get_forward_vector(), 1.4))
            walking += 1
    world.tick()
    mount = carla.Transform(carla.Location(x=1.3, z=2.0))
    ego = world.get_actor(vehicles[0])
    queues, sensors = [], []
    for spec in order["sensors"]:
        blueprint = library.find(spec["type"])
        for name, value in sensor_attributes(spec).items():
            blueprint.set_attribute(name, value)
        sensors.append(world.spawn_actor(blueprint, mount, attach_to=ego))
        received: queue.Queue[Any] = queue.Queue()
        sensors[-1].listen(received.put)
        queues.append(received)
    spent_ms = []
    for index in range(order["ticks"] + 20):
        started = time.perf_counter()
        frame = world.tick()
        for received in queues:
            while received.get(timeout=60.0).frame != frame:
                pass
        if index >= 20:
            spent_ms.append(1000.0 * (time.perf_counter() - started))
    spent_ms.sort()
    for each in sensors:
        each.stop()
    # a batch that ticks holds the GIL, for which the threads that end the sensors may wait
    client.apply_batch_sync([carla.command.DestroyActor(each) for each in vehicles], False)
    world.tick()
    traffic.set_synchronous_mode(False)
    return {
        "ticks_per_s": round(1000.0 * len(spent_ms) / sum(spent_ms), 1),
        "p50_ms": round(spent_ms[len(spent_ms) // 2], 2),
        "p99_ms": round(spent_ms[int(0.99 * (len(spent_ms) - 1))], 2),
        "vehicles": len(vehicles),
        "walkers": walking,
    }


if __name__ == "__main__":
    print(json.dumps(_client_main(json.loads(sys.argv[1]))), flush=True)
