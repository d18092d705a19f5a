"""What a log loses, what of it is told, and what is refused."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from imgateway.brokers import sessions, store
from imgateway.brokers.cursors import Saved, save
from imgateway.brokers.schema import MEMORY, Database
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.frames import OutcomeCode, SessionKey, Start, log_of, parse_address
from imgateway.testing.disk import Rig, disk_error, opening
from imgateway.wire.messages import decode_message

BOB = SessionKey("bob", "phone")
MAILBOX = log_of(parse_address("user:bob"))


def read(rig: Rig, after: int = 0, address: str = "user:bob") -> Any:
    return rig.now(rig.broker.read(log_of(parse_address(address)), after, 1000, 1 << 20))


def seqs(rig: Rig, after: int = 0) -> list[int]:
    return [entry.seq for entry in read(rig, after).entries]


def send(rig: Rig, msg_id: Any, *to: str, **more: Any) -> Any:
    box = rig.publish(*(to or ("user:bob",)), msg_id=str(msg_id), **more)
    rig.run()
    return box[0][0]


def rows(rig: Rig, question: str) -> list[Any]:
    assert rig.path is not None
    connection = sqlite3.connect(rig.path / "messages.sqlite3")
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    rig = Rig(tmp_path / "data", retention=RetentionSettings(entries=10, bytes=100_000, age_s=3600)).start()
    yield rig
    rig.stop()


def opened(rig: Rig, device: str = "phone", **more: Any) -> Any:
    return rig.now(opening(rig.broker, rig.claim("bob", device, **more)))


def test_unread_mail_is_never_dropped(rig: Rig) -> None:
    opened(rig)
    assert [send(rig, n).code for n in range(12)] == [OutcomeCode.OK] * 10 + [OutcomeCode.FULL] * 2
    assert seqs(rig) == list(range(1, 11))
    assert send(rig, 0).code == OutcomeCode.DUPLICATE
    assert send(rig, "x", "user:carol").code == OutcomeCode.OK


@pytest.mark.parametrize("ttl_s", [0, 60])
def test_a_log_without_numbers_takes_nothing_and_costs_others_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any, ttl_s: int
) -> None:
    """Beyond them its entries would stand where another log's do."""
    monkeypatch.setattr(store, "LAST_SEQ", 5)
    assert [send(rig, n, "service:uplink", ttl_s=ttl_s).seq for n in range(4)] == [1, 2, 3, 4]
    boxes = [rig.publish("service:uplink", "user:eve", msg_id=f"more {n}", ttl_s=ttl_s) for n in range(2)]
    rig.run()
    # What one commit brings to a log has its place there together, or is refused together.
    assert [[one.code for one in box[0]] for box in boxes] == [[OutcomeCode.FULL, OutcomeCode.OK]] * 2
    assert send(rig, "last", "service:uplink", ttl_s=ttl_s) == (OutcomeCode.OK, read(rig).epoch, 5)
    assert send(rig, "beyond", "service:uplink", ttl_s=ttl_s).code == OutcomeCode.FULL
    assert send(rig, "last", "service:uplink", ttl_s=ttl_s).code == OutcomeCode.DUPLICATE
    assert send(rig, "another", "user:eve").seq == 3
    assert len(flush_logged_errors("service:uplink has no numbers left")) == 1, "it is said once"
    rig.crash()
    assert [entry.seq for entry in read(rig, 0, "service:uplink").entries] == [1, 2, 3, 4, 5]
    assert [entry.seq for entry in read(rig, 0, "user:eve").entries] == [1, 2, 3]


def test_full_is_final_but_a_later_try_is_new(rig: Rig) -> None:
    generation = opened(rig).generation
    for n in range(11):
        send(rig, n)
    rig.broker.advance(BOB, generation, [(MAILBOX, 10)])
    assert send(rig, 10) == (OutcomeCode.OK, read(rig).epoch, 11)


