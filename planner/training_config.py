"""Configuration of training, `configs/training.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from tickdrive.planner.augment import AugmentConfig
from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError, did_you_mean
from tickdrive.planner.network_config import preset as preset_config


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses beside the diffusion loss, whose own is 1."""

    decision: float = 0.3
    light: float = 0.3
    lead: float = 0.5
    target_speed: float = 0.5
    semantic: float = 0.3

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 0:
                raise ConfigError(
                    f"weights.{item.name} is {getattr(self, item.name)}.", "Give a weight >= 0."
                )


@dataclass(frozen=True)
class TrainingConfig:
    """How perception and planner are trained, together.

    Attributes:
        preset: planner preset; changes may follow (`compact+n_layer=2`).
        init: checkpoint folder whose weights the training starts from; empty: new weights.
        freeze_perception: train the planner alone, on the features that `init`'s perception gives of the
            samples as they are. A tenth of the work: a few thousand samples take minutes on a CPU.
        epochs: passes over the training samples.
        batch_size: samples a step.
        draws: noisy trajectories a sample and step; the planner is cheap beside the perception.
        learning_rate: peak, after the warm-up; falls to 1 % of it along a half cosine.
        warmup_steps: linear warm-up.
        weight_decay: of matrices; vectors (biases, norms) and embeddings are not decayed.
        grad_clip: largest norm of the gradient.
        ema_decay: of the averaged weights, which are those that are validated and exported.
        balance_sampling: 0 samples as recorded, 1 all decisions equally often.
        balance_decision: the same for the weights of the decision's loss, on top of the sampling.
        dtype: "auto" (bf16 on CUDA, fp32 on the CPU), "fp32", "bf16".
        device: "auto" (CUDA where there is one), or a torch device.
        compile: use `torch.compile` on the perception.
        seed: of weights, order, augmentation and noise.
        validate_every: epochs between validations.
        validate_samples: at most so many of each validation split, evenly spread.
        save_every: epochs between saved states; one is also saved at the end.
        max_minutes: stop, with the state saved, after so many minutes; 0 for never.
        threads: that decode recordings.
        weights: of the losses.
        augment: of the batches.
    """

    preset: str = "compact"
    init: str = ""
    freeze_perception: bool = False
    epochs: int = 40
    batch_size: int = 256
    draws: int = 6
    learning_rate: float = 6e-4
    warmup_steps: int = 200
    weight_decay: float = 0.03
    grad_clip: float = 1.0
    ema_decay: float = 0.998
    balance_sampling: float = 0.5
    balance_decision: float = 0.5
    dtype: str = "auto"
    device: str = "auto"
    compile: bool = False
    seed: int = 0
    validate_every: int = 5
    validate_samples: int = 4096
    save_every: int = 5
    max_minutes: float = 0.0
    threads: int = 8
    weights: LossWeights = field(default_factory=LossWeights)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        preset_config(self.preset)  # says what is wrong with it
        if self.freeze_perception and not self.init:
            raise ConfigError("freeze_perception is set without init.", "Name a checkpoint's folder in init.")
        if self.dtype not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"dtype is {self.dtype!r}.", did_you_mean(self.dtype, ("auto", "fp32", "bf16")))
        for name in ("epochs", "batch_size", "draws", "validate_every", "validate_samples", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}.", "Give a whole number of at least 1.")
        for name in ("learning_rate", "grad_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}.", "Give a number above 0.")
        for name in ("ema_decay", "balance_sampling", "balance_decision"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}.", "Give a number in 0..1.")


MAY_DIFFER_ON_RESUME = (
    "device",
    "compile",
    "validate_every",
    "validate_samples",
    "save_every",
    "max_minutes",
    "threads",
)
"""Settings that change where or how long a training runs, not what it learns."""


def load_training_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a training configuration.

    Args:
        path: YAML file; None for the one that ships.
        overrides: `epochs=10` and the like.

    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
    shipped = Path(__file__).resolve().parent.parent / "configs" / "training.yaml"
    return load_config(TrainingConfig, path or shipped, overrides)
