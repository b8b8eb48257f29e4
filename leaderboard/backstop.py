"""Ends a process from outside that hangs since its simulator died.

Nothing inside the process is sure to: the client library holds the GIL in some calls
(`TrafficManager::ShutDown` waits for a thread that waits for the dead server, seen in a debugger), and with
it every Python thread stands still, `SimulatorWatch` among them. So a small process of its own looks on. It
asks for nothing but the port, and it ends with the one that it watches.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

from tickdrive.leaderboard.simulator_watch import PortProbe

_GRACE_S = 30.0
_POLL_S = 0.5
_SHOW_CURSOR = "\x1b[?25h"


class Backstop:
    """Kills this process if the server is gone and `dismiss` is not called in time.

    Args:
        host: the server's address.
        port: where nothing listens once it is gone.
        grace_s: how long this process may take to write down its results, once the server is gone.
    """

    def __init__(self, host: str, port: int, grace_s: float = _GRACE_S) -> None:
        arguments = [host, str(port), str(os.getpid()), str(grace_s)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tickdrive.leaderboard.backstop", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that is watched
        )

    def dismiss(self) -> None:
        """From here on this process cannot hang on the server."""
        self._process.kill()
        self._process.communicate()


def watch(host: str, port: int, pid: int, grace_s: float) -> None:
    """Look on until `pid`, this process's parent, has ended; standard input then ends, too."""
    alive = PortProbe(host, port)
    gone_at: float | None = None
    while os.getppid() == pid and not select.select([sys.stdin], [], [], _POLL_S)[0]:
        if alive():
            gone_at = None
            continue
        gone_at = gone_at or time.monotonic()
        if time.monotonic() - gone_at > grace_s:
            os.kill(pid, signal.SIGKILL)
            cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
            sys.stderr.write(
                f"{cursor}The simulator at {host}:{port} died, and {grace_s:g} s later the process that "
                "drove in it had not ended: it was killed. Results so far are on disk; drive the rest anew.\n"
            )
            return


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
