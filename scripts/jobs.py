"""Runs a function over tasks in several processes; a process that dies costs its own task and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Report = Callable[[Any], None]
_END_S = 10.0


@dataclass(frozen=True)
class JobReport(Generic[T]):
    """Something a task says while it is at work."""

    task: T
    content: Any


@dataclass(frozen=True)
class JobResult(Generic[T]):
    """A task is done; `value` is what its function returned."""

    task: T
    value: Any


@dataclass(frozen=True)
class JobLoss(Generic[T]):
    """The process of a task ended before the task did."""

    task: T
    exit_code: int | None


JobEvent = JobReport[T] | JobResult[T] | JobLoss[T]


@dataclass(frozen=True)
class LastResult:
    """What a task's function returns where its process must not be given another task: the value in it."""

    value: Any


def run_jobs(
    function: Callable[[T, Report], Any], tasks: deque[T], jobs: int
) -> Generator[JobEvent[T], None, None]:
    """Run tasks, first come first served, and tell what becomes of them as it happens.

    Processes live on from task to task, so that what a function loads it loads once; after a `LastResult` one
    ends at once, whatever threads it has, and another takes its place. They use one thread for arithmetic:
    several processes with threads of their own wait for each other. They end with this process, also when it
    is killed; Ctrl-C reaches this process alone. Close the iterator to end what is under way.

    Args:
        function: of a module's top level; called with a task and with a function for its reports.
        tasks: taken from the left; more may be appended while iterating (to try one again).
        jobs: processes at a time.

    Raises:
        Exception: what a function raised; everything under way is ended.
    """
    workers: list[_Worker[T]] = []
    try:
        while True:
            for worker in workers:
                if tasks and worker.task is None:
                    worker.give(tasks.popleft())
            while tasks and len(workers) < jobs:
                workers.append(_Worker(function))
                workers[-1].give(tasks.popleft())
            busy = [worker for worker in workers if worker.task is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection not in ready:
                    continue
                event = worker.take()
                if worker.ended:
                    worker.end()
                    workers.remove(worker)
                yield event
    finally:
        for worker in workers:
            worker.end()


class _Worker(Generic[T]):
    """One process, and what it is at."""

    def __init__(self, function: Callable[[T, Report], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function))
        self._process.start()
        theirs.close()  # or its end would not be seen here
        self.task: T | None = None
        self.ended = False

    def give(self, task: T) -> None:
        self.task = task
        with suppress(BrokenPipeError):  # it died idle; `take` says so
            self.connection.send(task)

    def take(self) -> JobEvent[T]:
        task = self.task
        assert task is not None
        try:
            kind, content = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.ended = True
            self._process.join()
            return JobLoss(task, self._process.exitcode)
        if kind == "report":
            return JobReport(task, content)
        self.task = None
        self.ended = kind == "last"
        if kind == "error":
            raise content
        return JobResult(task, content)

    def end(self) -> None:
        """End it: gently where it is idle."""
        self.connection.close()
        if self.task is None:
            self._process.join(_END_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, function: Callable[[Any, Report], Any]) -> None:
    """A worker process: tasks in, reports and results out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    _use_one_thread()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            value = function(task, lambda content: connection.send(("report", content)))
        except Exception as error:
            connection.send(("error", error))
            continue
        if isinstance(value, LastResult):
            connection.send(("last", value.value))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # an orderly end waits for threads, which is what such a process may not be able to
        connection.send(("result", value))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _use_one_thread() -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
