"""What differs between two logs: by stage, B minus A, with confidence intervals that know of autocorrelation.

Ticks follow one another: a slow scene or a busy machine makes many of them slow together, so that resampling
single ticks would give intervals far too narrow. Whole blocks of consecutive ticks are resampled instead
(the moving block bootstrap: Künsch 1989, "The jackknife and the bootstrap for general stationary
observations", Ann. Statist. 17; on a circle: Politis and Romano 1992), the same blocks for every stage. Their
length is chosen from the autocorrelation of the indicator "below the quantile", as Politis and White (2004,
"Automatic block-length selection for the dependent bootstrap", Econometric Reviews 23; corrected 2009 with
Patton). Few blocks tell their own spread badly: intervals are widened as Student's t is against the normal.

An interval holds for its own row with 95 %. With many rows some would exclude 0 by chance; so what `differs`
is judged by the largest studentised deviation over all rows at once (Romano and Wolf 2005, "Stepwise multiple
testing as formalized data snooping", Econometrica 73, its first step): two logs of the same kind are told
apart wrongly in 5 % of comparisons, not of rows.

What the interval cannot know is how two drives of the same code differ: another route, another load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tickdrive.leaderboard.tick_table import TickTable

QUANTILES = {"p50": 0.5, "p95": 0.95}
_RESAMPLES = 2000
_MAX_BLOCKS = 500
_MIN_BLOCKS = 10
_STARTS = 4
"""Places within a block's length at which blocks may begin."""
_CONFIDENCE = 0.95
_GRID = np.unique(np.concatenate([np.linspace(0.0, 1.0, 201), np.linspace(0.85, 1.0, 151)]))
"""Ranks between which the distribution function is taken as straight when it is resampled."""


@dataclass(frozen=True)
class Difference:
    """B minus A in one figure.

    Attributes:
        name: stage, or "miss_share".
        statistic: "p50" or "p95" in milliseconds; "share" of the ticks, 0 to 1.
        a, b: the two logs' figures.
        delta: b - a.
        low, high: 95 % confidence interval of delta.
        differs: whether delta is beyond chance, all rows considered.
    """

    name: str
    statistic: str
    a: float
    b: float
    delta: float
    low: float
    high: float
    differs: bool


@dataclass(frozen=True)
class LatencyDiff:
    """Two logs compared.

    Attributes:
        rows: p50 and p95 of every stage that both logs have, then the share of missed ticks.
        only_a, only_b: stages that one log lacks.
        block_ticks: length of the resampled blocks of A and B.
    """

    rows: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    block_ticks: tuple[int, int]

    def row(self, name: str, statistic: str) -> Difference:
        """The row of a stage."""
        return next(row for row in self.rows if (row.name, row.statistic) == (name, statistic))

    def to_json(self) -> dict[str, Any]:
        """The machine form: ``{"stages": {name: {"p50": {...}, "p95": {...}}}, "miss_share", ...}``."""
        stages: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            figures = {key: round(getattr(row, key), 6) for key in ("a", "b", "delta", "low", "high")}
            stages.setdefault(row.name, {})[row.statistic] = {**figures, "differs": row.differs}
        return {
            "miss_share": stages.pop("miss_share")["share"],
            "stages": stages,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "block_ticks": list(self.block_ticks),
            "statement": self.statement(),
        }

    def statement(self) -> list[str]:
        """What differs, a sentence each."""
        told = []
        by_size = sorted((row for row in self.rows if row.differs), key=lambda row: -abs(row.delta))
        for row in by_size:
            if row.statistic == "share":
                told.append(
                    f"B misses the budget in {100 * row.b:.2f} % of its ticks, A in {100 * row.a:.2f} %."
                )
                continue
            way = "slower" if row.delta > 0 else "faster"
            told.append(
                f"{row.name} is {way} in B: {row.statistic} {row.b:.2f} ms against {row.a:.2f} "
                f"({row.delta:+.2f} ms, 95 % between {row.low:+.2f} and {row.high:+.2f})."
            )
        if not told:
            told.append("No stage differs beyond chance.")
        elif not any(row.differs for row in self.rows if row.name == "total"):
            told.append("The total does not differ beyond chance.")
        for side, names in (("A", self.only_a), ("B", self.only_b)):
            if names:
                told.append(f"Only in {side}: {', '.join(names)}.")
        return told


def compare(a: TickTable, b: TickTable, budget_ms: float) -> LatencyDiff:
    """Compare two logs, neither of them empty.

    Args:
        a: the log to compare with.
        b: the log compared.
        budget_ms: what a missed tick has passed.
    """
    columns_a, columns_b = _columns(a), _columns(b)
    names = [name for name in columns_a if name in columns_b]
    rng = np.random.default_rng(0)
    side_a = _Resampled(columns_a, names, a.total_ms > budget_ms, rng)
    side_b = _Resampled(columns_b, names, b.total_ms > budget_ms, rng)
    delta = side_b.figures - side_a.figures
    resampled = side_b.resampled - side_a.resampled
    widened = _t_over_normal(min(side_a.blocks, side_b.blocks) - 1)
    error = resampled.std(axis=0)
    # A row that never varies (a constant in both logs) differs if it differs at all.
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.nan_to_num(np.abs(resampled - resampled.mean(axis=0)) / error).max(axis=1)
    critical = max(float(np.quantile(deviation, _CONFIDENCE)), 1.96)
    differs = np.abs(delta) > critical * widened * error + 1e-9
    ends = np.quantile(resampled, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], axis=0)
    low, high = delta + widened * (ends - delta)
    keys = [(name, statistic) for name in names for statistic in QUANTILES] + [("miss_share", "share")]
    return LatencyDiff(
        rows=tuple(
            Difference(
                name=name,
                statistic=statistic,
                a=float(side_a.figures[k]),
                b=float(side_b.figures[k]),
                delta=float(delta[k]),
                low=float(low[k]),
                high=float(high[k]),
                differs=bool(differs[k]),
            )
            for k, (name, statistic) in enumerate(keys)
        ),
        only_a=tuple(name for name in columns_a if name not in columns_b),
        only_b=tuple(name for name in columns_b if name not in columns_a),
        block_ticks=(side_a.block_ticks, side_b.block_ticks),
    )


