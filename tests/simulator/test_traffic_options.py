"""What options of the Traffic Manager do to its cars, beside cars without: the one inside the wheel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import carla
import pytest

from tickdrive.leaderboard.simulator.launch import SimulatorProcess, free_port_pair

SECOND_LANE = """<lane id="-2" type="driving" level="false"><width sOffset="0" a="3.5" b="0" c="0" d="0"/>
<roadMark sOffset="0" type="solid" weight="standard" color="standard" width="0.15"/></lane></right>"""
LIMIT_KMH = 50.0  # the straight road's


@pytest.fixture
def two_lanes(straight_road: Path, tmp_path: Path) -> Path:
    """1.5 km of straight road, two lanes to the right of its middle."""
    text = straight_road.read_text().replace('length="300"', 'length="1500"')
    others, right = text.split("<right>")
    right = right.replace('type="solid"', 'type="broken" laneChange="both"').replace("</right>", SECOND_LANE)
    path = tmp_path / "two_lanes.xodr"
    path.write_text(f"{others}<right>{right}")
    return path


@contextmanager
def traffic_manager(client: carla.Client, world: carla.World) -> Iterator[carla.TrafficManager]:
    """A synchronous one, which goes with all vehicles."""
    manager = client.get_trafficmanager(free_port_pair())
    manager.set_synchronous_mode(True)
    manager.set_random_device_seed(5)
    yield manager
    cars = [carla.command.DestroyActor(car) for car in world.get_actors().filter("vehicle.*")]
    client.apply_batch_sync(cars, False)
    # an asynchronous Traffic Manager that meets a handle of a destroyed car ends the process
    world.tick()
    manager.set_synchronous_mode(False)
    manager.shut_down()


def test_options_of_speed_distance_and_lanes(
    start_server: Callable[..., SimulatorProcess], two_lanes: Path
) -> None:
    server = start_server(xodr_path=two_lanes)
    client = carla.Client(server.host, server.port)
    client.set_timeout(30.0)
    world = client.get_world()
    settings = world.get_settings()
    settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
    world.apply_settings(settings)
    world.tick()
    town = world.get_map()
    blueprint = world.get_blueprint_library().find("vehicle.tesla.model3")

    def at(s_m: float, lane: int) -> carla.Vehicle:
        place = town.get_waypoint_xodr(1, lane, s_m).transform
        place.location.z += 0.3
        return world.spawn_actor(blueprint, place)

    def kmh_of(car: carla.Vehicle) -> float:
        return 3.6 * car.get_velocity().length()

    def lane_of(car: carla.Vehicle) -> int:
        return town.get_waypoint(car.get_location()).lane_id

    def beside_m(car: carla.Vehicle) -> float:
        lane = town.get_waypoint(car.get_location()).transform
        return (car.get_location() - lane.location).dot(lane.get_right_vector())

    with traffic_manager(client, world) as traffic:
        standing = {name: at(s, -2) for name, s in (("near", 340.0), ("far", 440.0), ("blind", 640.0))}
        behind = {name: at(s, -2) for name, s in (("near", 300.0), ("far", 400.0), ("blind", 600.0))}
        slow = [at(s, -2) for s in (50.0, 180.0)]
        stays, overtakes = at(20.0, -2), at(150.0, -2)
        plain, faster, desired = at(700.0, -1), at(1000.0, -1), at(500.0, -1)
        forced, keeps, offset = at(200.0, -1), at(100.0, -1), at(850.0, -1)
        world.tick()
        for car in (*behind.values(), *slow, stays, overtakes, plain, faster, desired, forced, keeps, offset):
            car.set_autopilot(True, traffic.get_port())
            traffic.auto_lane_change(car, car.id == overtakes.id)
        traffic.global_percentage_speed_difference(20.0)
        traffic.vehicle_percentage_speed_difference(faster, -30.0)
        for car, kmh in ((desired, 25.0), (slow[0], 10.0), (slow[1], 10.0)):
            traffic.set_desired_speed(car, kmh)
        traffic.distance_to_leading_vehicle(behind["near"], 2.0)
        traffic.distance_to_leading_vehicle(behind["far"], 12.0)
        traffic.ignore_vehicles_percentage(behind["blind"], 100.0)
        traffic.force_lane_change(forced, True)
        traffic.keep_slow_lane_rule_percentage(keeps, 100.0)
        traffic.vehicle_lane_offset(offset, 0.8)
        closest_m = dict.fromkeys(behind, 100.0)
        for _ in range(160):
            world.tick()
            for name, car in behind.items():
                gap_m = car.get_location().distance(standing[name].get_location())
                closest_m[name] = min(closest_m[name], gap_m)
        assert kmh_of(plain) == pytest.approx(0.8 * LIMIT_KMH, abs=2.0)
        assert kmh_of(faster) == pytest.approx(1.3 * LIMIT_KMH, abs=2.5)
        assert kmh_of(desired) == pytest.approx(25.0, abs=1.0)
        assert closest_m["far"] > closest_m["near"] + 2.0
        assert closest_m["blind"] < 5.0 < closest_m["near"]  # it ran into the other
        assert (lane_of(stays), lane_of(overtakes)) == (-2, -1)
        assert kmh_of(stays) < 15.0 < kmh_of(overtakes)
        assert (lane_of(plain), lane_of(forced), lane_of(keeps)) == (-1, -2, -2)
        assert abs(beside_m(plain)) < 0.2
        assert beside_m(offset) == pytest.approx(0.8, abs=0.25)


def test_routes_paths_red_lights_and_lamps(client: carla.Client, fresh_world: carla.World) -> None:
    """At a red light with three ways on, cars that ignore it drive each way that they are told."""
    lights = list(fresh_world.get_actors().filter("traffic.traffic_light"))
    for light in lights:
        light.set_state(carla.TrafficLightState.Red)
    fresh_world.freeze_all_traffic_lights(True)
    fresh_world.set_weather(carla.WeatherParameters(sun_altitude_angle=-20.0))
    stop, exits = next(
        (stop, exits)
        for light in lights
        for stop in light.get_stop_waypoints()
        if len(exits := exits_of(stop)) == 3
    )
    blueprint = fresh_world.get_blueprint_library().find("vehicle.tesla.model3")
    start = stop.previous(15.0)[0].transform
    start.location.z += 0.3
    for told in ("route", "path"):
        for way, there in exits.items():
            with traffic_manager(client, fresh_world) as traffic:
                car = fresh_world.spawn_actor(blueprint, start)
                fresh_world.tick()
                car.set_autopilot(True, traffic.get_port())
                traffic.auto_lane_change(car, False)
                traffic.ignore_lights_percentage(car, 100.0)
                traffic.update_vehicle_lights(car, told == "route")
                if told == "route":
                    traffic.set_route(car, [way])
                else:
                    traffic.set_path(car, [stop.transform.location, there.transform.location])
                away_m = dict.fromkeys(exits, 100.0)
                for _ in range(300):
                    fresh_world.tick()
                    here = car.get_location()
                    away_m = {name: here.distance(w.transform.location) for name, w in exits.items()}
                    if min(away_m.values()) < 2.5:
                        break
                assert away_m[way] < 2.5, (told, away_m)
                lit = bool(car.get_light_state() & carla.VehicleLightState.LowBeam)
                assert lit is (told == "route")
    fresh_world.freeze_all_traffic_lights(False)


def exits_of(stop: carla.Waypoint) -> dict[str, carla.Waypoint]:
    """Where the ways on from a stop line leave the junction, by their direction."""
    ways = [stop]
    for _ in range(20):
        ways = ways[0].next(1.0)
        if len(ways) != 1:
            break
    found = {}
    for way in ways:
        while way.is_junction:
            way = way.next(2.0)[0]
        way = way.next(4.0)[0]
        turn = (way.transform.rotation.yaw - stop.transform.rotation.yaw + 180.0) % 360.0 - 180.0
        found["Straight" if abs(turn) < 30.0 else "Right" if turn > 0.0 else "Left"] = way
    return found
