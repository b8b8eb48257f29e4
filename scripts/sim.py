"""`tickdrive sim`: only the simulator, for any carla client."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType

from tickdrive.leaderboard.simulator.launch import SimulatorProcess
from tickdrive.planner.errors import ConfigError
from tickdrive.scripts.output import console


def run(
    town: str,
    xodr: Path | None,
    host: str,
    port: int,
    seed: int,
    threads: int,
    towns: Path | None = None,
    renderer: str = "cpu",
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        TickdriveError: the town or the port cannot be used, or the simulator died.
    """
    if not 0 < port < 65535:
        raise ConfigError(f"--port is {port}.", "Give 1 to 65534; streams use the port after it.")

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with console.status("starting the simulator (the first start compiles, about half a minute)"):
        process = SimulatorProcess.start(
            town=None if xodr else town,
            xodr_path=xodr,
            host=host,
            port=port,
            seed=seed,
            threads=threads,
            towns=towns,
            renderer=renderer,
        )
    with process:
        console.print(
            f"serving {xodr or town} as CARLA 0.9.16 on {host}:{port} and {port + 1}; Ctrl-C stops it"
        )
        console.print(f"  cameras drawn by {process.drawn_by}", style="dim", markup=False, soft_wrap=True)
        console.print(
            f'  python -c "import carla; print(carla.Client({host!r}, {port}).get_world().get_map().name)"'
        )
        while True:
            time.sleep(0.5)
            process.check()
