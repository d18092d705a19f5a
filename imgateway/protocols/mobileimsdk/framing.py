"""Bodies on a byte stream: each stands behind its length, four bytes, signed, the highest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from imgateway.errors import BadFrame, FrameTooLarge

__all__ = ("Splitter", "length_prefixed")

LENGTH_BYTES = 4


def length_prefixed(body: bytes) -> bytes:
    """The body as it stands on a stream."""
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Splitter:
    """Finds the bodies in a stream that comes in any chunks.

    Holds at most one unfinished body and its length. After an error every further chunk is a BadFrame.
    """

    __slots__ = ("_broken", "_held", "_most")

    def __init__(self, max_body_bytes: int) -> None:
        self._most = max_body_bytes
        self._held: bytes | bytearray = b""  # a bytearray only while there is something: idle links are many
        self._broken = False

    @property
    def held_bytes(self) -> int:
        """Bytes of an unfinished body with its length."""
        return len(self._held)

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Iterate over the bodies that `data` completes; exhaust it before the next call.

        :raises FrameTooLarge: as soon as a length above the limit is known.
        :raises BadFrame: a length of zero or less.
        """
        length = len(data) - LENGTH_BYTES
        is_whole = 0 < length <= self._most and int.from_bytes(data[:LENGTH_BYTES], "big") == length
        if is_whole and not self._held and not self._broken:
            return (data[LENGTH_BYTES:],)  # nearly always
        return self._split(data)

    def _split(self, data: bytes) -> Iterator[bytes]:
        if self._broken:
            raise BadFrame("nothing can follow a broken frame")
        self._broken = True  # until the end of this chunk is reached
        held = self._held
        if held:
            held += data
            if len(held) < LENGTH_BYTES or len(held) < LENGTH_BYTES + self._length(held, 0):
                self._broken = False
                return
            data = bytes(held)
            self._held = b""
        at, size = 0, len(data)
        while size - at >= LENGTH_BYTES:
            start = at + LENGTH_BYTES
            end = start + self._length(data, at)
            if end > size:
                break
            yield data[start:end]
            at = end
        if at < size:
            self._held = bytearray(data[at:])
        self._broken = False

    def _length(self, data: bytes | bytearray, at: int) -> int:
        length = int.from_bytes(data[at : at + LENGTH_BYTES], "big", signed=True)
        if length > self._most:
            raise FrameTooLarge(f"a body of {length} bytes; {self._most} are allowed")
        if length < 1:
            raise BadFrame("a body must have a byte at least")
        return length
