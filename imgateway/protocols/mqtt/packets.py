"""MQTT's packets as bytes: where one ends on a stream, and the small pieces that all of them are made of.

A packet is a byte with its type and flags, a length (seven bits a byte, at most four bytes) and so many bytes
of body. Texts are UTF-8 behind two bytes of length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

from imgateway.protocols.mqtt.reasons import Broken, Reason
from imgateway.wire.framing import varint

__all__ = (
    "PUBACK",
    "Body",
    "Packet",
    "Splitter",
    "acknowledged",
    "acknowledgement",
    "length",
    "packet",
    "text",
)


class Packet(IntEnum):
    """The first byte, with the flags that MQTT prescribes."""

    CONNECT = 0x10
    CONNACK = 0x20
    PUBLISH = 0x30
    PUBACK = 0x40
    PUBREC = 0x50
    PUBREL = 0x62
    PUBCOMP = 0x70
    SUBSCRIBE = 0x82
    SUBACK = 0x90
    UNSUBSCRIBE = 0xA2
    UNSUBACK = 0xB0
    PINGREQ = 0xC0
    PINGRESP = 0xD0
    DISCONNECT = 0xE0
    AUTH = 0xF0


MAX_LENGTH = 268_435_455
PUBACK = int(Packet.PUBACK)  # compared faster than the enum's


# ---------------------------------------------------------------------------------------------------- writing


def length(n: int) -> bytes:
    """`n` as MQTT's variable byte integer: a varint of at most four bytes.

    :raises ValueError: it is more than four bytes hold.
    """
    if not 0 <= n <= MAX_LENGTH:
        raise ValueError("a packet is at most 268,435,455 bytes long")
    return varint(n)


def text(value: str) -> bytes:
    """A text behind its length.

    :raises ValueError: it is longer than 65,535 bytes, or has a character that MQTT does not know.
    """
    data = value.encode()
    if len(data) > 65_535 or "\0" in value:
        raise ValueError("no text of MQTT")
    return len(data).to_bytes(2) + data


def packet(first: int, *parts: bytes) -> bytes:
    """A whole packet."""
    body = b"".join(parts)
    return bytes((first,)) + length(len(body)) + body


def acknowledgement(kind: int, packet_id: int, reason: int = 0) -> bytes:
    """PUBACK, PUBREC or PUBCOMP. Success, and everything in 3.1.1, is said without a reason."""
    if reason:
        return bytes((kind, 3, packet_id >> 8, packet_id & 255, reason))
    return bytes((kind, 2, packet_id >> 8, packet_id & 255))


# ---------------------------------------------------------------------------------------------------- reading


def acknowledged(data: bytes) -> Sequence[int]:
    """The packet ids of PUBACKs that only say yes; none if there is anything else among them."""
    size = len(data)
    if size == 4 and data[0] == PUBACK and data[1] == 2:
        number = data[2] << 8 | data[3]
        return (number,) if number else ()
    if data[::4].count(PUBACK) * 4 == data[1::4].count(2) * 4 == size:
        numbers = [data[at] << 8 | data[at + 1] for at in range(2, size, 4)]
        return numbers if 0 not in numbers else ()
    return ()


class Splitter:
    """Finds the packets in a stream that comes in any chunks; holds at most one unfinished packet.

    After an error, or an iterator that was not exhausted, every further chunk is an error.
    """

    __slots__ = ("_broken", "_held", "_wanted", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: bytes | bytearray = b""  # a bytearray only while there is something: idle links are many
        self._wanted = 0  # bytes that the held packet has in all; 0: not known yet
        self._broken = False

    @property
    def held_bytes(self) -> int:
        """Bytes of an unfinished packet."""
        return len(self._held)

    def is_between(self) -> bool:
        """What comes next begins a packet."""
        return not (self._held or self._broken)

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Iterate over the packets that `data` completes, each as its first byte and its body.

        :raises FrameTooLarge: as soon as a length above the limit is known.
        :raises BadFrame: a length of more than four bytes.
        """
        if self._broken:
            raise Broken("nothing can follow a broken packet")
        self._broken = True  # until the end of this chunk is reached
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                self._broken = False
                return
            data, self._held, self._wanted = bytes(self._held), b"", 0
        at, size = 0, len(data)
        while size - at > 1:
            count = data[at + 1]
            start = at + 2
            if count > 127:
                count, start = _length(data, at + 1)
                if not start:
                    break
            end = start + count
            if end - at > self.max_bytes:
                reason = f"a packet of {end - at} bytes; {self.max_bytes} are allowed"
                raise Broken(reason, Reason.TOO_LARGE)
            if end > size:
                self._wanted = end - at
                break
            yield data[at], data[start:end]
            at = end
        if at < size:
            self._held = bytearray(data[at:])
        self._broken = False


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length at `at`, and where its body begins; (0, 0): the rest of it is still to come."""
    count = 0
    for index, byte in enumerate(data[at : at + 4]):
        count |= (byte & 127) << 7 * index
        if byte < 128:
            if index and not byte:
                break  # not the shortest form
            return count, at + index + 1
    else:
        if len(data) - at < 4:
            return 0, 0
    raise Broken("a length must be a variable byte integer in its shortest form")


class Body:
    """Reads a packet's body piece by piece.

    Each method raises BadFrame when the body ends before the piece does.
    """

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = at
        self._end = len(data) if end is None else end

    def more(self) -> bool:
        """Something is left."""
        return self._at < self._end

    def byte(self) -> int:
        return self._data[self._take(1)]

    def short(self) -> int:
        at = self._take(2)
        return self._data[at] << 8 | self._data[at + 1]

    def long(self) -> int:
        at = self._take(4)
        return int.from_bytes(self._data[at : at + 4])

    def variable(self) -> int:
        """A variable byte integer."""
        count, start = _length(self._data[: self._end], self._at)
        if not start:
            raise _cut()
        self._at = start
        return count

    def binary(self) -> bytes:
        """Bytes behind two bytes of length."""
        size = self.short()
        at = self._take(size)
        return self._data[at : at + size]

    def text(self) -> str:
        return utf8(self.binary())

    def packet_id(self) -> int:
        number = self.short()
        if not number:
            raise Broken("a packet id must not be 0", Reason.PROTOCOL_ERROR)
        return number

    def part(self) -> Body:
        """What stands behind a variable byte integer that says how long it is."""
        size = self.variable()
        at = self._take(size)
        return Body(self._data, at, at + size)

    def rest(self) -> bytes:
        at, self._at = self._at, self._end
        return self._data[at : self._end]

    def end(self) -> None:
        """:raises BadFrame: something is left."""
        if self.more():
            raise Broken("more in a packet than belongs there")

    def _take(self, size: int) -> int:
        at = self._at
        if at + size > self._end:
            raise _cut()
        self._at = at + size
        return at


def utf8(data: bytes) -> str:
    """:raises BadFrame: no UTF-8, or with a character that MQTT forbids."""
    try:
        value = data.decode()
    except UnicodeDecodeError:
        raise Broken("a text must be UTF-8") from None
    if "\0" in value:
        raise Broken("a text must not contain U+0000")
    return value


def _cut() -> Broken:
    return Broken("a packet ends in the middle of a field")
