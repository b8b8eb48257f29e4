"""Configuration of an evaluation (`configs/evaluation.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from tickdrive.leaderboard.route_planner import BENCH2DRIVE_PLAN_GAP_M, PLAN_GAP_M
from tickdrive.leaderboard.scoring import Rules
from tickdrive.planner.errors import ConfigError, did_you_mean

TRACKS = ("SENSORS", "MAP", "SENSORS_QUALIFIER", "MAP_QUALIFIER")


@dataclass(frozen=True)
class TrafficConfig:
    """Background traffic of a route.

    Attributes:
        vehicles: how many drive about under the Traffic Manager, the one ahead included.
        walkers: how many walk, those at crosswalks included.
        crossing_walkers: how many of them wait at crosswalks of the route and cross before the ego.
        walkers_per_crosswalk: how many of these may wait at one crosswalk: 1, or 2, one on each side.
        lead_vehicle: whether a vehicle starts ahead of the ego and drives its route.
        lead_gap_m: its distance at the start.
        lead_slower_percent: how much it stays below the speed limit.
        slower_percent: how much the others do.
        radius_m: how far from the route traffic may start.
        following_gap_m: what the Traffic Manager keeps to the vehicle ahead.
        crossing_speed_mps: of walkers on a crosswalk.
    """

    vehicles: int = 24
    walkers: int = 10
    crossing_walkers: int = 3
    walkers_per_crosswalk: int = 1
    lead_vehicle: bool = True
    lead_gap_m: float = 22.0
    lead_slower_percent: float = 15.0
    slower_percent: float = 45.0
    radius_m: float = 250.0
    following_gap_m: float = 2.5
    crossing_speed_mps: float = 1.3

    def __post_init__(self) -> None:
        for name in ("vehicles", "walkers", "crossing_walkers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"traffic.{name} is {getattr(self, name)}.", "Give 0 or more.")
        for name in ("lead_slower_percent", "slower_percent"):
            if not -100.0 <= getattr(self, name) < 100.0:
                raise ConfigError(
                    f"traffic.{name} is {getattr(self, name)}.", "Give a percentage in [-100, 100)."
                )
        if self.walkers_per_crosswalk not in (1, 2):
            raise ConfigError(
                f"traffic.walkers_per_crosswalk is {self.walkers_per_crosswalk}.", "Give 1 or 2."
            )
        for name in ("radius_m", "lead_gap_m", "following_gap_m", "crossing_speed_mps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"traffic.{name} is {getattr(self, name)}.", "Give a number above 0.")


@dataclass(frozen=True)
class ScenarioConfig:
    """The scenarios of route files.

    Attributes:
        enabled: whether they run.
        build_ahead_m: how far ahead on the route a scenario's vehicles and props are put there.
    """

    enabled: bool = True
    build_ahead_m: float = 100.0

    def __post_init__(self) -> None:
        if not self.build_ahead_m > 0:
            raise ConfigError(f"scenarios.build_ahead_m is {self.build_ahead_m}.", "Give a number above 0.")


@dataclass(frozen=True)
class EvaluationConfig:
    """How routes are driven and scored.

    Attributes:
        rules: "2.0" (also leaderboard master), "2.1" or "bench2drive".
        track: which sensors agents may use.
        seed: of the traffic and the Traffic Manager; repetition k uses seed + k.
        repetitions: how often each route is driven.
        tick_hz: the simulator's fixed rate.
        warm_up_ticks: ticks before the agent's first step, in which sensors come up.
        budget_ms: of a tick of the agent; misses are counted, nothing is cut off.
        plan_gap_m: largest gap of the agent's plan; None for the rules' own (200, Bench2Drive 50).
        blocked_s: standing for so long ends the route; None for the rules' own (180, Bench2Drive 60).
        max_ticks: cap on a route's ticks; None for the rules' own (none, Bench2Drive 4000).
        deviation_m: distance from the route that ends it.
        sensor_timeout_s: wait for a sensor; None for the rules' own (10, Bench2Drive 300).
        agent_timeout_s: an agent that takes longer for its setup or a step has crashed.
        server_timeout_s: a simulator that takes longer for a call has crashed.
        hide_server: give the agent no usable server address (an agent under test needs none).
        ego_vehicle: blueprint of the ego.
        traffic: background traffic.
        scenarios: those that the route files ask for.
    """

    rules: str = "2.0"
    track: str = "SENSORS"
    seed: int = 0
    repetitions: int = 1
    tick_hz: float = 20.0
    warm_up_ticks: int = 10
    budget_ms: float = 50.0
    plan_gap_m: float | None = None
    blocked_s: float | None = None
    max_ticks: int | None = None
    deviation_m: float = 30.0
    sensor_timeout_s: float | None = None
    agent_timeout_s: float = 300.0
    server_timeout_s: float = 60.0
    hide_server: bool = False
    ego_vehicle: str = "vehicle.lincoln.mkz_2020"
    traffic: TrafficConfig = field(default_factory=TrafficConfig)
    scenarios: ScenarioConfig = field(default_factory=ScenarioConfig)

    def __post_init__(self) -> None:
        Rules.parse(self.rules)
        if self.track not in TRACKS:
            raise ConfigError(f"track is {self.track!r}.", did_you_mean(self.track, TRACKS))
        for name in ("tick_hz", "budget_ms", "deviation_m", "agent_timeout_s", "server_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}.", "Give a number above 0.")
        for name in ("plan_gap_m", "blocked_s", "max_ticks", "sensor_timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}.", "Give a number above 0, or null for the rules' own.")
        if self.repetitions < 1 or self.warm_up_ticks < 1:
            raise ConfigError("repetitions and warm_up_ticks must be at least 1.")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed is {self.seed}.", "Give a number from 0 to 2147483647.")

    @property
    def scoring_rules(self) -> Rules:
        """The rules as their type."""
        return Rules.parse(self.rules)

    @property
    def bench2drive(self) -> bool:
        """Whether Bench2Drive's own limits apply."""
        return self.scoring_rules is Rules.BENCH2DRIVE

    def limits(self) -> RouteLimits:
        """The limits in force, with the rules' own where the configuration names none."""
        own = (
            (BENCH2DRIVE_PLAN_GAP_M, 60.0, 4000, 300.0) if self.bench2drive else (PLAN_GAP_M, 180.0, 0, 10.0)
        )
        return RouteLimits(
            plan_gap_m=own[0] if self.plan_gap_m is None else self.plan_gap_m,
            blocked_s=own[1] if self.blocked_s is None else self.blocked_s,
            max_ticks=own[2] if self.max_ticks is None else self.max_ticks,
            sensor_timeout_s=own[3] if self.sensor_timeout_s is None else self.sensor_timeout_s,
        )


@dataclass(frozen=True)
class RouteLimits:
    """Limits that depend on the rules; `max_ticks` 0 is no cap. See `EvaluationConfig`."""

    plan_gap_m: float
    blocked_s: float
    max_ticks: int
    sensor_timeout_s: float
