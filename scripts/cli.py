"""The command line `tickdrive`. Each command is a thin file; what is slow to import is imported inside it."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from tickdrive.leaderboard.simulator_watch import leave_process, lost_server
from tickdrive.planner.errors import ConfigError, TickdriveError
from tickdrive.scripts.cli_bench import bench
from tickdrive.scripts.cli_options import (
    AgentConfigOption,
    AgentOption,
    CarlaOption,
    EngineOption,
    JsonOption,
    RendererOption,
    SetOption,
    TownsOption,
    WrapOption,
    with_engine,
)
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
app.add_typer(bench, name="bench")


# what a user's disk does: full, quota, read-only, no right to write
_DISKS_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
)
_SIM_PACKAGES = ("av", "embreex", "msgpack", "numba", "psutil", "shapely")


_UPSTREAM = "An upstream leaderboard (--suite)"


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
    renderer: RendererOption = "cpu",
    agent: AgentOption = "diffusion",
    agent_config: AgentConfigOption = None,
    wrap: WrapOption = True,
    settings: SetOption = None,
    engine: EngineOption = None,
    carla: CarlaOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/<date>-<name>.")] = None,
    video: Annotated[bool, typer.Option(help="Write drive.mp4.")] = True,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the stages' latency while driving, on a terminal.")
    ] = False,
    frames: Annotated[bool, typer.Option(help="Keep camera pictures for the report.")] = True,
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
            renderer=renderer,
            agent=agent,
            agent_config=agent_config,
            wrap=wrap,
            watch=watch,
            settings=with_engine(settings, engine),
            carla=carla,
            out=out,
            video=video,
            frames=frames,
            json_file=json_file,
        )
    )


@app.command()
def evaluate(
    context: typer.Context,
    routes_file: Annotated[
        Path | None,
        typer.Argument(metavar="ROUTES", help="Route file (leaderboard 2.x, Bench2Drive or 1.0 XML)."),
    ] = None,
    routes: Annotated[
        Path | None, typer.Option("--routes", help="The same, as upstream's evaluators call it.")
    ] = None,
    subset: Annotated[str, typer.Option(help="Only these route ids: 3, or 1,4, or 2-6.")] = "",
    agent: AgentOption = "diffusion",
    agent_config: AgentConfigOption = None,
    wrap: WrapOption = True,
    settings: SetOption = None,
    engine: EngineOption = None,
    rules: Annotated[str, typer.Option(help="Scoring: 2.0, 2.1 or bench2drive.")] = "2.0",
    seed: Annotated[int, typer.Option(help="Traffic, lights and noise.")] = 0,
    repetitions: Annotated[
        int, typer.Option(help="How often each route is driven; repetition k has seed + k.")
    ] = 1,
    carla: CarlaOption = None,
    renderer: RendererOption = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. Default: runs/<date>-<file>.")
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the results in --out; where there are none, start.")
    ] = False,
    frames: Annotated[bool, typer.Option(help="Keep camera pictures for the report.")] = False,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Run an upstream evaluator, unmodified: leaderboard-2.0 (master too), leaderboard-2.1 or "
            "bench2drive.",
            rich_help_panel=_UPSTREAM,
        ),
    ] = None,
    leaderboard_root: Annotated[
        Path | None,
        typer.Option(envvar="LEADERBOARD_ROOT", help="Its checkout.", rich_help_panel=_UPSTREAM),
    ] = None,
    scenario_runner_root: Annotated[
        Path | None,
        typer.Option(
            envvar="SCENARIO_RUNNER_ROOT", help="The scenario_runner's checkout.", rich_help_panel=_UPSTREAM
        ),
    ] = None,
    carla_root: Annotated[
        Path | None,
        typer.Option(
            help="A CARLA installation: Bench2Drive starts it; else its towns and PythonAPI are used.",
            rich_help_panel=_UPSTREAM,
        ),
    ] = None,
    towns: TownsOption = None,
    skip_unknown_towns: Annotated[
        bool,
        typer.Option(
            "--skip-unknown-towns",
            help="Leave out routes in towns that the embedded simulator has not.",
        ),
    ] = False,
    track: Annotated[
        str, typer.Option(help="Track of an agent given by its path.", rich_help_panel=_UPSTREAM)
    ] = "SENSORS",
    timeout: Annotated[
        float,
        typer.Option(
            help="Upstream's --timeout, s: the agent's setup, a tick, a call to the simulator.",
            min=1.0,
            rich_help_panel=_UPSTREAM,
        ),
    ] = 300.0,
    hang: Annotated[
        float | None,
        typer.Option(
            help="Simulated time may stand still so long, s. Default: the longest timeout and a minute.",
            min=1.0,
        ),
    ] = None,
    retries: Annotated[
        int,
        typer.Option(
            help="A route whose simulator or evaluator died is tried again so often.",
            min=0,
        ),
    ] = 2,
    json_file: JsonOption = None,
) -> None:
    """Drive all routes of a file and score them by the rules of the leaderboard; resumes after a kill."""
    if (routes_file is None) == (routes is None):
        raise ConfigError("The route file is to be given once.", "Give it as the argument, or with --routes.")
    routes = routes_file or routes
    assert routes is not None
    _refuse_without_effect(context, suite is not None)
    if suite is not None:
        from tickdrive.leaderboard.upstream.suite_run import SuiteSettings
        from tickdrive.scripts import evaluate_suite

        evaluate_suite.run(
            evaluate_suite.SuiteOptions(
                suite=suite,
                routes=routes,
                leaderboard_root=leaderboard_root,
                scenario_runner_root=scenario_runner_root,
                carla_root=carla_root,
                towns=towns,
                renderer=renderer,
                carla=carla,
                subset=subset,
                skip_unknown_towns=skip_unknown_towns,
                agent=agent,
                agent_config=agent_config,
                wrap=wrap,
                track=track,
                agent_settings=with_engine(settings, engine),
                settings=SuiteSettings(repetitions, seed, timeout, hang, retries),
                out=out,
                resume=resume,
                json_file=json_file,
            )
        )
        return
    from tickdrive.scripts import evaluate as command

    command.run(
        command.EvaluateOptions(
            routes=routes,
            subset=subset,
            agent=agent,
            agent_config=agent_config,
            wrap=wrap,
            settings=with_engine(settings, engine),
            rules=rules,
            seed=seed,
            repetitions=repetitions,
            carla=carla,
            towns=towns,
            skip_unknown_towns=skip_unknown_towns,
            renderer=renderer,
            out=out,
            resume=resume,
            frames=frames,
            retries=retries,
            hang_s=hang,
            json_file=json_file,
        )
    )


def _refuse_without_effect(context: typer.Context, upstream: bool) -> None:
    """Options of `evaluate` that the chosen evaluator knows nothing of; variables may stand there for others.

    Raises:
        ConfigError: names them.
    """
    ours, upstreams = ("rules", "frames"), ("leaderboard_root", "scenario_runner_root", "carla_root")
    foreign = ours if upstream else (*upstreams, "track", "timeout")
    given = [
        f"--{name.replace('_', '-')}"
        for name in foreign
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        what = (
            "no effect with --suite: it is upstream's evaluator"
            if upstream
            else "an effect with --suite only"
        )
        raise ConfigError(
            f"{', '.join(given)} {'have' if len(given) > 1 else 'has'} {what}.", "Leave it out."
        )


@app.command()
def sim(
    town: Annotated[str, typer.Option(help="A shipped town.")] = "TickTown01",
    xodr: Annotated[Path | None, typer.Option(help="Any OpenDRIVE file, as the town.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback let anyone in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="RPC port; sensor streams use the next one.")] = 2000,
    seed: Annotated[int, typer.Option(help="Lights and sensor noise.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the renderer.", min=1)] = 1,
    towns: TownsOption = None,
    renderer: RendererOption = "cpu",
) -> None:
    """Serve the embedded simulator alone: any carla 0.9.16 client can connect."""
    from tickdrive.scripts import sim as command

    command.run(town, xodr, host, port, seed, threads, towns, renderer)


@app.command("carla-root")
def carla_root_command(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    towns: TownsOption = None,
    seed: Annotated[int, typer.Option(help="Lights and sensor noise.")] = 0,
    renderer: RendererOption = "cpu",
) -> None:
    """Make a folder whose CarlaUE4.sh takes CARLA's flags and starts the embedded simulator."""
    from tickdrive.scripts import carla_root as command

    command.run(folder, towns, seed, renderer)


