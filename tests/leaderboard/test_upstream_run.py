"""An upstream evaluation with everything that can go wrong: a made-up evaluator on the real simulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from made_checkout import make_checkout, make_routes

from tickdrive.leaderboard.upstream import checkout as checking
from tickdrive.leaderboard.upstream.checkout import open_checkout
from tickdrive.leaderboard.upstream.records import Drive, Records
from tickdrive.leaderboard.upstream.simulators import Embedded, Running
from tickdrive.leaderboard.upstream.suite_run import SuiteRun, SuiteSettings, UpstreamAgent
from tickdrive.planner.errors import DataError, ServerError

TOWN = "TickTown02"
CRASHED = "Failed - Simulation crashed"


class Told:
    """What an observer is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def at(self, drive, sim_s):
        pass

    def done(self, drive, record, wall_s):
        self.lines.append(f"{drive.route_id} {record['status']}")

    def lost(self, drive, why, again):
        self.lines.append(f"lost {drive.route_id if drive else 'start'}: {why}; again {again}")


class Evaluation:
    """A made-up checkout and a run of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        self.folder.mkdir()
        self.made = make_checkout(folder / "checkout")
        self.told = Told()

    def run(self, ids: list[str], resume: bool = False, simulator=None, **settings) -> dict:
        routes = make_routes(self.folder / "routes.xml", ids, TOWN)
        checkout = open_checkout("leaderboard-2.1", self.made.leaderboard, self.made.scenario_runner)
        given = SuiteSettings(**settings)
        drives = [Drive(f"RouteScenario_{each}", k) for each in ids for k in range(given.repetitions)]
        self.records = Records(self.folder / "results.json", drives, resume)
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        suite = SuiteRun(
            checkout,
            routes,
            self.records,
            UpstreamAgent(self.folder / "agent.py", "x"),
            self.folder,
            simulator or Embedded(TOWN, None, 0, logs),
            given,
            self.told,
        )
        suite.run()
        self.records.conclude(checkout)
        return json.loads((self.folder / "results.json").read_text())


def statuses(results: dict) -> dict[str, str]:
    records = results["_checkpoint"]["records"]
    assert [record["index"] for record in records] == list(range(len(records)))
    return {record["route_id"].removeprefix("RouteScenario_"): record["status"] for record in records}


@pytest.fixture
def evaluation(tmp_path, monkeypatch) -> Evaluation:
    monkeypatch.setattr(checking, "_PACKAGES", {})  # the made-up leaderboard needs none of upstream's
    monkeypatch.setattr(checking, "version", lambda name: "0.8.3")
    return Evaluation(tmp_path)


def test_losses_cost_one_routes_progress_and_are_told_apart_from_agent_failures(evaluation):
    results = evaluation.run(["1", "kill-once", "2", "die-once", "agent", "simulation-once", "3"])
    assert statuses(results) == {
        "1_rep0": "Perfect",
        "kill-once_rep0": "Perfect",
        "2_rep0": "Perfect",
        "die-once_rep0": "Perfect",
        "agent_rep0": "Failed - Agent crashed",
        "simulation-once_rep0": "Perfect",
        "3_rep0": "Perfect",
    }
    lost = [line for line in evaluation.told.lines if line.startswith("lost")]
    assert lost == [
        "lost RouteScenario_kill-once_rep0: the simulator died; again True",
        "lost RouteScenario_die-once_rep0: the evaluator ended with status -11; again True",
        "lost RouteScenario_simulation-once_rep0: Simulation crashed; again True",
    ]
    assert results["entry_status"] == "Finished"
    assert results["_checkpoint"]["progress"] == [7, 7]
    assert results["sensors"] == ["carla_camera"]
    # every route has one log; a lost drive's is kept aside
    folders = {
        path.name: sorted(p.name for p in path.iterdir()) for path in (evaluation.folder / "save").iterdir()
    }
    assert len(folders) == 7
    assert all(sum(name == "ticks.jsonl" for name in names) == 1 for names in folders.values())
    assert len(folders["RouteScenario_kill-once_rep0"]) == 2


def test_a_route_that_is_lost_every_time_gets_a_verdict_and_the_next_is_driven(evaluation):
    results = evaluation.run(["kill", "die", "simulation", "1"], retries=0)
    assert statuses(results) == {
        "kill_rep0": CRASHED,
        "die_rep0": "Failed - Agent crashed",
        "simulation_rep0": CRASHED,
        "1_rep0": "Perfect",
    }
    assert "lost RouteScenario_kill_rep0: the simulator died; again False" in evaluation.told.lines
    assert results["_checkpoint"]["records"][0]["scores"]["score_composed"] == 0.0


def test_a_hang_ends(evaluation):
    started = time.monotonic()
    results = evaluation.run(["hang-once", "1"], hang_s=4.0)
    assert statuses(results) == {"hang-once_rep0": "Perfect", "1_rep0": "Perfect"}
    assert evaluation.told.lines[0].startswith(
        "lost RouteScenario_hang-once_rep0: simulated time stood still"
    )
    assert time.monotonic() - started < 60.0


def test_a_simulator_that_stands_still_is_not_the_agents_failure(evaluation):
    results = evaluation.run(["stop", "1"], hang_s=3.0, retries=0)
    assert statuses(results) == {"stop_rep0": CRASHED, "1_rep0": "Perfect"}
    assert evaluation.told.lines[0] == (
        "lost RouteScenario_stop_rep0: the simulator does not answer; again False"
    )


def test_repetitions_are_in_upstreams_order(evaluation):
    results = evaluation.run(["1", "2"], repetitions=2)
    assert list(statuses(results)) == ["1_rep0", "1_rep1", "2_rep0", "2_rep1"]


def test_results_go_on_where_they_were_and_no_route_is_driven_twice(evaluation):
    evaluation.run(["1", "agent"])
    evaluation.told.lines.clear()
    results = evaluation.run(["1", "agent", "2"], resume=True)
    assert evaluation.told.lines == ["RouteScenario_2_rep0 Perfect"]
    assert list(statuses(results)) == ["1_rep0", "agent_rep0", "2_rep0"]
    with pytest.raises(DataError, match="exists already"):
        evaluation.run(["1"])
    with pytest.raises(DataError, match="RouteScenario_agent_rep0, which is not among the routes"):
        evaluation.run(["1", "2"], resume=True)


def test_an_evaluator_that_never_begins_is_an_error_with_its_last_words(evaluation):
    evaluator = evaluation.made.leaderboard / "leaderboard/leaderboard_evaluator.py"
    evaluator.write_text("raise SystemExit('no agent of that name')\n")
    with pytest.raises(ServerError) as caught:
        evaluation.run(["1"])
    assert "no agent of that name" in str(caught.value)


def test_a_server_that_is_gone_is_waited_for_and_then_named(evaluation):
    with pytest.raises(ServerError, match=r"Nothing listens at 127\.0\.0\.1:1, waited 2 s"):
        evaluation.run(["1"], simulator=Running("127.0.0.1", 1, 2.0))


def test_results_and_processes_after_a_kill(evaluation, tmp_path):
    """Killed in the midst of a route: nothing lives on, and what was known is there to go on with."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1] / 'support')!r})\n"
        "from pathlib import Path\n"
        "import test_upstream_run as tests\n"
        "tests.checking._PACKAGES = {}\n"
        "tests.checking.version = lambda name: '0.8.3'\n"
        f"evaluation = tests.Evaluation(Path({str(tmp_path / 'killed')!r}))\n"
        "evaluation.run(['1', 'hang-once', '2'])\n"
    )
    (tmp_path / "killed").mkdir()
    process = subprocess.Popen([sys.executable, str(program)])
    results = tmp_path / "killed/run/results.json"
    try:
        until = time.monotonic() + 60.0
        marks = tmp_path / "killed/run/attempt/hang-once.been"
        while not (results.exists() and marks.exists()):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2  # evaluator and simulator
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=15.0)
    assert alive == []
    content = json.loads(results.read_text())
    assert statuses(content) == {"1_rep0": "Perfect"}
    assert content["entry_status"] == "Started"
    evaluation.folder, evaluation.made = tmp_path / "killed/run", make_checkout(tmp_path / "killed/checkout")
    assert len(statuses(evaluation.run(["1", "hang-once", "2"], resume=True))) == 3
    assert evaluation.told.lines == ["RouteScenario_hang-once_rep0 Perfect", "RouteScenario_2_rep0 Perfect"]
