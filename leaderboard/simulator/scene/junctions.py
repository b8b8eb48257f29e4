"""Paves the gaps that a junction's connecting roads leave between each other."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

# gaps up to twice this wide are closed; corners rounded more tightly than this are filled
CLOSING_M = 4.0
LARGEST_ISLAND_M2 = 90.0


def pave_gaps(road_quads: np.ndarray, walk_quads: np.ndarray) -> np.ndarray:
    """(N, 3, 3) triangles that close the gaps of one junction.

    Args:
        road_quads: (M, 4, 3) surface of its connecting roads.
        walk_quads: (K, 4, 3) sidewalks of the town; none is paved over.
    """
    flat = road_quads[:, :, :2]
    union = shapely.union_all(shapely.buffer(shapely.make_valid(shapely.polygons(flat)), 0.02))
    closed = union.buffer(CLOSING_M, quad_segs=6).buffer(-CLOSING_M, quad_segs=6).simplify(0.05)
    pieces = [_without_small_holes(p) for p in _polygons(closed)]
    gaps = shapely.union_all(pieces).difference(union)
    low, high = flat.reshape(-1, 2).min(0) - 1.0, flat.reshape(-1, 2).max(0) + 1.0
    middle = walk_quads[:, :, :2].mean(1)
    near = ((middle > low) & (middle < high)).all(1)
    if near.any():
        walks = shapely.make_valid(shapely.polygons(walk_quads[near][:, :, :2]))
        gaps = gaps.difference(shapely.union_all(shapely.buffer(walks, 0.01)))
    corners = road_quads.reshape(-1, 3)
    out = []
    for gap in _polygons(gaps):
        if gap.area < 0.2:
            continue
        # a little under its neighbours, so that no slit shows at the seams
        dense = shapely.segmentize(gap.buffer(0.03), 2.5)
        triangles = shapely.get_parts(
            shapely.delaunay_triangles(shapely.MultiPoint(shapely.get_coordinates(dense)))
        )
        inside = shapely.contains(dense, shapely.centroid(triangles))
        for triangle in triangles[inside]:
            ring = shapely.get_coordinates(triangle)[:3]
            nearest = ((corners[None, :, :2] - ring[:, None]) ** 2).sum(2).argmin(1)
            out.append(np.column_stack([ring, corners[nearest, 2] - 0.006]))
    return np.array(out).reshape(-1, 3, 3)


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    if isinstance(geometry, Polygon):
        return [] if geometry.is_empty else [geometry]
    if isinstance(geometry, MultiPolygon) or hasattr(geometry, "geoms"):
        return [p for part in geometry.geoms for p in _polygons(part)]
    return []


def _without_small_holes(polygon: Polygon) -> Polygon:
    rings = [ring for ring in polygon.interiors if Polygon(ring).area > LARGEST_ISLAND_M2]
    return Polygon(polygon.exterior, rings)
