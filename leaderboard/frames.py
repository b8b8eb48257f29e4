"""Keeps what a drive saw, pictures and LiDAR points: a few a second, and every moment that one asks about.

Encoding and writing happen on a thread of their own. What the drive pays is one entry in a bounded queue.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import threading
from pathlib import Path

import cv2
import numpy as np

from tickdrive.leaderboard.observer import Observer, RouteStart, TickView
from tickdrive.leaderboard.results import RouteRecord

_LOGGER = logging.getLogger(__name__)
FRAMES_FOLDER = "frames"
FRAME_NAME = re.compile(r"(\d+)\.jpg")
LIDAR_NAME = re.compile(r"(\d+)\.lidar\.npz")
LIDAR_UNIT_M = 0.01
"""Points are kept as 16-bit integers of this unit: +-327 m."""
_LIDAR_THINNING = 4
_QUEUE_LENGTH = 64
"""Pictures that may wait: 3 s of ticks that all miss the budget, 33 MB."""
_JPEG_QUALITY = 75
_DRAIN_TIMEOUT_S = 30.0
_Kept = tuple[int, np.ndarray, np.ndarray | None]
"""Frame, picture, points."""


class FrameWriter:
    """Writes ``<folder>/<frame>.jpg`` and ``<frame>.lidar.npz`` on a background thread.

    The latter hold `points_in_ego`, (N, 3) int16 centimetres, every fourth point that the agent had.

    Args:
        folder: made here; pictures of an earlier drive in it are removed.

    Attributes:
        written: pictures on disk.
        dropped: pictures that were not taken since the queue was full or the disk gave out.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0
        self.dropped = 0
        self._failed = False
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if FRAME_NAME.fullmatch(path.name) or LIDAR_NAME.fullmatch(path.name):
                path.unlink()
        self._queue: queue.Queue[tuple[int, np.ndarray, np.ndarray | None] | None] = queue.Queue(
            _QUEUE_LENGTH
        )
        self._thread = threading.Thread(target=self._work, name="frames", daemon=True)
        self._thread.start()

    def add(self, frame: int, image: np.ndarray, points_in_ego: np.ndarray | None = None) -> None:
        """Keep one picture, or count it as dropped; never waits.

        Args:
            frame: the simulator's frame.
            image: (H, W, 3) uint8 BGR; it is not copied and must not change.
            points_in_ego: (N, 3) LiDAR points [m], likewise; None or empty where there are none.
        """
        if self._failed:
            self.dropped += 1
            return
        try:
            self._queue.put_nowait((frame, image, points_in_ego))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, and end the thread. May be called twice."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(queue.Full):  # the disk hangs; the daemon thread ends with the process
            self._queue.put(None, timeout=_DRAIN_TIMEOUT_S)
        self._thread.join(_DRAIN_TIMEOUT_S)
        if self.dropped and not self._failed:
            _LOGGER.warning("%d camera pictures were dropped: writing them did not keep up", self.dropped)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failed:
                self.dropped += 1
                continue
            frame, image, points_in_ego = item
            try:
                # contiguous: the agent's picture is a view without the alpha channel
                ok, data = cv2.imencode(
                    ".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
                )
                if not ok:
                    raise OSError("OpenCV could not encode it")
                (self.folder / f"{frame}.jpg").write_bytes(data.tobytes())
                self.written += 1
                if points_in_ego is not None and len(points_in_ego):
                    kept = np.clip(points_in_ego[::_LIDAR_THINNING] / LIDAR_UNIT_M, -32767, 32767)
                    np.savez_compressed(self._lidar(frame), points_in_ego=kept.round().astype(np.int16))
            except (OSError, cv2.error) as error:
                for path in (self.folder / f"{frame}.jpg", self._lidar(frame)):
                    path.unlink(missing_ok=True)  # what is torn is none
                self._failed = True
                self.dropped += 1
                _LOGGER.warning("no more camera pictures in %s: %s", self.folder, error)

    def _lidar(self, frame: int) -> Path:
        return self.folder / f"{frame}.lidar.npz"


class FrameKeeper(Observer):
    """Keeps what the agent saw, at a steady rate, at every miss and at every infraction.

    Agents that do not say what they saw (no `last` with an `image`) leave no pictures.

    Args:
        folder: the run's folder; pictures go to ``frames/`` in it.
        budget_ms: a tick of the agent above this is a miss.
        by_route: whether each route gets a folder of its own in ``frames/``, named by its id.
        period_s: simulated time between two pictures.
    """

    def __init__(self, folder: Path, budget_ms: float, by_route: bool = False, period_s: float = 0.5) -> None:
        self._folder = folder / FRAMES_FOLDER
        self._budget_ms = budget_ms
        self._by_route = by_route
        self._period_s = period_s
        self._next_s = 0.0
        self._writer: FrameWriter | None = None

    def on_route_start(self, start: RouteStart) -> None:
        """Begin with an empty folder."""
        self._next_s = 0.0
        self._writer = None
        if not hasattr(start.agent, "last"):
            return
        folder = self._folder / start.route_id if self._by_route else self._folder
        try:
            self._writer = FrameWriter(folder)
        except OSError as error:
            _LOGGER.warning("no camera pictures are kept: %s", error)

    def on_tick(self, tick: TickView) -> None:
        """Keep this tick's picture, where it is due."""
        if self._writer is None:
            return
        output = getattr(tick.agent, "last", None)
        image, trace = getattr(output, "image", None), getattr(output, "trace", None)
        if (
            output is None or trace is None or not isinstance(image, np.ndarray)
        ):  # another agent may call other things `last`
            return
        due = tick.sim_s >= self._next_s
        if due or tick.events or trace.total_ms > self._budget_ms:
            self._writer.add(output.frame, image, getattr(output, "points_in_ego", None))
        if due:
            self._next_s = tick.sim_s + self._period_s - 1e-6  # ticks are 0.05 s apart only up to rounding

    def on_route_end(self, route_id: str, record: RouteRecord | None) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
