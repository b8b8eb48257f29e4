"""Draws a town and its actors: cameras by rasteriser, LiDAR and single rays by Embree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

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
from tickdrive.leaderboard.simulator.render import images, lidar, local_lights, motion, shading
from tickdrive.leaderboard.simulator.render.assets import (
    SLOTS,
    DrawnArrays,
    ModelLibrary,
    no_actors,
    pack_town,
)
from tickdrive.leaderboard.simulator.render.embree import TraceWorld
from tickdrive.leaderboard.simulator.render.lighting import Lighting, lighting_of, tone_table, weather_key
from tickdrive.leaderboard.simulator.render.models import (
    appearance,
    family_of,
    model_key,
)
from tickdrive.leaderboard.simulator.render.raster import rasterise
from tickdrive.leaderboard.simulator.scene.build import TownScene
from tickdrive.leaderboard.simulator.scene.mesh import Material, MaterialArrays
from tickdrive.leaderboard.simulator.scene.signals import BULB_LIT
from tickdrive.planner.errors import SensorError, did_you_mean

KINDS = ("rgb", "depth", "semantic_segmentation", "instance_segmentation", "normals")
_MOST_RAYS_THROUGH = 8
_LAMP_COLOUR = np.array([1.0, 0.86, 0.62])
_LAMP_EMISSION = 3.0
#: from this much of the night on, lamps and headlights light what is near them
_DUSK = 0.05
_GLOW = {
    LightColour.RED: (1.0, 0.10, 0.05),
    LightColour.YELLOW: (1.0, 0.62, 0.05),
    LightColour.GREEN: (0.1, 1.0, 0.5),
}


class Renderer:
    """Cameras, LiDAR and rays of one town.

    Call `begin_tick` once a tick, then any of the others; they change nothing, and equal calls give equal
    results bit for bit.

    Args:
        scene: the town.
        threads: threads that shade an image; one is enough for the rig, and the result is the same.

    Raises:
        ServerError: Embree (package embreex) cannot be loaded.
    """

    def __init__(self, scene: TownScene, threads: int = 1) -> None:
        self._scene = scene
        self._town = pack_town(scene)
        traced = [layer.mesh for layer in scene.layers if layer.traced]
        offsets = np.cumsum([0, *(len(m.vertices) for m in traced)])
        traced_faces = np.concatenate([m.faces + n for m, n in zip(traced, offsets[:-1], strict=True)])
        self._world = TraceWorld(np.concatenate([m.vertices for m in traced]), traced_faces)
        self._table = MaterialArrays.of(scene.materials)
        self._traced_tag = self._table.tag[np.concatenate([m.materials for m in traced])]
        self._models = ModelLibrary(self._world)
        self._rows_of: dict[tuple[object, ...], MaterialArrays] = {}
        self._tone = tone_table()
        self._noise = shading.noise_pyramid()
        self._lighting: Lighting | None = None
        self._lighting_key: tuple[float, ...] | None = None
        self._lit: tuple[np.ndarray, np.ndarray, np.ndarray] = (np.zeros((0, 3)),) * 3
        self._threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        self._cached: tuple[tuple[object, ...], np.ndarray, np.ndarray] | None = None
        self._drawn = no_actors()
        self._no_lights = local_lights.no_lights()
        self._near_lights = np.zeros((0, 12))
        self.begin_tick((), {}, Weather())

    def close(self) -> None:
        """Release Embree's memory and the threads."""
        if self._pool is not None:
            self._pool.shutdown()
        self._world.close()

    # -- the tick --

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
        self._cached = None
        key = weather_key(weather)
        if key != self._lighting_key:
            self._lighting, self._lighting_key = lighting_of(weather), key
        self._set_lights(light_states)
        glow = self._set_lamps(lamps)
        self._set_actors(actors)
        self._near_lights = self._local_lights(actors, glow)

    def _set_lights(self, light_states: Mapping[str, LightColour]) -> None:
        assert self._lighting is not None
        emission = self._table.emission
        signals = self._scene.signals
        for sign_id, rows in signals.rows.items():
            state = light_states.get(sign_id, LightColour.OFF)
            for colour, row in zip(
                (LightColour.RED, LightColour.YELLOW, LightColour.GREEN), rows, strict=True
            ):
                emission[row] = BULB_LIT[colour] if state == colour else (0.0, 0.0, 0.0)
        lit = [b for b in signals.bulbs if light_states.get(b.sign_id, LightColour.OFF) == b.colour]
        self._lit = (
            np.array([b.position for b in lit], np.float64).reshape(-1, 3),
            np.array([b.facing for b in lit], np.float64).reshape(-1, 3),
            np.array([_GLOW[b.colour] for b in lit], np.float64).reshape(-1, 3),
        )

    def _set_lamps(self, lamps: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """Light the lamps' glass; returns (N, 3) how bright each is."""
        assert self._lighting is not None
        rows = self._scene.lamps.rows
        if lamps is None:
            lamps = np.tile(_LAMP_COLOUR, (len(rows), 1)), np.full(len(rows), -1.0)
        colours, switch = lamps
        glow: np.ndarray = colours * np.where(switch < 0.0, self._lighting.night, switch)[:, None]
        self._table.emission[rows] = _LAMP_EMISSION * glow
        return glow

    def _local_lights(self, actors: Sequence[DrawnActor], glow: np.ndarray) -> np.ndarray:
        """(K, 12) lamps and headlights, none by day; see `local_lights`."""
        assert self._lighting is not None
        if self._lighting.night < _DUSK:
            return np.zeros((0, 12))
        beams = local_lights.beam_lights(actors, self._drawn.matrix, self._lighting.night > 0.5)
        return np.concatenate([local_lights.lamp_lights(self._scene.lamps.positions, glow), beams])

    def _set_actors(self, actors: Sequence[DrawnActor]) -> None:
        assert self._lighting is not None
        keys = [model_key(a.type_id, a.tag, a.box.extent, a.stride_m, a.open_doors) for a in actors]
        self._models.require(keys)
        count, static_rows = len(actors), len(self._scene.materials)
        self._reserve(static_rows + count * SLOTS)
        if not count:
            self._drawn = no_actors()
            self._world.set_instances([], np.zeros((0, 3, 4)))
            return
        models = self._models
        faces = np.array([models.count[k] for k in keys], np.int64)
        drawn = DrawnArrays(
            np.array([models.start[k] for k in keys], np.int64),
            faces,
            len(self._town.faces) + np.cumsum(faces) - faces,
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
                getattr(self._table, name)[at] = getattr(rows, name)
            drawn.slot_tag[k] = rows.tag
        self._drawn = drawn
        self._world.set_instances([models.handle[k] for k in keys], drawn.matrix)

    def _appearance(self, actor: DrawnActor) -> MaterialArrays:
        assert self._lighting is not None
        dark = float(self._lighting.night > 0.5)
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
        have = len(self._table.tag)
        if rows <= have:
            return
        for name in ("tag", "shade", "smooth", "albedo", "emission", "params"):
            old = getattr(self._table, name)
            new = np.zeros((rows + 16 * SLOTS, *old.shape[1:]), old.dtype)
            new[:have] = old
            setattr(self._table, name, new)

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
        """
        if kind not in KINDS:
            raise SensorError(f"There is no camera of kind {kind!r}.", did_you_mean(kind, KINDS))
        focal = _focal(spec)
        eye, axes = _eye(pose)
        inverse_z, ids = self._rasterise(spec, pose, eye, axes, focal)
        image = np.empty((spec.height * spec.width, 4), np.uint8)
        if kind == "depth":
            images.depth_image(inverse_z, image)
        elif kind == "rgb":
            self._shade(spec, focal, eye, axes, inverse_z, ids, image)
        elif kind == "normals":
            self._draw_normals(spec, focal, eye, axes, inverse_z, ids, image)
        else:
            drawn = self._drawn
            images.label_image(
                ids,
                self._town.materials,
                self._town.instances,
                self._models.slots,
                drawn.owner,
                drawn.start,
                drawn.first,
                drawn.material,
                drawn.actor_id,
                self._table.tag,
                kind == "instance_segmentation",
                image,
            )
        return image.reshape(spec.height, spec.width, 4)

    def _draw_normals(
        self, spec: CameraSpec, focal: float, eye: np.ndarray, axes: np.ndarray, inverse_z: np.ndarray,
        ids: np.ndarray, image: np.ndarray,
    ) -> None:  # fmt: skip
        town, models, drawn = self._town, self._models, self._drawn
        motion.normal_image(
            inverse_z, ids, spec.width, spec.height, focal, eye, axes, town.vertices, town.faces,
            town.face_normals, town.vertex_normals, town.materials, models.vertices, models.faces,
            models.face_normals, models.vertex_normals, models.slots, drawn.owner, drawn.start, drawn.first,
            drawn.matrix, drawn.material, self._table.smooth, image,
        )  # fmt: skip

    def placements(self) -> dict[int, np.ndarray]:
        """(3, 4) model to world of every actor drawn in this tick, by id."""
        drawn = self._drawn
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
        """
        focal = _focal(spec)
        eye, axes = _eye(pose)
        inverse_z, ids = self._rasterise(spec, pose, eye, axes, focal)
        drawn = self._drawn
        before = drawn.matrix.copy()
        for k, actor_id in enumerate(drawn.actor_id.tolist()):
            before[k] = placements_before.get(actor_id, drawn.matrix[k])
        out = np.empty((spec.height * spec.width, 2), np.float32)
        motion.flow_image(
            inverse_z, ids, spec.width, spec.height, focal, eye, axes, *_eye(pose_before),
            len(self._town.faces), drawn.owner, drawn.matrix, before, out,
        )  # fmt: skip
        return out.reshape(spec.height, spec.width, 2)

    def _rasterise(
        self, spec: CameraSpec, pose: Pose, eye: np.ndarray, axes: np.ndarray, focal: float
    ) -> tuple[np.ndarray, np.ndarray]:
        key = (spec, pose)
        if self._cached is not None and self._cached[0] == key:
            return self._cached[1], self._cached[2]
        pixels = spec.width * spec.height
        inverse_z, ids = np.empty(pixels, np.float32), np.empty(pixels, np.int32)
        town, models, drawn = self._town, self._models, self._drawn
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
            eye,
            axes,
            focal,
            spec.width,
            spec.height,
            inverse_z,
            ids,
        )
        self._cached = (key, inverse_z, ids)
        return inverse_z, ids

    def _shade(
        self, spec: CameraSpec, focal: float, eye: np.ndarray, axes: np.ndarray, inverse_z: np.ndarray,
        ids: np.ndarray, image: np.ndarray,
    ) -> None:  # fmt: skip
        town, models, drawn, table, light = self._town, self._models, self._drawn, self._table, self._lighting
        assert light is not None
        shadows = bool(light.sun.max() > 0.06 and light.sun_direction[2] > 0.01)
        near = local_lights.arrange(self._near_lights, eye) if len(self._near_lights) else self._no_lights

        def rows(first: int, last: int) -> None:
            shading.shade(
                inverse_z,
                ids,
                first,
                last,
                spec.width,
                spec.height,
                focal,
                eye,
                axes,
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
                self._world.handle,
                shadows,
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
        images.glow(inverse_z, spec.width, spec.height, focal, eye, axes, *self._lit, image)

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
        ids = np.concatenate([[0], self._drawn.actor_id]).astype(np.uint32)
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
            actor = int(self._drawn.actor_id[hit[0] - 1]) if hit[0] else 0
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
            self._world.handle,
            np.ascontiguousarray(origin, np.float64),
            np.ascontiguousarray(directions),
            range_m,
            self._traced_tag,
            self._models.slots,
            self._drawn.start,
            self._drawn.matrix,
            self._drawn.slot_tag,
            distance,
            hit,
            tag,
            cosine,
        )
        return distance, hit, tag, cosine


def _focal(spec: CameraSpec) -> float:
    """Focal length in pixels; SensorError for a camera that cannot be."""
    if spec.width < 1 or spec.height < 1 or not 0.0 < spec.fov_deg < 180.0:
        raise SensorError(f"No camera can have {spec.width}x{spec.height} pixels at {spec.fov_deg} degrees.")
    return 0.5 * spec.width / math.tan(math.radians(0.5 * spec.fov_deg))


def _eye(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) and columns forward, right, up (3, 3) of a camera."""
    return pose.location, np.ascontiguousarray(rotation_matrix(pose.pitch, pose.yaw, pose.roll))
