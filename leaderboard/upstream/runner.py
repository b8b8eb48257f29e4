"""The process that an upstream evaluator runs in: `python -m tickdrive.leaderboard.upstream.runner SPEC`.

Upstream's files are run as they are. What an environment of today lacks is given around them: the folder
`fallback` at the end of `sys.path`, and `Element.getchildren`, which left Python 3.9. The process that
started this one is told, a line of JSON each, which route begins and, once a second, the simulated time. They
end together, also when that one is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.upstream.carla_root import WATCH_VARIABLE
from tickdrive.leaderboard.upstream.judge_link import JudgeLink

_PR_SET_PDEATHSIG = 1
_BEAT_S = 1.0
_FALLBACK = Path(__file__).parent / "fallback"


@dataclass(frozen=True)
class RunnerSpec:
    """What is run.

    Attributes:
        script: the evaluator.
        arguments: its command line.
        python_path: folders to import from, before all others.
        save_folders: route id -> `SAVE_PATH` while that route is driven; others keep the environment's.
        parent: process to end with.
        events: file descriptor to tell what happens.
        judge: socket of a second judge (see `second_judge`); empty for none.
    """

    script: str
    arguments: list[str]
    python_path: list[str]
    save_folders: dict[str, str]
    parent: int
    events: int
    judge: str = ""

    def to_json(self) -> str:
        """As the command line takes it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunnerSpec:
        """Read it again."""
        return cls(**json.loads(text))


def main(arguments: list[str]) -> None:
    """Run an evaluator to its end; its exit status is this process's."""
    spec = RunnerSpec.from_json(arguments[0])
    end_with(spec.parent)
    os.environ[WATCH_VARIABLE] = str(os.getpid())
    prepare(spec.python_path)
    events = _Events(spec.events)
    link = None
    if spec.judge:
        link = JudgeLink(spec.judge, spec.arguments)
        link.install()
    _tell_routes(events, spec.save_folders, link)
    threading.Thread(target=_beat, args=(events,), name="heartbeat", daemon=True).start()
    sys.argv = [spec.script, *spec.arguments]
    runpy.run_path(spec.script, run_name="__main__")


def prepare(python_path: list[str]) -> None:
    """Make upstream's code importable in this interpreter, and in those that it starts."""
    # not the present folder, which `python -m` adds: in ours, `leaderboard` and `agents` are other packages
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    sys.path[0:0] = python_path
    sys.path.append(str(_FALLBACK))
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*python_path, *([inherited] if inherited else [])])
    give_getchildren()


class _Element(ET.Element):
    def getchildren(self) -> list[ET.Element]:
        return list(self)


def give_getchildren() -> None:
    """`ElementTree.parse` makes elements that have `getchildren`, which upstream calls."""
    parse = ET.parse

    def with_children(source: Any, parser: Any = None) -> Any:
        return parse(source, parser or ET.XMLParser(target=ET.TreeBuilder(element_factory=_Element)))

    ET.parse = with_children  # type: ignore[assignment]


def end_with(parent: int) -> None:
    """Be killed by the kernel when `parent` is gone: that works whatever this process hangs in."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before
        os._exit(1)


class _Events:
    """Tells the parent what happens."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def tell(self, **content: Any) -> None:
        with self._lock:
            os.write(self._descriptor, (json.dumps(content) + "\n").encode())


def _tell_routes(events: _Events, save_folders: dict[str, str], judge: JudgeLink | None) -> None:
    """Say which route begins: upstream makes its record first, with the route's id as first argument."""
    from leaderboard.utils.statistics_manager import StatisticsManager  # upstream's

    create = StatisticsManager.create_route_data

    def telling(self: Any, route_id: str, *rest: Any, **named: Any) -> Any:
        if route_id in save_folders:
            os.environ["SAVE_PATH"] = save_folders[route_id]
        events.tell(route=route_id)
        if judge is not None:
            judge.route(route_id)
        return create(self, route_id, *rest, **named)

    StatisticsManager.create_route_data = telling


def _beat(events: _Events) -> None:
    """Once a second the simulated time: the parent sees that the drive goes on."""
    while True:
        time.sleep(_BEAT_S)
        timer = sys.modules.get("srunner.scenariomanager.timer")
        now_s = timer.GameTime.get_time() if timer is not None else 0.0
        events.tell(sim_s=float(now_s))


if __name__ == "__main__":
    main(sys.argv[1:])
