import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickdrive.leaderboard.simulator.blueprints.library import prop_box, vehicle_spec, walker_box
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Box, SolidBox, Tag, VehicleCommand
from tickdrive.leaderboard.simulator.physics.engine import PhysicsEngine

MKZ = vehicle_spec("vehicle.lincoln.mkz_2020")
WALKER = walker_box("walker.pedestrian.0001")
DT = 0.05
WALL = SolidBox(Box(Pose(30.0, 0.0, 3.0, yaw=10.0), (1.0, 20.0, 3.0)), Tag.WALL)


class Flat:
    def height(self, x, y, z_hint):
        return 0.0


def world(*solids):
    return PhysicsEngine(Flat(), solids)


def steps(engine, seconds):
    return [contact for _ in range(round(seconds / DT)) for contact in engine.step(DT)]


def x_of(engine, actor_id):
    return engine.kinematics(actor_id).pose.x


def test_a_car_cannot_pass_through_a_wall_at_any_speed():
    for speed in (3.0, 20.0, 60.0):
        engine = world(WALL)
        engine.add_vehicle(1, MKZ, Pose(5.0))
        engine.step(DT)
        engine.set_velocity(1, (speed, 0.0, 0.0))
        engine.set_vehicle_command(1, VehicleCommand(throttle=1.0))
        contacts = steps(engine, 6.0)
        assert x_of(engine, 1) < 29.0
        assert {(c.other_id, c.other_tag) for c in contacts} == {(0, Tag.WALL)}
        push = sum(c.impulse[0] for c in contacts)
        assert push < -MKZ.mass_kg * speed  # it was stopped, and pushed on
        assert np.isfinite(engine.kinematics(1).velocity).all()


def test_head_on_cars_keep_their_momentum_and_report_each_other():
    engine = world()
    engine.add_vehicle(1, MKZ, Pose(0.0))
    engine.add_vehicle(2, MKZ, Pose(12.0, yaw=180.0))
    engine.step(DT)
    engine.set_velocity(1, (15.0, 0.0, 0.0))
    engine.set_velocity(2, (-5.0, 0.0, 0.0))
    before = 10.0
    while not (contacts := engine.step(DT)):
        before = sum(engine.kinematics(k).velocity[0] for k in (1, 2))
    by_actor = {contact.actor_id: contact for contact in contacts}
    assert (by_actor[1].other_id, by_actor[2].other_id) == (2, 1)
    assert by_actor[1].other_tag == Tag.CAR
    np.testing.assert_array_equal(by_actor[1].impulse, -by_actor[2].impulse)
    after = [engine.kinematics(k).velocity[0] for k in (1, 2)]
    assert sum(after) == pytest.approx(before, abs=0.1)  # but for what rolls off in a step
    assert 0.0 < after[1] - after[0] < 0.2 * 20.0  # a dull bounce
    assert by_actor[1].impulse[0] == pytest.approx(-MKZ.mass_kg * 1.15 * 20.0 / 2, rel=0.05)


def test_an_offset_hit_spins_the_struck_car():
    engine = world()
    engine.add_vehicle(1, MKZ, Pose(0.0, -1.2))
    engine.add_vehicle(2, MKZ, Pose(8.0, 0.0))
    engine.step(DT)
    engine.set_velocity(1, (15.0, 0.0, 0.0))
    steps(engine, 1.0)
    # struck at its rear left corner, seen from above with y to the right it turns right
    assert engine.kinematics(2).pose.yaw > 1.0
    assert x_of(engine, 2) > 9.0


def test_a_heavy_truck_pushes_a_car_more_than_the_other_way_round():
    truck = vehicle_spec("vehicle.carlamotors.firetruck")
    pushed = []
    for hitting, hit in ((truck, MKZ), (MKZ, truck)):
        engine = world()
        engine.add_vehicle(1, hitting, Pose(0.0))
        engine.add_vehicle(2, hit, Pose(12.0))
        engine.step(DT)
        engine.set_velocity(1, (12.0, 0.0, 0.0))
        steps(engine, 1.5)
        pushed.append(x_of(engine, 2) - 12.0)
    assert pushed[0] > 4 * pushed[1] > 0.0


