"""Connections to one Redis: one for commands, one that listens to a channel; both up, or none.

What is lost is made again, with a growing wait, until `stop`. Behind Sentinel the primary is looked up each
time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Any, Protocol

from twisted.application.internet import backoffPolicy
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    FirstError,
    TimeoutError,
    fail,
    gatherResults,
    succeed,
)
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from imgateway.errors import ConfigError, OperatorError

__all__ = ("RedisLine", "Target")

CONNECT_S = 3.0
ANSWER_S = 3.0
STEADY_S = 5.0
"""A connection that lasted this long was a good one: the next wait is a short one again."""
RETRY = backoffPolicy(0.1, 1.5, 2.0, jitter=lambda: random() / 2)
"""At most 2 s: a server that comes back empty must have all nodes again before they are given up."""

FOR_GOOD = ("WRONGPASS", "NOAUTH", "NOPERM", "DENIED", "invalid password", "DB index", "without any password")
"""Refusals that a new connection would get again, until somebody changes a setting."""


class Target(Protocol):
    """One Redis: the server itself, or (`sentinel` is its name there) the Sentinels to ask for it."""

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]: ...
    @property
    def db(self) -> int: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def tls(self) -> bool: ...
    @property
    def sentinel(self) -> str: ...
    @property
    def name(self) -> str: ...


class _Away(Exception):
    """The server answers, and cannot be used just now."""


class RedisLine:
    """:param password: where the target has none.
    :param up: called when both connections are ready.
    :param down: called with why there are none, after each attempt; a ConfigError: nothing but another
        setting will help.
    :param heard: called with each message of `channel`.
    :param retry: attempt → seconds. :param answer_s: how long the server may take for an answer.
    """

    def __init__(
        self,
        target: Target,
        password: str,
        channel: str,
        up: Callable[[], None],
        down: Callable[[OperatorError], None],
        heard: Callable[[bytes], None],
        reactor: Any,
        retry: Callable[[int], float] = RETRY,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._target = target
        self._password = target.password or password
        self._channel = channel
        self._up = up
        self._down = down
        self._heard = heard
        self._reactor = reactor
        self._retry = retry
        self._answer_s = answer_s
        self._tries = 0
        self._since = 0.0
        self._commands: Any = None
        self._open: list[Any] = []
        self._connecting: Deferred[Any] | None = None
        self._again: Any = None
        self._end: BaseException | None = None
        self._stopped = False

    def start(self) -> None:
        """Connect, and go on doing so."""
        self._connect()

    def ask(self, *words: str | bytes) -> Deferred[Any]:
        """The answer of one command. Whatever goes wrong, an error of the server too, drops the connections
        and is told by `down`, then fails the Deferred."""
        if self._commands is None:
            return fail(_Away("not connected"))
        line = self._commands
        return self._send(line, *words).addErrback(self._failed, line)

    def stop(self) -> Deferred[None]:
        """Close what is open; fires when it is closed."""
        self._stopped = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._connecting is not None:
            self._connecting.cancel()
        return self._drop()

    # --------------------------------------------------------------------------------------------- connecting

    def _connect(self) -> None:
        self._again = None
        self._since = self._reactor.seconds()
        self._end = None
        connecting = self._connecting = self._find().addCallback(self._both)
        connecting.addCallbacks(self._connected, self._refused)

    def _both(self, place: tuple[str, int]) -> Deferred[Any]:
        import txredisapi

        commands = self._login(place, txredisapi.RedisProtocol).addCallback(self._check_role)
        listening = self._login(place, txredisapi.SubscriberProtocol).addCallback(self._subscribe)
        both = [commands, listening]

        def neither(failure: Failure) -> Failure:
            for one in both:
                one.cancel()
            return failure

        return gatherResults(both, consumeErrors=True).addErrback(neither)

    def _login(self, place: tuple[str, int], kind: Any) -> Deferred[Any]:
        return self._dial(place, kind).addCallback(self._greet)

    def _dial(self, place: tuple[str, int], kind: Any) -> Deferred[Any]:
        # What is an address need not be resolved in a thread.
        kind_of: Any = HostnameEndpoint
        if isIPAddress(place[0]):
            kind_of = TCP4ClientEndpoint
        elif isIPv6Address(place[0]):
            kind_of = TCP6ClientEndpoint
        endpoint: Any = kind_of(self._reactor, place[0], place[1], timeout=CONNECT_S)
        if self._target.tls:
            from twisted.internet.ssl import optionsForClientTLS  # brings pyOpenSSL

            endpoint = wrapClientTLS(optionsForClientTLS(place[0]), endpoint)
        factory = Factory.forProtocol(lambda: self._make(kind))
        factory.noisy = False
        dialled: Deferred[Any] = endpoint.connect(factory).addCallback(self._dialled)
        return dialled.addTimeout(CONNECT_S, self._reactor)

    def _make(self, kind: Any) -> Any:
        # charset and convertNumbers: by default a value that looks like a number or a text becomes one.
        line = kind(charset=None, convertNumbers=False)
        lost = line.connectionLost

        def connectionLost(reason: Failure) -> None:
            # txredisapi says to nobody why: over TLS it may be the certificate.
            self._end = reason.value
            lost(reason)

        line.connectionLost = connectionLost
        return line

    def _dialled(self, line: Any) -> Any:
        line.transport.setTcpKeepAlive(True)
        self._open.append(line)
        line.whenDisconnected().addCallback(self._lost)
        return line

    def _greet(self, line: Any) -> Deferred[Any]:
        target = self._target
        steps: list[tuple[str, ...]] = []
        if self._password:
            steps.append(("AUTH", *([target.user] if target.user else []), self._password))
        if target.db:
            steps.append(("SELECT", str(target.db)))
        answers = [self._send(line, *words) for words in steps]
        return gatherResults(answers, consumeErrors=True).addCallback(lambda _: line)

    def _check_role(self, line: Any) -> Deferred[Any]:
        def check(role: Any) -> Any:
            if role[0] != b"master":
                raise _Away("it is a replica, which cannot be written to")
            return line

        return self._send(line, "ROLE").addCallback(check)

    def _subscribe(self, line: Any) -> Deferred[Any]:
        line.messageReceived = lambda pattern, channel, message: self._heard(message)
        return self._send(line, "SUBSCRIBE", self._channel).addCallback(lambda _: line)

    def _connected(self, lines: list[Any]) -> None:
        self._connecting = None
        if not all(line.connected for line in lines):
            self._trouble(_Away("the connection was lost"))
            return
        self._commands = lines[0]
        self._since = self._reactor.seconds()
        self._up()

    def _find(self) -> Deferred[tuple[str, int]]:
        if not self._target.sentinel:
            return succeed(self._target.hosts[0])
        return self._find_behind(list(self._target.hosts), "")

    def _find_behind(self, sentinels: list[tuple[str, int]], why: str) -> Deferred[tuple[str, int]]:
        """Ask one Sentinel after the other for the primary."""
        import txredisapi

        if not sentinels:
            return fail(_Away(f"no Sentinel names its primary ({why})"))
        place = sentinels[0]

        def ask(line: Any) -> Deferred[Any]:
            asked = self._send(line, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._target.sentinel)
            return asked.addBoth(lambda answer: (line.transport.loseConnection(), answer)[1])

        def answered(answer: Any) -> tuple[str, int]:
            if not answer:
                raise _Away("it does not know this name")
            return answer[0].decode(), int(answer[1])

        def next_one(failure: Failure) -> Deferred[tuple[str, int]]:
            if self._stopped:
                return fail(failure)
            return self._find_behind(sentinels[1:], f"{place[0]}:{place[1]}: {_text(failure.value)}")

        asking = self._dial(place, txredisapi.RedisProtocol)
        return asking.addCallback(ask).addCallback(answered).addErrback(next_one)

    # ------------------------------------------------------------------------------------------------ trouble

    def _send(self, line: Any, *words: str | bytes) -> Deferred[Any]:
        if not line.connected:
            return fail(_Away("the connection was lost"))
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        answer: Deferred[Any] = line.execute_command(*encoded)
        return answer.addTimeout(self._answer_s, self._reactor)

    def _failed(self, failure: Failure, line: Any) -> Failure:
        if line is self._commands:
            self._trouble(failure.value)
        return failure

    def _refused(self, failure: Failure) -> None:
        self._connecting = None
        error = failure.value
        self._trouble(error.subFailure.value if isinstance(error, FirstError) else error)

    def _lost(self, line: Any) -> None:
        if line in self._open:
            self._open.remove(line)
            # While it connects, the command that was on its way says so.
            if self._commands is not None:
                self._trouble(_Away("the connection was lost"))

    def _trouble(self, error: BaseException | None) -> None:
        self._drop()
        if self._stopped:
            return
        if self._again is None and self._connecting is None:
            if self._reactor.seconds() - self._since > STEADY_S:
                self._tries = 0
            self._again = self._reactor.callLater(self._retry(self._tries), self._connect)
            self._tries += 1
        text = _tls_text(self._end) or _text(error)
        for_good = any(sign in text for sign in FOR_GOOD)
        what = f"redis {self._target.name} cannot be used: {text}"
        self._down(ConfigError(f"registry.url: {what}") if for_good else OperatorError(what))

    def _drop(self) -> Deferred[None]:
        self._commands = None
        lines, self._open = self._open, []
        gone = [line.whenDisconnected() for line in lines]
        for line in lines:
            line.transport.abortConnection()
        return DeferredList(gone).addCallback(lambda _: None)


def _tls_text(error: BaseException | None) -> str:
    """Why a TLS connection ended, as OpenSSL says it; "" if that is not what happened."""
    said = (
        error.args[0] if type(error).__module__ == "OpenSSL.SSL" and error is not None and error.args else ()
    )
    reasons = [str(one[-1]) for one in said if isinstance(one, tuple) and one]
    return f"TLS: {', '.join(reasons)}" if reasons else ""


def _text(error: BaseException | None) -> str:
    """For the operator: what txredisapi, Twisted and Redis say, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, DNSLookupError):
        return "its name cannot be resolved"
    if isinstance(error, ConnectError):
        return str(error).rstrip(".")
    # The first sentence: what Redis advises after that may be a page of text.
    return str(error).partition(". ")[0] or type(error).__name__
