"""The RPC half of the protocol: rpclib's msgpack calls over TCP, dispatched to Python methods.

A request is `[0, id, method, [metadata, args...]]`, a reply `[1, id, error, result]`, without length
prefixes. Results follow LibCarla's `rpc::Response` (see `wire`): an error that a method raises is sent
inside the response, never in rpclib's own error slot, because there it would end a Traffic Manager thread
and with it the client's process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import msgpack

from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.planner.errors import TickdriveError

log = logging.getLogger(__name__)

#: a whole OpenDRIVE file travels in one request
MAX_REQUEST_BYTES = 64 << 20
#: one batch; msgpack allocates arrays from their announced length, so this bounds what a header can cost
MAX_ARRAY_ITEMS = 16384
MAX_CONNECTIONS = 256
#: LibCarla's Metadata of an asynchronous call
_FIRE_AND_FORGET = [True]
_MAX_PENDING_REPLY_BYTES = 16 << 20

Function = TypeVar("Function", bound=Callable[..., Any])


class Reply(Enum):
    """How a method's result is wrapped."""

    VALUE = "value"
    VOID = "void"
    RAW = "raw"


def value(function: Function) -> Function:
    """Mark a method that answers `Response<T>`."""
    function._reply = Reply.VALUE  # type: ignore[attr-defined]
    return function


def void(function: Function) -> Function:
    """Mark a method that answers `Response<void>`."""
    function._reply = Reply.VOID  # type: ignore[attr-defined]
    return function


def raw(function: Function) -> Function:
    """Mark a method whose result is sent as it is."""
    function._reply = Reply.RAW  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True, slots=True)
class Method:
    """A callable method: how many arguments it takes, whether it wants the calling client, how it replies."""

    name: str
    function: Callable[..., Any]
    reply: Reply
    least: int
    most: int
    wants_client: bool

    def failure(self, text: str) -> Any:
        """The response that carries an error of this method."""
        return wire.void_failed(text) if self.reply is Reply.VOID else wire.failed(text)

    def wrap(self, result: Any) -> Any:
        """The response that carries a result of this method."""
        if self.reply is Reply.VOID:
            return wire.VOID
        return wire.ok(result) if self.reply is Reply.VALUE else result

    def call(self, client: object, args: list[Any]) -> Any:
        """Check the number of arguments and call."""
        if not self.least <= len(args) <= self.most:
            wanted = str(self.least) if self.least == self.most else f"{self.least} to {self.most}"
            raise RequestError(f"{self.name} takes {wanted} arguments, got {len(args)}.")
        return self.function(client, *args) if self.wants_client else self.function(*args)


class MethodTable(dict[str, Method]):
    """All methods of a server by name."""

    def add(self, service: object) -> None:
        """Add the methods of an object that `value`, `void` or `raw` mark."""
        for name, function in inspect.getmembers(service, inspect.ismethod):
            reply = getattr(function, "_reply", None)
            if reply is None:
                continue
            params = list(inspect.signature(function).parameters.values())
            wants_client = bool(params) and params[0].name == "client"
            params = params[1:] if wants_client else params
            least = sum(each.default is inspect.Parameter.empty for each in params)
            self[name] = Method(name, function, reply, least, len(params), wants_client)


