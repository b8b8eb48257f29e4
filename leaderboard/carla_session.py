"""One connection to a CARLA server, embedded or real, in synchronous mode."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType

import carla

from tickdrive.leaderboard.backstop import Backstop
from tickdrive.leaderboard.simulator_watch import PortProbe, WakeUpGuard, keep_lost, lost_server
from tickdrive.leaderboard.traffic_manager_rpc import wake_worker
from tickdrive.planner.errors import RouteError, ServerError, did_you_mean

_LOGGER = logging.getLogger(__name__)
# the client's callbacks block its I/O threads; with as few of them as cores, sensor data can starve a tick
_CLIENT_THREADS = 8
# a Traffic Manager is woken without a lock: a wake-up that comes while it is about to sleep is lost, and its
# shutting down then never returns; so it is left alone for a moment before
_REST_S = 0.1
_FOREVER_S = 86400.0
_FIRST_CALL_S = 5.0
_STUCK_S = 10.0


def parse_address(text: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; the port may be left out (2000).

    Raises:
        ServerError: the port is no port number.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, 2000
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise ServerError(f"{text!r} is no server address.", "Write HOST:PORT, for example localhost:2000.")
    return host, int(port)


class CarlaSession:
    """Client, world and Traffic Manager; use as a context manager.

    Leaving it puts the server back into asynchronous mode, as upstream does. If the server dies and this
    process hangs on it, it is killed (see `backstop`).

    Args:
        host: the server's address.
        port: its RPC port.
        tick_hz: fixed rate of the simulation.
        timeout_s: for any call.
        is_alive: says whether the server lives, so that its death is noticed before `timeout_s`.

    Raises:
        ServerError: nothing answers there, the server's version is not the client's, or this process has
            lost a server before.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tick_hz: float = 20.0,
        timeout_s: float = 60.0,
        is_alive: Callable[[], bool] | None = None,
    ) -> None:
        if lost_server():
            raise ServerError(
                "This process has lost a simulator: its Traffic Manager waits for that one, and every tick "
                "on another would wait with it.",
                "Drive in a new process.",
            )
        self.host, self.port = host, port
        self.dead = False
        self._tick_s = 1.0 / tick_hz
        self._timeout_s = timeout_s
        self._is_alive = is_alive or PortProbe(host, port)
        self.traffic_manager_port = 0
        self._traffic_manager: carla.TrafficManager | None = None
        self._ticking: tuple[float, int] | None = None
        self.client = carla.Client(host, port, _CLIENT_THREADS)
        self._check_versions()
        self.client.set_timeout(timeout_s)
        self._backstop = Backstop(host, port)
        try:
            self.world = self.client.get_world()
            self._apply_settings()
            self.map = self.world.get_map()
        except BaseException as error:
            self._backstop.dismiss()
            if isinstance(error, RuntimeError):
                raise self._lost(f"The simulator does not answer: {error}") from error
            raise
        self._guard = WakeUpGuard(self._tick_is_stuck, self._wake_traffic_manager)

    @property
    def traffic_manager(self) -> carla.TrafficManager:
        """The Traffic Manager of the loaded town.

        Raises:
            ServerError: no town was loaded yet.
        """
        if self._traffic_manager is None:
            raise ServerError("There is no Traffic Manager before a town is loaded.", "Call load first.")
        return self._traffic_manager

    def _start_traffic_manager(self, seed: int) -> None:
        self.traffic_manager_port = free_port()
        self._traffic_manager = self.client.get_trafficmanager(self.traffic_manager_port)
        self._traffic_manager.set_synchronous_mode(True)
        self._traffic_manager.set_random_device_seed(seed)

    def _stop_traffic_manager(self) -> None:
        if self._traffic_manager is not None:
            time.sleep(_REST_S)
            if not self.answers():  # shutting down would wait for it, with the GIL held
                raise self._lost("The simulator has ended.")
            self._traffic_manager.shut_down()
            self._traffic_manager = None

    def _check_versions(self) -> None:
        server = self._server_version()
        client = self.client.get_client_version()
        if client != server:
            raise ServerError(
                f"The server at {self.host}:{self.port} is CARLA {server}, the client here is {client}.",
                f"Install the client of that version: pip install carla=={server}",
            )

    def _server_version(self) -> str:
        """The first call; asked several times, so that a server that died is noticed before `timeout_s`."""
        until = time.monotonic() + self._timeout_s
        self.client.set_timeout(min(_FIRST_CALL_S, self._timeout_s))
        while self._is_alive() and time.monotonic() < until:
            with suppress(RuntimeError):
                return str(self.client.get_server_version())
        raise ServerError(
            f"No CARLA server answers at {self.host}:{self.port}.",
            "Start it, check the address, or look at its log.",
        )

    def _apply_settings(self) -> None:
        settings = self.world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = self._tick_s
        settings.deterministic_ragdolls = True
        settings.spectator_as_ego = False
        self.world.apply_settings(settings)

    def check_towns(self, towns: Iterable[str]) -> None:
        """Raise a `RouteError` for a town that the server does not have."""
        known = {name.split("/")[-1] for name in self.client.get_available_maps()}
        for town in towns:
            if town.split("/")[-1] not in known:
                raise RouteError(
                    f"The server has no town {town!r}.", did_you_mean(town.split("/")[-1], known)
                )

    def load(self, town: str, seed: int, opendrive: str | None = None) -> None:
        """Load a town anew, with a Traffic Manager of its own, so that every route begins in the same state.

        A Traffic Manager that lives while the client changes worlds can hang it, or use a world that is gone.
        So it is shut down before; no vehicle may be registered with it then (see `Traffic.destroy`).

        Args:
            town: map name.
            seed: of the Traffic Manager.
            opendrive: OpenDRIVE text to make the world of, instead of the server's own map.

        Raises:
            ServerError: the server failed to, or loaded another map.
        """
        try:
            self._stop_traffic_manager()
            if opendrive is None:
                self.world = self.client.load_world(town, reset_settings=False)
            else:
                self.world = self.client.generate_opendrive_world(opendrive, reset_settings=False)
            self._apply_settings()
            self.world.reset_all_traffic_lights()
            self.tick()
            self.map = self.world.get_map()
            self._start_traffic_manager(seed)
        except RuntimeError as error:
            raise self._lost(f"The town {town} could not be loaded: {error}") from error
        name = self.map.name.split("/")[-1]
        if opendrive is None and name != town.split("/")[-1]:
            raise ServerError(f"Asked for {town}, the server loaded {name}.")

    def tick(self) -> carla.WorldSnapshot:
        """Advance the simulation by one tick.

        Raises:
            ServerError: the server is gone or does not answer; `dead` is set.
        """
        if not self._is_alive():
            raise self._lost("The simulator has ended.")
        try:
            self._ticking = time.monotonic(), self.world.get_snapshot().frame
            self.world.tick(self._timeout_s)
            return self.world.get_snapshot()
        except RuntimeError as error:
            raise self._lost(f"The simulator does not answer: {error}") from error
        finally:
            self._ticking = None

    def _tick_is_stuck(self) -> bool:
        """Whether the tick's frame has long arrived and the tick still has not returned."""
        ticking = self._ticking
        if ticking is None or self.dead or time.monotonic() - ticking[0] < _STUCK_S:
            return False
        # On a dead server waking it would wait for an answer, and hold up the thread that saves the results.
        return self._is_alive() and bool(self.world.get_snapshot().frame > ticking[1])

    def _wake_traffic_manager(self) -> None:
        if self._traffic_manager is not None:
            asyncio.run(wake_worker("127.0.0.1", self.traffic_manager_port))

    def answers(self) -> bool:
        """Whether the server lives and answers; asked where its death would be hung on, or blamed on others.

        By a client of its own, as a timeout is for all calls of a client, the Traffic Manager's too.
        """
        if self.dead:
            return False
        if self._is_alive() and server_answers(self.host, self.port):
            return True
        self._give_up()
        return False

    def _give_up(self) -> None:
        self.dead = True
        keep_lost(self)
        # a call of the Traffic Manager's thread that times out aborts the process: it must outlast it
        self.client.set_timeout(_FOREVER_S)

    def _lost(self, what: str) -> ServerError:
        self._give_up()
        return ServerError(what, "Look at the simulator's log; then resume the evaluation.")

    def close(self) -> None:
        """Leave the server in asynchronous mode; without effect on a dead one."""
        self._guard.close()
        try:
            if self.answers():
                self._stop_traffic_manager()
                self._leave_synchronous_mode()
        except (RuntimeError, ServerError) as error:
            if self._traffic_manager is not None:
                self._give_up()
            _LOGGER.warning("leaving synchronous mode failed: %s", error)
        finally:
            self._backstop.dismiss()

    def _leave_synchronous_mode(self) -> None:
        settings = self.world.get_settings()
        settings.synchronous_mode = False
        settings.fixed_delta_seconds = None
        settings.deterministic_ragdolls = False
        settings.spectator_as_ego = True
        self.world.apply_settings(settings)

    def __enter__(self) -> CarlaSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def free_port() -> int:
    """A port that nothing listens on now, so that evaluations side by side do not collide."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_answers(host: str, port: int) -> bool:
    """Whether a CARLA server answers within seconds; asked by a client of its own."""
    client = carla.Client(host, port, 1)
    client.set_timeout(_FIRST_CALL_S)
    try:
        return bool(client.get_server_version())
    except RuntimeError:
        return False
