"""What durable logs on a real Redis keep: one copy of a message to many, and all for so long and so much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imgateway.brokers.redis import logs
from imgateway.config import RetentionSettings
from imgateway.frames import Outcome, OutcomeCode, Position
from imgateway.wire.messages import decode_message
from tests.brokers.redis_logs import LogsDesk, desk, device, follower, key, make, other, server_of
from tests.brokers.redis_server import Loop, RedisServer

pytestmark = pytest.mark.server
__all__ = ("desk", "make", "other")

OK, DUPLICATE, FULL = OutcomeCode.OK, OutcomeCode.DUPLICATE, OutcomeCode.FULL
BODY = bytes(n % 256 for n in range(5_000))


# -------------------------------------------------------------------------------------------- shared messages


def test_a_large_message_to_many_is_stored_once(desk: LogsDesk, other: LogsDesk, redis: RedisServer) -> None:
    users = [f"user:u{n}" for n in range(150)]
    for user in users[:3]:
        other.watch(user)
    heard: list[list[Any]] = []
    other.heard = lambda primary, item: (heard.append(item), other.logs.heard(primary, item))[1]
    desk.send("device:x/web", *users, "user:last", msg_id="1", body=BODY, ttl_s=60)
    other.settle()
    assert len(redis.cli("KEYS", "ig:*:b:*")) == 1
    assert redis.cli("MEMORY", "USAGE", key(desk, "u7", "l", "user:u7")) < 500
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
    desk: LogsDesk, redis: RedisServer
) -> None:
    desk.send("user:bob", "user:carol", msg_id="1")
    desk.send("user:bob", msg_id="2", body=BODY)
    desk.send("user:bob", "room:r", msg_id="3", body=BODY)
    assert redis.cli("KEYS", "ig:*:b:*") == []
    assert desk.ids("user:bob") == ["1", "2", "3"]


def test_a_message_that_is_gone_is_a_gap(desk: LogsDesk, redis: RedisServer) -> None:
    desk.send("user:bob", "user:carol", msg_id="1", body=BODY)
    desk.send("user:bob", msg_id="2")
    redis.cli("DEL", redis.cli("KEYS", "ig:*:b:*")[0])
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


def test_what_was_set_aside_is_unread_and_stays(make: Callable[..., LogsDesk]) -> None:
    desk = make(retention=RetentionSettings(entries=40))
    sent = {
        text: [desk.publish(text, msg_id=str(n)) for n in range(40)] for text in ("user:bob", "topic:news")
    }
    desk.answered(*sent["user:bob"], *sent["topic:news"])
    device(desk, "bob", "phone", 38, parked=b"1,3,5,35")
    device(desk, "bob", "old", 39, seen_ms=desk.wall_ms - 604_801_000, parked=b"2")
    follower(desk, "topic:news", "bob\0phone", 40, b"3")
    follower(desk, "topic:news", "eve\0phone", 40, b"1,39")
    # An eighth makes room for so many.
    for n in range(40, 45):
        assert [one.code for one in desk.send("user:bob", "topic:news", msg_id=str(n))] == [OK, OK]
    seqs = {text: [one.seq for one in desk.read(text).entries] for text in sent}
    assert seqs["user:bob"] == [1, 3, 5, *range(9, 46)], "the others make room"
    assert seqs["topic:news"] == [1, 3, *range(8, 46)]
    for text in sent:
        assert desk.watch(text).first == 1
        assert (desk.read(text, 10).gap, desk.read(text, 4).gap) == (False, True)
    for n in range(45, 100):
        desk.send("user:bob", msg_id=str(n))
    batch = desk.read("user:bob")
    assert [one.seq for one in batch.entries] == [1, 3, 5, 35, *range(39, 75)]
    assert desk.send("user:bob", msg_id="100")[0].code == FULL, "nobody has what came then"
    device(desk, "bob", "phone", 74)
    assert desk.send("user:bob", msg_id="101")[0].code == OK
    assert [one.seq for one in desk.read("user:bob", 0).entries] == list(range(40, 76))


def test_what_was_set_aside_goes_by_age(make: Callable[..., LogsDesk]) -> None:
    desk = make(retention=RetentionSettings(entries=8, age_s=100))
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(2)])
    desk.pass_time(60)
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(2, 8)])
    device(desk, "bob", "phone", 8, parked=b"1,2")
    assert [desk.send("user:bob", msg_id=str(n))[0].code for n in (8, 9)] == [OK, OK]
    assert [one.seq for one in desk.read("user:bob").entries] == [1, 2, *range(5, 11)]
    desk.pass_time(50)
    assert desk.send("user:bob", msg_id="10")[0].code == OK
    batch = desk.read("user:bob", 2)
    assert ([one.seq for one in batch.entries], batch.gap) == (list(range(5, 12)), True)
    assert desk.read("user:bob", 4).gap is False


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
    make: Callable[..., LogsDesk], redis: RedisServer
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
    redis.cli("DEL", key(desk, "topic:news", "v", "topic:news"))
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


def test_what_is_too_old_goes_when_something_comes(make: Callable[..., LogsDesk], redis: RedisServer) -> None:
    desk = make(retention=RetentionSettings(age_s=100))
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(40)])
    desk.shift_ms += 102_000  # and no sweep
    assert desk.send("user:bob", msg_id="40")[0].seq == 41
    assert redis.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 1
    desk.shift_ms += 102_000
    assert desk.send("user:bob", msg_id="40")[0].code == DUPLICATE
    assert redis.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 0
    assert desk.watch("user:bob") == Position(desk.primary.epoch, 42, 41)


def test_a_turn_that_pushes_out_all_there_was(make: Callable[..., LogsDesk], redis: RedisServer) -> None:
    desk = make(retention=RetentionSettings(entries=2))
    desk.answered(*[desk.publish("user:bob", msg_id=str(n)) for n in range(2)])
    device(desk, "bob", "phone", 2)
    boxes = [desk.publish("user:bob", msg_id=str(n)) for n in range(2, 5)]
    desk.answered(*boxes)
    assert [box[0][0].code for box in boxes] == [OK, OK, FULL]
    assert desk.watch("user:bob")[1:] == (3, 4)
    assert [entry.seq for entry in desk.read("user:bob", 3).entries] == [4]
    assert redis.cli("ZCARD", "ig:due") == 1


def test_sweeps_go_on_while_there_is_more(make: Callable[..., LogsDesk], redis: RedisServer) -> None:
    desk = make(retention=RetentionSettings(age_s=100))
    desk.answered(*[desk.publish(f"user:u{n}", msg_id="1") for n in range(50)])
    assert redis.cli("ZCARD", "ig:due") == 50
    desk.pass_time(105)
    desk.settle()
    desk.loop.until(lambda: redis.cli("ZCARD", "ig:due") == 0)
    assert redis.cli("KEYS", "ig:*:l:*") == []


@pytest.mark.parametrize("is_new", [False, True], ids=["", "with no script loaded"])
@pytest.mark.parametrize("left", [-400_000, 250_000], ids=["of nothing", "of what comes"])
def test_what_is_past_its_time_makes_room_where_memory_is_out(
    server: RedisServer, loop: Loop, left: int, is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for room waits behind itself on its line. `left`: greetings are refused, too, or are not."""
    monkeypatch.setattr(logs, "FREE_SWEEPS", 2)
    desk = LogsDesk(server, loop=loop).start()
    desk.answered(*[desk.publish(f"user:u{n}", msg_id="1", body=bytes(30_000)) for n in range(100)])
    server.cli("CLIENT", "KILL", "TYPE", "normal")  # with what it had in memory for them
    desk.settle()
    server.cli("CONFIG", "SET", "maxmemory", int(server.info("memory")["used_memory"]) + left)
    boxes = [desk.publish("user:bob", msg_id=str(n), body=bytes(50_000)) for n in range(10)]
    desk.loop.until(lambda: any("OOM" in why for _, why in desk.states))
    if is_new:  # as after a restart, or where a replica was promoted
        server.cli("SCRIPT", "FLUSH")
        server.cli("CLIENT", "KILL", "TYPE", "normal")
    desk.shift_ms += 8 * 86_400_000
    desk.answered(*boxes)
    assert [box[0][0] for box in boxes] == [Outcome(OK, desk.primary.epoch, n + 1) for n in range(10)]
    server.cli("CONFIG", "SET", "maxmemory", 0)
    desk.stop()


