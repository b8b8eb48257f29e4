"""`tickdrive evaluate`: what is refused before a simulator is started, and a simulator that dies."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tickdrive.leaderboard.simulator_watch import EXIT_SIMULATOR_LOST
from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.agent_choice import agent_config_text, choose_agent
from tickdrive.scripts.evaluate import EvaluateOptions, run

SERVER = "tickdrive.leaderboard.simulator.server"
PURSUIT = Path(__file__).resolve().parents[1] / "leaderboard" / "agents" / "pursuit.py"
SETTINGS = (
    "server_timeout_s=15.0",
    *(f"traffic.{item}" for item in ("vehicles=2", "walkers=0", "crossing_walkers=0", "lead_vehicle=false")),
)


def test_resuming_with_another_agent_configuration_is_refused(short_route: Path, tmp_path: Path):
    choose_agent("diffusion", None, ["planner.steps=5"], tmp_path)
    before = agent_config_text(tmp_path)
    options = EvaluateOptions(short_route, out=tmp_path, resume=True, settings=("planner.steps=2",))
    with pytest.raises(ConfigError) as caught:
        run(options)
    assert "there steps: 5, now steps: 2" in caught.value.what
    assert agent_config_text(tmp_path) == before


def evaluate(short_route: Path, out: Path, resume: bool = False) -> subprocess.Popen[str]:
    settings = [item for value in SETTINGS for item in ("--set", f"evaluation.{value}")]
    options = ["--agent", str(PURSUIT), "--no-wrap", "--repetitions", "3", "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "tickdrive.scripts.cli", "evaluate", str(short_route), *options, *settings]
        + ["--resume"] * resume,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records(out: Path) -> list[tuple[str, str, float]]:
    """Route, status and score of each that was driven to an end."""
    path = out / "results.json"
    found = json.loads(path.read_text())["_checkpoint"]["records"] if path.exists() else []
    return [
        (record["route_id"], record["status"], record["scores"]["score_composed"])
        for record in found
        if record["status"] != "Failed - Simulation crashed"
    ]


def disturb(
    process: subprocess.Popen[str], number: int, when: Callable[[], bool], after_s: float
) -> psutil.Process:
    """Send its simulator a signal."""
    deadline = time.monotonic() + 120.0
    while True:
        servers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.status() != psutil.STATUS_ZOMBIE and SERVER in child.cmdline()
        ]
        if servers and when():
            time.sleep(after_s)
            servers[0].send_signal(number)
            return servers[0]
        assert process.poll() is None and time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)


def test_simulators_that_are_killed_or_stand_still_cost_time_and_no_results(
    short_route: Path, tmp_path: Path
):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert evaluate(short_route, undisturbed).wait(timeout=120) == 0
    # before a route, about the first one's beginning, in the second, in the third
    for known, after_s, number in (
        (0, 0.0, signal.SIGKILL),
        (0, 1.0, signal.SIGKILL),
        (1, 0.5, signal.SIGKILL),
        (2, 0.5, signal.SIGSTOP),
    ):
        process = evaluate(short_route, disturbed, resume=(disturbed / "results.json").exists())
        log = disturbed / "simulator.log"
        server = disturb(
            process,
            number,
            lambda known=known, log=log: "ready" in log.read_text() and len(records(disturbed)) >= known,
            after_s,
        )
        shown, _ = process.communicate(timeout=60)
        if server.is_running():  # nothing but this reaches one that stands still
            server.kill()
        # -6: a call of the Traffic Manager's thread that times out ends the process
        assert process.returncode in (1, EXIT_SIMULATOR_LOST, -signal.SIGKILL, -signal.SIGABRT), shown
        assert re.search("[Tt]he simulator .*(died|ended)|No CARLA server answers|time-out of", shown)
    process = evaluate(short_route, disturbed, resume=True)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert len(records(undisturbed)) == 3 and records(disturbed) == records(undisturbed)