def test_a_walker_is_knocked_down_and_gets_up():
    engine = world()
    engine.add_vehicle(1, MKZ, Pose(0.0))
    engine.add_walker(2, WALKER, Pose(8.0, 0.0, 0.93))
    engine.step(DT)
    engine.set_velocity(1, (10.0, 0.0, 0.0))
    engine.set_walker_control(2, (0.0, 1.0, 0.0), 0.1, False)
    contacts = []
    for _ in range(40):
        new = engine.step(DT)
        contacts += new
        if new:
            engine.set_vehicle_command(1, VehicleCommand(brake=1.0))
    assert {(c.actor_id, c.other_id, c.other_tag) for c in contacts} == {
        (1, 2, Tag.PEDESTRIAN),
        (2, 1, Tag.CAR),
    }
    assert engine.kinematics(2).pose.x > 9.0
    assert engine.kinematics(1).velocity[0] < 10.0
    steps(engine, 12.0)
    assert engine.kinematics(2).velocity[1] == pytest.approx(0.1)


@pytest.mark.parametrize("speed_mps", [0.0, 10.0])
def test_whoever_is_run_over_is_not_pushed_along(speed_mps):
    """Neither by a car at speed, nor by one that sets off against them."""
    engine = world()
    engine.add_vehicle(1, MKZ, Pose(0.0))
    engine.add_walker(2, WALKER, Pose(8.0 if speed_mps else 3.2, 0.0, 0.93))
    engine.step(DT)
    engine.set_velocity(1, (speed_mps, 0.0, 0.0))
    engine.set_vehicle_command(1, VehicleCommand(throttle=0.4))
    hits = [sum(c.actor_id == 1 for c in engine.step(DT)) for _ in range(120)]
    assert 1 <= sum(hits) <= (1 if speed_mps else 5) and sum(hits[60:]) == 0
    assert x_of(engine, 1) > x_of(engine, 2) + 5.0


def test_a_walker_cannot_push_a_parked_car_or_enter_a_wall():
    engine = world(WALL)
    engine.add_vehicle(1, MKZ, Pose(0.0))
    engine.add_walker(2, WALKER, Pose(0.0, 2.0, 0.93))
    engine.add_walker(3, WALKER, Pose(26.0, 0.0, 0.93))
    engine.set_vehicle_command(1, VehicleCommand(brake=1.0))
    engine.step(DT)
    engine.set_walker_control(2, (0.0, -1.0, 0.0), 2.0, False)
    engine.set_walker_control(3, (1.0, 0.0, 0.0), 2.0, False)
    steps(engine, 10.0)
    assert abs(engine.kinematics(1).pose.y) < 0.05
    assert engine.kinematics(2).pose.y > 1.0
    assert x_of(engine, 3) < 29.0


def test_actors_pass_above_and_below_each_other():
    engine = world()
    engine.add_vehicle(1, MKZ, Pose(0.0))
    engine.add_vehicle(2, MKZ, Pose(10.0, 0.0, -50.0))
    engine.set_simulate_physics(2, False)
    engine.step(DT)
    engine.set_velocity(1, (15.0, 0.0, 0.0))
    assert not steps(engine, 2.0)
    assert x_of(engine, 1) > 15.0


def test_without_collisions_or_without_physics():
    for switch_off, passes in (("collisions", True), ("physics", False)):
        engine = world()
        engine.add_vehicle(1, MKZ, Pose(0.0))
        engine.add_vehicle(2, MKZ, Pose(10.0))
        if switch_off == "collisions":
            engine.set_collisions(2, False)
        else:
            engine.set_simulate_physics(2, False)
        engine.step(DT)
        engine.set_velocity(1, (10.0, 0.0, 0.0))
        contacts = steps(engine, 3.0)
        assert (x_of(engine, 1) > 10.0) == passes
        assert bool(contacts) != passes
        assert x_of(engine, 2) == 10.0


