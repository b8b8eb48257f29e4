"""Images made from the raster: depth and labels in CARLA's encodings, and the halo of lit bulbs."""

from __future__ import annotations

import math

import numba

_SKY_TAG = 11
FAR_DEPTH_M = 1000.0


@numba.njit(cache=True, nogil=True)
def glow(inverse_z, width, height, focal, eye, axes, positions, facings, colours, image):  # type: ignore[no-untyped-def]
    """Add the halo of lit bulbs; a small image keeps their colour only thus.

    The arrays, for N bulbs:
        positions, facings: (N, 3) of bulbs; colours: (N, 3) r, g, b 0-1.
    """
    for n in range(positions.shape[0]):
        dx, dy, dz = positions[n, 0] - eye[0], positions[n, 1] - eye[1], positions[n, 2] - eye[2]
        z = axes[0, 0] * dx + axes[1, 0] * dy + axes[2, 0] * dz
        away = math.sqrt(dx * dx + dy * dy + dz * dz)
        if z < 1.0 or away > 220.0:
            continue
        square = -(facings[n, 0] * dx + facings[n, 1] * dy + facings[n, 2] * dz) / away
        if square < 0.62:  # beyond that its visor hides it
            continue
        u = 0.5 * width + focal * (axes[0, 1] * dx + axes[1, 1] * dy + axes[2, 1] * dz) / z
        v = 0.5 * height - focal * (axes[0, 2] * dx + axes[1, 2] * dy + axes[2, 2] * dz) / z
        if u < 0 or v < 0 or u >= width or v >= height:
            continue
        seen = inverse_z[int(v) * width + int(u)]
        if seen > 0.0 and 1.0 / seen < z - 0.35:
            continue
        core = 0.225 * focal / z
        radius = max(2.6, 2.3 * core)
        strength = 150.0 * min(1.0, (square - 0.62) * 6.0)
        for y in range(max(0, int(v - radius)), min(height, int(v + radius) + 2)):
            for x in range(max(0, int(u - radius)), min(width, int(u + radius) + 2)):
                d = math.sqrt((x + 0.5 - u) ** 2 + (y + 0.5 - v) ** 2) / radius
                if d >= 1.0:
                    continue
                g = (1.0 - d) * (1.0 - d) * strength
                o = y * width + x
                for c in range(3):
                    image[o, 2 - c] = min(255, int(image[o, 2 - c] + g * colours[n, c]))


@numba.njit(cache=True, nogil=True)
def depth_image(inverse_z, image):  # type: ignore[no-untyped-def]
    """CARLA's depth: (R + 256 G + 65536 B) / (2^24 - 1) * 1000 m along the optical axis."""
    for o in range(inverse_z.shape[0]):
        part = 1.0
        if inverse_z[o] > 0.0:
            part = min(1.0, 1.0 / inverse_z[o] / FAR_DEPTH_M)
        code = int(part * 16777215.0 + 0.5)
        image[o, 2] = code & 255
        image[o, 1] = (code >> 8) & 255
        image[o, 0] = (code >> 16) & 255
        image[o, 3] = 255


@numba.njit(cache=True, nogil=True)
def label_image(  # type: ignore[no-untyped-def]
    ids, face_materials, face_instances, model_materials, owner, actor_start, actor_first, actor_material,
    actor_id, mat_tag, with_instance, image,
):  # fmt: skip
    """Semantic tag in R; with instances their id's low byte in G, high byte in B.

    Source: CARLA's `Tagger.cpp` (`GetActorLabelColor`).
    """
    static_count = face_materials.shape[0]
    for o in range(ids.shape[0]):
        number = ids[o]
        tag, instance = _SKY_TAG, 0
        if number >= 0:
            if number < static_count:
                tag = mat_tag[face_materials[number]]
                instance = face_instances[number]
            else:
                a = owner[number - static_count]
                tag = mat_tag[actor_material[a] + model_materials[number - actor_first[a] + actor_start[a]]]
                instance = actor_id[a]
        image[o, 2] = tag
        image[o, 1] = (instance & 255) if with_instance else 0
        image[o, 0] = ((instance >> 8) & 255) if with_instance else 0
        image[o, 3] = 255
