"""One embedded simulator for all tests of this folder that need a world."""

from collections.abc import Iterator

import pytest

from tickdrive.leaderboard.simulator.launch import SimulatorProcess

TOWN = "TickTown01"


@pytest.fixture(scope="session")
def simulator(tmp_path_factory) -> Iterator[SimulatorProcess]:
    log = tmp_path_factory.mktemp("simulator") / "simulator.log"
    with SimulatorProcess.start(town=TOWN, log_path=log) as process:
        yield process
