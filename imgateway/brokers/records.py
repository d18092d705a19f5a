"""What adapters must know of sessions at their next login, on its way to the disk.

A wire may keep something with every message, and wait for nothing. So a record costs the reactor a look at
who stands in the line, once each; all who do when the writer takes them up share one change of its next
commit, each with its record as it is by then. Whoever waits for a record stands there with it.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace
from twisted.internet.defer import Deferred

from imgateway.brokers.appends import Change
from imgateway.brokers.tails import Seat, UnderWay
from imgateway.frames import SessionKey

__all__ = ("Records",)

Waiting = list[Deferred[bool]]
"""Who waits for one place in the line."""

Taken = dict[Seat, tuple[SessionKey, list[Waiting]]]
"""By seat: whose it is, and who waits, for each time that it was taken from the line."""

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
        self._line: dict[Seat, tuple[SessionKey, Waiting]] = {}
        self._is_asked = False
        self._asked: deque[Taken] = deque()  # of the changes that are not on the disk yet

    def keep(self, session: SessionKey, seat: Seat, data: bytes) -> Deferred[bool]:
        """It is in the commit of what is given to the writer next, or in an earlier one. Fires with True when
        it is on the disk."""
        kept: Deferred[bool] = Deferred()
        # First the record, then the line: the writer, which does it the other way round, misses none.
        seat.owed = replace(seat.owed, record=data)
        place = self._line.get(seat)
        if place is None:
            self._saving.begin(seat)
            self._line[seat] = session, [kept]
        else:
            place[1].append(kept)  # whether or not the writer has taken it by now
        if not self._is_asked:
            self._is_asked = True
            taken: Taken = {}
            self._asked.append(taken)
            self._change(Change(partial(self._write, taken), partial(self._written, taken)))
        return kept

    def give_up(self, seat: Seat) -> None:
        """A newer login has the session: whoever waits for what an older one kept gets False, and waits no
        more, however often the client comes and goes while the disk is away. What is kept stays so."""
        place = self._line.get(seat)
        places = [] if place is None else [place[1]]
        for taken in self._asked:
            if seat in taken:
                places += taken[seat][1]
        for waiting in places:
            while waiting:
                waiting.pop(0).callback(False)

    def _write(self, taken: Taken, connection: sqlite3.Connection) -> None:
        """In the writer's thread; again after a commit that failed."""
        # First this, then the line: whoever comes too late to be seen there sees that it must ask.
        self._is_asked = False
        while self._line:
            seat, (session, waiting) = self._line.popitem()
            taken.setdefault(seat, (session, []))[1].append(waiting)
        _save(taken, connection)

    def _written(self, taken: Taken, result: None) -> None:
        self._asked.popleft()  # they are done in their order
        for seat, (session, places) in taken.items():
            for _ in places:
                self._saving.end(seat)
            self._told(session, seat)
        for _, places in taken.values():
            for waiting in places:
                for kept in waiting:
                    kept.callback(True)


def _save(taken: Taken, connection: sqlite3.Connection) -> None:
    rows = [(seat.owed.record, *session) for seat, (session, _) in taken.items()]
    connection.executemany(SAVE_RECORD, rows)
