"""What the sockets of both ends share: sending that never raises, one clock, one flush a turn."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from twisted.internet.error import MessageLengthError
from twisted.internet.protocol import DatagramProtocol

from imgateway.transports.collect import collector_of

from .packets import LARGEST
from .path import Place
from .wakeups import WakeUps

__all__ = ("MAX_PACKET_SIZE", "Port")

MAX_PACKET_SIZE = LARGEST + 1
"""What a socket reads at most: one byte more than is good, so that what is too long shows."""


class Port(DatagramProtocol):
    """A UDP socket with connections on it."""

    noisy = False

    def __init__(self, reactor: Any, max_frame_bytes: int, max_resends: int) -> None:
        self.reactor = reactor
        self.collector = collector_of(reactor)
        self.wakeups = WakeUps(reactor)
        self.now = reactor.seconds
        self.max_frame_bytes = max_frame_bytes
        self.max_resends = max_resends

    def write(self, datagram: bytes, place: Place) -> None:
        """Send; what the system does not take is lost, as anything on the way may be."""
        transport: Any = self.transport
        if transport is not None:
            with suppress(OSError, MessageLengthError):
                transport.write(datagram, place)

    def forget(self, connection: Any) -> None:
        """This connection has ended."""
        raise NotImplementedError

    def enlarge(self, size: int) -> None:
        """Ask the system for a receive buffer of `size` bytes; it gives what it allows."""
        handle = getattr(self.transport, "socket", None)  # there is none in memory
        if handle is not None:
            with suppress(OSError):
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
