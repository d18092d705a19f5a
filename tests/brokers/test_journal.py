"""Commits that wait in the journal: everybody sees them at once, and merging them changes nothing that can be
seen, whenever it happens and wherever it ends."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgateway.brokers.appends import Append
from imgateway.brokers.backup import backup, restore
from imgateway.brokers.journal import Journal, Run
from imgateway.brokers.schema import FRAME_BYTES, VERSION, Database
from imgateway.config import BrokerSettings, RetentionSettings
from imgateway.errors import StoreError
from imgateway.frames import LogKey, Message, OutcomeCode, SessionKey, Start, log_of, parse_address
from imgateway.testing.disk import Rig, disk_error, opening
from imgateway.wire.messages import decode_message
from tests.brokers.test_custody import Story, kill_and_check, messages
from tests.brokers.test_retention import rows, send

BOB = SessionKey("bob", "phone")
USERS = ("user:bob", "user:carol", "topic:news")


def log(text: str) -> LogKey:
    return log_of(parse_address(text))


MAILBOX = log("user:bob")


def waiting(rig: Rig) -> int:
    """Commits in the journal."""
    return int(rows(rig, "SELECT count(*) FROM journal")[0][0])


def merged(rig: Rig) -> list[int]:
    """The seqs that are with bob's mailbox."""
    found = rows(
        rig,
        "SELECT key & 4294967295 FROM entry JOIN log ON log.id = key >> 32"
        " WHERE address = 'user:bob' ORDER BY key",
    )
    return [seq for (seq,) in found]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "data", settings=BrokerSettings(dedup_memory=2)).start()
    yield rig
    rig.stop()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few commits are merged already."""
    monkeypatch.setattr("imgateway.brokers.journal.MOST", 6)


# ----------------------------------------------------------------------------------------- when it is merged


def test_a_commit_is_one_row_for_a_second_or_two(rig: Rig) -> None:
    for n in range(3):
        assert send(rig, n).seq == n + 1
    assert (waiting(rig), merged(rig)) == (3, [])
    assert list(messages(rig, "user:bob").values()) == ["0", "1", "2"]
    rig.pass_time(2)
    assert (waiting(rig), merged(rig)) == (0, [1, 2, 3])
    assert list(messages(rig, "user:bob").values()) == ["0", "1", "2"]


def newest(rig: Rig) -> int:
    """The newest commit's number, as row 0 says it."""
    return int(rows(rig, "SELECT at_ms FROM entry WHERE key = 0")[0][0])


def test_a_sweep_moves_only_what_waited_at_the_sweep_before(rig: Rig) -> None:
    send(rig, 0)
    rig.pass_time(1)
    send(rig, 1, "user:carol")
    assert (waiting(rig), merged(rig)) == (2, [])
    rig.pass_time(1)
    # Of two rows one is left, and both are counted: a batch that is tried again goes by that number.
    assert (waiting(rig), merged(rig), newest(rig)) == (1, [1], 2)
    rig.pass_time(1)
    assert (waiting(rig), newest(rig)) == (0, 2)


def test_rows_of_changes_wait_no_longer(rig: Rig) -> None:
    rig.now(rig.broker.revoke("carol", 1))
    rig.pass_time(1)
    assert waiting(rig) == 1
    rig.pass_time(1)
    assert (waiting(rig), newest(rig)) == (0, 1)
    rig.now(rig.broker.revoke("carol", 2))
    rig.pass_time(1)
    send(rig, 0)
    rig.pass_time(1)
    assert (waiting(rig), merged(rig)) == (2, [])  # beside what waits, theirs go with its own
    rig.pass_time(1)
    assert (waiting(rig), merged(rig), newest(rig)) == (0, [1], 3)


def test_what_goes_to_the_logs_leaves_those_of_others(rig: Rig) -> None:
    send(rig, 0)
    send(rig, 1, "user:carol")
    send(rig, 2, "user:carol", ttl_s=60)
    assert (waiting(rig), merged(rig), newest(rig)) == (2, [], 3)
    rig.crash()
    # The rows' numbers are less than what was there: that must not go back, for seqs would get a new epoch.
    assert (waiting(rig), merged(rig), newest(rig)) == (0, [1], 3)


