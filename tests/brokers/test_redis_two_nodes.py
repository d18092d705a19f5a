"""Two nodes on one Redis lead a random life: they publish, watch, log in and out while connections break. In
the end each that watched has shown the whole log, once and in order, and each session is at one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from imgateway.frames import Batch, Entry, LogKey, Position, SessionKey, log_of, parse_address
from imgateway.interfaces import LoginPolicy, Opened, Verdict
from imgateway.testing.disk import opening
from imgateway.wire.messages import decode_message
from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import Loop, RedisServer

pytestmark = pytest.mark.server


@pytest.fixture
def desks(redis: RedisServer) -> Iterator[list[BrokerDesk]]:
    redis.cli("FLUSHALL")
    loop = Loop()
    made = [BrokerDesk(redis, loop=loop, incarnation=f"n.{n}", seed=n).start() for n in range(2)]
    yield made
    for desk in made:
        desk.stop()
    loop.close()


def disturb(desk: BrokerDesk, random: Random) -> None:
    """A connection breaks, or some time passes."""
    primary = desk.broker._primaries.all()[0]
    one = random.choice((primary._line, primary.subscription, primary._reading, None, None))
    if one is not None:
        one.drop(ConnectionError("broken"))
    else:
        desk.loop.spin(0.03)


def come_to_rest(desks: list[BrokerDesk]) -> None:
    for _ in range(3):
        for desk in desks:
            desk.run()
    desks[0].loop.spin(0.05)
    for desk in desks:
        desk.run()


class Reader:
    """Follows one log at one node, as its hub would."""

    def __init__(self, desk: BrokerDesk, log: LogKey) -> None:
        self.desk, self.log = desk, log
        self.shown: list[tuple[int, str]] = []
        self.position = self.head = self.watches = 0
        self.is_on = self.is_told = self.is_reading = False

    def toggle(self) -> None:
        self.watches += 1
        self.is_on, self.is_told = not self.is_on, False
        if self.is_on:
            self.desk.broker.watch(self.log).addCallback(self.watched, self.watches)
        else:
            self.desk.broker.unwatch(self.log)

    def watched(self, position: Position, watches: int) -> None:
        if watches == self.watches:
            self.is_told = True
            self.moved(position.head)

    def arrived(self, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        assert self.is_told or not self.is_on, "told before the answer"
        if self.is_on and after == self.position and not self.is_reading:
            self.take(upto, entries)
        self.moved(upto)

    def moved(self, head: int) -> None:
        if self.is_on and self.is_told:
            self.head = max(self.head, head)
            self.read()

    def read(self) -> None:
        if self.is_on and not self.is_reading and self.position < self.head:
            self.is_reading = True
            self.desk.broker.read(self.log, self.position, 20, 1 << 20).addCallback(self.found)

    def found(self, batch: Batch) -> None:
        self.is_reading = False
        assert not batch.gap
        self.take(batch.upto, batch.entries)
        self.read()

    def take(self, upto: int, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            if entry.seq > self.position:
                self.shown.append((entry.seq, decode_message(entry.message).msg_id))
        self.position = max(self.position, upto)


@pytest.mark.parametrize("kind", ["user", "room"])
@pytest.mark.parametrize("seed", range(3))
def test_every_reader_shows_all_of_it_once(desks: list[BrokerDesk], kind: str, seed: int) -> None:
    random = Random(seed)
    logs = [log_of(parse_address(f"{kind}:{n}")) for n in range(3)]
    readers = [Reader(desk, log) for desk in desks for log in logs]

    def listen(desk: BrokerDesk) -> None:
        mine = {reader.log: reader for reader in readers if reader.desk is desk}
        desk.listener.arrived = lambda log, epoch, *values: mine[log].arrived(*values)  # type: ignore[method-assign]
        desk.listener.moved = lambda log, epoch, head: mine[log].moved(head)  # type: ignore[method-assign]

    published: dict[LogKey, list[tuple[str, list[Any]]]] = {log: [] for log in logs}
    for desk in desks:
        listen(desk)
    for step in range(300):
        desk, act = random.choice(desks), random.random()
        if act < 0.5:
            log = random.choice(logs)
            body = b"x" * random.choice((1, 2000))
            for _ in range(random.choice((1, 1, 2))):  # a repeat is the same
                box = desk.publish(f"{kind}:{log.address.id}", msg_id=str(step), body=body)
                published[log].append((str(step), box))
        elif act < 0.7:
            random.choice(readers).toggle()
        elif act < 0.9:
            desk.loop.iterate(0)
        else:
            disturb(desk, random)
    for reader in readers:
        if not reader.is_on:
            reader.toggle()
    come_to_rest(desks)
    for log in logs:
        mine, other = (reader.shown for reader in readers if reader.log == log)
        assert mine == other
        assert sorted(seq for seq, _ in mine) == [seq for seq, _ in mine]
        assert {(box[0][0].seq, msg_id) for msg_id, box in published[log]} == set(mine)
        assert len({msg_id for _, msg_id in mine}) == len(mine)


@pytest.mark.parametrize("seed", range(4))
def test_a_session_is_at_one_node_and_each_that_was_displaced_is_told(
    desks: list[BrokerDesk], seed: int
) -> None:
    random = Random(seed)
    live: list[dict[SessionKey, int]] = [{} for _ in desks]
    granted: dict[tuple[SessionKey, int], int] = {}
    told: Counter[tuple[SessionKey, int]] = Counter()
    closed: set[tuple[SessionKey, int]] = set()

    def listen(n: int) -> Callable[..., None]:
        def displaced(session: SessionKey, generation: int, code: int, reason: str) -> None:
            told[session, generation] += 1
            assert granted[session, generation] == n
            if live[n].get(session) == generation:
                del live[n][session]

        return displaced

    def opened(found: Opened, session: SessionKey, n: int) -> None:
        if found.verdict is Verdict.OK:
            assert (session, found.generation) not in granted
            granted[session, found.generation] = n
            live[n][session] = found.generation

    for n, desk in enumerate(desks):
        desk.listener.displaced = listen(n)  # type: ignore[method-assign]
    answers: list[Any] = []
    for step in range(250):
        n, act = random.randrange(len(desks)), random.random()
        desk, session = desks[n], SessionKey(random.choice("ab"), random.choice("pq"))
        if act < 0.4:
            policy = random.choice((LoginPolicy.MANY, LoginPolicy.MANY, LoginPolicy.ONE, LoginPolicy.REFUSE))
            claim = desk.claim(*session, policy=policy, issued_at_s=step)
            answers.append(opening(desk.broker, claim).addCallback(opened, session, n))
        elif act < 0.5 and session in live[n]:
            closed.add((session, live[n][session]))
            answers.append(desk.broker.close_session(session, live[n].pop(session)))
        elif act < 0.55:
            answers.append(desk.broker.revoke(session.user, step - random.randrange(20)))
        elif act < 0.6 and session in live[n]:
            answers.append(desk.broker.record(session, live[n][session], b"%d" % step))
        elif act < 0.85:
            desk.loop.iterate(0)
        else:
            disturb(desk, random)
    come_to_rest(desks)
    assert all(answer.called for answer in answers)
    at = {
        one.session: (one.node, one.generation)
        for user in "ab"
        for one in desks[0].now(desks[0].broker.sessions(user))
        if one.online
    }
    mine = [(session, (f"n.{n}", g)) for n, held in enumerate(live) for session, g in held.items()]
    assert sorted(mine) == sorted(at.items())
    for (session, generation), n in granted.items():
        is_live = live[n].get(session) == generation
        assert told[session, generation] == (not is_live and (session, generation) not in closed)
