"""The contract of the store of push tasks, on SQLite, PostgreSQL and MariaDB alike."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy
from sqlalchemy import event, text, update
from sqlalchemy.exc import DBAPIError

from imgateway.config import LimitSettings, RouterSettings
from imgateway.errors import ConfigError, StoreError
from imgateway.router.tasks import store as stores
from imgateway.router.tasks import tables
from imgateway.router.tasks.database import Database, fault_text
from imgateway.router.tasks.making import Making, Order
from imgateway.router.tasks.orders import Message, Own
from imgateway.router.tasks.store import (
    LEASE_MS,
    Drop,
    Item,
    LeaseLost,
    NoSuchTask,
    Standing,
    Store,
    WrongState,
)
from tests.router.tasks.sql_servers import MariaDB, Postgres, SqlServer, served

START_MS = 1_700_000_000_000


class Desk:
    """A store, and a second one on the same database where that may be."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opened: list[Database] = []
        self.database, self.store = self.open()
        self.start_ms = 0 if self.database.dialect != "sqlite" else START_MS

    def open(self) -> tuple[Database, Store]:
        database = Database(self.url, lambda: START_MS)
        store = Store(database)
        store.open()
        self.opened.append(database)
        return database, store

    def later(self, ms: int) -> None:
        for database in self.opened:
            database.shift_ms += ms

    def task(self, *addresses: str, at_ms: int = 0, id: str = "a") -> int:
        number = self.store.begin(id, "news", "service:shop", b"{}", 5.5, at_ms)
        self.store.add(number, [(n, address, None) for n, address in enumerate(addresses, 1)])
        self.store.complete(number, len(addresses), 0, "[]")
        return number


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=[pytest.mark.server, pytest.mark.network]),
        pytest.param("mariadb", marks=[pytest.mark.server, pytest.mark.network]),
    ]
)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/tasks.db"
    else:
        url = request.getfixturevalue(request.param).url()
    desk = Desk(url)
    yield desk
    for database in desk.opened:
        database.close()


def test_a_task_is_made_in_steps_and_runs_when_it_is_complete(desk: Desk) -> None:
    store = desk.store
    number = store.begin("a", "news ü😀", "service:shop", b"\x00\xff", 2.5, 0)
    assert store.begin("a", "again", "service:shop", b"", 0, 0) == number
    store.add(number, [(2, "user:1", None), (3, "user:ü😀", '{"text":"\\u0000 \\"x\\""}')])
    store.add(number, [(7, "device:%25/%2F", None)])
    assert store.get("a").state == "uploading"
    assert store.claim("r1", 9) == []
    task = store.complete(number, 3, 2, '[{"line":1}]')
    assert task == store.get("a")
    assert (task.name, task.sender, task.message, task.rate) == ("news ü😀", "service:shop", b"\x00\xff", 2.5)
    assert (task.state, task.total, task.unsent, task.refused, task.bad) == ("running", 3, 3, 0, 2)
    assert task.bad_lines == '[{"line":1}]'
    assert task.created_ms > 0
    (lease,) = store.claim("r1", 9)
    assert lease.task.number == number
    assert store.unsent(number, 0, 2) == [
        Item(2, "user:1", None, 0),
        Item(3, "user:ü😀", '{"text":"\\u0000 \\"x\\""}', 0),
    ]
    assert store.unsent(number, 3, 2) == [Item(7, "device:%25/%2F", None, 0)]


def test_outcomes_are_written_once_and_counted(desk: Desk) -> None:
    number = desk.task("user:1", "user:2", "room:3")
    store = desk.store
    (lease,) = store.claim("r1", 1)
    rows = [(1, 1, 0, 2**48 - 1, 2**40), (2, 2, 6, 0, 0)]
    for _ in range(2):  # the first answer may have been lost
        assert store.write(lease, rows, 1, 1) == "running"
    assert store.unsent(number, 0, 9) == [Item(3, "room:3", None, 0)]
    assert store.standing(number, range(6), 0, 9) == [
        Standing(1, "user:1", 1, 0, 2**48 - 1, 2**40),
        Standing(2, "user:2", 2, 6, 0, 0),
        Standing(3, "room:3", 0, 0, 0, 0),
    ]
    assert store.standing(number, {2}, 0, 9) == [Standing(2, "user:2", 2, 6, 0, 0)]
    assert store.standing(number, range(6), 2, 9)[0].n == 3
    assert sorted(store.counts(number)) == [(0, 0, 1), (1, 0, 1), (2, 6, 1)]
    for _ in range(2):
        assert store.write(lease, [(3, 5, 0, 1, 1)], 0, 1, True) == "done"
    task = store.get("a")
    assert (task.state, task.unsent, task.refused, task.owner) == ("done", 0, 1, "")
    assert task.finished_ms >= task.started_ms >= task.created_ms > 0


