"""What is said of a user's checkouts before anything runs, and what is given around upstream's code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_checkout import make_checkout

from tickdrive.leaderboard.upstream import checkout as checking
from tickdrive.leaderboard.upstream.checkout import open_checkout, unknown_scenarios
from tickdrive.leaderboard.upstream.runner import RunnerSpec
from tickdrive.planner.errors import ConfigError


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "_PACKAGES", {})  # the made-up leaderboard needs none of upstream's
    monkeypatch.setattr(checking, "version", lambda name: "0.8.3")
    return make_checkout(tmp_path / "up stream")


def problem(*arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        open_checkout(*arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_whole_checkout_is_taken_and_its_scenarios_are_known(made):
    checkout = open_checkout("leaderboard-2.1", made.leaderboard, made.scenario_runner)
    assert checkout.python_path == [str(made.leaderboard), str(made.scenario_runner)]
    assert unknown_scenarios(["Accident", "T_Junction", "T_Junction"], checkout) == {"T_Junction": 2}


def test_an_unknown_suite_and_a_missing_root_are_named():
    assert "Did you mean 'leaderboard-2.1'" in problem("leaderboard-2.2", None, None)
    assert "SCENARIO_RUNNER_ROOT" in problem("leaderboard-2.1", None, None)


def test_all_that_is_missing_is_said_at_once(made):
    (made.leaderboard / "leaderboard/leaderboard_evaluator.py").unlink()
    (made.scenario_runner / "srunner/scenariomanager/carla_data_provider.py").unlink()
    said = problem("leaderboard-2.1", made.leaderboard, made.scenario_runner)
    assert "leaderboard/leaderboard_evaluator.py" in said
    assert "carla_data_provider.py" in said


def test_a_checkout_of_another_version_is_told_apart(made):
    said = problem("leaderboard-2.0", made.leaderboard, made.scenario_runner)
    assert "is of leaderboard-2.1: give that --suite" in said
    statistics = made.leaderboard / "leaderboard/utils/statistics_manager.py"
    statistics.write_text(statistics.read_text().replace("PEDESTRIAN: 1.0", "PEDESTRIAN: 0.5"))
    open_checkout("leaderboard-2.0", made.leaderboard, made.scenario_runner)
    assert "leaderboard-2.0" in problem("leaderboard-2.1", made.leaderboard, made.scenario_runner)


def test_a_scenario_runner_of_another_branch_is_noticed(made):
    (made.leaderboard / "leaderboard/scenarios.py").write_text("from srunner.scenarios.later import Later\n")
    said = problem("leaderboard-2.1", made.leaderboard, made.scenario_runner)
    assert "imports srunner.scenarios.later" in said
    assert "same branch" in said


def test_branches_that_import_alike_and_yet_do_not_belong_together_are_told(made):
    """By what tells the branches apart: see the constants of `checkout`."""
    provider = made.scenario_runner / "srunner/scenariomanager/carla_data_provider.py"
    of_2x = provider.read_text()
    provider.write_text(of_2x + "    def set_ego_route(route): pass\n")
    said = problem("leaderboard-2.1", made.leaderboard, made.scenario_runner)
    assert f"{made.leaderboard} is of leaderboard-2.0 or 2.1, the scenario_runner in" in said
    assert "of branch master: check out the scenario_runner of the same branch" in said
    route_scenario = made.leaderboard / "leaderboard/scenarios/route_scenario.py"
    route_scenario.parent.mkdir()
    route_scenario.write_text("CarlaDataProvider.set_ego_route(self.route)\n")
    open_checkout("leaderboard-2.1", made.leaderboard, made.scenario_runner)  # its own of both
    provider.write_text(of_2x)
    said = problem("leaderboard-2.1", made.leaderboard, made.scenario_runner)
    assert "is of branch master" in said and "of leaderboard-2.0 or 2.1: check out" in said
    route_scenario.unlink()
    (made.scenario_runner / "srunner/scenarios/vanilla_turn.py").write_text("")
    said = problem("leaderboard-2.1", made.leaderboard, made.scenario_runner)
    assert "of Bench2Drive: check out" in said


def test_missing_and_unfitting_packages_are_named_with_their_command(made, monkeypatch):
    monkeypatch.setattr(checking, "_PACKAGES", {"no_such_module": "no-such-package"})
    monkeypatch.setattr(checking, "version", lambda name: "2.2.0")
    said = problem("leaderboard-2.1", made.leaderboard, made.scenario_runner)
    assert "no-such-package" in said and "pip install 'tickdrive[upstream]'" in said
    assert "pip install py-trees==0.8.3" in said


def test_bench2drive_wants_a_carla_root_with_a_start_script(made, tmp_path):
    evaluator = made.leaderboard / "leaderboard/leaderboard_evaluator.py"
    evaluator.write_text(evaluator.read_text() + "\n# CARLA_ROOT\n")
    said = problem("bench2drive", made.leaderboard, made.scenario_runner, tmp_path)
    assert "has no CarlaUE4.sh" in said
    assert "has no leaderboard/data/weather.xml" in said


def test_a_carla_root_that_is_none_is_not_passed_over(made, tmp_path):
    said = problem("leaderboard-2.1", made.leaderboard, made.scenario_runner, tmp_path / "no carla")
    assert "no carla has neither CarlaUE4/Content/Carla/Maps/OpenDrive nor" in said


def run_in_runner(code: str, tmp_path: Path, python_path: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program as an evaluator is run."""
    script = tmp_path / "program.py"
    script.write_text(code)
    events = os.open(os.devnull, os.O_WRONLY)
    try:
        spec = RunnerSpec(str(script), ["--x=1"], python_path, {}, os.getpid(), events)
        return subprocess.run(
            [sys.executable, "-m", "tickdrive.leaderboard.upstream.runner", spec.to_json()],
            capture_output=True,
            text=True,
            pass_fds=(events,),
            timeout=60,
        )
    finally:
        os.close(events)


