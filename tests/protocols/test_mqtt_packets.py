"""MQTT's packets: where they end, what they are made of, and that no bytes do harm."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgateway.errors import BadFrame, CloseCode, ProtocolError
from imgateway.protocols.mqtt.packets import Body, Splitter, acknowledgement, length, packet, text
from imgateway.protocols.mqtt.properties import NONE, WILL, Property, read, written
from imgateway.protocols.mqtt.reasons import Broken, Reason
from tests.protocols.mqtt import properties


@pytest.mark.parametrize(
    ("n", "written"), [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (268_435_455, "ffffff7f")]
)
def test_lengths(n: int, written: str) -> None:
    assert length(n).hex() == written
    assert Body(length(n)).variable() == n


@pytest.mark.parametrize("n", [-1, 268_435_456])
def test_lengths_that_there_are_not(n: int) -> None:
    with pytest.raises(ValueError, match="268,435,455"):
        length(n)


@pytest.mark.parametrize("bad", ["x" * 65_536, "a\0b"])
def test_texts_that_there_are_not(bad: str) -> None:
    with pytest.raises(ValueError, match="no text"):
        text(bad)


def test_acknowledgements() -> None:
    assert acknowledgement(0x40, 258).hex() == "40020102"
    assert acknowledgement(0x40, 258, Reason.QUOTA).hex() == "4003010297"


# ------------------------------------------------------------------------------------------------ splitting

PACKETS = [(0xC0, b""), (0x32, b"x" * 300), (0x40, b"\0\1"), (0x30, b"y" * 127)]
STREAM = b"".join(packet(first, body) for first, body in PACKETS)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_chunks_give_the_same_packets(cuts: list[int]) -> None:
    splitter = Splitter(400)
    places = [0, *sorted(cuts), len(STREAM)]
    found = [item for at, end in itertools.pairwise(places) for item in splitter.feed(STREAM[at:end])]
    assert found == PACKETS
    assert splitter.held_bytes == 0


def test_byte_by_byte_and_trailing() -> None:
    splitter = Splitter(400)
    found = [item for byte in STREAM + b"\x32" for item in splitter.feed(bytes((byte,)))]
    assert found == PACKETS
    assert splitter.held_bytes == 1


def test_a_packet_above_the_limit_is_refused_as_soon_as_its_length_is_known() -> None:
    splitter = Splitter(100)
    assert list(splitter.feed(packet(0x30, b"x" * 98))) == [(0x30, b"x" * 98)]
    with pytest.raises(Broken) as caught:
        list(splitter.feed(b"\x30\x63"))  # 99 and its head
    assert caught.value.code is CloseCode.FRAME_TOO_LARGE
    assert caught.value.said is Reason.TOO_LARGE
    with pytest.raises(BadFrame, match="nothing can follow"):
        list(splitter.feed(b"\xc0\x00"))


@pytest.mark.parametrize("bad", ["30ffffffff01", "308000", "30ff8000"])
def test_lengths_that_are_none(bad: str) -> None:
    with pytest.raises(BadFrame, match="variable byte integer"):
        list(Splitter(1 << 30).feed(bytes.fromhex(bad)))


def test_an_iterator_that_was_left_alone_breaks_the_stream() -> None:
    splitter = Splitter(400)
    next(splitter.feed(STREAM))
    with pytest.raises(BadFrame, match="nothing can follow"):
        list(splitter.feed(b"\xc0\x00"))


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_are_packets_or_an_error_and_little_is_held(chunks: list[bytes]) -> None:
    splitter = Splitter(64)
    try:
        for chunk in chunks:
            for _, body in splitter.feed(chunk):
                assert len(body) <= 64
            assert splitter.held_bytes < 64 + len(chunk)
    except ProtocolError:
        pass


# --------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("method", "data", "value"),
    [
        ("byte", "07", 7),
        ("short", "0102", 258),
        ("long", "00000102", 258),
        ("binary", "0002aabb", b"\xaa\xbb"),
        ("text", "0002c3a4", "ä"),
        ("packet_id", "0001", 1),
        ("rest", "aabb", b"\xaa\xbb"),
    ],
)
def test_pieces(method: str, data: str, value: Any) -> None:
    body = Body(bytes.fromhex(data))
    assert getattr(body, method)() == value
    assert not body.more()
    body.end()


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("byte", ""),
        ("short", "01"),
        ("long", "010203"),
        ("binary", "0003aabb"),
        ("text", "0001"),
        ("variable", "80"),
        ("part", "05aabb"),
        ("packet_id", "0000"),
        ("text", "000180"),  # no UTF-8
        ("text", "0003eda080"),  # a lone surrogate
        ("text", "000100"),  # U+0000
        ("end", "00"),
    ],
)
def test_pieces_that_are_none(method: str, data: str) -> None:
    with pytest.raises(BadFrame):
        getattr(Body(bytes.fromhex(data)), method)()


def test_a_part_ends_where_it_says() -> None:
    body = Body(bytes.fromhex("02aabbcc"))
    part = body.part()
    with pytest.raises(BadFrame):
        part.long()
    assert body.rest() == b"\xcc"
    part = Body(bytes.fromhex("01800101")).part()
    with pytest.raises(BadFrame):
        part.variable()  # it must not read on behind its end


# ----------------------------------------------------------------------------------------------- properties

VALUES: list[tuple[Property, Any]] = [
    (Property.PAYLOAD_FORMAT, 1),
    (Property.MESSAGE_EXPIRY, 3600),
    (Property.CONTENT_TYPE, "text/plain"),
    (Property.RESPONSE_TOPIC, "user/bob"),
    (Property.CORRELATION, b"\0\1"),
    (Property.WILL_DELAY, 5),
]


def test_properties_are_read_as_they_were_written() -> None:
    data = properties(*VALUES, (Property.USER, ("a", "1")), (Property.USER, ("a", "2")))
    found = read(Body(data), WILL)
    assert found == {**dict(VALUES), Property.USER: [("a", "1"), ("a", "2")]}
    assert read(Body(b"\0"), WILL) is NONE
    assert read(Body(properties((Property.SUBSCRIPTION_ID, 300))), 0x82) == {Property.SUBSCRIPTION_ID: 300}
    assert read(Body(properties((Property.TOPIC_ALIAS, 3))), 0x30) == {Property.TOPIC_ALIAS: 3}


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (properties((Property.RECEIVE_MAXIMUM, 5)), 0x30, Reason.PROTOCOL_ERROR),  # not in a PUBLISH
        (b"\x02\x7f\x00", 0x30, Reason.MALFORMED),  # nobody knows it
        (b"\x02\x01\x01\x01", 0x30, None),  # the second is outside
        (properties((Property.CONTENT_TYPE, "a"), (Property.CONTENT_TYPE, "b")), 0x30, Reason.PROTOCOL_ERROR),
        (properties((Property.RECEIVE_MAXIMUM, 0)), 0x10, Reason.PROTOCOL_ERROR),
        (properties((Property.MAXIMUM_PACKET_SIZE, 0)), 0x10, Reason.PROTOCOL_ERROR),
        (properties((Property.SUBSCRIPTION_ID, 0)), 0x82, Reason.PROTOCOL_ERROR),
        (properties((Property.PAYLOAD_FORMAT, 2)), 0x30, Reason.PROTOCOL_ERROR),
        (b"\x02\x02\x00", 0x30, Reason.MALFORMED),  # cut off
    ],
)
def test_properties_that_cannot_be(data: bytes, kind: int, said: Reason | None) -> None:
    body = Body(data)
    if said is None:
        assert read(body, kind) == {1: 1}
        assert body.rest() == b"\x01"
        return
    with pytest.raises(Broken) as caught:
        read(body, kind)
    assert caught.value.said is said


def test_binary_that_mqtt_cannot_carry() -> None:
    with pytest.raises(ValueError, match="no binary"):
        written(Property.CORRELATION, bytes(65_536))


@given(st.binary(max_size=60), st.sampled_from([0x10, WILL, 0x30, 0x40, 0x62, 0x82, 0xA2, 0xE0]))
def test_any_properties_are_read_or_an_error(data: bytes, kind: int) -> None:
    try:
        read(Body(data), kind)
    except ProtocolError:
        pass