def test_items_may_be_given_another_address_while_they_are_uploaded(desk: Desk) -> None:
    number = desk.store.begin("a", "", "service:shop", b"{}", 0, 0)
    desk.store.add(number, [(1, "device:ü/a", None), (2, "device:2/a", "{}"), (7, "device:7/a", None)])
    desk.store.readdress(number, [(1, "user:ü"), (7, "user:7")])
    assert desk.store.unsent(number, 0, 9) == [
        Item(1, "user:ü", None, 0),
        Item(2, "device:2/a", "{}", 0),
        Item(7, "user:7", None, 0),
    ]


def test_what_was_judged_stays_and_what_is_pushed_anew_is_left_alone(desk: Desk) -> None:
    number = desk.task("user:1", "user:2", "user:3")
    store = desk.store
    (lease,) = store.claim("r1", 1)
    store.write(lease, [(n, 1, 0, 7, 10 + n) for n in (1, 2, 3)], 0, 0, True)
    store.judge(number, [(1, 3, 11), (2, 4, 12), (3, 3, 99)])  # the last is of another attempt
    assert [one.state for one in store.standing(number, range(6), 0, 9)] == [3, 4, 1]
    store.judge(number, [(1, 4, 11)])
    assert store.standing(number, {3}, 0, 9)[0].n == 1


def test_an_owner_with_a_long_name_keeps_what_tells_it_apart(desk: Desk) -> None:
    desk.task("user:1")
    (lease,) = desk.store.claim("n" * 60 + ".12345678", 1)
    assert desk.store.get("a").owner == "n" * 55 + ".12345678"
    assert desk.store.write(lease, [], 1, 0) == "running"


def test_a_list_of_long_lines_is_written(desk: Desk) -> None:
    """300 of 60,000 bytes are more than some databases take at a time."""
    order = Order("", Message(text="hi"))
    making = Making(desk.store, RouterSettings(), LimitSettings())
    line = b'{"user":"%d","text":"%s","headers":{"a":"%s"}}\n'
    file = io.BytesIO(b"".join(line % (n, b"x" * 60_000, b'\\n\\"' * 1_000) for n in range(300)))
    task, bad = making.task("service:shop", order, making.said(order), file, "application/x-ndjson", 1)
    assert (task.total, bad) == (300, [])
    (last,) = desk.store.unsent(task.number, 299, 9)
    own = msgspec.json.decode(last.own or "", type=Own)
    assert (own.body, own.headers) == (b"x" * 60_000, (("a", '\n"' * 1_000),))


def test_a_lease_keeps_others_away_until_it_ends(desk: Desk) -> None:
    desk.task("user:1")
    store = desk.store
    (lease,) = store.claim("r1", 4)
    assert not lease.resumed
    assert store.get("a").owner == "r1"
    assert store.claim("r2", 4) == []
    desk.later(LEASE_MS - 6_000)
    assert store.write(lease, [], 1, 0) == "running"  # renewed
    desk.later(LEASE_MS - 6_000)
    assert store.claim("r2", 4) == []
    desk.later(6_001)
    (taken,) = store.claim("r2", 4)
    assert taken.resumed
    assert taken.tenure == lease.tenure + 1
    with pytest.raises(LeaseLost):
        store.write(lease, [(1, 1, 0, 1, 1)], 0, 0)
    assert store.unsent(taken.task.number, 0, 1)
    assert store.write(taken, [], 1, 0, release=True) == "running"
    assert store.get("a").owner == ""
    with pytest.raises(LeaseLost):
        store.write(taken, [], 1, 0)
    (again,) = store.claim("r1", 4)
    assert not again.resumed
    store.write(again, [], 1, 0, release=True, in_doubt=True)
    assert (store.get("a").owner, store.get("a").until_ms) == ("r1", 0)
    with pytest.raises(LeaseLost):
        store.write(again, [], 1, 0)
    (last,) = store.claim("r2", 4)
    assert last.resumed
    store.write(last, [(1, 1, 0, 1, 1)], 0, 0, release=True, in_doubt=True)
    assert store.get("a").owner == ""  # nothing is left to be in doubt


