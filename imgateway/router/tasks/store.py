"""Push tasks in the database: what is true of a task is what stands here.

Every method is one transaction, or several where its text says so, and blocks: it is called from a thread
(`threads.Threads`). A method that failed, or whose answer was lost, may be called again with the same
arguments: what it wrote already it writes the same way.

Whoever runs a task holds its lease: 15 s, told by the database's clock, renewed with all that it writes. With
SQLite, which one process uses, it ends with that process.
Taking a lease raises the task's tenure, and whoever writes names the tenure it has: one that was taken over
writes nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, and_, delete, func, insert, or_, select, text, update

from imgateway.frames import OutcomeCode
from imgateway.router.tasks.database import Database
from imgateway.router.tasks.tables import OWNER_CHARACTERS, ItemState, insert_sql, items, tasks, update_sql

__all__ = (
    "CHANGES",
    "LEASE_MS",
    "RESENT",
    "Drop",
    "Item",
    "Lease",
    "LeaseLost",
    "NoSuchTask",
    "Repushed",
    "Standing",
    "Store",
    "Task",
    "WrongState",
)

LEASE_MS = 15_000
RESENT = 5_000
"""The largest window that can be set: so many items may have been pushed by a router that died, the first of
those that have no outcome."""
# Rows that are deleted at a time: whoever else wants the table waits for no more than these.
DELETE_ROWS = 5_000
# An upload that is not complete after this long was broken off, with its process.
UPLOAD_MS = 3_600_000

CHANGES: Mapping[str, tuple[frozenset[str], str]] = {
    "pause": (frozenset({"running"}), "paused"),
    "resume": (frozenset({"paused"}), "running"),
    "cancel": (frozenset({"running", "paused"}), "cancelled"),
    "repush": (frozenset({"done", "cancelled"}), "running"),
}
"""What is asked for → the states in which it may be, and the one that follows. Uploading becomes running when
the upload is complete; running becomes done when every item has its outcome; what is old becomes deleting."""
OVER = ("done", "cancelled")
# Some of its items may be gone: it can be nothing else any more.
DELETING = "deleting"


class NoSuchTask(LookupError):
    """There is no task with this id."""


class WrongState(Exception):
    """What was asked for is not possible in the state (the text) that the task is in."""


class Repushed(Exception):
    """The task was pushed again since it was looked at."""


class LeaseLost(Exception):
    """Another router has the task, or it is gone."""


class Task(Struct, frozen=True):
    """A task as it stands. Times are Unix milliseconds, 0: not yet. `rate` 0: not limited."""

    number: int
    id: str
    name: str
    sender: str
    message: bytes
    rate: float
    at_ms: int
    state: str
    created_ms: int
    started_ms: int
    finished_ms: int
    total: int
    unsent: int
    refused: int
    bad: int
    bad_lines: str
    owner: str
    """Who runs it, if `until_ms`; else who may have pushed what is not written down: nobody knows."""
    tenure: int
    until_ms: int
    """The end of the lease; 0: nobody has it."""


class Lease(Struct, frozen=True):
    """The right to run a task. `resumed`: some of what has no outcome may have been pushed, by somebody who
    could not write it down."""

    task: Task
    tenure: int
    resumed: bool


class Item(Struct, frozen=True):
    """One address of a task that has no outcome. `own`: the line's own fields in JSON. `code`: DUPLICATE if
    it may have been pushed before the task was repushed, by somebody who could not write it down."""

    n: int
    address: str
    own: str | None
    attempt: int
    code: int = 0


class Standing(Struct, frozen=True):
    """One address of a task with what became of it."""

    n: int
    address: str
    state: int
    code: int
    epoch: int
    seq: int


class Drop(Struct, frozen=True):
    """What was deleted: whether there is more, and how many tasks went."""

    more: bool
    tasks: int


_TASK = [tasks.c[name] for name in Task.__struct_fields__]
_ITEM = [items.c[name] for name in Item.__struct_fields__]
_STANDING = [items.c[name] for name in Standing.__struct_fields__]


class Store:
    """The tasks of one database; see `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads = database.engine.execution_options(reads=True)
        dialect = database.dialect
        self._insert = text(insert_sql(dialect))
        self._write = text(update_sql(dialect, "state", "code", "epoch", "seq", when="1 = 1"))
        taken = f"push_item.state = {ItemState.TAKEN:d}"
        self._readdress = text(update_sql(dialect, "address", when="1 = 1"))
        self._judge = text(update_sql(dialect, "state", "seq", when=f"{taken} AND push_item.seq = j.seq"))

    def lock(self) -> None:
        """With SQLite: be the one process that uses it. :raises StoreError: another one does."""
        self._database.lock()

    def open(self) -> None:
        """Make the tables if there are none. :raises StoreError: with what mends it."""
        self._database.open()

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    # ---------------------------------------------------------------------------------------- making a task

    def begin(self, id: str, name: str, sender: str, message: bytes, rate: float, at_ms: int) -> int:
        """A task that is being uploaded; nobody runs it yet. At most one call makes it.

        :returns: its number.
        """
        with self._database.writing() as connection:
            found = connection.execute(select(tasks.c.number).where(tasks.c.id == id)).scalar()
            if found is not None:
                return int(found)
            values = {
                "id": id,
                "name": name,
                "sender": sender,
                "message": message,
                "rate": rate,
                "at_ms": at_ms,
                "state": "uploading",
                "created_ms": self._database.now_ms(connection),
            }
            made = connection.execute(insert(tasks).values(**values))
            key: Any = made.inserted_primary_key
            return int(key[0])

    def add(self, number: int, rows: Sequence[tuple[int, str, str | None]]) -> None:
        """Items of a task that is being uploaded: (n, address, own fields in JSON or None).

        :raises NoSuchTask: it took so long that it was taken for broken off.
        """
        uploading = and_(tasks.c.number == number, tasks.c.state == "uploading")
        with self._database.writing() as connection:
            # Kept as it is until the items are there: what is swept looks for no more of them.
            if connection.execute(select(tasks.c.number).where(uploading).with_for_update()).first() is None:
                raise NoSuchTask
            connection.execute(self._insert, {"task": number, "rows": _json(rows)})

    def readdress(self, number: int, rows: Sequence[tuple[int, str]]) -> None:
        """Items of a task that is being uploaded go to another address: (n, address)."""
        with self._database.writing() as connection:
            connection.execute(self._readdress, _batch(number, rows))

    def complete(self, number: int, total: int, bad: int, bad_lines: str) -> Task:
        """All lines were read: it runs when its time has come.

        :raises NoSuchTask: it took so long that it was taken for broken off.
        """
        with self._database.writing() as connection:
            connection.execute(
                update(tasks)
                .where(tasks.c.number == number, tasks.c.state == "uploading")
                .values(state="running", total=total, unsent=total, bad=bad, bad_lines=bad_lines)
            )
            return self._one(connection, and_(tasks.c.number == number, tasks.c.state != DELETING))

    def put(self, id: str, values: Mapping[str, Any], rows: Sequence[tuple[int, str, str | None]]) -> Task:
        """A whole task at once; if there is one with this id, that one instead.

        :param values: its name, sender, message, rate and at_ms.
        """
        with self._database.writing() as connection:
            if connection.execute(select(tasks.c.number).where(tasks.c.id == id)).scalar() is None:
                now = self._database.now_ms(connection)
                many = len(rows)
                whole = {**values, "id": id, "state": "running", "created_ms": now}
                made = connection.execute(insert(tasks).values(**whole, total=many, unsent=many))
                key: Any = made.inserted_primary_key
                connection.execute(self._insert, {"task": int(key[0]), "rows": _json(rows)})
            return self._one(connection, tasks.c.id == id)

    def discard(self, number: int) -> None:
        """Delete an upload with all its items; in several transactions, and no error if it is gone, or has
        become a task after all."""
        more = True
        while more:
            with self._database.writing() as connection:
                more = self._delete_some(connection, number, tasks.c.state.in_(("uploading", DELETING))).more

    # ---------------------------------------------------------------------------------------- looking at it

    def get(self, id: str) -> Task:
        """:raises NoSuchTask:"""
        with self._reads.connect() as connection:
            return self._one(connection, tasks.c.id == id)

    def page(self, before: int, limit: int) -> list[Task]:
        """Tasks from the newest on, below this number (0: all)."""
        wanted = select(*_TASK).order_by(tasks.c.number.desc()).limit(limit)
        if before:
            wanted = wanted.where(tasks.c.number < before)
        with self._reads.connect() as connection:
            return [Task(*row) for row in connection.execute(wanted)]

    def counts(self, number: int) -> list[tuple[int, int, int]]:
        """(state, code, how many) of a task's items."""
        wanted = (
            select(items.c.state, items.c.code, func.count())
            .where(items.c.task == number)
            .group_by(items.c.state, items.c.code)
        )
        with self._reads.connect() as connection:
            return [(int(state), int(code), int(many)) for state, code, many in connection.execute(wanted)]

    def standing(self, number: int, states: Iterable[int], after: int, limit: int) -> list[Standing]:
        """Items in these states, in their order, above n = `after`."""
        wanted = (
            select(*_STANDING)
            .where(items.c.task == number, items.c.n > after, items.c.state.in_(list(states)))
            .order_by(items.c.n)
            .limit(limit)
        )
        with self._reads.connect() as connection:
            return [Standing(*row) for row in connection.execute(wanted)]

    def judge(self, number: int, rows: Sequence[tuple[int, int, int]]) -> None:
        """What became of items that were taken: (n, state, seq). What is pushed anew is left alone."""
        with self._database.writing() as connection:
            connection.execute(self._judge, _batch(number, rows))

    # -------------------------------------------------------------------------------------------- changing it

    def change(self, id: str, what: str) -> Task:
        """Pause, resume or cancel a task; what was done already is no error.

        :raises NoSuchTask:
        :raises WrongState:
        """
        allowed, wanted = CHANGES[what]
        with self._database.writing() as connection:
            task = self._one(connection, tasks.c.id == id, lock=True)
            if task.state == wanted:
                return task
            if task.state not in allowed:
                raise WrongState(task.state)
            values: dict[str, Any] = {"state": wanted}
            if wanted in OVER:
                values["finished_ms"] = self._database.now_ms(connection)
            connection.execute(update(tasks).where(tasks.c.number == task.number).values(**values))
            return self._one(connection, tasks.c.number == task.number)

    def repush(
        self, id: str, as_new: bool, rate: float | None, at_ms: int, ended_ms: int | None = None
    ) -> Task:
        """Push what was not delivered, after `judge` has said what was: what was never pushed or was refused
        as it was meant to be, what was lost as a new message; what waits in a mailbox, and what nobody can
        tell, only if `as_new`, as a second message.

        :param ended_ms: the end (`finished_ms`) after which it is meant; None: whichever.
        :raises NoSuchTask:
        :raises Repushed: that is not its last end.
        :raises WrongState: it is not over yet, or still finishing what was on its way.
        """
        lost = [ItemState.GONE, ItemState.TAKEN, ItemState.UNKNOWN] if as_new else [ItemState.GONE]
        with self._database.writing() as connection:
            task = self._one(connection, tasks.c.id == id, lock=True)
            if ended_ms is not None and task.finished_ms != ended_ms:
                raise Repushed
            if task.state not in CHANGES["repush"][0] or self._is_held(connection, task):
                raise WrongState(task.state)
            if task.owner:
                self._doubt(connection, task.number)
            mine = update(items).where(items.c.task == task.number)
            unsent = mine.values(state=int(ItemState.UNSENT), code=0, epoch=0, seq=0)
            # A refused id was not used up: who has the message by another line, or another task with its
            # msg_id, has no second one.
            connection.execute(unsent.where(items.c.state == int(ItemState.REFUSED)))
            connection.execute(unsent.where(items.c.state.in_(lost)).values(attempt=items.c.attempt + 1))
            values: dict[str, Any] = {
                **self._counted(connection, task.number),
                "state": CHANGES["repush"][1],
                "finished_ms": 0,
                "at_ms": at_ms,
                "owner": "",
                # What the last tenure may still try to write is about the old attempt.
                "tenure": task.tenure + 1,
            }
            if rate is not None:
                values["rate"] = rate
            connection.execute(update(tasks).where(tasks.c.number == task.number).values(**values))
            return self._one(connection, tasks.c.number == task.number)

    # --------------------------------------------------------------------------------------------- running it

    def claim(self, owner: str, limit: int) -> list[Lease]:
        """Take up to `limit` tasks whose time has come and that nobody runs, the oldest first.

        :param owner: of one that is too long the end is kept, which tells processes apart.
        """
        owner = owner[-OWNER_CHARACTERS:]
        found = []
        with self._database.writing() as connection:
            now = self._database.now_ms(connection)
            waits = and_(tasks.c.state == "running", tasks.c.at_ms <= now, tasks.c.until_ms <= now)
            wanted = select(*_TASK).where(waits).order_by(tasks.c.number).limit(limit)
            for row in connection.execute(wanted).all():
                task = Task(*row)
                taken = connection.execute(
                    update(tasks)
                    .where(tasks.c.number == task.number, tasks.c.tenure == task.tenure, waits)
                    .values(
                        owner=owner,
                        tenure=task.tenure + 1,
                        until_ms=now + LEASE_MS,
                        started_ms=task.started_ms or now,
                    )
                )
                if taken.rowcount == 1:  # or another router was quicker
                    # As it is now: who had it last may have written more before its end.
                    mine = self._one(connection, tasks.c.number == task.number)
                    found.append(Lease(mine, mine.tenure, task.owner != ""))
        return found

    def unsent(self, number: int, after: int, limit: int) -> list[Item]:
        """Items that have no outcome yet, in their order, above n = `after`."""
        wanted = (
            select(*_ITEM)
            .where(items.c.task == number, items.c.n > after, items.c.state == int(ItemState.UNSENT))
            .order_by(items.c.n)
            .limit(limit)
        )
        with self._reads.connect() as connection:
            return [Item(*row) for row in connection.execute(wanted)]

    def write(
        self,
        lease: Lease,
        rows: Sequence[tuple[int, int, int, int, int]],
        unsent: int,
        refused: int,
        release: bool = False,
        in_doubt: bool = False,
    ) -> str:
        """Outcomes, (n, state, code, epoch, seq), with the counts that the task has with them; renews the
        lease, or gives it back. Then it is counted anew, and with nothing unsent the task is done.

        :param in_doubt: what is unsent may have been pushed: whoever takes the task next has it `resumed`.

        :returns: the state that the task is in.
        :raises LeaseLost: and nothing was written.
        """
        number = lease.task.number
        with self._database.writing() as connection:
            held = and_(tasks.c.number == number, tasks.c.tenure == lease.tenure)
            wanted = select(tasks.c.state, tasks.c.until_ms).where(held).with_for_update()
            found = connection.execute(wanted).first()
            if found is None:
                raise LeaseLost
            state = str(found.state)
            if not release and not found.until_ms:
                raise LeaseLost  # given back already
            if rows:
                connection.execute(self._write, _batch(number, rows))
            now = self._database.now_ms(connection)
            values: dict[str, Any] = {"unsent": unsent, "refused": refused, "until_ms": now + LEASE_MS}
            if release:
                values = {**self._counted(connection, number), "until_ms": 0}
                if not (in_doubt and values["unsent"]):
                    values["owner"] = ""
                if state == "running" and not values["unsent"]:
                    state = "done"
                    values |= {"state": state, "finished_ms": now}
            connection.execute(update(tasks).where(held).values(**values))
            return state

    def sweep(self, keep_ms: int) -> Drop:
        """Delete a little of one task that has been over for `keep_ms`, or whose upload was broken off."""
        with self._database.writing() as connection:
            now = self._database.now_ms(connection)
            old = or_(
                and_(tasks.c.state.in_(OVER), tasks.c.finished_ms < now - keep_ms),
                and_(tasks.c.state == "uploading", tasks.c.created_ms < now - UPLOAD_MS),
                tasks.c.state == DELETING,
            )
            wanted = select(tasks.c.number).where(old).order_by(tasks.c.number).limit(1)
            number = connection.execute(wanted).scalar()
            if number is None:
                return Drop(False, 0)
            return Drop(True, self._delete_some(connection, number, old).tasks)

    # --------------------------------------------------------------------------------------------------------

    def _one(self, connection: Connection, which: Any, lock: bool = False) -> Task:
        wanted = select(*_TASK).where(which)
        row = connection.execute(wanted.with_for_update() if lock else wanted).first()
        if row is None:
            raise NoSuchTask
        return Task(*row)

    def _is_held(self, connection: Connection, task: Task) -> bool:
        """Somebody still writes down what was on its way when it was cancelled."""
        return task.until_ms > self._database.now_ms(connection)

    def _counted(self, connection: Connection, number: int) -> dict[str, int]:
        """The counts of a task as its items have them."""
        wanted = select(items.c.state, func.count()).where(items.c.task == number).group_by(items.c.state)
        many: dict[int, int] = {int(state): int(count) for state, count in connection.execute(wanted)}
        return {"unsent": many.get(ItemState.UNSENT, 0), "refused": many.get(ItemState.REFUSED, 0)}

    def _doubt(self, connection: Connection, number: int) -> None:
        """Note at the items themselves which may have been pushed: from now on others stand before them."""
        unsent = and_(items.c.task == number, items.c.state == int(ItemState.UNSENT))
        beyond = select(items.c.n).where(unsent).order_by(items.c.n).limit(1).offset(RESENT)
        n = connection.execute(beyond).scalar()
        doubted = update(items).where(unsent).values(code=int(OutcomeCode.DUPLICATE))
        connection.execute(doubted if n is None else doubted.where(items.c.n < n))

    def _delete_some(self, connection: Connection, number: int, which: Any) -> Drop:
        """Delete a little of a task, if it is one of these; from then on nobody can do anything with it."""
        mine = tasks.c.number == number
        marked = connection.execute(update(tasks).where(mine, which).values(state=DELETING))
        if not marked.rowcount:
            return Drop(False, 0)  # it is gone, or was pushed again meanwhile
        last = (
            select(items.c.n).where(items.c.task == number).order_by(items.c.n).limit(1).offset(DELETE_ROWS)
        )
        n = connection.execute(last).scalar()
        some = delete(items).where(items.c.task == number)
        connection.execute(some if n is None else some.where(items.c.n < n))
        if n is not None:
            return Drop(True, 0)
        connection.execute(delete(tasks).where(mine))
        return Drop(False, 1)


def _batch(number: int, rows: Sequence[Any]) -> dict[str, Any]:
    places = [row[0] for row in rows]
    return {"task": number, "rows": _json(rows), "low": min(places), "high": max(places)}


def _json(rows: Sequence[Any]) -> str:
    return msgspec.json.encode(rows).decode()
