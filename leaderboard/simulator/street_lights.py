"""Street lamps as clients see and switch them: `carla.LightManager`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import Weather
from tickdrive.leaderboard.simulator.protocol import wire

#: `carla.LightGroup.Street`
_STREET = 2
#: estimated: CARLA's lamps have various
DEFAULT_INTENSITY = 1000.0
_DEFAULT_COLOUR = (255, 219, 158)
_MOST_INTENSITY = 1e6
#: sun's altitude below which lamps are lit
DUSK_DEG = 1.5
_BY_THE_SUN = -1.0


class StreetLights:
    """State of a town's lamps. Numbers on the wire begin at 1.

    By itself a lamp follows the sun; one that a client has switched stays so until the sun next rises or
    sets, or for ever where the day and night cycle is off.

    Args:
        positions: (N, 3) of the lamps, world frame.

    Attributes:
        changed: whether clients have to be told; cleared by who tells them.
    """

    def __init__(self, positions: np.ndarray) -> None:
        self._positions = positions
        self._colours = np.tile(np.array(_DEFAULT_COLOUR, np.uint8), (len(positions), 1))
        self._intensity = np.full(len(positions), DEFAULT_INTENSITY)
        self._switch: np.ndarray = np.full(len(positions), _BY_THE_SUN)
        self._cycle = True
        self._dark = False
        self.changed = False

    def follow(self, weather: Weather) -> None:
        """Take note of the sun."""
        dark = weather.sun_altitude_angle < DUSK_DEG
        if dark != self._dark:
            self._dark, self.changed = dark, True
            if self._cycle:
                self._switch[:] = _BY_THE_SUN

    def set_cycle(self, active: bool) -> None:
        """Let lamps follow the sun, or keep them as they are."""
        if not active and self._cycle:
            self._switch = np.where(self._switch < 0.0, float(self._dark), self._switch)
        elif active and not self._cycle:
            self._switch[:] = _BY_THE_SUN
        self._cycle, self.changed = active, True

    def pack(self) -> list[Any]:
        """`vector<LightState>`."""
        on = np.where(self._switch < 0.0, float(self._dark), self._switch) > 0.5
        return [
            [k + 1, wire.pack_vector(place), float(self._intensity[k]), _STREET, colour, bool(on[k])]
            for k, (place, colour) in enumerate(zip(self._positions, self._colours.tolist(), strict=True))
        ]

    def update(self, states: Any) -> None:
        """Take `vector<LightState>` from a client.

        Lamps that the town has not are passed over, as CARLA's `UCarlaLightSubsystem::SetLights` does: a
        client sends what it switched at its next tick, which can be in another town.

        Raises:
            RequestError: a value of the wrong kind.
        """
        read = []
        for state in wire.sequence(states, "lights"):
            number, _, intensity, _, colour, active = wire.sequence(state, "light", 6, 6)
            index = wire.integer(number, "light.id") - 1
            rgb = [
                wire.integer(each, "light.color", 0, 255)
                for each in wire.sequence(colour, "light.color", 3, 4)[:3]
            ]
            strength = max(0.0, min(_MOST_INTENSITY, wire.number(intensity, "light.intensity")))
            is_on = wire.boolean(active, "light.active")
            if 0 <= index < len(self._positions):
                read.append((index, strength, rgb, is_on))
        for index, strength, rgb, is_on in read:
            was_on = self._dark if self._switch[index] < 0.0 else self._switch[index] > 0.5
            if is_on != was_on:
                self._switch[index] = float(is_on)
            self._intensity[index], self._colours[index] = strength, rgb
        self.changed = self.changed or bool(read)

    def drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) colours 0-1 times their strength, and (N,) switches: 0 off, 1 on, -1 by the sun."""
        strength = np.minimum(self._intensity / DEFAULT_INTENSITY, 4.0)
        return self._colours / 255.0 * strength[:, None], self._switch