def test_tasks_wait_for_their_time_and_their_place(desk: Desk) -> None:
    database, store = desk.database, desk.store
    with database.engine.connect() as connection:
        now = database.now_ms(connection)
    desk.task("user:1", id="a", at_ms=now + 60_000)
    desk.task("user:1", id="b")
    desk.task("user:1", id="c")
    assert [lease.task.id for lease in store.claim("r1", 1)] == ["b"]
    assert [lease.task.id for lease in store.claim("r1", 9)] == ["c"]
    desk.later(60_001)
    assert [lease.task.id for lease in store.claim("r2", 1)] == ["a"]


def test_changes_go_by_the_table(desk: Desk) -> None:
    desk.task("user:1", "user:2")
    store = desk.store
    (lease,) = store.claim("r1", 1)
    for _ in range(2):
        assert store.change("a", "pause").state == "paused"
    assert store.write(lease, [(1, 1, 0, 1, 1)], 1, 0) == "paused"
    assert store.write(lease, [], 1, 0, True) == "paused"
    assert store.claim("r1", 1) == []
    assert store.change("a", "resume").state == "running"
    (lease,) = store.claim("r1", 1)
    assert store.change("a", "cancel").finished_ms > 0
    for what in ("pause", "resume"):
        with pytest.raises(WrongState, match="cancelled"):
            store.change("a", what)
    with pytest.raises(WrongState):
        store.repush("a", False, None, 0)  # it is still held
    assert store.write(lease, [(2, 1, 0, 1, 2)], 0, 0, True) == "cancelled"
    with pytest.raises(NoSuchTask):
        store.change("b", "cancel")
    with pytest.raises(NoSuchTask):
        store.get("b")
    with pytest.raises(NoSuchTask):
        store.repush("b", False, None, 0)


@pytest.mark.parametrize(("as_new", "again"), [(False, [1, 3, 5]), (True, [1, 2, 3, 5, 6])])
def test_a_repush_is_a_new_attempt_for_what_was_taken_once(
    desk: Desk, as_new: bool, again: list[int]
) -> None:
    number = desk.task(*[f"user:{n}" for n in range(1, 7)])
    store = desk.store
    (lease,) = store.claim("r1", 1)
    rows = [(n, 1, 0, 7, n) for n in (2, 3, 4)] + [(5, 2, 2, 0, 0), (6, 5, 0, 7, 6)]
    with pytest.raises(WrongState, match="running"):
        store.repush("a", as_new, None, 0)
    store.change("a", "cancel")
    store.write(lease, rows, 1, 1, True)
    store.judge(number, [(3, 4, 3), (4, 3, 4)])
    task = store.repush("a", as_new, 9.0 if as_new else None, 0)
    assert (task.state, task.unsent, task.refused, task.finished_ms) == ("running", len(again), 0, 0)
    assert task.rate == (9.0 if as_new else 5.5)
    with pytest.raises(LeaseLost):
        store.write(lease, rows, 1, 1, True)  # an answer that was lost, asked for again too late
    (lease,) = store.claim("r1", 1)
    items = store.unsent(number, 0, 9)
    assert [item.n for item in items] == again
    # What was refused was never there: its id is still good, and says so if the user has it by another line.
    assert [item.attempt for item in items] == [int(n not in (1, 5)) for n in again]


