"""Wire formats and dispatch, without a socket."""

from __future__ import annotations

import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickdrive.leaderboard.simulator.geometry import Pose
from tickdrive.leaderboard.simulator.interfaces import Weather
from tickdrive.leaderboard.simulator.protocol import frames, rpc, wire
from tickdrive.leaderboard.simulator.protocol.wire import RequestError

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60)
@given(JUNK)
def test_decoders_refuse_or_return_finite_values(junk: object) -> None:
    for decode in (wire.pose, wire.vehicle_control, wire.weather):
        try:
            decoded = decode(junk)
        except RequestError:
            continue
        numbers = [getattr(decoded, name) for name in decoded.__dataclass_fields__]
        assert np.isfinite([float(each) for each in numbers]).all()


def test_controls_are_clamped_and_nan_is_refused() -> None:
    command = wire.vehicle_control([2.0, -3.0, 0.5, False, True, False, 1])
    assert (command.throttle, command.steer, command.brake, command.reverse) == (1.0, -1.0, 0.5, True)
    with pytest.raises(RequestError, match="throttle"):
        wire.vehicle_control([float("nan"), 0.0, 0.0, False, False, False, 0])
    with pytest.raises(RequestError, match="finite"):
        wire.pose([[0.0, 0.0, float("inf")], [0.0, 0.0, 0.0]])


def test_round_trips() -> None:
    pose = Pose(1.0, -2.0, 3.0, 4.0, 5.0, 6.0)
    assert wire.pose(wire.pack_pose(pose)) == pose
    weather = Weather(cloudiness=12.0, sun_altitude_angle=-5.0)
    assert wire.weather(wire.pack_weather(weather)) == weather


def test_header_and_token_layouts() -> None:
    head = frames.header(frames.SensorKind.RGB, 77, 1.5, Pose(1, 2, 3, 4, 5, 6))
    assert struct.unpack("<QQd6f", head) == (13, 77, 1.5, 1, 2, 3, 4, 5, 6)
    token = frames.token(9, 2001)
    assert len(token) == 24 and struct.unpack_from("<IHBB", token) == (9, 2001, 1, 0)


class Echo:
    """A service with one method of each kind."""

    @rpc.value
    def twice(self, number: object) -> float:
        return 2.0 * wire.number(number, "number")

    @rpc.void
    def nothing(self, client: object, optional: object = None) -> None:
        if optional == "fail":
            raise ValueError("inside")

    @rpc.raw
    def plain(self) -> list[int]:
        return [1]


class Transport:
    """Collects what a connection writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


def connect() -> tuple[rpc.RpcConnection, Transport]:
    methods = rpc.MethodTable()
    methods.add(Echo())
    connection = rpc.RpcConnection(methods, set(), lambda lost: None)
    transport = Transport()
    connection._transport = transport  # type: ignore[assignment]
    return connection, transport


def ask(method: str, *args: object) -> list[object]:
    connection, transport = connect()
    connection.data_received(msgpack.packb([0, 5, method, [[False], *args]]))
    (reply,) = transport.written
    kind, call_id, error, result = msgpack.unpackb(reply)
    assert (kind, call_id) == (1, 5)
    return [error, result]


def test_replies_are_wrapped_by_kind() -> None:
    assert ask("twice", 4) == [None, [[1, 8.0]]]
    assert ask("nothing") == [None, [[False]]]
    assert ask("plain") == [None, [1]]


def test_errors_stay_out_of_rpclibs_slot() -> None:
    error, result = ask("twice", "four")
    assert error is None and result[0][0] == 0 and "number" in result[0][1][0]  # type: ignore[index]
    error, result = ask("twice", 1, 2)
    assert error is None and "takes 1 arguments, got 2" in result[0][1][0]  # type: ignore[index]
    error, result = ask("nothing", "fail")
    assert error is None and result[0][0] is True and "inside" in result[0][1][0]  # type: ignore[index]


def test_unknown_methods_get_rpclibs_own_error() -> None:
    error, result = ask("fly", 1)
    assert "could not find function 'fly'" in str(error) and result is None


@pytest.mark.parametrize(
    "bytes_in",
    [
        b"\xc1",
        msgpack.packb([9, 1, "twice", []]),
        msgpack.packb([0, -1, "twice", []]),
        msgpack.packb({"not": "a request"}),
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_close_the_connection(bytes_in: bytes) -> None:
    connection, transport = connect()
    connection.data_received(bytes_in)
    assert transport.closed and not transport.written


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    connection, _ = connect()
    connection.data_received(data)


def test_a_message_that_never_ends_is_cut_off() -> None:
    connection, transport = connect()
    connection.data_received(b"\xdb\xff\xff\xff\xff")
    chunk = bytes(1 << 20)
    fed = 0
    while not transport.closed and fed <= rpc.MAX_REQUEST_BYTES + len(chunk):
        connection.data_received(chunk)
        fed += len(chunk)
    assert transport.closed


def test_requests_may_arrive_in_pieces() -> None:
    connection, transport = connect()
    data = msgpack.packb([0, 1, "twice", [[False], 1]]) + msgpack.packb([0, 2, "twice", [[False], 2]])
    for index in range(len(data)):
        connection.data_received(data[index : index + 1])
    assert [msgpack.unpackb(each)[3] for each in transport.written] == [[[1, 2.0]], [[1, 4.0]]]
