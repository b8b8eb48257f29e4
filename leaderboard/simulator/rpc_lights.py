"""RPC methods about traffic lights and signs."""

from __future__ import annotations

from typing import Any

from tickdrive.leaderboard.simulator.actors import TrafficLight
from tickdrive.leaderboard.simulator.geometry import Pose, compose
from tickdrive.leaderboard.simulator.interfaces import Box, LightColour
from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.rpc import value, void
from tickdrive.leaderboard.simulator.simulation import Simulation

_HEAD = Box(Pose(z=4.6), (0.2, 0.2, 0.5))
_MAX_SECONDS = 3600.0


class LightService:
    """RPC methods of traffic lights.

    Args:
        simulation: what they act on.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation

    def _sign_id(self, actor_id: Any) -> str:
        return self._light(actor_id).spec.sign_id

    def _light(self, actor_id: Any) -> TrafficLight:
        return self._sim.world.get_as(wire.integer(actor_id, "actor"), TrafficLight)

    def _seconds(self, seconds: Any) -> float:
        return max(0.0, min(_MAX_SECONDS, wire.number(seconds, "seconds")))

    @void
    def set_traffic_light_state(self, actor_id: Any, state: Any) -> None:
        """Show a colour; the cycle goes on from there unless frozen."""
        colour = LightColour(wire.integer(state, "state", 0, 3))
        self._sim.world.lights.set_colour(self._sign_id(actor_id), colour)

    @void
    def set_traffic_light_green_time(self, actor_id: Any, seconds: Any) -> None:
        """Duration of green."""
        self._sim.world.lights.set_green_s(self._sign_id(actor_id), self._seconds(seconds))

    @void
    def set_traffic_light_yellow_time(self, actor_id: Any, seconds: Any) -> None:
        """Duration of yellow."""
        self._sim.world.lights.set_yellow_s(self._sign_id(actor_id), self._seconds(seconds))

    @void
    def set_traffic_light_red_time(self, actor_id: Any, seconds: Any) -> None:
        """Duration of all-red after yellow."""
        self._sim.world.lights.set_red_s(self._sign_id(actor_id), self._seconds(seconds))

    @void
    def freeze_traffic_light(self, actor_id: Any, freeze: Any) -> None:
        """Stop or resume one light's group."""
        self._sim.world.lights.freeze(self._sign_id(actor_id), wire.boolean(freeze, "freeze"))

    @void
    def freeze_all_traffic_lights(self, freeze: Any) -> None:
        """Stop or resume all lights."""
        self._sim.world.lights.freeze_all(wire.boolean(freeze, "freeze"))

    @void
    def reset_traffic_light_group(self, actor_id: Any) -> None:
        """Begin a group's cycle anew."""
        self._sim.world.lights.reset_group(self._sign_id(actor_id))

    @void
    def reset_all_traffic_lights(self) -> None:
        """Begin all cycles anew."""
        self._sim.world.lights.reset_all()

    @value
    def get_group_traffic_lights(self, actor_id: Any) -> list[int]:
        """Actors of a light's group, itself among them."""
        world = self._sim.world
        return [world.light_by_sign[each].actor_id for each in world.lights.group_of(self._sign_id(actor_id))]

    @value
    def get_light_boxes(self, actor_id: Any) -> list[Any]:
        """World boxes of a light's lamp housing."""
        light = self._light(actor_id)
        return [wire.pack_box(Box(compose(light.pose, _HEAD.pose), _HEAD.extent), light.actor_id)]
