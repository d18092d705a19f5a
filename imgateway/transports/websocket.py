"""WebSocket: one frame of the wire per message, binary or text as the wire says, many wires on one port.

The subprotocol chooses the wire. No compression, no timers of the library's own: deadlines belong to the
core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketServerFactory
from twisted.internet.defer import Deferred, fail, maybeDeferred
from zope.interface import implementer

from imgateway.errors import OperatorError
from imgateway.interfaces import Accept, ITransportAdapter

from .dialling import Opening, dial, parse_target
from .listening import listen_stream
from .messages import MessageConnection, Terms
from .places import no_ride, rides
from .stream import Side, StreamConnection

__all__ = ("WebSocketTransport",)

# What both ends ask of Autobahn: its timers off, and a close frame with a reason rather than a cut.
_COMMON: dict[str, Any] = {
    "openHandshakeTimeout": 0,
    "closeHandshakeTimeout": 0,
    "autoPingInterval": 0,
    "failByDrop": False,
}


@implementer(ITransportAdapter)
class WebSocketTransport:
    """``native,json+websocket:tcp:7902``; the endpoint may as well be ``ssl:``, ``unix:``, ``systemd:`` or
    ``haproxy:``.

    `options` of `listen`: ``origins``, the pages that may connect (empty: those of the same host).
    """

    name = "websocket"
    schemes = ("ws", "wss")

    def listen(
        self, endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """Every wire must be told from the others by its path or by its subprotocols; the first is the
        default.
        """
        for wire in wires:
            if "websocket" not in rides(wire):
                return fail(no_ride(wire, "websocket", endpoint))
        if not wires:
            return fail(OperatorError(f"websocket:{endpoint}: name at least one protocol"))
        factory = WebSocketServerFactory(server="", reactor=reactor)
        # Its origin check cannot compare with the Host header, and its status page redirects wherever a URL
        # asks.
        factory.setProtocolOptions(webStatus=False, allowedOrigins=["*"], allowNullOrigin=True, **_COMMON)
        terms = Terms(factory, tuple(wires), tuple(options.get("origins", ())))

        def accepted(stream: StreamConnection) -> MessageConnection | None:
            connection = MessageConnection(stream, terms)
            connection.receiver = accept(connection)
            return connection if connection.receiver is not None else None

        return listen_stream(endpoint, Side(reactor, accepted))

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """``ws://HOST[:PORT][/PATH]`` or ``wss://…``; offers the wire's subprotocols. Without a path, the
        wire's.
        """
        return maybeDeferred(self._connect, url, wire, receiver, reactor, options)

    def _connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        target = parse_target(url, {"ws": 80, "wss": 443})
        path = target.path if target.path not in ("", "/") else wire.carriage.path
        resource = path if path.startswith("/") else f"/{path}"
        host = f"[{target.host}]" if ":" in target.host else target.host
        factory = WebSocketClientFactory(
            f"{target.scheme}://{host}:{target.port}{resource}",
            protocols=list(wire.carriage.subprotocols),
            useragent="imgateway",
            reactor=reactor,
        )
        factory.host = host  # for the Host header: Autobahn forgets the brackets of an IPv6 address
        factory.setProtocolOptions(serverConnectionDropTimeout=0, **_COMMON)
        terms = Terms(factory, (wire,))

        def link(stream: StreamConnection, opening: Opening) -> MessageConnection:
            opening.connection = connection = MessageConnection(stream, terms, opening)
            return connection

        return dial(target, link, wire, receiver, reactor, options)
