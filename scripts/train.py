"""`tickdrive train`: recordings in, a checkpoint that drives out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tickdrive.agents.perception.compact_network import CompactConfig, CompactPerception
from tickdrive.planner.checkpoint import PERCEPTION_FOLDER
from tickdrive.planner.dataset import TrainingData, load_training_data
from tickdrive.planner.errors import CheckpointError, ConfigError
from tickdrive.planner.export import export_checkpoint
from tickdrive.planner.network_config import PolicyConfig, preset
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.recording import find_recordings
from tickdrive.planner.training import Trainer
from tickdrive.planner.training_config import TrainingConfig, load_training_config
from tickdrive.planner.training_state import read_progress


def train_command(
    recordings: Sequence[str | Path],
    out: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    export: str | Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train the compact perception and a planner on recordings.

    Args:
        recordings: folders; every drive below them is used.
        out: folder of the run.
        config: training configuration; None for `configs/training.yaml`.
        overrides: `epochs=10` and the like.
        resume: go on where the run in `out` stopped.
        export: folder of the checkpoint; None for `<out>/checkpoint`. Written when training is through.
        console: to print on.

    Returns:
        The run's report.

    Raises:
        TickdriveError: recordings, configuration or state cannot be used; says how to mend it.
    """
    console = console or Console()
    settings = load_training_config(config, overrides)
    with _progress(console) as bar:
        found = find_recordings(recordings)
        task = bar.add_task("decoding", total=sum(len(item.lines) for item in found))
        data = load_training_data(
            found, settings.threads, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for name, samples in data.splits.items():
        console.print(
            f"{name}: {len(samples)} samples of {data.drives[name]} drives, {samples.bytes / 2**30:.2f} GiB"
        )
    torch.manual_seed(settings.seed)
    policy_config = preset(settings.preset)
    perception_config = compact_config_for(data, policy_config.vl_width)
    policy, perception = starting_modules(settings, policy_config, perception_config)
    if (
        policy_config.vl_width != policy_config.reasoning_width
        or policy_config.observation_width != perception_config.width
    ):
        raise ConfigError(
            f"Preset {settings.preset!r} takes tokens of several widths.",
            "The compact perception gives one: use compact.",
        )
    with _progress(console) as bar:
        task = bar.add_task("training", total=None)

        def report(kind: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
            if kind.startswith("note "):
                bar.console.print(kind.removeprefix("note "))
            text = " ".join(
                f"{name} {value:.3f}" for name, value in losses.items() if name in ("loss", "diffusion")
            )
            bar.update(task, completed=step, total=steps, description=f"training {text}")

        trainer = Trainer(
            settings,
            data,
            policy,
            perception,
            {**vars(perception_config)},
            out,
            resume=resume,
            report=report,
        )
        document = trainer.run()
    if trainer.finished:
        folder = Path(export) if export else Path(out) / "checkpoint"
        export_run(out, folder)
        console.print(f"checkpoint: {folder}")
    return document


def export_run(run: str | Path, out: str | Path) -> dict[str, Any]:
    """Export a run of `train_command`, finished or not.

    Returns:
        The checkpoint's report.

    Raises:
        CheckpointError: the run has no state, or one of another perception.
    """
    try:
        perception = CompactPerception(CompactConfig(**read_progress(run).perception))
    except TypeError as error:
        raise CheckpointError(
            f"{run} trained another perception ({error}).", "Export it with its own code."
        ) from error
    return export_checkpoint(run, out, perception, command=shlex.join(["tickdrive", *sys.argv[1:]]))


def compact_config_for(data: TrainingData, width: int) -> CompactConfig:
    """Sizes of the perception that fit recordings and planner."""
    train = data.splits["train"]
    return CompactConfig(
        width=width,
        image_height=train.image.shape[1],
        image_width=train.image.shape[2],
        n_observation=train.lidar_bev.shape[1],
        bev_planes=train.lidar_bev.shape[2],
        bev_size=train.lidar_bev.shape[3],
        n_status=train.ego_status.shape[1],
        status_width=train.ego_status.shape[2],
        n_decisions=len(data.decisions),
    )


def starting_modules(
    settings: TrainingConfig, policy_config: PolicyConfig, perception_config: CompactConfig
) -> tuple[DiffusionPolicy, CompactPerception]:
    """New ones, or those of `init` where they are of the same sizes."""
    if not settings.init:
        # perception first: whatever the planner's size, the same seed then starts from the same perception
        perception = CompactPerception(perception_config)
        return DiffusionPolicy(policy_config), perception
    policy = DiffusionPolicy.from_pretrained(settings.init)
    perception, _ = CompactPerception.from_pretrained(Path(settings.init) / PERCEPTION_FOLDER)
    if policy.config != policy_config or perception.config != perception_config:
        raise CheckpointError(
            f"{settings.init} is of other sizes than preset {settings.preset!r} and the recordings ask for.",
            "Start from a checkpoint that was trained on such recordings, or from none.",
        )
    return policy, perception


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
