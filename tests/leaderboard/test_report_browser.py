"""The report in a real browser: headless Chromium, from file://, with a mouse and on paper."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import Page, find_chromium, open_page
from made_run import FIRST_FRAME, write_log, write_map, write_results, write_run

from tickdrive.leaderboard.report.page import write_report

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium here (Debian: apt-get install chromium)"
)
RED_LIGHT = 150


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("browser") / "made", 300, (RED_LIGHT,))).path


@pytest.fixture(scope="module")
def desktop(report) -> Iterator[Page]:
    with open_page(report) as page:
        yield page
        assert page.complaints == [] and page.requests == []


@pytest.fixture(scope="module")
def phone(report) -> Iterator[Page]:
    with open_page(report, 390, 844, scale=2) as page:
        yield page
        assert page.complaints == [] and page.requests == []


def text(page: Page, selector: str) -> str:
    return page.evaluate(f"document.querySelector('{selector}').innerText")


def point(page: Page, chart: str, share: float) -> tuple[float, float]:
    """Window coordinates of a place in a chart, from its left to its right."""
    page.evaluate(f"document.getElementById('{chart}').scrollIntoView({{block: 'center'}})")
    box = page.evaluate(
        f"(({{left, top, width, height}}) => [left, top, width, height])"
        f"(document.querySelector('#{chart} .u-over').getBoundingClientRect())"
    )
    return box[0] + share * box[2], box[1] + box[3] / 2


def pixel(page: Page, canvas: str, x: int, y: int) -> list[int]:
    """Red, green, blue, alpha of a canvas' pixel; read from a copy, so that the page's own stays as it is."""
    return page.evaluate(
        "(source => { const copy = Object.assign(document.createElement('canvas'), {width: 1, height: 1});"
        "const context = copy.getContext('2d', {willReadFrequently: true});"
        f"context.drawImage(source, -{x}, -{y});"
        f"return [...context.getImageData(0, 0, 1, 1).data]; }})({canvas})"
    )


def picture(page: Page) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)


def test_it_opens_at_the_first_infraction_with_its_facts(desktop):
    assert desktop.evaluate("TickReport.current") == RED_LIGHT
    assert text(desktop, "h1") == "Route made" and text(desktop, "#status") == "Completed"
    assert "MadeTown" in text(desktop, "#subtitle")
    figures = text(desktop, "#figures")
    assert "70.0" in figures and "3 of 300 ticks" in figures
    assert "A processor </script><b>" in text(desktop, "#facts") and "abc123" in text(desktop, "#facts")
    assert "Red light run, at 7.55 s" in text(desktop, "#moments")
    assert desktop.evaluate("document.querySelector('#notes').hidden")


def test_the_cursor_moves_picture_reasoning_and_stages(desktop):
    desktop.move_mouse(*point(desktop, "chart-latency", 0.137))
    tick = desktop.evaluate("TickReport.current")
    assert 39 <= tick <= 43
    assert desktop.evaluate("document.getElementById('picture').dataset.frame") == str(FIRST_FRAME + 40)
    before = text(desktop, "#reasoning"), text(desktop, "#tick-stages"), text(desktop, "#tick-name")
    assert before[2].startswith(f"Tick {tick + 1} of 300")
    desktop.move_mouse(*point(desktop, "chart-speed", 0.667))
    assert 195 <= desktop.evaluate("TickReport.current") <= 205
    assert desktop.evaluate("document.getElementById('picture').dataset.frame") == str(FIRST_FRAME + 200)
    after = text(desktop, "#reasoning"), text(desktop, "#tick-stages"), text(desktop, "#tick-name")
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert "follow" in after[0] and "planner" in after[1]
    overlay = "document.getElementById('overlay')"
    drawn = pixel(desktop, overlay, desktop.evaluate(f"{overlay}.width >> 1"), 5)
    assert drawn == pytest.approx([200, 200, 200, 255], abs=3), "the kept picture itself is on the canvas"


def test_a_click_holds_the_tick_and_the_next_lets_go(desktop):
    x, y = point(desktop, "chart-wall", 0.3)
    desktop.move_mouse(x, y)
    for kind in ("mousePressed", "mouseReleased"):
        desktop.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    held = desktop.evaluate("TickReport.current")
    desktop.move_mouse(*point(desktop, "chart-wall", 0.9))
    assert desktop.evaluate("TickReport.current") == held and "held" in text(desktop, "#tick-held")
    x, y = point(desktop, "chart-wall", 0.9)
    for kind in ("mousePressed", "mouseReleased"):
        desktop.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    desktop.settle()
    assert desktop.evaluate("TickReport.current") != held and text(desktop, "#tick-held") == ""


def test_the_map_leads_to_ticks_and_marks_to_misses(desktop):
    desktop.evaluate("document.getElementById('map').scrollIntoView({block: 'center'})")
    box = desktop.evaluate(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.getElementById('map').getBoundingClientRect())"
    )
    desktop.move_mouse(box[0] + 2, box[1] + 2)
    first = desktop.evaluate("TickReport.current")
    desktop.move_mouse(box[0] + box[2] - 2, box[1] + box[3] - 2)
    assert abs(desktop.evaluate("TickReport.current") - first) > 50
    desktop.evaluate(
        "(s => { s.value = 0; s.dispatchEvent(new Event('input')); })(document.getElementById('scrub'))"
    )
    for miss in (40, 137, 234):
        desktop.click("#mark-next")
        assert desktop.evaluate("TickReport.current") == miss
        assert "over the budget" in text(desktop, "#tick-total")
    desktop.click("#mark-before")
    assert desktop.evaluate("TickReport.current") == 137


def test_zooming_keeps_all_charts_on_one_time_axis(desktop):
    desktop.click("#zoom-in")
    desktop.click("#zoom-in")
    ticks = "[...document.querySelectorAll('.chart .at')].map(line => line.style.transform)"
    assert len(set(desktop.evaluate(ticks))) == 1
    desktop.evaluate(
        "(s => { s.value = 299; s.dispatchEvent(new Event('input')); })(document.getElementById('scrub'))"
    )
    desktop.settle()
    assert desktop.evaluate("[...document.querySelectorAll('.chart .at')].every(line => !line.hidden)")
    desktop.click("#zoom-all")
    desktop.click("#full-height")
    assert desktop.evaluate("document.getElementById('full-height').getAttribute('aria-pressed')") == "true"
    desktop.click("#full-height")


def test_the_charts_show_what_the_log_holds(desktop):
    """At the height of 45 ms the stacked areas of a miss (55 ms) are there, those of other ticks are not."""
    desktop.click("#zoom-all")
    chart = "TickReport.latencyChart()"
    y = desktop.evaluate(f"Math.round({chart}.valToPos(45, 'y', true))")
    covered = {}
    for tick in (40, 70, 137, 180, 234):
        x = desktop.evaluate(f"Math.round({chart}.valToPos({chart}.data[0][{tick}], 'x', true))")
        covered[tick] = pixel(desktop, f"{chart}.ctx.canvas", x, y)[3] > 100
    assert covered == {40: True, 70: False, 137: True, 180: False, 234: True}


def test_light_and_dark_are_both_drawn(desktop):
    desktop.dark(False)
    light = picture(desktop)
    desktop.dark(True)
    dark = picture(desktop)
    desktop.dark(False)
    assert light.mean() > 180 and dark.mean() < 80


def test_a_phone_shows_all_of_it_without_scrolling_sideways(phone):
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    beyond = (
        "e => !e.closest('.scroll, details, .u-wrap') && e.getBoundingClientRect().right > 391",
        "e => e.tagName + '.' + e.className",
    )
    elements = "[...document.querySelectorAll('main *, header *')]"
    wide = phone.evaluate(f"{elements}.filter({beyond[0]}).map({beyond[1]})")
    assert wide == []
    for chart in ("chart-latency", "chart-wall", "chart-speed", "chart-control", "chart-histogram"):
        assert 300 < phone.evaluate(f"document.querySelector('#{chart} canvas').clientWidth") <= 390


def test_a_finger_moves_the_tick_while_the_picture_stays_in_sight(phone):
    x, y = point(phone, "chart-latency", 0.667)
    phone.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    phone.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    phone.settle()
    assert 194 <= phone.evaluate("TickReport.current") <= 206
    camera = phone.evaluate(
        "(b => [b.top, b.bottom])(document.getElementById('camera').getBoundingClientRect())"
    )
    assert camera[0] >= -1 and camera[1] < 844
    assert "ms" in text(phone, "#picture-note") and "0." in text(phone, "#picture-note")


def test_it_prints_in_light_colours_on_few_pages(report):
    with open_page(report) as page:
        page.dark()
        paper = page.pdf()
        assert page.complaints == []
        assert not page.evaluate("document.documentElement.hasAttribute('data-print')")
    assert paper.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper))
    assert 2 <= pages <= 6
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", paper, re.DOTALL)
    drawn = b"".join(inflated(stream) for stream in streams)
    assert len(drawn) > 20_000, "charts and text are on the paper"


def inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_several_routes_can_be_chosen(tmp_path):
    ids = [f"RouteScenario_{name}_rep0" for name in ("one", "two")]
    for place, route_id in enumerate(ids):
        write_log(tmp_path / f"{route_id}.ticks.jsonl", 50 + 30 * place)
        write_map(tmp_path / f"{route_id}.route.json", route_id)
    write_results(tmp_path / "results.json", {ids[0]: [], ids[1]: [60]})
    with open_page(write_report(tmp_path).path) as page:
        assert text(page, "h1") == "Route one" and text(page, "#status") == "Perfect"
        assert "No camera pictures" in text(page, "#notes")
        assert page.evaluate("document.getElementById('camera').hidden")
        page.click("#routes tr:nth-child(2) button")
        assert text(page, "h1") == "Route two" and page.evaluate("TickReport.current") == 60
        assert page.evaluate("document.querySelectorAll('#chart-latency canvas').length") == 1
        assert page.complaints == []


def test_a_log_alone_is_a_page_as_well(tmp_path):
    write_log(tmp_path / "ticks.jsonl", 1)
    with open_page(write_report(tmp_path).path) as page:
        assert text(page, "#status") == "No result" and "Tick 1 of 1" in text(page, "#tick-name")
        assert page.complaints == []
