"""The data directory: one process, a database that was put back from a copy, backup and restore, what cannot
be used."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from imgateway.brokers.backup import backup, restore
from imgateway.brokers.directory import Directory, Mark
from imgateway.brokers.schema import VERSION, fault_text
from imgateway.config import RetentionSettings
from imgateway.errors import StoreError
from imgateway.frames import Message, OutcomeCode, SessionKey, Start, log_of, parse_address
from imgateway.interfaces import Publication
from imgateway.testing.disk import Rig, disk_error, opening
from imgateway.wire.messages import decode_message

MAILBOX = log_of(parse_address("user:bob"))


def send(rig: Rig, msg_id: str) -> Any:
    box = rig.publish("user:bob", msg_id=msg_id)
    rig.run()
    return box[0][0]


def ids(rig: Rig) -> list[str]:
    batch = rig.now(rig.broker.read(MAILBOX, 0, 100, 1 << 20))
    return [decode_message(entry.message).msg_id for entry in batch.entries]


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    rig = Rig(tmp_path / "data").start()
    yield rig
    rig.stop()


def test_a_second_broker_is_told_who_has_the_directory(rig: Rig) -> None:
    with pytest.raises(
        StoreError, match=f"in use by process {os.getpid()}: stop that, or give .* --data-dir"
    ):
        Rig(rig.path).start()


def test_a_second_process_too_and_its_end_frees_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from imgateway.brokers.directory import Directory\n"
        "Directory(sys.argv[1]).lock(); print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"
    with pytest.raises(StoreError, match=f"process {other.pid}"):
        Directory(tmp_path).lock()
    other.kill()
    other.communicate()
    directory = Directory(tmp_path)
    directory.lock()
    directory.write_mark(Mark(1, 1))
    assert (tmp_path / "messages.mark").stat().st_mode & 0o777 == 0o600
    directory.unlock()
    assert (tmp_path / "messages.lock").read_bytes() == b"", "nobody has it"
    directory.unlock()


@pytest.mark.parametrize("call", ["ftruncate", "pwrite"])
def test_a_disk_that_does_not_take_who_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The start fails as it always does, and holds nothing."""

    def fails(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(StoreError, match=r"cannot use the data directory .*: No space left on device"):
            Rig(tmp_path / "data").start()
    rig = Rig(tmp_path / "data").start()
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        rig.stop()
    Rig(tmp_path / "data").start().stop()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot use the data directory .*file/data: "):
        Directory(tmp_path / "file" / "data").lock()


@pytest.mark.parametrize("content", [b"no database, but long enough to be looked at" * 100])
def test_a_foreign_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "messages.sqlite3").write_bytes(content)
    with pytest.raises(StoreError, match="is damaged: restore a backup"):
        Rig(tmp_path).start()
    Directory(tmp_path).lock()  # it was given back


def test_what_no_version_wrote(rig: Rig, tmp_path: Path) -> None:
    """The start says so, and waits for nothing."""
    send(rig, "1")
    rig.stop()
    connection = sqlite3.connect(tmp_path / "data" / "messages.sqlite3")
    connection.execute("UPDATE log SET address = 'nobody', epoch = 7")
    connection.commit()
    rig.new()
    with pytest.raises(StoreError, match=r"messages\.sqlite3: an address is KIND:ID"):
        rig.start()
    connection.execute("UPDATE log SET address = 'user:bob'")
    connection.commit()
    connection.close()
    started_anew(rig)
    assert rig.now(rig.broker.watch(MAILBOX)).head == 1


