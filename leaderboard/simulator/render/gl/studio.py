"""What all towns share on the card: programs, targets, tables, the shadow maps."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tickdrive.leaderboard.simulator.render import local_lights, shading
from tickdrive.leaderboard.simulator.render.gl.device import GlDevice
from tickdrive.leaderboard.simulator.render.lighting import SKY_HEIGHT, SKY_LOW, SKY_WIDTH, tone_table
from tickdrive.leaderboard.simulator.scene.mesh import Shade

SHADOW_SIDE = 1024
_KEPT_SIZES = 8
#: names in the shaders, by texture unit
_TEXTURES = ("raster_ids", "raster_depth", "noise", "sky", "tone", "shadow_maps")
_GLSL = "#version 430\n"


class Studio:
    """What all towns share on the card: programs, targets of each size, tables, the shadow maps.

    Args:
        device: the card.
        shadow_side: texels of a shadow map's side.
    """

    def __init__(self, device: GlDevice, shadow_side: int = SHADOW_SIDE) -> None:
        self.device = device
        self.shadow_side = shadow_side
        self._sizes: OrderedDict[tuple[int, int], Targets] = OrderedDict()
        self._numbers = itertools.count()
        device.do(self._build)

    def _build(self) -> None:
        gl = self.device.context
        stage, surface = _source("stage.glsl"), _source("surface.glsl")
        screen = _GLSL + _source("screen.vert")

        def screen_program(name: str, constants: str = "") -> Any:
            body = _source(name).replace("//@constants", constants)
            return gl.program(screen, _GLSL + stage + surface + body)

        drawn = _GLSL + stage + _source("drawn.glsl")
        self.raster = gl.program(drawn + _source("raster.vert"), _GLSL + _source("raster.frag"))
        self.shadow = gl.program(_GLSL + stage + _source("shadow.vert"), _GLSL + _source("shadow.frag"))
        self.labels = screen_program("labels.frag")
        self.flow = screen_program("flow.frag")
        self.shade = screen_program("shade.frag", _constants())
        for program in (self.labels, self.flow, self.shade):
            for unit, name in enumerate(_TEXTURES):
                if name in program:
                    program[name] = unit
        self.labels_screen = gl.vertex_array(self.labels, [])
        self.flow_screen = gl.vertex_array(self.flow, [])
        self.shade_screen = gl.vertex_array(self.shade, [])
        n = shading.NOISE_SIZE
        self.noise = gl.texture_array(
            (n, n, shading.NOISE_LEVELS), 1, shading.noise_pyramid().tobytes(), dtype="f4"
        )
        tone = tone_table()
        self.tone = gl.texture((len(tone), 1), 1, tone.tobytes())
        self.frame = gl.buffer(reserve=17 * 16)
        self.shadow_maps = gl.depth_texture((2 * self.shadow_side,) * 2)
        self.shadow_maps.compare_func = "<="
        self.shadow_maps.filter = gl.LINEAR, gl.LINEAR
        self.shadow_target = gl.framebuffer(depth_attachment=self.shadow_maps)
        #: whose shadows, of which tick and place, the maps hold
        self.shadow_key: tuple[object, ...] | None = None

    def new_number(self) -> int:
        """A number that no other town's pictures have."""
        return next(self._numbers)

    def targets(self, width: int, height: int) -> Targets:
        """Targets of a size; the last few sizes are kept."""
        found = self._sizes.pop((width, height), None)
        if found is None:
            found = Targets.make(self.device.context, width, height)
        self._sizes[width, height] = found
        if len(self._sizes) > _KEPT_SIZES:
            self._sizes.popitem(last=False)
        return found


@dataclass
class Targets:
    """What a picture of one size is drawn into; `key` tells what the raster shows."""

    ids: Any
    depth: Any
    raster: Any
    picture: Any
    flow: Any
    key: tuple[object, ...] | None = None

    @classmethod
    def make(cls, gl: Any, width: int, height: int) -> Targets:
        """New ones; the raster is (face, actor) and 1 / z."""
        size = width, height
        ids, depth = gl.texture(size, 2, dtype="i4"), gl.texture(size, 1, dtype="f4")
        raster = gl.framebuffer([ids, depth], gl.depth_renderbuffer(size))
        picture = gl.framebuffer([gl.renderbuffer(size, 4)])
        flow = gl.framebuffer([gl.renderbuffer(size, 2, dtype="f4")])
        return cls(ids, depth, raster, picture, flow)


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(f"shaders/{name}").read_text(encoding="utf-8")


def _constants() -> str:
    """The processor's constants, for the colour program."""
    whole = {
        **{shade.name: int(shade) for shade in Shade},
        "NOISE_SIZE": shading.NOISE_SIZE,
        "NOISE_LEVELS": shading.NOISE_LEVELS,
        "SKY_WIDTH": SKY_WIDTH,
        "SKY_HEIGHT": SKY_HEIGHT,
        "TONE_SIZE": len(tone_table()),
        "CELLS": local_lights.CELLS,
        "MOST_IN_CELL": local_lights.MOST_IN_CELL,
    }
    real = {
        "SKY_LOW": SKY_LOW,
        "SHADOW_REACH_M": shading.SHADOW_REACH_M,
        "CELL_M": local_lights.CELL_M,
    }
    lines = [f"const int {name} = {value};" for name, value in whole.items()]
    return "\n".join(lines + [f"const float {name} = {value!r};" for name, value in real.items()])
