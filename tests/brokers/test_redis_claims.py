"""Claims, goodbyes, revocations and lost connections at several nodes at once, in drawn orders, on one real
Redis: at most one live generation of a session, and everybody who lost is told once."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from imgateway.frames import SessionKey
from imgateway.interfaces import LoginPolicy, Verdict
from tests.brokers.redis_server import Loop, RedisServer
from tests.brokers.session_desk import SessionDesk, log

pytestmark = pytest.mark.server

DEVICES = ("phone", "web", "pad")
NODES = ("n.1", "n.2", "n.3")
ACTS = ("open",) * 8 + ("close",) * 3 + ("ack", "ack", "revoke", "renew", "turn", "turn", "cut", "deaf")


class World:
    """A model: generations that were answered with OK, and neither closed nor displaced, are live."""

    def __init__(self, redis: RedisServer, seed: int) -> None:
        self.random = Random(seed)
        self.server = redis
        self.loop = Loop()
        redis.cli("FLUSHALL")
        self.desks = [
            SessionDesk(redis, loop=self.loop, node=node, max_devices=2, seed=seed).start() for node in NODES
        ]
        self.live: dict[tuple[SessionDesk, str], int] = {}
        self.issued: dict[int, int] = {}
        self.answered: set[int] = set()
        self.ended: set[int] = set()
        self.acked: dict[str, int] = {}
        self.pending = 0
        for desk in self.desks:
            desk.on_displaced = lambda key, generation, code, desk=desk: self.displaced(desk, key, generation)
        self.desks[0].grow("user:bob", 9)

    def displaced(self, desk: SessionDesk, key: SessionKey, generation: int) -> None:
        assert generation not in self.ended, "told twice"
        assert self.live.get((desk, key.device)) == generation, "told of one that does not live here"
        self.ended.add(generation)
        del self.live[desk, key.device]

    def opened(self, found: Any, desk: SessionDesk, device: str, issued_at_s: int) -> None:
        self.pending -= 1
        if found.verdict == Verdict.OK:
            assert (desk, device) not in self.live, "two live generations at one node"
            assert found.generation not in self.answered, "given twice"
            self.answered.add(found.generation)
            self.live[desk, device] = found.generation
            self.issued[found.generation] = issued_at_s

    def act(self) -> None:
        random, desk = self.random, self.random.choice(self.desks)
        act, device = random.choice(ACTS), random.choice(DEVICES)
        generation = self.live.get((desk, device), 0)
        key = SessionKey("bob", device)
        if act == "open":
            issued_at_s = random.randrange(4)
            claim = desk.claim(
                device=device,
                policy=random.choice(tuple(LoginPolicy)),
                issued_at_s=issued_at_s,
                order=issued_at_s,
                platform=device[0],
                on_same_device=random.choice(("replace", "newest-order-wins")),
            )
            self.pending += 1
            desk.sessions.open(claim).addCallback(self.opened, desk, device, issued_at_s)
        elif act == "close" and generation:
            del self.live[desk, device]
            self.ended.add(generation)
            desk.sessions.close(key, generation, random.random() < 0.3)
        elif act == "ack" and generation:
            desk.sessions.advance(key, generation, [(log("user:bob"), random.randrange(10))])
            desk.sessions.flush()
        elif act == "renew" and generation:
            desk.sessions.renew(key, generation, 3)
        elif act == "revoke":
            desk.sessions.revoke("bob", random.randrange(4))
        elif act == "turn":
            self.loop.iterate(0.001)
        elif act == "cut":  # answers get lost, and come again
            desk.primary._line.drop(ConnectionError("cut"))
        elif act == "deaf":  # kicks get lost
            desk.primary.subscription.drop(ConnectionError("cut"))

    def settle(self) -> None:
        for _ in range(2):
            for desk in self.desks:
                desk.settle()

    def check(self) -> None:
        assert self.pending == 0
        devices = [device for _, device in self.live]
        assert len(set(devices)) == len(devices), "two live generations of a session"
        there = self.desks[0].online()
        assert there == {device: (desk.node, number) for (desk, device), number in self.live.items()}
        assert [desk.sessions.online for desk in self.desks] == [
            sum(1 for where, _ in self.live if where is desk) for desk in self.desks
        ]
        for desk in self.desks:
            assert (desk.sessions._opening, desk.sessions._positions.unplaced) == ({}, {})

    def stop(self) -> None:
        for desk in self.desks:
            desk.stop()
        self.loop.close()


@pytest.mark.parametrize("seed", range(24))
def test_at_most_one_live_generation_and_one_kick_each(redis: RedisServer, seed: int) -> None:
    world = World(redis, seed)
    for _ in range(4):
        for _ in range(30):
            world.act()
        world.settle()
        world.check()
    not_before_s = int(world.desks[0].cli(redis, "HGET", "bob", "u", "nb") or 0)
    for (desk, device), generation in world.live.items():
        seat = desk.sessions._seats.get(SessionKey("bob", device))
        assert seat is not None
        assert (seat.generation, seat.issued_at_s >= not_before_s) == (generation, True)
    world.stop()


@pytest.mark.parametrize("seed", range(4))
def test_a_server_that_is_killed_among_claims(redis: RedisServer, seed: int) -> None:
    """It comes back with its disk: who was told that it has a session has it, and no claim is lost."""
    world = World(redis, 1_000 + seed)
    for _ in range(3):
        for _ in range(20):
            world.act()
        redis.kill9()
        for _ in range(10):
            world.act()
        redis.restart()
        world.settle()
        world.check()
    world.stop()
