"""The commands `tickdrive bench …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tickdrive.scripts.cli_options import JsonOption, RendererOption, TownsOption

_LeaderboardRoot = Annotated[Path | None, typer.Option(envvar="LEADERBOARD_ROOT", help="Its checkout.")]
_ScenarioRunnerRoot = Annotated[
    Path | None, typer.Option(envvar="SCENARIO_RUNNER_ROOT", help="The scenario_runner's checkout.")
]

bench = typer.Typer(help="Measure speed and memory: benchmarks, never tests.", no_args_is_help=True)


@bench.command("log")
def bench_log(
    ticks: Annotated[int, typer.Option(help="Ticks to measure.", min=10)] = 2000,
    read_ticks: Annotated[
        int, typer.Option(help="Ticks of the log that is read (2 kB of disk each); 0: none.", min=0)
    ] = 20_000,
    json_file: JsonOption = None,
) -> None:
    """What tracing and logging cost in a tick, and reading and summarising a log."""
    from tickdrive.scripts import bench as command

    command.log(ticks, read_ticks, json_file)


@bench.command("planner")
def bench_planner(
    presets: Annotated[
        str, typer.Option(help="By comma: compact, light, medium, seed, seed+n_layer=8, …")
    ] = "compact",
    engines: Annotated[
        str,
        typer.Option(
            help="By comma: reference, cached, hoisted; on a CPU traced, onnx; on a GPU graph, compiled, "
            "fused; auto: all of the device."
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    dtypes: Annotated[str, typer.Option(help="By comma: auto, fp32, bf16, fp16, int8.")] = "auto",
    batches: Annotated[str, typer.Option(help="Batch sizes, by comma.")] = "1",
    steps: Annotated[str, typer.Option(help="DDIM steps, by comma.")] = "10",
    study: Annotated[
        bool, typer.Option("--study", help="The study's proposals on each preset, instead of combinations.")
    ] = False,
    recordings: Annotated[
        list[Path] | None,
        typer.Option(help="Recordings: the error of the shipped checkpoint on drives not trained on."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Measuring time of each row.", min=0.1)] = 2.0,
    json_file: JsonOption = None,
) -> None:
    """The planner's forms side by side: latency, and error against the study's own form."""
    from tickdrive.scripts import bench as command

    command.planner(
        command.PlannerOptions(
            presets=presets,
            engines=engines,
            device=device,
            dtypes=dtypes,
            batches=batches,
            steps=steps,
            study=study,
            recordings=tuple(recordings or ()),
            seconds=seconds,
            json_file=json_file,
        )
    )


@bench.command("sim")
def bench_sim(
    ticks: Annotated[int, typer.Option(help="Ticks to measure.", min=10)] = 300,
    town: Annotated[str, typer.Option(help="A shipped town.")] = "TickTown01",
    vehicles: Annotated[int, typer.Option(help="Cars under the Traffic Manager.", min=0)] = 30,
    walkers: Annotated[int, typer.Option(help="Walkers.", min=0)] = 10,
    renderer: RendererOption = "cpu",
    json_file: JsonOption = None,
) -> None:
    """The simulator with a leaderboard's sensors and traffic, through the real client."""
    from tickdrive.scripts import bench as command

    command.simulator(ticks, town, vehicles, walkers, renderer, json_file)


