"""Vehicle blueprints of CARLA 0.9.16 and their dynamics.

Sizes are what CARLA servers report. Extents: `tools/carla/snapshots/blueprints_0.9.16.json.gz` of
BerkeleyLearnVerify/Scenic. Centres: a public dump of `actor.bounding_box`, whose extents agree with those to
the centimetre. Base and special types, generations, lights and doors: CARLA's `Docs/catalogue_vehicles.md`;
lights of the first generation are estimated.

CARLA does not publish masses, wheelbases and engines (they live in Unreal assets). Masses and wheelbases here
are those of the real vehicles, wheel radii and paints are estimated; torques are chosen so that an ordinary
car takes about 9 s to 100 km/h, brake torques so that full braking is about 8.7 m/s2.
"""

from __future__ import annotations

from dataclasses import dataclass

from tickdrive.leaderboard.simulator.blueprints.model import (
    AttributeType,
    Blueprint,
    blueprint,
    constant,
    settable,
)
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, Tag, VehicleSpec, WheelSpec

_TAGS = {
    "car": Tag.CAR,
    "truck": Tag.TRUCK,
    "van": Tag.CAR,
    "bus": Tag.BUS,
    "motorcycle": Tag.MOTORCYCLE,
    "bicycle": Tag.BICYCLE,
}
# CARLA serves 70 degrees for most cars, yet turn as if the inner wheel reached 48: that meets, within 20 % at
# up to 10 m/s and half lock, the ego model that "World on Rails" (dotchen/WorldOnRails, `EgoModel`)
# identified from drives in CARLA (curvature 0.27 / m at full lock), and gives the mkz a turning circle of
# 10 m. The angle served is the one simulated.
_MAX_STEER_DEG = 48.0
_FULL_BRAKE_MPS2 = 8.7
_PAINTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "any": (
        (243, 243, 243),
        (17, 37, 103),
        (168, 0, 27),
        (38, 38, 38),
        (137, 137, 137),
        (71, 95, 54),
        (107, 162, 178),
        (157, 103, 46),
    ),
    "white": ((243, 243, 243),),
    "red": ((150, 11, 11),),
    "yellow": ((255, 183, 9),),
}


