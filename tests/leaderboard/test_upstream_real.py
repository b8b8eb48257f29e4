"""The real upstream leaderboard, of any version: set LEADERBOARD_ROOT and SCENARIO_RUNNER_ROOT.

Bench2Drive: the folders `leaderboard` and `scenario_runner` of its checkout.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import carla
import psutil
import pytest

from tickdrive.leaderboard.simulator.towns.catalogue import read_town
from tickdrive.leaderboard.upstream.checkout import SUITES, Checkout, open_checkout
from tickdrive.planner.errors import ConfigError
from tickdrive.scripts import bench_criteria, bench_scenarios, evaluate_suite
from tickdrive.scripts.bench_criteria import CriteriaBenchOptions
from tickdrive.scripts.bench_scenarios import ScenarioBenchOptions
from tickdrive.scripts.evaluate_suite import SuiteOptions

ROOTS = [os.environ.get(name) for name in ("LEADERBOARD_ROOT", "SCENARIO_RUNNER_ROOT")]
pytestmark = pytest.mark.skipif(
    not all(ROOTS), reason="set LEADERBOARD_ROOT and SCENARIO_RUNNER_ROOT to an upstream checkout"
)
TOWN = "TickTown01"
LENGTH_M = 90.0


@pytest.fixture(scope="module")
def checkout() -> Checkout:
    """Of the suite that the checkout is of."""
    problems = []
    for name in SUITES:
        try:
            return open_checkout(name, *(Path(str(root)) for root in ROOTS))
        except ConfigError as error:
            problems.append(str(error))
    pytest.fail("\n".join(problems))


@pytest.fixture(scope="module")
def routes(tmp_path_factory) -> Path:
    """Two routes straight on, with a scenario each and background traffic."""
    town = carla.Map(TOWN, read_town(TOWN))
    found = []
    for start in town.generate_waypoints(25.0):
        way = [each[0] for each in (start.next(d) for d in (30.0, LENGTH_M)) if len(each) == 1]
        if len(way) == 2 and not start.is_junction and way[1].road_id == start.road_id:
            found.append((start, way[0], way[1]))
    text = ""
    for i, (kind, (start, trigger, end)) in enumerate(
        [("ControlLoss", found[0]), ("DynamicObjectCrossing", found[len(found) // 2])]
    ):
        a, t, e = start.transform.location, trigger.transform, end.transform.location
        text += (
            f'<route id="{i}" town="{TOWN}"><weathers><weather route_percentage="0" sun_altitude_angle="45"/>'
            '<weather route_percentage="100" sun_altitude_angle="45"/></weathers><waypoints>'
            f'<position x="{a.x}" y="{a.y}" z="{a.z}"/><position x="{e.x}" y="{e.y}" z="{e.z}"/></waypoints>'
            f'<scenarios><scenario name="{kind}_1" type="{kind}"><trigger_point x="{t.location.x}" '
            f'y="{t.location.y}" z="{t.location.z}" yaw="{t.rotation.yaw}"/></scenario></scenarios></route>'
        )
    path = tmp_path_factory.mktemp("routes") / "two.xml"
    path.write_text(f"<routes>{text}</routes>")
    return path


def evaluate(checkout: Checkout, routes: Path, out: Path, agent: str, **options: object) -> dict:
    evaluate_suite.run(
        SuiteOptions(
            suite=checkout.suite.name,
            routes=routes,
            leaderboard_root=checkout.leaderboard_root,
            scenario_runner_root=checkout.scenario_runner_root,
            agent=agent,
            out=out,
            **options,  # type: ignore[arg-type]
        )
    )
    return json.loads((out / "results.json").read_text())


def assert_driven(results: dict, out: Path) -> None:
    assert results["entry_status"] == "Finished"
    assert results["eligible"]
    records = results["_checkpoint"]["records"]
    assert [record["route_id"] for record in records] == ["RouteScenario_0_rep0", "RouteScenario_1_rep0"]
    for record in records:
        assert record["status"] in ("Perfect", "Completed", "Failed - Agent got blocked"), record
        assert record["scores"]["score_route"] > 80.0
    for log in (out / "logs").glob("evaluator-*.log"):
        text = log.read_text()
        assert "Traceback" not in text
        assert "Skipping scenario" not in text
    latency = json.loads((out / "results.json.latency.json").read_text())
    assert not latency["unmeasured"]
    for record in records:
        ticks = record["meta"]["duration_game"] / 0.05
        assert latency["routes"][record["route_id"]]["ticks"] == pytest.approx(ticks, abs=3)


def test_our_agent(checkout, routes, tmp_path):
    assert_driven(evaluate(checkout, routes, tmp_path / "out", "diffusion"), tmp_path / "out")


def test_upstreams_own_agent_measured_with_the_simulator_killed_in_the_midst(
    checkout, routes, tmp_path, monkeypatch, capsys
):
    killed = []

    class Killing(evaluate_suite.SuiteProgress):
        def at(self, drive, sim_s):
            super().at(drive, sim_s)
            if sim_s > 2.0 and drive.route_id.startswith("RouteScenario_1") and not killed:
                killed.extend(
                    child
                    for child in psutil.Process().children(recursive=True)
                    if "tickdrive.leaderboard.simulator.server" in child.cmdline()
                )
                for process in killed:
                    process.kill()

    monkeypatch.setattr(evaluate_suite, "SuiteProgress", Killing)
    agent = checkout.leaderboard_root / "leaderboard/autoagents/npc_agent.py"
    assert_driven(evaluate(checkout, routes, tmp_path / "out", str(agent)), tmp_path / "out")
    assert killed
    assert "RouteScenario_1_rep0: the simulator died; tried again" in capsys.readouterr().out


def test_scenario_types_start_and_end(checkout, tmp_path, capsys):
    bench_scenarios.run(
        ScenarioBenchOptions(
            suite=checkout.suite.name,
            leaderboard_root=checkout.leaderboard_root,
            scenario_runner_root=checkout.scenario_runner_root,
            towns=None,
            types=("ControlLoss", "VehicleTurningRoute", "CrossingBicycleFlow"),
            out=tmp_path / "out",
            json_file=tmp_path / "scenarios.json",
        )
    )
    assert "3 types: 2 started, 2 ended" in capsys.readouterr().out
    rows = {row["type"]: row for row in json.loads((tmp_path / "scenarios.json").read_text())["results"]}
    assert rows["ControlLoss"]["ended"] == rows["VehicleTurningRoute"]["ended"] == "SUCCESS"
    assert rows["CrossingBicycleFlow"]["error"].startswith("no place for it in TickTown01")


def test_our_criteria_judge_bad_drives_as_upstream(checkout, routes, tmp_path, capsys):
    # Bench2Drive's evaluator wants a scenario in every route
    given = routes if checkout.suite.starts_carla else None
    deeds = {"hit pedestrian": "collisions_pedestrian", "hit obstacle": "collisions_layout"}
    if given is None:
        deeds |= {"run red light": "red_light", "leave road": "outside_route_lanes"}
    bench_criteria.run(
        CriteriaBenchOptions(
            suite=checkout.suite.name,
            leaderboard_root=checkout.leaderboard_root,
            scenario_runner_root=checkout.scenario_runner_root,
            towns=None,
            misdeeds=tuple(deeds),
            times=1,
            routes=given,
            out=tmp_path / "out",
            json_file=tmp_path / "criteria.json",
        )
    )
    assert f"{len(deeds)} of {len(deeds)} drives judged alike; 0 frames missed" in capsys.readouterr().out
    rows = json.loads((tmp_path / "criteria.json").read_text())["results"]
    for row, kind in zip(rows, deeds.values(), strict=True):
        assert row["upstream"]["infractions"][kind], row["misdeed"]
        assert row["ours"]["ended_frame"] == row["ours"]["upstream_ended_frame"]
