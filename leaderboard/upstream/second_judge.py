"""A second judge of upstream's drives: `python -m tickdrive.leaderboard.upstream.second_judge SPEC`.

A client of its own in a process of its own, attached to the simulator that upstream drives in. It follows the
ego through every frame, applies our criteria to the same route, worked out from the route file by our own
route planner, and writes its record. It learns from `judge_link` which route is driven, at which frames
the drive begins and ends, and what the scenarios tell the criteria; whom it judges it sees for itself.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import carla

from tickdrive.leaderboard.criteria.base import DriveClock, EgoTick, ScenarioSignal, SignalKind
from tickdrive.leaderboard.criteria.collisions import CollisionSensor
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.results import write_json_atomically
from tickdrive.leaderboard.route_judge import JudgeLimits, RouteJudge, judged_line, traffic_lights
from tickdrive.leaderboard.route_planner import RoutePlanner
from tickdrive.leaderboard.routes import Route, read_routes
from tickdrive.leaderboard.scoring import Failure
from tickdrive.leaderboard.upstream.ego_follower import EgoFollower, SeenFrame
from tickdrive.leaderboard.upstream.runner import end_with

_TIMEOUT_S = 60.0
_SYNC_S = 20.0
_LAST_FRAME_S = 20.0
# a collision's event may come after its frame: so many frames later it is there
_LAG_FRAMES = 10
_LAST_CONTACTS_S = 0.3
_SWITCHES = {
    ("AC_SwitchActorBlockedTest", False): SignalKind.BLOCKED_TEST_OFF,
    ("AC_SwitchActorBlockedTest", True): SignalKind.BLOCKED_TEST_ON,
    ("AC_SwitchWrongDirectionTest", False): SignalKind.DIRECTION_TEST_OFF,
    ("AC_SwitchWrongDirectionTest", True): SignalKind.DIRECTION_TEST_ON,
}
_SCENARIO = "ScenarioRouteNumber"
_TIMEOUT = "ScenarioTimeout_"


@dataclass(frozen=True)
class JudgeSpec:
    """What is judged.

    Attributes:
        socket: path of the socket to listen on.
        routes: the route file.
        rules: whose scores.
        out: folder for the records, ``<route>.json`` each.
        parent: process to end with.
    """

    socket: str
    routes: str
    rules: str
    out: str
    parent: int


class Lines:
    """Lines of JSON from a socket, without waiting where none is wanted."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._ended = False

    def take(self, wait_s: float = 0.0) -> list[dict[str, Any]] | None:
        """What has come; None once the other side is gone."""
        if self._ended:
            return None
        while select.select([self._connection], [], [], wait_s)[0]:
            data = self._connection.recv(65536)
            if not data:
                self._ended = True
                break
            self._buffer += data
            wait_s = 0.0
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines]

    def answer(self) -> None:
        """What was asked for is done."""
        self._connection.sendall(b"done\n")


def signal_of(name: str, value: bool, route: Route) -> ScenarioSignal | None:
    """What a variable of scenario_runner's blackboard says; None for nothing of interest."""
    if (name, value) in _SWITCHES:
        return ScenarioSignal(_SWITCHES[name, value])
    if name.startswith(_SCENARIO):
        # upstream numbers a route's scenarios in the file's order
        kind = route.scenarios[int(name.removeprefix(_SCENARIO))].type
        return ScenarioSignal(SignalKind.STARTED if value else SignalKind.ENDED, kind)
    if name.startswith(_TIMEOUT) and value:
        return ScenarioSignal(SignalKind.TIMED_OUT)
    return None


