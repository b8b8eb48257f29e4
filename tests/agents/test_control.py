"""The follower in closed loop with a simple car whose pedals differ from what the follower assumes."""

import dataclasses
import math

import numpy as np
import pytest

from tickdrive.agents.control import Control, TrajectoryFollower
from tickdrive.planner.errors import PlannerError

DT = 0.05


class Car:
    """Kinematic bicycle about a point between the axles; pedals with a lag. y right, yaw clockwise."""

    def __init__(self, speed=0.0, gain=1.0, x=0.0, y=0.0, yaw=0.0):
        self.x, self.y, self.yaw, self.v, self.gain, self.a = x, y, yaw, speed, gain, 0.0

    def step(self, control: Control):
        push = self.gain * 6.0 * control.throttle - 9.0 * self.gain * control.brake
        drag = 0.4 + 0.03 * self.v if self.v > 0.0 else 0.0
        self.a += 0.5 * (push - drag - self.a)
        self.v = max(0.0, self.v + self.a * DT)
        if self.v == 0.0:
            self.a = 0.0
        rate = self.v * math.tan(math.radians(36.0) * control.steer) / 2.86
        self.x += (self.v * math.cos(self.yaw) - 1.4 * rate * math.sin(self.yaw)) * DT
        self.y += (self.v * math.sin(self.yaw) + 1.4 * rate * math.cos(self.yaw)) * DT
        self.yaw += rate * DT


class Road:
    """A dense centre line; plans along it at a wanted speed with a bounded acceleration."""

    def __init__(self, points):
        self.points = np.array(points, dtype=float)
        self.arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(self.points, axis=0).T))])

    def nearest(self, car):
        i = int(np.argmin(np.hypot(self.points[:, 0] - car.x, self.points[:, 1] - car.y)))
        return self.arc[i]

    def offset(self, car):
        return float(np.min(np.hypot(self.points[:, 0] - car.x, self.points[:, 1] - car.y)))

    def plan(self, car, wanted_mps, stop_at=None, accelerate=2.0, brake=2.5):
        s, v, out = 0.0, car.v, []
        start = self.nearest(car)
        for tick in range(1, 61):
            target = wanted_mps
            if stop_at is not None:
                target = min(target, math.sqrt(max(0.0, 2.0 * brake * (stop_at - start - s))))
            v = min(max(target, v - 1.3 * brake * DT), v + accelerate * DT)
            s += max(v, 0.0) * DT
            if stop_at is not None:
                s = min(s, max(0.0, stop_at - start))
            if tick % 10 == 0:
                out.append(s)
        x = np.interp(start + np.array(out), self.arc, self.points[:, 0]) - car.x
        y = np.interp(start + np.array(out), self.arc, self.points[:, 1]) - car.y
        cos, sin = math.cos(car.yaw), math.sin(car.yaw)
        return np.stack([x * cos + y * sin, y * cos - x * sin], axis=1)


def straight(length=400.0):
    return [(s, 0.0) for s in np.arange(0.0, length, 0.25)]


