"""Connections whose peers have gone: so many are ended in a turn, and the others wait for the next ones.

A balancer that is restarted, or a network that is gone, ends all connections of a process at once. To end one
takes a tenth of a millisecond, and whoever is still there would wait until the last one of 15,000 is dealt
with.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Protocol
from weakref import ref

from .reactors import one_per_reactor

__all__ = ("PORTION", "Departing", "Departures", "departures_of")

PORTION = 64


class Departing(Protocol):
    """An accepted socket."""

    connected: Any

    def startReading(self) -> None: ...

    def stopReading(self) -> None: ...


class Departures:
    """Those of one reactor."""

    __slots__ = ("_ended", "_reactor", "_waiting")

    def __init__(self, reactor: Any) -> None:
        self._reactor = ref(reactor)
        self._ended = 0  # in this turn
        self._waiting: dict[Departing, None] = {}

    def may_end(self, socket: Departing) -> bool:
        """Whether it may end in this turn. If not it is read from in a later one, and finds its end again."""
        if not self._ended:
            self._later()
        self._ended += 1
        if self._ended <= PORTION:
            return True
        socket.stopReading()
        self._waiting[socket] = None
        return False

    def _later(self) -> None:
        reactor = self._reactor()
        assert reactor is not None
        reactor.callLater(0, self._next)

    def _next(self) -> None:
        self._ended = 0
        for socket in list(islice(self._waiting, PORTION)):
            del self._waiting[socket]
            if socket.connected:  # else we have ended it meanwhile
                socket.startReading()
        if self._waiting:
            self._ended = 1  # this turn has its end announced already
            self._later()


departures_of = one_per_reactor(Departures)
"""The one of a reactor."""
