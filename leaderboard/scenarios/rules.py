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
    """

    touched: set[int] = field(default_factory=set)
    _opposite_lane: int = 0
    _standing: int = 0
    _signals: list[ScenarioSignal] = field(default_factory=list)

    @contextmanager
    def allow_opposite_lane(self) -> Iterator[None]:
        """While it lasts, driving in the opposite lane is no infraction (`SwitchWrongDirectionTest`)."""
        self._opposite_lane += 1
        if self._opposite_lane == 1:
            self.tell(SignalKind.DIRECTION_TEST_OFF)
        try:
            yield
        finally:
            self._opposite_lane -= 1
            if not self._opposite_lane:
                self.tell(SignalKind.DIRECTION_TEST_ON)

    @contextmanager
    def allow_standing(self) -> Iterator[None]:
        """While it lasts, the ego is not called blocked (`ScenarioTimeout` switches `ActorBlockedTest`)."""
        self._standing += 1
        if self._standing == 1:
            self.tell(SignalKind.BLOCKED_TEST_OFF)
        try:
            yield
        finally:
            self._standing -= 1
            if not self._standing:
                self.tell(SignalKind.BLOCKED_TEST_ON)

    def tell(self, kind: SignalKind) -> None:
        """Note news for the criteria."""
        self._signals.append(ScenarioSignal(kind))

    def take(self) -> tuple[ScenarioSignal, ...]:
        """The news since the last call, in order."""
        taken, self._signals = tuple(self._signals), []
        return taken