class RpcConnection(asyncio.Protocol):
    """One client's RPC connection.

    Whatever arrives, only this connection suffers: bytes that are no request close it, a request that
    cannot be served gets an error reply, and a client that does not read its replies is not read from.
    """

    def __init__(
        self,
        methods: MethodTable,
        connections: set[RpcConnection],
        on_lost: Callable[[RpcConnection], None],
        on_call: Callable[[object, str], None] = lambda client, method: None,
    ) -> None:
        self._methods = methods
        self._connections = connections
        self._on_lost = on_lost
        self._on_call = on_call
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            max_buffer_size=MAX_REQUEST_BYTES,
            max_str_len=MAX_REQUEST_BYTES,
            max_bin_len=MAX_REQUEST_BYTES,
            max_array_len=MAX_ARRAY_ITEMS,
            max_map_len=1024,
            max_ext_len=1024,
        )
        self._packer = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape")
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()
        self.peer = "?"
        #: requests that have no reply yet
        self.pending = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin serving, unless there are too many clients already."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = str(transport.get_extra_info("peername"))
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("refused %s: %d clients are connected", self.peer, len(self._connections))
            transport.abort()
            return
        self._connections.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=_MAX_PENDING_REPLY_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client and what it still waited for."""
        for task in self._tasks:
            task.cancel()
        if self in self._connections:
            self._connections.discard(self)
            self._on_lost(self)

    def pause_writing(self) -> None:
        """The client does not read its replies: stop reading its requests."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Serve every whole request in the bytes so far."""
        try:
            self._unpacker.feed(data)
            for message in self._messages():
                self._serve(message)
                if self._transport is None or self._transport.is_closing():
                    return
        except RequestError as error:
            self._close(str(error))
        except (msgpack.UnpackException, ValueError, RecursionError, MemoryError) as error:
            self._close(f"not msgpack: {type(error).__name__} {error}")

    def _messages(self) -> Iterator[Any]:
        while True:
            try:
                yield self._unpacker.unpack()
            except msgpack.OutOfData:
                return

    def _close(self, reason: str) -> None:
        log.warning("closed %s: %s", self.peer, reason)
        if self._transport is not None:
            self._transport.abort()

    def _serve(self, message: Any) -> None:
        """Raises `RequestError` where the message is no request at all."""
        if not isinstance(message, list) or len(message) not in (3, 4):
            raise RequestError("a message that is no rpc request.")
        if len(message) == 4:
            kind, call_id, name, args = message
            expected_kind = 0
        else:
            (kind, name, args), call_id, expected_kind = message, None, 2
        if kind != expected_kind or not isinstance(name, str) or not isinstance(args, list):
            raise RequestError("a message that is no rpc request.")
        if call_id is not None and (not isinstance(call_id, int) or not 0 <= call_id < 2**32):
            raise RequestError("a request with a bad id.")
        method = self._methods.get(name)
        if method is None:
            log.warning("%s called unknown method %r", self.peer, name[:80])
            # rpclib's own words for it
            self._reply(
                call_id,
                None,
                f"rpclib: server could not find function '{name[:80]}' with argument count {len(args)}.",
            )
            return
        self._on_call(self, name)
        self.pending += 1
        try:
            # the first argument of every call is LibCarla's Metadata
            result = method.call(self, args[1:])
        except Exception as error:
            self.pending -= 1
            text = self._explain(method, error)
            if args[:1] == [_FIRE_AND_FORGET]:
                self._tell_once(name, text)
            self._reply(call_id, method.failure(text))
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(self._reply_later(method, call_id, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self.pending -= 1
            self._reply(call_id, method.wrap(result))

    async def _reply_later(self, method: Method, call_id: int | None, result: Awaitable[Any]) -> None:
        try:
            response = method.wrap(await result)
        except Exception as error:
            response = method.failure(self._explain(method, error))
        self.pending -= 1
        self._reply(call_id, response)

    def _tell_once(self, name: str, text: str) -> None:
        """The client drops answers to asynchronous calls: who looks for the error finds it in our log."""
        if name not in self._told:
            self._told.add(name)
            log.warning("%s called %s without waiting for its error: %s", self.peer, name, text)

    def _explain(self, method: Method, error: Exception) -> str:
        if isinstance(error, TickdriveError):  # what the caller can mend: a request, a town
            return str(error)
        log.exception("%s failed for %s", method.name, self.peer)
        return f"{method.name} failed in the server: {type(error).__name__}: {error}"

    def _reply(self, call_id: int | None, result: Any, error: str | None = None) -> None:
        transport = self._transport
        if call_id is None or transport is None or transport.is_closing():
            return
        try:
            packed = self._packer.pack([1, call_id, error, result])
        except (ValueError, TypeError, OverflowError):
            log.exception("a reply could not be packed")
            packed = self._packer.pack([1, call_id, "the server could not pack its reply", None])
            self._packer.reset()
        transport.write(packed)