def test_what_goes_to_the_logs_is_sampled_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of which no message waits does not remember whom all those were for."""
    monkeypatch.setattr("imgateway.brokers.journal.SAMPLE", 10)
    monkeypatch.setattr("imgateway.brokers.journal.FEW", 2)
    for n in range(35):
        send(rig, n, f"user:{n}", ttl_s=60)
    assert len(rig.broker._store._journal._sampled) == 5
    for n in range(2):
        rig.publish("user:bob", msg_id=str(n))
    rig.run()
    assert (waiting(rig), merged(rig)) == (0, [1, 2])  # for the logs before were one message's each


def test_a_full_journal_is_taken_along(rig: Rig, often: None) -> None:
    for n in range(3):
        send(rig, n)
    # Three messages and two commits before this one are five. The fourth takes them along.
    assert (waiting(rig), merged(rig)) == (3, [])
    send(rig, 3)
    assert (waiting(rig), merged(rig)) == (1, [1, 2, 3])
    assert rows(rig, "SELECT at_ms FROM entry WHERE key = 0") == [(4,)]
    assert list(messages(rig, "user:bob").values()) == ["0", "1", "2", "3"]


def test_who_waits_longest_is_taken_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.journal.MOST_LOGS", 3)
    for n, user in enumerate(("bob", "carol", "bob", "dave")):
        send(rig, n, f"user:{user}")
    assert (waiting(rig), merged(rig)) == (4, [])
    send(rig, "5", "user:erin")
    # Bob's two have gone, and the row of the first of them; carol's came next.
    assert (waiting(rig), merged(rig)) == (4, [1, 2])
    assert rows(rig, "SELECT min(number) FROM journal") == [(2,)]
    send(rig, "6")
    assert (waiting(rig), merged(rig)) == (3, [1, 2])  # carol's row and bob's second have gone
    for user, count in (("bob", 3), ("carol", 1), ("dave", 1), ("erin", 1)):
        assert list(messages(rig, f"user:{user}")) == list(range(1, count + 1))
    rig.crash()
    for user, count in (("bob", 3), ("carol", 1), ("dave", 1), ("erin", 1)):
        assert list(messages(rig, f"user:{user}")) == list(range(1, count + 1))


def test_what_is_moved_keeps_its_time(rig: Rig) -> None:
    times = []
    for n in range(3):
        times.append(rig.wall_ms)
        send(rig, n)
        rig.wall_ms += 7_000
    rig.pass_time(2)
    assert rows(rig, "SELECT at_ms FROM entry WHERE key > 0 ORDER BY key") == [(at,) for at in times]


@pytest.mark.parametrize(
    "more",
    [
        {"ttl_s": 60},
        {"to": ("device:bob/phone",)},
        {"to": ("user:bob", "user:carol")},
        {"body": bytes(3_000)},
    ],
    ids=["ttl", "one device", "shared", "large"],
)
def test_what_goes_to_the_logs_takes_along_what_came_before(rig: Rig, more: dict[str, Any]) -> None:
    send(rig, "1")
    assert waiting(rig) == 1
    send(rig, "2", *more.pop("to", ()), **more)
    assert (waiting(rig), merged(rig)) == (0, [1, 2])
    assert list(messages(rig, "user:bob").values()) == ["1", "2"]


def test_a_large_commit_goes_to_the_logs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.journal.MANY", 10)
    boxes = [rig.publish("user:bob", msg_id=str(n)) for n in range(10)]
    rig.run()
    assert [box[0][0].seq for box in boxes] == list(range(1, 11))
    assert (waiting(rig), merged(rig)) == (0, list(range(1, 11)))


def test_its_bytes_have_a_bound(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.journal.MOST_BYTES", 4_000)
    for n in range(3):
        send(rig, n, body=bytes(1_500))
    assert (waiting(rig), merged(rig)) == (1, [1, 2])


def test_changes_without_messages_are_merged_too(rig: Rig, often: None) -> None:
    for n in range(20):
        rig.now(rig.broker.revoke(f"user{n}", 1))
        assert waiting(rig) <= 6
    number = rows(
        rig, "SELECT max(coalesce(max(number), 0), (SELECT at_ms FROM entry WHERE key = 0)) FROM journal"
    )
    assert number == [(20,)]


def test_in_memory_nothing_waits() -> None:
    rig = Rig(None).start()
    assert [send(rig, n).seq for n in range(3)] == [1, 2, 3]
    connection = rig.broker._database.open()
    assert connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM entry").fetchone() == (4,)
    rig.stop()


# --------------------------------------------------------------------------------- what the writer must know


def test_a_newcomer_begins_before_the_message_beside_it(rig: Rig) -> None:
    """Entered in the same commit as the first message to its mailbox: that message is not before its time."""
    rig.publish("user:bob", msg_id="1")
    box = rig.later(opening(rig.broker, rig.claim("bob")))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    rig.run()
    (place,) = box[0].places
    assert (place.acked, place.first, place.head) == (0, 1, 1)


def test_a_newcomer_begins_before_the_messages_beside_it(rig: Rig) -> None:
    """Of which the later one, with its ttl, goes to the log already, and the earlier one does so after it."""
    rig.publish("user:bob", msg_id="1")
    rig.publish("user:bob", msg_id="2", ttl_s=60)
    box = rig.later(opening(rig.broker, rig.claim("bob", start=Start.OLDEST)))
    rig.steps.lanes["reader"].step()
    rig.steps.report()
    rig.run()
    (place,) = box[0].places
    assert (place.acked, place.first, place.head) == (0, 1, 2)


def test_a_newcomer_begins_at_what_waits(rig: Rig) -> None:
    for n in range(3):
        send(rig, n)
    (place,) = rig.now(opening(rig.broker, rig.claim("bob"))).places
    assert (place.acked, place.first, place.head) == (0, 1, 3)
    assert rig.now(rig.broker.reset_log(MAILBOX))[1:] == (1, 3)
    assert waiting(rig) == 5
    mailbox = rig.now(rig.broker.mailbox("bob"))
    assert (mailbox.first, mailbox.head, mailbox.seen) == (1, 3, 0)
    mailbox = rig.now(rig.broker.mailbox("carol"))
    assert (mailbox.first, mailbox.head, mailbox.seen) == (1, 0, 0)


def test_a_login_finds_what_waits(rig: Rig) -> None:
    generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
    rig.now(rig.broker.close_session(BOB, generation))
    for n in range(3):
        send(rig, n)
    (place,) = rig.now(opening(rig.broker, rig.claim("bob"))).places
    assert (place.acked, place.first, place.head) == (0, 1, 3)


def test_resent_finds_what_waits(rig: Rig) -> None:
    for n in range(5):
        send(rig, n)
    assert [send(rig, n, resent=True)[::2] for n in range(5)] == [
        (OutcomeCode.DUPLICATE, n + 1) for n in range(5)
    ]
    send(rig, 5)
    send(rig, 6)
    send(rig, 7)
    assert send(rig, 5, resent=True)[::2] == (OutcomeCode.DUPLICATE, 6)
    known = rig.broker._store._older
    assert sum(len(digests) for _, digests in known.values()) == rig.broker._store._older_size == 8
    assert waiting(rig) == 8


def test_logs_that_memory_forgot_are_counted_with_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgateway.brokers.store.MAX_LOGBOOKS", 0)
    rig = Rig(tmp_path / "data", retention=RetentionSettings(entries=3, bytes=100_000)).start()
    assert [send(rig, n)[::2] for n in range(4)] == [(0, 1), (0, 2), (0, 3), (OutcomeCode.FULL, 0)]
    assert send(rig, 0, "user:carol", body=bytes(1_000))[::2] == (0, 1)
    store = rig.broker._store
    connection = store._ready()
    book = store.find(connection, log("user:carol"))
    assert book is not None
    assert (book.entries, book.head) == (1, 1)
    assert 1_000 < book.bytes < 1_100
    rig.stop()


def test_room_is_made_of_what_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", retention=RetentionSettings(entries=8)).start()
    generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
    for n in range(8):
        send(rig, n)
    rig.broker.advance(BOB, generation, [(MAILBOX, 8)])
    assert send(rig, 8)[::2] == (0, 9)
    assert merged(rig) == list(range(2, 9))
    batch = rig.now(rig.broker.read(MAILBOX, 0, 100, 1 << 20))
    assert ([entry.seq for entry in batch.entries], batch.gap) == (list(range(2, 10)), True)
    assert rig.now(rig.broker.watch(MAILBOX))[1:] == (2, 9)
    rig.stop()


def test_age_takes_what_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data", retention=RetentionSettings(age_s=3600)).start()
    send(rig, "old")
    rig.wall_ms += 3_601_000
    send(rig, "new")
    rig.pass_time(2)
    assert merged(rig) == [2]
    assert rig.now(rig.broker.watch(MAILBOX))[1:] == (2, 2)
    rig.stop()


# ------------------------------------------------------------------------------ what a reader sees meanwhile


def test_limits_hold_over_the_border(rig: Rig) -> None:
    for n in range(3):
        send(rig, n)
    rig.pass_time(2)
    for n in range(3, 6):
        send(rig, n)
    assert (merged(rig), waiting(rig)) == ([1, 2, 3], 3)
    size = len(rig.now(rig.broker.read(MAILBOX, 0, 1, 1)).entries[0].message)
    for after in range(8):
        for limit in range(1, 8):
            batch = rig.now(rig.broker.read(MAILBOX, after, limit, 1 << 20))
            upto = max(after, min(after + limit, 6))
            assert ([entry.seq for entry in batch.entries], batch.upto) == (
                list(range(after + 1, upto + 1)),
                upto,
            )
            # Bytes count until they are reached, the one that reaches them included.
            assert rig.now(rig.broker.read(MAILBOX, after, 100, limit * size)).upto == upto
            assert rig.now(rig.broker.read(MAILBOX, after, 100, limit * size - 1)).upto == upto


def test_a_merge_between_runs_and_statement(rig: Rig) -> None:
    """The reader took the runs; before it looks into the database these are merged, and some are dropped."""
    reading, store = rig.broker._reading, rig.broker._store
    ask = reading._one
    for n in range(4):
        send(rig, n)

    def late(question: str, values: tuple[object, ...]) -> Any:
        store.sweep()
        connection = store._ready()
        connection.execute("DELETE FROM entry WHERE key & 4294967295 IN (1, 2)")
        connection.execute("UPDATE log SET head = 2, lost = 2")
        return ask(question, values)

    reading._one = late  # type: ignore[method-assign]
    batch = reading.read(MAILBOX, 0, 100, 1 << 20)
    assert ([entry.seq for entry in batch.entries], batch.upto, batch.gap) == ([3, 4], 4, True)
    assert reading.position(MAILBOX)[1:] == (3, 4)


def test_a_commit_to_the_logs_between_runs_and_statement(rig: Rig) -> None:
    """The runs end before what the statement sees."""
    reading = rig.broker._reading
    ask = reading._one
    send(rig, "1")

    def late(question: str, values: tuple[object, ...]) -> Any:
        send(rig, f"{len(merged(rig))} more", ttl_s=60)
        return ask(question, values)

    reading._one = late  # type: ignore[method-assign]
    batch = reading.read(MAILBOX, 0, 100, 1 << 20)
    assert ([entry.seq for entry in batch.entries], batch.upto, batch.head) == ([1, 2], 2, 2)
    del reading._one
    send(rig, "3")
    reading._one = late  # type: ignore[method-assign]
    assert reading.position(MAILBOX)[1:] == (1, 4)


def test_a_commit_and_a_merge_between_statement_and_answer(rig: Rig) -> None:
    """The commit is seen already, though the statement saw nothing of it; what the merge took away, still."""
    reading = rig.broker._reading
    ask = reading._one
    send(rig, "1")

    def early(question: str, values: tuple[object, ...]) -> Any:
        found = ask(question, values)
        rig.publish("user:bob", msg_id="2")
        rig.steps.lanes["writer"].step()
        rig.broker._store.sweep()
        rig.broker._store.sweep()
        assert merged(rig) == [1, 2]
        return found

    reading._one = early  # type: ignore[method-assign]
    assert [entry.seq for entry in reading.read(MAILBOX, 0, 100, 1 << 20).entries] == [1, 2]
    rig.run()


def test_a_commit_of_unknown_fate_and_its_merge_between_statement_and_answer(rig: Rig) -> None:
    """What the reader took remains what it was, also when the writer begins anew with nothing."""
    reading, disk = rig.broker._reading, rig.disk
    assert disk is not None
    ask = reading._one
    send(rig, "1")

    def early(question: str, values: tuple[object, ...]) -> Any:
        found = ask(question, values)
        disk.fail(disk_error(), lambda one: "INTO journal" in one, True, 1)
        rig.publish("user:bob", msg_id="2")
        rig.steps.lanes["writer"].step()
        assert waiting(rig) == 2
        rig.broker._store.sweep()
        assert (waiting(rig), merged(rig)) == (0, [1, 2])
        return found

    reading._one = early  # type: ignore[method-assign]
    batch = reading.read(MAILBOX, 0, 100, 1 << 20)
    assert ([entry.seq for entry in batch.entries], batch.head) == ([1], 1)
    del reading._one
    assert list(messages(rig, "user:bob")) == [1, 2]
    rig.pass_time(2)
    assert send(rig, "3").seq == 3


def test_what_went_to_the_logs_meanwhile_is_not_passed_over(rig: Rig) -> None:
    """After the statement a commit goes to the logs while the journal is empty, and the next to the journal:
    that one does not continue what the statement saw."""
    reading = rig.broker._reading
    ask = reading._one
    send(rig, "1")
    rig.pass_time(2)
    assert waiting(rig) == 0

    def early(question: str, values: tuple[object, ...]) -> Any:
        found = ask(question, values)
        for n, ttl_s in ((2, 60), (3, 0)):
            rig.publish("user:bob", msg_id=str(n), ttl_s=ttl_s)
            rig.steps.lanes["writer"].step()
            rig.steps.report()
        assert (waiting(rig), merged(rig)) == (1, [1, 2])
        return found

    reading._one = early  # type: ignore[method-assign]
    batch = reading.read(MAILBOX, 0, 100, 1 << 20)
    assert ([entry.seq for entry in batch.entries], batch.upto) == ([1], 1)
    rig.run()


@pytest.mark.parametrize("statement", ["INTO journal", "COMMIT"])
def test_what_is_not_committed_is_not_seen(rig: Rig, statement: str) -> None:
    send(rig, "1")
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda one: statement in one)
    rig.publish("user:bob", msg_id="2")
    if statement == "COMMIT":
        rig.broker.revoke("carol", 1)  # a commit of several statements
    rig.run()
    assert rig.listener.named("healthy")[-1][0] is False
    assert list(messages(rig, "user:bob")) == [1]
    assert rig.now(rig.broker.watch(MAILBOX)).head == 1
    rig.disk.mend()
    rig.pass_time(2)
    assert list(messages(rig, "user:bob")) == [1, 2]


def test_a_merge_that_is_not_committed_takes_nothing_away(rig: Rig) -> None:
    send(rig, "1")
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda one: "INTO journal" in one)
    rig.publish("user:bob", msg_id="2")
    rig.run()
    rig.disk.fail(disk_error(), lambda one: "COMMIT" in one)  # of the merge with which the next try begins
    rig.pass_time(1)
    assert (waiting(rig), merged(rig)) == (1, [])
    assert list(messages(rig, "user:bob")) == [1]
    rig.disk.mend()
    rig.pass_time(3)
    assert list(messages(rig, "user:bob")) == [1, 2]


READS = st.tuples(st.just("read"), st.integers(0, 30), st.integers(1, 12), st.integers(1, 900))


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    most=st.integers(3, 14),
    seed=st.integers(0, 1 << 30),
    actions=st.lists(
        st.one_of(
            st.tuples(
                st.just("send"), st.integers(0, 2), st.sampled_from(["", "", "", "ttl", "large", "all"])
            ),
            st.tuples(st.just("again"), st.integers(0, 60)),
            st.tuples(st.just("step"), st.integers(0, 9)),
            READS,
            READS,
            st.tuples(st.just("run")),
            st.tuples(st.just("time")),
            st.tuples(
                st.just("fail"),
                st.sampled_from(["INTO journal", "INTO entry", "DELETE FROM journal", "COMMIT"]),
            ),
            st.tuples(st.just("crash")),
        ),
        max_size=60,
    ),
)
def test_nobody_can_tell(
    tmp_path_factory: pytest.TempPathFactory, most: int, seed: int, actions: list[Any]
) -> None:
    """Whatever is merged when: what was acknowledged is read, whole, in order and once, with the seq that was
    told. The writer works on while a reader is between its look at the runs, the database and its answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgateway.brokers.journal.MOST", most)
        _tell(
            Rig(tmp_path_factory.mktemp("journal") / "data", settings=BrokerSettings(dedup_memory=3)),
            seed,
            actions,
        )


