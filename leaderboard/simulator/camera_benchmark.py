"""The renderers side by side: the same views by each, how long a picture takes and how far they agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import (
    Box,
    CameraSpec,
    DrawnActor,
    LightColour,
    Tag,
    Weather,
)
from tickdrive.leaderboard.simulator.render.choice import choose_pictures
from tickdrive.leaderboard.simulator.render.renderer import Renderer
from tickdrive.leaderboard.simulator.scene.build import build_scene
from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.simulator.towns.network import RoadNetwork

WEATHERS: dict[str, Weather] = {
    "noon": Weather(sun_altitude_angle=55.0, sun_azimuth_angle=30.0),
    "dusk": Weather(sun_altitude_angle=4.0, sun_azimuth_angle=200.0),
    "rain": Weather(
        cloudiness=90.0,
        precipitation=80.0,
        precipitation_deposits=80.0,
        wetness=80.0,
        sun_altitude_angle=40.0,
    ),
    "fog": Weather(fog_density=50.0, fog_distance=5.0, sun_altitude_angle=40.0),
    "night": Weather(sun_altitude_angle=-30.0),
}
_KINDS = ("rgb", "semantic_segmentation")
_CAMERA_HEIGHT_M = 1.8
_WARM_UP = 3


@dataclass(frozen=True)
class CameraBenchmark:
    """What is drawn.

    Attributes:
        town: a shipped town.
        vehicles: cars, spread over the town; a third as many walkers stand at its roads.
        sizes: (width, height) in pixels.
        views: places for each weather and size.
        renderers: of `render.choice.RENDERERS`; the first one is what the others are compared with.
        pictures: folder for the first view of each weather and size, the renderers side by side; None: none.
    """

    town: str = "TickTown01"
    vehicles: int = 40
    sizes: tuple[tuple[int, int], ...] = ((512, 256), (800, 600), (1920, 1080))
    views: int = 20
    renderers: tuple[str, ...] = ("cpu", "egl")
    pictures: Path | None = None

    def run(self, tell: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
        """Draw, the renderers in turn at each place.

        Args:
            tell: told what happens.

        Returns:
            Rows with `weather`, `size`, `kind`, `renderer`, `p50_ms`, `p90_ms` (of a picture alone, from the
            call to its pixels in memory), `faster` (the first renderer's p50 over this one's), `mean_diff`
            (of rgb: mean absolute difference to the first renderer, of 255), `labels_equal` (share of
            pixels), `drawn_by`, `town`, `vehicles`, `views`.

        Raises:
            ConfigError: an unknown renderer.
            ServerError: there is no such town, or a renderer that cannot draw here.
        """
        tell(f"building {self.town}")
        network = RoadNetwork.from_xodr(self.town, read_town(self.town))
        scene = build_scene(network)
        makers = [choose_pictures(name) for name in self.renderers]
        renderers = [Renderer(scene, maker) for maker in makers]
        waypoints = network.map.generate_waypoints(9.0)
        places = [each.transform for each in waypoints[:: max(1, len(waypoints) // (3 * self.views))]]
        rng = np.random.default_rng(0)
        actors = town_actors([each.transform for each in waypoints], self.vehicles, rng)
        eyes = [places[k] for k in rng.permutation(len(places))[: self.views]]
        rows: list[dict[str, Any]] = []
        try:
            for width, height in self.sizes:
                spec = CameraSpec(width, height, 90.0)
                for weather in WEATHERS:
                    tell(f"{weather} at {width} x {height}")
                    rows += self._measure(renderers, actors, eyes, spec, weather, scene.signals.rows)
        finally:
            for renderer in renderers:
                renderer.close()
        by_name = dict(zip(self.renderers, makers, strict=True))
        for row in rows:
            row["drawn_by"] = by_name[row["renderer"]].description
            row.update(town=self.town, vehicles=self.vehicles, views=self.views)
        return rows

    def _measure(
        self,
        renderers: Sequence[Renderer],
        actors: Sequence[DrawnActor],
        eyes: Sequence[Any],
        spec: CameraSpec,
        weather: str,
        lights: Any,
    ) -> list[dict[str, Any]]:
        spent: dict[tuple[str, str], list[float]] = {(k, n): [] for k in _KINDS for n in self.renderers}
        apart: dict[tuple[str, str], list[float]] = {(k, n): [] for k in _KINDS for n in self.renderers}
        states = dict.fromkeys(lights, LightColour.RED)
        warm_up = eyes[:_WARM_UP]
        for number, eye in enumerate([*warm_up, *eyes]):
            pose = Pose(
                eye.location.x, eye.location.y, eye.location.z + _CAMERA_HEIGHT_M, -3.0, eye.rotation.yaw
            )
            for kind in _KINDS:
                drawn: list[np.ndarray] = []
                for name, renderer in zip(self.renderers, renderers, strict=True):
                    # a new tick: nothing of an earlier picture is to be used again
                    renderer.begin_tick(actors, states, WEATHERS[weather])
                    started = time.perf_counter()
                    picture = renderer.camera(kind, spec, pose)
                    ms = 1000.0 * (time.perf_counter() - started)
                    drawn.append(picture)
                    if number < len(warm_up):
                        continue
                    spent[kind, name].append(ms)
                    apart[kind, name].append(_difference(kind, drawn[0], picture))
                if self.pictures is not None and number == 0 and kind == "rgb":
                    name = f"{weather}-{spec.width}x{spec.height}.png"
                    cv2.imwrite(str(self.pictures / name), np.concatenate(drawn, axis=1)[..., :3])
        rows = []
        for kind in _KINDS:
            base = float(np.median(spent[kind, self.renderers[0]]))
            for name in self.renderers:
                median = float(np.median(spent[kind, name]))
                difference = round(float(np.mean(apart[kind, name])), 4)
                rows.append(
                    {
                        "weather": weather,
                        "size": f"{spec.width}x{spec.height}",
                        "kind": kind,
                        "renderer": name,
                        "p50_ms": round(median, 2),
                        "p90_ms": round(float(np.quantile(spent[kind, name], 0.9)), 2),
                        "faster": round(base / median, 2),
                        "mean_diff": difference if kind == "rgb" else None,
                        "labels_equal": None if kind == "rgb" else difference,
                    }
                )
        return rows


def town_actors(places: Sequence[Any], vehicles: int, rng: np.random.Generator) -> list[DrawnActor]:
    """Cars on a town's roads, and a third as many walkers beside them.

    Args:
        places: `carla.Transform` of lanes.
        vehicles: how many cars.
        rng: draws the places.
    """
    chosen = rng.permutation(len(places))[: vehicles + vehicles // 3]
    actors = []
    for number, index in enumerate(chosen):
        at, yaw = places[index].location, places[index].rotation.yaw
        if number < vehicles:
            body = Box(Pose(0.0, 0.0, 0.75), (2.4, 0.95, 0.75))
            colour = tuple(int(c) for c in rng.integers(20, 230, 3))
            actors.append(
                DrawnActor(
                    100 + number, "vehicle.lincoln.mkz_2020", Pose(at.x, at.y, at.z, 0.0, yaw), body,
                    (colour[0], colour[1], colour[2]), Tag.CAR, light_flags=8 if number % 2 else 0,
                )
            )  # fmt: skip
        else:
            right = places[index].get_right_vector()
            pose = Pose(at.x + 2.5 * right.x, at.y + 2.5 * right.y, at.z + 0.93, 0.0, yaw)
            actors.append(
                DrawnActor(
                    100 + number, "walker.pedestrian.0001", pose, Box(Pose(), (0.19, 0.19, 0.93)), (0, 0, 0),
                    Tag.PEDESTRIAN, stride_m=0.2 * number,
                )
            )  # fmt: skip
    return actors


def _difference(kind: str, first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of colours, share of equal pixels of labels."""
    if kind == "rgb":
        return float(np.abs(first[..., :3].astype(np.int16) - second[..., :3].astype(np.int16)).mean())
    return float((first == second).all(axis=2).mean())
