"""Engines: what runs the network inside a tick. One interface, several ways to the same plan.

Life cycle: `build_engine`, `warm_up`, `plan` any number of times, `close`. One request is a batch of one.

| name | what it does |
|---|---|
| `reference` | the study's own form, kept as the truth: one whole forward a step, encoder inside the loop |
| `cached` | `encode_conditions` once, then `decode_trajectory` per step; any dtype |
| `hoisted` | all that does not depend on the noisy trajectory in one batched pass before the loop (exact) |
| `traced` | `hoisted` recorded for the shapes that `warm_up` is told, and replayed; CPU only |
| `onnx` | the hoisted form as one graph of ONNX Runtime, fp32 or INT8; CPU, extra `cpu-int8` |
| `graph` | `hoisted` as one CUDA graph for each shape that `warm_up` is told |
| `compiled` | the same through `torch.compile` |
| `fused` | the same on our own Triton kernels, fp16, bf16, fp32, or INT8 weights |
| `auto` | the fastest of these that works here; falling back is logged once and stands in `Plan.engine` |

Torch's thread settings are the caller's. Errors in what the caller gives are `PlannerError`s.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from tickdrive.planner.diffusion import check_steps
from tickdrive.planner.errors import EngineNotReadyError, PlannerError, did_you_mean
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features, Plan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
DTYPES["int8"] = torch.int8
"""fp64 is for parity tests of exact algebra, on the CPU; int8 is for engines onnx (CPU) and fused (CUDA)."""

Inputs = tuple[Features, torch.Tensor, torch.Tensor]
"""Features, ego status, noise: what `PlannerEngine.plan` takes."""

CUDA_ENGINES = ("graph", "compiled", "fused")
CPU_ENGINES = ("traced", "onnx")
ENGINES = ("reference", "cached", "hoisted", *CPU_ENGINES, *CUDA_ENGINES)
_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "fused": ("triton",)}

_UNTRACED = Tracer()


class Part(NamedTuple):
    """A part of a plan that a profile can watch: a method, by where it is found.

    Attributes:
        owner: object whose method it is.
        method: name of the method; wrapped in a span while a profile runs.
        label: name in the profile. `{0}` stands for the call's first argument, plus one.
    """

    owner: object
    method: str
    label: str


class PlannerEngine(ABC):
    """An engine; see the module's text.

    Args:
        policy: what to run; copied, so that later changes to it have no effect.
        device: where to.
        dtype: of the network; the trajectory and the scheduler stay in fp32.

    Attributes:
        name: of the kind of engine.
        config: sizes.
        device: where it runs and where its inputs must be.
        dtype: of the network.
        compute_dtype: of what an int8 engine does not quantise; else `dtype`.
    """

    name = ""
    runs_int8 = False

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        if dtype == torch.int8 and not self.runs_int8:
            raise PlannerError(
                f"The {self.name} engine was asked to run in int8.",
                "Engine onnx does on the CPU, fused on CUDA.",
            )
        self.config: PolicyConfig = policy.config
        self.device = device
        self.dtype = dtype
        # what is not quantised
        self.compute_dtype = torch.float16 if dtype == torch.int8 else dtype
        # x_t and the scheduler: never narrower than fp32
        self.trajectory_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._closed = False
        self._note = ""
        self._normalizer = copy.deepcopy(policy.normalizer).to(device)

    @property
    def label(self) -> str:
        """Name, dtype and device, as they stand in `Plan.engine`."""
        return f"{self.name} {_short(self.dtype)} {self.device}"

    @property
    def plan_note(self) -> str:
        """How the last plan was come by, where that was not the engine's own way; else empty."""
        return self._note

    def warm_up(
        self,
        n_vl: int = 64,
        n_reasoning: int = 8,
        batch: int = 1,
        steps: Sequence[int] | None = None,
        runs: int = 3,
        build: bool = True,
    ) -> None:
        """Plan on made-up inputs, so that the first real plan is as fast as the rest.

        Args:
            n_vl: VL tokens to expect.
            n_reasoning: reasoning tokens to expect.
            batch: plans at once to expect.
            steps: step counts to expect; None for the config's.
            runs: plans for each count.
            build: whether what takes seconds to build and lies in no cache may be built now.

        Raises:
            EngineNotReadyError: it would have to be, and may not.
        """
        features, ego_status, noise = example_inputs(
            self.config, batch, n_vl, n_reasoning, self.device, seed=0
        )
        for count in steps or (self.config.num_inference_steps,):
            check_steps(self.config, count)
            if min(n_vl, n_reasoning) > 0 and not self._closed:
                self._prepare(batch, n_vl, n_reasoning, count, build)
            for _ in range(runs):
                self.plan(features, ego_status, noise, count)

    def _prepare(  # noqa: B027 - most engines make nothing
        self, batch: int, n_vl: int, n_reasoning: int, steps: int, build: bool
    ) -> None:
        """Make what is made once for plans of a shape; see `warm_up`."""

    def plan(
        self,
        features: Features,
        ego_status: torch.Tensor,
        noise: torch.Tensor,
        steps: int,
        tracer: Tracer | None = None,
    ) -> Plan:
        """Plan by DDIM; the same inputs and noise give the same plan.

        Args:
            features: (B, …) tokens on the engine's device, fp32 or the engine's dtype.
            ego_status: (B, n_status, status_width), oldest first.
            noise: (B, T, 2) fp32, standard normal.
            steps: denoising steps.
            tracer: gets the spans `encode`, `hoist` (where there is one) and `denoise`; on the CPU `denoise`
                has a child `step` for each step.

        Raises:
            PlannerError: a wrong shape, dtype, device or step count (saying what was expected), a plan that
                is not finite, or an engine that is closed.
        """
        self._check_inputs(features, ego_status, noise, steps)
        tracer = tracer or _UNTRACED
        with torch.inference_mode():
            trajectory = self._sample(features, ego_status, noise.to(self.trajectory_dtype), steps, tracer)
            waypoints = self._waypoints(trajectory)
        engine = f"{self.label} ({self.plan_note})" if self.plan_note else self.label
        return Plan(waypoints_in_ego=waypoints, dt_s=self.config.dt_s, steps=steps, engine=engine)

    def _waypoints(self, trajectory: torch.Tensor) -> np.ndarray:
        """Waypoints in metres, on the host and checked, of a normalised trajectory."""
        return self._checked(self._normalizer.denormalize(trajectory).cpu().numpy())

    def _checked(self, waypoints: np.ndarray) -> np.ndarray:
        if self.dtype != torch.float64:
            waypoints = waypoints.astype(np.float32, copy=False)
        if not np.isfinite(waypoints).all():
            raise PlannerError(
                f"The plan of engine {self.label!r} is not finite.",
                "Look for NaN in the features or ego status"
                + (", or use fp32: fp16 overflows beyond 65504." if self.dtype == torch.float16 else "."),
            )
        return waypoints

    def close(self) -> None:
        """Free the weights. Planning afterwards is an error; closing again is not."""
        self._closed = True
        self._release()

    @abstractmethod
    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """Bytes that the denoising loop of a plan must read: weights once a step, and what was hoisted.

        Args:
            batch: plans at once.
            steps: denoising steps.
            n_context: VL and reasoning tokens.
        """

    def static_outputs(self) -> tuple[torch.Tensor, ...]:
        """Tensors that the next plan writes its result into: a check fills them with NaN before it plans."""
        return ()

    @abstractmethod
    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        """Denoised normalised trajectory (B, T, 2), in `trajectory_dtype`."""

    @abstractmethod
    def _release(self) -> None:
        """Drop references to weights."""

    def parts(self) -> tuple[Part, ...]:
        """The parts of a plan that a profile can tell apart, beside the spans that `plan` opens."""
        return Part(self, "_check_inputs", "input checks"), Part(self, "_waypoints", "to metres, to the host")

    def _check_inputs(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int
    ) -> None:
        if self._closed:
            raise PlannerError(f"Engine {self.label!r} is closed.", "Build another one.")
        config = self.config
        check_steps(config, steps)
        batch = noise.shape[0] if noise.ndim else 0
        if batch < 1:
            raise PlannerError(
                f"noise has shape {tuple(noise.shape)}.", f"Give (B, {config.horizon}, 2), B >= 1."
            )
        wanted: tuple[tuple[str, torch.Tensor | None, tuple[int | None, ...]], ...] = (
            ("noise", noise, (batch, config.horizon, 2)),
            ("ego_status", ego_status, (batch, config.n_status, config.status_width)),
            (
                "features.observation_tokens",
                features.observation_tokens,
                (batch, config.n_observation, config.observation_width),
            ),
            ("features.vl_tokens", features.vl_tokens, (batch, None, config.vl_width)),
            ("features.reasoning_tokens", features.reasoning_tokens, (batch, None, config.reasoning_width)),
            ("features.vl_mask", features.vl_mask, (batch, features.vl_tokens.shape[1])),
            ("features.reasoning_mask", features.reasoning_mask, (batch, features.reasoning_tokens.shape[1])),
        )
        allowed = {torch.float32, self.compute_dtype}
        for name, tensor, shape in wanted:
            if tensor is None:
                continue
            fits = tensor.ndim == len(shape) and all(
                want is None or got == want for got, want in zip(tensor.shape, shape, strict=True)
            )
            if not fits:
                expected = ", ".join("any" if size is None else str(size) for size in shape)
                raise PlannerError(f"{name} has shape {tuple(tensor.shape)}.", f"Expected ({expected}).")
            if tensor.device != self.device:
                raise PlannerError(
                    f"{name} is on {tensor.device}.", f"Engine {self.label!r} expects {self.device}."
                )
            if name.endswith("_mask"):
                if tensor.dtype != torch.bool:
                    raise PlannerError(
                        f"{name} is of {tensor.dtype}.", "Expected torch.bool, True where real."
                    )
            elif tensor.dtype not in ({torch.float32, self.trajectory_dtype} if name == "noise" else allowed):
                raise PlannerError(
                    f"{name} is of {tensor.dtype}.", f"Expected {' or '.join(sorted(map(str, allowed)))}."
                )


