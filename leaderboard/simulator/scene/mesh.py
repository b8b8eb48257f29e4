# sums of numpy vectors, which ruff takes for lists
# ruff: noqa: RUF005
"""Triangle meshes with materials: what the scene is built of and the renderer draws.

World frame, metres (see `geometry`). A material says how a triangle is shaded and what it is; a triangle
carries only the number of its material, so that a light changes colour by writing one row of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import Tag

FloatArray = np.ndarray
Vector = Sequence[float] | np.ndarray
RGB = tuple[int, int, int]


class Shade(IntEnum):
    """How the renderer textures a material."""

    PLAIN = 0
    ASPHALT = 1
    PAVING = 2
    GRASS = 3
    FACADE = 4
    FOLIAGE = 5
    GLASS = 6
    PAINT = 7
    MARKING = 8


@dataclass(frozen=True, slots=True)
class Material:
    """A row of the material table.

    Attributes:
        tag: semantic tag.
        rgb: albedo as sRGB 0-255.
        shade: texture and gloss.
        params: six numbers that `shade` reads. FACADE: u of the wall's first window bay, z of its first
            storey, bay width, storey height, share of glass, seed.
        emission: linear radiance added to the reflected light, per channel.
        smooth: interpolate vertex normals over the triangle.
    """

    tag: Tag
    rgb: RGB
    shade: Shade = Shade.PLAIN
    params: tuple[float, ...] = (0.0,) * 6
    emission: tuple[float, float, float] = (0.0, 0.0, 0.0)
    smooth: bool = False


def linear_from_srgb(rgb: Sequence[float] | FloatArray) -> FloatArray:
    """Linear light 0-1 from sRGB 0-255 (gamma 2.2, which the renderer's table inverts)."""
    return (np.asarray(rgb, np.float64) / 255.0) ** 2.2


@dataclass
class MaterialArrays:
    """The material table as arrays of M rows, as the kernels read it.

    Attributes:
        tag: (M,) uint8.
        shade: (M,) uint8.
        smooth: (M,) uint8.
        albedo: (M, 3) float32, linear.
        emission: (M, 3) float32, linear.
        params: (M, 6) float32.
    """

    tag: FloatArray
    shade: FloatArray
    smooth: FloatArray
    albedo: FloatArray
    emission: FloatArray
    params: FloatArray

    @classmethod
    def of(cls, materials: Sequence[Material]) -> MaterialArrays:
        """Table of the given materials, in their order."""
        return cls(
            np.array([m.tag for m in materials], np.uint8),
            np.array([m.shade for m in materials], np.uint8),
            np.array([m.smooth for m in materials], np.uint8),
            linear_from_srgb(np.array([m.rgb for m in materials], np.float64).reshape(-1, 3)).astype(
                np.float32
            ),
            np.array([m.emission for m in materials], np.float32).reshape(-1, 3),
            np.array([m.params for m in materials], np.float32).reshape(-1, 6),
        )


class MaterialTable:
    """Collects materials; equal ones share a row unless asked for one of their own."""

    def __init__(self) -> None:
        self.rows: list[Material] = []
        self._index: dict[Material, int] = {}

    def add(self, material: Material, own_row: bool = False) -> int:
        """Row number of the material. `own_row` for one whose row will be written to later."""
        if not own_row and material in self._index:
            return self._index[material]
        self.rows.append(material)
        if not own_row:
            self._index[material] = len(self.rows) - 1
        return len(self.rows) - 1


@dataclass
class Mesh:
    """Triangles.

    Attributes:
        vertices: (V, 3) float32 metres.
        faces: (F, 3) int32 vertex numbers.
        materials: (F,) int32 rows of the material table that goes with the mesh.
        instances: (F,) uint16 number of the object that the triangle belongs to, 0 for none.
    """

    vertices: FloatArray
    faces: FloatArray
    materials: FloatArray
    instances: FloatArray

    def face_normals(self) -> FloatArray:
        """(F, 3) float32 unit normals, of either sign."""
        corners = self.vertices[self.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(
            np.float32
        )

    def vertex_normals(self) -> FloatArray:
        """(V, 3) float32 area-weighted means over the triangles at each vertex."""
        corners = self.vertices[self.faces].astype(np.float64)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = np.zeros((len(self.vertices), 3))
        for axis in range(3):
            total[:, axis] = sum(
                np.bincount(self.faces[:, k], weights=normals[:, axis], minlength=len(self.vertices))
                for k in range(3)
            )
        return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)).astype(np.float32)


