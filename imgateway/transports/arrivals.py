"""Connections that come in a crowd: they are taken from the system at once, and made in portions.

Whoever finds the system's queue full is not refused, but has to try again, after 1, 3, 7, 15 seconds, and all
of them at the same moment; in the worst case its connection is there and its greeting is not, for longer than
a login may take. So there is a second queue here, of the same length, that the first one is emptied into: it
costs few microseconds each, while to make a connection and to read its greeting takes a tenth of a
millisecond, during which nobody else is served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from errno import EMFILE, ENFILE
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from socket import NI_NUMERICHOST, NI_NUMERICSERV, SocketType, getnameinfo
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import Logger

__all__ = ("ALONE", "MOST", "PORTION", "QUIET", "Accept", "Arrivals", "bare")

log = Logger()

PORTION = 24
"""Connections made, and greetings read, before all others get their turn: some 2 ms."""
ALONE = 96
"""… if nobody else has said anything for so long that nobody seems to be there: what comes together costs
less, and whoever begins to speak just then waits once, for 8 ms."""
QUIET = 8
"""So long, in portions."""
TAKEN = 256
"""Taken from the system in one turn: 2 ms."""
MOST = 4096
"""That wait here."""
SHARE = 8
"""… and no more than one in so many of the process's descriptors, for each has one: those who wait must not
take what the others, and the store, cannot do without."""


Accept = Callable[[], tuple[Any, tuple[Any, ...]]]
"""As ``socket.accept``."""


def bare(listening: Any) -> Accept:
    """``accept`` of a listening socket, for sockets as they are below Python's class of that name, which is
    2 µs and 40 bytes more for each, for what nobody here asks of it."""
    kind = int(listening.family), int(listening.type), listening.proto
    accept = listening._accept

    def accepted() -> tuple[Any, tuple[Any, ...]]:
        descriptor, client = accept()
        return SocketType(*kind, descriptor), client

    return accepted


class Arrivals:
    """Those of one port of Twisted's that makes TCP sockets, as `accept` takes them from the system.

    :param heard: another number whenever one of the connections that are made has said something.
    """

    def __init__(self, port: Any, accept: Accept, heard: Callable[[], int]) -> None:
        self._port = port
        self._accept = accept
        self._heard = heard
        self._heard_before = heard()
        self._quiet = 0  # portions since somebody spoke
        self._otherwise = port.doRead
        self._waiting: deque[tuple[Any, tuple[Any, ...]]] = deque()
        self._is_open = True
        self._is_taking = True
        self._turn: Any = None
        descriptors, _ = getrlimit(RLIMIT_NOFILE)
        self._most = MOST if descriptors == RLIM_INFINITY else min(MOST, max(descriptors // SHARE, 1))
        port.doRead = self.take

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def pause(self) -> None:
        """None is made until `resume`; they wait here, and then in the system."""
        self._is_open = False

    def resume(self) -> None:
        self._is_open = True
        if not self._waiting:
            self._take_on()
        self._make_later()

    def stop(self) -> None:
        """Whoever waits is sent away."""
        self._is_open = False
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        while self._waiting:
            self._waiting.popleft()[0].close()

    def take(self) -> None:
        """Somebody has come."""
        waiting, accept = self._waiting, self._accept
        is_full = False
        try:
            for _ in range(min(TAKEN, self._most - len(waiting))):
                waiting.append(accept())
        except BlockingIOError:
            pass
        except OSError as error:
            if not self._is_open or (error.errno in (EMFILE, ENFILE) and waiting):
                is_full = True  # there may be descriptors again when some of these are made
            else:
                self._otherwise()  # Twisted knows what is to be done and said, and makes who else has come
        if self._is_open and self._turn is None:
            self._make()
        if (is_full or len(waiting) >= self._most) and (waiting or not self._is_open):
            self._is_taking = False
            self._port.stopReading()

    def _make_later(self) -> None:
        if self._waiting and self._turn is None:
            self._turn = self._port.reactor.callLater(0, self._make)

    def _make(self) -> None:
        self._turn = None
        waiting = self._waiting
        for _ in range(min(self._portion(), len(waiting))):
            if not self._is_open:  # who came last has used up what may come just now
                return
            try:
                self._connect(*waiting.popleft())
            except Exception:
                log.failure("a connection could not be made")
        self._take_on()
        self._make_later()

    def _portion(self) -> int:
        before, self._heard_before = self._heard_before, self._heard()
        self._quiet = self._quiet + 1 if self._heard_before == before else 0
        return ALONE if self._quiet > QUIET else PORTION

    def _take_on(self) -> None:
        if not self._is_taking:
            self._is_taking = True
            self._port.startReading()

    def _connect(self, skt: Any, client: tuple[Any, ...]) -> None:
        port = self._port
        if len(client) == 4:
            host, _ = getnameinfo(client, NI_NUMERICHOST | NI_NUMERICSERV)  # with its scope, if it has one
            client = (host, *client[1:])
            protocol = port.factory.buildProtocol(IPv6Address("TCP", *client))
        else:
            protocol = port.factory.buildProtocol(IPv4Address("TCP", *client))
        if protocol is None:
            skt.close()
            return
        transport = port.transport(skt, protocol, client, port, 0, port.reactor)
        try:
            protocol.makeConnection(transport)
        except Exception:
            transport.abortConnection()  # it is read from already
            raise
