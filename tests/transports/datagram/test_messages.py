"""The grammar inside the seal: what is built is read again, and what is not of it is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgateway.errors import BadFrame, CloseCode
from imgateway.transports.datagram import messages
from imgateway.transports.datagram.messages import (
    Ack,
    Answer,
    Challenge,
    Close,
    Data,
    Forget,
    Fragment,
    MalformedDatagram,
    Message,
    ResetToken,
    parse,
)

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))
CHANNELS = st.integers(0, 63)
BODIES = st.binary(max_size=200)


@st.composite
def fragments(draw: st.DrawFn) -> Fragment:
    last = draw(st.integers(1, 63))
    channel = draw(CHANNELS)
    barrier = draw(NUMBERS) if channel else 0
    return Fragment(channel, draw(NUMBERS), barrier, draw(st.integers(0, last)), last, draw(BODIES))


MESSAGES = st.one_of(
    st.builds(Data, CHANNELS, NUMBERS, st.just(0), BODIES),
    st.builds(Data, st.integers(1, 63), NUMBERS, NUMBERS, BODIES),
    fragments(),
    st.builds(Ack, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)),
    st.builds(Forget, CHANNELS, NUMBERS),
    st.builds(Challenge, st.binary(min_size=8, max_size=8)),
    st.builds(Answer, st.binary(min_size=8, max_size=8)),
    st.builds(Close, st.integers(0, 65_535)),
    st.builds(ResetToken, st.binary(min_size=16, max_size=16)),
)


def built(message: Message) -> bytes:
    match message:
        case Data(channel, number, barrier, body):
            return messages.data_head(channel, number, barrier, len(body)) + body
        case Fragment(channel, number, barrier, index, last, body):
            return messages.fragment_head(channel, number, barrier, index, last, len(body)) + body
        case Ack(largest, taken):
            return messages.ack(largest, taken)
        case Forget(channel, upto):
            return messages.forget(channel, upto)
        case Challenge(nonce):
            return messages.challenge(nonce)
        case Answer(nonce):
            return messages.answer(nonce)
        case Close(code):
            return messages.close(code)
        case ResetToken(token):
            return messages.reset_token(token)


@given(st.lists(st.tuples(MESSAGES, st.integers(0, 3)), max_size=8))
def test_what_is_built_is_read_again(chosen: list[tuple[Message, int]]) -> None:
    payload = b"".join(built(message) + messages.padding(pad) for message, pad in chosen)
    assert list(parse(payload)) == [message for message, _ in chosen]


@given(MESSAGES)
def test_a_message_that_is_cut_off_is_refused(message: Message) -> None:
    whole = built(message)
    for size in range(1, len(whole)):
        with pytest.raises(MalformedDatagram):
            list(parse(whole[:size]))


def read_or_refused(payload: bytes) -> None:
    found = []
    with suppress(MalformedDatagram):
        for one in parse(payload):
            found.append(one)
    assert sum(len(one.body) for one in found if isinstance(one, Data | Fragment)) <= len(payload)


def test_a_malformed_datagram_is_a_bad_frame() -> None:
    with pytest.raises(BadFrame) as malformed:
        list(parse(b"\xff"))
    assert malformed.value.code is CloseCode.BAD_FRAME


@settings(max_examples=1000)
@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_malformed(payload: bytes) -> None:
    read_or_refused(payload)


@settings(max_examples=500)
@given(st.lists(MESSAGES, min_size=1, max_size=4), st.integers(0), st.integers(1, 255))
def test_messages_with_a_byte_changed_are_messages_or_malformed(
    chosen: list[Message], at: int, flip: int
) -> None:
    payload = bytearray(b"".join(map(built, chosen)))
    payload[at % len(payload)] ^= flip
    read_or_refused(bytes(payload))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x0a",  # no such type
        b"\xff",
        b"\x01\x40\x00\x00",  # channel 64
        b"\x01\x00\x80\x00\x00",  # a 0 in two bytes
        b"\x01\x00" + b"\xff" * 9 + b"\x01\x00",  # a number of 64 bits
        b"\x01\x00" + b"\x80" * 10 + b"\x01\x00",  # one of 11 bytes
        b"\x02\x00\x00\x01\x00",  # a barrier on channel 0
        b"\x03\x00\x00\x01\x00\x01\x00",
        b"\x03\x01\x00\x00\x02\x01\x00",  # fragment 2 of 0 to 1
        b"\x03\x01\x00\x00\x00\x00\x00",  # the only one of one
        b"\x03\x01\x00\x00\x00\x40\x00",  # of 65
        b"\x07\x40\x00",
        b"\x01\x00\x00\x05abcd",
        b"\x01\x00\x00" + b"\xff" * 8 + b"\x7f",
    ],
)
def test_what_breaks_the_grammar(payload: bytes) -> None:
    with pytest.raises(MalformedDatagram):
        list(parse(payload))


def test_the_bytes_are_as_documented() -> None:
    assert built(Data(0, 5, 0, b"abc")) == b"\x01\x00\x05\x03abc"
    assert built(Data(0, 300, 0, b"abc")) == b"\x01\x00\xac\x02\x03abc"
    assert built(Data(7, 5, 2, b"abc")) == b"\x02\x07\x05\x02\x03abc"
    assert built(Fragment(7, 5, 2, 0, 3, b"abc")) == b"\x03\x07\x05\x02\x00\x03\x03abc"
    assert built(Ack(258, 5)) == b"\x04\x00\x00\x01\x02" + bytes(7) + b"\x05"
    assert built(Challenge(b"12345678")) == b"\x0512345678"
    assert built(Answer(b"12345678")) == b"\x0612345678"
    assert built(Forget(3, 9)) == b"\x07\x03\x09"
    assert built(Close(205)) == b"\x08\x00\xcd"
    assert built(ResetToken(bytes(16))) == b"\x09" + bytes(16)
    assert list(parse(b"\x00\x00")) == []
