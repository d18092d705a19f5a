"""Transports as plugins: known at once, imported when used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.reflect import namedAny
from zope.interface import implementer

from imgateway.interfaces import Accept, ITransportAdapter

__all__ = ("TransportPlugin",)


@implementer(ITransportAdapter)
class TransportPlugin:
    """Stands for the transport `where` (a dotted name of its class) until somebody listens or connects."""

    def __init__(self, name: str, schemes: tuple[str, ...], where: str) -> None:
        self.name = name
        self.schemes = schemes
        self._where = where
        self._transport: Any = None

    def loaded(self) -> Any:
        """The transport itself; whoever takes times asks for it before the clock starts."""
        if self._transport is None:
            self._transport = namedAny(self._where)()
        return self._transport

    def listen(
        self, endpoint: str, wires: Sequence[Any], accept: Accept, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        return maybeDeferred(self.loaded().listen, endpoint, wires, accept, reactor, options)

    def connect(
        self, url: str, wire: Any, receiver: Any, reactor: Any, options: Mapping[str, Any]
    ) -> Deferred[Any]:
        return maybeDeferred(self.loaded().connect, url, wire, receiver, reactor, options)
