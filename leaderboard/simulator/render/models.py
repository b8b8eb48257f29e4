"""Models of actors by blueprint, in metres, fitted to the actor's bounding box.

A model's frame is the centre of the actor's bounding box, x forward, y right, z up. Triangles carry one of a
few slots (paint, glass, brake light, …) instead of a material; what a slot looks like is decided per actor.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import LightBit, Tag
from tickdrive.leaderboard.simulator.render import people, vehicles
from tickdrive.leaderboard.simulator.render.slots import Slot
from tickdrive.leaderboard.simulator.scene.mesh import (
    RGB,
    Material,
    Mesh,
    MeshBuilder,
    Shade,
    box_mesh,
    tube_mesh,
)

GAIT_PHASES = 8
STRIDE_M = 1.5
_BLINK = (3.0, 1.3, 0.05)


@dataclass(frozen=True, slots=True)
class ModelKey:
    """What decides the shape of an actor.

    Attributes:
        family: see `family_of`.
        extent_cm: half sizes.
        phase: of the gait, or open doors.
        emergency: with a light bar.
    """

    family: str
    extent_cm: tuple[int, int, int]
    phase: int = 0
    emergency: bool = False


_VEHICLE_FAMILIES = {
    "bus": ("fusorosa", "bus"),
    "truck": ("firetruck", "carlacola", "hgv", "truck"),
    "van": ("sprinter", "ambulance", ".t2", "van", "microlino", "isetta"),
    "suv": ("patrol", "wrangler", "etron", "jeep", "cybertruck", "nissan.micra", "c3"),
}
_EMERGENCY = ("firetruck", "ambulance", "police")
"""Words in the names of those whose `special_type` is "emergency"."""


def family_of(type_id: str, tag: Tag) -> str:
    """Model family of a blueprint."""
    if type_id.startswith("walker.") or tag == Tag.PEDESTRIAN:
        return "walker"
    if tag == Tag.MOTORCYCLE or tag == Tag.BICYCLE:
        return "motorcycle" if tag == Tag.MOTORCYCLE else "bicycle"
    if type_id.startswith("vehicle."):
        for family, words in _VEHICLE_FAMILIES.items():
            if any(word in type_id for word in words):
                return family
        return {Tag.TRUCK: "truck", Tag.BUS: "bus"}.get(tag, "car")
    for family, words in {
        "cone": ("cone",),
        "barrel": ("barrel", "bin", "trashcan", "container_round", "plantpot"),
        "barrier": ("barrier", "fence", "guardrail"),
        "warning": ("warning", "accident"),
    }.items():
        if any(word in type_id for word in words):
            return family
    return "box"


def model_key(
    type_id: str, tag: Tag, extent: tuple[float, float, float], stride_m: float, open_doors: int = 0
) -> ModelKey:
    """Key of an actor's model; equal keys share a mesh."""
    family = family_of(type_id, tag)
    phase = int(stride_m / STRIDE_M * GAIT_PHASES) % GAIT_PHASES if family == "walker" else open_doors
    cm = tuple(max(1, round(100 * e)) for e in extent)
    return ModelKey(family, (cm[0], cm[1], cm[2]), phase, is_emergency(type_id))


def is_emergency(type_id: str) -> bool:
    """Whether a blueprint is an emergency vehicle, with a light bar."""
    return type_id.startswith("vehicle.") and any(word in type_id for word in _EMERGENCY)


@lru_cache(maxsize=512)
def build_model(key: ModelKey) -> Mesh:
    """Mesh of a model; `materials` are `Slot` numbers."""
    extent = np.array(key.extent_cm) / 100.0
    if key.family == "walker":
        return people.walker(extent, 2.0 * np.pi * key.phase / GAIT_PHASES)
    if key.family in ("motorcycle", "bicycle"):
        return people.two_wheeler(extent, key.family == "motorcycle")
    if key.family in ("bus", "truck", "van", "suv", "car"):
        return vehicles.vehicle(key.family, extent, key.phase, key.emergency)
    return _prop(key.family, extent)


def _prop(family: str, extent: np.ndarray) -> Mesh:
    builder = MeshBuilder()
    x, y, z = (float(e) for e in extent)
    radius = min(x, y)
    if family == "cone":
        builder.add(*box_mesh((0, 0, -0.94 * z), (x, y, 0.06 * z)), Slot.TRIM)
        edges = [(-0.88, 0.72), (-0.35, 0.50), (0.0, 0.36), (0.4, 0.22), (1.0, 0.06)]
        for k, ((z0, r0), (z1, r1)) in enumerate(itertools.pairwise(edges)):
            slot = Slot.WHITE if k in (1, 3) else Slot.PAINT
            builder.add(*tube_mesh((0, 0, z0 * z), (0, 0, z1 * z), r0 * radius, r1 * radius, 12), slot)
    elif family == "barrel":
        for k in range(4):
            slot = Slot.WHITE if k % 2 else Slot.PAINT
            builder.add(
                *tube_mesh((0, 0, (k / 2 - 1) * z), (0, 0, ((k + 1) / 2 - 1) * z), radius, radius * 0.97, 14),
                slot,
            )
    elif family == "barrier":
        builder.add(*box_mesh((0, 0, -0.55 * z), (x, y, 0.45 * z)), Slot.WHITE)
        builder.add(*box_mesh((0, 0, 0.35 * z), (0.97 * x, 0.45 * y, 0.65 * z)), Slot.PAINT)
    elif family == "warning":
        builder.add(*box_mesh((0, 0, 0.25 * z), (x, 0.9 * y, 0.7 * z)), Slot.PAINT)
        builder.add(*box_mesh((0, 0, 0.25 * z), (1.0 * x, 0.75 * y, 0.55 * z)), Slot.WHITE)
        builder.add(*box_mesh((0, 0, -0.7 * z), (0.4 * x, 0.4 * y, 0.3 * z)), Slot.TRIM)
    else:
        builder.add(*box_mesh((0, 0, 0), (x, y, z)), Slot.PAINT)
    return builder.build()


