"""The same seed and the same controls give the same world, bit for bit."""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import carla
import msgpack

from tickdrive.leaderboard.simulator.launch import SimulatorProcess

_HEADER = struct.Struct("<QQd6f")
_FRAME = slice(8, 16)
_PLATFORM_TIME = slice(_HEADER.size + 8, _HEADER.size + 16)


class Stream:
    """A raw subscription."""

    def __init__(self, server: SimulatorProcess, stream_id: int) -> None:
        self._socket = socket.create_connection((server.host, server.port + 1), timeout=20.0)
        self._socket.sendall(struct.pack("<I", stream_id))

    def read(self) -> bytes:
        (size,) = struct.unpack("<I", self._exactly(4))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self._socket.recv(size - len(data))
        return data


class Rpc:
    """A raw RPC connection."""

    def __init__(self, server: SimulatorProcess) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=20.0)
        self._unpacker = msgpack.Unpacker(raw=False)

    def __call__(self, method: str, *args: object) -> Any:
        self._socket.sendall(msgpack.packb([0, 1, method, [[False], *args]], use_bin_type=True))
        while True:
            for message in self._unpacker:
                assert message[2] is None
                return message[3]
            self._unpacker.feed(self._socket.recv(1 << 16))


@dataclass
class Digests:
    """Of every frame of every stream; those of the sensors without its number."""

    world: list[str] = field(default_factory=list)
    sensors: list[str] = field(default_factory=list)


def drive(server: SimulatorProcess, load: bool) -> Digests:
    """A scripted episode: the one that is there, or a new one of the same town."""
    call = Rpc(server)
    if load:
        call("load_new_episode", "", False)
    call("set_episode_settings", [True, False, [True, 0.05], True, 0.01, 10, 0.0, True, 3000.0, 2000.0, True])
    spots = call("get_map_info")[0][1][1]
    cars = []
    for index, spot in enumerate(spots[:6]):
        kind = ["vehicle.lincoln.mkz_2020", "vehicle.carlamotors.firetruck", "vehicle.audi.tt"][index % 3]
        cars.append(call("spawn_actor", [0, kind, []], spot)[0][1][0])
    spots[8][0][2] += 1.0
    walker = call("spawn_actor", [0, "walker.pedestrian.0001", []], spots[8])[0][1][0]
    call("apply_control_to_walker", walker, [[0.3, 0.8, 0.0], 1.6, False])
    sensors = []
    noise = [["noise_gyro_stddev_z", 3, "0.1"], ["noise_seed", 2, "5"]]
    for kind, attributes in (
        ("sensor.other.imu", noise),
        ("sensor.lidar.ray_cast", [["points_per_second", 2, "100000"], ["range", 3, "60"]]),
        ("sensor.other.radar", [["points_per_second", 2, "20000"]]),
        ("sensor.camera.rgb", [["image_size_x", 2, "96"], ["image_size_y", 2, "48"]]),
    ):
        mount = [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
        actor = call("spawn_actor_with_parent", [0, kind, attributes], mount, cars[0], 0, "")[0][1]
        sensors.append(struct.unpack_from("<I", actor[5])[0])
    streams = []
    for stream_id in (1, *sensors):
        call("get_sensor_token", stream_id)
        streams.append(Stream(server, stream_id))
    digests = Digests()
    greeting = True
    for tick in range(60):
        for index, car in enumerate(cars):
            throttle, steer = 0.3 + 0.1 * index, 0.4 * ((tick // 10 + index) % 3 - 1)
            call("apply_control_to_vehicle", car, [throttle, steer, 0.0, False, False, False, 0])
        call("tick_cue")
        for index, stream in enumerate(streams):
            payload = bytearray(stream.read())
            if index == 0:
                if greeting:
                    payload, greeting = bytearray(stream.read()), False
                payload[_PLATFORM_TIME] = bytes(8)  # the only wall clock in a frame
                digests.world.append(hashlib.sha256(payload).hexdigest())
            else:
                payload[_FRAME] = bytes(8)  # goes on over episodes, as on a CARLA server
                digests.sensors.append(hashlib.sha256(payload).hexdigest())
    return digests


def test_servers_and_episodes_agree_bit_for_bit(start_server: Callable[..., SimulatorProcess]) -> None:
    servers = [start_server(town="TickTown02", seed=11) for _ in range(2)]
    first, second = (drive(each, load=False) for each in servers)
    assert len(first.world) == len(set(first.world)) == 60
    assert len(first.sensors) == 60 * 4 and len(set(first.sensors)) > 200
    assert first == second
    again = drive(servers[1], load=True)  # other frames, other ids
    assert again.world != first.world and again.sensors == first.sensors


def test_a_second_episode_repeats_the_first(fresh_world: carla.World, client: carla.Client) -> None:
    def run() -> list[tuple[float, ...]]:
        world = client.reload_world(False)
        blueprint = world.get_blueprint_library().find("vehicle.lincoln.mkz_2020")
        car = world.spawn_actor(blueprint, world.get_map().get_spawn_points()[5])
        car.apply_control(carla.VehicleControl(throttle=0.7, steer=0.1))
        path = []
        for _ in range(40):
            world.tick()
            pose = car.get_transform()
            path.append((pose.location.x, pose.location.y, pose.location.z, pose.rotation.yaw))
        return path

    assert run() == run()
