"""Sensor blueprints with CARLA's attributes and defaults: served ones, and those refused.

Names, types and defaults follow the `Make…Definition` functions of CARLA's
`Unreal/CarlaUE4/Plugins/Carla/Source/Carla/Actor/ActorBlueprintFunctionLibrary.cpp`.
"""

from __future__ import annotations

from tickdrive.leaderboard.simulator.blueprints.model import (
    Attribute,
    AttributeType,
    Blueprint,
    blueprint,
    settable,
)

_ROLE_NAMES = ("front", "back", "left", "right", "front_left", "front_right", "back_left", "back_right")
_TICK: dict[str, object] = {"sensor_tick": 0.0}
_IMAGE: dict[str, object] = {
    "image_size_x": 800,
    "image_size_y": 600,
    "fov": 90.0,
    "lens_circle_falloff": 5.0,
    "lens_circle_multiplier": 0.0,
    "lens_k": -1.0,
    "lens_kcube": 0.0,
    "lens_x_size": 0.08,
    "lens_y_size": 0.08,
}
# accepted so that clients written for Unreal can set them; the renderer has no such effects
_POST_PROCESS: dict[str, object] = {
    "exposure_mode": ("histogram", "manual"),
    "exposure_compensation": 0.0,
    "shutter_speed": 200.0,
    "iso": 100.0,
    "fstop": 1.4,
    "enable_postprocess_effects": True,
    "gamma": 2.2,
    "motion_blur_intensity": 0.45,
    "motion_blur_max_distortion": 0.35,
    "lens_flare_intensity": 0.1,
    "bloom_intensity": 0.675,
    "motion_blur_min_object_screen_size": 0.1,
    "exposure_min_bright": 10.0,
    "exposure_max_bright": 12.0,
    "exposure_speed_up": 3.0,
    "exposure_speed_down": 1.0,
    "calibration_constant": 16.0,
    "focal_distance": 1000.0,
    "min_fstop": 1.2,
    "blade_count": 5,
    "blur_amount": 1.0,
    "blur_radius": 0.0,
    "slope": 0.88,
    "toe": 0.55,
    "shoulder": 0.26,
    "black_clip": 0.0,
    "white_clip": 0.04,
    "temp": 6500.0,
    "tint": 0.0,
    "chromatic_aberration_intensity": 0.0,
    "chromatic_aberration_offset": 0.0,
}
_LIDAR: dict[str, object] = {
    "channels": 32,
    "range": 10.0,
    "points_per_second": 56000,
    "rotation_frequency": 10.0,
    "upper_fov": 10.0,
    "lower_fov": -30.0,
}
_LIDAR_NOISE: dict[str, object] = {
    "atmosphere_attenuation_rate": 0.004,
    "noise_seed": 0,
    "dropoff_general_rate": 0.45,
    "dropoff_intensity_limit": 0.8,
    "dropoff_zero_intensity": 0.4,
    "noise_stddev": 0.0,
}
_FULL_TURN: dict[str, object] = {"horizontal_fov": 360.0}

_SENSORS: dict[str, dict[str, object]] = {
    "sensor.camera.rgb": _TICK | _IMAGE | _POST_PROCESS,
    "sensor.camera.depth": _TICK | _IMAGE,
    "sensor.camera.semantic_segmentation": _TICK | _IMAGE,
    "sensor.camera.instance_segmentation": _TICK | _IMAGE,
    "sensor.camera.normals": _TICK | _IMAGE,
    "sensor.camera.optical_flow": _TICK | _IMAGE,
    "sensor.camera.dvs": _TICK
    | _IMAGE
    | _POST_PROCESS
    | {
        "positive_threshold": 0.3,
        "negative_threshold": 0.3,
        "sigma_positive_threshold": 0.0,
        "sigma_negative_threshold": 0.0,
        "refractory_period_ns": 0,
        "use_log": True,
        "log_eps": 0.001,
    },
    "sensor.lidar.ray_cast": _TICK | _LIDAR | _LIDAR_NOISE | _FULL_TURN,
    "sensor.lidar.ray_cast_semantic": _TICK | _LIDAR | _FULL_TURN,
    "sensor.other.gnss": _TICK
    | {"noise_seed": 0}
    | {f"noise_{axis}_{kind}": 0.0 for axis in ("lat", "lon", "alt") for kind in ("stddev", "bias")},
    "sensor.other.imu": _TICK
    | {"noise_seed": 0}
    | {
        f"noise_{kind}_{axis}": 0.0 for kind in ("accel_stddev", "gyro_stddev", "gyro_bias") for axis in "xyz"
    },
    "sensor.other.radar": _TICK
    | {
        "horizontal_fov": 30.0,
        "vertical_fov": 30.0,
        "range": 100.0,
        "points_per_second": 1500,
        "noise_seed": 0,
    },
    "sensor.other.collision": {},
    "sensor.other.lane_invasion": {},
    "sensor.other.obstacle": _TICK
    | {"distance": 5.0, "hit_radius": 0.5, "only_dynamics": False, "debug_linetrace": False},
}

SERVED_SENSORS: tuple[str, ...] = tuple(_SENSORS)
#: in CARLA's library, refused when spawned: why
UNSERVED_SENSORS: dict[str, str] = {
    "sensor.camera.cosmos_visualization": "it shows a preset of NVIDIA's, drawn by Unreal.",
    "sensor.other.rss": "it needs a client that was built with RSS.",
    "sensor.other.v2x": "there is no radio here.",
    "sensor.other.v2x_custom": "there is no radio here.",
}


def _attribute(name: str, default: object) -> Attribute:
    """An attribute whose CARLA type is that of its default; a tuple lists the only values allowed."""
    if isinstance(default, tuple):
        return settable(name, AttributeType.STRING, default, restrict=True)
    if isinstance(default, bool):
        return settable(name, AttributeType.BOOL, (str(default).lower(),))
    kind = AttributeType.INT if isinstance(default, int) else AttributeType.FLOAT
    return settable(name, kind, (str(default),))


def sensor_blueprints() -> list[Blueprint]:
    """Blueprints of all sensors; of those that are refused only what every sensor has."""
    return [
        blueprint(type_id, _ROLE_NAMES, [_attribute(name, default) for name, default in attributes.items()])
        for type_id, attributes in (*_SENSORS.items(), *((each, _TICK) for each in UNSERVED_SENSORS))
    ]


def controller_blueprint() -> Blueprint:
    """CARLA's walker controller, attached to a walker that shall walk by itself."""
    return blueprint("controller.ai.walker", ("default",), ())
