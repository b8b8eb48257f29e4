"""A user's checkouts of a leaderboard and scenario_runner: what is wrong with them, before anything runs."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tickdrive.planner.errors import ConfigError, did_you_mean

OPEN_DRIVE = "CarlaUE4/Content/Carla/Maps/OpenDrive"
"""Where a CARLA installation has its towns' OpenDRIVE files."""
_EVALUATOR = "leaderboard/leaderboard_evaluator.py"
_STATISTICS = "leaderboard/utils/statistics_manager.py"
_PROVIDER = "srunner/scenariomanager/carla_data_provider.py"
_ROUTE_SCENARIO = "leaderboard/scenarios/route_scenario.py"
_OF_MASTER = "set_ego_route"
"""Branch master alone has it: its leaderboard calls it, its scenario_runner's data provider defines it.
The same change made master's scenario triggers triples; those of 2.0, 2.1 and Bench2Drive are pairs.
Mixed, routes end in an exception."""
_OF_BENCH2DRIVE = "srunner/scenarios/vanilla_turn.py"
"""Bench2Drive's scenario_runner alone has it. It reports every check of the minimum speed as an
infraction, and the other leaderboards would score that."""
_WEATHER_IDS = "leaderboard/data/weather.xml"
_PIP = f"{sys.executable} -m pip install"
# import name -> distribution, as the leaderboards' and scenario_runner's requirements name them
_PACKAGES = {
    "py_trees": "py-trees",
    "dictor": "dictor",
    "ephem": "ephem",
    "xmlschema": "xmlschema",
    "tabulate": "tabulate",
    "transforms3d": "transforms3d",
    "simple_watchdog_timer": "simple-watchdog-timer",
    "six": "six",
    "requests": "requests",
    "shapely": "shapely",
    "networkx": "networkx",
    "matplotlib": "matplotlib",
    "psutil": "psutil",
}


@dataclass(frozen=True)
class Suite:
    """A leaderboard whose evaluator can be run.

    Attributes:
        name: as given with ``--suite``.
        pedestrian_penalty: what its `statistics_manager.py` takes for a pedestrian: tells the versions apart.
        starts_carla: its evaluator starts CARLA itself, from `$CARLA_ROOT`.
    """

    name: str
    pedestrian_penalty: float
    starts_carla: bool


SUITES = {
    suite.name: suite
    for suite in (
        Suite("leaderboard-2.0", 0.5, False),
        Suite("leaderboard-2.1", 1.0, False),
        Suite("bench2drive", 0.5, True),
    )
}


@dataclass(frozen=True)
class Checkout:
    """What is needed of a user's checkouts, checked.

    Attributes:
        suite: which leaderboard it is.
        leaderboard_root: holds the package `leaderboard`.
        scenario_runner_root: holds the package `srunner`.
        python_api: folder of CARLA's own `agents`, where a CARLA was given that has it.
        carla_root: as given.
    """

    suite: Suite
    leaderboard_root: Path
    scenario_runner_root: Path
    python_api: Path | None
    carla_root: Path | None

    @property
    def evaluator(self) -> Path:
        """The program that is run."""
        return self.leaderboard_root / _EVALUATOR

    @property
    def working_folder(self) -> Path:
        """Bench2Drive reads files by paths relative to the folder above `leaderboard`."""
        return self.leaderboard_root.parent

    @property
    def python_path(self) -> list[str]:
        """In upstream's order."""
        roots = [self.leaderboard_root, self.scenario_runner_root]
        return [str(root) for root in [*roots, *([self.python_api] if self.python_api else [])]]

    @property
    def towns(self) -> Path | None:
        """CARLA's own towns, where a CARLA was given that has them."""
        folder = self.carla_root / OPEN_DRIVE if self.carla_root else None
        return folder if folder is not None and folder.is_dir() else None

    def scenario_types(self) -> frozenset[str]:
        """Names of all classes that scenario_runner's scenarios define."""
        names: set[str] = set()
        for path in (self.scenario_runner_root / "srunner" / "scenarios").glob("*.py"):
            names |= set(re.findall(r"^class (\w+)", path.read_text(errors="replace"), re.MULTILINE))
        return frozenset(names)


def open_checkout(
    suite: str,
    leaderboard_root: Path | None,
    scenario_runner_root: Path | None,
    carla_root: Path | None = None,
) -> Checkout:
    """Check what a user gave.

    Args:
        suite: name of one of `SUITES`.
        leaderboard_root: the checkout's folder with the package `leaderboard` in it.
        scenario_runner_root: the folder with the package `srunner` in it.
        carla_root: a CARLA installation, or a folder made by ``tickdrive carla-root``.

    Raises:
        ConfigError: names all that is missing, and how to get it.
    """
    if suite not in SUITES:
        raise ConfigError(f"There is no suite {suite!r}.", did_you_mean(suite, SUITES))
    kind = SUITES[suite]
    if leaderboard_root is None or scenario_runner_root is None:
        raise ConfigError(
            f"--suite {suite} needs a checkout of the leaderboard and one of scenario_runner.",
            "Name them with --leaderboard-root and --scenario-runner-root, or in LEADERBOARD_ROOT and "
            "SCENARIO_RUNNER_ROOT.",
        )
    api = carla_root / "PythonAPI" / "carla" if carla_root else None
    checkout = Checkout(
        kind,
        leaderboard_root.resolve(),
        scenario_runner_root.resolve(),
        api.resolve() if api is not None and (api / "agents" / "navigation").is_dir() else None,
        carla_root.resolve() if carla_root else None,
    )
    problems = [*_missing_files(checkout), *_wrong_version(checkout), *_missing_modules(checkout)]
    problems += _mixed_branches(checkout)
    problems += _missing_packages()
    if problems:
        raise ConfigError(f"--suite {suite} cannot run:\n  - " + "\n  - ".join(problems))
    return checkout


