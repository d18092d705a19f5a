"""What is done beside the commits: the mark, and the write-ahead log into the database. Everything here runs
in the upkeep's thread.

The connection stays open: whoever opens one has the directory synced with its first sync, and on ext4 all
that is to be written for any file's sake goes along, while a commit waits.
"""

from __future__ import annotations

import sqlite3

from imgateway.brokers.directory import Directory, Mark
from imgateway.brokers.health import Fault
from imgateway.brokers.schema import Database, fault_text

__all__ = ("Upkeep",)

# Up to so many (20 MB) it is made longer before that is needed; what it needs beyond, it grows by itself.
AHEAD_WAL_PAGES = 5_120


class Upkeep:
    """One connection that moves what others have written."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self._database = database
        self._directory = directory
        self._connection: sqlite3.Connection | None = None

    def work(self, mark: Mark | None, ahead: bool) -> Fault | None:
        """Write the mark, if there is one, and bring what the write-ahead log has into the database.

        :param ahead: have it long enough for what will come.
        """
        try:
            if mark is not None:
                self._directory.write_mark(mark)
            if self._connection is None:
                self._connection = self._database.open()
            pages = self._database.checkpoint(self._connection)
            if ahead:
                self._database.lengthen_wal(min(2 * pages, AHEAD_WAL_PAGES))
        except (sqlite3.Error, OSError) as problem:
            self.drop()
            return Fault(fault_text(problem, self._database.path))
        return None

    def drop(self) -> None:
        """Forget the connection; the next use begins anew."""
        self._database.drop(self._connection)
        self._connection = None
