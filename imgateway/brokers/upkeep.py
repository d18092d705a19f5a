"""What is done beside the commits: the mark, and the write-ahead log into the database. Everything here runs
in the upkeep's thread.

SQLite before 3.51.3 loses what was committed if one connection begins the log anew in the moment in which
another begins a checkpoint (https://sqlite.org/wal.html#walresetbug): what that one takes for moved is then
not. A log is begun anew by a commit, once all of it is in the database and nobody reads from it. So here a
checkpoint begins only

- while `watch` has a transaction, until it has ended: if there is something to move, it reads from the log,
  which then cannot begin anew; if not, it reads the database alone, under whose readers SQLite moves nothing;
- while nobody commits: the first on new connections, and those that have a long log begun anew.

If nothing was committed since all was moved, none begins at all.

The connections stay open: with the first sync of a new one goes one of the directory, which on ext4 takes
along whatever is to be written for any file's sake, while a commit waits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import nullcontext

from imgateway.brokers.directory import Directory, Mark
from imgateway.brokers.health import Fault
from imgateway.brokers.schema import Database, fault_text

__all__ = ("Upkeep",)

# From here on it is to begin anew, 32 MB.
LONG_WAL_PAGES = 8_192
# Up to so many (20 MB) it is made longer before that is needed; what it needs beyond, it grows by itself.
AHEAD_WAL_PAGES = 5_120
# More are left only if somebody reads what is older, such as a backup.
FEW_PAGES = 200
# So long a commit waits for those who still read from a log that is to begin anew.
PATIENCE_MS = 50


class Upkeep:
    """Moves what others have written.

    :param goes_on: whether more will be written; then the log is long enough for it beforehand.
    """

    def __init__(self, database: Database, directory: Directory, goes_on: Callable[[], bool]) -> None:
        self._database = database
        self._directory = directory
        self._goes_on = goes_on
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self._moved: int | None = None
        """What `watch` saw when all of the log was in the database; None: it was not, and is not."""

    def work(self, mark: Mark | None) -> Fault | None:
        """Write the mark, if there is one, and bring what the log has into the database."""
        fault = None
        try:
            if mark is not None:
                self._directory.write_mark(mark)
        except OSError as problem:
            fault = self._fault(problem)  # the log is moved all the same: else it would grow
        try:
            pages = self._move()
            if self._goes_on():
                self._database.lengthen_wal(min(2 * pages, AHEAD_WAL_PAGES))
        except sqlite3.Error as problem:
            self.drop()
            fault = self._fault(problem)
        return fault

    def end(self, mark: Mark | None) -> None:
        """The same for the last time."""
        self.work(mark)
        self.drop()

    def drop(self) -> None:
        """Forget the connections; the next use begins anew."""
        for connection in self._connections or ():
            self._database.drop(connection)
        self._connections = self._moved = None

    # ---------------------------------------------------------------------------------------------- internals

    def _move(self) -> int:
        """:returns: the pages that the log had."""
        pages, left = self._pass()
        if pages > LONG_WAL_PAGES and left <= FEW_PAGES:
            # What has come meanwhile is less each time, and commits wait for the last of it: of a busy log of
            # 50 MB it was 10 ms at once, and is 2 after a few times.
            for _ in range(3):
                _, left = self._pass()
            if 0 <= left <= FEW_PAGES:
                self._restart()
        return pages

    def _pass(self) -> tuple[int, int]:
        """Move what there is. :returns: the pages of the log, and how many of them are still to be moved."""
        quiet = nullcontext() if self._connections else self._database.writing
        watch, mover = self._connections = self._connections or self._opened()
        with quiet:
            watch.execute("BEGIN")
            try:
                version = _version(watch)
                if version == self._moved:
                    return 0, 0
                pages, left = _checkpoint(mover, "PASSIVE")
            finally:
                watch.execute("COMMIT")
        self._note(version, left)
        return pages, left

    def _restart(self) -> None:
        """Move the rest, while nobody commits, and have the next commit begin the log anew."""
        assert self._connections is not None
        watch, mover = self._connections
        with self._database.writing:
            _, left = _checkpoint(mover, "RESTART")
            version = _version(watch)
        self._note(version, left)

    def _note(self, version: int, left: int) -> None:
        if left < 0:
            self.drop()  # who knows what that one has moved
        else:
            self._moved = None if left else version

    def _opened(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        watch = self._database.open()
        try:
            mover = self._database.open()
            mover.execute(f"PRAGMA busy_timeout={PATIENCE_MS}")
        except sqlite3.Error:
            self._database.drop(watch)
            raise
        return watch, mover

    def _fault(self, problem: Exception) -> Fault:
        return Fault(fault_text(problem, self._database.path))


def _version(watch: sqlite3.Connection) -> int:
    """Another one whenever anybody else has committed. Within a transaction, its view of the database is of
    this moment."""
    (version,) = watch.execute("PRAGMA data_version").fetchone()
    return int(version)


def _checkpoint(mover: sqlite3.Connection, how: str) -> tuple[int, int]:
    """:returns: the pages of the log, and how many are still to be moved; -1: somebody else is at it."""
    _, pages, moved = mover.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
    return pages, -1 if pages < 0 else pages - moved
