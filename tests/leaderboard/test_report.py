"""The report's file: what of a run is in it, and what it says of what is not."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_run import (
    CLASSES,
    FIRST_FRAME,
    is_miss,
    tick_record,
    write_log,
    write_map,
    write_pictures,
    write_results,
    write_run,
)

from tickdrive.leaderboard.latency import summarize
from tickdrive.leaderboard.report.columns import NO_PLAN_CM
from tickdrive.leaderboard.report.page import write_report
from tickdrive.leaderboard.report.payload import unpacked
from tickdrive.leaderboard.report.pictures import Candidate, by_want, choose
from tickdrive.leaderboard.tick_table import read_table
from tickdrive.planner.errors import DataError


class Elements(HTMLParser):
    """The page's elements, and the text of its script elements."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        named = {name: value or "" for name, value in attributes}
        self.elements.append((tag, named))
        if tag == "script":
            self.scripts.append((named, ""))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def handle_endtag(self, tag):
        if tag == "script":
            self.elements.append(("", {}))

    def routes(self) -> list[dict]:
        return [json.loads(text) for named, text in self.scripts if named.get("class") == "route"]

    def overview(self) -> dict:
        return next(json.loads(text) for named, text in self.scripts if named.get("id") == "overview")

    def pictures(self) -> dict[str, bytes]:
        kept = [(named["data-at"], text) for named, text in self.scripts if named.get("class") == "picture"]
        return {at: base64.b64decode(text) for at, text in kept}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "made")


def test_every_column_comes_back_as_it_was_logged(run):
    written = write_report(run)
    (route,) = Elements(written.path).routes()
    columns = {name: unpacked(item) for name, item in route["columns"].items()}
    records = [tick_record(number) for number in range(300)]
    assert written.ticks == 300 and columns["frame"].tolist() == [r.frame for r in records]
    assert columns["sim_s"] == pytest.approx([r.sim_s for r in records], abs=1e-6)
    assert columns["total_ms"] == pytest.approx([r.trace.total_ms for r in records], abs=1e-3)
    assert np.isnan(columns["outside_ms"][0]) and columns["outside_ms"][5] == 26.0
    assert columns["x_m"] == pytest.approx([r.ego["position_in_world"][0] for r in records], abs=1e-3)
    assert columns["guarded"].nonzero()[0].tolist() == [7, 8]
    rungs = route["names"]["rung"]
    assert [rungs["values"][k] for k in unpacked(rungs["index"])] == [r.rung for r in records]
    assert route["classes"] == list(CLASSES)
    wanted = [[(r.reasoning or {}).get(name, 0.0) for name in CLASSES] for r in records]
    assert columns["probability"] / 1e4 == pytest.approx(np.array(wanted), abs=1e-4)
    plans = columns["plan_cm"]
    assert plans.shape == (300, 6, 2) and (plans[101] == NO_PLAN_CM).all()
    assert plans[0] / 100 == pytest.approx(records[0].plan, abs=0.0051)
    assert columns["latency_ms"].tolist() == [75.0] * 300 and columns["busy"][:4].tolist() == [0, 1, 0, 1]
    (step,) = (stage for stage in route["stages"] if stage["name"] == "step")
    steps = unpacked(step["ms"])
    assert (step["parent"], step["depth"]) == ("planner", 1) and steps == pytest.approx(np.full(300, 0.75))
    assert route["header"]["commit"] == "abc123"


def test_figures_are_those_of_the_latency_command(run):
    (route,) = Elements(write_report(run).path).routes()
    assert route["summary"] == summarize(read_table(run), 50.0).to_json()
    assert route["summary"]["misses"] == sum(map(is_miss, range(300)))
    (route,) = Elements(write_report(run, budget_ms=10.0).path).routes()
    assert route["budget_ms"] == 10.0 and route["summary"]["misses"] == 300


