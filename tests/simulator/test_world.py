"""The world through the real client: actors, control, lights, settings, commands."""

from __future__ import annotations

import math
import time

import carla
import pytest


def test_maps_have_carlas_names(client: carla.Client) -> None:
    maps = client.get_available_maps()
    assert len(maps) >= 2 and all(each.startswith("/Game/Carla/Maps/") for each in maps)
    assert client.get_server_version() == client.get_client_version() == "0.9.16"
    world_map = client.get_world().get_map()
    assert f"/Game/{world_map.name}" in maps
    assert len(world_map.get_spawn_points()) >= 50


def test_frames_rise_by_one_and_time_by_the_step(fresh_world: carla.World) -> None:
    first = fresh_world.tick()
    before = fresh_world.get_snapshot().timestamp
    assert [fresh_world.tick() for _ in range(5)] == [first + k for k in range(1, 6)]
    after = fresh_world.get_snapshot().timestamp
    assert after.elapsed_seconds - before.elapsed_seconds == pytest.approx(0.25)
    assert after.delta_seconds == pytest.approx(0.05)


def test_asynchronous_world_runs_by_itself_and_ticks_wait_for_it(client: carla.Client) -> None:
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode = False
    world.apply_settings(settings)
    first = world.wait_for_tick(5.0).frame
    assert world.wait_for_tick(5.0).frame > first
    assert world.tick() > first


def test_throttle_drives_and_brake_stops(fresh_world: carla.World, ego: carla.Vehicle) -> None:
    start = ego.get_location()
    ego.apply_control(carla.VehicleControl(throttle=0.6))
    for _ in range(60):
        fresh_world.tick()
    forward = ego.get_transform().get_forward_vector()
    assert ego.get_velocity().dot(forward) > 3.0
    assert ego.get_location().distance(start) > 3.0
    assert ego.get_control().throttle == pytest.approx(0.6)
    ego.apply_control(carla.VehicleControl(brake=1.0))
    for _ in range(80):
        fresh_world.tick()
    assert ego.get_velocity().length() < 0.05


def test_spawn_refuses_what_is_occupied_but_not_what_lies_below(
    fresh_world: carla.World, ego: carla.Vehicle
) -> None:
    blueprint = fresh_world.get_blueprint_library().find("vehicle.tesla.model3")
    assert fresh_world.try_spawn_actor(blueprint, ego.get_transform()) is None
    with pytest.raises(RuntimeError, match="collision at spawn position"):
        fresh_world.spawn_actor(blueprint, ego.get_transform())
    below = ego.get_transform()
    below.location.z -= 50.0
    assert fresh_world.try_spawn_actor(blueprint, below) is not None


def test_every_spawn_point_is_free(fresh_world: carla.World) -> None:
    blueprint = fresh_world.get_blueprint_library().find("vehicle.tesla.model3")
    for point in fresh_world.get_map().get_spawn_points()[::10]:
        vehicle = fresh_world.spawn_actor(blueprint, point)
        vehicle.destroy()


def test_mounted_actors_move_rigidly_and_go_with_their_parent(
    fresh_world: carla.World, ego: carla.Vehicle
) -> None:
    blueprint = fresh_world.get_blueprint_library().find("sensor.other.gnss")
    mount = carla.Transform(carla.Location(x=1.0, y=0.5, z=2.0), carla.Rotation(yaw=30.0))
    sensor = fresh_world.spawn_actor(blueprint, mount, attach_to=ego)
    ego.apply_control(carla.VehicleControl(throttle=0.7, steer=0.2))
    for _ in range(30):
        fresh_world.tick()
    expected = ego.get_transform().transform(carla.Location(x=1.0, y=0.5, z=2.0))
    assert sensor.get_location().distance(expected) < 1e-3
    assert sensor.parent.id == ego.id
    ego.destroy()
    fresh_world.tick()
    assert sensor.id not in {each.id for each in fresh_world.get_actors()}


