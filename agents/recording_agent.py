"""The expert drives; every few ticks a sample is written: the inputs, and what the expert would do.

The inputs come from the same `FrontEnd` that drives later (GNSS noise and all); the labels come from
the true state of the world. So that the planner learns to recover, routes start from perturbed poses and the
controls are disturbed now and then for part of a second: the expert's plan is right from any pose, so every
sample is usable. A checkpoint may take the wheel for part of the time (`agents/student.py`). Light, weather
and the camera's pose vary by seed.
"""

from __future__ import annotations

import queue
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import carla
import numpy as np

from tickdrive.agents.carla_control import vehicle_control
from tickdrive.agents.config import AgentConfig
from tickdrive.agents.expert import ExpertPlan
from tickdrive.agents.expert_agent import ExpertAgent
from tickdrive.agents.expert_scene import ExpertScene
from tickdrive.agents.front_end import FrontEnd, FrontEndOutput
from tickdrive.agents.preprocess import BEV_LAYOUT, BevConfig
from tickdrive.agents.sensors import SensorRig
from tickdrive.agents.status import STATUS_LAYOUT, STATUS_WIDTHS
from tickdrive.agents.student import Student, Turns, TurnsConfig, student_config
from tickdrive.agents.types import TICK_S, Decision
from tickdrive.planner.config import config_hash, load_config
from tickdrive.planner.errors import ConfigError, SensorError
from tickdrive.planner.recording import RecordedSample, RecordingMeta, RecordingWriter, shrink_semantic
from tickdrive.planner.tracing import Tracer

SHAKEN_S = 2.0
"""Time after a collision in which nothing is recorded: no plan is the right one there."""
LONG_STANDING_S, LONGEST_STANDING_S = 5.0, 40.0
"""Standing for longer, every fourth sample is written; and then none: the way is jammed."""


def get_entry_point() -> str:
    """Name of the agent class, as the leaderboards ask for it."""
    return "RecordingAgent"


@dataclass(frozen=True)
class RecordingConfig:
    """One recorded drive.

    Attributes:
        out: folder of the drive.
        split: "train", "val_route" or "val_town"; by route and town, never by frame.
        route: route id, for the record.
        seed: of everything that varies.
        stride_ticks: a sample every so many ticks.
        perturb: share of the time in which the controls are disturbed; 0 records clean driving.
        start_offset_m, start_yaw_deg: largest offset of the start pose.
        camera_jitter_m, camera_jitter_deg: largest offset of the planning camera's pose.
        vary_weather: draw weather and sun by seed; otherwise the route's.
        student: checkpoint (folder or shipped name) that drives for part of the time; empty: none does.
        student_share: share of the time in which it does.
        student_steps: its denoising steps.
    """

    out: str = ""
    split: str = "train"
    route: str = ""
    seed: int = 0
    stride_ticks: int = 5
    perturb: float = 0.08
    start_offset_m: float = 0.5
    start_yaw_deg: float = 6.0
    camera_jitter_m: float = 0.04
    camera_jitter_deg: float = 0.8
    vary_weather: bool = True
    student: str = ""
    student_share: float = 0.7
    student_steps: int = 10

    def __post_init__(self) -> None:
        if self.stride_ticks < 1:
            raise ConfigError(f"stride_ticks is {self.stride_ticks}.", "Give at least 1.")
        if not 0.0 <= self.perturb <= 0.5:
            raise ConfigError(f"perturb is {self.perturb}.", "Give a share of the time, 0 to 0.5.")


