"""`tickdrive bench drive`: the whole agent in the embedded simulator, on a planner of any size."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.evaluator import Evaluator
from tickdrive.leaderboard.latency import LatencySummary, stage_latency, summarize
from tickdrive.leaderboard.latency_tables import counted, latency_table
from tickdrive.leaderboard.observer import Observer, TickView
from tickdrive.leaderboard.routes import read_named_routes
from tickdrive.leaderboard.tick_table import read_table
from tickdrive.planner.errors import TickdriveError
from tickdrive.scripts.agent_choice import choose_agent
from tickdrive.scripts.drive import LOG_NAME, load_models
from tickdrive.scripts.output import console, results_json, write_json
from tickdrive.scripts.paths import routes_file
from tickdrive.scripts.session import server
from tickdrive.scripts.watching import LiveLine

if TYPE_CHECKING:
    import torch

    from tickdrive.planner.policy import DiffusionPolicy

LABEL = "random weights, random features: it times, it does not drive"
RUN_STEP = "run_step"
SCOPE = (
    "run_step: from sensor data that has arrived to carla.VehicleControl, as the evaluator times it, with "
    "host copies, synchronisation and the log; total: the stages alone; random_features: drawing tokens, "
    "which is no extractor's cost"
)


@dataclass(frozen=True)
class DriveBenchmarkOptions:
    """Options of the command.

    Attributes:
        preset: of the network; changes may follow (`seed+n_layer=8`).
        ticks: to drive.
        steps: denoising steps of each tick.
        device: torch device, or `auto`.
        dtype: or `auto`.
        engine: name, or `auto`: the fastest, built and measured beforehand.
        json_file: machine form.
    """

    preset: str
    ticks: int
    steps: int
    device: str
    dtype: str
    engine: str
    json_file: Path | None


class _RunStepTimes(Observer):
    """Keeps what each tick of the agent took."""

    def __init__(self) -> None:
        self.ms: list[float] = []

    def on_tick(self, tick: TickView) -> None:
        self.ms.append(tick.timing.agent_ms)


def run(options: DriveBenchmarkOptions) -> None:
    """Drive, measure, print.

    Raises:
        TickdriveError: an option cannot be used, the simulator cannot be started, or the drive ended early.
    """
    import torch

    from tickdrive.planner.benchmark import token_counts
    from tickdrive.planner.engine import resolve_device
    from tickdrive.planner.network_config import preset
    from tickdrive.planner.policy import DiffusionPolicy
    from tickdrive.planner.random_weights import randomize

    policy = randomize(DiffusionPolicy(preset(options.preset)).eval())
    device, tokens = resolve_device(options.device), token_counts(policy)
    with tempfile.TemporaryDirectory(prefix="tickdrive-") as temporary:
        folder = Path(temporary)
        policy.save_pretrained(folder / "checkpoint", {"label": LABEL})
        settings = (
            f"planner.checkpoint={folder / 'checkpoint'}",
            f"planner.engine={options.engine}",
            f"planner.device={device}",
            f"planner.dtype={options.dtype}",
            f"planner.steps={options.steps}",
            "perception.kind=random",
            f"perception.random_tokens=[{tokens[0]},{tokens[1]}]",
            "budget.enabled=false",  # every tick takes the full path, however long that is
        )
        chosen = choose_agent("diffusion", None, settings, folder, log_name=LOG_NAME)
        assert chosen.config is not None
        console.print(LABEL, style="bold")
        if options.engine == "auto":
            _build_engines(policy, device, tokens, options, chosen.config.threads)
        load_models(chosen.config)
        summary = _drive(replace(chosen.spec, label=f"diffusion ({LABEL})"), folder, options.ticks)
    row = _row(options, summary, device, tokens)
    console.print(latency_table(summary, f"{options.preset}, {options.steps} steps; {LABEL}; ms"))
    driver = f", driver {row['driver']}" if row["driver"] else ""
    console.print(
        f"engine {counted(summary.engines)}; {row['device_name']}{driver}, "
        f"{torch.get_num_threads()} threads, torch {row['torch']}, commit {row['commit']}; "
        f"{tokens[0]} VL and {tokens[1]} reasoning tokens\n{SCOPE}",
        markup=False,
        soft_wrap=True,
    )
    write_json(options.json_file, results_json([row]))


def _build_engines(
    policy: DiffusionPolicy,
    device: torch.device,
    tokens: tuple[int, int],
    options: DriveBenchmarkOptions,
    threads: int,
) -> None:
    """What `tickdrive warmup` does for a checkpoint: an agent's setup builds nothing that takes long."""
    import torch

    from tickdrive.agents.shared_models import spare_cores
    from tickdrive.planner.warmup import warm_up_cache

    torch.set_num_threads(threads or spare_cores())  # a choice holds for the number that it was measured with
    with console.status("building engines") as status:
        warm_up_cache(policy, device, options.dtype, 1, tokens, (options.steps,), on_progress=status.update)


def _drive(spec: Any, folder: Path, ticks: int) -> LatencySummary:
    """Drive the default route, off it too, into things and standing, and summarise what the ticks took.

    Raises:
        TickdriveError: it ended before its time.
    """
    # only the agent's failure, the simulator's death and the leaderboards' route timeout can end it
    evaluation = EvaluationConfig(deviation_m=math.inf, blocked_s=math.inf, max_ticks=ticks)
    route = read_named_routes(str(routes_file("default")))[0]
    times = _RunStepTimes()
    with server(console, None, route.town, log_path=folder / "simulator.log") as simulator:
        evaluator = Evaluator(evaluation, simulator.host, simulator.port, simulator.is_alive)
        outcome = evaluator.run([route], spec, folder, [times, LiveLine(console, evaluation.budget_ms)])
    if len(times.ms) < ticks:
        status = outcome.records[0].status if outcome.records else "stopped"
        raise TickdriveError(
            f"The drive ended after {len(times.ms)} of {ticks} ticks: {status}.",
            "See the messages above; fewer --ticks may do.",
        )
    run_step_ms = np.array(times.ms)
    by_stage = summarize(read_table(folder / LOG_NAME), evaluation.budget_ms)
    return replace(
        by_stage,
        stages=(stage_latency(RUN_STEP, 0, run_step_ms), *by_stage.stages),
        misses=int((run_step_ms > evaluation.budget_ms).sum()),
    )


def _row(
    options: DriveBenchmarkOptions, summary: LatencySummary, device: torch.device, tokens: tuple[int, int]
) -> dict[str, Any]:
    import torch

    from tickdrive.planner.source import source_commit
    from tickdrive.planner.timing import device_name, driver_version

    return {
        "label": LABEL,
        "weights": "random",
        "features": "random",
        "preset": options.preset,
        "steps": options.steps,
        "n_vl": tokens[0],
        "n_reasoning": tokens[1],
        "engine": options.engine,
        "device": device.type,
        "device_name": device_name(device),
        "driver": driver_version(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": source_commit() or "unknown",
        "scope": SCOPE,
        **{("ran" if name == "engines" else name): value for name, value in summary.to_json().items()},
    }
