"""Nodes with rings and rooms on real Redis servers, and nothing else of a broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from imgateway.brokers.redis.rings import RedisRings
from imgateway.brokers.redis.rooms import RedisRooms
from imgateway.config import RoomSettings
from imgateway.core.counters import Counters
from imgateway.frames import Address, Batch, Entry, LogKey, Message, Outcome, Position, SessionKey, log_of
from imgateway.interfaces import Publication
from tests.brokers.redis_desk import RedisDesk
from tests.brokers.redis_server import Loop, RedisServer

ROOM = Address("room", "7")


def room(n: int) -> Address:
    return Address("room", f"r{n}")


class Node:
    """What a node has of rings and rooms; `told` is what its hub heard."""

    def __init__(self, house: House, name: str, rings: tuple[RedisServer, ...], **settings: Any) -> None:
        self.house = house
        self.desk = RedisDesk(*house.servers, rings=rings, loop=house.loop, incarnation=name, **house.more)
        self.told: list[tuple[LogKey, int, int, int, tuple[Entry, ...]]] = []
        self.moved: list[tuple[LogKey, int, int]] = []
        self.events: list[tuple[str, SessionKey, Address]] = []
        self.count = 0
        self.rings = RedisRings(
            primaries=self.desk.primaries,
            settings=RoomSettings(**settings),
            reactor=house.loop,
            arrived=lambda *told: self.told.append(told),
            moved=lambda *moved: self.moved.append(moved),
            now_ms=lambda: self.desk.wall_ms,
            entropy=Random(name).randbytes,
        )
        self.rooms = RedisRooms(
            primaries=self.desk.primaries,
            reactor=house.loop,
            entered=lambda *who: self.events.append(("entered", *who)),
            left=lambda *who: self.events.append(("left", *who)),
        )
        self.desk.heard = self.rings.heard
        self.desk.renewed = self.renewed
        self.desk.start()

    def renewed(self, primary: Any) -> None:
        self.rings.renewed(primary)
        self.rooms.renewed(primary)

    def stop(self) -> None:
        self.rings.stop()
        self.rooms.stop()
        self.desk.stop()

    def kill(self) -> None:
        """It is gone without a word."""
        self.desk.stop()
        self.house.nodes.remove(self)

    def settle(self) -> None:
        self.rings._turns.flush()
        self.rooms._turns.flush()
        self.desk.settle()

    # ------------------------------------------------------------------------------------------------- rings

    def publication(
        self, lane: int = 0, msg_id: str = "", exempt: bool = False, ttl_ms: int = 0
    ) -> Publication:
        self.count += 1
        msg_id = msg_id or f"{self.desk.incarnation}.{self.count}"
        message = Message(msg_id, "alice", "phone", sent_ms=5, expires_ms=5 + ttl_ms if ttl_ms else 0)
        return Publication(message, (), lane, exempt=exempt)

    def later(
        self, address: Address = ROOM, size: int = 100, body: bytes = b"", **more: Any
    ) -> list[Outcome]:
        """A list that will hold the outcome."""
        box: list[Outcome] = []
        self.rings.publish(self.publication(**more), address, body or bytes(size), box.append)
        return box

    def publish(self, address: Address = ROOM, size: int = 100, **more: Any) -> Outcome:
        box = self.later(address, size, **more)
        self.house.loop.until(lambda: box)
        return box[0]

    def emit(self, address: Address = ROOM, **more: Any) -> None:
        self.rings.emit(self.publication(**more), address, b"x", lambda outcome: None)

    def watch(self, address: Address = ROOM, lane: int = 0) -> Position:
        position: Position = self.desk.run(self.rings.watch(log_of(address, lane)))
        return position

    def read(self, address: Address = ROOM, lane: int = 0, after: int = 0) -> Batch:
        batch: Batch = self.desk.run(self.rings.read(log_of(address, lane), after))
        return batch

    def seqs(self, address: Address = ROOM, lane: int = 0, after: int = 0) -> list[int]:
        """All that can be read from `after` on, block by block."""
        found: list[int] = []
        while True:
            batch = self.read(address, lane, after)
            found += [entry.seq for entry in batch.entries if entry.seq > after]
            if batch.upto >= batch.head:
                return found
            after = batch.upto

    def heard(self, address: Address = ROOM, lane: int = 0) -> list[int]:
        """The seqs that were told of a ring."""
        log = log_of(address, lane)
        return [entry.seq for told in self.told if told[0] == log for entry in told[4]]

    def measure(self) -> Counters:
        counters = Counters()
        self.rings.measure(counters)
        self.rooms.measure(counters)
        return counters

    def upkeep(self, seconds: float) -> None:
        """So much time passes, for all; and then this node does its upkeep."""
        self.house.pass_time(seconds)
        self.rings.upkeep()
        self.settle()

    # ------------------------------------------------------------------------------------------------- rooms

    def join(self, session: SessionKey, generation: int, address: Address = ROOM, *areas: str) -> None:
        assert self.desk.run(self.rooms.join(session, generation, address, areas)) is None

    def leave(self, session: SessionKey, generation: int, address: Address = ROOM) -> None:
        assert self.desk.run(self.rooms.leave(session, generation, address)) is None

    def members(self, *addresses: Address) -> list[int]:
        return [self.desk.run(self.rooms.members(address)) for address in addresses]


class House:
    """Nodes that share a loop, and servers that were emptied. `more`: for the desks."""

    def __init__(self, *servers: RedisServer, **more: Any) -> None:
        self.servers = servers
        self.more = more
        self.loop = Loop()
        self.nodes: list[Node] = []
        for server in servers:
            server.cli("FLUSHALL")

    def node(self, name: str = "", rings: tuple[RedisServer, ...] = (), **settings: Any) -> Node:
        self.nodes.append(Node(self, name or f"n.{len(self.nodes) + 1}", rings, **settings))
        return self.nodes[-1]

    def pass_time(self, seconds: float) -> None:
        self.loop.shift_s += seconds
        for node in self.nodes:
            node.desk.shift_ms += int(seconds * 1000)

    def settle(self) -> None:
        for _ in range(2):  # what one said, another may have answered
            for node in self.nodes:
                node.settle()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self.loop.close()


@pytest.fixture
def build(start: Any) -> Iterator[Callable[..., House]]:
    """``build(*servers, **more)``: a House that is stopped before the servers are."""
    made: list[House] = []

    def build(*servers: RedisServer, **more: Any) -> House:
        made.append(House(*servers, **more))
        return made[-1]

    yield build
    for house in made:
        house.stop()


@pytest.fixture
def house(redis: RedisServer, build: Callable[..., House]) -> House:
    return build(redis)


def true_bytes(server: RedisServer) -> tuple[int, int]:
    """What the rings of a server take, counted anew, and how many there are."""
    entries = rings = 0
    for key in server.cli("KEYS", "ig:{*}:ring:*"):
        rings += 1
        for entry in server.cli("LRANGE", key.replace(b":ring:", b":entries:"), 0, -1):
            entries += len(entry) - 24 + 64
    return entries + 600 * rings, rings


__all__ = ("ROOM", "House", "Node", "build", "house", "room", "true_bytes")
