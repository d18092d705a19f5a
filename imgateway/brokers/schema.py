"""The database of the embedded broker: its tables, and connections to it.

::

    journal     one row a commit whose messages are not all with their logs; `places` says where each begins
    entry       one row a message and log, clustered by log and seq: key = log.id << 32 | seq. Row 0 is no
                entry: its at_ms is the number of the last commit, so that a batch and its number are one
                statement.
    body        an encoded message that several entries refer to, and how many do
    log         address → id; `head` outlives the entries; `lost` is the newest seq that retention took;
                `seen` the furthest that any device acknowledged; epoch 0: the store's
    trimmed     digests of entries that are gone but still count as taken
    device      the devices of each user
    cursor      how far a device got in a log, and which seqs it is still owed (parked, a JSON array); without
                one a device is at the begin of its user's mailbox
    revocation  the oldest login time that is still good, per user
    fact        the store's own: epoch, starts, secret
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from imgateway.errors import StoreError

__all__ = (
    "MEMORY",
    "OLDER",
    "VERSION",
    "Database",
    "OpenDatabase",
    "fault_text",
    "format_text",
    "open_database",
)

OLDEST_SQLITE = (3, 39)
VERSION = 3
# The one before has the same tables, but cannot read rows of the journal that are in part with their logs.
OLDER = (1, 2)
# This one lacks the table `journal`, and nothing else.
WITHOUT_JOURNAL = 1
MEMORY = ":memory:"
# A page in the write-ahead log, with its head.
FRAME_BYTES = 4096 + 24
# So many at once: a commit's sync waits for them.
ZEROS = bytes(1 << 17)

JOURNAL = """
CREATE TABLE journal (
    number INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, places TEXT NOT NULL, messages BLOB NOT NULL);
"""
TABLES = """
CREATE TABLE entry (
    key INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, digest BLOB, expires_ms INTEGER NOT NULL DEFAULT 0,
    only_device TEXT NOT NULL DEFAULT '', except_device TEXT NOT NULL DEFAULT '',
    body INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0, message BLOB);
INSERT INTO entry (key, at_ms) VALUES (0, 0);
CREATE INDEX entry_expiry ON entry (expires_ms) WHERE expires_ms > 0;
CREATE TABLE body (id INTEGER PRIMARY KEY, refs INTEGER NOT NULL, message BLOB NOT NULL);
CREATE TABLE log (
    id INTEGER PRIMARY KEY, address TEXT NOT NULL, lane INTEGER NOT NULL, epoch INTEGER NOT NULL DEFAULT 0,
    head INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0, seen INTEGER NOT NULL DEFAULT 0,
    UNIQUE (address, lane));
