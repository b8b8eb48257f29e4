"""Collisions of oriented boxes: separating axes in plan view, heights compared, impulses at the contact.

The impulse of a pair follows from momentum and a coefficient of restitution, with Coulomb friction in the
tangent; see for example D. Baraff, An Introduction to Physically Based Modeling (SIGGRAPH 1997), rigid bodies
part II, section 8, with one contact point: the mean of the corners inside the other box. What still overlaps
is pushed apart.

All kernels of this file call only each other: numba's cache does not notice when one in another file changes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tickdrive.leaderboard.simulator.interfaces import SolidBox
from tickdrive.leaderboard.simulator.physics.bodies import Body

RESTITUTION = 0.15
RESTING_BELOW_MPS = 0.5  # slower contacts do not bounce
CONTACT_FRICTION = 0.4
SLOP_M = 0.005
PUSH_OUT = 0.6
# what overlaps less in height is driven over: debris, kerbs, the gap below a bumper
CLEARANCE_M = 0.2
KNOCKED_BY_MPS = 1.5
PUSHED_OVER_MPS = 0.3
KNOCKED_S = 10.0
CELL_M = 12.0

_WALKER = 1

# columns of a plan box: centre, cosine and sine of its yaw, half sizes, bottom, top, radius in plan
PLAN_COLUMNS = 9


class SolidGrid:
    """The town's boxes, sorted into square cells.

    Attributes:
        plans: (M, 9) plan boxes.
        starts: (rows * columns + 1,) where each cell's items start.
        items: indices of the boxes that reach into each cell.
        frame: (4,) x and y of the grid's corner, rows, columns.
        tags: (M,) semantic tags.
    """

    def __init__(self, solids: tuple[SolidBox, ...]) -> None:
        self.plans = np.zeros((len(solids), PLAN_COLUMNS))
        for row, solid in zip(self.plans, solids, strict=True):
            pose, (half_x, half_y, half_z) = solid.box.pose, solid.box.extent
            yaw = math.radians(pose.yaw)
            row[:] = (
                *(pose.x, pose.y, math.cos(yaw), math.sin(yaw), half_x, half_y),
                *(pose.z - half_z, pose.z + half_z, math.hypot(half_x, half_y)),
            )
        self.tags = np.array([int(solid.tag) for solid in solids], np.int64)
        reach_x = np.abs(self.plans[:, 2]) * self.plans[:, 4] + np.abs(self.plans[:, 3]) * self.plans[:, 5]
        reach_y = np.abs(self.plans[:, 3]) * self.plans[:, 4] + np.abs(self.plans[:, 2]) * self.plans[:, 5]
        reach = np.stack([reach_x, reach_y], 1)
        centres = self.plans[:, :2]
        if len(solids):
            low = np.floor((centres - reach).min(0) / CELL_M) * CELL_M
            size = np.ceil(((centres + reach).max(0) - low) / CELL_M).astype(int) + 1
        else:
            low, size = np.zeros(2), np.ones(2, int)
        columns, rows = int(size[0]), int(size[1])
        cells: list[list[int]] = [[] for _ in range(rows * columns)]
        first = ((centres - reach - low) / CELL_M).astype(int)
        last = ((centres + reach - low) / CELL_M).astype(int)
        for k in range(len(solids)):
            for row_index in range(first[k, 1], last[k, 1] + 1):
                for column in range(first[k, 0], last[k, 0] + 1):
                    cells[row_index * columns + column].append(k)
        self.starts = np.cumsum([0] + [len(cell) for cell in cells]).astype(np.int64)
        self.items = np.array([k for cell in cells for k in cell], np.int64)
        self.frame = np.array([low[0], low[1], rows, columns], np.float64)


@njit(cache=True)
def plan_of(body: Body, plan: np.ndarray) -> None:
    """Write a body's plan box."""
    cos, sin = math.cos(body.yaw), math.sin(body.yaw)
    plan[0] = body.x + cos * body.box_x - sin * body.box_y
    plan[1] = body.y + sin * body.box_x + cos * body.box_y
    plan[2], plan[3] = math.cos(body.yaw + body.box_yaw), math.sin(body.yaw + body.box_yaw)
    plan[4], plan[5] = body.half_x, body.half_y
    plan[6], plan[7] = body.z + body.box_z - body.half_z, body.z + body.box_z + body.half_z
    plan[8] = math.hypot(body.half_x, body.half_y)


