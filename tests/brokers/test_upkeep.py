"""What is done beside the commits, and what it must not cost them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from imgateway.brokers.appends import Append, Batch
from imgateway.brokers.directory import Directory
from imgateway.brokers.journal import MOST, Journal
from imgateway.brokers.schema import Database, open_database
from imgateway.brokers.store import Store
from imgateway.brokers.upkeep import Upkeep
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


def begun(path: Path) -> bytes:
    """Another one for each time the log of changes was begun anew: its count of them and its salt."""
    with open(f"{path}-wal", "rb") as file:
        return file.read(24)[12:]


def test_a_long_log_of_changes_is_begun_anew(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgateway.brokers.upkeep.LONG_WAL_PAGES", 1)
    send(rig, "1")
    before = begun(tmp_path / "data" / "messages.sqlite3")
    rig.pass_time(1)
    assert moves(rig) == ["PASSIVE", "RESTART"]
    send(rig, "2")
    assert begun(tmp_path / "data" / "messages.sqlite3") != before


def test_who_reads_for_long_does_not_hold_up_the_writer(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning the log of changes anew waits for all readers, and every commit would wait with it."""
    monkeypatch.setattr("imgateway.brokers.upkeep.LONG_WAL_PAGES", 1)
    monkeypatch.setattr("imgateway.brokers.upkeep.FEW_PAGES", 0)
    send(rig, "1")
    backing_up = reading(tmp_path / "data" / "messages.sqlite3")
    before = len(moves(rig))
    send(rig, "2")
    rig.pass_time(1)
    assert moves(rig)[before:] == ["PASSIVE"]
    backing_up.close()
    send(rig, "3")
    rig.pass_time(1)
    assert moves(rig)[before:] == ["PASSIVE", "PASSIVE", "RESTART"]


