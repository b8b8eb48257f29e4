"""Colour of the pixels: textures, sun and sky light, shadows and fog."""

from __future__ import annotations

import math

import numba
import numpy as np

from tickdrive.leaderboard.simulator.render.embree import occluded16
from tickdrive.leaderboard.simulator.render.lighting import SKY_HEIGHT, SKY_LOW, SKY_WIDTH
from tickdrive.leaderboard.simulator.render.local_lights import light_at
from tickdrive.leaderboard.simulator.scene.mesh import Shade

_PLAIN, _ASPHALT, _PAVING, _GRASS = int(Shade.PLAIN), int(Shade.ASPHALT), int(Shade.PAVING), int(Shade.GRASS)
_FACADE, _FOLIAGE, _GLASS = int(Shade.FACADE), int(Shade.FOLIAGE), int(Shade.GLASS)
_PAINT, _MARKING = int(Shade.PAINT), int(Shade.MARKING)
SHADOW_REACH_M = 110.0
NOISE_SIZE, NOISE_LEVELS = 256, 8


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _hash(x, y, z):  # type: ignore[no-untyped-def]
    """Pseudo-random number 0-1 of a lattice point."""
    n = np.int64(x) * 73856093 ^ np.int64(y) * 19349663 ^ np.int64(z) * 83492791
    n = (n ^ (n >> 13)) * 1274126177
    return float((n >> 8) & 65535) / 65535.0


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _grain(pyramid, u, v, level):  # type: ignore[no-untyped-def]
    """Tiling noise about 0 at texel coordinates of the finest level; see `noise_pyramid`."""
    size = NOISE_SIZE >> level
    return pyramid[level, (math.floor(v) >> level) & (size - 1), (math.floor(u) >> level) & (size - 1)]


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _smooth(pyramid, u, v, level):  # type: ignore[no-untyped-def]
    """The same noise, interpolated between texels of a level; coordinates in those texels."""
    mask = (NOISE_SIZE >> level) - 1
    c, r = math.floor(u), math.floor(v)
    fu, fv = u - c, v - r
    fu, fv = fu * fu * (3.0 - 2.0 * fu), fv * fv * (3.0 - 2.0 * fv)
    c0, c1, r0, r1 = int(c) & mask, int(c + 1) & mask, int(r) & mask, int(r + 1) & mask
    low = pyramid[level, r0, c0] * (1.0 - fu) + pyramid[level, r0, c1] * fu
    high = pyramid[level, r1, c0] * (1.0 - fu) + pyramid[level, r1, c1] * fu
    return low * (1.0 - fv) + high * fv


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _mip(texels):  # type: ignore[no-untyped-def]
    """Level whose texel is about one pixel, for a pixel that spans so many of the finest texels."""
    level = 0
    while texels > 1.5 and level < NOISE_LEVELS - 1:
        texels *= 0.5
        level += 1
    return level


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _sky_index(x, y, z):  # type: ignore[no-untyped-def]
    """Row and column of the sky table along a unit direction; see `lighting.sky_directions`."""
    row = int(math.sqrt(max(0.0, (z - SKY_LOW) / (1.0 - SKY_LOW))) * (SKY_HEIGHT - 1) + 0.5)
    turn = y / (abs(x) + abs(y) + 1e-9)
    if x < 0.0:
        turn = 2.0 - turn
    column = int((turn + 1.0) * (0.25 * SKY_WIDTH))
    return min(SKY_HEIGHT - 1, row), min(SKY_WIDTH - 1, max(0, column))