def test_another_programs_database_and_a_newer_version(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "messages.sqlite3")
    connection.execute("CREATE TABLE other (x)")
    with pytest.raises(StoreError, match=f"is of format 0, this version reads {VERSION}"):
        Rig(tmp_path).start()
    connection.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match="is of format 9"):
        Rig(tmp_path).start()
    connection.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SQLITE_FULL", "disk full: make room for FILE"),
        ("SQLITE_BUSY", "FILE is locked by another process: end it"),
        ("SQLITE_LOCKED", "FILE is locked by another process: end it"),
        ("SQLITE_IOERR_FSYNC", "I/O error on FILE: check the disk (SQLITE_IOERR_FSYNC)"),
        ("SQLITE_READONLY", "FILE cannot be written: check its owner and mode"),
        ("SQLITE_CORRUPT", "FILE is damaged: restore a backup (SQLITE_CORRUPT)"),
        ("SQLITE_ODD", "FILE: SQLITE_ODD"),
    ],
)
def test_faults_say_what_to_do(name: str, text: str) -> None:
    said = fault_text(disk_error(name), "FILE")
    assert said == text.replace("(SQLITE_IOERR_FSYNC)", f"({disk_error(name)})")
    assert fault_text(OSError(5, "Input/output error"), "FILE").startswith("I/O error on FILE")
    for number in (errno.ENOSPC, errno.EDQUOT):  # of the mark, or of the log before it is needed
        assert fault_text(OSError(number, os.strerror(number)), "FILE") == "disk full: make room for FILE"
    assert fault_text(ValueError(), "FILE") == "FILE: ValueError"


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """SQLite's own refusal, by a limit on the pages of the file."""
    rig = Rig(tmp_path / "data")
    assert rig.disk is not None
    real, pages = rig.disk.connect, 60

    def connect(path: str) -> sqlite3.Connection:
        connection = real(path)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    rig._arguments["open_database"] = connect
    rig.broker._database._connect = connect
    rig.start()
    boxes = [rig.publish("user:bob", msg_id=str(n), body=bytes(20_000)) for n in range(3)]
    rig.run()
    boxes += [rig.publish("user:bob", msg_id=str(n), body=bytes(20_000)) for n in range(3, 30)]
    rig.pass_time(5)
    assert boxes[-1] == []
    assert "disk full" in rig.listener.named("healthy")[-1][1]
    assert "messages.sqlite3" in rig.listener.named("healthy")[-1][1]
    pages = 10_000
    rig.pass_time(5)
    assert [box[0][0].seq for box in boxes] == list(range(1, 31))
    assert rig.listener.named("healthy")[-1] == (True, "")
    rig.stop()


def told(rig: Rig, events: Any) -> list[tuple[str, str]]:
    """What the operator reads of it."""
    return [
        (event["log_level"].name, formatEvent(event).replace(str(rig.path), "DIR"))
        for event in events
        if event["log_namespace"].startswith("imgateway.brokers.")
    ]


FULL_DISK = (
    "warn",
    "the store is not well: disk full: make room for DIR/messages.sqlite3; "
    "it is tried again until it is well, and needs no restart",
)
WELL_AGAIN = ("info", "the store is well again")


def test_a_full_disk_is_in_the_log_and_that_there_is_room_again(rig: Rig) -> None:
    assert rig.disk is not None
    with capturedLogs() as events:
        rig.disk.fail(disk_error("SQLITE_FULL"), lambda statement: True)
        box = rig.publish("user:bob", msg_id="1")
        rig.run()
        assert told(rig, events) == [FULL_DISK]  # at once
        rig.pass_time(30)
        assert told(rig, events) == [FULL_DISK]  # whatever else fails for it
        rig.disk.mend()
        rig.pass_time(10)
        assert box[0][0].seq == 1
        assert told(rig, events) == [FULL_DISK, WELL_AGAIN]
        rig.disk.fail(disk_error("SQLITE_FULL"), lambda statement: True)
        rig.publish("user:bob", msg_id="2")
        rig.pass_time(3)
        assert told(rig, events) == [FULL_DISK, WELL_AGAIN, FULL_DISK]
        rig.disk.mend()


