"""What running scenarios tell the criteria, and what they learn of the ego's collisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tickdrive.leaderboard.criteria.base import ScenarioSignal, SignalKind


@dataclass
class ScenarioRules:
    """Shared by a route's scenarios, which write it, and the drive, which takes the news of each tick.

    Attributes:
        touched: ids of the actors that the ego's collision sensor has reported.
        opposite_lane_allowed: so many scenarios let the ego use the opposite lane now.
        standing_allowed: so many scenarios that have a timeout of their own run now.
    """

    touched: set[int] = field(default_factory=set)
    opposite_lane_allowed: int = 0
    standing_allowed: int = 0
    _signals: list[ScenarioSignal] = field(default_factory=list)

    @contextmanager
    def allow_opposite_lane(self) -> Iterator[None]:
        """While it lasts, driving in the opposite lane is no infraction (`SwitchWrongDirectionTest`)."""
        self.opposite_lane_allowed += 1
        if self.opposite_lane_allowed == 1:
            self.tell(SignalKind.DIRECTION_TEST_OFF)
        try:
            yield
        finally:
            self.opposite_lane_allowed -= 1
            if not self.opposite_lane_allowed:
                self.tell(SignalKind.DIRECTION_TEST_ON)

    @contextmanager
    def allow_standing(self) -> Iterator[None]:
        """While it lasts, the ego is not called blocked (`ScenarioTimeout` switches `ActorBlockedTest`)."""
        self.standing_allowed += 1
        if self.standing_allowed == 1:
            self.tell(SignalKind.BLOCKED_TEST_OFF)
        try:
            yield
        finally:
            self.standing_allowed -= 1
            if not self.standing_allowed:
                self.tell(SignalKind.BLOCKED_TEST_ON)

    def tell(self, kind: SignalKind) -> None:
        """Note news for the criteria."""
        self._signals.append(ScenarioSignal(kind))

    def take(self) -> tuple[ScenarioSignal, ...]:
        """The news since the last call, in order."""
        taken, self._signals = tuple(self._signals), []
        return taken