def test_over_quota_what_all_devices_have_goes_first(rig: Rig) -> None:
    phone, _ = opened(rig), opened(rig, "web", start=Start.OLDEST)
    for n in range(10):
        send(rig, n)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 8)])
    assert send(rig, 10).code == OutcomeCode.FULL
    web = opened(rig, "web")
    rig.broker.advance(SessionKey("bob", "web"), web.generation, [(MAILBOX, 3)])
    # The positions are a moment old and not on disk: they count.
    assert [send(rig, n).code for n in range(10, 14)] == [OutcomeCode.OK] * 3 + [OutcomeCode.FULL]
    assert seqs(rig)[0] == 4
    # What they allowed to go is not told as a gap after a crash.
    rig.crash()
    assert [place.acked for device in ("phone", "web") for place in opened(rig, device).places] == [8, 3]
    assert read(rig, 3).gap is False
    assert read(rig, 2).gap is True
    assert opened(rig, "pad").places[0].acked == 8


def test_who_started_at_the_head_lets_mail_go_that_nobody_has(rig: Rig) -> None:
    for n in range(10):
        send(rig, n)
    opened(rig, start=Start.HEAD)
    assert send(rig, 10).code == OutcomeCode.OK
    assert seqs(rig)[0] > 1
    rig.crash()
    assert opened(rig, "web").places[0].acked == 0
    assert read(rig, 0).gap is True


def test_a_device_long_unseen_holds_nothing_back(rig: Rig) -> None:
    away = opened(rig, "away")
    rig.now(rig.broker.close_session(SessionKey("bob", "away"), away.generation))
    rig.wall_ms += 8 * 86_400_000
    phone = opened(rig)
    for n in range(10):
        send(rig, n)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)])
    assert send(rig, 10).code == OutcomeCode.OK


def test_whoever_is_online_was_seen_lately_even_if_the_node_is_killed(rig: Rig) -> None:
    opened(rig)
    rig.wall_ms += 8 * 86_400_000
    rig.pass_time(10)
    rig.crash()
    web = opened(rig, "web")
    for n in range(10):
        send(rig, n)
    rig.broker.advance(SessionKey("bob", "web"), web.generation, [(MAILBOX, 10)])
    assert send(rig, 10).code == OutcomeCode.FULL, "the phone has had nothing of it"
    assert opened(rig).places[0].acked == 0
    assert seqs(rig) == list(range(1, 11))


@pytest.mark.parametrize("is_written", [False, True])
def test_what_was_set_aside_is_unread_and_stays(rig: Rig, is_written: bool) -> None:
    phone = opened(rig)
    for n in range(10):
        send(rig, n)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)], [(MAILBOX, 1), (MAILBOX, 3)])
    if is_written:
        rig.now(rig.broker.close_session(BOB, phone.generation))
    assert [send(rig, n).code for n in range(10, 14)] == [OutcomeCode.OK] * 4
    assert seqs(rig) == [1, 3, *range(7, 15)], "the others make room"
    rig.crash()
    place = opened(rig).places[0]
    assert (place.acked, place.parked, place.first) == (10, (1, 3), 1)
    assert read(rig, 10).gap is False
    rig.broker.unpark(BOB, opened(rig).generation, MAILBOX, 1)
    again = opened(rig)
    rig.broker.advance(BOB, again.generation, [(MAILBOX, 14)])
    assert [send(rig, n).code for n in range(14, 17)] == [OutcomeCode.OK] * 3
    assert seqs(rig) == [3, *range(9, 18)]


def test_what_is_set_aside_is_known_before_the_position_passes_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's thread may ask at any moment."""
    phone = opened(rig)
    send(rig, 0)
    asked: list[Any] = []

    def with_parked(owed: tuple[int, ...], seq: int) -> tuple[int, ...]:
        asked.append(rig.broker._sessions.positions(MAILBOX))
        return (*owed, seq)

    monkeypatch.setattr(sessions, "with_parked", with_parked)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 1)], [(MAILBOX, 1)])
    asked.append(rig.broker._sessions.positions(MAILBOX))
    assert asked == [([("bob", "phone", 0, ())], 0), ([("bob", "phone", 1, (1,))], 1)]


