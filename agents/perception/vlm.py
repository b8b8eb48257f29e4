"""A Hugging Face vision-language model of the Qwen3-VL class as feature extractor (extra `vlm`).

Picture and a driving prompt go through the model once; its last hidden states are the VL tokens, padded to a
fixed count with a mask. `VlmHead`, the part that is trained, asks them with learned queries (reasoning
tokens), and encodes the LiDAR history (observation tokens). The model itself stays as it is.
"""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tickdrive.agents.config import PerceptionConfig
from tickdrive.agents.perception.base import REASONING_SPAN, VL_SPAN, check_widths, register_extractor
from tickdrive.agents.perception.compact import reasoning_from
from tickdrive.agents.perception.compact_network import BevObservation, CrossBlock, ReasoningHeads
from tickdrive.agents.types import Decision, PlannerInputs, Reasoning
from tickdrive.planner.checkpoint import CONFIG_FILE, read_document, read_weights, write_checkpoint
from tickdrive.planner.errors import CheckpointError, ConfigError, SensorError
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.supervision import AuxiliaryPredictions
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

_LOGGER = logging.getLogger(__name__)

FORMAT = "tickdrive-vlm-head"
VERSION = 1
PROMPT = (
    "You drive this car. Look for the traffic light that is meant for you, stop signs, vehicles ahead, "
    "people near the road and obstacles. What must the car do next?"
)


@dataclass(frozen=True)
class VlmHeadConfig:
    """Sizes of the trained part and how the model is asked.

    Attributes:
        hidden: width of the model's hidden states.
        reasoning_width, observation_width: of the tokens for the planner.
        inner: width inside the head.
        heads: of its attention.
        n_queries: reasoning tokens.
        n_vl: VL tokens are padded to so many.
        n_observation, bev_planes, bev_size: the LiDAR history.
        n_status, status_width: ego status.
        image_height, image_width: the picture is resized to this, then to whole merged patches of the model.
        prompt: what the model is asked.
    """

    hidden: int
    reasoning_width: int
    observation_width: int
    inner: int = 256
    heads: int = 8
    n_queries: int = 7
    n_vl: int = 512
    n_observation: int = 4
    bev_planes: int = 3
    bev_size: int = 128
    n_status: int = 4
    status_width: int = 22
    image_height: int = 256
    image_width: int = 512
    prompt: str = PROMPT