def test_teleport_velocity_and_physics_switch(fresh_world: carla.World, ego: carla.Vehicle) -> None:
    target = fresh_world.get_map().get_spawn_points()[7]
    ego.set_transform(target)
    fresh_world.tick()
    assert ego.get_location().distance(target.location) < 1.0
    forward = target.get_forward_vector()
    ego.set_target_velocity(5.0 * forward)
    fresh_world.tick()
    assert ego.get_velocity().length() == pytest.approx(5.0, abs=0.5)
    ego.enable_constant_velocity(carla.Vector3D(x=8.0))
    for _ in range(5):
        fresh_world.tick()
    assert ego.get_velocity().length() == pytest.approx(8.0, abs=0.05)
    ego.disable_constant_velocity()
    ego.set_simulate_physics(False)
    frozen = ego.get_transform()
    ego.apply_control(carla.VehicleControl(throttle=1.0))
    for _ in range(10):
        fresh_world.tick()
    assert ego.get_location().distance(frozen.location) < 1.0
    assert ego.get_velocity().length() == 0.0


def test_physics_control_is_given_back_as_applied(fresh_world: carla.World, ego: carla.Vehicle) -> None:
    control = ego.get_physics_control()
    assert 1000.0 < control.mass < 3000.0 and len(control.wheels) == 4
    control.mass *= 1.5
    ego.apply_physics_control(control)
    fresh_world.tick()
    assert ego.get_physics_control().mass == pytest.approx(control.mass)
    ego.set_light_state(carla.VehicleLightState.Brake)
    fresh_world.tick()
    assert ego.get_light_state() == carla.VehicleLightState.Brake


def test_walkers_walk_where_they_are_told(fresh_world: carla.World) -> None:
    walker = spawn_walker(fresh_world)
    fresh_world.tick()
    start = walker.get_location()
    walker.apply_control(carla.WalkerControl(carla.Vector3D(x=1.0), 1.5))
    for _ in range(40):
        fresh_world.tick()
    moved = walker.get_location() - start
    assert math.hypot(moved.x, moved.y) == pytest.approx(3.0, abs=0.5)
    assert walker.get_control().speed == pytest.approx(1.5)


def spawn_walker(world: carla.World) -> carla.Walker:
    blueprint = world.get_blueprint_library().filter("walker.pedestrian.*")[0]
    point = world.get_map().get_spawn_points()[3]
    point.location.z += 1.0
    return world.spawn_actor(blueprint, point)


def test_ai_controllers_are_refused_with_a_way_out(fresh_world: carla.World) -> None:
    walker = spawn_walker(fresh_world)
    blueprint = fresh_world.get_blueprint_library().find("controller.ai.walker")
    with pytest.raises(RuntimeError, match="WalkerControl"):
        fresh_world.spawn_actor(blueprint, carla.Transform(), attach_to=walker)


def test_lights_cycle_freeze_and_obey(fresh_world: carla.World) -> None:
    lights = list(fresh_world.get_actors().filter("traffic.traffic_light"))
    assert lights
    seen: dict[int, set[str]] = {each.id: set() for each in lights}
    for _ in range(1200):
        fresh_world.tick()
        for each in lights:
            seen[each.id].add(str(each.state))
    assert all({"Green", "Red"} <= states for states in seen.values())
    light = lights[0]
    light.set_state(carla.TrafficLightState.Yellow)
    light.freeze(True)
    light.set_green_time(7.0)
    for _ in range(200):
        fresh_world.tick()
    assert light.state == carla.TrafficLightState.Yellow
    assert light.is_frozen() and light.get_green_time() == pytest.approx(7.0)
    assert light.id in {each.id for each in light.get_group_traffic_lights()}
    fresh_world.freeze_all_traffic_lights(False)
    assert light.get_stop_waypoints() and light.get_light_boxes()
    extent = light.trigger_volume.extent
    assert extent.x > 0.5 and extent.y > 0.5


