"""What stands inside the seal: any number of messages, one after another, each opened by a byte for its type.

====  ===========  =======================================================================================
 00   PADDING      one byte that says nothing
 01   DATA         channel varint, number varint, length varint, bytes
 02   DATA_AFTER   channel varint, number varint, barrier varint, length varint, bytes
 03   FRAGMENT     channel varint, number varint, barrier varint, index 1, last 1, length varint, bytes
 04   ACK          largest 4, map 8: bit i stands for datagram ``largest - 1 - i``
 05   CHALLENGE    nonce 8
 06   ANSWER       nonce 8
 07   FORGET       channel varint, upto varint: what is missing below `upto` will not come
 08   CLOSE        code 2
 09   RESET_TOKEN  token 16
====  ===========  =======================================================================================

Integers are big-endian; a varint is protobuf's: seven bits a byte, the lowest first, at most 63 bits in all.
A message is numbered within its channel, from 0. A barrier b says: not before the first b messages of channel
0 were handed over; 0 is none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from msgspec import Struct

from imgateway.errors import BadFrame, FrameTooLarge

__all__ = (
    "ACK_BYTES",
    "CHANNELS",
    "FRAGMENTS",
    "Ack",
    "Answer",
    "Challenge",
    "Close",
    "Data",
    "Forget",
    "Fragment",
    "MalformedDatagram",
    "Message",
    "MessageTooLarge",
    "Note",
    "ResetToken",
    "ack",
    "answer",
    "challenge",
    "close",
    "data_head",
    "forget",
    "fragment_head",
    "padding",
    "parse",
    "reset_token",
)

CHANNELS = 64
"""Channel 0 is control, 1–63 are logs: a session follows a handful, and a channel's number stays one byte."""

FRAGMENTS = 64
"""Fragments of one message at most, so that a whole one fits into one full window of datagrams."""

PADDING, DATA, DATA_AFTER, FRAGMENT, ACK, CHALLENGE, ANSWER, FORGET, CLOSE, RESET_TOKEN = range(10)

NONCE_BYTES = 8
"""Of a CHALLENGE: nobody guesses 64 bits in the second that it is good for."""

TOKEN_BYTES = 16
"""Of a RESET_TOKEN: one guess is as hopeless as with the seal."""

_ACK = struct.Struct(">IQ")
_CLOSE = struct.Struct(">H")

ACK_BYTES = 1 + _ACK.size


class MalformedDatagram(BadFrame):
    """An authentic datagram whose messages break the grammar; the connection that it came over is done."""


class MessageTooLarge(FrameTooLarge):
    """A message to send has more bytes than FRAGMENTS datagrams carry."""


class Data(Struct, frozen=True, gc=False):
    """A whole message: DATA, or DATA_AFTER if it has a barrier."""

    channel: int
    number: int
    barrier: int
    body: bytes


class Fragment(Struct, frozen=True, gc=False):
    """Part `index` of a message, of parts 0 to `last`."""

    channel: int
    number: int
    barrier: int
    index: int
    last: int
    body: bytes


class Ack(Struct, frozen=True, gc=False):
    """Datagrams that were taken: `largest`, and those of the 64 before it whose bit in `map` is set."""

    largest: int
    map: int


class Forget(Struct, frozen=True, gc=False):
    """What is missing of `channel` below `upto` will not come."""

    channel: int
    upto: int


class Challenge(Struct, frozen=True, gc=False):
    """Prove that you get what is sent to this address: answer with the same 8 bytes."""

    nonce: bytes


class Answer(Struct, frozen=True, gc=False):
    """The answer to a Challenge."""

    nonce: bytes


class Close(Struct, frozen=True, gc=False):
    """The peer has gone, with this `errors.CloseCode`."""

    code: int


class ResetToken(Struct, frozen=True, gc=False):
    """What a RESET must show to be believed, 16 bytes."""

    token: bytes


Note = Challenge | Answer | Close | ResetToken
"""What is not for the flow of messages but for the connection and its path."""

Message = Data | Fragment | Ack | Forget | Note