@njit(cache=True)
def _gap(a: np.ndarray, b: np.ndarray, nx: float, ny: float, dx: float, dy: float) -> float:
    """Distance of two boxes along an axis; negative where they overlap."""
    reach_a = a[4] * abs(nx * a[2] + ny * a[3]) + a[5] * abs(ny * a[2] - nx * a[3])
    reach_b = b[4] * abs(nx * b[2] + ny * b[3]) + b[5] * abs(ny * b[2] - nx * b[3])
    return abs(nx * dx + ny * dy) - reach_a - reach_b


@njit(cache=True)
def _apart(a: np.ndarray, b: np.ndarray, clearance: float) -> bool:
    """Quick rejection by circles and heights."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    reach = a[8] + b[8]
    return dx * dx + dy * dy >= reach * reach or min(a[7], b[7]) - max(a[6], b[6]) <= clearance


@njit(cache=True)
def _corner_inside(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Sum and number of b's corners inside a."""
    sum_x = sum_y = count = 0.0
    for k in range(4):
        sign_x = 1.0 if k < 2 else -1.0
        sign_y = 1.0 if k % 2 == 0 else -1.0
        x = b[0] + sign_x * b[4] * b[2] - sign_y * b[5] * b[3]
        y = b[1] + sign_x * b[4] * b[3] + sign_y * b[5] * b[2]
        local_x = (x - a[0]) * a[2] + (y - a[1]) * a[3]
        local_y = -(x - a[0]) * a[3] + (y - a[1]) * a[2]
        if abs(local_x) <= a[4] and abs(local_y) <= a[5]:
            sum_x += x
            sum_y += y
            count += 1.0
    return sum_x, sum_y, count


@njit(cache=True)
def _touch(a: np.ndarray, b: np.ndarray, hit: np.ndarray) -> bool:
    """Separating axis test. Writes normal from a to b, depth and contact point; False where apart."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    best = -1e300
    for k in range(4):
        box = a if k < 2 else b
        nx = box[2] if k % 2 == 0 else -box[3]
        ny = box[3] if k % 2 == 0 else box[2]
        gap = _gap(a, b, nx, ny, dx, dy)
        if gap >= 0.0:
            return False
        if gap > best + 1e-9:
            best = gap
            sign = 1.0 if nx * dx + ny * dy >= 0.0 else -1.0
            hit[0], hit[1], hit[2] = sign * nx, sign * ny, -gap
    sum_x, sum_y, count = _corner_inside(a, b)
    other_x, other_y, other_count = _corner_inside(b, a)
    count += other_count
    if count > 0.0:
        hit[3], hit[4] = (sum_x + other_x) / count, (sum_y + other_y) / count
    else:  # crossed boxes without a corner in each other
        hit[3], hit[4] = (a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0
    return True


@njit(cache=True)
def _inverse_mass(body: Body, against_town: bool) -> tuple[float, float]:
    if not body.simulated:
        return 0.0, 0.0
    if body.held and not against_town:
        return 0.0, 0.0
    if body.kind == _WALKER:
        return 1.0 / body.mass, 0.0
    return 1.0 / body.mass, 1.0 / body.inertia


@njit(cache=True)
def _push(
    body: Body, jx: float, jy: float, rx: float, ry: float, inverse_mass: float, inverse_inertia: float
) -> None:
    """Apply an impulse at an arm from the actor's origin, taken as its centre of mass."""
    change_x, change_y = jx * inverse_mass, jy * inverse_mass
    body.vx += change_x
    body.vy += change_y
    body.yaw_rate += (rx * jy - ry * jx) * inverse_inertia
    if body.kind == _WALKER:
        body.blocked = 1
        # by a blow, or by being pushed along faster than legs go
        pushed_mps = math.hypot(body.vx, body.vy) - body.walk_speed
        if math.hypot(change_x, change_y) > KNOCKED_BY_MPS or pushed_mps > PUSHED_OVER_MPS:
            body.knocked_s = KNOCKED_S


