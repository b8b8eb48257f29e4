"""A stage on the card: its triangles, materials and actors in buffers, and the draw calls over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.render.gl import buffers
from tickdrive.leaderboard.simulator.render.gl.shadows import casting
from tickdrive.leaderboard.simulator.render.gl.studio import Studio
from tickdrive.leaderboard.simulator.render.lighting import SKY_HEIGHT, SKY_WIDTH
from tickdrive.leaderboard.simulator.render.local_lights import LocalLights
from tickdrive.leaderboard.simulator.render.stage import Stage


class GrowingBuffer:
    """A buffer on the card for arrays whose size changes.

    Attributes:
        buffer: moderngl's; another one after it had to grow.
    """

    def __init__(self, gl: Any) -> None:
        self._gl = gl
        self._used = 0
        self.buffer: Any = gl.buffer(reserve=64)

    def put(self, rows: np.ndarray) -> None:
        """Hold this array."""
        if self.buffer.size < rows.nbytes:
            # a little more than needed, for what grows from tick to tick
            self.buffer = self._gl.buffer(reserve=rows.nbytes + rows.nbytes // 4)
        else:
            self.buffer.orphan()
        if rows.nbytes:
            self.buffer.write(np.ascontiguousarray(rows))
        self._used = rows.nbytes

    def append(self, rows: np.ndarray) -> bool:
        """Hold this array behind what is there; whether the buffer is another one now."""
        end = self._used + rows.nbytes
        grown = self.buffer.size < end
        if grown:
            old, self.buffer = self.buffer, self._gl.buffer(reserve=2 * end)
            if self._used:
                self._gl.copy_buffer(self.buffer, old, self._used)
        self.buffer.write(np.ascontiguousarray(rows), offset=self._used)
        self._used = end
        return grown


class StageOnCard:
    """What of a stage the shaders read; to be used on the context's thread only.

    Attributes:
        sky: texture of the weather's sky.
    """

    def __init__(self, stage: Stage, studio: Studio) -> None:
        self._stage, self._studio = stage, studio
        self._gl = studio.device.context
        town = stage.town
        made = {binding: GrowingBuffer(self._gl) for binding in buffers.Binding}
        self._storage: dict[buffers.Binding, GrowingBuffer] = made
        made[buffers.Binding.TOWN_VERTICES].put(buffers.vertex_rows(town.vertices, town.vertex_normals))
        made[buffers.Binding.TOWN_FACES].put(
            buffers.face_rows(town.faces, town.materials, town.face_normals, town.instances)
        )
        cast = casting(town, stage.table.tag, stage.scene.ground.terrain)
        before = np.concatenate([[0], np.cumsum(cast)])
        self._cast_start = before[town.chunk_start]
        self._cast_count = before[town.chunk_end] - self._cast_start
        self._town_corners = self._gl.buffer(np.ascontiguousarray(town.faces[cast]))
        self._model_corners = GrowingBuffer(self._gl)
        self._calls = GrowingBuffer(self._gl)
        self._tick = -1
        self._sent_vertices = self._sent_faces = 0
        self.sky = self._gl.texture((SKY_WIDTH, SKY_HEIGHT), 3, dtype="f4")
        self._sky_of: np.ndarray | None = None
        self._number_actors(0)

    def take_tick(self) -> None:
        """Bring the tick's actors, materials and sky onto the card, once a tick."""
        stage = self._stage
        if self._tick == stage.tick:
            return
        models = stage.models
        v, f = self._sent_vertices, self._sent_faces
        if len(models.faces) > f:  # new models stand behind those that are there
            vertices = buffers.vertex_rows(models.vertices[v:], models.vertex_normals[v:])
            faces = buffers.face_rows(models.faces[f:], models.slots[f:], models.face_normals[f:])
            grown = self._storage[buffers.Binding.MODEL_VERTICES].append(vertices)
            self._storage[buffers.Binding.MODEL_FACES].append(faces)
            grown |= self._model_corners.append(models.faces[f:])
            self._sent_vertices, self._sent_faces = len(models.vertices), len(models.faces)
            if grown:
                self._number_actors(self._numbered)
        self._storage[buffers.Binding.ACTORS].put(buffers.actor_rows(stage.drawn))
        self._storage[buffers.Binding.MATERIALS].put(buffers.material_rows(stage.table))
        if len(stage.drawn.start) > self._numbered:
            self._number_actors(2 * len(stage.drawn.start))
        if self._sky_of is not stage.lighting.sky:
            self.sky.write(stage.lighting.sky.tobytes())
            self._sky_of = stage.lighting.sky
        self._tick = stage.tick

    def take_lights(self, near: LocalLights, bulbs: np.ndarray) -> None:
        """Bring what shines on and in a view onto the card; `bulbs` as of `buffers.bulb_rows`."""
        self._storage[buffers.Binding.LIGHTS].put(near.lights.astype(np.float32))
        self._storage[buffers.Binding.CELLS].put(
            np.concatenate([near.counts.ravel(), near.cells.ravel()]).astype(np.int32)
        )
        self._storage[buffers.Binding.BULBS].put(bulbs)

    def take_matrices_before(self, matrices: np.ndarray) -> None:
        """Bring the actors' (A, 3, 4) places of an earlier tick onto the card."""
        self._storage[buffers.Binding.BEFORE].put(matrices.astype(np.float32))

    def bind(self) -> None:
        """Let the shaders read all of it."""
        for binding, each in self._storage.items():
            each.buffer.bind_to_storage_buffer(int(binding))

    def _number_actors(self, count: int) -> None:
        """Give draw calls their actor: -1 for the town, then 0, 1, …; an attribute of their instance.

        The raster's vertices find their place by their number, which tells their triangle. Shadows need no
        triangle: there a corner that several share is placed once.
        """
        gl, storage = self._gl, self._storage
        self._numbered = count
        numbers = gl.buffer(np.arange(-1, count, dtype=np.int32))
        actor = (numbers, "1i/i", "actor")
        shadow = self._studio.shadow
        self._raster = gl.vertex_array(self._studio.raster, [actor])
        self._town_shadow = gl.vertex_array(
            shadow,
            [(storage[buffers.Binding.TOWN_VERTICES].buffer, "3f 12x", "position"), actor],
            index_buffer=self._town_corners,
        )
        self._model_shadow = gl.vertex_array(
            shadow,
            [(storage[buffers.Binding.MODEL_VERTICES].buffer, "3f 12x", "position"), actor],
            index_buffer=self._model_corners.buffer,
        )

    def draw_raster(self, actors: np.ndarray, chunks: np.ndarray) -> None:
        """Draw some actors and some chunks of the town with the raster's program."""
        drawn, town = self._stage.drawn, self._stage.town
        self._draw(
            self._raster,
            buffers.array_calls(
                np.concatenate([drawn.start[actors], town.chunk_start[chunks]]),
                np.concatenate([drawn.count[actors], (town.chunk_end - town.chunk_start)[chunks]]),
                np.concatenate([actors + 1, np.zeros(len(chunks), np.int64)]),
            ),
        )

    def draw_shadow(self, actors: np.ndarray, chunks: np.ndarray) -> None:
        """Draw some actors and some chunks of the town with the shadows' program."""
        drawn = self._stage.drawn
        chunks = chunks[self._cast_count[chunks] > 0]
        town = np.zeros(len(chunks), np.int64)
        self._draw(
            self._town_shadow,
            buffers.element_calls(self._cast_start[chunks], self._cast_count[chunks], town),
        )
        self._draw(
            self._model_shadow, buffers.element_calls(drawn.start[actors], drawn.count[actors], actors + 1)
        )

    def _draw(self, faces: Any, calls: np.ndarray) -> None:
        if len(calls):
            self._calls.put(calls)
            faces.render_indirect(self._calls.buffer, count=len(calls))
