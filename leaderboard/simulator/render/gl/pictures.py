"""Cameras drawn by OpenGL: triangles into a raster of numbers and depths, then a pass for each kind.

The raster is that of the processor's `raster.rasterise`, on the card; the passes are its `shading`, `images`
and `motion` in GLSL (`shaders/`). The sun's shadows are maps (`shadows`) instead of rays.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.render import local_lights
from tickdrive.leaderboard.simulator.render.gl import buffers
from tickdrive.leaderboard.simulator.render.gl.device import GlDevice
from tickdrive.leaderboard.simulator.render.gl.shadows import REACH_M, ShadowView
from tickdrive.leaderboard.simulator.render.gl.studio import Studio, Targets
from tickdrive.leaderboard.simulator.render.gl.uploads import StageOnCard
from tickdrive.leaderboard.simulator.render.pictures import CameraView
from tickdrive.leaderboard.simulator.render.stage import Stage

_LABELS = {"depth": 0, "semantic_segmentation": 1, "instance_segmentation": 2, "normals": 3}


class EglMaker:
    """Makes `EglPictures`, all on one card.

    Args:
        device: the card.

    Raises:
        ServerError: the card refuses a shader, or has no memory for the shadow maps.
    """

    def __init__(self, device: GlDevice) -> None:
        self._studio = Studio(device)
        slow = ", which the processor plays: cpu is faster" if device.software else ""
        self.description = f"egl, {device.description}{slow}"

    def __call__(self, stage: Stage) -> EglPictures:
        """Pictures of a stage."""
        return EglPictures(stage, self._studio)


class EglPictures:
    """See `pictures.Pictures`."""

    def __init__(self, stage: Stage, studio: Studio) -> None:
        self._stage = stage
        self._studio = studio
        self._number = studio.new_number()
        self._no_lights = local_lights.no_lights()
        self._on_card: StageOnCard | None = studio.device.do(lambda: StageOnCard(stage, studio))

    def close(self) -> None:
        """Let go of the town's buffers; the card's memory is free with its next job."""
        self._on_card = None

    def camera(self, kind: str, view: CameraView) -> np.ndarray:
        """A picture, see `Pictures.camera`."""
        return self._studio.device.do(lambda: self._camera(kind, view))

    def flow(self, view: CameraView, before: CameraView, matrices_before: np.ndarray) -> np.ndarray:
        """Optical flow, see `Pictures.flow`."""
        return self._studio.device.do(lambda: self._flow(view, before, matrices_before))

    # -- on the context's thread --

    @property
    def _card(self) -> StageOnCard:
        assert self._on_card is not None, "closed"
        return self._on_card

    def _camera(self, kind: str, view: CameraView) -> np.ndarray:
        studio, card = self._studio, self._card
        card.take_tick()
        near, bulbs = self._no_lights, np.zeros((0, 8), np.float32)
        shadow = ShadowView.around(view.eye, self._stage.lighting.sun_direction)
        if kind == "rgb":
            near = local_lights.arrange(self._stage.near_lights, view.eye)
            bulbs = buffers.bulb_rows(self._stage.lit, view)
            card.take_lights(near, bulbs)
        self._set_frame(view, view, shadow, near, len(bulbs))
        targets = self._rasterise(view)
        if kind == "rgb":
            if self._stage.lighting.casts_shadows:
                self._draw_shadows(shadow)
            screen = studio.shade_screen
            for unit, table in enumerate((studio.noise, card.sky, studio.tone, studio.shadow_maps), start=2):
                table.use(unit)
        else:
            screen = studio.labels_screen
            studio.labels["kind"] = _LABELS[kind]
        out = np.empty((view.spec.height, view.spec.width, 4), np.uint8)
        return self._screen(targets, targets.picture, screen, out)

    def _flow(self, view: CameraView, before: CameraView, matrices_before: np.ndarray) -> np.ndarray:
        self._card.take_tick()
        self._card.take_matrices_before(matrices_before)
        shadow = ShadowView.around(view.eye, self._stage.lighting.sun_direction)
        self._set_frame(view, before, shadow, self._no_lights, 0)
        out = np.empty((view.spec.height, view.spec.width, 2), np.float32)
        targets = self._rasterise(view)
        return self._screen(targets, targets.flow, self._studio.flow_screen, out)

    def _set_frame(
        self,
        view: CameraView,
        before: CameraView,
        shadow: ShadowView,
        near: local_lights.LocalLights,
        bulb_count: int,
    ) -> None:
        """Set what all programs read of a view."""
        studio = self._studio
        frame = buffers.frame_rows(
            view,
            self._stage.lighting,
            shadow.rows(studio.shadow_side),
            near.origin,
            len(near.lights),
            bulb_count,
            before,
        )
        studio.frame.write(frame)
        studio.frame.bind_to_uniform_block(0)
        self._card.bind()

    def _rasterise(self, view: CameraView) -> Targets:
        """Faces and depths of a view, unless they are there already."""
        targets = self._studio.targets(view.spec.width, view.spec.height)
        key = (self._number, self._stage.tick, view.spec, view.pose)
        if targets.key == key:
            return targets
        gl, town, drawn = self._studio.device.context, self._stage.town, self._stage.drawn
        away = np.linalg.norm(town.chunk_centre - view.eye, axis=1)
        seen = (away >= town.chunk_near) & (away < town.chunk_far)
        seen &= _in_view(view, town.chunk_centre, town.chunk_radius)
        chunks = np.flatnonzero(seen)
        # near first: what is hidden then fails the depth test early
        chunks = chunks[np.argsort(away[chunks] - town.chunk_radius[chunks])]
        actors = np.flatnonzero(_in_view(view, drawn.matrix[:, :, 3], drawn.radius))
        targets.raster.use()
        targets.raster.clear(depth=0.0)
        gl.enable_only(gl.DEPTH_TEST)
        gl.depth_func = ">"
        self._card.draw_raster(actors, chunks)
        targets.key = key
        return targets

    def _draw_shadows(self, view: ShadowView) -> None:
        """The sun's maps, unless they are there already."""
        studio, stage = self._studio, self._stage
        key = (self._number, stage.tick, tuple(view.centre))
        if studio.shadow_key == key:
            return
        gl, town, drawn, side = studio.device.context, stage.town, stage.drawn, studio.shadow_side
        target = studio.shadow_target
        target.viewport = 0, 0, 2 * side, 2 * side
        target.use()
        target.clear(depth=1.0)
        gl.enable_only(gl.DEPTH_TEST)
        gl.depth_func = "<"
        gl.polygon_offset = 1.5, 2.0
        away = np.linalg.norm(town.chunk_centre - view.centre, axis=1)
        for number, reach_m in enumerate(REACH_M):
            target.viewport = (number & 1) * side, (number >> 1) * side, side, side
            studio.shadow["reach_m"] = reach_m
            # trees as a camera sees them from there, or from the map's edge
            far_m = np.maximum(away, 0.9 * reach_m)
            chunks = (town.chunk_near <= far_m) & (town.chunk_far > far_m)
            chunks &= view.casters(number, town.chunk_centre, town.chunk_radius)
            actors = view.casters(number, drawn.matrix[:, :, 3], drawn.radius)
            self._card.draw_shadow(np.flatnonzero(actors), np.flatnonzero(chunks))
        gl.polygon_offset = 0.0, 0.0
        studio.shadow_key = key

    def _screen(self, targets: Targets, target: Any, screen: Any, out: np.ndarray) -> np.ndarray:
        """Run a pass over all pixels, and read what it wrote into `out`."""
        gl = self._studio.device.context
        targets.ids.use(0)
        targets.depth.use(1)
        target.use()
        gl.enable_only(gl.NOTHING)
        screen.render(vertices=3)
        dtype = "f1" if out.dtype == np.uint8 else "f4"
        target.read_into(out, components=out.shape[2], alignment=1, dtype=dtype)
        return out


def _in_view(view: CameraView, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(N,) which spheres touch the view, as `raster._outside`."""
    offset = centres - view.eye
    depth = offset @ view.axes[:, 0]
    inside = depth >= -radii
    for axis, pixels in ((1, view.spec.width), (2, view.spec.height)):
        half = 0.5 * pixels / view.focal_px
        inside &= np.abs(offset @ view.axes[:, axis]) - half * depth <= radii * math.sqrt(1.0 + half * half)
    return inside
