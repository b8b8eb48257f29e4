"""The hoisted form on our own kernels, in one CUDA graph; see `tickdrive.planner.fused_decoder`.

Importing this module needs Triton.
"""

from __future__ import annotations

import torch

from tickdrive.planner.fused_decoder import FusedDecoder, Side
from tickdrive.planner.fused_encoder import FusedEncoder
from tickdrive.planner.fused_ops import Launch
from tickdrive.planner.graph_engine import GraphEngine, Marks, Recording, Shapes, narrowed
from tickdrive.planner.network import TransformerForDiffusion
from tickdrive.planner.packed import plain_products
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

_HOPPER = (9, 0)


class FusedEngine(GraphEngine):
    """Runs in fp16, bf16, fp32, or int8: feed-forward weights of 8 bits, everything else in fp16."""

    name = "fused"
    compiles = True
    runs_int8 = True

    def __init__(
        self, policy: DiffusionPolicy, device: torch.device, dtype: torch.dtype, launch: Launch | None = None
    ) -> None:
        if launch is None:
            on_device = device.type == "cuda"
            hopper = on_device and torch.cuda.get_device_capability(device) >= _HOPPER
            at_once = torch.cuda.get_device_properties(device).multi_processor_count if on_device else 0
            launch = Launch(pdl=hopper, prefetch=on_device, at_once=at_once)
        self._launch = launch
        self._side = Side(torch.cuda.Stream(device) if device.type == "cuda" else None)
        self._other = Side(torch.cuda.Stream(device) if device.type == "cuda" else None)
        super().__init__(policy, device, dtype)

    def _arrange(self, network: TransformerForDiffusion) -> None:
        with plain_products():  # the kernels read the weights as they are
            self._fused_encoder: FusedEncoder | None = FusedEncoder(network, self.compute_dtype, self._launch)
            self._fused_decoder: FusedDecoder | None = FusedDecoder(
                network, self.compute_dtype, quantised=self.dtype == torch.int8
            )

    def _built(self, shapes: Shapes, build: bool) -> Recording:
        assert self._fused_decoder is not None
        if shapes.batch == 1:  # batches have no use for it
            self._fused_decoder.load_loop(build)
        return super()._built(shapes, build)

    def loop_bytes(self, batch: int, steps: int, n_context: int) -> int:
        """See `PlannerEngine.loop_bytes`."""
        assert self._fused_decoder is not None
        return self._fused_decoder.loop_bytes(batch, steps, n_context)

    def _run(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, marks: Marks
    ) -> torch.Tensor:
        encoder, decoder, side, other = self._fused_encoder, self._fused_decoder, self._side, self._other
        assert encoder is not None and decoder is not None
        schedule, times = self._schedule(steps)
        marks.set(0)
        with side.run():
            given = decoder.conditioning(ego_status, times)
            beginning = decoder.beginning(ego_status, noise, given, self._launch)
        observed, vl, reasoning, context, mask = encoder.read(features, other)
        with other.run():
            heads = decoder.context_heads(context)
        memory = encoder.encode_memory(observed, vl, reasoning)
        marks.set(1)
        side.join()
        other.join()
        folded = decoder.fold(given, memory, heads, mask)
        marks.set(2)
        return decoder.denoise(given, folded, beginning, schedule, self._launch, side)

    def _without_graph(
        self, features: Features, ego_status: torch.Tensor, noise: torch.Tensor, steps: int, tracer: Tracer
    ) -> torch.Tensor:
        narrow = self.compute_dtype
        index = self.device.index if self.device.type == "cuda" else -1  # none
        with torch.cuda.device(index), tracer.span("denoise", str(self.device)):
            return self._run(narrowed(features, narrow), ego_status.to(narrow), noise, steps, Marks(None))

    def _release(self) -> None:
        super()._release()
        self._fused_encoder = self._fused_decoder = None
