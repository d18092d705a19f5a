"""What a push task says: its message, a line's own fields, and the publish that comes of both."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from imgateway.frames import MAX_MSG_ID_BYTES, Address, Publish
from imgateway.router.reading import body_of
from imgateway.router.schema import Headers

__all__ = ("BETWEEN", "Content", "Message", "Own", "Said", "publish_id", "publish_of", "said")

BETWEEN = "·"
"""In ids that are made of others. Given ones are printable ASCII: none of them is met by chance."""
ContentType = Annotated[
    str,
    Meta(
        max_length=255,
        description="What receivers are told; empty: text/plain for text, application/json for json.",
    ),
]
Ttl = Annotated[int, Meta(ge=0, le=31_536_000, description="How long it is good; 0: as long as it is kept.")]


class Content(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of body, text and json."""

    body: Annotated[bytes | UnsetType, Meta(description="The message's bytes, in base64.")] = UNSET
    text: Annotated[str | UnsetType, Meta(description="A text, sent as UTF-8.")] = UNSET
    json: Annotated[msgspec.Raw | UnsetType, Meta(description="Any JSON value, sent as it stands here.")] = (
        UNSET
    )
    content_type: ContentType = ""
    headers: Annotated[Headers, Meta(description="Texts that receivers get with it.")] = {}


class Message(Content, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a task pushes, stored and acknowledged (qos 1): one of body, text and json."""

    ttl_s: Ttl = 0
    lane: Annotated[
        Literal[0, 1], Meta(description="1: goes before what else a room, an area or all sends.")
    ] = 0


class Own(Struct, frozen=True, omit_defaults=True):
    """What one line says otherwise than its task, as it is kept; None: as the task."""

    body: bytes | None = None
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] | None = None
    ttl_s: int | None = None


class Said(Struct, frozen=True, omit_defaults=True):
    """A task's message as it is kept. `msg_id`: its receivers' id of it, from which others are made.
    `between`: what stands between the parts of those; a task keeps what it began with, which at first was a
    point, as others' ids may have one."""

    msg_id: str
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    ttl_s: int = 0
    lane: int = 0
    qos: int = 1
    between: str = "."


def said(content: Content) -> tuple[str, bytes] | None:
    """The content type and the body; None: it has none of body, text and json.

    :raises Problem: it has more than one of them.
    """
    if content.body is UNSET and content.text is UNSET and content.json is UNSET:
        return None
    body, kind = body_of(content.body, content.text, content.json, needed=True)
    return content.content_type or kind, body


def publish_id(base: str, n: int | None, attempt: int, between: str = BETWEEN) -> str:
    """The msg_id of one attempt at one item; `n` None: the item says what its task says.

    The same for whoever pushes it, so that a log takes it once.
    """
    text = base if n is None else f"{base}{between}{n}"
    if attempt:
        text += f"{between}r{attempt}"
    return text if len(text.encode()) <= MAX_MSG_ID_BYTES else sha256(text.encode()).hexdigest()


def publish_of(
    message: Said, own: str | None, n: int, attempt: int, to: tuple[Address, ...], resent: bool
) -> Publish:
    """The publish of one item, or (`own` None) of several that say the same in the same attempt."""
    if own is None:
        content_type, body, headers, ttl_s = (
            message.content_type,
            message.body,
            message.headers,
            message.ttl_s,
        )
    else:
        line = msgspec.json.decode(own, type=Own)
        content_type, body = (
            (message.content_type, message.body) if line.body is None else (line.content_type, line.body)
        )
        headers = message.headers if line.headers is None else line.headers
        ttl_s = message.ttl_s if line.ttl_s is None else line.ttl_s
    return Publish(
        msg_id=publish_id(message.msg_id, None if own is None else n, attempt, message.between),
        to=to,
        content_type=content_type,
        body=body,
        qos=message.qos,
        ttl_s=ttl_s,
        lane=message.lane,
        headers=headers,
        resent=resent,
    )
