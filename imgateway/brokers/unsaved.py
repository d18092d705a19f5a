"""What memory knows of sessions and the disk does not yet: written behind, some sessions at a time.

A position that a kill takes is asked for again by nobody but the client, who has it; so it may wait a few
seconds for company. Who has ended a session waits for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred

from imgateway.brokers.appends import Change
from imgateway.brokers.cursors import Saved, raise_seen, save
from imgateway.brokers.tails import Seat, UnderWay
from imgateway.frames import LogKey, SessionKey, user_address

__all__ = ("SAVE_STEP", "Unsaved")

# Sessions written by one change, some 3 ms: messages wait for it, and then have their commit.
SAVE_STEP = 250


class Unsaved:
    """The dirty seats.

    :param change: gives a change to the writer.
    :param flush_later: something is dirty that was not.
    :param saved: called with a user of whom something was written.
    """

    def __init__(
        self,
        change: Callable[[Change], None],
        flush_later: Callable[[], None],
        now_ms: Callable[[], int],
        saved: Callable[[str], None],
    ) -> None:
        self._change = change
        self._flush_later = flush_later
        self._now_ms = now_ms
        self._saved = saved
        self.under_way = UnderWay()
        """Seats of which anything is on its way to the disk, from here or elsewhere."""
        self.seen: dict[str | LogKey, int] = {}
        """User → the furthest that any device acknowledged, until it is on disk. Not what the seats say: who
        starts at the head has acknowledged nothing."""
        self._dirty: dict[Seat, SessionKey] = {}
        self._moved: dict[SessionKey, set[LogKey]] = {}  # of the dirty, beside their mailboxes
        self._ended: dict[Seat, Deferred[None]] = {}  # of the dirty: who waits for its being on disk
        self._flushing = 0  # of the dirty: how many are yet to be given to the writer
        self._is_stepping = False  # some were given, and are not on disk yet

    def __contains__(self, seat: Seat) -> bool:
        """Whether the disk knows less of it."""
        return seat in self._dirty or seat in self.under_way

    def is_dirty(self, seat: Seat) -> bool:
        """Whether something of it is yet to be given to the writer."""
        return seat in self._dirty

    def mark(self, session: SessionKey, seat: Seat) -> None:
        """It is to be written."""
        if seat not in self._dirty:
            if not self._dirty:
                self._flush_later()
            self._dirty[seat] = session

    def move(self, session: SessionKey, seat: Seat, log: LogKey) -> None:
        """And so is its place in this log, which is not its mailbox."""
        self._moved.setdefault(session, set()).add(log)
        self.mark(session, seat)

    def clean(self, seat: Seat) -> None:
        """Nothing of it is to be written, but that somebody has what it acknowledged."""
        session = self._dirty.pop(seat, None)
        if session is not None:
            self._moved.pop(session, None)
            ended = self._ended.pop(seat, None)
            if ended is not None:
                ended.callback(None)
            user, seen = session.user, self.seen.get(session.user, 0)
            if seen:
                self._change(
                    Change(
                        lambda connection: raise_seen(connection, [(user, seen)]),
                        lambda result: self._raised(user, seen),
                    )
                )

    def end(self, seat: Seat) -> Deferred[None]:
        """Its session has ended, and it is dirty. Fires when it is on disk, or when it came back and ended
        again: then the last one waits."""
        done: Deferred[None] = Deferred()
        before = self._ended.get(seat)
        self._ended[seat] = done
        if before is not None:
            before.callback(None)
        if not self._is_stepping:
            self._step()
        return done

    def flush(self) -> None:
        """Give all that is dirty to the writer, one step when the other is on disk."""
        self._flushing = len(self._dirty)
        if self._dirty:
            self._flush_later()  # for what will be dirty meanwhile
        if not self._is_stepping:
            self._step()

    def _step(self) -> None:
        """First those whose sessions ended: thousands may do so at once, and each takes one place in the line
        here, however often it comes and goes while the disk is away. They leave room for who stays."""
        ended = list(islice(self._ended, SAVE_STEP // 2 if self._flushing else SAVE_STEP))
        rest = list(islice(self._dirty, min(self._flushing, SAVE_STEP - len(ended))))
        self._flushing = self._flushing - len(rest) if rest else 0
        seats = dict.fromkeys((*ended, *rest))  # who ended is dirty, too
        waiting = [self._ended.pop(seat) for seat in seats if seat in self._ended]

        def written() -> None:
            for done in waiting:
                done.callback(None)
            self._step()

        self._is_stepping = bool(seats)
        if seats:
            self._save([(self._dirty[seat], seat) for seat in seats], written)

    def _save(self, seats: list[tuple[SessionKey, Seat]], done: Callable[[], None]) -> None:
        now_ms = self._now_ms()
        rows = []
        for session, seat in seats:
            self._dirty.pop(seat, None)
            self.under_way.begin(seat)
            seat.seen_ms = now_ms
            owed = seat.owed
            moved = self._moved.pop(session, ())
            cursors = [(log, *owed.others[log]) for log in moved if log in owed.others]
            if seat.registered:
                cursors.append((LogKey(user_address(session.user)), seat.acked, owed.parked))
            seen = self.seen.get(session.user, 0)
            rows.append(Saved(session, seat.platform, now_ms, tuple(cursors), seen))

        def saved(result: Any) -> None:
            for (session, seat), row in zip(seats, rows, strict=True):
                self.under_way.end(seat)
                self._raised(session.user, row.seen)
                self._saved(session.user)
            done()

        self._change(Change(partial(_save_rows, rows), saved))

    def _raised(self, user: str, seen: int) -> None:
        """So far it is on disk."""
        if self.seen.get(user) == seen:
            del self.seen[user]


def _save_rows(rows: list[Saved], connection: sqlite3.Connection) -> None:
    save(connection, rows)