def test_a_vehicle_in_the_trigger_sees_its_light(fresh_world: carla.World, ego: carla.Vehicle) -> None:
    light = next(
        each for each in fresh_world.get_actors().filter("traffic.traffic_light") if each.get_stop_waypoints()
    )
    light.set_state(carla.TrafficLightState.Red)
    light.freeze(True)
    stop = light.get_stop_waypoints()[0].transform
    stop.location -= 2.5 * stop.get_forward_vector()
    stop.location.z += 0.3
    ego.set_transform(stop)
    for _ in range(3):
        fresh_world.tick()
    assert ego.is_at_traffic_light()
    assert ego.get_traffic_light().id == light.id
    assert ego.get_traffic_light_state() == carla.TrafficLightState.Red
    ego.set_transform(carla.Transform(carla.Location(z=500.0)))
    fresh_world.tick()
    assert not ego.is_at_traffic_light()


def test_batches_report_each_command(client: carla.Client, fresh_world: carla.World) -> None:
    library = fresh_world.get_blueprint_library()
    spawn = carla.command.SpawnActor
    points = fresh_world.get_map().get_spawn_points()
    blueprint = library.find("vehicle.audi.tt")
    moving = carla.command.ApplyTargetVelocity(carla.command.FutureActor, carla.Vector3D(x=1.0))
    responses = client.apply_batch_sync(
        [
            spawn(blueprint, points[0]).then(moving),
            spawn(blueprint, points[0]),
            carla.command.DestroyActor(4_000_000_000),
        ],
        True,
    )
    assert not responses[0].has_error()
    assert "collision" in responses[1].error
    assert "not found" in responses[2].error
    actor = fresh_world.get_actor(responses[0].actor_id)
    assert actor.is_alive
    client.apply_batch_sync([carla.command.DestroyActor(actor)], True)
    assert actor.id not in {each.id for each in fresh_world.get_actors()}


def test_every_command_of_the_wheel_is_served(
    client: carla.Client, fresh_world: carla.World, ego: carla.Vehicle
) -> None:
    command, zero = carla.command, carla.Vector3D()
    walker = spawn_walker(fresh_world)
    pose = ego.get_transform()
    batch = [
        command.ApplyVehicleControl(ego, carla.VehicleControl()),
        command.ApplyVehicleAckermannControl(ego, carla.VehicleAckermannControl(speed=1.0)),
        command.ApplyWalkerControl(walker, carla.WalkerControl()),
        command.ApplyVehiclePhysicsControl(ego, ego.get_physics_control()),
        command.ApplyTransform(ego, pose),
        command.ApplyWalkerState(walker, walker.get_transform(), 1.0),
        command.ApplyTargetVelocity(ego, zero),
        command.ApplyTargetAngularVelocity(ego, zero),
        command.ApplyImpulse(ego, zero),
        command.ApplyForce(ego, zero),
        command.ApplyAngularImpulse(ego, zero),
        command.ApplyTorque(ego, zero),
        command.SetSimulatePhysics(ego, True),
        command.SetEnableGravity(ego, True),
        command.SetVehicleLightState(ego, carla.VehicleLightState.NONE),
        command.DestroyActor(walker),
    ]
    assert [each.error for each in client.apply_batch_sync(batch, True) if each.has_error()] == []


def test_ackermann_reaches_its_speed(fresh_world: carla.World, ego: carla.Vehicle) -> None:
    ego.apply_ackermann_control(carla.VehicleAckermannControl(speed=4.0, acceleration=2.0))
    for _ in range(120):
        fresh_world.tick()
    assert ego.get_velocity().length() == pytest.approx(4.0, abs=0.5)


def test_unusable_settings_are_refused(fresh_world: carla.World) -> None:
    settings = fresh_world.get_settings()
    settings.fixed_delta_seconds = 5.0
    with pytest.raises(RuntimeError, match="fixed_delta_seconds"):
        fresh_world.apply_settings(settings)
    assert fresh_world.get_settings().fixed_delta_seconds == pytest.approx(0.05)


