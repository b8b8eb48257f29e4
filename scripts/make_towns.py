"""Makes the towns that ship with tickdrive: ``python -m tickdrive.scripts.make_towns [--check]``.

The plans below are the towns; the OpenDRIVE files beside `leaderboard/simulator/towns` follow from them and
are made again, byte for byte, by this script.

* TickTown01, TickTown03: for training.
* TickTown02: never trained on.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from tickdrive.leaderboard.simulator import towns
from tickdrive.leaderboard.simulator.towns.build import build_town
from tickdrive.leaderboard.simulator.towns.plan import (
    ALL_WAY_STOP,
    MINOR_STOP,
    SIGNAL,
    Bend,
    Crossing,
    Street,
    StreetKind,
    TownPlan,
)
from tickdrive.leaderboard.simulator.towns.writer import write_opendrive


def tick_town_01() -> TownPlan:
    """A ring road, two arterials that cross, quarters of side streets; all angles right."""
    arterial = StreetKind(lanes=2, lane_width_m=3.5, limit_kmh=50)
    ring = StreetKind(lanes=1, lane_width_m=3.5, limit_kmh=50)
    street = StreetKind(lanes=1, lane_width_m=3.3, limit_kmh=30)
    x = {"A": -300.0, "B": -160.0, "C": 0.0, "D": 160.0, "E": 300.0}
    y = {"1": -300.0, "2": -160.0, "3": 0.0, "4": 150.0, "5": 290.0}
    control = {
        "B1": MINOR_STOP, "C1": SIGNAL, "D1": MINOR_STOP,
        "B2": MINOR_STOP, "C2": SIGNAL, "D2": ALL_WAY_STOP, "E2": MINOR_STOP,
        "A3": SIGNAL, "B3": SIGNAL, "C3": SIGNAL, "D3": SIGNAL, "E3": SIGNAL,
        "A4": MINOR_STOP, "B4": ALL_WAY_STOP, "C4": SIGNAL, "D4": MINOR_STOP,
        "B5": MINOR_STOP, "C5": SIGNAL, "D5": MINOR_STOP,
    }  # fmt: skip
    crossings = {name: Crossing(x[name[0]], y[name[1]], kind) for name, kind in control.items()}
    # the eastern north-south street jogs east between the third and the fourth row
    for name in ("D4", "D5"):
        crossings[name] = Crossing(200.0, crossings[name].y, control[name])
    streets = (
        # ring
        Street("B1", "C1", ring),
        Street("C1", "D1", ring),
        Street("D1", "E2", ring, (Bend(300.0, -300.0, 60.0),)),
        Street("E2", "E3", ring),
        Street("E3", "D5", ring, (Bend(300.0, 290.0, 45.0),)),
        Street("D5", "C5", ring),
        Street("C5", "B5", ring),
        Street("B5", "A4", ring, (Bend(-300.0, 290.0, 90.0),)),
        Street("A4", "A3", ring),
        Street("A3", "B1", ring, (Bend(-300.0, -300.0, 40.0),)),
        # arterials
        *(Street(a, b, arterial) for a, b in (("A3", "B3"), ("B3", "C3"), ("C3", "D3"), ("D3", "E3"))),
        *(Street(a, b, arterial) for a, b in (("C1", "C2"), ("C2", "C3"), ("C3", "C4"), ("C4", "C5"))),
        # side streets
        *(Street(a, b, street) for a, b in (("B1", "B2"), ("B2", "B3"), ("B3", "B4"), ("B4", "B5"))),
        Street("D1", "D2", street),
        Street("D2", "D3", street),
        Street("D3", "D4", street, (Bend(160.0, 55.0, 30.0), Bend(200.0, 95.0, 30.0))),
        Street("D4", "D5", street),
        Street("B2", "C2", street),
        Street(
            "C2", "D2", street,
            (Bend(45.0, -160.0, 30.0), Bend(80.0, -188.0, 30.0), Bend(115.0, -160.0, 30.0)),
        ),
        Street("D2", "E2", street),
        Street("A4", "B4", street),
        Street("B4", "C4", street),
        Street("C4", "D4", street),
    )  # fmt: skip
    return TownPlan("TickTown01", crossings, streets, (49.0, 8.0))


def tick_town_02() -> TownPlan:
    """A small town: a rounded ring, one main street, two curved cross streets."""
    main = StreetKind(lanes=2, lane_width_m=3.25, limit_kmh=50, sidewalk_m=2.5)
    ring = StreetKind(lanes=1, lane_width_m=3.4, limit_kmh=50, sidewalk_m=2.0)
    lane = StreetKind(lanes=1, lane_width_m=3.2, limit_kmh=30, sidewalk_m=2.0)
    crossings = {
        "W": Crossing(-150.0, 10.0, SIGNAL),
        "M": Crossing(-40.0, 10.0, SIGNAL, 5.5),
        "Q": Crossing(65.0, 10.0, SIGNAL, 5.5),
        "E": Crossing(170.0, 10.0, SIGNAL, 5.5),
        "N1": Crossing(-55.0, 150.0, MINOR_STOP),
        "N2": Crossing(95.0, 150.0, SIGNAL),
        "S1": Crossing(-40.0, -140.0, MINOR_STOP),
        "S2": Crossing(65.0, -140.0, MINOR_STOP),
        "R": Crossing(65.0, -70.0, ALL_WAY_STOP, 5.5),
        "P": Crossing(-40.0, -70.0, MINOR_STOP, 5.5),
    }
    streets = (
        Street("W", "M", main),
        Street("M", "Q", main),
        Street("Q", "E", main),
        Street("W", "N1", ring, (Bend(-150.0, 150.0, 55.0),)),
        Street("N1", "N2", ring),
        Street("N2", "E", ring, (Bend(170.0, 150.0, 40.0),)),
        Street("R", "S2", lane),
        Street("S2", "S1", ring),
        Street("S1", "W", ring, (Bend(-150.0, -140.0, 70.0),)),
        Street("M", "N1", lane, (Bend(-40.0, 60.0, 40.0), Bend(-55.0, 100.0, 40.0))),
        Street("Q", "N2", lane, (Bend(65.0, 50.0, 35.0), Bend(95.0, 100.0, 35.0))),
        Street("M", "P", lane),
        Street("P", "S1", lane),
        Street("P", "R", lane, (Bend(-15.0, -70.0, 30.0), Bend(12.5, -82.0, 40.0), Bend(40.0, -70.0, 30.0))),
        Street("Q", "R", lane),
        Street("S2", "E", ring, (Bend(170.0, -140.0, 50.0),)),
    )
    return TownPlan("TickTown02", crossings, streets, (48.5, 9.0))


def tick_town_03() -> TownPlan:
    """A town on a slanted grid, turned against the axes: corners of 75 and 105 degrees, wider lanes."""
    arterial = StreetKind(lanes=2, lane_width_m=3.3, limit_kmh=60, sidewalk_m=2.5)
    ring = StreetKind(lanes=1, lane_width_m=3.75, limit_kmh=50, sidewalk_m=2.2)
    street = StreetKind(lanes=1, lane_width_m=3.5, limit_kmh=40, sidewalk_m=2.0)
    along, across = math.radians(20.0), math.radians(95.0)

    def place(u: float, v: float) -> tuple[float, float]:
        x = u * math.cos(along) + v * math.cos(across) - 160.0
        return round(x, 6), round(u * math.sin(along) + v * math.sin(across) - 260.0, 6)

    def crossing(u: float, v: float, control: str) -> Crossing:
        return Crossing(*place(u, v), control)

    def bend(u: float, v: float, radius_m: float) -> Bend:
        return Bend(*place(u, v), radius_m)

    crossings = {
        "C0": crossing(260, 0, SIGNAL),
        "A1": crossing(0, 150, MINOR_STOP),
        "B1": crossing(120, 150, ALL_WAY_STOP),
        "C1": crossing(260, 150, SIGNAL),
        "D1": crossing(400, 150, MINOR_STOP),
        "A2": crossing(0, 290, SIGNAL),
        "B2": crossing(120, 290, MINOR_STOP),
        "C2": crossing(260, 290, SIGNAL),
        "D2": crossing(400, 290, SIGNAL),
        "B3": crossing(120, 420, MINOR_STOP),
        "C3": crossing(260, 420, SIGNAL),
    }
    streets = (
        Street("A1", "C0", ring, (bend(0, 0, 50.0),)),
        Street("C0", "D1", ring, (bend(400, 0, 35.0),)),
        Street("D1", "D2", ring),
        Street("D2", "C3", ring, (bend(400, 420, 45.0),)),
        Street("C3", "B3", ring),
        Street("B3", "A2", ring, (bend(0, 420, 30.0),)),
        Street("A2", "A1", ring),
        Street("C0", "C1", arterial),
        Street("C1", "C2", arterial),
        Street("C2", "C3", arterial),
        Street("A1", "B1", street),
        Street("B1", "C1", street),
        Street("C1", "D1", street),
        Street("A2", "B2", street),
        Street("B2", "C2", street),
        Street("C2", "D2", street),
        Street("B1", "B2", street, (bend(120, 185, 30.0), bend(98, 220, 30.0), bend(120, 255, 30.0))),
        Street("B2", "B3", street),
    )
    return TownPlan("TickTown03", crossings, streets, (50.2, 7.5))


PLANS = (tick_town_01, tick_town_02, tick_town_03)


def make_all() -> dict[str, str]:
    """OpenDRIVE text of every shipped town, by name."""
    plans = [plan() for plan in PLANS]
    return {plan.name: write_opendrive(build_town(plan)) for plan in plans}


def main() -> int:
    """Write the towns, or with ``--check`` say whether those on disk are what the plans give."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    check = parser.parse_args().check
    folder = Path(next(iter(towns.__path__)))
    stale = []
    for name, text in make_all().items():
        path = folder / f"{name}.xodr"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
        print(f"{name}: {len(text) / 1024:.0f} KiB{', changed' if name in stale else ''}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
