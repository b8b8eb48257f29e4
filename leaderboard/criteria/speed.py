"""Driving slower than the traffic. After scenario_runner `atomic_criteria.py`, `MinimumSpeedRouteTest`."""

from __future__ import annotations

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind, RouteLine
from tickdrive.leaderboard.scoring import Rules


class MinimumSpeed(Criterion):
    """On each part of the route, the ego's mean speed against the background traffic's.

    Args:
        line: the route.
        rules: the leaderboards have four parts, and tell those in which the ego was slower; Bench2Drive has
            twenty and tells them all (`route_scenario.py` and `atomic_criteria.py` of Bench2Drive 0.0.4).
    """

    name = "MinSpeedTest"
    unit = "%"
    WINDOW = 2
    CHECKPOINTS = 4
    BENCH2DRIVE_CHECKPOINTS = 20
    LAST_PART = 0.95  # a route ends at about 99 %, so its last part is judged from here on

    def __init__(self, line: RouteLine, rules: Rules = Rules.V2_0) -> None:
        super().__init__()
        self._line = line
        self._tells_all = rules is Rules.BENCH2DRIVE
        self._part_m = line.length_m / (self.BENCH2DRIVE_CHECKPOINTS if self._tells_all else self.CHECKPOINTS)
        self._index = 0
        self._part_start_m = 0.0
        self._percents: list[float] = []
        self._reset()

    def _reset(self) -> None:
        self._ego_sum = self._traffic_sum = 0.0
        self._samples = 0

    def update(self, tick: EgoTick) -> None:
        """Close the part when it is driven, and take this tick's speeds."""
        self._index = self._line.advance(self._index, tick.location, self.WINDOW)
        travelled_m = self._line.travelled_m[self._index]
        if travelled_m - self._part_start_m > self._part_m:
            self._judge(tick)
            self._part_start_m = travelled_m
            self._reset()
        if tick.traffic_speeds_mps:
            self._traffic_sum += sum(tick.traffic_speeds_mps) / len(tick.traffic_speeds_mps)
            self._ego_sum += tick.speed_mps
            self._samples += 1

    def finish(self, tick: EgoTick, over: bool) -> None:
        """Judge the last part where the route was (nearly) driven to its end.

        Where a criterion ended the route it counts twice, as upstream's: py_trees terminates the criterion
        when the tree ends, and `BasicScenario.terminate` does so again. It costs points like any other.
        """
        if self._line.travelled_m[self._index] > self.LAST_PART * self._line.length_m:
            for _ in range(2 if over else 1):
                self._judge(tick)

    @property
    def value(self) -> float:
        """Mean percentage over the parts judged."""
        return round(sum(self._percents) / len(self._percents), 2) if self._percents else 100.0

    def _judge(self, tick: EgoTick) -> None:
        percent = 100.0
        if self._samples and self._traffic_sum:
            percent = round(100.0 * self._ego_sum / self._traffic_sum, 2)
        self._percents.append(percent)
        if percent < 100.0 or self._tells_all:
            message = f"Average speed is {percent}% of the surrounding traffic's one"
            event = Event(EventKind.MIN_SPEED, tick.frame, tick.sim_s, message, percent=percent)
            self._events.append(event)
