"""`ConstantVelocityAgent`: keeps its speed by force, slows down for what is in front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import carla

from .basic_agent import BasicAgent
from .global_route_planner import GlobalRoutePlanner

_LIGHT_REACH_S = 0.3


class ConstantVelocityAgent(BasicAgent):
    """A `BasicAgent` at a fixed velocity; `has_collided` says whether it hit something.

    Args:
        vehicle: what is driven.
        target_speed: km/h.
        opt_dict: as `BasicAgent`'s, and `restart_time` [s] and `use_basic_behavior` for after a stop.
        map_inst: the town's map, where the caller has it.
        grp_inst: a route planner of it, likewise.
    """

    def __init__(
        self,
        vehicle: carla.Vehicle,
        target_speed: float = 20,
        opt_dict: Mapping[str, Any] | None = None,
        map_inst: carla.Map | None = None,
        grp_inst: GlobalRoutePlanner | None = None,
    ) -> None:
        super().__init__(vehicle, target_speed, opt_dict, map_inst, grp_inst)
        options = opt_dict or {}
        self._use_basic_behavior = options.get("use_basic_behavior", False)
        self._restart_time = options.get("restart_time", float("inf"))
        self._target_speed = target_speed / 3.6  # m/s
        self._constant_velocity_stop_time = 0.0
        self.is_constant_velocity_active = True
        self.has_collided = False
        self._collision_sensor: carla.Sensor | None = self._attach_collision_sensor()
        self._set_constant_velocity(self._target_speed)

    def set_target_speed(self, speed: float) -> None:
        """Change the speed, km/h."""
        self._target_speed = speed / 3.6
        self._local_planner.set_speed(speed)

    def stop_constant_velocity(self) -> None:
        """Let go of the velocity."""
        self.is_constant_velocity_active = False
        self._vehicle.disable_constant_velocity()
        self._constant_velocity_stop_time = self._now_s()

    def restart_constant_velocity(self) -> None:
        """Hold the velocity again."""
        self.is_constant_velocity_active = True
        self._set_constant_velocity(self._target_speed)

    def run_step(self) -> carla.VehicleControl:
        """Control for this tick."""
        if not self.is_constant_velocity_active:
            if self._now_s() - self._constant_velocity_stop_time > self._restart_time:
                self.restart_constant_velocity()
            elif self._use_basic_behavior:
                return super().run_step()
            else:
                return carla.VehicleControl()
        actors = self._world.get_actors()
        velocity = self._vehicle.get_velocity()
        speed = velocity.length()
        wanted = self._target_speed
        hit = self._vehicle_obstacle_detected(
            actors.filter("*vehicle*"), self._base_vehicle_threshold + speed
        )
        if hit.obstacle is not None:
            wanted = velocity.dot(hit.obstacle.get_velocity()) / speed if speed else 0.0
        reach_m = self._base_tlight_threshold + _LIGHT_REACH_S * speed
        if self._affected_by_traffic_light(actors.filter("*traffic_light*"), reach_m).traffic_light_was_found:
            wanted = 0.0
        control = self._local_planner.run_step()  # the wheels turn as the velocity wants
        self._set_constant_velocity(wanted)
        return control

    def destroy_sensor(self) -> None:
        """Destroy the collision sensor; the caller does so before the vehicle goes."""
        if self._collision_sensor is not None:
            self._collision_sensor.destroy()
            self._collision_sensor = None

    def _set_constant_velocity(self, speed: float) -> None:
        self._vehicle.enable_constant_velocity(carla.Vector3D(speed, 0, 0))

    def _now_s(self) -> float:
        return float(self._world.get_snapshot().timestamp.elapsed_seconds)

    def _attach_collision_sensor(self) -> carla.Sensor:
        blueprint = self._world.get_blueprint_library().find("sensor.other.collision")
        sensor = self._world.spawn_actor(blueprint, carla.Transform(), attach_to=self._vehicle)

        def note(event: Any) -> None:
            self.has_collided = True

        sensor.listen(note)
        return sensor