def parse(payload: bytes) -> Iterator[Message]:
    """The messages of one opened datagram, padding left out.

    :raises MalformedDatagram: from the iterator, at the first message that breaks the grammar.
    """
    at, end = 0, len(payload)
    try:
        while at < end:
            kind = payload[at]
            at += 1
            if kind == DATA and payload[at] < CHANNELS and payload[at + 1] < 128 > payload[at + 2]:
                # As most are: each number in one byte.
                body, end_of = _cut(payload, at + 3, payload[at + 2])
                yield Data(payload[at], payload[at + 1], 0, body)
                at = end_of
            elif kind in (DATA, DATA_AFTER):
                channel, number, at = _place(payload, at)
                barrier = 0
                if kind == DATA_AFTER:
                    barrier, at = _barrier(payload, at, channel)
                body, at = _body(payload, at)
                yield Data(channel, number, barrier, body)
            elif kind == ACK:
                largest, taken = _ACK.unpack_from(payload, at)
                at += _ACK.size
                yield Ack(largest, taken)
            elif kind == FRAGMENT:
                channel, number, at = _place(payload, at)
                barrier, at = _barrier(payload, at, channel)
                index, last = payload[at], payload[at + 1]
                if index > last or not 0 < last < FRAGMENTS:
                    raise MalformedDatagram("a fragment outside its message")
                body, at = _body(payload, at + 2)
                yield Fragment(channel, number, barrier, index, last, body)
            elif kind == FORGET:
                channel, upto, at = _place(payload, at)
                yield Forget(channel, upto)
            elif kind == CHALLENGE:
                nonce, at = _cut(payload, at, NONCE_BYTES)
                yield Challenge(nonce)
            elif kind == ANSWER:
                nonce, at = _cut(payload, at, NONCE_BYTES)
                yield Answer(nonce)
            elif kind == CLOSE:
                (code,) = _CLOSE.unpack_from(payload, at)
                at += _CLOSE.size
                yield Close(code)
            elif kind == RESET_TOKEN:
                token, at = _cut(payload, at, TOKEN_BYTES)
                yield ResetToken(token)
            elif kind == PADDING:
                at = end - len(payload[at:].lstrip(b"\0"))  # a HELLO has a thousand of them
            else:
                raise MalformedDatagram("a message of unknown type")
    except (IndexError, struct.error) as short:
        raise MalformedDatagram("a message that its datagram cuts off") from short


def _varint(payload: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Only the shortest form is one."""
    value = payload[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for shift in range(7, 70, 7):
        at += 1
        byte = payload[at]
        value |= (byte & 127) << shift
        if byte < 128:
            if not byte or value >> 63:
                break
            return value, at + 1
    raise MalformedDatagram("a number in more bytes than it needs, or of more than 63 bits")


def _place(payload: bytes, at: int) -> tuple[int, int, int]:
    channel = payload[at]
    if channel >= CHANNELS:  # so its varint is one byte
        raise MalformedDatagram("a channel that is none")
    number, at = _varint(payload, at + 1)
    return channel, number, at


def _barrier(payload: bytes, at: int, channel: int) -> tuple[int, int]:
    barrier, at = _varint(payload, at)
    if barrier and not channel:  # it might wait for itself
        raise MalformedDatagram("a barrier on channel 0")
    return barrier, at


def _body(payload: bytes, at: int) -> tuple[bytes, int]:
    size, at = _varint(payload, at)
    return _cut(payload, at, size)


def _cut(payload: bytes, at: int, size: int) -> tuple[bytes, int]:
    end = at + size
    if end > len(payload):
        raise MalformedDatagram("a message that its datagram cuts off")
    return payload[at:end], end


def varint(value: int) -> bytes:
    """`value` in 1 to 10 bytes; below 2**63."""
    if value < 128:
        return _ONE[value]
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)


_ONE = tuple(bytes((value,)) for value in range(128))


def data_head(channel: int, number: int, barrier: int, size: int) -> bytes:
    """What stands before the `size` bytes of a whole message."""
    if barrier:
        return b"%c%c%b%b%b" % (DATA_AFTER, channel, varint(number), varint(barrier), varint(size))
    if number < 128 and size < 128:
        return bytes((DATA, channel, number, size))
    return b"%c%c%b%b" % (DATA, channel, varint(number), varint(size))


def fragment_head(channel: int, number: int, barrier: int, index: int, last: int, size: int) -> bytes:
    """What stands before the `size` bytes of one part of a message."""
    return b"%c%c%b%b%c%c%b" % (
        FRAGMENT,
        channel,
        varint(number),
        varint(barrier),
        index,
        last,
        varint(size),
    )


def ack(largest: int, taken: int) -> bytes:
    """An ACK; bit i of `taken` stands for datagram ``largest - 1 - i``."""
    return b"\x04" + _ACK.pack(largest, taken)


def forget(channel: int, upto: int) -> bytes:
    """A FORGET: what is missing below `upto` will not come."""
    return b"%c%c%b" % (FORGET, channel, varint(upto))


def challenge(nonce: bytes) -> bytes:
    """A CHALLENGE with its 8 random bytes."""
    return b"\x05" + nonce


def answer(nonce: bytes) -> bytes:
    """The ANSWER to a CHALLENGE with these 8 bytes."""
    return b"\x06" + nonce


def close(code: int) -> bytes:
    """A CLOSE with an `errors.CloseCode`."""
    return b"\x08" + _CLOSE.pack(code)


def reset_token(token: bytes) -> bytes:
    """A RESET_TOKEN with its 16 bytes."""
    return b"\x09" + token


def padding(size: int) -> bytes:
    """`size` bytes that say nothing."""
    return bytes(size)
