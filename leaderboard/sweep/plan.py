"""What a latency sweep drives, and the manifest that says how: other drives do not mix with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tickdrive.agents.config import AgentConfig, LatencyConfig, TickLogConfig
from tickdrive.agents.shared_models import resolve_checkpoint
from tickdrive.leaderboard.evaluation_config import EvaluationConfig
from tickdrive.leaderboard.routes import Route
from tickdrive.planner.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from tickdrive.planner.config import config_hash, to_dict
from tickdrive.planner.errors import ConfigError, DataError
from tickdrive.planner.files import write_atomically
from tickdrive.planner.source import source_commit

COMPENSATED_FROM_MS = 200.0
"""From here on compensation for latency is tried on and off; below, a tick or two, it is as `on` says."""
COMPENSATION = ("both", "on", "off")
MANIFEST_NAME = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True, order=True)
class SweepPoint:
    """One way to drive.

    Attributes:
        latency_ms: of the whole agent, in simulated time; 0 are the leaderboard's own semantics.
        compensation: whether the agent plans for the moment at which its plan takes effect.
    """

    latency_ms: float
    compensation: bool

    @property
    def name(self) -> str:
        """For folders: 200ms-compensated."""
        return f"{self.latency_ms:g}ms-{'compensated' if self.compensation else 'uncompensated'}"

    def latency(self, base: LatencyConfig) -> LatencyConfig:
        """The agent's latency model for this point; rounding and the like are the base's."""
        if self.latency_ms == 0.0:
            return replace(base, mode="off", ms=0.0, trace="")
        return replace(base, mode="fixed", ms=self.latency_ms, trace="", compensation=self.compensation)


@dataclass(frozen=True)
class SweepDrive:
    """One drive of a sweep."""

    point: SweepPoint
    route_id: str
    seed: int

    @property
    def folder(self) -> Path:
        """Relative to the sweep's folder."""
        return Path("drives") / self.point.name / f"{self.route_id}-seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.point.latency_ms:g} ms{_suffix(self.point)}, {self.route_id}, seed {self.seed}"


def _suffix(point: SweepPoint) -> str:
    return "" if point.compensation else " uncompensated"


def sweep_points(latencies_ms: Sequence[float], compensation: str) -> tuple[SweepPoint, ...]:
    """The ways to drive, by latency.

    Args:
        latencies_ms: from 0 to 60000, each once.
        compensation: "both", "on" or "off"; "both" are two points from `COMPENSATED_FROM_MS` up.

    Raises:
        ConfigError: a latency is out of range or occurs twice, or there is none.
    """
    if not latencies_ms:
        raise ConfigError("There are no latencies to drive at.", "Give some: --latencies 0,200.")
    if len(set(latencies_ms)) != len(latencies_ms):
        raise ConfigError("A latency occurs twice.", "Give each once.")
    points: list[SweepPoint] = []
    for ms in sorted(latencies_ms):
        LatencyConfig(mode="fixed", ms=ms)  # its range
        both = compensation == "both" and ms >= COMPENSATED_FROM_MS
        points += [SweepPoint(ms, on) for on in ((True, False) if both else (compensation != "off",))]
    return tuple(points)


def sweep_drives(
    points: Sequence[SweepPoint], route_ids: Sequence[str], seeds: Sequence[int]
) -> Iterator[SweepDrive]:
    """Every drive; seed by seed, so that a sweep that is stopped early has whole curves of few drives."""
    for seed in seeds:
        for route_id in route_ids:
            for point in points:
                yield SweepDrive(point, route_id, seed)


@dataclass(frozen=True)
class Manifest:
    """How the drives of a sweep are driven.

    Attributes:
        agent: the agent's configuration, without what the points change.
        agent_hash: of it.
        evaluation: the evaluation's configuration, without the seed.
        evaluation_hash: of it.
        checkpoint: SHA-256 over the checkpoint's configurations and weights; empty where none is used.
        routes: route id -> SHA-256 of town, keypoints and weather.
        commit: of the source tree; None where it is no repository.
    """

    agent: Mapping[str, Any]
    agent_hash: str
    evaluation: Mapping[str, Any]
    evaluation_hash: str
    checkpoint: str
    routes: Mapping[str, str]
    commit: str | None

    @staticmethod
    def make(agent: AgentConfig, evaluation: EvaluationConfig, routes: Sequence[Route]) -> Manifest:
        """The manifest of a sweep to be driven.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        own = replace(
            agent,
            latency=SweepPoint(0.0, True).latency(replace(agent.latency, compensation=True)),
            tick_log=TickLogConfig(),
        )
        scoring = replace(evaluation, seed=0)
        return Manifest(
            agent=to_dict(own),
            agent_hash=config_hash(own),
            evaluation=to_dict(scoring),
            evaluation_hash=config_hash(scoring),
            checkpoint=_checkpoint_hash(agent) if agent.planner.kind == "diffusion" else "",
            routes={route.id: _route_hash(route) for route in routes},
            commit=source_commit(),
        )

    def differences(self, other: Manifest) -> list[str]:
        """What keeps drives of the two from being compared, a line each. The commit is no such thing."""
        lines = []
        for name in ("agent", "evaluation"):
            mine, theirs = _flat(getattr(self, name)), _flat(getattr(other, name))
            for key in dict.fromkeys((*mine, *theirs)):
                was, now = mine.get(key, "nothing"), theirs.get(key, "nothing")
                if was != now:
                    shown = key if name == "agent" else f"{name}.{key}"
                    lines.append(f"{shown} was {was}, now it is {now}")
        if self.checkpoint != other.checkpoint:
            lines.append(f"the checkpoint was {self.checkpoint[:12]}, now it is {other.checkpoint[:12]}")
        for route_id, was in self.routes.items():
            if other.routes.get(route_id, was) != was:
                lines.append(f"the route {route_id} was another one")
        return lines


def open_sweep(folder: Path, manifest: Manifest) -> tuple[Manifest, bool]:
    """Start a sweep's folder, or take up one that is there.

    Further routes may join; the rest must be as it was.

    Returns:
        the manifest on disk, and whether its drives are of another commit.

    Raises:
        DataError: the folder's drives were driven in another way; the message says what differs.
    """
    path = folder / MANIFEST_NAME
    before = read_manifest(path) if path.exists() else manifest
    different = before.differences(manifest)
    if different:
        raise DataError(
            f"The drives in {folder} were driven in another way: {'; '.join(different)}.",
            "Give the same options as then, or another --out.",
        )
    joined = replace(before, routes={**before.routes, **manifest.routes})
    folder.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, **asdict(joined)}
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    return joined, before.commit != manifest.commit


def read_manifest(path: Path) -> Manifest:
    """Read a sweep's manifest.

    Raises:
        DataError: it cannot be read, or is of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError("it is of another schema")
        return Manifest(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"The sweep's manifest {path} cannot be used: {error}.", "Choose another --out."
        ) from error


def _checkpoint_hash(agent: AgentConfig) -> str:
    digest = hashlib.sha256()
    folder = resolve_checkpoint(agent.planner.checkpoint)
    for path in sorted(folder.rglob("*")):
        if path.name in (CONFIG_FILE, WEIGHTS_FILE):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _route_hash(route: Route) -> str:
    weathers = [(weather.route_percent, weather.values) for weather in route.weathers]
    text = json.dumps([route.town, route.keypoints_in_world, weathers])
    return hashlib.sha256(text.encode()).hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as a.b.c."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = json.loads(json.dumps(value, default=str))
    return out