@pytest.mark.parametrize("address", ["user:bob", "topic:news"])
def test_what_was_on_its_way_to_the_disk_forgets_nothing_that_was_set_aside_since(
    rig: Rig, address: str
) -> None:
    """Who makes room writes down where everybody stands now, and an older place comes behind that in the
    same commit."""
    log = log_of(parse_address(address))
    phone = opened(rig)
    rig.now(rig.broker.follow(BOB, phone.generation, log_of(parse_address("topic:news")), 0))
    for n in range(10):
        send(rig, n, address)
    rig.broker.advance(BOB, phone.generation, [(log, 3)])
    rig.clock.advance(5.0)
    rig.broker.advance(BOB, phone.generation, [(log, 6)], [(log, 5)])
    assert send(rig, 10, address).code == OutcomeCode.OK
    rig.crash()
    (place,) = [one for one in opened(rig).places if one.log == log]
    assert (place.acked, place.parked) == (6, (5,))


@pytest.mark.parametrize("address", ["user:bob", "topic:news"])
def test_what_was_on_its_way_to_the_disk_sets_nothing_aside_again_that_was_taken_since(
    rig: Rig, address: str
) -> None:
    log = log_of(parse_address(address))
    phone = opened(rig)
    rig.now(rig.broker.follow(BOB, phone.generation, log_of(parse_address("topic:news")), 0))
    for n in range(10):
        send(rig, n, address)
    rig.broker.advance(BOB, phone.generation, [(log, 6)], [(log, 4), (log, 5)])
    rig.clock.advance(5.0)
    rig.broker.unpark(BOB, phone.generation, log, 5)
    assert send(rig, 10, address).code == OutcomeCode.OK
    rig.crash()
    (place,) = [one for one in opened(rig).places if one.log == log]
    assert (place.acked, place.parked) == (6, (4,))


@pytest.mark.parametrize(
    ("there", "said", "then"),
    [
        ((6, (4, 5)), (5, (4,)), (6, (4, 5))),
        ((6, (4, 5)), (6, ()), (6, ())),
        ((6, (4, 5)), (6, (3, 4)), (6, (4,))),
        ((6, ()), (6, (4,)), (6, ())),
        ((6, ()), (6, (7,)), (6, (7,))),
        ((6, (4,)), (7, (4, 7)), (7, (4, 7))),
    ],
)
def test_the_newer_of_two_places_stays(
    there: tuple[int, tuple[int, ...]], said: tuple[int, tuple[int, ...]], then: Any
) -> None:
    """At the same position that is the one with less set aside up to there."""
    database = Database(MEMORY)
    writer = database.open()
    database.prepare(writer)
    writer.execute("INSERT INTO device (user, device, platform, seen_ms) VALUES ('bob', 'phone', '', 0)")
    writer.execute("INSERT INTO log (address, lane, epoch) VALUES ('user:bob', 0, 1)")
    for acked, parked in (there, said):
        save(writer, [Saved(BOB, "", 0, ((MAILBOX, acked, parked),), 0)])
    [(acked, parked)] = writer.execute("SELECT acked, parked FROM cursor").fetchall()
    assert (acked, tuple(json.loads(parked))) == then
    database.close()


def test_what_a_device_set_aside_that_is_long_unseen_goes_like_the_rest(rig: Rig) -> None:
    away = opened(rig, "away")
    send(rig, 0)
    rig.broker.advance(SessionKey("bob", "away"), away.generation, [(MAILBOX, 1)], [(MAILBOX, 1)])
    rig.now(rig.broker.close_session(SessionKey("bob", "away"), away.generation))
    rig.wall_ms += 8 * 86_400_000
    phone = opened(rig)
    for n in range(1, 10):
        send(rig, n)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)])
    assert send(rig, 10).code == OutcomeCode.OK
    assert seqs(rig)[0] == 2


def test_a_log_of_what_was_set_aside_is_full(rig: Rig) -> None:
    phone = opened(rig)
    for n in range(10):
        send(rig, n)
    aside = [(MAILBOX, seq) for seq in range(1, 11)]
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)], aside)
    assert send(rig, 10).code == OutcomeCode.FULL


