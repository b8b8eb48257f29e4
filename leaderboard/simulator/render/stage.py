"""What there is to see in a tick: the town, its light, and the actors, as the arrays that are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tickdrive.leaderboard.simulator.interfaces import DrawnActor, LightColour, Weather
from tickdrive.leaderboard.simulator.render import local_lights
from tickdrive.leaderboard.simulator.render.assets import (
    SLOTS,
    DrawnArrays,
    ModelLibrary,
    no_actors,
    pack_town,
)
from tickdrive.leaderboard.simulator.render.embree import TraceWorld
from tickdrive.leaderboard.simulator.render.lighting import Lighting, lighting_of, weather_key
from tickdrive.leaderboard.simulator.render.models import appearance, family_of, model_key
from tickdrive.leaderboard.simulator.scene.build import TownScene
from tickdrive.leaderboard.simulator.scene.mesh import Material, MaterialArrays
from tickdrive.leaderboard.simulator.scene.signals import BULB_LIT

_LAMP_COLOUR = np.array([1.0, 0.86, 0.62])
_LAMP_EMISSION = 3.0
#: from this much of the night on, lamps and headlights light what is near them
_DUSK = 0.05
_GLOW = {
    LightColour.RED: (1.0, 0.10, 0.05),
    LightColour.YELLOW: (1.0, 0.62, 0.05),
    LightColour.GREEN: (0.1, 1.0, 0.5),
}


@dataclass(frozen=True)
class LitBulbs:
    """Bulbs of traffic lights that are on, N of them.

    Attributes:
        positions: (N, 3) metres, world frame.
        facings: (N, 3) unit vectors.
        colours: (N, 3) r, g, b 0-1.
    """

    positions: np.ndarray
    facings: np.ndarray
    colours: np.ndarray


class Stage:
    """A town and what moves in it, as of the last `begin_tick`.

    Attributes:
        scene: the town.
        town: its triangles.
        models: those of the actors, each in its own frame.
        world: what rays meet, actors included.
        table: materials: the town's rows, then `SLOTS` for each actor.
        lighting: the weather's.
        drawn: the actors.
        lit: bulbs that are on.
        near_lights: (K, 12) lamps and headlights in the dark, see `local_lights`; none by day.
        tick: grows with every `begin_tick`.
    """

    def __init__(self, scene: TownScene, world: TraceWorld) -> None:
        self.scene = scene
        self.town = pack_town(scene)
        self.world = world
        self.models = ModelLibrary(world)
        self.table = MaterialArrays.of(scene.materials)
        self._rows_of: dict[tuple[object, ...], MaterialArrays] = {}
        self.lighting: Lighting = lighting_of(Weather())
        self._lighting_key = weather_key(Weather())
        self.tick = 0
        self.begin_tick((), {}, Weather())

    def begin_tick(
        self,
        actors: Sequence[DrawnActor],
        light_states: Mapping[str, LightColour],
        weather: Weather,
        lamps: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Take over the state of the world; see `Renderer.begin_tick`."""
        self.tick += 1
        key = weather_key(weather)
        if key != self._lighting_key:
            self.lighting, self._lighting_key = lighting_of(weather), key
        self.lit = self._set_lights(light_states)
        glow = self._set_lamps(lamps)
        self.drawn = self._set_actors(actors)
        self.near_lights = self._local_lights(actors, glow)

    def _set_lights(self, light_states: Mapping[str, LightColour]) -> LitBulbs:
        emission = self.table.emission
        signals = self.scene.signals
        for sign_id, rows in signals.rows.items():
            state = light_states.get(sign_id, LightColour.OFF)
            for colour, row in zip(
                (LightColour.RED, LightColour.YELLOW, LightColour.GREEN), rows, strict=True
            ):
                emission[row] = BULB_LIT[colour] if state == colour else (0.0, 0.0, 0.0)
        lit = [b for b in signals.bulbs if light_states.get(b.sign_id, LightColour.OFF) == b.colour]
        return LitBulbs(
            np.array([b.position for b in lit], np.float64).reshape(-1, 3),
            np.array([b.facing for b in lit], np.float64).reshape(-1, 3),
            np.array([_GLOW[b.colour] for b in lit], np.float64).reshape(-1, 3),
        )

    def _set_lamps(self, lamps: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """Light the lamps' glass; returns (N, 3) how bright each is."""
        rows = self.scene.lamps.rows
        if lamps is None:
            lamps = np.tile(_LAMP_COLOUR, (len(rows), 1)), np.full(len(rows), -1.0)
        colours, switch = lamps
        glow: np.ndarray = colours * np.where(switch < 0.0, self.lighting.night, switch)[:, None]
        self.table.emission[rows] = _LAMP_EMISSION * glow
        return glow

    def _local_lights(self, actors: Sequence[DrawnActor], glow: np.ndarray) -> np.ndarray:
        """(K, 12) lamps and headlights, none by day; see `local_lights`."""
        if self.lighting.night < _DUSK:
            return np.zeros((0, 12))
        beams = local_lights.beam_lights(actors, self.drawn.matrix, self.lighting.night > 0.5)
        return np.concatenate([local_lights.lamp_lights(self.scene.lamps.positions, glow), beams])

    def _set_actors(self, actors: Sequence[DrawnActor]) -> DrawnArrays:
        keys = [model_key(a.type_id, a.tag, a.box.extent, a.stride_m, a.open_doors) for a in actors]
        self.models.require(keys)
        count, static_rows = len(actors), len(self.scene.materials)
        self._reserve(static_rows + count * SLOTS)
        if not count:
            self.world.set_instances([], np.zeros((0, 3, 4)))
            return no_actors()
        models = self.models
        faces = np.array([models.count[k] for k in keys], np.int64)
        drawn = DrawnArrays(
            np.array([models.start[k] for k in keys], np.int64),
            faces,
            len(self.town.faces) + np.cumsum(faces) - faces,
            np.array([models.radius[k] for k in keys]),
            np.stack([(a.pose.matrix() @ a.box.pose.matrix())[:3] for a in actors]),
            static_rows + SLOTS * np.arange(count, dtype=np.int64),
            np.array([a.actor_id for a in actors], np.int64),
            np.zeros((count, SLOTS), np.uint8),
            np.repeat(np.arange(count, dtype=np.int32), faces),
        )
        for k, actor in enumerate(actors):
            rows = self._appearance(actor)
            at = slice(static_rows + k * SLOTS, static_rows + (k + 1) * SLOTS)
            for name in ("tag", "shade", "smooth", "albedo", "emission", "params"):
                getattr(self.table, name)[at] = getattr(rows, name)
            drawn.slot_tag[k] = rows.tag
        self.world.set_instances([models.handle[k] for k in keys], drawn.matrix)
        return drawn

    def _appearance(self, actor: DrawnActor) -> MaterialArrays:
        dark = float(self.lighting.night > 0.5)
        key = (actor.type_id, actor.colour_rgb, actor.tag, actor.light_flags, dark)
        rows = self._rows_of.get(key)
        if rows is None:
            if len(self._rows_of) > 4096:
                self._rows_of.clear()
            family = family_of(actor.type_id, actor.tag)
            materials: tuple[Material, ...] = appearance(
                family, actor.type_id, actor.colour_rgb, actor.tag, actor.light_flags, dark
            )
            rows = self._rows_of[key] = MaterialArrays.of(materials)
        return rows

    def _reserve(self, rows: int) -> None:
        """Grow the material table, which keeps the town's rows in front."""
        have = len(self.table.tag)
        if rows <= have:
            return
        for name in ("tag", "shade", "smooth", "albedo", "emission", "params"):
            old = getattr(self.table, name)
            new = np.zeros((rows + 16 * SLOTS, *old.shape[1:]), old.dtype)
            new[:have] = old
            setattr(self.table, name, new)
