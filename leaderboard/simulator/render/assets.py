"""What the renderer draws, as arrays for the kernels: the town in chunks, models, the tick's actors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.render.embree import TraceWorld
from tickdrive.leaderboard.simulator.render.models import ModelKey, build_model
from tickdrive.leaderboard.simulator.render.slots import Slot
from tickdrive.leaderboard.simulator.scene.build import TownScene
from tickdrive.leaderboard.simulator.scene.mesh import Mesh

CHUNK_M = 40.0
SLOTS = len(Slot)


@dataclass
class TownArrays:
    """The scene's layers as one set of arrays, cut into chunks for culling."""

    vertices: np.ndarray
    faces: np.ndarray
    face_normals: np.ndarray
    vertex_normals: np.ndarray
    materials: np.ndarray
    instances: np.ndarray
    chunk_start: np.ndarray
    chunk_end: np.ndarray
    chunk_centre: np.ndarray
    chunk_radius: np.ndarray
    chunk_near: np.ndarray
    chunk_far: np.ndarray


def pack_town(scene: TownScene) -> TownArrays:
    """Join the scene's layers and sort their faces into square chunks."""
    vertices, faces, materials, instances, normals, vertex_normals = [], [], [], [], [], []
    starts, ends, centres, radii, nears, fars = [], [], [], [], [], []
    vertex_count = face_count = 0
    for layer in scene.layers:
        mesh = layer.mesh
        if not len(mesh.faces):
            continue
        centre = mesh.vertices[mesh.faces].mean(1)
        key = np.floor(centre[:, 0] / CHUNK_M).astype(np.int64) * 100_003 + np.floor(centre[:, 1] / CHUNK_M)
        order = np.argsort(key, kind="stable")
        _, first = np.unique(key[order], return_index=True)
        for a, b in zip(first, np.append(first[1:], len(order)), strict=True):
            points = mesh.vertices[mesh.faces[order[a:b]].ravel()].astype(np.float64)
            middle = 0.5 * (points.min(0) + points.max(0))
            centres.append(middle)
            radii.append(float(np.linalg.norm(points - middle, axis=1).max()))
            starts.append(face_count + int(a))
            ends.append(face_count + int(b))
            nears.append(layer.near_m)
            fars.append(layer.far_m)
        vertices.append(mesh.vertices)
        vertex_normals.append(mesh.vertex_normals())
        faces.append(mesh.faces[order] + vertex_count)
        normals.append(mesh.face_normals()[order])
        materials.append(mesh.materials[order])
        instances.append(mesh.instances[order])
        vertex_count += len(mesh.vertices)
        face_count += len(mesh.faces)
    return TownArrays(
        np.ascontiguousarray(np.concatenate(vertices)), np.ascontiguousarray(np.concatenate(faces), np.int32),
        np.concatenate(normals), np.concatenate(vertex_normals), np.concatenate(materials).astype(np.int32),
        np.concatenate(instances), np.array(starts, np.int64), np.array(ends, np.int64), np.array(centres),
        np.array(radii), np.array(nears), np.array(fars),
    )  # fmt: skip


class ModelLibrary:
    """All actor models met so far, in one set of arrays and as Embree meshes."""

    def __init__(self, world: TraceWorld) -> None:
        self._world = world
        self.start: dict[ModelKey, int] = {}
        self.count: dict[ModelKey, int] = {}
        self.radius: dict[ModelKey, float] = {}
        self.handle: dict[ModelKey, int] = {}
        self.vertices = np.zeros((0, 3), np.float32)
        self.faces: np.ndarray = np.zeros((0, 3), np.int32)
        self.slots = np.zeros(0, np.int32)
        self.face_normals = np.zeros((0, 3), np.float32)
        self.vertex_normals = np.zeros((0, 3), np.float32)

    def require(self, keys: Sequence[ModelKey]) -> None:
        """Make sure that these models are among the arrays."""
        new = [key for key in dict.fromkeys(keys) if key not in self.start]
        if not new:
            return
        meshes: list[Mesh] = [build_model(key) for key in new]
        vertex_count, face_count = len(self.vertices), len(self.faces)
        faces = [self.faces]
        for key, mesh in zip(new, meshes, strict=True):
            self.start[key], self.count[key] = face_count, len(mesh.faces)
            self.radius[key] = float(np.linalg.norm(mesh.vertices, axis=1).max())
            self.handle[key] = self._world.add_mesh(mesh.vertices, mesh.faces)
            faces.append(mesh.faces + vertex_count)
            vertex_count += len(mesh.vertices)
            face_count += len(mesh.faces)
        self.faces = np.ascontiguousarray(np.concatenate(faces), np.int32)
        self.vertices = np.concatenate([self.vertices, *(m.vertices for m in meshes)])
        self.slots = np.concatenate([self.slots, *(m.materials for m in meshes)]).astype(np.int32)
        self.face_normals = np.concatenate([self.face_normals, *(m.face_normals() for m in meshes)])
        self.vertex_normals = np.concatenate([self.vertex_normals, *(m.vertex_normals() for m in meshes)])


@dataclass
class DrawnArrays:
    """The tick's actors as arrays (A,); see `raster.rasterise`."""

    start: np.ndarray
    count: np.ndarray
    first: np.ndarray
    radius: np.ndarray
    matrix: np.ndarray
    material: np.ndarray
    actor_id: np.ndarray
    slot_tag: np.ndarray
    owner: np.ndarray


def no_actors() -> DrawnArrays:
    """An empty tick."""
    none = np.zeros(0, np.int64)
    slots = np.zeros((0, SLOTS), np.uint8)
    matrices = np.zeros((0, 3, 4))
    return DrawnArrays(none, none, none, np.zeros(0), matrices, none, none, slots, np.zeros(0, np.int32))
