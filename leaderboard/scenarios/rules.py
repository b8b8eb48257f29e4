"""What running scenarios change about the judging, and what they find themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tickdrive.leaderboard.criteria.base import EventKind


@dataclass
class ScenarioRules:
    """Shared by a route's scenarios, which write it, and its criteria, which read it.

    Attributes:
        opposite_lane_allowed: so many scenarios let the ego use the opposite lane now.
        standing_allowed: so many scenarios that have a timeout of their own run now; upstream does not call
            the ego blocked meanwhile (`ScenarioTimeout` switches `ActorBlockedTest`).
        touched: ids of the actors that the ego's collision sensor has reported.
        found: infractions that scenarios found and no criterion has taken over yet.
    """

    opposite_lane_allowed: int = 0
    standing_allowed: int = 0
    touched: set[int] = field(default_factory=set)
    found: list[tuple[EventKind, str]] = field(default_factory=list)

    @contextmanager
    def allow_opposite_lane(self) -> Iterator[None]:
        """While it lasts, driving in the opposite lane is no infraction (`SwitchWrongDirectionTest`)."""
        self.opposite_lane_allowed += 1
        try:
            yield
        finally:
            self.opposite_lane_allowed -= 1

    @contextmanager
    def allow_standing(self) -> Iterator[None]:
        """While it lasts, the ego is not called blocked."""
        self.standing_allowed += 1
        try:
            yield
        finally:
            self.standing_allowed -= 1

    def report(self, kind: EventKind, message: str) -> None:
        """Note an infraction."""
        self.found.append((kind, message))

    def take(self, kind: EventKind) -> list[str]:
        """Messages of the infractions of a kind noted since the last call."""
        taken = [message for each, message in self.found if each is kind]
        self.found = [each for each in self.found if each[0] is not kind]
        return taken
