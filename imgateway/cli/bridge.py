"""Streams through a bad line: every connection is joined to one of its own to the gateway."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.testing.alarm import Alarm
from imgateway.testing.conditions import BothWays
from imgateway.testing.lossy import LossyStream, StreamCounts

__all__ = ("StreamRelay",)

MOST_CONNECTIONS = 500  # each is two file descriptors; the usual limit of a process is 1,024
CONNECT_S = 30.0
FLUSH_S = 0.01  # what was written before the cut leaves our buffers with the reactor's next turns


class StreamRelay(Factory):
    """Who connects here is connected to the gateway. One more than `MOST_CONNECTIONS` is turned away."""

    noisy = False
    TALLIES = ("connections", "turned_away", "unreachable", "cut")

    def __init__(self, reactor: Any, to: tuple[str, int], ways: BothWays, seed: int) -> None:
        self.reactor = reactor
        self.to = to
        self.ways = ways
        self.seed = seed
        self.up, self.down = StreamCounts(), StreamCounts()
        self.connections = 0
        """How many there were."""
        self.turned_away = 0
        self.unreachable = 0
        """Connections for which the gateway could not be reached."""
        self.cut = 0
        """Connections that the line broke."""
        self._bridges: dict[_Bridge, None] = {}
        self._port: Any = None

    def listen(self, host: str, port: int) -> Any:
        self._port = self.reactor.listenTCP(port, self, interface=host)
        return self._port

    def buildProtocol(self, addr: Any) -> _Bank | None:
        if len(self._bridges) >= MOST_CONNECTIONS:
            self.turned_away += 1
            return None
        self.connections += 1
        bridge = _Bridge(self, self.connections)
        self._bridges[bridge] = None
        return bridge.near

    def change(self, ways: BothWays) -> None:
        """Other conditions, from now on."""
        self.ways = ways
        for bridge in list(self._bridges):
            bridge.up.lossy.conditions, bridge.down.lossy.conditions = ways
            bridge.carry(self.reactor.seconds())

    def happen(self, event: str) -> None:
        """``cut``: every connection breaks."""
        assert event == "cut"
        for bridge in list(self._bridges):
            bridge.cut()

    def close(self) -> None:
        self._port.stopListening()
        for bridge in list(self._bridges):
            bridge.abort()

    def active(self) -> int:
        """How many connections there are now."""
        return len(self._bridges)

    def said(self, counts: StreamCounts) -> str:
        """For people, in a few words."""
        return f"{counts.bytes_in:,} → {counts.bytes_out:,} bytes"

    def forget(self, bridge: _Bridge) -> None:
        self._bridges.pop(bridge, None)


class _Way:
    """One direction of a bridge, from a bank to the other."""

    def __init__(self, lossy: LossyStream, source: _Bank, sink: _Bank) -> None:
        self.lossy = lossy
        self.source = source
        self.sink = sink

    def carry(self, now: float) -> None:
        """Hand out what has arrived, as far as the sink takes it, and hold the source if it is too much."""
        sink, source, lossy = self.sink, self.source, self.lossy
        if sink.gone:
            lossy.drop()
        elif sink.is_open():
            while not sink.clogged and (data := lossy.due(now)):
                sink.transport.write(data)
            if lossy.has_ended(now):
                sink.end(source.broken, source.gone)
        source.hold(lossy.is_full(now))

    def wake_at(self, now: float) -> float | None:
        return self.lossy.wake_at(now) if self.sink.is_open() and not self.sink.clogged else None


class _Bridge:
    """A client's connection, the one to the gateway, and both ways between."""

    def __init__(self, relay: StreamRelay, number: int) -> None:
        self._relay = relay
        now, seed = relay.reactor.seconds(), f"{relay.seed}/{number}"
        self.near, self.far = near, far = _Bank(self), _Bank(self)
        self.up = _Way(LossyStream(relay.ways.up, f"{seed}/up", now, relay.up), near, far)
        self.down = _Way(LossyStream(relay.ways.down, f"{seed}/down", now, relay.down), far, near)
        self._alarm = Alarm(relay.reactor, self.carry)
        self._connector: Any = None
        self._cut_at: float | None = None
        self._over = False

    def opened(self, bank: _Bank) -> None:
        if bank is self.near:
            reactor, (host, port) = self._relay.reactor, self._relay.to
            self._connector = reactor.connectTCP(host, port, _Dialling(self), CONNECT_S)
        self.carry_now()

    def unreachable(self) -> None:
        if not self._over:
            self._relay.unreachable += 1
            self.far.gone = True
            self.abort()

    def received(self, bank: _Bank, data: bytes) -> None:
        if not self._over:
            way = self.up if bank is self.near else self.down
            way.lossy.send(data, self._relay.reactor.seconds())
            self.carry_now()

    def finished(self, bank: _Bank) -> None:
        way = self.up if bank is self.near else self.down
        way.lossy.finish()
        if self.near.gone and self.far.gone:
            self.abort()
        else:
            self.carry_now()

    def cut(self) -> None:
        self._relay.cut += 1
        self.abort()

    def abort(self) -> None:
        """End it, whatever state it is in."""
        if self._over:
            return
        self._over = True
        self._alarm.set(None)
        self._relay.forget(self)
        for way in (self.up, self.down):
            way.lossy.drop()
            if way.source.is_open():
                way.source.transport.abortConnection()
        if self.far.transport is None and not self.far.gone:
            self._connector.stopConnecting()

    def carry_now(self) -> None:
        self.carry(self._relay.reactor.seconds())

    def carry(self, now: float) -> None:
        if self._over:
            return
        up, down = self.up, self.down
        if self._cut_at is None:
            up.carry(now)
            down.carry(now)
            if up.lossy.is_cut(now) or down.lossy.is_cut(now):
                self._cut_at = now + FLUSH_S
        if self._cut_at is None:
            times = (up.wake_at(now), down.wake_at(now), up.lossy.cut_at, down.lossy.cut_at)
            self._alarm.set(min((at for at in times if at is not None), default=None))
        elif self._cut_at <= now:
            self.cut()
        else:
            self._alarm.set(self._cut_at)


