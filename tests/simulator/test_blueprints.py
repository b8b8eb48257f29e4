from pathlib import Path

import pytest

from tickdrive.leaderboard.simulator.blueprints.library import (
    BLUEPRINTS,
    AttributeType,
    prop_box,
    vehicle_spec,
    walker_box,
)
from tickdrive.leaderboard.simulator.blueprints.table import markdown
from tickdrive.leaderboard.simulator.interfaces import Tag
from tickdrive.planner.errors import ServerError

VEHICLES = [each for each in BLUEPRINTS if each.startswith("vehicle.")]


def test_library_is_as_complete_as_carla_0916():
    assert len(VEHICLES) == 41
    assert sum(each.startswith("walker.pedestrian.") for each in BLUEPRINTS) == 52
    # props that scenario_runner and the leaderboard ask for; a missing one becomes a car there
    for name in (
        "constructioncone",
        "trafficcone01",
        "trafficwarning",
        "warningconstruction",
        "dirtdebris01",
        "streetbarrier",
        "vendingmachine",
        "busstoplb",
        "haybalelb",
        "foodcart",
        "container",
    ):
        assert f"static.prop.{name}" in BLUEPRINTS
    assert "controller.ai.walker" in BLUEPRINTS


def test_docs_are_the_table():
    path = Path(__file__).parents[2] / "docs" / "blueprints.md"
    assert path.read_text() == markdown(), (
        "run: python -m tickdrive.leaderboard.simulator.blueprints.table > docs/blueprints.md"
    )


def test_every_default_is_of_its_type_and_recommended():
    parse = {
        AttributeType.BOOL: lambda text: {"true": 1, "false": 0}[text],
        AttributeType.INT: int,
        AttributeType.FLOAT: float,
        AttributeType.STRING: str,
        AttributeType.RGB_COLOR: lambda text: bytes(map(int, text.split(","))),
    }
    for blueprint in BLUEPRINTS.values():
        assert blueprint.tags == blueprint.type_id.replace(".", ",")
        ids = [each.id for each in blueprint.attributes]
        assert len(ids) == len(set(ids)), blueprint.type_id
        assert blueprint.default("role_name") is not None
        for each in blueprint.attributes:
            parse[each.type](each.value)
            assert each.is_modifiable == (each.value in each.recommended), (blueprint.type_id, each.id)


def test_sensor_defaults_are_carlas():
    camera, lidar = BLUEPRINTS["sensor.camera.rgb"], BLUEPRINTS["sensor.lidar.ray_cast"]
    assert (camera.default("image_size_x"), camera.default("fov")) == ("800", "90.0")
    assert (lidar.default("channels"), lidar.default("dropoff_general_rate")) == ("32", "0.45")
    assert BLUEPRINTS["sensor.other.imu"].default("noise_gyro_bias_z") == "0.0"
    assert BLUEPRINTS["sensor.other.gnss"].default("noise_lat_bias") == "0.0"


def test_sizes_are_carlas():
    mkz = vehicle_spec("vehicle.lincoln.mkz_2020")
    assert mkz.box.extent == pytest.approx((2.446, 0.918, 0.745), abs=1e-3)
    assert mkz.tag == Tag.CAR
    assert walker_box("walker.pedestrian.0001").extent == pytest.approx((0.188, 0.188, 0.93), abs=1e-3)
    assert prop_box("static.prop.trafficcone01").extent[2] == pytest.approx(0.567, abs=1e-3)


@pytest.mark.parametrize("type_id", VEHICLES)
def test_wheels_stand_inside_the_box_and_steer_in_front(type_id):
    spec = vehicle_spec(type_id)
    centre, extent = spec.box.pose, spec.box.extent
    assert len(spec.wheels) == 4
    for wheel in spec.wheels:
        assert abs(wheel.position[0] - centre.x) < extent[0]
        assert abs(wheel.position[1] - centre.y) <= extent[1]
        assert (wheel.max_steer_deg > 0) == (wheel.position[0] > 0)
    # the box stands on the ground
    assert centre.z - extent[2] == pytest.approx(0.0, abs=0.17)
    blueprint = BLUEPRINTS[type_id]
    assert blueprint.default("base_type") == spec.base_type
    assert (blueprint.default("number_of_wheels") == "2") == (spec.base_type in ("motorcycle", "bicycle"))


@pytest.mark.parametrize(
    ("look_up", "wrong", "meant"),
    [
        (vehicle_spec, "vehicle.lincoln.mkz_2021", "vehicle.lincoln.mkz_2020"),
        (walker_box, "walker.pedestrian.001", "walker.pedestrian.0001"),
        (prop_box, "static.prop.trafficcone1", "static.prop.trafficcone01"),
    ],
)
def test_a_wrong_name_says_what_was_meant(look_up, wrong, meant):
    with pytest.raises(ServerError) as caught:
        look_up(wrong)
    assert meant in caught.value.mend
