"""A run's folder with what a drive leaves in it, written through the project's own writers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np

from tickdrive.agents.tick_log import LatencyRecord, TickLog, TickRecord
from tickdrive.leaderboard.criteria.base import Event, EventKind
from tickdrive.leaderboard.results import CriterionRow, PlacedInfraction, Results, RouteRecord
from tickdrive.leaderboard.scoring import Rules, score
from tickdrive.leaderboard.tick_timing import TickTiming, TimingHistogram
from tickdrive.planner.tracing import Span, TickTrace

FIRST_FRAME = 20
CLASSES = ("CRUISE", "FOLLOW", "STOP_LIGHT")
HEADER = {
    "engine": "made",
    "commit": "abc123",
    "config_hash": "0123abcd",
    "hardware": {"cpu": "A processor </script><b>", "cores": 2, "torch_threads": 1, "gpu": None},
    "versions": {"python": "3.11", "torch": "2.9"},
    "config": {
        "rig": {
            "cameras": [
                {"id": "front", "x": 1.3, "y": 0, "z": 1.7, "pitch": 0, "yaw": 0, "width": 64, "height": 32}
                | {"fov": 80}
            ],
            "planning_camera": "front",
        }
    },
}


def is_miss(number: int) -> bool:
    """Whether tick `number` misses the budget of 50 ms."""
    return number % 97 == 40


def tick_record(number: int) -> TickRecord:
    """Tick `number` of a drive on a circle, with something different in every column."""
    planner_ms = 45.0 if is_miss(number) else 12.0 + 3.0 * math.sin(number / 20)
    spans = (
        Span("decode", None, 0.0, 0.4),
        Span("vl", None, 0.5, 9.5),
        Span("planner", None, 10.5, planner_ms),
        Span("encode", "planner", 10.6, 1.5),
        Span("step", "planner", 12.1, 0.5),
        Span("step", "planner", 12.7, 0.25),
        Span("control", None, 12.0 + planner_ms, 0.2),
    )
    total = 0.4 + 9.5 + planner_ms + 0.2 + 0.3
    angle = number / 300
    stopped = 100 <= number < 103
    weight = (math.sin(number / 15) + 1) / 2
    return TickRecord(
        frame=FIRST_FRAME + number,
        sim_s=0.05 * (number + 1),
        trace=TickTrace(total, spans, 0.3),
        outside_ms=None if number == 0 else 21.0 + (number % 7),
        steps=0 if stopped else 10,
        granularity="step",
        rung="safe_stop" if stopped else "previous_plan" if number == 99 else "planned",
        reasoning=None if stopped else dict(zip(CLASSES, (weight, 1 - weight, 0.0), strict=True)),
        ego={
            "position_in_world": [60 * math.sin(angle), -60 * math.cos(angle)],
            "yaw_deg": math.degrees(angle),
            "speed_mps": 4.0,
            "remaining_m": 100.0,
            "command": "LANE_FOLLOW",
        },
        plan=None if stopped else np.array([[2.0 * (k + 1), 0.07 * (k + 1) ** 2] for k in range(6)]),
        control={"throttle": 0.4, "steer": 0.1, "brake": 0.0},
        guarded=number in (7, 8),
        engine="made",
        preempted=2 if is_miss(number) else 0,
        latency=LatencyRecord("fixed", 75_000, FIRST_FRAME + number - 2, number % 2 == 1),
    )


def write_log(path: Path, ticks: int) -> None:
    """A tick log."""
    log = TickLog(path, HEADER)
    for number in range(ticks):
        log.append(tick_record(number))
    log.close()


def write_pictures(folder: Path, numbers: range | list[int], size: tuple[int, int] = (64, 32)) -> None:
    """Pictures of some ticks; how bright one is tells which tick it is of."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = np.full((size[1], size[0], 3), number % 256, np.uint8)
        cv2.imwrite(str(folder / f"{FIRST_FRAME + number}.jpg"), image)


def write_map(path: Path, route_id: str) -> None:
    """A route along the circle, and one lane."""
    points = [[60 * math.sin(k / 10), -60 * math.cos(k / 10)] for k in range(12)]
    lanes = [{"width_m": 3.5, "points": points}]
    content = {"schema": 1, "route_id": route_id, "town": "MadeTown", "length_m": 66.0}
    path.write_text(json.dumps({**content, "route": points, "lanes": lanes}))


def write_results(path: Path, infractions: dict[str, list[int]]) -> None:
    """Results of routes, each with red lights run in some ticks."""
    results = Results.open(path, list(infractions), {"agent": "diffusion", "rules": "2.0", "seed": 3}, False)
    for place, (route_id, numbers) in enumerate(infractions.items()):
        text = "Agent ran a red light 7 at (x=1, y=2, z=0)"
        events = [Event(EventKind.RED_LIGHT, FIRST_FRAME + n, 0.05 * (n + 1), text) for n in numbers]
        record = RouteRecord.build(
            index=place,
            route_id=route_id,
            status="Completed" if events else "Perfect",
            events=events,
            scores=score(100.0, events, Rules.V2_0),
            length_m=66.0,
            game_s=20.0,
            system_s=30.0,
            criteria=[CriterionRow("RouteCompletionTest", "SUCCESS", 100.0, "%")],
        )
        timing = TimingHistogram()
        timing.record(TickTiming(5.0, 20.0, 1.0))
        placed = []
        for n, event in zip(numbers, events, strict=True):
            x, y = tick_record(n).ego["position_in_world"]
            placed.append(PlacedInfraction("red_light", event.frame, event.sim_s, (x, y), event.message))
        results.finish(record, timing, placed)
    results.conclude()


def write_run(folder: Path, ticks: int = 300, red_lights: tuple[int, ...] = (150,)) -> Path:
    """A drive's folder, as `tickdrive drive` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    route_id = "RouteScenario_made_rep0"
    write_log(folder / "ticks.jsonl", ticks)
    write_map(folder / "route.json", route_id)
    write_results(folder / "results.json", {route_id: list(red_lights)})
    kept = {*range(0, ticks, 10), *red_lights, *filter(is_miss, range(ticks))}
    write_pictures(folder / "frames", sorted(kept))
    return folder
