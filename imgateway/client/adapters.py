"""Which transport takes a URL, which protocol has a name, and where a client may be sent on to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.plugin import getPlugins

from imgateway.client.router import Allocation, Routing
from imgateway.core.retry import RetryPolicy
from imgateway.errors import LinkLost
from imgateway.interfaces import IProtocolAdapter, ITransportAdapter

__all__ = (
    "Dial",
    "alternatives",
    "protocol_named",
    "scheme_of",
    "transport_for",
    "transport_named",
    "usable",
)

ENCRYPTED = frozenset({"tls", "wss", "udp"})


def scheme_of(url: str) -> str:
    return url.partition("://")[0] if "://" in url else ""


def transport_for(url: str) -> Any:
    """The installed ITransportAdapter that takes this URL's scheme.

    :raises ValueError: there is none; with the schemes that there are.
    """
    known: list[str] = []
    for transport in getPlugins(ITransportAdapter):
        if scheme_of(url) in transport.schemes:
            return transport
        known += transport.schemes
    raise ValueError(f"{url!r} is no URL with a scheme of " + ", ".join(f"{one}://" for one in sorted(known)))


def protocol_named(name: str) -> Any:
    """The installed IProtocolAdapter of this name.

    :raises ValueError: there is none; with the names that there are.
    """
    return _named(IProtocolAdapter, "protocol", name)


def transport_named(name: str) -> Any:
    """The installed ITransportAdapter of this name.

    :raises ValueError: there is none; with the names that there are.
    """
    return _named(ITransportAdapter, "transport", name)


def _named(interface: Any, what: str, name: str) -> Any:
    known: list[str] = []
    for plugin in getPlugins(interface):
        if plugin.name == name:
            return plugin
        known.append(plugin.name)
    raise ValueError(f"no {what} is called {name!r}; there are {', '.join(sorted(known))}")


def usable(told: Iterable[str], must_encrypt: bool) -> list[str]:
    """Of the places that somebody names those where we can go.

    A place without encryption is left out if the application asked for encryption, and so is one that no
    transport takes: nobody talks us into sending a token in the clear.
    """
    places = []
    for url in told:
        if must_encrypt and scheme_of(url) not in ENCRYPTED:
            continue
        try:
            transport_for(url)
        except ValueError:
            continue
        places.append(url)
    return places


def alternatives(told: Iterable[str], own: Sequence[str], must_encrypt: bool | None = None) -> list[str]:
    """Where to go on when a Bye names other places: these first, and then where we were pointed.

    :param must_encrypt: None: if all our own are encrypted.
    """
    if must_encrypt is None:
        must_encrypt = all(scheme_of(url) in ENCRYPTED for url in own)
    first = usable(told, must_encrypt)
    return [*first, *(url for url in own if url not in first)]


class Dial:
    """Where and how to connect. `transport` None: by the URL's scheme. `wait`: the first attempt may fail.

    :param tls: a connection creator for all, a function from a host to one, or None.
    :param urls: where the application points us; with a `router` where to go when none of those answers.
    :param backoff: None: what the router says, or `fallback`.
    """

    _log = Logger()

    def __init__(
        self,
        urls: Iterable[str],
        wire: Any,
        transport: Any,
        tls: Any,
        connect_timeout_s: float,
        login_timeout_s: float,
        backoff: RetryPolicy | None,
        wait: bool,
        fallback: RetryPolicy,
        random: Callable[[], float],
        router: Routing | None = None,
    ) -> None:
        self.own = list(urls)
        self.wire = wire
        self.transport = transport
        self.timeout_s = connect_timeout_s + login_timeout_s
        self.backoff = fallback if backoff is None else backoff
        self.wait = wait
        self.router = router
        self.tokens: dict[str, str] = {}
        """What to log in with at a place, if not with our own token."""
        self.heartbeat_s = 0.0
        """What the router says; Welcome knows better."""
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._takes_advice = backoff is None
        self._fallback = fallback
        self._random = random
        if transport is None:
            for url in self.own:
                transport_for(url)

    @property
    def must_encrypt(self) -> bool:
        """The application asked for encryption, and gets it wherever else it is sent."""
        secure = self.router is None or self.router.secure
        return secure and all(scheme_of(url) in ENCRYPTED for url in self.own)

    def allocated(self, found: Allocation, has_udp_key: bool) -> list[str]:
        """A router answered: the places of its answer where we can go, and then our own.

        :param has_udp_key: our own token has one. Over UDP a place's own token needs another.
        """
        if self._takes_advice:
            self.backoff = found.backoff.policy(self._random)
        self.heartbeat_s = max(0.0, found.heartbeat_s)
        told = {one.url: one.token for one in found.endpoints}
        if self.transport is None:
            places = usable(told, self.must_encrypt)
        else:
            places = list(told)
        self.tokens = {url: told[url] for url in places if told[url]}

        def has_key(url: str) -> bool:
            return "~" in self.tokens[url] if url in self.tokens else has_udp_key

        places = [url for url in places if scheme_of(url) != "udp" or has_key(url)]
        return [*places, *(url for url in self.own if url not in places)]

    def wait_s(self, attempt: int) -> float:
        """Until the next attempt, whatever the application's policy does."""
        try:
            seconds = float(self.backoff(attempt))
            if not 0 <= seconds < inf:
                raise ValueError(f"{seconds} is no wait")
            return seconds
        except Exception:
            self._log.failure("backoff failed for attempt {attempt}", attempt=attempt)
            return self._fallback(attempt)

    def connect(
        self, url: str, link: Any, reactor: Any, udp: tuple[bytes, bytes] | None = None
    ) -> Deferred[Any]:
        """:param udp: (key id, UDP key) that came with the token."""
        transport = self.transport if self.transport is not None else transport_for(url)
        tls = self._tls
        if callable(tls):
            try:
                tls = tls(urlsplit(url).hostname or "") if scheme_of(url) in ("tls", "wss") else None
            except Exception as error:  # of one URL, which somebody else may have named
                return fail(LinkLost(f"no TLS for {url}: {error!r}"))
        options = {"tls": tls, "timeout_s": self._connect_timeout_s, "udp": udp}
        dialling: Deferred[Any] = transport.connect(url, self.wire, link, reactor, options)
        return dialling
