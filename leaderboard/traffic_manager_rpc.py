"""Calls to a Traffic Manager through the RPC server that every Traffic Manager runs, in whichever process.

A Traffic Manager that hangs cannot be called through the client library: `TrafficManager::Tick` holds the
lock that every other method takes first, and those wait for it with the GIL held, which stops the process
for good. The RPC server has its own thread and takes neither.
"""

from __future__ import annotations

import asyncio
import logging

import msgpack

_LOGGER = logging.getLogger(__name__)
_TIMEOUT_S = 5.0


async def call_traffic_manager(host: str, port: int, *calls: tuple[object, ...]) -> None:
    """Call methods of a Traffic Manager, one after the other; one that does not answer is logged.

    Args:
        host: of the process that the Traffic Manager lives in.
        port: the Traffic Manager's.
        calls: method name and arguments each. Unlike a simulator's, these take no metadata.
    """
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _TIMEOUT_S)
        try:
            unpacker = msgpack.Unpacker()
            for number, (method, *arguments) in enumerate(calls):
                writer.write(msgpack.packb([0, number, method, arguments]))
                while not any(True for _ in unpacker):
                    data = await asyncio.wait_for(reader.read(4096), _TIMEOUT_S)
                    if not data:
                        return
                    unpacker.feed(data)
        finally:
            writer.close()
    except (OSError, asyncio.TimeoutError) as error:
        _LOGGER.warning("the Traffic Manager at %s:%d does not answer: %s", host, port, error)


async def wake_worker(host: str, port: int) -> None:
    """Wake the worker of a synchronous Traffic Manager; at the end of its step it wakes the tick."""
    await call_traffic_manager(host, port, ("set_synchronous_mode", False), ("set_synchronous_mode", True))
