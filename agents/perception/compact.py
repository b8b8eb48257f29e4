"""The feature extractor that ships: `CompactPerception`, folded, fp32 channels-last on the CPU.

fp32 is the measured choice there: on two cores with AVX512-BF16, torch's bf16 convolutions of batch 1 spend
on reordering weights what they gain, and tracing or freezing gives nothing either. On CUDA it runs in fp16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tickdrive.agents.config import PerceptionConfig
from tickdrive.agents.perception.base import (
    REASONING_SPAN,
    VL_SPAN,
    check_widths,
    register_extractor,
)
from tickdrive.agents.perception.compact_network import CompactPerception
from tickdrive.agents.types import Decision, PlannerInputs, Reasoning
from tickdrive.planner.checkpoint import PERCEPTION_FOLDER
from tickdrive.planner.errors import CheckpointError, SensorError
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.supervision import channels_last
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features


class CompactExtractor:
    """Runs a `CompactPerception`.

    Args:
        network: trained; it is copied and folded.
        device: torch device.
        metadata: of its checkpoint.
    """

    def __init__(
        self,
        network: CompactPerception,
        device: torch.device | str = "cpu",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.config = network.config
        self.metadata = metadata or {}
        self._network = channels_last(network.folded().to(self.device, self.dtype))
        self._network.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> CompactExtractor:
        """Read a perception checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or not of this kind.
        """
        network, metadata = CompactPerception.from_pretrained(folder)
        return cls(network, device, metadata)

    @property
    def name(self) -> str:
        """For the log."""
        return f"compact {str(self.dtype).removeprefix('torch.')} {self.device}"

    def example_inputs(self) -> PlannerInputs:
        """See `FeatureExtractor.example_inputs`."""
        shapes = self.input_shapes
        return PlannerInputs(
            image=np.zeros(shapes["image"], np.uint8),
            lidar_bev=np.zeros(shapes["lidar_bev"], np.uint8),
            ego_status=np.zeros(shapes["ego_status"], np.float32),
        )

    @torch.inference_mode()
    def extract(
        self, inputs: PlannerInputs, tracer: Tracer | None = None
    ) -> tuple[Features, Reasoning | None]:
        """See `FeatureExtractor.extract`.

        Raises:
            SensorError: an input is not of the size that the network was trained with.
        """
        self._check(inputs)
        tracer = tracer or Tracer()
        device = str(self.device)
        network = self._network
        with tracer.span(VL_SPAN, device):
            # (H, W, 3) bytes are channels-last already: permuting keeps them so
            image = torch.from_numpy(inputs.image).to(self.device).permute(2, 0, 1)[None].to(self.dtype)
            lidar_bev = torch.from_numpy(inputs.lidar_bev).to(self.device)[None].to(self.dtype).div_(255.0)
            status = torch.from_numpy(inputs.ego_status).to(self.device)[None].to(self.dtype)
            vl_tokens, observation, status_token, _ = network.vl(image, lidar_bev, status)
        with tracer.span(REASONING_SPAN, device):
            reasoning_tokens = network.reason(vl_tokens, status_token)
            logits = network.heads(reasoning_tokens).decision
            probabilities = F.softmax(logits[0].float(), dim=0).tolist()
        features = Features(
            vl_tokens=vl_tokens, reasoning_tokens=reasoning_tokens, observation_tokens=observation
        )
        return features, reasoning_from(probabilities)

    def _check(self, inputs: PlannerInputs) -> None:
        for name, shape in self.input_shapes.items():
            got = getattr(inputs, name).shape
            if got != shape:
                raise SensorError(
                    f"{name} has shape {got}; the perception was trained with {shape}.",
                    "Use the rig and preprocessing of its checkpoint.",
                )

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of the inputs, by the name of its field."""
        config = self.config
        return {
            "image": (config.image_height, config.image_width, 3),
            "lidar_bev": (config.n_observation, config.bev_planes, config.bev_size, config.bev_size),
            "ego_status": (config.n_status, config.status_width),
        }


def reasoning_from(probabilities: list[float]) -> Reasoning:
    """Words for the log from the probabilities of the decisions, in the order of `Decision`."""
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    return Reasoning(
        decision=Decision(best),
        probability=probabilities[best],
        probabilities={Decision(i).name: value for i, value in enumerate(probabilities)},
    )


def _build(
    config: PerceptionConfig, folder: Path | None, policy: PolicyConfig, device: torch.device
) -> CompactExtractor:
    if folder is None:
        raise CheckpointError(
            "The compact perception has no checkpoint folder.",
            f"Set perception.checkpoint, or a planner checkpoint that has a {PERCEPTION_FOLDER!r} folder.",
        )
    extractor = CompactExtractor.from_pretrained(folder, device)
    if extractor.config.status_width != policy.status_width:
        raise CheckpointError(
            f"{folder} takes an ego status of width {extractor.config.status_width}, the planner of "
            f"{policy.status_width}.",
            "Use the perception that the planner was trained with.",
        )
    check_widths(str(folder), extractor.extract(extractor.example_inputs())[0], policy)
    return extractor


register_extractor("compact", _build)
