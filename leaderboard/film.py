"""A short film of a drive: the planning camera, the plan drawn into it, and the latency of every tick.

Encoding happens outside `run_step`, so that it never shows in the agent's latency.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np

from tickdrive.planner.errors import DataError

_WHITE = (240, 240, 240)
_GREY = (150, 150, 150)
_GREEN = (110, 200, 90)
_RED = (70, 70, 235)
_PLAN = (235, 190, 60)
_PANEL_HEIGHT = 150
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class FilmCamera:
    """The camera whose picture is shown: pinhole, mounted on the ego (metres, degrees)."""

    x: float
    y: float
    z: float
    pitch_deg: float
    yaw_deg: float
    fov_deg: float


@dataclass(frozen=True)
class FilmFrame:
    """What one frame of the film shows.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        plan_in_ego: (T, 2) waypoints, metres, or None.
        speed_mps: of the ego.
        sim_s: simulated time since the route's start.
        progress: share of the route done, 0..1.
        total_ms: latency of the tick.
        stages_ms: top-level stage -> milliseconds.
        caption: why the car drives as it does, for example "STOP_LIGHT 0.97".
        throttle, steer, brake: the control that was applied.
    """

    image: np.ndarray
    plan_in_ego: np.ndarray | None
    speed_mps: float
    sim_s: float
    progress: float
    total_ms: float
    stages_ms: Mapping[str, float]
    caption: str
    throttle: float
    steer: float
    brake: float


class Film:
    """Writes an H.264 film; use as a context manager.

    Fragmented MP4: what has been written plays even if the process is killed.

    Args:
        path: the .mp4 file.
        camera: the camera that `FilmFrame.image` comes from.
        budget_ms: where the latency plot's line stands.
        fps: frames per second of the film.
        scale: enlargement of the camera picture.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(
        self, path: str | Path, camera: FilmCamera, budget_ms: float = 50.0, fps: int = 20, scale: int = 2
    ) -> None:
        self.path = Path(path)
        self._camera = camera
        self._budget_ms = budget_ms
        self._fps = fps
        self._scale = scale
        self._history: deque[float] = deque(maxlen=200)
        self._stream: av.VideoStream | None = None
        self._closed = False
        try:
            self._container = av.open(
                str(self.path), "w", options={"movflags": "frag_keyframe+empty_moov+default_base_moof"}
            )
        except (OSError, av.FFmpegError) as error:
            raise DataError(
                f"Film {self.path} cannot be written: {error}.", "Name another --out folder."
            ) from error

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, frame: FilmFrame) -> None:
        """Append one frame.

        Raises:
            DataError: it cannot be written (a full disk); the film ends before it.
        """
        picture = self.draw(frame)
        try:
            if self._stream is None:
                self._open_stream(*picture.shape[:2])
            assert self._stream is not None
            for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")):
                self._container.mux(packet)
        except (OSError, av.FFmpegError) as error:
            raise DataError(
                f"Film {self.path} cannot be written: {error}.", "Make room, or use --no-video."
            ) from error

    def close(self) -> None:
        """Flush and close; may be called twice.

        Raises:
            DataError: the end of the film cannot be written.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._stream is not None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
            self._container.close()
        except (OSError, av.FFmpegError) as error:
            raise DataError(
                f"Film {self.path} cannot be written: {error}.", "Make room, or use --no-video."
            ) from error

    def _open_stream(self, height: int, width: int) -> None:
        self._stream = self._container.add_stream("libx264", rate=self._fps)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = Fraction(1, self._fps)
        # Fast settings: the film must not slow the drive down, and a keyframe a second bounds what a kill
        # can lose.
        self._stream.options = {"preset": "veryfast", "crf": "24", "g": str(self._fps), "threads": "1"}

    def draw(self, frame: FilmFrame) -> np.ndarray:
        """The picture of one frame, (H, W, 3) uint8 BGR with even sides."""
        size = (frame.image.shape[1] * self._scale, frame.image.shape[0] * self._scale)
        view = cv2.resize(frame.image, size, interpolation=cv2.INTER_LINEAR)
        if frame.plan_in_ego is not None:
            self._draw_plan(view, frame.plan_in_ego)
        self._history.append(frame.total_ms)
        panel = np.full((_PANEL_HEIGHT, view.shape[1], 3), 28, np.uint8)
        self._draw_state(panel, frame)
        self._draw_latency(panel, frame)
        if frame.caption:
            _text(view, frame.caption, (14, 30), 0.7, _WHITE, 2)
        return np.vstack([view, panel])

    def _draw_plan(self, view: np.ndarray, plan_in_ego: np.ndarray) -> None:
        points = np.vstack([[0.0, 0.0], np.asarray(plan_in_ego, dtype=float)])
        # A ribbon of the car's width on the ground, denser than the waypoints so that it bends with the lens.
        dense_t = np.linspace(0, len(points) - 1, 12 * (len(points) - 1) + 1)
        dense = np.stack([np.interp(dense_t, np.arange(len(points)), points[:, k]) for k in (0, 1)], axis=1)
        step = np.gradient(dense, axis=0)
        length = np.hypot(step[:, 0], step[:, 1])[:, None]
        normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.maximum(length, 1e-6)
        left, right = self._project(dense - 0.9 * normal, view), self._project(dense + 0.9 * normal, view)
        seen = ~(np.isnan(left).any(axis=1) | np.isnan(right).any(axis=1))
        if seen.sum() >= 2 and float(np.hypot(*(dense[-1] - dense[0]))) > 0.5:
            ribbon = np.vstack([left[seen], right[seen][::-1]]).astype(np.int32)
            overlay = view.copy()
            cv2.fillPoly(overlay, [ribbon], _PLAN, cv2.LINE_AA)
            cv2.addWeighted(overlay, 0.35, view, 0.65, 0, dst=view)
        for u, v in self._project(points[1:], view):
            if not (math.isnan(u) or math.isnan(v)) and 0 <= u < view.shape[1] and 0 <= v < view.shape[0]:
                cv2.circle(view, (int(u), int(v)), 6, (40, 40, 40), -1, cv2.LINE_AA)
                cv2.circle(view, (int(u), int(v)), 5, _PLAN, -1, cv2.LINE_AA)

    def _project(self, points_in_ego: np.ndarray, view: np.ndarray) -> np.ndarray:
        """(N, 2) ground points (z = 0) to pixels; NaN behind the camera."""
        camera = self._camera
        height, width = view.shape[:2]
        focal = width / (2.0 * math.tan(math.radians(camera.fov_deg) / 2.0))
        yaw, pitch = math.radians(camera.yaw_deg), math.radians(camera.pitch_deg)
        offset = np.column_stack(
            [
                points_in_ego[:, 0] - camera.x,
                points_in_ego[:, 1] - camera.y,
                np.full(len(points_in_ego), -camera.z),
            ]
        )
        flat = math.cos(yaw) * offset[:, 0] + math.sin(yaw) * offset[:, 1]
        right = -math.sin(yaw) * offset[:, 0] + math.cos(yaw) * offset[:, 1]
        depth = math.cos(pitch) * flat + math.sin(pitch) * offset[:, 2]
        up = -math.sin(pitch) * flat + math.cos(pitch) * offset[:, 2]
        depth = np.where(depth > 0.4, depth, np.nan)
        return np.stack([width / 2 + focal * right / depth, height / 2 - focal * up / depth], axis=1)

    def _draw_state(self, panel: np.ndarray, frame: FilmFrame) -> None:
        _text(panel, f"{3.6 * frame.speed_mps:4.0f} km/h", (16, 48), 1.1, _WHITE, 2)
        _text(panel, f"{frame.sim_s:6.1f} s   route {100 * frame.progress:3.0f} %", (18, 76), 0.5, _GREY, 1)
        for row, (name, value, colour) in enumerate(
            (
                ("throttle", frame.throttle, _GREEN),
                ("brake", frame.brake, _RED),
                ("steer", frame.steer, _PLAN),
            )
        ):
            y = 96 + 17 * row
            _text(panel, name, (18, y + 9), 0.42, _GREY, 1)
            cv2.rectangle(panel, (90, y), (230, y + 10), (60, 60, 60), -1)
            origin = 160 if name == "steer" else 90
            end = origin + int((70 if name == "steer" else 140) * max(-1.0, min(1.0, value)))
            cv2.rectangle(panel, (min(origin, end), y), (max(origin, end), y + 10), colour, -1)

    def _draw_latency(self, panel: np.ndarray, frame: FilmFrame) -> None:
        left, right, top, bottom = 270, panel.shape[1] - 250, 16, panel.shape[0] - 22
        ceiling = 1.5 * self._budget_ms

        def height(ms: float) -> int:
            return bottom - int((bottom - top) * min(ms, ceiling) / ceiling)

        cv2.rectangle(panel, (left, top), (right, bottom), (42, 42, 42), -1)
        bar = max(1, (right - left) // 200)
        for index, ms in enumerate(self._history):
            x = right - bar * (len(self._history) - index)
            if x >= left:
                colour = _RED if ms > self._budget_ms else _GREEN
                cv2.rectangle(panel, (x, height(ms)), (x + bar - 1, bottom), colour, -1)
        line = height(self._budget_ms)
        cv2.line(panel, (left, line), (right, line), _WHITE, 1)
        _text(panel, f"{self._budget_ms:g} ms tick", (left + 4, line - 5), 0.4, _WHITE, 1)
        colour = _RED if frame.total_ms > self._budget_ms else _GREEN
        _text(panel, f"tick latency {frame.total_ms:5.1f} ms", (left, panel.shape[0] - 6), 0.45, colour, 1)
        longest = sorted(frame.stages_ms.items(), key=lambda item: -item[1])[:6]
        for row, (name, ms) in enumerate(longest):
            _text(panel, f"{name:<14}", (right + 18, 30 + 18 * row), 0.42, _GREY, 1)
            _text(panel, f"{ms:6.1f} ms", (right + 140, 30 + 18 * row), 0.42, _WHITE, 1)


def _text(
    image: np.ndarray, text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int], weight: int
) -> None:
    cv2.putText(image, text, (at[0] + 1, at[1] + 1), _FONT, size, (0, 0, 0), weight, cv2.LINE_AA)
    cv2.putText(image, text, at, _FONT, size, colour, weight, cv2.LINE_AA)
