import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tickdrive.leaderboard.criteria.base import Event, EventKind
from tickdrive.leaderboard.result_table import results_table
from tickdrive.leaderboard.results import (
    CriterionRow,
    PlacedInfraction,
    Results,
    RouteRecord,
    global_record,
    read_results,
)
from tickdrive.leaderboard.scoring import Failure, Rules, score
from tickdrive.leaderboard.tick_timing import TickTiming, TimingHistogram
from tickdrive.planner.errors import DataError

IDS = ["RouteScenario_1_rep0", "RouteScenario_2_rep0", "RouteScenario_3_rep0"]
NOTES = {"agent": "expert", "rules": "2.0", "seed": 0}
OUTSIDE = "Agent went outside its route lanes for about 12.5 meters (5.0% of the completed route)"


def record(route_id: str, percent: float = 100.0, status: str = "Completed", events=()) -> RouteRecord:
    return RouteRecord.build(
        index=IDS.index(route_id) if route_id in IDS else 0,
        route_id=route_id,
        status=status,
        events=list(events),
        scores=score(percent, events, Rules.V2_0),
        length_m=500.0,
        game_s=60.0,
        system_s=30.0,
        criteria=[CriterionRow("RouteCompletionTest", "SUCCESS", percent, "%")],
    )


def timing(agent_ms: float = 10.0, ticks: int = 4) -> TimingHistogram:
    histogram = TimingHistogram()
    for _ in range(ticks):
        histogram.record(TickTiming(5.0, agent_ms, 1.0))
    return histogram


def test_the_file_has_upstreams_schema(tmp_path):
    results = Results.open(tmp_path / "r.json", IDS, NOTES, resume=False)
    events = [
        Event(EventKind.RED_LIGHT, 4, 0.2, "Agent ran a red light 7 at (x=1, y=2, z=0)"),
        Event(EventKind.OUTSIDE_ROUTE_LANES, 5, 0.25, OUTSIDE, percent=5.0),
    ]
    for route_id in IDS:
        results.begin()
        results.finish(record(route_id, events=events if route_id == IDS[0] else ()), timing())
    results.sensors = ["carla_camera"]
    results.conclude()
    data = json.loads((tmp_path / "r.json").read_text())
    assert set(data) == {
        "_checkpoint",
        "entry_status",
        "eligible",
        "sensors",
        "values",
        "labels",
        "latency",
        "tickdrive",
    }
    assert data["entry_status"] == "Finished" and data["eligible"] is True
    checkpoint = data["_checkpoint"]
    assert checkpoint["progress"] == [3, 3]
    first = checkpoint["records"][0]
    assert set(first["infractions"]) == {
        "collisions_layout", "collisions_pedestrian", "collisions_vehicle", "red_light", "stop_infraction",
        "outside_route_lanes", "min_speed_infractions", "yield_emergency_vehicle_infractions",
        "scenario_timeouts", "route_dev", "vehicle_blocked", "route_timeout",
    }  # fmt: skip
    assert first["num_infractions"] == 2
    assert set(first["scores"]) == {"score_route", "score_penalty", "score_composed"}
    assert set(first["meta"]) == {"route_length", "duration_game", "duration_system"}
    overall = checkpoint["global_record"]
    assert overall["status"] == "Completed"
    assert overall["infractions"]["red_light"] == pytest.approx(1 / 1.5, abs=1e-3)
    assert overall["infractions"]["outside_route_lanes"] == pytest.approx(0.013, abs=1e-3)
    assert len(data["values"]) == len(data["labels"]) == 15
    assert data["labels"][0] == "Avg. driving score"
    assert data["latency"]["ticks"] == 12 and data["latency"]["misses"] == 0
    assert data["latency"]["agent_ms"]["p95"] == pytest.approx(10.0, rel=0.02)


def test_global_record_is_upstreams_arithmetic():
    records = [record(IDS[0], 100.0), record(IDS[1], 50.0, "Failed - Agent got blocked")]
    overall = global_record(records)
    assert overall["scores_mean"]["score_composed"] == pytest.approx(75.0)
    assert overall["scores_std_dev"]["score_composed"] == pytest.approx(math.sqrt(2 * 25**2 / 1), abs=1e-3)
    assert overall["status"] == "Failed"
    assert overall["meta"]["exceptions"] == [[IDS[1], 1, "Failed - Agent got blocked"]]
    assert overall["meta"]["total_length"] == 1000.0


def test_resume_neither_loses_nor_repeats(tmp_path):
    path = tmp_path / "r.json"
    results = Results.open(path, IDS, NOTES, resume=False)
    results.begin()
    results.finish(record(IDS[0]), timing())
    results.begin()  # the second route is under way when the process is killed
    resumed = Results.open(path, IDS, NOTES, resume=True)
    assert resumed.pending() == IDS[1:]
    resumed.finish(record(IDS[1]), timing(ticks=6))
    again = Results.open(path, IDS, NOTES, resume=True)
    assert again.pending() == IDS[2:]
    assert again.to_json()["latency"]["ticks"] == 10
    assert again.to_json()["_checkpoint"]["progress"] == [2, 3]