def test_what_may_have_been_pushed_is_noted_at_its_items_when_others_come_before_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = desk.task(*[f"user:{n}" for n in range(1, 7)])
    store = desk.store

    def codes() -> list[tuple[int, int]]:
        return [(item.n, item.code) for item in store.unsent(number, 0, 9)]

    (lease,) = store.claim("r1", 1)
    store.write(lease, [(1, 2, 2, 0, 0)], 5, 1)
    store.change("a", "cancel")
    desk.later(15_001)
    monkeypatch.setattr("imgateway.router.tasks.store.RESENT", 2)
    task = store.repush("a", False, None, 0)
    assert (task.owner, task.unsent, task.refused) == ("", 6, 0)
    assert codes() == [(1, 0), (2, 1), (3, 1), (4, 0), (5, 0), (6, 0)]
    assert sum(many for state, _, many in store.counts(number) if state == 0) == 6
    (lease,) = store.claim("r2", 1)
    assert not lease.resumed, "who was refused did not get it"
    store.write(lease, [(2, 1, 0, 7, 1)], 5, 0, release=True)
    store.change("a", "cancel")
    store.repush("a", False, None, 0)
    assert codes() == [(1, 0), (3, 1), (4, 0), (5, 0), (6, 0)], "it holds until there is an outcome"
    monkeypatch.undo()
    store.claim("r3", 1)
    store.change("a", "cancel")
    desk.later(15_001)
    store.repush("a", False, None, 0)
    assert codes() == [(n, 1) for n in (1, 3, 4, 5, 6)], "fewer than a window"


def test_pages_of_tasks_begin_with_the_newest(desk: Desk) -> None:
    numbers = [desk.task("user:1", id=id) for id in "abc"]
    assert [task.id for task in desk.store.page(0, 2)] == ["c", "b"]
    assert [task.id for task in desk.store.page(numbers[1], 2)] == ["a"]


def test_old_tasks_and_broken_uploads_are_swept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "DELETE_ROWS", 3)
    store = desk.store
    desk.task(*[f"user:{n}" for n in range(1, 8)], id="old")
    store.change("old", "cancel")
    desk.task("user:1", id="runs")
    number = store.begin("broken", "", "", b"", 0, 0)
    store.add(number, [(1, "user:1", None)])
    assert store.sweep(1_000_000) == Drop(False, 0)
    desk.later(1_000_001)
    assert [store.sweep(1_000_000) for _ in range(4)] == [
        Drop(True, 0),
        Drop(True, 0),
        Drop(True, 1),
        Drop(False, 0),
    ]
    assert [task.id for task in store.page(0, 9)] == ["broken", "runs"]
    desk.later(stores.UPLOAD_MS)
    assert store.sweep(2**40) == Drop(True, 1)
    store.discard(number)
    assert [task.id for task in store.page(0, 9)] == ["runs"]
    store.change("runs", "cancel")
    assert store.sweep(-1) == Drop(True, 1)
    assert store.page(0, 9) == []
    with desk.database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM push_item")).scalar() == 0


