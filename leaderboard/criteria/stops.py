"""Running a stop sign. After scenario_runner `atomic_criteria.py`, `RunningStopTest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import carla

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind, describe


@dataclass(frozen=True)
class WatchedStop:
    """A stop sign: its id, where it stands, and its trigger volume (axis-parallel, as upstream takes it)."""

    id: int
    location: carla.Location
    centre: carla.Location
    extent: carla.Vector3D


class StopSign(Criterion):
    """Having come under a stop sign, the ego must stand once before it leaves its area."""

    name = "RunningStopTest"
    unit = "times"
    NEAR_M = 4.0
    STANDING_MPS = 0.1
    STEP_M = 0.5
    AREA_FACTOR = 1.2
    BACKWARDS = -0.17  # cosine of 100 degrees

    def __init__(self, world_map: carla.Map, signs: Sequence[carla.Actor]) -> None:
        super().__init__()
        self._map = world_map
        self._stops = []
        for sign in signs:
            transform, volume = sign.get_transform(), sign.trigger_volume
            local = carla.Location(volume.location.x, volume.location.y, volume.location.z)
            stop = WatchedStop(sign.id, transform.location, transform.transform(local), volume.extent)
            self._stops.append(stop)
        self._target: WatchedStop | None = None
        self._stood = False
        self._last_failed: int | None = None

    def update(self, tick: EgoTick) -> None:
        """Look for a sign ahead, or watch whether the ego stands at the one found."""
        if self._target is None:
            # a lane's width of slack: the test itself is made from the lane's centre
            slack_m = 2 * self.NEAR_M
            if not any(stop.centre.distance(tick.location) < self.NEAR_M + slack_m for stop in self._stops):
                return
            self._target = self._sign_ahead(tick)
            return
        if tick.speed_mps < self.STANDING_MPS:
            self._stood = True
        if self._under(self._target, self._ahead(tick.location)):
            return
        if not self._stood and self._last_failed != self._target.id:
            message = f"Agent ran a stop with id={self._target.id} at {describe(self._target.location)}"
            event = Event(EventKind.STOP_SIGN, tick.frame, tick.sim_s, message, other_actor=self._target.id)
            self._events.append(event)
            self._last_failed = self._target.id
        self._target, self._stood = None, False

    def _sign_ahead(self, tick: EgoTick) -> WatchedStop | None:
        forward = tick.transform.get_forward_vector()
        if tick.velocity_in_world.dot(forward) < self.BACKWARDS:
            return None
        waypoints = self._ahead(tick.location)
        if forward.dot(waypoints[0].transform.get_forward_vector()) < self.BACKWARDS:
            return None
        return next((stop for stop in self._stops if self._under(stop, waypoints)), None)

    def _ahead(self, location: carla.Location) -> list[carla.Waypoint]:
        """The ego's lane from where it is to 4 m on; without it a small trigger could be missed."""
        waypoints = [self._map.get_waypoint(location)]
        for _ in range(int(self.NEAR_M / self.STEP_M)):
            following = waypoints[-1].next(self.STEP_M)
            if not following:
                break
            waypoints.append(following[0])
        return waypoints

    def _under(self, stop: WatchedStop, waypoints: Sequence[carla.Waypoint]) -> bool:
        if stop.centre.distance(waypoints[0].transform.location) > self.NEAR_M:
            return False
        half_x, half_y = self.AREA_FACTOR * stop.extent.x, self.AREA_FACTOR * stop.extent.y
        points = (w.transform.location for w in waypoints)
        return any(abs(p.x - stop.centre.x) < half_x and abs(p.y - stop.centre.y) < half_y for p in points)