class RecordingAgent(ExpertAgent):
    """`ExpertAgent` that writes what it sees and would do."""

    def setup(self, path_to_conf_file: str) -> None:
        """Prepare for a route; the configuration is a `RecordingConfig` as YAML."""
        super().setup(path_to_conf_file)
        self._config = load_config(RecordingConfig, path_to_conf_file or None)
        if not self._config.out:
            raise ConfigError("The recording has no folder.", "Set out in its configuration.")
        self._rng = np.random.default_rng(self._config.seed)
        self._agent_config = _jittered(AgentConfig(), self._config, self._rng)
        self._rig = SensorRig.from_config(self._agent_config.rig, self._agent_config.track)
        self._front: FrontEnd | None = None
        self._writer: RecordingWriter | None = None
        self._semantic_camera: carla.Sensor | None = None
        self._semantic: queue.Queue[carla.Image] = queue.Queue()
        self._disturbance = carla.VehicleControl()
        self._disturbed_ticks = 0
        self._student: Student | None = None
        if self._config.student:
            driver = student_config(AgentConfig(), self._config.student, self._config.student_steps)
            self._student = Student(driver, STATUS_WIDTHS[-1])
        share = self._config.student_share if self._student else 0.0
        self._turns = Turns(TurnsConfig(student_share=share), self._rng)
        self._collision_sensor: carla.Sensor | None = None
        self._collisions: queue.Queue[int] = queue.Queue()
        self._shaken_ticks = 0
        self._standing_s = 0.0
        self._tick = 0
        self._applied = carla.VehicleControl()

    def sensors(self) -> list[dict[str, Any]]:
        """The agent's own rig."""
        return self._rig.sensors()

    def run_step(self, input_data: dict[str, Any], timestamp: float) -> carla.VehicleControl:
        """Drive by the expert, write every `stride_ticks`-th tick."""
        if self._front is None:
            self._begin()
        assert self._front is not None
        seen = self._front.step(input_data, timestamp, self._applied.throttle, self._applied.brake, Tracer())
        scene = self.read_scene()
        self.plan = self.expert.plan(scene)
        semantic = self._semantic_image(seen.observation.frame)
        self._note_collisions()
        if self._due(scene) and seen.inputs is not None:
            self._write(seen, scene, self.plan, semantic)
        self._tick += 1
        self._applied = self._drive(seen, scene, self.plan)
        return self._applied

    def destroy(self) -> None:
        """Close the recording."""
        if self._writer is not None:  # first: without a simulator the sensors' end does not come
            self._writer.close()
            self._writer = None
        for sensor in (self._semantic_camera, self._collision_sensor):
            if sensor is not None:
                sensor.stop()
                sensor.destroy()
        self._semantic_camera = self._collision_sensor = None
        super().destroy()

    def _begin(self) -> None:
        config = self._config
        self._front = FrontEnd(
            self._agent_config, self._global_plan, self._global_plan_world_coord, STATUS_WIDTHS[-1]
        )
        if config.vary_weather:
            self.world.set_weather(draw_weather(self._rng))
        if config.start_offset_m > 0 or config.start_yaw_deg > 0:
            self.ego.set_transform(self._perturbed_start())
        camera = self._agent_config.rig.cameras[0]
        blueprint = self.world.get_blueprint_library().find("sensor.camera.semantic_segmentation")
        for key, value in (
            ("image_size_x", camera.width),
            ("image_size_y", camera.height),
            ("fov", camera.fov),
        ):
            blueprint.set_attribute(key, str(value))
        mount = carla.Transform(
            carla.Location(camera.x, camera.y, camera.z),
            carla.Rotation(camera.pitch, camera.yaw, camera.roll),
        )
        self._semantic_camera = self.world.spawn_actor(blueprint, mount, attach_to=self.ego)
        self._semantic_camera.listen(self._semantic.put)
        self._collision_sensor = self.world.spawn_actor(
            self.world.get_blueprint_library().find("sensor.other.collision"),
            carla.Transform(),
            attach_to=self.ego,
        )
        self._collision_sensor.listen(lambda event: self._collisions.put(event.frame))
        weather = self.world.get_weather()
        self._writer = RecordingWriter(
            Path(config.out),
            RecordingMeta(
                town=self.world.get_map().name.rsplit("/", 1)[-1],
                route_id=config.route,
                seed=config.seed,
                split=config.split,
                decisions=tuple(decision.name for decision in Decision),
                period_s=TICK_S * config.stride_ticks,
                config_hash=config_hash(self._agent_config.rig),
                status_layout=STATUS_LAYOUT,
                bev={**asdict(BevConfig()), "layout": BEV_LAYOUT},
                camera=asdict(camera),
                weather={
                    name: float(getattr(weather, name))
                    for name in (
                        "cloudiness",
                        "precipitation",
                        "wetness",
                        "fog_density",
                        "sun_altitude_angle",
                    )
                },
            ),
        )

    def _perturbed_start(self) -> carla.Transform:
        config = self._config
        transform = self.ego.get_transform()
        right = transform.get_right_vector()
        offset = float(self._rng.uniform(-config.start_offset_m, config.start_offset_m))
        transform.location += carla.Location(right.x * offset, right.y * offset, 0.0)
        transform.rotation.yaw += float(self._rng.uniform(-config.start_yaw_deg, config.start_yaw_deg))
        return transform

    def _semantic_image(self, frame: int) -> np.ndarray | None:
        """(32, 64) uint8 tags of this frame; None on the first tick, in which the camera is made."""
        if self._tick == 0:
            return None
        while True:
            try:
                image = self._semantic.get(timeout=10.0)
            except queue.Empty as error:
                raise SensorError(
                    f"The semantic camera gave no frame {frame} within 10 s.", "Look at the simulator's log."
                ) from error
            if image.frame >= frame:
                pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
                return shrink_semantic(pixels[:, :, 2])

    def _write(
        self, seen: FrontEndOutput, scene: ExpertScene, plan: ExpertPlan, semantic: np.ndarray | None
    ) -> None:
        if semantic is None:
            return
        assert self._writer is not None and seen.inputs is not None
        self._writer.append(
            RecordedSample(
                frame=seen.observation.frame,
                sim_s=seen.observation.sim_s,
                image=seen.inputs.image,
                lidar_bev=seen.inputs.lidar_bev,
                ego_status=seen.inputs.ego_status,
                semantic=semantic,
                waypoints_in_ego=plan.waypoints_in_ego,
                decision=plan.decision.name,
                light_state=plan.light,
                lead_distance_m=plan.lead_distance_m,
                lead_speed_mps=plan.lead_speed_mps,
                target_speed_mps=plan.target_speed_mps,
                ego_pose=(float(scene.ego.position[0]), float(scene.ego.position[1]), scene.ego.yaw_deg),
                speed_mps=scene.ego.speed_mps,
                perturbed=self._disturbed_ticks > 0,
                extra={"driver": "student" if self._turns.student else "expert"},
            )
        )

    def _drive(self, seen: FrontEndOutput, scene: ExpertScene, plan: ExpertPlan) -> carla.VehicleControl:
        """By the student where it is its turn, else by the expert, whose controls are disturbed."""
        had_wheel = self._turns.student
        speed = scene.ego.speed_mps
        if self._turns.step(TICK_S, plan.lateral_error_m, speed, plan.target_speed_mps):
            assert self._student is not None
            if not had_wheel:
                self._student.take_over()
            control = self._student.control(seen, TICK_S)
            if control is not None:
                return vehicle_control(control)
        return self._disturb(self.control_for(plan, scene))

    def _due(self, scene: ExpertScene) -> bool:
        """Whether this tick is written: the same standing car again and again teaches nothing."""
        self._standing_s = self._standing_s + TICK_S if scene.ego.speed_mps < 0.1 else 0.0
        if self._shaken_ticks > 0 or self._standing_s > LONGEST_STANDING_S:
            return False
        stride = self._config.stride_ticks * (1 if self._standing_s < LONG_STANDING_S else 4)
        return self._tick % stride == 0

    def _note_collisions(self) -> None:
        """While the ego is shaken by a collision nothing is written, and the student does not drive."""
        self._shaken_ticks = max(0, self._shaken_ticks - 1)
        while not self._collisions.empty():
            self._collisions.get()
            self._shaken_ticks = round(SHAKEN_S / TICK_S)
            self._turns.rescue()

    def _disturb(self, control: carla.VehicleControl) -> carla.VehicleControl:
        """Now and then, for 0.2 to 0.7 s, another steering angle or pedal than the expert's."""
        if self._disturbed_ticks > 0:
            self._disturbed_ticks -= 1
            control.steer = float(np.clip(control.steer + self._disturbance.steer, -1.0, 1.0))
            if self._disturbance.throttle > 0 and control.brake < 0.05:
                control.throttle = max(control.throttle, self._disturbance.throttle)
            return control
        mean_ticks = 9.0
        if self._rng.random() < self._config.perturb / mean_ticks:
            self._disturbed_ticks = int(self._rng.integers(4, 15))
            self._disturbance = carla.VehicleControl(
                steer=float(self._rng.choice((-1.0, 1.0)) * self._rng.uniform(0.05, 0.22)),
                throttle=float(self._rng.uniform(0.4, 0.8)) if self._rng.random() < 0.2 else 0.0,
            )
        return control


