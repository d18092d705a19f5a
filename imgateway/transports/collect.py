"""Collected writes: what one reactor turn sends to a connection leaves with one call to the system.

Twisted's own ``transport.write`` waits for the socket to say that it is writable: a buffer, two epoll_ctl
and a send on the next turn, for every small message. Here each connection gathers its bytes, and one call
per turn, not per connection, writes them all when it is over.
"""

from __future__ import annotations

from typing import Any, Protocol

from .reactors import one_per_reactor
from .turns import turn_of

__all__ = ("Collector", "Flushable", "collector_of")


class Flushable(Protocol):
    """Something that has gathered bytes in this turn."""

    def flush(self) -> None:
        """Write what was gathered."""


class Collector:
    """The connections of one reactor that have something to write at the end of this turn."""

    __slots__ = ("_turn", "_waiting")

    def __init__(self, reactor: Any) -> None:
        self._turn = turn_of(reactor)
        self._waiting: dict[Flushable, None] = {}

    def add(self, connection: Flushable) -> None:
        """Call ``connection.flush()`` once this turn is over, however often it is asked for."""
        if not self._waiting:
            self._turn.soon(self._flush)
        self._waiting[connection] = None

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}
        rest = iter(waiting)
        try:
            for connection in rest:
                connection.flush()
        finally:
            # Only after an exception is there a rest: nobody's bytes are forgotten because of another.
            for connection in rest:
                self.add(connection)


collector_of = one_per_reactor(Collector)
"""The one collector of a reactor."""
