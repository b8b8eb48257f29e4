import math
from dataclasses import replace

import numpy as np
import pytest

from tickdrive.leaderboard.simulator.blueprints.library import vehicle_spec, walker_box
from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Tag, VehicleCommand
from tickdrive.leaderboard.simulator.physics.engine import PhysicsEngine
from tickdrive.planner.errors import ServerError

MKZ = "vehicle.lincoln.mkz_2020"
DT = 0.05
G = 9.81


class Flat:
    def height(self, x, y, z_hint):
        return 0.0


class Ramp:
    """Rises along x."""

    def __init__(self, slope):
        self.slope = slope

    def height(self, x, y, z_hint):
        return self.slope * x


class Nothing:
    def height(self, x, y, z_hint):
        return math.nan


def drive(type_id=MKZ, ground=None, pose=None, spec=None):
    engine = PhysicsEngine(ground or Flat(), ())
    engine.add_vehicle(1, spec or vehicle_spec(type_id), pose or Pose())
    engine.step(DT)
    return engine


def run(engine, seconds, **command):
    engine.set_vehicle_command(1, VehicleCommand(**command))
    out = []
    for _ in range(round(seconds / DT)):
        engine.step(DT)
        out.append(engine.kinematics(1))
    return out


def speed(state):
    return math.hypot(state.velocity[0], state.velocity[1])


def test_a_car_takes_eight_to_ten_seconds_to_100_kmh():
    states = run(drive(), 12.0, throttle=1.0)
    taken = DT * next(k for k, state in enumerate(states) if speed(state) > 100 / 3.6)
    assert 8.0 < taken < 10.0
    gears = [state.gear for state in states]
    assert gears == sorted(gears)  # it does not hunt
    assert max(state.engine_rpm for state in states) < vehicle_spec(MKZ).max_rpm


def test_half_throttle_gives_less_than_full():
    half, full = (speed(run(drive(), 3.0, throttle=t)[-1]) for t in (0.5, 1.0))
    assert 0.4 * full < half < 0.8 * full


def test_full_brake_decelerates_as_hard_as_carla_and_stands():
    engine = drive()
    engine.set_velocity(1, (20.0, 0.0, 0.0))
    states = run(engine, 4.0, brake=1.0)
    distance = states[-1].pose.x
    assert 8.0 < 20.0**2 / (2 * distance) < 9.0
    assert speed(states[-1]) == 0.0


def test_braking_distance_at_the_limit_of_grip_is_v2_over_2_mu_g():
    spec = vehicle_spec(MKZ)
    strong = replace(spec, wheels=tuple(replace(w, max_brake_torque_nm=1e5) for w in spec.wheels))
    engine = drive(spec=strong)
    engine.set_velocity(1, (30.0, 0.0, 0.0))
    distance = run(engine, 5.0, brake=1.0)[-1].pose.x
    mu = 0.3 * 3.5
    ideal = 30.0**2 / (2 * mu * G)
    # ABS uses 95 % of the grip, the pedal takes 1/6 s, rolling and air help a little
    assert ideal < distance < 1.1 * ideal + 30.0 / 6


@pytest.mark.parametrize("command", [{}, {"brake": 1.0}, {"hand_brake": True}, {"brake": 0.3, "steer": 0.7}])
def test_a_standing_car_does_not_move_by_a_bit(command):
    engine = drive(pose=Pose(3.0, -2.0, 0.0, yaw=33.0))
    first = engine.kinematics(1).pose
    for state in run(engine, 20.0, **command):
        assert state.pose == first
        assert not state.velocity.any()
        assert not state.acceleration.any()


def test_throttle_against_the_brake_stands():
    assert speed(run(drive(), 3.0, throttle=0.5, brake=1.0)[-1]) == 0.0


def test_a_car_left_alone_rolls_out_and_then_stands():
    engine = drive()
    engine.set_velocity(1, (10.0, 0.0, 0.0))
    states = run(engine, 60.0)
    assert speed(states[20]) > 8.0
    assert speed(states[-1]) == 0.0


def test_reverse_neutral_and_manual_gears():
    engine = drive()
    backwards = run(engine, 2.0, throttle=0.5, reverse=True)[-1]
    assert backwards.velocity[0] < -1.0
    assert backwards.gear == -1
    run(engine, 3.0, brake=1.0)
    neutral = run(engine, 2.0, throttle=1.0, manual_gear_shift=True, gear=0)[-1]
    assert speed(neutral) == 0.0
    assert neutral.gear == 0
    assert neutral.engine_rpm > 3000
    third = run(engine, 6.0, throttle=1.0, manual_gear_shift=True, gear=3)
    assert {state.gear for state in third} == {3}
    assert run(drive(), 6.0, throttle=1.0)[-1].velocity[0] > third[-1].velocity[0] > 2.0


