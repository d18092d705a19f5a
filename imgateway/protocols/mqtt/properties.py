"""The properties of MQTT 5: which there are, what they hold, and in which packets a client may send them."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from imgateway.protocols.mqtt.packets import Body, Packet, length, text
from imgateway.protocols.mqtt.reasons import Broken, Reason

__all__ = ("NONE", "Properties", "Property", "WILL", "read", "written")


class Property(IntEnum):
    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEPALIVE = 0x13
    AUTH_METHOD = 0x15
    AUTH_DATA = 0x16
    PROBLEM_INFORMATION = 0x17
    WILL_DELAY = 0x18
    RESPONSE_INFORMATION = 0x19
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    USER = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARDS = 0x28
    SHARED = 0x2A


WILL = 0x1000
"""In the place of a packet's first byte: the properties of a will."""

_BYTE, _SHORT, _LONG, _VARIABLE, _BINARY, _TEXT, _PAIR = range(7)
_P = Property
_KINDS = {
    _P.PAYLOAD_FORMAT: _BYTE,
    _P.MESSAGE_EXPIRY: _LONG,
    _P.CONTENT_TYPE: _TEXT,
    _P.RESPONSE_TOPIC: _TEXT,
    _P.CORRELATION: _BINARY,
    _P.SUBSCRIPTION_ID: _VARIABLE,
    _P.SESSION_EXPIRY: _LONG,
    _P.ASSIGNED_CLIENT_ID: _TEXT,
    _P.SERVER_KEEPALIVE: _SHORT,
    _P.AUTH_METHOD: _TEXT,
    _P.AUTH_DATA: _BINARY,
    _P.PROBLEM_INFORMATION: _BYTE,
    _P.WILL_DELAY: _LONG,
    _P.RESPONSE_INFORMATION: _BYTE,
    _P.REASON_STRING: _TEXT,
    _P.RECEIVE_MAXIMUM: _SHORT,
    _P.TOPIC_ALIAS_MAXIMUM: _SHORT,
    _P.TOPIC_ALIAS: _SHORT,
    _P.MAXIMUM_QOS: _BYTE,
    _P.USER: _PAIR,
    _P.MAXIMUM_PACKET_SIZE: _LONG,
    _P.WILDCARDS: _BYTE,
    _P.SHARED: _BYTE,
}
_MESSAGE = frozenset(
    {_P.PAYLOAD_FORMAT, _P.MESSAGE_EXPIRY, _P.CONTENT_TYPE, _P.RESPONSE_TOPIC, _P.CORRELATION, _P.USER}
)
_ANSWER = frozenset({_P.REASON_STRING, _P.USER})
_ALLOWED: dict[int, frozenset[Property]] = {
    Packet.CONNECT: frozenset(
        {
            _P.SESSION_EXPIRY,
            _P.RECEIVE_MAXIMUM,
            _P.MAXIMUM_PACKET_SIZE,
            _P.TOPIC_ALIAS_MAXIMUM,
            _P.RESPONSE_INFORMATION,
            _P.PROBLEM_INFORMATION,
            _P.USER,
            _P.AUTH_METHOD,
            _P.AUTH_DATA,
        }
    ),
    WILL: _MESSAGE | {_P.WILL_DELAY},
    Packet.PUBLISH: _MESSAGE | {_P.TOPIC_ALIAS},
    Packet.PUBACK: _ANSWER,
    Packet.PUBREL: _ANSWER,
    Packet.SUBSCRIBE: frozenset({_P.SUBSCRIPTION_ID, _P.USER}),
    Packet.UNSUBSCRIBE: frozenset({_P.USER}),
    Packet.DISCONNECT: _ANSWER | {_P.SESSION_EXPIRY},
}
_NOT_ZERO = frozenset(
    {_P.RECEIVE_MAXIMUM, _P.MAXIMUM_PACKET_SIZE, _P.SUBSCRIPTION_ID}
)  # an alias of 0 has a reason code of its own
_FLAGS = frozenset({_P.PAYLOAD_FORMAT, _P.PROBLEM_INFORMATION, _P.RESPONSE_INFORMATION})

Properties = dict[int, Any]
"""By `Property`: an int, bytes or a text; USER: a list of (name, value)."""
NONE: Properties = {}


def read(body: Body, packet: int) -> Properties:
    """The properties that come next in a packet of this kind.

    :raises Broken: one that does not belong there, comes twice, or has a value that it cannot have.
    """
    part = body.part()
    if not part.more():
        return NONE
    allowed = _ALLOWED[packet]
    found: Properties = {}
    while part.more():
        number = part.variable()
        if number not in allowed:
            known = number in _KINDS
            raise Broken("a property that does not belong there", _wrong(known))
        value = _value(part, _KINDS[Property(number)])
        if number == Property.USER:
            found.setdefault(number, []).append(value)
        elif number in found:
            raise Broken("the same property twice", Reason.PROTOCOL_ERROR)
        elif (number in _NOT_ZERO and not value) or (number in _FLAGS and value > 1):
            raise Broken("a property with a value that it cannot have", Reason.PROTOCOL_ERROR)
        else:
            found[number] = value
    return found


def _wrong(known: bool) -> Reason:
    return Reason.PROTOCOL_ERROR if known else Reason.MALFORMED


def _value(part: Body, kind: int) -> Any:
    if kind == _BYTE:
        return part.byte()
    if kind == _SHORT:
        return part.short()
    if kind == _LONG:
        return part.long()
    if kind == _VARIABLE:
        return part.variable()
    if kind == _BINARY:
        return part.binary()
    if kind == _TEXT:
        return part.text()
    return part.text(), part.text()


def written(number: Property, value: Any) -> bytes:
    """One property.

    :raises ValueError: a text or bytes that MQTT cannot carry.
    """
    kind = _KINDS[number]
    name = bytes((number,))
    if kind == _TEXT:
        return name + text(value)
    if kind == _PAIR:
        return name + text(value[0]) + text(value[1])
    if kind == _VARIABLE:
        return name + length(value)
    if kind == _BINARY:
        if len(value) > 65_535:
            raise ValueError("no binary data of MQTT")
        return name + len(value).to_bytes(2) + bytes(value)
    size = {_BYTE: 1, _SHORT: 2, _LONG: 4}[kind]
    return name + int(value).to_bytes(size)
