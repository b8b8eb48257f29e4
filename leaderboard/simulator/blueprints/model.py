"""What a blueprint is on CARLA's wire: an id, tags, and attributes with their types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class AttributeType(IntEnum):
    """Types of actor attributes (`LibCarla/source/carla/rpc/ActorAttributeType.h`)."""

    BOOL = 1
    INT = 2
    FLOAT = 3
    STRING = 4
    RGB_COLOR = 5


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a blueprint; all values are text, as CARLA sends them.

    Attributes:
        id: name.
        type: one of CARLA's types.
        value: default.
        recommended: values that CARLA recommends; the first is the default.
        is_modifiable: whether a client may set it before spawning.
        restrict_to_recommended: whether only the recommended values are accepted.
    """

    id: str
    type: AttributeType
    value: str
    recommended: tuple[str, ...] = ()
    is_modifiable: bool = True
    restrict_to_recommended: bool = False


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A kind of actor that can be spawned; `tags` are comma separated, as CARLA sends them."""

    type_id: str
    tags: str
    attributes: tuple[Attribute, ...]

    def default(self, attribute_id: str) -> str | None:
        """Default value of an attribute, None where the blueprint has no such attribute."""
        return next((each.value for each in self.attributes if each.id == attribute_id), None)


def settable(
    name: str, kind: AttributeType, recommended: Sequence[str], *, restrict: bool = False
) -> Attribute:
    """An attribute that clients may set (CARLA's "variation"); the first recommended value is the default."""
    return Attribute(name, kind, recommended[0], tuple(recommended), True, restrict)


def constant(name: str, kind: AttributeType, value: str) -> Attribute:
    """An attribute that describes the blueprint and cannot be set."""
    return Attribute(name, kind, value, (), False, False)


def blueprint(
    type_id: str,
    role_names: Sequence[str],
    settables: Sequence[Attribute],
    constants: Sequence[Attribute] = (),
) -> Blueprint:
    """A blueprint with what all of CARLA's have: tags from the id, `role_name` and `ros_name`.

    Source: `FillIdAndTags` in CARLA's `ActorBlueprintFunctionLibrary.cpp`; settable attributes come first.
    """
    role = settable("role_name", AttributeType.STRING, role_names)
    ros_name = settable("ros_name", AttributeType.STRING, (type_id,))
    return Blueprint(type_id, type_id.replace(".", ","), (role, ros_name, *settables, *constants))
