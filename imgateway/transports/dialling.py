"""The client's end: a URL becomes a connected socket, TLS included, or one `LinkLost` that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.errors import CloseCode, LinkLost
from imgateway.interfaces import IReceiver

from .stream import Side

__all__ = ("Opening", "Target", "dial", "parse_target")

TIMEOUT_S = 10.0


class Target(NamedTuple):
    """What a URL names. `path` is a unix socket's path or an HTTP request target."""

    scheme: str
    host: str
    port: int
    path: str
    tls: bool


def parse_target(url: str, ports: Mapping[str, int]) -> Target:
    """Parse a URL.

    :param ports: scheme → default port; 0: the URL must name one.
    :raises LinkLost: with what is wrong.
    """
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise LinkLost(f"bad URL {url}: {error}") from None
    if parts.scheme not in ports:
        raise LinkLost(f"bad URL {url}: the scheme must be one of {', '.join(ports)}")
    if parts.username is not None or parts.password is not None:
        raise LinkLost("bad URL: credentials do not belong into a URL, where logs would show them")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path:
            raise LinkLost(f"bad URL {url}: write unix:///path/of/socket")
        return Target("unix", "", 0, unquote(parts.path), False)
    port = port if port is not None else ports[parts.scheme]
    if not parts.hostname or not port:
        raise LinkLost(f"bad URL {url}: write {parts.scheme}://HOST:PORT")
    return Target(parts.scheme, parts.hostname, port, path, parts.scheme in ("tls", "wss"))


def dial(
    target: Target,
    link: Callable[[Any, Opening], Any],
    wire: Any,
    receiver: Any,
    reactor: Any,
    options: Mapping[str, Any],
) -> Deferred[Any]:
    """Connect to `target`; fires with the IConnection after ``receiver.opened(wire)``.

    The receiver hears nothing before: until then every failure goes into the Deferred alone. Cancelling it
    aborts.

    :param link: (stream, opening) → the stream's IReceiver; sets ``opening.connection``.
    :raises LinkLost: (in the Deferred) with the reason.
    """
    timeout_s = options.get("timeout_s") or TIMEOUT_S
    done: Deferred[Any] = Deferred(lambda _: opening.cancelled())
    opening = Opening(receiver, done)
    side = Side(reactor, lambda stream: link(stream, opening), wire)
    secured = _secured(target, side, options)
    # One clock for connect, TLS and upgrade together: the endpoint's own comes later than ours.
    endpoint = _endpoint(target, reactor, 2 * timeout_s)
    opening.attempt = endpoint.connect(secured)
    opening.attempt.addCallbacks(lambda _: None, lambda reason: opening.lost(_why(reason)))

    def named(reason: Failure) -> Failure:
        return Failure(LinkLost(f"cannot connect to {_name(target)}: {_why(reason)}"))

    def late(_: Any, timeout: float) -> Any:
        raise LinkLost(f"no connection to {_name(target)} within {timeout:g} s")

    return done.addErrback(named).addTimeout(timeout_s, reactor, late)


@implementer(IReceiver)
class Opening:
    """Receives for a connection that is being made, and gives place to the real receiver once it is open."""

    def __init__(self, receiver: Any, done: Deferred[Any]) -> None:
        self.connection: Any = None
        self.attempt: Any = None
        self._receiver = receiver
        self._done: Deferred[Any] | None = done

    def opened(self, wire: Any) -> None:
        # Whoever keeps the connection keeps us, by the way it was made; so let go of everything.
        connection, self.connection = self.connection, None
        receiver, self._receiver = self._receiver, None
        done, self._done = self._done, None
        assert done is not None
        connection.receiver = receiver
        receiver.opened(wire)
        done.callback(connection)

    def received(self, data: bytes) -> None:
        """Nothing comes before `opened`."""

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def lost(self, reason: str, code: int = CloseCode.LOST) -> None:
        done, self._done = self._done, None
        self.connection = None
        if done is not None:
            done.errback(LinkLost(reason))

    def cancelled(self) -> None:
        """Nobody waits for it any more."""
        connection, self.connection = self.connection, None
        self._done = None
        if connection is not None:
            connection.abort()
        else:
            self.attempt.cancel()


def _endpoint(target: Target, reactor: Any, timeout_s: float) -> Any:
    if target.scheme == "unix":
        return UNIXClientEndpoint(reactor, target.path, timeout_s)
    if isIPAddress(target.host):
        return TCP4ClientEndpoint(reactor, target.host, target.port, timeout_s)
    if isIPv6Address(target.host):
        return TCP6ClientEndpoint(reactor, target.host, target.port, timeout_s)
    return HostnameEndpoint(reactor, target.host, target.port, timeout_s)


def _secured(target: Target, side: Side, options: Mapping[str, Any]) -> Any:
    if not target.tls:
        return side
    from twisted.internet.ssl import optionsForClientTLS  # OpenSSL is not light
    from twisted.protocols.tls import TLSMemoryBIOFactory

    try:
        creator = options.get("tls") or optionsForClientTLS(target.host)
    except UnicodeError as error:  # names with an underscore, too
        raise LinkLost(f"bad URL: TLS cannot check the name {target.host}: {error}") from None
    return TLSMemoryBIOFactory(creator, True, side, side.reactor)


def _name(target: Target) -> str:
    return target.path if target.scheme == "unix" else f"{target.host}:{target.port}"


def _why(reason: Failure) -> str:
    if reason.check(CancelledError):
        return "cancelled"
    return " ".join(reason.getErrorMessage().split()) or type(reason.value).__name__