@njit(cache=True)
def _impulse(
    a: Body, ma: float, ia: float, b: Body, mb: float, ib: float, hit: np.ndarray, out: np.ndarray
) -> None:
    """Apply the impulse that stops an approach to both bodies, and write b's; mb < 0: b is the town."""
    nx, ny = hit[0], hit[1]
    rax, ray = hit[3] - a.x, hit[4] - a.y
    vx = -(a.vx - a.yaw_rate * ray)
    vy = -(a.vy + a.yaw_rate * rax)
    rbx = rby = 0.0
    town = mb < 0.0
    if town:
        mb = ib = 0.0
    else:
        rbx, rby = hit[3] - b.x, hit[4] - b.y
        vx += b.vx - b.yaw_rate * rby
        vy += b.vy + b.yaw_rate * rbx
    approach = vx * nx + vy * ny
    out[0] = out[1] = 0.0
    if approach >= 0.0 or ma + mb == 0.0:
        return
    arm_a, arm_b = rax * ny - ray * nx, rbx * ny - rby * nx
    yielding = ma + mb + arm_a * arm_a * ia + arm_b * arm_b * ib
    bounce = RESTITUTION if -approach > RESTING_BELOW_MPS else 0.0
    normal = -(1.0 + bounce) * approach / yielding
    tx, ty = -ny, nx
    arm_a, arm_b = rax * ty - ray * tx, rbx * ty - rby * tx
    yielding = ma + mb + arm_a * arm_a * ia + arm_b * arm_b * ib
    tangent = -(vx * tx + vy * ty) / yielding
    limit = CONTACT_FRICTION * normal
    tangent = min(max(tangent, -limit), limit)
    jx, jy = normal * nx + tangent * tx, normal * ny + tangent * ty
    _push(a, -jx, -jy, rax, ray, ma, ia)
    if not town:
        _push(b, jx, jy, rbx, rby, mb, ib)
    out[0], out[1] = jx, jy


@njit(cache=True)
def _separate(
    a: Body, plan_a: np.ndarray, share_a: float, b: Body, plan_b: np.ndarray, share_b: float, hit: np.ndarray
) -> None:
    """Push two bodies apart by their shares of what overlaps."""
    amount = max(hit[2] - SLOP_M, 0.0) * PUSH_OUT
    if share_a > 0.0 and amount > 0.0:
        a.x -= hit[0] * amount * share_a
        a.y -= hit[1] * amount * share_a
        a.moved = 1
        plan_of(a, plan_a)
    if share_b > 0.0 and amount > 0.0:
        b.x += hit[0] * amount * share_b
        b.y += hit[1] * amount * share_b
        b.moved = 1
        plan_of(b, plan_b)


@njit(cache=True)
def _record(
    contacts: np.ndarray, sums: np.ndarray, count: int, first: int, second: int, jx: float, jy: float
) -> int:
    """Add an impulse to the pair's sum; returns the number of pairs, or -1 where the table is full."""
    for k in range(count):
        if contacts[k, 0] == first and contacts[k, 1] == second:
            sums[k, 0] += jx
            sums[k, 1] += jy
            return count
    if count == contacts.shape[0]:
        return -1
    contacts[count, 0], contacts[count, 1] = first, second
    sums[count, 0], sums[count, 1] = jx, jy
    return count + 1


