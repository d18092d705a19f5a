"""What is done beside the commits, and what it must not cost them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from imgateway.brokers.appends import Append, Batch
from imgateway.brokers.journal import MOST, Journal
from imgateway.brokers.schema import Database, open_database
from imgateway.brokers.store import Store
from imgateway.config import RetentionSettings
from imgateway.frames import Message, log_of, parse_address
from imgateway.testing.disk import Rig, disk_error
from imgateway.wire.messages import encode_message
from tests.brokers.test_retention import send


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "data").start()
    yield rig
    rig.stop()


def moves(rig: Rig) -> list[str]:
    """How the log of changes was brought into the database."""
    assert rig.disk is not None
    return [
        statement.partition("(")[2][:-1] for statement in rig.disk.statements if "wal_checkpoint" in statement
    ]


def test_a_long_log_of_changes_is_begun_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.schema.LONG_WAL_PAGES", 1)
    send(rig, "1")
    rig.pass_time(1)
    assert moves(rig) == ["PASSIVE"] * 4 + ["RESTART"]


def test_who_reads_for_long_does_not_hold_up_the_writer(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning the log of changes anew waits for all readers, and every commit would wait with it."""
    monkeypatch.setattr("imgateway.brokers.schema.LONG_WAL_PAGES", 1)
    assert rig.disk is not None
    send(rig, "1")
    backing_up = sqlite3.connect(tmp_path / "data" / "messages.sqlite3", isolation_level=None)
    backing_up.execute("BEGIN")
    backing_up.execute("SELECT count(*) FROM entry").fetchone()
    before = len(rig.disk.statements)
    send(rig, "2")
    rig.pass_time(1)
    assert not any("RESTART" in statement for statement in rig.disk.statements[before:])
    backing_up.close()
    send(rig, "3")
    rig.pass_time(1)
    assert any("RESTART" in statement for statement in rig.disk.statements[before:])


def test_who_begins_to_read_meanwhile_does_not_hold_up_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgateway.brokers.schema.LONG_WAL_PAGES", 1)
    database = Database(str(tmp_path / "messages.sqlite3"))
    writer = database.open()
    database.prepare(writer)
    connection, reader = database.open(), database.open()
    asked: list[str] = []

    class Between:
        """A backup begins after the second look, and a commit follows it."""

        def execute(self, statement: str) -> sqlite3.Cursor:
            asked.append(statement)
            found = connection.execute(statement)
            if len(asked) == 2:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM entry").fetchone()
                writer.execute("UPDATE entry SET at_ms = 1")
            return found

    assert database.checkpoint(Between()) > 1
    assert asked == ["PRAGMA wal_checkpoint(PASSIVE)"] * 4
    for one in (writer, connection, reader):
        one.close()


def test_many_commits_do_not_wait_a_second(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.embedded.MANY_COMMITS", 3)
    rig.pass_time(0.1)
    for n in range(3):
        send(rig, n)
    before = len(moves(rig))  # numbers begin anywhere, so the first may have been many
    rig.pass_time(0.2)
    send(rig, 3)
    send(rig, 4)
    rig.pass_time(0.2)
    assert len(moves(rig)) == before + 1
    send(rig, 5)
    rig.pass_time(0.2)
    assert len(moves(rig)) == before + 2
    rig.pass_time(2)
    assert len(moves(rig)) == before + 3  # for the mark


def test_on_a_slow_disk_they_do_not_pile_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.embedded.MANY_COMMITS", 1)
    send(rig, 0)
    rig.pass_time(1)
    upkeep, writer = rig.steps.lanes["upkeep"], rig.steps.lanes["writer"]
    for n in range(1, 5):
        rig.publish("user:bob", msg_id=str(n))
        while writer.jobs or rig.steps.results:
            writer.step() if writer.jobs else rig.steps.report()
        rig.clock.advance(0.2)
    assert len(upkeep.jobs) == 1
    rig.run()
    send(rig, 5)
    rig.clock.advance(0.2)
    assert len(upkeep.jobs) == 1
    rig.run()


def test_its_connection_stays_until_something_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path / "data")
    disk = rig.disk
    assert disk is not None
    opened: list[str] = []
    connect = disk.connect

    def counted(path: str) -> sqlite3.Connection:
        opened.append(path)
        return connect(path)

    monkeypatch.setattr(disk, "connect", counted)
    rig.new()
    rig.start()
    send(rig, 1)
    rig.pass_time(1)
    before = len(opened)
    send(rig, 2)
    rig.pass_time(2)
    assert len(opened) == before
    lengthen = Database.lengthen_wal
    monkeypatch.setattr(Database, "lengthen_wal", lambda *_: raised(disk_error()))
    send(rig, 3)
    rig.pass_time(1)
    assert "I/O error" in rig.listener.named("healthy")[-1][1]
    monkeypatch.setattr(Database, "lengthen_wal", lengthen)
    rig.pass_time(1)
    assert rig.listener.named("healthy")[-1] == (True, "")
    assert len(opened) == before + 1
    rig.stop()


def raised(problem: Exception) -> None:
    raise problem


def test_a_large_statement_makes_no_file_of_its_own(tmp_path: Path) -> None:
    """SQLite keeps the pages that a statement changes until it has not failed, and many of them in a file for
    each commit."""
    others: set[str] = set()

    def look() -> int:
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if "etilqs" in (name := os.readlink(f"/proc/self/fd/{descriptor}")):
                    others.add(name)
        return 0

    def connect(path: str) -> sqlite3.Connection:
        connection = open_database(path)
        connection.set_progress_handler(look, 50)
        return connection

    database, journal = Database(str(tmp_path / "messages.sqlite3"), connect), Journal()
    connection = database.open()
    database.prepare(connection)
    store = Store(database, journal, RetentionSettings(), 600_000, lambda: 1, lambda log: ())
    logs = [log_of(parse_address(f"user:{n}")) for n in range(100)]
    message = Message("1", "alice", "phone", body=bytes(1_000))
    for commit in range(3 * MOST // len(logs)):
        batch = Batch()
        batch.appends = [
            Append(log, encode_message(message), (commit << 8 | n).to_bytes(8, "big"), message, [])
            for n, log in enumerate(logs)
        ]
        store.commit(batch)
    assert connection.execute("SELECT count(*) FROM entry").fetchone()[0] > MOST
    assert not others
    store.drop()
    connection.close()
