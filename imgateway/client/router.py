"""Asks a router where to connect: ``GET /v1/allocate`` with the token, over HTTP.

Several routers are as good as one: they are asked in turn, beginning with the one that answered last.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

from msgspec import DecodeError, Struct, json
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.core.credentials import bare_token
from imgateway.core.retry import RetryPolicy, backoff
from imgateway.errors import GatewayError

__all__ = ("Allocation", "Place", "Router", "RouterAway", "RouterRefused", "Routing")

MAX_ANSWER_BYTES = 65_536
"""Five endpoints with their tokens are 20 KB; what is longer is no answer."""
MAX_WAIT_S = 600.0
"""No router sends its clients away for longer."""


class RouterAway(GatewayError):
    """No router answered, or none has a node for us.

    :param retry_after_s: when to ask again; 0: by the client's own backoff.
    """

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class RouterRefused(GatewayError):
    """The router does not take the token.

    :param forbidden: it is a good one, and may not do this; another token of the same user will not either.
    """

    def __init__(self, reason: str, forbidden: bool) -> None:
        super().__init__(reason)
        self.forbidden = forbidden


class Place(Struct, frozen=True):
    """Where to connect. `token`: what to log in with there; empty: one's own."""

    url: str
    protocol: str = ""
    transport: str = ""
    node: str = ""
    region: str = ""
    token: str = ""


class Waits(Struct, frozen=True):
    """Backoff parameters: min(max_s, first_s x factor^attempt), of which up to `jitter` is left away."""

    first_s: float = 0.5
    max_s: float = 30.0
    factor: float = 2.0
    jitter: float = 0.5

    def policy(self, random: Callable[[], float]) -> RetryPolicy:
        """As a function, whatever nonsense they are."""
        first_s = max(0.05, self.first_s)
        jitter = min(1.0, max(0.0, self.jitter))
        return backoff(random, first_s, max(1.0, self.factor), max(first_s, self.max_s), jitter)


class Allocation(Struct, frozen=True):
    """A router's answer. `endpoints` in the order in which to try them."""

    endpoints: tuple[Place, ...]
    heartbeat_s: float = 0.0
    backoff: Waits = Waits()
    expires_at: int = 0


class Routing(Protocol):
    """What a client wants of routers; `Router` has it. `secure`: what goes to them is encrypted."""

    secure: bool

    def allocate(self, token: str) -> Coroutine[Any, Any, Allocation]:
        """:raises RouterAway: :raises RouterRefused:"""


_decoder = json.Decoder(Allocation)


class _Problem(Struct, frozen=True):
    title: str = ""
    detail: str = ""


_problems = json.Decoder(_Problem)


