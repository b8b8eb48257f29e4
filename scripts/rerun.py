"""`tickdrive rerun`: a run as a recording for the rerun viewer."""

from __future__ import annotations

from pathlib import Path

from tickdrive.leaderboard.rerun_export import write_rerun
from tickdrive.scripts.output import console, error_console


def run(run_folder: Path, out: Path | None, budget_ms: float) -> None:
    """Write the recording and say what is in it.

    Raises:
        DataError: rerun-sdk is missing, the log cannot be read, or the file cannot be written.
    """
    path = out or (run_folder if run_folder.is_dir() else run_folder.parent) / "drive.rrd"
    recorded = write_rerun(run_folder, path, budget_ms)
    for damage in recorded.damage:
        error_console.print(damage, style="yellow", markup=False, soft_wrap=True)
    pictures = f"{recorded.images} camera frames" if recorded.images else "no camera frames (no frames/*.jpg)"
    lidar = f"LiDAR of {recorded.lidars} ticks" if recorded.lidars else "no LiDAR (no frames/*.lidar.npz)"
    console.print(f"{recorded.ticks} ticks, {recorded.plans} plans, {pictures}, {lidar}")
    console.print(f"  {path}   open it with: rerun {path}", markup=False, soft_wrap=True)
