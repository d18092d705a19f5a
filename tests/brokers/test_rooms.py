"""Rooms in the embedded broker: at once, whatever the disk does; members told once, whatever sessions do."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from imgateway.config import BrokerSettings, RoomSettings
from imgateway.core.counters import Counters
from imgateway.errors import CloseCode, ConfigError
from imgateway.frames import Message, OutcomeCode, SessionKey, log_of, parse_address
from imgateway.interfaces import LoginPolicy, Publication, Verdict
from imgateway.testing.disk import Rig, disk_error, opening

OK = OutcomeCode.OK
ROOM = log_of(parse_address("room:7"))


def test_a_room_is_told_and_answered_before_publish_returns() -> None:
    rig = Rig(None).start()
    rig.now(rig.broker.watch(ROOM))
    box = rig.publish("room:7", msg_id="1")
    assert (len(box), len(rig.listener.named("arrived"))) == (1, 1)
    assert rig.steps.choices() == [], "no lane has anything to do"
    rig.stop()


def test_the_rooms_part_of_a_publish_goes_out_before_the_disk_has_the_rest() -> None:
    rig = Rig(None).start()
    rig.now(rig.broker.watch(ROOM))
    box = rig.publish("user:bob", "room:7", "room:8", msg_id="1")
    assert (box, len(rig.listener.named("arrived"))) == ([], 1)
    rig.run()
    assert [outcome.code for outcome in box[0]] == [OK, OK, OK]
    rig.stop()


def test_who_publishes_when_told_of_a_room_comes_after_it_everywhere() -> None:
    rig = Rig(None).start()
    rig.now(rig.broker.watch(ROOM))
    told, boxes = rig.listener.arrived, []

    def arrived(*what: Any) -> None:
        told(*what)
        if not boxes:
            boxes.append(rig.publish("user:bob", "room:7", msg_id="second"))

    rig.listener.arrived = arrived  # type: ignore[method-assign]
    first = rig.publish("room:7", "user:bob", msg_id="first")
    rig.run()
    assert [outcome.seq for outcome in first[0]] == [1, 1]
    assert [outcome.seq for outcome in boxes[0][0]] == [2, 2]
    rig.stop()


@pytest.mark.parametrize("hangs", [False, True], ids=["it fails", "it hangs"])
def test_a_store_that_is_full_does_not_hold_up_rooms(tmp_path: Path, hangs: bool) -> None:
    rig = Rig(
        tmp_path / "data",
        settings=BrokerSettings(waiting_entries=10, batch_entries=10),
        rooms=RoomSettings(rate=0.0),
    ).start()
    assert rig.disk is not None
    rig.now(rig.broker.watch(ROOM))
    if not hangs:
        rig.disk.fail(disk_error("SQLITE_FULL"))
    waiting = [rig.publish("user:bob", "room:7", msg_id=str(n)) for n in range(20)]
    if not hangs:
        rig.run()
        rig.clock.advance(30)
        rig.run()
    assert rig.listener.named("congested") == [(True,)]
    assert waiting == [[]] * 20
    for n in range(100):
        assert rig.publish("room:7", msg_id=f"room{n}")[0][0].code == OK
        rig.broker.emit(Publication(Message(str(n), "alice", "phone"), (ROOM.address,)))
    assert len(rig.listener.named("arrived")) == 220
    assert rig.later(rig.broker.read(ROOM, 0, 1, 1))[0].gap is True
    rig.disk.mend()
    rig.pass_time(5)
    assert {outcome.code for box in waiting for outcome in box[0]} == {OK}
    rig.stop()


def test_rings_die_with_the_process(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    before = rig.publish("room:7", msg_id="1")[0][0]
    rig.crash()
    position = rig.now(rig.broker.watch(ROOM))
    assert position.epoch not in (0, before.epoch)
    assert position[1:] == (1, 0)
    assert rig.publish("room:7", msg_id="1")[0][0] == (OK, position.epoch, 1)
    rig.stop()


def test_the_upkeep_second_applies_ages() -> None:
    rig = Rig(None, rooms=RoomSettings(classes=("*: age=5s",), dedup_s=20)).start()
    rig.publish("room:7", msg_id="1")
    counters = Counters()
    rig.pass_time(10)
    rig.broker.measure(counters)
    assert counters.rings == 1
    empty = counters.ring_bytes
    rig.pass_time(15)
    rig.broker.measure(counters)
    assert counters.rings == counters.ring_bytes == 0 < empty
    rig.stop()


def test_measured_before_the_store_is_open() -> None:
    Rig(None).broker.measure(Counters())


def test_a_listener_that_raises_costs_nobody_anything(flush_logged_errors: Any) -> None:
    rig = Rig(None).start()
    session = SessionKey("bob", "phone")
    generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
    rig.now(rig.broker.watch(ROOM))

    def fail(*what: Any) -> None:
        raise ZeroDivisionError

    rig.listener.arrived = rig.listener.entered = rig.listener.left = fail  # type: ignore[method-assign]
    assert rig.publish("room:7", "room:8", msg_id="1")[0][1].code == OK
    for room in ("room:7", "room:8"):
        rig.now(rig.broker.join(session, generation, parse_address(room)))
    rig.now(rig.broker.close_session(session, generation))
    assert rig.now(rig.broker.members(ROOM.address)) == 0
    assert len(flush_logged_errors(ZeroDivisionError)) == 5
    rig.stop()


def test_a_wrong_class_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^rooms.classes"):
        Rig(None, rooms=RoomSettings(classes=("x: y=1",)))


class Census:
    """Sessions of a few users that come, go, are displaced and revoked in any order, their logins answered
    late; and what must be told of their rooms, from what the broker itself said of the sessions."""

    USERS, DEVICES, ROOMS = ("ann", "bob", "cat"), ("phone", "web"), ("g.1", "g.2", "n.1")
    POLICIES = (LoginPolicy.MANY, LoginPolicy.MANY, LoginPolicy.ONE, LoginPolicy.ONE_PER_PLATFORM)

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.rig = Rig(None, max_devices=1).start()
        self.now_s = 100
        self.open: dict[SessionKey, int] = {}
        self.old: list[tuple[SessionKey, int]] = []
        self.inside: dict[SessionKey, set[str]] = {}
        self.logins: list[tuple[SessionKey, list[Any]]] = []
        self.read = 0

    def session(self) -> SessionKey:
        return SessionKey(self.random.choice(self.USERS), self.random.choice(self.DEVICES))

    def step(self) -> None:
        broker, random, session = self.rig.broker, self.random, self.session()
        what = random.choice(
            ["open", "join", "join", "join", "leave", "close", "stale", "revoke", "work", "work"]
        )
        if what == "open":
            self.now_s += 1
            claim = self.rig.claim(
                *session, platform=session.device, policy=random.choice(self.POLICIES), issued_at_s=self.now_s
            )
            self.logins.append((session, self.rig.later(opening(broker, claim))))
        elif what == "work":
            for _ in range(random.randrange(4)):
                if choices := self.rig.steps.choices():
                    random.choice(choices)()
        elif what == "revoke":
            self.rig.later(broker.revoke(session.user, self.now_s - random.randrange(20)))
        elif what == "stale" and self.old:
            session, generation = random.choice(self.old)
            address = parse_address("room:" + random.choice(self.ROOMS))
            getattr(broker, random.choice(["join", "leave"]))(session, generation, address)
            broker.close_session(session, generation)
        elif session in self.open:
            generation, name = self.open[session], random.choice(self.ROOMS)
            address = parse_address("room:" + name)
            if what == "join":
                broker.join(session, generation, address, (name[0],))
                self.look()
                assert name in self.inside[session]
            elif what == "leave":
                broker.leave(session, generation, address)
            elif what == "close":
                broker.close_session(session, generation, random.random() < 0.2)
                self.end(session)
        self.look()

    def end(self, session: SessionKey) -> None:
        self.old.append((session, self.open.pop(session)))

    def look(self) -> None:
        """Hold what was told against what was told before."""
        for name, *values in self.rig.listener.events[self.read :]:
            if name == "entered":
                there = self.inside.setdefault(values[0], set())
                assert values[1].id not in there, "entered twice"
                there.add(values[1].id)
            elif name == "left":
                self.inside[values[0]].remove(values[1].id)  # KeyError: left and was not there
            elif name == "displaced" and self.open.get(values[0]) == values[1]:
                assert values[2] != CloseCode.STALE
                self.end(values[0])
                if values[2] != CloseCode.REPLACED:
                    assert not self.inside.get(values[0]), "displaced, and still in rooms"
        self.read = len(self.rig.listener.events)
        for login in [login for login in self.logins if login[1]]:
            self.logins.remove(login)
            opened = login[1][0]
            displaced = {tuple(event[:2]) for event in self.rig.listener.named("displaced")}
            if opened.verdict == Verdict.OK and (login[0], opened.generation) not in displaced:
                assert self.open.get(login[0], 0) < opened.generation
                self.open[login[0]] = opened.generation

    def check(self) -> None:
        """All work is done: who is in a room is a session that is open, and the numbers are right."""
        broker, rig = self.rig.broker, self.rig
        rig.run()
        self.look()
        assert {session for session, rooms in self.inside.items() if rooms} <= set(self.open)
        for name in self.ROOMS:
            there = sum(name in rooms for rooms in self.inside.values())
            assert rig.now(broker.members(parse_address("room:" + name))) == there
        for area in "gn":
            there = sum(any(name[0] == area for name in rooms) for rooms in self.inside.values())
            assert rig.now(broker.members(parse_address("area:" + area))) == there
        assert rig.now(broker.members(parse_address("all"))) == len(self.open)


@pytest.mark.parametrize("seed", range(12))
def test_members_are_told_once_whatever_sessions_do(seed: int) -> None:
    census = Census(seed)
    for n in range(900):
        census.step()
        if n % 50 == 0:
            census.check()
    census.check()
    assert len(census.rig.listener.named("entered")) > 30
    for session, generation in list(census.open.items()):
        census.rig.now(census.rig.broker.close_session(session, generation))
        census.end(session)
    census.check()
    assert not any(census.inside.values())
    counters = Counters()
    census.rig.broker.measure(counters)
    assert counters.room_members == 0
    census.rig.stop()