def test_nothing_is_loaded_from_anywhere(run):
    path = write_report(run).path
    page = Elements(path)
    loading = ("src", "href", "srcset", "action", "poster", "data")
    links = [value for _, named in page.elements for name, value in named.items() if name in loading]
    assert links == ["data:,"]
    assert not {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base"}
    (policy,) = [n["content"] for _, n in page.elements if n.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    text = path.read_text()
    assert not re.search(r"@import|url\((?!data:)|\bfetch\(|XMLHttpRequest|WebSocket|import\(", text)


def test_what_a_log_says_cannot_become_markup(run):
    page = Elements(write_report(run).path)
    assert page.routes()[0]["header"]["hardware"]["cpu"] == "A processor </script><b>"
    assert "b" not in {tag for tag, _ in page.elements}


def test_the_licence_of_what_is_vendored_travels_along(run):
    from tickdrive.leaderboard.report import page

    vendor = Path(page.__file__).parent / "web" / "vendor"
    assert "MIT" in (vendor / "uPlot.LICENSE").read_text()
    assert "https://github.com/leeoniya/uPlot" in write_report(run).path.read_text()


def test_infractions_and_pictures_meet_their_ticks(run):
    page = Elements(write_report(run).path)
    (infraction,) = page.routes()[0]["infractions"]
    assert infraction["frame"] == FIRST_FRAME + 150 and infraction["kind"] == "red_light"
    pictures = page.pictures()
    for number in (0, 40, 137, 150, 290):
        image = cv2.imdecode(np.frombuffer(pictures[f"0/{FIRST_FRAME + number}"], np.uint8), cv2.IMREAD_COLOR)
        assert image.mean() == pytest.approx(number % 256, abs=2)


def test_an_evaluation_is_one_page_with_all_its_routes(tmp_path):
    ids = [f"RouteScenario_{name}_rep0" for name in ("b", "a")]
    for place, route_id in enumerate(ids):
        write_log(tmp_path / f"{route_id}.ticks.jsonl", 40 + place)
        write_map(tmp_path / f"{route_id}.route.json", route_id)
        write_pictures(tmp_path / "frames" / route_id, [0, 20])
    write_log(tmp_path / f"{ids[1]}.ticks-2.jsonl", 55)  # driven again after a crash
    write_results(tmp_path / "results.json", {ids[0]: [5], ids[1]: [], "RouteScenario_c_rep0": []})
    written = write_report(tmp_path)
    page = Elements(written.path)
    assert [route["route_id"] for route in page.routes()] == ids
    assert [len(unpacked(route["columns"]["frame"])) for route in page.routes()] == [40, 55]
    assert [len(route["infractions"]) for route in page.routes()] == [1, 0]
    assert sorted(page.pictures()) == [f"{k}/{FIRST_FRAME + n}" for k in (0, 1) for n in (0, 20)]
    assert any("RouteScenario_c_rep0" in note for note in page.overview()["notes"])


# -- what is missing or damaged ------------------------------------------------------------------------------


def test_a_run_with_nothing_but_a_log_says_what_is_missing(tmp_path):
    write_log(tmp_path / "ticks.jsonl", 30)
    page = Elements(write_report(tmp_path).path)
    notes = " ".join([*page.overview()["notes"], *page.routes()[0]["notes"]])
    for missing in ("No result of the route", "No map was kept", "No camera pictures"):
        assert missing in notes
    assert page.routes()[0]["record"] is None


def test_a_damaged_log_is_shown_up_to_the_damage(tmp_path):
    run = write_run(tmp_path / "run", ticks=60)
    log = run / "ticks.jsonl"
    log.write_bytes(log.read_bytes()[:-80])
    page = Elements(write_report(run).path)
    (route,) = page.routes()
    assert len(unpacked(route["columns"]["frame"])) == 59
    assert any("line 61 is damaged" in note for note in route["notes"])


def test_a_tick_that_failed_and_odd_values_do_not_end_the_report(tmp_path):
    write_log(tmp_path / "ticks.jsonl", 3)
    failed = {"type": "tick", "frame": 23, "sim_s": 0.2, "total_ms": 5.0, "spans": [], "rung": "failed"}
    failed |= {"ego": {"error": "out of <memory>"}, "plan": [[None, 1.0]], "control": {}, "reasoning": None}
    with (tmp_path / "ticks.jsonl").open("a") as file:
        file.write(json.dumps(failed) + "\n")
    (route,) = Elements(write_report(tmp_path).path).routes()
    assert route["errors"] == {"3": "out of <memory>"}
    assert np.isnan(unpacked(route["columns"]["x_m"])[3])
    assert (unpacked(route["columns"]["plan_cm"])[3, 0] == [NO_PLAN_CM, 100]).all()


def test_damaged_results_map_and_pictures_are_notes(tmp_path):
    run = write_run(tmp_path / "run", ticks=60, red_lights=(30,))
    (run / "results.json").write_text("{")
    (run / "route.json").write_text("[1")
    (run / "frames" / f"{FIRST_FRAME}.jpg").write_bytes(b"\xff\xd8 torn")
    (run / "frames" / "notes.txt").write_text("not a picture")
    page = Elements(write_report(run).path)
    assert any("is damaged" in note for note in page.overview()["notes"])
    assert f"0/{FIRST_FRAME}" not in page.pictures() and len(page.pictures()) == 5


@pytest.mark.parametrize("content", [None, "", '{"type": "header", "schema": 2}\n'])
def test_without_any_tick_there_is_no_report_but_a_reason(tmp_path, content):
    if content is not None:
        (tmp_path / "ticks.jsonl").write_text(content)
    with pytest.raises(DataError):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_place_that_cannot_be_written_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(run, tmp_path / "file" / "report.html")


# -- size ----------------------------------------------------------------------------------------------------


def candidates(folder: Path, count: int, infractions=(), misses=()) -> list[Candidate]:
    noise = np.random.default_rng(0).integers(0, 255, (256, 512, 3), np.uint8)
    path = folder / "one.jpg"
    cv2.imwrite(str(path), cv2.GaussianBlur(noise, (9, 9), 3))
    return [
        Candidate(0, k, path, 0.5 * k, k in infractions, float(misses.index(k) + 1) if k in misses else 0.0)
        for k in range(count)
    ]


def test_pictures_give_way_to_the_size_the_wanted_ones_last(tmp_path):
    offered = candidates(tmp_path, 40, infractions=(7,), misses=[11, 13])
    one = offered[0].path.stat().st_size
    whole = choose(offered, int(one * 40 * 4 / 3) + 100)
    assert len(whole.jpeg) == 40 and not whole.shrunk and whole.note == ""
    smaller = choose(offered, int(one * 39 * 4 / 3))
    assert len(smaller.jpeg) == 40 and smaller.shrunk
    few = choose(offered, int(one * 5))
    assert 3 < len(few.jpeg) < 40 and (0, 7) in few.jpeg
    assert sum(len(data) for data in few.jpeg.values()) * 4 / 3 <= one * 5
    assert f"{40 - len(few.jpeg)} of 40" in few.note


def test_infractions_come_first_then_every_second_then_the_worst_misses(tmp_path):
    order = [c.frame for c in by_want(candidates(tmp_path, 40, infractions=(7,), misses=[11, 13]))]
    assert order[0] == 7 and sorted(order) == list(range(40))
    seconds = order[1:21]
    assert set(seconds) == set(range(0, 40, 2)) and order[21:23] == [13, 11]
    assert max(np.diff(sorted(seconds[:6]))) <= 12, "the first of them are spread over the drive"


def test_a_file_stays_below_the_size_asked_for(tmp_path):
    run = write_run(tmp_path / "run", ticks=200)
    noise = np.random.default_rng(0).integers(0, 255, (256, 512, 3), np.uint8)
    for path in (run / "frames").iterdir():
        cv2.imwrite(str(path), noise)
    written = write_report(run, max_mb=0.5)
    assert written.size_bytes < 5e5 and 0 < written.pictures < len(list((run / "frames").iterdir()))
    assert any("left out to keep the file small" in note for note in written.notes)


def test_a_folder_whose_logs_lie_below_says_where(tmp_path):
    log = tmp_path / "save" / "RouteScenario_1_rep0" / "ticks.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("")
    with pytest.raises(DataError, match=r"Give a folder that does: .*save/RouteScenario_1_rep0"):
        write_report(tmp_path)
