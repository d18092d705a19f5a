"""The netty-chat wire: protobuf `Msg` behind varint32 lengths, for clients that nobody here wrote.

Such a client logs in with a number and nothing else, is answered nothing, and prints every frame that is no
PONG as chat. So it is sent PONG and CHAT only. It acknowledges nothing either: what was written has arrived
when its system has taken all of it and it is heard again (`Traits.acks`).

What this wire says and others do not rides in three headers; a client of another wire may set them as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256

import msgspec.json
from google.protobuf.message import DecodeError
from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.errors import BadFrame, InvalidAddress, UnexpectedFrame
from imgateway.frames import (
    MAX_MSG_ID_BYTES,
    Deliver,
    Frame,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Publish,
    Welcome,
    check_id,
    parse_address,
)
from imgateway.interfaces import Carriage, ICodec, IProtocolAdapter, Traits
from imgateway.protocols.plain import PlainCodec
from imgateway.wire import chat_pb2 as pb
from imgateway.wire.framing import Splitter, length_prefixed, varint
from imgateway.wire.messages import decode_message

CHAT, ACK, LOGIN, PING, PONG, KICK = range(1, 7)
SINGLE, GROUP = 1, 2
TEXT = 1

TO = "chat-to"
"""The header that keeps `to_uid_list`: numbers with commas."""
FORMAT = "chat-format"
"""The header that keeps a `format` other than TEXT."""
ID = "chat-id"
"""The header that keeps a `msg_id` that is too long to be ours."""

MAX_ID = 1_024
"""Bytes of a `msg_id`, which is a UUID as a rule."""
MAX_GROUP = 500
"""Receivers of one frame. Their list goes to each of them, and must stay well below what headers may have."""

_UID = re.compile("-?[1-9][0-9]{0,18}").fullmatch
_FORMAT = re.compile("-?[0-9]{1,10}").fullmatch


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    """A body as these clients make it."""

    text: str


_text = msgspec.json.Decoder(_Text).decode


@implementer(ICodec)
class ChatCodec(Splitter, PlainCodec):
    """Holds one unfinished frame, and who logged in."""

    wire = "chat"  # a Deliver names its receiver's mailbox, and nothing else here differs by connection
    silence_s = 10.0  # the clients ping every second, and know their server to close after ten

    __slots__ = ("_asked", "_most", "_uid")

    def __init__(self, max_frame_bytes: int) -> None:
        super().__init__(max_frame_bytes)
        self._uid = 0
        self._asked = ""  # the id of the PING that was not answered yet
        self._most = Limits().max_addresses

    def receive(self, data: bytes) -> Iterator[Frame | bytes]:
        for frame in self.feed(data):
            yield from self._frames(frame)

    def encode(self, frame: Frame) -> bytes | None:
        if isinstance(frame, Deliver):
            return _deliver(frame)
        if isinstance(frame, Pong):
            time_ms = min(frame.time_ms, 2**63 - 1)
            pong = pb.Msg(msg_id=self._asked, to_uid=self._uid, msg_type=PONG, timestamp=time_ms)
            return length_prefixed(pong.SerializeToString())
        if isinstance(frame, Welcome):
            self._most = frame.limits.max_addresses
        return b""

    def _frames(self, data: bytes) -> Iterator[Frame]:
        try:
            msg = pb.Msg.FromString(data)
        except DecodeError:
            raise BadFrame("no Msg of this protocol") from None
        kind = msg.msg_type
        if kind == PING:
            self._asked = msg.msg_id
            yield Ping()
        elif kind == CHAT:
            yield from self._publishes(msg)
        elif kind == LOGIN:
            yield from self._login(msg.from_uid)
        elif kind not in (ACK, PONG, KICK):  # these have nothing to say to a server
            raise BadFrame("an unknown msg_type")

    def _login(self, uid: int) -> Iterator[Frame]:
        if not uid:
            raise BadFrame("a login needs from_uid")
        if not self._uid:
            self._uid = uid
            yield Hello("", user=str(uid))
        elif uid != self._uid:
            raise UnexpectedFrame("somebody else is logged in on this connection")

    def _publishes(self, msg: pb.Msg) -> Iterator[Frame]:
        """One Publish, or as many as it takes: the receivers of a large group are more than one may name.

        The same id in all of them is no repeat: none of the logs gets it twice. To nobody, 0, there is none.
        """
        headers = {}
        if msg.chat_type == GROUP:
            uids: Sequence[int] = [uid for uid in msg.to_uid_list if uid]
            if len(uids) > MAX_GROUP:
                raise BadFrame(f"a message to {len(uids)}; {MAX_GROUP} may be named")
            headers[TO] = ",".join(map(str, uids))
            uids = list(dict.fromkeys(uids))
        elif msg.chat_type == SINGLE:
            uids = (msg.to_uid,) if msg.to_uid else ()
        else:
            raise BadFrame("an unknown chat_type")
        msg_id = msg.msg_id
        size = len(msg_id.encode())
        if MAX_MSG_ID_BYTES < size <= MAX_ID:
            headers[ID] = msg_id
            msg_id = sha256(msg_id.encode()).hexdigest()
        try:
            check_id(msg_id)
        except InvalidAddress:
            raise BadFrame(f"a msg_id must be 1 to {MAX_ID} bytes without control characters") from None
        if msg.format != TEXT:
            headers[FORMAT] = str(msg.format)
        content_type, body = _content(msg.body)
        extra = tuple(sorted(headers.items()))
        for begin in range(0, len(uids), self._most):
            to = tuple([parse_address(f"user:{uid}") for uid in uids[begin : begin + self._most]])
            yield Publish(msg_id, to, content_type, body, headers=extra)


def _content(body: str) -> tuple[str, bytes]:
    """Text becomes text, so that every wire can say it; whatever else stands in a body stays as it is."""
    try:
        return "text/plain", _text(body).text.encode()
    except ValueError:
        return "application/json", body.encode()


def _deliver(deliver: Deliver) -> bytes | None:
    """One CHAT for each entry: what all receivers share, and between its two halves whom it is for."""
    address = deliver.address
    uid = _uid(address.id) if address.kind == "user" else 0
    to = b"\x18" + varint(uid % 2**64) if uid else b""
    frames = []
    for entry in deliver.entries:
        halves = _halves(entry.message, address.kind == "user")
        if halves is None:
            return None
        head, tail = halves
        frames.append(length_prefixed(head + to + tail))
    return b"".join(frames)


# A message to a group comes by here once for each receiver, in one go.
@lru_cache(maxsize=16)
def _halves(stored: bytes, is_direct: bool) -> tuple[bytes, bytes] | None:
    """A stored message as a Msg: what stands before `to_uid`, and what behind; None: unsayable."""
    try:
        message = decode_message(stored)
        headers = dict(message.headers)
        sender = _uid(message.sender)
        body = _body(message, sender)
        if body is None:
            return None
        group = _group(headers.get(TO, ""))
        head = pb.Msg(msg_id=headers.get(ID, message.msg_id), from_uid=sender)
        tail = pb.Msg(
            format=_format(headers.get(FORMAT, "")),
            msg_type=CHAT,
            chat_type=SINGLE if is_direct and not group else GROUP,
            timestamp=message.sent_ms,
            body=body,
            to_uid_list=group,
        )
        return head.SerializeToString(), tail.SerializeToString()
    except (BadFrame, ValueError, RecursionError):
        return None


def _body(message: Message, sender: int) -> str | None:
    """The JSON of a body. A sender that is no number stands in it, for `from_uid` cannot name it."""
    kind = message.content_type.partition(";")[0].strip().lower()
    origin = {} if sender else {"from": message.sender}
    if kind.startswith("text/") or (not kind and message.body):
        return msgspec.json.encode({**origin, "text": message.body.decode()}).decode()
    if kind != "application/json":
        return None
    if sender:
        return message.body.decode()
    inner = msgspec.json.decode(message.body, type=msgspec.Raw)  # raises if it is no JSON
    return msgspec.json.encode({**origin, "json": inner}).decode()


def _uid(name: str) -> int:
    """The number that a user's name is on this wire; 0: it is none."""
    number = int(name) if _UID(name) else 0
    return number if -(2**63) <= number < 2**63 else 0


def _group(text: str) -> list[int]:
    """Who else got it; nobody, if a client of another wire wrote something else there."""
    uids = [_uid(name) for name in text.split(",")]
    return uids if 0 not in uids else []


def _format(text: str) -> int:
    number = int(text) if _FORMAT(text) else TEXT
    return number if -(2**31) <= number < 2**31 else TEXT


@implementer(IPlugin, IProtocolAdapter)
class ChatAdapter:
    """``chat``: on byte streams. Nobody proves who they are; who listens for it knows that."""

    name = "chat"
    carriage = Carriage(message=False)
    traits = Traits(acks=False, batches=False, gaps=False, pings=False, pulls=False, authenticates=False)

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        if not stream:
            raise ValueError("chat needs a byte stream")
        return ChatCodec(max_frame_bytes)
