"""Stands in the place of any agent's `run_step`: times it, logs it, and lets its latency be felt."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import carla

from tickdrive.agents.config import LatencyConfig
from tickdrive.agents.latency_model import Applied, LatencyModel
from tickdrive.agents.preemption import involuntary_switches
from tickdrive.agents.tick_log import TickLog, TickRecord
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.tracing import TickTrace, Tracer

SPAN = "agent"
"""The one span of a measured agent: its own `run_step`, in the ticks in which it ran."""


@dataclass(frozen=True)
class _Tick:
    """What is known when a tick begins; `switches` as `involuntary_switches` gives it."""

    frame: int
    sim_s: float
    outside_ms: float | None
    switches: int | None


class AgentMeter:
    """One agent on one route.

    With the latency model off the agent's control is handed on as it is. Else the control in force is, and in
    the ticks in which the agent would still be busy, it is not called: the last control is held.

    Args:
        run_step: the agent's own.
        name: the agent's, for the log.
        latency: the model's.
        log: where ticks go; None logs nothing.
        locate: (input_data, sim_s) -> what the log is told of the ego.

    Attributes:
        rungs: how often each rung was stood on: "planned" (the agent ran), "hold" (it was still busy: the
            last control was held), "failed" (it raised).
        last: the last tick.

    Raises:
        DataError: the log whose latencies are to be replayed cannot be.
    """

    def __init__(
        self,
        run_step: Callable[..., Any],
        name: str,
        latency: LatencyConfig,
        log: TickLog | None = None,
        locate: Callable[[Any, float], Mapping[str, Any]] = lambda input_data, sim_s: {},
    ) -> None:
        self._run_step = run_step
        self._name = name
        self._transparent = latency.mode == "off"
        self._model: LatencyModel[carla.VehicleControl] = LatencyModel(latency)
        self._log = log
        self._locate = locate
        self._tracer = Tracer()
        self._returned_ns: int | None = None
        self._ticks = 0
        self.rungs: Counter[str] = Counter()
        self.last: TickRecord | None = None

    def step(self, *arguments: Any, **named: Any) -> Any:
        """The agent's `run_step`, with its arguments; what it raises passes through, logged.

        Raises:
            PlannerError: with the latency model on, the agent returned no `carla.VehicleControl`.
        """
        entered_ns = time.perf_counter_ns()
        input_data, timestamp = _tick_of(arguments, named)
        tick = _Tick(
            frame=_frame_of(input_data, self._ticks),
            sim_s=timestamp,
            outside_ms=None if self._returned_ns is None else (entered_ns - self._returned_ns) / 1e6,
            switches=involuntary_switches(),
        )
        self._ticks += 1
        self._tracer.begin()
        try:
            rung, control = self._decide(tick, arguments, named)
        except (Exception, SystemExit) as error:
            said = {"error": f"{type(error).__name__}: {error}"}
            self._note(tick, self._tracer.end(), "failed", None, said)
            raise
        trace = self._tracer.end()
        ego = {} if self._log is None else self._locate(input_data, timestamp)
        self._note(tick, trace, rung, control, ego)
        self._returned_ns = time.perf_counter_ns()
        return control

    def close(self) -> None:
        """End the route."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _decide(self, tick: _Tick, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[str, Any]:
        """Rung and control of this tick. All that is asked of the latency model is asked here."""
        model = self._model
        if not model.begin(tick.sim_s, tick.frame):
            return "hold", _mixed(model.applied())
        start_ns = time.perf_counter_ns()
        with self._tracer.span(SPAN):
            control = self._run_step(*arguments, **named)
        elapsed_us = (time.perf_counter_ns() - start_ns) // 1000
        if self._transparent:
            return "planned", control
        if not isinstance(control, carla.VehicleControl):
            raise PlannerError(
                f"{self._name}.run_step returned {type(control).__name__}.",
                "The latency model holds and mixes carla.VehicleControl only; set latency.mode to 'off'.",
            )
        model.computed(_copy(control))  # the agent may go on to change its own
        applied = model.applied(elapsed_us)
        model.finish(elapsed_us)
        return "planned", _mixed(applied)

    def _note(self, tick: _Tick, trace: TickTrace, rung: str, control: Any, ego: Mapping[str, Any]) -> None:
        now = involuntary_switches()
        self.rungs[rung] += 1
        self.last = TickRecord(
            frame=tick.frame,
            sim_s=tick.sim_s,
            trace=trace,
            outside_ms=tick.outside_ms,
            steps=0,
            granularity="plan",
            rung=rung,
            reasoning=None,
            ego=ego,
            plan=None,
            control={
                key: round(float(getattr(control, key)), 4)
                for key in ("throttle", "steer", "brake")
                if hasattr(control, key)
            },
            engine=self._name,
            preempted=None if now is None or tick.switches is None else now - tick.switches,
            latency=self._model.record(),
        )
        if self._log is not None:
            self._log.append(self.last)


def _tick_of(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, float]:
    """`input_data` and `timestamp` of a call of `run_step`; forks of the leaderboard may pass more."""
    input_data = arguments[0] if arguments else named.get("input_data")
    timestamp = arguments[1] if len(arguments) > 1 else named.get("timestamp", 0.0)
    return input_data, float(timestamp)


def _frame_of(input_data: Any, default: int) -> int:
    """The newest frame of a tick's data; the tick's number where an agent has no sensors."""
    try:
        return max(int(frame) for frame, _ in input_data.values())
    except (AttributeError, TypeError, ValueError):
        return default


def _copy(control: carla.VehicleControl) -> carla.VehicleControl:
    return carla.VehicleControl(
        throttle=control.throttle,
        steer=control.steer,
        brake=control.brake,
        hand_brake=control.hand_brake,
        reverse=control.reverse,
        manual_gear_shift=control.manual_gear_shift,
        gear=control.gear,
    )


def _mixed(applied: Applied[carla.VehicleControl]) -> carla.VehicleControl:
    """The control of a tick over which `new` is in force for a share of the time; brakes before the first."""
    old = carla.VehicleControl(brake=1.0) if applied.old is None else applied.old
    new = old if applied.new is None else applied.new
    weight = applied.weight_new
    mixed = _copy(new if weight >= 0.5 else old)
    for key in ("throttle", "steer", "brake"):
        setattr(mixed, key, (1.0 - weight) * getattr(old, key) + weight * getattr(new, key))
    return mixed
