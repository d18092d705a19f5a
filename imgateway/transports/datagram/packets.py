"""What a datagram looks like from outside, before anything is opened: the first byte tells which kind it is.

::

    short    cid 8 | number 4 | sealed | tag 16                                       both ways
    HELLO    F1 | version | key id 16 | public 32 | cookie 24 | number 4 | sealed | tag 16
    RETRY    F2 | version | hello id 8 | cookie 24                                          to the client
    ACCEPT   F3 | version | hello id 8 | cid 8 | public 32 | number 4 | sealed | tag 16
    REFUSED  F4 | version | hello id 8 | reason
    RESET    F5 | cid 8 | token 16

Numbers are big-endian. A cid is picked by the server, its first byte below F0, and so are the other kinds
told from the short one. A HELLO has exactly `LARGEST` bytes: who asks pays for more than the answer.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

__all__ = (
    "CID_BYTES",
    "CLEAR_BYTES",
    "HELLO_ROOM",
    "LARGEST",
    "LONGEST",
    "NO_COOKIE",
    "NO_KEY",
    "RESET_BYTES",
    "TAG_BYTES",
    "VERSION",
    "Accept",
    "Hello",
    "Packet",
    "Reason",
    "Refused",
    "Reset",
    "Retry",
    "hello_clear",
    "parse",
)

VERSION = 1
LARGEST = 1_200
"""Bytes of the largest datagram: they pass every path that IPv6 and the tunnels of its time allow."""
LONGEST = 8_972
"""Bytes of the largest short datagram that is taken. Nobody sends more than LARGEST but to try how much a
path carries, and that is 9,000 at most on common ones, with 28 before every datagram."""
TAG_BYTES = 16
CID_BYTES = 8
CLEAR_BYTES = 12
"""Of a short datagram: cid and number."""
NO_COOKIE = bytes(24)
NO_KEY = bytes(16)
"""The key id of a connection that is not sealed."""
FIRST_RESERVED = 0xF0
"""No cid begins with this byte or a higher one."""

_HELLO = Struct("!BB16s32s24sI")
_RETRY = Struct("!BB8s24s")
_ACCEPT = Struct("!BB8s8s32sI")
_REFUSED = Struct("!BB8sB")
_RESET = Struct("!B8s16s")

HELLO_ROOM = LARGEST - _HELLO.size - TAG_BYTES
"""Bytes of messages in a HELLO, padding included."""
RESET_BYTES = _RESET.size


class Reason:
    """Why a HELLO is refused."""

    VERSION = 1
    UNSEALED = 2
    KEY = 3


class Hello(NamedTuple):
    """`clear` are the bytes before the sealed ones: they are authenticated with them."""

    version: int
    key_id: bytes
    public: bytes
    cookie: bytes
    number: int
    clear: bytes = b""
    sealed: bytes = b""

    @property
    def hello_id(self) -> bytes:
        return self.public[:8]


class Retry(NamedTuple):
    hello_id: bytes
    cookie: bytes

    def built(self) -> bytes:
        return _RETRY.pack(0xF2, VERSION, *self)


class Accept(NamedTuple):
    """`clear` as in `Hello`."""

    hello_id: bytes
    cid: bytes
    public: bytes
    number: int
    clear: bytes = b""
    sealed: bytes = b""

    def head(self) -> bytes:
        """The clear bytes."""
        return _ACCEPT.pack(0xF3, VERSION, *self[:4])


class Refused(NamedTuple):
    hello_id: bytes
    reason: int

    def built(self) -> bytes:
        return _REFUSED.pack(0xF4, VERSION, *self)


class Reset(NamedTuple):
    cid: bytes
    token: bytes

    def built(self) -> bytes:
        return _RESET.pack(0xF5, *self)


Packet = Hello | Retry | Accept | Refused | Reset


def hello_clear(key_id: bytes, public: bytes, cookie: bytes, number: int) -> bytes:
    """The clear bytes of a HELLO."""
    return _HELLO.pack(0xF1, VERSION, key_id, public, cookie, number)


def parse(datagram: bytes) -> Packet | None:
    """What a datagram is that is not short; None: nothing that we know. It never raises.

    Of another version only HELLO is told, so that it can be refused; its first 26 bytes and its size are the
    same in every version.
    """
    size = len(datagram)
    if not 2 <= size <= LARGEST:
        return None
    kind, version = datagram[0], datagram[1]
    if kind == 0xF5:
        return Reset(*_RESET.unpack(datagram)[1:]) if size == RESET_BYTES else None
    if kind == 0xF1 and size == LARGEST:
        return Hello(*_HELLO.unpack_from(datagram)[1:])._replace(
            clear=datagram[: _HELLO.size], sealed=datagram[_HELLO.size :]
        )
    if version != VERSION and kind != 0xF4:
        return None
    if kind == 0xF2 and size == _RETRY.size:
        return Retry(*_RETRY.unpack(datagram)[2:])
    if kind == 0xF3 and size >= _ACCEPT.size:
        return Accept(*_ACCEPT.unpack_from(datagram)[2:])._replace(
            clear=datagram[: _ACCEPT.size], sealed=datagram[_ACCEPT.size :]
        )
    if kind == 0xF4 and size == _REFUSED.size:
        return Refused(*_REFUSED.unpack(datagram)[2:])
    return None
