"""The sun's shadow maps: four squares around the camera, each twice as wide as the one before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import Tag
from tickdrive.leaderboard.simulator.render.assets import TownArrays
from tickdrive.leaderboard.simulator.render.shading import SHADOW_REACH_M
from tickdrive.leaderboard.simulator.scene.ground import TerrainGrid

#: half sides; the widest holds all points up to `shading.SHADOW_REACH_M` away, wherever the centre snaps to
REACH_M = (16.0, 32.0, 64.0, 128.0)
#: the centre moves in steps of whole texels of all maps, so that edges of shadows do not crawl from tick to
#: tick, and cameras of one car share their maps
STEP_M = 4.0
#: so far before a map's edge the next one is looked up already, at most
OVERLAP_M = 1.0
#: from the centre, how far away shadows are looked up; and how far the processor's rays to the sun reach
SEEN_M, RAY_M = SHADOW_REACH_M + STEP_M, 150.0
#: how far along the sun's direction things are in the maps
HALF_DEPTH_M = 300.0
_GROUND = (Tag.ROAD, Tag.ROAD_LINE, Tag.TERRAIN)
_LEVEL, _LOW_M = 0.999, 0.6


def casting(town: TownArrays, tag_of_material: np.ndarray, terrain: TerrainGrid) -> np.ndarray:
    """(F,) which of a town's faces may throw a shadow: all but level ground, which covers most of the maps.

    Level is what inclines less than 2.6 degrees. A road high above the terrain is a bridge's; the curb of a
    sidewalk throws a shadow, too.
    """
    flat = np.isin(tag_of_material[town.materials], _GROUND) & (np.abs(town.face_normals[:, 2]) > _LEVEL)
    ground = np.flatnonzero(flat)
    middle = town.vertices[town.faces[ground]].mean(axis=1)
    above_m = middle[:, 2] - [terrain.height(x, y) for x, y, _ in middle]
    flat[ground[above_m > _LOW_M]] = False
    return ~flat


@dataclass(frozen=True)
class ShadowView:
    """The maps' place.

    Attributes:
        centre: (3,) world frame.
        across, along: (3,) unit vectors of the maps' sides, square to the sun's direction.
        sun_direction: (3,) unit vector to the sun.
    """

    centre: np.ndarray
    across: np.ndarray
    along: np.ndarray
    sun_direction: np.ndarray

    @classmethod
    def around(cls, eye: np.ndarray, sun_direction: np.ndarray) -> ShadowView:
        """The maps about a camera at (3,)."""
        helper = np.array([0.0, 0.0, 1.0]) if abs(sun_direction[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        across = np.cross(helper, sun_direction)
        across /= np.linalg.norm(across)
        along = np.cross(sun_direction, across)
        axes = np.stack([across, along, sun_direction])
        centre = axes.T @ (np.floor(axes @ eye / STEP_M + 0.5) * STEP_M)
        return cls(centre, across, along, sun_direction)

    def rows(self, side_texels: int) -> np.ndarray:
        """(4, 4) for the shaders' frame: centre, across, along, reach."""
        return np.array(
            [
                [*self.centre, side_texels],
                [*self.across, HALF_DEPTH_M],
                [*self.along, 0.0],
                REACH_M,
            ]
        )

    def casters(self, number: int, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """(N,) which spheres at (N, 3) are to be drawn into a map: what may throw a shadow that is looked up.

        A shadow has the same place in a map as what throws it: what lies wholly within the next smaller map
        is of no use in this one.
        """
        offset = centres - self.centre
        across, along = np.abs(offset @ self.across), np.abs(offset @ self.along)
        reach_m = REACH_M[number]
        inside = np.maximum(across, along) < reach_m + radii
        # shadows are looked up near the camera only, and reach so far
        towards = offset @ self.sun_direction
        inside &= (towards > -SEEN_M - radii) & (towards < SEEN_M + RAY_M + radii)
        if number:
            inside &= np.maximum(across, along) > REACH_M[number - 1] - OVERLAP_M - radii
        return inside
