"""The rows of the conformance suite: every way on which a client speaks the gateway's frames.

Another transport, or another protocol that can say all of these frames, is one more row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from imgateway.auth.udp import udp_key, udp_reset_key
from imgateway.protocols.json import JsonAdapter
from imgateway.protocols.native import NativeAdapter
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.udp import UDPTransport
from imgateway.transports.websocket import WebSocketTransport

__all__ = ("CONNECTED", "JSON", "LISTEN", "LISTENING", "REDIS", "UDP", "WIRES", "Wire")

SECRET, KEY_ID = b"s" * 32, b"i" * 16
KEY = (KEY_ID, udp_key(SECRET, KEY_ID))


class Wire(NamedTuple):
    """How a client of one kind connects, and what only that kind can get wrong.

    :ivar garbage: bytes that are no frame: as a stream, or as one message.
    :ivar oversize: the beginning of a frame of 16 MB on a stream; None where a message's size is known whole.
    :ivar on_redis: the gateway keeps its data in a real Redis.
    """

    name: str
    adapter: Any
    transport: Any
    url: str
    garbage: bytes
    oversize: bytes | None
    on_redis: bool = False

    @property
    def udp(self) -> bool:
        """Datagrams: there is no connection that could be cut, and acknowledgements take their time."""
        return self.url.startswith("udp")


class Keyed(UDPTransport):
    """UDP for users whose tokens are mere names, and so bring no key."""

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        return super().connect(url, wire, receiver, reactor, {**options, "udp": KEY})


WIRES = (
    Wire(
        "tcp",
        NativeAdapter(),
        TCPTransport(),
        "tcp://127.0.0.1:7901",
        b"\x04\xff\xff\xff\xff",
        b"\x80\x80\x80\x08",
    ),
    Wire(
        "websocket-binary",
        NativeAdapter(),
        WebSocketTransport(),
        "ws://127.0.0.1:7902",
        b"\xff\xff\xff\xff",
        None,
    ),
    Wire("websocket-json", JsonAdapter(), WebSocketTransport(), "ws://127.0.0.1:7902", b"{nonsense", None),
    Wire("udp", NativeAdapter(), Keyed(), "udp://127.0.0.1:7903", b"\xff\xff\xff\xff", None),
)
JSON, UDP = WIRES[2], WIRES[3]
REDIS = WIRES[0]._replace(name="tcp-redis", on_redis=True)
"""Other data, and the same for clients: one wire will do."""
CONNECTED = WIRES[:3]
"""Where a connection exists before the first frame. Over UDP it begins with the greeting."""
LISTEN = ("native+tcp:tcp:7901", "native,json+websocket:tcp:7902", "native+udp:127.0.0.1:7903")
LISTENING = {"udp_key": lambda key_id: udp_key(SECRET, key_id), "udp_reset_key": udp_reset_key(SECRET, "n1")}