_PROP_PAINT: dict[str, RGB] = {
    "cone": (236, 98, 26),
    "barrel": (232, 104, 30),
    "barrier": (206, 62, 44),
    "warning": (240, 176, 30),
}
_COATS: tuple[RGB, ...] = (
    (158, 46, 44), (44, 78, 140), (60, 62, 66), (196, 178, 140), (54, 110, 84), (206, 206, 202),
    (122, 66, 116), (214, 150, 48), (84, 128, 168), (92, 60, 44),
)  # fmt: skip
_TROUSERS: tuple[RGB, ...] = ((38, 44, 62), (58, 54, 50), (30, 30, 34), (92, 86, 74), (70, 84, 110))
_SKIN: tuple[RGB, ...] = ((224, 178, 146), (188, 136, 102), (128, 86, 62), (88, 58, 42))
_HAIR: tuple[RGB, ...] = ((40, 30, 24), (94, 66, 40), (150, 120, 78), (24, 22, 22), (170, 168, 164))


def appearance(
    family: str, type_id: str, paint: RGB, tag: Tag, light_flags: int, night: float
) -> tuple[Material, ...]:
    """Materials of an actor, one for each `Slot` in order."""
    number = sum(ord(c) * (k + 1) for k, c in enumerate(type_id))
    if family == "walker":
        paint = _COATS[number % len(_COATS)]
    elif family in _PROP_PAINT:
        paint = _PROP_PAINT[family]
    elif family == "box":
        paint = ((150, 118, 84), (128, 132, 136), (90, 108, 92))[number % 3]
    rider = Tag.RIDER if family in ("motorcycle", "bicycle") else tag
    beams = bool(light_flags & (LightBit.LOW_BEAM | LightBit.HIGH_BEAM)) or night > 0.5
    head = (3.2, 3.0, 2.5) if beams else (0.25, 0.25, 0.24)
    if light_flags & LightBit.BRAKE:
        tail = (4.2, 0.10, 0.06)
    elif beams or light_flags & LightBit.POSITION:
        tail = (0.8, 0.03, 0.02)
    else:
        tail = (0.06, 0.0, 0.0)

    def lit(on: int, light: tuple[float, float, float]) -> tuple[float, float, float]:
        return light if light_flags & on else (0.0, 0.0, 0.0)

    glossy = Shade.PAINT if family not in ("walker", "box") else Shade.PLAIN
    by_slot = {
        Slot.PAINT: Material(tag, paint, glossy, smooth=True),
        Slot.GLASS: Material(tag, (26, 32, 38), Shade.GLASS, smooth=True),
        Slot.TYRE: Material(tag, (26, 26, 27)),
        Slot.RIM: Material(tag, (150, 152, 156), Shade.PAINT),
        Slot.TRIM: Material(tag, (34, 35, 37)),
        Slot.HEAD_LIGHT: Material(tag, (226, 228, 226), emission=head),
        Slot.TAIL_LIGHT: Material(tag, (150, 18, 20), emission=tail),
        Slot.LEFT_BLINKER: Material(tag, (214, 120, 30), emission=lit(LightBit.LEFT_BLINKER, _BLINK)),
        Slot.RIGHT_BLINKER: Material(tag, (214, 120, 30), emission=lit(LightBit.RIGHT_BLINKER, _BLINK)),
        Slot.WHITE: Material(tag, (232, 232, 228)),
        Slot.LEFT_BEACON: Material(tag, (168, 16, 20), emission=lit(LightBit.SPECIAL1, (4.4, 0.05, 0.05))),
        Slot.RIGHT_BEACON: Material(tag, (24, 44, 168), emission=lit(LightBit.SPECIAL2, (0.05, 0.18, 4.4))),
        Slot.COAT: Material(
            rider, _COATS[(number + 3) % len(_COATS)] if family != "walker" else paint, smooth=True
        ),
        Slot.TROUSERS: Material(rider, _TROUSERS[number // 7 % len(_TROUSERS)], smooth=True),
        Slot.SKIN: Material(rider, _SKIN[number // 3 % len(_SKIN)], smooth=True),
        Slot.HAIR: Material(rider, _HAIR[number // 5 % len(_HAIR)], smooth=True),
    }
    return tuple(by_slot[slot] for slot in Slot)