@app.command()
def record(
    routes: Annotated[list[Path], typer.Argument(help="Route files to record.")],
    out: Annotated[Path, typer.Option(help="Folder of the recordings.")] = Path("recordings"),
    seeds: Annotated[str, typer.Option(help="0, or 0,3,5, or 0-4.")] = "0",
    jobs: Annotated[int, typer.Option(help="Drives at a time; each takes about 1.5 cores.")] = 1,
    val_towns: Annotated[str, typer.Option(help="Towns kept out of training, by comma.")] = "TickTown02",
    val_every: Annotated[
        int, typer.Option(help="Every so many-th route is kept out of training; 0: none.")
    ] = 8,
    perturb: Annotated[float, typer.Option(help="Share of the time in which controls are disturbed.")] = 0.08,
    student: Annotated[
        str,
        typer.Option(help="Checkpoint that drives part of the time, the expert labelling (DAgger)."),
    ] = "",
    student_share: Annotated[float, typer.Option(help="Share of the time in which it drives.")] = 0.7,
    student_steps: Annotated[int, typer.Option(help="Its denoising steps.", min=1)] = 10,
    stride_ticks: Annotated[int, typer.Option(help="A sample every so many ticks.", min=1)] = 5,
    renderer: RendererOption = "cpu",
) -> None:
    """Record the expert: what the agent's sensors see, and what the expert would do. Resumes."""
    from tickdrive.scripts import record as command

    command.run(
        command.RecordOptions(
            routes=tuple(routes),
            out=out,
            seeds=command.parse_seeds(seeds),
            jobs=jobs,
            val_towns=tuple(filter(None, val_towns.split(","))),
            val_every=val_every,
            perturb=perturb,
            student=student,
            student_share=student_share,
            student_steps=student_steps,
            stride_ticks=stride_ticks,
            renderer=renderer,
        )
    )


