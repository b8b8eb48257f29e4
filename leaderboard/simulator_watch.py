"""Notices that the simulator died, and gets results and process out of it whole.

When a server dies, the client library in this process is left in a bad way: the thread that waits for a
tick sits in C++ until the client's timeout, and the Traffic Manager's own thread then throws the same timeout
where nothing catches it (`TrafficManagerLocal::Run` -> `GetEpisodeSettings`, seen in a debugger), which
aborts the process. Neither can be interrupted from Python. So a watching thread writes down what there is
while both still wait, and ends the process in good order.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

EXIT_SIMULATOR_LOST = 5
_POLL_S = 0.2
_PROBE_EVERY_S = 1.0
_REFUSALS = 3
_GRACE_S = 3.0
_STUCK_S = 10.0
_LOGGER = logging.getLogger(__name__)
_lost: list[object] = []


class SimulatorWatch:
    """Calls `take_over` once if the server is dead and the main thread does not come to its own end.

    Args:
        alive: says whether the server lives.
        take_over: writes down the results and does not return.
        grace_s: how long the main thread has to notice by itself.
    """

    def __init__(
        self, alive: Callable[[], bool], take_over: Callable[[], None], grace_s: float = _GRACE_S
    ) -> None:
        self._alive = alive
        self._take_over = take_over
        self._grace_s = grace_s
        self._settled = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="simulator-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def settle(self) -> None:
        """The main thread ends by itself: stop watching. Does not return once `take_over` has begun."""
        with self._lock:
            self._settled = True

    def _watch(self) -> None:
        while self._alive():
            if self._settled:
                return
            time.sleep(_POLL_S)
        died_at = time.monotonic()
        while time.monotonic() - died_at < self._grace_s:
            if self._settled:
                return
            time.sleep(_POLL_S)
        with self._lock:
            if not self._settled:
                self._take_over()


class WakeUpGuard:
    """Frees a tick that hangs because the Traffic Manager missed being woken.

    `TrafficManagerLocal::SynchronousTick` and its worker wake each other without holding the lock that they
    sleep under; once in some ten thousand ticks a wake-up is lost and both sleep for ever (seen in gdb).
    Leaving synchronous mode wakes the worker once more, and at the end of its step the worker wakes the tick.

    Args:
        stuck: whether the world has moved on and the tick has not come back.
        wake: takes the Traffic Manager out of synchronous mode and back.
    """

    def __init__(self, stuck: Callable[[], bool], wake: Callable[[], None]) -> None:
        self._stuck = stuck
        self._wake = wake
        self._closed = threading.Event()
        self.woken = 0
        self._thread = threading.Thread(target=self._watch, name="wake-up-guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(_STUCK_S / 4):
            if self._stuck():
                self.woken += 1
                _LOGGER.warning("the Traffic Manager missed a wake-up: woken again (%d)", self.woken)
                self._wake()
                self._closed.wait(_STUCK_S)


class PortProbe:
    """Whether something listens on a port, for servers whose process is not known; asks once a second."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._asked_at = 0.0
        self._refusals = 0

    def __call__(self) -> bool:
        """False after several refusals in a row; a slow answer is no refusal."""
        now = time.monotonic()
        if now - self._asked_at < _PROBE_EVERY_S:
            return self._refusals < _REFUSALS
        self._asked_at = now
        self.answers()
        return self._refusals < _REFUSALS

    def answers(self) -> bool:
        """Ask now: whether something listens there."""
        try:
            socket.create_connection(self._address, timeout=5.0).close()
            self._refusals = 0
            return True
        except ConnectionRefusedError:
            self._refusals += 1
        except OSError:
            pass  # overloaded or unreachable for a moment: the client's own timeout decides
        return False


def keep_lost(client: object) -> None:
    """A client has lost its server: remember it, and never destroy it.

    Its Traffic Manager stays behind, waiting for the server. `TrafficManager::Tick` goes over all Traffic
    Managers of the process, whichever server they belong to, and so would wait with it in the first tick on
    another server, for ever (seen in a debugger). Nor can it be shut down: that waits likewise.
    """
    if not any(client is known for known in _lost):
        _lost.append(client)


def lost_server() -> bool:
    """Whether this process has lost a server: it then drives no more, and ends by `leave_process`."""
    return bool(_lost)


def leave_process(message: str = "", status: int = EXIT_SIMULATOR_LOST) -> NoReturn:
    """End the process at once: its other threads cannot be ended otherwise."""
    try:
        sys.stdout.flush()
        if message:
            sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    finally:  # also when nobody reads what is written
        os._exit(status)
