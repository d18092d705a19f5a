"""One wake-up that can be moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ("Alarm",)


class Alarm:
    """Calls ``ring(now)`` when its time has come: the one delayed call of whoever says when to wake it.

    `now` is never before the time that was asked for, though a clock that counts in floats may be.
    """

    def __init__(self, reactor: Any, ring: Callable[[float], None]) -> None:
        self._reactor = reactor
        self._ring = ring
        self._call: Any = None
        self._at = 0.0

    def set(self, at: float | None) -> None:
        """Ring at this time of the reactor's clock, and not when it was set to before; None: not at all."""
        if self._call is not None:
            if at == self._at:
                return
            self._call.cancel()
            self._call = None
        if at is not None:
            self._at = at
            self._call = self._reactor.callLater(max(0.0, at - self._reactor.seconds()), self._time_has_come)

    def _time_has_come(self) -> None:
        self._call = None
        self._ring(max(self._at, self._reactor.seconds()))
