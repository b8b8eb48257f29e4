"""Who is at the wheel while recording, and that the student drives by its own plans."""

from __future__ import annotations

import numpy as np
import pytest

from tickdrive.agents.student import Turns, TurnsConfig
from tickdrive.planner.errors import ConfigError

TICK_S = 0.05


def shares(config: TurnsConfig, seconds: float = 4000.0) -> float:
    turns = Turns(config, np.random.default_rng(0))
    ticks = round(seconds / TICK_S)
    return sum(turns.step(TICK_S, 0.1, 5.0, 5.0) for _ in range(ticks)) / ticks


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_student_drives_for_its_share_of_the_time(share):
    assert shares(TurnsConfig(student_share=share)) == pytest.approx(share, abs=0.05)


def test_a_student_that_is_lost_gives_up_the_wheel_for_a_while():
    turns = Turns(TurnsConfig(student_share=1.0, rescue_s=5.0), np.random.default_rng(0))
    assert turns.step(TICK_S, 0.5, 5.0, 5.0)
    assert not turns.step(TICK_S, 2.5, 5.0, 5.0), "2.5 m from the route"
    driven_by_expert = 1
    while not turns.step(TICK_S, 0.1, 5.0, 5.0):
        driven_by_expert += 1
    assert driven_by_expert * TICK_S == pytest.approx(5.0, abs=2 * TICK_S)


def test_a_student_that_stands_where_the_expert_would_drive_gives_up_the_wheel():
    turns = Turns(TurnsConfig(student_share=1.0, stuck_s=6.0), np.random.default_rng(0))
    stood = [turns.step(TICK_S, 0.0, 0.0, 6.0) for _ in range(140)]
    assert all(stood[:119]) and not any(stood[122:])
    waits = Turns(TurnsConfig(student_share=1.0, stretch_s=(20.0, 20.0)), np.random.default_rng(0))
    assert all(waits.step(TICK_S, 0.0, 0.0, 0.0) for _ in range(300)), "the expert stands as well"


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="student_share"):
        TurnsConfig(student_share=1.5)
