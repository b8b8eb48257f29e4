"""Images made from the raster that are about geometry and motion: surface normals and optical flow."""

from __future__ import annotations

import math

import numba

from tickdrive.leaderboard.simulator.render.shading import interpolate_normal


@numba.njit(cache=True, nogil=True, error_model="numpy")
def normal_image(  # type: ignore[no-untyped-def]
    inverse_z, ids, width, height, focal, eye, axes,
    vertices, faces, face_normals, vertex_normals, face_materials,
    model_vertices, model_faces, model_face_normals, model_vertex_normals, model_materials,
    owner, actor_start, actor_first, actor_matrix, actor_material, mat_smooth, image,
):  # fmt: skip
    """Unit normals of the world frame, each of x, y, z as (n + 1) / 2 * 255 in R, G, B; sky is black.

    Arrays as in `shading.shade`; `image` is (H * W, 4) uint8 BGRA.
    """
    static_count = faces.shape[0]
    for o in range(ids.shape[0]):
        number = ids[o]
        image[o, 0] = image[o, 1] = image[o, 2] = 0
        image[o, 3] = 255
        if number < 0:
            continue
        z = 1.0 / inverse_z[o]
        right = (o % width + 0.5 - 0.5 * width) / focal
        up = -(o // width + 0.5 - 0.5 * height) / focal
        rx = axes[0, 0] + axes[0, 1] * right + axes[0, 2] * up
        ry = axes[1, 0] + axes[1, 1] * right + axes[1, 2] * up
        rz = axes[2, 0] + axes[2, 1] * right + axes[2, 2] * up
        px, py, pz = eye[0] + z * rx, eye[1] + z * ry, eye[2] + z * rz
        if number < static_count:
            nx, ny, nz = face_normals[number, 0], face_normals[number, 1], face_normals[number, 2]
            if mat_smooth[face_materials[number]]:
                nx, ny, nz = interpolate_normal(vertices, faces[number], vertex_normals, px, py, pz)
        else:
            a = owner[number - static_count]
            face = number - actor_first[a] + actor_start[a]
            m = actor_matrix[a]
            ux, uy, uz = model_face_normals[face, 0], model_face_normals[face, 1], model_face_normals[face, 2]
            if mat_smooth[actor_material[a] + model_materials[face]]:
                qx, qy, qz = px - m[0, 3], py - m[1, 3], pz - m[2, 3]
                ux, uy, uz = interpolate_normal(
                    model_vertices, model_faces[face], model_vertex_normals,
                    m[0, 0] * qx + m[1, 0] * qy + m[2, 0] * qz,
                    m[0, 1] * qx + m[1, 1] * qy + m[2, 1] * qz,
                    m[0, 2] * qx + m[1, 2] * qy + m[2, 2] * qz,
                )  # fmt: skip
            nx = m[0, 0] * ux + m[0, 1] * uy + m[0, 2] * uz
            ny = m[1, 0] * ux + m[1, 1] * uy + m[1, 2] * uz
            nz = m[2, 0] * ux + m[2, 1] * uy + m[2, 2] * uz
        if nx * rx + ny * ry + nz * rz > 0.0:
            nx, ny, nz = -nx, -ny, -nz
        length = 127.5 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
        image[o, 2] = min(255, int(nx * length + 128.0))
        image[o, 1] = min(255, int(ny * length + 128.0))
        image[o, 0] = min(255, int(nz * length + 128.0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def flow_image(  # type: ignore[no-untyped-def]
    inverse_z, ids, width, height, focal, eye, axes, eye_before, axes_before,
    static_count, owner, matrix, matrix_before, flow,
):  # fmt: skip
    """Motion of what each pixel shows since the frame before, as a share of half the image's size.

    So it is on a CARLA server: pixels are x * width / 2 and -y * height / 2 (its issue 4795).

    The arrays, for A actors:
        eye, axes: position and columns forward, right, up.
        eye_before, axes_before: the same in the frame before.
        static_count: faces of the town; what has a lower number stands still.
        owner: actor of each later face.
        matrix, matrix_before: (A, 3, 4) model to world, now and then.
        flow: (H * W, 2) float32, written: to the right, and up; 0 where the point was behind the camera.
    """
    for o in range(ids.shape[0]):
        number = ids[o]
        column, row = o % width + 0.5, o // width + 0.5
        right = (column - 0.5 * width) / focal
        up = -(row - 0.5 * height) / focal
        x = axes[0, 0] + axes[0, 1] * right + axes[0, 2] * up
        y = axes[1, 0] + axes[1, 1] * right + axes[1, 2] * up
        z = axes[2, 0] + axes[2, 1] * right + axes[2, 2] * up
        if number >= 0:  # the sky is so far away that only turning moves it
            depth = 1.0 / inverse_z[o]
            x, y, z = eye[0] + depth * x, eye[1] + depth * y, eye[2] + depth * z
            if number >= static_count:
                m = matrix[owner[number - static_count]]
                b = matrix_before[owner[number - static_count]]
                qx, qy, qz = x - m[0, 3], y - m[1, 3], z - m[2, 3]
                ux = m[0, 0] * qx + m[1, 0] * qy + m[2, 0] * qz
                uy = m[0, 1] * qx + m[1, 1] * qy + m[2, 1] * qz
                uz = m[0, 2] * qx + m[1, 2] * qy + m[2, 2] * qz
                x = b[0, 0] * ux + b[0, 1] * uy + b[0, 2] * uz + b[0, 3]
                y = b[1, 0] * ux + b[1, 1] * uy + b[1, 2] * uz + b[1, 3]
                z = b[2, 0] * ux + b[2, 1] * uy + b[2, 2] * uz + b[2, 3]
            x, y, z = x - eye_before[0], y - eye_before[1], z - eye_before[2]
        ahead = axes_before[0, 0] * x + axes_before[1, 0] * y + axes_before[2, 0] * z
        if ahead < 1e-3:
            flow[o, 0] = flow[o, 1] = 0.0
            continue
        across = axes_before[0, 1] * x + axes_before[1, 1] * y + axes_before[2, 1] * z
        above = axes_before[0, 2] * x + axes_before[1, 2] * y + axes_before[2, 2] * z
        flow[o, 0] = 2.0 * focal * (right - across / ahead) / width
        flow[o, 1] = 2.0 * focal * (up - above / ahead) / height