def test_a_disk_on_which_little_goes_now_and_then_is_in_the_log_once(rig: Rig) -> None:
    assert rig.disk is not None
    with capturedLogs() as events:
        for n in range(20):
            rig.disk.fail(disk_error("SQLITE_FULL"), lambda statement: True)
            rig.publish("user:bob", msg_id=str(n))
            rig.pass_time(0.5)
            rig.disk.mend()
            rig.pass_time(2.5)
            assert rig.listener.named("healthy")[-1] == (True, "")
        assert told(rig, events) == [FULL_DISK]
        rig.pass_time(6)
        assert told(rig, events) == [FULL_DISK, WELL_AGAIN]


def test_another_trouble_is_in_the_log_too(rig: Rig) -> None:
    assert rig.disk is not None
    with capturedLogs() as events:
        for name in ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_FULL"):
            rig.disk.fail(disk_error(name), lambda statement: True)
            rig.publish("user:bob", msg_id=name)
            rig.pass_time(5)
        rig.disk.mend()
        assert [text[:60] for _, text in told(rig, events)] == [
            "the store is not well: disk full: make room for DIR/messages",
            "the store is not well: DIR/messages.sqlite3 cannot be writte",
        ]


def test_locked_by_another_process(rig: Rig) -> None:
    other = sqlite3.connect(rig.path / "messages.sqlite3", isolation_level=None)  # type: ignore[operator]
    other.execute("BEGIN IMMEDIATE")
    box = rig.publish("user:bob", msg_id="1")
    rig.pass_time(3)
    assert box == []
    assert "is locked by another process" in rig.listener.named("healthy")[-1][1]
    other.execute("ROLLBACK")
    other.close()
    rig.pass_time(3)
    assert box[0][0].seq == 1
    assert rig.listener.named("healthy")[-1] == (True, "")


def test_a_reader_that_fails_is_asked_again_in_order(rig: Rig) -> None:
    send(rig, "1")
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda statement: "SELECT epoch" in statement)
    boxes = [rig.later(rig.broker.read(MAILBOX, n, 10, 10)) for n in range(3)]
    rig.pass_time(2)
    assert boxes == [[]] * 3
    rig.later(rig.broker.read(MAILBOX, 0, 10, 10))
    assert rig.listener.named("healthy")[-1][0] is False
    rig.disk.mend()
    rig.pass_time(3)
    assert [box[0].after for box in boxes] == [0, 1, 2]
    assert rig.listener.named("healthy")[-1] == (True, "")


def test_many_questions_at_once(rig: Rig) -> None:
    boxes = [rig.later(rig.broker.read(MAILBOX, n, 10, 10)) for n in range(150)]
    rig.run()
    assert [box[0].after for box in boxes] == list(range(150))


def test_a_sweep_that_fails(rig: Rig) -> None:
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda statement: "FROM trimmed" in statement)
    rig.pass_time(2)
    assert rig.listener.named("healthy")[-1][0] is False
    rig.disk.mend()
    send(rig, "1")
    rig.pass_time(5)
    assert rig.listener.named("healthy")[-1] == (True, "")


