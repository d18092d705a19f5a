"""What adapters must know of sessions at their next login, on its way to the disk.

A wire may keep something with every message. So a record costs the reactor a place in a line, and all that
come until the writer takes them up share one change of its next commit, the newest of each session.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from imgateway.brokers.appends import Change
from imgateway.brokers.tails import Seat, UnderWay
from imgateway.frames import SessionKey

__all__ = ("Records",)

Waiting = tuple[SessionKey, Seat, bytes]

SAVE_RECORD = "UPDATE device SET record = ? WHERE user = ? AND device = ?"


class Records:
    """:param change: gives a change to the writer.

    :param saving: where changes on their way to the disk are counted.
    :param written: told of each session whose record is on the disk, as often as it was kept.
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
        self._line: deque[Waiting] = deque()
        self._is_asked = False

    def keep(self, session: SessionKey, seat: Seat, data: bytes) -> None:
        """It is in the commit of what is given to the writer next, or in an earlier one."""
        seat.owed = replace(seat.owed, record=data)
        self._saving.begin(seat)
        self._line.append((session, seat, data))
        if not self._is_asked:
            self._is_asked = True
            taken: list[Waiting] = []
            self._change(Change(partial(self._write, taken), partial(self._written, taken)))

    def renew(self, session: SessionKey, seat: Seat) -> None:
        """Its device is entered anew by what was given to the writer last: its record must come behind that,
        which the line need not."""
        self._saving.begin(seat)
        self._change(Change(partial(_save, session, seat), partial(self._written, [(session, seat, b"")])))

    def _write(self, taken: list[Waiting], connection: sqlite3.Connection) -> None:
        """In the writer's thread; again after a commit that failed."""
        # First this, then the line: whoever comes too late to be seen there sees that it must ask.
        self._is_asked = False
        while self._line:
            taken.append(self._line.popleft())
        newest = {session: data for session, _, data in taken}
        connection.executemany(SAVE_RECORD, [(data, *session) for session, data in newest.items()])

    def _written(self, taken: list[Waiting], result: None) -> None:
        for session, seat, _ in taken:
            self._saving.end(seat)
            self._told(session, seat)


def _save(session: SessionKey, seat: Seat, connection: sqlite3.Connection) -> None:
    # As it is by then: what is in the line may be older, or go before this in vain.
    connection.execute(SAVE_RECORD, (seat.owed.record, *session))
