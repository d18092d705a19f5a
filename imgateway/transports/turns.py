"""What is to be done when a turn of the reactor is over: commit what it brought, write what it gathered.

Usually that is a delayed call, and what it leads to another one: while the messages of one crowd are
committed, those of the next are read. When few sockets had something there is no crowd, and the reactor would
only ask its timers and its poll, twice, whether there is something to do. So what few have brought is dealt
with at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

from twisted.logger import Logger

from .reactors import one_per_reactor

__all__ = ("FEW", "Turn", "turn_of")

log = Logger()

FEW = 4
"""Sockets that have something to read."""
LONG_S = 0.001
"""Reading them took longer: they have brought much (one socket of UDP stands for all its devices), and others
wait for their turn."""


class Turn:
    """The turn that one reactor is in."""

    __slots__ = ("_began", "_calls", "_reactor")

    def __init__(self, reactor: Any) -> None:
        self._reactor = ref(reactor)
        self._calls: list[Callable[[], None]] | None = None  # a list while few are read
        self._began = 0.0

    def soon(self, call: Callable[[], None]) -> None:
        """Call it once, when this turn is over."""
        if self._calls is not None:
            self._calls.append(call)
        elif (reactor := self._reactor()) is not None:
            reactor.callLater(0, call)

    def begin(self, sockets: int) -> None:
        """So many will be read now. To be ended by `end`."""
        reactor = self._reactor()
        if sockets <= FEW and self._calls is None and reactor is not None:
            self._calls = []
            self._began = reactor.seconds()

    def end(self) -> None:
        """They have been. What is asked for meanwhile is done, too; what that asks for waits for the next
        turn, so that nobody keeps a turn from ending."""
        calls, self._calls = self._calls, None
        reactor = self._reactor()
        if not calls or reactor is None:
            return
        if reactor.seconds() - self._began > LONG_S:
            for call in calls:
                self.soon(call)
            return
        self._calls = []
        for call in calls:
            _do(call)
        calls, self._calls = self._calls, None
        for call in calls or ():
            _do(call)


def _do(call: Callable[[], None]) -> None:
    try:
        call()
    except BaseException:  # as the reactor does it with a delayed call
        log.failure("what was to be done at the end of a turn failed")


turn_of = one_per_reactor(Turn)
"""The one of a reactor."""
