"""A whole plan as one graph of ONNX Runtime, on the CPU: fp32, or INT8 products.

One call a plan: the runtime's own threads wait for each other less than torch's, most of all where other
processes want the same cores. INT8 (`dtype="int8"`) is `MatMulNBits`: weights of 8 bits with a scale for each
32, activations quantised by block as they come, so that nothing needs calibrating; attention, norms and the
GRUs stay in fp32.

A graph is of fixed shapes: one for each that `warm_up` was told, kept on disk
(`tickdrive.planner.engine_cache`). A plan of other shapes, or with padding, runs in the hoisted engine; that
is said once and stands in its `engine`.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch

from tickdrive.planner.engine import Part, PlannerEngine
from tickdrive.planner.engine_cache import entry_path, policy_hash, read_entry, write_entry
from tickdrive.planner.errors import EngineNotReadyError, PlannerError
from tickdrive.planner.hoisted import HoistedEngine
from tickdrive.planner.onnx_graph import INPUT_NAMES, export_plan, quantise_products
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

log = logging.getLogger(__name__)

Shapes = tuple[int, int, int, int]
"""Batch, VL tokens, reasoning tokens, steps."""


class OnnxEngine(PlannerEngine):
    """See the module's text."""

    name = "onnx"
    runs_int8 = True

    def __init__(self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(policy, device, dtype)
        if device.type != "cpu":
            raise PlannerError(f"The onnx engine was asked to run on {device}.", "It runs on the cpu.")
        if dtype not in (torch.float32, torch.int8):
            raise PlannerError(f"The onnx engine was asked to run in {dtype}.", "It runs in fp32 and int8.")
        _runtime()
        self._policy: DiffusionPolicy | None = (
            copy.deepcopy(policy).eval().requires_grad_(False).float().cpu()
        )
        self._weights = policy_hash(self._policy)
        self._sessions: dict[Shapes, Any] = {}
        self._plain: HoistedEngine | None = None
        self._told = False

    def _prepare(self, batch: int, n_vl: int, n_reasoning: int, steps: int, build: bool) -> None:
        shapes = (batch, n_vl, n_reasoning, steps)
        if shapes not in self._sessions:
            self._sessions[shapes] = self._load(shapes, build)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`: the hoisted engine's loop, for INT8 at a quarter."""
        return self._fallback().loop_bytes(batch, steps, n_context) // (4 if self.dtype == torch.int8 else 1)

    def parts(self) -> tuple[Part, ...]:
        """One graph has no parts."""
        return PlannerEngine.parts(self)

    def _sample(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        shapes = (*features.vl_tokens.shape[:2], features.reasoning_tokens.shape[1], steps)
        masks = (features.vl_mask, features.reasoning_mask)
        padded = any(mask is not None and not bool(mask.all()) for mask in masks)
        session = None if padded else self._sessions.get(shapes)
        if session is None:
            reason = "tokens are padded" if padded else f"not warmed up for {shapes}"
            self._note = f"fell back from {self.name}: {reason}; planned by hoisted fp32"
            if not self._told:
                self._told = True
                log.warning("planner engine %r: %s", self.label, self._note)
            return self._fallback()._sample(features, ego_status, noise, steps, tracer)
        self._note = ""
        given = (
            features.observation_tokens,
            features.vl_tokens,
            features.reasoning_tokens,
            ego_status,
            noise,
        )
        arrays = {name: item.float().numpy() for name, item in zip(INPUT_NAMES, given, strict=True)}
        with tracer.span("graph"):
            return torch.from_numpy(session.run(None, arrays)[0])

    def _release(self) -> None:
        self._policy = self._plain = None
        self._sessions = {}

    def _fallback(self) -> HoistedEngine:
        if self._plain is None:
            assert self._policy is not None
            self._plain = HoistedEngine(self._policy, self.device, torch.float32)
        return self._plain

    def _load(self, shapes: Shapes, build: bool) -> Any:
        assert self._policy is not None
        runtime = _runtime()
        kind = "int8" if self.dtype == torch.int8 else "fp32"
        path = entry_path(f"plan-{kind}", self._weights, self.device, ".onnx", shapes=shapes)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors only
        options.add_session_config_entry("session.force_spinning_stop", "1")
        kept = read_entry(path)
        if kept is not None:
            try:
                return runtime.InferenceSession(kept, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # the runtime's own classes share no base of ours
                log.warning("engine cache %s is of no use (%s); building it again", path, error)
        if not build:
            raise EngineNotReadyError(
                f"The onnx engine has no graph of {shapes} in its cache.",
                "Those are batch, VL and reasoning tokens, steps. Run `tickdrive warmup` first.",
            )
        model = export_plan(self._policy, *shapes)
        if self.dtype == torch.int8:
            model = quantise_products(model)
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        write_entry(path, model)
        return session


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401 - the exporter's, needed as well
        import onnxruntime
    except ModuleNotFoundError as error:
        raise PlannerError(
            f"The onnx engine needs {error.name}, which is not installed.",
            "pip install 'tickdrive[cpu-int8]'.",
        ) from error
    return onnxruntime
