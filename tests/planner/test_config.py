from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tickdrive.planner.config import config_hash, load_config, to_yaml
from tickdrive.planner.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Inner:
    steps: int = 10
    kind: str = "ddim"


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    rate_hz: float = 20.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate_hz <= 0:
            raise ConfigError(f"rate_hz is {self.rate_hz}.", "Give a positive rate.")


def test_file_lies_over_defaults_and_overrides_over_both(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("inner:\n  steps: 5\nrate_hz: 10\n")
    config = load_config(Outer, path, ["inner.steps=2"])
    assert (config.inner.steps, config.inner.kind, config.rate_hz) == (2, "ddim", 10.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner:\n  stps: 5\n", "Did you mean 'steps'?"),
        ("iner:\n  steps: 5\n", "Did you mean 'inner'?"),
        ("inner:\n  steps: many\n", "steps"),
        ("rate_hz: -1\n", "Give a positive rate."),
        ("- a list\n", "no mapping"),
        ("a: [unclosed\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_and_mended(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(Outer, path)
    assert message in str(raised.value)


def test_a_missing_file_and_a_malformed_override_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Outer, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="has no '='"):
        load_config(Outer, None, ["inner.steps"])
    with pytest.raises(ConfigError, match="Did you mean 'steps'"):
        load_config(Outer, None, ["inner.step=3"])


def test_yaml_reads_back_to_the_same_configuration(tmp_path):
    config = load_config(Outer, None, ["inner.steps=7"])
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(config))
    assert load_config(Outer, path) == config
    assert config_hash(load_config(Outer, path)) == config_hash(config)
    assert config_hash(config) != config_hash(Outer())


def test_the_nearest_name_is_suggested_only_when_one_is_near():
    assert did_you_mean("sead", ["seed", "light"]) == "Did you mean 'seed'? Known: light, seed."
    assert did_you_mean("zzz", ["seed", "light"]) == "Known: light, seed."
