"""The streaming half of the protocol: world snapshots and sensor data, pushed over TCP.

A client opens one connection for each stream, sends the stream's id once, and from then on only reads
frames: a 32-bit length and the payload.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable

from tickdrive.leaderboard.simulator.protocol import frames

log = logging.getLogger(__name__)

#: every client follows the world through this stream
WORLD_STREAM = 1
#: a reader that is this far behind misses frames instead of filling our memory
MAX_BACKLOG_BYTES = 64 << 20
MAX_CONNECTIONS = 1024
_SEND_BUFFER_BYTES = 4 << 20
#: how long a tick waits for a client that asked for a token to connect to the stream
SUBSCRIBE_GRACE_S = 0.5
_HELLO_TIMEOUT_S = 10.0
_LENGTH = struct.Struct("<I")


class StreamHub:
    """Who listens to which stream.

    Args:
        port: TCP port of the streams, written into tokens.
        is_known: whether a stream id exists; connections to other ids are closed.
        greeting: what a new listener of a stream gets at once, None for nothing.
    """

    def __init__(
        self,
        port: int,
        is_known: Callable[[int], bool],
        greeting: Callable[[int], bytes | None] = lambda stream_id: None,
    ) -> None:
        self.port = port
        self.is_known = is_known
        self.greeting = greeting
        self.dropped_frames = 0
        self.connections = 0
        self._readers: dict[int, list[asyncio.Transport]] = {}
        self._expected: dict[int, list[float]] = {}

    def token(self, stream_id: int) -> bytes:
        """The 24 bytes with which a client finds a stream."""
        return frames.token(stream_id, self.port)

    def expect(self, stream_id: int) -> None:
        """A client was told a token and will connect: `awaiting` is true until it has, or gave up."""
        self._expected.setdefault(stream_id, []).append(time.monotonic() + SUBSCRIBE_GRACE_S)

    def awaiting(self) -> bool:
        """Whether a client that asked for a stream has not connected to it yet.

        Ticks are faster than a client's connect; without the wait its first frames would be lost.
        """
        if not self._expected:
            return False
        now = time.monotonic()
        self._expected = {
            stream_id: left
            for stream_id, deadlines in self._expected.items()
            if (left := [each for each in deadlines if each > now])
        }
        return bool(self._expected)

    def is_heard(self, stream_id: int) -> bool:
        """Whether anybody listens."""
        return bool(self._readers.get(stream_id))

    def send(self, stream_id: int, payload: bytes) -> None:
        """Push a frame to all who listen; who does not read misses frames."""
        readers = self._readers.get(stream_id)
        if not readers:
            return
        length = _LENGTH.pack(len(payload))
        for transport in readers:
            if transport.is_closing():
                continue
            backlog = transport.get_write_buffer_size()
            if backlog and backlog + len(payload) > MAX_BACKLOG_BYTES:
                self.dropped_frames += 1
                if self.dropped_frames & (self.dropped_frames - 1) == 0:
                    log.warning(
                        "a slow reader of stream %d: %d frames dropped", stream_id, self.dropped_frames
                    )
                continue
            transport.writelines((length, payload))

    def close(self, stream_id: int) -> None:
        """End a stream: its sensor is gone."""
        self._expected.pop(stream_id, None)
        for transport in self._readers.pop(stream_id, []):
            transport.close()

    def join(self, stream_id: int, transport: asyncio.Transport) -> None:
        """A client connected to a stream."""
        self._readers.setdefault(stream_id, []).append(transport)
        waiting = self._expected.get(stream_id)
        if waiting:
            waiting.pop(0)
            if not waiting:
                del self._expected[stream_id]
        greeting = self.greeting(stream_id)
        if greeting is not None:
            transport.writelines((_LENGTH.pack(len(greeting)), greeting))

    def leave(self, stream_id: int, transport: asyncio.Transport) -> None:
        """A client stopped listening, or died."""
        readers = self._readers.get(stream_id, [])
        if transport in readers:
            readers.remove(transport)
        if not readers:
            self._readers.pop(stream_id, None)


class StreamConnection(asyncio.Protocol):
    """One subscription; the only bytes it accepts are the four of a stream id."""

    def __init__(self, hub: StreamHub) -> None:
        self._hub = hub
        self._hello = b""
        self._stream_id: int | None = None
        self._transport: asyncio.Transport | None = None
        self._timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the stream's id."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._hub.connections += 1
        if self._hub.connections > MAX_CONNECTIONS:
            log.warning("refused a stream connection: there are %d", self._hub.connections - 1)
            transport.abort()
            return
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._timeout = asyncio.get_running_loop().call_later(_HELLO_TIMEOUT_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Subscribe once the id is whole; anything more closes the connection."""
        assert self._transport is not None
        if self._stream_id is not None:
            self._transport.abort()
            return
        self._hello += data
        if len(self._hello) < _LENGTH.size:
            return
        (stream_id,) = _LENGTH.unpack_from(self._hello)
        if len(self._hello) > _LENGTH.size or not self._hub.is_known(stream_id):
            log.info("closed a subscription to unknown stream %d", stream_id)
            self._transport.abort()
            return
        if self._timeout is not None:
            self._timeout.cancel()
        self._stream_id = stream_id
        self._hub.join(stream_id, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unsubscribe."""
        self._hub.connections -= 1
        if self._timeout is not None:
            self._timeout.cancel()
        if self._stream_id is not None and self._transport is not None:
            self._hub.leave(self._stream_id, self._transport)
