"""Configuration of the agent: rig, perception, planner, localisation, control, failures, latency, log.

Filled from `configs/agent.yaml` by `tickdrive.planner.config.load_config`. Lengths in metres, angles in
degrees, mounting poses in the ego frame (CARLA's: x forward, y right, z up).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tickdrive.planner.config import load_config
from tickdrive.planner.errors import ConfigError, did_you_mean

PERCEPTION_KINDS = ("compact", "vlm", "random")
PLANNER_KINDS = ("diffusion", "constant_velocity")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "fp32", "bf16", "fp16", "int8")
LATENCY_MODES = ("off", "measured", "fixed", "trace")
LATENCY_ROUNDINGS = ("quantised", "subtick")
LATENCY_BUSY = ("follow", "hold")


def _one_of(key: str, got: str, allowed: Sequence[str]) -> None:
    if got not in allowed:
        raise ConfigError(f"{key} is {got!r}.", did_you_mean(got, allowed))


def _positive(key: str, got: float, zero_allowed: bool = False) -> None:
    if not (got >= 0 if zero_allowed else got > 0):
        raise ConfigError(
            f"{key} is {got}.", "Give a number " + ("of at least 0." if zero_allowed else "above 0.")
        )


@dataclass(frozen=True)
class MountConfig:
    """A sensor's id and mounting pose in the ego frame."""

    id: str = ""
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    roll: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0


@dataclass(frozen=True)
class CameraConfig(MountConfig):
    """An RGB camera; `fov` is horizontal, in degrees."""

    id: str = "front"
    x: float = 1.3
    z: float = 1.7
    width: int = 512
    height: int = 256
    fov: float = 80.0

    def __post_init__(self) -> None:
        _positive(f"rig camera {self.id!r}: width", self.width)
        _positive(f"rig camera {self.id!r}: height", self.height)
        if not 1.0 <= self.fov < 179.0:
            raise ConfigError(f"rig camera {self.id!r}: fov is {self.fov}.", "Give degrees in [1, 179).")


@dataclass(frozen=True)
class LidarConfig(MountConfig):
    """A LiDAR; everything beyond its pose is fixed by the leaderboard."""

    id: str = "lidar"
    z: float = 2.4


@dataclass(frozen=True)
class RigConfig:
    """The sensors the agent asks the leaderboard for.

    Attributes:
        cameras: RGB cameras.
        planning_camera: id of the camera that perception sees.
        lidar: None for a rig without one.
        imu: id and pose.
        gnss: id and pose; the localiser removes the lever arm.
        speedometer: sensor id.
    """

    cameras: list[CameraConfig] = field(default_factory=lambda: [CameraConfig()])
    planning_camera: str = "front"
    lidar: LidarConfig | None = field(default_factory=LidarConfig)
    imu: MountConfig = field(default_factory=lambda: MountConfig(id="imu"))
    gnss: MountConfig = field(default_factory=lambda: MountConfig(id="gnss"))
    speedometer: str = "speed"

    def __post_init__(self) -> None:
        ids = [camera.id for camera in self.cameras]
        if self.planning_camera not in ids:
            raise ConfigError(
                f"rig.planning_camera is {self.planning_camera!r}, no camera of the rig.",
                did_you_mean(self.planning_camera, ids),
            )


@dataclass(frozen=True)
class PerceptionConfig:
    """Which feature extractor runs before the planner.

    Attributes:
        kind: "compact" (ships trained), "vlm" (a Hugging Face vision-language model; extra `vlm`), or
            "random" (tokens drawn anew each tick: it times a planner, and cannot drive).
        checkpoint: folder or shipped name; empty: the one beside the planner's checkpoint.
        model: model name or folder for kind "vlm".
        random_tokens: numbers of VL and of reasoning tokens for kind "random"; the default is the study's.
        zero_tokens: ablation: VL, reasoning and observation tokens are zeroed before the planner sees them.
    """

    kind: str = "compact"
    checkpoint: str = ""
    model: str = ""
    random_tokens: list[int] = field(default_factory=lambda: [512, 7])
    zero_tokens: bool = False

    def __post_init__(self) -> None:
        _one_of("perception.kind", self.kind, PERCEPTION_KINDS)
        if self.kind == "vlm" and not self.model:
            raise ConfigError(
                "perception.kind is 'vlm' and perception.model is empty.",
                "Name a Hugging Face model or a local folder, for example Qwen/Qwen3-VL-4B-Instruct.",
            )
        if len(self.random_tokens) != 2 or min(self.random_tokens) < 1:
            raise ConfigError(
                f"perception.random_tokens is {self.random_tokens}.",
                "Give two whole numbers of at least 1, VL and reasoning tokens, for example [512, 7].",
            )


