"""`tickdrive bench log`, `planner`, `sim` and `accuracy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tickdrive.planner.errors import ConfigError, DataError
from tickdrive.scripts.output import console, results_json, show_rows, write_json

if TYPE_CHECKING:
    from tickdrive.planner.engine import Inputs

RECORDED_SAMPLES = 64
"""Samples of each held-out split that the error of an engine is taken of."""


@dataclass(frozen=True)
class PlannerOptions:
    """Options of `tickdrive bench planner`; lists are written with commas.

    Attributes:
        presets: `seed`, `seed+n_layer=8`, …; a shipped checkpoint's name means its weights.
        engines: names, or `auto` for all of the device.
        device: torch device, or `auto`.
        dtypes: or `auto`.
        batches: plans at once.
        steps: DDIM steps.
        study: measure the study's proposals on each preset instead of every combination.
        recordings: folders: real features for the shipped checkpoint; none for random ones.
        seconds: of measuring for each row.
        json_file: machine form.
    """

    presets: str
    engines: str
    device: str
    dtypes: str
    batches: str
    steps: str
    study: bool
    recordings: tuple[Path, ...]
    seconds: float
    json_file: Path | None


_PLANNER_COLUMNS = {
    "preset": "preset",
    "engine": "engine",
    "dtype": "dtype",
    "batch": "batch",
    "steps": "steps",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "device_ms": "device ms",
    "rel_err": "rel err",
    "max_deviation_cm": "max cm",
    "bandwidth_share": "bw",
}
"""What fits a table, and as what; the JSON has the rest."""


def planner(options: PlannerOptions) -> None:
    """Measure the planner.

    Raises:
        TickdriveError: an unknown preset, engine, device or dtype, or recordings that cannot be used.
    """
    from tickdrive.agents.shared_models import checkpoints_folder
    from tickdrive.planner.benchmark import run_planner_benchmark, study_forms
    from tickdrive.planner.policy import DiffusionPolicy

    presets = options.presets.split(",")
    shipped = checkpoints_folder()
    policies = {
        name: DiffusionPolicy.from_pretrained(shipped / name) for name in presets if (shipped / name).is_dir()
    }
    with console.status("measuring") as status:
        recorded = None
        if options.recordings:
            status.update("reading recordings")
            recorded = _recorded_inputs(options.recordings, shipped / "compact")
        rows = run_planner_benchmark(
            presets=presets,
            engines=None if options.engines == "auto" else options.engines.split(","),
            device=options.device,
            dtypes=options.dtypes.split(","),
            batches=numbers("--batches", options.batches),
            steps=numbers("--steps", options.steps),
            seconds=options.seconds,
            policies=policies,
            forms=[form for name in presets for form in study_forms(name, options.device)]
            if options.study
            else None,
            recorded=recorded,
            on_progress=status.update,
        )
    shown = [{title: row[name] for name, title in _PLANNER_COLUMNS.items()} for row in rows]
    show_rows("Planner", shown, None)
    first = rows[0]
    sources = {f"{row['preset']}: {row['weights']} weights, {row['inputs']} inputs" for row in rows}
    console.print(
        f"{first['scope']}; {first['device_name']}, {first['threads']} threads, torch {first['torch']}, "
        f"commit {first['commit']}; memory {first['bandwidth_gb_s']:.3g} GB/s; {'; '.join(sorted(sources))}",
        markup=False,
        soft_wrap=True,
    )
    write_json(options.json_file, results_json(rows))


def _recorded_inputs(recordings: Sequence[Path], checkpoint: Path) -> list[Inputs]:
    """Planner inputs of batch 1 from recorded drives not trained on, through the checkpoint's perception.

    Raises:
        TickdriveError: the recordings cannot be used, or hold no drive that was kept out of training.
    """
    import torch

    from tickdrive.agents.perception.compact_network import CompactPerception
    from tickdrive.planner.augment import plain_image, plain_lidar
    from tickdrive.planner.dataset import load_training_data
    from tickdrive.planner.export import PERCEPTION_FOLDER
    from tickdrive.planner.policy import DiffusionPolicy
    from tickdrive.planner.recording import find_recordings

    horizon = DiffusionPolicy.from_pretrained(checkpoint).config.horizon
    perception, _ = CompactPerception.from_pretrained(checkpoint / PERCEPTION_FOLDER)
    perception.eval()
    data = load_training_data(find_recordings(recordings), to_train=False)
    inputs: list[Inputs] = []
    generator = torch.Generator().manual_seed(0)
    for split, samples in data.splits.items():
        if split == "train":
            continue
        chosen = torch.linspace(0, len(samples) - 1, min(RECORDED_SAMPLES, len(samples))).round().long()
        for index in chosen:
            batch = samples.select(index[None], torch.device("cpu"))
            with torch.inference_mode():
                image, lidar = plain_image(batch.image), plain_lidar(batch.lidar_bev)
                features, _ = perception(image, lidar, batch.ego_status)
            inputs.append((features, batch.ego_status, torch.randn(1, horizon, 2, generator=generator)))
    if not inputs:
        raise DataError(
            f"{', '.join(map(str, recordings))}: no drive that was kept out of training.",
            "Record routes of the validation town, or with --val-every.",
        )
    return inputs


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


def simulator(
    ticks: int, town: str, vehicles: int, walkers: int, renderer: str, json_file: Path | None
) -> None:
    """Measure the embedded simulator.

    Raises:
        TickdriveError: an unknown town, or the simulator died.
    """
    from tickdrive.leaderboard.simulator.benchmark import run_simulator_benchmark

    with console.status("measuring") as status:
        rows = run_simulator_benchmark(
            ticks=ticks,
            town=town,
            vehicles=vehicles,
            walkers=walkers,
            renderer=renderer,
            progress=status.update,
        )
    show_rows("Simulator", [{k: v for k, v in row.items() if k != "drawn_by"} for row in rows], None)
    console.print(f"cameras drawn by {rows[0]['drawn_by']}", markup=False, soft_wrap=True)
    write_json(json_file, results_json(rows))


def cameras(
    town: str,
    vehicles: int,
    sizes: str,
    views: int,
    renderers: str,
    pictures: Path | None,
    json_file: Path | None,
) -> None:
    """Draw the same views by several renderers.

    Raises:
        TickdriveError: an unknown town or renderer, a size that cannot be read, or no EGL for `egl`.
    """
    from tickdrive.leaderboard.simulator.camera_benchmark import CameraBenchmark

    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    with console.status("measuring") as status:
        rows = CameraBenchmark(
            town=town,
            vehicles=vehicles,
            sizes=_sizes(sizes),
            views=views,
            renderers=tuple(renderers.split(",")),
            pictures=pictures,
        ).run(status.update)
    show_rows("Cameras", _side_by_side(rows), None)
    told = "; ".join(dict.fromkeys(row["drawn_by"] for row in rows))
    console.print(f"{town} with {vehicles} cars, {views} views of each; {told}", markup=False, soft_wrap=True)
    write_json(json_file, results_json(rows))


def _side_by_side(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each picture, the renderers beside each other."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        name, kind = row["renderer"], row["kind"].partition("_")[0]
        line = lines.setdefault(
            (row["weather"], row["size"], kind), {"scene": row["weather"], "size": row["size"], "kind": kind}
        )
        line[f"{name} ms (p90)"] = f"{row['p50_ms']:.2f} ({row['p90_ms']:.2f})"
        if name != rows[0]["renderer"]:
            line[f"{name} faster"] = f"{row['faster']:.2f}x"
            line["apart"] = (
                f"{row['mean_diff']:.2f} of 255"
                if kind == "rgb"
                else f"{100.0 * (1.0 - row['labels_equal']):.3f} %"
            )
    return list(lines.values())


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`512x256,800x600`.

    Raises:
        ConfigError: not of that form.
    """
    pairs = [each.partition("x")[::2] for each in text.split(",")]
    if not all(width.isdigit() and height.isdigit() for width, height in pairs):
        raise ConfigError(f"--sizes {text} are no sizes of pictures.", "Write them as 512x256,800x600.")
    return tuple((int(width), int(height)) for width, height in pairs)


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


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers with commas.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"{option} is {text!r}.", "Write whole numbers with commas, for example 1,4,8."
        ) from error
