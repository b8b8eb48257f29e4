"""Motion in the plane: the single-track model of vehicles, walkers, and pushed props.

Vehicles follow the dynamic single-track ("bicycle") model of R. Rajamani, Vehicle Dynamics and Control, 2nd
ed., section 2.3, with the nonlinear tyre forces below, and the kinematic one of section 2.2 near standstill,
where slip angles lose their meaning; from `KINEMATIC_BELOW_MPS` to `DYNAMIC_ABOVE_MPS` the two are blended.
(The CommonRoad vehicle models, Althoff and Wuersching, switch between the same two.)

    Rajamani                       here
    x_dot, y_dot, psi_dot          along, across, rate: velocity in the vehicle's frame, and yaw rate
    l_f, l_r, m, I_z               front_axle, rear_axle, mass, inertia
    delta, alpha_f, alpha_r        road_wheel, `slip` in `_axle_force`
    F_yf, F_yr                     front_force, rear_force
    C_af                           front_stiffness * front_load (cornering stiffness grows with the load)
    m (y_ddot + psi_dot x_dot) = F_yf cos(delta) + F_yr
    I_z psi_ddot = l_f F_yf cos(delta) - l_r F_yr
    m (x_ddot - psi_dot y_dot) = F_x - F_yf sin(delta)

Rajamani's frame has y to the left; with y and yaw to the right the equations keep their form. The state holds
the velocity in the world frame, which does not turn with the vehicle, so the terms psi_dot x_dot and
psi_dot y_dot do not appear below.

All kernels of this file call only each other: numba's cache does not notice when one in another file changes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tickdrive.leaderboard.simulator.physics.bodies import Body

GRAVITY_MPS2 = 9.81
KINEMATIC_BELOW_MPS = 1.0
DYNAMIC_ABOVE_MPS = 3.0

AIR_DENSITY_KGPM3 = 1.2
ROLLING_RESISTANCE = 0.015
DRIVELINE_EFFICIENCY = 0.85
ENGINE_BRAKING = 0.15  # torque at closed throttle and top speed, as a share of the peak torque
IDLE_RPM = 800.0
# share of the engine's top speed to shift up at, at up to half and at full throttle, and to shift down at;
# CARLA's 0.65 and 0.5 would hunt between gears whose ratios differ by more than their quotient
SHIFT_UP, SHIFT_UP_FULL, SHIFT_DOWN = 0.65, 0.95, 0.30
SHIFT_S = 0.3
# share of the tyres' grip that brakes with ABS, a spinning drive or locked wheels take
ABS_SHARE, DRIVE_SHARE, LOCKED_SHARE = 0.95, 0.98, 0.98

# Unreal 4's `WheeledVehicleMovementComponent`, which CARLA uses: rise and fall per second of the inputs, and
# the curve that lowers the steering angle with speed, as (km/h, factor)
_PEDAL_RISE, _PEDAL_FALL = 6.0, 10.0
_STEER_RISE, _STEER_FALL = 2.5, 5.0
_HAND_BRAKE_RATE = 12.0
STEERING_CURVE = ((0.0, 1.0), (20.0, 0.9), (60.0, 0.8), (120.0, 0.7))
_CURVE_KMH = np.array([point[0] for point in STEERING_CURVE])
_CURVE_FACTOR = np.array([point[1] for point in STEERING_CURVE])

LEAN_PITCH_PER_MPS2, LEAN_ROLL_PER_MPS2, LEAN_TIME_S = 0.0035, 0.006, 0.2
WALKER_ACCELERATION_MPS2 = 8.0
SLIDING_FRICTION = 0.6

_VEHICLE, _WALKER = 0, 1


@njit(cache=True)
def _smoothed(now: float, target: float, rise: float, fall: float) -> float:
    """Unreal's `FVehicleInputRate::InterpInputValue`: `rise` and `fall` are the largest changes allowed."""
    delta = target - now
    rising = (delta > 0.0) == (now > 0.0) or now == 0.0
    limit = rise if rising else fall
    return now + min(max(delta, -limit), limit)


