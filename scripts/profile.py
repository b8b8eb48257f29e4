"""`tickdrive profile`: where a plan's milliseconds go, and what would save them."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.output import console, write_json

if TYPE_CHECKING:
    from tickdrive.planner.diagnosis import Diagnosis
    from tickdrive.planner.policy import DiffusionPolicy
    from tickdrive.planner.profile import Profile

_WIDTH = 100
_SMALL_SHARE = 0.03
"""A remainder below this share of its parent is not printed; it is in the JSON."""
_EXTRACTIONS = 10


@dataclass(frozen=True)
class ProfileOptions:
    """Options of the command.

    Attributes:
        preset: with random weights; changes may follow (`seed+n_layer=8`). None where another is given.
        checkpoint: shipped name or folder. None where another is given.
        config: a planner's YAML in the form of `configs/pdm_server.yaml`; random weights. None likewise.
        settings: changes to `config`, such as `policy.n_layer=8`.
        engine: name.
        device: torch device, or `auto`.
        dtype: or `auto`.
        batch: plans at once.
        steps: denoising steps; None for the network's.
        tokens: "512,7", VL and reasoning tokens; empty for the usual ones.
        seconds: of measuring for each form.
        json_file: machine form.
    """

    preset: str | None
    checkpoint: str | None
    config: Path | None
    settings: tuple[str, ...]
    engine: str
    device: str
    dtype: str
    batch: int
    steps: int | None
    tokens: str
    seconds: float
    json_file: Path | None


def run(options: ProfileOptions) -> None:
    """Profile, print, write.

    Raises:
        TickdriveError: the network cannot be had, or an option is wrong.
    """
    from tickdrive.planner.benchmark import FormSpec, token_counts
    from tickdrive.planner.diagnosis import USERS, diagnose
    from tickdrive.planner.engine import resolve_device

    device = resolve_device(options.device)
    policy, title, folder = _network(options)
    tokens = token_pair(options.tokens) or token_counts(policy)
    spec = FormSpec(
        USERS,
        options.engine,
        options.dtype,
        options.batch,
        policy.config.num_inference_steps if options.steps is None else options.steps,
    )
    with console.status("preparing") as status:
        extraction_ms = None if folder is None else _extraction_ms(folder, policy, str(device))
        found = diagnose(
            policy,
            spec,
            device,
            trained=folder is not None,
            tokens=tokens,
            seconds=options.seconds,
            extraction_ms=extraction_ms,
            on_progress=status.update,
        )
    _show(found, title, tokens)
    write_json(options.json_file, _as_json(found, title, tokens, device.type))


def _network(options: ProfileOptions) -> tuple[DiffusionPolicy, str, Path | None]:
    """The network, its name, and its folder where it is a checkpoint."""
    from tickdrive.agents.shared_models import resolve_checkpoint
    from tickdrive.planner.network_config import load_pdm_server_config, preset
    from tickdrive.planner.policy import DiffusionPolicy
    from tickdrive.planner.random_weights import randomize

    given = [options.preset, options.checkpoint, options.config]
    if sum(item is not None for item in given) > 1:
        raise ConfigError("More than one network was named.", "Give --preset, --checkpoint or --config.")
    if options.settings and options.config is None:
        raise ConfigError("--set changes a --config.", "For a preset write --preset seed+n_layer=8.")
    if options.config is not None:
        config = load_pdm_server_config(options.config, options.settings).policy
        return randomize(DiffusionPolicy(config).eval()), f"{options.config}, random weights", None
    if options.preset is not None:
        policy = randomize(DiffusionPolicy(preset(options.preset)).eval())
        return policy, f"preset {options.preset}, random weights", None
    name = options.checkpoint or "compact"
    folder = resolve_checkpoint(name)
    return DiffusionPolicy.from_pretrained(folder), f"checkpoint {name}", folder


def token_pair(text: str) -> tuple[int, int] | None:
    """Numbers of VL and reasoning tokens out of "512,7"; None for an empty text.

    Raises:
        ConfigError: it is something else.
    """
    if not text:
        return None
    try:
        n_vl, n_reasoning = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--tokens is {text!r}.", "Write two whole numbers, for example 512,7.") from error
    return n_vl, n_reasoning


def _extraction_ms(folder: Path, policy: DiffusionPolicy, device: str) -> float | None:
    """Median time of the checkpoint's own perception on one tick; None where it has none."""
    import torch

    from tickdrive.agents.config import PerceptionConfig
    from tickdrive.agents.perception.base import PERCEPTION_FOLDER, load_extractor

    if not (folder / PERCEPTION_FOLDER).is_dir():
        return None
    extractor = load_extractor(PerceptionConfig(), folder, policy.config, torch.device(device))
    inputs = extractor.example_inputs()
    extractor.extract(inputs)
    times = []
    for _ in range(_EXTRACTIONS):
        start = time.perf_counter_ns()
        extractor.extract(inputs)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return sorted(times)[len(times) // 2]


def _show(found: Diagnosis, title: str, tokens: tuple[int, int]) -> None:
    profile = found.profile
    console.print(
        f"{title}: engine {profile.engine}, batch {profile.batch}, {profile.steps} steps, "
        f"{tokens[0]} VL and {tokens[1]} reasoning tokens",
        markup=False,
    )
    console.print(_tree(profile))
    if not profile.apart:
        console.print(
            "A recording has no parts to tell apart; --engine hoisted or reference shows them.", markup=False
        )
    suspicions = Table(title="Why does it take that long?", title_justify="left", width=_WIDTH)
    for name in ("suspicion", "measured", "verdict"):
        suspicions.add_column(name, ratio=3 if name != "suspicion" else 2)
    for item in found.findings:
        suspicions.add_row(escape(item.suspicion), escape(item.measured), escape(item.verdict))
    console.print(suspicions)
    options = Table(title="What would save what", title_justify="left", width=_WIDTH)
    options.add_column("option")
    for name in ("p50 ms", "saves ms", "saves"):
        options.add_column(name, justify="right", no_wrap=True)
    options.add_column("what it costs")
    for saving in found.savings:
        options.add_row(
            escape(saving.option),
            f"{saving.p50_ms:.4g}",
            f"{saving.saves_ms:.4g}",
            f"{saving.saves:.0%}",
            escape(saving.cost),
        )
    console.print(options)
    for line in conclusion(found):
        console.print(line, markup=False, soft_wrap=True)


def _tree(profile: Profile) -> Table:
    table = Table(
        title=f"Where the time goes (whole plan, unwatched: p50 {profile.plan_ms:.4g} ms)",
        title_justify="left",
        width=_WIDTH,
    )
    table.add_column("part", ratio=1, no_wrap=True)
    for name in ("ms a plan", "ms a step", "calls", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = profile.rows()
    parents: dict[int, float] = {}
    for row in rows:
        parents[row["depth"]] = row["plan_ms"]
        whole = parents.get(row["depth"] - 1, row["plan_ms"])
        if row["name"] == "other" and row["plan_ms"] < _SMALL_SHARE * whole:
            continue
        table.add_row(
            "  " * row["depth"] + escape(row["name"]),
            f"{row['plan_ms']:.3f}",
            f"{row['step_ms']:.3f}",
            f"{row['calls']:.0f}",
            f"{row['share']:.1%}",
        )
    return table


def conclusion(found: Diagnosis) -> list[str]:
    """The answer in a few sentences."""
    profile = found.profile
    leaves = [
        (row["name"], row["plan_ms"], row["share"])
        for row, following in zip(profile.rows(), [*profile.rows()[1:], None], strict=True)
        if following is None or following["depth"] <= row["depth"]
    ]
    grouped: dict[str, float] = {}
    for name, _, share in leaves:
        key = "decoder layers" if name.startswith("layer ") else name
        grouped[key] = grouped.get(key, 0.0) + share
    largest = sorted(grouped.items(), key=lambda item: -item[1])[:3]
    lines = ["Most of a plan is " + ", ".join(f"{name} ({share:.0%})" for name, share in largest) + "."]
    blamed = [item for item in found.findings if item.share is not None and item.share >= 0.1]
    lines += [f"{item.suspicion}: {item.verdict}." for item in sorted(blamed, key=lambda i: -(i.share or 0))]
    free = [item for item in found.savings if item.cost.startswith("nothing") and item.saves > 0.03]
    if free:
        best = free[0]
        lines.append(
            f"For nothing, {best.option} takes {best.p50_ms:.4g} ms: {best.saves_ms:.4g} ms "
            f"({best.saves:.0%}) less."
        )
    else:
        lines.append("No exact option saves more than 3 %; the rest costs accuracy or a training.")
    if found.unsteady:
        lines.append(
            "The machine was busy with something else: the same plan took "
            f"{profile.plan_ms:.4g} ms when it was taken apart and {found.p50_ms:.4g} ms among the options. "
            "Do not go by these figures: repeat it with nothing beside, or with more --seconds."
        )
    return lines


def _as_json(found: Diagnosis, title: str, tokens: tuple[int, int], device: str) -> dict[str, Any]:
    """Schema 1; see docs/formats.md."""
    import torch

    from tickdrive.planner.benchmark import SCOPE
    from tickdrive.planner.source import source_commit
    from tickdrive.planner.timing import device_name, driver_version

    where = torch.device(device)
    profile = found.profile
    return {
        "schema": 1,
        "network": title,
        "engine": profile.engine,
        "batch": profile.batch,
        "steps": profile.steps,
        "n_vl": tokens[0],
        "n_reasoning": tokens[1],
        "device_name": device_name(where),
        "driver": driver_version(where),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": source_commit() or "unknown",
        "scope": SCOPE,
        "p50_ms": found.p50_ms,
        "plan_ms": profile.plan_ms,
        "watched_ms": profile.watched_ms,
        "tree": profile.rows(),
        "suspicions": [dataclasses.asdict(item) for item in found.findings],
        "options": [dataclasses.asdict(item) for item in found.savings],
        "conclusion": conclusion(found),
    }
