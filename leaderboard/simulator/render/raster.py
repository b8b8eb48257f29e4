"""The rasteriser: for each pixel the nearest triangle and its depth.

Camera frame: x right, y down, z forward, metres; the depth buffer holds 1/z, which is linear on the screen.
"""

from __future__ import annotations

import math

import numba
import numpy as np

NEAR_M = 0.05


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _triangle(ax, ay, aw, bx, by, bw, cx, cy, cw, number, width, height, inverse_z, ids):  # type: ignore[no-untyped-def]
    """Fill one triangle given in pixels, with 1/z at its corners."""
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0.0:
        return
    if area < 0.0:
        bx, cx = cx, bx
        by, cy = cy, by
        bw, cw = cw, bw
        area = -area
    x_min = int(max(0.0, math.ceil(min(ax, bx, cx) - 0.5)))
    x_max = int(min(width - 1.0, math.floor(max(ax, bx, cx) - 0.5)))
    y_min = int(max(0.0, math.ceil(min(ay, by, cy) - 0.5)))
    y_max = int(min(height - 1.0, math.floor(max(ay, by, cy) - 0.5)))
    if x_min > x_max or y_min > y_max:
        return
    scale = 1.0 / area
    slope_x = ((bw - aw) * (cy - ay) - (cw - aw) * (by - ay)) * scale
    slope_y = ((cw - aw) * (bx - ax) - (bw - aw) * (cx - ax)) * scale
    for y in range(y_min, y_max + 1):
        py = y + 0.5
        low = float(x_min)
        high = float(x_max)
        for e in range(3):
            if e == 0:
                x0, y0, x1, y1 = ax, ay, bx, by
            elif e == 1:
                x0, y0, x1, y1 = bx, by, cx, cy
            else:
                x0, y0, x1, y1 = cx, cy, ax, ay
            dy = y1 - y0
            k = (x1 - x0) * (py - y0)
            if dy > 0:
                high = min(high, x0 + k / dy - 0.5)
            elif dy < 0:
                low = max(low, x0 + k / dy - 0.5)
            elif k < 0:
                high = -1.0
                low = 0.0
        left = math.ceil(low)
        right = math.floor(high)
        if left > right:
            continue
        w = aw + slope_x * (left + 0.5 - ax) + slope_y * (py - ay)
        at = y * width
        for x in range(left, right + 1):
            if w > inverse_z[at + x]:
                inverse_z[at + x] = w
                ids[at + x] = number
            w += slope_x


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _faces(vertices, faces, start, end, offset, eye, axes, focal, width, height, inverse_z, ids):  # type: ignore[no-untyped-def]
    """Draw faces [start, end); a face's number is its index plus `offset`."""
    clipped = np.empty((4, 3))
    corner = np.empty((3, 3))
    half_x = 0.5 * width / focal
    half_y = 0.5 * height / focal
    cx, cy = 0.5 * width, 0.5 * height
    for i in range(start, end):
        behind = 0
        for k in range(3):
            j = faces[i, k]
            dx = vertices[j, 0] - eye[0]
            dy = vertices[j, 1] - eye[1]
            dz = vertices[j, 2] - eye[2]
            z = axes[0, 0] * dx + axes[1, 0] * dy + axes[2, 0] * dz
            corner[k, 0] = axes[0, 1] * dx + axes[1, 1] * dy + axes[2, 1] * dz
            corner[k, 1] = -(axes[0, 2] * dx + axes[1, 2] * dy + axes[2, 2] * dz)
            corner[k, 2] = z
            if z < NEAR_M:
                behind += 1
        if behind == 3:
            continue
        if behind == 0:
            x0, x1, x2 = corner[0, 0], corner[1, 0], corner[2, 0]
            y0, y1, y2 = corner[0, 1], corner[1, 1], corner[2, 1]
            z0, z1, z2 = corner[0, 2], corner[1, 2], corner[2, 2]
            if x0 > half_x * z0 and x1 > half_x * z1 and x2 > half_x * z2:
                continue
            if x0 < -half_x * z0 and x1 < -half_x * z1 and x2 < -half_x * z2:
                continue
            if y0 > half_y * z0 and y1 > half_y * z1 and y2 > half_y * z2:
                continue
            if y0 < -half_y * z0 and y1 < -half_y * z1 and y2 < -half_y * z2:
                continue
            a, b, c = 1.0 / z0, 1.0 / z1, 1.0 / z2
            _triangle(
                cx + focal * x0 * a, cy + focal * y0 * a, a, cx + focal * x1 * b, cy + focal * y1 * b, b,
                cx + focal * x2 * c, cy + focal * y2 * c, c, offset + i, width, height, inverse_z, ids,
            )  # fmt: skip
            continue
        count = 0
        for k in range(3):
            n = (k + 1) % 3
            zk, zn = corner[k, 2], corner[n, 2]
            if zk >= NEAR_M:
                clipped[count] = corner[k]
                count += 1
            if (zk >= NEAR_M) != (zn >= NEAR_M):
                t = (NEAR_M - zk) / (zn - zk)
                for m in range(2):
                    clipped[count, m] = corner[k, m] + t * (corner[n, m] - corner[k, m])
                clipped[count, 2] = NEAR_M
                count += 1
        for k in range(1, count - 1):
            a, b, c = 1.0 / clipped[0, 2], 1.0 / clipped[k, 2], 1.0 / clipped[k + 1, 2]
            _triangle(
                cx + focal * clipped[0, 0] * a, cy + focal * clipped[0, 1] * a, a,
                cx + focal * clipped[k, 0] * b, cy + focal * clipped[k, 1] * b, b,
                cx + focal * clipped[k + 1, 0] * c, cy + focal * clipped[k + 1, 1] * c, c,
                offset + i, width, height, inverse_z, ids,
            )  # fmt: skip


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _outside(centre, radius, eye, axes, half_x, half_y):  # type: ignore[no-untyped-def]
    """Whether a sphere misses the view."""
    dx, dy, dz = centre[0] - eye[0], centre[1] - eye[1], centre[2] - eye[2]
    z = axes[0, 0] * dx + axes[1, 0] * dy + axes[2, 0] * dz
    if z < -radius:
        return True
    x = abs(axes[0, 1] * dx + axes[1, 1] * dy + axes[2, 1] * dz)
    y = abs(axes[0, 2] * dx + axes[1, 2] * dy + axes[2, 2] * dz)
    if x - half_x * z > radius * math.sqrt(1.0 + half_x * half_x):
        return True
    return y - half_y * z > radius * math.sqrt(1.0 + half_y * half_y)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def rasterise(  # type: ignore[no-untyped-def]
    vertices, faces, chunk_start, chunk_end, chunk_centre, chunk_radius, chunk_near, chunk_far,
    model_vertices, model_faces, actor_start, actor_count, actor_first, actor_radius, actor_matrix,
    eye, axes, focal, width, height, inverse_z, ids,
):  # fmt: skip
    """Draw the town's chunks and the actors.

    The arrays, for C chunks and A actors:
        vertices, faces: the town's, world frame.
        chunk_*: (C,) first and last face, bounding sphere, and the distances between which it is drawn.
        model_vertices, model_faces: of all actor models, each in its own frame.
        actor_start, actor_count: (A,) faces of the actor's model.
        actor_first: (A,) number that its first face gets in `ids`.
        actor_radius: (A,) bounding radius about the model's origin.
        actor_matrix: (A, 3, 4) model to world, rigid.
        eye, axes: camera position and columns forward, right, up.
        inverse_z, ids: (H * W,) outputs: 1/z or 0, face number or -1.
    """
    inverse_z[:] = 0.0
    ids[:] = -1
    half_x = 0.5 * width / focal
    half_y = 0.5 * height / focal
    distance = np.empty(chunk_start.shape[0])
    for c in range(chunk_start.shape[0]):
        dx = chunk_centre[c, 0] - eye[0]
        dy = chunk_centre[c, 1] - eye[1]
        dz = chunk_centre[c, 2] - eye[2]
        distance[c] = math.sqrt(dx * dx + dy * dy + dz * dz)
    local_eye = np.empty(3)
    local_axes = np.empty((3, 3))
    for a in range(actor_start.shape[0]):
        m = actor_matrix[a]
        if _outside(m[:, 3], actor_radius[a], eye, axes, half_x, half_y):
            continue
        for i in range(3):
            local_eye[i] = 0.0
            for j in range(3):
                local_eye[i] += m[j, i] * (eye[j] - m[j, 3])
                local_axes[i, j] = m[0, i] * axes[0, j] + m[1, i] * axes[1, j] + m[2, i] * axes[2, j]
        start = actor_start[a]
        _faces(
            model_vertices, model_faces, start, start + actor_count[a], actor_first[a] - start,
            local_eye, local_axes, focal, width, height, inverse_z, ids,
        )  # fmt: skip
    # near first: what is hidden then fails the depth test early
    order = np.argsort(distance - chunk_radius)
    for k in range(order.shape[0]):
        c = order[k]
        if distance[c] < chunk_near[c] or distance[c] >= chunk_far[c]:
            continue
        if _outside(chunk_centre[c], chunk_radius[c], eye, axes, half_x, half_y):
            continue
        _faces(
            vertices, faces, chunk_start[c], chunk_end[c], 0, eye, axes, focal, width, height, inverse_z, ids
        )
