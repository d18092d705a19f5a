"""What processes of a cluster say, as values, and their bytes: one msgpack map with its ``kind``.

A kind that is not known, and a field that is not, are a newer version's: they are passed over, so that
nodes of two versions get along while a cluster is brought up to date. So a kind never changes its meaning,
and a new field has a value that stands for "not said".
"""

from __future__ import annotations

from msgspec import DecodeError, Struct, msgpack

from imgateway.errors import BadFrame
from imgateway.frames import Message

__all__ = (
    "Answer",
    "Ask",
    "Control",
    "Drain",
    "Kick",
    "Question",
    "Stored",
    "Undrain",
    "UnknownKind",
    "decode_control",
    "encode_control",
)


class UnknownKind(BadFrame):
    """A frame of a kind that this version does not know; the message is the kind."""


class Answer(Struct, frozen=True, kw_only=True, tag_field="kind", tag="answer"):
    """The answer to a `Question`, with its number. `code`: a `frames.ResponseCode`, or a client's own."""

    number: int
    code: int = 0
    body: bytes = b""
    count: int = 0


class Question(Struct, frozen=True, kw_only=True, tag_field="kind", tag="question"):
    """What is answered. `number` is the asker's own; `reply_to` its incarnation."""

    number: int = 0
    reply_to: str = ""


class Kick(Question, frozen=True, kw_only=True, tag_field="kind", tag="kick"):
    """Close what you have of the user's sessions (`device` None: all). The answer's `count` says how many."""

    user: str
    device: str | None = None
    reason: str = ""


class Ask(Question, frozen=True, kw_only=True, tag_field="kind", tag="ask"):
    """Ask a client of yours; the answer's `code` and `body` are the client's."""

    user: str
    device: str
    service: str
    method: str = ""
    body: bytes = b""
    deadline_ms: int = 10_000


class Drain(Question, frozen=True, kw_only=True, tag_field="kind", tag="drain"):
    """Send your clients away, so many a second, and take nobody until told so. The answer's `count` is the
    order's number, see `NodeInfo.orders`; 0: you stop, or have no clients."""

    rate: int


class Stored(Struct, frozen=True, kw_only=True, tag_field="kind", tag="stored"):
    """Tell your session listeners: these, each with its address as text, were stored for users none of whose
    devices is online."""

    messages: tuple[tuple[str, Message], ...]


class Undrain(Question, frozen=True, kw_only=True, tag_field="kind", tag="undrain"):
    """Take clients again. The answer is that to `Drain`."""


Control = Answer | Kick | Ask | Drain | Undrain | Stored

_decoder = msgpack.Decoder(Control)
_kinds = frozenset({"answer", "kick", "ask", "drain", "undrain", "stored"})


def encode_control(frame: Control) -> bytes:
    """The bytes of one frame."""
    return msgpack.encode(frame)


def decode_control(payload: bytes) -> Control:
    """The frame in these bytes.

    :raises UnknownKind: it is none of ours.
    :raises BadFrame: it is none at all, or a field has a value that it may not have.
    """
    try:
        frame: Control = _decoder.decode(payload)
        return frame
    except (DecodeError, UnicodeDecodeError) as error:
        kind = _kind(payload)
        if kind and kind not in _kinds:
            raise UnknownKind(kind) from None
        raise BadFrame(f"no control frame: {error}") from None


def _kind(payload: bytes) -> str:
    """What it calls itself; "" if that is nothing that we can read."""
    try:
        said = msgpack.decode(payload)
    except (DecodeError, UnicodeDecodeError):
        return ""
    kind = said.get("kind") if isinstance(said, dict) else None
    return kind if isinstance(kind, str) else ""