@njit(cache=True)
def resolve(
    bodies: np.ndarray,
    plans: np.ndarray,
    solids: np.ndarray,
    starts: np.ndarray,
    items: np.ndarray,
    frame: np.ndarray,
    cell_m: float,
    contacts: np.ndarray,
    sums: np.ndarray,
    count: int,
) -> int:
    """Resolve all collisions once.

    Args:
        bodies: records, in the order of their ids.
        plans: (N, 9) work space.
        solids: (M, 9) plan boxes of the town; this and the next three as in `SolidGrid`.
        starts: where each cell's items start.
        items: indices of the boxes in each cell.
        frame: corner, rows and columns of the grid.
        cell_m: `CELL_M`.
        contacts: (K, 2) pairs so far: index of a body, and of another body or -1 - index of a solid.
        sums: (K, 2) impulses so far on the first of each pair.
        count: number of pairs so far.

    Returns:
        Pairs so far, or -1 where `contacts` is full.
    """
    n = bodies.shape[0]
    hit = np.empty(5)
    out = np.empty(2)
    for i in range(n):
        plan_of(bodies[i], plans[i])
    for i in range(n):
        a = bodies[i]
        if not a.collides:
            continue
        for j in range(i + 1, n):
            b = bodies[j]
            if not b.collides or not (a.simulated or b.simulated):
                continue
            # as in CARLA, whoever has been run over lies there and blocks no vehicle
            if (a.kind == _WALKER and a.knocked_s > 0.0) or (b.kind == _WALKER and b.knocked_s > 0.0):
                continue
            if _apart(plans[i], plans[j], CLEARANCE_M) or not _touch(plans[i], plans[j], hit):
                continue
            ma, ia = _inverse_mass(a, False)
            mb, ib = _inverse_mass(b, False)
            if ma + mb == 0.0:
                continue
            # a walker never shifts a vehicle by overlapping it, only by its impulse
            share_a, share_b = ma, mb
            if a.kind == _WALKER and b.kind != _WALKER and ma > 0.0:
                share_b = 0.0
            elif b.kind == _WALKER and a.kind != _WALKER and mb > 0.0:
                share_a = 0.0
            total = share_a + share_b
            _impulse(a, ma, ia, b, mb, ib, hit, out)
            _separate(a, plans[i], share_a / total, b, plans[j], share_b / total, hit)
            if out[0] != 0.0 or out[1] != 0.0:
                count = _record(contacts, sums, count, i, j, -out[0], -out[1])
                if count < 0:
                    return count
        if not a.simulated:
            continue
        rows, columns = int(frame[2]), int(frame[3])
        reach = plans[i, 8]
        first_row = max(int((plans[i, 1] - reach - frame[1]) // cell_m), 0)
        last_row = min(int((plans[i, 1] + reach - frame[1]) // cell_m), rows - 1)
        first_column = max(int((plans[i, 0] - reach - frame[0]) // cell_m), 0)
        last_column = min(int((plans[i, 0] + reach - frame[0]) // cell_m), columns - 1)
        for row in range(first_row, last_row + 1):
            for column in range(first_column, last_column + 1):
                cell = row * columns + column
                for index in range(starts[cell], starts[cell + 1]):
                    k = items[index]
                    if _apart(plans[i], solids[k], CLEARANCE_M) or not _touch(plans[i], solids[k], hit):
                        continue
                    ma, ia = _inverse_mass(a, True)
                    _impulse(a, ma, ia, a, -1.0, 0.0, hit, out)
                    _separate(a, plans[i], 1.0, a, plans[i], 0.0, hit)
                    if out[0] != 0.0 or out[1] != 0.0:
                        count = _record(contacts, sums, count, i, -1 - k, -out[0], -out[1])
                        if count < 0:
                            return count
    return count


@njit(cache=True)
def first_overlap(bodies: np.ndarray, solids: np.ndarray, box: np.ndarray, ignored: np.ndarray) -> int:
    """Index of the first body in a plan box, else -1 - index of a solid, else the number of bodies.

    Args:
        bodies: records.
        solids: (M, 9) the town.
        box: (9,) plan box.
        ignored: (N,) bodies to pass over.
    """
    hit = np.empty(5)
    plan = np.empty(9)
    for i in range(bodies.shape[0]):
        if ignored[i] or not bodies[i].collides:
            continue
        plan_of(bodies[i], plan)
        if not _apart(box, plan, 0.0) and _touch(box, plan, hit):
            return i
    for k in range(solids.shape[0]):
        if not _apart(box, solids[k], 0.0) and _touch(box, solids[k], hit):
            return -1 - k
    return bodies.shape[0]
