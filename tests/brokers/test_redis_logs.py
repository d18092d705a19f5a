"""Durable logs on a real Redis: what one script does, it does once and whole, whichever node asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from imgateway.brokers.redis.entries import pack_entry, unpack_entries
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.core.counters import Counters
from imgateway.frames import Entry, Message, Outcome, OutcomeCode, parse_address
from imgateway.interfaces import Publication
from imgateway.wire.messages import decode_message
from tests.brokers.redis_logs import LogsDesk, desk, device, key, log, make, other
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.server
__all__ = ("desk", "make", "other")

OK, DUPLICATE, FULL, UNKNOWN = OutcomeCode.OK, OutcomeCode.DUPLICATE, OutcomeCode.FULL, OutcomeCode.UNKNOWN
BODY = bytes(n % 256 for n in range(5_000))


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


# -------------------------------------------------------------------------------------------------- appending


def test_seqs_rise_in_the_order_of_calls(desk: LogsDesk) -> None:
    boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(250)]
    desk.answered(*boxes)
    assert [box[0][0].seq for box in boxes] == list(range(1, 251))
    assert desk.ids("user:bob") == [str(n) for n in range(250)]


def test_one_script_takes_what_a_turn_brought(desk: LogsDesk, redis: RedisServer) -> None:
    redis.cli("CONFIG", "RESETSTAT")
    desk.answered(*[desk.publish(f"user:u{n}", msg_id="1") for n in range(90)])
    assert redis.cli("INFO", "commandstats").decode().count("cmdstat_rpush:calls=90,")
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


def test_a_script_that_runs_again_changes_nothing(make: Callable[..., LogsDesk], redis: RedisServer) -> None:
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
    assert redis.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 3


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
    desk.pass_time(95)
    assert desk.send("user:bob", msg_id="1")[0].code == DUPLICATE
    desk.pass_time(6)
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
        assert all(redis.cli("DBSIZE") > 10 for redis in desk.servers)
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
    watched = desk.later(desk.logs.watch(log("user:bob")))
    desk.loop.spin(0.02)
    assert box == []
    assert watched[0].check(RuntimeError), "who asks to watch may ask again"
    desk.primary.call = call  # type: ignore[method-assign]
    assert desk.send("user:bob", msg_id="1")[0].code == OK
    counters = Counters()
    desk.logs.measure(counters)
    assert (counters.store_waiting, counters.store_waiting_bytes) == (0, 0)
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_publishers_are_stopped_when_too_much_waits(
    make: Callable[..., LogsDesk], redis: RedisServer
) -> None:
    desk = make(settings=BrokerSettings(waiting_entries=10))
    redis.freeze()
    try:
        boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(9)]
        assert desk.listener.named("congested") == []
        boxes += [desk.publish("user:bob", msg_id=str(n)) for n in range(8, 12)]
        assert desk.listener.named("congested") == [(True,)]
    finally:
        redis.thaw()
    desk.answered(*boxes)
    assert desk.listener.named("congested") == [(True,), (False,)]


def test_stop_waits_for_what_is_under_way(desk: LogsDesk) -> None:
    box = desk.publish("user:bob", msg_id="1")
    stopped = desk.logs.stop()
    assert desk.logs.stop() is stopped
    desk.run(stopped)
    assert box[0][0].code == OK


def test_stop_does_not_wait_for_a_primary_that_is_away(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    desk = LogsDesk(redis).start()
    redis.kill9()
    desk.loop.until(lambda: not desk.primary.is_up)
    box = desk.publish("user:bob", msg_id="1")
    desk.run(desk.logs.stop())
    assert box == []
    desk.stop()


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
    redis = RedisServer(tmp_path)
    desk = LogsDesk(redis).start()
    redis.kill9()
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
