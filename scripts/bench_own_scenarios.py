"""`tickdrive bench scenarios` without a suite: whether our own evaluator's scenario types start and end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.evaluator import Evaluator
from tickdrive.leaderboard.routes import read_routes
from tickdrive.leaderboard.scenarios.registry import SCENARIOS
from tickdrive.leaderboard.upstream.scenario_sites import routes_for
from tickdrive.planner.config import load_config
from tickdrive.scripts.agent_choice import choose_agent
from tickdrive.scripts.bench_scenarios import town_maps
from tickdrive.scripts.output import console, show_rows
from tickdrive.scripts.paths import configs_folder, new_run_folder
from tickdrive.scripts.session import server
from tickdrive.scripts.watching import LiveLine

_BLOCKED_S = 12.0


@dataclass(frozen=True)
class OwnScenarioOptions:
    """The command's options."""

    agent: str
    towns: Path | None
    types: tuple[str, ...] = ()
    out: Path | None = None
    json_file: Path | None = None
    seconds: float = 300.0


def run(options: OwnScenarioOptions) -> None:
    """Drive a short route with each type, and print what became of it.

    Raises:
        TickdriveError: a type is not known, or the agent or a town cannot be used.
    """
    folder = (options.out or new_run_folder("scenarios")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    types = options.types or tuple(SCENARIOS)
    own, shipped = town_maps(options.towns)
    text, placed, missing = routes_for(types, own | shipped)
    routes_file = folder / "routes.xml"
    routes_file.write_text(text)
    rows: list[dict[str, Any]] = [{"type": kind, "why": why} for kind, why in missing.items()]
    if placed:
        rows += _drive(options, folder, routes_file, placed)
    columns = ("type", "town", "state", "from s", "to s", "verdict", "score", "why")
    rows.sort(key=lambda row: types.index(row["type"]))
    show_rows("Scenarios", [{c: row.get(c, "") for c in columns} for row in rows], options.json_file)
    states = Counter(str(row.get("state", "no place")) for row in rows)
    console.print(f"  {len(rows)} types: {', '.join(f'{n} {state}' for state, n in states.most_common())}")


def _drive(
    options: OwnScenarioOptions, folder: Path, routes_file: Path, placed: dict[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    routes = read_routes(routes_file)
    # an ego that stands with nothing going on is of no use here
    overrides = [f"blocked_s={_BLOCKED_S}", f"max_ticks={round(20 * options.seconds)}"]
    evaluation = load_config(EvaluationConfig, configs_folder() / "evaluation.yaml", overrides)
    chosen = choose_agent(options.agent, None, [], folder)
    log = folder / "simulator.log"
    with server(console, None, routes[0].town, log_path=log, towns=options.towns) as simulator:
        evaluator = Evaluator(evaluation, simulator.host, simulator.port, simulator.is_alive)
        outcome = evaluator.run(routes, chosen.spec, folder, [LiveLine(console, evaluation.budget_ms)])
    rows = []
    for route, record in zip(routes, outcome.records, strict=False):
        kind, town = placed[route.id]
        (scenario,) = outcome.data["tickdrive"]["scenarios"][record.route_id]
        rows.append(
            {
                "type": kind,
                "town": town,
                "state": scenario["state"],
                "from s": scenario["started_s"] or "",
                "to s": scenario["ended_s"] or "",
                "verdict": record.status,
                "score": round(record.scores["score_composed"], 1),
                "why": scenario["why"],
            }
        )
    return rows