class Router:
    """:param urls: such as ``https://router.example.org``; a path is put before ``/v1/allocate``.

    :param protocol: the wire, and :param transport: the transport, that we can; empty: whichever there is.
    :param region: where we are; its nodes come first.
    :param tls: host → connection creator, or None for the platform's trust.
    :param agent: an `IAgent` instead of a new one.
    :raises ValueError: a URL is none of http or https.
    """

    _log = Logger()

    def __init__(
        self,
        urls: str | Sequence[str],
        reactor: Any,
        protocol: str = "native",
        transport: str = "",
        region: str = "",
        tls: Callable[[str], Any] | None = None,
        timeout_s: float = 10.0,
        agent: Any = None,
    ) -> None:
        self.urls = [urls] if isinstance(urls, str) else list(urls)
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"{url!r} is no router's URL; write https://HOST or https://HOST:PORT")
            if parts.username is not None:
                raise ValueError("credentials do not belong into a URL, where logs would show them")
        self.secure = all(url.startswith("https:") for url in self.urls)
        asked = {"protocol": protocol, "transport": transport, "region": region}
        self._query = urlencode({name: value for name, value in asked.items() if value})
        self._reactor = reactor
        self._timeout_s = timeout_s
        self._agent = agent or _agent(reactor, tls, timeout_s)
        self._turn = 0

    async def allocate(self, token: str) -> Allocation:
        """Where to connect; at least one place.

        :raises RouterAway: no router answered with one.
        :raises RouterRefused: one does not take the token.
        """
        why = RouterAway("there is no router")
        for _ in self.urls:
            url = self.urls[self._turn % len(self.urls)]
            try:
                return await self._ask(url, token)
            except RouterAway as error:
                # One that has no node for us is better informed than one that is not there.
                if error.retry_after_s or not why.retry_after_s:
                    why = error
                self._log.info("no place from the router {url}: {why}", url=url, why=str(error))
                self._turn += 1
        raise why

    async def _ask(self, url: str, token: str) -> Allocation:
        from twisted.web.http_headers import Headers

        headers = Headers({"Authorization": [f"Bearer {bare_token(token)}"], "Accept": ["application/json"]})
        address = f"{url.rstrip('/')}/v1/allocate?{self._query}"
        try:
            asking: Deferred[Any] = self._agent.request(b"GET", address.encode(), headers)
            asking.addCallback(_whole)
            asking.addTimeout(self._timeout_s, self._reactor, _late)
            status, waits, data = await asking
        except CancelledError:
            raise
        except Exception as error:
            if _is_cancelled(error):
                raise CancelledError() from None
            raise RouterAway(f"cannot ask the router {url}: {_why(error)}") from None
        if status == 200:
            try:
                allocation = _decoder.decode(data)
            except (DecodeError, UnicodeDecodeError) as error:
                raise RouterAway(f"the router {url} answered with what is no allocation: {error}") from None
            if not allocation.endpoints:
                raise RouterAway(f"the router {url} named no node")
            return allocation
        told = f"the router {url} says {status}: {_reason(data) or 'no reason given'}"
        if status in (401, 403):
            raise RouterRefused(told, status == 403)
        raise RouterAway(told, waits)


def _agent(reactor: Any, tls: Callable[[str], Any] | None, timeout_s: float) -> Any:
    # Neither is light, and few clients have a router.
    from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
    from twisted.web.iweb import IPolicyForHTTPS
    from zope.interface import implementer

    if tls is None:
        return Agent(reactor, BrowserLikePolicyForHTTPS(), connectTimeout=timeout_s)
    creator = tls

    @implementer(IPolicyForHTTPS)
    class Trust:
        def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
            return creator(hostname.decode("ascii"))

    return Agent(reactor, Trust(), connectTimeout=timeout_s)


class _Body(TwistedProtocol):
    """Collects a body; one that is too long, or that nobody waits for any more, ends the connection."""

    def __init__(self) -> None:
        self._data = b""
        self.done: Deferred[bytes] = Deferred(lambda _: self._leave())

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._data += data
        if len(self._data) > MAX_ANSWER_BYTES:
            self._leave()
            self.done.errback(ValueError(f"more than {MAX_ANSWER_BYTES} bytes"))

    def connectionLost(self, reason: Failure | None = None) -> None:
        from twisted.web.client import ResponseDone
        from twisted.web.http import PotentialDataLoss

        if self.done.called:
            return
        if reason is None or reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(self._data)
        else:
            self.done.errback(reason)

    def _leave(self) -> None:
        # loseConnection would wait for the other side's goodbye in TLS: one that is silent says none.
        self.transport.stopProducing()  # type: ignore[union-attr]


def _whole(response: Any) -> Deferred[tuple[int, float, bytes]]:
    """Status, Retry-After in seconds, body."""
    waits = 0.0
    for value in response.headers.getRawHeaders(b"retry-after", ()):
        if value.isdigit():
            waits = min(float(value), MAX_WAIT_S)
    body = _Body()
    response.deliverBody(body)
    return body.done.addCallback(lambda data: (response.code, waits, data))


def _reason(data: bytes) -> str:
    """What a problem document says."""
    try:
        problem = _problems.decode(data)
    except (DecodeError, UnicodeDecodeError):
        return ""
    return (problem.detail or problem.title)[:200]


def _late(result: object, timeout_s: float) -> None:
    raise ValueError(f"no answer within {timeout_s:g} s")


# twisted.web wraps what happened on the connection.


def _is_cancelled(error: BaseException) -> bool:
    return any(one.check(CancelledError) or _is_cancelled(one.value) for one in getattr(error, "reasons", ()))


def _why(error: BaseException) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _why(reasons[0].value)
    return " ".join(str(error).split()) or type(error).__name__
