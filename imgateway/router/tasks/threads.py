"""The threads that the database is spoken to from: the reactor never waits for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

__all__ = ("Threads",)

log = Logger()

STOP_S = 4.0
"""How long a stopping process waits for calls that were begun: a server that is frozen may never answer."""

T = TypeVar("T")


class _Pool(ThreadPool):
    # The end of the process waits for no thread that a server holds up.
    threadFactory: Any = partial(Thread, daemon=True)


class Threads:
    """A pool of its own, so that a slow database holds up nothing else, name lookups for example.

    :param reactor: an IReactorThreads and IReactorTime.
    """

    def __init__(self, reactor: Any, size: int = 4) -> None:
        self._reactor = reactor
        self._pool = _Pool(minthreads=0, maxthreads=size, name="push-tasks")
        self._begun = 0
        self._idle: Deferred[None] | None = None
        """When it stops: fires when nothing is under way any more."""

    def start(self) -> None:
        """Take calls; those made before wait until then."""
        self._pool.start()

    def call(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Run it in a thread; fires in the reactor's with what it returns or raises, after `stop` never.

        Whoever waits may give it up (`cancel`): its thread runs on, and `stop` waits for it.
        """
        if self._idle is not None:
            return Deferred()
        self._begun += 1
        answer: Deferred[T] = Deferred()
        self._run(function, *arguments).addBoth(self._done).addBoth(answer.callback)
        return answer

    def _run(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        called: Deferred[T] = deferToThreadPool(self._reactor, self._pool, function, *arguments)
        return called

    def _done(self, result: T) -> T:
        self._begun -= 1
        if self._idle is not None and not self._begun:
            self._idle.callback(None)
        return result

    def stop(self, last: Callable[[], None]) -> Deferred[None]:
        """Make this one call more, when those are done that were begun, and end the threads; fires then, or
        when `STOP_S` are over: without it."""
        if not self._pool.started:
            last()
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle = idle
        stopped = idle.addCallback(lambda _: self._run(last)).addCallback(lambda _: self._pool.stop())
        stopped.addTimeout(STOP_S, self._reactor, self._leave)
        if not self._begun:
            idle.callback(None)
        return stopped

    def _leave(self, failure: Any, waited_s: float) -> None:
        log.warn("push tasks: the database holds up its threads: they are left behind")
