"""`tickdrive evaluate`: what is refused before a simulator is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.agent_choice import agent_config_text, choose_agent
from tickdrive.scripts.evaluate import EvaluateOptions, run


def test_resuming_with_another_agent_configuration_is_refused(short_route: Path, tmp_path: Path):
    choose_agent("diffusion", None, ["planner.steps=5"], tmp_path)
    before = agent_config_text(tmp_path)
    options = EvaluateOptions(short_route, out=tmp_path, resume=True, settings=("planner.steps=2",))
    with pytest.raises(ConfigError) as caught:
        run(options)
    assert "there steps: 5, now steps: 2" in caught.value.what
    assert agent_config_text(tmp_path) == before
