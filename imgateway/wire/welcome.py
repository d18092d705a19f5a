"""Welcome, written without protobuf: the one frame that every login costs. The bytes are those that protobuf
writes; the tests hold them against it."""

from __future__ import annotations

from functools import lru_cache
from struct import pack

from imgateway.frames import Limits, Resumed, Welcome, address_text
from imgateway.wire import imgateway_pb2 as pb
from imgateway.wire.framing import varint

__all__ = ("welcome_frame",)

ZERO = pack("<d", 0.0)
LOWEST = [bytes((bits | 128,)) for bits in range(128)]
"""The first byte of a varint that has more."""


def welcome_frame(frame: Welcome) -> bytes:
    """A whole Frame with this Welcome.

    :raises ValueError: text with a lone surrogate, or a number that its field cannot hold.
    """
    session, user = frame.session.encode(), frame.user.encode()
    expires_ms, heartbeat = frame.token_expires_ms, pack("<d", frame.heartbeat_s)
    data = b"".join(
        (
            b"\x0a" + varint(len(session)) + session if session else b"",
            b"\x12" + varint(len(user)) + user if user else b"",
            _text(b"\x1a", frame.node),
            b"\x20" + _rising(frame.generation) if frame.generation else b"",
            b"\x29" + heartbeat if heartbeat != ZERO else b"",
            b"\x30" + _rising(frame.server_time_ms) if frame.server_time_ms else b"",
            b"\x38" + varint(expires_ms) if expires_ms else b"",
            _limits(frame.limits),
            *map(_resumed, frame.resumed),
        )
    )
    return b"\x42" + varint(len(data)) + data


def _resumed(log: Resumed) -> bytes:
    address = address_text(log.address).encode()
    data = b"\x0a" + varint(len(address)) + address
    if log.lane:
        data += b"\x10" + varint(log.lane)
    if log.epoch:
        data += b"\x18" + varint(log.epoch)
    if log.position:
        data += b"\x20" + varint(log.position)
    if log.head:
        data += b"\x28" + varint(log.head)
    if log.gap:
        data += b"\x30\x01"
    return b"\x4a" + varint(len(data)) + data


def _rising(number: int) -> bytes:
    """A varint of one of many numbers that follow each other: what they have in common is remembered."""
    if 127 < number < 1 << 64:
        return LOWEST[number & 127] + varint(number >> 7)
    return varint(number)


# The same for all sessions of a node, or nearly so.


@lru_cache(maxsize=64)
def _text(tag: bytes, text: str) -> bytes:
    data = text.encode()
    return tag + varint(len(data)) + data if data else b""


@lru_cache(maxsize=64)
def _limits(limits: Limits) -> bytes:
    fields = {name: getattr(limits, name) for name in Limits.__struct_fields__}
    data = pb.Limits(**fields).SerializeToString(deterministic=True)
    return b"\x42" + varint(len(data)) + data