class MeshBuilder:
    """Accumulates triangles."""

    def __init__(self) -> None:
        self._vertices: list[FloatArray] = []
        self._faces: list[FloatArray] = []
        self._materials: list[FloatArray] = []
        self._instances: list[FloatArray] = []
        self._count = 0

    def add(
        self,
        vertices: FloatArray,
        faces: FloatArray,
        material: int | FloatArray,
        instance: int | FloatArray = 0,
    ) -> None:
        """Add (V, 3) vertices and (F, 3) faces; material and instance are one number or (F,)."""
        self._vertices.append(np.asarray(vertices, np.float32).reshape(-1, 3))
        self._faces.append(np.asarray(faces, np.int32).reshape(-1, 3) + self._count)
        count = len(self._faces[-1])
        self._materials.append(np.broadcast_to(np.asarray(material, np.int32), (count,)))
        self._instances.append(np.broadcast_to(np.asarray(instance, np.uint16), (count,)))
        self._count += len(self._vertices[-1])

    def add_quads(
        self, quads: FloatArray, material: int | FloatArray, instance: int | FloatArray = 0
    ) -> None:
        """Add (N, 4, 3) quads, corners in ring order."""
        quads = np.asarray(quads, np.float32).reshape(-1, 4, 3)
        if not len(quads):
            return
        start = 4 * np.arange(len(quads))[:, None]
        faces = np.stack([start + [[0, 1, 2]], start + [[0, 2, 3]]], axis=1).reshape(-1, 3)
        if np.ndim(material):
            material = np.repeat(np.asarray(material), 2)
        if np.ndim(instance):
            instance = np.repeat(np.asarray(instance), 2)
        self.add(quads.reshape(-1, 3), faces, material, instance)

    def add_mesh(self, mesh: Mesh, matrix: FloatArray | None = None, instance: int | None = None) -> None:
        """Add a mesh, through a (4, 4) or (3, 4) transform where one is given."""
        vertices = mesh.vertices
        if matrix is not None:
            vertices = vertices @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)
        self.add(vertices, mesh.faces, mesh.materials, mesh.instances if instance is None else instance)

    def add_copies(
        self, mesh: Mesh, places: FloatArray, instances: FloatArray, materials: FloatArray | None = None
    ) -> None:
        """Add many upright copies of one mesh.

        Args:
            mesh: the template, standing at its own origin.
            places: (N, 6) x, y, z, yaw in radians, horizontal scale, vertical scale.
            instances: (N,) object numbers.
            materials: (N,) offset added to the template's materials, for variants.
        """
        if not len(places):
            return
        cos, sin = np.cos(places[:, 3])[:, None], np.sin(places[:, 3])[:, None]
        x = mesh.vertices[None, :, 0] * places[:, 4, None]
        y = mesh.vertices[None, :, 1] * places[:, 4, None]
        z = mesh.vertices[None, :, 2] * places[:, 5, None]
        vertices = np.stack(
            [
                cos * x - sin * y + places[:, 0, None],
                sin * x + cos * y + places[:, 1, None],
                z + places[:, 2, None],
            ],
            axis=2,
        )
        faces = mesh.faces[None] + (np.arange(len(places)) * len(mesh.vertices))[:, None, None]
        rows = np.broadcast_to(mesh.materials[None], (len(places), len(mesh.materials)))
        if materials is not None:
            rows = rows + np.asarray(materials)[:, None]
        self.add(
            vertices.reshape(-1, 3),
            faces.reshape(-1, 3),
            rows.reshape(-1),
            np.repeat(instances, len(mesh.faces)),
        )

    def build(self) -> Mesh:
        """The mesh of all that was added."""
        if not self._vertices:
            return Mesh(
                np.zeros((0, 3), np.float32),
                np.zeros((0, 3), np.int32),
                np.zeros(0, np.int32),
                np.zeros(0, np.uint16),
            )
        return Mesh(
            np.ascontiguousarray(np.concatenate(self._vertices), np.float32),
            np.ascontiguousarray(np.concatenate(self._faces), np.int32),
            np.concatenate(self._materials).astype(np.int32),
            np.concatenate(self._instances).astype(np.uint16),
        )


