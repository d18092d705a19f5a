"""CONNACK and DISCONNECT: how a connection begins and ends, in the words of the client's version."""

from __future__ import annotations

from imgateway.errors import CloseCode
from imgateway.frames import Bye, Welcome, parse_address
from imgateway.protocols.mqtt.greeting import Greeting
from imgateway.protocols.mqtt.inbox import ALIASES
from imgateway.protocols.mqtt.packets import Packet, length, packet
from imgateway.protocols.mqtt.properties import Property, written
from imgateway.protocols.mqtt.reasons import Reason, after_login, at_login

__all__ = ("goodbye", "refusal", "welcome")


def welcome(
    greeting: Greeting, frame: Welcome, is_resumed: bool, keepalive_s: int, max_packet_bytes: int
) -> bytes:
    """CONNACK. MQTT 5 also hears what it may do here, and what became of what it asked for."""
    head = bytes((is_resumed, Reason.SUCCESS))
    if greeting.version == 4:
        return packet(Packet.CONNACK, head)
    said = [
        written(Property.RECEIVE_MAXIMUM, min(frame.limits.publish_window, 65_535)),
        written(Property.MAXIMUM_PACKET_SIZE, max_packet_bytes),
        written(Property.TOPIC_ALIAS_MAXIMUM, ALIASES),
        written(Property.WILDCARDS, 0),
        written(Property.SHARED, 0),
    ]
    if not greeting.client_id:
        said.append(written(Property.ASSIGNED_CLIENT_ID, parse_address(frame.session).device))
    if keepalive_s != greeting.keepalive_s:
        said.append(written(Property.SERVER_KEEPALIVE, keepalive_s))
    about = b"".join(said)
    return packet(Packet.CONNACK, head, length(len(about)), about)


def refusal(version: int, greeting: Greeting | None, frame: Bye, fault: Reason | None) -> bytes:
    """CONNACK that turns a greeting down; b"": the version is not known, or has no word for this.

    `fault`: what was wrong with the greeting itself.
    """
    reason = at_login(frame.code, fault, version) if version else 0
    if not reason:
        return b""
    if version != 5:
        return packet(Packet.CONNACK, bytes((0, reason)))
    return _with_why(Packet.CONNACK, bytes((0, reason)), greeting, frame.reason)


def goodbye(greeting: Greeting, frame: Bye, fault: Reason | None) -> bytes:
    """DISCONNECT; b"": in 3.1.1 the connection just ends, as it does for one that has gone already."""
    if greeting.version != 5 or frame.code == CloseCode.LOST:
        return b""
    return _with_why(Packet.DISCONNECT, bytes((after_login(frame.code, fault),)), greeting, frame.reason)


def _with_why(kind: Packet, head: bytes, greeting: Greeting | None, reason: str) -> bytes:
    """With the reason's text, for who wants it and can take so much."""
    # A text of MQTT has neither NUL nor half a character; whoever kicks somebody may write what they like.
    reason = reason[:200].replace("\0", "").encode(errors="replace").decode()
    if reason and (greeting is None or greeting.tell_reasons):
        about = written(Property.REASON_STRING, reason)
        whole = packet(kind, head, length(len(about)), about)
        if greeting is None or not 0 < greeting.max_packet_bytes < len(whole):
            return whole
    return packet(kind, head, b"\0")
