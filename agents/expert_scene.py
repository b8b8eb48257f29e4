"""What the privileged expert reads from the server through CARLA's client API, as plain numbers.

World frame: CARLA's, left-handed, x forward / y right, yaw in degrees. Only the expert and the recorder may
use this; the agent under test reads its sensors and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import carla
import numpy as np

from tickdrive.leaderboard.criteria.lights import before_junction

_WALK_M = 30.0


@dataclass(frozen=True, slots=True)
class Mover:
    """A vehicle or walker, seen from above.

    Attributes:
        actor_id: CARLA actor id.
        is_walker: walker, else vehicle.
        position: (2,) centre of the bounding box in the world.
        velocity: (2,) m/s in the world.
        yaw_deg: heading.
        yaw_rate_dps: degrees per second.
        half_length_m, half_width_m: half sizes of the bounding box.
    """

    actor_id: int
    is_walker: bool
    position: np.ndarray
    velocity: np.ndarray
    yaw_deg: float
    yaw_rate_dps: float
    half_length_m: float
    half_width_m: float

    @property
    def speed_mps(self) -> float:
        """Ground speed."""
        return float(math.hypot(self.velocity[0], self.velocity[1]))

    def corners(self, ahead_s: float = 0.0) -> np.ndarray:
        """(5, 2) centre and corners in the world, `ahead_s` from now at constant speed and yaw rate."""
        yaw = math.radians(self.yaw_deg)
        turn = math.radians(self.yaw_rate_dps) * ahead_s
        # A chord of the arc: heading half way through the turn.
        cos_half, sin_half = math.cos(turn / 2), math.sin(turn / 2)
        vx, vy = float(self.velocity[0]), float(self.velocity[1])
        centre = self.position + ahead_s * np.array(
            [cos_half * vx - sin_half * vy, sin_half * vx + cos_half * vy]
        )
        forward = np.array([math.cos(yaw + turn), math.sin(yaw + turn)])
        right = np.array([-forward[1], forward[0]])
        along, across = forward * self.half_length_m, right * self.half_width_m
        return np.stack(
            [
                centre,
                centre + along + across,
                centre + along - across,
                centre - along + across,
                centre - along - across,
            ]
        )


@dataclass(frozen=True, slots=True)
class StopLine:
    """A place on the route where a light or a stop sign may hold the ego.

    Attributes:
        actor_id: of the light or sign.
        route_s: distance along the route of the line, metres.
        is_light: traffic light, else stop sign.
        entry_s: distance along the route of the edge of the junction behind the line, metres.
    """

    actor_id: int
    route_s: float
    is_light: bool
    entry_s: float


@dataclass(frozen=True, slots=True)
class ExpertScene:
    """One tick of the world around the ego.

    Attributes:
        sim_s: simulated time.
        ego: the car that is driven.
        speed_limit_mps: in force for it.
        others: vehicles and walkers around it, by actor id.
        light_colours: of all lights, by actor id: CARLA's names of the states in small letters.
        yellow_left_s: seconds until a light is red, by actor id, of those that are yellow.
    """

    sim_s: float
    ego: Mover
    speed_limit_mps: float
    others: tuple[Mover, ...]
    light_colours: dict[int, str]
    yellow_left_s: dict[int, float] = field(default_factory=dict)


def read_scene(
    world: carla.World, ego: carla.Vehicle, boxes: dict[int, carla.BoundingBox], reach_m: float = 70.0
) -> ExpertScene:
    """Read the ego and everything that moves within `reach_m` of it.

    Args:
        world: the world.
        ego: the car that is driven.
        boxes: bounding boxes by actor id, remembered from tick to tick. Each costs a call to the server,
            which the client makes with Python's lock held. Begin with an empty one on every route: ids may
            come again in another episode.
        reach_m: how far it looks.
    """
    snapshot = world.get_snapshot()
    here = ego.get_location()
    others = []
    lights: dict[int, str] = {}
    yellow_left_s: dict[int, float] = {}
    for actor in world.get_actors():
        kind = actor.type_id
        if kind.startswith(("vehicle.", "walker.pedestrian")):
            if actor.id != ego.id and actor.get_location().distance(here) < reach_m:
                others.append(_mover(actor, boxes))
        elif kind == "traffic.traffic_light":
            lights[actor.id] = str(actor.state).rsplit(".", 1)[-1].lower()
            if actor.state == carla.TrafficLightState.Yellow:
                yellow_left_s[actor.id] = actor.get_yellow_time() - actor.get_elapsed_time()
    limit_kmh = ego.get_speed_limit() or 30.0
    return ExpertScene(
        sim_s=snapshot.timestamp.elapsed_seconds,
        ego=_mover(ego, boxes),
        speed_limit_mps=limit_kmh / 3.6,
        others=tuple(sorted(others, key=lambda m: m.actor_id)),
        light_colours=lights,
        yellow_left_s=yellow_left_s,
    )


def find_stop_lines(
    world: carla.World, route_xy: np.ndarray, route_yaw_deg: np.ndarray, route_s: np.ndarray
) -> tuple[StopLine, ...]:
    """Lights and stop signs whose stop line lies on the route.

    Args:
        world: the world.
        route_xy: (N, 2) dense route in the world.
        route_yaw_deg: (N,) heading of the route.
        route_s: (N,) distance along it.
    """
    lines: list[StopLine] = []
    for actor in world.get_actors().filter("traffic.*"):
        is_light = actor.type_id == "traffic.traffic_light"
        if is_light:
            waypoints = actor.get_stop_waypoints()
            # stop waypoints lie under the light's trigger volume, some metres before the junction
            places = [
                (w.transform.location, w.transform.rotation.yaw, before_junction(w, _WALK_M)[1])
                for w in waypoints
            ]
        elif actor.type_id == "traffic.stop":
            centre = actor.get_transform().transform(actor.trigger_volume.location)
            waypoint = world.get_map().get_waypoint(centre)
            if waypoint is None:
                continue
            places = [(centre, waypoint.transform.rotation.yaw, 0.0)]
        else:
            continue
        found = {
            s: way_m
            for place, yaw, way_m in places
            for s in _on_route(place, yaw, route_xy, route_yaw_deg, route_s)
        }
        lines += [StopLine(actor.id, s, is_light, s + way_m) for s, way_m in found.items()]
    return tuple(sorted(lines, key=lambda line: line.route_s))


def _on_route(
    place: carla.Location, yaw_deg: float, xy: np.ndarray, route_yaw: np.ndarray, s: np.ndarray
) -> Sequence[float]:
    """Distances along the route at which it passes a place in the same direction (a route may pass twice)."""
    distance = np.hypot(xy[:, 0] - place.x, xy[:, 1] - place.y)
    aligned = np.abs((route_yaw - yaw_deg + 180.0) % 360.0 - 180.0) < 45.0
    near = (distance < 1.6) & aligned
    hits: list[float] = []
    index = 0
    while index < len(near):
        if near[index]:
            end = index
            while end < len(near) and near[end]:
                end += 1
            hits.append(float(s[index + int(np.argmin(distance[index:end]))]))
            index = end
        index += 1
    return hits


def _mover(actor: carla.Actor, boxes: dict[int, carla.BoundingBox]) -> Mover:
    transform = actor.get_transform()
    box = boxes.get(actor.id)
    if box is None:
        box = boxes[actor.id] = actor.bounding_box
    centre = transform.transform(carla.Location(box.location))
    velocity = actor.get_velocity()
    return Mover(
        actor_id=actor.id,
        is_walker=actor.type_id.startswith("walker."),
        position=np.array([centre.x, centre.y]),
        velocity=np.array([velocity.x, velocity.y]),
        yaw_deg=transform.rotation.yaw,
        yaw_rate_dps=actor.get_angular_velocity().z,
        half_length_m=box.extent.x,
        half_width_m=box.extent.y,
    )
