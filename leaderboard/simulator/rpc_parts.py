"""RPC methods about parts of actors, which are of one piece here: harmless where the actor lives."""

from __future__ import annotations

from typing import Any

from tickdrive.leaderboard.simulator.actors import Actor, Vehicle, Walker
from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.rpc import value, void
from tickdrive.leaderboard.simulator.simulation import Simulation

#: `carla.VehicleDoor.All`
_ALL_DOORS = 6


class PartService:
    """RPC methods of components, bones, sockets, doors and wheels.

    Args:
        simulation: what they act on.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation

    def _check(self, actor_id: Any, kind: type[Actor]) -> None:
        self._sim.world.get_as(wire.integer(actor_id, "actor"), kind)

    # vehicles

    @void
    def set_wheel_steer_direction(self, actor_id: Any, wheel: Any, angle: Any) -> None:
        """Only for show on a CARLA server, and not shown here."""
        self._check(actor_id, Vehicle)

    @value
    def get_wheel_pitch_angle(self, actor_id: Any, wheel: Any) -> float:
        """Wheels here do not pitch."""
        self._check(actor_id, Vehicle)
        return 0.0

    @void
    def set_wheel_pitch_angle(self, actor_id: Any, wheel: Any, angle: Any) -> None:
        """Only for show on a CARLA server, and not shown here."""
        self._check(actor_id, Vehicle)

    @void
    def open_vehicle_door(self, actor_id: Any, door: Any) -> None:
        """Open a door, for cameras and LiDARs; without effect where the blueprint has no doors that open."""
        self._turn(actor_id, door, True)

    @void
    def close_vehicle_door(self, actor_id: Any, door: Any) -> None:
        """Shut a door."""
        self._turn(actor_id, door, False)

    def _turn(self, actor_id: Any, door: Any, is_open: bool) -> None:
        vehicle = self._sim.world.get_as(wire.integer(actor_id, "actor"), Vehicle)
        number = wire.integer(door, "door", 0, _ALL_DOORS)
        # bonnet and boot stay shut
        bits = 0b1111 if number == _ALL_DOORS else (1 << number) & 0b1111
        if vehicle.attribute("has_dynamic_doors") == "true":
            vehicle.open_doors = vehicle.open_doors | bits if is_open else vehicle.open_doors & ~bits

    # walkers

    @value
    def get_bones_transform(self, actor_id: Any) -> list[Any]:
        """Walkers here have no bones."""
        self._check(actor_id, Walker)
        return [[]]

    @void
    def set_bones_transform(self, actor_id: Any, bones: Any) -> None:
        """Walkers here have no bones."""
        self._check(actor_id, Walker)

    @void
    def blend_pose(self, actor_id: Any, blend: Any) -> None:
        """Walkers here have no bones."""
        self._check(actor_id, Walker)

    @void
    def get_pose_from_animation(self, actor_id: Any) -> None:
        """Walkers here have no bones."""
        self._check(actor_id, Walker)

    # any actor

    def _no_parts(self, actor_id: Any) -> list[Any]:
        """Actors here are of one piece, without components, bones or sockets."""
        self._check(actor_id, Actor)
        return []

    @value
    def get_actor_component_names(self, actor_id: Any) -> list[str]:
        """None."""
        return self._no_parts(actor_id)

    @value
    def get_actor_bone_names(self, actor_id: Any) -> list[str]:
        """None."""
        return self._no_parts(actor_id)

    @value
    def get_actor_bone_world_transforms(self, actor_id: Any) -> list[Any]:
        """None."""
        return self._no_parts(actor_id)

    @value
    def get_actor_bone_relative_transforms(self, actor_id: Any) -> list[Any]:
        """None."""
        return self._no_parts(actor_id)

    @value
    def get_vehicle_bone_world_transforms(self, actor_id: Any) -> list[Any]:
        """None."""
        return self._no_parts(actor_id)

    @value
    def get_actor_socket_names(self, actor_id: Any) -> list[str]:
        """None."""
        return self._no_parts(actor_id)

    @value
    def get_actor_socket_world_transforms(self, actor_id: Any) -> list[Any]:
        """None."""
        return self._no_parts(actor_id)

    @value
    def get_actor_socket_relative_transforms(self, actor_id: Any) -> list[Any]:
        """None."""
        return self._no_parts(actor_id)
