"""Sizes of the planner, its presets, and the configuration file `configs/pdm_server.yaml`.

Key names are those that the users of the studied system know (`policy.n_layer`,
`policy.num_inference_steps`, …).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import yaml

from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError, did_you_mean
from tickdrive.planner.types import STATUS_FIELDS

COMPACT_STATUS_FIELDS = STATUS_FIELDS + 2 + 6
"""Width of the compact preset's ego status: the study's 14, next target x y, one-hot next command (6)."""


@dataclass(frozen=True)
class PolicyConfig:
    """The network and its diffusion. The defaults are the preset `seed`.

    Attributes:
        n_emb: width d of every token inside the network.
        n_head: attention heads; divides `n_emb`.
        n_layer: decoder layers.
        n_encoder_layer: layers of the transformer encoder.
        vl_width: width of a vision-language token.
        reasoning_width: width of a reasoning token.
        observation_width: width of an observation token.
        n_observation: observed frames, one token each.
        status_width: width of one ego status sample.
        n_status: ego status samples, oldest first, the last one being the present.
        horizon: waypoints of a plan.
        dt_s: time between waypoints, and between status samples.
        merged_attention: one cross-attention of the trajectory over memory, VL and reasoning tokens together,
            in place of two (memory to VL and reasoning tokens, then trajectory to memory). Another network:
            it needs its own training.
        p_drop_emb: dropout of the embedded decoder input and encoder input, in training.
        p_drop_attn: dropout of attention weights and feed-forward outputs, in training.
        num_train_timesteps: diffusion steps of training.
        num_inference_steps: denoising steps of a plan unless the caller asks for another count.
        beta_schedule: noise schedule, by diffusers' name.
        prediction_type: what the network predicts; only `epsilon`.
        first_timestep: noisiest timestep that DDIM visits. The very last ones of `squaredcos_cap_v2` carry no
            signal: at 99, 1/sqrt(alpha_bar) is 2,000, so the clean trajectory read from the prediction
            there is rounding noise, and the step is lost (see `tickdrive.planner.diffusion`).
        clip_sample: clip the predicted clean trajectory to [-1, 1], the range of the normalised data.
    """

    n_emb: int = 768
    n_head: int = 12
    n_layer: int = 12
    n_encoder_layer: int = 4
    vl_width: int = 2560
    reasoning_width: int = 2560
    observation_width: int = 256
    n_observation: int = 4
    status_width: int = STATUS_FIELDS
    n_status: int = 4
    horizon: int = 6
    dt_s: float = 0.5
    merged_attention: bool = False
    p_drop_emb: float = 0.0
    p_drop_attn: float = 0.1
    num_train_timesteps: int = 100
    num_inference_steps: int = 10
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: str = "epsilon"
    first_timestep: int = 95
    clip_sample: bool = True

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if (
                isinstance(value, int)
                and not isinstance(value, bool)
                and value < 1
                and item.name != "first_timestep"
            ):
                raise ConfigError(f"policy.{item.name} is {value}.", "Give a whole number of at least 1.")
        if self.n_emb % self.n_head or self.n_emb % 2:
            raise ConfigError(
                f"policy.n_emb is {self.n_emb} and policy.n_head is {self.n_head}.",
                "Make n_emb even and a multiple of n_head, for example 256 and 8.",
            )
        for name in ("p_drop_emb", "p_drop_attn"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"policy.{name} is {getattr(self, name)}.", "Give a probability in [0, 1).")
        if not self.dt_s > 0.0:
            raise ConfigError(f"policy.dt_s is {self.dt_s}.", "Give seconds above 0.")
        if self.num_inference_steps > self.num_train_timesteps:
            raise ConfigError(
                f"policy.num_inference_steps is {self.num_inference_steps}.",
                f"There are {self.num_train_timesteps} timesteps (num_train_timesteps); ask for no more.",
            )
        if not 0 <= self.first_timestep < self.num_train_timesteps:
            raise ConfigError(
                f"policy.first_timestep is {self.first_timestep}.",
                f"Give a training timestep, 0..{self.num_train_timesteps - 1}.",
            )
        if self.prediction_type != "epsilon":
            raise ConfigError(
                f"policy.prediction_type is {self.prediction_type!r}.", "Only 'epsilon' is known."
            )
        schedules = ("squaredcos_cap_v2", "linear", "scaled_linear")
        if self.beta_schedule not in schedules:
            raise ConfigError(
                f"policy.beta_schedule is {self.beta_schedule!r}.",
                did_you_mean(self.beta_schedule, schedules),
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.n_emb // self.n_head

    @property
    def n_memory(self) -> int:
        """Tokens of the encoder memory: the observations, one pooled VL and one pooled reasoning token."""
        return self.n_observation + 2


PRESETS: dict[str, PolicyConfig] = {
    "seed": PolicyConfig(),
    "medium": PolicyConfig(n_emb=640, n_head=10, n_layer=8),
    "light": PolicyConfig(n_emb=512, n_head=8, n_layer=6),
    "compact": PolicyConfig(
        n_emb=256, n_head=8, n_layer=4, vl_width=256, reasoning_width=256, status_width=COMPACT_STATUS_FIELDS
    ),
}
"""The study's planner, its two proposed smaller ones, and the one that ships trained."""