def build_engine(
    name: str, policy: DiffusionPolicy, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> PlannerEngine:
    """Build an engine.

    Args:
        name: `auto`, or one of the module's table.
        policy: trained policy; copied.
        device: torch device, or `auto`: CUDA where there is one.
        dtype: a key of `DTYPES`, a torch dtype, or `auto`: fp16 on CUDA; on the CPU fp32 (measured faster
            than bf16 for networks that fit its caches; pass bf16 for the preset seed); fp32 for the
            reference. int8 with `auto`: the engine that quantises on this device.

    Raises:
        PlannerError: an unknown name or dtype, or a device that is not there.
    """
    from tickdrive.planner.auto_engine import AutoEngine
    from tickdrive.planner.graph_engine import CompiledEngine, GraphEngine
    from tickdrive.planner.hoisted import HoistedEngine
    from tickdrive.planner.onnx_engine import OnnxEngine
    from tickdrive.planner.stepwise import CachedEngine, ReferenceEngine
    from tickdrive.planner.traced import TracedEngine

    kinds: dict[str, Callable[[DiffusionPolicy, torch.device, torch.dtype], PlannerEngine]] = {
        "reference": ReferenceEngine,
        "cached": CachedEngine,
        "hoisted": HoistedEngine,
        "traced": TracedEngine,
        "onnx": OnnxEngine,
        "graph": GraphEngine,
        "compiled": CompiledEngine,
        "fused": _fused_engine,
    }
    where, kind = check_engine(name, device, dtype)
    if name != "auto":
        return kinds[name](policy, where, kind)

    unquantised = resolve_dtype("auto", where) if kind == torch.int8 else kind

    def offered(
        *names: str, dtype: torch.dtype = unquantised
    ) -> list[tuple[str, Callable[[], PlannerEngine]]]:
        return [(item, functools.partial(kinds[item], policy, where, dtype)) for item in names]

    safe = [
        *offered("hoisted", "cached"),
        ("reference", lambda: ReferenceEngine(policy, where, torch.float32)),
    ]
    if kind == torch.int8:
        return AutoEngine(
            policy, where, kind, [*offered("onnx" if where.type == "cpu" else "fused", dtype=kind), *safe]
        )
    if where.type == "cpu":
        measured = offered("onnx") if kind == torch.float32 else []
        return AutoEngine(policy, where, kind, [*offered("traced"), *safe], measured)
    # an engine that is to be compiled first is passed over in a set-up: `graph` is ready at once
    return AutoEngine(policy, where, kind, [*offered("fused", "graph"), *safe], offered("compiled"))


def check_engine(
    name: str, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[torch.device, torch.dtype]:
    """What `build_engine` would build for, without building: device and dtype.

    Raises:
        PlannerError: an unknown name or dtype, a device that is not there, or an engine that runs neither
            there nor so.
    """
    if name not in (*ENGINES, "auto"):
        raise PlannerError(f"There is no planner engine {name!r}.", did_you_mean(name, [*ENGINES, "auto"]))
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where, name)
    for kinds, type_, called in ((CUDA_ENGINES, "cuda", "CUDA"), (CPU_ENGINES, "cpu", "the CPU")):
        if name in kinds and where.type != type_:
            raise PlannerError(
                f"The {name} engine was asked to run on {where}.",
                f"It runs on {called}; auto takes what runs here.",
            )
    if name != "auto" and not runs_in(name, kind):
        fitting = [key for key, each in DTYPES.items() if runs_in(name, each)]
        int8 = " Engine onnx does on the CPU, fused on CUDA." if kind == torch.int8 else ""
        raise PlannerError(
            f"The {name} engine was asked to run in {_short(kind)}.",
            f"It runs in {', '.join(fitting)}.{int8}",
        )
    return where, kind


def _short(dtype: torch.dtype) -> str:
    return next(key for key, value in DTYPES.items() if value == dtype)


def _fused_engine(policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> PlannerEngine:
    from tickdrive.planner.engine_cache import use_compiler_caches

    if importlib.util.find_spec("triton") is None:
        raise EngineNotReadyError(
            "The fused engine needs Triton, which is not installed.", "torch's CUDA builds bring it along."
        )
    use_compiler_caches()
    from tickdrive.planner.fused_engine import FusedEngine

    return FusedEngine(policy, device, dtype)


def engine_names(device: torch.device) -> tuple[str, ...]:
    """Names of the engines that run on a device, slowest first."""
    elsewhere = CUDA_ENGINES if device.type == "cpu" else CPU_ENGINES
    return tuple(
        name
        for name in ENGINES
        if name not in elsewhere and all(importlib.util.find_spec(item) for item in _PACKAGES.get(name, ()))
    )


def runs_in(engine: str, dtype: torch.dtype) -> bool:
    """Whether an engine runs in a dtype."""
    if engine == "onnx":
        return dtype in (torch.float32, torch.int8)
    if engine == "fused":
        return dtype != torch.float64
    return dtype != torch.int8 and (engine != "reference" or dtype in (torch.float32, torch.float64))


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device for a name; `auto` is CUDA where there is one.

    Raises:
        PlannerError: no such device on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise PlannerError(f"{device!r} is no torch device.", "Use auto, cpu, cuda or cuda:N.") from error
    if found.type == "cuda":
        if not torch.cuda.is_available():
            raise PlannerError(f"Device {device} was asked for, and torch sees no CUDA.", "Use cpu, or auto.")
        index = torch.cuda.current_device() if found.index is None else found.index
        if index >= torch.cuda.device_count():
            raise PlannerError(
                f"There is no {device}.", f"There are {torch.cuda.device_count()} CUDA devices."
            )
        return torch.device("cuda", index)
    if found.type != "cpu":
        raise PlannerError(f"Device {device} is not supported.", "Use auto, cpu, cuda or cuda:N.")
    return torch.device("cpu")


def resolve_dtype(dtype: str | torch.dtype, device: torch.device, engine: str = "auto") -> torch.dtype:
    """The torch dtype for a name; see `build_engine`.

    Raises:
        PlannerError: no such dtype.
    """
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" and engine != "reference" else torch.float32
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise PlannerError(
            f"There is no dtype {dtype!r} to plan in.", did_you_mean(str(dtype), [*DTYPES, "auto"])
        )
    assert found is not None
    return found


def example_inputs(
    config: PolicyConfig, batch: int, n_vl: int, n_reasoning: int, device: torch.device, seed: int
) -> Inputs:
    """Random features, ego status and noise of the right shapes, for warming up and measuring."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    features = Features(
        vl_tokens=draw(batch, n_vl, config.vl_width),
        reasoning_tokens=draw(batch, n_reasoning, config.reasoning_width),
        observation_tokens=draw(batch, config.n_observation, config.observation_width),
    )
    return features, draw(batch, config.n_status, config.status_width), draw(batch, config.horizon, 2)


def step_span(tracer: Tracer, device: torch.device):  # type: ignore[no-untyped-def]
    """A span for one step, where a step's end can be seen: not on CUDA, whose work is queued."""
    return tracer.span("step") if device.type == "cpu" and tracer.active else _NO_SPAN


class _NoSpan:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


_NO_SPAN = _NoSpan()
