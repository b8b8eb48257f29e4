"""Keeps a client's Traffic Manager thread out of the way while the client replaces its episode."""

from __future__ import annotations

import asyncio
import time
import weakref
from enum import Enum

#: who asks for the settings again within this time is polling, and is answered this late
POLL_PERIOD_S = 0.005
#: how long the gate may stay shut, and how long it waits for a polling thread to come to it
_LONGEST_S = 2.0
#: a restarted Traffic Manager that polls has asked a second time after so long
_FRESH_S = 0.15


class _Restart(Enum):
    """How far a client's restart of its Traffic Managers has come."""

    NONE = 0
    EXPECTED = 1
    READING_MAP = 2


class _Client:
    """What the gate knows of a client connection."""

    def __init__(self) -> None:
        self.asked_at = 0.0
        self.asked_in_frame = -1
        self.polled_at = 0.0
        self.fresh_until = 0.0
        self.waiting = 0
        self.shut: asyncio.Event | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.restart = _Restart.NONE


class SettingsGate:
    """Paces `get_episode_settings`, and shuts it while a client loads a world.

    The thread of an asynchronous Traffic Manager asks for the settings in a hot loop, and between two
    questions reads the client's episode. That pointer is null from the moment `load_new_episode` returns
    until the client has fetched the new episode's info (`Simulator::LoadEpisode` resets it), and reading
    it then ends the client's process. So the gate is shut before the answer to a load, the answer waits
    until a polling thread stands at the gate, and the gate opens when the client subscribes to the new
    episode's world stream, which it does once the pointer is set.
    """

    def __init__(self) -> None:
        self._clients: weakref.WeakKeyDictionary[object, _Client] = weakref.WeakKeyDictionary()

    def _of(self, client: object) -> _Client:
        return self._clients.setdefault(client, _Client())

    async def pass_through(self, client: object, frame: int) -> None:
        """Return when the client may have its answer.

        Args:
            client: the connection that asks.
            frame: the world's; a synchronous Traffic Manager asks once a frame, and that is no polling.
        """
        state = self._of(client)
        now = time.monotonic()
        polling = frame == state.asked_in_frame and now - state.asked_at < 4.0 * POLL_PERIOD_S
        state.asked_at, state.asked_in_frame = now, frame
        if polling:
            state.polled_at = now
        if state.restart is _Restart.READING_MAP:
            state.restart = _Restart.NONE
            state.fresh_until = now + _FRESH_S
        if state.shut is not None:
            state.waiting += 1
            try:
                await asyncio.wait_for(state.shut.wait(), _LONGEST_S)
            except asyncio.TimeoutError:
                pass
            finally:
                state.waiting -= 1
        elif polling:
            await asyncio.sleep(POLL_PERIOD_S)

    def expect_restart(self, client: object) -> None:
        """The client's Traffic Managers are about to be restarted, because it is shown a new episode."""
        self._of(client).restart = _Restart.EXPECTED

    def map_read(self, client: object) -> None:
        """A Traffic Manager of the client reads the map, the last step but one of its restart.

        The last is that its new thread asks for the settings.
        """
        state = self._of(client)
        if state.restart is _Restart.EXPECTED:
            state.restart = _Restart.READING_MAP

    async def shut(self, client: object, hold_s: float) -> None:
        """Shut the gate once no restart is under way, and return when nothing of the client polls outside it.

        Args:
            client: the connection that loads a world.
            hold_s: a client that has not asked for so long does not poll.
        """
        state = self._of(client)
        until = time.monotonic() + _LONGEST_S
        while state.restart is not _Restart.NONE and time.monotonic() < until:
            await asyncio.sleep(0.001)
        state.restart = _Restart.NONE
        if state.shut is None:
            state.shut = asyncio.Event()
            state.timer = asyncio.get_running_loop().call_later(_LONGEST_S, self.open, client)
        until = time.monotonic() + _LONGEST_S
        polls_until = max(state.polled_at + hold_s, state.fresh_until)
        while not state.waiting and time.monotonic() < min(until, polls_until):
            await asyncio.sleep(0.001)

    def open(self, client: object) -> None:
        """Open the gate."""
        state = self._of(client)
        if state.shut is not None:
            state.shut.set()
            state.shut = None
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
