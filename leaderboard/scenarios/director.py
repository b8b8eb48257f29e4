"""Runs the scenarios of a route: builds them before the ego comes, starts them at their trigger, ends them.

The trigger is upstream's (`ScenarioTriggerer`): the route point that the ego is at lies within 2 m of the
scenario's trigger point; each scenario starts once. Upstream builds scenarios up to 500 m ahead, because its
traffic exists only around the ego; ours would queue behind every obstacle, so they are built
`build_ahead_m` before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import carla

from tickdrive.leaderboard.criteria.base import EgoTick
from tickdrive.leaderboard.scenarios.base import Scenario
from tickdrive.leaderboard.scenarios.behaviour import Behaviour
from tickdrive.leaderboard.scenarios.outcome import ScenarioOutcome, State
from tickdrive.leaderboard.scenarios.places import NoPlace
from tickdrive.leaderboard.scenarios.registry import SCENARIOS
from tickdrive.leaderboard.scenarios.spec import ScenarioSpec
from tickdrive.leaderboard.scenarios.stage import Stage
from tickdrive.planner.errors import RouteError

_LOGGER = logging.getLogger(__name__)
# route_parser.py: `DIST_THRESHOLD`, `ANGLE_THRESHOLD`
TRIGGER_M = 2.0
TRIGGER_DEG = 10.0


@dataclass
class _Entry:
    spec: ScenarioSpec
    state: State = State.WAITING
    scenario: Scenario | None = None
    behaviour: Behaviour | None = None
    started_s: float | None = None
    ended_s: float | None = None
    why: str = ""
    route_distance_m: float = 0.0

    def outcome(self) -> ScenarioOutcome:
        return ScenarioOutcome(
            self.spec.name, self.spec.type, self.state.value, self.started_s, self.ended_s, self.why
        )


class ScenarioDirector:
    """All scenarios of one route.

    Args:
        stage: what they act on.
        specs: of the route; those of unknown types are reported as skipped.
        build_ahead_m: distance along the route at which a scenario is built.
        say: tells the user.
        simulator_answers: whether a failed call is the scenario's fault, not the simulator's.
    """

    def __init__(
        self,
        stage: Stage,
        specs: Sequence[ScenarioSpec],
        build_ahead_m: float,
        say: Callable[[str], None],
        simulator_answers: Callable[[], bool],
    ) -> None:
        self._stage = stage
        self._build_ahead_m = build_ahead_m
        self._say = say
        self._simulator_answers = simulator_answers
        self._entries = [_Entry(spec) for spec in specs]
        for entry in self._entries:
            if not entry.spec.known:
                self._skip(entry, "the type is not known", quietly=True)
                continue
            at_m = self._on_route(entry.spec)
            if at_m is None:
                self._skip(entry, "its trigger point is not on the route")
            else:
                entry.route_distance_m = at_m

    def build(self) -> None:
        """Build what is near; before the first tick that is what lies around the start."""
        here_m = self._stage.line.travelled_m[self._stage.index]
        for entry in self._entries:
            if entry.state is not State.WAITING or entry.scenario is not None:
                continue
            if entry.route_distance_m - here_m < self._build_ahead_m:
                self._build(entry)

    def on_tick(self, tick: EgoTick) -> None:
        """Follow the ego, start what it has come to, and let what runs go on."""
        self._stage.advance(tick)
        self.build()
        here = self._stage.line.locations[self._stage.index]
        for entry in self._entries:
            if entry.state is State.WAITING and entry.scenario is not None:
                assert entry.spec.trigger is not None
                if here.distance(entry.spec.trigger.location) < TRIGGER_M:
                    self._start(entry)
            if entry.state is State.RUNNING:
                self._go_on(entry)

    def on_control(self, control: carla.VehicleControl) -> None:
        """Change the agent's control where a scenario disturbs it."""
        for change in self._stage.filters:
            change(control)

    def finish(self) -> None:
        """The route is over: judge what still runs. Calls nothing of the simulator."""
        for entry in self._entries:
            if entry.state is State.RUNNING and entry.scenario is not None:
                entry.scenario.judge_end()

    def close(self) -> None:
        """Destroy all actors that are left."""
        for entry in self._entries:
            try:
                self._close(entry)
            except RuntimeError as error:  # the others are still to be destroyed
                _LOGGER.warning("scenario %s was not cleaned up: %s", entry.spec.name, error)

    def outcomes(self) -> tuple[ScenarioOutcome, ...]:
        """What became of each scenario, in the file's order."""
        return tuple(entry.outcome() for entry in self._entries)

    # -- one scenario ------------------------------------------------------------------------------------

    def _on_route(self, spec: ScenarioSpec) -> float | None:
        """Distance along the route of the point at which it triggers (`is_scenario_at_route`)."""
        trigger = spec.trigger
        assert trigger is not None
        line = self._stage.line
        for transform, travelled_m in zip(line.transforms, line.travelled_m, strict=True):
            at = transform.location
            flat_m = ((at.x - trigger.x) ** 2 + (at.y - trigger.y) ** 2) ** 0.5
            turned = abs((trigger.yaw - transform.rotation.yaw + 180) % 360 - 180)
            if flat_m < TRIGGER_M and trigger.z - at.z < TRIGGER_M and turned < TRIGGER_DEG:
                return travelled_m
        return None

    def _build(self, entry: _Entry) -> None:
        entry.scenario = SCENARIOS[entry.spec.type](entry.spec, self._stage)
        try:
            entry.scenario.set_up()
        except (NoPlace, RouteError) as error:
            self._close(entry)
            self._skip(entry, str(error))
        except RuntimeError as error:  # a call of the client that failed
            if not self._simulator_answers():
                raise
            self._close(entry)
            self._skip(entry, f"the simulator refused: {error}")

    def _start(self, entry: _Entry) -> None:
        assert entry.scenario is not None
        entry.behaviour = entry.scenario.play()
        entry.state, entry.started_s = State.RUNNING, round(self._stage.tick.sim_s, 3)
        self._say(f"scenario {entry.spec.name} ({entry.spec.type}) starts at {entry.started_s:.1f} s")

    def _go_on(self, entry: _Entry) -> None:
        assert entry.behaviour is not None and entry.scenario is not None
        try:
            next(entry.behaviour)
            return
        except StopIteration:
            entry.state = State.TIMED_OUT if entry.scenario.timed_out else State.ENDED
        except (NoPlace, RouteError) as error:
            entry.state, entry.why = State.FAILED, str(error)
        except RuntimeError as error:
            if not self._simulator_answers():
                raise
            entry.state, entry.why = State.FAILED, f"the simulator refused: {error}"
        entry.ended_s = round(self._stage.tick.sim_s, 3)
        entry.scenario.judge_end()
        self._close(entry)
        why = f": {entry.why}" if entry.why else ""
        self._say(f"scenario {entry.spec.name} {entry.state.value} at {entry.ended_s:.1f} s{why}")

    def _close(self, entry: _Entry) -> None:
        if entry.behaviour is not None:
            entry.behaviour.close()
            entry.behaviour = None
        if entry.scenario is not None:
            entry.scenario.close()

    def _skip(self, entry: _Entry, why: str, quietly: bool = False) -> None:
        entry.state, entry.why = State.SKIPPED, why
        entry.scenario = None
        if not quietly:
            _LOGGER.warning("scenario %s (%s) is skipped: %s", entry.spec.name, entry.spec.type, why)
            self._say(f"scenario {entry.spec.name} ({entry.spec.type}) is skipped: {why}")