@njit(cache=True)
def _shift(body: Body, along: float) -> float:
    """Choose the gear; returns its ratio, positive, or 0 where no torque passes."""
    if body.manual_command:
        wanted = min(max(body.gear_command, -1), body.gears_count)
    elif body.reverse_command:
        wanted = -1
    elif body.gear < 1:
        wanted = 1
    else:
        wanted = body.gear
        if body.shift_s <= 0.0:
            pressed = max(2.0 * body.throttle - 1.0, 0.0)
            up = SHIFT_UP + pressed * (SHIFT_UP_FULL - SHIFT_UP)
            speed_rpm = abs(along) / body.wheel_radius * body.final_ratio * 30.0 / math.pi
            if speed_rpm * body.gears[wanted - 1] > up * body.max_rpm and wanted < body.gears_count:
                wanted += 1
            elif speed_rpm * body.gears[wanted - 1] < SHIFT_DOWN * body.max_rpm and wanted > 1:
                wanted -= 1
    if wanted != body.gear:
        # engaging from standstill takes no time, so that a start is not delayed
        body.shift_s = SHIFT_S if wanted > 0 and body.gear > 0 else 0.0
        body.gear = wanted
    if body.gear == 0:
        return 0.0
    return body.gears[0] if body.gear < 0 else body.gears[body.gear - 1]


@njit(cache=True)
def _axle_force(along: float, across: float, stiffness: float, grip: float, share: float) -> float:
    """Lateral force of an axle from the velocity of its contact point in the wheels' frame.

    Linear in the slip angle with slope `stiffness` at first, saturating at what the friction ellipse leaves
    beside the longitudinal force (`share` of `grip`).
    """
    slip = -math.atan2(across, abs(along))
    limit = grip * math.sqrt(max(1.0 - share * share, 0.04))
    return limit * math.tanh(stiffness * slip / limit)


