"""Stands between a client and a server, passes every byte on, and notes which RPCs the client sends."""

from __future__ import annotations

import socket
import threading

import msgpack


class RpcRelay:
    """Listens on a port of its own; a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        #: names of the calls so far
        self.names: set[str] = set()
        self._sockets: list[socket.socket] = [self._listener]

    def __enter__(self) -> RpcRelay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, requests: bool) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=1 << 28, unicode_errors="surrogateescape")
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                if requests:
                    unpacker.feed(data)
                    self.names |= {message[2] for message in unpacker}
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