def test_turning_circle_at_walking_pace_is_kinematic():
    spec = vehicle_spec(MKZ)
    base = spec.wheels[0].position[0] - spec.wheels[2].position[0]
    engine = drive()
    engine.set_velocity(1, (2.0, 0.0, 0.0))
    states = run(engine, 10.0, steer=1.0, throttle=0.12)
    state = states[-1]
    # Ackermann: each front wheel is square to its line to the turning point on the rear axle's line
    inner, outer = (math.radians(engine.wheel_steer_deg(1, index)) for index in (1, 0))
    track = 2 * spec.wheels[1].position[1]
    assert 1 / math.tan(outer) - 1 / math.tan(inner) == pytest.approx(track / base, rel=1e-6)
    rear_radius = base / math.tan(inner) + track / 2
    measured = speed(state) / math.radians(state.angular_velocity[2])
    assert measured == pytest.approx(math.hypot(rear_radius, base / 2), rel=0.05)
    kerb_to_kerb = 2 * math.hypot(rear_radius + track / 2, base)
    assert 9.5 < kerb_to_kerb < 12.0
    assert state.angular_velocity[2] > 0  # steer > 0 turns right, which is positive yaw in CARLA


def test_steering_answers_like_carlas_ego_model():
    """Curvature of the model that World on Rails identified in CARLA (EgoModel: 1.418, -0.0908, 0.3685)."""
    for start_mps, steer in ((3.0, 0.25), (3.0, 1.0), (6.0, 0.5), (9.0, 0.25)):
        engine = drive()
        engine.set_velocity(1, (start_mps, 0.0, 0.0))
        state = run(engine, 2.0, steer=steer, throttle=0.12)[-1]
        slip = math.atan(1.4178275 / (1.4178275 - 0.090769) * math.tan(0.36848336 * steer))
        curvature = math.radians(state.angular_velocity[2]) / speed(state)
        assert curvature == pytest.approx(math.sin(slip) / 1.4178275, rel=0.2)


def reference_yaw(times, speeds, steers, base=2.85, mass=1770.0, dt=1e-3):
    """Rajamani (2.31) with linear tyres, integrated by RK4 in a frame with y to the left; yaw in radians."""
    extent = vehicle_spec(MKZ).box.extent
    lf = lr = base / 2
    inertia = mass * ((2 * extent[0]) ** 2 + (2 * extent[1]) ** 2) / 12
    front, rear = 12.0 * mass * G / 2, 13.0 * mass * G / 2

    def rates(state, t):
        v, r, _ = state
        u = np.interp(t, times, speeds)
        # the wheels reach a new command within one substep and then stay for the rest of the step
        delta = -steers[min(int(t / DT + 1e-6) + 1, len(steers) - 1)]
        force_front = front * (delta - (v + lf * r) / u)
        force_rear = -rear * (v - lr * r) / u
        return np.array(
            [
                (force_front + force_rear) / mass - u * r,
                (lf * force_front - lr * force_rear) / inertia,
                r,
            ]
        )

    state = np.zeros(3)
    for t in np.arange(times[0], times[-1], dt):
        k1 = rates(state, t)
        k2 = rates(state + dt / 2 * k1, t + dt / 2)
        k3 = rates(state + dt / 2 * k2, t + dt / 2)
        k4 = rates(state + dt * k3, t + dt)
        state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return -state[2], -state[1]


def single_track_steer(engine):
    """Angle of the wheel in the middle, from the two that the engine tells."""
    left, right = (math.radians(engine.wheel_steer_deg(1, k)) for k in (0, 1))
    if left == 0.0:
        return 0.0
    return math.atan(2.0 / (1.0 / math.tan(left) + 1.0 / math.tan(right)))


