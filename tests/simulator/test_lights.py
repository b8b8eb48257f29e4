"""Traffic lights: the cycle of a junction, what clients may set, and which light governs a vehicle."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, LightColour, LightTimes, TrafficLightSpec
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator.towns.lights import TrafficLightSystem, trigger_box
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork

G, Y, R = LightColour.GREEN, LightColour.YELLOW, LightColour.RED
CAR = Box(Pose(z=0.75), (2.45, 1.0, 0.75))
STEP_S = 0.05


def _light(
    sign_id: str, group: str, phase: int, yaw: float, x: float = 0.0, y: float = 0.0
) -> TrafficLightSpec:
    stop = Pose(x, y, 0.0, yaw=yaw)
    return TrafficLightSpec(
        sign_id, group, phase, Pose(x + 20, y, 0), trigger_box([stop], [1.75], 5.0), (stop,), ((1, 0, -1),)
    )


def _system(seed: int = 0) -> TrafficLightSystem:
    lights = [_light(str(i), "a", i, 90.0 * i, x=40.0 * i) for i in range(3)]
    # two heads of one phase
    lights += [
        _light("3", "b", 0, 0.0, y=100.0),
        _light("4", "b", 0, 180.0, y=120.0),
        _light("5", "b", 7, 90.0, y=140.0),
    ]
    return TrafficLightSystem(lights, seed)


def _run(system: TrafficLightSystem, seconds: float) -> None:
    for _ in range(round(seconds / STEP_S)):
        system.step(STEP_S)


def test_a_phase_lasts_as_long_as_its_town_says() -> None:
    lights = [
        dataclasses.replace(_light(str(i), "a", i, 90.0 * i), times=LightTimes(8.0, 3.0, 1.0))
        for i in range(2)
    ]
    system = TrafficLightSystem(lights)
    system.reset_group("0")
    changes = [0.0]
    for tick in range(round(24.0 / STEP_S)):
        before = system.colour("0")
        system.step(STEP_S)
        if system.colour("0") is not before:
            changes.append((tick + 1) * STEP_S)
    assert changes == pytest.approx([0.0, 8.0, 11.0, 24.0])
    assert (system.green_s("0"), system.yellow_s("0"), system.red_s("0")) == (8.0, 3.0, 1.0)
    with pytest.raises(ValueError, match="cannot last"):
        LightTimes(green_s=-1.0)


def test_phases_are_served_one_after_another() -> None:
    system = _system()
    system.reset_group("0")
    seen = []
    for _ in range(round(45.0 / STEP_S)):
        seen.append(tuple(system.colour(s) for s in "012"))
        system.step(STEP_S)
    expected = []
    for served in range(3):
        for colour, seconds in ((G, 10.0), (Y, 3.0), (R, 2.0)):
            shown = tuple(colour if i == served else R for i in range(3))
            expected += [shown] * round(seconds / STEP_S)
    assert seen == expected
    assert tuple(system.colour(s) for s in "012") == (G, R, R)


def test_heads_of_one_phase_show_the_same_and_no_two_phases_go_together() -> None:
    system = _system(3)
    for _ in range(800):
        system.step(STEP_S)
        assert system.colour("3") is system.colour("4")
        assert sum(system.colour(s) is not R for s in "012") <= 1
        assert R in (system.colour("3"), system.colour("5"))


def test_seeds_differ_and_repeat() -> None:
    def history(seed: int) -> list[LightColour]:
        system = _system(seed)
        out = []
        for _ in range(600):
            system.step(STEP_S)
            out += [system.colour("0"), system.colour("3")]
        return out

    assert history(1) == history(1)
    starts = {tuple(_system(seed).colour(s) for s in "012345") for seed in range(12)}
    assert len(starts) >= 4
    assert history(1) != history(2)


def test_every_colour_is_met_on_arrival_over_seeds() -> None:
    colours = [_system(seed).colour("0") for seed in range(60)]
    assert 5 < colours.count(G) < 30 and colours.count(R) > 25


def test_elapsed_counts_from_the_change() -> None:
    system = _system()
    system.reset_group("0")
    _run(system, 4.0)
    assert system.elapsed_s("0") == pytest.approx(4.0)
    _run(system, 7.0)
    assert system.colour("0") is Y
    assert system.elapsed_s("0") == pytest.approx(1.0, abs=0.06)


def test_times_belong_to_the_phase() -> None:
    system = _system()
    system.set_green_s("3", 4.0)
    system.set_yellow_s("3", 1.0)
    system.set_red_s("3", 0.5)
    assert (system.green_s("4"), system.yellow_s("4"), system.red_s("4")) == (4.0, 1.0, 0.5)
    assert system.green_s("5") == 10.0
    system.reset_group("3")
    for seconds, colour in ((3.9, G), (0.6, Y), (0.8, R)):
        _run(system, seconds)
        assert system.colour("4") is colour
    _run(system, 0.3)
    assert system.colour("5") is G
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="cannot last"):
            system.set_green_s("3", bad)


def test_times_of_zero_do_not_hang() -> None:
    system = _system()
    for sign_id in "012":
        system.set_green_s(sign_id, 0.0)
        system.set_yellow_s(sign_id, 0.0)
        system.set_red_s(sign_id, 0.0)
    _run(system, 1.0)


def test_freezing_stops_a_group_and_a_set_colour_then_stays() -> None:
    system = _system()
    system.freeze("1", True)
    assert [system.is_frozen(s) for s in "0123"] == [True, True, True, False]
    system.set_colour("2", LightColour.OFF)
    before = [system.colour(s) for s in "012"]
    _run(system, 60.0)
    assert [system.colour(s) for s in "012"] == before
    system.freeze_all(True)
    assert system.is_frozen("5")
    system.freeze_all(False)
    _run(system, 60.0)
    assert system.colour("2") is not LightColour.OFF


def test_a_colour_set_by_hand_lasts_until_the_next_change() -> None:
    system = _system()
    system.reset_group("0")
    system.set_colour("0", R)
    _run(system, 5.0)
    assert system.colour("0") is R and system.elapsed_s("0") == pytest.approx(5.0)
    _run(system, 5.1)
    assert system.colour("0") is Y


def test_reset_all_gives_the_start_again() -> None:
    system = _system(5)
    start = [(system.colour(s), system.elapsed_s(s)) for s in "012345"]
    _run(system, 17.3)
    system.reset_all()
    assert [system.colour(s) for s in "012345"] == [colour for colour, _ in start]


def test_group_of() -> None:
    system = _system()
    assert set(system.group_of("1")) == {"0", "1", "2"}
    assert set(system.group_of("5")) == {"3", "4", "5"}


@pytest.mark.parametrize("yaw", [0.0, 37.0, 90.0, 180.0, -120.0])
def test_a_light_governs_from_its_trigger_to_the_line(yaw: float) -> None:
    system = TrafficLightSystem([_light("0", "a", 0, yaw, x=10.0, y=-30.0)])

    def at(front_to_line_m: float, aside_m: float = 0.0, turned: float = 0.0) -> str | None:
        back = front_to_line_m + CAR.extent[0]
        cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        pose = Pose(
            10.0 - back * cos - aside_m * sin, -30.0 - back * sin + aside_m * cos, 0.0, yaw=yaw + turned
        )
        return system.governing_light(pose, CAR)

    assert at(12.0) is None
    assert at(5.2) is None
    assert at(4.8) == "0"
    assert at(1.0) == "0"
    assert at(0.0) == "0"
    # the front over the line still stands under the light; once the middle is past it, the car is leaving
    assert at(-1.5) == "0"
    assert at(-2.6) is None
    assert at(1.0, aside_m=3.5) is None
    assert at(1.0, aside_m=0.6) == "0"
    assert at(1.0, turned=90.0) is None


def test_every_stop_pose_of_a_town_is_governed_by_its_own_light() -> None:
    network = RoadNetwork.from_xodr("TickTown01", read_town("TickTown01"))
    system = TrafficLightSystem(network.furniture.lights, 0)
    for light in network.furniture.lights:
        for stop in light.stop_poses:
            yaw = math.radians(stop.yaw)
            back = 1.0 + CAR.extent[0]
            pose = Pose(stop.x - back * math.cos(yaw), stop.y - back * math.sin(yaw), stop.z, yaw=stop.yaw)
            assert system.governing_light(pose, CAR) == light.sign_id
    assert all(system.governing_light(p, CAR) is None for p in network.spawn_points[::7] if _far(p, network))


def _far(pose: Pose, network: RoadNetwork) -> bool:
    return all(
        math.hypot(pose.x - stop.x, pose.y - stop.y) > 12.0
        for light in network.furniture.lights
        for stop in light.stop_poses
    )
