"""Traffic lights that cycle by junction, as on a CARLA server.

A group (junction) serves its phases (controllers) one after another: green, yellow, then all red, then the
next phase. Times are the town's own where its OpenDRIVE file states them, else CARLA 0.9.16's
(`Traffic/TrafficLightController.h`: 10, 3 and 2 s); as there, they belong to the controller, so setting a
light's time sets it for the heads of its phase, and freezing a light freezes its group. Unlike there, the
phase a group starts in comes from the seed, so that runs with different seeds meet different colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose, rotation_matrix, wrap_deg
from tickdrive.leaderboard.simulator.interfaces import (
    Box,
    LightColour,
    LightTimes,
    TrafficLightSpec,
    light_seconds,
)

_CELL_M = 16.0
#: a vehicle crossing a trigger sideways (on the road that crosses) is not governed by it
_ALIGNED_WITHIN_DEG = 60.0
#: slack for the part of a vehicle that may touch a trigger: half the longest vehicle
_REACH_M = 6.0


@dataclass(slots=True)
class _Phase:
    """A controller: the heads that are green together, and for how long they show what."""

    seconds: dict[LightColour, float]
    sign_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Group:
    """A junction: which phase is being served, what it shows and for how long it has."""

    phases: list[_Phase]
    current: int = 0
    stage: LightColour = LightColour.GREEN
    in_stage_s: float = 0.0
    frozen: bool = False


@dataclass(slots=True)
class _Light:
    spec: TrafficLightSpec
    group: str
    phase: int
    colour: LightColour = LightColour.RED
    elapsed_s: float = 0.0


class TrafficLightSystem:
    """All traffic lights of a town; deterministic in the seed and the calls made.

    Args:
        lights: the town's signal heads.
        seed: of the phase and the moment within it that each group starts at.
    """

    def __init__(self, lights: Sequence[TrafficLightSpec], seed: int = 0) -> None:
        self._seed = seed
        self._lights: dict[str, _Light] = {}
        self._groups: dict[str, _Group] = {}
        numbers: dict[str, dict[int, LightTimes]] = {}
        for spec in lights:
            numbers.setdefault(spec.group, {}).setdefault(spec.phase, spec.times)
        for name, found in numbers.items():
            self._groups[name] = _Group([_phase(found[number]) for number in sorted(found)])
        for spec in lights:
            phase = sorted(numbers[spec.group]).index(spec.phase)
            self._groups[spec.group].phases[phase].sign_ids.append(spec.sign_id)
            self._lights[spec.sign_id] = _Light(spec, spec.group, phase)
        self._cells = _index_triggers(lights)
        self.reset_all()

    def step(self, delta_s: float) -> None:
        """Advance every group that is not frozen by `delta_s` seconds."""
        for group in self._groups.values():
            if not group.frozen:
                self._advance(group, delta_s)

    def colour(self, sign_id: str) -> LightColour:
        """What a head shows."""
        return self._lights[sign_id].colour

    def elapsed_s(self, sign_id: str) -> float:
        """Seconds for which a head has shown its colour."""
        return self._lights[sign_id].elapsed_s

    def set_colour(self, sign_id: str, colour: LightColour) -> None:
        """Set one head by hand; it keeps the colour until its group next changes it."""
        light = self._lights[sign_id]
        light.colour, light.elapsed_s = LightColour(colour), 0.0

    def green_s(self, sign_id: str) -> float:
        """Seconds of green of a head's phase."""
        return self._phase(sign_id).seconds[LightColour.GREEN]

    def yellow_s(self, sign_id: str) -> float:
        """Seconds of yellow of a head's phase."""
        return self._phase(sign_id).seconds[LightColour.YELLOW]

    def red_s(self, sign_id: str) -> float:
        """Seconds from the end of yellow until the group's next phase begins."""
        return self._phase(sign_id).seconds[LightColour.RED]

    def set_green_s(self, sign_id: str, seconds: float) -> None:
        """Set the green time of a head's phase; ValueError unless finite and not negative."""
        self._phase(sign_id).seconds[LightColour.GREEN] = light_seconds(seconds)

    def set_yellow_s(self, sign_id: str, seconds: float) -> None:
        """Set the yellow time of a head's phase; ValueError unless finite and not negative."""
        self._phase(sign_id).seconds[LightColour.YELLOW] = light_seconds(seconds)

    def set_red_s(self, sign_id: str, seconds: float) -> None:
        """Set the all-red time after a head's phase; ValueError unless finite and not negative."""
        self._phase(sign_id).seconds[LightColour.RED] = light_seconds(seconds)

    def freeze(self, sign_id: str, frozen: bool) -> None:
        """Stop or resume the clock of a head's group."""
        self._groups[self._lights[sign_id].group].frozen = frozen

    def freeze_all(self, frozen: bool) -> None:
        """Stop or resume every group."""
        for group in self._groups.values():
            group.frozen = frozen

    def is_frozen(self, sign_id: str) -> bool:
        """Whether a head's group stands still."""
        return self._groups[self._lights[sign_id].group].frozen

    def reset_group(self, sign_id: str) -> None:
        """Start a head's group again with its first phase, green."""
        group = self._groups[self._lights[sign_id].group]
        group.current, group.stage, group.in_stage_s = 0, LightColour.GREEN, 0.0
        self._show(group)

    def reset_all(self) -> None:
        """Start every group again where the seed puts it. Times that were set stay."""
        for name, group in self._groups.items():
            # the group's name as bytes, because hash() of a string differs from process to process
            rng = np.random.default_rng([self._seed & 0xFFFFFFFF, *name.encode()])
            group.current, group.stage, group.in_stage_s = 0, LightColour.GREEN, 0.0
            self._show(group)
            self._advance(group, float(rng.uniform(0.0, _cycle_s(group))))

    def group_of(self, sign_id: str) -> tuple[str, ...]:
        """Ids of all heads that cycle with this one, itself among them."""
        return tuple(s for phase in self._groups[self._lights[sign_id].group].phases for s in phase.sign_ids)

    def governing_light(self, pose: Pose, box: Box) -> str | None:
        """The light whose trigger the front half of a vehicle is in.

        Only the front half counts: a car whose middle is past the line is leaving, and must not be held
        in the junction by a change of colour.

        Args:
            pose: the vehicle's transform.
            box: the vehicle's bounding box in its own frame.

        Returns:
            The light's sign id, or None where no light governs.
        """
        near = self._cells.get((math.floor(pose.x / _CELL_M), math.floor(pose.y / _CELL_M)))
        if not near:
            return None
        yaw = math.radians(pose.yaw)
        cos, sin = math.cos(yaw), math.sin(yaw)
        middle, length, half_width = box.pose.x, box.extent[0], box.extent[1]
        for trigger in near:
            if abs(wrap_deg(pose.yaw - trigger.heading_deg)) > _ALIGNED_WITHIN_DEG:
                continue
            if not trigger.low_z <= pose.z + box.pose.z <= trigger.high_z:
                continue
            for share in (1.0, 0.75, 0.5, 0.25, 0.0):
                along = middle + share * length
                if trigger.holds(pose.x + along * cos, pose.y + along * sin, 0.5 * half_width):
                    return trigger.sign_id
        return None

    def _phase(self, sign_id: str) -> _Phase:
        light = self._lights[sign_id]
        return self._groups[light.group].phases[light.phase]

    def _advance(self, group: _Group, delta_s: float) -> None:
        for phase in group.phases:
            for sign_id in phase.sign_ids:
                self._lights[sign_id].elapsed_s += delta_s
        group.in_stage_s += delta_s
        # a phase whose times are all zero must not spin here: one round through the phases is enough
        for _ in range(3 * len(group.phases)):
            lasts_s = group.phases[group.current].seconds[group.stage]
            # the sum of many steps of 0.05 s falls short of a whole second by rounding
            if group.in_stage_s < lasts_s - 1e-6:
                return
            group.in_stage_s = max(0.0, group.in_stage_s - lasts_s)
            if group.stage is LightColour.GREEN:
                group.stage = LightColour.YELLOW
            elif group.stage is LightColour.YELLOW:
                group.stage = LightColour.RED
            else:
                group.stage = LightColour.GREEN
                group.current = (group.current + 1) % len(group.phases)
            self._show(group)

    def _show(self, group: _Group) -> None:
        for number, phase in enumerate(group.phases):
            colour = group.stage if number == group.current else LightColour.RED
            for sign_id in phase.sign_ids:
                light = self._lights[sign_id]
                if light.colour is not colour:
                    light.colour, light.elapsed_s = colour, group.in_stage_s


