"""One clock for all connections of a socket.

A million idle connections wait for nothing and cost nothing; while anybody waits there is one delayed call,
whoever and how many they are.
"""

from __future__ import annotations

from typing import Any, Protocol

from imgateway.core.wheel import Wheel

__all__ = ("TICK_S", "Sleeper", "WakeUps")

TICK_S = 1 / 64
"""Late by so much at most; the shortest wait is an acknowledgement's 25 ms."""


class Sleeper(Protocol):
    def woken(self) -> None:
        """It is time, or was when it was asked for: look whether it still matters."""


class WakeUps:
    """A wheel that turns as long as somebody is on it."""

    __slots__ = ("_asleep", "_call", "_reactor", "_wheel")

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._wheel: Wheel[Sleeper] = Wheel(reactor.seconds(), TICK_S)
        self._asleep = 0
        self._call: Any = None

    def arm(self, due: float, sleeper: Sleeper) -> None:
        """Call ``sleeper.woken()`` at `due`, in seconds of the reactor, or up to a tick later."""
        self._wheel.arm(due, sleeper)
        self._asleep += 1
        if self._call is None:
            self._call = self._reactor.callLater(TICK_S, self._turn)

    def stop(self) -> None:
        """Everybody is gone."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._asleep = 0
        self._wheel = Wheel(self._reactor.seconds(), TICK_S)

    def _turn(self) -> None:
        self._call = None
        ready = self._wheel.advance(self._reactor.seconds())
        self._asleep -= len(ready)
        rest = iter(ready)
        try:
            for sleeper in rest:
                sleeper.woken()
        finally:
            # Only after an exception is there a rest: nobody sleeps on because of another.
            for sleeper in rest:
                self.arm(self._reactor.seconds(), sleeper)
            if self._asleep and self._call is None:
                self._call = self._reactor.callLater(TICK_S, self._turn)
