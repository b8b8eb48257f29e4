"""Towns ready to run, and the settings of an episode."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import CameraSpec, LidarSpec, Weather
from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.render.pictures import PicturesMaker
from tickdrive.leaderboard.simulator.render.renderer import Renderer
from tickdrive.leaderboard.simulator.scene.build import TownScene, build_scene
from tickdrive.leaderboard.simulator.towns.catalogue import (
    LARGE_MAPS,
    read_town,
    read_xodr,
    town_files,
    town_names,
)
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork
from tickdrive.planner.errors import did_you_mean

log = logging.getLogger(__name__)

#: CARLA's name for what `generate_opendrive_world` makes
OPENDRIVE_MAP = "OpenDriveMap"
_MAPS = "Carla/Maps/"
_KEPT_TOWNS = 3
#: step of the free-running world where the client sets none
DEFAULT_DELTA_S = 0.05
_LONGEST_DELTA_S = 1.0


@dataclass(frozen=True)
class Town:
    """A road network with everything that is derived from it once.

    Attributes:
        name: short name, `Town01`.
        network: roads, furniture, spawn points.
        scene: meshes, solids and ground.
        renderer: draws the scene.
    """

    name: str
    network: RoadNetwork
    scene: TownScene
    renderer: Renderer

    @property
    def map_name(self) -> str:
        """Name that `carla.Map.name` shows."""
        return _MAPS + self.name


def give_memory_back() -> None:
    """Return what was let go of to the system.

    glibc keeps freed memory that lies between what is still in use: a town's arrays, freed one town after the
    other, left 280 MB of 900 in its hands. Other C libraries have no such call and are left to themselves.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class TownLibrary:
    """Builds towns and keeps the last few, so that reloading one costs nothing.

    Args:
        make_pictures: what draws their cameras; None for the processor with one thread.
        folder: of further towns, as `<name>.xodr`; they go before shipped ones of the same name.

    Raises:
        ServerError: there is no such folder, or no such file in it.
    """

    def __init__(self, make_pictures: PicturesMaker | None = None, folder: Path | None = None) -> None:
        self._make_pictures = make_pictures
        self._files = {} if folder is None else town_files(folder)
        self._built: OrderedDict[tuple[str, str], Town] = OrderedDict()

    def names(self) -> tuple[str, ...]:
        """Names of all towns."""
        return tuple(sorted({*town_names(), *self._files}))

    def named(self, name: str) -> Town:
        """A town by its name or by CARLA's long form of it.

        CARLA has layered copies of towns with the same roads, `Town10HD_Opt`: here they are the town itself.

        Raises:
            RequestError: there is no such town.
            ServerError: its file cannot be read.
        """
        short = name.rsplit("/", 1)[-1]
        if short not in self.names():
            short = short.removesuffix("_Opt")
        if short not in self.names():
            if short in LARGE_MAPS:
                raise RequestError(
                    f"{short} is one of CARLA's large maps, which this server does not have.",
                    f"Give its OpenDRIVE file: --xodr {short}.xodr, or --towns with its folder.",
                )
            raise RequestError(f"There is no map {short!r}.", did_you_mean(short, self.names()))
        path = self._files.get(short)
        return self.from_xodr(short, read_town(short) if path is None else read_xodr(path))

    def from_xodr(self, name: str, xodr: str) -> Town:
        """A town from the text of an OpenDRIVE file.

        Raises:
            TickdriveError: the file is not OpenDRIVE that CARLA's parser reads.
        """
        key = (name, hashlib.sha256(xodr.encode("utf-8", "surrogateescape")).hexdigest())
        town = self._built.get(key)
        if town is None:
            started = time.perf_counter()
            network = RoadNetwork.from_xodr(name, xodr)
            scene = build_scene(network)
            renderer = Renderer(scene, self._make_pictures)
            _warm_up(renderer)
            town = Town(name, network, scene, renderer)
            log.info("built %s in %.1f s", name, time.perf_counter() - started)
        self._built[key] = town
        self._built.move_to_end(key)
        if len(self._built) > _KEPT_TOWNS:
            self._built.popitem(last=False)
            give_memory_back()
        return town


def _warm_up(renderer: Renderer) -> None:
    """Compile what the first frame needs now, not inside a client's first tick."""
    renderer.begin_tick((), {}, Weather())
    above = Pose(z=3.0)
    for kind in ("rgb", "depth", "semantic_segmentation", "instance_segmentation"):
        renderer.camera(kind, CameraSpec(16, 16, 90.0), above)
    spec = LidarSpec(channels=2, points_per_second=2000)
    renderer.lidar(spec, above, 0.0, DEFAULT_DELTA_S, np.random.default_rng(0))


@dataclass(frozen=True, slots=True)
class EpisodeSettings:
    """`carla.WorldSettings`; what this server has no use for is kept and given back in `rest`."""

    synchronous: bool = False
    no_rendering: bool = False
    fixed_delta_s: float | None = None
    rest: tuple[Any, ...] = (True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True)

    @property
    def delta_s(self) -> float:
        """Simulated seconds of one tick."""
        return self.fixed_delta_s if self.fixed_delta_s is not None else DEFAULT_DELTA_S

    def pack(self) -> list[Any]:
        """As CARLA sends it."""
        delta = [False] if self.fixed_delta_s is None else [True, self.fixed_delta_s]
        return [self.synchronous, self.no_rendering, delta, *self.rest]

    @classmethod
    def unpack(cls, value: Any) -> EpisodeSettings:
        """Read what a client sends.

        Raises:
            RequestError: a value is of the wrong type or the step is not within (0, 1] s.
        """
        items = wire.sequence(value, "settings", 3, 16)
        delta = wire.optional(items[2], "settings.fixed_delta_seconds")
        delta_s = None if delta is None else wire.number(delta, "settings.fixed_delta_seconds")
        if delta_s == 0.0:  # CARLA's clients also write 0 for "variable"
            delta_s = None
        if delta_s is not None and not 0.0 < delta_s <= _LONGEST_DELTA_S:
            raise RequestError(
                f"fixed_delta_seconds {delta_s} is outside (0, {_LONGEST_DELTA_S}].", "0.05 is usual."
            )
        settings = cls(
            wire.boolean(items[0], "settings.synchronous_mode"),
            wire.boolean(items[1], "settings.no_rendering_mode"),
            delta_s,
        )
        return replace(settings, rest=_rest(items[3:], settings.rest))


def _rest(items: Sequence[Any], defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    out = list(defaults)
    for index, (item, default) in enumerate(zip(items, defaults, strict=False)):
        if isinstance(default, bool):
            out[index] = wire.boolean(item, f"settings[{index + 3}]")
        elif isinstance(default, int):
            out[index] = wire.integer(item, f"settings[{index + 3}]")
        else:
            out[index] = wire.number(item, f"settings[{index + 3}]")
    return tuple(out)
