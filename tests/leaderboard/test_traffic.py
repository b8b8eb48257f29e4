"""Background traffic: the same seed makes the same drive, whatever the simulator has served before."""

from pathlib import Path

import carla

from tickdrive import configs
from tickdrive.leaderboard.carla_session import CarlaSession
from tickdrive.leaderboard.criteria.base import EgoTick
from tickdrive.leaderboard.evaluation_config import TrafficConfig
from tickdrive.leaderboard.route_judge import judged_line
from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.leaderboard.routes import Route, read_named_routes
from tickdrive.leaderboard.traffic import Traffic

VEHICLES, WALKERS = 24, 6
TICKS = 180
ROUTES = Path(next(iter(configs.__path__))) / "routes"


def drive(session: CarlaSession, route: Route) -> list[list[tuple[float, ...]]]:
    """An episode: per tick, where everybody is, and what vehicles are told and do."""
    session.load(route.town, seed=0)
    points = RoutePlanner(session.map).trace(route.locations())
    line = judged_line(points)
    blueprint = session.world.get_blueprint_library().find("vehicle.lincoln.mkz_2020")
    ego = session.world.spawn_actor(blueprint, line.transforms[0])
    session.tick()
    traffic = Traffic(session, ego, line, TrafficConfig(vehicles=VEHICLES, walkers=WALKERS), seed=0)
    traffic.spawn()
    session.tick()
    traffic.start()
    lights = sorted(session.world.get_actors().filter("traffic.traffic_light"), key=lambda light: light.id)
    seen = []
    for _ in range(TICKS):
        snapshot = session.tick()
        tick = EgoTick(snapshot.frame, snapshot.elapsed_seconds, ego.get_transform(), ego.get_velocity())
        traffic.on_tick(tick, 0.0)
        seen.append(
            [
                *((*place(each), *told(each)) for each in traffic.vehicles),
                *(place(each) for each in traffic.walkers),
                tuple(float(int(each.state)) for each in lights),
            ]
        )
    traffic.destroy()
    ego.destroy()
    return seen


def place(actor: carla.Actor) -> tuple[float, ...]:
    transform, velocity = actor.get_transform(), actor.get_velocity()
    at, turned = transform.location, transform.rotation
    return at.x, at.y, at.z, turned.pitch, turned.yaw, turned.roll, velocity.x, velocity.y, velocity.z


def told(vehicle: carla.Vehicle) -> tuple[float, ...]:
    control = vehicle.get_control()
    return control.throttle, control.steer, control.brake, vehicle.get_speed_limit()


def test_traffic_drives_alike_whatever_the_simulator_has_served(simulator):
    """Frames and actor ids go on over episodes; no phase may be taken from them."""
    (route,) = read_named_routes(f"{ROUTES / 'training.xml'}:train_01")
    drives = []
    with CarlaSession(simulator.host, simulator.port, is_alive=simulator.alive) as session:
        # every episode takes equally many frames and ids; as the last begins a frame later, the three cannot
        # all meet the same phase
        for frames_between in (0, 0, 1):
            for _ in range(frames_between):
                session.tick()
            drives.append(drive(session, route))
    first = drives[0]
    assert {len(tick) for tick in first} == {VEHICLES + WALKERS + 1}
    limits = [{tick[k][-1] for tick in first} for k in range(VEHICLES)]
    assert sum(len(each) > 1 for each in limits) >= 2  # the traffic comes to places with other limits
    walkers = slice(VEHICLES, VEHICLES + WALKERS)
    assert sum(a != b for a, b in zip(first[0][walkers], first[-1][walkers], strict=True)) >= 3
    for other in drives[1:]:
        differs = [tick for tick, (one, two) in enumerate(zip(first, other, strict=True)) if one != two]
        assert not differs, f"from tick {differs[0]} on"
