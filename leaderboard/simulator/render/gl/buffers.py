"""The stage's arrays in the layouts that the shaders read (`shaders/stage.glsl`, `surface.glsl`)."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from tickdrive.leaderboard.simulator.render.assets import DrawnArrays
from tickdrive.leaderboard.simulator.render.lighting import Lighting
from tickdrive.leaderboard.simulator.render.pictures import CameraView
from tickdrive.leaderboard.simulator.render.stage import LitBulbs
from tickdrive.leaderboard.simulator.scene.mesh import MaterialArrays


class Binding(IntEnum):
    """Storage buffers by their binding in the shaders."""

    TOWN_VERTICES = 1
    TOWN_FACES = 2
    MODEL_VERTICES = 3
    MODEL_FACES = 4
    ACTORS = 5
    MATERIALS = 6
    LIGHTS = 7
    CELLS = 8
    BULBS = 9
    BEFORE = 10


def array_calls(start: np.ndarray, count: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """(N, 5) uint32 calls of `glMultiDrawArraysIndirect`, at moderngl's stride; counted in faces."""
    calls = np.zeros((len(start), 5), np.uint32)
    calls[:, 0], calls[:, 1], calls[:, 2], calls[:, 3] = 3 * count, 1, 3 * start, instance
    return calls


def element_calls(start: np.ndarray, count: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """(N, 5) uint32 calls of `glMultiDrawElementsIndirect`; counted in faces of an index buffer."""
    calls = np.zeros((len(start), 5), np.uint32)
    calls[:, 0], calls[:, 1], calls[:, 2], calls[:, 4] = 3 * count, 1, 3 * start, instance
    return calls


def vertex_rows(vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(V, 6) float32 position and normal."""
    return np.concatenate([vertices, normals], axis=1, dtype=np.float32, casting="same_kind")


def face_rows(
    faces: np.ndarray, materials: np.ndarray, normals: np.ndarray, instances: np.ndarray | None = None
) -> np.ndarray:
    """(F, 8) uint32: corners, material, bits of the normal, instance."""
    rows = np.zeros((len(faces), 8), np.uint32)
    rows[:, :3], rows[:, 3] = faces, materials
    rows[:, 4:7] = np.ascontiguousarray(normals, np.float32).view(np.uint32)
    if instances is not None:
        rows[:, 7] = instances
    return rows


def material_rows(table: MaterialArrays) -> np.ndarray:
    """(M, 16) float32: albedo, shade; emission, smooth; four parameters; two more, tag, nothing."""
    rows = np.zeros((len(table.tag), 16), np.float32)
    rows[:, :3], rows[:, 3] = table.albedo, table.shade
    rows[:, 4:7], rows[:, 7] = table.emission, table.smooth
    rows[:, 8:14], rows[:, 14] = table.params, table.tag
    # a facade's seed as the processor makes a whole number of it, in doubles: its windows are lit by it
    rows[:, 13] = np.trunc(table.params[:, 5].astype(np.float64) * 100.0)
    return rows


def actor_rows(drawn: DrawnArrays) -> np.ndarray:
    """(A, 16) float32: rows of the matrix, then bits of the first material and the id."""
    rows = np.zeros((len(drawn.start), 16), np.float32)
    rows[:, :12] = drawn.matrix.reshape(-1, 12)
    rows.view(np.int32)[:, 12] = drawn.material
    rows.view(np.int32)[:, 13] = drawn.actor_id
    return rows


def bulb_rows(lit: LitBulbs, view: CameraView) -> np.ndarray:
    """(N, 8) float32 halos in a view: column, row, z, radius in pixels; colour times strength, nothing.

    As `images.glow`, which also looks whether something hides the bulb; here the shader does.
    """
    spec = view.spec
    offset = lit.positions - view.eye
    away = np.linalg.norm(offset, axis=1)
    depth, across, above = offset @ view.axes[:, 0], offset @ view.axes[:, 1], offset @ view.axes[:, 2]
    square = -(lit.facings * offset).sum(axis=1) / np.maximum(away, 1e-9)
    near = np.flatnonzero((depth >= 1.0) & (away <= 220.0) & (square >= 0.62))
    depth, square = depth[near], square[near]
    column = 0.5 * spec.width + view.focal_px * across[near] / depth
    row = 0.5 * spec.height - view.focal_px * above[near] / depth
    rows = np.zeros((len(near), 8), np.float32)
    rows[:, 0], rows[:, 1], rows[:, 2] = column, row, depth
    rows[:, 3] = np.maximum(2.6, 2.3 * 0.225 * view.focal_px / depth)
    strength = 150.0 * np.minimum(1.0, (square - 0.62) * 6.0)
    rows[:, 4:7] = lit.colours[near] * strength[:, None]
    inside = (column >= 0.0) & (row >= 0.0) & (column < spec.width) & (row < spec.height)
    return rows[inside]


def frame_rows(
    view: CameraView,
    light: Lighting,
    shadow: np.ndarray,
    local_origin: np.ndarray,
    local_count: int,
    bulb_count: int,
    before: CameraView,
) -> np.ndarray:
    """(17, 4) float32: the uniform block `Frame`; `shadow` is its four rows of `shadows.ShadowView`."""
    rows = np.zeros((17, 4), np.float32)
    axes = view.axes
    rows[0] = [*view.eye, view.focal_px]
    rows[1] = [*axes[:, 0], view.spec.width]
    rows[2] = [*axes[:, 1], view.spec.height]
    rows[3] = [*axes[:, 2], light.casts_shadows]
    rows[4] = [*light.sun_direction, light.sun.max()]
    rows[5] = [*light.sun, light.wetness]
    rows[6] = [*light.sky_ambient, light.fog_per_m]
    rows[7] = [*light.ground_ambient, light.fog_start_m]
    rows[8] = [*local_origin, local_count, light.night]
    rows[9:13] = shadow
    rows[11, 3] = bulb_count
    rows[13, :3] = before.eye
    rows[14:17, :3] = before.axes.T
    return rows
