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
from tickdrive.leaderboard.simulator.render.lighting import SKY_HEIGHT, SKY_WIDTH
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
        self._uploaded_tick = -1
        self._sent_vertices = self._sent_faces = 0
        self._no_lights = local_lights.no_lights()
        #: by binding, see the shaders
        self._storage: dict[int, Any] = {}
        self._draws: Any = None
        self._instances: Any = None
        self._raster_faces: Any = None
        self._shadow_faces: Any = None
        self._sky: Any = None
        self._sky_of: np.ndarray | None = None
        studio.device.do(self._upload_town)

    def close(self) -> None:
        """Let go of the town's buffers; the card's memory is free with its next job."""
        self._storage.clear()
        self._sky = None
        self._draws = self._instances = self._raster_faces = self._shadow_faces = None

    def camera(self, kind: str, view: CameraView) -> np.ndarray:
        """A picture, see `Pictures.camera`."""
        return self._studio.device.do(lambda: self._camera(kind, view))

    def flow(self, view: CameraView, before: CameraView, matrices_before: np.ndarray) -> np.ndarray:
        """Optical flow, see `Pictures.flow`."""
        return self._studio.device.do(lambda: self._flow(view, before, matrices_before))

    # -- on the context's thread --

    def _upload_town(self) -> None:
        gl, town = self._studio.device.context, self._stage.town
        self._store(1, buffers.vertex_rows(town.vertices, town.vertex_normals))
        self._store(2, buffers.face_rows(town.faces, town.materials, town.face_normals, town.instances))
        for binding in (3, 4, 7, 8, 9):  # none of them may be missing, though empty
            self._store(binding, np.zeros(16, np.float32))
        self._draws = gl.buffer(reserve=buffers.DRAW.itemsize)
        self._number_actors(0)

    def _store(self, binding: int, rows: np.ndarray) -> None:
        """Put an array into a storage buffer; a new one where the old is too small."""
        old = self._storage.get(binding)
        data = np.ascontiguousarray(rows)
        if old is None or old.size < data.nbytes:
            # a little more than needed, for what grows from tick to tick
            reserve = max(64, data.nbytes if old is None else data.nbytes + data.nbytes // 2)
            self._storage[binding] = old = self._studio.device.context.buffer(reserve=reserve)
        else:
            old.orphan()
        if data.nbytes:
            old.write(data)

    def _append(self, binding: int, rows: np.ndarray, after_bytes: int) -> None:
        """Put an array behind what a storage buffer holds."""
        old = self._storage[binding]
        end = after_bytes + rows.nbytes
        if old.size < end:
            gl = self._studio.device.context
            self._storage[binding] = gl.buffer(reserve=2 * end)
            if after_bytes:
                gl.copy_buffer(self._storage[binding], old, after_bytes)
        self._storage[binding].write(rows, offset=after_bytes)

    def _number_actors(self, count: int) -> None:
        """Give draw calls their actor: -1 for the town, then 0, 1, …; a per-instance attribute."""
        studio, gl = self._studio, self._studio.device.context
        self._numbered = count
        self._instances = gl.buffer(np.arange(-1, count, dtype=np.int32).tobytes())
        self._raster_faces = gl.vertex_array(studio.raster, [(self._instances, "1i/i", "actor")])
        self._shadow_faces = gl.vertex_array(studio.shadow, [(self._instances, "1i/i", "actor")])

    def _take_tick(self) -> None:
        """Bring the tick's actors and materials onto the card."""
        stage = self._stage
        if self._uploaded_tick == stage.tick:
            return
        models = stage.models
        v, f = self._sent_vertices, self._sent_faces
        if len(models.faces) > f:  # new models stand behind those that are there
            vertices = buffers.vertex_rows(models.vertices[v:], models.vertex_normals[v:])
            self._append(3, vertices, v * buffers.VERTEX_BYTES)
            faces = buffers.face_rows(models.faces[f:], models.slots[f:], models.face_normals[f:])
            self._append(4, faces, f * buffers.FACE_BYTES)
            self._sent_vertices, self._sent_faces = len(models.vertices), len(models.faces)
        self._store(5, buffers.actor_rows(stage.drawn))
        self._store(6, buffers.material_rows(stage.table))
        if len(stage.drawn.start) > self._numbered:
            self._number_actors(2 * len(stage.drawn.start))
        if self._sky_of is not stage.lighting.sky:
            if self._sky is None:
                self._sky = self._studio.device.context.texture((SKY_WIDTH, SKY_HEIGHT), 3, dtype="f4")
            self._sky.write(stage.lighting.sky.tobytes())
            self._sky_of = stage.lighting.sky
        self._uploaded_tick = stage.tick

    def _begin(
        self, view: CameraView, before: CameraView | None = None, colour: bool = False
    ) -> tuple[Targets, ShadowView]:
        """Tables, constants and the raster of a view."""
        self._take_tick()
        studio, stage = self._studio, self._stage
        light = stage.lighting
        near = self._no_lights
        bulbs = np.zeros((0, 8), np.float32)
        if colour:
            bulbs = buffers.bulb_rows(stage.lit, view)
            if len(stage.near_lights):
                near = local_lights.arrange(stage.near_lights, view.eye)
                self._store(7, near.lights.astype(np.float32))
                self._store(8, np.concatenate([near.counts.ravel(), near.cells.ravel()]))
            self._store(9, bulbs)
        shadow = ShadowView.around(view.eye, light.sun_direction)
        place = shadow.rows(studio.shadow_side)
        lights = len(near.lights)
        studio.frame.write(
            buffers.frame_rows(view, light, place, near.origin, lights, len(bulbs), before or view)
        )
        studio.frame.bind_to_uniform_block(0)
        for binding, buffer in self._storage.items():
            buffer.bind_to_storage_buffer(binding)
        return self._rasterise(view), shadow

    def _rasterise(self, view: CameraView) -> Targets:
        targets = self._studio.targets(view.spec.width, view.spec.height)
        key = (self._number, self._stage.tick, view.spec, view.pose)
        if targets.key == key:
            return targets
        gl, town = self._studio.device.context, self._stage.town
        away = np.linalg.norm(town.chunk_centre - view.eye, axis=1)
        seen = (away >= town.chunk_near) & (away < town.chunk_far)
        seen &= _in_view(view, town.chunk_centre, town.chunk_radius)
        chunks = np.flatnonzero(seen)
        # near first: what is hidden then fails the depth test early
        chunks = chunks[np.argsort(away[chunks] - town.chunk_radius[chunks])]
        drawn = self._stage.drawn
        actors = np.flatnonzero(_in_view(view, drawn.matrix[:, :, 3], drawn.radius))
        targets.raster.use()
        targets.raster.clear(depth=0.0)
        gl.enable_only(gl.DEPTH_TEST)
        gl.depth_func = ">"
        self._draw(self._raster_faces, actors, chunks)
        targets.key = key
        return targets

    def _draw(self, faces: Any, actors: np.ndarray, chunks: np.ndarray) -> None:
        """Draw some of the actors and of the town's chunks with one call."""
        town, drawn = self._stage.town, self._stage.drawn
        calls = np.zeros(len(actors) + len(chunks), buffers.DRAW)
        if not len(calls):
            return
        calls["instances"] = 1
        a, c = calls[: len(actors)], calls[len(actors) :]
        a["first"], a["count"], a["base"] = 3 * drawn.start[actors], 3 * drawn.count[actors], actors + 1
        c["first"] = 3 * town.chunk_start[chunks]
        c["count"] = 3 * (town.chunk_end - town.chunk_start)[chunks]
        if self._draws.size < calls.nbytes:
            self._draws = self._studio.device.context.buffer(reserve=2 * calls.nbytes)
        else:
            self._draws.orphan()
        self._draws.write(calls)
        faces.render_indirect(self._draws, count=len(calls))

    def _draw_shadows(self, view: ShadowView) -> None:
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
        for number, reach_m in enumerate(REACH_M):
            target.viewport = (number & 1) * side, (number >> 1) * side, side, side
            studio.shadow["reach_m"] = reach_m
            chunks = town.chunk_traced & view.near(town.chunk_centre, town.chunk_radius, reach_m)
            actors = view.near(drawn.matrix[:, :, 3], drawn.radius, reach_m)
            self._draw(self._shadow_faces, np.flatnonzero(actors), np.flatnonzero(chunks))
        gl.polygon_offset = 0.0, 0.0
        studio.shadow_key = key

    def _camera(self, kind: str, view: CameraView) -> np.ndarray:
        studio = self._studio
        targets, shadow = self._begin(view, colour=kind == "rgb")
        if kind == "rgb":
            if self._stage.lighting.casts_shadows:
                self._draw_shadows(shadow)
            screen = studio.shade_screen
            for unit, table in enumerate((studio.noise, self._sky, studio.tone, studio.shadow_maps), start=2):
                table.use(unit)
        else:
            screen = studio.labels_screen
            studio.labels["kind"] = _LABELS[kind]
        out = np.empty((view.spec.height, view.spec.width, 4), np.uint8)
        return self._screen(targets, targets.picture, screen, out)

    def _flow(self, view: CameraView, before: CameraView, matrices_before: np.ndarray) -> np.ndarray:
        self._store(7, matrices_before.astype(np.float32))
        targets, _ = self._begin(view, before)
        out = np.empty((view.spec.height, view.spec.width, 2), np.float32)
        return self._screen(targets, targets.flow, self._studio.flow_screen, out)

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
