"""`tickdrive evaluate --suite`: a made-up leaderboard through the command itself."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from made_checkout import MadeCheckout, make_checkout, make_routes
from rich.console import Console

from tickdrive.agents.config import TickLogConfig, load_agent_config
from tickdrive.leaderboard.upstream import checkout as checking
from tickdrive.leaderboard.upstream.records import Drive
from tickdrive.planner.errors import ConfigError, PlannerError, RouteError, ServerError
from tickdrive.scripts import evaluate_suite
from tickdrive.scripts.agent_choice import choose_agent, choose_upstream_agent
from tickdrive.scripts.evaluate_suite import SuiteOptions
from tickdrive.scripts.suite_progress import SuiteProgress, time_left_s

TOWN = "TickTown02"


@pytest.fixture
def made(tmp_path, monkeypatch) -> MadeCheckout:
    monkeypatch.setattr(checking, "_PACKAGES", {})  # the made-up leaderboard needs none of upstream's
    monkeypatch.setattr(checking, "version", lambda name: "0.8.3")
    return make_checkout(tmp_path / "checkout")


def options(made: MadeCheckout, routes: Path, **changes: object) -> SuiteOptions:
    agent = made.leaderboard / "my_agent.py"
    agent.write_text("")
    given = {
        "suite": "leaderboard-2.1",
        "routes": routes,
        "leaderboard_root": made.leaderboard,
        "scenario_runner_root": made.scenario_runner,
        "agent": str(agent),
        **changes,
    }
    return SuiteOptions(**given)  # type: ignore[arg-type]


def test_results_latency_and_logs_and_another_agent_is_refused(made, tmp_path, capsys):
    routes = make_routes(tmp_path / "routes.xml", ["1", "agent"], TOWN, scenario="Unheard")
    out = tmp_path / "out"
    evaluate_suite.run(options(made, routes, out=out, json_file=tmp_path / "figures.json", resume=True))
    said, errors = capsys.readouterr()
    assert f"nothing to resume: there is no {out / 'results.json'}; all routes are driven" in errors
    assert "2 of type Unheard: not known to this scenario_runner" in said
    assert "1 of 2  RouteScenario_1_rep0: 100.0, Perfect" in said
    results = json.loads((out / "results.json").read_text())
    # as upstream writes it: nothing added, and its mean
    assert sorted(results) == ["_checkpoint", "eligible", "entry_status", "labels", "sensors", "values"]
    assert results["_checkpoint"]["global_record"]["scores_mean"]["score_composed"] == 50.0
    assert json.loads((tmp_path / "figures.json").read_text())["global"] == results
    # the made-up evaluator wrote the agent's configuration where a log should be: damaged, and said so
    latency = json.loads((out / "results.json.latency.json").read_text())
    assert list(latency["unmeasured"]) == ["RouteScenario_1_rep0", "RouteScenario_agent_rep0"]
    config = (out / "save/RouteScenario_1_rep0/ticks.jsonl").read_text()
    assert config == str(out / "config.yaml")
    assert f"agent: {made.leaderboard / 'my_agent.py'}" in Path(config).read_text()
    with pytest.raises(ConfigError, match="track was 'SENSORS', now 'MAP'"):
        evaluate_suite.run(options(made, routes, out=out, resume=True, track="MAP"))
    assert "nothing to resume" not in capsys.readouterr().err


def test_logs_go_where_they_are_asked_for_and_never_over_those_of_an_earlier_run(made, tmp_path):
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "ticks.jsonl").write_text("kept")
    choose_agent("diffusion", None, (), earlier, log_name="ticks.jsonl")  # as `tickdrive drive` leaves it
    agent = choose_upstream_agent(
        "diffusion", str(earlier / "config.yaml"), (), tmp_path, True, "SENSORS", save_names=False
    )
    assert load_agent_config(agent.config).tick_log == TickLogConfig(enabled=True) and agent.logs is None
    routes = make_routes(tmp_path / "routes.xml", ["1"], TOWN)
    asked = (f"tick_log.dir={tmp_path / 'logs'}",)
    evaluate_suite.run(options(made, routes, out=tmp_path / "out", agent_settings=asked))
    assert (tmp_path / "logs/RouteScenario_1_rep0/ticks.jsonl").is_file()
    latency = json.loads((tmp_path / "out/results.json.latency.json").read_text())
    assert "logs/RouteScenario_1_rep0/ticks.jsonl" in latency["unmeasured"]["RouteScenario_1_rep0"]  # found


def test_towns_that_are_not_there_are_named_or_left_out(made, tmp_path, capsys):
    text = make_routes(tmp_path / "a.xml", ["1"], TOWN).read_text().removesuffix("</routes>")
    text += make_routes(tmp_path / "b.xml", ["2", "3"], "Town12").read_text().removeprefix("<routes>")
    routes = tmp_path / "both.xml"
    routes.write_text(text)
    with pytest.raises(RouteError) as caught:
        evaluate_suite.run(options(made, routes, out=tmp_path / "out"))
    assert "no Town12 (routes 2, 3)" in str(caught.value)
    assert "Town12 need a CARLA and its maps" in str(caught.value)
    assert not (tmp_path / "out").exists()
    evaluate_suite.run(options(made, routes, out=tmp_path / "out", skip_unknown_towns=True))
    assert "left out 2 of 3 routes: 2 in Town12" in capsys.readouterr().out
    records = json.loads((tmp_path / "out/results.json").read_text())["_checkpoint"]["records"]
    assert [record["route_id"] for record in records] == ["RouteScenario_1_rep0"]


def test_wrong_options_are_said_before_anything_is_made(made, tmp_path):
    routes = make_routes(tmp_path / "routes.xml", ["1"], TOWN)
    with pytest.raises(ConfigError, match="--resume needs the folder"):
        evaluate_suite.run(options(made, routes, resume=True))
    with pytest.raises(ConfigError, match="There is no agent 'nobody'"):
        evaluate_suite.run(options(made, routes, agent="nobody", out=tmp_path / "out"))
    with pytest.raises(PlannerError, match="Did you mean 'hoisted'"):
        wrong = {"agent": "diffusion", "agent_settings": ("planner.engine=hoist",)}
        evaluate_suite.run(options(made, routes, out=tmp_path / "out", **wrong))
    assert not (tmp_path / "out/config.yaml").exists()
    with pytest.raises(ServerError, match=r"Nothing listens at 127\.0\.0\.1:29\. Start it there first"):
        evaluate_suite.run(options(made, routes, carla="127.0.0.1:29", out=tmp_path / "out"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_results_to_go_on_with_and_no_process(made, tmp_path, number):
    routes = make_routes(tmp_path / "routes.xml", ["1", "hang-once", "2"], TOWN)
    out = tmp_path / "out"
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path\n"
        "import test_evaluate_suite as tests\n"
        "tests.checking._PACKAGES = {}\n"
        "tests.checking.version = lambda name: '0.8.3'\n"
        "made = tests.make_checkout(Path(sys.argv[3]))\n"
        "tests.evaluate_suite.run(tests.options(made, Path(sys.argv[4]), out=Path(sys.argv[5])))\n"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    arguments = [*folders, str(tmp_path / "checkout"), str(routes), str(out)]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
    marks = out / "attempt/hang-once.been"
    until = time.monotonic() + 60.0
    while not marks.exists():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30.0)
    assert process.returncode == 130
    assert f"go on with --resume --out {out}" in errors
    assert psutil.wait_procs(family, timeout=10.0)[1] == []
    results = json.loads((out / "results.json").read_text())
    assert [r["route_id"] for r in results["_checkpoint"]["records"]] == ["RouteScenario_1_rep0"]
    evaluate_suite.run(options(made, routes, out=out, resume=True))
    results = json.loads((out / "results.json").read_text())
    assert [r["status"] for r in results["_checkpoint"]["records"]] == ["Perfect"] * 3
    assert results["entry_status"] == "Finished"


def test_stopped_before_the_first_verdict_there_is_no_table(made, tmp_path, monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_suite.SuiteRun, "run", stop)
    routes = make_routes(tmp_path / "routes.xml", ["1"], TOWN)
    with pytest.raises(SystemExit) as caught:
        evaluate_suite.run(options(made, routes, out=tmp_path / "out"))
    assert caught.value.code == 130
    said = capsys.readouterr()
    assert "Evaluation:" not in said.out and str(tmp_path / "out/results.json") in said.out
    assert "stopped; go on with --resume" in said.err


def test_the_estimate_is_by_metre_driven_and_honest_about_not_knowing():
    assert time_left_s([100.0, 300.0], 0.0, 0.0, 5.0) is None
    assert time_left_s([100.0, 300.0], 200.0, 50.0, 0.0) == 100.0
    assert time_left_s([100.0], 200.0, 50.0, 10.0) == 15.0
    assert time_left_s([100.0], 200.0, 50.0, 99.0) == 0.0


def test_a_resumed_evaluation_estimates_by_what_it_drove_before():
    sink = io.StringIO()
    first, second = (Drive(f"RouteScenario_{i}", 0) for i in range(2))
    record = {"scores": {"score_composed": 5.6}, "meta": {"duration_game": 200.0}, "status": "Completed"}
    with SuiteProgress(
        Console(file=sink, width=200), 3, {first: 100.0, second: 300.0}, [(200.0, 60.0)]
    ) as bar:
        bar.done(first, record, 120.0)
    assert "2 of 3  RouteScenario_0_rep0: 5.6, Completed" in sink.getvalue()
    assert "about 3 min left (by 2 driven)" in sink.getvalue()


def test_a_drive_is_named_as_upstream_names_it():
    assert Drive("RouteScenario_7", 2).route_id == "RouteScenario_7_rep2"