def test_props_stand_fast_until_physics_lets_them_be_pushed():
    for pushed in (False, True):
        engine = world()
        engine.add_vehicle(1, MKZ, Pose(0.0))
        engine.add_prop(2, prop_box("static.prop.trafficcone01"), Pose(8.0), Tag.STATIC)
        engine.set_simulate_physics(2, pushed)
        engine.step(DT)
        engine.set_velocity(1, (8.0, 0.0, 0.0))
        contacts = steps(engine, 2.0)
        assert contacts[0].other_id == 2
        assert (x_of(engine, 2) > 9.0) == pushed
        assert (x_of(engine, 1) > 6.0) == pushed


def test_low_debris_is_driven_over():
    engine = world()
    engine.add_vehicle(1, MKZ, Pose(0.0))
    engine.add_prop(2, prop_box("static.prop.dirtdebris01"), Pose(8.0), Tag.STATIC)
    engine.step(DT)
    engine.set_velocity(1, (8.0, 0.0, 0.0))
    assert not steps(engine, 2.0)
    assert x_of(engine, 1) > 10.0


def test_overlap_names_the_lowest_actor_then_the_town():
    engine = world(WALL)
    engine.add_vehicle(7, MKZ, Pose(0.0))
    engine.add_vehicle(3, MKZ, Pose(2.0))

    def box(x, z=0.75):
        return Box(Pose(x, 0.0, z), MKZ.box.extent)

    assert engine.overlap(box(1.0)) == 3
    assert engine.overlap(box(1.0), frozenset({3})) == 7
    assert engine.overlap(box(1.0), frozenset({3, 7})) is None
    assert engine.overlap(box(30.0)) == 0
    assert engine.overlap(box(15.0)) is None
    assert engine.overlap(box(1.0, z=-50.0)) is None
    # crossed boxes whose corners are outside each other
    assert engine.overlap(Box(Pose(0.0, 0.0, 0.75, yaw=90.0), (5.0, 0.2, 0.5)), frozenset({3})) == 7


def energy(engine, ids):
    total = 0.0
    for actor_id in ids:
        state = engine.kinematics(actor_id)
        inertia = MKZ.mass_kg * (MKZ.box.extent[0] ** 2 + MKZ.box.extent[1] ** 2) / 3
        total += MKZ.mass_kg * (state.velocity[:2] ** 2).sum() / 2
        total += inertia * math.radians(state.angular_velocity[2]) ** 2 / 2
    return total


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(-180, 180)), min_size=3, max_size=6)
)
def test_a_pile_up_never_gains_energy_and_comes_apart(motions):
    engine = world(WALL)
    ids = range(1, len(motions) + 1)
    for actor_id, (_, _, yaw) in zip(ids, motions, strict=True):
        engine.add_vehicle(actor_id, MKZ, Pose(6.0 * (actor_id % 3), 6.0 * (actor_id // 3), yaw=yaw))
    engine.step(DT)
    for actor_id, (vx, vy, _) in zip(ids, motions, strict=True):
        engine.set_velocity(actor_id, (vx, vy, 0.0))
    before = energy(engine, ids)
    for _ in range(60):
        engine.step(DT)
        now = energy(engine, ids)
        assert now <= before * 1.001 + 1.0
        before = now
    for _ in range(200):
        engine.step(DT)
    for actor_id in ids:
        pose = engine.kinematics(actor_id).pose
        yaw = math.radians(pose.yaw)
        centre = Pose(
            pose.x + math.cos(yaw) * MKZ.box.pose.x,
            pose.y + math.sin(yaw) * MKZ.box.pose.x,
            0.75,
            yaw=pose.yaw,
        )
        shrunk = Box(centre, (MKZ.box.extent[0] - 0.05, MKZ.box.extent[1] - 0.05, 0.7))
        assert engine.overlap(shrunk, frozenset({actor_id})) is None
