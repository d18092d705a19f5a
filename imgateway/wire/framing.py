"""Frames on a byte stream: each stands behind its length, written as a varint32.

A varint holds seven bits a byte, the lowest first; the top bit says that more follow. Five bytes are the
most, and the shortest form is the only one. Knows nothing of what the frames mean, so that every wire with
this framing may use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from imgateway.errors import BadFrame, FrameTooLarge

_ONE = tuple(bytes((n,)) for n in range(128))


# Lengths, seqs and epochs repeat, and so do all but the lowest bits of a time: a hit costs 0.05 µs.
@lru_cache(maxsize=4096)
def varint(n: int) -> bytes:
    """`n` as a varint of at most 64 bits.

    :raises ValueError: `n` is negative or needs more than 64 bits.
    """
    if 0 <= n < 128:
        return _ONE[n]
    if n >> 64:
        raise ValueError("a varint holds 0 to 2**64 - 1")
    if n < 1 << 14:
        return bytes((n & 127 | 128, n >> 7))
    return b"%c%c%b" % (n & 127 | 128, n >> 7 & 127 | 128, varint(n >> 14))


def length_prefixed(frame: bytes) -> bytes:
    """The frame as it stands on a stream."""
    return varint(len(frame)) + frame


class Splitter:
    """Finds the frames in a stream that comes in any chunks.

    Holds at most one unfinished frame, so `max_frame_bytes`. A frame that is whole within a chunk is cut out
    of it and touches no buffer. After an error, or an iterator that was not exhausted, every further chunk is
    a BadFrame.
    """

    __slots__ = ("_broken", "_held", "_missing", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._held: bytes | bytearray = b""  # a bytearray only while there is something: idle links are many
        self._missing = 0  # bytes that the held frame still wants; 0: what is held is the begin of a length
        self._broken = False

    @property
    def held_bytes(self) -> int:
        """Bytes of an unfinished frame, or of an unfinished length."""
        return len(self._held)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Iterate over the frames that `data` completes; exhaust it before the next call.

        :raises FrameTooLarge: as soon as a length above the limit is known.
        :raises BadFrame: a length that is no varint32.
        """
        if self._broken:
            raise BadFrame("nothing can follow a broken frame")
        self._broken = True  # until the end of this chunk is reached
        at = 0
        held = self._held
        if self._missing:
            at = self._missing
            held += data[:at]
            if at > len(data):
                self._missing -= len(data)
                self._broken = False
                return
            self._held = b""
            self._missing = 0
            yield bytes(held)
        elif held:
            self._held = b""
            data = bytes(held) + data
        size = len(data)
        while at < size:
            length = data[at]
            start = at + 1
            if length > 127:
                if start < size and 0 < data[start] < 128:  # two bytes: up to 16 KB
                    length += (data[start] << 7) - 128
                    start += 1
                else:
                    length, start = _length(data, at)
            if length > self.max_frame_bytes:
                raise FrameTooLarge(f"a frame of {length} bytes; {self.max_frame_bytes} are allowed")
            end = start + length
            if not start or end > size:
                self._held = bytearray(data[start or at :])
                self._missing = end - size if start else 0
                break
            yield data[start:end]
            at = end
        self._broken = False


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length that begins at `at` and where its frame starts; (0, 0): the rest of it is still to come."""
    length = 0
    for index, byte in enumerate(data[at : at + 5]):
        length |= (byte & 127) << 7 * index
        if byte < 128:
            if byte == 0 or length >> 32:
                break
            return length, at + index + 1
    else:
        if len(data) - at < 5:
            return 0, 0
    raise BadFrame("a frame's length must be a varint32 in its shortest form")