def test_stop_does_not_wait_for_a_disk_that_is_out_of_order(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    assert rig.disk is not None
    rig.disk.fail(disk_error(), lambda statement: "INSERT" in statement)
    box = rig.publish("user:bob", msg_id="1")
    stopping = rig.later(rig.broker.stop())
    rig.run()
    assert (box, len(stopping)) == ([], 1)
    rig.disk.mend()
    started_anew(rig)
    assert ids(rig) == []
    rig.stop()


def test_stop_tries_once_more(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    assert rig.disk is not None
    send(rig, "0")
    rig.disk.fail(disk_error(), lambda statement: "INTO journal" in statement or "SELECT epoch" in statement)
    publishing = rig.publish("user:bob", msg_id="1")
    reading = rig.later(rig.broker.read(MAILBOX, 0, 10, 10))
    rig.run()
    assert publishing == reading == []
    rig.disk.mend()
    rig.stop()
    assert publishing[0][0].seq == 2
    assert reading[0].head in (1, 2)


def test_stop_waits_for_what_was_published(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    boxes = [rig.publish("user:bob", msg_id=str(n)) for n in range(3)]
    stopping = rig.later(rig.broker.stop())
    again = rig.later(rig.broker.stop())
    assert stopping == []
    rig.run()
    assert len(stopping) == len(again) == 1
    assert all(boxes)
    assert not (tmp_path / "data" / "messages.sqlite3-wal").exists()


def test_a_listener_that_raises_costs_nobody_a_message(rig: Rig, flush_logged_errors: Any) -> None:
    def broken(*values: Any) -> None:
        raise ZeroDivisionError

    rig.listener.unattended = broken  # type: ignore[method-assign]
    assert send(rig, "1").seq == 1
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


# -------------------------------------------------------------------------------------------------- the mark


def started_anew(rig: Rig) -> None:
    """Another process on what there is."""
    rig.new()
    rig.start()


def put_back(rig: Rig, copy: Path) -> None:
    """The node ends well, and starts on this database in place of its own."""
    rig.pass_time(1)
    rig.stop()
    assert rig.path is not None
    shutil.copy(copy, rig.path / "messages.sqlite3")
    started_anew(rig)


def test_an_older_database_gets_a_new_epoch(rig: Rig, tmp_path: Path) -> None:
    epoch = send(rig, "1").epoch
    rig.stop()
    shutil.copy(tmp_path / "data" / "messages.sqlite3", tmp_path / "copy")
    started_anew(rig)
    assert send(rig, "2").epoch == epoch
    put_back(rig, tmp_path / "copy")
    again = send(rig, "3")
    assert (again.seq, again.epoch != epoch) == (2, True)
    renewed = again.epoch
    rig.pass_time(1)
    rig.crash()
    assert send(rig, "4").epoch == renewed


def test_an_epoch_of_one_log_does_not_survive_an_older_database(rig: Rig, tmp_path: Path) -> None:
    send(rig, "1")
    rig.now(rig.broker.reset_log(MAILBOX))
    rig.stop()
    shutil.copy(tmp_path / "data" / "messages.sqlite3", tmp_path / "copy")
    started_anew(rig)
    lost = send(rig, "2")
    put_back(rig, tmp_path / "copy")
    other = send(rig, "3")
    assert (other.seq, other.epoch != lost.epoch) == (lost.seq, True)


def test_a_copy_from_before_a_new_epoch_is_seen_too(rig: Rig, tmp_path: Path) -> None:
    send(rig, "1")
    rig.stop()
    Directory(tmp_path / "data").write_mark(Mark(77, 0))
    started_anew(rig)
    assert send(rig, "2").epoch != 77


def test_an_epoch_of_one_log_survives_a_restart(rig: Rig) -> None:
    send(rig, "1")
    epoch = rig.now(rig.broker.reset_log(MAILBOX)).epoch
    rig.crash()
    assert send(rig, "2").epoch == epoch


# ------------------------------------------------------------------------------------------------ old numbers


HALF = 1 << 31
# As if so many messages had been sent to the log before.
OLDER = (
    "UPDATE entry SET key = key + ?2 WHERE key >> 32 = ?1",
    "UPDATE trimmed SET key = key + ?2 WHERE key >> 32 = ?1",
    "UPDATE log SET head = head + ?2, lost = lost + ?2, seen = seen + ?2 WHERE id = ?1",
    "UPDATE cursor SET acked = acked + ?2,"
    " parked = (SELECT json_group_array(value + ?2) FROM json_each(parked)) WHERE log = ?1",
)


@pytest.fixture
def worn(tmp_path: Path) -> Any:
    """A mailbox that lost its first message to a quota, and another; its devices set one of three aside."""
    rig = Rig(tmp_path / "data", retention=RetentionSettings(entries=6)).start()
    for n in range(1, 7):
        send(rig, str(n))
    for device in ("phone", "web"):
        claim = rig.claim("bob", device, start=Start.OLDEST)
        generation = rig.now(opening(rig.broker, claim)).generation
        session = SessionKey("bob", device)
        rig.broker.advance(session, generation, [(MAILBOX, 3)], [(MAILBOX, 2)])
        rig.now(rig.broker.close_session(session, generation))
    assert send(rig, "7").seq == 7
    rig.now(rig.broker.publish(Publication(Message("7", "alice", "phone"), (parse_address("user:eve"),))))
    rig.stop()
    started_anew(rig)  # what waited in the journal is with its logs
    rig.stop()
    yield rig
    rig.stop()


def database(rig: Rig, *statements: str, by: int = 0) -> list[list[Any]]:
    """What is in it after these."""
    assert rig.path is not None
    connection = sqlite3.connect(rig.path / "messages.sqlite3")
    try:
        (log,) = connection.execute("SELECT id FROM log WHERE address = 'user:bob'").fetchone()
        for statement in statements:
            connection.execute(statement, (log, by) if "?2" in statement else (log,))
        connection.commit()
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
            for table in ("entry WHERE key > 0", "trimmed", "cursor", "log")
        ]
    finally:
        connection.close()


def test_a_log_that_used_half_of_its_numbers_is_numbered_anew(worn: Rig) -> None:
    """As it was with small numbers, but for its epoch: so its readers are told of a gap."""
    small = database(worn)
    assert len(small[1]) == 1, "one was trimmed"
    assert database(worn, *OLDER, by=HALF) != small
    started_anew(worn)
    found = worn.now(opening(worn.broker, worn.claim("bob"))).places[0]
    assert (found.acked, found.parked, found.first, found.head) == (3, (2,), 2, 7)
    assert found.epoch not in (0, worn.now(worn.broker.watch(log_of(parse_address("user:eve")))).epoch)
    assert ids(worn) == ["2", "3", "4", "5", "6", "7"]
    assert send(worn, "1") == (OutcomeCode.DUPLICATE, found.epoch, 1)
    assert send(worn, "7") == (OutcomeCode.DUPLICATE, found.epoch, 7)
    worn.crash()
    assert worn.now(worn.broker.watch(MAILBOX)).epoch == found.epoch
    worn.stop()
    anew = database(worn)
    assert [[row[0] for row in rows] for rows in anew[:2]] == [[row[0] for row in rows] for rows in small[:2]]
    assert anew[2] == small[2]
    assert anew[3] == [(*row[:3], found.epoch if row[1] == "user:bob" else 0, *row[4:]) for row in small[3]]
    started_anew(worn)
    assert send(worn, "8").seq == 8


def test_and_one_of_which_nothing_is_left_begins_anew(worn: Rig) -> None:
    gone = ("DELETE FROM entry WHERE key >> 32 = ?1", "DELETE FROM trimmed WHERE key >> 32 = ?1")
    heads = "UPDATE log SET head = 7, lost = 7 WHERE id = ?1"
    database(worn, *gone, heads, *OLDER, by=HALF)
    started_anew(worn)
    found = worn.now(opening(worn.broker, worn.claim("bob"))).places[0]
    assert (found.acked, found.parked, found.first, found.head) == (0, (), 1, 0)
    assert send(worn, "8").seq == 1


def test_but_not_while_the_day_before_has_small_numbers(worn: Rig) -> None:
    few = database(worn, *OLDER, by=HALF - 1)
    started_anew(worn)
    worn.stop()
    assert database(worn) == few
    started_anew(worn)
    assert send(worn, "8").seq == HALF + 7


def test_a_mark_that_cannot_be_written_or_read(rig: Rig, tmp_path: Path) -> None:
    send(rig, "1")
    blocked = tmp_path / "data" / "messages.new"
    blocked.mkdir()
    rig.pass_time(1)
    assert "I/O error" in rig.listener.named("healthy")[-1][1]
    blocked.rmdir()
    rig.pass_time(1)
    assert rig.listener.named("healthy")[-1] == (True, "")
    (tmp_path / "data" / "messages.mark").write_text("{")
    rig.crash()
    assert ids(rig) == ["1"]


def test_an_old_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 37, 2))
    monkeypatch.setattr("sqlite3.sqlite_version", "3.37.2")
    with pytest.raises(StoreError, match=r"SQLite 3\.37\.2 is too old: .* 3\.39 or newer"):
        Rig(tmp_path / "data").start()