@njit(cache=True)
def _advance_vehicle(body: Body, h: float) -> None:
    body.throttle = _smoothed(body.throttle, body.throttle_command, _PEDAL_RISE * h, _PEDAL_FALL * h)
    body.brake = _smoothed(body.brake, body.brake_command, _PEDAL_RISE * h, _PEDAL_FALL * h)
    body.steer = _smoothed(body.steer, body.steer_command, _STEER_RISE * h, _STEER_FALL * h)
    body.hand_brake = _smoothed(
        body.hand_brake, body.hand_brake_command, _HAND_BRAKE_RATE * h, _HAND_BRAKE_RATE * h
    )
    cos, sin = math.cos(body.yaw), math.sin(body.yaw)
    along = body.vx * cos + body.vy * sin
    across = -body.vx * sin + body.vy * cos
    rate = body.yaw_rate
    base = body.front_axle + body.rear_axle
    mass = body.mass
    weight = mass * GRAVITY_MPS2

    # steering: the commanded angle is the inner wheel's, Ackermann's rule gives the single track's
    factor = np.interp(abs(along) * 3.6, _CURVE_KMH, _CURVE_FACTOR)
    inner = body.steer * body.max_steer * factor
    slope = math.tan(abs(inner))
    body.road_wheel = math.copysign(math.atan(slope / (1.0 + slope * body.half_track / base)), inner)
    tan_steer, cos_steer, sin_steer = (
        math.tan(body.road_wheel),
        math.cos(body.road_wheel),
        math.sin(body.road_wheel),
    )

    # engine and gears
    body.shift_s = max(body.shift_s - h, 0.0)
    ratio = _shift(body, along) * body.final_ratio
    body.rpm = max(abs(along) / body.wheel_radius * ratio * 30.0 / math.pi, IDLE_RPM)
    if ratio == 0.0:
        body.rpm = IDLE_RPM + body.throttle * (body.max_rpm - IDLE_RPM)
    drive = 0.0
    engine_braking = 0.0
    if ratio > 0.0 and body.shift_s == 0.0:
        count = body.torque_count
        if body.rpm < body.max_rpm:
            torque = np.interp(body.rpm, body.torque_rpm[:count], body.torque_nm[:count])
            drive = body.throttle * torque * ratio * DRIVELINE_EFFICIENCY / body.wheel_radius
        if body.rpm > IDLE_RPM:
            engine_braking = (
                (1.0 - body.throttle)
                * ENGINE_BRAKING
                * body.peak_torque
                * min(body.rpm / body.max_rpm, 1.0)
                * ratio
                / body.wheel_radius
            )
    if body.gear < 0:
        drive = -drive

    if body.held:
        along, across = body.held_vx, body.held_vy
        rate = along * tan_steer / base
        body.along_acceleration = 0.0
        body.vx = along * cos - across * sin
        body.vy = along * sin + across * cos
        body.yaw_rate = rate
        return
    pushed_x, pushed_y = body.force_x / mass, body.force_y / mass
    if not body.grounded:
        body.vx += h * pushed_x
        body.vy += h * pushed_y
        return

    # loads of the axles, then what brakes and engine take of their grip
    front_load = (weight * body.rear_axle - mass * body.along_acceleration * body.cg_height) / base
    front_load = min(max(front_load, 0.1 * weight), 0.9 * weight)
    rear_load = weight - front_load
    grip = body.friction * weight
    drive = min(max(drive, -DRIVE_SHARE * grip), DRIVE_SHARE * grip)
    braking = min(body.brake * body.brake_torque / body.wheel_radius, ABS_SHARE * grip)
    locking = min(
        body.hand_brake * body.hand_brake_torque / body.wheel_radius,
        LOCKED_SHARE * body.friction * rear_load,
    )
    used = (abs(drive) + braking) / grip
    used_rear = used + locking / (body.friction * rear_load)

    tip = across + body.front_axle * rate
    front_force = _axle_force(
        along * cos_steer + tip * sin_steer,
        tip * cos_steer - along * sin_steer,
        body.front_stiffness * front_load,
        body.friction * front_load,
        used,
    )
    rear_force = _axle_force(
        along,
        across - body.rear_axle * rate,
        body.rear_stiffness * rear_load,
        body.friction * rear_load,
        used_rear,
    )
    dynamic = (abs(along) - KINEMATIC_BELOW_MPS) / (DYNAMIC_ABOVE_MPS - KINEMATIC_BELOW_MPS)
    dynamic = min(max(dynamic, 0.0), 1.0)
    push_along = pushed_x * cos + pushed_y * sin - GRAVITY_MPS2 * math.sin(body.slope_pitch)
    push_across = -pushed_x * sin + pushed_y * cos + GRAVITY_MPS2 * math.sin(body.slope_roll)

    # along: what resists only slows; it never turns the motion round, and holds a standing vehicle exactly
    drag = 0.5 * AIR_DENSITY_KGPM3 * body.drag_area * along * abs(along)
    free = along + h * ((drive - drag - dynamic * front_force * sin_steer) / mass + push_along)
    resisting = h * (braking + locking + engine_braking + ROLLING_RESISTANCE * weight) / mass
    new_along = 0.0 if abs(free) <= resisting else free - math.copysign(resisting, free)

    # across and yaw: the dynamic model, and the kinematic one as far as friction can enforce it
    dynamic_across = across + h * ((front_force * cos_steer + rear_force) / mass + push_across)
    dynamic_rate = rate + h * (
        (body.front_axle * front_force * cos_steer - body.rear_axle * rear_force) / body.inertia
    )
    kinematic_rate = new_along * tan_steer / base
    most = h * body.friction * GRAVITY_MPS2
    pushed = across + h * push_across
    kinematic_across = pushed + min(max(body.rear_axle * kinematic_rate - pushed, -most), most)
    most *= mass * 0.5 * base / body.inertia
    kinematic_rate = rate + min(max(kinematic_rate - rate, -most), most)

    new_across = dynamic * dynamic_across + (1.0 - dynamic) * kinematic_across
    body.yaw_rate = dynamic * dynamic_rate + (1.0 - dynamic) * kinematic_rate
    body.vx = new_along * cos - new_across * sin
    body.vy = new_along * sin + new_across * cos
    body.along_acceleration += ((new_along - along) / h - body.along_acceleration) * min(h / 0.1, 1.0)

    # the body leans on its springs; for the eye (and the camera) only
    follow = min(h / LEAN_TIME_S, 1.0)
    body.lean_pitch += (LEAN_PITCH_PER_MPS2 * body.along_acceleration - body.lean_pitch) * follow
    body.lean_roll += (-LEAN_ROLL_PER_MPS2 * rate * along - body.lean_roll) * follow


