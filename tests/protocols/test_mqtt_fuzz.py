"""Any bytes, any frames: only protocol errors, and bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from imgateway.errors import ProtocolError
from imgateway.frames import Bye, Keep, Refused, Welcome
from tests.protocols.mqtt import (
    DISCONNECT,
    MAX,
    PINGREQ,
    Peer,
    connect,
    puback,
    publish,
    subscribe,
    unsubscribe,
)
from tests.strategies import frames

GOOD = [
    PINGREQ,
    puback(1),
    publish("user/bob", b"hello"),
    publish("room/7", b"hello", qos=0),
    subscribe(("room/7", 1), ("topic/t", 1)),
    unsubscribe("room/7"),
    bytes.fromhex("62020007"),
]
GOOD_5 = [
    PINGREQ,
    puback(1),
    publish("user/bob", b"hello", about=()),
    subscribe(("room/7", 1), ("topic/t", 1), v5=True),
    unsubscribe("room/7", v5=True),
]


def told(peer: Peer, data: bytes) -> list[Any]:
    """Everything that comes of it, until an error."""
    items = []
    problem = None
    try:
        for item in peer.codec.receive(data):
            items.append(item)
            if isinstance(item, Bye):
                break
    except ProtocolError as error:
        problem = error
    if problem is not None:
        assert len(problem.reason) < 200
        assert isinstance(peer.codec.encode(Bye(problem.code, problem.reason)), bytes)
    return items


@given(st.lists(st.binary(max_size=100), max_size=5), st.sampled_from([0, 4, 5]))
def test_any_bytes(chunks: list[bytes], version: int) -> None:
    peer = Peer()
    if version:
        peer.login(version)
    for chunk in chunks:
        told(peer, chunk)


@given(
    st.sampled_from([4, 5]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=4),
    st.data(),
)
def test_good_packets_with_wrong_bytes(version: int, changes: list[tuple[int, int]], data: Any) -> None:
    packets = GOOD if version == 4 else GOOD_5
    sent = bytearray(b"".join(data.draw(st.lists(st.sampled_from(packets), min_size=1, max_size=4))))
    for at, byte in changes:
        sent[at % len(sent)] = byte
    peer = Peer()
    peer.login(version)
    told(peer, bytes(sent))


@given(st.binary(min_size=1, max_size=60), st.sampled_from([4, 5]), st.integers(0, 60))
def test_broken_greetings(junk: bytes, version: int, at: int) -> None:
    data = bytearray(connect(version, will=("room/7", b"x")))
    data[at : at + len(junk)] = junk
    told(Peer(), bytes(data))


@pytest.mark.parametrize("version", [4, 5])
def test_byte_by_byte_is_the_same_as_at_once(version: int) -> None:
    packets = b"".join(GOOD if version == 4 else GOOD_5) + DISCONNECT
    whole, split = Peer(), Peer()
    whole.login(version)
    split.login(version)
    at_once = [item for item in told(whole, packets) if not isinstance(item, Keep)]
    one_by_one = [item for byte in packets for item in told(split, bytes((byte,)))]
    assert [item for item in one_by_one if not isinstance(item, Keep)] == at_once
    assert len(at_once) >= len(GOOD_5)


@given(st.lists(frames, max_size=5), st.sampled_from([0, 4, 5]))
def test_any_frames_are_said_or_not(said: list[Any], version: int) -> None:
    peer = Peer()
    if version:
        peer.login(version)
    for frame in said:
        if isinstance(frame, Welcome):
            frame = replace(frame, session="device:alice/phone")
        if isinstance(frame, Refused):
            frame = replace(frame, id="room:7")
        data = peer.codec.encode(frame)
        assert data is None or isinstance(data, bytes)


@given(st.binary(max_size=80))
@example(b"\x96\x01\x00\x00\xa1\xff\x90\x80")  # one of ours, with a name that is no UTF-8
def test_any_record(record: bytes) -> None:
    peer = Peer()
    peer.record = record
    peer.login()


def test_a_client_that_never_ends_a_packet_holds_no_more_than_one() -> None:
    peer = Peer()
    peer.login()
    told(peer, b"\x30" + b"\x80\x80\x06" + b"x" * (MAX - 10_000))
    assert peer.codec._splitter.held_bytes < MAX
