"""The one object of this wire, read leniently and always written the same way.

It is written with the fields in this order, absent ones left out: bridge, type, dataContent, from, to, fp,
QoS, typeu, sm. Whoever reads must take a missing field, null, numbers in quotes and texts without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec.json
from msgspec import Meta, Struct

from imgateway.errors import BadFrame

__all__ = (
    "ACK",
    "DATA",
    "ECHO",
    "ECHOED",
    "ERROR",
    "KEEPALIVE",
    "KEPT",
    "KICKOUT",
    "LOGGED_IN",
    "LOGIN",
    "LOGOUT",
    "NOBODY",
    "SERVER",
    "Greeting",
    "Packet",
    "quoted",
    "read_greeting",
    "read_packet",
    "write_packet",
)

LOGIN, KEEPALIVE, DATA, LOGOUT, ACK, ECHO = range(6)
LOGGED_IN, KEPT, ERROR, ECHOED, KICKOUT = 50, 51, 52, 53, 54

SERVER = "0"
"""As `from` or `to`: the server itself."""
NOBODY = "-1"

Int = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Long = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Packet(Struct, gc=False, rename={"sender": "from", "data": "dataContent", "qos": "QoS"}):
    """What a client said. `sm` is the server's to fill, and goes no further than back in an answer."""

    bridge: bool = False
    type: Int = 0
    data: str | None = None
    sender: str | None = None
    to: str | None = None
    fp: str | None = None
    qos: bool = False
    typeu: Int = 0
    sm: Long = 0


class Greeting(
    Struct, gc=False, rename={"user": "loginUserId", "token": "loginToken", "first": "firstLoginTime"}
):
    """What a login carries in its dataContent. `first`: when this login began, 0 if it begins now."""

    user: str | None = None
    token: str | None = None
    first: Long = 0


_NUMBER = re.compile(r"-?[0-9]{1,19}(\.[0-9]{1,9})?").fullmatch
_T = TypeVar("_T", Packet, Greeting)

# Well typed is what clients send; whatever is not is read once more, by hand.
_packet = msgspec.json.Decoder(Packet).decode
_greeting = msgspec.json.Decoder(Greeting).decode
_fields = msgspec.json.Decoder(dict[str, Any]).decode
quoted = msgspec.json.Encoder().encode
"""A text as a JSON string; text that came from here or out of a log is valid Unicode."""


def read_packet(body: bytes) -> Packet:
    """:raises BadFrame: it is no such object."""
    try:
        return _packet(body)
    except msgspec.ValidationError:
        return _lenient(body, Packet)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadFrame("no JSON object") from None


def read_greeting(text: str | None) -> Greeting:
    """:raises BadFrame: it is no such object."""
    try:
        return _greeting(text or "")
    except msgspec.ValidationError:
        return _lenient(text or "", Greeting)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadFrame("a login without its data") from None


def _lenient(body: bytes | str, kind: type[_T]) -> _T:
    try:
        fields = _fields(body)
        known = {}
        for field in msgspec.structs.fields(kind):
            value = fields.get(field.encode_name)
            if value is not None:
                known[field.encode_name] = _AS[type(field.default)](value)
        return msgspec.convert(known, kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ArithmeticError, TypeError, ValueError):
        # Their texts quote what the peer sent.
        raise BadFrame("no JSON object, or a field with a value that it cannot have") from None


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value.lower() == "true"
    raise TypeError


def _as_int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, str):
        if not _NUMBER(value):
            raise ValueError
        value = float(value) if "." in value else value
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


_AS: dict[type, Callable[[Any], object]] = {type(None): _as_text, bool: _as_bool, int: _as_int}


def write_packet(
    kind: int,
    data: bytes | None,
    sender: bytes,
    to: bytes,
    fp: bytes | None = None,
    qos: bool = False,
    typeu: int = -1,
    bridge: bool = False,
    sm: int = -1,
) -> bytes:
    """The object as this wire wants it. Texts come as `quoted` made them; None is left out."""
    head = (
        _HEADS[kind] if kind in _HEADS and not bridge else b'{"bridge":%s,"type":%d' % (_BOOLS[bridge], kind)
    )
    if typeu == sm == -1:
        tail = _TAILS[qos]
    else:
        tail = b',"QoS":%s,"typeu":%d,"sm":%d}' % (_BOOLS[qos], typeu, sm)
    if data is not None and fp is not None:
        return b"".join(
            (head, b',"dataContent":', data, b',"from":', sender, b',"to":', to, b',"fp":', fp, tail)
        )
    content = b"" if data is None else b',"dataContent":' + data
    named = b"" if fp is None else b',"fp":' + fp
    return b"".join((head, content, b',"from":', sender, b',"to":', to, named, tail))


# What nearly every object begins and ends with.
_BOOLS = (b"false", b"true")
_HEADS = {kind: b'{"bridge":false,"type":%d' % kind for kind in (DATA, ACK, KEPT)}
_TAILS = tuple(b',"QoS":%s,"typeu":-1,"sm":-1}' % qos for qos in _BOOLS)