def test_a_lane_change_at_20_mps_follows_the_textbook_equations():
    engine = drive()
    engine.set_velocity(1, (20.0, 0.0, 0.0))
    times, speeds, steers, yaws, rates = [0.0], [20.0], [0.0], [0.0], [0.0]
    for k in range(80):
        steer = 0.06 * math.sin(2 * math.pi * k * DT / 2.0)
        engine.set_vehicle_command(1, VehicleCommand(throttle=0.25, steer=steer))
        engine.step(DT)
        state = engine.kinematics(1)
        times.append((k + 1) * DT)
        yaw = math.radians(state.pose.yaw)
        speeds.append(state.velocity[0] * math.cos(yaw) + state.velocity[1] * math.sin(yaw))
        steers.append(single_track_steer(engine))
        yaws.append(yaw)
        rates.append(math.radians(state.angular_velocity[2]))
    for upto in (20, 40, 60, 80):
        yaw, rate = reference_yaw(times[: upto + 1], speeds[: upto + 1], steers[: upto + 1])
        assert yaws[upto] == pytest.approx(yaw, abs=0.03 * max(map(abs, yaws)))
        assert rates[upto] == pytest.approx(rate, abs=0.03 * max(map(abs, rates)))


def test_steady_turn_understeers_by_the_gradient():
    """Rajamani (3.2): delta = L / R + K_v a_y with K_v = m_f / 2C_af - m_r / 2C_ar."""
    engine = drive()
    engine.set_velocity(1, (20.0, 0.0, 0.0))
    state = run(engine, 6.0, steer=0.02, throttle=0.25)[-1]
    rate, u = math.radians(state.angular_velocity[2]), speed(state)
    gradient = (1 / 12.0 - 1 / 13.0) / G
    assert single_track_steer(engine) == pytest.approx(2.85 * rate / u + gradient * u * rate, rel=0.02)
    assert u * rate < 0.2 * G  # in the linear range


def test_grip_bounds_the_lateral_acceleration():
    engine = drive()
    engine.set_velocity(1, (25.0, 0.0, 0.0))
    engine.step(DT)
    for state in run(engine, 3.0, steer=1.0):
        assert np.linalg.norm(state.acceleration[:2]) < 1.06 * 0.3 * 3.5 * G


def test_positions_velocities_and_accelerations_agree():
    engine = drive()
    engine.set_velocity(1, (8.0, 0.0, 0.0))
    engine.step(DT)
    before = engine.kinematics(1)
    for k in range(200):
        engine.set_vehicle_command(
            1, VehicleCommand(throttle=0.5, steer=0.3 * math.sin(k / 10), brake=float(k % 50 > 40))
        )
        engine.step(DT)
        now = engine.kinematics(1)
        np.testing.assert_allclose(now.acceleration, (now.velocity - before.velocity) / DT, atol=1e-9)
        moved = now.pose.location - before.pose.location
        mean = (now.velocity + before.velocity) / 2
        np.testing.assert_allclose(moved[:2] / DT, mean[:2], atol=0.12)
        turned = (now.pose.yaw - before.pose.yaw + 180) % 360 - 180
        assert turned / DT == pytest.approx((now.angular_velocity[2] + before.angular_velocity[2]) / 2, abs=3)
        before = now


def test_a_car_takes_the_slope_of_the_ground_and_its_speed_upwards():
    engine = drive(ground=Ramp(0.1), pose=Pose(0.0, 0.0, 0.2))
    states = run(engine, 6.0, throttle=0.5)
    state = states[-1]
    assert state.pose.z == pytest.approx(0.1 * state.pose.x, abs=0.03)
    assert state.pose.pitch == pytest.approx(math.degrees(math.atan(0.1)), abs=1.0)
    assert state.velocity[2] == pytest.approx(0.1 * state.velocity[0], rel=0.05)


def test_on_a_slope_brakes_hold_and_neutral_rolls_back():
    for command, holds in (({"brake": 0.5}, True), ({"hand_brake": True}, True), ({}, False)):
        engine = drive(ground=Ramp(0.1))
        run(engine, 1.0, brake=1.0)
        start = engine.kinematics(1).pose.x
        moved = run(engine, 3.0, **command)[-1].pose.x - start
        assert (moved == 0.0) if holds else (moved < -1.0)


def test_a_car_across_a_slope_leans_to_the_low_side():
    engine = drive(ground=Ramp(0.1), pose=Pose(yaw=90.0))
    state = run(engine, 2.0, brake=1.0)[-1]
    # heading along y, the right side is at -x, the low one: positive roll lowers the right side
    assert state.pose.roll == pytest.approx(math.degrees(math.atan(0.1)), abs=0.2)