@implementer(IHalfCloseableProtocol, IPushProducer)
class _Bank(Protocol):
    """One end of a bridge. As a producer it is told whether its own socket has room."""

    transport: Any

    def __init__(self, bridge: _Bridge) -> None:
        self.clogged = False
        self.gone = False
        self.broken = False
        """It did not close its end: it broke."""
        self._bridge = bridge
        self._held = False
        self._has_read_all = False
        self._was_told_end = False

    def is_open(self) -> bool:
        return self.transport is not None and not self.gone

    def hold(self, hold: bool) -> None:
        """Read no more, or again."""
        if hold != self._held and self.is_open():
            self._held = hold
            if hold:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def end(self, broken: bool, entirely: bool) -> None:
        """Hand on that the other end sends no more, or is gone altogether. Again is no harm."""
        if broken:
            self.transport.abortConnection()
        elif entirely or self._has_read_all:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        elif not self._was_told_end:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()
        self._was_told_end = True

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._bridge.opened(self)

    def dataReceived(self, data: bytes) -> None:
        self._bridge.received(self, data)

    def readConnectionLost(self) -> None:
        self._has_read_all = True
        if self._was_told_end:
            self.transport.loseConnection()  # both halves are done; Twisted leaves it to us to say so
        self._bridge.finished(self)

    def writeConnectionLost(self) -> None: ...

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        self.broken = not reason.check(ConnectionDone)
        self._bridge.finished(self)

    def pauseProducing(self) -> None:
        self.clogged = True

    def resumeProducing(self) -> None:
        self.clogged = False
        self._bridge.carry_now()

    def stopProducing(self) -> None: ...


class _Dialling(ClientFactory):
    noisy = False

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def buildProtocol(self, addr: Any) -> _Bank:
        return self._bridge.far

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._bridge.unreachable()
