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
        self._size = size
        self._running = 0
        self._calls: dict[Deferred[Any], Callable[[], Any]] = {}
        """Those that wait for a thread, in their order."""
        self._idle: Deferred[None] | None = None
        """When it stops: fires when nothing is under way any more."""

    def start(self) -> None:
        """Take calls; those made before wait until then."""
        self._pool.start()
        self._begin()

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return len(self._calls)

    def call(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Run it in a thread; fires in the reactor's with what it returns or raises, after `stop` never.

        Whoever waits may give it up (`cancel`): one that has its thread runs on, and `stop` waits for it; one
        that waits for a thread is never made.
        """
        if self._idle is not None:
            return Deferred()
        answer: Deferred[T] = Deferred(self._give_up)
        self._calls[answer] = partial(self._run, function, *arguments)
        self._begin()
        return answer

    def _give_up(self, answer: Deferred[Any]) -> None:
        self._calls.pop(answer, None)

    def _begin(self) -> None:
        """No more are handed to the pool than it has threads: what waits there could not be given up."""
        while self._calls and self._running < self._size and self._pool.started:
            answer = next(iter(self._calls))
            call = self._calls.pop(answer)
            try:
                called = call()
            except Exception:  # the process may have no more threads
                answer.errback()
                continue
            self._running += 1
            called.addBoth(self._done, answer)

    def _run(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        called: Deferred[T] = deferToThreadPool(self._reactor, self._pool, function, *arguments)
        return called

    def _done(self, result: Any, answer: Deferred[Any]) -> None:
        self._running -= 1
        self._begin()
        self._look_idle()
        if not answer.called:
            answer.callback(result)

    def _look_idle(self) -> None:
        if self._idle is not None and not self._running and not self._calls:
            self._idle.callback(None)

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
        self._look_idle()
        return stopped

    def _leave(self, failure: Any, waited_s: float) -> None:
        log.warn("push tasks: the database holds up its threads: they are left behind")
