"""What a command needs of the world around it; a test gives it another.

Twisted's reactor is made here, when the first coroutine runs, and not before.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import click
from msgspec import Struct

from imgateway.cli.knock import refuses

__all__ = ("Main", "Terminated", "World", "pass_world", "run", "terminable")

Main = Callable[[Any], Coroutine[Any, Any, int]]
"""reactor → exit status"""


def run(main: Main) -> int:
    """Run a coroutine to its end on the reactor; returns its exit status, or raises what it raised.

    The first SIGINT or SIGTERM cancels it, and it may end in its own way; if it ends with an error then, the
    status is 128 + the signal's number. A second signal ends everything at once.
    """
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred, ensureDeferred
    from twisted.python.failure import Failure

    from imgateway.cli.remarks import show_log

    reactor: Any = installed
    # Twisted's reactor keeps its timers on the wall clock: one step back would hold every deadline.
    reactor.seconds = time.monotonic
    ended: list[Any] = []
    caught: list[int] = []
    tasks: list[Deferred[int]] = []

    def begin() -> None:
        task = ensureDeferred(main(reactor))
        tasks.append(task)
        task.addBoth(end)

    def end(outcome: int | Failure) -> None:
        ended.append(outcome)
        reactor.stop()

    def interrupt(number: int) -> None:
        caught.append(number)
        if len(caught) > 1:
            os._exit(128 + number)
        for task in tasks:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda caught, _: reactor.callFromThread(interrupt, caught))
    show_log()
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    outcome = ended[0]
    if isinstance(outcome, Failure):
        if caught:
            return 128 + caught[0]
        outcome.raiseException()
    status: int = outcome
    return status


class Terminated(KeyboardInterrupt):
    """SIGTERM in a command without a reactor, which it ends as Ctrl-C does, but for the status."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated`."""

    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _client(url: str, **options: Any) -> Any:
    from imgateway.client import Client

    return Client(url or (), **options)  # no URL: a router says where


def _lines(reactor: Any) -> Any:
    from imgateway.cli.stdin import Lines

    return Lines(reactor)


class World(Struct, frozen=True):
    """`client` makes an SDK client that is not started; `lines` gives standard input line by line; `now` is
    Unix seconds; `refuses`: nobody listens at a UDP port. For commands without a reactor: `pause` sleeps for
    seconds, `seconds` is a steady clock."""

    run: Callable[[Main], int] = run
    client: Callable[..., Any] = _client
    lines: Callable[[Any], Any] = _lines
    now: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep
    seconds: Callable[[], float] = time.monotonic
    refuses: Callable[[str, int], bool] = refuses


pass_world = click.make_pass_decorator(World, ensure=True)
"""Gives a command the World of its context as first argument; the real one if there is none."""
