"""Trains perception and planner together: the diffusion loss, and what perception is supervised with.

A run's folder holds `config.yaml`, `curves.jsonl` (a line an epoch), `state.safetensors` (to resume from, and
to export) and, once it is through, `report.json`. Validation and export use the averaged weights.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tickdrive.planner.augment import (
    augment_image,
    augment_lidar,
    augment_status,
    plain_image,
    plain_lidar,
)
from tickdrive.planner.config import to_yaml
from tickdrive.planner.dataset import SampleTensors, TrainingData
from tickdrive.planner.errors import ConfigError, DataError, PlannerError
from tickdrive.planner.files import write_atomically
from tickdrive.planner.losses import auxiliary_losses, total_loss
from tickdrive.planner.metrics import evaluate
from tickdrive.planner.policy import DiffusionPolicy, TrainingBatch
from tickdrive.planner.supervision import PerceptionModule, channels_last
from tickdrive.planner.training_config import TrainingConfig
from tickdrive.planner.training_state import (
    STATE_FILE,
    TrainingProgress,
    check_same_training,
    load_state,
    save_state,
    step_seed,
)
from tickdrive.planner.types import Features

Report = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with ("step", step, steps, losses so far this epoch) after steps, and ("note …", …) for messages."""

_GPU_SHARE = 0.7
"""Samples stay on the GPU if they fit into this share of its free memory."""