def test_a_dropped_car_falls_and_lands():
    engine = PhysicsEngine(Flat(), ())
    engine.add_vehicle(1, vehicle_spec(MKZ), Pose(z=2.0))
    states = run(engine, 2.0)
    fall = [state for state in states if state.pose.z > 0.0]
    assert len(fall) * DT == pytest.approx(math.sqrt(2 * 2.0 / G), abs=0.1)
    assert fall[3].acceleration[2] == pytest.approx(-G)
    assert states[-1].pose.z == 0.0
    assert not states[-1].velocity.any()


@pytest.mark.parametrize(("ground", "z"), [(Nothing(), 0.0), (Flat(), -50.0)])
def test_without_ground_below_a_car_falls(ground, z):
    engine = PhysicsEngine(ground, ())
    engine.add_vehicle(1, vehicle_spec(MKZ), Pose(z=z))
    assert run(engine, 1.0, throttle=1.0)[-1].pose.z == pytest.approx(z - G / 2, abs=0.5)


def test_a_hard_landing_is_a_collision_with_the_ground_a_soft_one_is_none():
    for height, wanted in ((15.0, True), (0.5, False)):
        engine = drive(pose=Pose(z=height))
        contacts = [each for _ in range(60) for each in engine.step(DT)]
        assert bool(contacts) == wanted
    engine = drive(pose=Pose(z=15.0))
    (contact,) = [each for _ in range(60) for each in engine.step(DT)]
    fallen_mps = math.sqrt(2.0 * G * 15.0)
    assert contact.other_tag == Tag.GROUND
    assert contact.impulse[2] == pytest.approx(vehicle_spec(MKZ).mass_kg * fallen_mps, rel=0.1)


def test_a_parked_actor_without_physics_stays_underground():
    engine = PhysicsEngine(Flat(), ())
    engine.add_vehicle(1, vehicle_spec(MKZ), Pose(z=-500.0))
    engine.set_simulate_physics(1, False)
    engine.set_velocity(1, (5.0, 0.0, 0.0))
    state = run(engine, 1.0, throttle=1.0)[-1]
    assert state.pose == Pose(z=-500.0)
    assert not state.velocity.any()
    engine.set_pose(1, Pose(1.0, 2.0, 0.0))
    engine.set_simulate_physics(1, True)
    assert run(engine, 1.0, throttle=1.0)[-1].pose.x > 1.5


def test_constant_velocity_is_in_the_vehicles_frame_until_let_go():
    engine = drive(pose=Pose(yaw=90.0))
    engine.set_constant_velocity(1, (5.0, 0.0, 0.0))
    for state in run(engine, 1.0, brake=1.0):
        np.testing.assert_allclose(state.velocity, (0.0, 5.0, 0.0), atol=1e-9)
    assert state.pose.y == pytest.approx(5.0)
    engine.set_constant_velocity(1, None)
    assert speed(run(engine, 2.0, brake=1.0)[-1]) == 0.0


def test_impulse_and_force_change_the_momentum():
    engine = drive()
    mass = vehicle_spec(MKZ).mass_kg
    engine.add_impulse(1, (3.0 * mass, 0.0, 0.0))
    engine.step(DT)
    assert engine.kinematics(1).velocity[0] == pytest.approx(3.0, abs=0.05)
    engine.add_force(1, (mass * 20.0, 0.0, 0.0))
    engine.step(DT)
    assert engine.kinematics(1).velocity[0] == pytest.approx(4.0, abs=0.1)
    engine.step(DT)
    assert engine.kinematics(1).velocity[0] < 4.0  # a force lasts one step


def test_physics_control_takes_effect_at_run_time():
    light, heavy = drive(), drive()
    spec = vehicle_spec(MKZ)
    heavy.set_vehicle_spec(1, replace(spec, mass_kg=4 * spec.mass_kg))
    assert speed(run(heavy, 3.0, throttle=1.0)[-1]) < 0.5 * speed(run(light, 3.0, throttle=1.0)[-1])
    telemetry = light.telemetry(1)
    assert telemetry.throttle == 1.0
    assert telemetry.speed_mps > 5.0
    assert telemetry.engine_rpm > 1000.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mass_kg": 0.0}, "mass"),
        ({"mass_kg": math.nan}, "mass"),
        ({"forward_gears": ()}, "gears"),
        ({"torque_curve": ((100.0, 1.0), (0.0, 1.0))}, "torque curve"),
        ({"wheels": ()}, "wheels"),
        ({"max_rpm": -1.0}, "max_rpm"),
    ],
)
def test_a_vehicle_that_cannot_be_simulated_is_refused(change, named):
    engine = drive()
    with pytest.raises(ServerError, match=named):
        engine.set_vehicle_spec(1, replace(vehicle_spec(MKZ), **change))
    engine.step(DT)
    assert math.isfinite(engine.kinematics(1).pose.x)


