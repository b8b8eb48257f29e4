"""A whole plan as one CUDA graph: one launch in place of hundreds, with static inputs and outputs.

There is a graph for each batch, number of tokens and step count that `warm_up` was told, and one more of each
for padded tokens, which also serves fewer tokens than it was made for. Whatever else comes runs without a
graph; that is said once in the log and stands in the plan's `engine`. Inputs are copied into the graph's own,
waypoints are copied to the host by the graph and out of its buffer after it, so a later plan overwrites none.

| engine | what is in the graph |
|---|---|
| `graph` | the hoisted engine's own operations |
| `compiled` | the same, encoder block and decoder through `torch.compile` |
| `fused` | our Triton kernels where tokens are few (`tickdrive.planner.fused_engine`) |

On the CPU, for tests, what would be recorded runs anew for each plan.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from tickdrive.planner.engine import Part, PlannerEngine, example_inputs
from tickdrive.planner.engine_cache import (
    entry_path,
    policy_hash,
    read_entry,
    use_compiler_caches,
    write_entry,
)
from tickdrive.planner.errors import EngineNotReadyError
from tickdrive.planner.gru import FoldedGru
from tickdrive.planner.hoisted import HoistedEngine, Stages
from tickdrive.planner.hoisted_decoder import Conditions
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

log = logging.getLogger(__name__)

SETTLING_RUNS = 3
"""Runs before a recording: libraries choose kernels and allocate what they need."""
_COMPILED_FORMS = 256
_SPANS = ("encode", "hoist", "denoise")
_UNTRACED = Tracer()


class Shapes(NamedTuple):
    """What a graph is made for."""

    batch: int
    n_vl: int
    n_reasoning: int
    steps: int
    padded: bool


class Marks:
    """Device events at the ends of a plan's stages, recorded inside the graph.

    Args:
        device: no events where it is None or the CPU, or where torch cannot record them in a graph.
    """

    def __init__(self, device: torch.device | None) -> None:
        self._events: list[torch.cuda.Event] = []
        if device is not None and device.type == "cuda":
            try:
                self._events = [torch.cuda.Event(enable_timing=True, external=True) for _ in range(4)]
            except TypeError:  # torch before 2.9
                log.info("this torch cannot time stages inside a graph: their spans are missing")

    def set(self, index: int) -> None:
        """Mark the beginning (0), or the end of a stage."""
        if self._events:
            self._events[index].record()

    def stages_ms(self) -> list[tuple[str, float]]:
        """Name and milliseconds of each stage of the last replay; waits for it."""
        if not self._events:
            return []
        self._events[-1].synchronize()
        pairs = zip(self._events, self._events[1:], strict=False)
        return [(name, first.elapsed_time(last)) for name, (first, last) in zip(_SPANS, pairs, strict=True)]


@dataclasses.dataclass(frozen=True)
class Recording:
    """A graph with its buffers.

    Attributes:
        replay: runs it.
        features: its inputs.
        ego_status: likewise.
        noise: likewise.
        trajectory: (B, T, 2) its result, normalised.
        host: (B, T, 2) the waypoints in metres, in the host's memory.
        marks: see there.
    """

    replay: Callable[[], object]
    features: Features
    ego_status: torch.Tensor
    noise: torch.Tensor
    trajectory: torch.Tensor
    host: torch.Tensor
    marks: Marks


class GraphEngine(HoistedEngine):
    """See the module's text."""

    name = "graph"
    compiles = False
    """Whether building takes a compiler, and so does not belong into an agent's set-up."""

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(policy, device, dtype)
        self._weights = policy_hash(policy) if self.compiles else ""
        self._recordings: dict[Shapes, Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._last: Recording | None = None
        self._told = False

    def _prepare(self, batch: int, n_vl: int, n_reasoning: int, steps: int, build: bool) -> None:
        for padded in (False, True):
            shapes = Shapes(batch, n_vl, n_reasoning, steps, padded)
            if shapes not in self._recordings:
                self._recordings[shapes] = self._built(shapes, build)

    def static_outputs(self) -> tuple[torch.Tensor, ...]:
        """See `PlannerEngine.static_outputs`."""
        return tuple(tensor for item in self._recordings.values() for tensor in (item.trajectory, item.host))

    def parts(self) -> tuple[Part, ...]:
        """A graph has no parts: its stages can be told apart."""
        return PlannerEngine.parts(self)

    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        recording = self._recording_for(features, steps)
        self._last = recording
        if recording is None:
            return self._without_graph(features, ego_status, noise, steps, tracer)
        with tracer.span("copy in"):
            _fill(recording.features, features)
            recording.ego_status.copy_(ego_status)
            recording.noise.copy_(noise)
        recording.replay()
        if tracer.active:
            for name, ms in recording.marks.stages_ms():
                tracer.add(name, ms)
        return recording.trajectory

    def _waypoints(self, trajectory: torch.Tensor) -> np.ndarray:
        recording = self._last
        if recording is None or recording.trajectory is not trajectory:
            return super()._waypoints(trajectory)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return self._checked(recording.host.numpy().copy())

    def _run(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, marks: Marks
    ) -> torch.Tensor:
        """A plan's device work, from inputs of the graph's own; what is recorded."""
        stages = self._recorded_stages()
        schedule, times = self._schedule(steps)
        marks.set(0)
        tokens = (features.observation_tokens, features.vl_tokens, features.reasoning_tokens)
        memory, context, mask = stages.encode(*tokens, features.vl_mask, features.reasoning_mask)
        marks.set(1)
        conditions = stages.hoist(memory, context, ego_status, times, mask)
        marks.set(2)
        return self._denoise(stages.predict, conditions, noise, schedule, _UNTRACED)

    def _recorded_stages(self) -> Stages:
        assert self._encoder is not None and self._decoder is not None
        return Stages(self._encoder, self._decoder.hoist, self._decoder.predict)

    def _without_graph(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        return super()._sample(features, ego_status, noise, steps, tracer)

    def _release(self) -> None:
        super()._release()
        self._recordings = {}
        self._last = self._pool = None

    def _recording_for(self, features: Features, steps: int) -> Recording | None:
        """The graph that serves these features; None, told once, where there is none."""
        batch, n_vl = features.vl_tokens.shape[:2]
        n_reasoning = features.reasoning_tokens.shape[1]
        padded = features.vl_mask is not None or features.reasoning_mask is not None
        self._note = ""
        exact = self._recordings.get(Shapes(batch, n_vl, n_reasoning, steps, padded))
        if exact is not None:
            return exact
        for shapes, recording in self._recordings.items():
            fits = shapes.n_vl >= n_vl and shapes.n_reasoning >= n_reasoning
            if shapes.padded and shapes.batch == batch and shapes.steps == steps and fits:
                return recording
        wanted = (batch, n_vl, n_reasoning, steps)
        self._note = f"without its graph: not warmed up for {wanted}"
        if not self._told:
            self._told = True
            log.warning(
                "planner engine %r plans without its graph, some milliseconds slower: it was not warmed up "
                "for %s (batch, VL and reasoning tokens, steps)",
                self.label,
                wanted,
            )
        return None

    def _built(self, shapes: Shapes, build: bool) -> Recording:
        if not self.compiles:
            return self._record(shapes)
        use_compiler_caches()
        path = entry_path(
            f"ready-{self.name}", self._weights, self.device, ".txt", shapes=shapes, dtype=str(self.dtype)
        )
        if not build and read_entry(path) is None:
            raise EngineNotReadyError(
                f"The {self.name} engine has nothing compiled for {tuple(shapes)} in its cache.",
                "Those are batch, VL and reasoning tokens, steps, padding. Run `tickdrive warmup` first.",
            )
        recording = self._record(shapes)
        write_entry(path, b"compiled\n")
        return recording

    def _record(self, shapes: Shapes) -> Recording:
        sizes = (shapes.batch, shapes.n_vl, shapes.n_reasoning)
        features, ego_status, noise = example_inputs(self.config, *sizes, self.device, seed=0)
        narrow = self.compute_dtype
        masks = [
            torch.ones(shapes.batch, count, dtype=torch.bool, device=self.device) if shapes.padded else None
            for count in sizes[1:]
        ]
        features = narrowed(dataclasses.replace(features, vl_mask=masks[0], reasoning_mask=masks[1]), narrow)
        ego_status = ego_status.to(narrow)
        with torch.inference_mode():  # as a step's result: else what is compiled is compiled twice
            noise = noise.to(self.trajectory_dtype, copy=True)
        host = torch.empty(noise.shape, dtype=noise.dtype, pin_memory=self.device.type == "cuda")
        trajectory = torch.empty_like(noise)
        marks = Marks(self.device)

        def run(marks: Marks = marks) -> None:
            trajectory.copy_(self._run(features, ego_status, noise, shapes.steps, marks))
            marks.set(3)
            host.copy_(self._normalizer.denormalize(trajectory), non_blocking=True)

        with torch.inference_mode():
            replay = _captured(run, self.device, self._pool)
        return Recording(replay, features, ego_status, noise, trajectory, host, marks)


class CompiledEngine(GraphEngine):
    """Encoder block and decoder through `torch.compile`; the hoist, whose shapes steps change, as it is."""

    name = "compiled"
    compiles = True

    def _arrange(self, network: TransformerForDiffusion) -> None:
        super()._arrange(network)
        assert self._encoder is not None and self._decoder is not None
        decoder = self._decoder
        # engines share their modules' code, of which torch else compiles eight forms in a process
        limit = torch._dynamo.config
        limit.recompile_limit = max(limit.recompile_limit, _COMPILED_FORMS)
        # torch's own GRU cannot be compiled
        decoder.head_gru = FoldedGru(network.head.gru, self.compute_dtype, fused=False)
        self._compiled: Stages | None = Stages(
            torch.compile(self._encoder, fullgraph=True, dynamic=False),
            lambda *given: _step_by_step(decoder.hoist(*given)),
            torch.compile(self._decoder.predict, fullgraph=True, dynamic=False),
        )

    def _recorded_stages(self) -> Stages:
        assert self._compiled is not None
        return self._compiled

    def _release(self) -> None:
        super()._release()
        self._compiled = None


def _step_by_step(given: Conditions) -> Conditions:
    """The same with each step's in one piece, so that what is compiled for one step count serves all."""

    def ordered(tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return tensor.transpose(0, axis).contiguous().transpose(0, axis)

    modulation, keys, key_bias, values, state = given
    keys = ordered(keys.transpose(-1, -2), 1).transpose(-1, -2)
    return Conditions(ordered(modulation, 2), keys, ordered(key_bias, 1), ordered(values, 1), state)


def _captured(run: Callable[[], object], device: torch.device, pool: Any) -> Callable[[], object]:
    """A function that does the device work of `run` again, in one launch; on the CPU, `run` itself."""
    if device.type != "cuda":
        return run
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(SETTLING_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # other threads (perception) may use the device meanwhile
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            run()
        return graph.replay


def narrowed(features: Features, dtype: torch.dtype) -> Features:
    """Features in a dtype, each token tensor a copy or itself."""
    return dataclasses.replace(
        features,
        vl_tokens=features.vl_tokens.to(dtype),
        reasoning_tokens=features.reasoning_tokens.to(dtype),
        observation_tokens=features.observation_tokens.to(dtype),
    )


def _fill(static: Features, given: Features) -> None:
    """Copy features into a graph's own, which may have room for more tokens."""
    static.observation_tokens.copy_(given.observation_tokens)
    pairs = (
        (static.vl_tokens, static.vl_mask, given.vl_tokens, given.vl_mask),
        (static.reasoning_tokens, static.reasoning_mask, given.reasoning_tokens, given.reasoning_mask),
    )
    for tokens, mask, given_tokens, given_mask in pairs:
        count = given_tokens.shape[1]
        tokens[:, :count].copy_(given_tokens)
        if mask is None:
            continue
        mask[:, count:] = False
        if given_mask is None:
            mask[:, :count] = True
        else:
            mask[:, :count].copy_(given_mask)
