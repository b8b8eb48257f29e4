"""The blueprint library: every kind of actor that can be spawned, and the sizes and dynamics behind it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from tickdrive.leaderboard.simulator.blueprints.model import Attribute, AttributeType, Blueprint
from tickdrive.leaderboard.simulator.blueprints.others import other_blueprints
from tickdrive.leaderboard.simulator.blueprints.props import PROP_BOXES, prop_blueprints
from tickdrive.leaderboard.simulator.blueprints.sensors import controller_blueprint, sensor_blueprints
from tickdrive.leaderboard.simulator.blueprints.vehicles import VEHICLE_SPECS, vehicle_blueprints
from tickdrive.leaderboard.simulator.blueprints.walkers import WALKER_BOXES, walker_blueprints
from tickdrive.leaderboard.simulator.interfaces import Box, VehicleSpec
from tickdrive.planner.errors import ServerError, did_you_mean

__all__ = [
    "BLUEPRINTS",
    "Attribute",
    "AttributeType",
    "Blueprint",
    "prop_box",
    "vehicle_spec",
    "walker_box",
]

_Entry = TypeVar("_Entry")

BLUEPRINTS: Mapping[str, Blueprint] = MappingProxyType(
    {
        each.type_id: each
        for each in (
            *vehicle_blueprints(),
            *walker_blueprints(),
            *prop_blueprints(),
            *sensor_blueprints(),
            controller_blueprint(),
            *other_blueprints(),
        )
    }
)


def _look_up(table: Mapping[str, _Entry], what: str, type_id: str) -> _Entry:
    try:
        return table[type_id]
    except KeyError:
        raise ServerError(f"There is no {what} {type_id!r}.", did_you_mean(type_id, table)) from None


def vehicle_spec(type_id: str) -> VehicleSpec:
    """Size and dynamics of a vehicle.

    Raises:
        ServerError: there is no such vehicle.
    """
    return _look_up(VEHICLE_SPECS, "vehicle", type_id)


def walker_box(type_id: str) -> Box:
    """Bounding box of a walker in its own frame, whose origin is the box's centre (not the feet).

    Raises:
        ServerError: there is no such walker.
    """
    return _look_up(WALKER_BOXES, "walker", type_id)


def prop_box(type_id: str) -> Box:
    """Bounding box of a prop in its own frame, whose origin is on the ground.

    Raises:
        ServerError: there is no such prop.
    """
    return _look_up(PROP_BOXES, "prop", type_id)
