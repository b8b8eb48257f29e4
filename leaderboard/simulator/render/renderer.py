"""Draws a town and its actors: cameras by `pictures`, LiDAR and single rays by Embree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose, rotation_matrix
from tickdrive.leaderboard.simulator.interfaces import (
    CameraSpec,
    DrawnActor,
    LidarSpec,
    LidarSweep,
    LightColour,
    Tag,
    Weather,
)
from tickdrive.leaderboard.simulator.render import lidar
from tickdrive.leaderboard.simulator.render.cpu_pictures import CpuMaker
from tickdrive.leaderboard.simulator.render.embree import TraceWorld
from tickdrive.leaderboard.simulator.render.pictures import CameraView, PicturesMaker
from tickdrive.leaderboard.simulator.render.stage import Stage
from tickdrive.leaderboard.simulator.scene.build import TownScene
from tickdrive.planner.errors import SensorError, did_you_mean

KINDS = ("rgb", "depth", "semantic_segmentation", "instance_segmentation", "normals")
_MOST_RAYS_THROUGH = 8


class Renderer:
    """Cameras, LiDAR and rays of one town.

    Call `begin_tick` once a tick, then any of the others; they change nothing, and equal calls give equal
    results bit for bit.

    Args:
        scene: the town.
        make_pictures: what draws the cameras; None for the processor with one thread.

    Raises:
        ServerError: Embree (package embreex) cannot be loaded.
    """

    def __init__(self, scene: TownScene, make_pictures: PicturesMaker | None = None) -> None:
        traced = [layer.mesh for layer in scene.layers if layer.traced]
        offsets = np.cumsum([0, *(len(m.vertices) for m in traced)])
        traced_faces = np.concatenate([m.faces + n for m, n in zip(traced, offsets[:-1], strict=True)])
        world = TraceWorld(np.concatenate([m.vertices for m in traced]), traced_faces)
        self._stage = Stage(scene, world)
        self._traced_tag = self._stage.table.tag[np.concatenate([m.materials for m in traced])]
        self._pictures = (make_pictures or CpuMaker())(self._stage)

    def close(self) -> None:
        """Release Embree's memory and what draws the cameras."""
        self._pictures.close()
        self._stage.world.close()

    def begin_tick(
        self,
        actors: Sequence[DrawnActor],
        light_states: Mapping[str, LightColour],
        weather: Weather,
        lamps: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Take over the state of the world that this tick's pictures show.

        Args:
            actors: everything that moves.
            light_states: colour by `TrafficLightSpec.sign_id`; a light not named is off.
            weather: CARLA's weather.
            lamps: colour times strength (N, 3) and switch (N,) of the street lamps, see
                `StreetLights.drawn`; None for lamps that nobody has touched.
        """
        self._stage.begin_tick(actors, light_states, weather, lamps)

    # -- cameras --

    def camera(self, kind: str, spec: CameraSpec, pose: Pose) -> np.ndarray:
        """A picture in CARLA's encoding.

        Args:
            kind: one of `KINDS`.
            spec: the camera.
            pose: of the sensor, world frame.

        Returns:
            (height, width, 4) uint8 BGRA, a new array.

        Raises:
            SensorError: an unknown kind, or a size or field of view that no camera has.
            ServerError: the graphics card failed.
        """
        if kind not in KINDS:
            raise SensorError(f"There is no camera of kind {kind!r}.", did_you_mean(kind, KINDS))
        return self._pictures.camera(kind, CameraView.of(spec, pose))

    def placements(self) -> dict[int, np.ndarray]:
        """(3, 4) model to world of every actor drawn in this tick, by id."""
        drawn = self._stage.drawn
        return dict(zip(drawn.actor_id.tolist(), drawn.matrix, strict=True))

    def flow(
        self, spec: CameraSpec, pose: Pose, pose_before: Pose, placements_before: Mapping[int, np.ndarray]
    ) -> np.ndarray:
        """Optical flow since an earlier tick.

        Args:
            spec: the camera.
            pose: of the sensor, world frame.
            pose_before: then.
            placements_before: what `placements` said then; an actor not in it counts as standing still.

        Returns:
            (height, width, 2) float32: motion to the right and upwards, as a share of half the image's
            width and height.

        Raises:
            SensorError: a size or field of view that no camera has.
            ServerError: the graphics card failed.
        """
        drawn = self._stage.drawn
        before = drawn.matrix.copy()
        for k, actor_id in enumerate(drawn.actor_id.tolist()):
            before[k] = placements_before.get(actor_id, drawn.matrix[k])
        return self._pictures.flow(CameraView.of(spec, pose), CameraView.of(spec, pose_before), before)

    # -- rays --

    def lidar(
        self, spec: LidarSpec, pose: Pose, start_angle_rad: float, delta_s: float, rng: np.random.Generator
    ) -> LidarSweep:
        """One tick's part of a LiDAR's rotation.

        Args:
            spec: the LiDAR.
            pose: of the sensor, world frame.
            start_angle_rad: horizontal angle after the last sweep (0 at first).
            delta_s: time since then.
            rng: draws the drop-off and the noise.
        """
        directions, per_channel, after = lidar.scan_directions(spec, start_angle_rad, delta_s)
        kept = lidar.kept_before(spec, len(directions), rng)
        rotation = rotation_matrix(pose.pitch, pose.yaw, pose.roll)
        channel = np.repeat(np.arange(spec.channels), per_channel)[kept]
        directions = directions[kept]
        distance, hit, tag, cosine = self._trace(pose.location, directions @ rotation.T, spec.range_m)
        seen = np.flatnonzero(distance > 0.0)
        reach = distance[seen]
        intensity = np.exp(-spec.atmosphere_attenuation_rate * reach).astype(np.float32)
        noise = rng.normal(0.0, spec.noise_stddev_m, len(seen)) if spec.noise_stddev_m > 0.0 else 0.0
        last = lidar.kept_after(spec, intensity, rng)
        seen = seen[last]
        points = np.empty((len(seen), 4), np.float32)
        points[:, :3] = directions[seen] * (reach + noise)[last, None]
        points[:, 3] = intensity[last]
        ids = np.concatenate([[0], self._stage.drawn.actor_id]).astype(np.uint32)
        counts = np.bincount(channel[seen], minlength=spec.channels).astype(np.uint32)
        return LidarSweep(
            after,
            counts,
            points,
            ids[hit[seen]],
            tag[seen].astype(np.uint32),
            cosine[seen].astype(np.float32),
        )

    def cast_ray(
        self, origin: np.ndarray, direction: np.ndarray, range_m: float, ignore_actor: int = 0
    ) -> tuple[float, Tag, int] | None:
        """What a ray meets first.

        Args:
            origin: (3,) world frame.
            direction: (3,) world frame, of any length but zero.
            range_m: how far it reaches.
            ignore_actor: id of an actor that it passes through, 0 for none.

        Returns:
            Distance in metres, tag, and actor id (0 for the town); None where nothing is met.
        """
        start = np.asarray(origin, np.float64)
        unit = np.asarray(direction, np.float64)
        length = float(np.linalg.norm(unit))
        if length == 0.0 or not np.isfinite(length):
            return None
        unit = unit / length
        gone = 0.0
        for _ in range(_MOST_RAYS_THROUGH):
            distance, hit, tag, _ = self._trace(start + gone * unit, unit[None], range_m - gone)
            if distance[0] <= 0.0:
                return None
            actor = int(self._stage.drawn.actor_id[hit[0] - 1]) if hit[0] else 0
            if actor == 0 or actor != ignore_actor:
                return gone + float(distance[0]), Tag(int(tag[0])), actor
            gone += float(distance[0]) + 0.01
            if gone >= range_m:
                return None
        return None

    def _trace(
        self, origin: np.ndarray, directions: np.ndarray, range_m: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        count = len(directions)
        distance, hit = np.empty(count), np.empty(count, np.int64)
        tag, cosine = np.empty(count, np.uint8), np.empty(count)
        lidar.trace(
            self._stage.world.handle,
            np.ascontiguousarray(origin, np.float64),
            np.ascontiguousarray(directions),
            range_m,
            self._traced_tag,
            self._stage.models.slots,
            self._stage.drawn.start,
            self._stage.drawn.matrix,
            self._stage.drawn.slot_tag,
            distance,
            hit,
            tag,
            cosine,
        )
        return distance, hit, tag, cosine
