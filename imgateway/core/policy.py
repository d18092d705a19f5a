"""Who may do what to which kind of address, when nothing else was agreed: one table.

A service may do everything. What is not in the table, nobody else may.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from imgateway.frames import Address

__all__ = ("ACTIONS", "RULES", "Rule", "may")

ACTIONS = ("publish", "subscribe", "read")


class Rule(Enum):
    """What a client that is no service needs."""

    FREE = "anyone logged in"
    OWN = "its own only"
    GRANTED = "those that its token names"


RULES: Mapping[tuple[str, str], Rule] = {
    ("publish", "user"): Rule.FREE,
    ("publish", "device"): Rule.FREE,
    ("publish", "service"): Rule.FREE,
    ("publish", "room"): Rule.GRANTED,
    ("publish", "topic"): Rule.GRANTED,
    ("subscribe", "user"): Rule.OWN,
    ("subscribe", "room"): Rule.FREE,
    ("subscribe", "topic"): Rule.GRANTED,
    ("read", "user"): Rule.OWN,
    ("read", "room"): Rule.FREE,
    ("read", "topic"): Rule.GRANTED,
}


def may(user: str, service: bool, grants: Mapping[str, Any], action: str, address: Address) -> bool:
    """May `user` do `action` (of `ACTIONS`) to `address`?

    :param grants: the ids that the token names, under ``rooms`` and ``topics``; anything but a collection
        of ids (a bare text too) grants nothing.
    """
    if service:
        return action in ACTIONS
    rule = RULES.get((action, address.kind))
    if rule is Rule.FREE:
        return True
    if rule is Rule.OWN:
        return address.id == user
    if rule is Rule.GRANTED:
        granted = grants.get(address.kind + "s")
        return (
            isinstance(granted, Collection) and not isinstance(granted, str | bytes) and address.id in granted
        )
    return False