@dataclass(frozen=True, slots=True)
class _Trigger:
    """A trigger box, ready for the question whether a point is in it."""

    sign_id: str
    heading_deg: float
    x: float
    y: float
    cos: float
    sin: float
    half_x: float
    half_y: float
    low_z: float
    high_z: float

    def holds(self, x: float, y: float, slack_m: float) -> bool:
        dx, dy = x - self.x, y - self.y
        # the box's own x runs across the lanes, so the vehicle's half width is slack along x
        across = abs(dx * self.cos + dy * self.sin)
        along = abs(dy * self.cos - dx * self.sin)
        return across <= self.half_x + slack_m and along <= self.half_y


def _index_triggers(lights: Sequence[TrafficLightSpec]) -> dict[tuple[int, int], list[_Trigger]]:
    cells: dict[tuple[int, int], list[_Trigger]] = {}
    for light in lights:
        if not light.stop_poses:
            continue
        centre, extent = light.trigger.pose, light.trigger.extent
        yaw = math.radians(centre.yaw)
        trigger = _Trigger(
            light.sign_id,
            light.stop_poses[0].yaw,
            centre.x,
            centre.y,
            math.cos(yaw),
            math.sin(yaw),
            extent[0],
            extent[1],
            centre.z - max(extent[2], 3.0),
            centre.z + max(extent[2], 3.0),
        )
        reach = math.hypot(extent[0], extent[1]) + _REACH_M
        for i in range(
            math.floor((centre.x - reach) / _CELL_M), math.floor((centre.x + reach) / _CELL_M) + 1
        ):
            for j in range(
                math.floor((centre.y - reach) / _CELL_M), math.floor((centre.y + reach) / _CELL_M) + 1
            ):
                cells.setdefault((i, j), []).append(trigger)
    return cells


