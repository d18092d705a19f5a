"""Which transport takes a URL, which protocol has a name, and where a client may be sent on to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.plugin import getPlugins

from imgateway.core.retry import RetryPolicy
from imgateway.interfaces import IProtocolAdapter, ITransportAdapter

__all__ = ("Dial", "alternatives", "protocol_named", "scheme_of", "transport_for")

ENCRYPTED = frozenset({"tls", "wss", "udp"})


def scheme_of(url: str) -> str:
    return url.partition("://")[0] if "://" in url else ""


def transport_for(url: str, plugins: Callable[[Any], Iterable[Any]] = getPlugins) -> Any:
    """The installed ITransportAdapter that takes this URL's scheme.

    :raises ValueError: there is none; with the schemes that there are.
    """
    known: list[str] = []
    for transport in plugins(ITransportAdapter):
        if scheme_of(url) in transport.schemes:
            return transport
        known += transport.schemes
    raise ValueError(f"{url!r} is no URL with a scheme of " + ", ".join(f"{one}://" for one in sorted(known)))


def protocol_named(name: str, plugins: Callable[[Any], Iterable[Any]] = getPlugins) -> Any:
    """The installed IProtocolAdapter of this name.

    :raises ValueError: there is none; with the names that there are.
    """
    known: list[str] = []
    for protocol in plugins(IProtocolAdapter):
        if protocol.name == name:
            return protocol
        known.append(protocol.name)
    raise ValueError(f"no protocol is called {name!r}; there are {', '.join(sorted(known))}")


def alternatives(told: Iterable[str], own: Sequence[str]) -> list[str]:
    """Where to go on when a Bye names other places: these first, and then where the application pointed us.

    A place without encryption is left out if the application asked for encryption, and so is one that no
    transport takes: nobody talks us into sending a token in the clear.
    """
    must_encrypt = all(scheme_of(url) in ENCRYPTED for url in own)
    places = []
    for url in told:
        if must_encrypt and scheme_of(url) not in ENCRYPTED:
            continue
        try:
            transport_for(url)
        except ValueError:
            continue
        if url not in own:
            places.append(url)
    return [*places, *own]


class Dial:
    """Where and how to connect. `transport` None: by the URL's scheme. `wait`: the first attempt may fail."""

    def __init__(
        self,
        urls: Iterable[str],
        wire: Any,
        transport: Any,
        tls: Any,
        connect_timeout_s: float,
        login_timeout_s: float,
        backoff: RetryPolicy,
        wait: bool,
    ) -> None:
        self.own = list(urls)
        self.wire = wire
        self.transport = transport
        self.options = {"tls": tls, "timeout_s": connect_timeout_s}
        self.timeout_s = connect_timeout_s + login_timeout_s
        self.backoff = backoff
        self.wait = wait
        if transport is None:
            for url in self.own:
                transport_for(url)

    def connect(
        self, url: str, link: Any, reactor: Any, udp: tuple[bytes, bytes] | None = None
    ) -> Deferred[Any]:
        """:param udp: (key id, UDP key) that came with the token."""
        transport = self.transport if self.transport is not None else transport_for(url)
        options = {**self.options, "udp": udp}
        dialling: Deferred[Any] = transport.connect(url, self.wire, link, reactor, options)
        return dialling
