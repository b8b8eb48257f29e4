"""Traffic Manager traffic, through the Traffic Manager of the wheel."""

from __future__ import annotations

import asyncio

import carla
import msgpack
import pytest

from tickdrive.leaderboard.simulator.launch import free_port_pair
from tickdrive.leaderboard.simulator.traffic_watch import TrafficWatch


@pytest.fixture
def traffic(client: carla.Client, fresh_world: carla.World) -> carla.TrafficManager:
    manager = client.get_trafficmanager(free_port_pair())
    manager.set_synchronous_mode(True)
    manager.set_random_device_seed(5)
    return manager


def test_traffic_drives_without_crashing(
    client: carla.Client, fresh_world: carla.World, traffic: carla.TrafficManager
) -> None:
    library = fresh_world.get_blueprint_library()
    blueprint = library.find("vehicle.tesla.model3")
    points = fresh_world.get_map().get_spawn_points()
    autopilot = carla.command.SetAutopilot(carla.command.FutureActor, True, traffic.get_port())
    chosen = points[:: max(1, len(points) // 15)][:15]
    responses = client.apply_batch_sync(
        [carla.command.SpawnActor(blueprint, each).then(autopilot) for each in chosen], True
    )
    cars = fresh_world.get_actors([each.actor_id for each in responses if not each.has_error()])
    assert len(cars) == 15
    hits: list[str] = []
    sensors = []
    for car in cars:
        sensor = fresh_world.spawn_actor(
            library.find("sensor.other.collision"), carla.Transform(), attach_to=car
        )
        sensor.listen(lambda event: hits.append(event.other_actor.type_id))
        sensors.append(sensor)
    travelled = dict.fromkeys((each.id for each in cars), 0.0)
    for _ in range(400):
        fresh_world.tick()
        for car in cars:
            travelled[car.id] += 0.05 * car.get_velocity().length()
    for sensor in sensors:
        sensor.stop()
    assert sum(each > 20.0 for each in travelled.values()) >= 10
    assert len(hits) == 0
    # not in the batch: a batch that ticks holds the GIL, which callbacks of other sensors may wait for
    client.apply_batch_sync([carla.command.DestroyActor(each) for each in cars], False)
    fresh_world.tick()
    traffic.set_synchronous_mode(False)


def test_hybrid_traffic_drives_without_physics_away_from_the_hero(
    client: carla.Client, fresh_world: carla.World, traffic: carla.TrafficManager, ego: carla.Vehicle
) -> None:
    """Beyond the radius the Traffic Manager sets places, by batches of nothing but `ApplyTransform`.

    `get_velocity` tells 0 of such vehicles: no velocity arrives, and CARLA's `WorldObserver.cpp` asks a body
    without physics for its own.
    """
    blueprint = fresh_world.get_blueprint_library().find("vehicle.tesla.model3")
    here = ego.get_location()
    points = sorted(fresh_world.get_map().get_spawn_points(), key=lambda p: -p.location.distance(here))
    cars = [car for point in points[:24:4] if (car := fresh_world.try_spawn_actor(blueprint, point))]
    fresh_world.tick()
    traffic.set_hybrid_physics_mode(True)
    traffic.set_hybrid_physics_radius(20.0)
    for car in cars:
        car.set_autopilot(True, traffic.get_port())
    before = [car.get_location() for car in cars]
    for _ in range(200):
        fresh_world.tick()
    driven_m = [car.get_location().distance(place) for car, place in zip(cars, before, strict=True)]
    assert sum(each > 15.0 for each in driven_m) >= len(cars) // 2, driven_m
    client.apply_batch_sync([carla.command.DestroyActor(each) for each in cars], False)
    fresh_world.tick()
    traffic.set_synchronous_mode(False)


def test_traffic_stops_at_red(fresh_world: carla.World, traffic: carla.TrafficManager) -> None:
    for light in fresh_world.get_actors().filter("traffic.traffic_light"):
        light.set_state(carla.TrafficLightState.Red)
    fresh_world.freeze_all_traffic_lights(True)
    light = next(iter(fresh_world.get_actors().filter("traffic.traffic_light")))
    stop = light.get_stop_waypoints()[0]
    start = stop.previous(25.0)[0].transform
    start.location.z += 0.3
    blueprint = fresh_world.get_blueprint_library().find("vehicle.tesla.model3")
    car = fresh_world.spawn_actor(blueprint, start)
    car.set_autopilot(True, traffic.get_port())
    for _ in range(240):
        fresh_world.tick()
    assert car.get_velocity().length() < 0.1
    assert car.get_traffic_light_state() == carla.TrafficLightState.Red
    past = car.get_location() - stop.transform.location
    assert past.dot(stop.transform.get_forward_vector()) < 3.0
    fresh_world.freeze_all_traffic_lights(False)
    car.destroy()
    # an asynchronous Traffic Manager that meets a handle of a destroyed car ends the process
    fresh_world.tick()
    traffic.set_synchronous_mode(False)


def test_a_lost_wake_up_is_mended() -> None:
    """A client that ticked and whose Traffic Manager does not step is woken; one that computes is not."""
    calls: list[tuple[object, ...]] = []

    async def scenario() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            unpacker = msgpack.Unpacker(raw=False)
            while data := await reader.read(4096):
                unpacker.feed(data)
                for _, number, method, args in unpacker:
                    calls.append((method, *args))
                    writer.write(msgpack.packb([1, number, None, None]))

        manager = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = manager.sockets[0].getsockname()[1]
        stuck, computing = Client(), Client()
        watch = TrafficWatch({port: ("127.0.0.1", stuck), 1: ("127.0.0.1", computing)}, lambda: True)
        for client in (stuck, computing):
            for method in ("tick_cue", "get_vehicle_light_states", "apply_batch"):
                watch.note(client, method)
        watch.note(stuck, "tick_cue")
        running = asyncio.ensure_future(watch.run())
        for _ in range(30):
            watch.note(stuck, "get_episode_settings")  # an asynchronous Traffic Manager of the same client
            await asyncio.sleep(0.1)
        running.cancel()
        manager.close()

    asyncio.run(scenario())
    assert calls == [("set_synchronous_mode", False), ("set_synchronous_mode", True)]


class Client:
    """Stands for a connection; only its identity counts."""
