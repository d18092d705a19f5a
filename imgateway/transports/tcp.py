"""TCP, TLS over TCP and unix sockets: a connection is a stream of bytes, and the wire's codec finds the
frames in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from zope.interface import implementer

from imgateway.errors import OperatorError
from imgateway.interfaces import Accept, ITransportAdapter

from .dialling import Opening, dial, parse_target
from .listening import listen_stream
from .places import no_ride, rides
from .stream import Side, StreamConnection

__all__ = ("TCPTransport",)


@implementer(ITransportAdapter)
class TCPTransport:
    """``native+tcp:tcp:7901``; the endpoint may as well be ``ssl:``, ``unix:``, ``systemd:`` or
    ``haproxy:``.
    """

    name = "tcp"
    schemes = ("tcp", "tls", "unix")

    def listen(
        self, endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """A TCP listener has one wire: a stream has no place to choose one in."""
        names = ",".join(wire.name for wire in wires)
        if len(wires) != 1:
            return fail(
                OperatorError(f"{names}+tcp:{endpoint}: tcp takes one protocol a listener; give each its own")
            )
        if "tcp" not in rides(wires[0]):
            return fail(no_ride(wires[0], "tcp", endpoint))
        return listen_stream(endpoint, Side(reactor, accept, wires[0]))

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        """``tcp://HOST:PORT``, ``tls://HOST:PORT`` or ``unix:///PATH``."""
        return maybeDeferred(self._connect, url, wire, receiver, reactor, options)

    def _connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        target = parse_target(url, {"tcp": 0, "tls": 0, "unix": 0})

        def link(stream: StreamConnection, opening: Opening) -> Opening:
            opening.connection = stream
            return opening

        return dial(target, link, wire, receiver, reactor, options)
