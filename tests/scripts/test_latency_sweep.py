"""`tickdrive latency-sweep` as a user runs it, through the real simulator: killed, resumed, and refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tickdrive.leaderboard.sweep.drive_result import DriveResult
from tickdrive.leaderboard.sweep.plan import SweepDrive, SweepPoint
from tickdrive.planner.errors import ConfigError, DataError
from tickdrive.scripts import latency_sweep
from tickdrive.scripts.jobs import JobEvent, JobLoss, JobResult
from tickdrive.scripts.latency_sweep import SweepOptions, parse_latencies, run, sweep_configs
from tickdrive.scripts.sweep_drive import CRASHED_SUFFIX, DriveEnd, SweepTask
from tickdrive.scripts.sweep_progress import time_left_s

FEW = ("vehicles=1", "walkers=0", "crossing_walkers=0", "lead_vehicle=false")
SETTINGS = tuple(f"evaluation.traffic.{item}" for item in FEW)
FIRST, SECOND = (SweepDrive(SweepPoint(ms, True), "short", 2) for ms in (0.0, 150.0))


def command(short_route: Path, out: Path) -> list[str]:
    settings = [item for value in SETTINGS for item in ("--set", value)]
    options = ["--latencies", "0,150", "--routes", f"{short_route}:short", "--seeds", "2", "--out", str(out)]
    return [sys.executable, "-m", "tickdrive.scripts.cli", "latency-sweep", *options, *settings]


def until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def ticks(folder: Path) -> int:
    log = folder / "ticks.jsonl"
    return log.read_bytes().count(b"\n") - 1 if log.exists() else 0


def simulator(process: psutil.Process) -> psutil.Process:
    """The one that is at work."""
    (found,) = (
        child
        for child in process.children(recursive=True)
        if child.status() != "zombie" and "tickdrive.leaderboard.simulator.server" in child.cmdline()
    )
    return found


@pytest.fixture(scope="module")
def killed(short_route: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep both of whose drives lost their simulator at first, and which was killed in its last drive."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    with subprocess.Popen(command(short_route, out), stdout=subprocess.DEVNULL) as sweep:
        process = psutil.Process(sweep.pid)
        for drive in (FIRST, SECOND):
            until(lambda drive=drive: ticks(out / drive.folder) > 10)
            simulator(process).kill()
        until(lambda: (out / FIRST.folder / "drive.json").exists())
        until(lambda: (out / f"{SECOND.folder}{CRASHED_SUFFIX}").exists() and ticks(out / SECOND.folder) > 10)
        family = process.children(recursive=True)
        sweep.send_signal(signal.SIGKILL)
    until(lambda: not any(child.is_running() and child.status() != "zombie" for child in family), 30.0)
    return out


def test_a_drive_whose_simulator_died_is_driven_again(killed: Path) -> None:
    lost = killed / f"{FIRST.folder}{CRASHED_SUFFIX}"
    assert 10 < ticks(lost) < ticks(killed / FIRST.folder) and not (lost / "drive.json").exists()


def test_a_kill_loses_the_drive_under_way_and_no_other(killed: Path, short_route: Path) -> None:
    assert not (killed / SECOND.folder / "drive.json").exists()
    kept = (killed / FIRST.folder / "drive.json").read_bytes()
    done = subprocess.run(command(short_route, killed), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 drives, 1 of them done already" in done.stdout
    assert (killed / FIRST.folder / "drive.json").read_bytes() == kept
    sweep = json.loads((killed / "sweep.json").read_text())
    assert [row["latency_ms"] for row in sweep["rows"]] == [0.0, 150.0] and sweep["missing"] == []
    assert all(row["completion"]["value"] > 90.0 for row in sweep["rows"])
    for name in ("sweep.png", "sweep.svg"):
        assert (killed / name).stat().st_size > 10_000 and name in done.stdout
    log = (killed / SECOND.folder / "ticks.jsonl").read_text().splitlines()
    assert {json.loads(line)["latency"]["us"] for line in log[1:]} == {None, 150_000}


def test_another_configuration_is_refused(killed: Path, short_route: Path) -> None:
    options = SweepOptions(
        (0.0, 150.0), str(short_route), (2,), settings=(*SETTINGS, "planner.steps=5"), out=killed
    )
    with pytest.raises(DataError, match=r"planner\.steps was 10, now it is 5"):
        run(options)


# -- without driving ---------------------------------------------------------------------------------------


@pytest.fixture
def options(short_route: Path, tmp_path: Path) -> SweepOptions:
    return SweepOptions((0.0, 150.0), str(short_route), (2,), out=tmp_path / "out")


def result(drive: SweepDrive, wall_s: float = 60.0) -> DriveResult:
    point = drive.point
    identity = (point.latency_ms, point.compensation, drive.route_id, drive.seed)
    return DriveResult(*identity, "Perfect", 100.0, 100.0, True, {}, 0.05, 10.0, wall_s, 200, 0)


def ends_with(monkeypatch: pytest.MonkeyPatch, *ends: Callable[[SweepTask], JobEvent[SweepTask]]) -> list:
    """Let the drives end so, one after the other, instead of driving them."""
    driven: list[tuple[SweepDrive, int]] = []
    remaining = list(ends)

    def run_jobs(function: object, queue: Any, jobs: int) -> Iterator[JobEvent[SweepTask]]:
        while queue:
            task = queue.popleft()
            driven.append((task.drive, task.attempt))
            yield remaining.pop(0)(task)

    monkeypatch.setattr(latency_sweep, "run_jobs", run_jobs)
    return driven


def test_a_drive_that_crashes_twice_is_missing_and_said(options, monkeypatch, capsys):
    driven = ends_with(
        monkeypatch,
        lambda task: JobResult(task, DriveEnd.SIMULATOR),
        lambda task: JobResult(task, result(task.drive)),
        lambda task: JobLoss(task, 5),
    )
    with pytest.raises(SystemExit) as caught:
        run(options)
    assert caught.value.code == 1
    assert driven == [(FIRST, 1), (SECOND, 1), (FIRST, 2)]
    (missing,) = json.loads((options.out / "sweep.json").read_text())["missing"]
    assert missing["latency_ms"] == 0.0 and "status 5" in missing["why"]
    shown = capsys.readouterr().out
    assert "missing: 0 ms, short, seed 2" in shown and "1 of 2 drives are missing" in shown


def test_an_agent_that_fails_is_not_tried_again_and_one_that_cannot_start_ends_the_sweep(
    options, monkeypatch
):
    driven = ends_with(
        monkeypatch,
        lambda task: JobResult(task, DriveEnd.AGENT),
        lambda task: JobResult(task, DriveEnd.NO_AGENT),
    )
    with pytest.raises(Exception, match="the agent cannot be set up"):
        run(options)
    assert driven == [(FIRST, 1), (SECOND, 1)]


def test_ctrl_c_leaves_what_is_done(options, monkeypatch, capsys):
    def interrupt(task: SweepTask) -> JobEvent[SweepTask]:
        raise KeyboardInterrupt

    ends_with(monkeypatch, lambda task: JobResult(task, result(task.drive)), interrupt)
    with pytest.raises(SystemExit) as caught:
        run(options)
    assert caught.value.code == 130
    assert len(json.loads((options.out / "sweep.json").read_text())["drives"]) == 1
    assert "goes on" in capsys.readouterr().err


def test_two_sweeps_do_not_share_a_folder(options):
    with latency_sweep._alone_in(_made(options.out)), pytest.raises(DataError, match="Another sweep"):
        run(options)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_results_do_not_depend_on_the_machine(options):
    agent, evaluation = sweep_configs(options)
    assert not agent.budget.enabled and agent.threads == 1
    assert evaluation.blocked_s == 60.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": ("latency.ms=5",)}, "--latencies"),
        ({"settings": ("latency.compensation=false",)}, "--compensation"),
        ({"settings": ("evaluation.seed=5",)}, "--seeds"),
        ({"settings": ("threads=2",), "jobs": 2}, "threads"),
        ({"rounding": "quantized"}, "Did you mean 'quantised'"),
        ({"compensation": "yes"}, "Known: both, off, on"),
        ({"seeds": (1, 1)}, "--seeds"),
        ({"jobs": 0}, "--jobs"),
    ],
)
def test_options_that_cannot_be_are_refused(options, changes, message):
    from dataclasses import replace

    with pytest.raises(ConfigError) as caught:
        run(replace(options, **changes))
    assert message in str(caught.value)


def test_latencies_are_read():
    assert parse_latencies("0,30,75.5") == (0.0, 30.0, 75.5)
    with pytest.raises(ConfigError, match="--latencies"):
        parse_latencies("0,fast")


def test_the_time_left_goes_by_the_same_latency_where_it_is_known():
    third = SweepDrive(FIRST.point, "short", 3)
    fourth = SweepDrive(SweepPoint(2000.0, False), "short", 3)
    results = {FIRST: result(FIRST, 100.0), SECOND: result(SECOND, 20.0)}
    assert time_left_s([FIRST, SECOND, third], results, 2) == 50.0
    assert time_left_s([FIRST, SECOND, third, fourth], results, 1) == 160.0
