"""Limits on what a log says, for use in CI: `--fail-over "total.p95 > 50"`.

An expression is ``FIGURE OPERATOR NUMBER`` and tells what must not be. FIGURE is ``STAGE.p50`` (or p90, p95,
p99, max, in milliseconds; or n, ticks), ``misses`` (ticks), ``miss_share`` (0 to 1), or, of two logs,
``diff.STAGE.p50``, ``diff.STAGE.p95`` or ``diff.miss_share``: B minus A.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tickdrive.leaderboard.latency import LatencySummary
from tickdrive.leaderboard.latency_diff import QUANTILES, LatencyDiff
from tickdrive.planner.errors import ConfigError, did_you_mean

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_STATISTICS = {
    **{name: f"{name}_ms" for name in ("p50", "p90", "p95", "p99", "max")},
    "n": "n",
}
_COUNTS = ("misses", "miss_share")
_FORM = re.compile(r"\s*(?P<figure>[^<>=!\s]+)\s*(?P<operator>[<>=!]+)\s*(?P<number>\S+)\s*")


@dataclass(frozen=True)
class Limit:
    """A parsed expression.

    Attributes:
        text: as it was given.
        is_diff: it speaks of the difference of two logs.
        stage: None for a count over all ticks.
        statistic: of the stage, or the count's name.
        operator: one of > >= < <=.
        number: the bound.
    """

    text: str
    is_diff: bool
    stage: str | None
    statistic: str
    operator: str
    number: float

    def holds(self, value: float) -> bool:
        """Whether the figure is where it must not be."""
        return _OPERATORS[self.operator](value, self.number)


def parse_limit(text: str) -> Limit:
    """Parse one expression.

    Raises:
        ConfigError: it has another form, or names a statistic or an operator that there is not.
    """
    match = _FORM.fullmatch(text)
    try:
        number = float(match["number"]) if match else float("nan")
    except ValueError:
        number = float("nan")
    if match is None or number != number:
        raise ConfigError(
            f"--fail-over {text!r} is no limit.",
            'Write FIGURE OPERATOR NUMBER, for example "total.p95 > 50" or "miss_share > 0.01".',
        )
    if match["operator"] not in _OPERATORS:
        raise ConfigError(
            f"--fail-over {text!r} has the operator {match['operator']!r}.",
            f"Known: {', '.join(sorted(_OPERATORS))}.",
        )
    figure = match["figure"].removeprefix("diff.")
    is_diff = figure != match["figure"]
    stage, dot, statistic = figure.rpartition(".")
    known = (*QUANTILES,) if is_diff else (*_STATISTICS,)
    if dot and statistic not in known:
        raise ConfigError(
            f"--fail-over {text!r} asks for the statistic {statistic!r} of {stage!r}.",
            did_you_mean(statistic, known),
        )
    counts = ("miss_share",) if is_diff else _COUNTS
    if not dot and figure not in counts:
        raise ConfigError(
            f"--fail-over {text!r} names the figure {figure!r}.",
            f"{did_you_mean(figure, counts)} Of a stage, say which statistic: {match['figure']}.p95.",
        )
    return Limit(text.strip(), is_diff, stage if dot else None, statistic, match["operator"], number)


def check_limits(
    limits: Sequence[Limit], logs: Sequence[tuple[str, LatencySummary]], diff: LatencyDiff | None
) -> list[str]:
    """What holds of the limits, a sentence each; a limit on a figure of one log is tried on every log.

    Args:
        limits: parsed.
        logs: name and summary of each log.
        diff: of two logs; None where there are not two.

    Raises:
        ConfigError: a limit names a stage that a log has not, or a difference without two logs.
    """
    held = []
    for limit in limits:
        if limit.is_diff:
            if diff is None:
                raise ConfigError(
                    f"--fail-over {limit.text!r} speaks of a difference, but {len(logs)} logs were given.",
                    "Give two logs: tickdrive latency A B.",
                )
            name, statistic = limit.stage or "miss_share", limit.statistic if limit.stage else "share"
            known = {row.name for row in diff.rows if row.statistic != "share"}
            if limit.stage and limit.stage not in known:
                raise _no_stage(limit, "both logs", known)
            values = [("B minus A", diff.row(name, statistic).delta)]
        else:
            values = [(name, _value(limit, name, summary)) for name, summary in logs]
        held += [f"{limit.text}: it is {value:.6g} ({of})" for of, value in values if limit.holds(value)]
    return held


def _value(limit: Limit, log: str, summary: LatencySummary) -> float:
    if limit.stage is None:
        return float(getattr(summary, limit.statistic))
    if limit.stage not in summary.by_name:
        raise _no_stage(limit, log, set(summary.by_name))
    return float(getattr(summary.stage(limit.stage), _STATISTICS[limit.statistic]))


def _no_stage(limit: Limit, log: str, known: set[str]) -> ConfigError:
    return ConfigError(
        f"--fail-over {limit.text!r} names the stage {limit.stage!r}, which is not in {log}.",
        did_you_mean(str(limit.stage), known),
    )
