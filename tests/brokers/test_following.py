"""Positions in topics: on the disk before anybody is told, kept over crashes, and what they hold back."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from imgateway.brokers import sessions
from imgateway.config import RetentionSettings
from imgateway.frames import OutcomeCode, SessionKey, log_of, parse_address
from imgateway.interfaces import Followed
from imgateway.testing.disk import Killed, Rig, disk_error, opening

NEWS, ORDERS = log_of(parse_address("topic:news")), log_of(parse_address("service:orders"))
DAY_MS = 86_400_000
FULL, OK = OutcomeCode.FULL, OutcomeCode.OK


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    rig = Rig(tmp_path / "data", retention=RetentionSettings(entries=10, age_s=30 * 86_400), max_devices=2)
    rig.start()
    yield rig
    rig.stop()


class Device:
    """One that is logged in, and follows."""

    def __init__(self, rig: Rig, user: str, device: str = "phone") -> None:
        self.rig = rig
        self.key = SessionKey(user, device)
        self.opened = rig.now(opening(rig.broker, rig.claim(user, device)))

    def follow(self, begin: int = 0, log: Any = NEWS) -> Followed:
        return self.rig.now(self.rig.broker.follow(self.key, self.opened.generation, log, begin))

    def ack(self, upto: int, log: Any = NEWS) -> None:
        self.rig.broker.advance(self.key, self.opened.generation, [(log, upto)])

    def close(self, forget: bool = False) -> None:
        self.rig.now(self.rig.broker.close_session(self.key, self.opened.generation, forget))


def send(rig: Rig, n: Any, to: str = "topic:news", **more: Any) -> int:
    rig.wall_ms += 1_001  # a full log is looked through once a second
    box = rig.publish(to, msg_id=str(n), **more)
    rig.run()
    return int(box[0][0].code)


def fill(rig: Rig, to: str = "topic:news") -> None:
    assert [send(rig, n, to) for n in range(10)] == [OK] * 10


def first(rig: Rig, log: Any = NEWS) -> int:
    entries = rig.now(rig.broker.read(log, 0, 1000, 1 << 20)).entries
    return int(entries[0].seq)


# -------------------------------------------------------------------------------------------------- the disk


def test_a_place_survives_the_power(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", power=True).start()
    bob = Device(rig, "bob")
    box = rig.later(rig.broker.follow(bob.key, bob.opened.generation, NEWS, 0))
    rig.run()
    assert box == [Followed(False, 0)]
    rig.crash(power_loss=True)
    assert Device(rig, "bob").follow(5) == Followed(True, 0)
    rig.stop()


def test_what_was_acknowledged_survives_a_stop_and_a_flush(rig: Rig) -> None:
    bob = Device(rig, "bob")
    bob.follow()
    fill(rig)
    bob.ack(4)
    rig.pass_time(6)
    bob.ack(7)
    rig.crash()
    bob = Device(rig, "bob")
    assert bob.follow() == Followed(True, 4), "written behind: the rest may come twice"
    bob.ack(9)
    rig.now(rig.broker.stop())
    rig.new()
    rig.start()
    assert Device(rig, "bob").follow() == Followed(True, 9)


def test_only_what_moved_is_written(rig: Rig) -> None:
    bob = Device(rig, "bob")
    for log in (NEWS, ORDERS):
        bob.follow(0, log)
    send(rig, 1)
    rig.pass_time(6)
    assert rig.disk is not None
    bob.ack(1)
    moved = rig.broker._sessions._unsaved._moved
    assert moved == {bob.key: {NEWS}}
    rig.pass_time(6)
    assert moved == {}


def test_a_kill_at_any_moment_loses_no_place_that_was_told(tmp_path: Path) -> None:
    """Followed and published to, again and again, killed at every statement: who was told that it follows is
    there, at or before what it had acknowledged, and nothing after it is missing."""
    for call in range(1, 200):
        rig = Rig(tmp_path / str(call)).start()
        assert rig.disk is not None
        rig.disk.kill_at(rig.disk.calls + call)
        told: list[Followed] = []
        acked = 0
        taken: list[str] = []
        try:
            bob = Device(rig, "bob")
            for n in range(2):
                told.append(bob.follow(0))
                box = rig.publish("topic:news", msg_id=str(n))
                rig.run()
                if box:
                    taken.append(str(n))
                acked = n
                bob.ack(acked)
                rig.pass_time(6)
            rig.stop()
            break
        except Killed:
            pass
        rig.crash()
        bob = Device(rig, "bob")
        there = bob.follow(99)
        if told:
            assert there.known
            assert there.acked <= acked
            batch = rig.now(rig.broker.read(NEWS, there.acked, 100, 1 << 20))
            assert not batch.gap
            assert batch.head >= len(taken)
        rig.stop()
    else:
        raise AssertionError("it never came to its end")


def test_a_disk_that_fails_makes_it_wait(rig: Rig) -> None:
    assert rig.disk is not None
    bob = Device(rig, "bob")
    rig.disk.fail(disk_error(), lambda statement: statement.startswith("INSERT INTO cursor"), times=2)
    box = rig.later(rig.broker.follow(bob.key, bob.opened.generation, NEWS, 3))
    rig.run()
    assert box == []
    rig.pass_time(3)
    assert box == [Followed(False, 3)]


@pytest.mark.parametrize("when", ["before", "while it is forgotten"])
def test_one_that_is_forgotten_as_it_comes_back_follows_all_the_same(rig: Rig, when: str) -> None:
    """Two devices may be remembered: a third makes the longest unseen one go, which is just coming back."""
    key = SessionKey("bob", "old")
    fill(rig)
    old = Device(rig, "bob", "old")
    if when == "before":
        old.follow(3)
    old.close()
    Device(rig, "bob", "web").close()
    new = rig.later(opening(rig.broker, rig.claim("bob", "new")))
    rig.steps.lanes["reader"].step()
    rig.steps.report()  # it is being entered, and the old one will be forgotten for it
    back = rig.later(opening(rig.broker, rig.claim("bob", "old")))
    rig.steps.lanes["reader"].step()
    rig.steps.lanes["writer"].step()
    rig.steps.report()
    assert back
    assert rig.steps.results, "that it was forgotten is not reported yet"
    followed = rig.later(rig.broker.follow(key, back[0].generation, NEWS, 3))
    rig.run()
    assert new
    assert followed == [Followed(when == "before", 3)]
    rig.pass_time(6)
    rig.crash()
    assert Device(rig, "bob", "old").follow() == Followed(True, 3)


def test_who_is_replaced_while_it_asks_stands_there_all_the_same(rig: Rig) -> None:
    bob = Device(rig, "bob")
    box = rig.later(rig.broker.follow(bob.key, bob.opened.generation, NEWS, 3))
    again = Device(rig, "bob")
    assert box == [Followed(False, 3)]
    assert NEWS not in rig.broker._sessions._following
    assert again.follow() == Followed(True, 3)
    assert NEWS in rig.broker._sessions._following
    again.close()
    assert NEWS not in rig.broker._sessions._following


def test_orders_of_events_agree(tmp_path: Path) -> None:
    """Logins, subscriptions, departures and acknowledgements in drawn orders of the lanes: what a device is
    told of its place is what it acknowledged, or where it began."""
    for seed in range(40):
        random = Random(seed)
        rig = Rig(tmp_path / str(seed)).start()
        for n in range(9):
            rig.publish("topic:news", msg_id=str(n))
        rig.run()
        acked: int | None = None
        device = Device(rig, "bob")
        for _ in range(12):
            act = random.choice(("follow", "follow", "ack", "unfollow", "login", "crash", "flush"))
            if act == "follow":
                begin = random.randrange(9)
                box = rig.later(rig.broker.follow(device.key, device.opened.generation, NEWS, begin))
                rig.run(random)
                assert box == [Followed(acked is not None, begin if acked is None else acked)]
                acked = box[0].acked
            elif act == "ack" and acked is not None:
                acked = min(acked + 1, 9)
                device.ack(acked)
            elif act == "unfollow":
                done = rig.later(rig.broker.unfollow(device.key, device.opened.generation, NEWS))
                if random.random() < 0.5:
                    device = Device(rig, "bob")
                rig.run(random)
                assert done == [None]
                acked = None
            elif act == "login":
                if random.random() < 0.5:
                    device.close()
                device = Device(rig, "bob")
            else:
                rig.pass_time(6)
                if act == "crash":
                    rig.crash()
                    device = Device(rig, "bob")
        rig.stop()


# ---------------------------------------------------------------------------------------------- what is kept


def test_a_topic_makes_room_when_all_who_follow_have_it(rig: Rig) -> None:
    bob, eve = Device(rig, "bob"), Device(rig, "eve")
    bob.follow()
    eve.follow()
    fill(rig)
    bob.ack(8)
    assert send(rig, 10) == FULL
    eve.ack(3)
    # The positions are a moment old and not on disk: they count.
    assert [send(rig, n) for n in range(10, 14)] == [OK] * 3 + [FULL]
    assert first(rig) == 4
    rig.crash()
    # What they allowed to go is not told as a gap.
    assert [Device(rig, user).follow().acked for user in ("bob", "eve")] == [8, 3]
    assert not rig.now(rig.broker.read(NEWS, 3, 1, 1)).gap


def test_what_a_follower_set_aside_stays_and_the_others_make_room(rig: Rig) -> None:
    bob, eve = Device(rig, "bob"), Device(rig, "eve")
    bob.follow()
    eve.follow()
    fill(rig)
    rig.broker.advance(bob.key, bob.opened.generation, [(NEWS, 10)], [(NEWS, 1)])
    eve.ack(10)
    assert [send(rig, n) for n in range(10, 13)] == [OK] * 3
    entries = rig.now(rig.broker.read(NEWS, 0, 1000, 1 << 20)).entries
    assert [one.seq for one in entries] == [1, *range(5, 14)]
    rig.crash()
    assert Device(rig, "bob").follow() == Followed(True, 10, (1,))


def test_who_does_not_follow_any_more_holds_nothing_back(rig: Rig) -> None:
    bob, eve = Device(rig, "bob"), Device(rig, "eve")
    bob.follow()
    eve.follow()
    fill(rig)
    bob.ack(10)
    assert send(rig, 10) == FULL
    rig.now(rig.broker.unfollow(eve.key, eve.opened.generation, NEWS))
    assert send(rig, 10) == OK


def test_who_is_away_holds_it_back_for_a_week(rig: Rig) -> None:
    bob, eve = Device(rig, "bob"), Device(rig, "eve")
    bob.follow()
    eve.follow()
    eve.close()
    fill(rig)
    bob.ack(10)
    assert send(rig, 10) == FULL
    rig.wall_ms += 8 * DAY_MS
    bob.ack(10)
    assert send(rig, 10) == OK
    there = Device(rig, "eve").follow()
    assert there == Followed(True, 0)
    assert rig.now(rig.broker.read(NEWS, 0, 100, 1 << 20)).gap, "and is told so"


def test_who_is_here_counts_however_long_ago_it_came(rig: Rig) -> None:
    bob = Device(rig, "bob")
    bob.follow()
    rig.wall_ms += 8 * DAY_MS
    fill(rig)
    assert send(rig, 10) == FULL


def test_who_only_logs_in_holds_back_what_it_once_followed_until_it_says_that_it_does_not(rig: Rig) -> None:
    """As after a restored backup, which lacks that it has unsubscribed."""
    Device(rig, "eve").follow()
    fill(rig)
    for _ in range(4):
        eve = Device(rig, "eve")
        eve.close()
        rig.wall_ms += 3 * DAY_MS
    assert send(rig, 10) == FULL
    eve = Device(rig, "eve")
    rig.now(rig.broker.unfollow(eve.key, eve.opened.generation, NEWS))
    assert send(rig, 10) == OK


def test_a_topic_that_nobody_follows_loses_its_oldest(rig: Rig) -> None:
    fill(rig)
    assert send(rig, 10) == OK
    eve = Device(rig, "eve")
    eve.follow(11)
    eve.close()
    rig.wall_ms += 8 * DAY_MS
    assert [send(rig, n) for n in range(11, 30)] == [OK] * 19
    assert first(rig) == 21


def test_a_services_log_waits_for_its_service(rig: Rig) -> None:
    fill(rig, "service:orders")
    assert send(rig, 10, "service:orders") == FULL
    sink = Device(rig, "sink")
    sink.follow(0, ORDERS)
    sink.ack(5, ORDERS)
    assert send(rig, 10, "service:orders") == OK


def test_a_full_topic_is_looked_through_once_a_second(rig: Rig) -> None:
    bob = Device(rig, "bob")
    bob.follow()
    fill(rig)
    assert send(rig, 10) == FULL
    assert rig.disk is not None
    rig.disk.statements.clear()
    assert rig.publish("topic:news", msg_id="11") == []
    rig.run()
    assert not [one for one in rig.disk.statements if "cursor" in one]
    bob.ack(10)
    assert send(rig, 12) == OK


def test_logs_that_were_looked_through_are_forgotten_in_time(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr("imgateway.brokers.retention.MAX_IN_VAIN", 1)
    bob = Device(rig, "bob")
    bob.follow()
    bob.follow(0, ORDERS)
    fill(rig)
    fill(rig, "service:orders")
    for n in range(3):
        assert send(rig, f"x{n}") == send(rig, f"x{n}", "service:orders") == FULL
    assert len(rig.broker._store._retention._in_vain) == 1


def test_a_device_is_known_in_so_many_logs_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who follows others after each login would fill memory and disk."""
    monkeypatch.setattr(sessions, "MAX_FOLLOWED", 3)
    logs = [log_of(parse_address(f"topic:{n}")) for n in range(8)]
    for log in logs[:6]:
        bob = Device(rig, "bob")
        assert bob.follow(5, log) == Followed(False, 5)
        bob.ack(7, log)
        bob.close()
    rig.crash()
    bob = Device(rig, "bob")
    assert len(bob.opened.places) == 1 + 3
    assert bob.follow(0, logs[5]) == Followed(True, 7)
    assert bob.follow(0, logs[0]) == Followed(False, 0), "it begins anew"
    for log in logs[1:5]:
        bob.follow(0, log)
    rig.run()
    rig.crash()
    bob = Device(rig, "bob")
    known = {place.log for place in bob.opened.places[1:]}
    assert known == {logs[5], *logs[:5]}, "what it follows just now is never forgotten"


def test_who_follows_again_while_it_is_being_forgotten_is_known_after_a_crash(rig: Rig) -> None:
    """What memory says just then is about to be wrong."""
    one = Device(rig, "bob")
    rig.broker.follow(one.key, one.opened.generation, NEWS, 0)
    rig.steps.choices()[0]()  # it is written, and not reported yet
    two = rig.later(opening(rig.broker, rig.claim("bob")))
    gone = rig.later(rig.broker.unfollow(one.key, two[0].generation, NEWS))
    rig.steps.report()
    three = rig.later(opening(rig.broker, rig.claim("bob")))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    again = rig.later(rig.broker.follow(one.key, three[0].generation, NEWS, 0))
    rig.run()
    assert gone == [None]
    assert again == [Followed(False, 0)]
    rig.crash()
    assert Device(rig, "bob").follow(7) == Followed(True, 0)