# ---------------------------------------------------------------------------------------- backup and restore


def test_backup_while_publishing_and_restore(rig: Rig, tmp_path: Path) -> None:
    for n in range(200):
        rig.publish("user:bob", msg_id=str(n), body=bytes(30_000))
    rig.run()
    epoch = send(rig, "200").epoch
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        send(rig, f"during {len(told)}")

    backup(tmp_path / "data", tmp_path / "copy", progress)
    assert told[-1][0] == told[-1][1] > 1000
    assert len(told) > 1
    send(rig, "after")
    with pytest.raises(StoreError, match="in use by process"):
        restore(tmp_path / "copy", tmp_path / "data")
    rig.stop()
    restore(tmp_path / "copy", tmp_path / "data", lambda done, total: None)
    assert not list((tmp_path / "data").glob("*restoring*"))
    started_anew(rig)
    batch = rig.now(rig.broker.read(MAILBOX, 0, 1000, 1 << 30))
    assert (len(batch.entries), batch.head) == (201, 201)
    assert batch.epoch != epoch
    assert send(rig, "200").code == 1


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_what_was_restored_is_not_taken_for_an_older_database(rig: Rig, tmp_path: Path, commits: int) -> None:
    """It keeps the epoch that it was given, however many commits the mark told of before. Put back as it
    was then, without what came since, it does not."""
    for n in range(commits):
        send(rig, str(n))
    backup(tmp_path / "data", tmp_path / "copy")
    for n in range(10):
        send(rig, f"later {n}")
    rig.pass_time(1)
    rig.stop()
    restore(tmp_path / "copy", tmp_path / "data", entropy=lambda size: bytes(size - 1) + b"\x4d")
    shutil.copy(tmp_path / "data" / "messages.sqlite3", tmp_path / "restored")
    started_anew(rig)
    first = send(rig, "new")
    assert (first.seq, first.epoch) == (commits + 1, 0x4D)
    put_back(rig, tmp_path / "restored")
    again = send(rig, "other")
    assert (again.seq, again.epoch != 0x4D) == (commits + 1, True)


