"""``bench appends``: what an append costs Redis, alone and in company, without nodes in the way.

A node sends with one script what one turn of its reactor brought. One that has little to do sends its
messages one by one, however busy Redis is with those of the others.
"""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import hiredis

from bench.servers import Server, cpu_seconds, redis
from imgateway.brokers.redis.entries import pack_rest
from imgateway.brokers.redis.packing import pack
from imgateway.brokers.redis.scripts import scripts

USERS = 1_000
# (dedup_ms, entries, bytes, age_ms, device_unseen_ms) of a log
LIMITS = (14_400_000, 10_000, 67_108_864, 604_800_000, 604_800_000)
WARM_S = 0.5


class Nodes:
    """As many connections, each with one script under way; all mailboxes are watched by one subscriber."""

    def __init__(self, server: Server, count: int, batch: int, size: int) -> None:
        self.batch = batch
        self._rest = pack_rest("", "", bytes(size))
        self._number = 0
        self._links = [Link(server.port) for _ in range(count)]
        first = self._links[0]
        self._sha = first.ask("SCRIPT", "LOAD", scripts()["append"].source)
        first.ask("HSET", "ig:primary", "n", 1, "epoch", 77, "base", 1)
        for user in range(USERS):
            first.ask("SADD", f"ig:{{{user}}}:w:user:u{user}", "listener")
        self._listener = Link(server.port)
        self._listener.send("SUBSCRIBE", "ig:node:listener")
        self._poll = select.poll()
        for link in (*self._links, self._listener):
            self._poll.register(link.socket.fileno(), select.POLLIN)
        self._by_number = {link.socket.fileno(): link for link in self._links}
        for link in self._links:
            self._append(link)

    def _append(self, link: Link) -> None:
        appends: list[Any] = []
        for _ in range(self.batch):
            self._number += 1
            user, digest = self._number % USERS, self._number.to_bytes(16)
            appends += (f"{user}", f"user:u{user}", digest, 0, len(self._rest), 0, self._rest)
        link.send("EVALSHA", self._sha, 0, 0, pack((f"bench.{self._number:x}", *LIMITS, [], appends)), "")

    def work(self, seconds: float) -> int:
        """How many appends were answered in this time."""
        done, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            for number, _ in self._poll.poll(100):
                link = self._by_number.get(number)
                if link is None:
                    self._listener.received()
                    continue
                for _ in link.replies():
                    done += self.batch
                    self._append(link)
        return done

    def close(self) -> None:
        """All connections."""
        for link in (*self._links, self._listener):
            link.socket.close()


class Link:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def send(self, *command: bytes | str | int) -> None:
        """One command. :raises ClickException: Redis has gone."""
        words = hiredis.pack_command(command)  # type: ignore[arg-type]  # any number of them
        try:
            self.socket.sendall(words)
        except OSError as error:
            raise click.ClickException(f"Redis has gone: {error}") from None

    def ask(self, *command: bytes | str | int) -> Any:
        """One command and its reply."""
        self.send(*command)
        while not (replies := self.replies()):
            pass
        return replies[0]

    def received(self) -> bytes:
        """Bytes that came; waits if none have. :raises ClickException: Redis has gone."""
        try:
            data = self.socket.recv(1_048_576)
        except OSError as error:
            raise click.ClickException(f"Redis has gone: {error}") from None
        if not data:
            raise click.ClickException("Redis has gone: it closed the connection")
        return data

    def replies(self) -> list[Any]:
        """What came; waits if nothing has. :raises ClickException: Redis refused something, or has gone."""
        self._reader.feed(self.received())
        found: list[Any] = []
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, Exception):
                raise click.ClickException(str(reply))
            found.append(reply)
        return found


def run(directory: Path, shapes: Sequence[tuple[int, int]], size: int, seconds: float, runs: int) -> None:
    """`shapes`: (connections, appends of a script). Redis has one core, this process the other."""
    click.echo("| appendfsync | nodes | in a script | appends/s | Redis µs | spread |\n" + "|---" * 6 + "|")
    for fsync in ("always", "everysec"):
        for count, batch in shapes:
            rates: list[float] = []
            costs: list[float] = []
            for _ in range(runs):
                with redis(directory, fsync) as server:
                    nodes = Nodes(server, count, batch, size)
                    nodes.work(WARM_S)
                    cpu = cpu_seconds(server.pid)
                    done = nodes.work(seconds)
                    costs.append((cpu_seconds(server.pid) - cpu) / done * 1e6)
                    rates.append(done / seconds)
                    nodes.close()
            spread = f"{min(costs):.0f}–{max(costs):.0f}"
            click.echo(
                f"| `{fsync}` | {count} | {batch} | {statistics.median(rates):,.0f} "
                f"| {statistics.median(costs):.0f} | {spread} |"
            )