@njit(cache=True)
def _slide(body: Body, h: float) -> None:
    """Sliding friction on something that no wheels or legs hold."""
    if not body.grounded:
        return
    speed = math.hypot(body.vx, body.vy)
    kept = max(1.0 - h * SLIDING_FRICTION * GRAVITY_MPS2 / speed, 0.0) if speed > 0.0 else 0.0
    body.vx *= kept
    body.vy *= kept


@njit(cache=True)
def _advance_walker(body: Body, h: float) -> None:
    if body.knocked_s > 0.0:
        body.knocked_s -= h
        _slide(body, h)
        return
    if body.held:
        cos, sin = math.cos(body.yaw), math.sin(body.yaw)
        body.vx = body.held_vx * cos - body.held_vy * sin
        body.vy = body.held_vx * sin + body.held_vy * cos
        return
    change_x = body.walk_x * body.walk_speed - body.vx
    change_y = body.walk_y * body.walk_speed - body.vy
    if body.blocked:  # leaning on something: legs push with a finite force
        change = math.hypot(change_x, change_y)
        if change > h * WALKER_ACCELERATION_MPS2:
            change_x *= h * WALKER_ACCELERATION_MPS2 / change
            change_y *= h * WALKER_ACCELERATION_MPS2 / change
        body.blocked = 0
    body.vx += change_x
    body.vy += change_y
    if body.walk_speed > 0.0 and (body.walk_x != 0.0 or body.walk_y != 0.0):
        body.yaw = math.atan2(body.walk_y, body.walk_x)
    body.stride += h * math.hypot(body.vx, body.vy)


@njit(cache=True)
def advance(bodies: np.ndarray, h: float) -> None:
    """Move all bodies by `h` seconds in the plane."""
    for i in range(bodies.shape[0]):
        body = bodies[i]
        if not body.simulated:
            body.vx = body.vy = body.vz = body.yaw_rate = 0.0
            continue
        if body.kind == _VEHICLE:
            _advance_vehicle(body, h)
        elif body.kind == _WALKER:
            _advance_walker(body, h)
        elif body.held:
            body.vx, body.vy = body.held_vx, body.held_vy
        else:
            body.vx += h * body.force_x / body.mass
            body.vy += h * body.force_y / body.mass
            _slide(body, h)
            body.yaw_rate *= 1.0 - min(3.0 * h, 1.0)
            if abs(body.yaw_rate) < 1e-3:
                body.yaw_rate = 0.0
        if body.vx != 0.0 or body.vy != 0.0 or body.yaw_rate != 0.0:
            body.x += h * body.vx
            body.y += h * body.vy
            body.yaw += h * body.yaw_rate
            if body.yaw > math.pi:
                body.yaw -= 2.0 * math.pi
            elif body.yaw <= -math.pi:
                body.yaw += 2.0 * math.pi
            body.moved = 1
