"""`tickdrive warmup`: what engines build, built ahead of a drive."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tickdrive.scripts.output import console, results_json, show_rows, write_json


def run(
    checkpoint: str,
    device: str,
    dtype: str,
    batch: int,
    steps: str,
    tokens: str,
    threads: int,
    json_file: Path | None,
) -> None:
    """Build, measure, keep, print.

    Raises:
        TickdriveError: the checkpoint or an option cannot be used, or the cache cannot be written.
    """
    import torch

    from tickdrive.agents.shared_models import resolve_checkpoint, spare_cores
    from tickdrive.planner.benchmark import token_counts
    from tickdrive.planner.engine import resolve_device
    from tickdrive.planner.policy import DiffusionPolicy
    from tickdrive.planner.warmup import cache_size, warm_up_cache
    from tickdrive.scripts.bench import numbers
    from tickdrive.scripts.profile import token_pair

    torch.set_num_threads(threads or spare_cores())  # as the agent does: what is kept holds for that number
    policy = DiffusionPolicy.from_pretrained(resolve_checkpoint(checkpoint))
    with console.status("building") as status:
        rows = warm_up_cache(
            policy,
            resolve_device(device),
            dtype,
            batch,
            token_pair(tokens) or token_counts(policy),
            numbers("--steps", steps),
            on_progress=status.update,
        )
    shown = [dataclasses.asdict(row) for row in rows]
    show_rows("Engines", shown, None)
    write_json(json_file, results_json(shown))
    folder, count, size = cache_size()
    console.print(f"{count} entries, {size / 2**20:.0f} MB in {folder}", markup=False)
    best = {row.steps: row.engine for row in rows if row.chosen}
    threads = torch.get_num_threads()
    console.print(
        "engine auto: "
        + ", ".join(f"{name} at {count} steps" for count, name in best.items())
        + f" ({threads} thread{'s' if threads > 1 else ''})"
    )
