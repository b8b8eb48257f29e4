"""`CompactPerception`: the network that ships. Camera and LiDAR to VL, reasoning and observation tokens.

```
picture 3 x 256 x 512  -> ResNet, stride 32        -> 8 x 16 = 128 tokens |
rasters 12 x 128^2     -> small ResNet, stride 16  -> 8 x 8  =  64 tokens |-> fusion -> 192 VL tokens
rasters 4 x 3 x 128^2  -> small ResNet, pooled     -> 4 observation tokens, one a frame
ego status             -> MLP                      -> 1 status token, context of fusion and reasoning
7 learned queries      -> attention over all, twice -> 7 reasoning tokens -> decision, light, lead, speed
```
The reasoning tokens are supervised with the expert's decision, the state of the light that governs the ego,
the vehicle ahead and the wanted speed; the image features also with a coarse semantic map, in training only.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tickdrive.planner.checkpoint import read_document, read_weights, write_checkpoint
from tickdrive.planner.errors import CheckpointError, ConfigError, did_you_mean
from tickdrive.planner.supervision import AuxiliaryPredictions
from tickdrive.planner.types import Features

FORMAT = "tickdrive-compact-perception"
VERSION = 2


@dataclass(frozen=True)
class CompactConfig:
    """Sizes.

    Attributes:
        width: of every token.
        image_height, image_width: picture size, multiples of 32.
        image_channels: of the picture's stages at strides 2, 4, 8, 16, 32.
        bev_size: rows and columns of the raster, a multiple of 16.
        bev_planes: channels of the raster.
        bev_channels: of each frame's stages at strides 2, 4, 8, 16.
        bev_motion_channels: likewise, where the frames of the history are seen together.
        n_observation: frames of the history.
        n_status, status_width: ego status samples and their width.
        n_queries: reasoning tokens.
        n_decisions: classes of the decision.
        n_semantic: tags of the semantic map.
        heads: of every attention.
    """

    width: int = 256
    image_height: int = 256
    image_width: int = 512
    image_channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    bev_size: int = 128
    bev_planes: int = 3
    bev_channels: tuple[int, ...] = (16, 32, 48, 96)
    bev_motion_channels: tuple[int, ...] = (32, 48, 96, 128)
    n_observation: int = 4
    n_status: int = 4
    status_width: int = 22
    n_queries: int = 7
    n_decisions: int = 7
    n_semantic: int = 29
    heads: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_channels", tuple(self.image_channels))
        object.__setattr__(self, "bev_channels", tuple(self.bev_channels))
        object.__setattr__(self, "bev_motion_channels", tuple(self.bev_motion_channels))
        if self.image_height % 32 or self.image_width % 32 or self.bev_size % 16:
            raise ConfigError(
                f"The picture is {self.image_height} x {self.image_width} and the raster {self.bev_size}.",
                "Give multiples of 32 and of 16.",
            )
        stages = len(self.image_channels), len(self.bev_channels), len(self.bev_motion_channels)
        if self.width % self.heads or stages != (5, 4, 4):
            raise ConfigError(
                "The sizes of the perception do not fit together.",
                "Give a width that the heads divide, 5 image stages and 4 raster stages.",
            )

    @property
    def image_grid(self) -> tuple[int, int]:
        """Rows and columns of the picture's tokens."""
        return self.image_height // 32, self.image_width // 32

    @property
    def bev_grid(self) -> int:
        """Rows (and columns) of the raster's tokens."""
        return self.bev_size // 16

    @property
    def n_vl(self) -> int:
        """VL tokens."""
        return self.image_grid[0] * self.image_grid[1] + self.bev_grid**2


class ConvBn(nn.Module):
    """3 x 3 (or 1 x 1) convolution and batch norm; `fold` makes one convolution of the two."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.norm(self.conv(x))

    def fold(self) -> None:
        """Put the batch norm's running statistics into the convolution. For inference only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class BasicBlock(nn.Module):
    """Residual block of two 3 x 3 convolutions (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBn(channels, channels)
        self.second = ConvBn(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same."""
        return F.relu(x + self.second(F.relu(self.first(x))))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBn(inputs, outputs, stride=2), nn.ReLU(), *(BasicBlock(outputs) for _ in range(blocks))
    )


class ImageBackbone(nn.Module):
    """Picture to features at strides 8 and 32."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = channels
        self.stem = nn.Sequential(ConvBn(3, c2, stride=2), nn.ReLU())
        # a block at stride 4 would cost as much as one at any other stride, and see the least
        self.stage4 = _stage(c2, c4, 0)
        self.stage8 = _stage(c4, c8, 1)
        self.stage16 = _stage(c8, c16, 1)
        self.stage32 = _stage(c16, c32, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) normalised -> (B, c8, H/8, W/8), (B, c16, H/16, W/16), (B, c32, H/32, W/32)."""
        x8 = self.stage8(self.stage4(self.stem(image)))
        x16 = self.stage16(x8)
        return x8, x16, self.stage32(x16)


