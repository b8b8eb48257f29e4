"""The blueprint library as a page: docs/blueprints.md is printed from here.

`python -m tickdrive.leaderboard.simulator.blueprints.table > docs/blueprints.md`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable

from tickdrive.leaderboard.simulator.blueprints.library import (
    BLUEPRINTS,
    prop_box,
    vehicle_spec,
    walker_box,
)
from tickdrive.leaderboard.simulator.blueprints.others import EMPTY_ACTOR, FRICTION_TRIGGER, STATIC_MESH
from tickdrive.leaderboard.simulator.blueprints.props import PROP_BOXES
from tickdrive.leaderboard.simulator.blueprints.sensors import SERVED_SENSORS, UNSERVED_SENSORS
from tickdrive.leaderboard.simulator.interfaces import Box

_HEAD = """# The blueprint library

The {count} blueprints of CARLA 0.9.16, by its names and with its attributes. Printed by
`python -m tickdrive.leaderboard.simulator.blueprints.table`.

| mark | source |
|---|---|
| S | what a CARLA 0.9.16 server reports, to 6 mm: Scenic's snapshot (below) |
| C | a public dump of CARLA's `actor.bounding_box`, whose sizes agree with S to a centimetre |
| E | estimated |

The snapshot is `tools/carla/snapshots/blueprints_0.9.16.json.gz` of BerkeleyLearnVerify/Scenic, 7529c3e; all
its 41 vehicles, 52 walkers and 98 props are here. Masses and wheelbases are those of the real vehicles; wheel
radii, torques and paints are estimated: CARLA has them in Unreal's assets only. Attributes follow CARLA's
`ActorBlueprintFunctionLibrary.cpp`; types, generations, doors and lights its catalogue of vehicles.
"""


def _size(box: Box) -> str:
    return " x ".join(f"{2 * each:.2f}" for each in box.extent)


def _rows(cells: Iterable[Iterable[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in cells]


def _vehicles() -> list[str]:
    out = [
        "| vehicle | length x width x height [m] | size | centre x, y, z [m] | centre | mass [kg] | type |",
        "|---|---|---|---|---|---|---|",
    ]
    for type_id, blueprint in BLUEPRINTS.items():
        if not type_id.startswith("vehicle."):
            continue
        spec = vehicle_spec(type_id)
        centre = spec.box.pose
        kind = f"{spec.base_type} {blueprint.default('special_type') or ''}".strip()
        out += _rows(
            [
                [
                    f"`{type_id}`",
                    _size(spec.box),
                    "S",
                    f"{centre.x:.2f}, {centre.y:.2f}, {centre.z:.2f}",
                    "C",
                    f"{spec.mass_kg:.0f}",
                    f"{kind}, generation {blueprint.default('generation')}",
                ]
            ]
        )
    return out


def _walkers() -> list[str]:
    by_size: dict[str, list[str]] = {}
    for type_id in BLUEPRINTS:
        if type_id.startswith("walker."):
            by_size.setdefault(_size(walker_box(type_id)), []).append(type_id.rsplit(".", 1)[1])
    out = ["| `walker.pedestrian.` | length x width x height [m] | size |", "|---|---|---|"]
    groups = sorted(by_size.items(), key=lambda item: len(item[1]))
    named = [[", ".join(numbers), size, "S"] for size, numbers in groups[:-1]]
    return out + _rows([*named, [f"the other {len(groups[-1][1])}", groups[-1][0], "S"]])


def _props() -> list[str]:
    out = [
        "Their boxes stand on the ground over the prop's origin (E); the words of `size` are estimated.",
        "",
        "| `static.prop.` | length x width x height [m] | size |",
        "|---|---|---|",
    ]
    return out + _rows([f"`{each.split('.', 2)[2]}`", _size(prop_box(each)), "S"] for each in PROP_BOXES)


def _others() -> list[str]:
    out = ["| blueprint | state |", "|---|---|"]
    out += _rows([f"`{each}`", "served"] for each in SERVED_SENSORS)
    out += _rows([f"`{each}`", f"refused: {why}"] for each, why in UNSERVED_SENSORS.items())
    return out + _rows(
        [
            ["`controller.ai.walker`", "refused: there is no navigation mesh; use `WalkerControl`"],
            [f"`{FRICTION_TRIGGER}`", "served"],
            [f"`{STATIC_MESH}`", "refused: it shows a mesh of Unreal's"],
            [f"`{EMPTY_ACTOR}`", "served: an actor without a body"],
        ]
    )


def markdown() -> str:
    """docs/blueprints.md."""
    parts = (
        ("Vehicles", _vehicles()),
        ("Walkers", _walkers()),
        ("Sensors and others", _others()),
        ("Props", _props()),
    )
    out = [_HEAD.format(count=len(BLUEPRINTS))]
    for title, lines in parts:
        out += [f"## {title}", "", *lines, ""]
    return "\n".join(out)


if __name__ == "__main__":
    print(markdown(), end="")