class Trainer:
    """One training run.

    Args:
        config: how to train.
        data: what on.
        policy: the planner, new.
        perception: the perception module, new; an `nn.Module`.
        perception_config: its configuration, kept in the state so that an export can build it again.
        folder: of the run; made where missing.
        resume: go on from the folder's state where it has one; without it such a folder is refused.
        report: told of the progress.

    Raises:
        ConfigError: the planner does not fit the data, or the device does not exist.
        CheckpointError: the state to resume from is damaged or of another training.
        DataError: the folder holds a run, and `resume` is not set.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: TrainingData,
        policy: DiffusionPolicy,
        perception: nn.Module,
        perception_config: Mapping[str, Any],
        folder: str | Path,
        resume: bool = False,
        report: Report | None = None,
    ) -> None:
        self.config = config
        self.data = data
        self.folder = Path(folder)
        self.device = resolve_device(config.device)
        cuda = self.device.type == "cuda"
        self.dtype = (
            torch.bfloat16 if config.dtype == "bf16" or (config.dtype == "auto" and cuda) else torch.float32
        )
        self._report = report or (lambda *_: None)
        self._check_shapes(policy)
        if not config.init:  # weights that are there already mean the scale that they were trained with
            policy.normalizer.fit(data.splits["train"].waypoints_in_ego)
        self.modules: dict[str, nn.Module] = {
            "policy": policy.to(self.device),
            "perception": channels_last(perception.to(self.device)),
        }
        self.averaged = {key: copy.deepcopy(module).eval() for key, module in self.modules.items()}
        for module in self.averaged.values():
            module.requires_grad_(False)
        if config.freeze_perception:
            self.modules["perception"].requires_grad_(False)
        self._names: dict[torch.Tensor, str] = {
            parameter: f"{key}.{name}"
            for key, module in self.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=config.learning_rate, betas=(0.9, 0.98), fused=cuda
        )
        self._train = self._place(data.splits["train"])
        self.epoch_steps = max(1, math.ceil(len(self._train) / config.batch_size))
        self.progress = TrainingProgress(
            step=0,
            steps=config.epochs * self.epoch_steps,
            elapsed_s=0.0,
            training=asdict(config),
            policy=asdict(policy.config),
            perception=json.loads(json.dumps(dict(perception_config))),
            data=self._describe_data(),
        )
        self._weights = self._sampling_weights()
        self._decision_weights = self._class_weights()
        self._forward = torch.compile(perception) if config.compile else perception
        self._frozen = self._frozen_features() if config.freeze_perception else None
        self._open(resume)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.progress.step >= self.progress.steps

    def run(self) -> dict[str, Any]:
        """Train to the end, or as long as `max_minutes` allows; the state is saved either way.

        Returns:
            The report that is also written to `report.json` when all steps are done.
        """
        start = time.monotonic()
        elapsed_before = self.progress.elapsed_s
        limit_s = self.config.max_minutes * 60.0 or math.inf
        while not self.finished:
            epoch = self.progress.step // self.epoch_steps
            losses, out_of_time = self._run_epoch(epoch, start + limit_s)
            self._set_progress(elapsed_s=elapsed_before + time.monotonic() - start)
            if out_of_time and not self.finished:
                self._save()
                self._note("stopped at the time limit; resume to go on")
                return self.report()
            last = self.finished
            metrics: dict[str, Any] = {}
            if last or (epoch + 1) % self.config.validate_every == 0:
                metrics = self.validate()
                self._set_progress(metrics=metrics)
            self._append_curve(epoch, losses, metrics)
            if last or (epoch + 1) % self.config.save_every == 0:
                self._save()
        document = self.report()
        write_atomically(self.folder / "report.json", (json.dumps(document, indent=2) + "\n").encode())
        return document

    def validate(self) -> dict[str, Any]:
        """Metrics of the averaged weights on every validation split (on training's where there is none)."""
        majority = int(torch.bincount(self.data.splits["train"].decision).argmax())
        names = [name for name in self.data.splits if name != "train"] or ["train"]
        return {
            "on_train" if name == "train" else name: evaluate(
                cast(PerceptionModule, self.averaged["perception"]),
                cast(DiffusionPolicy, self.averaged["policy"]),
                self.data.splits[name],
                self.data.decisions,
                majority,
                self.device,
                self.dtype,
                limit=self.config.validate_samples,
            )
            for name in names
        }

    def report(self) -> dict[str, Any]:
        """What was trained on what, and how well: JSON-able."""
        progress = self.progress
        return {
            "schema": 1,
            "finished": self.finished,
            "step": progress.step,
            "steps": progress.steps,
            "elapsed_s": round(progress.elapsed_s, 1),
            "device": _device_name(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "parameters": {
                key: sum(parameter.numel() for parameter in module.parameters())
                for key, module in self.modules.items()
            },
            "data": progress.data,
            "training": progress.training,
            "metrics": progress.metrics,
        }

    def _run_epoch(self, epoch: int, stop_at: float) -> tuple[dict[str, float], bool]:
        """The rest of an epoch; its mean losses, and whether time ran out."""
        order = self._epoch_order(epoch)
        done_in_epoch = self.progress.step - epoch * self.epoch_steps
        sums: dict[str, torch.Tensor] = {}
        count = 0
        for module in self.modules.values():
            module.train()
        for index in range(done_in_epoch, self.epoch_steps):
            batch_indices = order[index * self.config.batch_size : (index + 1) * self.config.batch_size]
            for name, value in self._step(batch_indices).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
            count += 1
            self._set_progress(step=self.progress.step + 1)
            if index % 10 == 9 or index + 1 == self.epoch_steps:
                means = {name: float(value) / count for name, value in sums.items()}
                if not math.isfinite(means["loss"]):
                    raise PlannerError(
                        f"The loss is not finite at step {self.progress.step}.", "Lower learning_rate."
                    )
                self._report("step", self.progress.step, self.progress.steps, means)
            if time.monotonic() > stop_at:
                break
        means = {name: float(value) / max(1, count) for name, value in sums.items()}
        return means, time.monotonic() > stop_at

    def _step(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        config, step = self.config, self.progress.step
        torch.manual_seed(step_seed(config.seed, step))
        batch = self._train.select(indices.to(self._train.image.device), self.device)
        status = augment_status(batch.ego_status, config.augment)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        policy = cast(DiffusionPolicy, self.modules["policy"])
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            if self._frozen is None:
                image = augment_image(batch.image, config.augment)
                lidar = augment_lidar(batch.lidar_bev, config.augment)
                features, predictions = self._forward(image, lidar, status)
            else:
                features, predictions = _select(self._frozen, indices, self.device), None
            diffusion = policy.compute_loss(
                TrainingBatch(features, status, batch.waypoints_in_ego), draws=config.draws
            ).loss
        losses = {"diffusion": diffusion.float()}
        if predictions is not None:
            losses.update(auxiliary_losses(predictions, batch, self._decision_weights))
        total = total_loss(losses, config.weights)
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(list(self._names), config.grad_clip)
        self._optimizer.step()
        self._average(step)
        return {name: value.detach() for name, value in {"loss": total, **losses}.items()}

    @torch.no_grad()
    def _frozen_features(self) -> Features:
        """Features of every training sample, fp16, on the CPU."""
        perception = cast(PerceptionModule, self.averaged["perception"])
        parts = []
        for indices in torch.arange(len(self._train)).split(64):
            batch = self._train.select(indices.to(self._train.image.device), self.device)
            features, _ = perception(plain_image(batch.image), plain_lidar(batch.lidar_bev), batch.ego_status)
            parts.append([tensor.half().cpu() for tensor in _tokens(features)])
        vl, reasoning, observation = (torch.cat(column) for column in zip(*parts, strict=True))
        return Features(vl, reasoning, observation)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Exponential moving average of weights and running statistics; short-sighted at the start."""
        decay = min(self.config.ema_decay, (1.0 + step) / (10.0 + step))
        for key, module in self.modules.items():
            now, mean = module.state_dict(), self.averaged[key].state_dict()
            floating = [name for name, tensor in now.items() if tensor.is_floating_point()]
            torch._foreach_lerp_([mean[n] for n in floating], [now[n] for n in floating], 1.0 - decay)
            for name in now.keys() - set(floating):
                mean[name].copy_(now[name])

    def _learning_rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        done = min(1.0, step / max(1, self.progress.steps))
        return self.config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))

    def _parameter_groups(self) -> list[dict[str, Any]]:
        decayed: list[torch.Tensor] = []
        plain: list[torch.Tensor] = []
        for parameter, name in self._names.items():
            embedding = any(part in name for part in ("position", "queries", "segment", ".kind"))
            (plain if parameter.ndim < 2 or embedding else decayed).append(parameter)
        return [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]

    def _epoch_order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, -1 - epoch))
        if self.config.balance_sampling == 0:
            return torch.randperm(len(self._train), generator=generator)
        return torch.multinomial(self._weights, len(self._train), replacement=True, generator=generator)

    def _sampling_weights(self) -> torch.Tensor:
        """(N,) weight of each training sample: rarer decisions more often."""
        decision = self.data.splits["train"].decision.cpu()
        counts = torch.bincount(decision, minlength=len(self.data.decisions)).clamp(min=1).double()
        # a class of a handful of samples must not be seen hundreds of times an epoch
        weight = (counts.max() / counts).pow(self.config.balance_sampling).clamp(max=8.0)
        return weight[decision]

    def _class_weights(self) -> torch.Tensor:
        """(n_decisions,) weight of each decision in its loss, by how often it is sampled; mean 1."""
        decision = self.data.splits["train"].decision.cpu()
        mass = torch.zeros(len(self.data.decisions), dtype=torch.double)
        mass.index_add_(0, decision, self._weights)
        share = (mass / mass.sum()).clamp(min=1e-3)
        weight = share.pow(-self.config.balance_decision).clamp(
            max=8.0 * share.max().pow(-self.config.balance_decision)
        )
        return (weight / (weight * share).sum()).float().to(self.device)

    def _place(self, samples: SampleTensors) -> SampleTensors:
        if self.device.type != "cuda":
            return samples
        free, _ = torch.cuda.mem_get_info(self.device)
        return samples.to(self.device) if samples.bytes < _GPU_SHARE * free else samples

    def _check_shapes(self, policy: DiffusionPolicy) -> None:
        train = self.data.splits["train"]
        config = policy.config
        got = (tuple(train.ego_status.shape[1:]), tuple(train.waypoints_in_ego.shape[1:]), self.data.dt_s)
        want = ((config.n_status, config.status_width), (config.horizon, 2), config.dt_s)
        if got != want:
            raise ConfigError(
                f"The recordings have ego status {got[0]} and waypoints {got[1]} {got[2]} s apart; "
                f"the planner takes {want[0]} and {want[1]} {want[2]} s apart.",
                "Record for this planner preset, or train another.",
            )

    def _describe_data(self) -> dict[str, Any]:
        described = {}
        for name, samples in self.data.splits.items():
            counts = torch.bincount(samples.decision.cpu(), minlength=len(self.data.decisions)).tolist()
            described[name] = {
                "samples": len(samples),
                "drives": self.data.drives[name],
                "routes": self.data.routes[name],
                "decisions": dict(zip(self.data.decisions, counts, strict=True)),
            }
        return described

    def _open(self, resume: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / STATE_FILE).exists():
            if not resume:
                raise DataError(
                    f"{self.folder} holds a training run.", "Resume it, or train into another folder."
                )
            fresh = self.progress
            progress = load_state(self.folder, self.modules, self.averaged, self._optimizer, self._names)
            check_same_training(self.folder, progress.training, fresh.training, "training")
            check_same_training(self.folder, progress.policy, fresh.policy, "policy")
            check_same_training(self.folder, progress.perception, fresh.perception, "perception")
            check_same_training(self.folder, progress.data, fresh.data, "data")
            self.progress = progress
            return
        if resume:
            self._note(f"nothing to resume in {self.folder}: the training starts from its first step")
        (self.folder / "config.yaml").write_text(to_yaml(self.config), encoding="utf-8")
        (self.folder / "curves.jsonl").write_text("", encoding="utf-8")

    def _save(self) -> None:
        save_state(self.folder, self.progress, self.modules, self.averaged, self._optimizer, self._names)

    def _append_curve(self, epoch: int, losses: dict[str, float], metrics: dict[str, Any]) -> None:
        row = {
            "epoch": epoch + 1,
            "step": self.progress.step,
            "elapsed_s": round(self.progress.elapsed_s, 1),
            "learning_rate": self._learning_rate(self.progress.step),
            "train": {name: round(value, 6) for name, value in losses.items()},
            **metrics,
        }
        with open(self.folder / "curves.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._note(summary(row))

    def _note(self, text: str) -> None:
        self._report(f"note {text}", self.progress.step, self.progress.steps, {})

    def _set_progress(self, **changes: Any) -> None:
        self.progress = TrainingProgress(**{**self.progress.__dict__, **changes})


def _tokens(features: Features) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return features.vl_tokens, features.reasoning_tokens, features.observation_tokens


def _select(features: Features, indices: torch.Tensor, device: torch.device) -> Features:
    vl, reasoning, observation = (tensor[indices].to(device).float() for tensor in _tokens(features))
    return Features(vl, reasoning, observation)


def resolve_device(name: str) -> torch.device:
    """The torch device of a name; "auto" is CUDA where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}.", "Give auto, cpu, cuda or cuda:<n>.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {name!r}, and torch sees no CUDA device.", "Give cpu or auto.")
    return device


def summary(row: Mapping[str, Any]) -> str:
    """One line for people about a row of the curves."""
    text = f"epoch {row['epoch']}: loss {row['train'].get('loss', math.nan):.4f}"
    for name in ("val_route", "val_town"):
        if name in row:
            split = row[name]
            decision, light = 100 * split["decision"]["accuracy"], 100 * split["light"]["accuracy"]
            text += f"; {name} ADE {split['ade_m']:.2f} m, decisions {decision:.0f} %, light {light:.0f} %"
    return text


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
