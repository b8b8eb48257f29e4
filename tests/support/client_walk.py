"""A program: connects to a server and calls everything in `client_calls`, one line of JSON about each call.

A process of its own, because what it looks for are calls that hang or end the process.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import carla
from client_calls import CALLS, LAST


def _setup(client: carla.Client, traffic_port: int) -> dict[str, Any]:
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    town, library = world.get_map(), world.get_blueprint_library()
    points, blueprint = town.get_spawn_points(), library.find("vehicle.lincoln.mkz_2020")
    car, other = (world.spawn_actor(blueprint, points[index]) for index in (0, 20))
    aside = points[3]
    aside.location.z += 1.0
    camera = world.spawn_actor(library.find("sensor.camera.rgb"), carla.Transform(), attach_to=car)
    world.tick()
    light = world.get_actors().filter("traffic.traffic_light")[0]
    landmarks = town.get_all_landmarks()

    def asynchronous() -> None:
        settings.synchronous_mode, settings.fixed_delta_seconds = False, None
        world.apply_settings(settings)

    def run_batch(command: Any) -> None:
        (response,) = client.apply_batch_sync([command])
        if response.has_error():
            raise RuntimeError(response.error)

    return {
        "carla": carla,
        "client": client,
        "world": world,
        "town": town,
        "library": library,
        "points": points,
        "blueprint": blueprint,
        "car": car,
        "other": other,
        "walker": world.spawn_actor(library.filter("walker.pedestrian.*")[0], aside),
        "camera": camera,
        "light": light,
        "sign_id": light.get_opendrive_id(),
        "traffic": client.get_trafficmanager(traffic_port),
        "traffic_port": traffic_port,
        "lights": world.get_lightmanager(),
        "debug": world.debug,
        "actors": world.get_actors(),
        "snapshot": world.get_snapshot(),
        "waypoint": town.get_waypoint(points[0].location),
        "junction": next(a for a, _ in town.get_topology() if a.is_junction).get_junction(),
        "landmark": landmarks[0],
        "light_landmark": next(each for each in landmarks if each.type == "1000001"),
        "diffuse": carla.MaterialParameter.Diffuse,
        "wheel": carla.VehicleWheelLocation.FL_Wheel,
        "spare": world.spawn_actor(library.find("static.prop.box01"), points[12]),
        "asynchronous": asynchronous,
        "run_batch": run_batch,
        "folder": tempfile.mkdtemp(),
    }


def _read_properties(names: dict[str, Any]) -> None:
    """Everything that is no method, of every object at hand: some of it asks the server."""
    for thing in list(names.values()):
        for owner in type(thing).__mro__:
            for name, attribute in vars(owner).items():
                if isinstance(attribute, property) and owner.__module__.startswith("carla"):
                    with _report(f"{owner.__name__}.{name}"):
                        getattr(thing, name)


@contextlib.contextmanager
def _report(what: str) -> Iterator[None]:
    print(json.dumps({"calling": what}), flush=True)
    error = None
    try:
        yield
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    print(json.dumps({"called": what, "error": error}), flush=True)


def main() -> None:
    """Arguments: host, RPC port, port for the Traffic Manager, an OpenDRIVE file."""
    host, port, traffic_port, straight = sys.argv[1:]
    client = carla.Client(host, int(port))
    client.set_timeout(20.0)
    names = _setup(client, int(traffic_port))
    names["straight"] = Path(straight).read_text()
    _read_properties(names)
    for group in (CALLS, LAST):
        for owner, methods in group.items():
            for method, expression in methods.items():
                with _report(f"{owner}.{method}"):
                    eval(expression, names)
        if group is CALLS:
            # what was asked for without waiting takes place, and the Traffic Manager has cars to move
            for _ in range(5):
                names["world"].tick()
    print(json.dumps({"done": True}), flush=True)


if __name__ == "__main__":
    main()
