"""``shared:7901``: a port that several processes listen on at once, by SO_REUSEPORT.

The kernel gives each new connection to one of them. What is behind ``shared:`` is any description of a tcp,
tcp6 or ssl endpoint, or its short form; in front of it may stand ``haproxy:``.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.tcp import makeBinding

from .listening import SHARED, description

__all__ = ("shared_endpoint",)

KINDS = ("tcp", "tcp6", "ssl")


def shared_endpoint(reactor: Any, *args: object, **kwargs: object) -> Any:
    """What Twisted's `serverFromString` asks about ``shared:…``.

    :raises ValueError: it is nothing that can be shared.
    """
    words = [quoteStringArgument(str(word)) for word in args]
    words += [f"{name}={quoteStringArgument(str(value))}" for name, value in kwargs.items()]
    inner = description(SHARED + ":".join(words)).removeprefix(SHARED)
    kind = inner.partition(":")[0]
    if kind not in KINDS:
        raise ValueError(f"{kind!r} cannot be shared: shared: takes {', '.join(KINDS)} or a bare port")
    return serverFromString(_Sharing(reactor), inner)


class _Sharing:
    """A reactor whose ports are shared, for endpoints."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """:raises CannotListenError: ENOPROTOOPT where the system has no SO_REUSEPORT."""
        reactor = self._reactor
        real: bool = IReactorFDSet.providedBy(reactor)
        if not real:
            # A network in memory, on which settings are tried: nobody else is there to share with.
            return reactor.listenTCP(port, factory, backlog, interface)
        if not hasattr(socket, "SO_REUSEPORT"):
            raise CannotListenError(
                interface, port, OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
            )
        binding = makeBinding(interface, port, reuseAddress=True, reusePort=True)
        return reactor.listenTCP(binding, factory, backlog, interface)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        from twisted.protocols.tls import TLSMemoryBIOFactory

        # As Twisted's own listenSSL does it.
        return self.listenTCP(
            port, TLSMemoryBIOFactory(contextFactory, False, factory, self._reactor), backlog, interface
        )
