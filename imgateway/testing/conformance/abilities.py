"""What a wire can say, as far as scenes need to know it: what it cannot say, a client cannot get wrong.

The codecs know how each thing is said; here stands only whether. A wire that is not in the table is taken for
one that has no more than messages and their acknowledgements.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

from imgateway.interfaces import IProtocolAdapter
from imgateway.wire.framing import length_prefixed, varint

__all__ = ("Ability", "abilities", "with_unknown_fields")


class Ability(Enum):
    """Each with the words for what a wire without it cannot do."""

    POSITIONS = "say where in its log a client is"
    RANGES = "say that a range is empty, or not whole"
    ONCE = "ask a client to show a message once"
    REPEATS = "say that a message may have been sent before"
    WINDOW = "tell a client how many publishes may wait for an answer"
    LIMITS = "tell a client how large a body may be"
    RENEWAL = "take a fresh token on a living connection"
    QUESTIONS = "ask a client"
    BEATS = "tell a client how often to give a sign of life"
    RETURN = "say when to come again"
    FAREWELL = "tell a client to stay away"
    PATIENCE = "rely on its transport: it repeats on a living connection"
    EXTENSION = "grow by fields that a client does not know"


_EVERYTHING = frozenset(Ability)
_TABLE: dict[str, frozenset[Ability]] = {
    "native": _EVERYTHING,
    "json": _EVERYTHING,
    "mobileimsdk": frozenset({Ability.ONCE, Ability.FAREWELL}),
    "mqtt": frozenset({Ability.PATIENCE, Ability.REPEATS}),
}
_LATER: dict[tuple[str, int], frozenset[Ability]] = {("mqtt", 5): frozenset({Ability.WINDOW})}
"""What a version of a wire can say besides. MQTT 5 also says why a connection ends, but of no reason that a
client must stay away; and how large a packet may be, but not a body."""


def abilities(wire: IProtocolAdapter, codec: Any = None) -> frozenset[Ability]:
    """What can be said on this wire.

    :param codec: the wire's, of a client that has greeted; it may know the client's version.
    """
    version: int = getattr(codec, "version", 0)
    return _TABLE.get(wire.name, frozenset()) | _LATER.get((wire.name, version), frozenset())


def with_unknown_fields(wire: IProtocolAdapter, stream: bool, deliver: bytes) -> bytes:
    """The frame of a Deliver, as a later version might write it: with one field more in it, and one beside
    it.

    :param deliver: what the wire's codec made of it; one that has `Ability.EXTENSION`.
    """
    change = _json_grown if wire.name == "json" else _proto_grown
    if not stream:
        return change(deliver)
    return length_prefixed(change(deliver[_after_varint(deliver, 0) :]))


def _json_grown(data: bytes) -> bytes:
    tree = json.loads(data)
    tree["deliver"]["fromTheFuture"] = {"deep": [1, None]}
    for entry in tree["deliver"]["entries"]:
        entry["message"]["fromTheFuture"] = True
    return json.dumps(tree, ensure_ascii=False).encode()


def _proto_grown(data: bytes) -> bytes:
    """Field 3 of a Frame is the Deliver: a tag, its length, its bytes."""
    inner = data[_after_varint(data, 1) :] + _UNKNOWN
    return data[:1] + varint(len(inner)) + inner + _UNKNOWN


_UNKNOWN = varint(1000 << 3) + varint(1) + varint(1001 << 3 | 2) + varint(6) + b"future"
"""A number and a text, far above the fields that there are."""


def _after_varint(data: bytes, at: int) -> int:
    while data[at] > 127:
        at += 1
    return at + 1