def test_a_node_starts_while_a_backup_of_what_was_restored_runs(rig: Rig, tmp_path: Path) -> None:
    """It may run for long, and the first start waits for nobody."""
    send(rig, "1")
    rig.stop()
    backup(tmp_path / "data", tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "data")
    assert not list((tmp_path / "data").glob("restoring*"))
    sent: list[Any] = []

    def start(done: int, total: int) -> None:
        if not sent:
            started_anew(rig)
            sent.append(send(rig, "2"))

    backup(tmp_path / "data", tmp_path / "nightly", start)
    assert [outcome.seq for outcome in sent] == [2]
    rig.stop()
    restore(tmp_path / "nightly", tmp_path / "data")
    started_anew(rig)
    assert rig.now(rig.broker.watch(MAILBOX)).head == 1, "as it was when the backup began"


def test_an_epoch_of_one_log_does_not_survive_a_restore(rig: Rig, tmp_path: Path) -> None:
    """Its seqs are given again, too."""
    send(rig, "1")
    rig.now(rig.broker.reset_log(MAILBOX))
    backup(tmp_path / "data", tmp_path / "copy")
    lost = send(rig, "2")
    rig.stop()
    restore(tmp_path / "copy", tmp_path / "data")
    started_anew(rig)
    other = send(rig, "3")
    assert (other.seq, other.epoch != lost.epoch) == (lost.seq, True)