def _bev_stages(planes: int, channels: tuple[int, ...]) -> nn.Sequential:
    c2, c4, c8, c16 = channels
    return nn.Sequential(
        ConvBn(planes, c2, stride=2), nn.ReLU(), _stage(c2, c4, 0), _stage(c4, c8, 1), _stage(c8, c16, 1)
    )


class BevObservation(nn.Module):
    """Raster history to observation tokens, each from one frame by itself.

    Args:
        planes: channels of a raster.
        channels: of the stages.
        width: of the tokens.
    """

    def __init__(self, planes: int, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.stages = _bev_stages(planes, channels)
        self.token = nn.Linear(2 * channels[-1], width)

    def forward(self, lidar_bev: torch.Tensor) -> torch.Tensor:
        """(B, T, planes, H, W), 0..1, oldest first -> (B, T, width)."""
        x = self.stages(lidar_bev.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        pooled = torch.cat((x.mean((2, 3)), x.amax((2, 3))), dim=1)
        return self.token(pooled).unflatten(0, lidar_bev.shape[:2])


class BevMotion(nn.Module):
    """Raster history to spatial tokens, of all frames together.

    The frames are all in the present ego frame: in their stack a thing that moves leaves a track, so that
    the tokens tell how fast it goes and where to.

    Args:
        planes: channels of a raster.
        frames: rasters in the history.
        channels: of the stages.
        width: of the tokens.
    """

    def __init__(self, planes: int, frames: int, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.stages = _bev_stages(planes * frames, channels)
        self.token = nn.Linear(channels[-1], width)

    def forward(self, lidar_bev: torch.Tensor) -> torch.Tensor:
        """(B, T, planes, H, W), 0..1, oldest first -> (B, H/16 * W/16, width)."""
        x = self.stages(lidar_bev.flatten(1, 2).contiguous(memory_format=torch.channels_last))
        return self.token(x.flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Multi-head attention, its projections and nothing else."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(B, N, width) over (B, M, width) -> (B, N, width)."""
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.kv(context).chunk(2, dim=-1)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """Pre-norm attention over a context (its own tokens where none is given) and a feed-forward net."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(B, N, width) over (B, M, width) -> (B, N, width)."""
        tokens = tokens + self.attention(self.norm_query(tokens), self.norm_context(context))
        return tokens + self.feed(self.norm_feed(tokens))


class ReasoningHeads(nn.Module):
    """What the reasoning tokens are asked: decision, light, vehicle ahead, wanted speed."""

    def __init__(self, width: int, n_queries: int, n_decisions: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(width * n_queries, width), nn.GELU())
        self.decision = nn.Linear(width, n_decisions)
        self.light = nn.Linear(width, 4)
        self.lead = nn.Linear(width, 2)
        self.target_speed = nn.Linear(width, 1)

    def forward(self, reasoning_tokens: torch.Tensor) -> AuxiliaryPredictions:
        """(B, n_queries, width) -> predictions without the semantic map."""
        x = self.mix(reasoning_tokens.flatten(1))
        return AuxiliaryPredictions(
            decision=self.decision(x),
            light=self.light(x),
            lead=self.lead(x),
            target_speed=self.target_speed(x).squeeze(-1),
        )


class CompactPerception(nn.Module):
    """The perception that ships; see the module's drawing.

    Args:
        config: sizes.
    """

    image_mean: torch.Tensor
    image_std: torch.Tensor

    def __init__(self, config: CompactConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CompactConfig()
        width = config.width
        # ImageNet's statistics, on 0..255
        self.register_buffer("image_mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))
        self.image = ImageBackbone(config.image_channels)
        self.image_token = nn.Linear(config.image_channels[-1], width)
        self.bev_observation = BevObservation(config.bev_planes, config.bev_channels, width)
        self.bev_motion = BevMotion(
            config.bev_planes, config.n_observation, config.bev_motion_channels, width
        )
        self.position = nn.Parameter(torch.randn(1, config.n_vl, width) * 0.02)
        self.kind = nn.Parameter(torch.randn(2, width) * 0.02)
        self.status = nn.Sequential(
            nn.Linear(config.n_status * config.status_width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.fusion = CrossBlock(width, config.heads, 2 * width)
        self.vl_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(1, config.n_queries, width) * 0.5)
        self.reasoning = nn.ModuleList(CrossBlock(width, config.heads, 2 * width) for _ in range(2))
        self.reasoning_norm = nn.LayerNorm(width)
        self.heads = ReasoningHeads(width, config.n_queries, config.n_decisions)
        c8, c16 = config.image_channels[2], config.image_channels[3]
        self.semantic = nn.Conv2d(c8 + c16, config.n_semantic, 1)

    def vl(
        self, image: torch.Tensor, lidar_bev: torch.Tensor, ego_status: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """First half: tokens of what is seen.

        Args:
            image: (B, 3, H, W) RGB, 0..255, of the network's dtype.
            lidar_bev: (B, T, planes, size, size), 0..1, oldest first, all in the present ego frame.
            ego_status: (B, n_status, status_width), oldest first.

        Returns:
            VL tokens (B, n_vl, width), observation tokens (B, T, width), status token (B, 1, width), and the
            image features at strides 8 and 16 for the semantic head.
        """
        normalized = (image - self.image_mean) / self.image_std
        x8, x16, x32 = self.image(normalized.contiguous(memory_format=torch.channels_last))
        image_tokens = self.image_token(x32.flatten(2).transpose(1, 2)) + self.kind[0]
        bev_tokens, observation = self.bev_motion(lidar_bev), self.bev_observation(lidar_bev)
        tokens = torch.cat((image_tokens, bev_tokens + self.kind[1]), dim=1) + self.position
        status = self.status(ego_status.flatten(1)).unsqueeze(1)
        tokens = self.fusion(tokens, torch.cat((tokens, status), dim=1))
        return self.vl_norm(tokens), observation, status, (x8, x16)

    def reason(self, vl_tokens: torch.Tensor, status: torch.Tensor) -> torch.Tensor:
        """Second half: (B, n_queries, width) reasoning tokens over VL tokens and the status token."""
        context = torch.cat((vl_tokens, status), dim=1)
        tokens = self.queries.expand(len(vl_tokens), -1, -1) + status
        for block in self.reasoning:
            tokens = block(tokens, context)
        return self.reasoning_norm(tokens)

    def forward(
        self, image: torch.Tensor, lidar_bev: torch.Tensor, ego_status: torch.Tensor
    ) -> tuple[Features, AuxiliaryPredictions]:
        """Everything at once, for training; arguments as `vl`."""
        vl_tokens, observation, status, (x8, x16) = self.vl(image, lidar_bev, ego_status)
        reasoning = self.reason(vl_tokens, status)
        predictions = self.heads(reasoning)
        coarse = F.interpolate(x16, scale_factor=2.0, mode="nearest")
        semantic = self.semantic(torch.cat((x8, coarse), dim=1))
        return (
            Features(vl_tokens=vl_tokens, reasoning_tokens=reasoning, observation_tokens=observation),
            AuxiliaryPredictions(
                decision=predictions.decision,
                light=predictions.light,
                lead=predictions.lead,
                target_speed=predictions.target_speed,
                semantic=semantic,
            ),
        )

    def folded(self) -> CompactPerception:
        """A copy for inference, with every batch norm folded into its convolution."""
        other = copy.deepcopy(self).eval()
        for module in other.modules():
            if isinstance(module, ConvBn):
                module.fold()
        return other

    def save_pretrained(
        self, folder: str | Path, metadata: dict[str, Any] | None = None, half: bool = False
    ) -> None:
        """Write `config.json` and `model.safetensors`.

        Args:
            folder: created where missing.
            metadata: JSON-able facts about the training.
            half: keep matrices in fp16 (vectors and statistics stay fp32).
        """
        module: nn.Module = self
        if half:
            module = copy.deepcopy(self)
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.data = parameter.data.half()
        write_checkpoint(folder, FORMAT, VERSION, asdict(self.config), module, metadata)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> tuple[CompactPerception, dict[str, Any]]:
        """Read a checkpoint.

        Returns:
            The network in eval mode, fp32, on the CPU, and the checkpoint's metadata.

        Raises:
            CheckpointError: it is missing, damaged, of another version, or does not fit its network.
        """
        document = read_document(folder, FORMAT, VERSION)
        known = {item.name for item in fields(CompactConfig)}
        for key in document["config"]:
            if key not in known:
                raise CheckpointError(
                    f"{folder}: config has an unknown key {key!r}.", did_you_mean(key, known)
                )
        try:
            network = cls(CompactConfig(**document["config"]))
        except (ConfigError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: its config is not valid: {error}", "Fetch or train it again."
            ) from error
        read_weights(folder, document, network)
        return network.eval(), dict(document["metadata"])
