"""A reactor in memory on which the real transports run: streams here, datagrams in `datagrams`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor, isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    InvalidAddressError,
    UserError,
)
from twisted.internet.interfaces import IConnector, IListeningPort, IReactorUDP, ITCPTransport
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from .datagrams import DatagramPort, Datagrams

__all__ = ("End", "Link", "Network")


@implementer(IReactorUDP)
class Network(Clock):
    """The part of a Twisted reactor that sockets use, with time that only `advance` moves.

    Numeric addresses only: there are no names to look up. Nothing is carried until `settle` (`advance`
    pumps too).

    :param chunk: the most that one read takes, in bytes; 0: what is there. May be a function: bytes there →
        bytes to take.
    :param capacity: how many bytes a link holds, each way, before the sender's socket is full; a UDP
        socket, before it loses what comes.
    :param seed: for the dice of lossy lines between UDP ports.
    """

    def __init__(self, chunk: int | Callable[[int], int] = 0, capacity: int = 262_144, seed: int = 0) -> None:
        super().__init__()
        self.chunk = chunk
        self.capacity = capacity
        self.links: list[Link] = []
        """Every link that was ever made, oldest first."""
        self.datagrams = Datagrams(self, seed)
        """UDP: the conditions of its lines, what was captured, new mappings, forged datagrams."""
        self._ports: dict[int | str, Port] = {}
        self._readers: dict[Any, None] = {}  # dicts, for the order: what happens must not depend on hashes
        self._writers: dict[Any, None] = {}
        self._next_port = 50_000

    # ------------------------------------------------------------------------------------------- for the test

    def settle(self, turns: int = 1_000_000) -> None:
        """Let everything happen that can happen without time passing."""
        for _ in range(turns):
            if not self.turn():
                return
        raise AssertionError("the network does not come to rest")

    def turn(self) -> bool:
        """One turn of the reactor, without time passing; whether anything happened."""
        busy = any(call.getTime() <= self.seconds() for call in self.getDelayedCalls())
        super().advance(0)
        for writer in list(self._writers):
            if writer in self._writers and writer.writable():
                busy = True
                self._after(writer, writer.doWrite())
        for reader in list(self._readers):
            if reader in self._readers and reader.readable():
                busy = True
                self._after(reader, reader.doRead())
        return busy

    def advance(self, amount: float) -> None:
        """Carry what is there, let `amount` seconds pass, and carry what that sets off."""
        self.settle()
        super().advance(amount)
        self.settle()

    def elapse(self, amount: float) -> None:
        """As `advance`, but stop at each moment for which something is scheduled: what is sent then, is sent
        then, and not after all of `amount`. It takes longer; who measures round trips needs it.
        """
        self.settle()
        end = self.seconds() + amount
        while (at := min((call.getTime() for call in self.getDelayedCalls()), default=end)) < end:
            self.rightNow = at  # not by adding up: sums of floats miss the moment
            self.settle()
        self.rightNow = end
        self.settle()

    def result(self, deferred: Deferred[Any]) -> Any:
        """Pump, and return what the Deferred fired with, or raise its failure."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.settle()
        assert results, "it has not fired"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def _after(self, descriptor: Any, why: Any) -> None:
        if why is not None and (not isinstance(why, int) or why < 0):
            self.removeReader(descriptor)
            self.removeWriter(descriptor)
            descriptor.connectionLost(Failure(why))

    # ----------------------------------------------------------------------------------- what Twisted calls

    def addReader(self, reader: Any) -> None:
        self._readers[reader] = None

    def removeReader(self, reader: Any) -> None:
        self._readers.pop(reader, None)

    def addWriter(self, writer: Any) -> None:
        self._writers[writer] = None

    def removeWriter(self, writer: Any) -> None:
        self._writers.pop(writer, None)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        if not 0 <= port <= 65_535:
            raise OverflowError("bind(): port must be 0-65535.")  # as the system's
        port = port or self.free_port()
        family = IPv6Address if ":" in interface else IPv4Address
        return self._listen(port, family("TCP", interface or "0.0.0.0", port), factory, interface)

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Port:
        from twisted.protocols.tls import TLSMemoryBIOFactory

        return self.listenTCP(
            port, TLSMemoryBIOFactory(contextFactory, False, factory, self), backlog, interface
        )

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> Port:
        return self._listen(address, UNIXAddress(address.encode()), factory, address)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Connector:
        family = IPv6Address if ":" in host else IPv4Address
        return Connector(
            self, port, factory, family("TCP", host, self.free_port()), family("TCP", host, port)
        )

    def connectUNIX(
        self, address: str, factory: Any, timeout: float = 30, checkPID: bool = False
    ) -> Connector:
        return Connector(self, address, factory, UNIXAddress(None), UNIXAddress(address.encode()))

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> DatagramPort:
        if interface and not isIPAddress(interface) and not isIPv6Address(interface):
            raise InvalidAddressError(interface, "not an IPv4 or IPv6 address.")
        listening = DatagramPort(self, (interface, port or self.free_port()), protocol, maxPacketSize)
        listening.startListening()
        return listening

    def free_port(self) -> int:
        """A number that no port had yet, as for port 0."""
        self._next_port += 1
        return self._next_port

    def _listen(self, key: int | str, host: Any, factory: Any, interface: str) -> Port:
        if key in self._ports:
            raise CannotListenError(interface, key, OSError(98, "Address already in use"))
        port = self._ports[key] = Port(self, key, host, factory)
        factory.doStart()
        port.startReading()
        return port