def _tell(rig: Rig, seed: int, actions: list[Any]) -> None:
    random = Random(seed)
    rig.start()
    assert rig.disk is not None
    sent: list[tuple[tuple[str, ...], str]] = []
    boxes: list[tuple[int, Any]] = []
    told: dict[str, dict[int, str]] = {user: {} for user in USERS}
    heads = dict.fromkeys(USERS, 0)

    def publish(*to: str, **more: Any) -> None:
        sent.append((to, f"m{len(sent)}"))
        boxes.append((len(sent) - 1, rig.publish(*to, msg_id=sent[-1][1], **more)))

    def meddle() -> None:
        """Between a reader's look at the runs, the database, and its answer, the writer does what it does."""
        reading = rig.broker._reading
        ask = reading._one

        def write() -> None:
            for _ in range(random.randrange(4)):
                what = random.randrange(4)
                if what == 0:
                    publish(random.choice(USERS), **random.choice(({}, {"ttl_s": 86_400})))
                elif what == 1:
                    rig.broker._writer.submit(rig.broker._sweep, rig.broker._swept)
                if (lane := rig.steps.lanes["writer"]).jobs:
                    lane.step()

        def one(question: str, values: tuple[object, ...]) -> Any:
            write()
            found = ask(question, values)
            write()
            return found

        reading._one = one  # type: ignore[method-assign]

    def collect() -> None:
        for n, box in list(boxes):
            if box:
                boxes.remove((n, box))
                to, name = sent[n]
                for user, outcome in zip(to, box[0], strict=True):
                    assert told[user].setdefault(outcome.seq, name) == name
                    heads[user] = max(heads[user], outcome.seq)
        for user in USERS:
            assert len(set(told[user].values())) == len(told[user])

    def check(user: str, after: int, limit: int, max_bytes: int) -> None:
        """What the reader says in its lane at this moment."""
        batch = rig.broker._reading.read(log(user), after, limit, max_bytes)
        assert batch.head >= heads[user]
        found = {entry.seq: decode_message(entry.message).msg_id for entry in batch.entries}
        assert list(found) == list(range(after + 1, max(after, batch.upto) + 1))
        known = {seq: name for seq, name in told[user].items() if after < seq <= batch.upto}
        assert known.items() <= found.items()
        assert len(found) <= limit
        assert batch.upto == min(batch.head, max(after, batch.upto)) or after > batch.head
        if batch.upto < batch.head:
            assert len(found) == limit or sum(len(entry.message) for entry in batch.entries) >= max_bytes
        position = rig.broker._reading.position(log(user))
        assert position.head >= batch.head
        assert position.first == 1
        heads[user] = max(heads[user], batch.head)

    meddle()
    for action, *values in actions:
        if action == "send":
            user, kind = values
            to = USERS if kind == "all" else (USERS[user],)
            more: dict[str, Any] = {"ttl": {"ttl_s": 86_400}, "large": {"body": bytes(2_500)}}.get(kind, {})
            publish(*to, **more)
        elif action == "again" and sent:
            n = values[0] % len(sent)
            boxes.append((n, rig.publish(*sent[n][0], msg_id=sent[n][1], resent=True)))
        elif action == "step" and (found := rig.steps.choices()):
            found[values[0] % len(found)]()
        elif action == "read":
            check(random.choice(USERS), *values)
        elif action == "run":
            rig.run(random)
        elif action == "time":
            rig.pass_time(2)
        elif action == "fail":
            where = values[0]
            rig.disk.fail(
                disk_error(), lambda statement, where=where: where in statement, random.random() < 0.5, 1
            )
        elif action == "crash":
            collect()
            boxes.clear()
            rig.disk.mend()
            rig.crash()
            meddle()
            assert waiting(rig) == 0
        collect()
    rig.disk.mend()
    rig.pass_time(4)
    collect()
    assert boxes == []
    for user in USERS:
        check(user, 0, 1_000, 1 << 30)
    del rig.broker._reading._one  # what follows is read in peace
    # And what was not acknowledged, once it is sent again.
    again = [(n, rig.publish(*to, msg_id=name, resent=True)) for n, (to, name) in enumerate(sent)]
    boxes += again
    rig.run()
    collect()
    assert boxes == []
    for user in USERS:
        assert list(messages(rig, user)) == sorted(told[user])
    rig.stop()


