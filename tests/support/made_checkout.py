"""A checkout of a leaderboard as small as can be: upstream's files, functions and formats, no scenarios.

Its evaluator drives nothing: it ticks the real simulator for a while. What a route is to go wrong with is in
its id: `die` (the process), `kill` (it kills the simulator), `stop` (it stops it), `hang`, `agent` (the agent
fails), `simulation` (upstream says that the simulation crashed). With `-once` behind it, only the first time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EVALUATOR = """
import argparse, json, os, signal, sys, time
import xml.etree.ElementTree as ET
from distutils.util import strtobool
import carla, pkg_resources, psutil
from agents.navigation.local_planner import RoadOption
from srunner.scenariomanager.carla_data_provider import CarlaDataProvider
from srunner.scenariomanager.timer import GameTime
from leaderboard.utils.statistics_manager import StatisticsManager

parser = argparse.ArgumentParser()
for name in ("host", "routes", "agent", "agent-config", "track", "checkpoint", "debug-checkpoint"):
    parser.add_argument("--" + name)
for name in ("port", "traffic-manager-port", "traffic-manager-seed", "repetitions"):
    parser.add_argument("--" + name, type=int)
parser.add_argument("--timeout", type=float)
args = parser.parse_args()
assert strtobool("yes") and pkg_resources.get_distribution("carla").version and RoadOption.LANEFOLLOW == 4

client = carla.Client(args.host, args.port)
client.set_timeout(args.timeout)
world = client.get_world()
settings = world.get_settings()
settings.synchronous_mode, settings.fixed_delta_seconds = True, 0.05
world.apply_settings(settings)
statistics = StatisticsManager(args.checkpoint, args.debug_checkpoint)
statistics.save_sensors(["carla_camera"])
routes = ET.parse(args.routes).getroot().getchildren()
crashed = False
for index, route in enumerate(routes):
    route_id = "RouteScenario_%s_rep0" % route.get("id")
    statistics.create_route_data(route_id, index)
    with open(os.path.join(os.environ["SAVE_PATH"], "ticks.jsonl"), "a") as log:
        log.write(args.agent_config)
    for tick in range(5):
        world.tick()
        GameTime.now = 0.05 * tick + index
    marks = os.path.join(os.path.dirname(args.checkpoint), route.get("id") + ".been")
    what, _, once = route.get("id").partition("-")
    failure = ""
    if not (once and os.path.exists(marks)):
        open(marks, "w").close()
        if what == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what in ("kill", "stop"):
            simulator = next(p for p in psutil.process_iter(["cmdline"])
                             if f"--port {args.port}" in " ".join(p.info["cmdline"] or ()))
            simulator.kill() if what == "kill" else simulator.suspend()
            world.tick()
        if what == "hang":
            time.sleep(600)
        failure = {"agent": "Agent crashed", "simulation": "Simulation crashed"}.get(what, "")
    statistics.compute_route_statistics(index, 1.0, 2.0, failure)
    statistics.save_progress(index + 1, len(routes))
    statistics.write_statistics()
    crashed = failure == "Simulation crashed"
    if crashed:
        time.sleep(600)  # upstream cleans up, and waits for what is gone
        break
settings.synchronous_mode, settings.fixed_delta_seconds = False, None
world.apply_settings(settings)
sys.exit(-1 if crashed else 0)
"""

STATISTICS = """
import json
# COLLISION_PEDESTRIAN: 1.0, as 2.1 has it

class StatisticsManager:
    def __init__(self, endpoint, debug_endpoint):
        self._endpoint, self._records, self._progress = endpoint, [], []
        self._sensors, self._values, self._status = [], [], "Started"
        self._global = {}

    def add_file_records(self, endpoint):
        self._records += json.load(open(endpoint))["_checkpoint"]["records"]

    def save_sensors(self, sensors):
        self._sensors = sensors

    def save_progress(self, route_index, total_routes):
        self._progress = [route_index, total_routes]

    def create_route_data(self, route_id, index):
        self._records.append({"index": -1, "route_id": route_id, "status": "Started"})

    def compute_route_statistics(self, route_index, duration_time_system=-1, duration_time_game=-1,
                                 failure_message=""):
        done = 0.0 if failure_message else 100.0
        self._records[route_index].update(
            index=route_index, status="Failed - " + failure_message if failure_message else "Perfect",
            num_infractions=0, infractions={},
            scores={"score_route": done, "score_penalty": 1.0, "score_composed": done},
            meta={"route_length": 10.0, "duration_game": duration_time_game,
                  "duration_system": duration_time_system})

    def compute_global_statistics(self):
        mean = sum(r["scores"]["score_composed"] for r in self._records) / self._progress[1]
        self._global = {"scores_mean": {"score_composed": mean, "score_route": mean, "score_penalty": 1.0}}
        self._values, self._status = [str(mean)], "Finished"

    def validate_and_write_statistics(self, sensors_initialized, crashed):
        self.write_statistics()

    def write_statistics(self):
        records = [record for record in self._records if record["index"] != -1]
        content = {"_checkpoint": {"global_record": self._global, "progress": self._progress,
                                   "records": records},
                   "entry_status": self._status, "eligible": self._status == "Finished",
                   "sensors": self._sensors, "values": self._values, "labels": ["made up"]}
        with open(self._endpoint, "w") as file:
            json.dump(content, file)
"""

TIMER = """
class GameTime:
    now = 0.0

    @staticmethod
    def get_time():
        return GameTime.now
"""


@dataclass(frozen=True)
class MadeCheckout:
    """Where its parts are."""

    leaderboard: Path
    scenario_runner: Path


def make_checkout(folder: Path) -> MadeCheckout:
    """Write one."""
    made = MadeCheckout(folder / "leaderboard", folder / "scenario_runner")
    files = {
        made.leaderboard / "leaderboard/__init__.py": "",
        made.leaderboard / "leaderboard/leaderboard_evaluator.py": EVALUATOR,
        made.leaderboard / "leaderboard/utils/__init__.py": "",
        made.leaderboard / "leaderboard/utils/statistics_manager.py": STATISTICS,
        made.scenario_runner / "srunner/__init__.py": "",
        made.scenario_runner / "srunner/scenariomanager/__init__.py": "",
        made.scenario_runner / "srunner/scenariomanager/timer.py": TIMER,
        made.scenario_runner
        / "srunner/scenariomanager/carla_data_provider.py": "class CarlaDataProvider: pass\n",
        made.scenario_runner / "srunner/scenarios/accident.py": "class Accident:\n    pass\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return made


def make_routes(path: Path, ids: list[str], town: str, scenario: str = "Accident") -> Path:
    """A route file with these ids."""
    routes = "".join(
        f'<route id="{each}" town="{town}"><waypoints><position x="0" y="0" z="0"/>'
        f'<position x="10" y="0" z="0"/></waypoints><scenarios><scenario name="s" type="{scenario}">'
        f'<trigger_point x="0" y="0" z="0" yaw="0"/></scenario></scenarios></route>'
        for each in ids
    )
    path.write_text(f"<routes>{routes}</routes>")
    return path
