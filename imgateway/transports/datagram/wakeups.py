"""One clock for all connections of a socket.

A million idle connections wait for nothing and cost nothing; while anybody waits there is one delayed call,
whoever and how many they are.

Nobody is woken because of an answer that is there and unread: a turn that comes late lets the socket be read
first, and while more comes than is read, time stands where reading does. What has become due meanwhile goes
in portions, with reading between them. Else a process that is late would take for lost what has arrived, send
all of it again, and be later still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from imgateway.core.wheel import Wheel

__all__ = ("AT_A_TIME", "TICK_S", "Sleeper", "WakeUps")

TICK_S = 1 / 64
"""Late by so much at most; the shortest wait is an acknowledgement's 25 ms."""

LATE_S = 4 * TICK_S
"""A turn that is later than this was held up, and so was reading."""

AT_A_TIME = 512
"""Wake-ups of one turn: some 20 ms if each of them sends something again."""


class Sleeper(Protocol):
    def woken(self) -> None:
        """It is time, or was when it was asked for: look whether it still matters."""


def _all_read(now: float) -> float:
    return now


class WakeUps:
    """A wheel that turns as long as somebody is on it.

    :param read_upto: now → until when all that came by then has been read.

    :ivar judged: up to where silence is known to be silence, in seconds of the reactor.
    :ivar is_late: some who are due have to wait for the next turn.
    """

    __slots__ = (
        "_asleep",
        "_call",
        "_due",
        "_overdue",
        "_reactor",
        "_read_upto",
        "_wheel",
        "is_late",
        "judged",
    )

    def __init__(self, reactor: Any, read_upto: Callable[[float], float] = _all_read) -> None:
        self._reactor = reactor
        self._read_upto = read_upto
        self._wheel: Wheel[Sleeper] = Wheel(reactor.seconds(), TICK_S)
        self._overdue: deque[Sleeper] = deque()
        self._asleep = 0
        self._call: Any = None
        self._due = 0.0  # when the next turn is
        self.judged: float = reactor.seconds()
        self.is_late = False

    def arm(self, due: float, sleeper: Sleeper) -> None:
        """Call ``sleeper.woken()`` at `due`, in seconds of the reactor, or up to a tick later."""
        self._wheel.arm(due, sleeper)
        self._asleep += 1
        if self._call is None:
            self._turn_in(TICK_S)

    def stop(self) -> None:
        """Everybody is gone."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._asleep = 0
        self._overdue.clear()
        self.is_late = False
        self._wheel = Wheel(self._reactor.seconds(), TICK_S)

    def _turn_in(self, seconds: float) -> None:
        self._due = self._reactor.seconds() + seconds
        self._call = self._reactor.callLater(seconds, self._begin)

    def _begin(self) -> None:
        if self._reactor.seconds() - self._due > LATE_S:
            self._call = self._reactor.callLater(0, self._turn)  # after what is there to be read
        else:
            self._turn()

    def _turn(self) -> None:
        self._call = None
        self.judged = max(self.judged, self._read_upto(self._reactor.seconds()))
        overdue = self._overdue
        overdue.extend(self._wheel.advance(self.judged))
        try:
            for _ in range(min(len(overdue), AT_A_TIME)):
                if not overdue:
                    break  # the one before was the last of all, and stopped everything
                self._asleep -= 1
                overdue.popleft().woken()
        finally:
            # Also after an exception: nobody sleeps on because of another.
            self.is_late = bool(overdue)
            if self._asleep and self._call is None:
                self._turn_in(0 if overdue else TICK_S)