def _missing_files(checkout: Checkout) -> Iterator[str]:
    needed = [
        (checkout.leaderboard_root, _EVALUATOR, "--leaderboard-root"),
        (checkout.leaderboard_root, _STATISTICS, "--leaderboard-root"),
        (checkout.scenario_runner_root, _PROVIDER, "--scenario-runner-root"),
    ]
    if checkout.suite.starts_carla:
        needed.append((checkout.working_folder, _WEATHER_IDS, "the folder above --leaderboard-root"))
        if checkout.carla_root is not None:
            needed.append((checkout.carla_root, "CarlaUE4.sh", "--carla-root"))
    elif checkout.carla_root is not None and checkout.python_api is None and checkout.towns is None:
        yield (
            f"--carla-root {checkout.carla_root} has neither {OPEN_DRIVE} nor PythonAPI/carla/agents: is it "
            "the folder meant?"
        )
    for root, file, option in needed:
        if not (root / file).is_file():
            yield f"{option} {root} has no {file}: is it the folder meant, and wholly checked out?"


def _wrong_version(checkout: Checkout) -> Iterator[str]:
    try:
        text = (checkout.leaderboard_root / _STATISTICS).read_text(errors="replace")
        is_bench2drive = "CARLA_ROOT" in checkout.evaluator.read_text(errors="replace")
    except OSError:
        return  # said already
    found = re.search(r"COLLISION_PEDESTRIAN:\s*([\d.]+)", text)
    taken = float(found.group(1)) if found else None
    fitting = [
        suite.name
        for suite in SUITES.values()
        if suite.pedestrian_penalty == taken and suite.starts_carla == is_bench2drive
    ]
    if checkout.suite.name not in fitting:
        what = f"is of {' or '.join(fitting)}" if fitting else "is of no leaderboard that is known here"
        yield f"{checkout.leaderboard_root} {what}: give that --suite, or another checkout"


def _missing_modules(checkout: Checkout) -> Iterator[str]:
    """A leaderboard and a scenario_runner of different branches do not fit together."""
    wanted: set[str] = set()
    for path in (checkout.leaderboard_root / "leaderboard").rglob("*.py"):
        wanted |= set(
            re.findall(r"^\s*(?:from|import) (srunner[\w.]+)", path.read_text(errors="replace"), re.M)
        )
    if not (checkout.scenario_runner_root / _PROVIDER).is_file():
        return  # said already
    for module in sorted(wanted):
        path = checkout.scenario_runner_root.joinpath(*module.split("."))
        if not path.with_suffix(".py").is_file() and not path.is_dir():
            yield (
                f"this leaderboard imports {module}, which {checkout.scenario_runner_root} has not: "
                "check out the scenario_runner of the same branch"
            )


def _mixed_branches(checkout: Checkout) -> Iterator[str]:
    """A scenario_runner that has all that is imported, and yet is another's; 2.0's and 2.1's are the same."""
    board, runner = checkout.leaderboard_root, checkout.scenario_runner_root
    try:
        provider = (runner / _PROVIDER).read_text(errors="replace")
        evaluator = checkout.evaluator.read_text(errors="replace")
    except OSError:
        return  # said already
    path = board / _ROUTE_SCENARIO
    calls = path.read_text(errors="replace") if path.is_file() else ""

    def branch(master: bool, bench2drive: bool) -> str:
        return "branch master" if master else "Bench2Drive" if bench2drive else "leaderboard-2.0 or 2.1"

    has = branch(f".{_OF_MASTER}(" in calls, "CARLA_ROOT" in evaluator)
    given = branch(f"def {_OF_MASTER}(" in provider, (runner / _OF_BENCH2DRIVE).is_file())
    if has != given:
        yield (
            f"the leaderboard in {board} is of {has}, the scenario_runner in {runner} of {given}: "
            "check out the scenario_runner of the same branch"
        )


def _missing_packages() -> Iterator[str]:
    missing = sorted(name for module, name in _PACKAGES.items() if find_spec(module) is None)
    if missing:
        yield f"missing packages: {', '.join(missing)}. Run: {_PIP} 'tickdrive[upstream]'"
    try:
        py_trees = version("py-trees")
    except PackageNotFoundError:
        return
    if not py_trees.startswith("0.8."):
        yield f"py-trees is {py_trees}, and 0.8.3 is needed. Run: {_PIP} py-trees==0.8.3"


def unknown_scenarios(types: Iterable[str], checkout: Checkout) -> dict[str, int]:
    """Scenario types that scenario_runner has no class for, and how often; upstream skips them silently."""
    known = checkout.scenario_types()
    return dict(sorted(Counter(each for each in types if each not in known).items()))