CREATE TABLE trimmed (key INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE INDEX trimmed_age ON trimmed (at_ms);
CREATE INDEX trimmed_digest ON trimmed (digest);
CREATE TABLE device (
    user TEXT NOT NULL, device TEXT NOT NULL, platform TEXT NOT NULL, seen_ms INTEGER NOT NULL,
    record BLOB NOT NULL DEFAULT x'', PRIMARY KEY (user, device)) WITHOUT ROWID;
CREATE TABLE cursor (
    log INTEGER NOT NULL, user TEXT NOT NULL, device TEXT NOT NULL, acked INTEGER NOT NULL,
    parked TEXT NOT NULL DEFAULT '[]', PRIMARY KEY (log, user, device)) WITHOUT ROWID;
CREATE INDEX cursor_of_device ON cursor (user, device);
CREATE TABLE revocation (user TEXT PRIMARY KEY, not_before_s INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE fact (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""

SETTINGS = (
    "synchronous=FULL",  # a commit is on the disk when it returns
    "wal_autocheckpoint=0",  # not on a writer's commit: the upkeep does it
    # What a statement that fails would need of the pages it changed: else, from 64 KB on, it is a temporary
    # file (in /var/tmp, mostly), made and removed with each such commit, which fails where none can be made.
    "temp_store=MEMORY",
    "secure_delete=OFF",
    "cache_size=-65536",
)

OpenDatabase = Callable[[str], sqlite3.Connection]


def open_database(path: str) -> sqlite3.Connection:
    """A connection that any one thread at a time may use, in autocommit mode."""
    return sqlite3.connect(
        path, timeout=2.0, isolation_level=None, check_same_thread=False, cached_statements=256
    )


class Database:
    """Where connections come from. In memory there is only one, shared by reader and writer, which then share
    a thread."""

    def __init__(self, path: str, connect: OpenDatabase = open_database) -> None:
        self.path = path
        self.in_memory = path == MEMORY
        self._connect = connect
        self._only: sqlite3.Connection | None = None
        self.writing = Lock()
        """Held by whoever commits; for those with whom that must not coincide."""

    def open(self) -> sqlite3.Connection:
        """A connection with its settings. :raises sqlite3.Error: what SQLite says."""
        if self._only is not None:
            return self._only
        connection = self._connect(self.path)
        for setting in SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        if self.in_memory:
            # Nothing there fails half way but for want of memory. Copying each page before it is changed is
            # half of a commit.
            connection.execute("PRAGMA journal_mode=OFF")
            self._only = connection
        return connection

    def drop(self, connection: sqlite3.Connection | None) -> None:
        """Close a connection after use or trouble; the one in memory is only rolled back, for it is the
        data."""
        if connection is None:
            return
        try:
            if connection is self._only:
                connection.rollback()
            else:
                connection.close()
        except sqlite3.Error:
            pass  # it is being thrown away because it is broken

    def close(self) -> None:
        """The end of a database in memory."""
        if self._only is not None:
            self._only.close()
            self._only = None

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Make the tables in a new database, or check that they are ours; of the version before, add what it
        lacks.

        :raises StoreError: it is another program's or a newer version's, or SQLite is too old.
        """
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreError(
                f"SQLite {sqlite3.sqlite_version} is too old: this Python's sqlite3 needs 3.39 or newer"
            )
        connection.execute("PRAGMA journal_mode=WAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == VERSION:
            return
        is_new = not (version or connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
        if not is_new and version not in OLDER:
            raise StoreError(format_text(version, self.path))
        missing = TABLES + JOURNAL if is_new else JOURNAL if version == WITHOUT_JOURNAL else ""
        connection.execute("BEGIN IMMEDIATE")
        for statement in missing.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")

    @property
    def wal(self) -> Path:
        return Path(self.path + "-wal")

    def lengthen_wal(self, pages: int) -> None:
        """Have the write-ahead log's file be as long as so many pages take. A sync of what is written over
        costs half of one of a file that grows, whose new length is one more write, to another place.

        SQLite takes zeros behind its last frame for the end. They are appended, so they never come to stand
        where it has written something, whatever it writes meanwhile; a little at a time and on the disk at
        once, for a commit's sync waits for all that is not.
        """
        with suppress(OSError):
            wal = os.open(self.wal, os.O_WRONLY | os.O_APPEND | os.O_DSYNC | os.O_CLOEXEC)
            try:
                while os.fstat(wal).st_size < pages * FRAME_BYTES:
                    os.write(wal, ZEROS)
            finally:
                os.close(wal)


def format_text(version: int, path: str | Path) -> str:
    """One line for the operator: this is another version's."""
    return f"{path} is of format {version}, this version reads {VERSION}: use the one that wrote it"


def fault_text(error: BaseException, path: str) -> str:
    """One line for the operator: what is wrong with the store, and where."""
    name = getattr(error, "sqlite_errorname", None) or ""
    text = str(error)
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full or name.startswith("SQLITE_FULL") or "is full" in text:
        return f"disk full: make room for {path}"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or "is locked" in text:
        return f"{path} is locked by another process: end it"
    if name.startswith("SQLITE_IOERR") or isinstance(error, OSError):
        return f"I/O error on {path}: check the disk ({text})"
    if name.startswith("SQLITE_READONLY"):
        return f"{path} cannot be written: check its owner and mode"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"{path} is damaged: restore a backup ({text})"
    return f"{path}: {text or type(error).__name__}"