def trigger_box(stop_poses: Sequence[Pose], half_widths_m: Sequence[float], length_m: float) -> Box:
    """Box over the lanes that end at `stop_poses`, from the stop line back by `length_m`.

    Its x axis runs across the lanes, as that of CARLA's trigger volumes does: clients walk along it to find
    the lanes a light governs (`TrafficLight::GetStopWaypoints`). It keeps a tenth of a lane off its borders.
    """
    yaw = stop_poses[0].yaw + 90.0
    axes = rotation_matrix(0.0, yaw, 0.0)
    places = np.array([pose.location for pose in stop_poses])
    across, along = places @ axes[:, 0], places @ -axes[:, 1]
    half = 0.9 * np.asarray(half_widths_m)
    low, high = float((across - half).min()), float((across + half).max())
    front, back = float(along.max()), float(along.min()) - length_m
    middle = axes[:, 0] * 0.5 * (low + high) - axes[:, 1] * 0.5 * (front + back)
    z = float(places[:, 2].mean())
    centre = Pose(float(middle[0]), float(middle[1]), z + 1.0, yaw=wrap_deg(yaw))
    return Box(centre, (0.5 * (high - low), 0.5 * (front - back), 1.0))


def _phase(times: LightTimes) -> _Phase:
    return _Phase(
        {
            LightColour.GREEN: times.green_s,
            LightColour.YELLOW: times.yellow_s,
            LightColour.RED: times.red_s,
        }
    )


def _cycle_s(group: _Group) -> float:
    return sum(sum(phase.seconds.values()) for phase in group.phases)
