"""Why a plan takes as long as it does: each of the study's suspicions measured on a user's own configuration.

The study's authors felt 2 s and suspected 100 steps, the batch, the CPU, and pre- and post-processing or
feature extraction outside the figure. Here each is measured beside the form in question, all in turn; so is
each option that would save time, with what it costs.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tickdrive.planner.benchmark import (
    Form,
    FormSpec,
    build_forms,
    close_forms,
    deviation,
    distinct,
    runnable,
)
from tickdrive.planner.engine import engine_names, runs_in
from tickdrive.planner.network_config import proposals
from tickdrive.planner.policy import DiffusionPolicy
from tickdrive.planner.profile import Profile, profile_engine
from tickdrive.planner.random_weights import randomize
from tickdrive.planner.timing import take_turns

USERS = "yours"
"""Name of the user's network among the forms."""
STEP_COUNTS = (100, 10, 5, 2, 1)
BATCHES = (1, 4, 8)
PROCESSING_RUNS = 20
_UNSTEADY = 1.5


@dataclass(frozen=True)
class Finding:
    """A suspicion and what was measured of it.

    Attributes:
        suspicion: what might be the cause.
        measured: the figures.
        share: of the user's whole plan that it accounts for, so what would go without it; None where it
            could not be measured.
        verdict: what that says.
    """

    suspicion: str
    measured: str
    share: float | None
    verdict: str


@dataclass(frozen=True)
class Saving:
    """An option and what it would save.

    Attributes:
        option: what to change.
        p50_ms: of a whole plan with it.
        saves_ms: against the user's form; negative where it is slower.
        saves: the same as a share.
        cost: what it takes: nothing (exact), error, or a new training.
        rel_err: against the reference, same weights and steps; None where the plan is another one.
    """

    option: str
    p50_ms: float
    saves_ms: float
    saves: float
    cost: str
    rel_err: float | None


@dataclass(frozen=True)
class Diagnosis:
    """Result of `diagnose`.

    Attributes:
        profile: the user's form, taken apart.
        p50_ms: of the user's form among the others.
        findings: the suspicions, in the study's order.
        savings: the options, best first.
    """

    profile: Profile
    p50_ms: float
    findings: tuple[Finding, ...]
    savings: tuple[Saving, ...]

    @property
    def unsteady(self) -> bool:
        """Whether the same plan's times, taken apart and among the options, differ by half."""
        apart, among = self.profile.plan_ms, self.p50_ms
        return max(apart, among) > _UNSTEADY * min(apart, among)


