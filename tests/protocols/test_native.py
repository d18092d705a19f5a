"""What only the binary form has, and its bytes, which must not change by accident."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgateway.errors import BadFrame
from imgateway.frames import (
    MAX_MSG_ID_BYTES,
    Acked,
    Address,
    Bye,
    Deliver,
    DeliverAck,
    Entry,
    Frame,
    Hello,
    Mode,
    Outcome,
    Ping,
    Publish,
    PublishAck,
    ResumePoint,
    Start,
    Subscribe,
)
from imgateway.protocols.native import NativeAdapter
from imgateway.wire.framing import length_prefixed
from tests.strategies import publish_acks

BOB = Address("user", "bob")

GOLDEN: list[tuple[Frame, str]] = [
    (Ping(1, 300), "2a050801 10ac02"),
    (
        Publish("m1", (BOB,), "text/plain", b"hi"),
        "0a1e 0a026d31 1208757365723a626f62 1a0a746578742f706c61696e 22026869",
    ),
    (Publish("m1", (BOB,), body=b"hi", qos=0), "0a14 0a026d31 1208757365723a626f62 22026869 2800"),
    (PublishAck("m1", (Outcome(0, 5, 7),)), "120a 0a026d31 1204 1007 1805"),
    (
        Deliver(BOB, 0, 5, 6, 7, (Entry(7, b"\x0a\x01m"),), False, 7),
        "1a1b 0a08757365723a626f62 1805 2006 2807 3207 0807 1203 0a016d 4007",
    ),
    (
        Deliver(BOB, 0, 5, 6, 7, (Entry(7, b"\x0a\x01m"),), False, 7, pulled=True),
        "1a1d 0a08757365723a626f62 1805 2006 2807 3207 0807 1203 0a016d 4007 5801",
    ),
    (DeliverAck((Acked(BOB, 5, 7),)), "2210 0a0e 0a08757365723a626f62 1005 1807"),
    (
        Hello("t", "d", start=Start.OLDEST, resume=(ResumePoint(BOB, 0, 5, 7),)),
        "3a18 0a0174 120164 3002 3a0e 0a08757365723a626f62 1805 2007",
    ),
    (Subscribe(Address("room", "7"), Mode.NOTIFY), "5a0a 0a06726f6f6d3a37 1001"),
    (Bye(200, "kicked"), "aa010b 08c801 12066b69636b6564"),
]


@pytest.mark.parametrize(("frame", "golden"), GOLDEN, ids=lambda part: type(part).__name__)
def test_golden_bytes(frame: Frame, golden: str) -> None:
    data = bytes.fromhex(golden)
    message, stream = (NativeAdapter().codec(stream, 1000) for stream in (False, True))
    assert message.encode(frame).hex() == data.hex()
    assert list(message.receive(data)) == [frame]
    assert stream.encode(frame) == bytes((len(data),)) + data
    assert list(stream.receive(bytes((len(data),)) + data)) == [frame]


@pytest.mark.parametrize(
    "data",
    [
        b"",  # an empty frame
        b"\xff",
        b"\x2a\x05\x08",  # cut off
        b"\xf2\x07\x00",  # a frame that no version knows yet: field 126
        b"\x4a\x03\x0a\x01\xff",  # Renew with a token that is no UTF-8
        b"\x4a\x05\x0a\x03\xed\xa0\x80",  # … that is a lone surrogate
        b"\x0a\x13\x0a\x01m\x12\x08user:bob\x5a\x04text",  # `text` is for JSON
        b"\x0b" * 500,  # groups in groups
    ],
)
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        list(NativeAdapter().codec(False, 1000).receive(data))


def test_fields_that_nobody_knows_are_passed_over() -> None:
    (frame,) = NativeAdapter().codec(False, 1000).receive(b"\x2a\x02\x08\x01\xf2\x07\x01x")
    assert frame == Ping(1)


def test_what_a_peer_sent_is_not_in_the_reason() -> None:
    with pytest.raises(BadFrame) as caught:
        list(NativeAdapter().codec(False, 1000).receive(b"\x0a\x0b\x0a\x01m\x12\x06secret"))
    assert "secret" not in caught.value.reason


@given(
    st.booleans(),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 10),
    st.lists(st.binary(max_size=300), min_size=1, max_size=4),
)
@example(True, 1, 0, [b"", b"x" * 127, b"x" * 128, b"x" * 16_384])
@example(True, 1, 126, [b"a", b"b", b"c"])
def test_mail_is_a_delivery(stream: bool, epoch: int, after: int, messages: list[bytes]) -> None:
    codec = NativeAdapter().codec(stream, 1 << 20)
    upto = after + len(messages)
    entries = tuple([Entry(after + n, message) for n, message in enumerate(messages, 1)])
    frame = Deliver(BOB, 0, epoch, after, upto, entries, False, upto)
    assert codec.mail(BOB, epoch, after, messages) == codec.encode(frame)  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0, 90, 16_250])
@pytest.mark.parametrize("after", [0, 126, 127, 128, 2**14 - 2, 2**14 - 1, 2**32, 2**63])
def test_a_mail_of_one_has_the_right_lengths(size: int, after: int) -> None:
    stream, message = (NativeAdapter().codec(stream, 1 << 20) for stream in (True, False))
    for length in range(size, size + 140):  # one of its four lengths after the other takes a byte more
        body = b"x" * length
        frame = Deliver(BOB, 0, 5, after, after + 1, (Entry(after + 1, body),), False, after + 1)
        for codec in (stream, message):
            assert codec.mail(BOB, 5, after, [body]) == codec.encode(frame)  # type: ignore[attr-defined]


@given(publish_acks)
@example(PublishAck("m" * MAX_MSG_ID_BYTES, (Outcome(0, 2**64 - 1, 2**64 - 1),)))
@example(PublishAck("m", (Outcome(0, 5, 7),) * 20))
def test_an_acknowledgement_stands_behind_its_length(ack: PublishAck) -> None:
    stream, message = (NativeAdapter().codec(stream, 1 << 20) for stream in (True, False))
    data = message.encode(ack)
    assert isinstance(data, bytes)
    assert stream.encode(ack) == length_prefixed(data)


@pytest.mark.parametrize("outcomes", [1, 2, 30])
def test_the_largest_acknowledgement_is_still_said(outcomes: int) -> None:
    ack = PublishAck("m1", (Outcome(0, 5, 7),) * outcomes)
    data = NativeAdapter().codec(False, 1000).encode(ack)
    assert isinstance(data, bytes)
    assert NativeAdapter().codec(True, len(data)).encode(ack) == length_prefixed(data)
    assert NativeAdapter().codec(True, len(data) - 1).encode(ack) is None


@pytest.mark.parametrize("stream", [True, False])
def test_mail_that_is_too_large_is_not_said(stream: bool) -> None:
    codec = NativeAdapter().codec(stream, 100)
    assert codec.mail(BOB, 5, 6, [b"x" * 50]) is not None  # type: ignore[attr-defined]
    assert codec.mail(BOB, 5, 6, [b"x" * 100]) is None  # type: ignore[attr-defined]
