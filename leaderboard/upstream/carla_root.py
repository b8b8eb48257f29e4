"""A folder that programs take for a CARLA installation: its `CarlaUE4.sh` starts the embedded simulator.

`CarlaUE4.sh` takes CARLA's flags (`python -m tickdrive.leaderboard.upstream.carla_root`); `PythonAPI/carla`
holds the `agents` that CARLA's does; the towns' OpenDRIVE files lie where CARLA has them, for programs that
read maps without a server (Bench2Drive's ability tool).
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tickdrive.leaderboard.simulator.render.choice import check_renderer
from tickdrive.leaderboard.simulator.server import DEFAULT_PORT
from tickdrive.leaderboard.simulator.towns.catalogue import shipped_files, town_files, town_names
from tickdrive.leaderboard.upstream.checkout import OPEN_DRIVE
from tickdrive.planner.errors import ConfigError

WATCH_VARIABLE = "TICKDRIVE_WATCH_PID"
"""The simulator ends with this process, where it is set: an evaluator that is killed cannot end it."""
_AGENTS = Path(__file__).parent / "fallback" / "agents"
_PORT_FLAGS = ("-carla-rpc-port", "-carla-port", "-carla-world-port", "-world-port")
_MAP = re.compile(r"/?(?:Game/)?(?:[\w-]+/)*([\w-]+)")


@dataclass(frozen=True)
class CarlaFlags:
    """What of CARLA's command line means something here.

    Attributes:
        port: RPC port; streams use the next one.
        town: map given as first argument; empty for the first one there is.
        ignored: flags without effect here.
    """

    port: int = DEFAULT_PORT
    town: str = ""
    ignored: tuple[str, ...] = ()


def parse_flags(arguments: Sequence[str]) -> CarlaFlags:
    """Read CARLA's command line, as far as it concerns this simulator.

    Raises:
        ConfigError: a port is none, or streams are wanted elsewhere than on the port after it.
    """
    port, town, ignored = DEFAULT_PORT, "", []
    streams: int | None = None
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in _PORT_FLAGS:
            port = _port(argument, value)
        elif name == "-carla-streaming-port":
            streams = _port(argument, value)
        elif not argument.startswith("-") and (found := _MAP.fullmatch(argument)):
            town = found.group(1)
        else:
            ignored.append(argument)
    if streams not in (None, 0, port + 1):
        raise ConfigError(
            f"-carla-streaming-port={streams}: this simulator streams on the RPC port's next, {port + 1}.",
            "Leave the flag out.",
        )
    return CarlaFlags(port, town, tuple(ignored))


def _port(argument: str, value: str) -> int:
    if not value.isdigit() or int(value) > 65534:
        raise ConfigError(f"{argument} is no port.", "Give 1 to 65534.")
    return int(value)


def make_carla_root(folder: Path, towns: Path | None = None, seed: int = 0, renderer: str = "cpu") -> Path:
    """Make the folder, or make it anew.

    Args:
        folder: where; it may exist where it was made by this.
        towns: folder of further towns, as `<name>.xodr`.
        seed: of the simulator.
        renderer: what draws its cameras, see `render.choice`.

    Raises:
        ConfigError: a folder with another CarlaUE4.sh in it is there already, or an unknown renderer.
        ServerError: `towns` is no folder of towns.
    """
    check_renderer(renderer)
    script = folder / "CarlaUE4.sh"
    if script.exists() and _MARK not in script.read_text(errors="replace"):
        raise ConfigError(f"{script} is not tickdrive's: a CARLA is installed there.", "Name another folder.")
    known = shipped_files() | (town_files(towns) if towns is not None else {})
    files = {name: path.resolve() for name, path in known.items()}
    api = folder / "PythonAPI" / "carla"
    api.mkdir(parents=True, exist_ok=True)
    link = api / "agents"
    link.unlink(missing_ok=True)
    link.symlink_to(_AGENTS, target_is_directory=True)
    maps = folder / OPEN_DRIVE
    maps.mkdir(parents=True, exist_ok=True)
    for old in maps.iterdir():
        if old.is_symlink():
            old.unlink()
    for name, path in files.items():
        (maps / f"{name}.xodr").symlink_to(path)
    command = [sys.executable, "-m", "tickdrive.leaderboard.upstream.carla_root", f"--seed={seed}"]
    if renderer != "cpu":
        command.append(f"--renderer={renderer}")
    if towns is not None:
        command.append(f"--towns={towns.resolve()}")
    script.write_text(f'#!/bin/sh\n{_MARK}\nexec {shlex.join(command)} -- "$@"\n')
    script.chmod(0o755)
    return folder.resolve()


_MARK = "# Made by `tickdrive carla-root`: takes CARLA's flags, starts tickdrive's simulator."


def server_command(own: Sequence[str], carla: Sequence[str], watch: str | None) -> list[str]:
    """The simulator's command line.

    Args:
        own: what the script was made with.
        carla: CARLA's flags.
        watch: process to end with.

    Raises:
        ConfigError: see `parse_flags`.
    """
    flags = parse_flags(carla)
    options = dict(each.removeprefix("--").partition("=")[::2] for each in own)
    names = [*town_files(Path(options["towns"]))] if "towns" in options else [*town_names()]
    command = [sys.executable, "-m", "tickdrive.leaderboard.simulator.server"]
    command += [
        "--town",
        flags.town or names[0],
        "--port",
        str(flags.port),
        "--seed",
        options.get("seed", "0"),
    ]
    for name in ("towns", "renderer"):
        if name in options:
            command += [f"--{name}", options[name]]
    if watch:
        command += ["--watch-process", watch]
    if flags.ignored:
        print(f"tickdrive's simulator has no use for {' '.join(flags.ignored)}", file=sys.stderr)
    return command


def main(arguments: Sequence[str]) -> None:
    """Become the simulator: its process is the one that was started, and that others end."""
    split = list(arguments).index("--")
    command = server_command(arguments[:split], arguments[split + 1 :], os.environ.get(WATCH_VARIABLE))
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
