"""Small functions of geometry, with CARLA's names. World frame, metres and degrees; speeds in km/h."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import carla


def draw_waypoints(world: carla.World, waypoints: Iterable[carla.Waypoint], z: float = 0.5) -> None:
    """Draw an arrow in the direction of each waypoint, `z` metres above it."""
    for waypoint in waypoints:
        begin = waypoint.transform.location + carla.Location(z=z)
        yaw = math.radians(waypoint.transform.rotation.yaw)
        end = begin + carla.Location(x=math.cos(yaw), y=math.sin(yaw))
        world.debug.draw_arrow(begin, end, arrow_size=0.3, life_time=1.0)


def get_speed(vehicle: carla.Actor) -> float:
    """Speed of a vehicle, km/h."""
    return 3.6 * float(vehicle.get_velocity().length())


def get_trafficlight_trigger_location(traffic_light: carla.TrafficLight) -> carla.Location:
    """Centre of the area in which vehicles obey the light."""
    return traffic_light.get_transform().transform(traffic_light.trigger_volume.location)


def is_within_distance(
    target_transform: carla.Transform,
    reference_transform: carla.Transform,
    max_distance: float,
    angle_interval: Sequence[float] | None = None,
) -> bool:
    """Whether the target is that near, and, where given, seen within these angles off straight ahead.

    CARLA's own leaves out the lower angle itself: on a road along an axis that is what stands right ahead.
    """
    target, reference = target_transform.location, reference_transform.location
    x, y = target.x - reference.x, target.y - reference.y
    distance = math.hypot(x, y)
    if distance < 0.001:
        return True
    if distance > max_distance:
        return False
    if not angle_interval:
        return True
    forward = reference_transform.get_forward_vector()
    cosine = (forward.x * x + forward.y * y) / distance
    return bool(angle_interval[0] <= math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) < angle_interval[1])


def compute_magnitude_angle(
    target_location: carla.Location, current_location: carla.Location, orientation: float
) -> tuple[float, float]:
    """Distance, and the angle off `orientation`, under which the target is seen."""
    x, y = target_location.x - current_location.x, target_location.y - current_location.y
    distance = math.hypot(x, y)
    yaw = math.radians(orientation)
    cosine = (math.cos(yaw) * x + math.sin(yaw) * y) / max(distance, 1e-9)
    return distance, math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def distance_vehicle(waypoint: carla.Waypoint, vehicle_transform: carla.Transform) -> float:
    """Distance in the plane from a waypoint to a vehicle."""
    there, here = waypoint.transform.location, vehicle_transform.location
    return math.hypot(there.x - here.x, there.y - here.y)


def vector(location_1: carla.Location, location_2: carla.Location) -> list[float]:
    """Unit vector from the first to the second."""
    norm = compute_distance(location_1, location_2)
    return [getattr(location_2, axis) / norm - getattr(location_1, axis) / norm for axis in "xyz"]


def compute_distance(location_1: carla.Location, location_2: carla.Location) -> float:
    """Distance in space; never exactly 0, so that it can be divided by."""
    return float(location_1.distance(location_2)) + 2.0**-52


def positive(num: float) -> float:
    """The number, or 0 where it is negative."""
    return max(num, 0.0)
