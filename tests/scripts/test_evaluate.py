"""`tickdrive evaluate`: what is refused before a simulator is started, and a simulator that dies."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tickdrive.agents.shared_models import resolve_checkpoint
from tickdrive.leaderboard.evaluator import EvaluationOutcome
from tickdrive.leaderboard.retried_evaluation import RetriedEvaluation
from tickdrive.planner.errors import ConfigError, RouteError, ServerError, TickdriveError
from tickdrive.scripts import cli, drive
from tickdrive.scripts.agent_choice import agent_config_text, choose_agent
from tickdrive.scripts.evaluate import EvaluateOptions, run

SERVER = "tickdrive.leaderboard.simulator.server"
PURSUIT = Path(__file__).resolve().parents[1] / "leaderboard" / "agents" / "pursuit.py"
SETTINGS = (
    "server_timeout_s=15.0",
    *(f"traffic.{item}" for item in ("vehicles=2", "walkers=0", "crossing_walkers=0", "lead_vehicle=false")),
)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped checkpoint whose weights were cut short."""
    shipped, folder = resolve_checkpoint("compact"), tmp_path_factory.mktemp("damaged") / "compact"
    folder.mkdir()
    shutil.copy(shipped / "config.json", folder)
    (folder / "model.safetensors").write_bytes((shipped / "model.safetensors").read_bytes()[:100_000])
    return folder


@pytest.mark.parametrize("command", ["drive", "evaluate"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("planner.engine=hoist", "Did you mean 'hoisted'"),
        ("planner.engine=fused", "runs on CUDA"),
        ("planner.engine=reference planner.dtype=bf16", "It runs in fp32"),
        ("planner.checkpoint={damaged}", "damaged or cut short"),
        ("planner.steps=101", "planner.steps is 101; .* Give 1 to 100"),
    ],
)
def test_what_is_wrong_with_the_models_is_said_before_anything_is_made(
    short_route: Path, tmp_path: Path, damaged: Path, command: str, setting: str, message: str
):
    settings = (*setting.format(damaged=damaged).split(), "planner.device=cpu")
    out = tmp_path / "run"
    with pytest.raises(TickdriveError, match=message):
        if command == "drive":
            drive.run(drive.DriveOptions(str(short_route), settings=settings, out=out))
        else:
            run(EvaluateOptions(short_route, settings=settings, out=out))
    assert not out.exists()


def test_an_unknown_town_is_said_before_anything_is_made(tmp_path: Path):
    with pytest.raises(ServerError, match="Did you mean 'TickTown0"):
        drive.run(drive.DriveOptions(town="TickTown1", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_resume_that_finds_nothing_says_so_and_starts(
    short_route: Path, tmp_path: Path, monkeypatch, capsys
):
    def started(self: RetriedEvaluation, resume: bool) -> EvaluationOutcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(RetriedEvaluation, "run", started)
    options = EvaluateOptions(short_route, agent=str(PURSUIT), wrap=False, out=tmp_path / "run", resume=True)
    for there in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run(options)
        assert ("nothing to resume: there is no" in capsys.readouterr().err) is not there
        (tmp_path / "run/results.json").write_text("{}")


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


def simulators(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [each for each in children if each.status() != psutil.STATUS_ZOMBIE and SERVER in each.cmdline()]


def wait_until(process: subprocess.Popen[str], when: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120.0
    while not when():
        assert process.poll() is None and time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)


def test_a_simulator_that_is_killed_costs_time_and_ctrl_c_no_results(short_route: Path, tmp_path: Path):
    process = evaluate(short_route, tmp_path)
    wait_until(process, lambda: len(records(tmp_path)) == 1)
    time.sleep(0.5)  # into the second route
    simulators(process)[0].kill()
    wait_until(process, lambda: len(records(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert "_rep1: the simulator died; tried again" in shown
    assert process.returncode == 130 and f"go on with --resume --out {tmp_path}" in shown
    assert len(records(tmp_path)) == 2
    process = evaluate(short_route, tmp_path, resume=True)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    found = records(tmp_path)
    assert [route for route, _, _ in found] == [f"RouteScenario_short_rep{k}" for k in range(3)]
    assert all(status in ("Perfect", "Completed") and score > 95.0 for _, status, score in found)


def test_a_server_that_is_not_there_is_named_at_once(short_route: Path, tmp_path: Path):
    options = EvaluateOptions(short_route, agent=str(PURSUIT), wrap=False, carla="127.0.0.1:29", out=tmp_path)
    with pytest.raises(ServerError, match=r"Nothing listens at 127\.0\.0\.1:29\."):
        run(options)


def test_towns_that_the_simulator_has_not_are_named_before_it_is_started(short_route: Path, tmp_path: Path):
    routes = tmp_path / "routes.xml"
    routes.write_text(short_route.read_text().replace("TickTown02", "Town12"))
    with pytest.raises(RouteError, match=r"no Town12 \(routes short\)"):
        run(EvaluateOptions(routes, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--carla-root", "x", "--timeout", "3"],
            "--carla-root, --timeout have an effect with --suite only.",
        ),
        (["--suite", "leaderboard-2.1", "--rules", "2.0"], "--rules has no effect with --suite"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("LEADERBOARD_ROOT", str(tmp_path))  # may stand there for other commands
    monkeypatch.setattr(sys, "argv", ["tickdrive", "evaluate", "routes.xml", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
