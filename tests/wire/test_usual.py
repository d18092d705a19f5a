"""The usual frames, cut out of their bytes, are what protobuf reads; and so is everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgateway.errors import BadFrame
from imgateway.frames import Acked, Address, DeliverAck, Frame, Publish, user_address
from imgateway.wire import usual
from imgateway.wire.reading import read_frame
from imgateway.wire.usual import read_usual
from imgateway.wire.writing import write_frame
from tests.strategies import addresses, frames, publishes, u64

BOB = (user_address("bob"),)
USUAL = write_frame(Publish("m1", BOB, body=b"hello"))
ACK = write_frame(DeliverAck((Acked(*BOB, 1_763_800_000, 300),)))


def outcome(read: Any, data: bytes) -> Frame | str:
    try:
        return read(data)  # type: ignore[no-any-return]
    except BadFrame as problem:
        return str(problem)


def assert_same(data: bytes) -> None:
    assert outcome(read_usual, data) == outcome(read_frame, data)


@given(publishes)
def test_every_publish(publish: Publish) -> None:
    assert read_usual(write_frame(publish)) == publish


@given(frames)
def test_every_frame(frame: Frame) -> None:
    assert_same(write_frame(frame))


@given(addresses, u64, u64)
def test_every_acknowledgement_of_one_log(address: Address, epoch: int, upto: int) -> None:
    ack = DeliverAck((Acked(address, epoch, upto),))
    assert read_usual(write_frame(ack)) == ack


@given(st.sampled_from((USUAL, ACK)), st.integers(0, len(USUAL) - 1), st.integers(0, 255))
def test_one_byte_changed(frame: bytes, at: int, byte: int) -> None:
    assert_same(frame[:at] + bytes((byte,)) + frame[at + 1 :])


@pytest.mark.parametrize("more", [-1, 1, 2])
def test_a_length_that_is_not_its_own(more: int) -> None:
    for at in (1, 3, 7, len(USUAL) - 6):
        assert_same(USUAL[:at] + bytes((USUAL[at] + more,)) + USUAL[at + 1 :])


@given(st.sampled_from((USUAL, ACK)), st.integers(0, len(USUAL)), st.binary(max_size=4))
def test_cut_off_and_something_else_behind(frame: bytes, at: int, rest: bytes) -> None:
    assert_same(frame[:at] + rest)


@given(st.binary(max_size=40))
@example(b"")
@example(b"\x0a")
@example(b"\x0a\x80")
def test_any_bytes(data: bytes) -> None:
    assert_same(data)


def field(tag: int, data: bytes, size: bytes = b"") -> bytes:
    return bytes((tag,)) + (size or bytes((len(data),))) + data


@pytest.mark.parametrize(
    "inner",
    [
        field(0x0A, b"m", b"\x81\x00")
        + field(0x12, b"user:bob")
        + field(0x22, b"x"),  # not the shortest form
        field(0x0A, b"m") + field(0x12, b"user:bob") + field(0x22, b"x", b"\x81\x00"),
        field(0x0A, b"m") + field(0x12, b"user:bob") + field(0x22, b"x", b"\x81\x80\x00"),
        field(0x0A, b"m") + field(0x12, b"user:bob") + field(0x22, b""),
        field(0x0A, b"") + field(0x12, b"user:bob") + field(0x22, b"x"),
        field(0x0A, b"m\n") + field(0x12, b"user:bob") + field(0x22, b"x"),
        field(0x0A, "é".encode()) + field(0x12, b"user:bob") + field(0x22, b"x"),
        field(0x0A, b"\xff") + field(0x12, b"user:bob") + field(0x22, b"x"),
        field(0x0A, b"m" * 65) + field(0x12, b"user:bob") + field(0x22, b"x"),
        field(0x0A, b"m") + field(0x12, b"nobody") + field(0x22, b"x"),
        field(0x0A, b"m") + field(0x12, b"user:\xff") + field(0x22, b"x"),
        field(0x0A, b"m") + field(0x12, b"user:bob") + field(0x22, b"x") + field(0x22, b"y"),
        field(0x22, b"x") + field(0x0A, b"m") + field(0x12, b"user:bob"),
        field(0x0A, b"m") + field(0x12, b"user:bob") + field(0x12, b"user:eve") + field(0x22, b"x"),
    ],
)
def test_what_is_not_written_as_usual(inner: bytes) -> None:
    assert_same(field(0x0A, inner))
    assert_same(field(0x0A, inner, bytes((len(inner) | 0x80, 0))))


LOG = field(0x0A, b"user:bob") + b"\x10\x05"


@pytest.mark.parametrize(
    "acked",
    [
        LOG + b"\x18\x00",
        LOG + b"\x18\x85\x00",  # not the shortest form
        LOG + b"\x18" + b"\xff" * 8 + b"\x7f",
        LOG + b"\x18" + b"\xff" * 9 + b"\x01",
        LOG + b"\x18" + b"\xff" * 9 + b"\x02",  # too large
        LOG + b"\x18" + b"\x80" * 10 + b"\x00",  # too long
        LOG + b"\x18\x80",
        LOG + b"\x98\x00\x07",  # a tag that is not in its shortest form
        LOG + b"\x18\x07\x18\x08",
        LOG + b"\x18\x07\x10\x06",
        LOG + b"\x18\x07\x20\x06",  # a field that nobody knows
        LOG,
        b"\x18\x07" + LOG,
        b"\x18\x07",
        b"\x10\x05\x18\x07",
        b"\x10\x18\x07",  # the tag is another field's number
        field(0x0A, b"user:bob\x18\x07"),  # … or its text
        field(0x0A, b"user:\xff") + b"\x18\x07",
        field(0x0A, b"nobody") + b"\x18\x07",
        b"",
    ],
)
def test_what_is_not_acknowledged_as_usual(acked: bytes) -> None:
    one = field(0x0A, acked)
    for acks in (one, one + one, one + b"\x10\x01", one + field(0x12, b""), field(0x12, acked)):
        assert_same(field(0x22, acks))
        assert_same(field(0x22, acks) + field(0x2A, b""))  # of two frames in one the last counts
        assert_same(field(0x0A, b"") + field(0x22, acks))


@pytest.mark.parametrize("size", [1, 127, 128, 16_000, 16_383, 16_384, 70_000, 1 << 21])
def test_bodies_of_any_size(size: int) -> None:
    publish = Publish("m1", BOB, body=b"x" * size)
    assert read_usual(write_frame(publish)) == publish


@pytest.mark.parametrize("size", range(118, 142))
def test_a_length_that_takes_more_than_a_byte_to_write(size: int) -> None:
    acked = field(0x0A, b"user:" + b"b" * 40) + b"\x20" + b"\x80" * 4 + b"\x01"  # and what nobody knows
    acked = acked + field(0x2A, b"x" * (size - len(acked) - 8)) + b"\x10\x05\x18\x07"
    for ack in (
        field(0x22, field(0x0A, acked)),
        write_frame(DeliverAck((Acked(*BOB, 1, 2),) * (size // 12))),
    ):
        assert_same(ack)
        assert_same(ack[:1] + bytes((len(ack) - 2 & 127 | 128, 1)) + ack[2:])


def test_the_usual_ones_are_not_left_to_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    def no(data: bytes) -> Frame:
        raise AssertionError(data)

    monkeypatch.setattr(usual, "read_frame", no)
    for body in (b"x", b"x" * 100, b"x" * 1000):
        publish = Publish("m1", BOB, body=body)
        assert read_usual(write_frame(publish)) == publish
    for upto in (1, 127, 128, 300, 1 << 20, 1 << 62):
        ack = DeliverAck((Acked(*BOB, 1_763_800_000, upto),))
        assert read_usual(write_frame(ack)) == ack
