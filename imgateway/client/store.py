"""The file beside a client: its outbox, and how far it has got. Being killed loses and repeats nothing.

SQLite, locked for as long as it is open. Changes are collected and written by `commit`, so that all that one
reactor turn did costs one transaction. What must survive the power is synced: a publish before it is sent,
and that it may have been. A position need only survive the process, which a commit to the write-ahead log
does without waiting for the disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from imgateway.client.place import FILTER_SIZE, MessageId
from imgateway.errors import StoreError
from imgateway.frames import LogKey, Publish, address_text, parse_address

__all__ = ("ClientStore", "device_for")

TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    n INTEGER PRIMARY KEY AUTOINCREMENT, msg_id TEXT NOT NULL UNIQUE, publish BLOB NOT NULL, first_sent REAL);
CREATE TABLE IF NOT EXISTS place (log TEXT PRIMARY KEY, epoch TEXT NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS shown (
    n INTEGER PRIMARY KEY AUTOINCREMENT, log TEXT NOT NULL, ident TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS shown_log ON shown (log, n);
"""
VERSION = 1
TRIM_EVERY = 200
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Publish).decode


def _log_text(log: LogKey) -> str:
    return f"{log.lane} {address_text(log.address)}"


def _log(text: str) -> LogKey:
    lane, _, address = text.partition(" ")
    return LogKey(parse_address(address), int(lane))


def _ident(text: str) -> MessageId:
    sender, device, msg_id = text.split("\n", 2)
    return sender, device, msg_id


def device_for(device: str, stores: Iterable[ClientStore]) -> str:
    """Which device Hello names: `device`, or where that is empty the one that the files belong to.

    So it is known before their positions are named. Named for another device of the user they would count as
    its acknowledgements, and it would never get what it has not read.

    :raises StoreError: a file is another device's.
    """
    for store in stores:
        owner = store.owner()
        if owner:
            theirs = parse_address(owner).device
            if device and device != theirs:
                raise StoreError(f"{store.path} belongs to {owner} and not to the device {device}")
            device = theirs
    return device


