"""What the sockets of both ends share: sending that never raises, one clock, one flush a turn."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import MessageLengthError
from twisted.internet.protocol import DatagramProtocol

from imgateway.transports.collect import collector_of
from imgateway.transports.places import host_port

from .packets import LONGEST
from .path import Place
from .reader import Reader
from .recovery import ANSWER_DELAY_S
from .wakeups import WakeUps

__all__ = ("MAX_PACKET_SIZE", "Listening", "Port", "Socket")

MAX_PACKET_SIZE = LONGEST + 1
"""What a socket reads at most: one byte more than is good, so that what is too long shows."""
RECEIVE_BUFFER_BYTES = 4_194_304
"""For a gateway's socket: a burst of logins is not lost while the reactor is elsewhere for 50 ms."""

MTU_DISCOVER = {
    socket.AF_INET: (socket.IPPROTO_IP, 10),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23),
}
PMTUDISC_PROBE = 3
"""Linux's, which Python has no names for: fragment nothing, and believe nothing that was learned of the path.
"""


class Socket(DatagramProtocol):
    """A UDP socket."""

    noisy = False

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.now = reactor.seconds

    def write(self, datagram: bytes, place: Place) -> None:
        """Send; what the system does not take is lost, as anything on the way may be."""
        transport: Any = self.transport
        if transport is not None:
            # Twisted looks three times whether this is an address, which takes longer than to send it.
            handle = getattr(transport, "socket", None)
            try:
                if handle is not None:
                    handle.sendto(datagram, place)
                else:
                    transport.write(datagram, place)
            except (OSError, MessageLengthError):
                pass

    def never_fragment(self) -> None:
        """From now on a datagram that is too large for the path is lost instead of cut up, as far as the
        system can see to it."""
        handle = getattr(self.transport, "socket", None)
        if handle is not None:
            level, option = MTU_DISCOVER[handle.family]
            with suppress(OSError):
                handle.setsockopt(level, option, PMTUDISC_PROBE)

    def enlarge(self, size: int) -> None:
        """Ask the system for a receive buffer of `size` bytes; it gives what it allows."""
        handle = getattr(self.transport, "socket", None)  # there is none in memory
        if handle is not None:
            with suppress(OSError):
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _leave(self) -> Deferred[None]:
        transport: Any = self.transport
        self.transport = None
        return maybeDeferred(transport.stopListening) if transport is not None else succeed(None)


class Listening(Socket):
    """A gateway's socket: all of an `IListener`, with connections that may outlive its stop."""

    address = ""
    port = 0
    _is_paused = _is_stopped = False

    def startProtocol(self) -> None:
        self.enlarge(RECEIVE_BUFFER_BYTES)
        transport: Any = self.transport
        host = transport.getHost()
        self.address, self.port = f"udp:{host_port(host.host, host.port)}", int(host.port)

    def pause(self) -> None:
        self._is_paused = True  # a greeting that goes unanswered is repeated

    def resume(self) -> None:
        self._is_paused = False

    def stop(self) -> Deferred[None]:
        """Nobody new; the socket stays as long as a connection needs it."""
        self._is_stopped = True
        return self._leave() if not self._peopled() else succeed(None)

    @property
    def _is_open(self) -> bool:
        """Who is new is let in."""
        return not (self._is_paused or self._is_stopped)

    def _peopled(self) -> bool:
        """There are connections."""
        raise NotImplementedError

    def _left(self) -> None:
        """A connection has ended; it may have a last word to send."""
        if self._is_stopped and not self._peopled():
            self.reactor.callLater(0, self._leave)


class Port(Socket):
    """A socket with connections on it. Its clock is the reactor's: the gateway and the commands see to it
    that this is never set back, a program with a client of its own may."""

    def __init__(self, reactor: Any, max_frame_bytes: int, max_resends: int) -> None:
        super().__init__(reactor)
        self.collector = collector_of(reactor)
        self.reader: Reader | None = None
        self.wakeups = WakeUps(reactor, self._read_upto)
        self.max_frame_bytes = max_frame_bytes
        self.max_resends = max_resends

    def is_behind(self) -> bool:
        """More comes than is read, or more is to be sent again than goes in one turn."""
        return self.wakeups.is_late or (self.reader is not None and self.reader.is_behind)

    @property
    def ack_delay_s(self) -> float:
        """How long an acknowledgement may wait for something that it can ride with. It wants no wake-up of
        its own while those wait for each other."""
        return 0.0 if self.is_behind() else ANSWER_DELAY_S

    def _read_upto(self, now: float) -> float:
        return now if self.reader is None else self.reader.upto(now)

    def forget(self, connection: Any) -> None:
        """This connection has ended."""
        raise NotImplementedError