def test_a_restore_syncs_its_mark_before_anything_goes(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss right after the old log of changes has gone finds the new mark."""
    send(rig, "1")
    backup(tmp_path / "data", tmp_path / "copy")
    rig.stop()
    done: list[str] = []
    sync, unlink = os.fsync, Path.unlink

    def synced(handle: int) -> None:
        assert os.fstat(handle).st_size > 0, "what is to be synced is not written yet"
        done.append("synced " + Path(f"/proc/self/fd/{handle}").resolve().name)
        sync(handle)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        done.append("gone " + path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    restore(tmp_path / "copy", tmp_path / "data")
    begin = done.index("synced messages.new")
    assert done[begin : begin + 6] == [
        "synced messages.new",
        "synced data",
        "gone messages.sqlite3-wal",
        "gone messages.sqlite3-shm",
        "synced data",
        "synced data",
    ]


def half_moved(database: Path) -> None:
    """As a kill leaves it that comes while the log of changes is moved into the database: every other page
    is."""
    before = database.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, database.name)
        for suffix in ("", "-wal"):
            shutil.copy(f"{database}{suffix}", f"{whole}{suffix}")
        connection = sqlite3.connect(whole)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        after = whole.read_bytes()
    starts = range(0, len(after), 4096)
    pages = [(after if start // 4096 % 2 else before)[start : start + 4096] for start in starts]
    database.write_bytes(b"".join(page.ljust(4096, b"\0") for page in pages))


def test_a_restore_that_breaks_off(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old database is whole without its log of changes; and has another epoch."""
    send(rig, "1")
    rig.pass_time(1)
    backup(tmp_path / "data", tmp_path / "copy")
    for n in range(2, 100):
        last = send(rig, str(n))
    assert rig.disk is not None
    rig.broker._directory.unlock()  # type: ignore[union-attr]  # killed
    rig.disk.crash()
    half_moved(tmp_path / "data" / "messages.sqlite3")

    def replace(source: Path, target: Path, real: Any = os.replace) -> None:
        if target == tmp_path / "data" / "messages.sqlite3":
            raise OSError("the power went")
        real(source, target)

    monkeypatch.setattr("imgateway.brokers.backup.os.replace", replace)
    with pytest.raises(StoreError, match="the power went"):
        restore(tmp_path / "copy", tmp_path / "data")
    monkeypatch.undo()
    assert not (tmp_path / "data" / "messages.sqlite3-wal").exists()
    started_anew(rig)
    assert ids(rig) == [str(n) for n in range(1, 100)]
    other = send(rig, "100")
    assert (other.seq, other.epoch != last.epoch) == (100, True)


@pytest.mark.parametrize("content", [None, b"", b"nothing that sqlite knows" * 1000])
def test_a_restore_takes_the_place_of_anything(rig: Rig, tmp_path: Path, content: bytes | None) -> None:
    send(rig, "1")
    backup(tmp_path / "data", tmp_path / "copy")
    send(rig, "2")
    rig.broker._directory.unlock()  # type: ignore[union-attr]  # killed
    database = tmp_path / "data" / "messages.sqlite3"
    if content is None:
        database.unlink()
    else:
        database.write_bytes(content)
    restore(tmp_path / "copy", tmp_path / "data")
    started_anew(rig)
    assert ids(rig) == ["1"]


def test_backups_refusals(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database in"):
        backup(tmp_path, tmp_path / "copy")
    (tmp_path / "copy").write_text("")
    with pytest.raises(StoreError, match="exists already"):
        backup(tmp_path / "data", tmp_path / "copy")
    with pytest.raises(StoreError, match=r"I/O error|: unable to open"):
        backup(tmp_path / "data", tmp_path / "no" / "copy")


def test_restores_refusals(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no file"):
        restore(tmp_path / "copy", tmp_path / "data")
    (tmp_path / "copy").write_bytes(b"nothing that sqlite knows" * 100)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("copy", "empty"):
        said = f"{name} is no backup: use a file that `imgateway backup` made"
        with pytest.raises(StoreError, match=said):
            restore(tmp_path / name, tmp_path / "data")
    connection = sqlite3.connect(tmp_path / "broken")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("CREATE TABLE fact (name, value)")
    connection.close()
    content = (tmp_path / "broken").read_bytes()
    (tmp_path / "broken").write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    with pytest.raises(StoreError, match="broken is damaged: restore a backup"):
        restore(tmp_path / "broken", tmp_path / "data")
    Directory(tmp_path / "data").lock()


def test_of_two_backups_to_one_name_the_first_is_whole_and_the_other_is_refused(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(200):
        rig.publish("user:bob", msg_id=str(n), body=bytes(30_000))
    rig.run()
    begun, go_on, sync = Event(), Event(), os.fsync
    refused: list[str] = []

    def progress(done: int, total: int) -> None:
        begun.set()
        go_on.wait()

    def copy() -> None:
        try:
            backup(tmp_path / "data", tmp_path / "copy", progress)
        except StoreError as problem:
            refused.append(str(problem))
        finally:
            begun.set()

    other = Thread(target=copy)

    def synced(handle: int) -> None:
        monkeypatch.undo()
        sync(handle)
        other.start()  # while the first is about to give its copy the name
        begun.wait()

    monkeypatch.setattr(os, "fsync", synced)
    try:
        backup(tmp_path / "data", tmp_path / "copy")
        whole = (tmp_path / "copy").read_bytes()
    finally:
        go_on.set()
        other.join()
    assert (tmp_path / "copy").read_bytes() == whole
    assert refused == [f"{tmp_path}/copy exists already: name another file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data"]
    restore(tmp_path / "copy", tmp_path / "new")
    connection = sqlite3.connect(tmp_path / "new" / "messages.sqlite3")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_backup_where_files_have_one_name_only(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # as on FAT

    send(rig, "1")
    monkeypatch.setattr(os, "link", link)
    backup(tmp_path / "data", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data"]
    rig.stop()
    restore(tmp_path / "copy", tmp_path / "data")
    started_anew(rig)
    assert ids(rig) == ["1"]


@pytest.mark.parametrize("lock", ["BEGIN", "PRAGMA locking_mode=EXCLUSIVE"])
def test_a_restore_waits_until_nobody_reads_what_it_replaces(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """Else the old log of changes would go before all of it is in the old database."""
    monkeypatch.setattr("imgateway.brokers.backup.PATIENCE_S", 0)
    backup(tmp_path / "data", tmp_path / "copy")
    for n in range(5):
        send(rig, str(n))
    rig.broker._directory.unlock()  # type: ignore[union-attr]  # killed
    assert rig.disk is not None
    rig.disk.crash()
    reader = sqlite3.connect(tmp_path / "data" / "messages.sqlite3", isolation_level=None)
    reader.execute(lock)  # as a backup does that is still under way
    assert reader.execute("SELECT count(*) FROM fact").fetchone()
    with pytest.raises(StoreError, match="still reads"):
        restore(tmp_path / "copy", tmp_path / "data")
    reader.close()
    assert not list((tmp_path / "data").glob("*restoring*"))
    started_anew(rig)
    assert ids(rig) == [str(n) for n in range(5)]


def test_a_backup_that_breaks_off_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        raise sqlite3.OperationalError("stopped")

    with pytest.raises(StoreError, match="stopped"):
        backup(tmp_path / "data", tmp_path / "copy", progress)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