class ClientStore:
    """One client's file, made with mode 0600 if it is not there.

    :raises StoreError: it is in use, or of another version or program; it cannot be read, or not be made.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._todo: list[tuple[str, tuple[object, ...]]] = []
        self._sent: dict[str, float | None] = {}
        self._must_sync = False
        self._shown_since_trim: dict[str, int] = {}
        try:
            if not os.path.exists(path):
                # Never opened when it exists: closing a second descriptor would drop the locks of the first.
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open {path}: {error}") from None
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            [version] = self._db.execute("PRAGMA user_version").fetchone()
            self._check_made_by_us(version)  # before anything is written
            self._db.execute("PRAGMA journal_mode = WAL")
            if version != VERSION:  # else nothing is written: a full disk keeps nobody out
                tables = f"BEGIN EXCLUSIVE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
                self._db.executescript(tables)
            self._owner = self._read_owner()
        except sqlite3.Error as error:
            self._db.close()
            if "locked" in str(error):
                raise StoreError(
                    f"{path} is in use by another client: close that one or name another file"
                ) from None
            # What SQLite says of the disk is an OperationalError.
            remedy = "make room" if isinstance(error, sqlite3.OperationalError) else "mend or remove it"
            raise StoreError(f"cannot use {path}: {error}: {remedy}") from None
        except StoreError:
            self._db.close()
            raise

    def _check_made_by_us(self, version: int) -> None:
        """:raises StoreError: it was not, or by another version."""
        theirs = "" if version in (0, VERSION) else f"its version is {version}"
        if version == 0:
            tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            names = {str(row[0]) for row in self._db.execute(tables)}
            others = sorted(names - {"about", "outbox", "place", "shown"})
            theirs = f"it has a table {others[0]}" if others else ""
        if theirs:
            raise StoreError(
                f"{self.path} was made by another version or another program ({theirs}): "
                "use it with that, or name another file"
            )

    # ----------------------------------------------------------------------------------------- reading

    def publishes(self) -> Iterator[tuple[Publish, float | None]]:
        """What was not settled, in order, with the gateway's time at which it may first have been sent."""
        with self._readable():
            for packed, first_sent in self._db.execute("SELECT publish, first_sent FROM outbox ORDER BY n"):
                yield _unpack(packed), first_sent

    def places(self) -> Iterator[tuple[LogKey, int, int, list[MessageId]]]:
        """Log, epoch, seq, and the newest ids that were shown from it, oldest first."""
        with self._readable():
            for text, epoch, seq in self._db.execute("SELECT log, epoch, seq FROM place").fetchall():
                rows = self._db.execute(
                    "SELECT ident FROM shown WHERE log = ? ORDER BY n DESC LIMIT ?", (text, FILTER_SIZE)
                ).fetchall()
                idents = [_ident(row[0]) for row in reversed(rows)]
                yield _log(text), int(epoch), seq, idents

    def owner(self) -> str:
        """Which session this file belongs to; empty: none yet."""
        return self._owner

    def _read_owner(self) -> str:
        with self._readable():
            row = self._db.execute("SELECT value FROM about WHERE key = 'session'").fetchone()
            if row is None:
                return ""
            parse_address(row[0])
            return str(row[0])

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """:raises StoreError: what is read is not what was written."""
        try:
            yield
        except (sqlite3.Error, TypeError, ValueError) as error:  # msgspec's own are ValueErrors
            raise StoreError(f"{self.path} is damaged: {error}: mend or remove it") from None

    # ----------------------------------------------------------------------------------------- changes

    def own(self, session: str) -> None:
        """Said again, too: whether the file can be written then shows before there is a position to write."""
        self._owner = session
        self._todo.append(("INSERT OR REPLACE INTO about VALUES ('session', ?)", (session,)))

    def put(self, publish: Publish) -> None:
        """To be on disk before it is sent."""
        self._todo.append(
            ("INSERT INTO outbox (msg_id, publish) VALUES (?, ?)", (publish.msg_id, _pack(publish)))
        )
        self._must_sync = True

    def sent(self, msg_id: str, server_s: float | None) -> None:
        """From here on it may have been sent: its dedup time runs, by the gateway's clock. None: it was not.

        Lost with the power, it would leave as one that was never sent, however late.
        """
        self._sent[msg_id] = server_s  # once for each: a full disk may outlast many links
        self._must_sync = True

    def drop(self, msg_id: str) -> None:
        """It is settled. If this is lost, it is sent again and found to be a repeat."""
        self._sent.pop(msg_id, None)
        self._todo.append(("DELETE FROM outbox WHERE msg_id = ?", (msg_id,)))

    def took(self, log: LogKey, epoch: int, seq: int) -> None:
        self._todo.append(
            ("INSERT OR REPLACE INTO place VALUES (?, ?, ?)", (_log_text(log), str(epoch), seq))
        )

    def forget(self, log: LogKey) -> None:
        """Its place and what was shown of it."""
        text = _log_text(log)
        for table in ("place", "shown"):
            self._todo.append((f"DELETE FROM {table} WHERE log = ?", (text,)))

    def showed(self, log: LogKey, ident: MessageId) -> None:
        text = _log_text(log)
        self._todo.append(("INSERT INTO shown (log, ident) VALUES (?, ?)", (text, "\n".join(ident))))
        # The first of a run trims as well: each may be a short one.
        count = self._shown_since_trim[text] = self._shown_since_trim.get(text, TRIM_EVERY - 1) + 1
        if count >= TRIM_EVERY:
            self._shown_since_trim[text] = 0
            trim = (
                "DELETE FROM shown WHERE log = ? AND n <= "
                "(SELECT n FROM shown WHERE log = ? ORDER BY n DESC LIMIT 1 OFFSET ?)"
            )
            self._todo.append((trim, (text, text, FILTER_SIZE)))

    def commit(self) -> None:
        """Write what was collected.

        :raises StoreError: the disk did not take it; it stays collected, for the next call.
        """
        if not (self._todo or self._sent):
            return
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self._must_sync else 'NORMAL'}")
            self._db.execute("BEGIN")
            for statement, values in self._todo:
                self._db.execute(statement, values)
            for msg_id, server_s in self._sent.items():
                self._db.execute("UPDATE outbox SET first_sent = ? WHERE msg_id = ?", (server_s, msg_id))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StoreError(f"cannot write {self.path}: {error}") from None
        self._todo.clear()
        self._sent.clear()
        self._must_sync = False

    def close(self) -> None:
        self._db.close()