def test_what_expires_by_itself_is_no_gap(make: Callable[..., LogsDesk], redis: RedisServer) -> None:
    desk = make()
    for n in range(6):
        desk.send("user:bob", msg_id=str(n), ttl_s=10 if n in (0, 2, 3) else 0)
    desk.send("user:bob", msg_id="6", ttl_s=1000)
    desk.pass_time(11)
    batch = desk.read("user:bob")
    assert ([one.seq for one in batch.entries], batch.upto, batch.gap) == ([2, 5, 6, 7], 7, False)
    desk.settle()
    assert redis.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 4
    for after, there in ((0, [2, 5, 6, 7]), (2, [5, 6, 7]), (3, [5, 6, 7]), (5, [6, 7]), (6, [7]), (7, [])):
        batch = desk.read("user:bob", after)
        assert ([one.seq for one in batch.entries], batch.gap) == (there, False)
    assert desk.watch("user:bob").first == 2
    desk.pass_time(1000)
    assert desk.send("user:bob", msg_id="7")[0].seq == 8
    assert redis.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 4


def test_what_expires_early_is_looked_for_early(desk: LogsDesk, redis: RedisServer) -> None:
    desk.send("user:bob", msg_id="1")
    desk.send("user:bob", msg_id="2", ttl_s=10)
    desk.pass_time(11)
    desk.settle()
    assert redis.cli("LLEN", key(desk, "bob", "l", "user:bob")) == 1
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