class _Resampled:
    """A log's figures, and the same of blocks of it drawn with replacement.

    Attributes:
        block_ticks: length of the blocks.
        blocks: how many make a log.
        figures: (rows,) of the log itself.
        resampled: (resamples, rows).
    """

    def __init__(
        self,
        columns: dict[str, np.ndarray],
        names: Sequence[str],
        missed: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        ticks = len(missed)
        lengths = [_block_length(columns[name], share) for name in names for share in QUANTILES.values()]
        shortest = math.ceil(ticks / _MAX_BLOCKS)
        longest = max(ticks // _MIN_BLOCKS, 1)
        self.block_ticks = min(max([*lengths, shortest]), longest)
        starts = min(_STARTS, self.block_ticks)
        part = np.arange(ticks) * starts // self.block_ticks
        parts = int(part[-1]) + 1
        self.blocks = max(round(parts / starts), 1)
        begun = rng.multinomial(self.blocks, np.full(parts, 1 / parts), _RESAMPLES)
        # A block is `starts` parts from where it begins, around the log's end to its beginning.
        drawn = np.zeros(begun.shape)
        for shift in range(starts):
            drawn += np.roll(begun, shift, axis=1)
        figures: list[float] = []
        resampled: list[np.ndarray] = []
        for name in names:
            ran = ~np.isnan(columns[name])
            values = columns[name][ran]
            edges = np.unique(np.quantile(values, _GRID))
            bins = np.clip(np.searchsorted(edges, values, side="left"), 0, len(edges) - 1)
            counts = np.bincount(part[ran] * len(edges) + bins, minlength=parts * len(edges))
            below = np.cumsum(drawn @ counts.reshape(parts, -1), axis=1)
            for share in QUANTILES.values():
                figures.append(float(np.quantile(values, share)))
                resampled.append(_weighted_quantile(edges, below, share))
        misses = np.bincount(part, weights=missed)
        sizes = np.bincount(part)
        figures.append(float(missed.mean()))
        resampled.append((drawn @ misses) / (drawn @ sizes))
        self.figures = np.array(figures)
        self.resampled = np.stack(resampled, axis=1)


def _columns(table: TickTable) -> dict[str, np.ndarray]:
    columns = {"total": table.total_ms, **table.stage_ms, "other": table.other_ms}
    if not np.isnan(table.outside_ms).all():
        columns["outside"] = table.outside_ms
    return columns


def _t_over_normal(freedom: int) -> float:
    """Student's 97.5 % quantile over the normal's (Abramowitz and Stegun 26.7.5)."""
    z, v = 1.959964, float(max(freedom, 1))
    return 1.0 + (z**2 + 1.0) / (4.0 * v) + (5.0 * z**4 + 16.0 * z**2 + 3.0) / (96.0 * v**2)


def _weighted_quantile(edges: np.ndarray, below: np.ndarray, share: float) -> np.ndarray:
    """Where each row of cumulated counts reaches the share, straight between two edges.

    Args:
        edges: (K,) values.
        below: (R, K) count of values up to each edge.
        share: of the row's count, 0 to 1.
    """
    wanted = share * below[:, -1]
    at = np.clip((below < wanted[:, None]).sum(axis=1), 0, len(edges) - 1)
    before = np.maximum(at - 1, 0)
    rows = np.arange(len(below))
    low, high = below[rows, before], below[rows, at]
    part = np.where(high > low, (wanted - low) / np.maximum(high - low, 1e-12), 1.0)
    return edges[before] + np.clip(part, 0.0, 1.0) * (edges[at] - edges[before])


def _block_length(values: np.ndarray, share: float) -> int:
    """Block length for the variance of a quantile (Politis and White 2004, the circular bootstrap's).

    Their m-hat is the lag after which K_N autocorrelations in a row are negligible, their b-hat follows
    from the flat-top window's estimates of G and g(0).
    """
    values = values[~np.isnan(values)][: 1 << 17]
    n = len(values)
    if n < 50:
        return 1
    series = (values <= np.quantile(values, share)).astype(np.float64)
    series -= series.mean()
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(series, size)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size)[:n] / n
    if covariance[0] <= 0.0:
        return 1
    correlation = covariance / covariance[0]
    k_n = max(5, math.ceil(math.sqrt(math.log10(n))))
    last = min(n - k_n - 1, math.ceil(math.sqrt(n)) + k_n)
    small = np.abs(correlation[1 : last + k_n]) < 2.0 * math.sqrt(math.log10(n) / n)
    runs = np.convolve(small, np.ones(k_n), "valid") == k_n
    m_hat = int(np.argmax(runs)) if runs.any() else last
    window = min(2 * max(m_hat, 1), n - 1)
    lags = np.arange(1, window + 1)
    weights = np.minimum(1.0, 2.0 * (1.0 - lags / window))
    g = 2.0 * float((weights * lags * covariance[1 : window + 1]).sum())
    spread = covariance[0] + 2.0 * float((weights * covariance[1 : window + 1]).sum())
    if spread <= 0.0:
        return 1
    return max(1, math.ceil((2.0 * g**2 / (4.0 / 3.0 * spread**2)) ** (1 / 3) * n ** (1 / 3)))