def reading(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM entry").fetchone()
    return connection


class Between(sqlite3.Connection):
    """Somebody does something before each checkpoint, and between it and what comes next."""

    before: Callable[[str], None]
    after: Callable[[str], None]

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        is_one = "wal_checkpoint" in statement
        if is_one:
            self.before(statement)
        found = super().execute(statement, *values)
        if is_one:
            self.after(statement)
        return found


class Desk:
    """The upkeep of a database, and a writer."""

    def __init__(self, path: Path) -> None:
        self.path = path / "messages.sqlite3"
        self.asked: list[str] = []
        self.database = Database(str(self.path), self.connect)
        self.writer = open_database(str(self.path))
        self.writer.execute("PRAGMA wal_autocheckpoint=0")
        self.database.prepare(self.writer)
        self.upkeep = Upkeep(self.database, Directory(path), lambda: False)
        self.before: Callable[[str], None] = self.asked.append
        self.after: Callable[[str], None] = lambda statement: None
        self.commits = 0

    def connect(self, path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, factory=Between)
        connection.before = lambda statement: self.before(statement)
        connection.after = lambda statement: self.after(statement)
        return connection

    def commit(self, statement: str = "") -> None:
        self.commits += 1
        self.writer.execute("UPDATE entry SET at_ms = ?", (self.commits,))

    def close(self) -> None:
        self.upkeep.drop()
        self.writer.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def test_who_begins_to_read_meanwhile_does_not_hold_up_the_writer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgateway.brokers.upkeep.LONG_WAL_PAGES", 1)
    monkeypatch.setattr("imgateway.brokers.upkeep.FEW_PAGES", 0)
    readers: list[sqlite3.Connection] = []

    def backup_begins(statement: str) -> None:
        if len(desk.asked) == 2:
            readers.append(reading(desk.path))
        desk.commit()

    desk.after = backup_begins
    desk.commit()
    assert desk.upkeep.work(None) is None
    assert [statement[22:-1] for statement in desk.asked] == ["PASSIVE"] * 4
    for one in readers:
        one.close()


def test_a_log_that_is_read_from_is_begun_anew_another_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it as it is now keeps it as it is; a commit waits for that a moment only."""
    monkeypatch.setattr("imgateway.brokers.upkeep.LONG_WAL_PAGES", 1)
    desk.commit()
    reader = reading(desk.path)
    before = begun(desk.path)
    assert desk.upkeep.work(None) is None
    assert desk.asked[-1] == "PRAGMA wal_checkpoint(RESTART)"
    desk.commit()
    assert begun(desk.path) == before
    reader.close()
    assert desk.upkeep.work(None) is None
    desk.commit()
    assert begun(desk.path) != before


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("long", [1, 10_000])
def test_a_checkpoint_does_not_begin_where_the_log_can_begin_anew(
    desk: Desk, seed: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In that moment SQLite would take for moved what is not (its WAL-reset bug). So a commit in that moment
    must not be possible, or go on with the log as it is."""
    monkeypatch.setattr("imgateway.brokers.upkeep.LONG_WAL_PAGES", long)
    random = Random(seed)
    begins: list[bool] = []
    readers: list[sqlite3.Connection] = []

    def commit_meanwhile(statement: str) -> None:
        if desk.database.writing.locked():
            return
        if random.random() < 0.5:
            before = begun(desk.path)
            desk.commit()
            begins.append(begun(desk.path) != before)

    def commit_afterwards(statement: str) -> None:
        if random.random() < 0.3 and not desk.database.writing.locked():
            desk.commit()

    desk.before, desk.after = commit_meanwhile, commit_afterwards
    anew = 0
    for _ in range(60):
        doing = random.random()
        if doing < 0.4:
            before = begun(desk.path)
            desk.commit()
            anew += begun(desk.path) != before
        elif doing < 0.9:
            assert desk.upkeep.work(None) is None
        elif doing < 0.95:
            desk.upkeep.drop()
        elif readers:
            readers.pop().close()
        else:
            readers.append(reading(desk.path))
    for one in readers:
        one.close()
    assert begins
    assert not any(begins)
    assert anew


def marked(rig: Rig) -> int:
    """The commit that the mark names."""
    directory = rig.broker._directory
    assert directory is not None
    mark = directory.read_mark()
    return mark.number if mark else 0


def test_whoever_commits_says_so(rig: Rig) -> None:
    """That nobody else's checkpoint coincides with it."""
    assert rig.disk is not None
    told: dict[str, bool] = {}
    call = rig.disk._call

    def looked(connection: sqlite3.Connection, statement: str, work: Callable[[], Any]) -> Any:
        if (
            statement.split()[0] in ("BEGIN", "INSERT", "COMMIT")
            and connection is rig.broker._store._connection
        ):
            told[statement] = rig.broker._database.writing.locked()
        return call(connection, statement, work)

    rig.disk._call = looked  # type: ignore[method-assign]
    for n in range(3):
        send(rig, n)
        rig.pass_time(2)  # and a sweep moves it
    assert len(told) > 3
    assert all(told.values())
    assert not rig.broker._database.writing.locked()


def test_after_somebody_else_s_checkpoint_it_begins_while_nobody_commits(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who knows what that one has moved."""
    quiet: list[bool] = []
    desk.before = lambda statement: quiet.append(desk.database.writing.locked())
    desk.commit()
    assert desk.upkeep.work(None) is None
    desk.commit()
    with monkeypatch.context() as patch:
        # As it is told then.
        patch.setattr("imgateway.brokers.upkeep._checkpoint", lambda mover, how: (-1, -1))
        assert desk.upkeep.work(None) is None
    assert desk.upkeep.work(None) is None
    desk.commit()
    assert desk.upkeep.work(None) is None
    assert quiet == [True, True, False]


def test_many_commits_do_not_wait_a_second(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgateway.brokers.embedded.MANY_COMMITS", 3)
    for n in range(3):
        send(rig, n)
    rig.pass_time(0.2)
    before = len(moves(rig))
    send(rig, 3)
    send(rig, 4)
    rig.pass_time(0.2)
    assert len(moves(rig)) == before
    send(rig, 5)
    rig.pass_time(0.2)
    assert len(moves(rig)) == before + 1
    assert marked(rig) < rig.broker._number  # that is for the second
    rig.pass_time(1)
    assert len(moves(rig)) == before + 1  # there was nothing more to move
    assert marked(rig) == rig.broker._number


def test_a_stop_moves_and_marks_the_last(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "data").start()
    for n in range(3):
        send(rig, n)
    before, wal = len(moves(rig)), (tmp_path / "data" / "messages.sqlite3-wal").stat().st_size
    closing = rig.later(rig.broker.stop())
    while rig.steps.lanes["upkeep"].jobs:
        rig.steps.lanes["upkeep"].step()
    assert len(moves(rig)) == before + 1
    assert marked(rig) == rig.broker._number > 0
    # It is not made longer for what does not come.
    assert (tmp_path / "data" / "messages.sqlite3-wal").stat().st_size == wal
    rig.run()
    assert closing


def test_on_a_slow_disk_they_do_not_pile_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the mark comes as soon as the disk is done with what was before it."""
    monkeypatch.setattr("imgateway.brokers.embedded.MANY_COMMITS", 1)
    upkeep = rig.steps.lanes["upkeep"]

    def others_go_on(number: int, seconds: float) -> None:
        rig.publish("user:bob", msg_id=str(number))
        rig.clock.advance(seconds)
        while jobs := [lane for lane in rig.steps.lanes.values() if lane.jobs and lane is not upkeep]:
            jobs[0].step()
        while rig.steps.results:
            rig.steps.report()

    behind: list[int] = []
    for n in range(42):
        others_go_on(n, 0.2)
        assert len(upkeep.jobs) <= 1
        if n % 7 == 6:  # it takes 1.4 s, and then the mark is due
            upkeep.step()
            rig.steps.report()
            assert len(upkeep.jobs) == 1
            behind.append(rig.broker._number - marked(rig))
    assert max(behind[1:]) <= 7  # commits, of the 1.4 s that the disk took


def test_a_mark_that_fails_is_trouble_until_one_succeeds(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is moved meanwhile, and it is."""
    monkeypatch.setattr("imgateway.brokers.embedded.MANY_COMMITS", 1)
    blocked = tmp_path / "data" / "messages.new"
    blocked.mkdir()
    for n in range(12):
        send(rig, n)
        before = len(moves(rig))
        rig.pass_time(0.25)
    assert len(moves(rig)) == before + 1
    assert [ok for ok, _ in rig.listener.named("healthy")] == [False]
    blocked.rmdir()
    rig.pass_time(1)
    assert rig.listener.named("healthy")[-1] == (True, "")


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
    assert len(opened) == before + 2  # one that watches, one that moves
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
