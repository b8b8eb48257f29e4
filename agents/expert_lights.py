"""Whether the expert stops for a traffic light, and where.

A light has two lines. The stop line is where one waits. The edge of the junction lies a few metres on, behind
the crosswalk; the leaderboards count a red light as run where the car's rear crosses that edge
(`criteria/lights.py`). Who can no longer stop at the first can often still stop before the second, and who
drives on when yellow comes must have his rear across the second before it is red.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_COMFORTABLE_MPS2 = 3.0
_FIRM_MPS2 = 4.0
_HARD_MPS2 = 6.0


@dataclass(frozen=True, slots=True)
class LightAhead:
    """A light as the ego meets it in this tick.

    Attributes:
        colour: "red", "yellow", or what else CARLA's states are called.
        line_m: front bumper to the stop line; negative past it.
        entry_m: front bumper to the edge of the junction; negative past it.
        speed_mps: of the ego, not negative.
    """

    colour: str
    line_m: float
    entry_m: float
    speed_mps: float


class LightRule:
    """Decides for one light on a route; remembers that it is stopping until the light is green again.

    Without that memory a car that slows down for yellow would take its lower speed for a reason to go on.
    """

    def __init__(self) -> None:
        self._stopping = False

    def way_m(self, light: LightAhead, clears: Callable[[], bool]) -> float | None:
        """The way left to the front bumper, or None where the light does not bind.

        Args:
            light: as it is now.
            clears: whether, driving on, the rear is across the junction's edge before the light is red; only
                asked where it matters, as it takes a roll-out.
        """
        if light.entry_m < 0.0 or light.colour not in ("red", "yellow"):
            self._stopping = False
            return None
        if light.colour == "red" or self._stopping or self._must_stop(light, clears):
            self._stopping = True
            return _stopping_way(light)
        return None

    @staticmethod
    def _must_stop(light: LightAhead, clears: Callable[[], bool]) -> bool:
        """Whether yellow is stopped for: where that is comfortable, or going on would end in red."""
        if light.line_m > 0.0 and _needed(light.speed_mps, light.line_m) < _COMFORTABLE_MPS2:
            return True
        return _needed(light.speed_mps, light.entry_m) <= _HARD_MPS2 and not clears()


def _stopping_way(light: LightAhead) -> float:
    """To the stop line where firm braking still reaches it, else to where the ego comes to rest."""
    if light.line_m >= 0.0 and _needed(light.speed_mps, light.line_m) <= _FIRM_MPS2:
        return light.line_m
    # past the line: at once, not only at the junction's edge, or a car at rest there would creep on
    return min(light.entry_m, light.speed_mps**2 / (2.0 * _COMFORTABLE_MPS2))


def _needed(speed_mps: float, way_m: float) -> float:
    """Deceleration [m/s2] that brings to rest within a way."""
    return speed_mps * speed_mps / (2.0 * max(way_m, 0.1))
