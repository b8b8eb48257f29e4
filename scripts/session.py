"""The simulator of a command: the embedded one, started here, or a CARLA server that is already running."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tickdrive.leaderboard.carla_session import parse_address


@dataclass(frozen=True)
class Server:
    """Where the simulator is, and how to ask whether its process lives (None: not known)."""

    host: str
    port: int
    is_alive: Callable[[], bool] | None


@contextmanager
def server(
    console: Console,
    carla: str | None,
    town: str,
    xodr: Path | None = None,
    seed: int = 0,
    log_path: Path | None = None,
    towns: Path | None = None,
    renderer: str = "cpu",
) -> Iterator[Server]:
    """Give a running simulator.

    Args:
        console: where starting it is told.
        carla: HOST:PORT of a server that runs already; None starts the embedded one.
        town: what the embedded one loads first; ignored where `xodr` is given.
        xodr: OpenDRIVE file for the embedded one.
        seed: of the embedded one.
        log_path: its log.
        towns: folder of further towns for the embedded one, as `<name>.xodr`.
        renderer: what draws the embedded one's cameras, see `render.choice`.

    Raises:
        ServerError: it cannot be started; the last lines of its log are in the message.
    """
    if carla is not None:
        host, port = parse_address(carla)
        yield Server(host, port, None)
        return
    from tickdrive.leaderboard.simulator.launch import SimulatorProcess

    started = time.monotonic()
    with console.status("starting the simulator (the first start compiles, about half a minute)"):
        process = SimulatorProcess.start(
            town=None if xodr else town,
            xodr_path=xodr,
            towns=towns,
            seed=seed,
            renderer=renderer,
            log_path=log_path,
        )
    with process:
        console.print(ready_text(started, process.drawn_by), style="dim", markup=False, soft_wrap=True)
        yield Server(process.host, process.port, process.alive)


def ready_text(started: float, drawn_by: str) -> str:
    """That the embedded simulator is there; the renderer is told where it is not the usual one."""
    by = "" if drawn_by == "cpu" else f", cameras drawn by {drawn_by}"
    return f"  simulator ready after {time.monotonic() - started:.1f} s{by}"
