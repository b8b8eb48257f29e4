"""Street lamps as a client switches them."""

from __future__ import annotations

import numpy as np
import pytest

from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.street_lights import StreetLights


def lamp(number: int, is_on: object) -> list[object]:
    return [number, [0.0, 0.0, 0.0], 1000.0, 2, [255, 219, 158], is_on]


def test_lamps_of_a_town_before_are_passed_over_and_the_others_switched():
    lights = StreetLights(np.zeros((2, 3)))
    lights.update([lamp(k, True) for k in (41, 2, 0, *range(50, 90))])
    assert [state[-1] for state in lights.pack()] == [False, True]
    assert lights.changed


def test_a_value_of_the_wrong_kind_is_named_and_nothing_is_switched():
    lights = StreetLights(np.zeros((2, 3)))
    with pytest.raises(RequestError, match=r"light\.active"):
        lights.update([lamp(1, True), lamp(41, "on")])
    assert not lights.pack()[0][-1]
