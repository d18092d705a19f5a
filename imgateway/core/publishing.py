"""What becomes of a publish, whoever takes it: a client's node, or business code's node or router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imgateway.frames import (
    MAX_CONTENT_TYPE_BYTES,
    MAX_HEADER_BYTES,
    RING_KINDS,
    Address,
    Message,
    Outcome,
    OutcomeCode,
    Publish,
    header_bytes,
    user_address,
)

__all__ = (
    "FORBIDDEN",
    "OK",
    "TOO_LARGE",
    "Answer",
    "is_too_large",
    "may_publish",
    "message_of",
    "once",
    "spread",
)

OK = Outcome(OutcomeCode.OK)
FORBIDDEN = Outcome(OutcomeCode.FORBIDDEN)
TOO_LARGE = Outcome(OutcomeCode.TOO_LARGE)

Answer = tuple[Outcome, ...]
"""One for each address, in the order of `to`."""


def is_too_large(publish: Publish, max_body_bytes: int) -> bool:
    """Whether its body, its content type or its headers are more than may be published, and than any frame
    delivers."""
    return (
        len(publish.body) > max_body_bytes
        or len(publish.content_type) > MAX_CONTENT_TYPE_BYTES
        or (bool(publish.headers) and header_bytes(publish.headers) > MAX_HEADER_BYTES)
    )


def may_publish(may: Callable[[Any, str, Address], bool], identity: Any, address: Address, lane: int) -> bool:
    """What a policy's `may` says of a publish to this address in this lane."""
    return may(identity, "publish", address) and (
        not lane or address.kind not in RING_KINDS or may(identity, "publish-first", address)
    )


def message_of(publish: Publish, sender: str, device: str, now_ms: int) -> Message:
    """As its receivers see it, sent now (Unix milliseconds)."""
    return Message(
        publish.msg_id,
        sender,
        device,
        publish.content_type,
        publish.body,
        now_ms,
        now_ms + publish.ttl_s * 1000 if publish.ttl_s else 0,
        publish.headers,
    )


def once(to: tuple[Address, ...]) -> tuple[Address, ...]:
    """For qos 0, which nobody gets twice who is named twice: a device not beside its user either."""
    if len(to) == 1:
        return to
    whole = dict.fromkeys(to)
    return tuple([one for one in whole if not one.device or user_address(one.id) not in whole])


def spread(outcomes: Answer, asked: tuple[Address, ...], to: tuple[Address, ...]) -> Answer:
    """The outcomes of `asked` in the order of `to`; what was not asked for is FORBIDDEN."""
    if asked == to:
        return outcomes
    found = dict(zip(asked, outcomes, strict=True))
    return tuple([found.get(address, FORBIDDEN) for address in to])
