"""Spawning: from a client's actor description to an actor in the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tickdrive.leaderboard.simulator.actors import Actor, FrictionTrigger, Prop, SensorActor, Vehicle, Walker
from tickdrive.leaderboard.simulator.blueprints.library import BLUEPRINTS, prop_box, vehicle_spec, walker_box
from tickdrive.leaderboard.simulator.blueprints.others import FRICTION_TRIGGER, STATIC_MESH
from tickdrive.leaderboard.simulator.blueprints.sensors import SERVED_SENSORS, UNSERVED_SENSORS
from tickdrive.leaderboard.simulator.geometry import Pose, compose
from tickdrive.leaderboard.simulator.inertial import Gnss, Imu
from tickdrive.leaderboard.simulator.interfaces import Box, Tag
from tickdrive.leaderboard.simulator.motion_cameras import EventCamera, FlowCamera
from tickdrive.leaderboard.simulator.protocol import wire
from tickdrive.leaderboard.simulator.protocol.wire import RequestError
from tickdrive.leaderboard.simulator.sensors import Attributes, build_camera_like
from tickdrive.leaderboard.simulator.world import World
from tickdrive.planner.errors import did_you_mean

_MAX_ACTORS = 5000
_MAX_ATTRIBUTES = 256
#: a vehicle may be dropped onto the road, and may touch kerbs and bumpers by this much
_CLEARANCE_M = 0.05
_DEFAULT_PAINT = (17, 37, 103)

#: numbers of the blueprints on the wire
BLUEPRINT_UIDS: Mapping[str, int] = {type_id: index + 1 for index, type_id in enumerate(BLUEPRINTS)}


def pack_definitions() -> list[Any]:
    """`vector<ActorDefinition>`: the blueprint library as clients read it."""
    return [
        [
            BLUEPRINT_UIDS[type_id],
            type_id,
            each.tags,
            [
                [
                    attribute.id,
                    int(attribute.type),
                    attribute.value,
                    list(attribute.recommended),
                    attribute.is_modifiable,
                    attribute.restrict_to_recommended,
                ]
                for attribute in each.attributes
            ],
        ]
        for type_id, each in BLUEPRINTS.items()
    ]


def spawn(world: World, description: Any, transform: Any, parent_id: int | None) -> Actor:
    """Bring an actor into the world.

    Args:
        world: where.
        description: `ActorDescription` as msgpack: uid, blueprint id, attribute values.
        transform: `Transform` as msgpack, in the world, or in the parent's frame where there is one.
        parent_id: actor to mount it on, rigidly (spring arms are treated as rigid), or None.

    Raises:
        RequestError: the blueprint or an attribute is unknown or unusable, the parent is missing, or
            something stands there already.
    """
    if len(world.actors) >= _MAX_ACTORS:
        raise RequestError(f"There are {_MAX_ACTORS} actors already.", "Destroy some first.")
    items = wire.sequence(description, "description", 3, 3)
    type_id = wire.text(items[1], "description.id")
    if type_id not in BLUEPRINTS:
        raise RequestError(f"There is no blueprint {type_id!r}.", _nearest(type_id))
    attributes = _attributes(type_id, items[2])
    pose = wire.pose(transform)
    pose_in_parent = None
    if parent_id is not None:
        parent = world.actors.get(parent_id)
        if parent is None:
            raise RequestError(f"unable to attach {type_id}: parent actor not found (id={parent_id}).")
        pose_in_parent, pose = pose, compose(parent.pose, pose)
    actor = _make(world, type_id, attributes, pose)
    if parent_id is not None:
        actor.parent_id, actor.pose_in_parent = parent_id, pose_in_parent
    elif isinstance(actor, Vehicle | Walker):
        _require_free(world, actor)
    _embody(world, actor)
    return world.add(actor)


def _nearest(type_id: str) -> str:
    family = type_id.split(".", 1)[0]
    kin = [each for each in BLUEPRINTS if each.startswith(family + ".")] or sorted(
        {each.split(".", 1)[0] + ".*" for each in BLUEPRINTS}
    )
    return did_you_mean(type_id, kin)


def _attributes(type_id: str, value: Any) -> tuple[tuple[str, int, str], ...]:
    """What the client set over the blueprint's defaults; names the blueprint does not have are kept."""
    blueprint = BLUEPRINTS[type_id]
    out = {each.id: (each.id, int(each.type), each.value) for each in blueprint.attributes}
    for item in wire.sequence(value, "description.attributes", 0, _MAX_ATTRIBUTES):
        name, kind, setting = wire.sequence(item, "attribute", 3, 3)
        key = wire.text(name, "attribute.id", 128)
        out[key] = (key, wire.integer(kind, "attribute.type", 0, 255), wire.text(setting, f"attribute {key}"))
    return tuple(out.values())