def preset(name: str, **changes: object) -> PolicyConfig:
    """A preset, with some fields changed.

    Args:
        name: of the preset; changes may follow as text, `seed+n_layer=8+merged_attention=true`.
        changes: of fields.

    Raises:
        ConfigError: there is no such preset or field, or a change is out of range.
    """
    name, *texts = name.split("+")
    if name not in PRESETS:
        raise ConfigError(f"There is no planner preset {name!r}.", did_you_mean(name, PRESETS))
    given: dict[str, object] = {}
    for text in texts:
        key, found, value = text.partition("=")
        if key not in PolicyConfig.__dataclass_fields__:
            raise ConfigError(
                f"Preset {name!r} has no field {key!r}.", did_you_mean(key, PolicyConfig.__dataclass_fields__)
            )
        given[key] = yaml.safe_load(value)
        if not found or type(given[key]) is not type(getattr(PRESETS[name], key)):
            raise ConfigError(
                f"Preset {name!r} was to be changed by {text!r}.",
                f"Write {key}=value, for example {key}={getattr(PRESETS[name], key)}.",
            )
    return replace(PRESETS[name], **{**given, **changes})  # type: ignore[arg-type]


def proposals(config: PolicyConfig) -> dict[str, PolicyConfig]:
    """The study's other networks: fewer layers, narrower, merged attention. Each needs its own training.

    Args:
        config: what they are changes of; those that would not make it smaller are left out.

    Returns:
        By the change, written as behind a preset's name: `n_layer=8`, `n_emb=640+n_head=10`.
    """
    found = {f"n_layer={count}": replace(config, n_layer=count) for count in (8, 6) if count < config.n_layer}
    for width, heads in ((640, 10), (512, 8)):
        if width < config.n_emb:
            found[f"n_emb={width}+n_head={heads}"] = replace(config, n_emb=width, n_head=heads)
    if not config.merged_attention:
        found["merged_attention=true"] = replace(config, merged_attention=True)
    return found


@dataclass(frozen=True)
class EngineConfig:
    """What runs the network.

    Attributes:
        name: `auto`, or a name of `tickdrive.planner.engine`: on the CPU `onnx`, `traced`; on CUDA `fused`,
            `compiled`, `graph`; on both `hoisted`, `cached`, `reference`.
        device: a torch device, or `auto` (CUDA where there is one).
        dtype: `fp32`, `bf16`, `fp16`, or `auto` (fp16 on CUDA, fp32 on the CPU).
    """

    name: str = "auto"
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class PdmServerConfig:
    """The whole of `configs/pdm_server.yaml`."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)


def load_pdm_server_config(
    path: str | Path | None = None, overrides: tuple[str, ...] = ()
) -> PdmServerConfig:
    """Read a planner configuration.

    Args:
        path: YAML file; None for the one that ships.
        overrides: `policy.n_layer=8` and the like.

    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
    shipped = Path(__file__).resolve().parent.parent / "configs" / "pdm_server.yaml"
    return load_config(PdmServerConfig, path or shipped, overrides)
