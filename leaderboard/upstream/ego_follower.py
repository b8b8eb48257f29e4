"""Follows a vehicle of somebody else's simulation, frame by frame, without a hand in it.

Every frame is taken down in the callback of the client that receives it, where the client's view of the
world is that frame's; who judges can do so later. Nothing is ticked and no setting is touched.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass

import carla

from tickdrive.leaderboard.route_judge import red_lights

_BACKGROUND = "background"
_EMERGENCY = "emergency"


@dataclass(frozen=True)
class SeenFrame:
    """One frame of the simulation, as far as criteria need it; world frame.

    Attributes:
        frame: the simulator's.
        delta_s: simulated seconds of its tick.
        transform: of the ego.
        velocity_in_world: of the ego, m/s.
        speed_limit_kmh: in force for the ego.
        traffic_speeds_mps: of all vehicles with the role "background".
        red_lights: ids.
        emergency_vehicle: where it is, if there is one.
    """

    frame: int
    delta_s: float
    transform: carla.Transform
    velocity_in_world: carla.Vector3D
    speed_limit_kmh: float
    traffic_speeds_mps: tuple[float, ...]
    red_lights: frozenset[int]
    emergency_vehicle: carla.Transform | None


class EgoFollower:
    """Puts every frame in which the ego exists into `frames`, None once it is gone.

    Args:
        world: of a client of its own.
        ego: whom to follow.
        lights: whose state is of interest.

    Attributes:
        frames: in the order in which they came.
    """

    def __init__(self, world: carla.World, ego: carla.Vehicle, lights: Sequence[carla.TrafficLight]) -> None:
        self.frames: queue.SimpleQueue[SeenFrame | None] = queue.SimpleQueue()
        self._world = world
        self._ego = ego
        self._lights = tuple(lights)
        self._known: set[int] = {light.id for light in lights} | {ego.id}
        self._background: set[int] = set()
        self._emergency: int | None = None
        self._callback = world.on_tick(self._on_tick)

    def close(self) -> None:
        """Follow no longer."""
        self._world.remove_on_tick(self._callback)

    def _on_tick(self, snapshot: carla.WorldSnapshot) -> None:
        seen = snapshot.find(self._ego.id)
        if seen is None:
            self.frames.put(None)
            return
        self._meet([each.id for each in snapshot if each.id not in self._known])
        speeds = []
        emergency = None
        for each in snapshot:
            if each.id in self._background:
                speeds.append(each.get_velocity())
            elif each.id == self._emergency:
                emergency = each.get_transform()
        self.frames.put(
            SeenFrame(
                frame=snapshot.frame,
                delta_s=snapshot.timestamp.delta_seconds,
                transform=seen.get_transform(),
                velocity_in_world=seen.get_velocity(),
                speed_limit_kmh=self._ego.get_speed_limit(),
                traffic_speeds_mps=tuple((v.x**2 + v.y**2) ** 0.5 for v in speeds),
                red_lights=red_lights(self._lights),
                emergency_vehicle=emergency,
            )
        )

    def _meet(self, ids: list[int]) -> None:
        """Ask once what each new actor is; one that is gone before the answer is nobody of interest."""
        self._known.update(ids)
        for actor in self._world.get_actors(ids) if ids else ():
            if not actor.type_id.startswith("vehicle."):
                continue
            if actor.attributes.get("role_name") == _BACKGROUND:
                self._background.add(actor.id)
            elif actor.attributes.get("special_type") == _EMERGENCY:
                self._emergency = actor.id
