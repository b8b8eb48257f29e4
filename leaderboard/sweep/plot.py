"""The picture of a sweep: driving score, success and collisions against latency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.sweep.plan import COMPENSATED_FROM_MS
from tickdrive.leaderboard.sweep.statistics import Estimate
from tickdrive.leaderboard.sweep.summary import Sweep, SweepRow
from tickdrive.planner.errors import ConfigError

BUDGET_MS = 50.0
# The performance study that this project started from: its planner alone with 10 steps, and as users felt it.
STUDY_MS = ((197.97, "study\n198 ms"), (2000.0, "study\n2 s"))
_APART = 1.05
"""How far the two lines' points stand apart where both have one, as a factor on the logarithmic axis."""
_ON, _OFF = "#0072b2", "#d55e00"  # apart also for the colour-blind
_INK, _FAINT = "#24292f", "#d8dee4"
_LINEAR_TO_MS = 50.0


def load_matplotlib() -> Any:
    """Matplotlib without a display.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(
            "Pictures need matplotlib, which is not installed.",
            "Install it: pip install 'tickdrive[report]'.",
        ) from error
    matplotlib.use("Agg")
    return matplotlib


def plot_sweep(sweep: Sweep, folder: Path) -> tuple[Path, Path]:
    """Write `sweep.png` and `sweep.svg`.

    Args:
        sweep: with at least one row.
        folder: where to.

    Returns:
        the two paths.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    from matplotlib import pyplot

    settings = {
        "font.size": 9.0,
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "text.color": _INK,
        "svg.hashsalt": "tickdrive",
    }
    with matplotlib.rc_context(settings):
        figure, axes = pyplot.subplots(1, 3, figsize=(11.0, 4.1), layout="constrained")
        _panel(axes[0], sweep, "Driving score", lambda row: row.score, 1.0, (0.0, 103.0))
        _panel(axes[1], sweep, "Success, % of drives", lambda row: row.success, 100.0, (0.0, 103.0))
        _panel(axes[2], sweep, "Collisions per km", lambda row: row.collisions_per_km, 1.0, None)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False, fontsize=10.0)
        figure.supxlabel(_footnote(sweep), fontsize=9.0)
        paths = (folder / "sweep.png", folder / "sweep.svg")
        figure.savefig(paths[0], dpi=160, facecolor="white")
        figure.savefig(paths[1], facecolor="white", metadata={"Date": None})
        pyplot.close(figure)
    return paths


def _footnote(sweep: Sweep) -> str:
    drives = sorted({row.drives for row in sweep.rows})
    count = f"{drives[0]}" if len(drives) == 1 else f"{drives[0]} to {drives[-1]}"
    return (
        f"latency of the whole agent, ms (linear up to 50)   ·   {count} drives a point, 95 % intervals\n"
        "study: its planner alone, with 10 steps (198 ms), and as its users felt it (2 s)"
    )


def _panel(
    axes: Any,
    sweep: Sweep,
    label: str,
    get: Callable[[SweepRow], Estimate | None],
    scale: float,
    limits: tuple[float, float] | None,
) -> None:
    latencies = sorted({row.point.latency_ms for row in sweep.rows})
    axes.set_xscale("symlog", linthresh=_LINEAR_TO_MS, linscale=0.45)
    axes.set_xlim(-6.0, max(latencies[-1], BUDGET_MS) * 1.25)
    axes.set_xticks(latencies, [f"{ms:g}" for ms in latencies], fontsize=8.5)
    axes.minorticks_off()
    axes.set_title(label, loc="left", fontsize=11.0, fontweight="bold", pad=28.0)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for rows, colour, name, marker, factor in _curves(sweep):
        points = [(row.point.latency_ms, estimate) for row in rows if (estimate := get(row)) is not None]
        apart = [(ms * factor if ms >= COMPENSATED_FROM_MS else ms, estimate) for ms, estimate in points]
        _curve(axes, apart, scale, colour, name, marker)
    if limits is None:
        axes.set_ylim(0.0, max(axes.get_ylim()[1], 1.0))
    else:
        axes.set_ylim(*limits)
    for ms, text in ((BUDGET_MS, "budget\n50 ms"), *STUDY_MS):
        if ms <= latencies[-1] * 1.25:
            _mark(axes, ms, text)


def _curves(sweep: Sweep) -> list[tuple[list[SweepRow], str, str, str, float]]:
    """Rows, colour, name, marker and shift of each line."""
    on = [row for row in sweep.rows if row.point.compensation]
    off = [row for row in sweep.rows if not row.point.compensation]
    both = bool(on and off)
    curves = []
    if on:
        curves.append((on, _ON, "latency compensated", "o", 1.0 / _APART if both else 1.0))
    if off:
        tried = f" (tried from {COMPENSATED_FROM_MS:g} ms)" if both else ""
        curves.append((off, _OFF, f"not compensated{tried}", "s", _APART if both else 1.0))
    return curves


def _curve(
    axes: Any, points: list[tuple[float, Estimate]], scale: float, colour: str, name: str, marker: str
) -> None:
    at, values = [ms for ms, _ in points], [scale * estimate.value for _, estimate in points]
    axes.plot(
        at, values, color=colour, marker=marker, markersize=5.5, lw=1.8, label=name, zorder=3, clip_on=False
    )
    known = [(ms, e.low, e.high) for ms, e in points if e.low is not None and e.high is not None]
    low, high = [scale * low for _, low, _ in known], [scale * high for _, _, high in known]
    axes.vlines([ms for ms, _, _ in known], low, high, color=colour, linewidth=3.0, alpha=0.35, zorder=2)


def _mark(axes: Any, ms: float, text: str) -> None:
    """A line at a latency that is known from elsewhere."""
    axes.axvline(ms, color=_INK, linewidth=0.9, linestyle=(0, (2, 2)), alpha=0.55, zorder=1)
    axes.annotate(
        text,
        (ms, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0.0, 2.0),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        alpha=0.85,
    )
