"""Durable logs on a real Redis, watched and read: what arrives, what only moves, and where a read ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from imgateway.brokers.redis.entries import pack_entry
from imgateway.brokers.redis.watches import log_named
from imgateway.frames import Entry, LogKey, Message, Outcome, OutcomeCode, parse_address
from imgateway.wire.messages import encode_message
from tests.brokers.redis_logs import LogsDesk, desk, key, log, make, other
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.server
__all__ = ("desk", "make", "other")

OK = OutcomeCode.OK


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


def test_nothing_is_told_of_what_is_not_watched(desk: LogsDesk, other: LogsDesk, redis: RedisServer) -> None:
    other.watch("user:bob")
    other.logs.unwatch(log("user:bob"))
    other.logs.unwatch(log("user:bob"))
    other.logs.unwatch(log("user:never"))
    other.settle()
    other.loop.spin(0.01)
    other.settle()
    assert redis.cli("EXISTS", key(desk, "bob", "w", "user:bob")) == 0
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


def test_hints_begin_behind_a_jump(desk: LogsDesk, other: LogsDesk, redis: RedisServer) -> None:
    """Who stands right before it must not take what follows for the next."""
    desk.send("user:bob", msg_id="1")
    other.watch("user:bob")
    redis.cli("HINCRBY", "ig:primary", "n", 1)
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


def test_a_hole_far_behind_costs_a_reader_no_search(desk: LogsDesk, redis: RedisServer) -> None:
    """As where somebody set an old entry aside, and those behind it are gone."""
    for n in range(1, 61):
        desk.publish("user:bob", msg_id=str(n), ttl_s=10 if 1 < n <= 10 else 0)
    desk.settle()
    desk.pass_time(11)
    desk.settle()
    there = [1, *range(11, 61)]
    for after in range(61):
        redis.cli("CONFIG", "RESETSTAT")
        batch = desk.read("user:bob", after)
        assert [entry.seq for entry in batch.entries] == [seq for seq in there if seq > after]
        looks = redis.info("commandstats").get("cmdstat_lindex", "calls=0,").partition(",")[0]
        if after >= 10:
            assert looks == ("calls=1" if after < 60 else "calls=0")


def test_a_jump_is_told_after_all_before_it_expired(desk: LogsDesk, redis: RedisServer) -> None:
    desk.send("user:bob", msg_id="1", ttl_s=10)
    redis.cli("HINCRBY", "ig:primary", "n", 1)
    seq = desk.send("user:bob", msg_id="2")[0].seq
    desk.pass_time(11)
    desk.settle()
    assert desk.watch("user:bob").first == seq
    assert desk.send("user:bob", msg_id="3")[0].seq == seq + 1
    assert desk.read("user:bob").gap is True
    assert desk.read("user:bob", seq - 1).gap is False


def test_what_was_watched_meanwhile_is_answered_and_no_more(desk: LogsDesk, redis: RedisServer) -> None:
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


@pytest.mark.parametrize("text", ["user:bob", "topic:news"])
def test_a_watch_of_what_is_watched_says_what_was_not_told_yet(
    desk: LogsDesk, other: LogsDesk, text: str
) -> None:
    """Whoever asks may have been shown it at another node."""
    desk.watch(text)
    late: list[Any] = []
    desk.heard = lambda primary, item: late.append(item)
    other.send(text, msg_id="1")
    desk.settle()
    assert desk.watch(text).head == 1
    assert desk.told(text) == []
    for item in late:
        desk.logs.heard(desk.primary, item)
    assert desk.told(text) == [(0, 1, ["1"])]


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


def test_a_node_that_is_gone_watches_nothing(make: Callable[..., LogsDesk], redis: RedisServer) -> None:
    desk, other = make(), make()
    other.watch("user:bob")
    other.stop()
    desk.send("user:bob", msg_id="1")
    assert redis.cli("EXISTS", key(desk, "bob", "w", "user:bob")) == 0
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


def test_a_mailbox(desk: LogsDesk, redis: RedisServer) -> None:
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(3)])
    redis.cli("HSET", key(desk, "bob", "u", "bob"), "seen", 2)
    found = desk.run(desk.logs.mailbox("bob"))
    assert (found.epoch, found.first, found.head, found.seen) == (desk.primary.epoch, 1, 3, 2)
    assert desk.run(desk.logs.mailbox("nobody")).head == 0
