# sums of numpy vectors, which ruff takes for lists
# ruff: noqa: RUF005
"""Models of cars, vans, trucks and buses: a body lofted over cross-sections, with wheels and lights.

Frame: centre of the bounding box, x forward, y right, z up, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.render.slots import Slot
from tickdrive.leaderboard.simulator.scene.mesh import Mesh, MeshBuilder, box_mesh, disc_mesh, tube_mesh


@dataclass(frozen=True)
class _Profile:
    """A body's outline as fractions of its box, from the rear (x = -1) to the front (x = 1).

    Attributes:
        stations: (n, 5) x, top of the body, belt line (both 0 ground - 1 roof), half width, roof half width.
        glazed: spans (x from, x to) whose sides are windows.
        windscreens: spans whose top is a window.
        axles: x of the axles.
        wheel_m: wheel radius in metres.
        sill: height of the body's lower edge.
    """

    stations: tuple[tuple[float, float, float, float, float], ...]
    glazed: tuple[tuple[float, float], ...]
    windscreens: tuple[tuple[float, float], ...]
    axles: tuple[float, float]
    wheel_m: float
    sill: float


_PROFILES = {
    "car": _Profile(
        (
            (-1.00, 0.56, 0.54, 0.78, 0.70),
            (-0.975, 0.66, 0.60, 0.88, 0.78),
            (-0.88, 0.70, 0.63, 0.94, 0.80),
            (-0.66, 0.72, 0.645, 0.97, 0.80),
            (-0.40, 0.955, 0.65, 1.00, 0.66),
            (-0.34, 0.965, 0.65, 1.00, 0.67),
            (-0.05, 1.00, 0.64, 1.00, 0.70),
            (0.00, 1.00, 0.64, 1.00, 0.70),
            (0.14, 0.985, 0.635, 1.00, 0.69),
            (0.20, 0.965, 0.63, 1.00, 0.68),
            (0.50, 0.69, 0.615, 0.98, 0.82),
            (0.78, 0.625, 0.575, 0.95, 0.82),
            (0.94, 0.555, 0.51, 0.88, 0.76),
            (1.00, 0.44, 0.42, 0.76, 0.66),
        ),
        ((-0.60, -0.40), (-0.34, -0.05), (0.00, 0.20), (0.20, 0.50)),
        ((-0.66, -0.40), (0.20, 0.50)),
        (-0.60, 0.62),
        0.335,
        0.20,
    ),
    "suv": _Profile(
        (
            (-1.00, 0.60, 0.54, 0.84, 0.78),
            (-0.97, 0.72, 0.60, 0.93, 0.80),
            (-0.93, 0.78, 0.62, 0.97, 0.80),
            (-0.76, 0.97, 0.63, 1.00, 0.74),
            (-0.70, 0.98, 0.63, 1.00, 0.75),
            (-0.38, 1.00, 0.625, 1.00, 0.77),
            (-0.32, 1.00, 0.625, 1.00, 0.77),
            (0.00, 1.00, 0.62, 1.00, 0.77),
            (0.05, 1.00, 0.62, 1.00, 0.77),
            (0.24, 0.97, 0.615, 1.00, 0.75),
            (0.50, 0.69, 0.61, 0.99, 0.86),
            (0.82, 0.64, 0.58, 0.97, 0.86),
            (0.95, 0.59, 0.53, 0.92, 0.82),
            (1.00, 0.46, 0.43, 0.84, 0.76),
        ),
        ((-0.70, -0.38), (-0.32, 0.00), (0.05, 0.24), (0.24, 0.50)),
        ((-0.93, -0.76), (0.24, 0.50)),
        (-0.60, 0.62),
        0.375,
        0.22,
    ),
    "van": _Profile(
        (
            (-1.00, 0.96, 0.52, 0.94, 0.84),
            (-0.97, 0.99, 0.53, 0.98, 0.86),
            (-0.80, 1.00, 0.53, 1.00, 0.87),
            (-0.50, 1.00, 0.53, 1.00, 0.87),
            (-0.10, 1.00, 0.53, 1.00, 0.87),
            (0.10, 1.00, 0.53, 1.00, 0.87),
            (0.40, 1.00, 0.53, 1.00, 0.87),
            (0.48, 0.98, 0.53, 1.00, 0.86),
            (0.74, 0.62, 0.52, 0.98, 0.82),
            (0.93, 0.53, 0.47, 0.93, 0.80),
            (1.00, 0.38, 0.36, 0.86, 0.78),
        ),
        ((0.10, 0.40), (0.48, 0.74)),
        ((0.48, 0.74),),
        (-0.62, 0.64),
        0.36,
        0.17,
    ),
    "bus": _Profile(
        (
            (-1.00, 0.96, 0.46, 0.96, 0.90),
            (-0.985, 1.00, 0.46, 1.00, 0.92),
            (-0.90, 1.00, 0.46, 1.00, 0.92),
            (-0.62, 1.00, 0.46, 1.00, 0.92),
            (-0.58, 1.00, 0.46, 1.00, 0.92),
            (-0.26, 1.00, 0.46, 1.00, 0.92),
            (-0.22, 1.00, 0.46, 1.00, 0.92),
            (0.12, 1.00, 0.46, 1.00, 0.92),
            (0.16, 1.00, 0.46, 1.00, 0.92),
            (0.50, 1.00, 0.46, 1.00, 0.92),
            (0.54, 1.00, 0.46, 1.00, 0.92),
            (0.84, 1.00, 0.46, 1.00, 0.92),
            (0.90, 0.99, 0.45, 1.00, 0.91),
            (0.98, 0.52, 0.42, 0.97, 0.90),
            (1.00, 0.36, 0.34, 0.95, 0.88),
        ),
        ((-0.90, -0.62), (-0.58, -0.26), (-0.22, 0.12), (0.16, 0.50), (0.54, 0.84)),
        ((0.90, 0.98),),
        (-0.56, 0.66),
        0.46,
        0.13,
    ),
    "truck": _Profile(
        (
            (0.42, 0.90, 0.50, 0.94, 0.84),
            (0.45, 0.93, 0.51, 0.96, 0.85),
            (0.55, 0.94, 0.51, 0.97, 0.85),
            (0.74, 0.93, 0.51, 0.97, 0.85),
            (0.88, 0.90, 0.51, 0.97, 0.85),
            (0.97, 0.54, 0.49, 0.96, 0.84),
            (1.00, 0.34, 0.32, 0.92, 0.84),
        ),
        ((0.55, 0.88),),
        ((0.88, 0.97),),
        (-0.58, 0.66),
        0.50,
        0.16,
    ),
}


_BAR_HALF_HEIGHT_M = 0.07
# where along the roof, as a share of the half length
_BAR_AT = {"car": 0.02, "suv": 0.0, "van": 0.30, "bus": 0.70, "truck": 0.66}
_TRUCKS_ROOF = 0.88  # the cab's; the others' is the box's


def vehicle(family: str, extent: np.ndarray, open_doors: int = 0, emergency: bool = False) -> Mesh:
    """Model of a family fitted to half sizes `extent` (3,).

    Args:
        family: of the model.
        extent: half sizes of the bounding box, m; a light bar stands within it.
        open_doors: as in `DrawnActor`.
        emergency: with a light bar, and, a truck, with a box in the colour of the rest.
    """
    if not emergency or family == "truck":
        return _model(family, extent, open_doors, emergency)
    # the body leaves room for the bar
    low = extent - [0.0, 0.0, _BAR_HALF_HEIGHT_M]
    mesh = _model(family, low, open_doors, True)
    mesh.vertices[:, 2] -= np.float32(_BAR_HALF_HEIGHT_M)
    return mesh


def _model(family: str, extent: np.ndarray, open_doors: int, emergency: bool) -> Mesh:
    profile = _PROFILES[family]
    builder = MeshBuilder()
    x, y, z = (float(e) for e in extent)
    _body(profile, extent, builder)
    if family == "truck":
        box = Slot.PAINT if emergency else Slot.WHITE
        builder.add(*box_mesh((-0.30 * x, 0, 0.17 * z), (0.68 * x, 0.97 * y, 0.83 * z)), box)
        builder.add(*box_mesh((-0.20 * x, 0, -0.74 * z), (0.74 * x, 0.42 * y, 0.12 * z)), Slot.TRIM)
        builder.add(*box_mesh((-0.985 * x, 0, -0.70 * z), (0.015 * x, 0.90 * y, 0.05 * z)), Slot.TRIM)
    _wheels(profile, family, extent, builder)
    _lights(family, extent, builder)
    _doors(family, extent, open_doors, builder)
    if emergency:
        _light_bar(family, extent, builder)
    return builder.build()


def _light_bar(family: str, extent: np.ndarray, builder: MeshBuilder) -> None:
    """Lamps of the left and of the right across the roof; a truck's also at the box's upper rear corners."""
    x, y, z = (float(e) for e in extent)
    half = _BAR_HALF_HEIGHT_M
    at, roof = _BAR_AT[family] * x, (_TRUCKS_ROOF if family == "truck" else 1.0) * z
    builder.add(*box_mesh((at, 0.0, roof + 0.2 * half), (0.16, 0.60 * y, 0.2 * half)), Slot.TRIM)
    for side, slot in ((-1.0, Slot.LEFT_BEACON), (1.0, Slot.RIGHT_BEACON)):
        builder.add(*box_mesh((at, side * 0.33 * y, roof + 1.2 * half), (0.14, 0.26 * y, 0.8 * half)), slot)
        if family == "truck":
            builder.add(*box_mesh((-0.985 * x, side * 0.80 * y, 0.90 * z), (0.012 * x, 0.12 * y, half)), slot)


def _body(profile: _Profile, extent: np.ndarray, builder: MeshBuilder) -> None:
    x, y, z = (float(e) for e in extent)
    rings: list[list[tuple[float, float, float]]] = []
    for where, top, belt, wide, roof in profile.stations:
        half = [
            (0.72 * wide, profile.sill - 0.02),
            (0.96 * wide, profile.sill),
            (1.0 * wide, 0.5 * (profile.sill + belt)),
            (0.975 * wide, belt),
            (roof, max(top - 0.015, belt)),
            (0.62 * roof, top),
        ]
        ring = [(a, b) for a, b in half] + [(0.0, top + 0.004)] + [(-a, b) for a, b in reversed(half)]
        rings.append([(where * x, a * y, (2.0 * b - 1.0) * z) for a, b in ring])
    points = np.array(rings)
    n, m = points.shape[:2]
    at = np.array([s[0] for s in profile.stations])
    faces, slots = [], []
    for i in range(n - 1):
        middle = 0.5 * (at[i] + at[i + 1])
        window = any(a < middle < b for a, b in profile.glazed)
        screen = any(a < middle < b for a, b in profile.windscreens)
        for j in range(m - 1):
            a, b, c, d = i * m + j, i * m + j + 1, (i + 1) * m + j + 1, (i + 1) * m + j
            slot = Slot.PAINT
            if (j in (3, 8) and window) or (j in (4, 5, 6, 7) and screen):
                slot = Slot.GLASS
            elif j in (0, 11):
                slot = Slot.TRIM
            faces += [(a, b, c), (a, c, d)]
            slots += [slot, slot]
    builder.add(points.reshape(-1, 3), np.array(faces), np.array(slots, np.int32))
    for i in (0, n - 1):  # rear and front ends, with points of their own for a crisp edge
        ring = points[i]
        fan = [(0, j, j + 1) for j in range(1, m - 1)]
        builder.add(ring, np.array(fan), Slot.PAINT)
    builder.add_quads(np.array([[points[0, 0], points[-1, 0], points[-1, -1], points[0, -1]]]), Slot.TRIM)


def _wheels(profile: _Profile, family: str, extent: np.ndarray, builder: MeshBuilder) -> None:
    x, y, z = (float(e) for e in extent)
    radius = min(profile.wheel_m, 0.27 * 2.0 * z, 0.36 * x)
    wide = 0.10 if family in ("car", "suv", "van") else 0.16
    for axle in profile.axles:
        for side in (-1.0, 1.0):
            outer = side * (0.985 * y)
            hub = np.array([axle * x, outer, radius - z])
            inner = hub - [0.0, side * 2.0 * wide, 0.0]
            arch = disc_mesh(hub + [0.0, side * 0.004, 0.0], (0.0, side, 0.0), 1.16 * radius, 16)
            builder.add(*arch, Slot.TRIM)
            builder.add(*tube_mesh(inner, hub + [0.0, side * 0.012, 0.0], radius, radius, 16), Slot.TYRE)
            builder.add(
                *disc_mesh(hub + [0.0, side * 0.018, 0.0], (0.0, side, 0.0), 0.66 * radius, 12), Slot.RIM
            )
            builder.add(
                *disc_mesh(hub + [0.0, side * 0.024, 0.0], (0.0, side, 0.0), 0.22 * radius, 8), Slot.TRIM
            )


def _lights(family: str, extent: np.ndarray, builder: MeshBuilder) -> None:
    x, y, z = (float(e) for e in extent)
    tall = family in ("bus", "truck", "van")
    head_z = {"bus": -0.52, "truck": -0.46, "van": -0.18, "suv": 0.10, "car": -0.02}[family] * z
    tail_z = {"bus": -0.45, "truck": -0.62, "van": -0.05, "suv": 0.22, "car": 0.14}[family] * z
    head_x = {"car": 0.955, "suv": 0.965, "van": 0.965, "bus": 0.985, "truck": 0.985}[family] * x
    size = min(0.09, 0.1 * z) if not tall else 0.10
    for side, blinker in ((-1.0, Slot.LEFT_BLINKER), (1.0, Slot.RIGHT_BLINKER)):
        builder.add(*box_mesh((head_x, side * 0.64 * y, head_z), (0.05 * x, 0.17 * y, size)), Slot.HEAD_LIGHT)
        builder.add(
            *box_mesh((head_x - 0.012 * x, side * 0.80 * y, head_z), (0.04 * x, 0.06 * y, 0.8 * size)),
            blinker,
        )
        width = 0.19 if family in ("car", "suv") else 0.10
        builder.add(
            *box_mesh((-0.985 * x, side * 0.68 * y, tail_z), (0.018 * x, width * y, 1.15 * size)),
            Slot.TAIL_LIGHT,
        )
        builder.add(
            *box_mesh(
                (-0.978 * x, side * 0.68 * y, tail_z - 1.7 * size), (0.016 * x, 0.8 * width * y, 0.5 * size)
            ),
            blinker,
        )
        if family in ("car", "suv"):
            builder.add(
                *box_mesh((0.40 * x, side * 0.965 * y, 0.24 * z), (0.05, 0.035 * y, 0.06)), Slot.PAINT
            )
    if family in ("car", "suv"):
        builder.add(
            *box_mesh((-0.99 * x, 0, tail_z + 0.1 * z), (0.006 * x, 0.16 * y, 0.028)), Slot.TAIL_LIGHT
        )
    builder.add(*box_mesh((0.985 * x, 0, head_z - 0.22 * z), (0.012 * x, 0.42 * y, 0.10 * z)), Slot.TRIM)
    for end in (-1.0, 1.0):
        builder.add(*box_mesh((end * 0.988 * x, 0, -0.52 * z), (0.010 * x, 0.86 * y, 0.06 * z)), Slot.TRIM)
    builder.add(*box_mesh((-0.993 * x, 0, -0.12 * z), (0.006 * x, 0.24, 0.06)), Slot.WHITE)
    builder.add(*box_mesh((0.995 * x, 0, -0.56 * z), (0.004 * x, 0.22, 0.05)), Slot.WHITE)


# hinge and length of the front and the rear door, shares of the half length; sill and top of the half height
_DOOR_HINGES = {"car": (0.36, 0.0), "suv": (0.30, -0.05), "van": (0.50, None), "truck": (0.92, None)}
_DOOR_LENGTH = {"truck": 0.24}
_DOOR_SILL, _DOOR_WAIST, _DOOR_TOP = -0.62, 0.20, 0.86
_DOOR_OPEN_DEG = 62.0


def _doors(family: str, extent: np.ndarray, open_doors: int, builder: MeshBuilder) -> None:
    """Doors that stand open, hinged at their front edges: a panel, and a window above it."""
    x, y, z = (float(each) for each in extent)
    turn = np.radians(_DOOR_OPEN_DEG)
    for number in range(4):
        hinge = _DOOR_HINGES.get(family, (None, None))[number // 2]
        if not open_doors >> number & 1 or hinge is None:
            continue
        side = -1.0 if number % 2 == 0 else 1.0
        half = 0.5 * x * _DOOR_LENGTH.get(family, 0.36)
        rotation = np.array(
            [
                [np.cos(turn), side * np.sin(turn), 0.0],
                [-side * np.sin(turn), np.cos(turn), 0.0],
                [0.0, 0.0, 1.0],
            ]
        )
        for low, high, slot in ((_DOOR_SILL, _DOOR_WAIST, Slot.PAINT), (_DOOR_WAIST, _DOOR_TOP, Slot.GLASS)):
            vertices, faces = box_mesh(
                (-half, 0.0, 0.5 * (low + high) * z), (half, 0.03, 0.5 * (high - low) * z)
            )
            # backwards and outwards from the hinge
            builder.add(vertices @ rotation.T + [hinge * x, side * 0.97 * y, 0.0], faces, slot)
