"""One process of an upstream evaluator: started, listened to, and ended with all that it started."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from tickdrive.leaderboard.upstream.records import Drive, read_checkpoint
from tickdrive.leaderboard.upstream.runner import RunnerSpec

_POLL_S = 0.2
_END_S = 3.0
_FAMILY_EVERY_S = 1.0
_TAIL_CHARACTERS = 4000


class Attempt:
    """An evaluator's process, and what is known of it.

    Args:
        spec: what is run; where it tells what happens is settled here.
        checkpoint: the results file that it writes.
        log_path: for what it prints.
        environment: of the process.
        working_folder: likewise.

    Attributes:
        under_way: the drive that began last, until its verdict.
        verdicts: what upstream said of drives so far.
        crashed: it said that the simulation crashed: nothing more is to be had of it.
    """

    def __init__(
        self,
        spec: RunnerSpec,
        checkpoint: Path,
        log_path: Path,
        environment: Mapping[str, str],
        working_folder: Path,
    ) -> None:
        self.log_path = log_path
        self.checkpoint = checkpoint
        self.under_way: Drive | None = None
        self.verdicts: list[dict[str, Any]] = []
        self.crashed = False
        self._began: list[tuple[Drive, float]] = []
        self._moved = time.monotonic()
        self._last: str = ""
        self._buffer = b""
        self._noted = 0.0
        self._written: tuple[int, int] | None = None
        self._family: dict[int, psutil.Process] = {}
        self._events, theirs = os.pipe()
        os.set_blocking(self._events, False)
        spec = replace(spec, events=theirs)
        with log_path.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tickdrive.leaderboard.upstream.runner", spec.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=working_folder,
                env=dict(environment),
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        os.close(theirs)

    @property
    def status(self) -> int:
        """Exit status; 0 while it runs."""
        return self._process.returncode or 0

    def running(self) -> bool:
        """Wait a moment; whether it runs."""
        select.select([self._events], [], [], _POLL_S)
        if time.monotonic() - self._noted > _FAMILY_EVERY_S:  # it looks at every process there is
            self._note_family()
        return self._process.poll() is None

    def events(self) -> list[dict[str, Any]]:
        """What it told since."""
        with suppress(BlockingIOError):
            while data := os.read(self._events, 65536):
                self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if (text := line.decode()) != self._last:  # simulated time that stands still is the same line
                self._last, self._moved = text, time.monotonic()
        return [json.loads(line) for line in lines]

    def results(self) -> dict[str, Any] | None:
        """Its results file, where that changed since and is whole."""
        try:
            status = self.checkpoint.stat()
        except FileNotFoundError:
            return None
        written = status.st_mtime_ns, status.st_size
        content = read_checkpoint(self.checkpoint) if written != self._written else None
        if content is not None:
            self._written = written
        return content

    def begins(self, drive: Drive) -> None:
        """A drive begins; the one before has ended."""
        self.under_way = drive
        self._began.append((drive, time.monotonic()))

    def wall_s(self, drive: Drive) -> float:
        """How long a drive took, or has taken so far."""
        times = [began for _, began in self._began] + [time.monotonic()]
        places = [i for i, (each, _) in enumerate(self._began) if each == drive]
        return times[places[-1] + 1] - times[places[-1]] if places else 0.0

    def still_s(self) -> float:
        """How long nothing new was told."""
        return time.monotonic() - self._moved

    def has_verdict(self, drive: Drive) -> bool:
        """Whether upstream said something final of a drive, accepted or not."""
        return any(record["route_id"].startswith(f"{drive.route}_rep") for record in self.verdicts)

    def tail(self) -> str:
        """Last lines of its log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return (
            "\n".join(line for line in lines if "-- Wallclock" not in line)[-_TAIL_CHARACTERS:].strip()
            or "(empty)"
        )

    def end(self) -> None:
        """End it and all that it started, a CARLA of its own too."""
        self._note_family()
        family = [*self._family.values()]
        if self._process.poll() is None:
            self._process.terminate()
        for member in family:
            with suppress(psutil.Error):
                member.terminate()
        psutil.wait_procs(family, timeout=_END_S)
        for member in family:
            with suppress(psutil.Error):
                member.kill()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _note_family(self) -> None:
        """Remember what it starts: once it is gone nobody knows whose it was."""
        self._noted = time.monotonic()
        with suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                self._family.setdefault(child.pid, child)