@dataclass(frozen=True)
class PlannerConfig:
    """Which planner drives, and how it is run.

    Attributes:
        kind: "diffusion", or "constant_velocity" (ablation: straight on).
        checkpoint: folder of a checkpoint, or the name of a shipped one (`planner/checkpoints/<name>`).
        engine: name of a planner engine; "auto" takes the fastest that is exact on the device.
        steps: denoising steps; as many as the checkpoint has timesteps at most.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:<n>".
        dtype: "auto" (the engine's choice for the device), "fp32", "bf16", "fp16", or "int8" (engines
            onnx and fused; auto takes the one of the device).
        seed: of the sampler's starting noise.
        noise_scale: standard deviation of the starting noise; 1 is the diffusion's own prior.
        delay_ms: added to every plan, to try how a slower planner drives.
    """

    kind: str = "diffusion"
    checkpoint: str = "compact"
    engine: str = "auto"
    steps: int = 10
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    noise_scale: float = 1.0
    delay_ms: float = 0.0

    def __post_init__(self) -> None:
        _one_of("planner.kind", self.kind, PLANNER_KINDS)
        _one_of("planner.dtype", self.dtype, DTYPES)
        if not self.device.startswith("cuda:"):
            _one_of("planner.device", self.device, DEVICES)
        if self.steps < 1:  # how many there may be is the checkpoint's to say, see `shared_models`
            raise ConfigError(f"planner.steps is {self.steps}.", "Give at least 1; 10 is usual.")
        _positive("planner.noise_scale", self.noise_scale, zero_allowed=True)
        _positive("planner.delay_ms", self.delay_ms, zero_allowed=True)


@dataclass(frozen=True)
class LocalizationConfig:
    """Noise the filter expects. The defaults are the leaderboard's sensors.

    Attributes:
        gnss_sigma_m: one fix, per axis (5e-6 degrees).
        start_sigma_m: how far from the plan's first point the ego may stand at the start.
        scale_sigma: how far the sensor's metres may differ from the plan's, as a fraction.
        speed_sigma_mps: speedometer.
        compass_sigma_deg: compass.
        gyro_sigma_dps: gyroscope.
        rear_axle_m: distance from the actor's origin back to the rear axle.
        slip_s2pm: the rear tyres' slip angle per m/s2 of lateral acceleration [rad s2/m], to start from.
        slip_sigma_s2pm: how far it may differ; it is estimated on the way.
        gate_sigma: fixes further than this many standard deviations off are outliers.
    """

    gnss_sigma_m: float = 0.56
    start_sigma_m: float = 0.3
    scale_sigma: float = 0.0015
    speed_sigma_mps: float = 0.1
    compass_sigma_deg: float = 0.3
    gyro_sigma_dps: float = 0.3
    rear_axle_m: float = 1.4
    slip_s2pm: float = 0.008
    slip_sigma_s2pm: float = 0.006
    gate_sigma: float = 5.0

    def __post_init__(self) -> None:
        for name in (
            "gnss_sigma_m",
            "start_sigma_m",
            "scale_sigma",
            "slip_sigma_s2pm",
            "speed_sigma_mps",
            "compass_sigma_deg",
            "gyro_sigma_dps",
            "gate_sigma",
        ):
            _positive(f"localization.{name}", getattr(self, name))


