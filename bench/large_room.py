"""``bench large-room``: one very large room in one process, with connections that are not there.

The members log in and subscribe as over a socket; what they are sent is counted and forgotten. So this shows
what the gateway itself takes, and how long it keeps others waiting: a child writes the time into a pipe,
which the reactor reads between everything else.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
from msgspec.structs import replace
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer

from bench.servers import rss_bytes
from imgateway.auth.policy import DefaultPolicy
from imgateway.brokers.embedded import EmbeddedBroker
from imgateway.config import Settings
from imgateway.frames import Hello, Publish, Subscribe, parse_address
from imgateway.interfaces import IAuthenticator, IConnection, Identity
from imgateway.node.service import Node
from imgateway.protocols.native import NativeAdapter

ROOM = parse_address("room:bench")
WIRE = NativeAdapter()
CLOCK = "import time\nwhile True:\n    print(time.monotonic_ns(), flush=True)\n    time.sleep(0.002)\n"


@implementer(IConnection)
class Line:
    """A connection that takes everything at once. What all lines were sent is counted in the class."""

    __slots__ = ("receiver",)

    frames = 0
    carrier, stream, secure, peer, source = "memory", True, False, "memory", ""
    max_send_bytes = max_message_bytes = 0

    receiver: Any

    def send(self, data: bytes, order: Any = None) -> None:
        Line.frames += 1

    def unsent(self) -> int:
        return 0

    unacked = unsent

    def has_left(self) -> bool:
        return False

    def proven(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, code: int, flush_s: float = 2.0) -> None:
        raise AssertionError(f"closed with {code}")

    def abort(self) -> None: ...


@implementer(IPlugin, IAuthenticator)
class Names:
    """Whoever says a name has it."""

    name = "names"

    def authenticate(self, hello: Hello, peer: str) -> Identity:
        return Identity(hello.token)

    def reload(self) -> None: ...


class Waits(FileDescriptor):
    """Reads the child's times; `late` is by how many seconds each was."""

    def __init__(self, reactor: Any, pipe: Any) -> None:
        super().__init__(reactor)
        self._pipe = pipe
        self.late: list[float] = []
        os.set_blocking(pipe.fileno(), False)
        reactor.addReader(self)

    def fileno(self) -> int:
        number: int = self._pipe.fileno()
        return number

    def doRead(self) -> None:
        for line in self._pipe.read().split():
            self.late.append((time.monotonic_ns() - int(line)) / 1e9)


def timed(call: Callable[..., None], times: list[float]) -> Callable[..., None]:
    """Processor time, so that what else runs on the machine does not count."""

    def instead(*args: Any) -> None:
        began = time.thread_time()
        call(*args)
        times.append(time.thread_time() - began)

    return instead


def shown(times: list[float]) -> str:
    """p50, p99 and the longest, in milliseconds."""
    there = sorted(times) or [0.0]
    parts = there[len(there) // 2], there[int(len(there) * 0.99)], there[-1]
    return " | ".join(f"{part * 1e3:.2f} ms" for part in parts)


def login(node: Node, number: int) -> None:
    """One more member."""
    line = Line()
    link = node.exchange.accept(line)
    assert link is not None
    line.receiver = link
    link.opened(WIRE)
    codec = WIRE.codec(True, 1 << 20)
    for frame in (Hello(f"u{number}", "bench"), Subscribe(ROOM)):
        link.received(codec.encode(frame) or b"")


@inlineCallbacks
def scene(reactor: Any, members: int, size: int, seconds: float, rate: float) -> Any:
    """Log in, then measure: idle, and while so many messages a second come."""
    settings = Settings()
    settings = replace(
        settings,
        limits=replace(settings.limits, login_rate=0.0),
        session=replace(settings.session, heartbeat_s=600.0, dead_s=1200.0),
    )
    node = Node(
        settings,
        EmbeddedBroker(reactor=reactor, rooms=settings.rooms),
        Names(),
        DefaultPolicy(),
        reactor,
        lambda: int(time.time() * 1000),
        lambda: 0.5,
        "bench.1",
    )
    yield node.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)  # as a served node has it
    empty = rss_bytes(os.getpid())
    for number in range(members):
        login(node, number)
        while node.gate.waiting > 1_000:
            yield deferLater(reactor, 0.001, lambda: None)
    while len(getattr(node.hub.rooms.audiences.get(ROOM), "members", ())) < members:
        yield deferLater(reactor, 0.1, lambda: None)
    grown = rss_bytes(os.getpid()) - empty
    click.echo(f"{members:,} members: {grown / members:,.0f} bytes each, links and sessions included")
    rounds = node.hub.rooms.rounds
    turns: list[float] = []
    begins: list[float] = []
    rounds._turn, rounds._tick = timed(rounds._turn, turns), timed(rounds._tick, turns)  # type: ignore[method-assign]
    rounds._gather = timed(rounds._gather, begins)  # type: ignore[method-assign]
    with subprocess.Popen([sys.executable, "-c", CLOCK], stdout=subprocess.PIPE) as child:
        waits = Waits(reactor, child.stdout)
        try:
            yield deferLater(reactor, 2, lambda: None)
            idle, waits.late = waits.late, []
            peak = rss_bytes(os.getpid())
            turns.clear()
            begins.clear()
            before, served, began = Line.frames, node.counters.room_rounds, time.monotonic()
            while time.monotonic() < began + seconds:
                yield node.publish(Publish(os.urandom(8).hex(), (ROOM,), body=b"x" * size), "bench")
                peak = max(peak, rss_bytes(os.getpid()))
                yield deferLater(reactor, 1 / rate, lambda: None)
            took = time.monotonic() - began
        finally:
            reactor.removeReader(waits)
            child.kill()
    frames, count = Line.frames - before, node.counters.room_rounds - served
    click.echo(
        f"{count / took:.1f} rounds/s, {frames / took:,.0f} frames/s; {(peak - empty - grown) / 1e6:.1f} MB "
        "more while it is served\n\n| | p50 | p99 | max |\n|---|---|---|---|\n"
        f"| a slice | {shown(turns)} |\n| to begin a round | {shown(begins)} |\n"
        f"| how long others wait, idle | {shown(idle)} |\n"
        f"| how long others wait, while the room is served | {shown(waits.late)} |"
    )


def run(members: int, size: int, seconds: float, rate: float) -> None:
    from twisted.internet import reactor

    failed: list[Any] = []
    done: Deferred[Any] = succeed(None)
    done.addCallback(lambda _: scene(reactor, members, size, seconds, rate))
    done.addErrback(failed.append)
    done.addBoth(lambda _: reactor.callLater(0, reactor.stop))
    reactor.run()
    if failed:
        failed[0].raiseException()