@bench.command("cameras")
def bench_cameras(
    renderers: Annotated[
        str, typer.Option(help="By comma; the others are compared with the first.")
    ] = "cpu,egl",
    town: Annotated[str, typer.Option(help="A shipped town.")] = "TickTown01",
    vehicles: Annotated[int, typer.Option(help="Cars in the town.", min=0)] = 40,
    sizes: Annotated[
        str, typer.Option(help="Sizes of the pictures, by comma.")
    ] = "512x256,800x600,1920x1080",
    views: Annotated[int, typer.Option(help="Places for each weather and size.", min=1)] = 20,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each, the renderers side by side.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """The same views by the simulator's renderers: how long a picture takes, and how far they agree."""
    from tickdrive.scripts import bench as command

    command.cameras(town, vehicles, sizes, views, renderers, pictures, json_file)


@bench.command("scenarios")
def bench_scenarios(
    suite: Annotated[
        str | None,
        typer.Option(help="leaderboard-2.0, leaderboard-2.1 or bench2drive. Default: our own evaluator."),
    ] = None,
    leaderboard_root: _LeaderboardRoot = None,
    scenario_runner_root: _ScenarioRunnerRoot = None,
    towns: TownsOption = None,
    types: Annotated[str, typer.Option(help="Only these scenario types, by comma.")] = "",
    agent: Annotated[str, typer.Option(help="Who drives under our own evaluator.")] = "diffusion",
    seconds: Annotated[
        float, typer.Option(help="Simulated time that a route may take under our own evaluator.", min=1.0)
    ] = 300.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/<date>-scenarios.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Every scenario type once: does it start and end here? Ours, or an upstream scenario_runner's."""
    chosen = tuple(filter(None, types.split(",")))
    if suite is None:
        from tickdrive.scripts import bench_own_scenarios

        bench_own_scenarios.run(
            bench_own_scenarios.OwnScenarioOptions(agent, towns, chosen, out, json_file, seconds)
        )
        return
    from tickdrive.scripts import bench_scenarios as command

    command.run(
        command.ScenarioBenchOptions(
            suite, leaderboard_root, scenario_runner_root, towns, chosen, out, json_file
        )
    )


@bench.command("criteria")
def bench_criteria(
    suite: Annotated[str, typer.Option(help="leaderboard-2.0, leaderboard-2.1 or bench2drive.")],
    leaderboard_root: _LeaderboardRoot = None,
    scenario_runner_root: _ScenarioRunnerRoot = None,
    towns: TownsOption = None,
    misdeeds: Annotated[str, typer.Option(help="Only these, by comma. Default: all.")] = "",
    times: Annotated[int, typer.Option(help="How often each.", min=1)] = 2,
    routes: Annotated[
        Path | None,
        typer.Option(help="Route file, each route with one of the misdeeds in turn. Default: laid for each."),
    ] = None,
    subset: Annotated[str, typer.Option(help="Only these route ids of --routes: 3, or 1,4, or 2-6.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/<date>-criteria.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Bad drives under an upstream leaderboard, judged by it and by our criteria at once: do they agree?"""
    from tickdrive.scripts import bench_criteria as command

    chosen = tuple(filter(None, misdeeds.split(",")))
    command.run(
        command.CriteriaBenchOptions(
            suite,
            leaderboard_root,
            scenario_runner_root,
            towns,
            chosen,
            times,
            routes,
            subset,
            out,
            json_file,
        )
    )


@bench.command("drive")
def bench_drive(
    preset: Annotated[str, typer.Option(help="compact, light, medium, seed, seed+n_layer=8, …")] = "seed",
    ticks: Annotated[
        int, typer.Option(help="Ticks to drive; the leaderboards end a route after 300 s.", min=10, max=6000)
    ] = 1000,
    steps: Annotated[int, typer.Option(help="DDIM steps of each tick.", min=1)] = 10,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8.")] = "auto",
    engine: Annotated[str, typer.Option(help="auto builds and measures engines first.")] = "auto",
    json_file: JsonOption = None,
) -> None:
    """Agent and simulator together. Random weights, random features: it times, it does not drive."""
    from tickdrive.scripts import bench_drive as command

    command.run(command.DriveBenchmarkOptions(preset, ticks, steps, device, dtype, engine, json_file))


@bench.command("accuracy")
def bench_accuracy(
    recordings: Annotated[list[Path], typer.Argument(help="Folders of recordings (tickdrive record).")],
    checkpoint: Annotated[str, typer.Option(help="A shipped name or a checkpoint's folder.")] = "compact",
    json_file: JsonOption = None,
) -> None:
    """A checkpoint on recordings, open loop: displacement errors, and decisions by class."""
    from tickdrive.scripts import bench as command

    command.accuracy(recordings, checkpoint, json_file)
