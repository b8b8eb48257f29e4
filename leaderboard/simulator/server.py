"""The simulator's process: `python -m tickdrive.leaderboard.simulator.server --town NAME`.

Speaks CARLA 0.9.16's RPC on one port and its streams on the next, so that the unmodified `carla` client
connects. One process, one thread of control (asyncio); only towns are built on another thread, and where a
graphics card draws, OpenGL has one of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tickdrive.leaderboard.simulator.commands import CommandService
from tickdrive.leaderboard.simulator.episode import Town, TownLibrary
from tickdrive.leaderboard.simulator.protocol.rpc import MethodTable, RpcConnection
from tickdrive.leaderboard.simulator.protocol.streams import StreamConnection
from tickdrive.leaderboard.simulator.render.choice import RENDERERS, choose_pictures
from tickdrive.leaderboard.simulator.rpc_actors import ActorService
from tickdrive.leaderboard.simulator.rpc_lights import LightService
from tickdrive.leaderboard.simulator.rpc_parts import PartService
from tickdrive.leaderboard.simulator.rpc_table import add_refusals
from tickdrive.leaderboard.simulator.rpc_world import WorldService
from tickdrive.leaderboard.simulator.simulation import Simulation
from tickdrive.leaderboard.simulator.towns.catalogue import read_xodr
from tickdrive.leaderboard.simulator.traffic_watch import TrafficWatch
from tickdrive.planner.errors import ServerError, TickdriveError

log = logging.getLogger(__name__)

DEFAULT_PORT = 2000
#: beginning of the line that says the server can be connected to
READY = "tickdrive simulator ready"
#: beginning of the line before it, which ends with what draws the cameras
DRAWN_BY = "tickdrive cameras drawn by: "
_PARENT_POLL_S = 1.0


def method_table(simulation: Simulation) -> MethodTable:
    """All RPC methods of a simulation."""
    methods = MethodTable()
    for service in (WorldService, ActorService, PartService, LightService):
        methods.add(service(simulation))
    methods.add(CommandService(simulation, methods))
    add_refusals(methods)
    return methods


async def serve(
    library: TownLibrary,
    town: Town,
    host: str,
    port: int,
    seed: int,
    stopped: asyncio.Event,
) -> None:
    """Listen until `stopped` is set.

    Raises:
        ServerError: a port cannot be listened on.
    """
    simulation = Simulation(library, town, seed, port + 1)
    methods = method_table(simulation)
    watch = TrafficWatch(simulation.traffic_managers, lambda: simulation.settings.synchronous)
    connections: set[RpcConnection] = set()
    loop = asyncio.get_running_loop()
    try:
        rpc = await loop.create_server(
            lambda: RpcConnection(methods, connections, simulation.client_lost, watch.note), host, port
        )
        streams = await loop.create_server(lambda: StreamConnection(simulation.hub), host, port + 1)
    except OSError as error:
        raise ServerError(
            f"Ports {port} and {port + 1} of {host} cannot be listened on: {error}.", "Choose another --port."
        ) from error
    print(f"{READY}: {town.name} on {host}:{port}", flush=True)
    running = asyncio.ensure_future(simulation.run())
    watching = asyncio.ensure_future(watch.run())
    waiting = asyncio.ensure_future(stopped.wait())
    tasks: tuple[asyncio.Future[Any], ...] = (running, watching, waiting)
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for server in (rpc, streams):
        server.close()
    for task in tasks:
        task.cancel()
    for finished in done:
        finished.result()


async def _watch_parent(parent: int, stopped: asyncio.Event) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(_PARENT_POLL_S)
    log.warning("the parent process is gone: stopping")
    stopped.set()


async def _watch_process(pid: int, stopped: asyncio.Event) -> None:
    while _runs(pid):
        await asyncio.sleep(_PARENT_POLL_S)
    log.warning("process %d is gone: stopping", pid)
    stopped.set()


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def _main(options: argparse.Namespace, library: TownLibrary, town: Town) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    watches = []
    if options.watch_parent is not None:
        watches.append(asyncio.ensure_future(_watch_parent(options.watch_parent, stopped)))
    if options.watch_process is not None:
        watches.append(asyncio.ensure_future(_watch_process(options.watch_process, stopped)))
    await serve(library, town, options.host, options.port, options.seed, stopped)
    for watch in watches:
        watch.cancel()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tickdrive.leaderboard.simulator.server",
        description="A simulator that speaks CARLA 0.9.16's protocol.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--town", help="a shipped town, or one of --towns")
    where.add_argument("--xodr", type=Path, help="an OpenDRIVE file")
    parser.add_argument("--towns", type=Path, help="folder of further towns, as <name>.xodr")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="RPC port; streams use the next one")
    parser.add_argument("--seed", type=int, default=0, help="of everything random on the server's side")
    parser.add_argument("--threads", type=int, default=1, help="threads of the renderer")
    parser.add_argument(
        "--renderer",
        choices=RENDERERS,
        default="cpu",
        help="what draws the cameras: the processor, a graphics card, or the card if there is one",
    )
    parser.add_argument(
        "--watch-parent",
        type=int,
        nargs="?",
        const=os.getppid(),
        metavar="PID",
        help="exit when the process that started this one is gone",
    )
    parser.add_argument(
        "--watch-process", type=int, metavar="PID", help="exit when that process, of whomever, is gone"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.port <= 65534:
        parser.error(f"--port {options.port} is outside [1, 65534]")
    if options.threads < 1:
        parser.error(f"--threads {options.threads} is less than 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until SIGTERM or SIGINT; returns the exit status."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        make_pictures = choose_pictures(options.renderer, options.threads)
        print(f"{DRAWN_BY}{make_pictures.description}", flush=True)
        library = TownLibrary(make_pictures, options.towns)
        town = _first_town(options, library)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_main(options, library, town))
    except TickdriveError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _first_town(options: argparse.Namespace, library: TownLibrary) -> Town:
    if options.town is not None:
        return library.named(options.town)
    return library.from_xodr(options.xodr.stem, read_xodr(options.xodr))


if __name__ == "__main__":
    sys.exit(main())
