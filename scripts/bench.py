"""`tickdrive bench log`, `planner`, `sim` and `accuracy`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.output import console, results_json, show_rows, write_json


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


def log(ticks: int, read_ticks: int, json_file: Path | None) -> None:
    """Measure writing a tick log, then reading one."""
    from tickdrive.agents.tick_log_benchmark import run_log_benchmark
    from tickdrive.leaderboard.log_reading_benchmark import run_reading_benchmark

    writing = run_log_benchmark(ticks)
    with console.status("measuring") as status:
        reading = run_reading_benchmark(read_ticks, progress=status.update) if read_ticks else []
    # Two tables, for they have different columns; one list for machines.
    show_rows("Tick log", writing, None)
    if reading:
        show_rows("Reading a tick log", reading, None)
    write_json(json_file, results_json([*writing, *reading]))


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


def accuracy(recordings: Sequence[Path], checkpoint: str, json_file: Path | None) -> None:
    """Judge a checkpoint on recordings, open loop: plans by split, decisions by class.

    Raises:
        TickdriveError: recordings or checkpoint cannot be used.
    """
    import torch

    from tickdrive.agents.perception.compact_network import CompactPerception
    from tickdrive.agents.shared_models import resolve_checkpoint
    from tickdrive.planner.checkpoint import PERCEPTION_FOLDER
    from tickdrive.planner.dataset import load_training_data
    from tickdrive.planner.metrics import evaluate
    from tickdrive.planner.policy import DiffusionPolicy
    from tickdrive.planner.recording import find_recordings

    folder = resolve_checkpoint(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = DiffusionPolicy.from_pretrained(folder, device)
    perception, facts = CompactPerception.from_pretrained(folder / PERCEPTION_FOLDER)
    plans: list[dict[str, Any]] = []
    decisions: list[dict[str, Any]] = []
    with console.status("decoding") as status:
        data = load_training_data(find_recordings(recordings), to_train=False)
        counts = facts["data"]["train"]["decisions"]
        majority = max(range(len(data.decisions)), key=lambda i: counts.get(data.decisions[i], 0))
        for split, samples in data.splits.items():
            status.update(f"judging {split}")
            found = evaluate(
                perception.to(device).eval(),
                policy,
                samples,
                data.decisions,
                majority,
                device,
                torch.float32,
                limit=len(samples),
            )
            names = ("samples", "ade_m", "fde_m", "ade_zero_tokens_m", "ade_constant_velocity_m")
            plans.append({"split": split, **{name: found[name] for name in names}})
            right, guess = found["decision"], found["decision_majority"]
            decisions.append(
                {"split": split, "decision": "all", "n": found["samples"], "recall": right["accuracy"]}
            )
            decisions.append(
                {**decisions[-1], "decision": f"always {guess['answer']}", "recall": guess["accuracy"]}
            )
            for name, row in right["by_class"].items():
                decisions.append({"split": split, "decision": name, **row})
    show_rows("Plans", plans, None)
    show_rows("Decisions", decisions, None)
    write_json(json_file, results_json([*plans, *decisions]))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"{option} is {text!r}.", "Write whole numbers with commas, for example 1,4,8."
        ) from error
