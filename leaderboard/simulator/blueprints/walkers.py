"""Walker blueprints of CARLA 0.9.16.

Ids and sizes of the collision boxes as a CARLA 0.9.16 server reports them:
`tools/carla/snapshots/blueprints_0.9.16.json.gz` of BerkeleyLearnVerify/Scenic. Children follow CARLA's
`Docs/catalogue_pedestrians.md`. Genders of the second generation are not published and alternate here.
"""

from __future__ import annotations

from tickdrive.leaderboard.simulator.blueprints.model import (
    AttributeType,
    Blueprint,
    blueprint,
    constant,
    settable,
)
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box

_NUMBERS = range(1, 53)
_SMALL_CHILDREN = {9, 10, 11, 48, 49}
_CHILDREN = {12, 13, 14}
_FIRST_GENERATION = range(1, 15)
_FIRST_GENERATION_MALE = {2, 3, 4, 12, 13, 14}

_ADULT_EXTENT = (0.187679, 0.187679, 0.93)
_CHILD_EXTENT = (0.187679, 0.187679, 0.65)
_SMALL_CHILD_EXTENT = (0.25, 0.25, 0.55)

# at rest, walking and running: CARLA's `generate_traffic.py` picks the second and third
_SPEEDS_MPS = ("0.0", "1.43", "2.8")


def _type_id(number: int) -> str:
    return f"walker.pedestrian.{number:04d}"


def _extent(number: int) -> tuple[float, float, float]:
    if number in _SMALL_CHILDREN:
        return _SMALL_CHILD_EXTENT
    return _CHILD_EXTENT if number in _CHILDREN else _ADULT_EXTENT


def _is_male(number: int) -> bool:
    return number in _FIRST_GENERATION_MALE if number in _FIRST_GENERATION else number % 2 == 0


# a walker's transform is the centre of its box, not its feet: CARLA's walkers are Unreal capsules
WALKER_BOXES: dict[str, Box] = {_type_id(n): Box(Pose(), _extent(n)) for n in _NUMBERS}


def walker_blueprints() -> list[Blueprint]:
    """Blueprints of all walkers, attributes as in CARLA's `MakePedestrianDefinition`."""
    settables = (
        settable("speed", AttributeType.FLOAT, _SPEEDS_MPS),
        settable("is_invincible", AttributeType.BOOL, ("true",)),
        settable("use_wheelchair", AttributeType.BOOL, ("false",), restrict=True),
    )
    return [
        blueprint(
            _type_id(number),
            ("pedestrian",),
            settables,
            (
                constant("gender", AttributeType.STRING, "male" if _is_male(number) else "female"),
                constant("generation", AttributeType.INT, "1" if number in _FIRST_GENERATION else "2"),
                constant(
                    "age",
                    AttributeType.STRING,
                    "child" if number in _CHILDREN | _SMALL_CHILDREN else "adult",
                ),
                constant("can_use_wheelchair", AttributeType.BOOL, "false"),
            ),
        )
        for number in _NUMBERS
    ]
