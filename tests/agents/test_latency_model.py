"""The latency model in simulated time: which observations are taken, and what is in force when."""

import math

import pytest

from tickdrive.agents.config import LatencyConfig, load_agent_config
from tickdrive.agents.latency_model import LatencyModel, logged_latencies_us
from tickdrive.agents.tick_log import TickLog, TickRecord
from tickdrive.planner.errors import ConfigError, DataError
from tickdrive.planner.tracing import TickTrace

EDGES_US = [0, 1, 30_000, 49_999, 50_000, 50_001, 99_999, 100_000, 2_000_000]


def run(model, frames, tick_s=0.05, latency_us=None):
    """(frame observed, frame in force, weight) of each tick; what is computed is its observation's frame."""
    rows = []
    for k in range(frames):
        free = model.begin(7.3 + k * tick_s, k)
        if free:
            model.computed(k)
        applied = model.applied(latency_us or 0)
        rows.append((k if free else None, applied.old, applied.new, applied.weight_new))
        model.finish(0 if latency_us is None else latency_us)
    return rows


@pytest.mark.parametrize("latency_us", EDGES_US)
def test_quantised_a_plan_is_applied_after_the_latency_in_whole_ticks(latency_us):
    late = math.ceil(latency_us / 50_000)
    rows = run(LatencyModel(LatencyConfig(mode="fixed", ms=latency_us / 1000)), 100)
    for k, (observed, _, new, weight) in enumerate(rows):
        # the next observation is the first frame at or after the last one's effect
        assert (observed is not None) == (k % max(late, 1) == 0)
        expected = None if k < late else (k - late) - (k - late) % max(late, 1)
        assert (new, weight) == (expected, 1.0)


@pytest.mark.parametrize("latency_us", EDGES_US)
def test_measured_latency_follows_the_same_rule(latency_us):
    fixed = run(LatencyModel(LatencyConfig(mode="fixed", ms=max(latency_us, 1) / 1000)), 60)
    measured = run(LatencyModel(LatencyConfig(mode="measured")), 60, latency_us=max(latency_us, 1))
    assert measured == fixed


@pytest.mark.parametrize(
    ("latency_ms", "mixed_at", "weight"),
    [(0.0, None, 1.0), (5.0, 0, 0.9), (30.0, 0, 0.4), (50.0, None, 1.0), (80.0, 1, 0.4), (130.0, 2, 0.4)],
)
def test_subtick_mixes_over_the_tick_in_which_the_plan_takes_effect(latency_ms, mixed_at, weight):
    for mode in ("fixed", "measured"):
        if mode == "measured" and not latency_ms:
            continue
        config = LatencyConfig(mode=mode, ms=latency_ms if mode == "fixed" else 0.0, rounding="subtick")
        model = LatencyModel(config)
        rows = run(model, 40, latency_us=round(latency_ms * 1000))
        for k, (_, old, new, share) in enumerate(rows):
            if new is None:
                continue
            # the new one is in force from its observation's time + latency on
            mixed = mixed_at is not None and new + mixed_at == k
            assert share == pytest.approx(weight if mixed else 1.0)
            if mixed and k > mixed_at:
                assert old is not None and old < new


def test_latency_of_an_exact_tick_survives_the_simulators_clock():
    """CARLA adds up a 32-bit 0.05, so that its time is not on the grid."""
    tick_s = 0.05000000074505806
    rows = run(LatencyModel(LatencyConfig(mode="fixed", ms=50.0)), 5000, tick_s)
    assert [row[2] for row in rows[1:]] == list(range(4999))


def test_off_is_the_leaderboards_rule_and_logs_nothing():
    model = LatencyModel(LatencyConfig())
    assert [row[2] for row in run(model, 5)] == [0, 1, 2, 3, 4]
    assert model.record() is None


def test_the_record_tells_what_is_in_force():
    model = LatencyModel(LatencyConfig(mode="fixed", ms=120.0))
    said = []
    for k in range(5):
        if model.begin(0.05 * k, 100 + k):
            model.computed(k)
        model.applied()
        said.append(model.record())
    assert [(r.us, r.observed_frame, r.busy) for r in said] == [
        (None, None, False),
        (None, None, True),
        (None, None, True),
        (120_000, 100, False),
        (120_000, 100, True),
    ]


def log_of(path, latencies_ms, with_model):
    log = TickLog(path, {})
    for k, ms in enumerate(latencies_ms):
        log.append(
            TickRecord(k, 0.05 * k, TickTrace(ms, (), ms), None, 10, "plan", "planned", None, {}, None, {})
        )
    log.close()
    return path


def test_a_trace_is_replayed_and_begins_again(tmp_path, caplog):
    path = log_of(tmp_path / "ticks.jsonl", [30.0, 60.0, 110.0], with_model=False)
    model = LatencyModel(LatencyConfig(mode="trace", trace=str(path)))
    rows = run(model, 14)
    # 30 ms: 1 tick; 60: 2; 110: 3; and from the start again
    assert [row[0] for row in rows if row[0] is not None] == [0, 1, 3, 6, 7, 9, 12, 13]
    assert "from the start again" in caplog.text


def test_latencies_of_a_modelled_drive_are_those_it_states():
    def tick(k, us, observed):
        return {"total_ms": 1.0, "latency": {"us": us, "observed_frame": observed}, "frame": k}

    ticks = [tick(0, None, None), tick(1, 40_000, 0), tick(2, 120_000, 1), tick(3, 120_000, 1)]
    assert logged_latencies_us(ticks) == [40_000, 120_000]


def test_a_log_without_plans_cannot_be_replayed(tmp_path):
    path = log_of(tmp_path / "ticks.jsonl", [], with_model=False)
    with pytest.raises(DataError, match="no latencies"):
        LatencyModel(LatencyConfig(mode="trace", trace=str(path)))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["latency.ms=200"], "latency.mode=fixed"),
        (["latency.mode=fxed"], "fixed"),
        (["latency.mode=trace"], "latency.trace"),
        (["latency.trace=x"], "latency.trace"),
        (["latency.mode=fixed", "latency.ms=-1"], "latency.ms"),
        (["latency.rounding=whole"], "quantised"),
        (["budget.steps=[0]"], "budget.steps"),
    ],
)
def test_wrong_settings_are_named(overrides, named):
    with pytest.raises(ConfigError) as caught:
        load_agent_config(None, overrides)
    assert named in f"{caught.value.what} {caught.value.mend}"


def test_a_bare_off_is_off():
    assert load_agent_config(None, ["latency.mode=off"]).latency.mode == "off"