@app.command()
def train(
    recordings: Annotated[list[Path], typer.Argument(help="Folders of recordings (tickdrive record).")],
    out: Annotated[Path, typer.Option(help="Folder of the training run: state, curves, checkpoint.")] = Path(
        "training"
    ),
    config: Annotated[Path | None, typer.Option(help="Training configuration (YAML).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the training's configuration, e.g. epochs=10."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where the run in --out stopped.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Folder of the checkpoint. Default: <out>/checkpoint.")
    ] = None,
) -> None:
    """Train perception and planner on recordings: on a GPU in minutes, on a CPU slowly. Resumes."""
    from tickdrive.scripts.train import train_command

    train_command(recordings, out, config, settings or (), resume, export)


@app.command()
def latency(
    logs: Annotated[
        list[Path], typer.Argument(help="A run's folder, its ticks.jsonl, or Parquet made of it; or several.")
    ],
    budget_ms: Annotated[float, typer.Option(help="The tick's budget.", min=0.001)] = 50.0,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT",
            help='Exit with 3 where it holds: "total.p95 > 50", "miss_share > 0.01"; '
            'with two logs also "diff.total.p95 > 2". May be given again.',
        ),
    ] = None,
    parquet: Annotated[Path | None, typer.Option(help="Also write the log as Parquet to this file.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Also write a Chrome/Perfetto trace: FILE.json or FILE.json.gz.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Where a drive's milliseconds went: by stage, misses, longest ticks; with two logs, what differs."""
    from tickdrive.scripts import latency as command

    command.run(
        command.LatencyOptions(
            logs=tuple(logs),
            budget_ms=budget_ms,
            fail_over=tuple(fail_over or ()),
            parquet=parquet,
            trace=trace,
            json_file=json_file,
        )
    )


@app.command()
def rerun(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its log.")],
    out: Annotated[Path | None, typer.Option(help="The recording. Default: drive.rrd in the folder.")] = None,
    budget_ms: Annotated[float, typer.Option(help="The tick's budget.", min=0.001)] = 50.0,
) -> None:
    """A run as a recording for the rerun viewer: latency, plan and way, reasoning, camera and LiDAR if kept.

    One plan a tick: the planner samples one, so there are no candidates to choose from or to show.
    """
    from tickdrive.scripts import rerun as command

    command.run(run, out, budget_ms)


@app.command("latency-sweep")
def latency_sweep(
    latencies: Annotated[
        str, typer.Option(help="Milliseconds of the whole agent, by comma. 0: the leaderboard's semantics.")
    ] = "0,30,75,200,500,1000,2000",
    routes: Annotated[
        str | None,
        typer.Option(metavar="FILE[:IDS]", help="Route file. Default: the shipped sweep.xml, 3 routes."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="0, or 0,3,5, or 0-4.")] = "0-2",
    agent_config: Annotated[Path | None, typer.Option(help="Agent configuration (YAML).")] = None,
    settings: SetOption = None,
    rounding: Annotated[str, typer.Option(help="quantised (to whole ticks) or subtick.")] = "quantised",
    compensation: Annotated[
        str, typer.Option(help="both (from 200 ms up), on or off: planning for when the plan takes effect.")
    ] = "both",
    out: Annotated[
        Path | None, typer.Option(help="Folder; where a sweep is in it, it goes on. Default: runs/<date>-….")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Drives at a time; each takes about a core.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """What latency costs: the same routes at several latencies, as a table and a picture. Resumes."""
    from tickdrive.scripts import latency_sweep as command
    from tickdrive.scripts.record import parse_seeds

    command.run(
        command.SweepOptions(
            latencies_ms=command.parse_latencies(latencies),
            routes=routes,
            seeds=parse_seeds(seeds),
            agent_config=agent_config,
            settings=tuple(settings or ()),
            rounding=rounding,
            compensation=compensation,
            out=out,
            jobs=jobs,
            json_file=json_file,
        )
    )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder (tickdrive drive or evaluate).")],
    out: Annotated[Path | None, typer.Option(help="The file. Default: report.html in the folder.")] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="The tick's budget. Default: the run's own.", min=0.001)
    ] = None,
    max_mb: Annotated[
        float, typer.Option(help="Size the file may have; pictures are thinned.", min=1)
    ] = 24.0,
) -> None:
    """A drive as one HTML file without server or network: latency, map, pictures, reasoning, result."""
    from tickdrive.scripts import report as command

    command.run(run, out, budget_ms, max_mb)


@app.command()
def profile(
    preset: Annotated[
        str | None,
        typer.Option(help="seed, medium, light, compact, or seed+n_layer=8; random weights."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="A shipped name or a checkpoint's folder. Default: compact.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Your planner, as in configs/pdm_server.yaml; random weights."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change --config, e.g. policy.n_layer=8."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="reference, cached and hoisted show their parts; others their stages.")
    ] = "reference",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8.")] = "auto",
    batch: Annotated[int, typer.Option(help="Plans at once.", min=1)] = 1,
    steps: Annotated[int | None, typer.Option(help="DDIM steps. Default: the network's.", min=1)] = None,
    tokens: Annotated[str, typer.Option(help="VL and reasoning tokens, e.g. 512,7.")] = "",
    seconds: Annotated[float, typer.Option(help="Measuring time of each form.", min=0.01)] = 1.0,
    json_file: JsonOption = None,
) -> None:
    """Where a plan's milliseconds go, why it takes that long, and what would save what."""
    from tickdrive.scripts import profile as command

    command.run(
        command.ProfileOptions(
            preset=preset,
            checkpoint=checkpoint,
            config=config,
            settings=tuple(settings or ()),
            engine=engine,
            device=device,
            dtype=dtype,
            batch=batch,
            steps=steps,
            tokens=tokens,
            seconds=seconds,
            json_file=json_file,
        )
    )


@app.command()
def warmup(
    checkpoint: Annotated[str, typer.Option(help="A shipped name or a checkpoint's folder.")] = "compact",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16, int8.")] = "auto",
    batch: Annotated[int, typer.Option(help="Plans at once.", min=1)] = 1,
    steps: Annotated[str, typer.Option(help="Step counts to be ready for, by comma.")] = "10,5,2,1",
    tokens: Annotated[str, typer.Option(help="VL and reasoning tokens. Default: the checkpoint's.")] = "",
    threads: Annotated[
        int, typer.Option(help="As the agent's `threads`: what is kept holds for that number.", min=0)
    ] = 0,
    json_file: JsonOption = None,
) -> None:
    """Build what engines keep on disk, measure them, and let engine `auto` take the fastest from now on."""
    from tickdrive.scripts import warmup as command

    command.run(checkpoint, device, dtype, batch, steps, tokens, threads, json_file)


def main() -> None:
    """Entry point: a mendable error is one message and exit status 1, never a traceback."""
    try:
        _run()
    except BaseException as error:
        if not lost_server():
            raise
        # the interpreter's own end would wait for what the client left behind
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            leave_process(status=error.code)
        traceback.print_exc()
        leave_process(status=1)


def _run() -> None:
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=error_console, show_time=False, show_path=False)],
    )
    try:
        app()
    except TickdriveError as error:
        _show_error(error.what, error.mend)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name not in _SIM_PACKAGES:
            raise
        _show_error(
            f"{error.name} is not installed.", "The simulator needs it: pip install 'tickdrive[sim]'."
        )
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISKS_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _show_error(
            f"A file cannot be written or read{where}: {error.strerror}.",
            "Make room there, or name another folder; `evaluate` and others go on with --resume.",
        )
        sys.exit(1)
    except KeyboardInterrupt:
        error_console.print("stopped")
        sys.exit(130)


def _show_error(what: str, mend: str) -> None:
    error_console.print("error: ", style="bold red", end="")
    error_console.print(what, markup=False, soft_wrap=True)
    if mend:
        error_console.print(f"       {mend}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