def test_a_copy_that_the_senders_own_log_has_no_room_for_is_left_out(rig: Rig) -> None:
    """It has no outcome of its own, unless one of the sender's devices is named."""
    for n in range(10):
        send(rig, n, "user:alice")
    box = rig.publish("user:bob", msg_id="x", copy_self=True)
    rig.run()
    assert [outcome.code for outcome in box[0]] == [OutcomeCode.OK]
    box = rig.publish("user:bob", "device:alice/web", msg_id="y", copy_self=True)
    rig.run()
    assert [outcome.code for outcome in box[0]] == [OutcomeCode.OK, OutcomeCode.FULL]
    assert (len(read(rig, 0, "user:bob").entries), len(read(rig, 0, "user:alice").entries)) == (2, 10)


def test_quota_of_bytes(rig: Rig) -> None:
    phone = opened(rig)
    assert [send(rig, n, body=bytes(40_000)).code for n in range(3)] == [0, 0, OutcomeCode.FULL]
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 2)])
    assert send(rig, 3, body=bytes(40_000)).seq == 3
    assert send(rig, 4, body=bytes(200_000)).code == OutcomeCode.FULL


def test_expired_entries_make_room_without_a_gap(rig: Rig) -> None:
    opened(rig)
    for n in range(10):
        send(rig, n, ttl_s=60 if n < 5 else 0)
    rig.wall_ms += 61_000
    assert send(rig, 10).code == OutcomeCode.OK
    assert (seqs(rig), read(rig).gap) == ([6, 7, 8, 9, 10, 11], False)


def test_what_little_expired_does_not_make_a_log_full(rig: Rig) -> None:
    """Expired entries go first; if that is not enough, what every device has goes too."""
    phone = opened(rig)
    send(rig, "short", ttl_s=60)
    for n in range(2):
        send(rig, n, body=bytes(40_000))
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 3)])
    rig.wall_ms += 61_000
    assert send(rig, 2, body=bytes(40_000)).code == OutcomeCode.OK


def test_small_entries_make_room_for_a_large_one(rig: Rig) -> None:
    phone = opened(rig)
    for n in range(4):
        send(rig, f"small {n}")
    for n in range(2):
        send(rig, n, body=bytes(45_000))
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 6)])
    assert send(rig, 2, body=bytes(45_000)).code == OutcomeCode.OK


def test_a_full_log_costs_nobody_a_sync(rig: Rig) -> None:
    """Whoever writes to a mailbox that is full is refused without a commit, which others would wait for."""
    opened(rig)
    for n in range(10):
        send(rig, n)
    assert rig.disk is not None
    send(rig, 10)  # what is in the journal is merged, once, to see whether something may go
    before = len(rig.disk.statements)
    assert [send(rig, n).code for n in range(10, 15)] == [OutcomeCode.FULL] * 5
    assert "COMMIT" not in rig.disk.statements[before:]
    assert not [one for one in rig.disk.statements[before:] if one.lstrip().startswith("INSERT INTO entry")]
    assert not [one for one in rig.disk.statements[before:] if "INTO journal" in one]


def test_room_that_a_failed_commit_made_is_remembered(rig: Rig) -> None:
    phone = opened(rig)
    for n in range(10):
        send(rig, n)
    assert rig.now(rig.broker.watch(MAILBOX)).first == 1
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)])
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda one: "INTO journal" in one, times=1)
    box = rig.publish("user:bob", msg_id="10")
    rig.run()
    assert not box
    rig.pass_time(1)
    assert box[0][0].code == OutcomeCode.OK
    assert rig.now(rig.broker.watch(MAILBOX)).first == seqs(rig)[0] > 1


def test_digests_outlive_what_was_dropped(rig: Rig) -> None:
    phone = opened(rig)
    for n in range(10):
        send(rig, n)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)])
    send(rig, 10)
    assert seqs(rig)[0] > 1
    assert send(rig, 0)[::2] == (OutcomeCode.DUPLICATE, 1)
    rig.crash()
    assert send(rig, 0)[::2] == (OutcomeCode.DUPLICATE, 1)


