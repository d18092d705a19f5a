"""Reading a gateway's socket: how much in one turn, and how far reading has come.

Twisted reads a socket until it is empty or 256 KB have come, and says to nobody which. Who waits for an
answer has to know: one that lies in the socket is not missing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

__all__ = ("AT_ONCE", "Reader")

log = Logger()

AT_ONCE = 2_048
"""Datagrams of one turn: they are there sooner than what they are answered with is missed, some 80 ms, and
more than the messages of a turn that want an acknowledgement."""

SMALLEST_BYTES = 512
"""Of the receive buffer that a datagram takes, at the very least; in fact an empty one takes 768."""


class Reader:
    """Reads a socket as one of `transports.readable`.

    :param handle: a socket that does not block.
    :param largest: bytes of a datagram; what is longer is cut off.
    :param take: called with each datagram and where it came from.
    :param transport: Twisted's, which is told when the socket has ended.

    :ivar is_behind: the last turn left something unread.
    """

    def __init__(
        self,
        handle: socket.socket,
        largest: int,
        take: Callable[[bytes, Any], None],
        transport: Any,
        now: Callable[[], float],
    ) -> None:
        self.is_behind = False
        self._handle = handle
        self._largest = largest
        self._take = take
        self._transport = transport
        self._now = now
        self._is_v6 = handle.family == socket.AF_INET6
        self._most = handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // SMALLEST_BYTES
        self._upto = self._mark = 0.0
        self._to_mark = 0  # datagrams: with so many more all is read that was there at `_mark`

    def upto(self, now: float) -> float:
        """Until when all that came by `now` has been read."""
        return self._upto if self.is_behind else now

    # ---------------------------------------------------------------------------------- what `Readable` calls

    def fileno(self) -> int:
        return self._handle.fileno()

    def doRead(self) -> None:
        receive, largest, take, is_v6 = self._handle.recvfrom, self._largest, self._take, self._is_v6
        for _ in range(AT_ONCE):
            try:
                datagram, address = receive(largest)
            except (BlockingIOError, ConnectionError):
                self.is_behind = False
                return
            try:
                take(datagram, address[:2] if is_v6 else address)
            except Exception:
                log.failure("a datagram could not be dealt with")
        if self._is_empty():
            self.is_behind = False
            return
        self._to_mark -= AT_ONCE
        if not self.is_behind:
            self.is_behind = True
            self._upto = 0.0  # not known
            self._mark, self._to_mark = self._now(), self._most
        elif self._to_mark <= 0:
            self._upto = self._mark
            self._mark, self._to_mark = self._now(), self._most

    def _is_empty(self) -> bool:
        """Then the poll does not call before the next datagram, and time must not stand still for so long."""
        try:
            self._handle.recvfrom(1, socket.MSG_PEEK)
        except (BlockingIOError, ConnectionError):
            return True
        return False

    def readConnectionLost(self, reason: Failure) -> None:
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        self._transport.connectionLost(reason)
