"""A town's road network: CARLA's own map of it, and what the simulator must know beside that."""

from __future__ import annotations

import logging
import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass

import carla
import numpy as np

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import RoadFurniture
from tickdrive.leaderboard.simulator.towns.catalogue import is_shipped
from tickdrive.leaderboard.simulator.towns.checks import TownError, parse_opendrive, probe_map
from tickdrive.leaderboard.simulator.towns.furniture import read_lights, read_signs

log = logging.getLogger(__name__)

#: CARLA's limit for a vehicle that no sign has told otherwise (`CarlaWheeledVehicle`: 30 km/h)
DEFAULT_SPEED_LIMIT_KMH = 30.0
SPAWN_SPACING_M = 20.0
SPAWN_HEIGHT_M = 0.4
_JUNCTION_AHEAD_M = 12.0
_JUNCTION_BEHIND_M = 6.0
_UNITS_KMH = {"km/h": 1.0, "mph": 1.609344, "m/s": 3.6}


@dataclass(frozen=True)
class RoadNetwork:
    """The roads of a town.

    Attributes:
        name: of the town.
        xodr: OpenDRIVE text, as clients get it.
        map: `carla.Map` of it, the same that every client computes.
        furniture: lights, signs and crosswalks.
        spawn_points: poses on driving lanes away from junctions, heading along the lane, a little above it.
        road_limits_kmh: speed limit of each road that states one: (from s [m], limit), ascending in s.
        signed_limits_kmh: limits by signs: (road, lane) -> (from s [m], limit).
    """

    name: str
    xodr: str
    map: carla.Map
    furniture: RoadFurniture
    spawn_points: tuple[Pose, ...]
    road_limits_kmh: dict[int, tuple[tuple[float, float], ...]]
    signed_limits_kmh: dict[tuple[int, int], tuple[float, float]]

    @classmethod
    def from_xodr(cls, name: str, xodr: str) -> RoadNetwork:
        """Read a road network.

        Args:
            name: of the town.
            xodr: OpenDRIVE text.

        Raises:
            TownError: it cannot be used; the message says what is wrong.
        """
        root = parse_opendrive(name, xodr)
        if not is_shipped(name, xodr):
            probe_map(name, xodr)
        try:
            carla_map = carla.Map(name, xodr)
        except RuntimeError as error:
            raise TownError(f"Town {name!r}: CARLA cannot read it: {error}.", "Mend the map.") from error
        crosswalks = _crosswalks(carla_map)
        lights = read_lights(carla_map, root, crosswalks)
        signs, signed_limits = read_signs(carla_map, crosswalks)
        spawn_points = _spawn_points(carla_map)
        if not spawn_points:
            log.warning("town %s has no lane long enough for a spawn point", name)
        return cls(
            name,
            xodr,
            carla_map,
            RoadFurniture(lights, signs, crosswalks),
            spawn_points,
            _road_limits(root),
            signed_limits,
        )

    def speed_limit_kmh(self, pose: Pose) -> float:
        """Limit in force on the driving lane nearest to a pose: by sign, else by road type, else 30 km/h."""
        waypoint = self.map.get_waypoint(carla.Location(pose.x, pose.y, pose.z))
        if waypoint is None:
            return DEFAULT_SPEED_LIMIT_KMH
        signed = self.signed_limits_kmh.get((waypoint.road_id, waypoint.lane_id))
        if signed is not None and (waypoint.s - signed[0]) * (-1 if waypoint.lane_id > 0 else 1) >= 0.0:
            return signed[1]
        limit = DEFAULT_SPEED_LIMIT_KMH
        for start, value in self.road_limits_kmh.get(waypoint.road_id, ()):
            if waypoint.s >= start - 1e-6:
                limit = value
        return limit


def _crosswalks(carla_map: carla.Map) -> tuple[np.ndarray, ...]:
    """Polygons out of CARLA's flat list, in which each polygon ends with its first point again."""
    polygons: list[np.ndarray] = []
    ring: list[tuple[float, float]] = []
    for location in carla_map.get_crosswalks():
        point = (location.x, location.y)
        if len(ring) > 2 and math.dist(point, ring[0]) < 1e-3:
            polygons.append(np.array(ring))
            ring = []
        else:
            ring.append(point)
    return tuple(polygons)


def _spawn_points(carla_map: carla.Map) -> tuple[Pose, ...]:
    found = []
    for waypoint in carla_map.generate_waypoints(SPAWN_SPACING_M):
        if waypoint.is_junction or waypoint.lane_type != carla.LaneType.Driving or waypoint.lane_width < 2.2:
            continue
        # a vehicle must fit between the spawn point and the junctions at both ends of the lane
        ahead, behind = waypoint.next(_JUNCTION_AHEAD_M), waypoint.previous(_JUNCTION_BEHIND_M)
        if not ahead or not behind or ahead[0].is_junction or behind[0].is_junction:
            continue
        at, turn = waypoint.transform.location, waypoint.transform.rotation
        pose = Pose(at.x, at.y, at.z + SPAWN_HEIGHT_M, turn.pitch, turn.yaw, turn.roll)
        found.append(((waypoint.road_id, waypoint.section_id, waypoint.lane_id, waypoint.s), pose))
    return tuple(pose for _, pose in sorted(found, key=lambda item: item[0]))


def _road_limits(root: ET.Element) -> dict[int, tuple[tuple[float, float], ...]]:
    limits: dict[int, tuple[tuple[float, float], ...]] = {}
    for road in root.findall("road"):
        found = []
        for kind in road.findall("type"):
            speed = kind.find("speed")
            if speed is None:
                continue
            try:
                # OpenDRIVE 1.4: without a unit it is m/s; "no limit" and "undefined" are also legal
                value = float(speed.get("max", "")) * _UNITS_KMH.get(speed.get("unit", "m/s"), 1.0)
                start = float(kind.get("s", "0"))
            except ValueError:
                continue
            if math.isfinite(value) and value > 0.0:
                found.append((start, value))
        if found:
            limits[int(road.get("id", "-1"))] = tuple(sorted(found))
    return limits
