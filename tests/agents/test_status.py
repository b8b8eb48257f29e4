import numpy as np
import pytest

from tickdrive.agents.status import EgoStatusHistory
from tickdrive.agents.types import Command, EgoState, RouteGuidance, TargetPoint
from tickdrive.planner.errors import ConfigError


def guidance(x=20.0, y=-10.0):
    return RouteGuidance(
        command=Command.LANE_FOLLOW,
        target=TargetPoint(np.array([x, y]), Command.LEFT),
        next_target=TargetPoint(np.array([300.0, 400.0]), Command.LANE_FOLLOW),
        remaining_m=100.0,
    )


def ego(tick, x, yaw=0.0, speed=10.0):
    return EgoState(tick, tick * 0.05, np.array([x, 0.0]), yaw, speed, 0.0, 0.0)


def test_first_tick_repeats_itself():
    status = EgoStatusHistory(14).step(ego(0, 0.0), guidance(), 0.25, 0.0)
    assert status.shape == (4, 14) and status.dtype == np.float32
    assert (status == status[0]).all()
    row = [1.0, 0.0, 0.25, 0.0, 0, 0, 0, 1, 0, 0, 0.4, -0.2, 0.0, 0.0]
    assert status[0].tolist() == pytest.approx(row)


def test_samples_are_half_a_second_apart_and_oldest_first():
    history = EgoStatusHistory(22)
    for tick in range(61):
        # 10 m/s along x, turning right by 0.1 degree a tick; the pedal tells the tick
        status = history.step(ego(tick, tick * 0.5, yaw=tick * 0.1), guidance(), tick / 100.0, 0.0)
    assert status[:, 2].tolist() == pytest.approx([0.30, 0.40, 0.50, 0.60])
    assert status[:, 1].tolist() == pytest.approx(np.radians([-3.0, -2.0, -1.0, 0.0]).tolist(), abs=1e-6)
    # the present yaw is 6 degrees to the right: past positions lie behind, to the right of the present axis
    behind = np.array([-15.0, -10.0, -5.0, 0.0])
    yaw = np.radians(6.0)
    assert status[:, 12].tolist() == pytest.approx((behind * np.cos(yaw) / 10.0).tolist(), abs=1e-5)
    assert status[:, 13].tolist() == pytest.approx((-behind * np.sin(yaw) / 10.0).tolist(), abs=1e-5)
    # 500 m away along (3, 4): clipped to 100 m on the same ray
    assert status[3, 14:16].tolist() == pytest.approx([1.2, 1.6])
    assert status[3, 16:].tolist() == [1, 0, 0, 0, 0, 0]
    assert len(history._samples) <= 32


def test_a_lower_tick_rate_gives_the_same_samples():
    slow, fast = EgoStatusHistory(14), EgoStatusHistory(14)
    for tick in range(101):
        fine = fast.step(ego(tick, tick * 0.5), guidance(), tick / 200.0, 0.0)
        if tick % 5 == 0:
            coarse = slow.step(ego(tick, tick * 0.5), guidance(), tick / 200.0, 0.0)
    assert coarse == pytest.approx(fine)


def test_other_widths_are_refused():
    with pytest.raises(ConfigError, match="14 and 22"):
        EgoStatusHistory(16)
