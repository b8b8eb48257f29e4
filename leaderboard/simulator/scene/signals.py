# sums of numpy vectors, which ruff takes for lists
# ruff: noqa: RUF005
"""Traffic lights, signs, stop lines and crosswalks: what the road network says stands on the roads.

Heads are larger than real ones (bulbs of 0.45 m): a small camera image must show their colour from 40 m.
A light whose pole stands at its stop line gets a second head on the far side of the junction, as on US
roads, since a car waiting at the line cannot see the near one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import carla
import numpy as np
from shapely.geometry import Polygon

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import (
    LightColour,
    RoadFurniture,
    SignSpec,
    SolidBox,
    Tag,
    TrafficLightSpec,
)
from tickdrive.leaderboard.simulator.scene.ground import SceneGround
from tickdrive.leaderboard.simulator.scene.mesh import (
    Material,
    MaterialTable,
    MeshBuilder,
    Shade,
    box_mesh,
    disc_mesh,
    tube_mesh,
)
from tickdrive.leaderboard.simulator.scene.objects import (
    PLANTED,
    ROAD,
    GroundUse,
    ObjectRegister,
    upright_box,
)
from tickdrive.leaderboard.simulator.scene.surfaces import MARKING_LIFT_M

BULB_RADIUS_M = 0.225
BULB_PITCH_M = 0.56
HEAD_BOTTOM_M = 3.1
NEAR_HEAD_BOTTOM_M = 2.5
BULB_OFF = {LightColour.RED: (74, 20, 16), LightColour.YELLOW: (78, 60, 14), LightColour.GREEN: (14, 62, 34)}
BULB_LIT = {
    LightColour.RED: (6.0, 0.14, 0.06),
    LightColour.YELLOW: (5.0, 2.6, 0.06),
    LightColour.GREEN: (0.10, 4.4, 1.25),
}
BACKPLATE = Material(Tag.TRAFFIC_LIGHT, (20, 21, 23))
BACKPLATE_RIM = Material(Tag.TRAFFIC_LIGHT, (206, 176, 40))
POLE = Material(Tag.POLE, (92, 96, 98))
WHITE_PAINT = Material(Tag.ROAD_LINE, (232, 232, 226), Shade.MARKING)
SIGN_RED = Material(Tag.TRAFFIC_SIGN, (188, 20, 28), emission=(0.05, 0.0, 0.0))
SIGN_WHITE = Material(Tag.TRAFFIC_SIGN, (240, 240, 238))
SIGN_BLACK = Material(Tag.TRAFFIC_SIGN, (16, 16, 18))
SIGN_BACK = Material(Tag.TRAFFIC_SIGN, (120, 122, 124))


@dataclass(frozen=True)
class Bulb:
    """A bulb of a traffic light head, for its glow: world position and the direction it shines in."""

    sign_id: str
    colour: LightColour
    position: np.ndarray
    facing: np.ndarray


@dataclass
class Signals:
    """Signal heads of the scene.

    Attributes:
        rows: material rows of the (red, yellow, green) bulbs of each light by sign id.
        bulbs: all bulbs.
    """

    rows: dict[str, tuple[int, int, int]]
    bulbs: list[Bulb]


class SignalBuilder:
    """Adds the furniture of a road network to a scene."""

    def __init__(
        self, road_map: Any, use: GroundUse, ground: SceneGround, builder: MeshBuilder, table: MaterialTable,
        register: ObjectRegister,
    ) -> None:  # fmt: skip
        self._map = road_map
        self._use = use
        self._ground = ground
        self._builder = builder
        self._table = table
        self._register = register
        self._signals = Signals({}, [])

    def build(self, furniture: RoadFurniture) -> Signals:
        """All lights, signs, stop lines and crosswalks."""
        for light in furniture.lights:
            self._light(light)
        for sign in furniture.signs:
            self._sign(sign)
        for polygon in furniture.crosswalks:
            self._crosswalk(np.asarray(polygon, np.float64)[:, :2])
        return self._signals

    # -- traffic lights --

    def _light(self, light: TrafficLightSpec) -> None:
        table = self._table
        colours = (LightColour.RED, LightColour.YELLOW, LightColour.GREEN)
        rows = tuple(table.add(Material(Tag.TRAFFIC_LIGHT, BULB_OFF[c]), own_row=True) for c in colours)
        self._signals.rows[light.sign_id] = rows  # type: ignore[assignment]
        if light.stop_poses:
            stop = np.mean([p.location for p in light.stop_poses], axis=0)
            heading = math.radians(light.stop_poses[0].yaw)
        else:
            # CARLA's actor yaw is the travel direction turned by -90 degrees
            stop, heading = light.pose.location, math.radians(light.pose.yaw + 90.0)
        travel = np.array([math.cos(heading), math.sin(heading)])
        for pose in light.stop_poses:
            self._stop_line(pose)
        foot = light.pose.location
        z = self._ground.height(foot[0], foot[1], stop[2])
        foot = np.array([foot[0], foot[1], z])
        ahead = float((foot[:2] - stop[:2]) @ travel)
        if ahead > 8.0:
            self._head_on_pole(
                light.sign_id, rows, foot, travel, self._arm(foot, stop, travel), HEAD_BOTTOM_M
            )
            return
        self._head_on_pole(light.sign_id, rows, foot, travel, 0.0, NEAR_HEAD_BOTTOM_M)
        far = self._far_side(light, stop, travel)
        if far is not None:
            self._head_on_pole(light.sign_id, rows, far, travel, self._arm(far, stop, travel), HEAD_BOTTOM_M)

    @staticmethod
    def _arm(foot: np.ndarray, stop: np.ndarray, travel: np.ndarray) -> float:
        """Signed length to the right of the travel direction that brings the head nearer its lanes."""
        right = np.array([-travel[1], travel[0]])
        lateral = float((stop[:2] - foot[:2]) @ right)
        reach = min(max(abs(lateral) - 1.4, 0.0), 6.5)
        return math.copysign(reach, lateral)

    def _far_side(self, light: TrafficLightSpec, stop: np.ndarray, travel: np.ndarray) -> np.ndarray | None:
        """Foot for a pole beyond the junction, to the right of the straightest way through it."""
        end = self._beyond_junction(light.stop_poses[0], travel) if light.stop_poses else None
        if end is None:
            return None
        right = np.array([-travel[1], travel[0]])
        edge = end[:2] + right * float((stop[:2] - end[:2]) @ right)
        for forward in (1.0, 3.0, 5.0):
            for sideways in np.arange(2.0, 11.0, 0.5):
                for side in (1.0, -1.0):
                    x, y = edge + travel * forward + side * right * sideways
                    if not self._use.rectangle(x, y, 0.0, 0.5, 0.5) & ~2:
                        z = self._ground.height(x, y, end[2])
                        return np.array([x, y, z])
        return None

    def _beyond_junction(self, stop: Pose, travel: np.ndarray) -> np.ndarray | None:
        waypoint = self._map.get_waypoint(carla.Location(stop.x, stop.y, stop.z))
        entered = False
        for _ in range(80):
            if waypoint is None:
                return None
            place = waypoint.transform.location
            if waypoint.is_junction:
                entered = True
            elif entered:
                return np.array([place.x, place.y, place.z])
            elif math.hypot(place.x - stop.x, place.y - stop.y) > 20.0:
                return None
            choices = waypoint.next(1.0)
            if not choices:
                return None

            def turn(candidate: Any) -> float:
                far = candidate.next(12.0) or [candidate]
                yaw = math.radians(far[0].transform.rotation.yaw)
                return -(math.cos(yaw) * travel[0] + math.sin(yaw) * travel[1])

            waypoint = min(choices, key=turn) if len(choices) > 1 else choices[0]
        return None

    def _head_on_pole(
        self,
        sign_id: str,
        rows: tuple[int, ...],
        foot: np.ndarray,
        travel: np.ndarray,
        arm_m: float,
        bottom_m: float,
    ) -> None:
        """Pole, arm and head whose bulbs face against the travel direction."""
        builder, table = self._builder, self._table
        pole, plate, rim = table.add(POLE), table.add(BACKPLATE), table.add(BACKPLATE_RIM)
        right = np.array([-travel[1], travel[0], 0.0])
        facing = np.array([-travel[0], -travel[1], 0.0])
        yaw = math.atan2(travel[1], travel[0])
        half_height = 1.5 * BULB_PITCH_M + 0.12
        over_lane = abs(arm_m) > 0.6
        bottom = bottom_m + (1.2 if over_lane else 0.0)
        middle = foot + np.array([0.0, 0.0, bottom + half_height]) + right * arm_m + facing * 0.14
        top = bottom + 2.0 * half_height
        box = upright_box(foot + np.array([0.0, 0.0, 0.5 * top]), (0.14, 0.14, 0.5 * top))
        instance = self._register.add("TrafficLight", Tag.TRAFFIC_LIGHT, box, solid=False)
        self._register.solids.append(_solid_pole(foot, 0.14, top))
        self._use.rectangle(foot[0], foot[1], 0.0, 1.4, 1.4, PLANTED)
        builder.add(*tube_mesh(foot - [0, 0, 0.4], foot + [0, 0, top], 0.13, 0.10, 8), pole, instance)
        if over_lane:
            joint = foot + np.array([0.0, 0.0, top - 0.25])
            builder.add(*tube_mesh(joint, joint + right * arm_m, 0.085, 0.07, 7), pole, instance)
        up = np.array([0.0, 0.0, 1.0])
        builder.add(*box_mesh(middle, (0.07, 0.52, half_height + 0.09), yaw), plate, instance)
        for out in (-1.0, 1.0):
            across = middle + facing * 0.072 + right * (out * 0.5)
            above = middle + facing * 0.072 + up * (out * (half_height + 0.07))
            builder.add(*box_mesh(across, (0.01, 0.035, half_height + 0.10), yaw), rim, instance)
            builder.add(*box_mesh(above, (0.01, 0.53, 0.035), yaw), rim, instance)
        for k, colour in enumerate((LightColour.RED, LightColour.YELLOW, LightColour.GREEN)):
            centre = middle + facing * 0.085 + np.array([0.0, 0.0, (1 - k) * BULB_PITCH_M])
            builder.add(*disc_mesh(centre, facing, BULB_RADIUS_M, 12), rows[k], instance)
            # a visor, so that the bulb shows to the traffic it governs and not to the crossing one
            lid = centre + facing * 0.17 + up * (BULB_RADIUS_M + 0.02)
            builder.add(*box_mesh(lid, (0.17, 0.24, 0.015), yaw), plate, instance)
            for out in (-1.0, 1.0):
                cheek = centre + facing * 0.17 + right * (out * (BULB_RADIUS_M + 0.02))
                builder.add(*box_mesh(cheek, (0.17, 0.015, 0.20), yaw), plate, instance)
            self._signals.bulbs.append(Bulb(sign_id, colour, centre + facing * 0.02, facing))

    # -- signs --

    def _sign(self, sign: SignSpec) -> None:
        builder, table = self._builder, self._table
        if sign.stop_poses:
            heading = math.radians(sign.stop_poses[0].yaw)
        else:
            heading = math.radians(sign.pose.yaw + 90.0)
        facing = np.array([-math.cos(heading), -math.sin(heading), 0.0])
        place = sign.pose.location
        z = self._ground.height(place[0], place[1], place[2])
        foot = np.array([place[0], place[1], z])
        box = upright_box(foot + np.array([0.0, 0.0, 1.5]), (0.4, 0.4, 1.5))
        instance = self._register.add("TrafficSign", Tag.TRAFFIC_SIGN, box, solid=False)
        self._register.solids.append(_solid_pole(foot, 0.06, 2.9))
        self._use.rectangle(foot[0], foot[1], 0.0, 1.2, 1.2, PLANTED)
        builder.add(
            *tube_mesh(foot - [0, 0, 0.3], foot + [0, 0, 2.75], 0.045, 0.045, 6), table.add(POLE), instance
        )
        middle = foot + np.array([0.0, 0.0, 2.5])

        def face(radius: float, sides: int, turn: float, out: float, material: Material) -> None:
            disc = disc_mesh(middle + facing * out, facing, radius, sides, turn)
            builder.add(*disc, table.add(material), instance)

        if sign.type_id == "traffic.stop":
            face(0.52, 8, math.pi / 8, 0.05, SIGN_BACK)
            face(0.52, 8, math.pi / 8, 0.07, SIGN_WHITE)
            face(0.455, 8, math.pi / 8, 0.08, SIGN_RED)
            self._letters(middle + facing * 0.09, facing, "STOP", 0.085, SIGN_WHITE, instance)
            for pose in sign.stop_poses:
                self._stop_line(pose)
        elif sign.type_id == "traffic.yield":
            face(0.55, 3, -math.pi / 2, 0.06, SIGN_RED)
            face(0.36, 3, -math.pi / 2, 0.07, SIGN_WHITE)
        else:
            digits = sign.type_id.rsplit(".", 1)[-1]
            face(0.45, 16, 0.0, 0.06, SIGN_RED)
            face(0.36, 16, 0.0, 0.07, SIGN_WHITE)
            if digits.isdigit():
                self._letters(middle + facing * 0.08, facing, digits, 0.12, SIGN_BLACK, instance)

    def _letters(
        self,
        centre: np.ndarray,
        facing: np.ndarray,
        text: str,
        size: float,
        material: Material,
        instance: int,
    ) -> None:
        """Writing of 3x5 pixels a letter; `size` is half a letter's width."""
        # the reader looks along -facing; in CARLA's left-handed frame this is their right
        right = np.array([facing[1], -facing[0], 0.0])
        pixel = 2.0 * size / 3.0
        quads = []
        start = -(len(text) * 4 - 1) / 2.0
        for n, letter in enumerate(text):
            for row, line in enumerate(_FONT.get(letter, _FONT["0"])):
                for column, mark in enumerate(line):
                    if mark == "#":
                        u, v = (start + 4 * n + column) * pixel, (1.5 - row) * pixel
                        corners = ((u, v), (u, v + pixel), (u + pixel, v + pixel), (u + pixel, v))
                        quads.append([centre + a * right + np.array([0.0, 0.0, b]) for a, b in corners])
        self._builder.add_quads(np.array(quads), self._table.add(material), instance)

    # -- paint --

    def _lift(self, corners: np.ndarray, hint: float) -> np.ndarray:
        heights = [self._ground.height(float(x), float(y), hint) for x, y in corners]
        return np.concatenate([corners, np.array(heights)[:, None] + MARKING_LIFT_M + 0.002], axis=1)

    def _stop_line(self, pose: Pose) -> None:
        waypoint = self._map.get_waypoint(carla.Location(pose.x, pose.y, pose.z))
        half = 0.5 * (waypoint.lane_width if waypoint is not None else 3.4) - 0.15
        heading = math.radians(pose.yaw)
        travel = np.array([math.cos(heading), math.sin(heading)])
        right = np.array([-travel[1], travel[0]])
        middle = np.array([pose.x, pose.y])
        ends = ((0, -1), (0, 1), (0.45, 1), (0.45, -1))
        corners = np.array([middle + a * travel + b * half * right for a, b in ends])
        self._builder.add_quads(self._lift(corners, pose.z)[None], self._table.add(WHITE_PAINT))

    def _crosswalk(self, polygon: np.ndarray) -> None:
        """Bars along the traffic's direction, across the polygon's long axis."""
        if len(polygon) < 3:
            return
        outline = Polygon(polygon).buffer(0)
        if outline.is_empty or outline.area < 1.0:
            return
        ring = np.array(outline.minimum_rotated_rectangle.exterior.coords)[:4]
        a, b = ring[1] - ring[0], ring[2] - ring[1]
        if np.linalg.norm(a) < np.linalg.norm(b):
            a, b = b, a
        corner = ring[0]
        length = float(np.linalg.norm(a))
        along = a / length
        centre = Polygon(polygon).centroid
        near = self._map.get_waypoint(_location(centre.x, centre.y))
        hint = near.transform.location.z if near is not None else 0.0
        material = self._table.add(WHITE_PAINT)
        bars = int(length / 1.0)
        for k in range(bars):
            at = (k + 0.5) * length / bars
            start, end = corner + along * (at - 0.26), corner + along * (at + 0.26)
            bar = Polygon([start, end, end + b, start + b]).intersection(outline)
            middle = bar.centroid
            if bar.geom_type != "Polygon" or bar.area < 0.3:
                continue
            if not self._use.rectangle(middle.x, middle.y, 0.0, 0.1, 0.1) & ROAD:
                continue
            corners = self._lift(np.array(bar.exterior.coords)[:-1], hint)
            fan = np.arange(1, len(corners) - 1)
            self._builder.add(corners, np.stack([np.zeros_like(fan), fan, fan + 1], 1), material)


def _location(x: float, y: float) -> Any:
    return carla.Location(x, y, 0.0)


def _solid_pole(foot: np.ndarray, radius: float, height: float) -> SolidBox:
    return SolidBox(
        upright_box(foot + np.array([0.0, 0.0, 0.5 * height]), (radius, radius, 0.5 * height)), Tag.POLE
    )


_FONT = {
    "0": ("###", "#.#", "#.#", "#.#", "###"), "1": (".#.", "##.", ".#.", ".#.", "###"),
    "2": ("###", "..#", "###", "#..", "###"), "3": ("###", "..#", "###", "..#", "###"),
    "4": ("#.#", "#.#", "###", "..#", "..#"), "5": ("###", "#..", "###", "..#", "###"),
    "6": ("###", "#..", "###", "#.#", "###"), "7": ("###", "..#", "..#", ".#.", ".#."),
    "8": ("###", "#.#", "###", "#.#", "###"), "9": ("###", "#.#", "###", "..#", "###"),
    "S": ("###", "#..", "###", "..#", "###"), "T": ("###", ".#.", ".#.", ".#.", ".#."),
    "O": ("###", "#.#", "#.#", "#.#", "###"), "P": ("###", "#.#", "###", "#..", "#.."),
}  # fmt: skip
