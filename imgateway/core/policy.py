"""Who may do what to which kind of address, when nothing else was agreed: one table.

A service may do everything. What is not in the table, nobody else may.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from imgateway.frames import Address

__all__ = ("ACTIONS", "RULES", "Rule", "areas", "may", "names")

ACTIONS = ("publish", "publish-first", "subscribe", "read")
"""`publish-first`: to lane 1, which goes before the rest and is not dropped for it; besides `publish`."""


class Rule(Enum):
    """What a client that is no service needs."""

    FREE = "anyone logged in"
    OWN = "its own only"
    GRANTED = "those that its token names"
    JOINED = "those that it is in, or that its token names"


RULES: Mapping[tuple[str, str], Rule] = {
    ("publish", "user"): Rule.FREE,
    ("publish", "device"): Rule.FREE,
    ("publish", "service"): Rule.FREE,
    ("publish", "room"): Rule.JOINED,
    ("publish", "topic"): Rule.GRANTED,
    ("publish-first", "room"): Rule.GRANTED,
    ("subscribe", "user"): Rule.OWN,
    ("subscribe", "room"): Rule.FREE,
    ("subscribe", "topic"): Rule.GRANTED,
    ("read", "user"): Rule.OWN,
    ("read", "room"): Rule.FREE,
    ("read", "topic"): Rule.GRANTED,
}


def may(user: str, service: bool, grants: Mapping[str, Any], action: str, address: Address) -> bool:
    """May `user` do `action` (of `ACTIONS`) to `address`?

    Of `Rule.JOINED` this says yes: whoever knows which rooms the user's session is in looks there, unless the
    token `names` the room.

    :param grants: the ids that the token names, under ``rooms`` and ``topics``.
    """
    if service:
        return action in ACTIONS
    rule = RULES.get((action, address.kind))
    if rule is Rule.FREE or rule is Rule.JOINED:
        return True
    if rule is Rule.OWN:
        return address.id == user
    return rule is Rule.GRANTED and names(grants, address)


def names(grants: Mapping[str, Any], address: Address) -> bool:
    """Does a token with these claims name this address? Anything but a collection of ids (a bare text too)
    names nothing."""
    granted = grants.get(address.kind + "s")
    return isinstance(granted, Collection) and not isinstance(granted, str | bytes) and address.id in granted


def areas(address: Address) -> tuple[str, ...]:
    """The ids of the areas that a room belongs to: what stands before the first dot of its id.

    ``room:games.7`` is in ``area:games``; a room without a dot, and what is no room, in none.
    """
    area, dot, _ = address.id.partition(".")
    return (area,) if dot and area and address.kind == "room" else ()
