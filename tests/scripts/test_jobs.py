"""Processes at work on tasks: what becomes of a task whose process dies, and of all when the command ends."""

from __future__ import annotations

import os
from collections import deque
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tickdrive.scripts.jobs import JobLoss, JobReport, JobResult, run_jobs

WORK = """
import os, threading, time
from tickdrive.scripts.jobs import LastResult

def work(task, report):
    name, seconds, folder = task
    report(os.getpid())
    if name == "die":
        os._exit(5)
    if name == "raise":
        raise ValueError("no such thing")
    if name == "last":
        threading.Thread(target=time.sleep, args=(300.0,)).start()
        return LastResult("done")
    time.sleep(seconds)
    return name.upper()
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that a fresh process can import."""
    (tmp_path / "tickdrive_test_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    return importlib.import_module("tickdrive_test_work").work


def test_a_process_that_dies_costs_its_own_task_and_another_can_be_appended(work):
    tasks = deque([("a", 0.0, ""), ("die", 0.0, ""), ("b", 0.5, "")])
    lost, done, pids = [], [], set()
    with closing(run_jobs(work, tasks, 2)) as events:
        for event in events:
            if isinstance(event, JobLoss):
                lost.append((event.task[0], event.exit_code))
                tasks.append(("again", 0.0, ""))
            elif isinstance(event, JobReport):
                pids.add(event.content)
            elif isinstance(event, JobResult):
                done.append(event.value)
    assert lost == [("die", 5)] and sorted(done) == ["A", "AGAIN", "B"]
    assert os.getpid() not in pids and not any(psutil.pid_exists(pid) for pid in pids)


def test_a_last_result_ends_its_process_whatever_its_threads_do_and_another_takes_over(work):
    done, pids = [], []
    with closing(run_jobs(work, deque([("last", 0.0, ""), ("a", 0.0, ""), ("b", 0.0, "")]), 1)) as events:
        for event in events:
            if isinstance(event, JobReport):
                assert not any(psutil.pid_exists(pid) for pid in pids if pid != event.content)
                pids.append(event.content)
            else:
                assert isinstance(event, JobResult)
                done.append(event.value)
    assert done == ["done", "A", "B"]
    assert pids[0] != pids[1] == pids[2]


def test_what_a_function_raises_comes_out_and_everything_under_way_ends(work):
    pids = set()
    with (
        pytest.raises(ValueError, match="no such thing"),
        closing(run_jobs(work, deque([("long", 300.0, ""), ("raise", 0.0, "")]), 2)) as events,
    ):
        for event in events:
            assert isinstance(event, JobReport)
            pids.add(event.content)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_closing_ends_what_is_under_way(work):
    with closing(run_jobs(work, deque([("long", 300.0, "")]), 1)) as events:
        event = next(events)
        assert isinstance(event, JobReport)
    assert not psutil.pid_exists(event.content)