@dataclass(frozen=True)
class ControlConfig:
    """The trajectory follower; defaults for `vehicle.lincoln.mkz_2020`.

    Attributes:
        wheelbase_m: axle to axle.
        rear_axle_m: actor's origin back to the rear axle.
        max_steer_deg: effective wheel angle at steer = 1 (mean of both wheels, tyre slip included).
        lookahead_s: pure pursuit's look-ahead, as driving time at the present speed.
        lookahead_min_m: and its bounds, metres along the plan.
        lookahead_max_m: see above.
        steer_rate_per_s: fastest change of the steer command.
        throttle_per_mps2: throttle for 1 m/s2 at rest.
        throttle_per_mps2_per_mps: what it grows by with each m/s (higher gears push less).
        throttle_per_mps: throttle to hold 1 m/s against drag (linear model).
        throttle_base: throttle that just keeps the car rolling.
        integral_gain: throttle per (m/s2 s) of wanted acceleration that persists.
        integral_limit: bound of that correction.
        brake_per_mps2: brake for 1 m/s2 of deceleration.
        coast_mps2: deceleration with both pedals released.
        max_throttle: bound of the throttle.
        stop_length_m: a plan shorter than this over `stop_horizon_s` means: stand still.
        go_length_m: from rest, a plan longer than this over `stop_horizon_s` means: go.
        stop_horizon_s: see above.
        hold_speed_mps: below this speed a stopping plan is held with `hold_brake`.
        hold_brake: brake at rest.
    """

    wheelbase_m: float = 2.86
    rear_axle_m: float = 1.4
    max_steer_deg: float = 36.0
    lookahead_s: float = 1.0
    lookahead_min_m: float = 4.0
    lookahead_max_m: float = 14.0
    steer_rate_per_s: float = 4.0
    throttle_per_mps2: float = 0.16
    throttle_per_mps2_per_mps: float = 0.01
    throttle_per_mps: float = 0.012
    throttle_base: float = 0.05
    integral_gain: float = 0.05
    integral_limit: float = 0.3
    brake_per_mps2: float = 0.115
    coast_mps2: float = 0.45
    max_throttle: float = 0.85
    stop_length_m: float = 0.5
    go_length_m: float = 0.8
    stop_horizon_s: float = 1.5
    hold_speed_mps: float = 0.3
    hold_brake: float = 0.7

    def __post_init__(self) -> None:
        for name in ("wheelbase_m", "max_steer_deg", "lookahead_s", "lookahead_min_m", "steer_rate_per_s"):
            _positive(f"control.{name}", getattr(self, name))
        if self.lookahead_max_m < self.lookahead_min_m:
            raise ConfigError("control.lookahead_max_m is below control.lookahead_min_m.", "Swap them.")
        if self.go_length_m < self.stop_length_m:
            raise ConfigError("control.go_length_m is below control.stop_length_m.", "Give at least as much.")


@dataclass(frozen=True)
class GuardConfig:
    """When a plan is shortened because the LiDAR sees something on it (`agents/guard.py`).

    Attributes:
        enabled: guard at all.
        deceleration_mps2: a thing ahead that needs less than this to stay behind is left to the planner.
        strongest_mps2: deceleration that is never passed.
        min_speed_mps: slower than this nothing is guarded.
        margin_m: distance kept to the thing.
        front_m: from the actor's origin to the front bumper.
        half_width_m: half the corridor that has to be free.
        side_m: how far to the sides of the ego things are looked for.
        tall_m: least height of a thing; a road that climbs has less within a cell.
    """

    enabled: bool = True
    deceleration_mps2: float = 3.0
    strongest_mps2: float = 7.0
    min_speed_mps: float = 1.0
    margin_m: float = 1.0
    front_m: float = 2.45
    half_width_m: float = 1.4
    side_m: float = 12.0
    tall_m: float = 0.35

    def __post_init__(self) -> None:
        for name in ("deceleration_mps2", "strongest_mps2", "half_width_m", "side_m", "tall_m"):
            _positive(f"guard.{name}", getattr(self, name))
        if self.strongest_mps2 < self.deceleration_mps2:
            raise ConfigError("guard.strongest_mps2 is below guard.deceleration_mps2.", "Swap them.")


@dataclass(frozen=True)
class LadderConfig:
    """What happens when a stage fails: bounded, counted steps down, then an error.

    Attributes:
        stale_ticks: ticks in a row that may be planned on the last camera picture's features.
        previous_plan_ticks: ticks in a row that may be driven on the last good plan, shifted.
        max_failures: planner failures in a row after which the route is ended with an error.
    """

    stale_ticks: int = 10
    previous_plan_ticks: int = 6
    max_failures: int = 40

    def __post_init__(self) -> None:
        _positive("ladder.stale_ticks", self.stale_ticks, zero_allowed=True)
        _positive("ladder.previous_plan_ticks", self.previous_plan_ticks, zero_allowed=True)
        _positive("ladder.max_failures", self.max_failures)


@dataclass(frozen=True)
class BudgetConfig:
    """The time a tick may take, and what is dropped to keep it (`agents/tick_budget.py`).

    Attributes:
        enabled: keep it; without, every tick runs `planner.steps`, however long that takes.
        tick_ms: the budget of a whole tick, from `run_step`'s entry to its return.
        margin_ms: kept free of what is predicted.
        steps: step counts to fall back to, fewer than `planner.steps`; they are warmed up with it.
        history: ticks that a prediction looks back on.
    """

    enabled: bool = True
    tick_ms: float = 50.0
    margin_ms: float = 2.0
    steps: list[int] = field(default_factory=lambda: [5, 2])
    history: int = 20

    def __post_init__(self) -> None:
        _positive("budget.tick_ms", self.tick_ms)
        _positive("budget.margin_ms", self.margin_ms, zero_allowed=True)
        if any(steps < 1 for steps in self.steps):
            raise ConfigError(f"budget.steps is {self.steps}.", "Give step counts of at least 1.")
        if not 5 <= self.history <= 10_000:
            raise ConfigError(f"budget.history is {self.history}.", "Give 5 to 10000 ticks.")


