"""The whole broker on real servers: what it says to its listener, and what becomes of messages when servers
or nodes go away."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from imgateway.brokers.redis import RedisBroker, checks, find_primaries
from imgateway.brokers.redis.broker import STOP_S
from imgateway.brokers.redis.connection import Connection
from imgateway.brokers.redis.urls import RedisUrl, parse_urls
from imgateway.config import BrokerSettings, RedisSettings
from imgateway.core.counters import Counters
from imgateway.errors import CloseCode, ConfigError, StoreError
from imgateway.frames import EVERYONE, Message, OutcomeCode, SessionKey, address_text, log_of, parse_address
from imgateway.interfaces import LoginPolicy, Publication, Verdict
from imgateway.testing.disk import opening
from imgateway.wire.messages import decode_message
from tests.brokers.broker_desk import BrokerDesk
from tests.brokers.redis_server import Loop, RedisServer

pytestmark = pytest.mark.server

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
BOB, ROOM = SessionKey("bob", "phone"), parse_address("room:7")
MAILBOX = log_of(parse_address("user:bob"))


def health(desk: BrokerDesk) -> list[tuple[bool, str]]:
    return desk.listener.named("healthy")


def ids(desk: BrokerDesk, log: Any = MAILBOX) -> list[str]:
    found: list[str] = []
    after = 0
    while True:
        batch = desk.now(desk.broker.read(log, after, 1000, 1 << 20))
        if batch.upto <= after:
            return found
        after = batch.upto
        found += [decode_message(entry.message).msg_id for entry in batch.entries]


def answered(desk: BrokerDesk, boxes: list[list[Any]]) -> list[Any]:
    desk.loop.until(lambda: all(boxes), 20.0)
    return [box[0][0] for box in boxes]


# ----------------------------------------------------------------------------------------------------- health


def test_a_server_that_is_away_is_told_with_its_name_and_time(desk: BrokerDesk, server: RedisServer) -> None:
    assert health(desk) == []
    server.kill9()
    desk.loop.until(lambda: any("refused" in why for _, why in health(desk)))
    ok, why = health(desk)[0]
    assert why.startswith(f"redis 127.0.0.1:{server.port} cannot be written to: the connection was lost (")
    ok, why = health(desk)[-1]
    assert not ok
    assert why.startswith(f"redis 127.0.0.1:{server.port} cannot be written to: Connection was refused")
    assert re.search(r" \(since \d\d:\d\d:\d\d UTC\)$", why)
    server.restart()
    desk.run()
    assert health(desk)[-1] == (True, "")
    counters = Counters()
    desk.broker.measure(counters)
    assert counters.store_retries == 1


def test_a_start_waits_for_a_server_that_is_away(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    server.kill9()
    desk = sit(server)
    box = desk.later(desk.broker.start(desk.listener, "n.1"))
    desk.loop.until(lambda: health(desk))
    assert box == []
    server.restart()
    desk.loop.until(lambda: box)
    assert box == [None]
    assert health(desk)[-1] == (True, "")


def named_at(desk: BrokerDesk, place: int, kind: str = "") -> str:
    """A user, or an address of this kind, that this one of the primaries has."""
    primaries = desk.broker._primaries
    texts = (f"{kind}{n}" for n in range(200))
    return next(text for text in texts if primaries.of(text)[0] is primaries.each()[place])


def test_a_node_starts_without_a_primary_that_is_away_and_takes_it_in_when_it_comes(
    sit: Callable[..., BrokerDesk], start: Callable[..., RedisServer]
) -> None:
    there, away = start(), start()
    other = sit(there, away).start()
    away.kill9()
    desk = sit(there, away)
    desk.loop.run(desk.broker.start(desk.listener, desk.incarnation))
    ok, why = health(desk)[-1]
    assert ok, "there are users whom it can serve"
    assert why.startswith(f"redis 127.0.0.1:{away.port} cannot be written to: Connection was refused")
    assert f":{there.port} " not in why

    near, far = named_at(desk, 0), named_at(desk, 1)
    room = parse_address(named_at(desk, 1, "room:"))
    opened = desk.loop.run(opening(desk.broker, desk.claim(near)))
    near_log, far_log = (log_of(parse_address(f"user:{user}")) for user in (near, far))
    desk.loop.run(desk.broker.watch(near_log))
    assert answered(desk, [desk.publish(f"user:{near}", msg_id="1")])[0].code == OutcomeCode.OK
    waiting = [
        desk.later(opening(desk.broker, desk.claim(far))),
        desk.later(desk.broker.watch(far_log)),
        desk.later(desk.broker.watch(log_of(room))),
        desk.later(desk.broker.join(SessionKey(near, "phone"), opened.generation, room)),
        desk.publish(f"user:{far}", msg_id="1"),
        desk.publish(address_text(room), msg_id="1", exempt=True),
    ]
    desk.loop.spin(0.1)
    assert not any(waiting)

    away.restart()
    desk.loop.until(lambda: all(waiting))
    desk.run()
    other.run()
    assert health(desk)[-1] == (True, "")
    assert [one.online for one in desk.now(desk.broker.sessions(far))] == [True]
    assert desk.now(desk.broker.members(room)) == 1
    assert len(desk.listener.named("entered")) == 1
    other.now(other.broker.publish(Publication(Message("2", "alice", "phone"), (far_log.address, room))))
    desk.run()
    told = [
        (log, decode_message(entry.message).msg_id)
        for log, _, _, _, entries in desk.listener.named("arrived")
        for entry in entries
    ]
    assert {(far_log, "2"), (log_of(room), "2")} <= set(told)
    assert len(told) == len(set(told))


def test_a_node_starts_without_the_servers_of_rooms(
    sit: Callable[..., BrokerDesk], server: RedisServer, start: Callable[..., RedisServer]
) -> None:
    rings = start("--appendonly", "no")
    rings.kill9()
    desk = sit(server, rings=[rings])
    desk.loop.run(desk.broker.start(desk.listener, desk.incarnation))
    ok, why = health(desk)[-1]
    assert (ok, f":{rings.port} " in why) == (True, True)
    assert answered(desk, [desk.publish("user:bob", msg_id="1")])[0].code == OutcomeCode.OK
    room = desk.publish("room:7", msg_id="1")
    rings.restart()
    assert answered(desk, [room])[0].code == OutcomeCode.OK


def test_a_start_that_waits_can_be_given_up(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    server.kill9()
    desk = sit(server)
    failures: list[Any] = []
    desk.broker.start(desk.listener, "n.1").addErrback(failures.append)
    desk.broker.give_up()
    assert failures[0].check(CancelledError)
    desk.broker.give_up()


def test_two_that_are_away_are_both_told(
    sit: Callable[..., BrokerDesk], start: Callable[..., RedisServer]
) -> None:
    one, two = start(), start()
    desk = sit(one, two).start()
    for server in (one, two):
        server.kill9()
    desk.loop.until(lambda: health(desk) and health(desk)[-1][1].count("was refused") == 2)
    assert health(desk)[-1][0] is False
    one.restart()
    desk.loop.until(lambda: f":{one.port} " not in health(desk)[-1][1])
    assert health(desk)[-1][0] is True
    two.restart()
    desk.run()
    assert health(desk)[-1] == (True, "")


def test_who_may_not_start_is_told_why(
    sit: Callable[..., BrokerDesk], start: Callable[..., RedisServer]
) -> None:
    desk = sit(start("--appendonly", "no"))
    with pytest.raises(StoreError, match="CONFIG SET appendonly yes"):
        desk.start()


def test_unsafe_lifts_it(sit: Callable[..., BrokerDesk], start: Callable[..., RedisServer]) -> None:
    desk = sit(start("--appendonly", "no"), redis={"unsafe": True}).start()
    assert answered(desk, [desk.publish("user:bob", msg_id="1")])[0].code == OutcomeCode.OK


def test_a_password_from_a_file(
    sit: Callable[..., BrokerDesk], start: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server = start("--requirepass", "s3cret", *ALWAYS)
    path = tmp_path / "password"
    with pytest.raises(StoreError, match=r"redis\.password_file: .* cannot be read"):
        sit(server, redis={"password_file": str(path)}).start()
    path.write_text("s3cret\n")
    sit(server, redis={"password_file": str(path)}).start()
    sit(server, url=f"redis://:s3cret@127.0.0.1:{server.port}").start()


def test_replicas_are_asked_of_the_logs_primaries_only(
    sit: Callable[..., BrokerDesk], server: RedisServer, start: Callable[..., RedisServer]
) -> None:
    desk = sit(server, rings=[start("--appendonly", "no")], redis={"ack": "replica"})
    with pytest.raises(StoreError, match=rf"127\.0\.0\.1:{server.port}: redis\.ack"):
        desk.start()


# ------------------------------------------------------------------------------------------------ its replica


class Replica:
    """What WAITAOF says, played on whatever Redis there is; while it is away that takes its time, too."""

    is_there = True


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Replica:
    replica, send = Replica(), Connection.send

    def played(connection: Connection, answer: Any, *command: bytes | str | int) -> None:
        if command[0] != b"WAITAOF":
            send(connection, answer, *command)
        elif replica.is_there:
            send(connection, lambda _: answer([1, 1]), "PING")
        else:
            send(connection, lambda there: answer([1, there]), "WAIT", 1, 20)

    monkeypatch.setattr(Connection, "send", played)
    monkeypatch.setattr(checks, "REPLICA_VERSION", (0,))
    return replica


@pytest.fixture
def lagging(
    sit: Callable[..., BrokerDesk], server: RedisServer, replica: Replica
) -> Callable[[], tuple[BrokerDesk, BrokerDesk]]:
    """Two nodes, from when the first one knows that the replica is away."""

    def lag(sits: Callable[[BrokerDesk], object] = lambda desk: None) -> tuple[BrokerDesk, BrokerDesk]:
        first, second = (sit(server, redis={"ack": "replica"}).start() for _ in range(2))
        sits(first)
        replica.is_there = False
        first.broker.members(ROOM)
        first.loop.until(lambda: health(first))
        return first, second

    return lag


@pytest.mark.parametrize("in_a_room", [False, True])
@pytest.mark.parametrize("why", [CloseCode.REVOKED, CloseCode.DISPLACED])
def test_who_must_go_does_not_wait_for_a_replica(
    lagging: Callable[..., tuple[BrokerDesk, BrokerDesk]],
    replica: Replica,
    why: CloseCode,
    in_a_room: bool,
) -> None:
    def sits(desk: BrokerDesk) -> None:
        opened = desk.now(opening(desk.broker, desk.claim(*BOB, issued_at_s=5)))
        if in_a_room:
            desk.now(desk.broker.join(BOB, opened.generation, ROOM))

    first, second = lagging(sits)
    if why is CloseCode.REVOKED:
        second.broker.revoke("bob", 9)
    else:
        opening(second.broker, second.claim("bob", "web", policy=LoginPolicy.ONE))
    first.loop.until(lambda: first.listener.named("displaced"))
    ((session, _, code, _),) = first.listener.named("displaced")
    assert (session, code) == (BOB, why)
    replica.is_there = True
    first.run()
    assert len(first.listener.named("displaced")) == 1


def test_clients_that_come_again_and_again_while_the_replica_is_away_leave_nothing(
    lagging: Callable[..., tuple[BrokerDesk, BrokerDesk]], replica: Replica
) -> None:
    desk, _ = lagging()
    (primary,) = desk.broker._primaries.all()
    before = primary.unanswered
    for _ in range(100):
        claim = desk.claim(*BOB)
        opening(desk.broker, claim)
        desk.loop.iterate(0)
        desk.broker.withdraw(claim)
    last = desk.later(opening(desk.broker, desk.claim(*BOB)))
    desk.loop.iterate(0)
    assert primary.unanswered < before + 10
    replica.is_there = True
    desk.loop.until(lambda: last)
    assert last[0].verdict is Verdict.OK
    assert health(desk)[-1][0]


def test_of_words_to_oneself_one_waits_for_a_replica(
    lagging: Callable[..., tuple[BrokerDesk, BrokerDesk]], replica: Replica
) -> None:
    desk, _ = lagging()
    (primary,) = desk.broker._primaries.all()
    said = primary.subscription.beat()
    desk.loop.until(lambda: primary.subscription.echoed >= said)
    waiting = primary._echoes
    assert waiting
    for _ in range(10):
        primary.subscription.tick()
        desk.loop.iterate(0)
    assert primary._echoes == waiting
    assert primary.subscription.is_up, "they were not asked for, so nobody misses them"
    replica.is_there = True
    desk.loop.until(lambda: not primary.unanswered)
    said = primary.subscription.beat()
    desk.loop.until(lambda: primary.subscription.echoed >= said)


# --------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_under_load_loses_nothing_and_doubles_nothing(
    sit: Callable[..., BrokerDesk], server: RedisServer, seed: int
) -> None:
    one = sit(server).start()
    two = sit(server).start()
    one.now(one.broker.watch(MAILBOX))
    boxes: list[list[Any]] = []
    for kill in range(3):
        for n in range(200):
            desk = (one, two)[n % 2]
            name = f"{desk.incarnation}-{kill}-{n:03}"
            boxes.append(desk.publish("user:bob", "room:7", msg_id=name, sender=f"s{n % 2}"))
            if n == 60 + 40 * seed:
                one.loop.until(lambda: any(boxes))
                server.kill9()
        server.restart()
    outcomes = answered(one, boxes)
    assert {outcome.code for outcome in outcomes} == {OutcomeCode.OK}
    one.run()
    found = ids(one)
    assert len(found) == len(set(found)) == len(boxes)
    for desk in (one, two):
        mine = [name for name in found if name.startswith(desk.incarnation)]
        assert mine == sorted(mine), "each node's messages in the order in which it published them"
    assert one.now(one.broker.read(MAILBOX, 0, 1, 1)).gap is False
    # The watching node was told of all of it, or that there is more.
    told = [upto for *_, upto, _ in one.listener.named("arrived")]
    told += [head for *_, head in one.listener.named("moved")]
    assert max(told) == len(boxes)


def test_half_a_minute_without_redis(desk: BrokerDesk, server: RedisServer) -> None:
    opened = desk.now(opening(desk.broker, desk.claim("bob")))
    desk.now(desk.broker.join(BOB, opened.generation, ROOM))
    boxes = [desk.publish("user:bob", msg_id="000")]
    answered(desk, boxes)
    desk.broker.advance(BOB, opened.generation, [(MAILBOX, 1)])
    server.kill9()
    for n in range(1, 31):
        boxes.append(desk.publish("user:bob", msg_id=f"{n:03}"))
        desk.shift_ms += 1000
        desk.loop.shift_s += 1
        desk.loop.iterate(0)
    assert not any(boxes[1:])
    server.restart()
    assert [outcome.seq for outcome in answered(desk, boxes)] == list(range(1, 32))
    desk.pass_time(10)
    # Its lease ran out, and nobody took anything: the session goes on as it was.
    assert ids(desk) == [f"{n:03}" for n in range(31)]
    assert desk.listener.named("displaced", "left") == []
    (here,) = desk.now(desk.broker.sessions("bob"))
    assert (here.online, here.generation) == (True, opened.generation)
    assert desk.now(desk.broker.members(ROOM)) == 1
    again = desk.now(opening(desk.broker, desk.claim("bob")))
    assert again.places[0].acked == 1


def test_what_waits_is_told_and_told_off(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    limits = {
        "waiting_entries": 1000,
        "waiting_bytes": 1_048_576,
        "batch_entries": 1,
        "batch_bytes": 1_048_576,
    }
    desk = sit(server, settings=limits).start()
    server.freeze()
    boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(1000)]
    assert desk.listener.named("congested") == [(True,)]
    # Rings as well: each for itself, and together.
    boxes += [desk.publish("room:7", msg_id=str(n), body=bytes(1000), exempt=True) for n in range(1100)]
    assert desk.listener.named("congested") == [(True,)]
    server.thaw()
    answered(desk, boxes)
    desk.run()
    assert desk.listener.named("congested") == [(True,), (False,)]


def test_rings_that_wait_are_told(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    limits = {"waiting_entries": 1000, "batch_entries": 1}
    desk = sit(server, settings=limits).start()
    server.freeze()
    desk.loop.iterate(0)
    boxes = [desk.publish("room:7", "room:8", msg_id=str(n), exempt=True) for n in range(400)]
    for n in range(200):
        message = Message(str(n), "alice", "phone")
        desk.broker.emit(Publication(message, (ROOM,), exempt=True))
    assert desk.listener.named("congested") == [(True,)]
    server.thaw()
    answered(desk, boxes)
    desk.run()
    desk.now(desk.broker.publish(Publication(Message("x", "alice", "phone"), (ROOM,), exempt=True)))
    assert desk.listener.named("congested") == [(True,), (False,)]


def test_qos_0_that_waits_is_told_and_told_off_and_more_is_dropped(
    sit: Callable[..., BrokerDesk], server: RedisServer
) -> None:
    desk = sit(server, settings={"waiting_entries": 1000, "batch_entries": 1}).start()
    desk.now(desk.broker.watch(log_of(ROOM)))
    server.kill9()
    desk.loop.until(lambda: health(desk))
    for n in range(1500):
        desk.broker.emit(Publication(Message(str(n), "alice", "phone"), (ROOM,), exempt=True))
    assert desk.listener.named("congested") == [(True,)]
    assert desk.broker._rings.waiting == 1000
    server.restart()
    desk.run()
    assert desk.listener.named("congested") == [(True,), (False,)]
    # From here on none is dropped.
    desk.broker.emit(Publication(Message("last", "alice", "phone"), (ROOM,), exempt=True))
    desk.run()
    assert ids(desk, log_of(ROOM))[-1] == "last"


@pytest.mark.parametrize("qos", [0, 1])
def test_publishers_go_on_though_what_waits_last_is_not_theirs(
    sit: Callable[..., BrokerDesk], server: RedisServer, qos: int
) -> None:
    """When Redis is back every room that is watched is asked for anew, behind what waited."""
    desk = sit(server, settings={"waiting_entries": 100}).start()
    for n in range(80):
        desk.now(desk.broker.watch(log_of(parse_address(f"room:{n}"))))
    server.kill9()
    desk.loop.until(lambda: health(desk))
    for n in range(100):
        if qos:
            desk.publish("room:7", msg_id=str(n), exempt=True)
        else:
            desk.broker.emit(Publication(Message(str(n), "alice", "phone"), (ROOM,), exempt=True))
    assert desk.listener.named("congested") == [(True,)]
    server.restart()
    desk.run()
    assert desk.broker._rings.waiting == 0
    desk.pass_time(2)
    assert desk.listener.named("congested") == [(True,), (False,)]


def test_logs_and_rings_on_servers_of_their_own(
    sit: Callable[..., BrokerDesk], start: Callable[..., RedisServer]
) -> None:
    logs, rings = start(), start("--appendonly", "no")
    one = sit(logs, rings=[rings]).start()
    two = sit(logs, rings=[rings]).start()
    two.now(two.broker.watch(log_of(ROOM)))
    two.now(two.broker.watch(MAILBOX))
    one.now(one.broker.publish(Publication(Message("1", "alice", "phone"), (ROOM, MAILBOX.address))))
    one.run()
    two.run()
    assert sorted(log.address.kind for log, *_ in two.listener.named("arrived")) == ["room", "user"]
    assert not [key for key in rings.cli("KEYS", "*") if b":l:" in key]
    rings.kill9()
    # Users do not wait for rooms.
    box = one.publish("user:bob", msg_id="2")
    room = one.publish("room:7", msg_id="2")
    assert answered(one, [box])[0].seq == 2
    assert room == []
    rings.restart()
    assert answered(one, [room])[0].code == OutcomeCode.OK


def test_who_stops_while_redis_is_away_ends(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    desk = sit(server).start()
    opened = desk.now(opening(desk.broker, desk.claim("bob")))
    desk.broker.advance(BOB, opened.generation, [(MAILBOX, 1)])
    server.kill9()
    boxes = [desk.publish("user:bob", msg_id="1"), desk.publish("room:7", msg_id="1")]
    desk.loop.until(lambda: health(desk))
    desk.stop()
    # Nobody says that they were kept.
    assert boxes == [[], []]


def test_who_stops_waits_so_long_for_a_redis_that_does_not_answer(
    sit: Callable[..., BrokerDesk], server: RedisServer
) -> None:
    desk = sit(server).start()
    server.freeze()
    try:
        stopped = desk.later(desk.broker.stop())
        desk.loop.iterate(0)
        assert stopped == []
        desk.loop.shift_s += STOP_S
        desk.loop.iterate(0)
    finally:
        server.thaw()
    assert stopped == [None]


def test_who_stops_writes_what_waits(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    desk = sit(server).start()
    box = desk.publish("user:bob", msg_id="1")
    opened = desk.now(opening(desk.broker, desk.claim("bob")))
    desk.broker.advance(BOB, opened.generation, [(MAILBOX, 1)])
    last = desk.publish("user:bob", msg_id="2")
    desk.stop()
    assert (box[0][0].seq, last[0][0].seq) == (1, 2)
    other = sit(server).start()
    assert other.now(opening(other.broker, other.claim("bob"))).places[0].acked == 1
    # It left: nobody waits for its lease.
    assert [one.online for one in other.now(other.broker.sessions("bob"))] == [True]


def test_a_broker_that_never_started_stops(server: RedisServer, loop: Loop) -> None:
    desk = BrokerDesk(server, loop=loop)
    desk.broker.measure(Counters())
    assert loop.run(desk.broker.tell("n.1", b"")) is False
    assert loop.run(desk.broker.stop()) is None


# ------------------------------------------------------------------------------------------------ the cluster


def test_nodes_tell_each_other(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    one, two = sit(server).start(), sit(server).start()
    assert one.now(one.broker.tell("n.2", b"kick \xff")) is True
    assert one.now(one.broker.tell("n.1", b"to myself")) is True
    assert one.now(one.broker.tell("n.9", b"nobody")) is False
    two.run()
    assert two.listener.named("control") == [(b"kick \xff",)]
    assert one.listener.named("control") == [(b"to myself",)]


def test_a_word_to_another_is_for_now_or_never(desk: BrokerDesk, server: RedisServer) -> None:
    server.freeze()
    waiting = desk.later(desk.broker.tell("n.1", b"late"))
    desk.loop.iterate(0.01)
    server.kill9()
    desk.loop.until(lambda: waiting)
    assert waiting == [False]
    assert desk.loop.run(desk.broker.tell("n.1", b"away")) is False
    server.restart()
    desk.run()
    assert desk.listener.named("control") == []


def test_a_word_that_was_sent_again_is_heard_once(desk: BrokerDesk) -> None:
    primary = desk.broker._primaries.each()[0]
    for name in (b"one", b"one", b"two"):
        desk.now(primary.call("tell", "n.1", b"word", name))
    assert desk.listener.named("control") == [(b"word",)] * 2


def test_only_so_many_names_are_remembered(desk: BrokerDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.redis.broker.RECENT", 3)
    for n in range(10):
        desk.broker._heard_control(b"word", b"%d" % n)
    assert len(desk.broker._recent) == 3


def test_a_login_at_another_node_displaces(sit: Callable[..., BrokerDesk], server: RedisServer) -> None:
    one, two = sit(server).start(), sit(server).start()
    old = one.now(opening(one.broker, one.claim("bob", platform="ios")))
    one.now(one.broker.join(BOB, old.generation, ROOM))
    new = two.now(opening(two.broker, two.claim("bob", "web", policy=LoginPolicy.ONE)))
    one.run()
    ((session, generation, code, _),) = one.listener.named("displaced")
    assert (session, generation, code) == (BOB, old.generation, CloseCode.DISPLACED)
    assert [event[0] for event in one.listener.events if event[0] in ("left", "displaced")] == [
        "left",
        "displaced",
    ]
    assert new.generation > old.generation
    assert two.now(two.broker.members(ROOM)) == 0


def test_a_session_that_went_to_another_node_keeps_its_rooms(
    sit: Callable[..., BrokerDesk], server: RedisServer
) -> None:
    one, two = sit(server).start(), sit(server).start()
    old = one.now(opening(one.broker, one.claim("bob")))
    for text in ("room:7", "room:8"):
        one.now(one.broker.join(BOB, old.generation, parse_address(text)))
    new = two.now(opening(two.broker, two.claim("bob")))
    two.now(two.broker.join(BOB, new.generation, ROOM))
    one.run()
    assert [one[:3] for one in one.listener.named("displaced")] == [(BOB, old.generation, CloseCode.REPLACED)]
    assert one.listener.named("left") == two.listener.named("entered") == []
    one.now(one.broker.close_session(BOB, old.generation))  # nobody waits for it any more
    assert one.listener.named("left") == [(BOB, parse_address("room:8"))]
    assert two.now(two.broker.members(ROOM)) == 1


def test_a_node_that_dies_is_taken_out_of_its_rooms_by_another_that_tells_of_it(
    sit: Callable[..., BrokerDesk], server: RedisServer
) -> None:
    router = sit(server, reaps=False).start()  # nobody there would hear of it
    one, two = sit(server).start(), sit(server).start()
    opened = two.now(opening(two.broker, two.claim("bob")))
    two.now(two.broker.join(BOB, opened.generation, ROOM))
    assert one.now(one.broker.members(ROOM)) == 1
    # It ends without a word.
    two.broker._timers.cancel_all()
    two.broker._leases._timers.cancel_all()
    two.broker._primaries.stop()
    for _ in range(25):
        router.pass_time(1)
        one.pass_time(1)
    assert one.listener.named("left") == [(BOB, ROOM)]
    assert router.listener.named("left") == []
    assert one.now(one.broker.members(ROOM)) == 0
    assert [presence.online for presence in one.now(one.broker.sessions("bob"))] == [False]
    assert one.now(one.broker.members(EVERYONE)) == 0


def test_what_is_watched_of_rings_is_asked_for_anew_where_a_lease_had_run_out(
    sit: Callable[..., BrokerDesk], server: RedisServer, start: Callable[..., RedisServer]
) -> None:
    """By then a server whose clock was put ahead by days has forgotten it."""
    rings = start()
    one, two = (sit(server, rings=[rings]).start() for _ in range(2))
    one.now(one.broker.watch(log_of(EVERYONE)))
    (watched,) = rings.cli("KEYS", "ig:*:watch:*")
    rings.cli("DEL", watched)
    for desk in (one, two):
        desk.shift_ms += 3 * 86_400_000
        for primary in desk.broker._primaries.all():
            desk.now(desk.broker._leases.renew(primary))
    assert answered(two, [two.publish("all", msg_id="1")])[0].code == OutcomeCode.OK
    one.run()
    assert [told[0] for told in one.listener.named("arrived")] == [log_of(EVERYONE)]


# ----------------------------------------------------------------------------------------------- the listener


def test_a_bad_hint_costs_no_connection(
    desk: BrokerDesk, server: RedisServer, flush_logged_errors: Any
) -> None:
    from imgateway.brokers.redis.packing import pack

    for payload in ([[b"a"]], [[]], [[b"c", b"fine", b"1"]]):
        server.cli("PUBLISH", "ig:node:n.1", pack(payload))
    desk.run()
    assert desk.listener.named("control") == [(b"fine",)]
    assert health(desk) == []
    assert len(flush_logged_errors()) == 2


def test_a_listener_that_raises_costs_no_message(
    desk: BrokerDesk, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    def raises(*values: Any) -> None:
        raise ValueError("test")

    monkeypatch.setattr(desk.listener, "arrived", raises)
    desk.now(desk.broker.watch(MAILBOX))
    assert answered(desk, [desk.publish("user:bob", msg_id="1")])[0].seq == 1
    desk.run()
    assert len(flush_logged_errors(ValueError)) == 1


# ------------------------------------------------------------------------------------------------------- URLs


def test_what_a_url_says() -> None:
    one, two, three = parse_urls(
        "redis://h, rediss://us%65r:p%40ss@[::1]:7000/3,redis+sentinel://:pw@s1,s2:7001/my%2Fname/2"
    )
    assert one == RedisUrl((("h", 6379),))
    assert two == RedisUrl((("::1", 7000),), 3, "user", "p@ss", tls=True)
    assert three == RedisUrl((("s1", 26379), ("s2", 7001)), 2, "", "pw", sentinel="my/name")
    assert [url.name for url in (one, two, three)] == ["h:6379", "[::1]:7000", "my/name"]


@pytest.mark.parametrize(
    "text",
    [
        "redis://",
        "redis:///1",
        "http://h",
        "redis://h:port",
        "redis://h/x",
        "redis://h/1/2",
        "redis://a,b",
        "redis://h?x=1",
        "redis+sentinel://h",
        "redis+sentinel://h,/name",
        "redis://h:99999",
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(ConfigError, match=r"some\.setting: .* is not a Redis URL; write redis://"):
        parse_urls(text, "some.setting")


def test_a_password_is_not_in_the_complaint() -> None:
    with pytest.raises(ConfigError) as problem:
        parse_urls("redis://:s3cret@h/x")
    assert "s3cret" not in str(problem.value)


def test_a_server_is_named_once() -> None:
    for url, rings in (("redis://h,redis://h/1", ()), ("redis://h", ("redis://h",))):
        with pytest.raises(ConfigError, match="named twice"):
            find_primaries(BrokerSettings(url=url), RedisSettings(rings=rings))


def test_its_name_has_no_password(loop: Loop) -> None:
    settings = BrokerSettings(url="redis://:s3cret@a:1,redis+sentinel://s/main")
    broker = RedisBroker(reactor=loop, settings=settings, redis=RedisSettings(dedup_s=60))
    assert (broker.name, broker.dedup_s) == ("redis:a:1,redis:main", 60)


def test_a_log_is_with_its_primary_and_a_ring_with_that_of_the_rings(
    sit: Callable[..., BrokerDesk], start: Callable[..., RedisServer]
) -> None:
    desk = sit(start(), start(), rings=[start(*ALWAYS)]).start()
    users = {desk.broker.server(log_of(parse_address(f"user:{n}"))) for n in range(50)}
    topics = {desk.broker.server(log_of(parse_address(f"topic:{n}"))) for n in range(50)}
    rooms = {desk.broker.server(log_of(parse_address(f"room:{n}"))) for n in range(50)}
    assert (len(users), len(rooms)) == (2, 1)
    assert topics == users
    assert not rooms & users
