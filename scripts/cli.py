"""The command line `tickdrive`. Each command is a thin file; what is slow to import is imported inside it."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from tickdrive.planner.errors import TickdriveError
from tickdrive.scripts.output import error_console

app = typer.Typer(
    name="tickdrive",
    help="A diffusion planner that drives CARLA inside the tick, and shows where every millisecond went.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(help="Measure speed and memory: benchmarks, never tests.", no_args_is_help=True)
app.add_typer(bench, name="bench")


class AgentName(str, Enum):
    """Agents that ship."""

    diffusion = "diffusion"
    expert = "expert"


JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this JSON file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the agent's configuration, e.g. planner.steps=5."
    ),
]
CarlaOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="A CARLA server that is already running, instead of the embedded one."
    ),
]


@app.command()
def drive(
    route: Annotated[
        str | None,
        typer.Option(help="Route file, or FILE:ID for one route of it. Default: the shipped default route."),
    ] = None,
    town: Annotated[
        str | None, typer.Option(help="A shipped town; without --route, a route is drawn by --seed.")
    ] = None,
    xodr: Annotated[Path | None, typer.Option(help="Any OpenDRIVE file, as the town.")] = None,
    seed: Annotated[int, typer.Option(help="Traffic, lights, noise and a drawn route.")] = 0,
    agent: Annotated[AgentName, typer.Option(help="Who drives.")] = AgentName.diffusion,
    agent_config: Annotated[Path | None, typer.Option(help="Agent configuration (YAML).")] = None,
    settings: SetOption = None,
    carla: CarlaOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/<date>-<name>.")] = None,
    video: Annotated[bool, typer.Option(help="Write drive.mp4.")] = True,
    json_file: JsonOption = None,
) -> None:
    """Drive one route: live line, result and latency tables, and a folder with log, results and film."""
    from tickdrive.scripts import drive as command

    command.run(
        command.DriveOptions(
            route=route,
            town=town,
            xodr=xodr,
            seed=seed,
            agent=agent.value,
            agent_config=agent_config,
            settings=tuple(settings or ()),
            carla=carla,
            out=out,
            video=video,
            json_file=json_file,
        )
    )


@app.command()
def latency(
    log: Annotated[Path, typer.Argument(help="A run's folder or its ticks.jsonl.")],
    budget_ms: Annotated[float, typer.Option(help="The tick's budget.", min=0.001)] = 50.0,
    json_file: JsonOption = None,
) -> None:
    """Where the milliseconds of a drive went: percentiles by stage, misses, agent against simulator."""
    from tickdrive.scripts import latency as command

    command.run(log, budget_ms, json_file)


def main() -> None:
    """Entry point: a mendable error is one message and exit status 1, never a traceback."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=error_console, show_time=False, show_path=False)],
    )
    try:
        app()
    except TickdriveError as error:
        error_console.print(f"[bold red]error:[/] {error.what}", soft_wrap=True)
        if error.mend:
            error_console.print(f"       {error.mend}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        error_console.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