class VlmHead(nn.Module):
    """What is learnt on top of the model: reasoning queries, their supervision, the LiDAR encoder."""

    def __init__(self, config: VlmHeadConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.inner
        self.context_norm = nn.LayerNorm(config.hidden)
        self.context = nn.Linear(config.hidden, inner)
        self.status = nn.Sequential(
            nn.Linear(config.n_status * config.status_width, inner), nn.GELU(), nn.Linear(inner, inner)
        )
        self.queries = nn.Parameter(torch.randn(1, config.n_queries, inner) * 0.5)
        self.blocks = nn.ModuleList(CrossBlock(inner, config.heads, 2 * inner) for _ in range(2))
        self.norm = nn.LayerNorm(inner)
        self.out = nn.Linear(inner, config.reasoning_width)
        self.heads = ReasoningHeads(inner, config.n_queries, len(Decision))
        self.bev = BevObservation(config.bev_planes, (16, 32, 48, 96), config.observation_width)

    def reason(
        self, hidden_states: torch.Tensor, ego_status: torch.Tensor
    ) -> tuple[torch.Tensor, AuxiliaryPredictions]:
        """Ask the hidden states.

        Args:
            hidden_states: (B, N, hidden), without padding.
            ego_status: (B, n_status, status_width), oldest first.

        Returns:
            Reasoning tokens (B, n_queries, reasoning_width), and what they say.
        """
        status = self.status(ego_status.flatten(1)).unsqueeze(1)
        context = torch.cat((self.context(self.context_norm(hidden_states)), status), dim=1)
        tokens = self.queries.expand(len(context), -1, -1) + status
        for block in self.blocks:
            tokens = block(tokens, context)
        tokens = self.norm(tokens)
        return self.out(tokens), self.heads(tokens)

    def save_pretrained(self, folder: str | Path, metadata: dict[str, Any] | None = None) -> None:
        """Write `config.json` and `model.safetensors`."""
        write_checkpoint(folder, FORMAT, VERSION, asdict(self.config), self, metadata)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VlmHead:
        """Read a head, in eval mode.

        Raises:
            CheckpointError: it is missing, damaged, or not of this kind.
        """
        document = read_document(folder, FORMAT, VERSION)
        if set(document["config"]) != {item.name for item in fields(VlmHeadConfig)}:
            raise CheckpointError(f"{folder}: its config has other keys than a head's.", "Train it again.")
        head = cls(VlmHeadConfig(**document["config"]))
        read_weights(folder, document, head)
        return head.eval()


class VlmExtractor:
    """Runs a vision-language model and its head.

    Args:
        model: a `Qwen3VLModel`, or another that takes the same inputs.
        tokenizer: of the model.
        head: trained, or new.
        trained: whether the head is; an untrained one gives no words.
        device: torch device.
        dtype: of the model; None for bf16 on CUDA and fp32 on the CPU.
        image_mean, image_std: of the model's image processor, on 0..1.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        head: VlmHead,
        trained: bool,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        image_mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        image_std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.head_config = head.config
        self._trained = trained
        self._model = model.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        self._head = head.to(self.device).float().eval().requires_grad_(False)
        self._mean = torch.tensor(image_mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(image_std, device=self.device).view(3, 1, 1)
        config: Any = model.config
        vision = config.vision_config
        self._patch, self._merge = int(vision.patch_size), int(vision.spatial_merge_size)
        self._temporal = int(vision.temporal_patch_size)
        unit = self._patch * self._merge
        rows = max(1, round(head.config.image_height / unit)) * self._merge
        columns = max(1, round(head.config.image_width / unit)) * self._merge
        self._grid = (rows, columns)
        ids, kinds = self._prompt_ids(tokenizer, config, rows * columns // self._merge**2)
        if len(ids) > head.config.n_vl:
            raise ConfigError(
                f"Picture and prompt make {len(ids)} tokens; the planner is given {head.config.n_vl}.",
                "Raise n_vl, or use a smaller picture or prompt.",
            )
        self._inputs: dict[str, Any] = {
            "use_cache": False,  # nothing is generated
            "input_ids": torch.tensor([ids], device=self.device),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long, device=self.device),
            "image_grid_thw": torch.tensor([[1, rows, columns]], device=self.device),
        }
        if "mm_token_type_ids" in inspect.signature(model.forward).parameters:  # transformers 5 asks for it
            self._inputs["mm_token_type_ids"] = torch.tensor([kinds], dtype=torch.int, device=self.device)
        mask = torch.arange(head.config.n_vl, device=self.device) < len(ids)
        self._mask = mask[None]

    @property
    def name(self) -> str:
        """For the log."""
        kind = type(self._model).__name__
        return f"vlm {kind} {str(self.dtype).removeprefix('torch.')} {self.device}"

    def example_inputs(self) -> PlannerInputs:
        """See `FeatureExtractor.example_inputs`."""
        config = self.head_config
        return PlannerInputs(
            image=np.zeros((config.image_height, config.image_width, 3), np.uint8),
            lidar_bev=np.zeros(self._bev_shape, np.uint8),
            ego_status=np.zeros((config.n_status, config.status_width), np.float32),
        )

    @torch.inference_mode()
    def extract(
        self, inputs: PlannerInputs, tracer: Tracer | None = None
    ) -> tuple[Features, Reasoning | None]:
        """See `FeatureExtractor.extract`.

        Raises:
            SensorError: LiDAR history or ego status are not of the head's sizes.
        """
        config = self.head_config
        if inputs.lidar_bev.shape != self._bev_shape or inputs.ego_status.shape != (
            config.n_status,
            config.status_width,
        ):
            raise SensorError(
                f"LiDAR {inputs.lidar_bev.shape}, ego status {inputs.ego_status.shape}: they do not fit.",
                f"The head takes {self._bev_shape} and {(config.n_status, config.status_width)}.",
            )
        tracer = tracer or Tracer()
        device = str(self.device)
        with tracer.span(VL_SPAN, device):
            hidden = self._model(
                pixel_values=self.pixel_values(inputs.image), **self._inputs
            ).last_hidden_state
            lidar = torch.from_numpy(inputs.lidar_bev).to(self.device)[None].float() / 255.0
            observation = self._head.bev(lidar)
            vl_tokens = F.pad(hidden, (0, 0, 0, config.n_vl - hidden.shape[1]))
        with tracer.span(REASONING_SPAN, device):
            status = torch.from_numpy(inputs.ego_status).to(self.device)[None].float()
            reasoning_tokens, predictions = self._head.reason(hidden.float(), status)
            probabilities = F.softmax(predictions.decision[0], dim=0).tolist()
        features = Features(
            vl_tokens=vl_tokens,
            reasoning_tokens=reasoning_tokens,
            observation_tokens=observation,
            vl_mask=self._mask,
        )
        return features, reasoning_from(probabilities) if self._trained else None

    def pixel_values(self, image: np.ndarray) -> torch.Tensor:
        """Patches of a picture, in the order of transformers' `Qwen2VLImageProcessor._preprocess`.

        Merged patches are consecutive; a still picture stands for each frame of the temporal patch.

        Args:
            image: (H, W, 3) uint8 RGB, resized where its sides are no whole merged patches.

        Returns:
            (rows * columns, 3 * temporal * patch * patch) of the model's dtype.
        """
        rows, columns = self._grid
        size = (columns * self._patch, rows * self._patch)
        if image.shape[1::-1] != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        x = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).permute(2, 0, 1).float() / 255.0
        x = (x - self._mean) / self._std
        merge, patch = self._merge, self._patch
        x = x.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
        x = x.permute(1, 4, 2, 5, 0, 3, 6)  # merged row, merged column, row, column, channel, y, x
        x = x.reshape(rows * columns, 3, 1, patch, patch).expand(-1, -1, self._temporal, -1, -1)
        return x.reshape(rows * columns, -1).to(self.dtype)

    @property
    def _bev_shape(self) -> tuple[int, int, int, int]:
        config = self.head_config
        return (config.n_observation, config.bev_planes, config.bev_size, config.bev_size)

    def _prompt_ids(self, tokenizer: Any, config: Any, n_image: int) -> tuple[list[int], list[int]]:
        """Token ids of one user turn with the picture in it, and 1 where a token stands for the picture."""

        def ids(text: str) -> list[int]:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        before = [*ids("<|im_start|>user\n"), int(config.vision_start_token_id)]
        after = [
            int(config.vision_end_token_id),
            *ids(self.head_config.prompt + "<|im_end|>\n<|im_start|>assistant\n"),
        ]
        picture = [int(config.image_token_id)] * n_image
        return [*before, *picture, *after], [0] * len(before) + [1] * n_image + [0] * len(after)


def load_vlm(
    model: str,
    head_folder: Path | None,
    policy: PolicyConfig,
    device: torch.device | str = "cpu",
) -> VlmExtractor:
    """Load a model by hub name or folder, and its head.

    Args:
        model: for example "Qwen/Qwen3-VL-4B-Instruct", or a folder with its files.
        head_folder: a trained head; None for a new, untrained one, which is said in the log.
        policy: the planner's sizes.
        device: torch device.

    Raises:
        ConfigError: transformers is not installed, or the model cannot be loaded.
        CheckpointError: the head does not fit the model.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise ConfigError(
            f"The vision-language extractor needs transformers ({error}).",
            "Install it: pip install 'tickdrive[vlm]'.",
        ) from error
    try:
        network = AutoModel.from_pretrained(model)
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"perception.model {model!r} cannot be loaded ({str(error).splitlines()[0]}).",
            "Give a model of the Qwen3-VL class on the hub, or a folder with its files.",
        ) from error
    config = network.config
    missing = [
        key
        for key in ("vision_config", "text_config", "image_token_id", "vision_start_token_id")
        if not hasattr(config, key)
    ]
    if missing:
        raise ConfigError(
            f"perception.model {model!r} is a {type(network).__name__}, which has no {', '.join(missing)}.",
            "Give a model of the Qwen3-VL class.",
        )
    hidden = int(config.text_config.hidden_size)
    if head_folder is not None:
        head = VlmHead.from_pretrained(head_folder)
        if head.config.hidden != hidden:
            raise CheckpointError(
                f"{head_folder} was trained on hidden states of width {head.config.hidden}; "
                f"{model} has {hidden}.",
                "Use the model that the head was trained with.",
            )
    else:
        _LOGGER.warning(
            "the head of %s is untrained: its reasoning tokens mean nothing and say nothing", model
        )
        torch.manual_seed(0)
        head = VlmHead(
            VlmHeadConfig(
                hidden=hidden,
                reasoning_width=policy.reasoning_width,
                observation_width=policy.observation_width,
                n_observation=policy.n_observation,
                n_status=policy.n_status,
                status_width=policy.status_width,
            )
        )
    mean, std = _image_statistics(model)
    return VlmExtractor(
        network, tokenizer, head, head_folder is not None, device, image_mean=mean, image_std=std
    )


def _image_statistics(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the model's own `preprocessor_config.json`; Qwen3-VL's where it has none."""
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(model, "preprocessor_config.json")
        document = json.loads(Path(str(path)).read_text(encoding="utf-8"))
        return tuple(document["image_mean"]), tuple(document["image_std"])
    except (OSError, KeyError, ValueError):
        return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def _build(
    config: PerceptionConfig, folder: Path | None, policy: PolicyConfig, device: torch.device
) -> VlmExtractor:
    explicit = bool(config.checkpoint)
    if not explicit and not (folder is not None and _holds_head(folder)):
        folder = None  # the planner's checkpoint came with another perception, or with none
    extractor = load_vlm(config.model, folder, policy, device)
    check_widths(config.model, extractor.extract(extractor.example_inputs())[0], policy)
    return extractor


def _holds_head(folder: Path) -> bool:
    try:
        document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


register_extractor("vlm", _build)
