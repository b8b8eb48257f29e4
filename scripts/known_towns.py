"""Which routes of a file the embedded simulator has the towns of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tickdrive.leaderboard.routes import Route
from tickdrive.leaderboard.simulator.towns.catalogue import LARGE_MAPS, town_files, town_names
from tickdrive.planner.errors import RouteError
from tickdrive.scripts.output import console


def in_known_towns(routes: Sequence[Route], towns: Path | None, skip: bool) -> tuple[Route, ...]:
    """The routes, as far as the embedded simulator has their towns.

    Args:
        routes: all.
        towns: folder of further towns.
        skip: whether the others are left out, which is said.

    Raises:
        RouteError: there are others, and they are not to be left out; or nothing would be left.
    """
    known = {*town_names(), *(town_files(towns) if towns else ())}
    unknown = [route for route in routes if route.town not in known]
    rest = tuple(route for route in routes if route.town in known)
    if unknown and skip and rest:
        left_out = Counter(route.town for route in unknown)
        listed = ", ".join(f"{count} in {town}" for town, count in sorted(left_out.items()))
        console.print(f"  left out {len(unknown)} of {len(routes)} routes: {listed}", style="yellow")
        return rest
    if unknown:
        names = sorted({route.town for route in unknown})
        large = [name for name in names if name in LARGE_MAPS]
        ids = ", ".join(route.id for route in unknown[:8]) + (" …" if len(unknown) > 8 else "")
        raise RouteError(
            f"The embedded simulator has no {', '.join(names)} (routes {ids}).",
            "Name a folder with their OpenDRIVE files (--towns, or --carla-root of a CARLA)"
            + (f"; {', '.join(large)} need a CARLA and its maps" if large else "")
            + "; or leave these routes out (--skip-unknown-towns, --subset).",
        )
    return rest
