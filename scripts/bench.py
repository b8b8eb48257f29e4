"""`tickdrive bench planner` and `tickdrive bench sim`."""

from __future__ import annotations

from pathlib import Path

from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.output import console, show_rows


def planner(
    presets: str,
    engines: str,
    device: str,
    dtypes: str,
    batches: str,
    steps: str,
    seconds: float,
    json_file: Path | None,
) -> None:
    """Measure the planner; lists are written with commas.

    Raises:
        TickdriveError: an unknown preset, engine, device or dtype.
    """
    from tickdrive.planner.benchmark import run_planner_benchmark

    with console.status("measuring") as status:
        rows = run_planner_benchmark(
            presets=presets.split(","),
            engines=None if engines == "auto" else engines.split(","),
            device=device,
            dtypes=dtypes.split(","),
            batches=_numbers("--batches", batches),
            steps=_numbers("--steps", steps),
            seconds=seconds,
            on_progress=status.update,
        )
    show_rows("Planner", rows, json_file)


def simulator(ticks: int, town: str, vehicles: int, walkers: int, json_file: Path | None) -> None:
    """Measure the embedded simulator.

    Raises:
        TickdriveError: an unknown town, or the simulator died.
    """
    from tickdrive.leaderboard.simulator.benchmark import run_simulator_benchmark

    with console.status("measuring") as status:
        rows = run_simulator_benchmark(
            ticks=ticks, town=town, vehicles=vehicles, walkers=walkers, progress=status.update
        )
    show_rows("Simulator", rows, json_file)


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"{option} is {text!r}.", "Write whole numbers with commas, for example 1,4,8."
        ) from error
