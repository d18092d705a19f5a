"""UDP in memory: ports on a `Network`, and the lossy lines between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, InvalidAddressError, MessageLengthError
from twisted.internet.interfaces import IListeningPort, IUDPTransport
from twisted.logger import Logger
from zope.interface import implementer

from .alarm import Alarm
from .conditions import LinkConditions
from .lossy import DatagramCounts, LossyDatagrams

__all__ = ("Captured", "DatagramPort", "Datagrams", "Place")

MAX_DATAGRAM_BYTES = 65_507  # what IPv4 and UDP leave of 64 KiB
ANYWHERE = ("", "0.0.0.0", "::")

log = Logger()

Place = tuple[str, int]
"""A numeric host and a port."""


class Captured(NamedTuple):
    """One datagram as it was sent, whatever became of it."""

    when: float
    source: Place
    destination: Place
    data: bytes


class Datagrams:
    """All UDP traffic of a `Network`: what is in ``network.datagrams``.

    ::

        network.datagrams.conditions = LinkConditions(loss=0.3, delay_s=0.05)

    :param seed: of every line's dice; set it before the first datagram.
    """

    def __init__(self, network: Any, seed: int = 0) -> None:
        self.seed = seed
        self.conditions: LinkConditions | Callable[[Place, Place], LinkConditions] = LinkConditions()
        """What every line is like, each way, from now on; or a function (source, destination) → what the
        way from the one to the other is like, which is asked for each datagram."""
        self.captured: list[Captured] | None = []
        """Every datagram that a port sent, oldest first; None: they are not kept."""
        self.counts = DatagramCounts()
        """Over all lines."""
        self.capacity = 262_144
        """Bytes that wait for a socket that is not read; what comes then is lost."""
        self._network = network
        self._ports: dict[Place, DatagramPort] = {}
        self._lines: dict[tuple[DatagramPort, DatagramPort], _Line] = {}

    def rebind(self, port: Any, place: Place | None = None) -> Place:
        """From now on this port, what `listenUDP` returned, is seen at another place, as by a NAT that gave
        it a new mapping; the port itself does not learn of it. What is under way to the old place is lost.

        :param place: where; None: at the same host, on another port. Returns where.
        """
        assert isinstance(port, DatagramPort)
        if place is None:
            place = (port.seen_by(port.place)[0], self._network.free_port())
        self._take(place, port)
        del self._ports[port.place]
        port.place = place
        return place

    def spoof(self, data: bytes, source: Place, destination: Place) -> bool:
        """Put a datagram into the socket at `destination` as if it came from `source`. No line is
        between: nothing is lost, late, or captured. Whether there is such a socket with room.
        """
        port = self.at(destination)
        return port is not None and port.arrive(data, source)

    def at(self, place: Place) -> DatagramPort | None:
        """The port that is seen at this place."""
        host, number = place
        for candidate in (host, *ANYWHERE):
            port = self._ports.get((candidate, number))
            if port is not None:
                return port
        return None

    # -------------------------------------------------------------------------------------- for the ports

    def listen(self, port: DatagramPort) -> None:
        self._take(port.place, port)

    def leave(self, port: DatagramPort) -> None:
        del self._ports[port.place]
        for ends in [ends for ends in self._lines if port in ends]:
            del self._lines[ends]  # what is on its way arrives all the same, if somebody is there

    def send(self, sender: DatagramPort, data: bytes, destination: Place) -> bool:
        """Carry a datagram; whether anybody is there now."""
        source = sender.seen_by(destination)
        now = self._network.seconds()
        if self.captured is not None:
            self.captured.append(Captured(now, source, destination, data))
        receiver = self.at(destination)
        if receiver is None:
            return False
        conditions = self.conditions
        if callable(conditions):
            conditions = conditions(source, destination)
        line = self._lines.get((sender, receiver))
        if line is None:
            if conditions == _CLEAN:  # no dice for it: there may be very many that send once
                receiver.arrive(data, source)
                self._count_clean(len(data))
                return True
            line = self._lines[sender, receiver] = _Line(
                self, self._network, conditions, f"{self.seed}/{source}/{destination}"
            )
        line.send(data, conditions, source, destination)
        return True

    def _count_clean(self, size: int) -> None:
        counts = self.counts
        counts.datagrams_in += 1
        counts.bytes_in += size
        counts.datagrams_out += 1
        counts.bytes_out += size

    def _take(self, place: Place, port: DatagramPort) -> None:
        if place in self._ports:
            raise CannotListenError(*place, OSError(98, "Address already in use"))
        self._ports[place] = port


_CLEAN = LinkConditions()


class _Line:
    """From one port to another, one way; it outlives a new mapping of either."""

    def __init__(self, datagrams: Datagrams, network: Any, conditions: LinkConditions, seed: str) -> None:
        self._datagrams = datagrams
        self._network = network
        self._lossy = LossyDatagrams(conditions, seed, network.seconds(), datagrams.counts)
        self._alarm = Alarm(network, self._carry)

    def send(self, data: bytes, conditions: LinkConditions, source: Place, destination: Place) -> None:
        now = self._network.seconds()
        self._lossy.conditions = conditions
        self._lossy.send(data, now, (source, destination))
        self._carry(now)

    def _carry(self, now: float) -> None:
        for data, (source, destination) in self._lossy.due(now):
            self._datagrams.spoof(data, source, destination)
        self._alarm.set(self._lossy.wake_at)


@implementer(IListeningPort, IUDPTransport)
class DatagramPort:
    """A UDP socket, with a kernel's buffer of `Datagrams.capacity` bytes: what comes when it is full is
    lost.

    Bound to no address of its own it has 127.0.0.1 or ::1, whoever asks.
    """

    def __init__(self, network: Any, place: Place, protocol: Any, max_packet_bytes: int) -> None:
        self.place = place
        """Where others see it."""
        self.overflowed = 0
        """Datagrams that were lost because nobody read."""
        self._network = network
        self._host = place
        self._protocol = protocol
        self._max_packet_bytes = max_packet_bytes
        self._arrived: deque[tuple[bytes, Place]] = deque()
        self._arrived_bytes = 0
        self._peer: Place | None = None
        self._refused = False
        self._stopped: Deferred[None] | None = None
        self._broadcast = False
        self.disconnected = False

    # -------------------------------------------------------------------------------------- for the network

    def seen_by(self, destination: Place) -> Place:
        host, number = self.place
        if host in ANYWHERE:
            host = "::1" if isIPv6Address(destination[0]) else "127.0.0.1"
        return host, number

    def arrive(self, data: bytes, source: Place) -> bool:
        if self._peer not in (None, source):
            return False  # a connected socket hears its peer alone
        if self._arrived_bytes + len(data) > self._network.datagrams.capacity:
            self.overflowed += 1
            return False
        self._arrived.append((data, source))
        self._arrived_bytes += len(data)
        return True

    def readable(self) -> bool:
        return bool(self._arrived) or self._refused

    def doRead(self) -> None:
        if self._refused:
            self._refused = False
            self._protocol.connectionRefused()
        for _ in range(len(self._arrived)):
            if self not in self._network._readers:
                return  # it stopped reading in the middle
            data, source = self._arrived.popleft()
            self._arrived_bytes -= len(data)
            try:
                self._protocol.datagramReceived(data[: self._max_packet_bytes], source)
            except Exception:
                log.failure("datagramReceived failed")

    # ------------------------------------------------------------------------------------ what Twisted calls

    def startListening(self) -> None:
        self._network.datagrams.listen(self)
        self._protocol.makeConnection(self)
        self.startReading()

    def startReading(self) -> None:
        self._network.addReader(self)

    def stopReading(self) -> None:
        self._network.removeReader(self)

    def write(self, packet: bytes, addr: Place | None = None) -> None:
        if self.disconnected:
            raise AttributeError("this port has stopped listening")
        if self._peer is not None:
            assert addr in (None, self._peer), "a connected port writes to its peer alone"
            destination = self._peer
        else:
            assert addr is not None, "a port that is not connected writes to an address"
            destination = self._checked(addr)
        if len(packet) > MAX_DATAGRAM_BYTES:
            raise MessageLengthError("message too long")
        there = self._network.datagrams.send(self, bytes(packet), destination)
        if not there and self._peer is not None:
            self._refused = True

    def writeSequence(self, packets: Any, addr: Place | None = None) -> None:
        self.write(b"".join(packets), addr)

    def connect(self, host: str, port: int) -> None:
        if self._peer is not None:
            raise RuntimeError("already connected, reconnecting is not currently supported")
        self._peer = self._checked((host, port))

    def stopListening(self) -> Deferred[None] | None:
        """Fires once the port is closed; None, as Twisted's: it was closed before."""
        if self.disconnected:
            return None
        if self._stopped is None:
            self._stopped = Deferred()
            self.stopReading()
            self._network.callLater(0, self._close)
        return self._stopped

    def getHost(self) -> IPv4Address | IPv6Address:
        if self.disconnected:
            raise AttributeError("this port has stopped listening")
        host, number = self._host
        family = IPv6Address if ":" in host else IPv4Address
        return family("UDP", host or "0.0.0.0", number)

    def setBroadcastAllowed(self, enabled: bool) -> None:
        self._broadcast = enabled

    def getBroadcastAllowed(self) -> bool:
        return self._broadcast

    def _checked(self, addr: Place) -> Place:
        host, number = addr
        if not isIPAddress(host) and not isIPv6Address(host):
            raise InvalidAddressError(host, "only IP addresses, not hostnames")
        if isIPv6Address(host) != (":" in self._host[0]):
            raise InvalidAddressError(host, "the port is of the other family of addresses")
        return host, number

    def _close(self) -> None:
        self.disconnected = True
        self._network.datagrams.leave(self)
        self._protocol.doStop()
        assert self._stopped is not None
        self._stopped.callback(None)