def test_wild_commands_are_clipped():
    engine = drive()
    state = run(engine, 1.0, throttle=math.nan, steer=math.inf, brake=-3.0, gear=10**6)[-1]
    assert state.pose == Pose()
    assert engine.telemetry(1).steer == 1.0


@pytest.mark.parametrize("dt", [0.0, -0.05, math.nan, math.inf])
def test_an_impossible_step_is_refused(dt):
    with pytest.raises(ServerError):
        drive().step(dt)


def test_unknown_and_doubled_ids_are_refused():
    engine = drive()
    with pytest.raises(ServerError, match="7"):
        engine.kinematics(7)
    with pytest.raises(ServerError, match="1"):
        engine.add_walker(1, walker_box("walker.pedestrian.0001"), Pose())
    engine.remove(1)
    with pytest.raises(ServerError):
        engine.set_vehicle_command(1, VehicleCommand())


def test_a_walker_walks_faces_its_way_and_jumps():
    engine = PhysicsEngine(Ramp(0.1), ())
    box = walker_box("walker.pedestrian.0001")
    engine.add_walker(5, box, Pose(0.0, 0.0, box.extent[2]))
    engine.step(DT)
    engine.set_walker_control(5, (3.0, 4.0, 0.0), 1.5, False)
    for _ in range(40):
        engine.step(DT)
    state = engine.kinematics(5)
    assert (state.pose.x, state.pose.y) == pytest.approx((1.8, 2.4))
    assert state.pose.z == pytest.approx(box.extent[2] + 0.18, abs=0.02)
    assert state.pose.yaw == pytest.approx(math.degrees(math.atan2(4, 3)))
    assert engine.stride_m(5) == pytest.approx(3.0)
    engine.set_walker_control(5, (0.0, 0.0, 0.0), 0.0, True)
    heights = []
    for _ in range(40):
        engine.step(DT)
        heights.append(engine.kinematics(5).pose.z)
    assert max(heights) > state.pose.z + 0.3
    assert heights[-1] == pytest.approx(state.pose.z, abs=0.02)


@pytest.mark.parametrize(
    "type_id",
    [
        "vehicle.carlamotors.firetruck",
        "vehicle.bh.crossbike",
        "vehicle.yamaha.yzf",
        "vehicle.mitsubishi.fusorosa",
    ],
)
def test_trucks_and_bikes_drive_turn_and_stop(type_id):
    engine = drive(type_id)
    fast = run(engine, 3.0, throttle=0.8)[-1]
    assert speed(fast) > 3.0
    turned = run(engine, 2.0, steer=0.1)[-1]
    assert 3.0 < turned.pose.yaw < 175.0
    stopped = run(engine, 5.0, brake=1.0)[-1]
    assert speed(stopped) == 0.0
    assert run(engine, 1.0)[-1].pose.x == stopped.pose.x


def scene(order, extra):
    """Two cars that meet and a walker, added in a given order, after something that came and went."""
    engine = PhysicsEngine(Flat(), ())
    if extra:
        engine.add_prop(2, walker_box("walker.pedestrian.0001"), Pose(50.0), Tag.STATIC)
        engine.remove(2)
    for actor_id in order:
        if actor_id == 9:
            engine.add_walker(9, walker_box("walker.pedestrian.0001"), Pose(12.0, 3.0, 0.93))
            engine.set_walker_control(9, (0.0, -1.0, 0.0), 1.4, False)
        else:
            engine.add_vehicle(actor_id, vehicle_spec(MKZ), Pose(10.0 * actor_id, 0.3 * actor_id))
    for actor_id in order:
        if actor_id != 9:
            engine.set_vehicle_command(actor_id, VehicleCommand(throttle=1.0, steer=0.1 / actor_id))
    engine.set_velocity(4, (-8.0, 0.0, 0.0))
    contacts = []
    for _ in range(100):
        contacts += [(c.actor_id, c.other_id, tuple(c.impulse)) for c in engine.step(DT)]
    return [engine.kinematics(k).pose for k in (1, 4, 9)], contacts


def test_the_same_calls_give_the_same_bits_in_any_order():
    states, contacts = scene((1, 4, 9), extra=False)
    assert contacts
    assert scene((9, 4, 1), extra=True) == (states, contacts)
