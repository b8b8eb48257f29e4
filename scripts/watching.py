"""What one sees of a drive: the live line, and the film."""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from tickdrive.leaderboard.film import Film, FilmCamera, FilmFrame
from tickdrive.leaderboard.observer import Observer, RouteStart, TickView
from tickdrive.leaderboard.results import RouteRecord
from tickdrive.planner.errors import DataError

_LOGGER = logging.getLogger(__name__)


def driven_by_stack(agent: Any) -> bool:
    """Whether an agent tells of its ticks as the diffusion agent does; another's may well have a `last`."""
    return hasattr(agent, "stack") and hasattr(agent, "last")


class LiveLine(Observer):
    """One line while a route is driven: progress, speed, ticks per second, tick latency against the budget.

    On a terminal it is rewritten in place; elsewhere (a log file, CI) a line is printed every 10 s.
    """

    refresh_s = 0.25

    def __init__(self, console: Console, budget_ms: float) -> None:
        self._console = console
        self._budget_ms = budget_ms
        self._live: Live | None = None
        self._start: RouteStart | None = None
        self._latencies: deque[float] = deque(maxlen=400)
        self._shown_at = 0.0
        self.first_tick_at: float | None = None

    def on_message(self, text: str) -> None:
        """Print it above the line."""
        self._console.print(f"  {text}", style="dim", markup=False)

    def on_route_start(self, start: RouteStart) -> None:
        """Name the route."""
        self._start = start
        self._latencies.clear()
        self._shown_at = 0.0
        self._console.print(
            f"[bold]route {escape(start.route.id)}[/] in {escape(start.route.town)}: {start.length_m:.0f} m "
            f"({start.number} of {start.total})"
        )
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def on_tick(self, tick: TickView) -> None:
        """Refresh."""
        now = time.monotonic()
        if self.first_tick_at is None:
            self.first_tick_at = now
        self._latencies.append(tick.timing.agent_ms)
        if now - self._shown_at < (self.refresh_s if self._live else 10.0):
            return
        self._shown_at = now
        if self._live:
            self._live.update(self._view(tick), refresh=True)
        else:
            self._console.print(self._line(tick))

    def on_route_end(self, route_id: str, record: RouteRecord | None) -> None:
        """Take the line away."""
        if self._live:
            self._live.stop()
            self._live = None

    def _view(self, tick: TickView) -> RenderableType:
        """What a terminal shows."""
        return self._line(tick)

    def _line(self, tick: TickView) -> Text:
        p50, p95 = np.percentile(np.array(self._latencies), (50, 95))
        line = Text("  ") + self._progress(tick)
        line.append(f"{tick.ticks_per_s:4.1f} ticks/s  tick latency p50 {p50:.1f} p95 ")
        line.append(f"{p95:.1f}", style="red" if p95 > self._budget_ms else "green")
        line.append(f" of {self._budget_ms:g} ms")
        return line

    def _progress(self, tick: TickView) -> Text:
        cells = 24
        done = round(cells * min(max(tick.fraction, 0.0), 1.0))
        line = Text()
        line.append("━" * done, style="green")
        line.append("━" * (cells - done), style="bright_black")
        line.append(f" {100 * tick.fraction:5.1f} %  {3.6 * tick.speed_mps:4.0f} km/h  ")
        return line


class FilmMaker(Observer):
    """Films what the diffusion agent sees and plans.

    An agent that does not tell of its ticks (the expert, another's) is filmed by a camera of the film's own.
    """

    def __init__(
        self, path: Path, camera: FilmCamera, budget_ms: float, size: tuple[int, int] = (512, 256)
    ) -> None:
        self._path, self._camera, self._budget_ms, self._size = path, camera, budget_ms, size
        self._film: Film | None = None
        self._sensor: Any = None
        self._image: np.ndarray | None = None

    def on_route_start(self, start: RouteStart) -> None:
        """Open the film."""
        self._film = Film(self._path, self._camera, self._budget_ms)
        if not driven_by_stack(start.agent):
            self._spawn_camera(start)

    def on_tick(self, tick: TickView) -> None:
        """Add a frame."""
        if self._film is None:
            return
        frame = self._from_stack(tick) if self._sensor is None else self._from_camera(tick)
        if frame is None:
            return
        try:
            self._film.add(frame)
        except DataError as error:  # a full disk must not end the drive
            _LOGGER.warning("no more film: %s", error)
            self._film = None

    def on_route_end(self, route_id: str, record: RouteRecord | None) -> None:
        """Close the film."""
        if self._film is not None:
            try:
                self._film.close()
            except DataError as error:
                _LOGGER.warning("%s", error)
            self._film = None
        if self._sensor is not None and not (record is not None and record.simulation_crashed):
            self._sensor.stop()
            self._sensor.destroy()
            self._sensor = None

    def _from_stack(self, tick: TickView) -> FilmFrame | None:
        output = tick.agent.last
        if output is None or output.image is None:
            return None
        stages = {span.name: span.ms for span in output.trace.spans if span.parent is None}
        why = output.reasoning
        caption = "" if why is None else f"{why.decision.name} {why.probability:.2f}"
        if output.rung != "planned":
            caption = f"{caption} [{output.rung}]".strip()
        if output.guarded:
            caption = f"{caption} [guarded]".strip()
        return FilmFrame(
            image=output.image,
            plan_in_ego=None if output.plan is None else output.plan.waypoints_in_ego[0],
            speed_mps=tick.speed_mps,
            sim_s=tick.sim_s,
            progress=tick.fraction,
            total_ms=output.trace.total_ms,
            stages_ms=stages,
            caption=caption,
            throttle=output.control.throttle,
            steer=output.control.steer,
            brake=output.control.brake,
        )

    def _from_camera(self, tick: TickView) -> FilmFrame | None:
        if self._image is None:
            return None
        plan = getattr(tick.agent, "plan", None)
        return FilmFrame(
            image=self._image,
            plan_in_ego=getattr(plan, "waypoints_in_ego", None),
            speed_mps=tick.speed_mps,
            sim_s=tick.sim_s,
            progress=tick.fraction,
            total_ms=tick.timing.agent_ms,
            stages_ms={},
            caption=getattr(getattr(plan, "decision", None), "name", ""),
            throttle=tick.control.throttle,
            steer=tick.control.steer,
            brake=tick.control.brake,
        )

    def _spawn_camera(self, start: RouteStart) -> None:
        import carla

        blueprint = start.world.get_blueprint_library().find("sensor.camera.rgb")
        width, height = self._size
        for key, value in (("image_size_x", width), ("image_size_y", height), ("fov", self._camera.fov_deg)):
            blueprint.set_attribute(key, str(value))
        mount = carla.Transform(
            carla.Location(self._camera.x, self._camera.y, self._camera.z),
            carla.Rotation(pitch=self._camera.pitch_deg, yaw=self._camera.yaw_deg),
        )
        self._sensor = start.world.spawn_actor(blueprint, mount, attach_to=start.ego)

        def keep(image: carla.Image) -> None:
            pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
            self._image = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR)

        self._sensor.listen(keep)
