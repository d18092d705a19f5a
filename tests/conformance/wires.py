"""The rows of the conformance suite: every way on which a client speaks the gateway's frames.

Another transport, or another protocol that can say all of these frames, is one more row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from imgateway.protocols.json import JsonAdapter
from imgateway.protocols.native import NativeAdapter
from imgateway.transports.tcp import TCPTransport
from imgateway.transports.websocket import WebSocketTransport

__all__ = ("WIRES", "Wire")


class Wire(NamedTuple):
    """How a client of one kind connects, and what only that kind can get wrong.

    :ivar garbage: bytes that are no frame: as a stream, or as one message.
    :ivar oversize: the beginning of a frame of 16 MB on a stream; None where a message's size is known whole.
    """

    name: str
    adapter: Any
    transport: Any
    url: str
    garbage: bytes
    oversize: bytes | None


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
)
LISTEN = ("native+tcp:tcp:7901", "native,json+websocket:tcp:7902")