def test_age(rig: Rig) -> None:
    for n in range(3):
        send(rig, n)
    send(rig, "c", "user:carol")
    rig.wall_ms += 1_800_000
    send(rig, 3)
    rig.pass_time(5)
    assert len(seqs(rig)) == 4
    rig.wall_ms += 1_800_000
    rig.pass_time(3)
    batch = read(rig)
    assert ([entry.seq for entry in batch.entries], batch.gap, batch.upto) == ([4], True, 4)
    assert read(rig, 3).gap is False
    assert read(rig, address="user:carol").gap is True
    assert send(rig, 4).seq == 5
    rig.wall_ms += 7_200_000
    rig.pass_time(3)
    assert seqs(rig) == []
    rig.crash()
    # An empty log goes on where it was.
    assert send(rig, 5).seq == 6
    place = opened(rig).places[0]
    assert (place.first, place.head) == (6, 6)


def test_no_seq_is_given_twice_whatever_goes_first(rig: Rig) -> None:
    """A later entry expires, then an earlier one is too old: a log has got as far as the later one."""
    assert [send(rig, n, ttl_s=60 * n).seq for n in range(2)] == [1, 2]
    rig.pass_time(61)
    assert seqs(rig) == [1]
    rig.wall_ms += 3_600_000
    rig.pass_time(3)
    assert seqs(rig) == []
    rig.crash()
    assert send(rig, 2).seq == 3


def test_age_of_many_entries_goes_in_steps(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", retention=RetentionSettings(age_s=3600)).start()
    for n in range(700):
        rig.publish("user:bob", msg_id=str(n))
    for n in range(900):
        rig.publish("user:carol", msg_id=str(n))
    send(rig, "d", "user:dave")
    rig.wall_ms += 3_601_000
    send(rig, 1000)
    rig.pass_time(4)
    assert seqs(rig) == [701]
    assert rows(rig, "SELECT count(*) FROM entry WHERE key > 0") == [(1,)]
    rig.stop()


def test_digests_do_not_stay_for_ever(tmp_path: Path) -> None:
    settings = BrokerSettings(dedup_s=7200)
    rig = Rig(tmp_path / "data", settings=settings, retention=RetentionSettings(age_s=3600)).start()
    send(rig, 1)
    rig.wall_ms += 3_601_000
    rig.pass_time(2)
    assert rows(rig, "SELECT count(*) FROM trimmed") == [(1,)]
    assert send(rig, 1).code == OutcomeCode.DUPLICATE
    rig.wall_ms += 3_900_000
    rig.pass_time(2)
    assert rows(rig, "SELECT count(*) FROM trimmed") == [(0,)]
    assert send(rig, 1)[::2] == (OutcomeCode.OK, 2)
    rig.stop()


def test_a_shared_body_goes_with_its_last_entry(rig: Rig) -> None:
    send(rig, 1, "user:bob", "user:carol", "user:dave", body=bytes(5000))
    assert rows(rig, "SELECT refs, length(message) > 5000 FROM body") == [(3, 1)]
    assert rows(rig, "SELECT count(message), min(size) > 5000 FROM entry WHERE key > 0") == [(0, 1)]
    phone = opened(rig)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 1)])
    for n in range(2, 13):
        send(rig, n)
    assert rows(rig, "SELECT refs FROM body") == [(2,)]
    rig.wall_ms += 3_700_000
    rig.pass_time(2)
    assert rows(rig, "SELECT count(*) FROM body") == [(0,)]


def test_a_small_body_and_a_lone_one_are_copied(rig: Rig) -> None:
    send(rig, 1, "user:bob", "user:carol")
    send(rig, 2, "user:bob", "room:7", body=bytes(5000))
    assert rows(rig, "SELECT count(*) FROM body") == [(0,)]


