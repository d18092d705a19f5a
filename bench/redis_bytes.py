"""What a session and a message cost in Redis: bytes of its memory, and of its append-only file.

::

    python -m bench.redis_bytes [--users 4000] [--messages 10] [--body 100]

A real redis-server and one broker. Every user opens a session, then gets the messages, each from
another user.
Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from bench.servers import Server, redis
from imgateway.brokers.redis import RedisBroker
from imgateway.config import BrokerSettings
from imgateway.frames import Message, SessionKey, parse_address
from imgateway.interfaces import Claim, LoginPolicy, Publication
from imgateway.testing.disk import opening

AT_ONCE = 200


class Deaf:
    """A broker's listener that has nobody to tell."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def ask(port: int, *words: str | bytes) -> Any:
    with socket.create_connection(("127.0.0.1", port), 10) as link:
        link.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # any number of them
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            if not (data := link.recv(65_536)):
                raise ConnectionError("Redis has gone")
            reader.feed(data)
    return reply


def measured(server: Server) -> tuple[int, int]:
    """Bytes of memory, bytes of file."""
    info = dict(
        line.split(":", 1) for line in ask(server.port, "INFO", "memory").decode().splitlines() if ":" in line
    )
    return int(info["used_memory"]), sum(file.stat().st_size for file in Path(server.data_dir).rglob("*.aof"))


async def run(reactor: Any, server: Server, users: int, messages: int, body: int) -> None:
    broker = RedisBroker(
        settings=BrokerSettings(url=f"redis://127.0.0.1:{server.port}"),
        reactor=reactor,
        now_ms=lambda: time.time_ns() // 1_000_000,
        entropy=random.Random(1).randbytes,
    )
    await broker.start(Deaf(), "bench.1")

    async def all_of(begin: Callable[[int], Deferred[Any]]) -> None:
        for first in range(0, users, AT_ONCE):
            await gatherResults([begin(n) for n in range(first, min(first + AT_ONCE, users))])

    def publish(number: int, round: int) -> Deferred[Any]:
        text = random.Random(number * 1_000 + round).randbytes(body)
        message = Message(f"{round:04}-{number:012}", f"user{number + 1:06}", "phone", "text/plain", text, 1)
        return broker.publish(Publication(message, (parse_address(f"user:user{number:06}"),)))

    at = [measured(server)]
    await all_of(
        lambda n: opening(broker, Claim(SessionKey(f"user{n:06}", "phone"), policy=LoginPolicy.MANY))
    )
    at.append(measured(server))
    for round in range(messages):
        await all_of(partial(publish, round=round))
        if not round:
            at.append(measured(server))
    at.append(measured(server))
    ids = ask(server.port, "KEYS", "*:d:*")[:1_000]
    dedup = sum(ask(server.port, "MEMORY", "USAGE", key) for key in ids) / max(1, len(ids))
    await broker.stop()
    print(f"\n| {body} bytes of body | memory | file |\n|---|---|---|")
    for what, before, after, count in (
        ("a session that is open", 0, 1, users),
        ("the first message of a mailbox", 1, 2, users),
        ("each further message", 2, 3, users * (messages - 1)),
    ):
        memory, file = ((at[after][n] - at[before][n]) / count for n in (0, 1))
        print(f"| {what} | {memory:,.0f} | {file:,.0f} |")
    print(f"| of these, the message's id, for `redis.dedup_s` | {dedup:,.0f} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--body", type=int, default=100)
    options = parser.parse_args()
    sys.argv[1:] = []
    with tempfile.TemporaryDirectory() as directory, redis(Path(directory), "always", cpu=1) as server:
        command = (server, options.users, max(2, options.messages), options.body)

        def begin(reactor: Any) -> Deferred[None]:
            return Deferred.fromCoroutine(run(reactor, *command))

        react(begin, [])


if __name__ == "__main__":
    main()