# -------------------------------------------------------------------------------------- crashes and failures


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power loss"])
def test_killed_at_every_call_with_merges_among_them(
    tmp_path: Path, often: None, after: bool, power: bool
) -> None:
    call = 1
    while not kill_and_check(tmp_path / str(call), call, after, power):
        call += 1
    assert call > 60


@pytest.mark.parametrize("statement", ["INTO entry", "DELETE FROM journal", "COMMIT"])
@pytest.mark.parametrize("after", [False, True], ids=["failed", "fate unknown"])
def test_a_merge_that_fails(rig: Rig, statement: str, after: bool) -> None:
    for n in range(4):
        send(rig, n)
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda one: statement in one, after)
    rig.pass_time(2)
    assert rig.listener.named("healthy")[0][0] is False
    assert list(messages(rig, "user:bob").values()) == ["0", "1", "2", "3"]
    assert rig.now(rig.broker.watch(MAILBOX))[1:] == (1, 4)
    rig.disk.mend()
    assert send(rig, 4).seq == 5
    rig.pass_time(2)
    assert (waiting(rig), merged(rig)) == (0, [1, 2, 3, 4, 5])
    assert rig.listener.named("healthy")[-1] == (True, "")


def meddle(rig: Rig, statement: str, *values: object) -> None:
    """What no node does to its database."""
    assert rig.disk is not None
    with closing(sqlite3.connect(rig.disk.path / "messages.sqlite3")) as connection, connection:
        connection.execute(statement, values)


