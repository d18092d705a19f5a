"""What several parts of the API read the same way: ids, addresses, bodies."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from imgateway.errors import InvalidAddress
from imgateway.frames import Address, check_id, parse_address
from imgateway.router.problems import Problem

__all__ = ("addresses_of", "body_of", "id_of")


def id_of(text: str, what: str) -> str:
    """:raises Problem: it is no id; `what` says where it stands."""
    try:
        return check_id(text)
    except InvalidAddress as error:
        raise Problem("invalid-request", f"{what}: {error}") from None


def addresses_of(texts: Sequence[str], most: int) -> tuple[Address, ...]:
    """:raises Problem: one of them is no address to push to, or they are too many."""
    if len(texts) > most:
        raise Problem(
            "invalid-request",
            f"to: {len(texts)} addresses, and {most} are the most",
            "make several pushes, or a push task: POST /v1/tasks",
        )
    found = []
    for place, text in enumerate(texts):
        try:
            address = parse_address(text)
        except InvalidAddress as error:
            raise Problem("invalid-request", f"to[{place}]: {error}") from None
        if address.kind == "node":
            raise Problem("invalid-request", f"to[{place}]: nodes take no messages", "name users or rooms")
        found.append(address)
    return tuple(found)


def body_of(
    body: bytes | UnsetType, text: str | UnsetType, json: msgspec.Raw | UnsetType, needed: bool
) -> tuple[bytes, str]:
    """The bytes that were given as one of three, and the content type that they have if no other is said.

    :raises Problem: several were given, or none and `needed`.
    """
    given = [one for one in (body, text, json) if one is not UNSET]
    if len(given) > 1 or (needed and not given):
        raise Problem("invalid-request", "give one of body, text and json", "the others are left out")
    if isinstance(text, str):
        return text.encode(), "text/plain; charset=utf-8"
    if isinstance(json, msgspec.Raw):
        return bytes(json), "application/json"
    return body if isinstance(body, bytes) else b"", ""
