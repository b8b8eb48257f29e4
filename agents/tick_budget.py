"""The time a tick may take: predicts what fits it, from what the last ticks took.

A stage's prediction is the 80th percentile of its last times: a few slow ticks change nothing, a machine that
has become slow is noticed within a few. The planner's is a load factor on what each step count took at
warm-up, so that a count that has not been run for long, or ever, is predicted as well as the one in use.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tickdrive.agents.config import BudgetConfig
from tickdrive.agents.shared_models import WarmTiming

_QUANTILE = 0.8


@dataclass(frozen=True)
class Choice:
    """What a tick is to do.

    Attributes:
        perceive: compute features from this tick's sensors.
        steps: denoising steps to plan with; 0: do not plan.
        predicted_ms: what the whole tick is expected to take.
    """

    perceive: bool
    steps: int
    predicted_ms: float


class TickBudget:
    """Chooses, tick by tick, what still fits.

    Args:
        config: budget and margin.
        timing: what perception and plans took at warm-up; its step counts are those to choose from.
        patience: ticks in a row that may do without a new plan; then one is made, even if it does not fit.
    """

    def __init__(self, config: BudgetConfig, timing: WarmTiming, patience: int) -> None:
        self._limit_ms = config.tick_ms - config.margin_ms
        self._plan_ms = dict(sorted(timing.plan_ms.items(), reverse=True))
        self._patience = patience
        # warm-up stands for the ticks before the first, so that a slow one among the first few is one of many
        before = config.history
        self._load: deque[float] = deque([1.0] * before, maxlen=before)
        self._features: deque[float] = deque([timing.features_ms] * before, maxlen=before)
        self._tail: deque[float] = deque([0.0] * before, maxlen=before)

    def choose(self, elapsed_ms: float, unplanned: bool, since_plan: int, can_wait: bool) -> Choice:
        """What to do with the rest of the tick, once the sensors are decoded.

        Args:
            elapsed_ms: of this tick so far.
            unplanned: there are features of an earlier tick that no plan was made from.
            since_plan: ticks since the last new plan.
            can_wait: there is a plan to follow meanwhile.
        """
        features, tail = _high(self._features), _high(self._tail)
        left = self._limit_ms - elapsed_ms - tail
        fitting = self._most_steps(left - features)
        if fitting:
            return Choice(True, fitting, elapsed_ms + features + self.predicted_plan_ms(fitting) + tail)
        if not can_wait or since_plan >= self._patience:
            # nothing fits, and nothing has for long: late is better than blind
            least = min(self._plan_ms)
            return Choice(True, least, elapsed_ms + features + self.predicted_plan_ms(least) + tail)
        if unplanned and (steps := self._most_steps(left)):
            return Choice(False, steps, elapsed_ms + self.predicted_plan_ms(steps) + tail)
        if features <= left:
            return Choice(True, 0, elapsed_ms + features + tail)
        return Choice(False, 0, elapsed_ms + tail)

    def choose_steps(self, elapsed_ms: float, choice: Choice, since_plan: int, can_wait: bool) -> Choice:
        """The choice again, at most as many steps, once perception has taken what it took."""
        tail = _high(self._tail)
        steps = min(choice.steps, self._most_steps(self._limit_ms - elapsed_ms - tail))
        if not steps and choice.steps and (not can_wait or since_plan >= self._patience):
            steps = min(self._plan_ms)
        plan = self.predicted_plan_ms(steps) if steps else 0.0
        return Choice(True, steps, elapsed_ms + plan + tail)

    def predicted_plan_ms(self, steps: int) -> float:
        """What a plan of so many steps is expected to take."""
        return self._plan_ms[steps] * _high(self._load)

    def note_features(self, ms: float) -> None:
        """Perception took so long."""
        self._features.append(ms)

    def note_plan(self, steps: int, ms: float) -> None:
        """A plan of so many steps took so long."""
        self._load.append(ms / self._plan_ms[steps])

    def note_tail(self, ms: float) -> None:
        """Everything after the plan took so long."""
        self._tail.append(ms)

    def _most_steps(self, left_ms: float) -> int:
        for steps in self._plan_ms:
            if self.predicted_plan_ms(steps) <= left_ms:
                return steps
        return 0


def _high(values: deque[float]) -> float:
    """80th percentile (the next value above)."""
    ordered = sorted(values)
    return ordered[min(int(_QUANTILE * len(ordered)), len(ordered) - 1)]
