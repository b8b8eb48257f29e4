"""`tickdrive bench drive` as a user runs it, on a planner small enough for the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

TICKS = 40
LABEL = "random weights, random features: it times, it does not drive"


def bench_drive(*arguments: str, cwd) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tickdrive.scripts.cli", "bench", "drive", *arguments]
    environment = {**os.environ, "TICKDRIVE_CACHE": str(cwd / "cache"), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench_drive")
    options = ["--preset", "compact+n_layer=1", "--steps", "4", "--ticks", str(TICKS)]
    done = bench_drive(*options, "--json", "figures.json", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((folder / "figures.json").read_text())["results"]
    return folder, done.stdout, row


def test_every_tick_takes_the_full_path(driven):
    _, _, row = driven
    stages = row["stages"]
    path = "decode localization route preprocess random_features planner postprocess control"
    assert {name: stages[name]["n"] for name in path.split()} == dict.fromkeys(path.split(), TICKS)
    assert not stages.keys() & {"vl", "reasoning"}, "nothing may pass for an extractor's time"
    assert row["ticks"] == TICKS and row["rungs"] == {"planned": TICKS} and row["steps"] == 4


def test_run_step_holds_all_of_its_stages(driven):
    _, _, row = driven
    whole, total = row["stages"]["run_step"], row["stages"]["total"]
    for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms"):
        assert whole[name] >= total[name] > 0.0
    assert whole["p50_ms"] <= whole["p95_ms"] <= whole["p99_ms"] <= whole["max_ms"]
    over = whole["max_ms"] > row["budget_ms"]
    assert (row["misses"] > 0) == over and row["miss_share"] == pytest.approx(row["misses"] / TICKS)


def test_it_is_labelled_wherever_it_shows(driven):
    _, shown, row = driven
    assert LABEL in shown and row["label"] == LABEL
    assert (row["weights"], row["features"]) == ("random", "random")
    assert row["engine"] == "auto" and list(row["ran"].values()) == [TICKS]
    assert row["device_name"] and row["torch"] and row["commit"] and "no extractor's cost" in row["scope"]
    assert (row["n_vl"], row["n_reasoning"]) == (192, 7)


def test_auto_is_built_and_measured_before_the_drive(driven):
    folder, _, row = driven
    choices = [json.loads(path.read_text()) for path in (folder / "cache").glob("choice-*.json")]
    assert len(choices) == 1, "drive and measurement must agree on what the choice depends on"
    assert next(iter(row["ran"])).startswith(choices[0]["engine"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "seeed"], "Did you mean 'seed'"),
        (["--preset", "compact+n_layers=1"], "Did you mean 'n_layer'"),
        (["--preset", "compact+n_layer=1", "--engine", "hosted"], "Did you mean 'hoisted'"),
        (["--preset", "compact+n_layer=1", "--dtype", "fp61"], "Did you mean"),
        (["--preset", "compact+n_layer=1", "--device", "cuba"], "cuda"),
    ],
)
def test_a_wrong_option_is_one_message_that_says_what_was_meant(tmp_path, arguments, message):
    done = bench_drive(*arguments, "--ticks", str(TICKS), cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