def _make(world: World, type_id: str, attributes: tuple[tuple[str, int, str], ...], pose: Pose) -> Actor:
    uid = BLUEPRINT_UIDS[type_id]
    family = type_id.split(".", 1)[0]
    if family == "vehicle":
        spec = vehicle_spec(type_id)
        vehicle = Vehicle(world.new_id(), type_id, uid, attributes, pose, spec.box, (spec.tag,), spec=spec)
        vehicle.colour_rgb = _paint(vehicle.attribute("color"), spec.colours_rgb)
        vehicle.speed_limit_kmh = world.town.network.speed_limit_kmh(pose)
        return vehicle
    if family == "walker":
        return Walker(world.new_id(), type_id, uid, attributes, pose, walker_box(type_id), (Tag.PEDESTRIAN,))
    if type_id == FRICTION_TRIGGER:
        return _trigger(Actor(world.new_id(), type_id, uid, attributes, pose))
    if type_id == STATIC_MESH:
        raise RequestError(
            f"{STATIC_MESH} shows a mesh of Unreal's, and there is none here.",
            "Choose one of static.prop.*, for its size see docs/blueprints.md.",
        )
    if family == "util":
        return Actor(world.new_id(), type_id, uid, attributes, pose)
    if family == "static":
        return Prop(world.new_id(), type_id, uid, attributes, pose, prop_box(type_id), (Tag.STATIC,))
    if family == "controller":
        raise RequestError(
            "This simulator has no navigation mesh for controller.ai.walker.",
            "Drive walkers with carla.WalkerControl.",
        )
    if type_id in UNSERVED_SENSORS:
        raise RequestError(
            f"This simulator does not serve {type_id}: {UNSERVED_SENSORS[type_id]}",
            f"Served are {', '.join(SERVED_SENSORS)}.",
        )
    sensor = SensorActor(world.new_id(), type_id, uid, attributes, pose)
    sensor.sensor_tick_s = Attributes(sensor).number("sensor_tick", 0.0, 0.0)
    sensor.sensor = build_camera_like(sensor, world)
    if type_id == "sensor.other.gnss":
        sensor.sensor = Gnss(sensor, world)
    elif type_id == "sensor.other.imu":
        sensor.sensor = Imu(sensor, world)
    elif type_id == "sensor.camera.optical_flow":
        sensor.sensor = FlowCamera(sensor, world)
    elif type_id == "sensor.camera.dvs":
        sensor.sensor = EventCamera(sensor, world)
    sensor.stream_id = world.new_stream()
    return sensor


def _trigger(actor: Actor) -> FrictionTrigger:
    read = Attributes(actor)
    # Unreal's centimetres
    x, y, z = (read.number(f"extent_{axis}", 1.0, 0.0, 1e9) / 100.0 for axis in "xyz")
    return FrictionTrigger(
        actor.actor_id,
        actor.type_id,
        actor.blueprint_uid,
        actor.attributes,
        actor.pose,
        Box(Pose(), (x, y, z)),
        tire_friction=read.number("friction", 3.5, 0.0, 100.0),
    )


def _require_free(world: World, actor: Actor) -> None:
    """CARLA's own words, which scenario_runner looks for; in 3-D, as scenarios park actors underground."""
    box = actor.box_in_world()
    x, y, z = box.extent
    shrunk = Box(box.pose, (x, y, max(z - _CLEARANCE_M, 0.5 * z)))
    hit = world.physics.overlap(shrunk, frozenset())
    if hit is not None:
        what = "the town" if hit == 0 else f"{world.get(hit).type_id} (id={hit})"
        raise RequestError(f"Spawn failed because of collision at spawn position with {what}.")


def _embody(world: World, actor: Actor) -> None:
    if isinstance(actor, Vehicle):
        world.physics.add_vehicle(actor.actor_id, actor.spec, actor.pose)
    elif isinstance(actor, Walker):
        world.physics.add_walker(actor.actor_id, actor.box, actor.pose)
    elif isinstance(actor, Prop):
        world.physics.add_prop(actor.actor_id, actor.box, actor.pose, actor.tags[0])


def _paint(text: str, choices: tuple[tuple[int, int, int], ...]) -> tuple[int, int, int]:
    try:
        red, green, blue = (max(0, min(255, int(part))) for part in text.split(","))
    except ValueError:
        return choices[0] if choices else _DEFAULT_PAINT
    return red, green, blue
