"""What this wire says and others do not: users by bare ids, its own message ids, four headers.

A client of another wire may set these headers as well.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from imgateway.errors import InvalidAddress
from imgateway.frames import MAX_ID_BYTES, MAX_MSG_ID_BYTES, Address, check_id, user_address
from imgateway.wire import imgateway_pb2 as pb

from .packet import NOBODY, SERVER, quoted

__all__ = ("BRIDGE", "FP", "QOS", "TYPEU", "UPLINK", "as_data", "as_msg_id", "as_typeu", "as_user")

TYPEU = "mobileimsdk-typeu"
"""The header that keeps the application's own type, unless that is -1."""
BRIDGE = "mobileimsdk-bridge"
"""The header that says, with "1", that a message came from a web bridge."""
FP = "mobileimsdk-fp"
"""The header that keeps an fp that could not be the message's id; empty: there was none."""
QOS = "mobileimsdk-qos"
"""The header that says, with "0", that the sender wants no receipt."""

UPLINK = Address("service", "uplink")
"""Where that goes which is for the server."""

_NUMBER = re.compile("-?[0-9]{1,10}").fullmatch


def as_user(text: str) -> Address | None:
    """The address of a user; None: nobody can have this id."""
    return _known_user(text) if len(text) <= MAX_ID_BYTES else None


@lru_cache(maxsize=16384)
def _known_user(text: str) -> Address | None:
    if text in (SERVER, NOBODY):
        return None
    try:
        return user_address(check_id(text))
    except InvalidAddress:
        return None


def as_msg_id(fp: str) -> str:
    """The very fp, if it can be a message's id, or else its digest."""
    if len(fp) <= MAX_MSG_ID_BYTES:
        if fp.isascii() and fp.isprintable():
            return fp
        try:
            return check_id(fp)
        except InvalidAddress:
            pass
    return sha256(fp.encode()).hexdigest()


def as_data(message: pb.Message) -> bytes | None:
    """The body as a JSON string; None: there is none, or it is of a type that is no text.

    :raises UnicodeDecodeError: it should be text and is none.
    """
    kind = message.content_type
    body = message.body
    if kind == "text/plain" or (not kind and body) or _is_text(kind):
        return quoted(body.decode())
    return None


def _is_text(kind: str) -> bool:
    kind = kind.partition(";")[0].rstrip().lower()
    return kind.startswith("text/") or kind == "application/json" or kind.endswith("+json")


def as_typeu(text: str | None) -> int:
    """What the header says; -1 without it, or if that is no number of this wire."""
    number = int(text) if text is not None and _NUMBER(text) else -1
    return number if -(2**31) <= number < 2**31 else -1
