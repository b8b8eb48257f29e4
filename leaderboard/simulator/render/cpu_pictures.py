"""Cameras drawn by compiled loops on the processor: bit for bit the same on every run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tickdrive.leaderboard.simulator.render import images, local_lights, motion, shading
from tickdrive.leaderboard.simulator.render.lighting import tone_table
from tickdrive.leaderboard.simulator.render.pictures import CameraView
from tickdrive.leaderboard.simulator.render.raster import rasterise
from tickdrive.leaderboard.simulator.render.stage import Stage


class CpuMaker:
    """Makes `CpuPictures`.

    Args:
        threads: that shade an image; one is enough for the rig, and the result is the same.
        why: why the processor draws, where that was not asked for.
    """

    def __init__(self, threads: int = 1, why: str = "") -> None:
        self._threads = max(1, threads)
        self.description = f"cpu ({why})" if why else "cpu"

    def __call__(self, stage: Stage) -> CpuPictures:
        """Pictures of a stage."""
        return CpuPictures(stage, self._threads)


class CpuPictures:
    """See `pictures.Pictures`; shadows are Embree's rays."""

    def __init__(self, stage: Stage, threads: int) -> None:
        self._stage = stage
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._tone = tone_table()
        self._noise = shading.noise_pyramid()
        self._cached: tuple[tuple[object, ...], np.ndarray, np.ndarray] | None = None

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def camera(self, kind: str, view: CameraView) -> np.ndarray:
        """A picture, see `Pictures.camera`."""
        spec, stage = view.spec, self._stage
        inverse_z, ids = self._rasterise(view)
        image = np.empty((spec.height * spec.width, 4), np.uint8)
        if kind == "depth":
            images.depth_image(inverse_z, image)
        elif kind == "rgb":
            self._shade(view, inverse_z, ids, image)
        elif kind == "normals":
            self._draw_normals(view, inverse_z, ids, image)
        else:
            drawn = stage.drawn
            images.label_image(
                ids,
                stage.town.materials,
                stage.town.instances,
                stage.models.slots,
                drawn.owner,
                drawn.start,
                drawn.first,
                drawn.material,
                drawn.actor_id,
                stage.table.tag,
                kind == "instance_segmentation",
                image,
            )
        return image.reshape(spec.height, spec.width, 4)

    def _draw_normals(
        self, view: CameraView, inverse_z: np.ndarray, ids: np.ndarray, image: np.ndarray
    ) -> None:
        town, models, drawn = self._stage.town, self._stage.models, self._stage.drawn
        motion.normal_image(
            inverse_z, ids, view.spec.width, view.spec.height, view.focal_px, view.eye, view.axes,
            town.vertices, town.faces, town.face_normals, town.vertex_normals, town.materials,
            models.vertices, models.faces, models.face_normals, models.vertex_normals, models.slots,
            drawn.owner, drawn.start, drawn.first, drawn.matrix, drawn.material, self._stage.table.smooth,
            image,
        )  # fmt: skip

    def flow(self, view: CameraView, before: CameraView, matrices_before: np.ndarray) -> np.ndarray:
        """Optical flow, see `Pictures.flow`."""
        spec, drawn = view.spec, self._stage.drawn
        inverse_z, ids = self._rasterise(view)
        out = np.empty((spec.height * spec.width, 2), np.float32)
        motion.flow_image(
            inverse_z, ids, spec.width, spec.height, view.focal_px, view.eye, view.axes,
            before.eye, before.axes, len(self._stage.town.faces), drawn.owner, drawn.matrix,
            matrices_before, out,
        )  # fmt: skip
        return out.reshape(spec.height, spec.width, 2)

    def _rasterise(self, view: CameraView) -> tuple[np.ndarray, np.ndarray]:
        key = (self._stage.tick, view.spec, view.pose)
        if self._cached is not None and self._cached[0] == key:
            return self._cached[1], self._cached[2]
        spec = view.spec
        pixels = spec.width * spec.height
        inverse_z, ids = np.empty(pixels, np.float32), np.empty(pixels, np.int32)
        town, models, drawn = self._stage.town, self._stage.models, self._stage.drawn
        rasterise(
            town.vertices,
            town.faces,
            town.chunk_start,
            town.chunk_end,
            town.chunk_centre,
            town.chunk_radius,
            town.chunk_near,
            town.chunk_far,
            models.vertices,
            models.faces,
            drawn.start,
            drawn.count,
            drawn.first,
            drawn.radius,
            drawn.matrix,
            view.eye,
            view.axes,
            view.focal_px,
            spec.width,
            spec.height,
            inverse_z,
            ids,
        )
        self._cached = (key, inverse_z, ids)
        return inverse_z, ids

    def _shade(self, view: CameraView, inverse_z: np.ndarray, ids: np.ndarray, image: np.ndarray) -> None:
        stage, spec, light = self._stage, view.spec, self._stage.lighting
        town, models, drawn, table = stage.town, stage.models, stage.drawn, stage.table
        near = local_lights.arrange(stage.near_lights, view.eye)

        def rows(first: int, last: int) -> None:
            shading.shade(
                inverse_z,
                ids,
                first,
                last,
                spec.width,
                spec.height,
                view.focal_px,
                view.eye,
                view.axes,
                town.vertices,
                town.faces,
                town.face_normals,
                town.vertex_normals,
                town.materials,
                models.vertices,
                models.faces,
                models.face_normals,
                models.vertex_normals,
                models.slots,
                drawn.owner,
                drawn.start,
                drawn.first,
                drawn.matrix,
                drawn.material,
                table.shade,
                table.smooth,
                table.albedo,
                table.emission,
                table.params,
                light.sun_direction,
                light.sun,
                light.sky_ambient,
                light.ground_ambient,
                light.fog_per_m,
                light.fog_start_m,
                light.wetness,
                light.night,
                light.sky,
                stage.world.handle,
                light.casts_shadows,
                self._noise,
                near.lights,
                near.cells,
                near.counts,
                near.origin,
                self._tone,
                image,
            )

        if self._pool is None:
            rows(0, spec.height)
        else:
            edges = 2 * np.linspace(0, spec.height // 2, self._threads + 1).astype(int)
            edges[-1] = spec.height
            list(self._pool.map(rows, edges[:-1].tolist(), edges[1:].tolist()))
        lit = stage.lit
        images.glow(
            inverse_z, spec.width, spec.height, view.focal_px, view.eye, view.axes,
            lit.positions, lit.facings, lit.colours, image,
        )  # fmt: skip
