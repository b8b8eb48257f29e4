"""Frees clients whose Traffic Manager has lost a wake-up.

In synchronous mode `TrafficManagerLocal::SynchronousTick`, on the client's main thread, sets a flag, wakes
the worker thread and waits to be woken itself. Both flags are set and notified without the mutex of the
condition variable they are waited on with, so a thread that is about to sleep, but does not sleep yet, can
miss its notification; then both sleep for ever. On a busy machine that happens once in some ten thousand
ticks, and ticks here are short, so it does happen (seen in a debugger: main thread in `SynchronousTick`,
worker in `Run`, both in `condition_variable::wait`).

Every Traffic Manager also serves RPC of its own, through which it can be woken from outside:

* the worker missed its notification: the client has ticked and no step followed. `set_synchronous_mode`
  off notifies the worker; on again restores the mode.
* the main thread missed it: a step has ended and nothing follows. That looks like a client that computes,
  so it is left alone for long. `synchronous_tick` makes the worker step once more, at the end of which
  the main thread is notified again; to a client that only computes it costs one extra step.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping

from tickdrive.leaderboard.traffic_manager_rpc import call_traffic_manager, wake_worker

log = logging.getLogger(__name__)

_POLL_S = 0.1
#: silence after a tick that no step followed, in polls: a server that was busy drawing has not polled
_STEP_MISSING_POLLS = 5
#: silence after a step, in polls; doubled for a client whenever it turns out to have only computed
_TICK_MISSING_POLLS = 100
_TICKS = ("tick_cue", "set_episode_settings")
_STEP = "apply_batch"
#: asked by a Traffic Manager before it waits for its next step; by an asynchronous one, without end
_POLLING = "get_episode_settings"


class _Client:
    def __init__(self) -> None:
        self.last_method = ""
        self.silent_polls = 0
        self.stepped = False
        self.patience = _TICK_MISSING_POLLS
        self.nudged_at: float | None = None


class TrafficWatch:
    """Watches the order of requests of clients that have a Traffic Manager.

    Args:
        managers: registered Traffic Managers: port to (host, client connection).
        synchronous: whether the world is in synchronous mode.
    """

    def __init__(self, managers: Mapping[int, tuple[str, object]], synchronous: Callable[[], bool]) -> None:
        self.freed = 0
        self._managers = managers
        self._synchronous = synchronous
        self._clients: weakref.WeakKeyDictionary[object, _Client] = weakref.WeakKeyDictionary()
        self._calls: set[asyncio.Task[None]] = set()

    def note(self, client: object, method: str) -> None:
        """A client called a method."""
        if method == _POLLING:
            return  # says nothing of the thread that ticks
        state = self._clients.get(client)
        if state is None:
            state = self._clients[client] = _Client()
        now = time.monotonic()
        if method == _STEP:
            state.stepped = True
        if state.nudged_at is not None and method in _TICKS:
            if now - state.nudged_at > 1.0:
                state.patience *= 2  # it was not the nudge that freed it: it had only computed
            else:
                self.freed += 1
            state.nudged_at = None
        state.last_method, state.silent_polls = method, 0

    async def run(self) -> None:
        """Look at the clients now and then."""
        while True:
            await asyncio.sleep(_POLL_S)
            if not self._synchronous():
                continue
            for port, (host, client) in list(self._managers.items()):
                state = self._clients.get(client)
                if state is None or state.nudged_at is not None:
                    continue
                if getattr(client, "pending", 0):
                    state.silent_polls = 0
                    continue
                state.silent_polls += 1
                self._look(state, host, port)

    def _look(self, state: _Client, host: str, port: int) -> None:
        silent = state.silent_polls
        if state.last_method in _TICKS and state.stepped and silent >= _STEP_MISSING_POLLS:
            log.warning("the Traffic Manager at port %d missed a tick: waking it", port)
            self._start(wake_worker(host, port))
        elif state.last_method == _STEP and silent >= state.patience:
            log.info("a client is silent after a step of its Traffic Manager at port %d: waking it", port)
            self._start(call_traffic_manager(host, port, ("synchronous_tick",)))
        else:
            return
        state.nudged_at = time.monotonic()

    def _start(self, call: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