def right_turn(radius=8.0, before=60.0):
    """South is +y: a right turn from east to south."""
    out = [(s, 0.0) for s in np.arange(0.0, before, 0.25)]
    out += [
        (before + radius * math.sin(a), radius - radius * math.cos(a))
        for a in np.arange(0, math.pi / 2, 0.02)
    ]
    return out + [(before + radius, radius + s) for s in np.arange(0.0, 80.0, 0.25)]


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.4])
def test_reaches_and_holds_the_speed(gain):
    road, car, follower = Road(straight()), Car(gain=gain), TrajectoryFollower()
    speeds, controls = [], []
    for _ in range(500):
        control = follower.step(road.plan(car, 8.0), 0.5, car.v, DT)
        car.step(control)
        speeds.append(car.v)
        controls.append(control)
    assert speeds[120] > 7.0  # 6 s
    assert max(speeds) < 8.6
    assert np.ptp(speeds[-100:]) < 0.2
    assert np.mean(speeds[-100:]) == pytest.approx(8.0, abs=0.35)
    pedals = np.array([c.throttle - c.brake for c in controls[-100:]])
    assert np.abs(np.diff(pedals)).max() < 0.08


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("speed", [4.0, 8.0, 12.0])
def test_stops_at_the_line_and_stays(gain, speed):
    road, car, follower = Road(straight()), Car(speed=speed, gain=gain), TrajectoryFollower()
    line = 60.0
    for _ in range(700):
        control = follower.step(road.plan(car, speed, stop_at=line), 0.5, car.v, DT)
        car.step(control)
        assert not (control.throttle > 0.0 and control.brake > 0.0)
    assert car.v == 0.0
    assert line - 2.0 < car.x < line + 0.6
    x = car.x
    for _ in range(100):
        control = follower.step(road.plan(car, speed, stop_at=line), 0.5, car.v, DT)
        car.step(control)
        assert control.throttle == 0.0 and control.brake >= 0.5
    assert car.x == x


def test_noise_at_rest_does_not_make_it_creep():
    rng = np.random.default_rng(0)
    road, car, follower = Road(straight()), Car(), TrajectoryFollower()
    for _ in range(200):
        plan = rng.normal(0.0, 0.06, (6, 2))
        car.step(follower.step(plan, 0.5, car.v, DT))
    assert car.x < 0.05
    for _ in range(60):
        car.step(follower.step(road.plan(car, 8.0), 0.5, car.v, DT))
    assert car.v > 2.0  # and a real plan sets it off


@pytest.mark.parametrize("speed", [3.0, 5.0])
def test_takes_a_turn_of_a_junction(speed):
    road, car, follower = Road(right_turn()), Car(speed=speed), TrajectoryFollower()
    offsets, steers = [], []
    for _ in range(int(110.0 / speed / DT)):
        control = follower.step(road.plan(car, speed), 0.5, car.v, DT)
        car.step(control)
        offsets.append(road.offset(car))
        steers.append(control.steer)
    assert car.y > 30.0
    assert max(offsets) < 0.8
    assert max(offsets[-100:]) < 0.15
    assert max(steers) > 0.15  # right is positive
    assert np.abs(np.diff(steers)).max() <= 4.0 * DT + 1e-9


@pytest.mark.parametrize("speed", [5.0, 9.0, 14.0])
def test_comes_back_to_the_lane_without_swinging(speed):
    road, car, follower = Road(straight()), Car(speed=speed, y=1.2, yaw=0.08), TrajectoryFollower()
    ys = []
    for _ in range(240):
        car.step(follower.step(road.plan(car, speed), 0.5, car.v, DT))
        ys.append(car.y)
    assert abs(ys[-1]) < 0.05
    assert min(ys) > -0.4


def test_emergency_braking_for_a_plan_that_ends():
    car, follower = Car(speed=10.0), TrajectoryFollower()
    ahead = np.array([[4.0, 0.0], [6.0, 0.0], [6.5, 0.0], [6.5, 0.0], [6.5, 0.0], [6.5, 0.0]])
    assert follower.step(ahead, 0.5, car.v, DT).brake > 0.6


def test_reset_forgets_and_inputs_are_checked():
    follower = TrajectoryFollower()
    turn = np.array([[2.0, 0.5], [4.0, 1.5], [5.5, 3.0], [7.0, 5.0], [8.0, 7.0], [9.0, 9.0]])
    first = follower.step(turn, 0.5, 4.0, DT)
    follower.step(turn, 0.5, 4.0, DT)
    follower.reset()
    assert follower.step(turn, 0.5, 4.0, DT) == first
    assert first.steer > 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.steer = 0.0
    for bad in (np.zeros((6, 3)), np.zeros((1, 2)), np.full((6, 2), np.nan)):
        with pytest.raises(PlannerError):
            follower.step(bad, 0.5, 4.0, DT)