def test_upstreams_program_finds_what_todays_python_lacks(made, tmp_path):
    program = """
import json, os, subprocess, sys, xml.etree.ElementTree as ET
import leaderboard, srunner, agents, pkg_resources
from distutils.version import LooseVersion
from agents.navigation.basic_agent import BasicAgent, LocalPlanner
from agents.navigation.constant_velocity_agent import ConstantVelocityAgent
open(sys.argv[0] + ".xml", "w").write("<a><b/><c/></a>")
tags = [child.tag for child in ET.parse(sys.argv[0] + ".xml").getroot().getchildren()]
child = subprocess.run([sys.executable, "-c", "import srunner; print(srunner.__file__)"], capture_output=True)
print(json.dumps({"tags": tags, "leaderboard": leaderboard.__file__, "argv": sys.argv[1:],
                  "older": LooseVersion("0.9.9") < LooseVersion("0.9.16"),
                  "carla": pkg_resources.get_distribution("carla").version, "child": child.stdout.decode()}))
"""
    python_path = [str(made.leaderboard), str(made.scenario_runner)]
    run = run_in_runner(program, tmp_path, python_path)
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["tags"] == ["b", "c"]
    assert said["leaderboard"].startswith(str(made.leaderboard))
    assert said["older"] and said["argv"] == ["--x=1"]
    assert said["carla"].startswith("0.9.")
    assert said["child"].startswith(str(made.scenario_runner))


def test_what_is_installed_goes_before_what_stands_in(made, tmp_path):
    real = tmp_path / "PythonAPI" / "carla"
    (real / "agents").mkdir(parents=True)
    (real / "agents/__init__.py").write_text("real = True\n")
    path = [str(made.leaderboard), str(made.scenario_runner), str(real)]
    run = run_in_runner("import agents; print(agents.real)", tmp_path, path)
    assert run.stdout.strip().endswith("True"), run.stderr


def test_the_exit_status_is_the_programs(made, tmp_path):
    path = [str(made.leaderboard), str(made.scenario_runner)]
    assert run_in_runner("raise SystemExit(7)", tmp_path, path).returncode == 7
