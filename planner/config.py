"""The one configuration system: frozen dataclasses, filled from YAML and `key=value` overrides.

A configuration is a frozen dataclass whose `__post_init__` checks its values and raises `ConfigError`.
`load_config` merges, in this order, the dataclass's defaults, a YAML file and overrides; a key that does
not exist is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from tickdrive.planner.errors import ConfigError, did_you_mean

T = TypeVar("T")


def load_config(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Build a configuration.

    Args:
        cls: a frozen dataclass; its fields may be dataclasses, lists, dicts and scalars.
        path: YAML file laid over the defaults; `None` for the defaults alone.
        overrides: `a.b=value` strings laid over both; values are read as YAML.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (with the nearest one), or a value is
            of the wrong type or out of range.
    """
    schema = OmegaConf.structured(cls)
    layers: list[tuple[str, DictConfig]] = []
    if path is not None:
        layers.append((str(path), _read_yaml(Path(path))))
    for item in overrides:
        if "=" not in item:
            raise ConfigError(
                f"Override {item!r} has no '='.", "Write it as key=value, for example policy.n_layer=4."
            )
        layers.append((f"override {item!r}", OmegaConf.from_dotlist([item])))
    merged = schema
    for source, layer in layers:
        _check_keys(layer, schema, source)
        try:
            merged = OmegaConf.merge(merged, layer)
        except ConfigKeyError as error:  # pragma: no cover - _check_keys names it first
            raise ConfigError(f"{source}: {error}") from error
        except OmegaConfBaseException as error:
            raise ConfigError(f"{source}: {_one_line(error)}") from error
    try:
        return cast(T, OmegaConf.to_object(merged))
    except ConfigError:
        raise
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path or cls.__name__}: {_one_line(error)}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict of a configuration dataclass, in the order of its fields."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    """YAML text that `load_config` reads back to an equal configuration."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def config_hash(config: Any) -> str:
    """First 12 hex digits of the SHA-256 of the configuration's canonical JSON."""
    text = json.dumps(to_dict(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _read_yaml(path: Path) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"Config file {path} does not exist.", "Check the path.") from error
    except Exception as error:  # yaml's own errors carry the line
        raise ConfigError(
            f"Config file {path} is not valid YAML: {_one_line(error)}.", "Mend that line."
        ) from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(
            f"Config file {path} holds no mapping at its top.", "Start it with `key: value` lines."
        )
    return loaded


def _check_keys(layer: DictConfig, schema: Any, source: str, prefix: str = "") -> None:
    """Name an unknown key with its nearest known one (OmegaConf's own message lists neither)."""
    if not isinstance(schema, DictConfig) or OmegaConf.get_type(schema) is dict:
        return
    for key in layer:
        name = str(key)
        if name not in schema:
            raise ConfigError(
                f"{source}: unknown key {prefix + name!r}.", did_you_mean(name, [str(k) for k in schema])
            )
        child = OmegaConf.select(layer, name, throw_on_missing=False)
        below = schema._get_node(name)
        if isinstance(child, DictConfig) and isinstance(below, DictConfig) and not below._is_none():
            _check_keys(child, below, source, f"{prefix}{name}.")


def _one_line(error: BaseException) -> str:
    """The library's message, which names the key on a line of its own, without its internals."""
    kept = [line.strip() for line in str(error).splitlines() if "object_type=" not in line]
    return ", ".join(filter(None, kept)) or type(error).__name__
