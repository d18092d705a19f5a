"""Sockets with something to read, of one reactor: a poll of their own, which is one reader of the reactor.

A reactor asks much of each event: whose it is, under which name and in which context it is logged, whether
it is for reading or for writing, whether its descriptor is still one. That was a tenth of what a message
costs that comes alone. Here one event of the reactor stands for all that came in its turn, and each socket is
called once. Writing stays with the reactor; where the system has no epoll, so does reading.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol
from weakref import ref

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from .reactors import one_per_reactor
from .turns import turn_of

__all__ = ("AVAILABLE", "Readable", "Socket", "heard_by", "readable_of")

log = Logger()

AVAILABLE = hasattr(select, "epoll")

_DONE, _LOST = Failure(CONNECTION_DONE), Failure(CONNECTION_LOST)
"""Made once: thousands may end at once."""


class Socket(Protocol):
    """An accepted socket."""

    @property
    def fileno(self) -> Any: ...

    def doRead(self) -> BaseException | None: ...

    def readConnectionLost(self, reason: Failure) -> None: ...

    def connectionLost(self, reason: Failure) -> None: ...


@implementer(IReadDescriptor)
class Readable:
    """The sockets of one reactor that are read from. It is a reader of the reactor while there are any."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = ref(reactor)
        self._turn = turn_of(reactor)
        self._poll = select.epoll()
        self._sockets: dict[int, Socket] = {}
        self.heard = 0
        """How often a socket had something to read that was not its greeting: while that stands still, nobody
        of those who are there waits for anything."""

    def add(self, socket: Socket) -> None:
        """Call its ``doRead`` whenever something is there, until it is removed; what that returns is why it
        ends."""
        descriptor = socket.fileno()
        if descriptor not in self._sockets:
            self._poll.register(descriptor, select.EPOLLIN)
            self._sockets[descriptor] = socket
            if len(self._sockets) == 1:
                self._reactor().addReader(self)  # type: ignore[union-attr]

    def remove(self, socket: Socket) -> None:
        """Call it no more. To be done while its descriptor is still its own; else it is none of ours."""
        descriptor = socket.fileno()
        if self._sockets.get(descriptor) is socket:
            del self._sockets[descriptor]
            self._poll.unregister(descriptor)
            if not self._sockets and (reactor := self._reactor()) is not None:
                reactor.removeReader(self)

    # ------------------------------------------------------------------------------------- what Twisted calls

    def fileno(self) -> int:
        return self._poll.fileno()

    def logPrefix(self) -> str:
        return "imgateway"

    def doRead(self) -> None:
        sockets = self._sockets
        ready = self._poll.poll(0, len(sockets) or 1)
        self.heard += len(ready)
        turn = self._turn
        turn.begin(len(ready))
        try:
            for descriptor, _ in ready:
                socket = sockets.get(descriptor)
                if socket is None:
                    continue  # another one's bytes were the end of it, or stopped it
                try:
                    end = socket.doRead()
                except BaseException as problem:  # what went on, the reactor would take for the end of all
                    log.failure("a connection could not be read from")
                    end = problem
                if end is not None:
                    self.heard -= 1
                    self._end(socket, end)
        finally:
            turn.end()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has stopped, and disconnects all that it knows."""
        for socket in list(self._sockets.values()):
            try:
                socket.connectionLost(reason)
            except BaseException:
                log.failure("the end of a connection could not be told")

    def _end(self, socket: Socket, end: BaseException) -> None:
        """As a reactor does it: the peer's own end may be that of one direction only."""
        try:
            self.remove(socket)
            if end is CONNECTION_DONE:
                socket.readConnectionLost(_DONE)
            else:
                socket.connectionLost(_LOST if end is CONNECTION_LOST else Failure(end))
        except BaseException:
            log.failure("the end of a connection could not be told")


readable_of = one_per_reactor(Readable)
"""The one of a reactor."""


def heard_by(reactor: Any) -> Callable[[], int]:
    """Another number each time, if one of its connections has said something in between."""
    if not AVAILABLE:
        return count().__next__
    readable = readable_of(reactor)
    return lambda: readable.heard
