"""The threads that the database is spoken to from: the reactor never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

__all__ = ("Threads",)

T = TypeVar("T")


class Threads:
    """A pool of its own, so that a slow database holds up nothing else, name lookups for example.

    :param reactor: an IReactorThreads.
    """

    def __init__(self, reactor: Any, size: int = 4) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=size, name="push-tasks")

    def start(self) -> None:
        """Take calls; those made before wait until then."""
        self._pool.start()

    def call(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Run it in a thread; fires in the reactor's with what it returns or raises."""
        called: Deferred[T] = deferToThreadPool(self._reactor, self._pool, function, *arguments)
        return called

    def stop(self) -> Deferred[None]:
        """Fires when the calls are done that were begun; the last of them closes the threads."""
        if not self._pool.started:
            return succeed(None)
        # Joining the threads waits for them: in a thread of the reactor's own pool.
        stopped: Deferred[None] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), self._pool.stop
        )
        return stopped
