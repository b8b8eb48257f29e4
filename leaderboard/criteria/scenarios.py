"""What scenarios find fault with: time ran out, an emergency vehicle was held up.

After scenario_runner `atomic_criteria.py`, `ScenarioTimeoutTest` and `YieldToEmergencyVehicleTest`. Both
judge by the signals of whoever runs the scenarios; without any they find nothing.
"""

from __future__ import annotations

from tickdrive.leaderboard.criteria.base import Criterion, EgoTick, Event, EventKind, SignalKind

EMERGENCY_SCENARIO = "YieldToEmergencyVehicle"


class ScenarioTimeouts(Criterion):
    """A scenario that blocks the way must be passed before it times out."""

    name = "ScenarioTimeoutTest"
    unit = "times"

    def update(self, tick: EgoTick) -> None:
        """Count scenarios that timed out."""
        for signal in tick.signals:
            if signal.kind is SignalKind.TIMED_OUT:
                event = Event(
                    EventKind.SCENARIO_TIMEOUT, tick.frame, tick.sim_s, "Agent timed out a scenario"
                )
                self._events.append(event)


class YieldToEmergencyVehicle(Criterion):
    """When its scenario ends, an emergency vehicle must be ahead of the ego, in its own direction."""

    name = "YieldToEmergencyVehicleTest"
    unit = ""

    def __init__(self) -> None:
        super().__init__()
        self._active = self._ahead_of_it = False

    def update(self, tick: EgoTick) -> None:
        """Compare the two places while the scenario lasts."""
        kinds = [s.kind for s in tick.signals if s.scenario_type == EMERGENCY_SCENARIO]
        if SignalKind.STARTED in kinds:
            self._active, self._ahead_of_it = True, False
        if any(signal.kind is SignalKind.NOT_YIELDED for signal in tick.signals):  # of our own scenario
            self._fail(tick)
        if SignalKind.ENDED in kinds:  # upstream has the vehicle removed before the criterion looks
            self.finish(tick, over=False)
        elif self._active and tick.emergency_vehicle is not None:
            there = tick.emergency_vehicle
            towards_ego = tick.location - there.location
            self._ahead_of_it = there.get_forward_vector().dot(towards_ego) > 0

    def finish(self, tick: EgoTick, over: bool) -> None:
        """The scenario ends, or the route within it."""
        if self._active and self._ahead_of_it:
            self._fail(tick)
        self._active = False

    def _fail(self, tick: EgoTick) -> None:
        message = "Agent failed to yield to an emergency vehicle"
        self._events.append(Event(EventKind.YIELD_EMERGENCY_VEHICLE, tick.frame, tick.sim_s, message))
