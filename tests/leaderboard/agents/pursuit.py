"""A minimal agent for tests: it steers for the dense route and keeps its speed.

`setup` reads a JSON string with: speed [m/s], crash_at, exit_at, sleep_at [tick], fail_setup, sensors, obey,
tell [file that holds the number of the tick under way].
"""

import json
import math
import time
from pathlib import Path

import carla

from tickdrive.leaderboard.autonomous_agent import PrivilegedAgent, Track


def get_entry_point():
    return "PursuitAgent"


class PursuitAgent(PrivilegedAgent):
    def setup(self, path_to_conf_file):
        self.options = {"speed": 6.0, "track": "SENSORS", **json.loads(path_to_conf_file or "{}")}
        self.track = Track(self.options["track"])
        if self.options.get("fail_setup"):
            raise ValueError("setup fails on purpose")
        self.ticks = 0
        self.data = {}
        self._index = 0

    def sensors(self):
        return self.options.get("sensors", [{"type": "sensor.speedometer", "id": "speed"}])

    def run_step(self, input_data, timestamp):
        self.ticks += 1
        self.data = input_data
        if "tell" in self.options:
            Path(self.options["tell"]).write_text(str(self.ticks))
        if self.ticks == self.options.get("crash_at"):
            raise ValueError("run_step fails on purpose")
        if self.ticks == self.options.get("exit_at"):
            raise SystemExit(3)
        if self.ticks == self.options.get("sleep_at"):
            time.sleep(30)
        return self._pursue(input_data["speed"][1]["speed"] if "speed" in input_data else 0.0)

    def _pursue(self, speed):
        transform = self.ego.get_transform()
        here = transform.location
        route = [p.transform.location for p in self.route]
        ahead = route[self._index : self._index + 20]
        self._index += min(range(len(ahead)), key=lambda i: ahead[i].distance(here))
        target = route[min(self._index + 3 + int(0.6 * speed), len(route) - 1)]
        angle = math.atan2(target.y - here.y, target.x - here.x) - math.radians(transform.rotation.yaw)
        angle = math.atan2(math.sin(angle), math.cos(angle))
        control = carla.VehicleControl()
        control.steer = max(-1.0, min(1.0, 1.6 * angle))
        wanted = self.options["speed"]
        red = self.ego.get_traffic_light_state() != carla.TrafficLightState.Green
        if self.options.get("obey") and self.ego.is_at_traffic_light() and red:
            wanted = 0.0
        error = wanted - speed
        control.throttle = max(0.0, min(0.8, 0.4 * error + 0.25)) if wanted > 0 else 0.0
        control.brake = max(0.0, min(1.0, -0.4 * error)) if wanted > 0 else 1.0
        return control
