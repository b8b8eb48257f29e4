"""What a route file says of a scenario, and how its parameters are declared and read.

A scenario type declares its parameters as a frozen dataclass whose fields are made by `number`, `interval`,
`choice`, `word` and `place`; `read_parameters` fills it from the XML elements below ``<scenario>``, with
upstream's defaults where an element is absent.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import carla

from tickdrive.planner.errors import RouteError, did_you_mean

_LOGGER = logging.getLogger(__name__)
_KEY = "parameter"
P = TypeVar("P")
Elements = Mapping[str, Mapping[str, str]]
"""Element name -> its attributes, of everything below ``<scenario>`` but the trigger point."""


@dataclass(frozen=True)
class Place:
    """A position in the world frame [m] and, for trigger points, the heading [degrees]."""

    x: float
    y: float
    z: float
    yaw: float = 0.0

    @property
    def location(self) -> carla.Location:
        """The position, for the client."""
        return carla.Location(self.x, self.y, self.z)


@dataclass(frozen=True)
class ScenarioSpec:
    """A scenario that a route asks for.

    Attributes:
        name: as the file has it; unique in its route only by custom.
        type: upstream's class name.
        trigger: where the ego starts it; None only for types that are not known here.
        parameters: of the type's own dataclass (see `registry`); None for types that are not known here.
    """

    name: str
    type: str
    trigger: Place | None
    parameters: Any = None

    @property
    def known(self) -> bool:
        """Whether this evaluator can run it."""
        return self.parameters is not None


@dataclass(frozen=True)
class _Parameter:
    """How a field is read: element name in the file, attributes it must have, and text -> value."""

    element: str
    attributes: tuple[str, ...]
    read: Callable[[tuple[str, ...]], Any]
    wanted: str


@dataclass(frozen=True)
class NoParameters:
    """Of types that have none."""


def number(element: str, default: float, low: float = 0.0, high: float = 1e4) -> Any:
    """A field from ``<element value="…"/>``, a number in [low, high]."""

    def read(texts: tuple[str, ...]) -> float:
        return _number(texts[0], low, high)

    return _field(_Parameter(element, ("value",), read, f"a number from {low:g} to {high:g}"), default)


def interval(element: str, default: tuple[float, float]) -> Any:
    """A field from ``<element from="…" to="…"/>``: two numbers from 0, the first not the larger."""

    def read(texts: tuple[str, ...]) -> tuple[float, float]:
        low, high = (_number(text, 0.0, 1e4) for text in texts)
        if low > high:
            raise ValueError
        return low, high

    return _field(_Parameter(element, ("from", "to"), read, "two numbers, the smaller first"), default)


def choice(element: str, default: str, *others: str, lenient: bool = False) -> Any:
    """A field from ``<element value="…"/>``, one of a few words; `lenient`: any other is the default."""
    words = (default, *others)

    def read(texts: tuple[str, ...]) -> str:
        if texts[0] not in words and not lenient:
            raise ValueError
        return texts[0] if texts[0] in words else default

    return _field(_Parameter(element, ("value",), read, " or ".join(repr(w) for w in words)), default)


def word(element: str, default: str) -> Any:
    """A field from ``<element value="…"/>``, any text."""
    return _field(_Parameter(element, ("value",), lambda texts: texts[0], "a name"), default)


def place(element: str) -> Any:
    """A field from ``<element x="…" y="…" z="…"/>``, a `Place`; the file must have it."""

    def read(texts: tuple[str, ...]) -> Place:
        return Place(*(_number(text, -1e7, 1e7) for text in texts))

    return _field(_Parameter(element, ("x", "y", "z"), read, "a position in metres"), dataclasses.MISSING)


def _field(parameter: _Parameter, default: Any) -> Any:
    return dataclasses.field(default=default, metadata={_KEY: parameter})


def read_parameters(cls: type[P], elements: Elements, where: str, unused: tuple[str, ...] = ()) -> P:
    """Fill a parameter dataclass from a scenario's elements.

    Args:
        cls: its fields are made by this module.
        elements: what stands below ``<scenario>``.
        where: file, route and scenario, for messages.
        unused: elements that upstream's files have and its code does not read.

    Raises:
        RouteError: names the element and attribute that is missing or cannot be read.
    """
    values: dict[str, Any] = {}
    known: list[str] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        parameter: _Parameter = field.metadata[_KEY]
        known.append(parameter.element)
        attributes = elements.get(parameter.element)
        example = f"<{parameter.element} {' '.join(f'{a}=…' for a in parameter.attributes)}/>"
        if attributes is None:
            if field.default is dataclasses.MISSING:
                raise RouteError(f"{where} has no <{parameter.element}>.", f"Add {example}.")
            continue
        for name in parameter.attributes:
            if name not in attributes:
                raise RouteError(f"{where}: <{parameter.element}> has no {name!r}.", f"Write {example}.")
        texts = tuple(attributes[name] for name in parameter.attributes)
        try:
            values[field.name] = parameter.read(texts)
        except ValueError:
            got = ", ".join(f"{n}={t!r}" for n, t in zip(parameter.attributes, texts, strict=True))
            raise RouteError(
                f"{where}: <{parameter.element}> is {got}.", f"Give {parameter.wanted}."
            ) from None
    for name in elements:
        if name not in known and name not in unused:
            # upstream ignores these without a word; a misspelt one would quietly leave the default in force
            _LOGGER.warning("%s: <%s> is not used by this type. %s", where, name, did_you_mean(name, known))
    return cls(**values)


def read_place(attributes: Mapping[str, str], where: str, what: str) -> Place:
    """A trigger point: x, y, z and yaw.

    Raises:
        RouteError: names what is missing or no finite number.
    """
    numbers = []
    for name in ("x", "y", "z", "yaw"):
        text = attributes.get(name)
        if text is None:
            raise RouteError(f"{where}: {what} has no {name!r}.", "Give x, y, z in metres, yaw in degrees.")
        try:
            numbers.append(_number(text, -1e7, 1e7))
        except ValueError:
            raise RouteError(f"{where}: {what}: {name} is {text!r}.", "Give a finite number.") from None
    return Place(*numbers)


def _number(text: str, low: float, high: float) -> float:
    value = float(text)
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError
    return value