# half sizes x y z, centre of the box above the ground point x y z [m], mass [kg], wheelbase [m],
# peak torque [N m], wheel radius [m], generation, (D)oors open and (L)ights, base type, special type, paints
_TABLE = """
audi.a2                   1.853 0.894 0.775  0.00  0.00 0.782   895 2.405  140 0.33 1 -  car - any
audi.etron                2.428 1.016 0.825  0.00  0.00 0.821  2490 2.928  480 0.37 1 -  car electric any
audi.tt                   2.091 0.997 0.693  0.00  0.00 0.693  1335 2.468  230 0.33 1 -  car - any
bmw.grandtourer           2.306 1.121 0.834  0.00  0.00 0.765  1470 2.780  235 0.33 1 -  car - any
chevrolet.impala          2.679 1.017 0.705  0.00  0.00 0.701  1680 2.837  270 0.33 1 L  car - any
citroen.c3                1.994 0.925 0.809  0.00  0.00 0.762  1050 2.466  165 0.33 1 -  car - any
dodge.charger_2020        2.504 0.941 0.767 -0.01  0.00 0.766  1910 3.052  320 0.36 2 DL car - any
dodge.charger_police      2.487 1.019 0.771  0.02  0.00 0.793  1910 3.052  320 0.36 1 L  car emergency any
dodge.charger_police_2020 2.619 0.965 0.819  0.11  0.00 0.817  1910 3.052  320 0.36 2 DL car emergency any
ford.crown                2.683 0.900 0.787  0.18  0.00 0.768  1880 2.913  295 0.33 2 DL car taxi yellow
ford.mustang              2.359 0.947 0.650  0.03  0.00 0.650  1220 2.743  230 0.33 1 L  car - any
jeep.wrangler_rubicon     1.933 0.953 0.939  0.00  0.00 0.932  1860 2.424  300 0.40 1 -  car - any
lincoln.mkz_2017          2.451 1.064 0.755  0.00  0.00 0.719  1770 2.850  280 0.35 1 L  car - any
lincoln.mkz_2020          2.446 0.918 0.745 -0.01  0.00 0.749  1770 2.850  280 0.35 2 DL car - any
mercedes.coupe            2.513 1.076 0.825  0.00  0.00 0.667  1700 2.760  290 0.33 1 L  car - any
mercedes.coupe_2020       2.337 0.906 0.721  0.00  0.00 0.720  1670 2.840  285 0.33 2 DL car - any
micro.microlino           1.104 0.740 0.688  0.00  0.00 0.677   535 1.550   70 0.27 1 -  car electric any
mini.cooper_s             1.903 0.985 0.738  0.00  0.00 0.693  1140 2.467  190 0.33 1 -  car - any
mini.cooper_s_2021        2.276 1.049 0.884 -0.03  0.00 0.891  1320 2.567  220 0.33 2 DL car - any
nissan.micra              1.817 0.923 0.751  0.00  0.00 0.781  1010 2.450  155 0.33 1 -  car - any
nissan.patrol             2.302 0.966 0.927 -0.06  0.00 0.935  2150 2.650  350 0.39 1 -  car - any
nissan.patrol_2021        2.783 1.075 1.023  0.03  0.00 1.017  2730 3.075  450 0.40 2 DL car - any
seat.leon                 2.096 0.908 0.737  0.00  0.00 0.740  1280 2.636  210 0.33 1 -  car - any
tesla.model3              2.396 1.082 0.744  0.03  0.00 0.736  1750 2.875  330 0.35 1 L  car electric any
toyota.prius              2.257 1.003 0.762  0.00  0.00 0.724  1380 2.700  210 0.33 1 -  car electric any
carlamotors.carlacola     2.602 1.313 1.234  0.00  0.00 1.234  5500 3.360  600 0.45 1 -  truck - red
carlamotors.european_hgv  3.968 1.446 1.731  0.01  0.01 1.731  9000 4.600  900 0.50 2 DL truck - white
carlamotors.firetruck     4.234 1.446 1.914 -0.25  0.01 1.913 13000 4.800 1200 0.50 2 DL truck emergency red
tesla.cybertruck          3.137 1.195 1.049  0.00  0.00 1.049  2990 3.635  560 0.43 1 L  truck electric any
ford.ambulance            3.183 1.176 1.216 -0.29  0.00 1.216  3600 3.505  440 0.38 2 DL van emergency white
mercedes.sprinter         2.958 0.994 1.280 -0.01  0.00 1.288  2300 3.665  290 0.36 2 DL van - any
volkswagen.t2             2.240 1.035 1.019  0.00  0.00 1.014  1300 2.400  150 0.33 1 -  van - any
volkswagen.t2_2021        2.221 0.887 0.994  0.12  0.00 0.991  1300 2.400  150 0.33 2 DL van - any
mitsubishi.fusorosa       5.136 1.972 2.126 -0.45 -0.12 2.127  6500 4.990  650 0.48 2 L  bus - white
harley-davidson.low_rider 1.175 0.383 0.825  0.00  0.00 0.825   380 1.630   75 0.33 1 L  motorcycle - any
kawasaki.ninja            1.022 0.398 0.762  0.00  0.00 0.769   280 1.410   75 0.31 1 L  motorcycle - any
vespa.zx125               0.909 0.433 0.795  0.01  0.00 0.795   190 1.280   22 0.24 1 L  motorcycle - any
yamaha.yzf                1.095 0.433 0.765  0.00  0.00 0.775   280 1.400   75 0.31 1 L  motorcycle - any
bh.crossbike              0.755 0.433 0.806  0.00  0.00 0.808    90 1.060    4 0.33 1 -  bicycle - any
diamondback.century       0.828 0.291 0.810  0.00  0.00 0.816    85 1.000    4 0.33 1 -  bicycle - any
gazelle.omafiets          0.922 0.330 0.888 -0.01  0.00 0.895    95 1.130    4 0.35 1 -  bicycle - any
"""


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the table; `paints` names a choice of colours."""

    type_id: str
    extent: tuple[float, float, float]
    centre: tuple[float, float, float]
    mass_kg: float
    wheelbase_m: float
    torque_nm: float
    wheel_radius_m: float
    base_type: str
    generation: str
    special_type: str
    has_doors: bool
    has_lights: bool
    paints: tuple[tuple[int, int, int], ...]

    @classmethod
    def parse(cls, line: str) -> _Row:
        name, *words = line.split()
        numbers = [float(word) for word in words[:10]]
        generation, flags, base_type, special_type, paints = words[10:]
        return cls(
            f"vehicle.{name}",
            (numbers[0], numbers[1], numbers[2]),
            (numbers[3], numbers[4], numbers[5]),
            mass_kg=numbers[6],
            wheelbase_m=numbers[7],
            torque_nm=numbers[8],
            wheel_radius_m=numbers[9],
            base_type=base_type,
            generation=generation,
            special_type=special_type.strip("-"),
            has_doors="D" in flags,
            has_lights="L" in flags,
            paints=_PAINTS[paints],
        )

    @property
    def is_two_wheeled(self) -> bool:
        return self.base_type in ("motorcycle", "bicycle")


_ROWS = tuple(_Row.parse(line) for line in _TABLE.strip().splitlines())


def _wheels(row: _Row) -> tuple[WheelSpec, ...]:
    """Front left, front right, rear left, rear right; y is to the right, so left is negative."""
    half_track = 0.0 if row.is_two_wheeled else min(0.84 * row.extent[1], 1.0)
    torque = round(_FULL_BRAKE_MPS2 * row.mass_kg * row.wheel_radius_m / 4, -1)
    return tuple(
        WheelSpec(
            position=(x, y, row.wheel_radius_m),
            radius_m=row.wheel_radius_m,
            max_steer_deg=_MAX_STEER_DEG if x > 0 else 0.0,
            max_brake_torque_nm=torque,
            max_handbrake_torque_nm=0.0 if x > 0 else 2 * torque,
        )
        for x in (row.wheelbase_m / 2, -row.wheelbase_m / 2)
        for y in (-half_track, half_track)
    )


def _spec(row: _Row) -> VehicleSpec:
    centre_x, centre_y, centre_z = row.centre
    return VehicleSpec(
        type_id=row.type_id,
        box=Box(Pose(centre_x, centre_y, centre_z), row.extent),
        mass_kg=row.mass_kg,
        wheels=_wheels(row),
        base_type=row.base_type,
        tag=_TAGS[row.base_type],
        torque_curve=((0.0, 0.8 * row.torque_nm), (1890.0, row.torque_nm), (5729.0, 0.8 * row.torque_nm)),
        colours_rgb=row.paints,
    )


VEHICLE_SPECS: dict[str, VehicleSpec] = {row.type_id: _spec(row) for row in _ROWS}


def _flag(value: bool) -> str:
    return "true" if value else "false"


def vehicle_blueprints() -> list[Blueprint]:
    """Blueprints of all vehicles, attributes as in CARLA's `MakeVehicleDefinition`."""
    out = []
    for row in _ROWS:
        settables = [
            settable("color", AttributeType.RGB_COLOR, [",".join(map(str, paint)) for paint in row.paints])
        ]
        if row.is_two_wheeled:
            settables.append(
                settable("driver_id", AttributeType.INT, [str(n) for n in range(1, 9)], restrict=True)
            )
        settables += [
            settable("sticky_control", AttributeType.BOOL, ("true",)),
            settable("terramechanics", AttributeType.BOOL, ("false",)),
        ]
        wheels = 2 if row.is_two_wheeled else 4
        constants = (
            constant("object_type", AttributeType.STRING, ""),
            constant("base_type", AttributeType.STRING, row.base_type),
            constant("special_type", AttributeType.STRING, row.special_type),
            constant("number_of_wheels", AttributeType.INT, str(wheels)),
            constant("generation", AttributeType.INT, row.generation),
            constant("has_dynamic_doors", AttributeType.BOOL, _flag(row.has_doors)),
            constant("has_lights", AttributeType.BOOL, _flag(row.has_lights)),
        )
        out.append(blueprint(row.type_id, ("autopilot", "scenario", "ego_vehicle"), settables, constants))
    return out
