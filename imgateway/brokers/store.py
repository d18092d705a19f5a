"""The writer: batches of appends and changes become commits. Everything here runs in the writer's thread.

Most commits go to the journal; one that must go to the logs takes along what waits of the same logs. How
messages get in is told in `rows`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence

from imgateway.brokers.appends import Append, Batch
from imgateway.brokers.journal import Journal, merge
from imgateway.brokers.retention import Positions, Retention
from imgateway.brokers.rows import ENTER, INSERT_PLAIN, MOVE, PLAIN_BYTES, Row, packed, write_special
from imgateway.brokers.schema import Database
from imgateway.config import RetentionSettings
from imgateway.frames import LogKey, OutcomeCode, address_text

__all__ = ("Logbook", "Store")

# States of logs kept in memory; they are read again when needed.
MAX_LOGBOOKS = 200_000
# Logs that one step of the sweep moves: about a millisecond.
SWEEP_LOGS = 25
# The last number that a log can give: an entry's key has it in its lower half, and the log's id above.
LAST_SEQ = 0xFFFFFFFF
# Digests kept of logs that somebody sent to again, some 200 bytes each; more, if one log may hold more.
MAX_OLDER = 200_000


class Logbook:
    """The state of one log in the writer's memory."""

    __slots__ = ("after", "bytes", "entries", "fresh", "head", "id", "log", "taken")

    def __init__(self, log: LogKey, id: int, head: int, entries: int, size: int, fresh: bool) -> None:
        self.log = log
        self.id = id
        self.head = self.after = head
        self.entries = entries
        self.bytes = size
        """`after`: the newest committed seq; up to `head`: what the commit of the moment brings."""
        self.fresh = fresh
        """Not in the database yet."""
        self.taken: list[Append] = []


