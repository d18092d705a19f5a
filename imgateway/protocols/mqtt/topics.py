"""MQTT's topics and our addresses: exact ones only.

::

    user/ID    device/USER/DEVICE    room/ID    area/ID    all    service/NAME    topic/ANY/LEVELS

What follows ``topic/`` is the topic's id as it stands. In the others a ``/`` of an id is written ``%2F``; in
all of them ``+`` and ``#``, which no topic of MQTT may contain, are written ``%2B`` and ``%23``, and ``%`` is
``%25``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from imgateway.errors import InvalidAddress
from imgateway.frames import EVERYONE, Address, check_id

__all__ = ("address_of", "has_wildcards", "topic_of")

_ESCAPED = re.compile("%(25|2F|2B|23)", re.IGNORECASE)
_PLAIN = {"25": "%", "2F": "/", "2B": "+", "23": "#"}
_STRAY = re.compile("%(?!25|2F|2B|23)", re.IGNORECASE)
_ONE_ID = frozenset({"user", "room", "area", "service"})


@lru_cache(maxsize=16384)
def address_of(topic: str) -> Address:
    """The address that a topic names.

    :raises InvalidAddress: none that there is here.
    """
    if topic == "all":
        return EVERYONE
    kind, slash, rest = topic.partition("/")
    if kind == "topic" and slash:
        return Address("topic", _id(rest))
    if kind in _ONE_ID and slash and "/" not in rest:
        return Address(kind, _id(rest))
    if kind == "device":
        user, slash, device = rest.partition("/")
        if slash and "/" not in device:
            return Address("device", _id(user), _id(device))
    raise InvalidAddress("there is no such topic here")


def _id(written: str) -> str:
    if "%" not in written:
        return check_id(written)
    if _STRAY.search(written):
        raise InvalidAddress("only %2F, %2B, %23 and %25 may follow a % in a topic")
    return check_id(_ESCAPED.sub(lambda found: _PLAIN[found[1].upper()], written))


@lru_cache(maxsize=16384)
def topic_of(address: Address) -> str:
    """The topic of an address; `address_of` reads it back."""
    kind, ident, device = address
    if kind == "all":
        return "all"
    if kind == "topic":
        return f"topic/{_escaped(ident)}"
    topic = f"{kind}/{_level(ident)}"
    return f"{topic}/{_level(device)}" if kind == "device" else topic


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("+", "%2B").replace("#", "%23")


def _level(text: str) -> str:
    return _escaped(text).replace("/", "%2F")


def has_wildcards(topic: str) -> bool:
    """It names more than one topic."""
    return "+" in topic or "#" in topic
