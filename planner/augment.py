"""Random changes to a training batch, on the training device.

Nothing is mirrored: traffic keeps to the right, and a mirrored world would teach the opposite.

What the ego did a moment ago predicts very well what the expert does next, without looking. A planner that
leans on it drives badly by itself ("causal confusion": de Haan et al. 2019, https://arxiv.org/abs/1905.11979;
Chuang et al. 2022), so the history of the ego's own motion is often withheld, and its pedals nearly always.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from tickdrive.planner.errors import ConfigError

SPEED_COLUMN = 0
PEDAL_COLUMNS = (2, 3)
MOTION_COLUMNS = (0, 1, 2, 3, 12, 13)
"""Columns of the ego status, layout 1: speed, throttle and brake; all that tells of the ego's past motion."""


@dataclass(frozen=True)
class AugmentConfig:
    """How much is changed. Probabilities are by sample; 0 switches a change off.

    Attributes:
        brightness: largest shift, of 255.
        contrast, colour, saturation: largest relative change of contrast, channel gains, saturation.
        noise: largest standard deviation, of 255.
        p_cutout: a rectangle of up to 1/6 of the picture's sides is greyed out.
        shift_x, shift_y: largest shift of the picture, in pixels.
        lidar_dropout: largest share of raster cells that are emptied.
        lidar_gain: largest relative change of the raster's counts.
        speed_noise: standard deviation of the speed's error, in units of the status (10 m/s).
        p_drop_history: the ego's motion before the present is withheld.
        p_drop_pedals: throttle and brake of all samples are withheld.
        p_drop_speed: the present speed is withheld.
    """

    brightness: float = 40.0
    contrast: float = 0.3
    colour: float = 0.12
    saturation: float = 0.3
    noise: float = 8.0
    p_cutout: float = 0.2
    shift_x: int = 6
    shift_y: int = 4
    lidar_dropout: float = 0.25
    lidar_gain: float = 0.3
    speed_noise: float = 0.015
    p_drop_history: float = 0.4
    p_drop_pedals: float = 0.85
    p_drop_speed: float = 0.05

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value < 0 or (item.name.startswith("p_") and value > 1):
                raise ConfigError(f"augment.{item.name} is {value}.", "Give a probability or a size >= 0.")


def augment_image(image: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Change pictures.

    Args:
        image: (B, H, W, 3) uint8 RGB.
        config: how much.

    Returns:
        (B, 3, H, W) float32, 0..255, channels last in memory.
    """
    batch, height, width = image.shape[:3]
    device = image.device

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(batch, *shape, device=device) * 2.0 - 1.0

    if config.shift_x or config.shift_y:
        dx = (uniform() * (config.shift_x + 0.49)).round().long()
        dy = (uniform() * (config.shift_y + 0.49)).round().long()
        rows = (torch.arange(height, device=device) + dy[:, None]).clamp(0, height - 1)
        columns = (torch.arange(width, device=device) + dx[:, None]).clamp(0, width - 1)
        image = image[torch.arange(batch, device=device)[:, None, None], rows[:, :, None], columns[:, None]]
    x = image.float()
    grey = x.mean(dim=3, keepdim=True)
    x = grey + (x - grey) * (1.0 + config.saturation * uniform(1, 1, 1))
    gain = (1.0 + config.contrast * uniform(1, 1, 1)) * (1.0 + config.colour * uniform(1, 1, 3))
    x = (x - 128.0) * gain + 128.0 + config.brightness * uniform(1, 1, 1)
    if config.noise:
        x = x + torch.randn_like(x) * (config.noise * torch.rand(batch, 1, 1, 1, device=device))
    if config.p_cutout:
        x = torch.where(_rectangles(batch, height, width, config.p_cutout, device), 128.0, x)
    return x.clamp(0.0, 255.0).permute(0, 3, 1, 2)


def _rectangles(batch: int, height: int, width: int, p: float, device: torch.device) -> torch.Tensor:
    """(B, H, W, 1) bool, True within a random rectangle in a share `p` of the pictures."""
    centre, size = torch.rand(2, batch, 2, 1, device=device)
    use = torch.rand(batch, 1, 1, 1, device=device) < p
    inside = []
    for axis, length in enumerate((height, width)):
        offset = torch.arange(length, device=device) - centre[:, axis] * length
        inside.append(offset.abs() < size[:, axis] * length / 12.0)
    return (inside[0][:, :, None] & inside[1][:, None, :])[..., None] & use


def augment_lidar(lidar_bev: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """(B, T, planes, H, W) uint8 -> float32 0..1 with cells emptied and counts scaled."""
    batch, device = len(lidar_bev), lidar_bev.device
    x = lidar_bev.float() / 255.0
    if config.lidar_dropout:
        share = config.lidar_dropout * torch.rand(batch, 1, 1, 1, 1, device=device)
        x = x * (torch.rand_like(x) >= share)
    if config.lidar_gain:
        x = x * (1.0 + config.lidar_gain * (torch.rand(batch, 1, 1, 1, 1, device=device) * 2.0 - 1.0))
    return x.clamp(max=1.0)


def augment_status(ego_status: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """(B, n_status, width) with noise on the speeds, and history, pedals and speed withheld by chance."""
    batch, device = len(ego_status), ego_status.device

    def chance(p: float) -> torch.Tensor:
        return torch.rand(batch, 1, 1, device=device) < p

    status = ego_status.clone()
    status[:, :, SPEED_COLUMN] += config.speed_noise * torch.randn(batch, 1, device=device)
    hidden = torch.zeros_like(status, dtype=torch.bool)
    hidden[:, :-1, list(MOTION_COLUMNS)] |= chance(config.p_drop_history)
    hidden[:, :, list(PEDAL_COLUMNS)] |= chance(config.p_drop_pedals)
    hidden[:, -1:, [SPEED_COLUMN]] |= chance(config.p_drop_speed)
    return status.masked_fill(hidden, 0.0)


def plain_image(image: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, 0..255: what inference gives the network."""
    return image.float().permute(0, 3, 1, 2)


def plain_lidar(lidar_bev: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 0..1: what inference gives the network."""
    return lidar_bev.float() / 255.0