def box_mesh(centre: Vector, extent: Vector, yaw_rad: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """Vertices (24, 3) and outward faces (12, 3) of a box; `extent` are half sizes."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64) * extent
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    corners = corners @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]) + np.asarray(centre)
    rings = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    vertices = corners[np.array(rings)].reshape(-1, 3)
    start = 4 * np.arange(6)[:, None]
    faces = np.stack([start + [[0, 1, 2]], start + [[0, 2, 3]]], axis=1).reshape(-1, 3)
    return vertices, faces


def tube_mesh(
    start: Vector, end: Vector, radius_start: float, radius_end: float, sides: int = 8
) -> tuple[FloatArray, FloatArray]:
    """Vertices and faces of a (tapered) cylinder's mantle between two points, its end capped."""
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-9)
    helper = np.array([1.0, 0.0, 0.0]) if abs(axis[2]) > 0.9 else np.array([0.0, 0.0, 1.0])
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    angle = np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    ring = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
    vertices = np.concatenate([a + radius_start * ring, b + radius_end * ring])
    i = np.arange(sides)
    j = (i + 1) % sides
    mantle = np.concatenate([np.stack([i, j, sides + j], 1), np.stack([i, sides + j, sides + i], 1)])
    k = np.arange(1, sides - 1)
    cap = np.stack([np.full(sides - 2, sides), sides + k, sides + k + 1], 1)
    return vertices, np.concatenate([mantle, cap])


def disc_mesh(
    centre: Vector, normal: Vector, radius: float, sides: int = 12, turn_rad: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Vertices (sides, 3) and faces of a regular polygon that faces along `normal`."""
    n = np.asarray(normal, np.float64) / np.linalg.norm(normal)
    up = np.array([0.0, 0.0, 1.0]) if abs(n[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    u = np.cross(up, n)
    u /= np.linalg.norm(u)
    v = np.cross(n, u)
    angle = turn_rad + np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    vertices = np.asarray(centre) + radius * (np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v)
    k = np.arange(1, sides - 1)
    return vertices, np.stack([np.zeros(sides - 2, np.int64), k, k + 1], 1)


def sphere_mesh(
    centre: Vector, radii: Vector, around: int = 10, stacked: int = 6
) -> tuple[FloatArray, FloatArray]:
    """Vertices and outward faces of an ellipsoid with shared vertices (for smooth shading)."""
    theta = np.linspace(0.0, np.pi, stacked + 1)
    phi = np.linspace(0.0, 2.0 * np.pi, around, endpoint=False)
    sin_t, cos_t = np.sin(theta)[:, None], np.cos(theta)[:, None]
    unit = np.stack([sin_t * np.cos(phi), sin_t * np.sin(phi), cos_t * np.ones_like(phi)], axis=2).reshape(
        -1, 3
    )
    i, j = np.meshgrid(np.arange(stacked), np.arange(around), indexing="ij")
    a = (i * around + j).ravel()
    b = (i * around + (j + 1) % around).ravel()
    first = np.stack([a, a + around, b], 1)[i.ravel() > 0]
    second = np.stack([b, a + around, b + around], 1)[i.ravel() < stacked - 1]
    faces = np.concatenate([first, second])
    return np.asarray(centre) + unit * np.asarray(radii), faces
