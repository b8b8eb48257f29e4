from __future__ import annotations

from pathlib import Path

import carla
import pytest

from tickdrive.leaderboard.simulator.towns.catalogue import read_town

TOWN = "TickTown02"


@pytest.fixture(scope="session")
def short_route(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A route file with 45 m straight on in the smallest town."""
    town = carla.Map(TOWN, read_town(TOWN))
    for start, _ in sorted(town.get_topology(), key=lambda pair: (pair[0].road_id, pair[0].lane_id)):
        if start.is_junction:
            continue
        way = start.next(5.0) and start.next(5.0)[0].next(45.0)
        if way and not way[0].is_junction and way[0].road_id == start.road_id:
            ends = (start.next(5.0)[0].transform.location, way[0].transform.location)
            break
    else:
        pytest.fail(f"{TOWN} has no straight of 50 m")
    places = "".join(f'<position x="{p.x:.2f}" y="{p.y:.2f}" z="{p.z:.2f}"/>' for p in ends)
    path = tmp_path_factory.mktemp("routes") / "short.xml"
    path.write_text(
        f'<routes><route id="short" town="{TOWN}"><waypoints>{places}</waypoints></route></routes>'
    )
    return path
