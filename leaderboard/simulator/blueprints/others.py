"""Blueprints that are no vehicle, walker, prop or sensor.

Attributes and defaults: `MakeTriggerDefinition` of CARLA's `ActorBlueprintFunctionLibrary.cpp`,
`StaticMeshFactory.cpp`, `UtilActorFactory.cpp`.
"""

from __future__ import annotations

from tickdrive.leaderboard.simulator.blueprints.model import AttributeType, Blueprint, blueprint, settable

FRICTION_TRIGGER = "static.trigger.friction"
STATIC_MESH = "static.prop.mesh"
EMPTY_ACTOR = "util.actor.empty"


def other_blueprints() -> list[Blueprint]:
    """The friction trigger, the mesh (refused: Unreal's), and the actor without a body."""
    friction = [
        settable(name, AttributeType.FLOAT, (default,))
        for name, default in (("friction", "3.5"), *((f"extent_{axis}", "1.0") for axis in "xyz"))
    ]
    mesh = [
        settable("mesh_path", AttributeType.STRING, ("",)),
        settable("mass", AttributeType.FLOAT, ("0.0",)),
        settable("scale", AttributeType.FLOAT, ("1.0",)),
    ]
    return [
        blueprint(FRICTION_TRIGGER, ("trigger",), friction),
        blueprint(STATIC_MESH, ("prop",), mesh),
        blueprint(EMPTY_ACTOR, ("actor",), ()),
    ]
