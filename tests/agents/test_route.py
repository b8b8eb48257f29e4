import math
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest

from tickdrive.agents.route import RouteTracker, to_ego
from tickdrive.agents.types import Command, EgoState
from tickdrive.planner.errors import RouteError


class RoadOption(Enum):  # upstream's values
    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4


def transform(x, y, yaw):
    return SimpleNamespace(location=SimpleNamespace(x=x, y=y, z=0.0), rotation=SimpleNamespace(yaw=yaw))


# east, then a right turn (y is south) at x = 50..58, then south
PLAN = [
    (0.0, 0.0, 0.0, RoadOption.LANEFOLLOW),
    (50.0, 0.0, 0.0, RoadOption.RIGHT),
    (58.0, 8.0, 90.0, RoadOption.LANEFOLLOW),
    (58.0, 100.0, 90.0, RoadOption.LANEFOLLOW),
]


def plans(points=PLAN):
    gps = [({"lat": -y * 9e-6, "lon": x * 9e-6, "z": 0.0}, option) for x, y, _, option in points]
    return gps, [(transform(x, y, yaw), option) for x, y, yaw, option in points]


def ego(x, y, yaw=0.0):
    return EgoState(0, 0.0, np.array([x, y]), yaw, 5.0, 0.0, 0.0)


def test_command_holds_from_its_point_on():
    tracker = RouteTracker(*plans())
    guidance = tracker.step(ego(0.0, 0.0))
    assert guidance.command == Command.LANE_FOLLOW
    assert guidance.target.command == Command.RIGHT
    assert guidance.target.position_in_ego.tolist() == pytest.approx([50.0, 0.0])
    assert guidance.next_target.position_in_ego.tolist() == pytest.approx([58.0, 8.0])
    assert guidance.remaining_m == pytest.approx(50.0 + math.hypot(8.0, 8.0) + 92.0)
    assert tracker.step(ego(47.0, 0.3)).command == Command.LANE_FOLLOW
    assert tracker.step(ego(50.5, 0.3)).command == Command.RIGHT
    guidance = tracker.step(ego(58.0, 9.0, 88.0))
    assert guidance.command == Command.LANE_FOLLOW
    assert guidance.next_target.position_in_ego == pytest.approx(guidance.target.position_in_ego)
    assert tracker.step(ego(58.0, 120.0, 90.0)).remaining_m == pytest.approx(20.0)  # stays at the last point


@pytest.mark.parametrize("wide_m", [0.0, 6.0, -12.0, 25.0])
def test_points_passed_wide_are_dropped(wide_m):
    tracker = RouteTracker(*plans([(0, 0, 0.0, 4), (50, 0, 0.0, 4), (200, 0, 0.0, 4), (300, 0, 0.0, 4)]))
    for x in range(0, 120, 2):
        guidance = tracker.step(ego(float(x), wide_m))
    assert tracker.next_index == 2
    assert guidance.target.position_in_ego[0] > 0.0


def test_a_road_that_comes_back_close_by_does_not_pop():
    # the target lies on the opposite carriageway, driven the other way later
    tracker = RouteTracker(*plans([(0, 0, 0.0, 4), (50, 8, 180.0, 4), (0, 8, 180.0, 4)]))
    for x in range(0, 80, 2):
        tracker.step(ego(float(x), 0.0, 0.0))
    assert tracker.next_index == 1


def test_a_missed_point_goes_with_the_one_reached_after_it():
    tracker = RouteTracker(*plans([(0, 0, 0.0, 4), (50, 60, 90.0, 1), (100, 0, 0.0, 4), (200, 0, 0.0, 4)]))
    tracker.step(ego(100.0, 0.5))
    assert tracker.way[tracker.next_index] is tracker.points[3]


def test_the_way_follows_a_bend_between_points_far_apart():
    """A quarter of a circle of 80 m: the chord is 23 m off the road in the middle."""
    radius = 80.0
    tracker = RouteTracker(*plans([(0, 0, 0.0, 4), (radius, radius, 90.0, 4), (radius, 300.0, 90.0, 4)]))
    between = tracker.way[1:-2]
    assert len(tracker.points) == 3 and len(between) == 2
    for point in between:
        assert math.hypot(point.x, point.y - radius) == pytest.approx(radius, abs=3.0)
        assert point.command == Command.LANE_FOLLOW
        around = math.degrees(math.atan2(point.x, radius - point.y))
        assert point.yaw_deg == pytest.approx(around, abs=5.0)
    guidance = tracker.step(ego(0.0, 0.0))
    assert np.hypot(*guidance.target.position_in_ego) < 60.0
    for deg in range(0, 90, 2):  # along the circle every point is passed in turn
        angle = math.radians(deg)
        tracker.step(ego(radius * math.sin(angle), radius - radius * math.cos(angle), float(deg)))
    assert tracker.way[tracker.next_index] is tracker.points[1]


@pytest.mark.parametrize(
    "second",
    [
        (190, 10, 0.0, 4),  # hardly a bend
        (50, 20, 45.0, 4),  # near
        (100, 100, 180.0, 4),  # all is possible
    ],
)
def test_nothing_is_put_in_where_the_way_does_not_tell(second):
    tracker = RouteTracker(*plans([(0, 0, 0.0, 4), second]))
    assert tracker.way == tracker.points


def test_plan_forms_and_errors():
    gps, world = plans()
    locations = [(entry[0].location, entry[1]) for entry in world]
    tracker = RouteTracker(gps, locations)  # no rotations: headings from the points
    assert tracker.way == tracker.points
    assert tracker.points[0].yaw_deg == pytest.approx(0.0)
    assert tracker.points[3].yaw_deg == pytest.approx(90.0)
    void = RouteTracker(gps, [(entry[0], RoadOption.VOID) for entry in world])
    assert void.points[1].command == Command.LANE_FOLLOW
    with pytest.raises(RouteError, match="4 GPS and 3 world"):
        RouteTracker(gps, world[:3])
    with pytest.raises(RouteError, match="needs 2"):
        RouteTracker(gps[:1], world[:1])
    with pytest.raises(RouteError, match="lat"):
        RouteTracker([(1.0, 2.0)] * 4, world)


def test_ego_frame_is_left_handed():
    # facing south (yaw 90), something further west (-x) is to the right
    assert to_ego(np.array([-3.0, 5.0]), ego(0.0, 0.0, 90.0)) == pytest.approx([5.0, 3.0])