def test_a_very_long_message(rig: Rig) -> None:
    big = Rig(None, retention=RetentionSettings()).start()
    send(big, 1, body=bytes(17_000_000))
    batch = big.now(big.broker.read(MAILBOX, 0, 10, 1))
    assert len(decode_message(batch.entries[0].message).body) == 17_000_000
    big.stop()


def test_a_clock_that_jumps_back(rig: Rig) -> None:
    send(rig, 1, ttl_s=60)
    rig.pass_time(10)
    rig.wall_ms -= 3_600_000
    # The node's own clock is back too: lifetimes count, not the time of day.
    send(rig, 2, ttl_s=60)
    rig.pass_time(49)
    assert seqs(rig) == [1, 2]
    rig.pass_time(2)
    assert seqs(rig) == [2]
    rig.pass_time(8)
    assert seqs(rig) == [2]
    rig.pass_time(2)
    assert seqs(rig) == []
    assert send(rig, 3).seq == 3
    rig.wall_ms -= 3_600_000
    rig.crash()
    assert send(rig, 3)[::2] == (OutcomeCode.DUPLICATE, 3)
    assert seqs(rig) == [3]


def test_watchers_learn_what_was_dropped(rig: Rig) -> None:
    phone = opened(rig)
    rig.now(rig.broker.watch(MAILBOX))
    for n in range(10):
        send(rig, n)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)])
    send(rig, 10)
    assert rig.now(rig.broker.watch(MAILBOX)).first > 1
    assert rig.listener.named("arrived")[-1][2:4] == (10, 11)


def test_swept_logs_are_read_again_by_watch(rig: Rig) -> None:
    rig.now(rig.broker.watch(MAILBOX))
    send(rig, 1)
    rig.wall_ms += 3_700_000
    rig.pass_time(2)
    assert rig.now(rig.broker.watch(MAILBOX)).first == 2


@pytest.mark.parametrize("address", ["user:bob", "topic:news"])
def test_a_device_that_ends_with_its_session_holds_back_what_it_has_not_while_it_is_here(
    rig: Rig, address: str
) -> None:
    brief: dict[str, Any] = {"start": Start.HEAD, "brief": True}
    opened(rig, "before", **brief)
    rig.crash()  # which left the one before where it was
    session, log = SessionKey("bob", "here"), log_of(parse_address(address))
    here = opened(rig, "here", **brief)
    if address != "user:bob":
        rig.now(rig.broker.follow(session, here.generation, log, 0))
    assert [send(rig, n, address).code for n in range(12)] == [OutcomeCode.OK] * 10 + [OutcomeCode.FULL] * 2
    rig.broker.advance(session, here.generation, [(log, 4)])
    rig.wall_ms += 1_001
    assert [send(rig, n, address).code for n in range(10, 16)] == [OutcomeCode.OK] * 4 + [
        OutcomeCode.FULL
    ] * 2
    assert [entry.seq for entry in read(rig, 4, address).entries] == list(range(5, 15))


def test_a_device_that_has_had_nothing_yet_holds_its_mail(rig: Rig) -> None:
    """While nothing was sent to a user, a device costs one row; without a cursor it is at the begin."""
    opened(rig, "phone", start=Start.HEAD)
    away = opened(rig, "away")
    rig.now(rig.broker.close_session(SessionKey("bob", "away"), away.generation))
    assert rows(rig, "SELECT device FROM device ORDER BY device") == [("away",), ("phone",)]
    assert rows(rig, "SELECT count(*) FROM log") == rows(rig, "SELECT count(*) FROM cursor") == [(0,)]
    rig.crash()
    phone = opened(rig)
    assert phone.known
    for n in range(10):
        send(rig, n)
    rig.broker.advance(BOB, phone.generation, [(MAILBOX, 10)])
    assert send(rig, 10).code == OutcomeCode.FULL  # "away" was not there, and nothing says what it has
    again = opened(rig, "away")
    assert (again.known, again.places[0].acked, again.places[0].head) == (True, 0, 10)
    rig.broker.advance(SessionKey("bob", "away"), again.generation, [(MAILBOX, 10)])
    assert send(rig, 10).code == OutcomeCode.OK
