"""Connections whose peers have gone: so many are ended in a turn, and the others wait for the next ones.

A balancer that is restarted, or a network that is gone, ends all connections of a process at once. To end one
takes a tenth of a millisecond, and whoever is still there would wait until the last one of 15,000 is dealt
with.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Protocol
from weakref import ref

from twisted.logger import Logger
from twisted.python.failure import Failure

from .reactors import one_per_reactor

__all__ = ("PORTION", "Departing", "Departures", "departures_of")

log = Logger()

PORTION = 32


class Departing(Protocol):
    """An accepted socket."""

    connected: Any

    def stopReading(self) -> None: ...

    def connectionLost(self, reason: Failure) -> None: ...


class Departures:
    """Those of one reactor."""

    __slots__ = ("_ended", "_reactor", "_waiting")

    def __init__(self, reactor: Any) -> None:
        self._reactor = ref(reactor)
        self._ended = 0  # in this turn
        self._waiting: dict[Departing, Exception] = {}

    def may_end(self, socket: Departing, why: Exception) -> bool:
        """Whether it may end in this turn. If not it is ended in a later one, unless we have done so by
        then."""
        if not self._ended:
            self._later()
        self._ended += 1
        if self._ended <= PORTION:
            return True
        socket.stopReading()
        self._waiting[socket] = why
        return False

    def _later(self) -> None:
        reactor = self._reactor()
        assert reactor is not None
        reactor.callLater(0, self._next)

    def _next(self) -> None:
        self._ended = 0
        for socket in list(islice(self._waiting, PORTION)):
            why = self._waiting.pop(socket)
            if socket.connected:  # else we have ended it meanwhile
                self._ended += 1
                try:
                    socket.connectionLost(Failure(why))
                except Exception:
                    log.failure("the end of a connection could not be told")
        if self._waiting or self._ended:
            self._ended = max(self._ended, 1)  # this turn has its end announced already
            self._later()


departures_of = one_per_reactor(Departures)
"""The one of a reactor."""
