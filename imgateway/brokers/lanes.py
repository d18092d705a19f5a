"""Threads that do one job after the other and report to the reactor.

A lane is all the broker knows of threads: `submit(job, done)` runs `job()` after the jobs before it and then,
in the reactor's thread, `done(result)`. Jobs must not raise. What waits for no disk needs no thread: its
lane is the reactor's own. Another one, that tests take step by step, stands in `imgateway.testing.disk`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

__all__ = ("Lane", "ThreadLane", "TurnLane")

T = TypeVar("T")


class Lane(Protocol):
    """Jobs in order, results in the reactor's thread, in the same order."""

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Callable from any thread."""

    def stop(self) -> None:
        """No job will follow; the lane ends when those before it are done. Does not wait."""


class ThreadLane:
    """A lane with a thread of its own, begun at the first job.

    The thread is a daemon: a process that was told to stop twice must not hang on a disk that does not
    answer.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        self._jobs.put((job, done))
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._jobs.put(None)

    def _run(self) -> None:
        report = self._reactor.callFromThread
        while (next_job := self._jobs.get()) is not None:
            job, done = next_job
            report(done, job())


class TurnLane:
    """A lane in the reactor's thread: the jobs of a turn are done when it is over, so that what the turn
    brought is one batch."""

    def __init__(self, soon: Callable[[Callable[[], None]], Any]) -> None:
        self._soon = soon
        self._jobs: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        if not self._jobs:
            self._soon(self._run)
        self._jobs.append((job, done))

    def stop(self) -> None:
        """There is nothing to end."""

    def _run(self) -> None:
        jobs, self._jobs = self._jobs, deque()  # what these ask for is for the next turn
        try:
            while jobs:
                job, done = jobs.popleft()
                done(job())
        finally:
            # Only after an exception is there a rest: nobody waits for ever because of another.
            if jobs:
                if not self._jobs:
                    self._soon(self._run)
                self._jobs.extendleft(reversed(jobs))
