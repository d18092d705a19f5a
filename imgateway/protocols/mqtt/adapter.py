"""``mqtt``: MQTT 3.1.1 and 5 on TCP, TLS and WebSocket, for devices.

The client id is the device, the password is the token. A user's mailbox comes without being subscribed to.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_urlsafe
from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from imgateway.interfaces import Carriage, ICodec, IProtocolAdapter, IProtocolMaker, Traits
from imgateway.protocols.mqtt.codec import MqttCodec

__all__ = ("MqttAdapter", "MqttMaker")


def draw() -> str:
    """12 characters that nobody else is given."""
    return token_urlsafe(9)


@implementer(IProtocolAdapter)
class MqttAdapter:
    """:param max_keepalive_s: the longest that a client of MQTT 5 may ask for; 0: any.

    :param wall_ms: Unix milliseconds. :param draw: gives a text that nobody else is given.
    """

    name = "mqtt"
    carriage = Carriage(path="/mqtt", subprotocols=("mqtt",), sealed=False)
    # Nothing is sent again while a connection lives, and MQTT knows no time by which to acknowledge.
    traits = Traits(mail=True, gaps=False, pings=False, pulls=False, ack_timeout_s=0.0)

    def __init__(
        self, max_keepalive_s: int, wall_ms: Callable[[], int], draw: Callable[[], str] = draw
    ) -> None:
        self._max_keepalive_s = max_keepalive_s
        self._wall_ms = wall_ms
        self._draw = draw

    def codec(self, stream: bool, max_frame_bytes: int) -> ICodec:
        return MqttCodec(max_frame_bytes, self._max_keepalive_s, self._wall_ms, self._draw)


@implementer(IPlugin, IProtocolMaker)
class MqttMaker:
    """Makes the adapter of one node from the section ``mqtt`` of its settings."""

    name = "mqtt"

    def make(self, settings: Any, now: Callable[[], float], wall_ms: Callable[[], int]) -> MqttAdapter:
        return MqttAdapter(0 if settings is None else settings.max_keepalive_s, wall_ms)