@pytest.mark.parametrize("many", [2, 7], ids=["whole", "a-part"])
def test_a_task_is_pushed_again_or_swept_and_never_both(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """Somebody asks for it wherever the sweep lets others in."""
    monkeypatch.setattr(stores, "DELETE_ROWS", 3)
    number = desk.task(*[f"user:{n}" for n in range(1, many + 1)])
    desk.store.change("a", "cancel")
    desk.later(1_000)
    said: list[str] = []
    writing = desk.database.writing

    @contextmanager
    def asked_after() -> Iterator[Any]:
        with writing() as connection:
            yield connection
        monkeypatch.undo()
        try:
            said.append(desk.store.repush("a", False, None, 0).state)
        except (NoSuchTask, WrongState) as error:
            said.append(f"{error}")

    monkeypatch.setattr(desk.database, "writing", asked_after)
    assert desk.store.sweep(0).more
    assert said == (["deleting"] if many > 3 else [""])
    for what in ("pause", "resume", "cancel"):
        with pytest.raises((NoSuchTask, WrongState)):
            desk.store.change("a", what)
    while desk.store.sweep(2**40).more:
        pass  # what was begun is ended, however old it is
    assert desk.store.page(0, 9) == []
    assert desk.store.standing(number, range(6), 0, 9) == []


def test_only_uploads_are_discarded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have become a task after all: the answer that it had was lost."""
    monkeypatch.setattr(stores, "DELETE_ROWS", 3)
    number = desk.task(*[f"user:{n}" for n in range(1, 8)])
    desk.store.discard(number)
    assert len(desk.store.unsent(number, 0, 9)) == 7
    number = desk.store.begin("b", "", "service:shop", b"{}", 0, 0)
    desk.store.add(number, [(n, f"user:{n}", None) for n in range(1, 8)])
    desk.store.discard(number)
    assert [task.id for task in desk.store.page(0, 9)] == ["a"]
    assert desk.store.standing(number, range(6), 0, 9) == []


def test_an_upload_that_is_being_swept_becomes_no_task(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "DELETE_ROWS", 3)
    number = desk.store.begin("a", "", "service:shop", b"{}", 0, 0)
    desk.store.add(number, [(n, f"user:{n}", None) for n in range(1, 8)])
    desk.later(stores.UPLOAD_MS + 1)
    assert desk.store.sweep(2**40) == Drop(True, 0)
    with pytest.raises(NoSuchTask):
        desk.store.complete(number, 7, 0, "[]")
    assert desk.store.claim("r1", 1) == []


@pytest.mark.parametrize("is_swept", [True, False])
def test_an_upload_that_was_swept_takes_no_more_items(
    desk: Desk, is_swept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine stood still for long. Nobody would ever delete them."""
    monkeypatch.setattr(stores, "DELETE_ROWS", 1)
    number = desk.store.begin("up", "", "service:shop", b"{}", 0, 0)
    desk.store.add(number, [(n, f"user:{n}", None) for n in range(1, 4)])
    desk.later(stores.UPLOAD_MS + 60_000)
    desk.store.sweep(10**9)
    while is_swept and desk.store.sweep(10**9).more:
        pass
    with pytest.raises(NoSuchTask):
        desk.store.add(number, [(4, "user:4", None)])
    while desk.store.sweep(10**9).more:
        pass
    assert desk.store.standing(number, range(6), 0, 9) == []


def test_whoever_gives_a_task_back_leaves_the_right_counts(desk: Desk) -> None:
    """Also if those that it began with were wrong: else it would never be done."""
    number = desk.task("user:1", "user:2", "user:3")
    store = desk.store
    (lease,) = store.claim("r1", 1)
    assert store.write(lease, [(1, 1, 0, 7, 1)], 90, 80) == "running"
    assert store.write(lease, [(2, 2, 6, 0, 0)], 0, 0, release=True) == "running"
    assert (store.get("a").unsent, store.get("a").refused) == (1, 1)
    (lease,) = store.claim("r1", 1)
    assert store.write(lease, [(3, 2, 6, 0, 0)], 5, 5, release=True) == "done"
    assert (store.get("a").unsent, store.get("a").refused) == (0, 2)
    assert store.unsent(number, 0, 9) == []


def test_a_task_that_is_put_twice_is_there_once(desk: Desk) -> None:
    values = {"name": "n", "sender": "service:shop", "message": b"{}", "rate": 0.0, "at_ms": 5}
    rows = [(1, "user:1", None), (2, "user:2", '{"ttl_s":1}')]
    made = desk.store.put("p", values, rows)
    assert (made.state, made.total, made.unsent, made.at_ms, made.owner) == ("running", 2, 2, 5, "")
    assert desk.store.put("p", {**values, "name": "other"}, rows[:1]) == made
    assert [one.n for one in desk.store.unsent(made.number, 0, 9)] == [1, 2]
    assert desk.store.get("p") == made


def test_tables_of_another_version_are_refused(desk: Desk) -> None:
    with desk.database.engine.begin() as connection:
        connection.execute(update(tables.versions).values(version=99))
    desk.database.close()
    with pytest.raises(StoreError, match="version 99, and this imgateway knows 1"):
        desk.open()


def test_opened_again_everything_is_there(desk: Desk) -> None:
    desk.task("user:1")
    desk.database.close()
    _, store = desk.open()
    assert store.get("a").total == 1


# ------------------------------------------------------------------------------------- what is not the same


@pytest.mark.server
@pytest.mark.network
@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_of_two_routers_one_takes_the_task(request: pytest.FixtureRequest, kind: str) -> None:
    """Both read that it is free, then both take it."""
    desk = Desk(request.getfixturevalue(kind).url())
    desk.task("user:1")
    database, other = desk.open()
    second: list[Any] = []

    def meanwhile(connection: Any, clause: Any, *rest: Any) -> None:
        if str(clause).startswith("UPDATE push_task") and not second:
            second.append(None)
            second.append(desk.store.claim("quick", 1))

    sqlalchemy.event.listen(database.engine, "before_execute", meanwhile)
    try:
        assert other.claim("slow", 1) == []
        assert [lease.task.id for lease in second[1]] == ["a"]
        assert desk.store.get("a").owner == "quick"
    finally:
        for one in desk.opened:
            one.close()


@pytest.mark.server
@pytest.mark.network
@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_who_takes_a_task_knows_what_its_last_router_wrote_meanwhile(
    request: pytest.FixtureRequest, kind: str
) -> None:
    """It read that the lease had ended; then that router gives it back, with outcomes."""
    desk = Desk(request.getfixturevalue(kind).url())
    number = desk.task("user:1", "user:2", "user:3")
    (lapsed,) = desk.store.claim("slow", 1)
    database, other = desk.open()
    desk.later(LEASE_MS + 1)

    def meanwhile(connection: Any, clause: Any, *rest: Any) -> None:
        if str(clause).startswith("UPDATE push_task") and desk.store.get("a").unsent == 3:
            desk.store.write(lapsed, [(1, 1, 0, 7, 1), (2, 2, 6, 0, 0)], 1, 1, release=True)

    sqlalchemy.event.listen(database.engine, "before_execute", meanwhile)
    try:
        (lease,) = other.claim("quick", 1)
        assert (lease.task.unsent, lease.task.refused, lease.tenure) == (1, 1, lapsed.tenure + 1)
        assert [one.n for one in other.unsent(number, 0, 9)] == [3]
    finally:
        for one in desk.opened:
            one.close()


@pytest.mark.server
@pytest.mark.network
@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_a_task_that_is_pushed_again_while_the_sweep_looks_is_not_swept(
    request: pytest.FixtureRequest, kind: str
) -> None:
    desk = Desk(request.getfixturevalue(kind).url())
    number = desk.task("user:1", "user:2")
    desk.store.change("a", "cancel")
    database, other = desk.open()
    desk.later(1_000)
    said: list[str] = []

    def meanwhile(connection: Any, clause: Any, *rest: Any) -> None:
        if str(clause).startswith(("UPDATE push_task", "DELETE")) and not said:
            said.append(desk.store.repush("a", False, None, 0).state)

    sqlalchemy.event.listen(database.engine, "before_execute", meanwhile)
    try:
        assert other.sweep(0) == Drop(True, 0)
        assert said == ["running"]
        assert len(other.unsent(number, 0, 9)) == 2
        assert other.sweep(0) == Drop(False, 0)
    finally:
        for one in desk.opened:
            one.close()


@pytest.mark.server
@pytest.mark.network
@pytest.mark.parametrize("kind", [Postgres, MariaDB])
def test_a_server_that_was_killed_is_found_again_with_all_that_was_written(kind: type[SqlServer]) -> None:
    for server in served(kind):
        desk = Desk(server.url())
        number = desk.task("user:1", "user:2")
        (lease,) = desk.store.claim("r1", 1)
        desk.store.write(lease, [(1, 1, 0, 7, 1)], 1, 0)
        server.kill9()
        with pytest.raises(DBAPIError) as caught:
            desk.store.write(lease, [(2, 1, 0, 7, 2)], 0, 0)
        assert "\n" not in fault_text(caught.value)
        assert "user:" not in fault_text(caught.value)
        server.start()
        assert desk.store.write(lease, [(2, 1, 0, 7, 2)], 0, 0, True) == "done"
        assert [one.state for one in desk.store.standing(number, range(6), 0, 9)] == [1, 1]
        desk.database.close()


@pytest.mark.server
@pytest.mark.network
def test_a_server_that_is_away_at_the_start_is_no_wrong_setting(postgres: SqlServer) -> None:
    url = postgres.url().replace("host=", "host=/nowhere")
    with pytest.raises(DBAPIError):
        Store(Database(url, lambda: 0)).open()


def test_sqlite_is_for_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/tasks.db"
    desk = Desk(url)
    with pytest.raises(
        StoreError, match=r"tasks\.db: another process runs the push tasks.*router\.tasks_url"
    ):
        Store(Database(url, lambda: 0)).open()
    desk.store.close()
    Desk(url).store.close()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_in_sqlite_nobody_writes_while_another_commits(tmp_path: Path) -> None:
    """With a commit SQLite may move the log of changes."""
    desk = Desk(f"sqlite:///{tmp_path}/tasks.db")
    turn: Any = desk.database._turn
    alone: list[bool] = []
    sqlalchemy.event.listen(desk.database.engine, "commit", lambda connection: alone.append(turn.locked()))
    desk.task("user:1", "user:2")
    (lease,) = desk.store.claim("r1", 1)
    desk.store.write(lease, [], 1, 0)
    assert len(alone) > 3
    assert all(alone)
    assert not turn.locked()
    desk.database.close()


def test_sqlite_may_be_locked_before_it_is_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tasks.db"
    first, other = Store(Database(url, lambda: 0)), Store(Database(url, lambda: 0))
    first.lock()
    with pytest.raises(StoreError, match="another process runs the push tasks"):
        other.lock()
    assert not (tmp_path / "tasks.db").exists()
    first.open()
    first.close()
    other.lock()
    other.close()


def test_sqlite_by_another_name_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to("tasks.db")
    (tmp_path / "beside").symlink_to(tmp_path)
    first = Store(Database(f"sqlite:///{tmp_path}/tasks.db", lambda: 0))
    first.open()
    for name in ("link.db", "beside/tasks.db"):
        with pytest.raises(StoreError, match="another process runs the push tasks"):
            Store(Database(f"sqlite:///{tmp_path}/{name}", lambda: 0)).lock()
    first.close()


def test_the_lease_of_who_died_over_sqlite_is_free_at_once(tmp_path: Path) -> None:
    """It had the file's lock, too. What it pushed last it may not have written down."""
    desk = Desk(f"sqlite:///{tmp_path}/tasks.db")
    number = desk.task("user:1", "user:2")
    desk.task("user:3", id="b")
    desk.store.claim("r1", 1)
    desk.database.close()  # as the end of its process does
    _, store = desk.open()
    first, second = store.claim("r2", 2)
    assert (first.task.number, first.resumed, second.resumed) == (number, True, False)
    store.close()


@pytest.mark.server
@pytest.mark.network
def test_the_lease_of_another_router_stays_its_own(postgres: SqlServer) -> None:
    desk = Desk(postgres.url())
    desk.task("user:1")
    desk.store.claim("r1", 1)
    _, store = desk.open()
    assert store.claim("r2", 1) == []
    for database in desk.opened:
        database.close()


def test_sqlite_on_something_else_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tasks.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"tasks\.db: file is not a database"):
        Desk(f"sqlite:///{tmp_path}/tasks.db")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"x\.db\.lock: cannot be made: .*"):
        Desk(f"sqlite:///{tmp_path}/file/x.db")


