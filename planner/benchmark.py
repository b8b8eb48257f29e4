"""Planner benchmark: forms side by side in one run, each figure with all that it depends on.

Warm-up is apart; all forms take turns, a plan each, in an order drawn anew every turn; inputs rotate among
several sets; the clock stops when the waypoints are on the host. The error of every form is taken against the
fp32 reference, on the same weights, inputs and noise; those inputs are none that were timed, and an engine's
static outputs are poisoned before.

`bandwidth_share` is what the denoising loop reads a second, over what reading memory reaches on this device
in this run. Counted as read: each weight that a step uses, once a step, and in engines that hoist, each
step's keys, values and AdaLN parameters, once; activations are not. It passes 1 where the loop's weights lie
in a cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from tickdrive.planner.engine import (
    DTYPES,
    Inputs,
    PlannerEngine,
    build_engine,
    engine_names,
    example_inputs,
    resolve_device,
    resolve_dtype,
    runs_in,
)
from tickdrive.planner.errors import PlannerError
from tickdrive.planner.network_config import PolicyConfig, proposals
from tickdrive.planner.network_config import preset as preset_config
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.source import source_commit
from tickdrive.planner.timing import (
    device_name,
    driver_version,
    memory_bandwidth_gb_s,
    take_turns,
)
from tickdrive.planner.tracing import Tracer
from tickdrive.planner.types import Features

SCOPE = "conditioning tensors on the device -> waypoints on the host"
INPUT_SETS = 4
CHECKED_SETS = 4
LOOP_RUNS = 3
DEVICE_RUNS = 20
STUDY_TOKENS = (512, 7)
COMPACT_TOKENS = (192, 7)
"""VL and reasoning tokens of the study, and of the perception that ships."""


@dataclass(frozen=True)
class FormSpec:
    """What is to be measured.

    Attributes:
        preset: name of a preset, with changes behind it (`seed+n_layer=8`).
        engine: name of an engine.
        dtype: key of `engine.DTYPES`, or `auto`.
        batch: plans at once.
        steps: denoising steps.
    """

    preset: str
    engine: str
    dtype: str = "auto"
    batch: int = 1
    steps: int = 10


@dataclass(frozen=True)
class BenchmarkRow:
    """One measured form.

    Attributes:
        preset: of the network, with changes.
        engine: as asked for.
        ran: the label of the engine that ran, with any fallback.
        device: kind of device.
        device_name: its model.
        driver: of a GPU, else None.
        dtype: of the network.
        batch: plans at once.
        steps: denoising steps.
        n_vl: VL tokens.
        n_reasoning: reasoning tokens.
        p50_ms: median of a whole plan.
        p99_ms: 99th percentile.
        device_ms: median from inputs to waypoints on the device; None where the engine does not tell.
        runs: plans that were timed.
        rel_err: |plan - reference| / |reference|, largest of the checked inputs; both counted from the middle
            of the policy's bounds, so that a distance common to all plans does not hide an error.
        max_deviation_cm: largest distance of a waypoint from the reference's.
        checked: inputs that the error was taken of.
        inputs: `random`, or `recorded` drives.
        bandwidth_share: see the module's text; None where the loop cannot be told apart.
        bandwidth_gb_s: what reading memory reaches here.
        weights: `random` or `checkpoint`.
        threads: of torch.
        scope: what the time covers.
        torch: version.
        commit: of the source, or `unknown`.
    """

    preset: str
    engine: str
    ran: str
    device: str
    device_name: str
    driver: str | None
    dtype: str
    batch: int
    steps: int
    n_vl: int
    n_reasoning: int
    p50_ms: float
    p99_ms: float
    device_ms: float | None
    runs: int
    rel_err: float
    max_deviation_cm: float
    checked: int
    inputs: str
    bandwidth_share: float | None
    bandwidth_gb_s: float
    weights: str
    threads: int
    scope: str
    torch: str
    commit: str


@dataclass(frozen=True)
class Form:
    """A form that is built and warm.

    Attributes:
        spec: what was asked for, its dtype resolved.
        engine: that runs it.
        reference: on the same weights.
        policy: its weights.
        sets: inputs that rotate while timing.
        checks: inputs for the error.
    """

    spec: FormSpec
    engine: PlannerEngine
    reference: PlannerEngine
    policy: DiffusionPolicy
    sets: Sequence[Inputs]
    checks: Sequence[Inputs]

    def run(self, turn: int) -> None:
        """One plan, ending with the waypoints on the host."""
        self.engine.plan(*self.sets[turn % len(self.sets)], self.spec.steps)


def study_forms(preset: str, device: str | torch.device = "auto") -> list[FormSpec]:
    """The study's proposals on a preset: engines, dtypes, steps, batches, then other networks, one at a time.

    Raises:
        PlannerError: no such device.
        ConfigError: no such preset.
    """
    where = resolve_device(device)
    engines = engine_names(where)
    forms = [FormSpec(preset, name) for name in engines]
    forms += [FormSpec(preset, "reference", steps=100)]
    forms += [FormSpec(preset, "hoisted", "bf16")]
    forms += [FormSpec(preset, name, "int8") for name in ("onnx", "fused") if name in engines]
    forms += [FormSpec(preset, engines[-1], steps=count) for count in (5, 2, 1)]
    forms += [FormSpec(preset, engines[-1], batch=count) for count in (2, 4, 8)]
    for change in proposals(preset_config(preset)):
        forms += [FormSpec(f"{preset}+{change}", name) for name in ("reference", engines[-1])]
    return [runnable(form, preset_config(form.preset)) for form in forms]


def runnable(form: FormSpec, config: PolicyConfig) -> FormSpec:
    """The form, on engine `compiled` where it is `fused` and the network has one attention a layer, not two.

    Args:
        form: what is to be measured.
        config: of its network.
    """
    if form.engine == "fused" and config.merged_attention:
        return replace(form, engine="compiled", dtype="auto")
    return form


def run_planner_benchmark(
    presets: Sequence[str] = ("compact",),
    engines: Sequence[str] | None = None,
    device: str = "auto",
    dtypes: Sequence[str] = ("auto",),
    batches: Sequence[int] = (1,),
    steps: Sequence[int] = (10,),
    seconds: float = 2.0,
    policies: Mapping[str, DiffusionPolicy] | None = None,
    tokens: tuple[int, int] | None = None,
    forms: Sequence[FormSpec] | None = None,
    recorded: Sequence[Inputs] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure every combination, all of them in turn; the reference runs in fp32 only.

    Args:
        presets: names of presets, with changes behind them (`seed+n_layer=8`).
        engines: names of engines; None for all that run on the device.
        device: torch device or `auto`.
        dtypes: keys of `engine.DTYPES`, or `auto`.
        batches: batch sizes.
        steps: step counts.
        seconds: of measuring for each row, at least; a row gets at least 5 plans.
        policies: trained policies by preset; a preset that is not among them gets random weights.
        tokens: numbers of VL and of reasoning tokens; None for 512 and 7 at the study's width, 192 and 7
            else.
        forms: what to measure, in place of the combinations of the first five.
        recorded: inputs of batch 1 from recorded drives, on the CPU; used with trained policies.
        on_progress: told what is being done.

    Returns:
        Rows as dictionaries; see `BenchmarkRow`.

    Raises:
        PlannerError: an unknown engine, device or dtype, or a duration that is not positive.
        ConfigError: an unknown preset.
    """
    if not seconds > 0.0:
        raise PlannerError(f"The benchmark was to run {seconds} s a row.", "Give seconds above 0.")
    where = resolve_device(device)
    if forms is None:
        kinds = engines or engine_names(where)
        product = itertools.product(presets, batches, steps, kinds, dtypes)
        forms = [FormSpec(name, kind, dtype, batch, count) for name, batch, count, kind, dtype in product]
        forms = [form for form in forms if _runs(form, where)] or forms
    built = distinct(build_forms(forms, where, policies, tokens, recorded, on_progress))
    if on_progress:
        on_progress(f"measuring {len(built)} forms in turn")
    bandwidth_gb_s = memory_bandwidth_gb_s(where)
    times = take_turns([form.run for form in built], seconds)
    rows = []
    for form, taken_ms in zip(built, times, strict=True):
        if on_progress:
            on_progress(f"checking {form.engine.label}, {form.spec.preset}")
        rows.append(asdict(_row(form, taken_ms, bandwidth_gb_s, where, policies or {}, recorded)))
    close_forms(built)
    return rows


