"""Measures what a transport gives on a line: one login, some Pings, and how it survives another address."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from zope.interface import implementer

from imgateway.cli.progress import Progress
from imgateway.client.adapters import protocol_named, transport_for
from imgateway.core.credentials import Credentials, credentials_for
from imgateway.errors import CloseCode, ConnectRefused, LinkError, LinkLost
from imgateway.frames import Bye, Frame, Hello, Ping, Pong, ResumePoint, Start, Welcome
from imgateway.interfaces import IMeasured, IReceiver, PathStatistics
from imgateway.transports.plugin import TransportPlugin

__all__ = ("Found", "Line", "Plan", "Times", "probe")

SIZES = (1_200, 1_280, 1_372, 1_400, 1_452, 1_472, 4_052, 8_972)
"""Bytes of datagrams: what ours have at most, what tunnels leave, PPPoE, Ethernet, jumbo frames."""
TRIES = 8
"""Of one size: at 30 % loss each way, two thirds of the tries that could succeed do not."""
AGAIN_S = 1.0
LATER_S = 1.0
"""The transport has the same time for its greeting, and knows better what went wrong."""


class Plan(Struct, frozen=True):
    """`count` Pings, one every `interval_s`; nothing is waited for longer than `timeout_s`."""

    count: int
    interval_s: float
    timeout_s: float


class Times(Struct, frozen=True):
    """Round trips in seconds, the shortest first."""

    asked: int
    answered: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """Of at least one answer: the least that `share` of all stay within."""
        return self.answered[max(0, ceil(share * len(self.answered)) - 1)]


class Found(Struct, frozen=True):
    """What a probe found out. Times are seconds; `path` and `largest` are for UDP alone."""

    node: str
    user: str
    connect_s: float
    """Until the transport was ready: over UDP just the socket."""
    welcome_s: float
    """From then on, until the gateway let us in."""
    times: Times
    path: PathStatistics | None
    largest: PathStatistics | None
    resumed_s: float | None
    """From another address, or another connection, until traffic flows again; None: it did not."""


@implementer(IReceiver)
class Line:
    """One connection to the gateway, logged in or on the way."""

    def __init__(self, reactor: Any, wire: Any) -> None:
        self._reactor = reactor
        self._wire = wire
        self._codec: Any = None
        self._waiting: dict[int, Deferred[Any]] = {}  # Pings by their nonce; 0: the login
        self._nonce = 0
        self._error: Exception | None = None
        self.connection: Any = None

    # ----------------------------------------------------------------------------------------- IReceiver

    def opened(self, wire: Any) -> None:
        self._wire = wire

    def received(self, data: bytes) -> None:
        try:
            for frame in self._codec.receive(data):
                if isinstance(frame, bytes):
                    self.connection.send(frame)
                else:
                    self._take(frame)
        except LinkError as error:
            self._fail(LinkLost(f"the gateway's bytes are wrong: {error}"))

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def lost(self, reason: str, code: int = CloseCode.LOST) -> None:
        self._fail(LinkLost(reason))

    # ----------------------------------------------------------------------------------------- the prober

    def attach(self, connection: Any) -> None:
        self.connection = connection
        self._codec = self._wire.codec(connection.stream, self._wire.carriage.max_frame_bytes)

    def login(self, hello: Hello) -> Deferred[Welcome]:
        """:raises ConnectRefused, LinkLost: the gateway does not let us in, or there is none."""
        self._send(hello)
        return self._wait(0)

    def ping(self) -> Deferred[float]:
        """Fires with the round trip in seconds. :raises LinkLost: the connection ended first."""
        self._nonce += 1
        began = self._reactor.seconds()
        self._send(Ping(self._nonce, int(began * 1000)))
        return self._wait(self._nonce).addCallback(lambda _: self._reactor.seconds() - began)

    def close(self) -> None:
        if self._error is None:
            self._send(Bye(CloseCode.NORMAL))
            self.connection.close(CloseCode.NORMAL)

    def drop(self) -> None:
        """Break off without a word."""
        self._error = self._error or LinkLost("dropped")
        self.connection.abort()

    # --------------------------------------------------------------------------------------------- frames

    def _take(self, frame: Frame) -> None:
        if isinstance(frame, Welcome):
            self._answer(0, frame)
        elif isinstance(frame, Pong):
            self._answer(frame.nonce, frame)
        elif isinstance(frame, Ping):
            self._send(Pong(frame.nonce, frame.time_ms))
        elif isinstance(frame, Bye):
            refused = frame.code >= 200
            self._fail(ConnectRefused(frame.code, frame.reason) if refused else LinkLost(frame.reason))
        # Messages are not acknowledged: they wait for a device that reads them.

    def _send(self, frame: Frame) -> None:
        if self._error is None:
            self.connection.send(self._codec.encode(frame))

    def _wait(self, nonce: int) -> Deferred[Any]:
        def forget(_: Any) -> None:
            self._waiting.pop(nonce, None)

        waiting: Deferred[Any] = Deferred(forget)
        if self._error is not None:
            waiting.errback(self._error)
        else:
            self._waiting[nonce] = waiting
        return waiting

    def _answer(self, nonce: int, frame: Frame) -> None:
        waiting = self._waiting.pop(nonce, None)
        if waiting is not None:
            waiting.callback(frame)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.errback(self._error)


async def probe(reactor: Any, login: Any, plan: Plan) -> Found:
    """Log in as a `login.Login` says, measure, and leave.

    :raises ConnectRefused, LinkLost: it did not get in, or the connection did not last.
    """
    return await _Probe(reactor, login, plan).run()


class _Probe:
    def __init__(self, reactor: Any, login: Any, plan: Plan) -> None:
        self._reactor = reactor
        self._login = login
        self._plan = plan
        self._wire = protocol_named(login.protocol)
        self._transport = transport_for(login.url)
        self._line: Any = None

    async def run(self) -> Found:
        try:
            line, connect_s = await self._patiently()
            hello = self._hello()
            began = self._reactor.seconds()
            welcome = await self._in_time(line.login(hello), "no Welcome", LATER_S)
            welcome_s = self._reactor.seconds() - began
            times = await self._times(line)
            measured: Any = IMeasured(line.connection, None)
            path = largest = None
            resumed_s: float | None
            if measured is None:
                line.drop()
                resumed_s = await self._resume(welcome)
            else:
                path = measured.statistics()
                largest = await self._largest(line, measured)
                resumed_s = await self._rebind(line, measured)
            return Found(welcome.node, welcome.user, connect_s, welcome_s, times, path, largest, resumed_s)
        finally:
            if self._line is not None:
                self._line.close()

    async def _patiently(self) -> tuple[Line, float]:
        while True:
            try:
                return await self._connect()
            except LinkLost:
                if not self._login.wait:
                    raise
                await deferLater(self._reactor, AGAIN_S)

    async def _connect(self) -> tuple[Line, float]:
        """A connection, and how long it took."""
        line = Line(self._reactor, self._wire)
        options = {
            "tls": self._login.tls,
            "timeout_s": self._plan.timeout_s,
            "udp": self._credentials().udp,
            "measured": True,
        }
        self._import()
        began = self._reactor.seconds()
        connecting = self._transport.connect(self._login.url, self._wire, line, self._reactor, options)
        line.attach(await connecting)
        self._line = line
        return line, self._reactor.seconds() - began

    def _import(self) -> None:
        """What a first connection imports: that time is this program's, not the line's."""
        if isinstance(self._transport, TransportPlugin):
            self._transport.loaded()
        if self._login.url.startswith(("tls://", "wss://")):
            import twisted.internet.ssl
            import twisted.protocols.tls  # noqa: F401

    def _credentials(self) -> Credentials:
        token = self._login.token
        return credentials_for(self._login.url, token if isinstance(token, str) else str(token()))

    def _hello(self, resume: Sequence[ResumePoint] = ()) -> Hello:
        login, token = self._login, self._credentials().token
        return Hello(token, login.device, login.platform, "imgateway-probe/1", (), Start.HEAD, tuple(resume))

    async def _in_time(self, answer: Deferred[Any], otherwise: str, later_s: float = 0.0) -> Any:
        try:
            return await answer.addTimeout(self._plan.timeout_s + later_s, self._reactor)
        except TimeoutError:
            raise LinkLost(f"{otherwise} within {self._plan.timeout_s:g} s") from None

    # --------------------------------------------------------------------------------------- what is measured

    async def _times(self, line: Line) -> Times:
        answered: list[float] = []
        with Progress("Pings", self._reactor.seconds) as progress:
            for sent in range(self._plan.count):
                progress(sent, self._plan.count)
                began = self._reactor.seconds()
                try:
                    answered.append(await line.ping().addTimeout(self._plan.timeout_s, self._reactor))
                except TimeoutError:
                    continue
                rest_s = began + self._plan.interval_s - self._reactor.seconds()
                await deferLater(self._reactor, max(0.0, rest_s))
        if not answered:
            raise LinkLost(f"no answer to any of {self._plan.count} Pings")
        return Times(self._plan.count, tuple(sorted(answered)))

    async def _largest(self, line: Line, measured: Any) -> PathStatistics:
        """One size after the other, until one gets nowhere."""
        with Progress("sizes of datagrams", self._reactor.seconds) as progress:
            for done, size in enumerate(SIZES):
                for _ in range(TRIES):
                    progress(done, len(SIZES))
                    measured.challenge(size)
                    # The answer to a Ping that follows tells whether it arrived.
                    await self._in_time(line.ping(), "no answer to a Ping")
                    found: PathStatistics = measured.statistics()
                    if found.largest_down == size:
                        break
                if found.largest_up < size:
                    break
        return found

    async def _rebind(self, line: Line, measured: Any) -> float | None:
        began = self._reactor.seconds()
        try:
            await measured.rebind()
            await line.ping().addTimeout(self._plan.timeout_s, self._reactor)
        except TimeoutError:
            return None
        return float(self._reactor.seconds() - began)

    async def _resume(self, welcome: Welcome) -> float:
        began = self._reactor.seconds()
        line, _ = await self._connect()
        points = [ResumePoint(one.address, one.lane, one.epoch, one.position) for one in welcome.resumed]
        await self._in_time(line.login(self._hello(points)), "no Welcome on a new connection")
        return float(self._reactor.seconds() - began)
