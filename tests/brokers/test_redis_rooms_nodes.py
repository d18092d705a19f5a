"""Rooms of whole brokers on one real Redis: sessions that move between nodes, are displaced from another, and
whose node dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from imgateway.brokers.redis import rooms
from imgateway.errors import CloseCode
from imgateway.frames import Message, OutcomeCode, SessionKey, log_of, parse_address
from imgateway.interfaces import LoginPolicy, Publication, Verdict
from imgateway.testing.disk import opening
from imgateway.wire.messages import decode_message
from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import Loop, RedisServer

pytestmark = pytest.mark.server

ROOM, OTHER = parse_address("room:7"), parse_address("room:8")
BOB = SessionKey("bob", "phone")


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[Callable[..., list[BrokerDesk]]]:
    """``desks(how many)`` on one server."""
    server, loop = RedisServer(tmp_path), Loop()
    made: list[BrokerDesk] = []

    def make(number: int) -> list[BrokerDesk]:
        for n in range(1, number + 1):
            made.append(BrokerDesk(server, loop=loop, incarnation=f"n.{n}", seed=n).start())
        return made[-number:]

    yield make
    for desk in made:
        desk.stop()
    loop.close()
    server.kill9()


def settle(*desks: BrokerDesk) -> None:
    for _ in range(2):
        for desk in desks:
            desk.run()


def pass_time(seconds: float, *desks: BrokerDesk) -> None:
    for _ in range(int(seconds)):
        for desk in desks:
            desk.shift_ms += 1000
        desks[0].loop.shift_s += 1
        for desk in desks:
            desk.run()


def login(desk: BrokerDesk, session: SessionKey = BOB, **more: Any) -> int:
    opened = desk.now(opening(desk.broker, desk.claim(*session, **more)))
    assert opened.verdict is Verdict.OK
    return int(opened.generation)


def told(*desks: BrokerDesk) -> list[tuple[Any, ...]]:
    return [event for desk in desks for event in desk.listener.events if event[0] in ("entered", "left")]


def publication(msg_id: str, *to: str) -> Publication:
    return Publication(Message(msg_id, "alice", "phone", body=b"hello"), tuple(map(parse_address, to)))


def members(desk: BrokerDesk, *texts: str) -> list[int]:
    return [desk.now(desk.broker.members(parse_address(text))) for text in texts]


def test_a_message_reaches_members_at_both_nodes_once_and_in_order(desks: Any) -> None:
    one, other = desks(2)
    for desk in (one, other):
        desk.now(desk.broker.watch(log_of(ROOM)))
        desk.now(desk.broker.watch(log_of(ROOM, 1)))
    for n in range(40):
        (one if n % 3 else other).publish("room:7", "user:eve", msg_id=str(n), lane=int(n % 4 == 0))
    settle(one, other)
    for lane in (0, 1):
        found = [
            [
                decode_message(entry.message).msg_id
                for log, *_, entries in desk.listener.named("arrived")
                for entry in entries
                if log == log_of(ROOM, lane)
            ]
            for desk in (one, other)
        ]
        assert found[0] == found[1]
        assert sorted(map(int, found[0])) == [n for n in range(40) if (n % 4 == 0) == lane]


def test_a_session_that_moves_keeps_its_rooms(desks: Any) -> None:
    old, new = desks(2)
    first = login(old)
    for room in (ROOM, OTHER):
        old.now(old.broker.join(BOB, first, room, ("games",)))
    second = login(new)
    new.now(new.broker.join(BOB, second, ROOM, ("games",)))
    settle(old, new)
    assert old.listener.named("displaced")[0][:3] == (BOB, first, CloseCode.REPLACED)
    assert members(new, "room:7", "room:8", "area:games") == [1, 1, 1]
    old.now(old.broker.leave(BOB, first, ROOM))
    assert old.listener.named("displaced")[-1][2] == CloseCode.STALE
    old.now(old.broker.close_session(BOB, first))  # nobody waits for it any more
    assert told(old, new) == [("entered", BOB, ROOM), ("entered", BOB, OTHER), ("left", BOB, OTHER)]
    assert members(new, "room:7", "room:8", "area:games") == [1, 0, 1]
    new.now(new.broker.close_session(BOB, second))
    assert told(new) == [("left", BOB, ROOM)]


def test_who_is_displaced_from_another_node_has_left_before_it_is_told(desks: Any) -> None:
    old, new = desks(2)
    old.now(old.broker.join(BOB, login(old), ROOM))
    login(new, SessionKey("bob", "web"), policy=LoginPolicy.ONE)
    settle(old, new)
    names = [event[0] for event in old.listener.events if event[0] != "healthy"]
    assert names == ["entered", "left", "displaced"]
    assert members(new, "room:7") == [0]


def test_what_it_says_meanwhile_does_not_change_why_it_must_go(desks: Any) -> None:
    (old,) = desks(1)
    generation = login(old)
    old.now(old.broker.join(BOB, generation, ROOM))
    hint = [b"d", b"bob", b"phone", generation, int(CloseCode.KICKED)]
    old.broker._heard(old.broker._primaries.each()[0], hint)
    assert not old.broker._sessions.has(BOB)
    assert old.listener.named("displaced") == []
    old.broker.join(BOB, generation, OTHER)
    old.broker.record(BOB, generation, b"x")
    settle(old)
    ((_, _, code, _),) = old.listener.named("displaced")
    assert code == CloseCode.KICKED
    old.broker.record(BOB, generation, b"x")
    assert old.listener.named("displaced")[1][2] == CloseCode.STALE


def test_who_is_revoked_at_another_node_has_left(desks: Any) -> None:
    old, new = desks(2)
    old.now(old.broker.join(BOB, login(old, issued_at_s=100), ROOM))
    new.now(new.broker.revoke("bob", 150))
    settle(old, new)
    assert told(old) == [("entered", BOB, ROOM), ("left", BOB, ROOM)]


def test_the_rooms_of_a_dead_node_are_left_once(desks: Any) -> None:
    dead, *others = desks(3)
    sessions = [SessionKey(f"u{n}", "phone") for n in range(5)]
    for session in sessions:
        dead.now(dead.broker.join(session, login(dead, session), ROOM, ("games",)))
    moved = login(others[0], sessions[0])
    others[0].now(others[0].broker.join(sessions[0], moved, ROOM, ("games",)))
    dead.broker._timers.cancel_all()
    dead.broker._leases._timers.cancel_all()
    dead.broker._primaries.stop()
    pass_time(22, *others)
    assert sorted(told(*others)) == [("left", session, ROOM) for session in sessions[1:]]
    assert members(others[1], "room:7", "area:games") == [1, 1]
    dead.stop = lambda: None  # type: ignore[method-assign]


def test_who_left_just_before_is_not_back_with_a_promoted_replica(
    sit: Callable[..., BrokerDesk], server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "REAPED", 10)
    desk, other = (sit(server).start() for _ in range(2))
    generation = login(desk)
    for room in (ROOM, OTHER):
        desk.now(desk.broker.join(BOB, generation, room, ("games",)))
    gone = [SessionKey(f"u{n}", "phone") for n in range(300)]
    stays = {key: server.cli("HGETALL", key) for key in server.cli("KEYS", "ig:*:members:*")}
    (key,) = (key for key in stays if key.endswith(b":room:7"))
    for session in gone:
        stays[key] += ["\0".join(session).encode(), stays[key][1]]
    desk.now(desk.broker.leave(BOB, generation, OTHER))
    for key, stay in stays.items():
        server.cli("HSET", key, *stay)
        server.cli("SADD", "ig:in:n.1", *(key + b"\0" + member for member in stay[::2]))
    assert members(other, "room:7", "room:8", "area:games") == [301, 1, 1]
    events = told(desk, other)
    server.cli("HINCRBY", "ig:primary", "n", 1)
    for one in (desk, other):
        one.broker._primaries.each()[0]._line.drop(ConnectionError("a replica took over"))
    settle(desk, other)
    desk.loop.until(lambda: not desk.broker._rooms._turns.waiting)
    assert members(other, "room:7", "room:8", "area:games") == [1, 0, 1]
    assert told(desk, other) == events, "that was told when they left"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_sessions_do_they_enter_and_leave_by_turns(desks: Any, seed: int) -> None:
    """Logins at any node, joins, leaves and ends, with answers and hints under way."""
    nodes: list[BrokerDesk] = desks(3)
    random = Random(seed)
    sessions = [SessionKey(user, device) for user in ("ann", "bob") for device in ("phone", "web")]
    rooms = [parse_address(f"room:{name}") for name in "xyz"]
    live: dict[SessionKey, tuple[BrokerDesk, int]] = {}
    for _ in range(150):
        session = random.choice(sessions)
        what = random.choice(["login", "join", "join", "join", "leave", "close", "turn", "turn"])
        if what == "login":
            desk = random.choice(nodes)
            live[session] = desk, login(desk, session)
        elif what == "turn":
            nodes[0].loop.iterate(0.001)
        elif session in live:
            desk, generation = live[session]
            if what == "close":
                desk.broker.close_session(session, generation)
                del live[session]
            elif what == "leave":
                desk.broker.leave(session, generation, random.choice(rooms))
            else:
                desk.broker.join(session, generation, random.choice(rooms), ("all",))
    settle(*nodes)
    for desk in nodes:  # nobody waits any more for those that went to other nodes
        for session, generation, *_ in desk.listener.named("displaced"):
            desk.broker.close_session(session, generation)
    settle(*nodes)
    inside: Counter[tuple[SessionKey, Any]] = Counter()
    for what, session, room in told(*nodes):
        inside[session, room] += 1 if what == "entered" else -1
    assert set(inside.values()) <= {0, 1}
    assert {session for (session, _), n in inside.items() if n} <= set(live)
    counts = [sum(n for (_, at), n in inside.items() if at == room) for room in rooms]
    assert members(nodes[0], "room:x", "room:y", "room:z") == counts
    there = {session for (session, _), n in inside.items() if n}
    assert members(nodes[0], "area:all") == [len(there)]
    for session, (desk, generation) in live.items():
        desk.broker.close_session(session, generation)
    settle(*nodes)
    assert members(nodes[0], "room:x", "room:y", "room:z", "area:all") == [0] * 4


def test_rings_whose_server_is_away_hold_up_nothing_else(start: Any) -> None:
    """Rings on a server of their own: mail goes on, rooms wait and go on in order, with another epoch."""
    rings = start("--appendonly", "no")
    desk = BrokerDesk(start(), rings=(rings,)).start()
    desk.now(desk.broker.watch(log_of(ROOM)))
    (before,) = desk.now(desk.broker.publish(publication("0", "room:7")))
    rings.kill9()
    desk.loop.until(lambda: desk.listener.named("healthy"))
    ok, why = desk.listener.named("healthy")[-1]
    assert (ok, f":{rings.port} " in why) == (True, True)
    (mail,) = desk.loop.run(desk.broker.publish(publication("1", "user:eve")))
    assert mail.code == OutcomeCode.OK
    both = desk.later(desk.broker.publish(publication("2", "user:eve", "room:7")))
    rooms = [desk.later(desk.broker.publish(publication(str(n), "room:7"))) for n in range(3, 9)]
    desk.loop.spin(0.05)
    assert [both, *rooms] == [[]] * 7
    rings.restart()
    settle(desk)
    outcomes = [both[0][1], *(box[0][0] for box in rooms)]
    assert [outcome.code for outcome in outcomes] == [OutcomeCode.OK] * 7
    assert [outcome.seq for outcome in outcomes] == sorted(outcome.seq for outcome in outcomes)
    assert before.epoch not in {outcome.epoch for outcome in outcomes}
    assert desk.listener.named("healthy")[-1] == (True, "")
    desk.stop()
