"""The simulator of an upstream run: started here, already running, or started by the evaluator itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tickdrive.leaderboard.simulator.launch import SimulatorProcess, free_port_pair
from tickdrive.leaderboard.simulator.render.choice import check_renderer
from tickdrive.leaderboard.simulator_watch import PortProbe
from tickdrive.planner.errors import ServerError

_POLL_S = 1.0
DIED = "the simulator died"
SILENT = "the simulator does not answer"


class SimulatorHost(Protocol):
    """Where the evaluator finds a simulator, and whether it lives."""

    host: str
    port: int
    ours: bool
    """Whether `prepare` starts it: one that died while it did can be started again."""

    def prepare(self) -> None:
        """Have one ready for an attempt."""

    def alive(self) -> bool:
        """Whether it lives; only what was seen alive can be dead."""

    def discard(self) -> None:
        """An attempt failed: the next one is to have a fresh one, where that can be had."""

    def stop(self) -> None:
        """The run is over."""


class FalseStarts:
    """Counts the starts in a row from which no route began.

    Args:
        most: so many are tried again.
        on_loss: told of each: why, and whether it is tried again.
    """

    def __init__(self, most: int, on_loss: Callable[[str, bool], None]) -> None:
        self._most, self._on_loss = most, on_loss
        self._count = 0

    def end(self) -> None:
        """A route began."""
        self._count = 0

    def add(self, why: str, mendable: bool = True) -> bool:
        """One more; whether it is tried again, which it is only where that can help."""
        self._count += 1
        again = mendable and self._count <= self._most
        self._on_loss(why, again)
        return again

    def prepare(self, simulator: SimulatorHost) -> bool:
        """Have a simulator; False: it died while it started, and is to be tried again.

        Raises:
            ServerError: it cannot be had, or died too often.
        """
        try:
            simulator.prepare()
        except ServerError:
            if not simulator.ours or not self.add(DIED):
                raise
            return False
        return True


class Embedded:
    """The embedded simulator, as a process of this one.

    Args:
        town: loaded first.
        towns: folder of further towns.
        seed: its own.
        logs: folder for its logs, one for every start.
        renderer: what draws its cameras, see `render.choice`.
    """

    host = "127.0.0.1"
    port = 0
    ours = True

    def __init__(self, town: str, towns: Path | None, seed: int, logs: Path, renderer: str = "cpu") -> None:
        self._town, self._towns, self._seed, self._logs = town, towns, seed, logs
        self._renderer = check_renderer(renderer)
        self._process: SimulatorProcess | None = None
        self._starts = len(list(logs.glob("simulator-*.log")))

    def prepare(self) -> None:
        """Start it where none runs.

        Raises:
            ServerError: it could not be started; its log's end is in the message.
        """
        if self._process is None or not self._process.alive():
            self._starts += 1
            self._process = SimulatorProcess.start(
                town=self._town,
                towns=self._towns,
                seed=self._seed,
                renderer=self._renderer,
                log_path=self._logs / f"simulator-{self._starts}.log",
            )
            self.port = self._process.port

    @property
    def drawn_by(self) -> str:
        """What draws its cameras, for people; empty before the first start."""
        return self._process.drawn_by if self._process is not None else ""

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.alive()

    def discard(self) -> None:
        """Stop it: what went wrong may be in its state."""
        self.stop()

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stop()
            self._process = None


class Running:
    """A server that is already running; it can only be waited for.

    Args:
        host: its address.
        port: its RPC port.
        wait_s: how long it may take to come back after it went.
        first_wait_s: how long it may take to be there at first; None: as long.
    """

    ours = False

    def __init__(self, host: str, port: int, wait_s: float, first_wait_s: float | None = None) -> None:
        self.host, self.port, self._wait_s = host, port, wait_s
        self._next_wait_s = wait_s if first_wait_s is None else first_wait_s
        self._probe = PortProbe(host, port)

    def prepare(self) -> None:
        """Wait until something listens there.

        Raises:
            ServerError: nothing did in time.
        """
        wait_s, self._next_wait_s = self._next_wait_s, self._wait_s
        until = time.monotonic() + wait_s
        self._probe = PortProbe(self.host, self.port)
        while not self._probe.answers():
            if time.monotonic() > until:
                raise ServerError(
                    f"Nothing listens at {self.host}:{self.port}"
                    + (f", waited {wait_s:.0f} s." if wait_s else "."),
                    "Start the server there, then go on with --resume."
                    if wait_s
                    else "Start it there first.",
                )
            time.sleep(_POLL_S)

    def alive(self) -> bool:
        """Whether the port answers."""
        return self._probe()

    def discard(self) -> None:
        """Nothing can be done."""

    def stop(self) -> None:
        """It is not ours."""


class StartedByEvaluator:
    """Bench2Drive starts CARLA itself, on a port that it is told and that is free."""

    host = "localhost"
    port = 0
    ours = False

    def __init__(self) -> None:
        self._probe: PortProbe | None = None
        self._seen = False

    def prepare(self) -> None:
        """Find a port."""
        self.port = free_port_pair()
        self._probe, self._seen = PortProbe("127.0.0.1", self.port), False

    def alive(self) -> bool:
        """Whether the port answers, once it has."""
        assert self._probe is not None
        if not self._seen:
            self._seen = self._probe.answers()
            return True
        return self._probe()

    def discard(self) -> None:
        """It ends with the evaluator."""

    def stop(self) -> None:
        """Likewise."""
