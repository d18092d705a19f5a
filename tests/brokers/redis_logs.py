"""A node's durable logs in a real Redis, with a listener that records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from imgateway.brokers.redis.logs import Logs
from imgateway.brokers.redis.packing import pack
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.frames import Address, Batch, LogKey, Message, Outcome, log_of, parse_address
from imgateway.interfaces import Publication
from imgateway.testing.disk import Recorder
from imgateway.wire.messages import decode_message
from tests.brokers.redis_desk import RedisDesk
from tests.brokers.redis_server import Loop, RedisServer


def log(text: str) -> LogKey:
    return log_of(parse_address(text))


class NoRings:
    """Takes what is for rooms, and answers when it is told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Address]] = []
        self.held: list[Deferred[Outcome]] | None = None

    def publish(self, publication: Publication, address: Address, encoded: bytes) -> Deferred[Outcome]:
        self.taken.append((publication.message.msg_id, address))
        if self.held is None:
            return succeed(Outcome(0, 7, len(self.taken)))
        self.held.append(Deferred())
        return self.held[-1]

    def emit(self, publication: Publication, address: Address, encoded: bytes) -> None:
        self.taken.append((publication.message.msg_id, address))


class LogsDesk(RedisDesk):
    """One node. `listener.events` has what it was told."""

    def __init__(
        self,
        *servers: RedisServer,
        settings: BrokerSettings | None = None,
        retention: RetentionSettings | None = None,
        dedup_s: int = 14_400,
        **more: Any,
    ) -> None:
        super().__init__(*servers, **more)
        self.servers = servers
        self.listener = Recorder()
        self.rings = NoRings()
        self.logs = Logs(
            primaries=self.primaries,
            incarnation=self.incarnation,
            reactor=self.loop,
            tell=lambda what, *values: getattr(self.listener, what)(*values),
            attended=self.listener.attended,
            rings=self.rings,
            settings=settings or BrokerSettings(),
            retention=retention or RetentionSettings(),
            dedup_s=dedup_s,
        )
        self.heard = self.logs.heard
        self.renewed = self.logs.renewed

    def start(self) -> LogsDesk:
        super().start()
        self.logs.start()
        return self

    def stop(self) -> None:
        self.logs.stop()
        super().stop()

    def publish(
        self,
        *to: str,
        msg_id: str,
        sender: str = "alice",
        device: str = "phone",
        body: bytes = b"hello",
        ttl_s: int = 0,
        **more: Any,
    ) -> list[Any]:
        """The box that gets the outcomes."""
        at_ms = self.wall_ms
        message = Message(
            msg_id, sender, device, "text/plain", body, at_ms, at_ms + ttl_s * 1000 if ttl_s else 0
        )
        return self.later(self.logs.publish(Publication(message, tuple(map(parse_address, to)), **more)))

    def send(self, *to: str, msg_id: str, **more: Any) -> tuple[Outcome, ...]:
        box = self.publish(*to, msg_id=msg_id, **more)
        self.answered(box)
        outcomes: tuple[Outcome, ...] = box[0]
        return outcomes

    def answered(self, *boxes: list[Any]) -> None:
        self.loop.until(lambda: all(boxes))

    def watch(self, text: str) -> Any:
        return self.run(self.logs.watch(log(text)))

    def read(self, text: str, after: int = 0, limit: int = 1000, max_bytes: int = 1 << 30) -> Batch:
        batch: Batch = self.run(self.logs.read(log(text), after, limit, max_bytes))
        return batch

    def ids(self, text: str) -> list[str]:
        return [decode_message(entry.message).msg_id for entry in self.read(text).entries]

    def told(self, text: str) -> list[tuple[Any, ...]]:
        """(after, upto, ids) of what arrived and (head,) of what moved, of one log."""
        found: list[tuple[Any, ...]] = []
        for name, *values in self.listener.events:
            if name == "arrived" and values[0] == log(text):
                _, _, after, upto, entries = values
                found.append((after, upto, [decode_message(entry.message).msg_id for entry in entries]))
            elif name == "moved" and values[0] == log(text):
                found.append((values[2],))
        return found


class Reader:
    """Follows one log as a session does: takes what arrives if it fits, else reads. What it shows, and the
    gaps that it was told, as (after, upto)."""

    def __init__(self, desk: LogsDesk, text: str) -> None:
        self.desk, self.text = desk, text
        self.shown: list[tuple[int, str]] = []
        self.gaps: list[tuple[int, int]] = []
        position = desk.watch(text)
        self.epoch, self.at = position.epoch, 0
        self._events = 0

    def read(self) -> None:
        while True:
            batch = self.desk.read(self.text, self.at, 16)
            assert batch.epoch == self.epoch
            if batch.gap:
                self.gaps.append((self.at, batch.upto))
            self._show(batch.entries)
            done = batch.upto == self.at
            self.at = max(self.at, batch.upto)
            if done:
                return

    def _show(self, entries: Any) -> None:
        self.shown += [(entry.seq, decode_message(entry.message).msg_id) for entry in entries]

    def go_on(self) -> None:
        self.desk.settle()
        events = self.desk.listener.events
        while self._events < len(events):
            name, *values = events[self._events]
            self._events += 1
            if name == "arrived" and values[0] == log(self.text):
                _, epoch, after, upto, entries = values
                assert epoch == self.epoch
                if after == self.at:
                    self._show(entries)
                    self.at = upto
                elif upto > self.at:
                    self.read()
            elif name == "moved" and values[0] == log(self.text):
                self.read()


@pytest.fixture
def make(redis: RedisServer, loop: Loop) -> Iterator[Callable[..., LogsDesk]]:
    """Nodes at an empty Redis."""
    redis.cli("FLUSHALL")
    made: list[LogsDesk] = []

    def make(*others: RedisServer, **more: Any) -> LogsDesk:
        more.setdefault("incarnation", f"n.{len(made) + 1}")
        made.append(LogsDesk(redis, *others, loop=loop, **more).start())
        return made[-1]

    yield make
    for desk in made:
        desk.stop()


@pytest.fixture
def desk(make: Callable[..., LogsDesk]) -> LogsDesk:
    return make()


@pytest.fixture
def other(make: Callable[..., LogsDesk], desk: LogsDesk) -> LogsDesk:
    return make()


def device(
    desk: LogsDesk,
    user: str,
    name: str,
    acked: int,
    incarnation: bytes = b"",
    seen_ms: int = 0,
    parked: bytes = b"",
) -> None:
    """A device as the scripts of sessions leave it."""
    _, bucket = desk.primaries.of(user)
    fields = pack((1, incarnation, acked, seen_ms or desk.wall_ms, 0, b"", 0, 0, b"", parked, 0, 0))
    server_of(desk).cli("HSET", f"ig:{{{bucket}}}:u:{user}", f"d:{name}", fields)


def follower(desk: LogsDesk, text: str, name: str, acked: int, parked: bytes = b"") -> None:
    _, bucket = desk.primaries.of(text)
    server_of(desk).cli("HSET", f"ig:{{{bucket}}}:c:{text}", name, pack((1, acked, parked, desk.wall_ms)))


def server_of(desk: LogsDesk) -> RedisServer:
    found: RedisServer = desk.servers[0]
    return found


def key(desk: LogsDesk, tag: str, kind: str, rest: str) -> str:
    return f"ig:{{{desk.primaries.of(tag)[1]}}}:{kind}:{rest}"
