# sums of numpy vectors, which ruff takes for lists
# ruff: noqa: RUF005
"""Models of walkers with a gait, and of two-wheelers with their riders.

Frame: centre of the bounding box, x forward, y right, z up, metres.
"""

from __future__ import annotations

import math

import numpy as np

from tickdrive.leaderboard.simulator.render.slots import Slot
from tickdrive.leaderboard.simulator.scene.mesh import Mesh, MeshBuilder, box_mesh, sphere_mesh, tube_mesh


def _limb(builder: MeshBuilder, points: list[np.ndarray], radii: list[float], slot: Slot) -> None:
    """Chain of tapered tubes with round joints."""
    for k in range(len(points) - 1):
        builder.add(*tube_mesh(points[k], points[k + 1], radii[k], radii[k + 1], 7), slot)
    for point, radius in zip(points[1:-1], radii[1:-1], strict=True):
        builder.add(*sphere_mesh(point, (radius, radius, radius), 7, 4), slot)


def walker(extent: np.ndarray, phase_rad: float) -> Mesh:
    """A person at a phase of the gait; fitted to half sizes (3,), feet at the box's bottom."""
    builder = MeshBuilder()
    height = 2.0 * float(extent[2])
    ground = -float(extent[2])
    s = height / 1.8  # proportions are of a 1.8 m person
    wide = min(1.25, max(0.8, float(extent[1]) / 0.19 / s)) * s
    swing = math.sin(phase_rad)
    hip = np.array([0.0, 0.0, ground + 0.93 * s])
    for side in (-1.0, 1.0):
        angle = side * swing * 0.52
        lifted = max(0.0, side * math.cos(phase_rad)) * 0.65
        root = hip + [0.0, side * 0.095 * wide, 0.0]
        knee = root + 0.45 * s * np.array([math.sin(angle), 0.0, -math.cos(angle)])
        shin = angle - 0.10 - lifted
        ankle = knee + 0.43 * s * np.array([math.sin(shin), 0.0, -math.cos(shin)])
        _limb(builder, [root, knee, ankle], [0.085 * wide, 0.062 * s, 0.045 * s], Slot.TROUSERS)
        builder.add(
            *box_mesh(ankle + [0.055 * s, 0.0, -0.025 * s], (0.125 * s, 0.045 * s, 0.035 * s)), Slot.TYRE
        )
        shoulder = np.array([0.0, side * 0.20 * wide, ground + 1.45 * s])
        arm = -side * swing * 0.45
        elbow = shoulder + 0.29 * s * np.array([math.sin(arm), 0.08 * side, -math.cos(arm)])
        hand = elbow + 0.26 * s * np.array([math.sin(arm + 0.35), 0.0, -math.cos(arm + 0.35)])
        _limb(builder, [shoulder, elbow, hand], [0.058 * s, 0.047 * s, 0.038 * s], Slot.COAT)
        builder.add(*sphere_mesh(hand, (0.05 * s, 0.04 * s, 0.055 * s), 6, 4), Slot.SKIN)
    _torso(builder, np.array([0.0, 0.0, ground + 0.90 * s]), np.array([0.0, 0.0, ground + 1.50 * s]), wide, s)
    _head(builder, np.array([0.02 * s, 0.0, ground + 1.665 * s]), s, helmet=False)
    return builder.build()


def _torso(builder: MeshBuilder, low: np.ndarray, high: np.ndarray, wide: float, s: float) -> None:
    """Rounded trunk between hip and neck."""
    angle = np.linspace(0.0, 2.0 * np.pi, 10, endpoint=False)
    rings = []
    # height from hip to neck, half width, half depth
    outline = (
        (0, 0.15, 0.105),
        (0.25, 0.155, 0.115),
        (0.6, 0.19, 0.125),
        (0.88, 0.20, 0.11),
        (1.0, 0.09, 0.07),
    )
    for part, half_y, half_x in outline:
        centre = low + part * (high - low)
        ring = centre + np.stack([half_x * s * np.cos(angle), half_y * wide * np.sin(angle), 0 * angle], 1)
        rings.append(ring)
    points = np.concatenate(rings)
    i, j = np.meshgrid(np.arange(len(rings) - 1), np.arange(10), indexing="ij")
    a, b = (i * 10 + j).ravel(), (i * 10 + (j + 1) % 10).ravel()
    faces = np.concatenate([np.stack([a, b, b + 10], 1), np.stack([a, b + 10, a + 10], 1)])
    builder.add(points, faces, Slot.COAT)


def _head(builder: MeshBuilder, centre: np.ndarray, s: float, helmet: bool) -> None:
    builder.add(*tube_mesh(centre - [0.02 * s, 0, 0.20 * s], centre, 0.05 * s, 0.05 * s, 6), Slot.SKIN)
    builder.add(*sphere_mesh(centre, (0.095 * s, 0.078 * s, 0.125 * s), 9, 7), Slot.SKIN)
    grow = 1.22 if helmet else 1.06
    cap = centre + np.array([-0.02 * s, 0.0, 0.035 * s])
    builder.add(
        *sphere_mesh(cap, (0.095 * grow * s, 0.082 * grow * s, 0.105 * grow * s), 9, 6),
        Slot.PAINT if helmet else Slot.HAIR,
    )


