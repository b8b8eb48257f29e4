"""`tickdrive carla-root`: a folder that programs take for a CARLA installation."""

from __future__ import annotations

from pathlib import Path

from tickdrive.leaderboard.upstream.carla_root import make_carla_root
from tickdrive.scripts.output import console


def run(folder: Path, towns: Path | None, seed: int, renderer: str = "cpu") -> None:
    """Make it, and say how it is used.

    Raises:
        TickdriveError: the folder is a CARLA's, or there are no towns in `towns`.
    """
    root = make_carla_root(folder, towns, seed, renderer)
    console.print(f"  export CARLA_ROOT={root}", markup=False, soft_wrap=True)
    console.print(
        f"  {root / 'CarlaUE4.sh'} -RenderOffScreen -carla-rpc-port=2000", markup=False, soft_wrap=True
    )