class Drive:
    """One drive, followed from its first frame to its last.

    Args:
        client: to the simulator.
        route: what is driven.
        begin: the frame before the first.
        hero: the ego's id.
        config: the rules.

    Attributes:
        seen: frames judged.
        missing: frames of the drive that never came.
        ended_frame: at which our criteria ended the route; None if they have not.
    """

    def __init__(self, client: carla.Client, route: Route, begin: int, hero: int, config: EvaluationConfig):
        world = client.get_world()
        until = time.monotonic() + _SYNC_S
        while world.get_snapshot().frame != begin:
            if time.monotonic() > until:
                raise RuntimeError(f"at frame {world.get_snapshot().frame}, upstream at {begin}")
            time.sleep(0.01)
        ego = world.get_actor(hero)
        world_map = world.get_map()
        points = RoutePlanner(world_map).trace(route.locations())
        limits = config.limits()
        self.route = route
        self.seen = 0
        self.missing: list[int] = []
        self.ended_frame: int | None = None
        self._begin = begin
        self._last = self._taken = begin
        self._gone = False
        self._clock = DriveClock(begin)
        self._judge = RouteJudge(
            world,
            world_map,
            ego,
            judged_line(points),
            CollisionSensor(world, ego),
            JudgeLimits(config.scoring_rules, limits.blocked_s, config.deviation_m),
        )
        self._follower = EgoFollower(world, ego, traffic_lights(world))
        self._signals: dict[int, list[ScenarioSignal]] = {}
        self._waiting: deque[SeenFrame] = deque()
        self._started = time.time()

    def signal(self, name: str, value: bool, frame: int) -> None:
        """A scenario tells something."""
        heard = signal_of(name, value, self.route)
        if heard is not None:
            self._signals.setdefault(frame, []).append(heard)

    def take(self, wait_s: float) -> None:
        """Wait a moment for the next frame, and keep it with those that wait."""
        try:
            frame = self._follower.frames.get(timeout=wait_s)
        except queue.Empty:
            return
        if frame is None:
            self._gone = True
        elif frame.frame > self._begin:
            self._waiting.append(frame)
            self._taken = frame.frame

    def take_up_to(self, frame: int) -> None:
        """Wait until a frame is taken; one that never comes is found missing in the end."""
        until = time.monotonic() + _LAST_FRAME_S
        while self._taken < frame and not self._gone and time.monotonic() < until:
            self.take(0.1)

    def judge(self) -> None:
        """Judge what has waited long enough: all that belongs to it has come."""
        while len(self._waiting) > _LAG_FRAMES:
            self._judge_next()

    def finish(self, end: int, failure: str) -> dict[str, Any]:
        """Judge the rest, up to the last frame, and make the record."""
        self.take_up_to(end)
        time.sleep(_LAST_CONTACTS_S)
        while self._waiting and self._waiting[0].frame <= end:
            self._judge_next()
        self.missing += range(self._last + 1, end + 1)
        record = self._judge.record(
            0, f"{self.route.name}_rep0", Failure(failure) if failure else None, time.time() - self._started
        )
        return {
            "record": asdict(record),
            "infractions": [asdict(each) for each in self._judge.infractions()],
            "frames": self.seen,
            "missing": self.missing,
            "ended_frame": self.ended_frame,
            "upstream_ended_frame": end,
        }

    def close(self) -> None:
        """Let go of the simulator."""
        self._follower.close()
        self._judge.close()

    def _judge_next(self) -> None:
        frame = self._waiting.popleft()
        self.missing += range(self._last + 1, frame.frame)
        self._last = frame.frame
        self.seen += 1
        if self._judge.over:
            return
        self._judge.update(
            EgoTick(
                frame=frame.frame,
                sim_s=self._clock.advance(frame.frame, frame.delta_s),
                transform=frame.transform,
                velocity_in_world=frame.velocity_in_world,
                speed_limit_kmh=frame.speed_limit_kmh,
                traffic_speeds_mps=frame.traffic_speeds_mps,
                red_lights=frame.red_lights,
                signals=tuple(self._signals.pop(frame.frame, ())),
                emergency_vehicle=frame.emergency_vehicle,
            )
        )
        if self._judge.over:
            self.ended_frame = frame.frame


class SecondJudge:
    """Judges one run of an evaluator, route by route."""

    def __init__(self, spec: JudgeSpec, connection: socket.socket) -> None:
        self._lines = Lines(connection)
        self._routes = {route.name: route for route in read_routes(spec.routes)}
        self._out = Path(spec.out)
        self._config = EvaluationConfig(rules=spec.rules)
        self._client: carla.Client | None = None
        self._route: Route | None = None
        self._drive: Drive | None = None

    def run(self) -> None:
        """Until the evaluator ends."""
        while True:
            messages = self._lines.take(0.5)
            if messages is None:
                return
            for message in messages:
                self._hear(message)
            if self._drive is not None:
                self._drive.judge()

    def _hear(self, message: dict[str, Any]) -> None:
        if "route" in message:
            self._route = self._routes[message["route"].rpartition("_rep")[0]]
            # long before the first tick: by then the client follows
            self._client = self._client or carla.Client(message["host"], message["port"])
            self._client.set_timeout(_TIMEOUT_S)
            self._client.get_world()
        elif "begin" in message:
            assert self._client is not None and self._route is not None
            begin, hero = message["begin"], message["hero"]
            self._drive = Drive(self._client, self._route, begin, hero, self._config)
            self._lines.answer()
        elif "tick" in message and self._drive is not None:
            self._drive.take_up_to(message["tick"])
            self._lines.answer()
        elif "signal" in message and self._drive is not None:
            self._drive.signal(message["signal"], message["value"], message["frame"])
        elif "end" in message and self._drive is not None:
            drive, self._drive = self._drive, None
            try:
                found = drive.finish(message["end"], message["failure"])
            finally:
                drive.close()
            write_json_atomically(self._out / f"{drive.route.name}.json", found)
            self._lines.answer()


def _serve(spec: JudgeSpec, connection: socket.socket) -> NoReturn:
    status = 0
    try:
        SecondJudge(spec, connection).run()
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(arguments: list[str]) -> None:
    """Serve one evaluator after another, each in a process of its own: a lost simulator spoils a client's."""
    spec = JudgeSpec(**json.loads(arguments[0]))
    end_with(spec.parent)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    own = os.getpid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(spec.socket)
        listener.listen()
        print("listening", flush=True)
        while True:
            connection, _ = listener.accept()
            child = os.fork()
            if child == 0:
                end_with(own)
                listener.close()
                _serve(spec, connection)
            connection.close()


if __name__ == "__main__":
    main(sys.argv[1:])
