"""``bench stalled``: a member of a flooded room that stops reading, over real sockets.

What it must be: what the gateway holds for it is bounded; when it reads on it is told that something is
missing; and what is for lane 1 is all there. One that reads along misses nothing.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from bench.servers import gateway, measure, rss_bytes
from imgateway.auth.keys import load_secret
from imgateway.auth.token import mint
from imgateway.config import AuthSettings
from imgateway.frames import Deliver, Hello, Publish, Subscribe, Subscribed, Welcome, parse_address
from imgateway.protocols.native import NativeAdapter
from imgateway.wire.messages import decode_message

__all__ = ("Found", "Member", "run", "stalled")

ROOM = parse_address("room:flood")
GIFT_S = 0.25
"""One message in lane 1 so often."""
CATCH_UP_S = 30.0


class Member:
    """A blocking client that keeps account of one room. `shown` are the ids in each lane, in order.

    :ivar gaps: how often it was told that something is missing, in each lane.
    """

    def __init__(self, port: int, token: str, rcvbuf: int = 0) -> None:
        self.socket = socket.socket()
        if rcvbuf:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.codec = NativeAdapter().codec(True, 1 << 20)
        self.bytes = 0
        self.places = [0, 0]
        self.gaps = [0, 0]
        self.shown: list[list[str]] = [[], []]
        self._frames: list[Any] = []
        self.send(Hello(token, "bench"))
        self._until(Welcome)

    def send(self, frame: Any) -> None:
        self.socket.sendall(self.codec.encode(frame) or b"")

    def join(self) -> None:
        for lane in (1, 0):
            self.send(Subscribe(ROOM, lane=lane))
            self.places[lane] = self._until(Subscribed).position

    def read(self) -> None:
        """What is there, at least one chunk."""
        data = self.socket.recv(1 << 18)
        assert data, "the gateway closed the connection"
        self.bytes += len(data)
        for frame in self.codec.receive(data):
            if isinstance(frame, Deliver):
                self._take(frame)
            else:
                self._frames.append(frame)

    def _take(self, frame: Deliver) -> None:
        lane, place = frame.lane, self.places[frame.lane]
        assert frame.after <= place or frame.gap, "a hole that nobody told of"
        self.gaps[lane] += frame.gap
        for entry in frame.entries:
            if entry.seq > place:
                self.shown[lane].append(decode_message(entry.message).msg_id)
        self.places[lane] = max(place, frame.upto)

    def _until(self, kind: type) -> Any:
        while True:
            for index, frame in enumerate(self._frames):
                if isinstance(frame, kind):
                    return self._frames.pop(index)
            self.read()


class Found(NamedTuple):
    """What became of it. `held`: the most that the gateway held for it, in bytes; `messages` and `gifts`: how
    many were published."""

    well: Member
    slow: Member
    messages: int
    gifts: list[str]
    held: float
    caught_up_s: float


def stalled(
    port: int,
    token: Callable[[str, bool], str],
    held: Callable[[], float],
    seconds: float,
    size: int,
    rate: float,
) -> Found:
    """Flood the room for so long, while one member does not read.

    :param token: ``token(user, service)``. :param held: the bytes that the gateway holds just now.
    """
    publisher = Member(port, token("publisher", True))
    well, slow = Member(port, token("well", False)), Member(port, token("slow", False), 4_096)
    well.join()
    slow.join()
    gifts: list[str] = []
    messages, most = 0, 0.0
    began = time.monotonic()
    gift_due = began
    while (now := time.monotonic()) < began + seconds:
        if messages <= (now - began) * rate:
            messages += 1
            publisher.send(Publish(f"m{messages}", (ROOM,), body=b"x" * size, qos=0))
        if now >= gift_due:
            gift_due += GIFT_S
            gifts.append(f"g{len(gifts)}")
            publisher.send(Publish(gifts[-1], (ROOM,), body=b"a gift", qos=0, lane=1))
            most = max(most, held())
        while select.select([well.socket], [], [], 0.001)[0]:
            well.read()
    ended = time.monotonic()
    while slow.shown[1][-1:] != gifts[-1:] or slow.places != well.places or well.places[1] < len(gifts):
        assert time.monotonic() < ended + CATCH_UP_S, "it did not catch up"
        for one in (well, slow):
            if select.select([one.socket], [], [], 0.01)[0]:
                one.read()
    for one in (publisher, well, slow):
        one.socket.close()
    return Found(well, slow, messages, gifts, most, time.monotonic() - ended)


def run(directory: Path, size: int, seconds: float, rate: float) -> None:
    """The same against a node of its own, as a table."""
    with gateway(directory, "memory:") as server:
        secret = load_secret(AuthSettings(), server.data_dir)
        before = rss_bytes(server.pid)
        found = stalled(
            server.port,
            lambda user, service: mint(secret, user, service=service, ttl_s=3600, now_s=time.time()),
            lambda: measure(server, "imgateway_held_unsent_bytes"),
            seconds,
            size,
            rate,
        )
        grown = rss_bytes(server.pid) - before
    well, slow = found.well, found.slow
    click.echo("| | reads along | stopped reading |\n|---|---|---|")
    for name, values in (
        (f"messages, of {found.messages:,}", [len(one.shown[0]) for one in (well, slow)]),
        (f"of lane 1, of {len(found.gifts):,}", [len(one.shown[1]) for one in (well, slow)]),
        ("gaps told", [one.gaps[0] for one in (well, slow)]),
        ("gaps told in lane 1", [one.gaps[1] for one in (well, slow)]),
        ("bytes received", [one.bytes for one in (well, slow)]),
    ):
        click.echo(f"| {name} | {values[0]:,} | {values[1]:,} |")
    click.echo(
        f"\nheld for it: {found.held:,.0f} bytes at most; the process grew by {grown:,} bytes; "
        f"caught up in {found.caught_up_s:.1f} s"
    )