def two_wheeler(extent: np.ndarray, motor: bool) -> Mesh:
    """A motorcycle or bicycle with a rider; fitted to half sizes (3,)."""
    builder = MeshBuilder()
    x, y, z = (float(e) for e in extent)
    ground = -z
    radius = min(0.31 if motor else 0.34, 0.34 * x * 2.0, 0.45 * z)
    tyre = 0.065 if motor else 0.025
    front = np.array([x - radius, 0.0, ground + radius])
    rear = np.array([-x + radius, 0.0, ground + radius])
    for hub in (front, rear):
        _wheel(builder, hub, radius, tyre)
    s = min(1.0, z / 0.78)
    seat = np.array([-0.22 * x, 0.0, ground + (0.78 if motor else 0.92) * s])
    bars = np.array([0.48 * x, 0.0, ground + (1.02 if motor else 1.04) * s])
    pedal = np.array([-0.02 * x, 0.0, ground + 0.32 * s])
    if motor:
        builder.add(*sphere_mesh((0.12 * x, 0, ground + 0.76 * s), (0.30 * x, 0.16, 0.17), 10, 6), Slot.PAINT)
        builder.add(*box_mesh((0.0, 0, ground + 0.45 * s), (0.30 * x, 0.13, 0.17)), Slot.TRIM)
        builder.add(*sphere_mesh((-0.42 * x, 0, ground + 0.76 * s), (0.34 * x, 0.13, 0.08), 9, 5), Slot.TRIM)
        builder.add(*box_mesh((0.66 * x, 0, ground + 0.86 * s), (0.05, 0.09, 0.08)), Slot.HEAD_LIGHT)
        builder.add(*box_mesh((-0.80 * x, 0, ground + 0.72 * s), (0.03, 0.10, 0.05)), Slot.TAIL_LIGHT)
    else:
        builder.add(*tube_mesh(pedal, seat, 0.022, 0.022, 6), Slot.PAINT)
        builder.add(*tube_mesh(pedal, bars - [0.06, 0, 0.15], 0.024, 0.024, 6), Slot.PAINT)
        builder.add(*tube_mesh(seat - [0, 0, 0.1], bars - [0.06, 0, 0.12], 0.022, 0.022, 6), Slot.PAINT)
        builder.add(*tube_mesh(pedal, rear, 0.016, 0.016, 6), Slot.PAINT)
        builder.add(*box_mesh(seat, (0.12, 0.07, 0.03)), Slot.TRIM)
        builder.add(*box_mesh((rear[0] - 0.1, 0, seat[2] - 0.15), (0.02, 0.04, 0.03)), Slot.TAIL_LIGHT)
    builder.add(*tube_mesh(front, bars, 0.035 if motor else 0.02, 0.03 if motor else 0.02, 6), Slot.RIM)
    grip = min(0.30, 0.9 * y)
    builder.add(*tube_mesh(bars - [0, grip, 0], bars + [0, grip, 0], 0.018, 0.018, 6), Slot.TRIM)
    top = z - 0.13
    neck = np.array([0.02 * x, 0.0, min(top - 0.16, seat[2] + 0.56)])
    _torso(builder, seat + [0, 0, 0.02], neck, 0.95, 0.95)
    for side in (-1.0, 1.0):
        root = seat + [0.02, side * 0.09, 0.03]
        knee = np.array([0.20 * x, side * 0.15, 0.5 * (seat[2] + pedal[2]) + 0.12])
        _limb(builder, [root, knee, pedal + [0.0, side * 0.14, 0.0]], [0.085, 0.065, 0.045], Slot.TROUSERS)
        shoulder = neck + [0.0, side * 0.18, -0.06]
        hand = bars + [-0.02, side * grip * 0.9, 0.02]
        elbow = 0.5 * (shoulder + hand) + [0.0, side * 0.05, -0.08]
        _limb(builder, [shoulder, elbow, hand], [0.055, 0.047, 0.038], Slot.COAT)
    _head(builder, neck + [0.05, 0.0, 0.16], 0.98, helmet=True)
    return builder.build()


def _wheel(builder: MeshBuilder, hub: np.ndarray, radius: float, half_width: float) -> None:
    """A ring with spokes, in the x-z plane."""
    angle = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
    spin = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], 1)
    side = np.array([0.0, half_width, 0.0])
    rings = [hub + radius * spin - side, hub + radius * spin + side,
             hub + 0.80 * radius * spin + side, hub + 0.80 * radius * spin - side]  # fmt: skip
    points = np.concatenate(rings)
    i, j = np.meshgrid(np.arange(4), np.arange(16), indexing="ij")
    a, b = (i * 16 + j).ravel(), (i * 16 + (j + 1) % 16).ravel()
    c, d = ((i + 1) % 4 * 16 + j).ravel(), ((i + 1) % 4 * 16 + (j + 1) % 16).ravel()
    builder.add(points, np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)]), Slot.TYRE)
    for k in range(0, 16, 4):
        builder.add(*tube_mesh(hub, hub + 0.82 * radius * spin[k], 0.014, 0.010, 4), Slot.RIM)