def reads_nothing(connection: Any, record: Any) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    raise error


def takes_nothing(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA max_page_count = 1")


@pytest.mark.parametrize("fault", [reads_nothing, takes_nothing])
def test_a_disk_that_may_be_full_at_the_start_is_named(tmp_path: Path, fault: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/tasks.db", lambda: START_MS)
    event.listen(database.engine, "connect", fault)
    with pytest.raises(StoreError, match=r"tasks\.db: .*disk.*: if the disk is full, make room") as caught:
        database.open()
    assert "\n" not in str(caught.value)
    event.remove(database.engine, "connect", fault)
    database.open()  # and then it goes on
    database.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("no url", "is no database URL"),
        ("nonsense://x", "is no database URL"),
        ("postgresql+psycopg://user:pass@h:secret/d", "is no database URL"),
        ("oracle://user:secret@h/d", "names oracle"),
        ("postgresql+pg8000://user:secret@h/d", "names postgresql"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_that_cannot_be_used_names_its_setting_and_no_password(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^router\.tasks_url: {says}") as caught:
        Database(url, lambda: 0)
    assert "secret" not in str(caught.value)


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*rest: Any, **more: Any) -> None:
        raise ImportError

    monkeypatch.setattr("imgateway.router.tasks.database.create_engine", refuse)
    with pytest.raises(ConfigError, match=r"needs psycopg: pip install 'imgateway\[postgresql\]'"):
        Database("postgresql+psycopg://h/d", lambda: 0)
