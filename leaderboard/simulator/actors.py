"""The actors of a world: what the server knows of each, by kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose, compose, pose_from_matrix
from tickdrive.leaderboard.simulator.interfaces import (
    Box,
    Contact,
    LightBit,
    SignSpec,
    Tag,
    TrafficLightSpec,
    VehicleCommand,
    VehicleSpec,
)
from tickdrive.leaderboard.simulator.protocol import wire

if TYPE_CHECKING:
    from tickdrive.leaderboard.simulator.sensors import Sensor

NO_BOX = Box(Pose(), (0.0, 0.0, 0.0))
#: CARLA's default where no sign has been passed
DEFAULT_SPEED_LIMIT_KMH = 30.0


@dataclass(slots=True, eq=False)
class Actor:
    """Anything with an id.

    Attributes:
        actor_id: unique over the life of the server, so a stale handle never meets a new actor.
        type_id: blueprint id.
        blueprint_uid: the blueprint's number on the wire.
        attributes: (id, type, value) as the client gave them.
        pose: in the world.
        box: bounding box in the actor's own frame.
        tags: semantic tags.
        parent_id: actor it is mounted on, 0 for none.
        pose_in_parent: mounting pose where there is a parent.
        stream_id: its data stream, 0 for none.
        velocity, angular_velocity, acceleration: (3,) world frame; m/s, degrees per second, m/s2.
    """

    actor_id: int
    type_id: str
    blueprint_uid: int
    attributes: tuple[tuple[str, int, str], ...]
    pose: Pose
    box: Box = NO_BOX
    tags: tuple[Tag, ...] = ()
    parent_id: int = 0
    pose_in_parent: Pose | None = None
    stream_id: int = 0
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    angular_velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    acceleration: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @property
    def is_solid(self) -> bool:
        """Whether physics knows the actor."""
        return isinstance(self, Vehicle | Walker | Prop)

    @property
    def description_box(self) -> Box:
        """Box of the actor's description: for lights and signs CARLA puts their trigger volume there."""
        return self.box

    def attribute(self, name: str, default: str = "") -> str:
        """Value of an attribute."""
        return next((value for key, _, value in self.attributes if key == name), default)

    def box_in_world(self) -> Box:
        """Bounding box in the world frame."""
        return Box(compose(self.pose, self.box.pose), self.box.extent)


_FLASHES_PER_S = 2.0


@dataclass(slots=True, eq=False)
class Vehicle(Actor):
    """A vehicle.

    `ackermann` is its target, if any: steer rad, steer rad/s, speed m/s, acceleration m/s2; `slippery` the
    tyre friction of the trigger that it is in, if any.
    """

    spec: VehicleSpec = field(kw_only=True)
    command: VehicleCommand = field(default_factory=VehicleCommand)
    ackermann: tuple[float, float, float, float] | None = None
    ackermann_settings: tuple[float, ...] = (0.15, 0.0, 0.25, 0.01, 0.0, 0.01)
    colour_rgb: tuple[int, int, int] = (128, 128, 128)
    light_flags: int = 0
    open_doors: int = 0
    speed_limit_kmh: float = DEFAULT_SPEED_LIMIT_KMH
    light_id: int = 0
    gear: int = 0
    engine_rpm: float = 0.0
    physics_control: list[Any] | None = None
    slippery: float | None = None

    def lit_flags(self, elapsed_s: float) -> int:
        """The light state as it is seen at a time of the episode: the two special lights flash in turn."""
        dark = LightBit.SPECIAL2 if int(elapsed_s * 2.0 * _FLASHES_PER_S) % 2 == 0 else LightBit.SPECIAL1
        return self.light_flags & ~dark


@dataclass(slots=True, eq=False)
class Walker(Actor):
    """A pedestrian under `WalkerControl`."""

    direction: tuple[float, float, float] = (1.0, 0.0, 0.0)
    speed_mps: float = 0.0
    jump: bool = False
    stride_m: float = 0.0


@dataclass(slots=True, eq=False)
class Prop(Actor):
    """A static prop."""


@dataclass(slots=True, eq=False)
class FrictionTrigger(Actor):
    """A box, `box`, in which tyres have another friction (`Trigger/FrictionTrigger.cpp`)."""

    tire_friction: float = 3.5


@dataclass(slots=True, eq=False)
class SensorActor(Actor):
    """A sensor, what makes its data (lane invasion has none, the client computes it), and how often."""

    sensor: Sensor | None = None
    sensor_tick_s: float = 0.0


@dataclass(slots=True, eq=False)
class TrafficLight(Actor):
    """A signal head; its state lives in the town's `TrafficLightSystem`."""

    spec: TrafficLightSpec = field(kw_only=True)
    trigger: Box = NO_BOX

    @property
    def description_box(self) -> Box:
        """The trigger volume, in the light's frame."""
        return self.trigger


@dataclass(slots=True, eq=False)
class TrafficSign(Actor):
    """A stop, yield or speed limit sign."""

    spec: SignSpec = field(kw_only=True)
    trigger: Box = NO_BOX

    @property
    def description_box(self) -> Box:
        """The trigger volume, in the sign's frame."""
        return self.trigger


def into_frame(frame_in_world: Pose, box_in_world: Box) -> Box:
    """A box of the world seen from a frame."""
    matrix = np.linalg.inv(frame_in_world.matrix()) @ box_in_world.pose.matrix()
    return Box(pose_from_matrix(matrix), box_in_world.extent)


def describe(actor: Actor, token: bytes) -> list[Any]:
    """`rpc::Actor`; `token` is its stream's, or empty."""
    return [
        actor.actor_id,
        actor.parent_id,
        [actor.blueprint_uid, actor.type_id, [list(each) for each in actor.attributes]],
        wire.pack_box(actor.description_box, actor.actor_id),
        bytes(actor.tags),
        token,
    ]


def describe_town_part(tag: Tag) -> list[Any]:
    """The town as the other side of a collision: id 0 and type `static.<tag>`, as Unreal names its own."""
    name = tag.name.lower().replace("_", "")
    return [0, 0, [0, f"static.{name}", []], wire.pack_box(NO_BOX, 0), bytes([tag]), b""]


def contact_sides(contacts: list[Contact]) -> list[tuple[int, int, Tag, np.ndarray]]:
    """Contacts seen from every actor that takes part: (actor, other, other's tag, impulse on actor).

    A pair counts once a step for each side, whether physics reports it from one side or from both.
    """
    sides: dict[tuple[int, int], tuple[Tag, np.ndarray]] = {}
    for each in contacts:
        sides.setdefault((each.actor_id, each.other_id), (each.other_tag, each.impulse))
        if each.other_id:
            sides.setdefault((each.other_id, each.actor_id), (Tag.NONE, -each.impulse))
    return [
        (actor, other, tag, impulse)
        for (actor, other), (tag, impulse) in sorted(sides.items(), key=lambda item: item[0])
    ]
