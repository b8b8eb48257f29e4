"""Starts a simulator in its own process, waits for it, and makes sure that it ends."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from tickdrive.leaderboard.simulator.render.choice import check_renderer
from tickdrive.leaderboard.simulator.server import DRAWN_BY, READY
from tickdrive.planner.errors import ServerError

_POLL_S = 0.05
_STOP_S = 5.0
_TAIL_LINES = 12


def free_port_pair(host: str = "127.0.0.1") -> int:
    """A port that is free and whose successor is free too.

    Raises:
        ServerError: none was found.
    """
    for _ in range(200):
        port = random.randrange(20000, 60000, 2)
        try:
            with socket.socket() as first, socket.socket() as second:
                first.bind((host, port))
                second.bind((host, port + 1))
        except OSError:
            continue
        return port
    raise ServerError("No two neighbouring free ports were found.", "Give one with --port.")


class SimulatorProcess:
    """A running simulator; a context manager that stops it.

    Attributes:
        host: address it listens on.
        port: RPC port; streams use the next.
        pid: its process.
        log_path: where it writes its log.
        drawn_by: what draws its cameras, for people: `cpu`, or `egl` with the card.
    """

    def __init__(self, process: subprocess.Popen[bytes], host: str, port: int, log_path: Path) -> None:
        self.host = host
        self.port = port
        self.pid = process.pid
        self.log_path = log_path
        self.drawn_by = ""
        self._process = process
        self._peak_rss_mb = 0.0

    @classmethod
    def start(
        cls,
        town: str | None = None,
        xodr_path: str | Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        seed: int = 0,
        threads: int = 1,
        renderer: str = "cpu",
        towns: Path | None = None,
        log_path: str | Path | None = None,
        timeout_s: float = 180.0,
        progress: Callable[[float], None] | None = None,
    ) -> SimulatorProcess:
        """Start a server and wait until it can be connected to.

        Args:
            town: name of a shipped town; or
            xodr_path: an OpenDRIVE file.
            host: address to listen on.
            port: RPC port; None takes a free pair.
            seed: of everything random on the server's side.
            threads: of its renderer.
            renderer: what draws the cameras, see `render.choice`.
            towns: folder of further towns, as `<name>.xodr`.
            log_path: file for its log; None makes a temporary one.
            timeout_s: how long it may take; the first start on a machine compiles.
            progress: called with the seconds waited so far, about 20 times a second.

        Raises:
            ConfigError: an unknown renderer.
            ServerError: it died or was not ready in time; the last lines of its log are in the message.
        """
        if (town is None) == (xodr_path is None):
            raise ServerError("A simulator needs a town or an OpenDRIVE file.", "Give exactly one of them.")
        port = free_port_pair(host) if port is None else port
        path = Path(log_path) if log_path is not None else _temporary_log()
        path.parent.mkdir(parents=True, exist_ok=True)
        where = ["--town", town] if town is not None else ["--xodr", str(xodr_path)]
        command = [sys.executable, "-m", "tickdrive.leaderboard.simulator.server", *where]
        command += ["--host", host, "--port", str(port), "--seed", str(seed), "--threads", str(threads)]
        command += ["--renderer", check_renderer(renderer)]
        command += ["--watch-parent", str(os.getpid())]
        if towns is not None:
            command += ["--towns", str(towns)]
        with path.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = cls(process, host, port, path)
        try:
            server._wait_until_ready(timeout_s, progress)
        except BaseException:
            server.stop()
            raise
        return server

    def _wait_until_ready(self, timeout_s: float, progress: Callable[[float], None] | None) -> None:
        started = time.monotonic()
        while True:
            waited = time.monotonic() - started
            log = self._log()
            if READY in log:
                self.drawn_by = log.partition(DRAWN_BY)[2].partition("\n")[0]
                return
            self.check()
            if waited > timeout_s:
                raise ServerError(
                    f"The simulator was not ready after {timeout_s:.0f} s. Its log ends:\n{self.tail()}",
                    "Give it more time, or read the log.",
                )
            if progress is not None:
                progress(waited)
            time.sleep(_POLL_S)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise `ServerError` with the end of the log where the server has died."""
        if not self.alive():
            raise ServerError(
                f"The simulator ended with status {self._process.returncode}. Its log ends:\n{self.tail()}",
                f"The whole log is {self.log_path}.",
            )

    def peak_rss_mb(self) -> float:
        """Peak resident memory so far, MB; the last value seen where the process is gone."""
        try:
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak_rss_mb = max(self._peak_rss_mb, int(line.split()[1]) / 1024.0)
        except OSError:
            try:
                now_mb = psutil.Process(self.pid).memory_info().rss / 2**20
                self._peak_rss_mb = max(self._peak_rss_mb, now_mb)
            except psutil.Error:
                pass
        return self._peak_rss_mb

    def tail(self) -> str:
        """Last lines of the log."""
        return "\n".join(self._log().splitlines()[-_TAIL_LINES:]) or "(empty)"

    def stop(self) -> None:
        """End the process, gently first; does nothing where it has ended."""
        self.peak_rss_mb()
        if not self.alive():
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _log(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")
        except OSError:
            return ""

    def __enter__(self) -> SimulatorProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _temporary_log() -> Path:
    handle, name = tempfile.mkstemp(prefix="tickdrive-simulator-", suffix=".log")
    os.close(handle)
    return Path(name)