def build_forms(
    specs: Sequence[FormSpec],
    device: torch.device,
    policies: Mapping[str, DiffusionPolicy] | None = None,
    tokens: tuple[int, int] | None = None,
    recorded: Sequence[Inputs] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> list[Form]:
    """Build and warm up; see `run_planner_benchmark`. Weights and engines are shared between forms.

    Returns:
        One for each of `specs`; the same object for those that turn out to be the same form.
    """
    trained: dict[str, DiffusionPolicy] = dict(policies or {})
    engines: dict[tuple[str, str, str], PlannerEngine] = {}
    forms: dict[FormSpec, Form] = {}
    asked_for: list[FormSpec] = []
    for asked in specs:
        kind = "fp32" if asked.engine == "reference" else _dtype_name(asked.dtype, device, asked.engine)
        spec = FormSpec(asked.preset, asked.engine, kind, asked.batch, asked.steps)
        asked_for.append(spec)
        if spec in forms:
            continue
        if on_progress:
            on_progress(f"warming up {spec.engine} {kind}, {spec.preset}, batch {spec.batch}")
        if spec.preset not in trained:
            trained[spec.preset] = randomize(DiffusionPolicy(preset_config(spec.preset)).eval())
        policy = trained[spec.preset]

        def engine_of(
            name: str, dtype: str, preset: str = spec.preset, policy: DiffusionPolicy = policy
        ) -> PlannerEngine:
            key = (preset, name, dtype)
            if key not in engines:
                engines[key] = build_engine(name, policy, device, dtype)
            return engines[key]

        known = recorded if spec.preset in (policies or {}) else None
        counts = tokens or token_counts(policy)
        if known:
            counts = known[0][0].vl_tokens.shape[1], known[0][0].reasoning_tokens.shape[1]
            checks = _batched(known, spec.batch, device)
            sets = checks[:INPUT_SETS]
        else:
            sets, checks = (
                [
                    example_inputs(policy.config, spec.batch, *counts, device, seed=first + index)
                    for index in range(count)
                ]
                for first, count in ((1, INPUT_SETS), (1001, CHECKED_SETS))
            )
        engine = engine_of(spec.engine, kind)
        engine.warm_up(*counts, spec.batch, (spec.steps,), runs=1)
        forms[spec] = Form(spec, engine, engine_of("reference", "fp32"), policy, sets, checks)
    return [forms[spec] for spec in asked_for]


def distinct(forms: Sequence[Form]) -> list[Form]:
    """Each form once."""
    return list({form.spec: form for form in forms}.values())


def close_forms(forms: Sequence[Form]) -> None:
    """Close the engines of forms."""
    for form in forms:
        form.engine.close()
        form.reference.close()


def deviation(form: Form) -> tuple[float, float]:
    """Largest relative error and largest distance of a waypoint [m] from the reference, on `checks`."""
    bounds = form.policy.normalizer
    center = ((bounds.low_m + bounds.high_m) / 2.0).cpu().numpy()
    errors, off_m = [], []
    for item in form.checks:
        want = form.reference.plan(*item, form.spec.steps).waypoints_in_ego
        for tensor in form.engine.static_outputs():
            tensor.fill_(torch.nan)
        got = form.engine.plan(*item, form.spec.steps).waypoints_in_ego
        errors.append(float(np.linalg.norm(got - want) / np.linalg.norm(want - center)))
        off_m.append(float(np.linalg.norm(got - want, axis=-1).max()))
    return max(errors), max(off_m)


def token_counts(policy: DiffusionPolicy) -> tuple[int, int]:
    """Numbers of VL and reasoning tokens that a policy is measured with."""
    return STUDY_TOKENS if policy.config.vl_width == 2560 else COMPACT_TOKENS


def _row(
    form: Form,
    taken_ms: Sequence[float],
    bandwidth_gb_s: float,
    device: torch.device,
    policies: Mapping[str, DiffusionPolicy],
    recorded: Sequence[Inputs] | None,
) -> BenchmarkRow:
    rel_err, off_m = deviation(form)
    features = form.sets[0][0]
    trained = form.spec.preset in policies
    spec = form.spec
    n_context = features.vl_tokens.shape[1] + features.reasoning_tokens.shape[1]
    read = form.engine.loop_bytes(spec.batch, spec.steps, n_context) / 1e9
    loop_ms, device_ms = _by_stage(form)
    return BenchmarkRow(
        preset=spec.preset,
        engine=spec.engine,
        ran=form.engine.label,
        device=device.type,
        device_name=device_name(device),
        driver=driver_version(device),
        dtype=spec.dtype,
        batch=spec.batch,
        steps=spec.steps,
        n_vl=features.vl_tokens.shape[1],
        n_reasoning=features.reasoning_tokens.shape[1],
        p50_ms=float(np.percentile(taken_ms, 50)),
        p99_ms=float(np.percentile(taken_ms, 99)),
        device_ms=device_ms,
        runs=len(taken_ms),
        rel_err=rel_err,
        max_deviation_cm=100.0 * off_m,
        checked=len(form.checks),
        inputs="recorded" if trained and recorded else "random",
        bandwidth_share=read / (loop_ms / 1e3) / bandwidth_gb_s if loop_ms else None,
        bandwidth_gb_s=bandwidth_gb_s,
        weights="checkpoint" if trained else "random",
        threads=torch.get_num_threads(),
        scope=SCOPE,
        torch=torch.__version__,
        commit=source_commit() or "unknown",
    )


def _by_stage(form: Form) -> tuple[float, float | None]:
    """The quickest denoising loop of a few plans, 0 where the engine does not tell it apart; `device_ms`."""
    tracer = Tracer()
    loops: list[float] = []
    wholes: list[float] = []
    for turn in range(DEVICE_RUNS):
        if turn >= LOOP_RUNS and not wholes:
            break
        tracer.begin()
        form.engine.plan(*form.sets[turn % len(form.sets)], form.spec.steps, tracer)
        spans = tracer.end().spans
        loops.append(sum(span.ms for span in spans if span.name == "denoise"))
        # of a recording, timed by the device's own events
        whole_ms = sum(span.ms for span in spans if span.name != "copy in")
        if whole_ms and any(span.name == "copy in" for span in spans):
            wholes.append(whole_ms)
    return min(loops), float(np.median(wholes)) if wholes else None


def _batched(inputs: Sequence[Inputs], batch: int, device: torch.device) -> list[Inputs]:
    """Inputs of batch 1 put together to batches; the last ones that fill none are left out."""
    joined = []
    for first in range(0, len(inputs) - batch + 1, batch):
        part = inputs[first : first + batch]
        features = [item[0] for item in part]
        vl, reasoning, observed = (
            torch.cat([getattr(item, name) for item in features]).to(device)
            for name in ("vl_tokens", "reasoning_tokens", "observation_tokens")
        )
        joined.append(
            (
                Features(vl_tokens=vl, reasoning_tokens=reasoning, observation_tokens=observed),
                torch.cat([item[1] for item in part]).to(device),
                torch.cat([item[2] for item in part]).to(device),
            )
        )
    return joined


def _runs(form: FormSpec, device: torch.device) -> bool:
    """Whether the engine knows the dtype; the reference always runs, in fp32."""
    kind = resolve_dtype(form.dtype, device, form.engine)
    return form.engine in ("reference", "auto") or runs_in(form.engine, kind)


def _dtype_name(dtype: str, device: torch.device, engine: str) -> str:
    found = resolve_dtype(dtype, device, engine)
    return next(key for key, value in DTYPES.items() if value == found)
