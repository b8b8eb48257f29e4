"""Collisions, by kind. After scenario_runner `atomic_criteria.py`, `CollisionTest`."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

import carla

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind, describe
from tickdrive.leaderboard.scenarios.rules import ScenarioRules

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contact:
    """A contact as the collision sensor reports it. `other_id` 0 is the town itself."""

    frame: int
    other_id: int
    other_type: str


def kind_of(other_type: str) -> EventKind | None:
    """Kind of a collision by the partner's type id; None for what does not count (sidewalks)."""
    if ("static" in other_type or "traffic" in other_type) and "sidewalk" not in other_type:
        return EventKind.COLLISION_STATIC
    if "vehicle" in other_type:
        return EventKind.COLLISION_VEHICLE
    if "walker" in other_type:
        return EventKind.COLLISION_PEDESTRIAN
    return None


class Collisions(Criterion):
    """Counts collisions, one where the sensor reports many.

    A contact is dropped when the last collision was with the same actor less than 5 s ago, or happened less
    than 5 m away, or when the ego stood (then it is not its fault). Position, speed and time are those of the
    tick before the contact, since the contact itself changes them. What happens up to the first tick does not
    count: upstream's sensor is made in it.
    """

    name = "CollisionTest"
    unit = "times"
    SAME_PLACE_M = 5.0
    SAME_ACTOR_S = 5.0
    STANDING_MPS = 0.1

    def __init__(self) -> None:
        super().__init__()
        self._contacts: deque[Contact] = deque()  # filled by the client's thread, emptied by `update`
        self._before: EgoTick | None = None
        self._last_id: int | None = None
        self._last_s = 0.0
        self._last_location: carla.Location | None = None

    def report(self, contact: Contact) -> None:
        """Hand in a contact; may be called from any thread."""
        self._contacts.append(contact)

    def update(self, tick: EgoTick) -> None:
        """Judge the contacts reported since the last tick, then forget what is far or long ago."""
        pending = [self._contacts.popleft() for _ in range(len(self._contacts))]
        for contact in sorted(pending, key=lambda c: (c.frame, c.other_id)):
            if contact.frame > tick.frame:  # who judges later than the sensor reports
                self._contacts.append(contact)
            elif self._before is not None:
                self._judge(contact, self._before, tick)
        if self._last_location and tick.location.distance(self._last_location) > self.SAME_PLACE_M:
            self._last_location = None
        if self._last_id is not None and tick.sim_s - self._last_s > self.SAME_ACTOR_S:
            self._last_id = None
        self._before = tick

    def _judge(self, contact: Contact, before: EgoTick, tick: EgoTick) -> None:
        if self._last_id == contact.other_id:
            return
        here = before.location
        if self._last_location and here.distance(self._last_location) <= self.SAME_PLACE_M:
            return
        if before.speed_mps < self.STANDING_MPS:
            return
        self._last_s, self._last_location = before.sim_s, here
        if contact.other_id != 0:
            self._last_id = contact.other_id
        kind = kind_of(contact.other_type)
        if kind is None:
            _LOGGER.info("contact with %s does not count", contact.other_type)
            return
        message = (
            f"Agent collided against object with type={contact.other_type} and id={contact.other_id} "
            f"at {describe(here)}"
        )
        self._events.append(Event(kind, contact.frame, tick.sim_s, message, other_actor=contact.other_id))


class CollisionSensor(Collisions):
    """`Collisions` fed by a collision sensor on the ego."""

    def __init__(self, world: carla.World, ego: carla.Vehicle, rules: ScenarioRules | None = None) -> None:
        super().__init__()
        self._rules = rules or ScenarioRules()
        blueprint = world.get_blueprint_library().find("sensor.other.collision")
        self._sensor: carla.Sensor | None = world.spawn_actor(blueprint, carla.Transform(), attach_to=ego)
        self._sensor.listen(self._on_event)

    def _on_event(self, event: carla.CollisionEvent) -> None:
        other = event.other_actor
        self._rules.touched.add(other.id)
        self.report(Contact(event.frame, other.id, other.type_id))

    def close(self) -> None:
        """Stop and destroy the sensor."""
        sensor, self._sensor = self._sensor, None
        if sensor is not None:
            sensor.stop()
            sensor.destroy()
