"""Durable logs on a real Redis: what one script does, it does once and whole, whichever node asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from imgateway.brokers.redis.entries import pack_entry, unpack_entries
from imgateway.brokers.redis.packing import pack
from imgateway.brokers.redis.watches import log_named
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.core.counters import Counters
from imgateway.frames import Entry, LogKey, Message, Outcome, OutcomeCode, Position, parse_address
from imgateway.interfaces import Publication
from imgateway.wire.messages import decode_message, encode_message
from tests.brokers.redis_logs import LogsDesk, log
from tests.brokers.redis_server import Loop, RedisServer

pytestmark = pytest.mark.server

OK, DUPLICATE, FULL, UNKNOWN = OutcomeCode.OK, OutcomeCode.DUPLICATE, OutcomeCode.FULL, OutcomeCode.UNKNOWN
BODY = bytes(n % 256 for n in range(5_000))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill9()


@pytest.fixture
def make(server: RedisServer) -> Iterator[Callable[..., LogsDesk]]:
    """Nodes at an empty Redis."""
    server.cli("FLUSHALL")
    loop, made = Loop(), []

    def make(*others: RedisServer, **more: Any) -> LogsDesk:
        more.setdefault("incarnation", f"n.{len(made) + 1}")
        made.append(LogsDesk(server, *others, loop=loop, **more).start())
        return made[-1]

    yield make
    for desk in made:
        desk.stop()
    loop.close()


@pytest.fixture
def desk(make: Callable[..., LogsDesk]) -> LogsDesk:
    return make()


@pytest.fixture
def other(make: Callable[..., LogsDesk], desk: LogsDesk) -> LogsDesk:
    return make()


def twice(desk: LogsDesk) -> None:
    """From now on every call of this node is run again, as when its answer was lost."""
    for primary in desk.primaries.each():
        call = primary.call

        def again(script: str, *args: Any, call: Any = call) -> Deferred[Any]:
            first: Deferred[Any] = call(script, *args)
            second: Deferred[Any] = call(script, *args)

            def same(answer: Any) -> Deferred[Any]:
                return second.addCallback(lambda repeated: _equal(answer, repeated))

            return first.addCallback(same)

        primary.call = again  # type: ignore[method-assign]


def _equal(answer: Any, repeated: Any) -> Any:
    assert answer[:3] == repeated[:3] if isinstance(answer, list) else True
    return repeated


def device(
    desk: LogsDesk, user: str, name: str, acked: int, incarnation: bytes = b"", seen_ms: int = 0
) -> None:
    """A device as the scripts of sessions leave it."""
    _, bucket = desk.primaries.of(user)
    fields = pack((1, incarnation, acked, seen_ms or desk.wall_ms, 0, b"", 0, 0, b"", b"", 0, 0))
    server_of(desk).cli("HSET", f"ig:{{{bucket}}}:u:{user}", f"d:{name}", fields)


def follower(desk: LogsDesk, text: str, name: str, acked: int) -> None:
    _, bucket = desk.primaries.of(text)
    server_of(desk).cli("HSET", f"ig:{{{bucket}}}:c:{text}", name, pack((1, acked, b"", desk.wall_ms)))


def server_of(desk: LogsDesk) -> RedisServer:
    found: RedisServer = desk.servers[0]
    return found


# -------------------------------------------------------------------------------------------------- appending


def test_seqs_rise_in_the_order_of_calls(desk: LogsDesk) -> None:
    boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(250)]
    desk.answered(*boxes)
    assert [box[0][0].seq for box in boxes] == list(range(1, 251))
    assert desk.ids("user:bob") == [str(n) for n in range(250)]


def test_one_script_takes_what_a_turn_brought(desk: LogsDesk, server: RedisServer) -> None:
    server.cli("CONFIG", "RESETSTAT")
    desk.answered(*[desk.publish(f"user:u{n}", msg_id="1") for n in range(90)])
    assert server.cli("INFO", "commandstats").decode().count("cmdstat_rpush:calls=90,")
    counters = Counters()
    desk.logs.measure(counters)
    assert (counters.store_commits, counters.store_entries, counters.store_waiting) == (1, 90, 0)


def test_a_busy_primary_gets_larger_batches(desk: LogsDesk) -> None:
    """While some are on their way the next ones collect."""
    boxes = []
    for n in range(40):
        boxes.append(desk.publish("user:bob", msg_id=str(n)))
        desk.logs._flush()
    desk.answered(*boxes)
    counters = Counters()
    desk.logs.measure(counters)
    assert counters.store_commits < 20
    assert desk.ids("user:bob") == [str(n) for n in range(40)]


def test_a_batch_ends_at_its_bytes(desk: LogsDesk) -> None:
    boxes = [desk.publish("user:bob", msg_id=str(n), body=bytes(400_000)) for n in range(6)]
    desk.answered(*boxes)
    counters = Counters()
    desk.logs.measure(counters)
    assert counters.store_commits == 2


def test_two_nodes_that_publish_the_same_make_one_entry(desk: LogsDesk, other: LogsDesk) -> None:
    boxes = [one.publish("user:bob", msg_id=str(n)) for n in range(50) for one in (desk, other)]
    desk.answered(*boxes)
    for first, second in zip(boxes[::2], boxes[1::2], strict=True):
        assert {first[0][0].code, second[0][0].code} == {OK, DUPLICATE}
        assert first[0][0][1:] == second[0][0][1:]
    assert sorted(desk.ids("user:bob"), key=int) == [str(n) for n in range(50)]


def test_a_repeat_joins_what_is_under_way(desk: LogsDesk) -> None:
    first, second = desk.publish("user:bob", msg_id="1"), desk.publish("user:bob", msg_id="1")
    desk.answered(first, second)
    assert first == second
    assert desk.send("user:bob", msg_id="1")[0] == (DUPLICATE, *first[0][0][1:])


def test_a_script_that_runs_again_changes_nothing(make: Callable[..., LogsDesk], server: RedisServer) -> None:
    desk, other = make(retention=RetentionSettings(entries=3)), make()
    other.watch("user:bob")
    twice(desk)
    users = ["user:bob", "user:carol", "topic:news", "device:bob/web"]
    assert [one.code for one in desk.send(*users, msg_id="1", body=BODY, copy_self=True)] == [OK] * 3 + [OK]
    assert [one.code for one in desk.send(*users, msg_id="1", body=BODY)] == [DUPLICATE] * 4
    position = desk.watch("user:bob")
    assert (position.first, position.head) == (1, 1)
    for n in range(2, 4):
        assert desk.send("user:bob", msg_id=str(n), ttl_s=100)[0] == (OK, position.epoch, n)
    assert desk.send("user:bob", msg_id="4")[0].code == FULL
    reset = desk.run(desk.logs.reset_log(log("user:bob")))
    desk.settle()
    desk.logs.unwatch(log("user:bob"))
    desk.pass_time(1)
    for one in (desk, other):
        one.settle()
    assert desk.ids("user:bob") == ["1", "2", "3"]
    assert other.told("user:bob") == [(0, 1, ["1"]), (1, 2, ["2"]), (2, 3, ["3"]), (3,)]
    assert desk.told("user:bob") == [(1, 2, ["2"]), (2, 3, ["3"]), (3,)]
    assert desk.watch("user:bob") == reset
    assert server.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 3


def key(desk: LogsDesk, tag: str, kind: str, rest: str) -> str:
    return f"ig:{{{desk.primaries.of(tag)[1]}}}:{kind}:{rest}"


def test_a_refusal_is_the_same_when_it_is_run_again(make: Callable[..., LogsDesk]) -> None:
    """Even if there is room by then: what was refused must not come after what came later."""
    desk = make(retention=RetentionSettings(entries=2))
    sent: list[tuple[Any, ...]] = []
    call = desk.primary.call
    desk.primary.call = lambda script, *args: (sent.append(args), call(script, *args))[1]  # type: ignore[method-assign]
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(3)])
    device(desk, "bob", "phone", 2)
    assert desk.run(call("append", *sent[0]))[1] == [OK, 1, OK, 2, FULL, 0]
    assert desk.send("user:bob", msg_id="2")[0][::2] == (OK, 3)


def test_a_repeat_is_recognised_for_so_long(make: Callable[..., LogsDesk]) -> None:
    desk = make(dedup_s=100)
    assert desk.send("user:bob", msg_id="1")[0].code == OK
    desk.pass_time(99)
    assert desk.send("user:bob", msg_id="1")[0].code == DUPLICATE
    desk.pass_time(2)
    assert desk.send("user:bob", msg_id="1")[0][::2] == (OK, 2)
    assert desk.send("user:bob", msg_id="1")[0][::2] == (DUPLICATE, 2)


def test_addresses_of_every_kind(desk: LogsDesk) -> None:
    outcomes = desk.send("user:bob", "node:7", "room:r", "topic:a%2Fb", "device:bob/web", "all", msg_id="1")
    assert [one.code for one in outcomes] == [OK, UNKNOWN, OK, OK, OK, OK]
    assert outcomes[0] == outcomes[4]
    assert [address.kind for _, address in desk.rings.taken] == ["room", "all"]
    assert desk.send("node:7", msg_id="1") == (Outcome(UNKNOWN),)
    assert desk.send("node:7", "node:8", msg_id="1") == (Outcome(UNKNOWN),) * 2
    assert desk.send("room:r", msg_id="2")[0].seq == 3
    assert desk.ids("topic:a%2Fb") == ["1"]


def test_the_answer_waits_for_rings_too(desk: LogsDesk) -> None:
    desk.rings.held = []
    box = desk.publish("user:bob", "room:r", msg_id="1")
    desk.settle()
    desk.loop.spin(0.02)
    assert box == []
    desk.rings.held[0].callback(Outcome(0, 7, 9))
    assert [one.seq for one in box[0]] == [1, 9]


def test_a_ring_that_fails_is_logged(desk: LogsDesk, flush_logged_errors: Any) -> None:
    desk.rings.publish = lambda *args: fail(RuntimeError("ring"))  # type: ignore[method-assign]
    assert desk.publish("room:r", msg_id="1") == []
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_entries_for_one_device_or_all_but_one(desk: LogsDesk) -> None:
    desk.send("device:bob/w€b", msg_id="1")
    desk.send("user:carol", msg_id="2", sender="bob", device="phone", copy_self=True)
    entries = desk.read("user:bob").entries
    assert [(one.seq, one.only_device, one.except_device) for one in entries] == [
        (1, "w€b", ""),
        (2, "", "phone"),
    ]
    assert decode_message(entries[1].message).to == (parse_address("user:carol"),)


def test_several_primaries(make: Callable[..., LogsDesk], tmp_path: Path) -> None:
    second = RedisServer(tmp_path / "second")
    try:
        desk = make(second)
        users = [f"user:u{n}" for n in range(20)]
        outcomes = desk.send(*users, msg_id="1", body=BODY)
        assert [one.code for one in outcomes] == [OK] * 20
        assert len({one.epoch for one in outcomes}) == 2
        assert all(server.cli("DBSIZE") > 10 for server in desk.servers)
        second.freeze()
        boxes = {user: desk.publish(user, msg_id="2") for user in users}
        waiting = desk.publish(*users, msg_id="3")
        here = [user for user in users if desk.primaries.of(user[5:])[0] is desk.primary]
        desk.answered(*[boxes[user] for user in here])
        assert waiting == []
        assert [box for user, box in boxes.items() if user not in here] == [[]] * (20 - len(here))
        second.thaw()
        desk.answered(waiting, *boxes.values())
        assert all(desk.ids(user) == ["1", "2", "3"] for user in users)
        desk.settle()
    finally:
        second.thaw()
        for primary in desk.primaries.all():
            primary.stop()
        second.kill9()


def test_a_script_that_fails_leaves_its_messages_unanswered(desk: LogsDesk, flush_logged_errors: Any) -> None:
    call = desk.primary.call
    desk.primary.call = lambda script, *args: fail(RuntimeError("script"))  # type: ignore[method-assign]
    box = desk.publish("user:bob", msg_id="1")
    desk.logs.watch(log("user:bob"))
    desk.loop.spin(0.02)
    assert box == []
    desk.primary.call = call  # type: ignore[method-assign]
    assert desk.send("user:bob", msg_id="1")[0].code == OK
    counters = Counters()
    desk.logs.measure(counters)
    assert (counters.store_waiting, counters.store_waiting_bytes) == (0, 0)
    assert len(flush_logged_errors(RuntimeError)) == 2


def test_publishers_are_stopped_when_too_much_waits(
    make: Callable[..., LogsDesk], server: RedisServer
) -> None:
    desk = make(settings=BrokerSettings(waiting_entries=10))
    server.freeze()
    try:
        boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(9)]
        assert desk.listener.named("congested") == []
        boxes += [desk.publish("user:bob", msg_id=str(n)) for n in range(8, 12)]
        assert desk.listener.named("congested") == [(True,)]
    finally:
        server.thaw()
    desk.answered(*boxes)
    assert desk.listener.named("congested") == [(True,), (False,)]


def test_stop_waits_for_what_is_under_way(desk: LogsDesk) -> None:
    box = desk.publish("user:bob", msg_id="1")
    stopped = desk.logs.stop()
    assert desk.logs.stop() is stopped
    desk.run(stopped)
    assert box[0][0].code == OK


def test_stop_does_not_wait_for_a_primary_that_is_away(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    desk = LogsDesk(server).start()
    server.kill9()
    desk.loop.until(lambda: not desk.primary.is_up)
    box = desk.publish("user:bob", msg_id="1")
    desk.run(desk.logs.stop())
    assert box == []
    desk.stop()


# -------------------------------------------------------------------------------------------- shared messages


def test_a_large_message_to_many_is_stored_once(desk: LogsDesk, other: LogsDesk, server: RedisServer) -> None:
    users = [f"user:u{n}" for n in range(150)]
    for user in users[:3]:
        other.watch(user)
    heard: list[list[Any]] = []
    other.heard = lambda primary, item: (heard.append(item), other.logs.heard(primary, item))[1]
    desk.send("device:x/web", *users, "user:last", msg_id="1", body=BODY, ttl_s=60)
    other.settle()
    assert len(server.cli("KEYS", "ig:*:b:*")) == 1
    assert server.cli("MEMORY", "USAGE", key(desk, "u7", "l", "user:u7")) < 500
    for user in (*users[::30], "user:last", "user:x"):
        (entry,) = desk.read(user).entries
        assert decode_message(entry.message).body == BODY
    assert desk.read("user:x").entries[0].only_device == "web"
    for _, _, _, _, (entry,) in other.listener.named("arrived"):
        assert decode_message(entry.message).body == BODY
    assert len(other.listener.named("arrived")) == 3
    assert [item[1] for item in heard] == [b"", b"user:u0", b"user:u1", b"user:u2"]
    other.loop.spin(0.01)
    assert not other.logs._watches._shared


def test_small_messages_and_single_ones_are_stored_where_they_belong(
    desk: LogsDesk, server: RedisServer
) -> None:
    desk.send("user:bob", "user:carol", msg_id="1")
    desk.send("user:bob", msg_id="2", body=BODY)
    desk.send("user:bob", "room:r", msg_id="3", body=BODY)
    assert server.cli("KEYS", "ig:*:b:*") == []
    assert desk.ids("user:bob") == ["1", "2", "3"]


def test_a_message_that_is_gone_is_a_gap(desk: LogsDesk, server: RedisServer) -> None:
    desk.send("user:bob", "user:carol", msg_id="1", body=BODY)
    desk.send("user:bob", msg_id="2")
    server.cli("DEL", server.cli("KEYS", "ig:*:b:*")[0])
    batch = desk.read("user:bob")
    assert ([one.seq for one in batch.entries], batch.upto, batch.gap) == ([2], 2, True)


# -------------------------------------------------------------------------------------------------- retention


def test_a_full_log_refuses_what_comes(make: Callable[..., LogsDesk]) -> None:
    desk = make(retention=RetentionSettings(entries=8))
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(8)])
    assert desk.send("user:bob", "user:carol", msg_id="8") == (
        Outcome(FULL, desk.primary.epoch),
        Outcome(0, desk.primary.epoch, 1),
    )
    device(desk, "bob", "phone", 5, b"n.1")
    device(desk, "bob", "web", 3, b"n.1", seen_ms=1)  # online for long
    server_of(desk).cli("ZADD", "ig:nodes", desk.wall_ms + 60_000, "n.1")
    device(desk, "bob", "dead", 0, b"n.2", seen_ms=1)  # with its node
    device(desk, "bob", "old", 0, seen_ms=desk.wall_ms - 604_801_000)
    assert desk.send("user:bob", msg_id="8")[0][::2] == (OK, 9)
    batch = desk.read("user:bob")
    # An eighth of it went, and no more than every device has that was seen lately.
    assert ([one.seq for one in batch.entries], batch.gap) == (list(range(2, 10)), True)
    assert desk.read("user:bob", 1).gap is False
    for n in (10, 11):
        assert desk.send("user:bob", msg_id=str(n))[0][::2] == (OK, n)
    assert desk.send("user:bob", msg_id="12")[0].code == FULL
    assert desk.watch("user:bob") == Position(desk.primary.epoch, 4, 11)


def test_a_log_may_be_full_of_bytes(make: Callable[..., LogsDesk]) -> None:
    desk = make(retention=RetentionSettings(bytes=10_000))
    for n in range(2):
        assert desk.send("user:bob", "user:carol", msg_id=str(n), body=bytes(4_900))[0].code == OK
    assert desk.send("user:bob", msg_id="2", body=bytes(200))[0].code == FULL  # a shared message counts whole
    device(desk, "bob", "phone", 1)
    assert desk.send("user:bob", msg_id="2", body=bytes(200))[0].code == OK
    assert [one.seq for one in desk.read("user:bob").entries] == [2, 3]
    assert desk.send("user:bob", msg_id="3", body=bytes(20_000))[0].code == FULL


def test_a_full_topic_keeps_what_its_followers_need(
    make: Callable[..., LogsDesk], server: RedisServer
) -> None:
    desk = make(retention=RetentionSettings(entries=8))
    for text in ("topic:news", "service:orders"):
        desk.answered(*[desk.publish(text, msg_id=str(n)) for n in range(8)])
    # Of a topic nobody is owed anything; of a service somebody will be.
    assert desk.send("topic:news", "service:orders", msg_id="8")[0].code == OK
    assert desk.send("service:orders", msg_id="9")[0].code == FULL
    follower(desk, "topic:news", "bob\0phone", 2)
    assert desk.send("topic:news", msg_id="9")[0].code == OK
    assert desk.send("topic:news", msg_id="10")[0].code == FULL
    follower(desk, "topic:news", "bob\0phone", 5)
    # It is not looked through again for each message.
    assert desk.send("topic:news", msg_id="11")[0].code == FULL
    server.cli("DEL", key(desk, "topic:news", "v", "topic:news"))
    assert desk.send("topic:news", msg_id="12")[0].code == OK


def test_what_is_too_old_goes_with_a_gap(make: Callable[..., LogsDesk]) -> None:
    desk = make(retention=RetentionSettings(age_s=100))
    for n in range(40):
        desk.publish("user:bob", msg_id=str(n))
    desk.send("user:carol", msg_id="1")
    desk.pass_time(60)
    desk.send("user:bob", msg_id="40")
    desk.pass_time(50)
    assert desk.send("user:bob", msg_id="41")[0].seq == 42
    batch = desk.read("user:bob")
    assert ([one.seq for one in batch.entries], batch.upto, batch.gap) == ([41, 42], 42, True)
    assert desk.read("user:bob", 39).gap is True
    assert desk.read("user:bob", 40).gap is False
    desk.pass_time(10)  # a sweep looks after the others
    desk.settle()
    assert desk.watch("user:carol") == Position(desk.primary.epoch, 2, 1)
    assert desk.send("user:carol", msg_id="1")[0].code == DUPLICATE
    assert desk.send("user:carol", msg_id="2")[0].seq == 2
    assert desk.read("user:carol").gap is True


def test_what_is_too_old_goes_when_something_comes(
    make: Callable[..., LogsDesk], server: RedisServer
) -> None:
    desk = make(retention=RetentionSettings(age_s=100))
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(40)])
    desk.shift_ms += 102_000  # and no sweep
    assert desk.send("user:bob", msg_id="40")[0].seq == 41
    assert server.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 1
    desk.shift_ms += 102_000
    assert desk.send("user:bob", msg_id="40")[0].code == DUPLICATE
    assert server.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 0
    assert desk.watch("user:bob") == Position(desk.primary.epoch, 42, 41)


def test_a_turn_that_pushes_out_all_there_was(make: Callable[..., LogsDesk], server: RedisServer) -> None:
    desk = make(retention=RetentionSettings(entries=2))
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(2)])
    device(desk, "bob", "phone", 2)
    boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(2, 5)]
    desk.answered(*boxes)
    assert [box[0][0].code for box in boxes] == [OK, OK, FULL]
    assert desk.watch("user:bob")[1:] == (3, 4)
    assert [entry.seq for entry in desk.read("user:bob", 3).entries] == [4]
    assert server.cli("ZCARD", "ig:due") == 1


def test_sweeps_go_on_while_there_is_more(make: Callable[..., LogsDesk], server: RedisServer) -> None:
    desk = make(retention=RetentionSettings(age_s=100))
    desk.answered(*[desk.publish(f"user:u{n}", msg_id="1") for n in range(50)])
    assert server.cli("ZCARD", "ig:due") == 50
    desk.pass_time(105)
    desk.settle()
    desk.loop.until(lambda: server.cli("ZCARD", "ig:due") == 0)
    assert server.cli("KEYS", "ig:*:l:*") == []


def test_what_expires_by_itself_is_no_gap(make: Callable[..., LogsDesk], server: RedisServer) -> None:
    desk = make()
    for n in range(6):
        desk.send("user:bob", msg_id=str(n), ttl_s=10 if n in (0, 2, 3) else 0)
    desk.send("user:bob", msg_id="6", ttl_s=1000)
    desk.pass_time(11)
    batch = desk.read("user:bob")
    assert ([one.seq for one in batch.entries], batch.upto, batch.gap) == ([2, 5, 6, 7], 7, False)
    desk.settle()
    assert server.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 4
    for after, there in ((0, [2, 5, 6, 7]), (2, [5, 6, 7]), (3, [5, 6, 7]), (5, [6, 7]), (6, [7]), (7, [])):
        batch = desk.read("user:bob", after)
        assert ([one.seq for one in batch.entries], batch.gap) == (there, False)
    assert desk.watch("user:bob").first == 2
    desk.pass_time(1000)
    assert desk.send("user:bob", msg_id="7")[0].seq == 8
    assert server.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 4


def test_what_expires_early_is_looked_for_early(desk: LogsDesk, server: RedisServer) -> None:
    desk.send("user:bob", msg_id="1")
    desk.send("user:bob", msg_id="2", ttl_s=10)
    desk.pass_time(11)
    desk.settle()
    assert server.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 1
    assert desk.read("user:bob").upto == 2


def test_a_user_whose_id_is_escaped_has_devices_too(make: Callable[..., LogsDesk]) -> None:
    desk = make(retention=RetentionSettings(entries=1))
    assert desk.send("user:a%2Fb%25", msg_id="1")[0].code == OK
    assert desk.send("user:a%2Fb%25", msg_id="2")[0].code == FULL
    device(desk, "a/b%", "phone", 1)
    assert desk.send("user:a%2Fb%25", msg_id="2")[0].code == OK


def test_a_full_log_loses_what_expired_first(make: Callable[..., LogsDesk]) -> None:
    desk = make(retention=RetentionSettings(entries=4))
    for n in range(4):
        desk.send("user:bob", msg_id=str(n), ttl_s=10 if n == 2 else 1000 if n == 3 else 0)
    # Not looked for again within a minute.
    desk.pass_time(11)
    assert desk.send("user:bob", msg_id="4")[0].code == OK
    batch = desk.read("user:bob")
    assert ([one.seq for one in batch.entries], batch.gap) == ([1, 2, 4, 5], False)
    assert desk.send("user:bob", msg_id="5")[0].code == FULL
    desk.send("user:dan", msg_id="0")
    for n in range(1, 4):
        desk.send("user:dan", msg_id=str(n), ttl_s=(0, 20, 25, 40)[n])
    desk.pass_time(21)
    assert desk.send("user:dan", msg_id="4")[0].code == OK
    desk.pass_time(5)
    assert desk.send("user:dan", msg_id="5")[0].code == OK
    assert [one.seq for one in desk.read("user:dan").entries] == [1, 4, 5, 6]


# ------------------------------------------------------------------------------------------ watching, reading


def test_a_position_is_atomic_with_the_interest(desk: LogsDesk, other: LogsDesk) -> None:
    boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(300)]
    watch = other.later(other.logs.watch(log("user:bob")))
    boxes += [desk.publish("user:bob", msg_id=str(n)) for n in range(300, 600)]
    desk.answered(watch, *boxes)
    other.settle()
    at = watch[0].head
    for after, upto, ids in other.told("user:bob"):
        assert (after, ids) == (at, [str(n) for n in range(after, upto)])
        at = upto
    assert at == 600


def test_nothing_is_told_of_what_is_not_watched(desk: LogsDesk, other: LogsDesk, server: RedisServer) -> None:
    other.watch("user:bob")
    other.logs.unwatch(log("user:bob"))
    other.logs.unwatch(log("user:bob"))
    other.logs.unwatch(log("user:never"))
    other.settle()
    other.loop.spin(0.01)
    other.settle()
    assert server.cli("EXISTS", key(desk, "bob", "w", "user:bob")) == 0
    desk.send("user:bob", msg_id="1")
    other.settle()
    assert other.listener.events == []
    # And a hint on its way is of no interest.
    other.logs.heard(other.primary, hint("user:bob", 0, 1))


def hint(text: str, after: int, upto: int, watchers: int = 1, epoch: int = 5) -> list[Any]:
    entries = [
        pack_entry(Entry(seq, encode_message(Message(str(seq), "a", "p"))))
        for seq in range(after + 1, upto + 1)
    ]
    return [b"a", text.encode(), epoch, after, upto, watchers, entries]


def test_hints_before_the_answer_wait_for_it(desk: LogsDesk) -> None:
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(2)])
    box = desk.later(desk.logs.watch(log("user:bob")))
    desk.listener.events.clear()
    desk.logs.heard(desk.primary, hint("user:bob", 1, 2))
    desk.logs.heard(desk.primary, hint("user:bob", 2, 3))
    assert desk.listener.events == []
    desk.answered(box)
    assert box[0].head == 2
    assert desk.told("user:bob") == [(2, 3, ["3"])]


def test_hints_fit_together_or_the_log_moved(desk: LogsDesk) -> None:
    desk.watch("user:bob")
    heard = lambda *ends: desk.logs.heard(desk.primary, hint("user:bob", *ends))  # noqa: E731
    heard(0, 2)
    heard(0, 2)
    heard(1, 3)
    heard(5, 6)
    heard(4, 5)
    heard(6, 7)
    assert desk.told("user:bob") == [(0, 2, ["1", "2"]), (2, 3, ["3"]), (6,), (6, 7, ["7"])]


def test_hints_begin_behind_a_jump(desk: LogsDesk, other: LogsDesk, server: RedisServer) -> None:
    """Who stands right before it must not take what follows for the next."""
    desk.send("user:bob", msg_id="1")
    other.watch("user:bob")
    server.cli("HINCRBY", "ig:primary", "n", 1)
    seq = desk.send("user:bob", msg_id="2")[0].seq
    desk.send("user:bob", msg_id="3")
    other.settle()
    assert other.told("user:bob") == [(seq,), (seq, seq + 1, ["3"])]
    assert [
        (batch.gap, len(batch.entries)) for batch in map(partial(other.read, "user:bob"), (0, 1, seq))
    ] == [
        (True, 3),
        (True, 2),
        (False, 1),
    ]


def test_a_jump_is_told_after_all_before_it_expired(desk: LogsDesk, server: RedisServer) -> None:
    desk.send("user:bob", msg_id="1", ttl_s=10)
    server.cli("HINCRBY", "ig:primary", "n", 1)
    seq = desk.send("user:bob", msg_id="2")[0].seq
    desk.pass_time(11)
    desk.settle()
    assert desk.watch("user:bob").first == seq
    assert desk.send("user:bob", msg_id="3")[0].seq == seq + 1
    assert desk.read("user:bob").gap is True
    assert desk.read("user:bob", seq - 1).gap is False


def test_what_was_watched_meanwhile_is_answered_and_no_more(desk: LogsDesk, server: RedisServer) -> None:
    """A watch that was taken back before its answer leaves nothing behind."""
    desk.send("user:bob", msg_id="1")
    box = desk.later(desk.logs.watch(log("user:bob")))
    desk.logs.unwatch(log("user:bob"))
    desk.answered(box)
    assert box[0].head == 1
    desk.send("user:bob", msg_id="2")
    desk.settle()
    assert desk.listener.named("arrived", "moved") == []


def test_a_watch_of_what_is_watched_says_how_far_was_told(desk: LogsDesk) -> None:
    desk.watch("user:bob")
    desk.logs._watches._heads[b"user:bob"] = 3  # as a hint that came by another connection did
    assert desk.watch("user:bob").head == 3


def test_watch_unwatch_watch_in_one_turn(desk: LogsDesk, other: LogsDesk) -> None:
    desk.send("user:bob", msg_id="0")
    first = other.later(other.logs.watch(log("user:bob")))
    other.logs.unwatch(log("user:bob"))
    second = other.later(other.logs.watch(log("user:bob")))
    other.answered(first, second)
    assert first == second
    desk.send("user:bob", msg_id="1")
    other.settle()
    assert other.told("user:bob") == [(1, 2, ["1"])]


def test_a_node_that_is_gone_watches_nothing(make: Callable[..., LogsDesk], server: RedisServer) -> None:
    desk, other = make(), make()
    other.watch("user:bob")
    other.stop()
    desk.send("user:bob", msg_id="1")
    assert server.cli("EXISTS", key(desk, "bob", "w", "user:bob")) == 0
    assert [message.msg_id for _, message in desk.listener.named("unattended")] == ["1"]


def test_mail_that_nobody_sees_is_told_once(make: Callable[..., LogsDesk]) -> None:
    desk, other, third = make(), make(), make()
    where = log("user:bob")
    desk.send("user:bob", "topic:news", msg_id="1")
    other.watch("user:bob")
    desk.send("user:bob", msg_id="2")
    other.settle()
    other.listener.away.add(where)
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in (3, 4)])
    third.watch("user:bob")
    desk.send("user:bob", msg_id="5")
    told = []
    for one in (desk, other, third):
        one.settle()
        told.append([(log, message.msg_id) for log, message in one.listener.named("unattended")])
    # Of two that watch none knows; bob has no session, which the script sees.
    assert told == [[(where, "1"), (where, "5")], [(where, "3"), (where, "4")], []]


def test_a_read_ends_at_its_limits(desk: LogsDesk) -> None:
    desk.answered(*[desk.publish("user:bob", msg_id=str(n), body=bytes(1000)) for n in range(100)])
    batch = desk.read("user:bob", 2, 3)
    assert ([one.seq for one in batch.entries], batch.upto, batch.head) == ([3, 4, 5], 5, 100)
    assert [one.seq for one in desk.read("user:bob", 2, 0, 0).entries] == [3]
    assert desk.read("user:bob", 2, 100, 2500).upto == 5
    assert len(desk.read("user:bob", -4).entries) == 100
    assert desk.read("user:bob", 40, 60).upto == 100
    assert desk.read("user:bob", 200).upto == 200
    assert desk.read("user:nobody").entries == ()


def test_the_other_lane_of_a_durable_log_is_empty(desk: LogsDesk) -> None:
    desk.send("user:bob", msg_id="1")
    lane = LogKey(parse_address("user:bob"), 1)
    assert desk.run(desk.logs.read(lane, 0, 10, 100)).entries == ()
    assert desk.run(desk.logs.watch(lane)).head == 0
    assert log_named(b"user:bob\0001") == lane


def test_an_epoch_of_its_own(desk: LogsDesk, other: LogsDesk) -> None:
    before = desk.send("user:bob", msg_id="1")[0]
    other.watch("user:bob")
    position = desk.run(desk.logs.reset_log(log("user:bob")))
    assert position.epoch not in (0, before.epoch)
    assert position[1:] == (1, 1)
    other.settle()
    assert other.listener.named("moved") == [(log("user:bob"), position.epoch, 1)]
    assert desk.send("user:carol", "user:bob", msg_id="2") == (
        Outcome(OK, before.epoch, 1),
        Outcome(OK, position.epoch, 2),
    )
    assert desk.read("user:bob").epoch == position.epoch


def test_a_mailbox(desk: LogsDesk, server: RedisServer) -> None:
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(3)])
    server.cli("HSET", key(desk, "bob", "u", "bob"), "seen", 2)
    found = desk.run(desk.logs.mailbox("bob"))
    assert (found.epoch, found.first, found.head, found.seen) == (desk.primary.epoch, 1, 3, 2)
    assert desk.run(desk.logs.mailbox("nobody")).head == 0


# ------------------------------------------------------------------------------------------------------ qos 0


def test_qos_0_goes_to_every_node_that_watches(make: Callable[..., LogsDesk]) -> None:
    desk, other, third = make(), make(), make()
    for one in (desk, other):
        one.watch("user:bob")
    to = tuple(map(parse_address, ("user:bob", "device:bob/web", "topic:x", "room:r", "node:7")))
    desk.logs.emit(Publication(Message("1", "alice", "phone", expires_ms=99), to))
    assert [(where, entry.only_device) for where, entry in desk.listener.named("passed")] == [
        (to[0], ""),
        (to[1], "web"),
        (to[2], ""),
    ]
    assert desk.rings.taken == [("1", to[3])]
    desk.loop.spin(0.01)
    for one in (desk, other, third):
        one.settle()
    assert other.listener.named("passed") == desk.listener.named("passed")[:2]
    assert third.listener.events == []
    assert desk.ids("user:bob") == []


def test_qos_0_does_not_wait_for_redis(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    desk = LogsDesk(server).start()
    server.kill9()
    desk.loop.until(lambda: not desk.primary.is_up)
    desk.logs.emit(Publication(Message("1", "alice", "phone"), (parse_address("user:bob"),)))
    assert len(desk.listener.named("passed")) == 1
    assert desk.primary.unanswered == 0
    desk.stop()


def test_entries_are_packed_as_scripts_pack_them() -> None:
    entries = (
        Entry(1 << 40, b"message"),
        Entry(0, b"", "w€b", "", 5),
        Entry(7, b"\xff", "", "phone", 1 << 41),
    )
    assert unpack_entries([pack_entry(entry) for entry in entries]) == entries
