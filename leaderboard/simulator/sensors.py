"""Sensors that look at the scene: cameras, LiDARs, radar and the obstacle detector."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tickdrive.leaderboard.simulator.actors import Actor, SensorActor, describe_town_part
from tickdrive.leaderboard.simulator.geometry import rotation_matrix
from tickdrive.leaderboard.simulator.interfaces import CameraSpec, LidarSpec
from tickdrive.leaderboard.simulator.protocol import frames
from tickdrive.leaderboard.simulator.protocol.frames import SensorKind
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.render.renderer import Renderer
from tickdrive.leaderboard.simulator.world import World

_MAX_PIXELS = 4096 * 4096
_MAX_POINTS_PER_SECOND = 10_000_000
_CAMERAS = {
    "sensor.camera.rgb": ("rgb", SensorKind.RGB),
    "sensor.camera.depth": ("depth", SensorKind.DEPTH),
    "sensor.camera.semantic_segmentation": ("semantic_segmentation", SensorKind.SEMANTIC),
    "sensor.camera.instance_segmentation": ("instance_segmentation", SensorKind.INSTANCE),
    "sensor.camera.normals": ("normals", SensorKind.NORMALS),
}


class View:
    """What a sensor may read in a tick. The renderer takes over the tick's actors when first asked for.

    Attributes:
        world: the world after the tick.
        delta_s: simulated seconds since this sensor's last frame.
        describe: an actor as `rpc::Actor`.
    """

    def __init__(self, world: World, describe: Callable[[Actor], list[Any]]) -> None:
        self.world = world
        self.describe = describe
        self.delta_s = 0.0
        self._renderer: Renderer | None = None

    @property
    def renderer(self) -> Renderer:
        """The town's renderer, holding this tick's actors."""
        if self._renderer is None:
            self._renderer = self.world.town.renderer
            self._renderer.begin_tick(
                self.world.drawn_actors(),
                self.world.light_colours(),
                self.world.weather,
                self.world.street_lights.drawn(),
            )
        return self._renderer

    def head(self, kind: SensorKind, actor: SensorActor) -> bytes:
        """Header of a frame of a sensor."""
        return frames.header(kind, self.world.frame, self.world.elapsed_s, actor.pose)


class Sensor(Protocol):
    """Makes a sensor's frames.

    Attributes:
        needs_rendering: silent in `no_rendering_mode`, as cameras are in CARLA.
    """

    needs_rendering: bool

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """The frame of this tick, None where there is nothing to tell."""
        ...

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """Called every tick, heard or not."""
        ...


class Attributes:
    """Reads an actor's attributes, which are text, and refuses what cannot be used."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def number(self, name: str, default: float, low: float = -1e9, high: float = 1e9) -> float:
        """A float within [low, high]."""
        text = self._actor.attribute(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise RequestError(
                f"{self._actor.type_id}: attribute {name}={text!r} is no number in [{low:g}, {high:g}]."
            )
        return value

    def whole(self, name: str, default: int, low: int = 0, high: int = 2**31 - 1) -> int:
        """An int within [low, high]."""
        return int(self.number(name, default, low, high))


def camera_spec(actor: SensorActor) -> CameraSpec:
    """Size and field of view that a camera was asked for.

    Raises:
        RequestError: an attribute cannot be used.
    """
    read = Attributes(actor)
    spec = CameraSpec(
        read.whole("image_size_x", 800, 1, 8192),
        read.whole("image_size_y", 600, 1, 8192),
        read.number("fov", 90.0, 1.0, 175.0),
    )
    if spec.width * spec.height > _MAX_PIXELS:
        raise RequestError(f"An image of {spec.width}x{spec.height} is too large.")
    return spec


class Camera:
    """Colour, depth, normals, semantic and instance cameras, in CARLA's encodings."""

    needs_rendering = True

    def __init__(self, actor: SensorActor, world: World) -> None:
        self._view_kind, self._kind = _CAMERAS[actor.type_id]
        self._spec = camera_spec(actor)

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """Cameras remember nothing."""

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Draw."""
        spec = self._spec
        picture = view.renderer.camera(self._view_kind, spec, actor.pose)
        return view.head(self._kind, actor) + frames.image(spec.width, spec.height, spec.fov_deg, picture)


class Lidar:
    """The ray-cast LiDAR and the semantic one: each frame is the part of the turn that the tick saw."""

    needs_rendering = False

    def __init__(self, actor: SensorActor, world: World) -> None:
        read = Attributes(actor)
        self._semantic = actor.type_id.endswith("semantic")
        plain = (
            {}
            if self._semantic
            else {
                "atmosphere_attenuation_rate": read.number("atmosphere_attenuation_rate", 0.004, 0.0),
                "dropoff_general_rate": read.number("dropoff_general_rate", 0.45, 0.0, 1.0),
                "dropoff_intensity_limit": read.number("dropoff_intensity_limit", 0.8, 0.0, 1.0),
                "dropoff_zero_intensity": read.number("dropoff_zero_intensity", 0.4, 0.0, 1.0),
                "noise_stddev_m": read.number("noise_stddev", 0.0, 0.0),
            }
        )
        # Unreal's semantic LiDAR loses no point
        lossless = {
            "dropoff_general_rate": 0.0,
            "dropoff_intensity_limit": 0.0,
            "dropoff_zero_intensity": 0.0,
        }
        self._spec = LidarSpec(
            channels=read.whole("channels", 32, 1, 1024),
            range_m=read.number("range", 10.0, 0.1, 10000.0),
            points_per_second=read.whole("points_per_second", 56000, 1, _MAX_POINTS_PER_SECOND),
            rotation_frequency_hz=read.number("rotation_frequency", 10.0, 1e-3, 1000.0),
            upper_fov_deg=read.number("upper_fov", 10.0, -90.0, 90.0),
            lower_fov_deg=read.number("lower_fov", -30.0, -90.0, 90.0),
            horizontal_fov_deg=read.number("horizontal_fov", 360.0, 1.0, 360.0),
            **(lossless if self._semantic else plain),
        )
        self._angle_rad = 0.0
        self._noise = np.random.default_rng(world.noise_seed(read.whole("noise_seed", 0)))

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """The mirror turns in `observe`."""

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Sweep."""
        sweep = view.renderer.lidar(self._spec, actor.pose, self._angle_rad, view.delta_s, self._noise)
        self._angle_rad = sweep.horizontal_angle_rad
        if not self._semantic:
            body = frames.lidar(sweep.horizontal_angle_rad, sweep.counts, sweep.points)
            return view.head(SensorKind.LIDAR, actor) + body
        points = np.zeros(len(sweep.points), frames.SEMANTIC_POINT)
        points["xyz"] = sweep.points[:, :3]
        points["cos_incidence"] = sweep.cos_incidence
        points["actor"] = sweep.hit_actor
        points["tag"] = sweep.hit_tag
        body = frames.lidar(sweep.horizontal_angle_rad, sweep.counts, points)
        return view.head(SensorKind.SEMANTIC_LIDAR, actor) + body


class Radar:
    """Random rays in a cone, with the closing speed of what each hits.

    Source: `Radar.cpp` (`SendLineTraces`): directions uniform in angle and radius of the field of view,
    velocity of the target relative to the sensor along the ray, positive when going away.
    """

    needs_rendering = False

    def __init__(self, actor: SensorActor, world: World) -> None:
        read = Attributes(actor)
        self._half_width = math.radians(read.number("horizontal_fov", 30.0, 0.1, 179.0)) / 2.0
        self._half_height = math.radians(read.number("vertical_fov", 30.0, 0.1, 179.0)) / 2.0
        self._range_m = read.number("range", 100.0, 0.1, 1000.0)
        self._points_per_second = read.whole("points_per_second", 1500, 1, 100_000)
        self._noise = np.random.default_rng(world.noise_seed(read.whole("noise_seed", 0)))

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """Radars remember nothing."""

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Cast."""
        count = max(1, int(self._points_per_second * view.delta_s))
        turn = self._noise.uniform(0.0, 2.0 * math.pi, count)
        radius = self._noise.uniform(0.0, 1.0, count)
        azimuth = radius * np.cos(turn) * self._half_width
        altitude = radius * np.sin(turn) * self._half_height
        axes = rotation_matrix(actor.pose.pitch, actor.pose.yaw, actor.pose.roll)
        rays = np.stack(
            [np.cos(altitude) * np.cos(azimuth), np.cos(altitude) * np.sin(azimuth), np.sin(altitude)], axis=1
        )
        directions = rays @ axes.T
        found = []
        for index, direction in enumerate(directions):
            hit = view.renderer.cast_ray(actor.pose.location, direction, self._range_m)
            if hit is None:
                continue
            distance, _, actor_id = hit
            target = view.world.actors.get(actor_id)
            away = (target.velocity if target else np.zeros(3)) - actor.velocity
            found.append((float(away @ direction), azimuth[index], altitude[index], distance))
        return view.head(SensorKind.RADAR, actor) + np.array(found, frames.RADAR_POINT).tobytes()


class ObstacleDetector:
    """Tells what is within `distance` ahead, along five rays over `hit_radius` (Unreal sweeps a sphere)."""

    needs_rendering = False

    def __init__(self, actor: SensorActor, world: World) -> None:
        read = Attributes(actor)
        self._distance_m = read.number("distance", 5.0, 0.01, 1000.0)
        self._radius_m = read.number("hit_radius", 0.5, 0.0, 10.0)
        self._only_dynamics = actor.attribute("only_dynamics", "false").lower() in ("true", "1")

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """Obstacle detectors remember nothing."""

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Cast, and tell of the nearest hit that is not the car itself."""
        axes = rotation_matrix(actor.pose.pitch, actor.pose.yaw, actor.pose.roll)
        nearest: tuple[float, Any, int] | None = None
        for right, up in ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)):
            origin = actor.pose.location + self._radius_m * (right * axes[:, 1] + up * axes[:, 2])
            hit = view.renderer.cast_ray(origin, axes[:, 0], self._distance_m)
            if hit is None or hit[2] == actor.parent_id or (self._only_dynamics and hit[2] == 0):
                continue
            if nearest is None or hit[0] < nearest[0]:
                nearest = hit
        if nearest is None:
            return None
        distance, tag, actor_id = nearest
        other = view.world.actors.get(actor_id)
        owner = view.world.actors.get(actor.parent_id, actor)
        told = view.describe(other) if other is not None else describe_town_part(tag)
        body = frames.message(view.describe(owner), told, float(distance))
        return view.head(SensorKind.OBSTACLE, actor) + body


def build_camera_like(actor: SensorActor, world: World) -> Sensor | None:
    """The sensor behind a blueprint that looks at the scene, None for any other.

    Raises:
        RequestError: an attribute cannot be used.
    """
    if actor.type_id in _CAMERAS:
        return Camera(actor, world)
    if actor.type_id in ("sensor.lidar.ray_cast", "sensor.lidar.ray_cast_semantic"):
        return Lidar(actor, world)
    if actor.type_id == "sensor.other.radar":
        return Radar(actor, world)
    if actor.type_id == "sensor.other.obstacle":
        return ObstacleDetector(actor, world)
    return None