def draw_weather(rng: np.random.Generator) -> carla.WeatherParameters:
    """Weather and sun for one recorded drive: mostly day, some dusk and night, some rain and fog."""
    weather = carla.WeatherParameters()
    weather.sun_azimuth_angle = float(rng.uniform(0.0, 360.0))
    kind = rng.random()
    weather.sun_altitude_angle = float(
        rng.uniform(20.0, 85.0)
        if kind < 0.7
        else rng.uniform(3.0, 20.0)
        if kind < 0.88
        else rng.uniform(-20.0, 3.0)
    )
    weather.cloudiness = float(rng.choice((5.0, 20.0, 60.0, 90.0)))
    if rng.random() < 0.25:
        weather.precipitation = float(rng.uniform(20.0, 80.0))
        weather.wetness = float(rng.uniform(30.0, 90.0))
        weather.precipitation_deposits = weather.precipitation
    if rng.random() < 0.2:
        weather.fog_density = float(rng.uniform(5.0, 35.0))
        weather.fog_distance = float(rng.uniform(5.0, 60.0))
    return weather


def _jittered(config: AgentConfig, recording: RecordingConfig, rng: np.random.Generator) -> AgentConfig:
    """The agent's configuration with the planning camera moved a little."""
    metres = rng.uniform(-recording.camera_jitter_m, recording.camera_jitter_m, 3)
    degrees = rng.uniform(-recording.camera_jitter_deg, recording.camera_jitter_deg, 3)
    first, *rest = config.rig.cameras
    moved = replace(
        first,
        x=first.x + float(metres[0]),
        y=first.y + float(metres[1]),
        z=first.z + float(metres[2]),
        roll=first.roll + float(degrees[0]),
        pitch=first.pitch + float(degrees[1]),
        yaw=first.yaw + float(degrees[2]),
    )
    return replace(config, rig=replace(config.rig, cameras=[moved, *rest]))