@implementer(IListeningPort)
class Port:
    """A listening port; while it does not read, who connects waits in its backlog."""

    def __init__(self, network: Network, key: int | str, host: Any, factory: Any) -> None:
        self._network = network
        self._key = key
        self._host = host
        self.factory = factory
        self.backlog: list[End] = []

    def getHost(self) -> Any:
        return self._host

    def startListening(self) -> None: ...

    def stopListening(self) -> Deferred[None]:
        self.stopReading()
        self._network._ports.pop(self._key, None)
        self.factory.doStop()
        return succeed(None)

    def startReading(self) -> None:
        self._network.addReader(self)

    def stopReading(self) -> None:
        self._network.removeReader(self)

    def readable(self) -> bool:
        return bool(self.backlog)

    def doRead(self) -> None:
        end = self.backlog.pop(0)
        protocol = self.factory.buildProtocol(end.getPeer())
        if protocol is None:
            end.abortConnection()
        else:
            end.start(protocol)


@implementer(IConnector)
class Connector:
    """One attempt to connect; it is decided in the next turn."""

    def __init__(self, network: Network, key: int | str, factory: Any, own: Any, remote: Any) -> None:
        self._network = network
        self._key = key
        self._factory = factory
        self._own = own
        self._remote = remote
        self._call: Any = network.callLater(0, self._decide)
        factory.doStart()
        factory.startedConnecting(self)

    def getDestination(self) -> Any:
        return self._remote

    def connect(self) -> None: ...

    def stopConnecting(self) -> None:
        self._call.cancel()
        self._factory.clientConnectionFailed(self, Failure(UserError()))

    def disconnect(self) -> None:
        self.stopConnecting()

    def _decide(self) -> None:
        port = self._network._ports.get(self._key)
        if port is None:
            self._factory.clientConnectionFailed(self, Failure(ConnectionRefusedError()))
            return
        protocol = self._factory.buildProtocol(self._remote)
        link = Link(self._network, self._own, self._remote)
        self._network.links.append(link)
        port.backlog.append(link.server)
        link.client.start(protocol)


class Link:
    """What lies between the two ends of one connection, and what may befall it."""

    def __init__(self, network: Network, client: Any, server: Any) -> None:
        self.silent = False
        self.client = End(network, self, client, server)
        self.server = End(network, self, server, client)
        self.client.other, self.server.other = self.server, self.client

    def cut(self) -> None:
        """Both ends lose the connection at once, and what was on the way."""
        for end in (self.client, self.server):
            end.break_off()

    def fall_silent(self) -> None:
        """From now on nothing arrives, and nobody is told: a half-open connection."""
        self.silent = True


@implementer(ITCPTransport)
class End(FileDescriptor):
    """One end's socket, with Twisted's buffers before it and a kernel's buffer, `capacity` bytes, behind
    it.
    """

    other: End

    def __init__(self, network: Network, link: Link, host: Any, peer: Any) -> None:
        super().__init__(network)  # type: ignore[arg-type]
        self.network = network
        self.link = link
        self.arrived = bytearray()
        """What the peer sent and this end has not read."""
        self.swallowed = 0
        self.sends = 0
        """How many times bytes were given to the socket."""
        self.finished = False
        self.protocol: Any = None
        self._host = host
        self._peer = peer
        self._aborting = False

    def start(self, protocol: Any) -> None:
        if self.disconnected:
            return  # cut while it waited to be accepted
        self.protocol = protocol
        self.connected = 1
        self.startReading()
        protocol.makeConnection(self)

    def room(self) -> int:
        used = self.swallowed if self.link.silent else len(self.other.arrived)
        return max(0, self.network.capacity - used)

    def writable(self) -> bool:
        return self.room() > 0 or (bool(self.other.disconnected) and not self.link.silent)

    def readable(self) -> bool:
        return not self.link.silent and (bool(self.arrived) or self.finished)

    def writeSomeData(self, data: bytes) -> int | BaseException:
        if self.other.disconnected and not self.link.silent:
            return CONNECTION_LOST
        taken = min(len(data), self.room())
        self.sends += 1
        if self.link.silent:
            self.swallowed += taken
        else:
            self.other.arrived += memoryview(data)[:taken]
        return taken

    @property
    def socket(self) -> End:
        """What takes the bytes: it is its own."""
        return self

    def send(self, data: bytes) -> int:
        """As sockets do."""
        sent = self.writeSomeData(data)
        if not isinstance(sent, int):
            raise ConnectionResetError
        if not sent:
            raise BlockingIOError
        return sent

    def doRead(self) -> Any:
        if not self.arrived:
            return CONNECTION_DONE
        chunk = self.network.chunk
        size = chunk(len(self.arrived)) if callable(chunk) else chunk or self.bufferSize
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        self.protocol.dataReceived(data)
        return None

    def _closeWriteConnection(self) -> None:
        self.other.finished = True

    def abortConnection(self) -> None:
        if not (self.disconnected or self._aborting):
            self._aborting = True
            self.stopReading()
            self.stopWriting()
            self.network.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

    def break_off(self) -> None:
        self.arrived.clear()
        if not self.disconnected:
            self.connectionLost(Failure(ConnectionLost()))

    def connectionLost(self, reason: Failure) -> None:
        if self.disconnected:
            return
        super().connectionLost(reason)
        if not self.link.silent:
            if reason.check(ConnectionDone):
                self.other.finished = True
            elif not self.other.disconnected:
                self.network.callLater(0, self.other.break_off)
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(reason)

    def getHost(self) -> Any:
        return self._host

    def getPeer(self) -> Any:
        return self._peer

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None: ...

    def getTcpKeepAlive(self) -> bool:
        return True
