"""`tickdrive drive` as a user runs it: its own process, the embedded simulator, the shipped checkpoint."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import psutil
import pytest

from tickdrive.agents.config import load_agent_config
from tickdrive.agents.tick_log import read_log
from tickdrive.leaderboard.simulator_watch import EXIT_SIMULATOR_LOST
from tickdrive.scripts import cli

PURSUIT = Path(__file__).resolve().parents[1] / "leaderboard" / "agents" / "pursuit.py"
FEW = [
    "evaluation.traffic.vehicles=2",
    "evaluation.traffic.walkers=1",
    "evaluation.traffic.crossing_walkers=0",
]


def tickdrive(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tickdrive.scripts.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=cwd)


@pytest.fixture(scope="module")
def run(short_route: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("drive")
    # without the budget, which leaves out what a busy machine cannot do in time
    settings = [item for value in [*FEW, "budget.enabled=false"] for item in ("--set", value)]
    options = ["--route", str(short_route), "--out", "run", "--json", "figures.json", "--seed", "2"]
    done = tickdrive("drive", *options, *settings, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_route_is_driven_and_shown(run):
    folder, shown = run
    assert "Results of RouteScenario_short_rep0" in shown and "Tick latency by stage" in shown
    record = json.loads((folder / "run/results.json").read_text())["_checkpoint"]["records"][0]
    assert record["scores"]["score_route"] > 90.0
    for name in ("results.json", "ticks.jsonl", "drive.mp4", "config.yaml"):
        assert f"run/{name}" in shown


def test_every_tick_is_logged_and_its_spans_add_up(run):
    folder, _ = run
    log = read_log(folder / "run")
    assert log.damage == () and len(log.ticks) > 60
    assert log.header["engine"] and log.header["config_hash"]
    names = {span["name"] for span in log.ticks[-1]["spans"]}
    stages = (
        "decode localization route preprocess vl reasoning planner encode hoist denoise postprocess control"
    )
    assert names >= set(stages.split())
    for tick in log.ticks:
        top = sum(span["ms"] for span in tick["spans"] if span["parent"] is None)
        assert top + tick["other_ms"] == pytest.approx(tick["total_ms"], abs=0.01)
        assert tick["rung"] == "planned" and tick["steps"] == 10
        assert len(tick["plan"]) == 6 and sum(tick["reasoning"].values()) == pytest.approx(1.0, abs=0.01)


def test_the_film_has_a_frame_a_tick(run):
    folder, _ = run
    with av.open(str(folder / "run/drive.mp4")) as film:
        frames = sum(1 for _ in film.decode(video=0))
    assert frames == len(read_log(folder / "run").ticks)


def test_a_report_is_made_of_the_drive(run):
    folder, _ = run
    done = tickdrive("report", "run", "--out", "drive.html", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    ticks = read_log(folder / "run").ticks
    pictures = sorted(int(path.stem) for path in (folder / "run/frames").glob("*.jpg"))
    assert len(pictures) >= len(ticks) // 10 and set(pictures) <= {tick["frame"] for tick in ticks}
    assert f"{len(ticks)} ticks, {len(pictures)} pictures" in done.stdout.replace("\n", " ")
    page = (folder / "drive.html").read_text()
    assert '"town":"TickTown02"' in page and "No map was kept" not in page


def test_the_machine_form_and_the_configuration_read_back(run):
    folder, _ = run
    figures = json.loads((folder / "figures.json").read_text())
    assert (
        figures["schema"] == 1 and figures["latency"]["stages"]["total"]["n"] == figures["latency"]["ticks"]
    )
    assert load_agent_config(folder / "run/config.yaml").planner.steps == 10


def test_another_agent_is_measured(short_route, tmp_path):
    """Watched as well, where there is no terminal: the plain line stands in for the panel."""
    settings = [item for value in [*FEW, "latency.mode=fixed", "latency.ms=80"] for item in ("--set", value)]
    options = ["--route", str(short_route), "--out", "run", "--no-video", "--watch", "--seed", "2"]
    theirs = ["--agent", str(PURSUIT), "--agent-config", '{"speed": 5.0}']
    done = tickdrive("drive", *options, *theirs, *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tick latency by stage" in done.stdout and "tick latency p50" in done.stdout
    log = read_log(tmp_path / "run")
    assert log.header["engine"] == "PursuitAgent" and log.header["config"]["agent_config"] == '{"speed": 5.0}'
    assert [t["rung"] for t in log.ticks[:5]] == ["planned", "hold", "planned", "hold", "planned"]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["tickdrive"]["agent"] == str(PURSUIT)
    assert results["_checkpoint"]["records"][0]["scores"]["score_route"] > 90.0
    # and its written configuration drives it again
    again = [*options[:2], "--out", "again", "--no-video", *settings[: 2 * len(FEW)]]
    done = tickdrive("drive", "--agent", "wrapped", "--agent-config", "run/config.yaml", *again, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_log(tmp_path / "again").ticks[0]["latency"]["mode"] == "fixed"


def test_a_drive_whose_simulator_dies_ends_and_leaves_its_film(short_route, tmp_path):
    """The expert's: the film has a camera of its own, whose end a dead simulator does not answer."""
    settings = [item for value in FEW for item in ("--set", value)]
    options = ["--route", str(short_route), "--agent", "expert", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "tickdrive.scripts.cli", "drive", *options, *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        film, until = tmp_path / "run/drive.mp4", time.monotonic() + 120.0
        while not film.exists():
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.05)
        time.sleep(1.0)
        for child in psutil.Process(process.pid).children(recursive=True):
            if "tickdrive.leaderboard.simulator.server" in child.cmdline():
                child.kill()
        shown, _ = process.communicate(timeout=60)
    if process.returncode == -signal.SIGKILL:
        # it died while the expert asked for a bounding box: that call waits with the GIL held
        assert "the process that drove in it had not ended: it was killed" in shown
        return
    assert process.returncode in (1, EXIT_SIMULATOR_LOST) and "simulator" in shown.lower(), shown
    (record,) = json.loads((tmp_path / "run/results.json").read_text())["_checkpoint"]["records"]
    assert record["status"] == "Failed - Simulation crashed"
    with av.open(str(film)) as opened:
        assert sum(1 for _ in opened.decode(video=0)) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--route", "none.xml"], "none.xml"),
        (["--agent", "expret"], "Did you mean 'expert'"),
        (["--agent", "none.py"], "none.py"),
        (["--agent", str(PURSUIT), "--set", "latency.busy=follow"], "gives no plan"),
        (["--agent", str(PURSUIT), "--no-wrap", "--set", "latency.mode=measured"], "Leave it out"),
        (["--set", "planner.stepz=3"], "Did you mean 'steps'"),
        (["--set", "evaluation.trafic.vehicles=3"], "Did you mean 'traffic'"),
        (["--xodr", "none.xodr"], "none.xodr"),
        (["--town", "TickTown1"], "TickTown01"),
        (["--set", "planner.checkpoint=compakt"], "compact"),
    ],
)
def test_a_wrong_option_is_one_message_that_says_what_was_meant(tmp_path, arguments, message):
    done = tickdrive("drive", *arguments, "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["drive", "evaluate"])
def test_the_engine_is_an_option(command, monkeypatch):
    given = []
    monkeypatch.setattr(f"tickdrive.scripts.{command}.run", given.append)
    monkeypatch.setattr(sys, "argv", ["tickdrive", command, "--engine", "traced", "--set", "threads=1"])
    if command == "evaluate":
        sys.argv.append("routes.xml")
    with pytest.raises(SystemExit):
        cli.main()
    assert given[0].settings == ("threads=1", "planner.engine=traced")


def test_a_full_disk_is_no_defect_of_ours(monkeypatch, capsys):
    def full(options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tickdrive.scripts.drive.run", full)
    monkeypatch.setattr(sys, "argv", ["tickdrive", "drive"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "error: A file cannot be written or read: No space left on device." in capsys.readouterr().err
