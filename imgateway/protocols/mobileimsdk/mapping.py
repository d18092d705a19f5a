"""What this wire says and others do not: users by bare ids, its own message ids, four headers.

A client of another wire may set these headers as well.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b, sha256

from google.protobuf.message import DecodeError

from imgateway.errors import InvalidAddress
from imgateway.frames import MAX_ID_BYTES, MAX_MSG_ID_BYTES, Address, Entry, Publish, check_id, user_address
from imgateway.wire import imgateway_pb2 as pb

from .packet import DATA, NOBODY, SERVER, Packet, quoted, write_packet

__all__ = (
    "BRIDGE",
    "FP",
    "QOS",
    "TYPEU",
    "UPLINK",
    "WIRE",
    "as_msg_id",
    "as_object",
    "as_publish",
    "as_receiver",
    "as_user",
)

WIRE = "mobileimsdk"
"""Its name, and so the device of everybody who logs in with a token for any device."""

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


def as_receiver(text: str) -> Address | None:
    """Where that goes which is for `text`; None: it is for nobody."""
    return UPLINK if text == SERVER else as_user(text)


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


def as_publish(packet: Packet, to: Address, msg_id: str, keeps_fp: bool) -> Publish:
    """What a client sends. `keeps_fp`: from `msg_id` alone receivers would not know its fp."""
    data, fp, qos = packet.data, packet.fp, packet.qos
    headers: tuple[tuple[str, str], ...] = ()
    if packet.typeu != -1:
        headers = ((TYPEU, str(packet.typeu)),)
    if packet.bridge:
        headers += ((BRIDGE, "1"),)
    if (keeps_fp or msg_id != fp) and (fp or qos):
        headers += ((FP, fp or ""),)
    if not qos:
        headers += ((QOS, "0"),)
    if data is None:
        return Publish(msg_id, (to,), headers=headers)
    return Publish(msg_id, (to,), "text/plain", data.encode(), headers=headers)


def as_object(
    entry: Entry, epoch: int, is_mail: bool, to: bytes, sm: int
) -> tuple[bytes, tuple[str, str] | None] | None:
    """What a client is sent, and the sender and the fp that its receipt will name (None: it wants none).

    None: this wire has no words for it. `is_mail`: it has a place in the client's mailbox. `to` is `quoted`.
    """
    try:
        message = pb.Message.FromString(entry.message)
        data = _as_data(message)
    except (DecodeError, UnicodeError):
        return None
    if data is None and message.body:
        return None
    sender, fp, qos, typeu, bridge = message.sender, None, is_mail, -1, False
    headers = message.headers
    if len(headers):
        fp, typeu, bridge = headers.get(FP), _as_typeu(headers.get(TYPEU)), headers.get(BRIDGE) == "1"
        qos = is_mail and headers.get(QOS) != "0"
    if fp is None and qos:
        # Another wire's ids are each sender's own affair; receivers here know a message by its fp alone.
        fp = message.msg_id if message.device == WIRE else _made_fp(epoch, entry)
    if not fp:
        return write_packet(DATA, data, quoted(sender), to, None, qos, typeu, bridge, sm), None
    body = write_packet(DATA, data, quoted(sender), to, quoted(fp), qos, typeu, bridge, sm)
    return body, ((sender, fp) if qos else None)


def _made_fp(epoch: int, entry: Entry) -> str:
    """Always the same for an entry, and nobody's to guess, who might use it before."""
    return f"{epoch:x}-{blake2b(entry.message, digest_size=8).hexdigest()}-{entry.seq:x}"


def _as_data(message: pb.Message) -> bytes | None:
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


def _as_typeu(text: str | None) -> int:
    """What the header says; -1 without it, or if that is no number of this wire."""
    number = int(text) if text is not None and _NUMBER(text) else -1
    return number if -(2**31) <= number < 2**31 else -1
