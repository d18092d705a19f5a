"""What adapters must know of sessions at their next login, on its way to the disk.

A wire may keep something with every message, and wait for nothing. So a record costs the reactor a look at
who stands in the line, once each; all who do when the writer takes them up share one change of its next
commit, each with its record as it is by then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from imgateway.brokers.appends import Change
from imgateway.brokers.tails import Seat, UnderWay
from imgateway.frames import SessionKey

__all__ = ("Records",)

Taken = dict[Seat, tuple[SessionKey, int]]
"""By seat: whose it is, and how often it was taken from the line."""

SAVE_RECORD = "UPDATE device SET record = ? WHERE user = ? AND device = ?"


class Records:
    """:param change: gives a change to the writer.

    :param saving: where changes on their way to the disk are counted.
    :param written: told of each session whose record is on the disk.
    """

    def __init__(
        self,
        change: Callable[[Change], None],
        saving: UnderWay,
        written: Callable[[SessionKey, Seat], None],
    ) -> None:
        self._change = change
        self._saving = saving
        self._told = written
        self._line: dict[Seat, SessionKey] = {}
        self._is_asked = False

    def keep(self, session: SessionKey, seat: Seat, data: bytes) -> None:
        """It is in the commit of what is given to the writer next, or in an earlier one."""
        # First the record, then the line: the writer, which does it the other way round, misses none.
        seat.owed = replace(seat.owed, record=data)
        if seat not in self._line:
            self._saving.begin(seat)
            self._line[seat] = session
        if not self._is_asked:
            self._is_asked = True
            taken: Taken = {}
            self._change(Change(partial(self._write, taken), partial(self._written, taken)))

    def _write(self, taken: Taken, connection: sqlite3.Connection) -> None:
        """In the writer's thread; again after a commit that failed."""
        # First this, then the line: whoever comes too late to be seen there sees that it must ask.
        self._is_asked = False
        while self._line:
            seat, session = self._line.popitem()
            _, times = taken.get(seat, (session, 0))
            taken[seat] = session, times + 1
        _save(taken, connection)

    def _written(self, taken: Taken, result: None) -> None:
        for seat, (session, times) in taken.items():
            for _ in range(times):
                self._saving.end(seat)
            self._told(session, seat)


def _save(taken: Taken, connection: sqlite3.Connection) -> None:
    rows = [(seat.owed.record, *session) for seat, (session, _) in taken.items()]
    connection.executemany(SAVE_RECORD, rows)