def noise_pyramid() -> np.ndarray:
    """(levels, n, n) float32 tiling noise about 0; each level, in its corner, is the last at half size."""
    rng = np.random.default_rng(5)
    n = NOISE_SIZE
    fine = 0.6 * (rng.random((n, n)) - 0.5)
    for cells, weight in ((64, 0.5), (32, 0.45), (8, 0.5)):
        lattice = rng.random((cells, cells)) - 0.5
        at = np.arange(n) * cells / n
        low, part = at.astype(int), at % 1.0
        part = part * part * (3.0 - 2.0 * part)
        across = lattice[:, low] * (1.0 - part) + lattice[:, (low + 1) % cells] * part
        fine += weight * (across[low] * (1.0 - part[:, None]) + across[(low + 1) % cells] * part[:, None])
    out = np.zeros((NOISE_LEVELS, n, n), np.float32)
    for level in range(NOISE_LEVELS):
        out[level, : len(fine), : len(fine)] = fine
        fine = 0.25 * (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2])
    return out


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _facade(p, u, z, footprint, out):  # type: ignore[no-untyped-def]
    """Wall or window at a point of a facade; writes (glass share, lit seed, frame shade)."""
    bay = (u - p[0]) / p[2]
    storey = (z - p[1]) / p[3]
    out[0] = 0.0
    out[1] = 0.0
    out[2] = 1.0
    if storey < 0.0 or bay < 0.0:
        return
    i, j = math.floor(bay), math.floor(storey)
    a, b = bay - i, storey - j
    half = 0.5 * math.sqrt(p[4])
    tall = min(0.42, half * 1.05)
    blur = min(1.0, max(0.0, footprint / (0.5 * p[2]) - 0.15))
    dx = half - abs(a - 0.5)
    dy = tall - abs(b - 0.52)
    inside = 0.0
    if dx > 0.0 and dy > 0.0:
        inside = 1.0
        # sash bars and a frame
        if (dx * p[2] < 0.07 or dy * p[3] < 0.07 or abs(a - 0.5) * p[2] < 0.035) and footprint < 0.10:
            inside = 0.0
            out[2] = 1.25
    elif dy > -0.05 and dy <= 0.0 and dx > -0.03 and b < 0.5 and footprint < 0.2:
        out[2] = 1.3  # sill
    mean = 4.0 * half * tall
    out[0] = inside * (1.0 - blur) + mean * blur
    out[1] = _hash(i, j, int(p[5] * 100.0))


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def shade(  # type: ignore[no-untyped-def]
    inverse_z, ids, first_row, last_row, width, height, focal, eye, axes,
    vertices, faces, face_normals, vertex_normals, face_materials,
    model_vertices, model_faces, model_face_normals, model_vertex_normals, model_materials,
    owner, actor_start, actor_first, actor_matrix, actor_material,
    mat_shade, mat_smooth, mat_albedo, mat_emission, mat_params,
    sun_direction, sun, sky_ambient, ground_ambient, fog_per_m, fog_start, wetness, night, sky,
    trace, shadows, noise, local, local_cells, local_counts, local_origin, tone, image,
):  # fmt: skip
    """Colour the pixels of rows [first_row, last_row) into `image`, (H * W, 4) uint8 BGRA.

    `trace` is the address of an Embree scene for the sun's shadows, which `shadows` switches on. One ray is
    traced for two pixels side by side, 16 of them (16 x 2 pixels) in a packet; `first_row` must be even.
    """
    static_count = faces.shape[0]
    storage = np.empty(12 * 16 + 16, np.float32)
    start = ((64 - storage.ctypes.data % 64) % 64) // 4
    packet = storage[start : start + 192]
    packet_bits = packet.view(np.uint32)
    valid_storage = np.empty(32, np.int32)
    valid_start = ((64 - valid_storage.ctypes.data % 64) % 64) // 4
    valid = valid_storage[valid_start : valid_start + 16]
    normal = np.empty((32, 3))
    point = np.empty((32, 3))
    row_of = np.empty(32, np.int64)
    window = np.empty(3)
    last = tone.shape[0] - 1
    tone_scale = last / math.sqrt(8.0)
    has_local = local.shape[0] > 0
    shared = np.empty((8, 3))
    sun_strength = max(sun[0], sun[1], sun[2])
    ax, ay, az = axes[0, 0], axes[1, 0], axes[2, 0]
    sun_x, sun_y, sun_z = sun_direction[0], sun_direction[1], sun_direction[2]
    # fog takes the sky's colour just above the horizon, in the direction of each column
    haze = np.empty((width, 3))
    for x in range(width):
        right = (x + 0.5 - 0.5 * width) / focal
        row, column = _sky_index(ax + axes[0, 1] * right, ay + axes[1, 1] * right, 0.03)
        for c in range(3):
            haze[x, c] = sky[row, column, c]
    fog_table = np.empty(1025)
    for k in range(1025):
        fog_table[k] = 1.0 - math.exp(-max(0.0, float(k) - fog_start) * fog_per_m)
    for y_start in range(first_row, last_row, 2):
        for x_start in range(0, width, 16):
            any_shadow = False
            for k in range(16):
                valid[k] = 0
            for k in range(32):
                x, y = x_start + (k & 15), y_start + (k >> 4)
                if x >= width or y >= last_row:
                    continue
                o = y * width + x
                number = ids[o]
                if number < 0:
                    continue
                z = 1.0 / inverse_z[o]
                right = (x + 0.5 - 0.5 * width) / focal
                up = -(y + 0.5 - 0.5 * height) / focal
                rx = ax + axes[0, 1] * right + axes[0, 2] * up
                ry = ay + axes[1, 1] * right + axes[1, 2] * up
                rz = az + axes[2, 1] * right + axes[2, 2] * up
                px, py, pz = eye[0] + z * rx, eye[1] + z * ry, eye[2] + z * rz
                if number < static_count:
                    material = face_materials[number]
                    nx, ny, nz = face_normals[number, 0], face_normals[number, 1], face_normals[number, 2]
                    if mat_smooth[material]:
                        nx, ny, nz = interpolate_normal(vertices, faces[number], vertex_normals, px, py, pz)
                else:
                    a = owner[number - static_count]
                    face = number - actor_first[a] + actor_start[a]
                    m = actor_matrix[a]
                    material = actor_material[a] + model_materials[face]
                    ux, uy, uz = (
                        model_face_normals[face, 0],
                        model_face_normals[face, 1],
                        model_face_normals[face, 2],
                    )
                    if mat_smooth[material]:
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
                normal[k, 0], normal[k, 1], normal[k, 2] = nx, ny, nz
                point[k, 0], point[k, 1], point[k, 2] = px, py, pz
                row_of[k] = material
                if (
                    shadows
                    and k & 1 == 0
                    and z < SHADOW_REACH_M
                    and nx * sun_x + ny * sun_y + nz * sun_z > 0.0
                ):
                    j = k >> 1
                    lift = 0.015 + 0.0008 * z
                    packet[j], packet[16 + j], packet[32 + j] = px + nx * lift, py + ny * lift, pz + nz * lift
                    packet[48 + j] = 0.01
                    packet[64 + j], packet[80 + j], packet[96 + j] = sun_x, sun_y, sun_z
                    packet[112 + j], packet[128 + j] = 0.0, 150.0
                    packet_bits[144 + j], packet_bits[160 + j], packet_bits[176 + j] = 0xFFFFFFFF, j, 0
                    valid[j] = -1
                    any_shadow = True
            if any_shadow:
                occluded16(valid.ctypes.data, trace, packet.ctypes.data, 0)
            for k in range(32):
                x, y = x_start + (k & 15), y_start + (k >> 4)
                if x >= width or y >= last_row:
                    continue
                o = y * width + x
                right = (x + 0.5 - 0.5 * width) / focal
                up = -(y + 0.5 - 0.5 * height) / focal
                rx = ax + axes[0, 1] * right + axes[0, 2] * up
                ry = ay + axes[1, 1] * right + axes[1, 2] * up
                rz = az + axes[2, 1] * right + axes[2, 2] * up
                stretch = 1.0 / math.sqrt(rx * rx + ry * ry + rz * rz)
                vx, vy, vz = rx * stretch, ry * stretch, rz * stretch
                if ids[o] < 0:
                    row, column = _sky_index(vx, vy, vz)
                    red, green, blue = sky[row, column, 0], sky[row, column, 1], sky[row, column, 2]
                    if vx * sun_x + vy * sun_y + vz * sun_z > 0.9996:
                        red, green, blue = red + 6.0 * sun[0], green + 6.0 * sun[1], blue + 6.0 * sun[2]
                else:
                    z = 1.0 / inverse_z[o]
                    material = row_of[k]
                    kind = mat_shade[material]
                    nx, ny, nz = normal[k, 0], normal[k, 1], normal[k, 2]
                    px, py, pz = point[k, 0], point[k, 1], point[k, 2]
                    ar, ag, ab = mat_albedo[material, 0], mat_albedo[material, 1], mat_albedo[material, 2]
                    er, eg, eb = (
                        mat_emission[material, 0],
                        mat_emission[material, 1],
                        mat_emission[material, 2],
                    )
                    mirror = 0.0
                    gain = 1.0
                    lit = nx * sun_x + ny * sun_y + nz * sun_z
                    if kind in (_ASPHALT, _MARKING):
                        # the mean of the pixel's extents along and across the view
                        level = _mip(22.0 * z / focal / math.sqrt(max(0.02, abs(vz))))
                        patch = _smooth(noise, px * 0.16, py * 0.16, 2)
                        gain = 1.0 + 0.26 * _grain(noise, px * 22.0, py * 22.0, level) + 0.20 * patch
                        if kind == _MARKING:
                            gain = 1.0 + 0.4 * (gain - 1.0)
                        if wetness > 0.0:
                            gain *= 1.0 - 0.42 * wetness
                            pool = _smooth(noise, px * 0.4 + 9.1, py * 0.4 + 3.7, 3)
                            mirror = wetness * (0.03 + 0.25 * min(1.0, max(0.0, (pool - 0.06) * 7.0)))
                    elif kind == _PAVING:
                        footprint = z / focal / max(0.1, abs(vz))
                        gain = 1.0 + 0.22 * _grain(noise, px * 6.0, py * 6.0, _mip(6.0 * footprint))
                        fine = max(0.0, 1.0 - footprint * 8.0)
                        if fine > 0.0:
                            fx, fy = px * 0.6667, py * 0.6667
                            cx, cy = math.floor(fx), math.floor(fy)
                            if fx - cx < 0.03 or fy - cy < 0.03:
                                gain *= 1.0 - 0.3 * fine
                            gain += (_hash(cx, cy, 3) - 0.5) * 0.08 * fine
                        gain *= 1.0 - 0.25 * wetness
                    elif kind == _GRASS:
                        level = _mip(12.0 * z / focal / math.sqrt(max(0.02, abs(vz))))
                        broad = _smooth(noise, px * 0.11, py * 0.11, 3)
                        gain = 1.0 + 0.75 * _grain(noise, px * 12.0, py * 12.0, level) + 0.35 * broad
                        ar *= 1.0 + 0.8 * broad
                    elif kind == _FOLIAGE:
                        scale = 8.0 if z < 14.0 else (4.5 if z < 45.0 else 2.0)
                        bx, by, bz = math.floor(px * scale), math.floor(py * scale), math.floor(pz * scale)
                        leaf = _hash(bx, by, bz)
                        twig = _hash(by, bz, bx)
                        gain = 0.74 + 0.5 * leaf
                        nx += (leaf - 0.5) * 0.7
                        ny += (twig - 0.5) * 0.7
                        length = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
                        nx, ny, nz = nx * length, ny * length, nz * length
                        lit = 0.75 * max(0.0, nx * sun_x + ny * sun_y + nz * sun_z) + 0.25 * max(0.0, sun_z)
                    elif kind == _FACADE:
                        slant = max(0.08, abs(nx * vx + ny * vy + nz * vz))
                        _facade(mat_params[material], py * nx - px * ny, pz, z / focal / slant, window)
                        glass = window[0]
                        gain = window[2] * (
                            1.0 + 0.16 * _grain(noise, (px + py) * 3.0, pz * 3.0, 1 if z < 30.0 else 3)
                        )
                        keep = 1.0 - glass
                        ar, ag, ab = (
                            ar * keep + 0.014 * glass,
                            ag * keep + 0.019 * glass,
                            ab * keep + 0.026 * glass,
                        )
                        mirror = (0.13 + 0.16 * window[1]) * glass
                        if night > 0.02 and window[1] > 0.62:
                            warm = glass * night * (0.35 + 0.5 * window[1])
                            er, eg, eb = er + 0.95 * warm, eg + 0.66 * warm, eb + 0.30 * warm
                    elif kind == _GLASS:
                        mirror = 0.30
                    elif kind == _PAINT:
                        mirror = 0.05
                    lit = max(0.0, lit)
                    if valid[k >> 1] == -1 and packet[128 + (k >> 1)] < 0.0:
                        lit *= 0.22 if kind == _FOLIAGE else 0.0
                    hemi = 0.5 + 0.5 * nz
                    cr = (
                        ar
                        * gain
                        * (sun[0] * lit + ground_ambient[0] + (sky_ambient[0] - ground_ambient[0]) * hemi)
                    )
                    cg = (
                        ag
                        * gain
                        * (sun[1] * lit + ground_ambient[1] + (sky_ambient[1] - ground_ambient[1]) * hemi)
                    )
                    cb = (
                        ab
                        * gain
                        * (sun[2] * lit + ground_ambient[2] + (sky_ambient[2] - ground_ambient[2]) * hemi)
                    )
                    if has_local:
                        # 2 x 2 pixels on one triangle share their light
                        square = (k & 15) >> 1
                        first = y_start * width + x_start + 2 * square
                        if o != first and ids[o] == ids[first]:
                            lr, lg, lb = shared[square, 0], shared[square, 1], shared[square, 2]
                        else:
                            lr, lg, lb = light_at(
                                px, py, pz, nx, ny, nz, local, local_cells, local_counts, local_origin
                            )
                            if o == first:
                                shared[square, 0], shared[square, 1], shared[square, 2] = lr, lg, lb
                        cr, cg, cb = cr + ar * gain * lr, cg + ag * gain * lg, cb + ab * gain * lb
                    if mirror > 0.0:
                        along = nx * vx + ny * vy + nz * vz
                        mx, my, mz = vx - 2.0 * along * nx, vy - 2.0 * along * ny, vz - 2.0 * along * nz
                        rim = 1.0 - min(1.0, -along) if along < 0.0 else 0.0
                        fresnel = mirror + (1.0 - mirror) * 0.75 * rim * rim * rim * rim
                        if kind in (_ASPHALT, _MARKING):
                            fresnel = mirror + 0.35 * wetness * rim * rim * rim * rim
                        if mz > 0.0:
                            row2, column2 = _sky_index(mx, my, mz)
                            sr, sg, sb = sky[row2, column2, 0], sky[row2, column2, 1], sky[row2, column2, 2]
                        else:
                            sr, sg, sb = (
                                0.35 * ground_ambient[0],
                                0.35 * ground_ambient[1],
                                0.35 * ground_ambient[2],
                            )
                        keep = 1.0 - fresnel
                        cr, cg, cb = (
                            cr * keep + sr * fresnel,
                            cg * keep + sg * fresnel,
                            cb * keep + sb * fresnel,
                        )
                        if lit > 0.0 and (kind in (_PAINT, _GLASS)):
                            spot = mx * sun_x + my * sun_y + mz * sun_z
                            if spot > 0.9:
                                spot = (spot - 0.9) * 10.0
                                spot = 2.2 * spot * spot * spot * spot * sun_strength
                                cr, cg, cb = cr + spot, cg + spot, cb + spot
                    cr, cg, cb = cr + er, cg + eg, cb + eb
                    fog = fog_table[min(1024, int(z))]
                    if er + eg + eb > 1.0:
                        fog *= 0.5
                    red = cr + (haze[x, 0] - cr) * fog
                    green = cg + (haze[x, 1] - cg) * fog
                    blue = cb + (haze[x, 2] - cb) * fog
                image[o, 2] = tone[min(last, int(math.sqrt(max(red, 0.0)) * tone_scale))]
                image[o, 1] = tone[min(last, int(math.sqrt(max(green, 0.0)) * tone_scale))]
                image[o, 0] = tone[min(last, int(math.sqrt(max(blue, 0.0)) * tone_scale))]
                image[o, 3] = 255


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def interpolate_normal(vertices, face, normals, px, py, pz):  # type: ignore[no-untyped-def]
    """Vertex normals interpolated at a point of a triangle, unit length."""
    a, b, c = face[0], face[1], face[2]
    ux, uy, uz = (
        vertices[b, 0] - vertices[a, 0],
        vertices[b, 1] - vertices[a, 1],
        vertices[b, 2] - vertices[a, 2],
    )
    vx, vy, vz = (
        vertices[c, 0] - vertices[a, 0],
        vertices[c, 1] - vertices[a, 1],
        vertices[c, 2] - vertices[a, 2],
    )
    wx, wy, wz = px - vertices[a, 0], py - vertices[a, 1], pz - vertices[a, 2]
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    wu, wv = wx * ux + wy * uy + wz * uz, wx * vx + wy * vy + wz * vz
    det = uu * vv - uv * uv
    if det <= 1e-18:
        return normals[a, 0], normals[a, 1], normals[a, 2]
    s = min(1.0, max(0.0, (wu * vv - wv * uv) / det))
    t = min(1.0, max(0.0, (wv * uu - wu * uv) / det))
    r = 1.0 - s - t
    x = r * normals[a, 0] + s * normals[b, 0] + t * normals[c, 0]
    y = r * normals[a, 1] + s * normals[b, 1] + t * normals[c, 1]
    z = r * normals[a, 2] + s * normals[b, 2] + t * normals[c, 2]
    length = 1.0 / math.sqrt(x * x + y * y + z * z + 1e-12)
    return x * length, y * length, z * length