def test_infractions_keep_tick_and_place_beside_upstreams_fields(tmp_path):
    path = tmp_path / "r.json"
    events = [Event(EventKind.RED_LIGHT, 4, 0.2, "Agent ran a red light 7 at (x=1, y=2, z=0)")]
    placed = PlacedInfraction("red_light", 5, 0.25, (1.5, 2.5), events[0].message)
    results = Results.open(path, IDS, NOTES, resume=False)
    results.finish(record(IDS[0], events=events), timing(), [placed])
    resumed = Results.open(path, IDS, NOTES, resume=True)
    resumed.finish(record(IDS[1]), timing())
    data = read_results(path)
    assert data["_checkpoint"]["records"][0]["infractions"]["red_light"] == [events[0].message]
    (kept,) = data["tickdrive"]["infractions"][IDS[0]]
    assert (kept["kind"], kept["frame"], kept["position_in_world"]) == ("red_light", 5, [1.5, 2.5])
    assert data["tickdrive"]["infractions"][IDS[1]] == []


def test_a_crashed_simulation_is_driven_again(tmp_path):
    path = tmp_path / "r.json"
    results = Results.open(path, IDS, NOTES, resume=False)
    results.finish(record(IDS[0]), timing())
    results.finish(record(IDS[1], 20.0, "Failed - Simulation crashed"), timing())
    results.conclude()
    assert read_results(path)["entry_status"] == "Crashed"
    assert Results.open(path, IDS, NOTES, resume=True).pending() == IDS[1:]


def test_routes_that_were_lost_too_often_keep_what_is_known_and_are_driven_no_more(tmp_path):
    path = tmp_path / "r.json"
    Results.open(path, IDS, NOTES, resume=False).finish(
        record(IDS[0], 20.0, "Failed - Simulation crashed"), timing()
    )
    given_up = {IDS[0]: Failure.SIMULATION, IDS[1]: Failure.AGENT_CRASHED}
    results = Results.open(path, IDS, NOTES, resume=True, given_up=given_up)
    assert results.pending() == IDS[2:]
    assert results.records[IDS[0]].scores["score_route"] == 20.0
    assert results.records[IDS[1]].status == "Failed - Agent crashed"
    assert results.records[IDS[1]].index == 1
    assert read_results(path)["latency"]["ticks"] == 0, "a lost drive is no measurement"


def test_without_resume_old_results_are_replaced(tmp_path):
    path = tmp_path / "r.json"
    Results.open(path, IDS, NOTES, resume=False).finish(record(IDS[0]), timing())
    assert Results.open(path, IDS, NOTES, resume=False).pending() == IDS


def test_other_routes_or_settings_are_not_mixed(tmp_path):
    path = tmp_path / "r.json"
    Results.open(path, IDS, NOTES, resume=False)
    with pytest.raises(DataError, match="other routes"):
        Results.open(path, IDS[:2], NOTES, resume=True)
    with pytest.raises(DataError, match="seed=0"):
        Results.open(path, IDS, {**NOTES, "seed": 1}, resume=True)


@given(st.data())
def test_a_damaged_file_is_named(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "results.json"
    results = Results.open(path, IDS, NOTES, resume=False)
    results.finish(record(IDS[0]), timing())
    text = path.read_text()
    cut = data.draw(st.integers(0, len(text) - 2))
    path.write_text(text[:cut])
    with pytest.raises(DataError, match=r"results\.json"):
        Results.open(path, IDS, NOTES, resume=True)
    assert path.read_text() == text[:cut], "a damaged file is not overwritten"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("_checkpoint"),
        lambda d: d.update(entry_status="Nonsense"),
        lambda d: d["_checkpoint"].update(records=[{"index": 0}]),
        lambda d: d["_checkpoint"]["records"][0]["scores"].update(score_route="x"),
    ],
)
def test_a_file_with_wrong_content_is_damaged(tmp_path, change):
    path = tmp_path / "results.json"
    Results.open(path, IDS, NOTES, resume=False).finish(record(IDS[0]), timing())
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"results\.json is damaged"):
        Results.open(path, IDS, NOTES, resume=True)


@given(st.lists(st.floats(0.01, 5000.0), min_size=1, max_size=200))
def test_histogram_percentiles_are_within_two_percent(values):
    histogram = TimingHistogram()
    for value in values:
        histogram.record(TickTiming(value, value, value))
    ordered = sorted(values)
    for percent in (50, 95, 99):
        true = ordered[max(math.ceil(percent / 100 * len(values)) - 1, 0)]
        assert histogram.percentile("agent_ms", percent) == pytest.approx(true, rel=0.02)
    restored = TimingHistogram.from_json(json.loads(json.dumps(histogram.to_json())))
    assert restored.summary(50.0) == histogram.summary(50.0)


def test_table_shows_criteria_scores_and_messages():
    events = [Event(EventKind.OUTSIDE_ROUTE_LANES, 5, 0.25, OUTSIDE, percent=5.0)]
    console = Console(width=120, record=True)
    console.print(results_table(record(IDS[0], events=events)))
    text = console.export_text()
    for part in ("RouteCompletionTest", "SUCCESS", "100 %", "95.00", "Completed", "about 12.5 meters"):
        assert part in text
