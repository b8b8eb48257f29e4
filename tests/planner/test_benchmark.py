import dataclasses
import json

import pytest

from tickdrive.planner.benchmark import FormSpec, run_planner_benchmark, runnable
from tickdrive.planner.errors import ConfigError, PlannerError
from tickdrive.planner.network_config import PolicyConfig
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize

TINY = PolicyConfig(
    n_emb=16, n_head=2, n_layer=2, n_encoder_layer=1, vl_width=8, reasoning_width=8, observation_width=8
)


def test_rows_carry_what_the_figures_depend_on():
    policy = randomize(DiffusionPolicy(TINY)).eval()
    rows = run_planner_benchmark(
        presets=["compact"],
        engines=["reference", "hoisted", "traced"],
        device="cpu",
        dtypes=["fp32", "bf16"],
        batches=[1, 2],
        steps=[2, 5],
        seconds=0.02,
        policies={"compact": policy},
        tokens=(6, 3),
    )
    forms = {(row["engine"], row["dtype"], row["batch"], row["steps"]) for row in rows}
    kinds = [
        ("reference", "fp32"),
        *((name, kind) for name in ("hoisted", "traced") for kind in ("fp32", "bf16")),
    ]
    assert forms == {(*kind, batch, steps) for kind in kinds for batch in (1, 2) for steps in (2, 5)}
    assert len(rows) == 20
    for row in rows:
        assert row["preset"] == "compact" and row["device"] == "cpu" and row["weights"] == "checkpoint"
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["runs"] >= 5
        assert row["n_vl"] == 6 and row["torch"] and row["scope"] and row["commit"] and row["threads"] >= 1
        if row["engine"] == "reference":
            assert row["rel_err"] == 0.0 and row["max_deviation_cm"] == 0.0
        elif row["dtype"] == "fp32":
            assert 0 <= row["rel_err"] < 1e-5
        else:
            assert 1e-4 < row["rel_err"] < 0.1 and row["max_deviation_cm"] > 0.01
    json.dumps(rows)


def test_wrong_requests_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'compact'"):
        run_planner_benchmark(presets=["compac"])
    with pytest.raises(PlannerError, match="seconds above 0"):
        run_planner_benchmark(seconds=0.0)


def test_a_network_that_the_kernels_do_not_know_is_measured_on_another_engine():
    merged = dataclasses.replace(TINY, merged_attention=True)
    asked = FormSpec("other", "fused", "int8", batch=2, steps=5)
    assert runnable(asked, TINY) == asked
    assert runnable(asked, merged) == FormSpec("other", "compiled", "auto", batch=2, steps=5)
    assert runnable(FormSpec("other", "reference"), merged) == FormSpec("other", "reference")