def diagnose(
    policy: DiffusionPolicy,
    spec: FormSpec,
    device: torch.device,
    trained: bool,
    tokens: tuple[int, int],
    seconds: float = 1.0,
    runs: int = 10,
    extraction_ms: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Profile a form, and measure the suspicions and options beside it.

    Args:
        policy: the user's network.
        spec: the user's form; its `preset` is replaced.
        device: the user's.
        trained: whether the policy's weights are trained ones.
        tokens: numbers of VL and reasoning tokens.
        seconds: of measuring for each form; a plan that takes longer is measured once.
        runs: plans to take apart.
        extraction_ms: of one tick's feature extraction, where the caller could measure it.
        on_progress: told what is being done.

    Raises:
        PlannerError: an unknown engine, dtype or step count.
    """
    spec = dataclasses.replace(spec, preset=USERS)
    policies = {USERS: policy}
    networks = proposals(policy.config)
    policies |= {name: randomize(DiffusionPolicy(config).eval()) for name, config in networks.items()}
    engines = engine_names(device)
    limit = policy.config.num_train_timesteps
    compared = {
        "steps": [dataclasses.replace(spec, steps=count) for count in STEP_COUNTS if count <= limit],
        "batch": [dataclasses.replace(spec, batch=count) for count in BATCHES],
        "engine": [dataclasses.replace(spec, engine=name, dtype="auto") for name in engines],
        "dtype": [
            dataclasses.replace(spec, engine="hoisted", dtype="bf16"),
            *(
                dataclasses.replace(spec, engine=name, dtype="int8")
                for name in engines
                if runs_in(name, torch.int8)
            ),
        ],
        "network": [dataclasses.replace(spec, preset=name) for name in networks],
    }
    groups = {"own": [spec]}  # as asked for: where it does not run, that is said
    for name, forms in compared.items():
        groups[name] = [runnable(form, policies[form.preset].config) for form in forms]
    specs = [item for group in groups.values() for item in group]
    built = build_forms(specs, device, policies, tokens, on_progress=on_progress)
    own = built[0]
    other = _other_device(device)
    elsewhere = []
    if other is not None:
        there = runnable(_elsewhere(spec, other), policy.config)
        elsewhere = build_forms([there], other, {USERS: policy}, tokens, None, on_progress)
    if on_progress:
        on_progress(f"taking {own.engine.label} apart")
    profile = profile_engine(own.engine, own.sets, own.spec.steps, runs)
    every = [*distinct(built), *elsewhere]
    if on_progress:
        on_progress(f"measuring {len(every)} forms in turn")
    taken = take_turns([form.run for form in every], seconds, min_runs=1)
    p50 = {id(form): float(np.median(ms)) for form, ms in zip(every, taken, strict=True)}
    own_ms = p50[id(own)]
    ready = iter(built)
    times = {
        name: [(form, p50[id(form)]) for form in itertools.islice(ready, len(group))]
        for name, group in groups.items()
    }
    findings = (
        _steps_finding(own, own_ms, times["steps"]),
        _batch_finding(own, own_ms, times["batch"]),
        _device_finding(own, own_ms, [(form, p50[id(form)]) for form in elsewhere]),
        _processing_finding(own, own_ms),
        _extraction_finding(own_ms, extraction_ms),
    )
    savings = []
    for name in ("engine", "dtype", "steps", "network"):
        for form, ms in times[name]:
            if form is not own and not (name == "steps" and form.spec.steps > own.spec.steps):
                savings.append(_saving(name, form, own, own_ms, ms, trained))
    close_forms(every)
    savings = list({item.option: item for item in savings}.values())
    savings.sort(key=lambda item: item.p50_ms)
    return Diagnosis(profile, own_ms, findings, tuple(savings))


def _steps_finding(own: Form, own_ms: float, times: Sequence[tuple[Form, float]]) -> Finding:
    by_count = {form.spec.steps: ms for form, ms in times}
    measured = ", ".join(f"{count} steps {_ms(ms)}" for count, ms in by_count.items())
    steps = own.spec.steps
    if steps > 10 and 10 in by_count:
        share = 1.0 - by_count[10] / own_ms
        return Finding("100 steps instead of 10", measured, share, f"yes: 10 steps would save {share:.0%}")
    share = 0.0
    verdict = f"no: it runs {steps}"
    if 100 in by_count:
        verdict += f"; with 100 it would be {_ms(by_count[100])}"
    return Finding("100 steps instead of 10", measured, share, verdict)


def _batch_finding(own: Form, own_ms: float, times: Sequence[tuple[Form, float]]) -> Finding:
    by_count = {form.spec.batch: ms for form, ms in times}
    measured = ", ".join(f"batch {count} {_ms(ms)}" for count, ms in by_count.items())
    batch = own.spec.batch
    share = 1.0 - by_count[1] / own_ms if batch > 1 else 0.0
    if batch > 1:
        verdict = f"batch {batch} costs {share:.0%} of the plan, {_ms(own_ms / batch)} for each request"
    else:
        each = by_count[max(by_count)] / max(by_count)
        verdict = f"no: it plans 1; of {max(by_count)} at once each would take {_ms(each)}"
    return Finding("batch size", measured, share, verdict)


def _device_finding(own: Form, own_ms: float, elsewhere: Sequence[tuple[Form, float]]) -> Finding:
    title, here = "CPU instead of GPU", own.engine.device.type
    if not elsewhere:
        return Finding(title, f"{here} {_ms(own_ms)}", None, "no GPU here: not measured")
    form, ms = elsewhere[0]
    engine = "" if form.spec.engine == own.spec.engine else f" (engine {form.spec.engine})"
    measured = f"{here} {_ms(own_ms)}, {form.engine.device.type} {_ms(ms)}{engine}"
    if here == "cuda":
        return Finding(title, measured, 0.0, "no: it runs on the GPU")
    share = 1.0 - ms / own_ms
    return Finding(title, measured, share, f"the GPU would save {share:.0%}" if share > 0 else "no")


def _elsewhere(spec: FormSpec, other: torch.device) -> FormSpec:
    """The form on another kind of device; where its engine does not run there, the quickest one that does."""
    names = engine_names(other)
    if spec.engine in (*names, "auto"):
        return spec
    return dataclasses.replace(spec, engine=names[-1], dtype="auto")


def _processing_finding(own: Form, own_ms: float) -> Finding:
    """What lies around the plan: conditioning arrays to the device before it, waypoints out after it."""
    device = own.engine.device
    features, status, noise = own.sets[0]
    tensors = (features.vl_tokens, features.reasoning_tokens, features.observation_tokens, status, noise)
    arrays = [tensor.cpu().numpy() for tensor in tensors]
    before, after = [], []
    trajectory = noise.to(own.engine.trajectory_dtype)
    for _ in range(PROCESSING_RUNS):
        start = time.perf_counter_ns()
        for array in arrays:
            torch.from_numpy(array.copy()).to(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        before.append((time.perf_counter_ns() - start) / 1e6)
        start = time.perf_counter_ns()
        own.engine._waypoints(trajectory)
        after.append((time.perf_counter_ns() - start) / 1e6)
    pre, post = float(np.median(before)), float(np.median(after))
    share = (pre + post) / (own_ms + pre)
    return Finding(
        "pre- and post-processing",
        f"arrays to the device {_ms(pre)} (outside the plan), to metres and the host {_ms(post)} (in it)",
        share,
        f"{share:.1%} of the whole",
    )


def _extraction_finding(own_ms: float, extraction_ms: float | None) -> Finding:
    title = "feature extraction, left out of the timing"
    if extraction_ms is None:
        return Finding(
            title, f"plan {_ms(own_ms)}", None, "no feature extractor for this network: not measured"
        )
    share = extraction_ms / (own_ms + extraction_ms)
    return Finding(
        title,
        f"extraction {_ms(extraction_ms)}, plan {_ms(own_ms)}",
        share,
        f"{share:.0%} of both together, outside every figure of the plan",
    )


def _saving(group: str, form: Form, own: Form, own_ms: float, ms: float, trained: bool) -> Saving:
    spec = form.spec
    rel_err = None
    if group == "network":
        option, cost = spec.preset, "a training of its own"
        if spec.engine != own.spec.engine:
            option += f", engine {spec.engine}"
    elif group == "steps":
        option, cost = f"steps {spec.steps}", "accuracy: fewer steps, another plan"
    else:
        option = f"engine {spec.engine} {spec.dtype}"
        rel_err, _ = deviation(form)
        exact = spec.dtype == "fp32"
        weights = "" if trained else ", random weights"
        cost = "nothing: the same plan" if exact else f"rounding: relative error {rel_err:.1g}{weights}"
    saves = own_ms - ms
    return Saving(option, ms, saves, saves / own_ms, cost, rel_err)


def _other_device(device: torch.device) -> torch.device | None:
    if device.type == "cuda":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


def _ms(ms: float) -> str:
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"
