"""Cameras that compare a tick with the one before: optical flow and the event camera (DVS)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tickdrive.leaderboard.simulator.actors import SensorActor
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.protocol import frames
from tickdrive.leaderboard.simulator.protocol.frames import SensorKind
from tickdrive.leaderboard.simulator.sensors import Attributes, View, camera_spec
from tickdrive.leaderboard.simulator.world import World

_LEAST_THRESHOLD = 0.01
_MOST_EVENTS = 2_000_000
_LUMA_BGR = np.array([0.114, 0.587, 0.299])


class FlowCamera:
    """Optical flow since its last frame: x to the right, y upwards, as shares of half the image's size."""

    needs_rendering = True

    def __init__(self, actor: SensorActor, world: World) -> None:
        self._spec = camera_spec(actor)
        self._before: tuple[Pose, dict[int, np.ndarray]] | None = None

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """What was drawn is remembered in `observe`."""

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Compare; the first frame shows no motion."""
        spec, renderer = self._spec, view.renderer
        placements = renderer.placements()
        pose, earlier = self._before or (actor.pose, placements)
        flow = renderer.flow(spec, actor.pose, pose, earlier)
        self._before = actor.pose, placements
        return view.head(SensorKind.OPTICAL_FLOW, actor) + frames.image(
            spec.width, spec.height, spec.fov_deg, flow
        )


class EventCamera:
    """A dynamic vision sensor: an event each time a pixel's brightness has changed by a threshold.

    Source: Rebecq, Gehrig, Scaramuzza: ESIM, an Open Event Camera Simulator (CoRL 2018), which CARLA's
    `DVSCamera.cpp` follows. Brightness is linear between frames, so an event lies between two ticks.
    """

    needs_rendering = True

    def __init__(self, actor: SensorActor, world: World) -> None:
        read = Attributes(actor)
        self._spec = camera_spec(actor)
        self._thresholds = tuple(
            (read.number(f"{side}_threshold", 0.3, 0.0), read.number(f"sigma_{side}_threshold", 0.0, 0.0))
            for side in ("positive", "negative")
        )
        self._refractory_ns = read.whole("refractory_period_ns", 0)
        self._logarithmic = actor.attribute("use_log", "true").lower() in ("true", "1")
        self._epsilon = read.number("log_eps", 0.001, 1e-9)
        self._noise = np.random.default_rng(world.noise_seed(0))
        self._before: tuple[int, np.ndarray] | None = None
        pixels = self._spec.width * self._spec.height
        self._level = np.zeros(pixels)
        self._last_ns = np.full(pixels, -(2**62), np.int64)

    def track(self, actor: SensorActor, delta_s: float) -> None:
        """Brightness is remembered in `observe`."""

    def observe(self, actor: SensorActor, view: View) -> bytes | None:
        """Events since the last frame, in the order of time; nothing where there is none."""
        spec = self._spec
        picture = view.renderer.camera("rgb", spec, actor.pose).reshape(-1, 4)
        brightness = picture[:, :3] @ _LUMA_BGR / 255.0
        if self._logarithmic:
            brightness = np.log(self._epsilon + brightness)
        now_ns = round(view.world.elapsed_s * 1e9)
        if self._before is None:
            self._before, self._level = (now_ns, brightness), brightness.copy()
            return None
        events = self._events(now_ns, brightness)
        self._before = now_ns, brightness
        if not len(events):
            return None
        return view.head(SensorKind.DVS, actor) + frames.image(spec.width, spec.height, spec.fov_deg, events)

    def _events(self, now_ns: int, brightness: np.ndarray) -> np.ndarray:
        assert self._before is not None
        then_ns, dark = self._before
        found: list[Any] = []
        for (mean, sigma), sign in zip(self._thresholds, (1.0, -1.0), strict=True):
            at = np.flatnonzero(sign * (brightness - dark) > 0.0)
            threshold = np.full(len(at), mean)
            if sigma > 0.0:
                threshold += self._noise.normal(0.0, sigma, len(at))
            threshold = np.maximum(threshold, _LEAST_THRESHOLD)
            count = np.floor(sign * (brightness[at] - self._level[at]) / threshold).astype(int)
            at, threshold, count = at[count > 0], threshold[count > 0], count[count > 0]
            if not len(at):
                continue
            pixel = np.repeat(at, count)
            step = np.arange(len(pixel)) - np.repeat(np.cumsum(count) - count, count) + 1
            level = self._level[pixel] + sign * step * np.repeat(threshold, count)
            part = (level - dark[pixel]) / (brightness[pixel] - dark[pixel])
            time_ns = then_ns + np.round(np.clip(part, 0.0, 1.0) * (now_ns - then_ns)).astype(np.int64)
            self._level[at] += sign * count * threshold
            found.append((pixel, time_ns, np.full(len(pixel), sign > 0.0)))
        if not found:
            return np.zeros(0, frames.DVS_EVENT)
        pixel, time_ns, positive = (np.concatenate(each) for each in zip(*found, strict=True))
        order = np.argsort(time_ns, kind="stable")
        pixel, time_ns, positive = pixel[order], time_ns[order], positive[order]
        if self._refractory_ns:
            keep = self._rested(pixel, time_ns)
            pixel, time_ns, positive = pixel[keep], time_ns[keep], positive[keep]
        events = np.zeros(min(len(pixel), _MOST_EVENTS), frames.DVS_EVENT)
        for name, values in (
            ("x", pixel % self._spec.width),
            ("y", pixel // self._spec.width),
            ("t", time_ns),
            ("pol", positive),
        ):
            events[name] = values[: len(events)]
        return events

    def _rested(self, pixel: np.ndarray, time_ns: np.ndarray) -> np.ndarray:
        """Which events come when their pixel has rested for the refractory period."""
        keep = np.zeros(len(pixel), bool)
        for k, (p, t) in enumerate(zip(pixel.tolist(), time_ns.tolist(), strict=True)):
            if t - self._last_ns[p] >= self._refractory_ns:
                keep[k] = True
                self._last_ns[p] = t
        return keep