def test_a_seq_is_never_moved_over_another(rig: Rig) -> None:
    """That would be a message lost: the statement fails, and health says so."""
    send(rig, 0)
    key = rows(rig, "SELECT id << 32 | 1 FROM log")[0][0]
    meddle(
        rig, "INSERT INTO entry (key, at_ms, digest, message) VALUES (?, ?, x'01', x'02')", key, rig.wall_ms
    )
    rig.pass_time(2)
    assert rig.listener.named("healthy")[-1][0] is False
    assert waiting(rig) == 1
    meddle(rig, "DELETE FROM entry WHERE key = ?", key)
    rig.pass_time(3)
    assert rig.listener.named("healthy")[-1][0] is True
    assert list(messages(rig, "user:bob").values()) == ["0"]


def test_nor_at_a_start(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    send(rig, 0)
    key = rows(rig, "SELECT id << 32 | 1 FROM log")[0][0]
    meddle(
        rig, "INSERT INTO entry (key, at_ms, digest, message) VALUES (?, ?, x'01', x'02')", key, rig.wall_ms
    )
    with pytest.raises(StoreError, match="at_ms"):
        rig.crash()
    assert rows(rig, "SELECT hex(message) FROM entry WHERE key > 0") == [("02",)]


def test_what_retention_took_does_not_come_back(
    tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was moved, and its row is still there because of another's message."""
    rig = Rig(tmp_path / "data", retention=RetentionSettings(entries=4)).start()
    generation = rig.now(opening(rig.broker, rig.claim("bob"))).generation
    rig.pass_time(2)
    rig.publish("user:carol", msg_id="c")
    for n in range(4):
        rig.publish("user:bob", msg_id=str(n))
    rig.run()
    assert (waiting(rig), merged(rig)) == (1, [])
    rig.broker.advance(BOB, generation, [(MAILBOX, 3)])
    assert send(rig, 4).seq == 5
    assert rows(rig, "SELECT min(number) FROM journal") == rows(rig, "SELECT max(number) - 1 FROM journal")
    kept = merged(rig)
    assert 1 not in kept
    rig.crash()
    assert merged(rig) == [*kept, 5]
    assert list(messages(rig, "user:carol").values()) == ["c"]
    rig.stop()


def test_a_start_merges_what_is_there(rig: Rig) -> None:
    outcomes = [send(rig, n) for n in range(3)]
    rig.crash()
    assert (waiting(rig), merged(rig)) == (0, [1, 2, 3])
    assert rows(rig, "SELECT at_ms FROM entry WHERE key = 0") == [(3,)]
    again = [send(rig, n, resent=True).seq for n in range(4)]
    assert again == [*(one.seq for one in outcomes), 4]
    assert rows(rig, "SELECT number FROM journal") == [(4,)]


# ------------------------------------------------------------------------------------------- files of before


def to_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM journal").fetchone() == (0,)
        if version == 1:
            connection.execute("DROP TABLE journal")
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_a_version_before_goes_on(tmp_path: Path, version: int) -> None:
    rig = Rig(tmp_path / "data").start()
    outcomes = [send(rig, n) for n in range(3)]
    rig.pass_time(2)
    rig.stop()
    backup(tmp_path / "data", tmp_path / "copy")
    to_version(tmp_path / "data" / "messages.sqlite3", version)
    to_version(tmp_path / "copy", version)
    rig.new()
    rig.start()
    assert rows(rig, "PRAGMA user_version") == [(VERSION,)]
    assert [send(rig, n) for n in range(3)] == [one._replace(code=OutcomeCode.DUPLICATE) for one in outcomes]
    assert send(rig, 3)[1:] == (outcomes[0].epoch, 4)
    rig.stop()
    restore(tmp_path / "copy", tmp_path / "data")
    rig.new()
    rig.start()
    assert list(messages(rig, "user:bob")) == [1, 2, 3]
    assert send(rig, 4).seq == 4
    rig.stop()


def test_rows_of_the_version_before_go_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    outcomes = [send(rig, n) for n in range(3)]
    rig.stop()
    with closing(sqlite3.connect(tmp_path / "data" / "messages.sqlite3")) as connection:
        assert connection.execute("SELECT count(*) FROM journal").fetchone() == (3,)
        connection.execute("PRAGMA user_version = 2")
    rig.new()
    rig.start()
    assert (waiting(rig), merged(rig), newest(rig)) == (0, [1, 2, 3], 3)
    assert [send(rig, n).seq for n in range(4)] == [*(one.seq for one in outcomes), 4]
    assert send(rig, 4).epoch == outcomes[0].epoch
    rig.stop()


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    rig.stop()
    with closing(sqlite3.connect(tmp_path / "data" / "messages.sqlite3")) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    rig.new()
    refusal = f"is of format {VERSION + 1}, this version reads {VERSION}"
    with pytest.raises(StoreError, match=refusal):
        rig.start()
    backup(tmp_path / "data", tmp_path / "copy")
    with pytest.raises(StoreError, match=refusal):
        restore(tmp_path / "copy", tmp_path / "other")


def test_a_copy_has_what_waits(rig: Rig, tmp_path: Path) -> None:
    for n in range(3):
        send(rig, n)
    assert waiting(rig) == 3
    backup(tmp_path / "data", tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "other")
    other = Rig(tmp_path / "other").start()
    assert list(messages(other, "user:bob").values()) == ["0", "1", "2"]
    assert [send(other, n).seq for n in range(4)] == [1, 2, 3, 4]
    other.stop()


# -------------------------------------------------------------------------------- a write-ahead log of zeros


def test_zeros_behind_the_write_ahead_log_are_its_end(tmp_path: Path, rig: Rig) -> None:
    """They change nothing for whoever writes on, and nothing for whoever finds them after a crash."""
    send(rig, 0)
    database = Database(str(tmp_path / "data" / "messages.sqlite3"))
    written = database.wal.read_bytes()
    database.lengthen_wal(100)
    longer = database.wal.read_bytes()
    assert longer.startswith(written)
    assert not any(longer[len(written) :])
    assert 100 * FRAME_BYTES <= len(longer) < 100 * FRAME_BYTES + (1 << 20)
    database.lengthen_wal(100)
    assert database.wal.stat().st_size == len(longer)
    for n in range(1, 20):
        send(rig, n)
    assert database.wal.stat().st_size == len(longer)
    shutil.copytree(tmp_path / "data", tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    for path in (None, tmp_path / "killed"):
        one = Rig(path).start() if path else rig
        assert list(messages(one, "user:bob").values()) == [str(n) for n in range(20)]
        if path:
            one.stop()


def test_it_is_as_long_again_as_it_was(tmp_path: Path, rig: Rig) -> None:
    for n in range(200):
        send(rig, n)
    wal = tmp_path / "data" / "messages.sqlite3-wal"
    used = wal.stat().st_size
    assert used > 1 << 18
    rig.pass_time(2)
    assert (
        2 * (used // FRAME_BYTES) * FRAME_BYTES
        <= wal.stat().st_size
        < 2 * used + (1 << 20) + FRAME_BYTES * 50
    )


def test_no_disk_space_for_zeros_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(str(tmp_path / "no.sqlite3"))
    database.lengthen_wal(10)
    assert list(tmp_path.iterdir()) == []

    def full(*arguments: Any) -> int:
        raise OSError("No space left on device")

    database.wal.write_bytes(b"")
    monkeypatch.setattr("imgateway.brokers.schema.os.write", full)
    database.lengthen_wal(10)
    assert database.wal.stat().st_size == 0


# ------------------------------------------------------------------------------------------------- its parts


def test_a_run_from_anywhere() -> None:
    run = Run(9, 4, (b"five", b"six"), (b"5", b"6"))
    five, six = (5, b"five", b"5"), (6, b"six", b"6")
    assert [list(run.beyond(seq)) for seq in (0, 3, 4, 5, 6, 7)] == [[five, six]] * 3 + [[six], [], []]
    assert run.upto == 6


def test_what_the_journal_takes() -> None:
    journal = Journal()
    assert journal.takes(0, 0)
    assert journal.takes(1, 2_000)
    assert not journal.takes(1, 2_001)
    assert journal.takes(499, 499 * 100)
    assert not journal.takes(500, 500 * 100)


def some(count: int, size: int = 10) -> list[Append]:
    message = Message("1", "alice", "phone")
    return [Append(MAILBOX, bytes(size), bytes(8), message, []) for _ in range(count)]


def test_what_it_has_no_place_for() -> None:
    """A tenth is made free: of messages and commits, of bytes, of logs."""
    journal = Journal()
    for number in range(1, 11):
        assert journal.overdue(number, 90, 900) is None
        journal.entered(number, 0, [(number, 0, some(90))])
    assert journal.overdue(11, 89, 890) is None
    assert journal.overdue(11, 90, 900) == [1, 2]
    assert journal.needed([1, 2]) == 3
    before = journal.runs
    journal.moved([1, 2])
    assert (list(journal.runs), list(before)) == ([*range(3, 11)], [*range(1, 11)])
    assert journal.overdue(11, 90, 900) is None
    assert journal.overdue(11, 354, 900) == [3, 4]  # 894 messages are left then, and 6 commits

    journal = Journal()
    for number in range(1, 10):
        journal.entered(number, 0, [(number, 0, some(1, 100_000))])
    assert journal.overdue(10, 1, 148_000) is None
    assert journal.overdue(10, 1, 149_000) == [1, 2]
    journal.moved([1, 2])
    assert journal.overdue(10, 1, (1 << 20) - 700_001) is None
    assert journal.overdue(10, 1, (1 << 20) - 700_000) == [3, 4]
    assert journal.overdue(10, 1, (1 << 20) * 9 // 10 - 500_000) == [3, 4]
    journal.merged()
    assert journal.overdue(10, 1, (1 << 20) - 1) is None
    assert journal.overdue(2_000, 999, 0) is None

    journal = Journal()
    journal.entered(1, 0, [(log, 0, some(1)) for log in range(250)])
    assert journal.overdue(2, 1, 10) == [*range(25)]


def test_one_that_waits_holds_no_more_than_so_many_rows() -> None:
    journal = Journal()
    journal.entered(1, 0, [(7, 0, some(1))])
    for number in range(2, 1_000):
        assert journal.overdue(number, 0, 0) is None
        journal.entered(number, 0, [])
    assert journal.overdue(1_000, 0, 0) == [7]
    assert journal.needed([7]) == 0
    journal.moved([7])
    journal.entered(1_000, 0, [])
    assert journal.first == 1_000
    for number in range(1_001, 2_000):
        journal.entered(number, 0, [])
    assert journal.overdue(2_000, 0, 0) == []  # nothing to move, but rows to delete


def test_what_has_waited_since() -> None:
    journal = Journal()
    for number in range(1, 5):
        journal.entered(number, 0, [(number * 10, 0, some(1))])
    assert [journal.waiting(upto, 3) for upto in (0, 1, 2, 4)] == [[], [10], [10, 20], [10, 20, 30]]


def test_what_shares_no_pages_goes_to_the_logs() -> None:
    """But for small commits; and what comes later is looked at anew."""
    journal = Journal()
    journal.sample(range(251), 499)
    assert journal.takes(100, 10_000)
    journal.sample([0], 1)
    assert [journal.takes(messages, 1_000) for messages in (9, 10)] == [True, False]
    journal.sample(range(250), 500)
    assert journal.takes(100, 10_000)


def test_a_story_between_any_two_callbacks(tmp_path: Path, often: None) -> None:
    """The lanes in any order, reads among them."""
    for seed in range(10):
        rig = Rig(tmp_path / str(seed))
        story = Story(rig)
        story.tell(Random(seed))
        rig.crash()
        story.check()
        rig.stop()
