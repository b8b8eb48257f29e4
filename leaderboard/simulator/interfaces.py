"""The seams between the simulator's parts: what the world hands to physics, scene, renderer and lights.

`world` owns the actors and the clock. `towns` reads a road network, `scene` dresses it up, `render` draws
it, `physics` moves what moves in it; none of these know the protocol or each other.
All poses are in the world frame (see `geometry`), metres and degrees, unless a name says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose


class Tag(IntEnum):
    """Semantic tags of CARLA 0.9.14 and later (`LibCarla/source/carla/rpc/ObjectLabel.h`)."""

    NONE = 0
    ROAD = 1
    SIDEWALK = 2
    BUILDING = 3
    WALL = 4
    FENCE = 5
    POLE = 6
    TRAFFIC_LIGHT = 7
    TRAFFIC_SIGN = 8
    VEGETATION = 9
    TERRAIN = 10
    SKY = 11
    PEDESTRIAN = 12
    RIDER = 13
    CAR = 14
    TRUCK = 15
    BUS = 16
    TRAIN = 17
    MOTORCYCLE = 18
    BICYCLE = 19
    STATIC = 20
    DYNAMIC = 21
    OTHER = 22
    WATER = 23
    ROAD_LINE = 24
    GROUND = 25
    BRIDGE = 26
    RAIL_TRACK = 27
    GUARD_RAIL = 28


class LightColour(IntEnum):
    """Traffic light states, with CARLA's numbers."""

    RED = 0
    YELLOW = 1
    GREEN = 2
    OFF = 3


@dataclass(frozen=True, slots=True)
class LightTimes:
    """How long a phase of a junction lasts; the defaults are CARLA 0.9.16's.

    Attributes:
        green_s, yellow_s: of the phase.
        red_s: all red, from the end of its yellow until the group's next phase begins.
    """

    green_s: float = 10.0
    yellow_s: float = 3.0
    red_s: float = 2.0

    def __post_init__(self) -> None:
        for seconds in (self.green_s, self.yellow_s, self.red_s):
            light_seconds(seconds)


def light_seconds(seconds: float) -> float:
    """A duration that a light can last; ValueError unless finite and not negative."""
    if not math.isfinite(seconds) or seconds < 0.0:
        raise ValueError(f"a light cannot last {seconds} s")
    return float(seconds)


@dataclass(frozen=True, slots=True)
class Box:
    """An oriented box: `pose` is its centre, `extent` its half sizes along its own x, y, z."""

    pose: Pose
    extent: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class SolidBox:
    """Something of the town that a vehicle can hit."""

    box: Box
    tag: Tag


@dataclass(frozen=True, slots=True)
class TrafficLightSpec:
    """A signal head of the road network.

    Attributes:
        sign_id: OpenDRIVE signal id.
        group: junction (controller set) it cycles with.
        phase: index of its controller in the group; heads of one phase are green together.
        pose: foot of its pole, CARLA's actor transform (yaw of the actor, 90 degrees off the travel direction
            of the traffic it governs, as on a CARLA server).
        trigger: box over the lanes just before the stop line, in which a vehicle is governed by the light.
        stop_poses: lane-centre poses at the stop line, one for each governed lane, heading along the lane.
        lanes: (road id, section index, lane id) of the governed lanes at the stop line.
        times: of its phase, until a client sets others.
    """

    sign_id: str
    group: str
    phase: int
    pose: Pose
    trigger: Box
    stop_poses: tuple[Pose, ...]
    lanes: tuple[tuple[int, int, int], ...]
    times: LightTimes = LightTimes()


@dataclass(frozen=True, slots=True)
class SignSpec:
    """A static traffic sign that is an actor in CARLA.

    Attributes:
        sign_id: OpenDRIVE signal id.
        type_id: "traffic.stop", "traffic.yield" or "traffic.speed_limit.<km/h>".
        pose: foot of its pole.
        trigger: box in which its rule holds.
        stop_poses: lane-centre poses at the stop line, one for each governed lane.
    """

    sign_id: str
    type_id: str
    pose: Pose
    trigger: Box
    stop_poses: tuple[Pose, ...] = ()


@dataclass(frozen=True)
class RoadFurniture:
    """What stands on and along the roads because the road network says so.

    Attributes:
        lights: traffic lights.
        signs: stop, yield and speed limit signs.
        crosswalks: (N, 2) polygons in world x y, one array a crosswalk.
    """

    lights: tuple[TrafficLightSpec, ...] = ()
    signs: tuple[SignSpec, ...] = ()
    crosswalks: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True, slots=True)
class Weather:
    """CARLA's `WeatherParameters` in wire order; angles in degrees, the rest as CARLA defines them."""

    cloudiness: float = 0.0
    precipitation: float = 0.0
    precipitation_deposits: float = 0.0
    wind_intensity: float = 0.0
    sun_azimuth_angle: float = 0.0
    sun_altitude_angle: float = 75.0
    fog_density: float = 0.0
    fog_distance: float = 0.0
    fog_falloff: float = 0.0
    wetness: float = 0.0
    scattering_intensity: float = 1.0
    mie_scattering_scale: float = 0.03
    rayleigh_scattering_scale: float = 0.0331
    dust_storm: float = 0.0


class LightBit(IntEnum):
    """Bits of CARLA's `VehicleLightState` (`LibCarla/source/carla/rpc/VehicleLightState.h`)."""

    POSITION = 0x1
    LOW_BEAM = 0x2
    HIGH_BEAM = 0x4
    BRAKE = 0x8
    RIGHT_BLINKER = 0x10
    LEFT_BLINKER = 0x20
    REVERSE = 0x40
    FOG = 0x80
    SPECIAL1 = 0x100
    SPECIAL2 = 0x200


