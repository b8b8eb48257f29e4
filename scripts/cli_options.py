"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this JSON file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the agent's configuration, e.g. planner.steps=5."
    ),
]
EngineOption = Annotated[
    str | None, typer.Option(help="The planner's engine, the same as --set planner.engine=…; auto is usual.")
]
AgentOption = Annotated[
    str, typer.Option(help="diffusion, expert, or the path of any leaderboard agent (a .py file).")
]
AgentConfigOption = Annotated[
    str | None, typer.Option(help="The agent's configuration, as its setup takes it; a YAML file for ours.")
]
WrapOption = Annotated[
    bool,
    typer.Option(help="Measure an agent given by its path: tick log, and latency.* settings by --set."),
]
CarlaOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="A CARLA server that is already running, instead of the embedded one."
    ),
]
RendererOption = Annotated[
    str,
    typer.Option(
        help="What draws the embedded simulator's cameras: cpu, egl (a graphics card), or auto (the card, if "
        "there is one)."
    ),
]
TownsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Further towns for the embedded simulator: their OpenDRIVE files, NAME.xodr."
    ),
]


def with_engine(settings: list[str] | None, engine: str | None) -> tuple[str, ...]:
    """The agent's changes, with the engine among them."""
    return (*(settings or ()), *([f"planner.engine={engine}"] if engine else []))
