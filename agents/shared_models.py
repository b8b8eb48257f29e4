"""Weights and engines, loaded once per process.

A leaderboard builds the agent anew for every route; what takes seconds to load lives here.
"""

from __future__ import annotations

import gc
import logging
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tickdrive.agents.config import AgentConfig
from tickdrive.agents.perception.base import FeatureExtractor, load_extractor
from tickdrive.agents.run_header import usable_cores
from tickdrive.planner.engine import PlannerEngine, build_engine, check_engine, example_inputs
from tickdrive.planner.errors import CheckpointError, ConfigError, did_you_mean
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy

_LOGGER = logging.getLogger(__name__)
_TIMED_RUNS = 5
_LOCK = threading.Lock()
_CACHE: dict[tuple[object, ...], SharedModels] = {}


@dataclass(frozen=True)
class WarmTiming:
    """What stages take once warm: where a tick budget begins to predict from.

    Attributes:
        features_ms: perception.
        plan_ms: step count -> a plan of so many steps, for all counts that the engine is warm for.
    """

    features_ms: float
    plan_ms: Mapping[int, float]


@dataclass(frozen=True)
class SharedModels:
    """What routes share.

    Attributes:
        extractor: perception, on the engine's device.
        engine: planner engine, warm.
        checkpoint: folder it was read from.
        timing: measured when they were warmed up; None: not measured, and no budget can be kept.
    """

    extractor: FeatureExtractor
    engine: PlannerEngine
    checkpoint: Path
    timing: WarmTiming | None = None


def checkpoints_folder() -> Path:
    """Where the shipped checkpoints lie."""
    import tickdrive.planner

    return Path(next(iter(tickdrive.planner.__path__))) / "checkpoints"


def resolve_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: a path as given, or the name of a shipped one.

    Raises:
        CheckpointError: there is neither; names the nearest shipped one.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    shipped = checkpoints_folder() / name
    if shipped.is_dir():
        return shipped
    root = checkpoints_folder()
    known = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    raise CheckpointError(
        f"Checkpoint {name!r}: no such folder, and no shipped checkpoint of that name.",
        did_you_mean(name, known) if known else "Train one with `tickdrive train`, and give its folder.",
    )


def shared_models(config: AgentConfig) -> SharedModels:
    """Load, warm up and keep; a second call with the same settings returns the same objects.

    Raises:
        CheckpointError: a checkpoint is missing, damaged or of another network.
        ConfigError: more steps than the checkpoint has.
        PlannerError: the engine, device or dtype does not exist here.
    """
    checkpoint = resolve_checkpoint(config.planner.checkpoint)
    planner, perception = config.planner, config.perception
    key = (
        checkpoint,
        planner.engine,
        planner.device,
        planner.dtype,
        _step_counts(config),
        perception.kind,
        perception.checkpoint,
        perception.model,
        tuple(perception.random_tokens),
    )
    with _LOCK:
        if key not in _CACHE:
            _CACHE[key] = _load(config, checkpoint)
        return _CACHE[key]


def check_models(config: AgentConfig) -> None:
    """Say what would keep `shared_models` from loading, as far as that is seen without building an engine.

    Perception is read where it is the compact one; other kinds may take minutes to load.

    Raises:
        CheckpointError: a checkpoint is missing, damaged or of another network.
        ConfigError: more steps than the checkpoint has.
        PlannerError: the engine, device or dtype does not exist here.
    """
    planner, perception = config.planner, config.perception
    check_engine(planner.engine, planner.device, planner.dtype)
    checkpoint = resolve_checkpoint(planner.checkpoint)
    policy = DiffusionPolicy.from_pretrained(checkpoint)
    _check_steps(config, checkpoint, policy.config)
    if perception.kind == "compact":
        load_extractor(perception, checkpoint, policy.config)


def _check_steps(config: AgentConfig, checkpoint: Path, policy: PolicyConfig) -> None:
    """The one bound on step counts is the checkpoint's own, which engines keep to as well."""
    limit = policy.num_train_timesteps
    if config.planner.steps > limit:
        raise ConfigError(
            f"planner.steps is {config.planner.steps}; checkpoint {checkpoint} has {limit} timesteps.",
            f"Give 1 to {limit}; {policy.num_inference_steps} is what it was made for.",
        )


def _load(config: AgentConfig, checkpoint: Path) -> SharedModels:
    torch.set_num_threads(config.threads or spare_cores())
    planner = config.planner
    check_engine(planner.engine, planner.device, planner.dtype)  # before seconds of reading
    policy = DiffusionPolicy.from_pretrained(checkpoint)
    _check_steps(config, checkpoint, policy.config)
    engine = build_engine(planner.engine, policy, planner.device, planner.dtype)
    extractor = load_extractor(config.perception, checkpoint, engine.config, engine.device)
    timing = _warm_up(extractor, engine, _step_counts(config))
    # what is loaded stays: keeping the collector from walking it again spares ticks pauses of milliseconds
    gc.collect()
    gc.freeze()
    _LOGGER.info("planner %s loaded: %s", checkpoint, engine.label)
    return SharedModels(extractor=extractor, engine=engine, checkpoint=checkpoint, timing=timing)


def spare_cores() -> int:
    """Torch threads of an agent whose `threads` is 0: all cores but one, at most four.

    Simulator and evaluator need one: a torch thread whose core is taken by another process is waited for by
    all others, spinning, and a tick of 30 ms was seen to take 5 s. More than four do not help small networks.
    """
    return min(max(usable_cores() - 1, 1), 4)


def _step_counts(config: AgentConfig) -> tuple[int, ...]:
    """The step counts that may be asked for, the usual one first."""
    usual = config.planner.steps
    fewer = {steps for steps in config.budget.steps if steps < usual} if config.budget.enabled else set()
    return (usual, *sorted(fewer, reverse=True))


def _warm_up(extractor: FeatureExtractor, engine: PlannerEngine, step_counts: tuple[int, ...]) -> WarmTiming:
    """Run everything until it is as fast as it will be, then time it."""
    # one pass warms perception up, and tells how many tokens the planner has to be warm for
    inputs = extractor.example_inputs()
    features, _ = extractor.extract(inputs)
    n_vl, n_reasoning = features.vl_tokens.shape[1], features.reasoning_tokens.shape[1]
    # what is not built by now (`tickdrive warmup`) is not built in a watched setup
    engine.warm_up(n_vl=n_vl, n_reasoning=n_reasoning, steps=step_counts, build=False)
    _, status, noise = example_inputs(engine.config, 1, n_vl, n_reasoning, engine.device, seed=0)
    return WarmTiming(
        features_ms=_median_ms(lambda: extractor.extract(inputs)),
        plan_ms={
            steps: _median_ms(lambda steps=steps: engine.plan(features, status, noise, steps))  # type: ignore[misc]
            for steps in step_counts
        },
    )


def _median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(times)
