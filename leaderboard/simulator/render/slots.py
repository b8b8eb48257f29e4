"""The parts of an actor's model that may look different from actor to actor."""

from __future__ import annotations

from enum import IntEnum


class Slot(IntEnum):
    """Part of a model; its number stands in the model's `materials`."""

    PAINT = 0
    GLASS = 1
    TYRE = 2
    RIM = 3
    TRIM = 4
    HEAD_LIGHT = 5
    TAIL_LIGHT = 6
    LEFT_BLINKER = 7
    RIGHT_BLINKER = 8
    WHITE = 9
    COAT = 10
    TROUSERS = 11
    SKIN = 12
    HAIR = 13
    LEFT_BEACON = 14
    RIGHT_BEACON = 15