@dataclass(frozen=True)
class LatencyConfig:
    """What latency does to driving (`agents/latency_model.py`); off are the leaderboards' semantics.

    Attributes:
        mode: "off", "measured" (this machine's own), "fixed" (`ms`) or "trace" (those of the log `trace`).
        ms: whole-agent latency for mode "fixed".
        trace: a tick log (or a run's folder) whose latencies are replayed, for mode "trace".
        rounding: "quantised" to whole ticks, or "subtick": time-weighted means of old and new controls.
        busy: while a plan is being computed, "follow" the plan in force, or "hold" the last control.
        compensation: plan for the moment at which the plan takes effect, instead of as if no time passed.
    """

    mode: str = "off"
    ms: float = 0.0
    trace: str = ""
    rounding: str = "quantised"
    busy: str = "follow"
    compensation: bool = True

    def __post_init__(self) -> None:
        if self.mode == "False":  # a bare off is a boolean in YAML
            object.__setattr__(self, "mode", "off")
        _one_of("latency.mode", self.mode, LATENCY_MODES)
        _one_of("latency.rounding", self.rounding, LATENCY_ROUNDINGS)
        _one_of("latency.busy", self.busy, LATENCY_BUSY)
        if not 0.0 <= self.ms <= 60_000.0:
            raise ConfigError(f"latency.ms is {self.ms}.", "Give milliseconds from 0 to 60000.")
        if self.ms and self.mode != "fixed":
            raise ConfigError(
                f"latency.ms is {self.ms:g} and latency.mode is {self.mode!r}.", "Set latency.mode=fixed."
            )
        if bool(self.trace) != (self.mode == "trace"):
            raise ConfigError(
                f"latency.mode is {self.mode!r} and latency.trace is {self.trace!r}.",
                "Mode 'trace' needs a tick log in latency.trace, and no other mode takes one.",
            )


@dataclass(frozen=True)
class TickLogConfig:
    """Where the per-tick log goes.

    Attributes:
        enabled: write one.
        dir: folder; empty: `$SAVE_PATH` where set, else no log is written. One file per route.
        file: file name; empty: `ticks.jsonl`, or `<save name>.ticks.jsonl` where the leaderboard gives
            a save name.
    """

    enabled: bool = True
    dir: str = ""
    file: str = ""


@dataclass(frozen=True)
class AgentConfig:
    """The whole agent.

    Attributes:
        track: the leaderboard track it enters.
        rig: sensors.
        perception: feature extractor.
        planner: planner and engine.
        localization: filter.
        control: trajectory follower.
        guard: shortens plans that would run into something.
        ladder: what happens on failures.
        budget: what is dropped to keep the tick.
        latency: what latency does to driving.
        tick_log: where ticks are logged.
        threads: torch threads; 0: all cores but one, which simulator and evaluator need, at most 4.
    """

    track: str = "SENSORS"
    rig: RigConfig = field(default_factory=RigConfig)
    perception: PerceptionConfig = field(default_factory=PerceptionConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    localization: LocalizationConfig = field(default_factory=LocalizationConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    ladder: LadderConfig = field(default_factory=LadderConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    tick_log: TickLogConfig = field(default_factory=TickLogConfig)
    threads: int = 0

    def __post_init__(self) -> None:
        _one_of("track", self.track, ("SENSORS", "SENSORS_QUALIFIER"))
        _positive("threads", self.threads, zero_allowed=True)


def default_config_path() -> Path:
    """The shipped `configs/agent.yaml`."""
    import tickdrive.configs

    return Path(next(iter(tickdrive.configs.__path__))) / "agent.yaml"


def load_agent_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> AgentConfig:
    """Read an agent configuration.

    Args:
        path: YAML file; None or empty for the shipped one.
        overrides: ``key=value`` strings, for example ``planner.steps=5``.

    Raises:
        ConfigError: names the file and the key that is wrong.
    """
    source = Path(path) if path else default_config_path()
    try:
        return load_config(AgentConfig, source, overrides)
    except ConfigError as error:
        if str(source) in error.what:
            raise
        raise ConfigError(f"{source}: {error.what}", error.mend) from error