def test_weather_rays_and_scenery(fresh_world: carla.World) -> None:
    fresh_world.set_weather(carla.WeatherParameters.WetSunset)
    fresh_world.tick()
    altitude = carla.WeatherParameters.WetSunset.sun_altitude_angle
    assert fresh_world.get_weather().sun_altitude_angle == pytest.approx(altitude)
    road = fresh_world.get_map().get_spawn_points()[0].location
    ground = fresh_world.ground_projection(carla.Location(road.x, road.y, road.z + 5.0), 20.0)
    assert ground.label in (carla.CityObjectLabel.Roads, carla.CityObjectLabel.RoadLines)
    assert abs(ground.location.z - road.z) < 1.5
    assert fresh_world.get_level_bbs(carla.CityObjectLabel.Buildings)
    assert fresh_world.get_environment_objects(carla.CityObjectLabel.Any)


def test_two_clients_see_one_world(server, client: carla.Client, fresh_world: carla.World) -> None:
    other = carla.Client(server.host, server.port)
    other.set_timeout(10.0)
    seen = other.get_world()
    blueprint = fresh_world.get_blueprint_library().find("vehicle.tesla.model3")
    vehicle = fresh_world.spawn_actor(blueprint, fresh_world.get_map().get_spawn_points()[1])
    frame = fresh_world.tick()
    deadline = time.monotonic() + 5.0
    while seen.get_snapshot().frame < frame and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen.get_actor(vehicle.id).type_id == "vehicle.tesla.model3"
    assert seen.get_settings().synchronous_mode


def test_street_lamps_follow_the_sun_and_obey(server, client: carla.Client, fresh_world: carla.World) -> None:
    manager = fresh_world.get_lightmanager()
    fresh_world.tick()
    lamps = manager.get_all_lights(carla.LightGroup.Street)
    assert len(lamps) > 10
    assert not manager.get_turned_on_lights(carla.LightGroup.Street)

    def lit() -> int:
        for _ in range(2):  # the client sends its changes with a tick, and asks again with the next
            fresh_world.tick()
        return len(manager.get_turned_on_lights(carla.LightGroup.Street))

    manager.turn_on(lamps[:3])
    manager.set_color(lamps[:1], carla.Color(255, 0, 0))
    manager.set_intensity(lamps[:1], 500.0)
    assert lit() == 3
    other = carla.Client(server.host, server.port)
    other.set_timeout(10.0)
    seen = other.get_world().get_lightmanager().get_all_lights(carla.LightGroup.Street)[0]
    assert (seen.is_on, seen.color.g, seen.intensity) == (True, 0, 500.0)
    fresh_world.set_weather(carla.WeatherParameters.ClearNight)
    assert lit() == len(lamps)
    manager.set_day_night_cycle(False)
    fresh_world.set_weather(carla.WeatherParameters.ClearNoon)
    assert lit() == len(lamps)
    manager.turn_off(lamps)
    assert lit() == 0


def test_a_friction_trigger_makes_the_road_slippery(fresh_world: carla.World, ego: carla.Vehicle) -> None:
    start = ego.get_transform()

    def stopping_m() -> float:
        ego.apply_control(carla.VehicleControl())
        for _ in range(10):  # the brakes take a moment to let go
            fresh_world.tick()
        ego.set_transform(start)
        ego.set_target_velocity(8.0 * start.get_forward_vector())
        fresh_world.tick()
        begun = ego.get_location()
        ego.apply_control(carla.VehicleControl(brake=1.0))
        for _ in range(100):
            fresh_world.tick()
        return begun.distance(ego.get_location())

    dry = stopping_m()
    blueprint = fresh_world.get_blueprint_library().find("static.trigger.friction")
    blueprint.set_attribute("friction", "0.5")
    for axis in "xyz":
        blueprint.set_attribute(f"extent_{axis}", "10000.0")  # centimetres
    trigger = fresh_world.spawn_actor(blueprint, start)
    assert stopping_m() > 2.0 * dry
    trigger.destroy()
    assert stopping_m() == pytest.approx(dry, rel=0.15)