class Store:
    """One connection that writes.

    :param journal: where commits wait until they are moved to their logs; in memory it stays empty.
    :param now_ms: wall clock that does not go back, in milliseconds.
    :param dedup_ms: how long digests count.
    :param positions: called with a log from the writer's thread.
    """

    def __init__(
        self,
        database: Database,
        journal: Journal,
        retention: RetentionSettings,
        dedup_ms: int,
        now_ms: Callable[[], int],
        positions: Positions,
    ) -> None:
        self._database = database
        self._journal = journal
        self._limits = retention
        self._dedup_ms = dedup_ms
        self._now_ms = now_ms
        self._retention = Retention(retention, dedup_ms, positions)
        self._connection: sqlite3.Connection | None = None
        self._books: dict[LogKey, Logbook] = {}
        self._glanced: list[LogKey] = []  # looked at for something else than an append: not worth keeping
        self._older: dict[LogKey, tuple[int, dict[str, int]]] = {}
        self._older_size = 0
        self._next_log = 1
        self._swept = 0
        self.number = 0
        """The number of the newest commit."""

    # ------------------------------------------------------------------------------------------------ commits

    def commit(self, batch: Batch) -> None:
        """Write all of it or nothing. :raises Exception: it is not known to be written; to be tried again
        with the same batch."""
        with self._database.writing:
            self._commit(batch)

    def _commit(self, batch: Batch) -> None:
        try:
            connection = self._ready()
            if batch.number and batch.number == self.number:
                return  # the commit that looked failed was not
            books = self._number(connection, batch)
            batch.number = self.number + 1
            self._write(connection, batch, books)
        except BaseException:
            self.drop()
            raise
        self.number = batch.number
        for book in books:
            book.after = book.head
        for log in self._glanced:
            self._books.pop(log, None)
        self._glanced.clear()
        if len(self._books) > MAX_LOGBOOKS:
            self._books.clear()

    def sweep(self) -> tuple[bool, list[LogKey]]:
        """Move a little of what has waited since the sweep before, which is little beside much traffic; when
        nothing of it is left, delete a little of what is past its time.

        :returns: whether there is more, and the logs that lost something.
        :raises Exception: to be tried again.
        """
        with self._database.writing:
            return self._sweep()

    def _sweep(self) -> tuple[bool, list[LogKey]]:
        try:
            connection = self._ready()
            journal = self._journal
            if moving := journal.waiting(self._swept, SWEEP_LOGS):
                self._move(connection, moving)
                return True, []
            if not journal.runs and 0 < journal.first <= self._swept:
                self._merge(connection)  # rows of changes, which have but their numbers
            more, touched = self._retention.sweep(connection, self._now_ms())
        except BaseException:
            self.drop()
            raise
        if not more:
            self._swept = self.number
        for log in touched:
            self._books.pop(log, None)
        return more, touched

    def drop(self) -> None:
        """Forget the connection and all that was read through it; the next use begins anew."""
        self._database.drop(self._connection)
        self._connection = None
        self._books.clear()
        self._glanced.clear()
        self._forget_older()

    def book(self, connection: sqlite3.Connection, log: LogKey) -> Logbook:
        """The state of a log, in the database from now on."""
        book = self._books.get(log) or self._load(connection, log)
        if book.fresh:
            self._enter(connection, book)
        self._glanced.append(log)
        return book

    def find(self, connection: sqlite3.Connection, log: LogKey) -> Logbook | None:
        """The state of a log; None if it is not in the database: nothing was ever sent to it."""
        book = self._books.get(log)
        if book is None:
            book = self._find(connection, log)
            if book is not None:
                self._books[log] = book
                self._glanced.append(log)
        return None if book is None or book.fresh else book

    def position(self, connection: sqlite3.Connection, log: LogKey) -> tuple[int, int]:
        """(first, head) of a log."""
        book = self.find(connection, log)
        if book is None:
            return 1, 0
        first = connection.execute(
            "SELECT key FROM entry WHERE key > ? AND key < ? ORDER BY key LIMIT 1", _span(book.id)
        ).fetchone()
        run = self._journal.runs.get(book.id)
        begin = (book.after if run is None else run.after) + 1
        # Of what the commit of the moment brings, a later message may be in the log before an earlier one.
        return min(first[0] & 0xFFFFFFFF, begin) if first else begin, book.head

    # ---------------------------------------------------------------------------------------------- internals

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = self._database.open()
            self._connection = connection
            self._merge(connection)  # a commit of unknown fate may be there
            self.number, self._next_log = connection.execute(
                "SELECT at_ms, 1 + (SELECT coalesce(max(id), 0) FROM log) FROM entry WHERE key = 0"
            ).fetchone()
        return self._connection

    def _number(self, connection: sqlite3.Connection, batch: Batch) -> list[Logbook]:
        """Decide what becomes of every append; the database is only asked.

        :returns: the state of the logs that take some, as in `batch.touched`.
        """
        batch.now_ms = now_ms = self._now_ms()
        codes: list[int] = []
        seqs: list[int] = []
        batch.codes, batch.seqs = codes, seqs  # but `trimmed` stays: room made for a failed try is made
        books = self._books
        max_entries, max_bytes = self._limits.entries, self._limits.bytes
        touched: list[Logbook] = []
        for append in batch.appends:
            log = append.log
            book = books.get(log) or self._load(connection, log)
            if append.shared is not None:
                append.shared.refs = 0
            if append.ask_disk and (seq := self._taken_before(connection, append, book, now_ms)):
                codes.append(OutcomeCode.DUPLICATE)
                seqs.append(seq)
                continue
            size = len(append.encoded)
            if (book.entries >= max_entries or book.bytes + size > max_bytes) and not self._make_room(
                connection, log, book, size, batch
            ):
                codes.append(OutcomeCode.FULL)
                seqs.append(0)
                continue
            taken = book.taken
            if not taken:
                # For all that the commit may bring to the log, so that it is asked once and not for each.
                if book.head + len(batch.appends) > LAST_SEQ:
                    batch.spent.add(log)
                    codes.append(OutcomeCode.FULL)
                    seqs.append(0)
                    continue
                touched.append(book)
            taken.append(append)
            book.head = seq = book.head + 1
            book.entries += 1
            book.bytes += size
            codes.append(0)
            seqs.append(seq)
        batch.touched = [(book.log, book.after, book.head, book.taken) for book in touched]
        for book in touched:
            book.taken = []
        return touched

    def _write(self, connection: sqlite3.Connection, batch: Batch, books: Sequence[Logbook]) -> None:
        plain: list[Row] = []
        special: list[tuple[int, Append]] = []
        fresh: list[Logbook] = []
        for book, (_, after, _, appends) in zip(books, batch.touched, strict=True):
            if book.fresh:
                fresh.append(book)
            key = book.id << 32 | after
            for append in appends:
                key += 1
                if (
                    append.ttl_ms
                    or append.only_device
                    or append.except_device
                    or append.shared is not None
                    or len(append.encoded) >= PLAIN_BYTES - 8
                ):
                    special.append((key, append))
                    if append.shared is not None:
                        append.shared.refs += 1
                else:
                    plain.append((key, append.digest, append.encoded))
        if not (plain or special or fresh or batch.changes):
            batch.number = self.number  # all refused: nothing to write
            return
        number, journal = batch.number, self._journal
        values, size = packed(plain, number, batch.now_ms)
        to_logs = bool(special) or self._database.in_memory or not journal.takes(len(plain), size)
        moving: list[int] | None
        if to_logs:
            moving = [book.id for book in books if book.id in journal.runs] or None
            statement = INSERT_PLAIN
        else:
            moving = journal.overdue(number, len(plain), size)
            statement = ENTER
        if special or fresh or batch.changes or moving is not None:
            connection.execute("BEGIN IMMEDIATE")
            for book in fresh:
                self._enter(connection, book)
            if moving is not None:
                self._move_now(connection, moving, number)
            if special:
                write_special(connection, special, batch.now_ms)
            for change in batch.changes:
                change.result = change.apply(connection)
            connection.execute(statement, values)
            connection.execute("COMMIT")
        else:
            connection.execute(statement, values)
        if moving is not None:
            journal.moved(moving)
        if to_logs:
            journal.passed()
        else:
            touched = zip(books, batch.touched, strict=True)
            journal.entered(
                number, batch.now_ms, [(book.id, after, appends) for book, (_, after, _, appends) in touched]
            )
        journal.sample([book.id for book in books], len(plain) + len(special))

    def _merge(self, connection: sqlite3.Connection) -> None:
        """Between commits: all that is in the journal to its logs."""
        connection.execute("BEGIN IMMEDIATE")
        merge(connection)
        connection.execute("COMMIT")
        self._journal.merged()

    def _move(self, connection: sqlite3.Connection, moving: list[int]) -> None:
        """Between commits: what waits of these to their logs."""
        connection.execute("BEGIN IMMEDIATE")
        self._move_now(connection, moving, self.number)
        connection.execute("COMMIT")
        self._journal.moved(moving)

    def _move_now(self, connection: sqlite3.Connection, moving: list[int], number: int) -> None:
        """Within a transaction. :param number: of the newest commit, from now on."""
        journal = self._journal
        if moving:
            values, _ = packed(journal.rows(moving), number, 0)
            connection.execute(MOVE, values)
        if needed := journal.needed(moving):
            connection.execute("DELETE FROM journal WHERE number < ?", (needed,))
        else:
            connection.execute("DELETE FROM journal")

    def _enter(self, connection: sqlite3.Connection, book: Logbook) -> None:
        connection.execute(
            "INSERT INTO log (id, address, lane) VALUES (?, ?, ?)",
            (book.id, address_text(book.log.address), book.log.lane),
        )
        book.fresh = False

    def _load(self, connection: sqlite3.Connection, log: LogKey) -> Logbook:
        book = self._find(connection, log)
        if book is None:
            book = Logbook(log, self._next_log, 0, 0, 0, True)
            self._next_log += 1
        self._books[log] = book
        return book

    def _find(self, connection: sqlite3.Connection, log: LogKey) -> Logbook | None:
        found = connection.execute(
            "SELECT id, head FROM log WHERE address = ? AND lane = ?", (address_text(log.address), log.lane)
        ).fetchone()
        if found is None:
            return None
        id, head = found
        entries, size, newest = connection.execute(
            "SELECT count(*), coalesce(sum(size + coalesce(length(message), 0)), 0),"
            " coalesce(max(key), 0) FROM entry WHERE key > ? AND key < ?",
            _span(id),
        ).fetchone()
        head = max(head, newest & 0xFFFFFFFF)
        run = self._journal.runs.get(id)
        if run is None:
            return Logbook(log, id, head, entries, size, False)
        size += sum(map(len, run.messages))
        return Logbook(log, id, run.upto, entries + len(run.messages), size, False)

    def _taken_before(
        self, connection: sqlite3.Connection, append: Append, book: Logbook, now_ms: int
    ) -> int:
        """The seq that a resent message has already, or 0. The digests of a log's entries have no index: they
        are read once, later only newer ones. Of what was trimmed there may be a day's traffic: it has one."""
        if self._older_size > max(MAX_OLDER, 2 * self._limits.entries):
            self._forget_older()
        upto, known = self._older.get(append.log) or (0, {})
        oldest_ms = now_ms - self._dedup_ms
        if upto < book.after:
            (found,) = connection.execute(
                "SELECT json_group_object(hex(digest), key & 4294967295) FROM entry"
                " WHERE key > ? AND key <= ? AND at_ms >= ?",
                (book.id << 32 | upto, book.id << 32 | book.after, oldest_ms),
            ).fetchone()
            newer = json.loads(found)
            run = self._journal.runs.get(book.id)
            if run is not None:
                newer |= {head[-8:].hex().upper(): seq for seq, _, head in run.beyond(upto)}
            known.update(newer)
            self._older_size += len(newer)
            self._older[append.log] = (book.after, known)
        if (seq := known.get(append.digest.hex().upper())) is not None:
            return seq
        (key,) = connection.execute(
            "SELECT max(key) FROM trimmed WHERE digest = ? AND key > ? AND key < ? AND at_ms >= ?",
            (append.digest, *_span(book.id), oldest_ms),
        ).fetchone()
        return int(key or 0) & 0xFFFFFFFF

    def _forget_older(self) -> None:
        self._older.clear()
        self._older_size = 0

    def _make_room(
        self, connection: sqlite3.Connection, log: LogKey, book: Logbook, size: int, batch: Batch
    ) -> bool:
        """Over quota: drop what everybody has. What this batch takes is not on disk and stays counted."""
        limits = self._limits
        if book.id in self._journal.runs:
            self._move(connection, [book.id])
        while True:  # a step takes a bounded number of rows, and what is expired before all else
            removed, freed = self._retention.make_room(connection, log, book.id, size, batch.now_ms)
            if removed:
                batch.trimmed.append(log)
            book.entries -= removed
            book.bytes -= freed
            if book.entries < limits.entries and book.bytes + size <= limits.bytes:
                return True
            if not removed:
                return False


def _span(log_id: int) -> tuple[int, int]:
    """The keys of a log lie between these."""
    return log_id << 32, (log_id + 1) << 32