@dataclass(frozen=True, slots=True)
class DrawnActor:
    """An actor as the renderer sees it this tick.

    Attributes:
        actor_id: CARLA actor id; goes into the instance image.
        type_id: blueprint id, chooses the mesh.
        pose: the actor's transform (for vehicles the ground point below the centre).
        box: the actor's bounding box in its own frame (centre offset and half sizes); the mesh fills it.
        colour_rgb: paint.
        tag: semantic tag.
        light_flags: CARLA's `VehicleLightState`, of `LightBit`.
        stride_m: distance walked so far, for the gait of walkers.
        open_doors: of a vehicle, a bit for each of front left, front right, rear left, rear right.
    """

    actor_id: int
    type_id: str
    pose: Pose
    box: Box
    colour_rgb: tuple[int, int, int]
    tag: Tag
    light_flags: int = 0
    stride_m: float = 0.0
    open_doors: int = 0


@dataclass(frozen=True, slots=True)
class CameraSpec:
    """A pinhole camera: square pixels, optical axis through the image's centre, x of the sensor forward."""

    width: int
    height: int
    fov_deg: float


@dataclass(frozen=True, slots=True)
class LidarSpec:
    """CARLA's ray-cast LiDAR attributes (`sensor.lidar.ray_cast`)."""

    channels: int = 32
    range_m: float = 10.0
    points_per_second: int = 56000
    rotation_frequency_hz: float = 10.0
    upper_fov_deg: float = 10.0
    lower_fov_deg: float = -30.0
    horizontal_fov_deg: float = 360.0
    atmosphere_attenuation_rate: float = 0.004
    dropoff_general_rate: float = 0.45
    dropoff_intensity_limit: float = 0.8
    dropoff_zero_intensity: float = 0.4
    noise_stddev_m: float = 0.0


@dataclass(frozen=True, slots=True)
class LidarSweep:
    """One tick's part of a LiDAR rotation.

    Attributes:
        horizontal_angle_rad: the sensor's angle after this sweep.
        counts: (channels,) uint32 points of each channel.
        points: (N, 4) float32 x, y, z in the sensor frame and intensity, sorted by channel.
        hit_actor: (N,) uint32 actor id hit, 0 for the town.
        hit_tag: (N,) uint32 semantic tag.
        cos_incidence: (N,) float32.
    """

    horizontal_angle_rad: float
    counts: np.ndarray
    points: np.ndarray
    hit_actor: np.ndarray
    hit_tag: np.ndarray
    cos_incidence: np.ndarray


@dataclass(frozen=True, slots=True)
class VehicleCommand:
    """`carla.VehicleControl` as physics reads it."""

    throttle: float = 0.0
    steer: float = 0.0
    brake: float = 0.0
    hand_brake: bool = False
    reverse: bool = False
    manual_gear_shift: bool = False
    gear: int = 0


@dataclass(slots=True)
class Kinematics:
    """Motion of an actor after a physics step; vectors are (3,) float64 in the world frame.

    Attributes:
        pose: actor transform.
        velocity: m/s.
        angular_velocity: degrees per second, about world x, y, z.
        acceleration: m/s2.
        gear: gear engaged.
        engine_rpm: revolutions per minute.
    """

    pose: Pose
    velocity: np.ndarray
    angular_velocity: np.ndarray
    acceleration: np.ndarray
    gear: int = 0
    engine_rpm: float = 0.0


@dataclass(frozen=True, slots=True)
class Contact:
    """Two things touch during a step. `other_id` 0 is the town, whose `other_tag` says what.

    Attributes:
        impulse: (3,) N s on `actor_id`, world frame, summed over the step.
    """

    actor_id: int
    other_id: int
    other_tag: Tag
    impulse: np.ndarray


@dataclass(frozen=True, slots=True)
class WheelSpec:
    """A wheel as `carla.WheelPhysicsControl` describes it; `position` in metres in the vehicle frame."""

    position: tuple[float, float, float]
    radius_m: float
    max_steer_deg: float
    tire_friction: float = 3.5
    max_brake_torque_nm: float = 1500.0
    max_handbrake_torque_nm: float = 3000.0


@dataclass(frozen=True, slots=True)
class VehicleSpec:
    """Size and dynamics of a vehicle blueprint.

    Attributes:
        type_id: blueprint id.
        box: bounding box in the vehicle frame (CARLA's: centre above the ground point).
        mass_kg: mass.
        wheels: front left, front right, rear left, rear right (bicycles: CARLA also has four here).
        base_type: car, truck, van, bus, motorcycle, bicycle.
        tag: semantic tag.
        max_rpm, drag_coefficient, final_ratio, forward_gears: as `carla.VehiclePhysicsControl`.
        torque_curve: (rpm, N m) points.
        estimated: whether the size is estimated rather than cited.
    """

    type_id: str
    box: Box
    mass_kg: float
    wheels: tuple[WheelSpec, ...]
    base_type: str
    tag: Tag
    max_rpm: float = 5800.0
    drag_coefficient: float = 0.3
    final_ratio: float = 4.0
    forward_gears: tuple[float, ...] = (4.25, 2.52, 1.66, 1.22, 1.0)
    torque_curve: tuple[tuple[float, float], ...] = ((0.0, 400.0), (1890.0, 500.0), (5729.0, 400.0))
    estimated: bool = False
    colours_rgb: tuple[tuple[int, int, int], ...] = field(default=((17, 37, 103),))


class Ground(Protocol):
    """Height of the drivable surface."""

    def height(self, x: float, y: float, z_hint: float) -> float:
        """Surface height in metres below (x, y), of the layer nearest to `z_hint`."""
        ...
