"""How a message becomes pieces: what is sent, acknowledged and repeated as one."""

from __future__ import annotations

from msgspec import Struct

from .messages import ACK_BYTES, FRAGMENTS, data_head, fragment_head

__all__ = ("CHUNK", "MAX_MESSAGE", "PIECE", "ROOM", "Piece", "cut")

ROOM = 1_172
"""Bytes for messages in a datagram: 1,200 pass everywhere (RFC 9000 §14), and the seal takes 28."""

PIECE = ROOM - ACK_BYTES
"""The largest piece: an ACK must not have to wait for a datagram of its own."""

CHUNK = PIECE - 24
"""Bytes of a message in one fragment: 24 before it are the most, with numbers of 63 bits."""

MAX_MESSAGE = FRAGMENTS * CHUNK

SMALLEST_HELD = 200
"""Bytes that a piece takes while it waits, however little it says."""


class Piece(Struct, gc=False):
    """`serial` rises in the order of `send`; `parts` of one message; `barrier`: as in its head."""

    serial: int
    channel: int
    number: int
    parts: int
    head: bytes
    body: bytes
    barrier: int = 0
    losses: int = 0

    @property
    def held_bytes(self) -> int:
        """What it takes to hold it: of a small one the body is the least."""
        return max(len(self.body), SMALLEST_HELD)


def cut(data: bytes, serial: int, channel: int, number: int, barrier: int) -> list[Piece]:
    """The pieces of a message of at most MAX_MESSAGE bytes; they take the serials from `serial` on."""
    size = len(data)
    head = data_head(channel, number, barrier, size)
    if len(head) + size <= PIECE:
        return [Piece(serial, channel, number, 1, head, data, barrier)]
    parts = -(-size // CHUNK)
    pieces = []
    for index in range(parts):
        body = data[index * CHUNK : (index + 1) * CHUNK]
        head = fragment_head(channel, number, barrier, index, parts - 1, len(body))
        pieces.append(Piece(serial + index, channel, number, parts, head, body, barrier))
    return pieces
