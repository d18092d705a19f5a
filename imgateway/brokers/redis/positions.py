"""What open sessions say of themselves, written behind: positions, parked seqs, records, who is away.

The node that has a session is the only one that writes it, so it writes the whole of what changed, and a
write that comes twice changes nothing more. Positions wait for others, a few seconds at most; records and
absences wait for the end of the reactor's turn. All go to their primary in batches. Whoever lost the session
to another writes nothing: the script says so, and the session is told that it is stale.

What relies on a record may go to another primary, and waits until this one has answered. So the first record
goes into the line of a primary that is away, too: it is written as soon as that is back, and those that came
meanwhile are written as one.

A primary may come back empty. Then nobody has anything yet of its logs, however far an open session had got
in those of before; so each write of a position says of which data it is. If those of before come back (it was
started on the wrong directory, say), everybody is where he was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from imgateway.brokers.health import Timers
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.seats import Seats
from imgateway.brokers.redis.together import stopped, together
from imgateway.brokers.tails import Seat
from imgateway.errors import CloseCode
from imgateway.frames import LogKey, SessionKey, address_text, user_address

__all__ = ("Positions", "is_mailbox", "log_text", "seqs", "seqs_text")

BATCH = 100
"""Sessions that one script writes: it has the primary for itself for so long."""
TOUCH_S = 21_600.0
"""Whoever is online says so this often, or it would count as unseen (by default after a week) and hold back
nothing: in a log that it follows, and in its mailbox once its node was killed."""
TOUCH_PARTS = 360
"""Not all at once, for the primaries have other things to do."""

HEADS: dict[str, Callable[[str, int], tuple[str | int, ...]]] = {
    "follows": lambda node, epoch: (node,),
    "save": lambda node, epoch: (node, epoch),
    "cursors": lambda node, epoch: (epoch,),
}
"""The scripts that write, in this order, and what each gets before the rows."""

Where = tuple[int, tuple[int, ...]]
"""A place in a log: acknowledged so far, and parked."""


class Row(NamedTuple):
    """What is written of a session.

    `values`: as `make(session, seat)` has it; None: there is nothing to write any more. `mark`: marks it for
    being written again. `waiting`: for its record.
    """

    session: SessionKey
    seat: Seat
    values: tuple[Any, ...]
    make: Callable[[SessionKey, Seat], tuple[Any, ...] | None]
    mark: Callable[[SessionKey, Seat], object]
    waiting: list[Deferred[bool]]


class Positions:
    """Everything by keyword.

    :param seats: of the sessions that are open here.
    :param stale: called with (session, generation, close code): the primary says that it is not ours; or,
        with -1, that it has never heard of it: it was promoted since.
    :param flush_s: how long a position waits, at most.
    """

    def __init__(
        self,
        *,
        primaries: Primaries,
        incarnation: str,
        seats: Seats,
        stale: Callable[[SessionKey, int, int], None],
        reactor: Any,
        flush_s: float,
    ) -> None:
        self._primaries = primaries
        self._incarnation = incarnation
        self._seats = seats
        self._stale = stale
        self._flush_s = flush_s
        self._timers = Timers(reactor)
        self._dirty: dict[SessionKey, Seat] = {}
        self._soon: dict[SessionKey, Seat] = {}  # of the dirty ones, those that are written with this turn
        # Of the dirty ones: whose record is to be written, whose place in which logs, and whose list of them.
        self._recorded: dict[SessionKey, list[Deferred[bool]]] = {}
        self._moved: dict[SessionKey, set[LogKey]] = {}
        self._listed: set[SessionKey] = set()
        self.away: set[SessionKey] = set()
        """Sessions whose clients are gone, and may come back."""
        self.begun: set[SessionKey] = set()
        """Sessions that only began where they stand in the mailbox: nobody acknowledged so far."""
        self.unplaced: dict[SessionKey, dict[LogKey, list[Deferred[None]] | None]] = {}
        """Of the open ones: the logs that they follow and whose primaries have not said yet where they stand
        in them, with those who wait for that; None: nobody asks. Nothing is written of them but that they
        are followed."""
        # Of the open ones: the logs that they had places in when these went lost, with their epoch and the
        # place (None: it was not known). What their clients still say is of those, and not of the logs that
        # have their names now.
        self._outdated: dict[SessionKey, dict[LogKey, tuple[int, Where | None]]] = {}
        self._recording: Counter[SessionKey] = Counter()  # records on their way, without an answer
        self._under_way: set[Deferred[Any]] = set()
        self._is_stopping = False
        self._touching: Iterator[str] = iter(())  # users who are yet to be touched in this round
        self._touch_step = 0
        self._timers.later("touch", TOUCH_S / TOUCH_PARTS, self._touch)
        for primary in primaries.each():
            primary.replaced = self._begin_anew

    # ------------------------------------------------------------------------------------------- what changed

    def mark(self, session: SessionKey, seat: Seat) -> None:
        """Its position, or what is parked, has changed."""
        if not self._dirty:
            self._timers.later("flush", self._flush_s, self.flush)
        self._dirty[session] = seat

    def mark_moved(self, session: SessionKey, seat: Seat, log: LogKey) -> None:
        """Its place in a log beside the mailbox."""
        self._moved.setdefault(session, set()).add(log)
        self.mark(session, seat)

    def mark_listed(self, session: SessionKey, seat: Seat) -> None:
        """It follows other logs than before."""
        self._listed.add(session)
        self.mark(session, seat)

    def mark_recorded(self, session: SessionKey, seat: Seat) -> Deferred[bool]:
        """What its wire keeps: written with this turn. Fires with True when it is, with False if the session
        is not ours any more."""
        kept: Deferred[bool] = Deferred()
        self._recorded.setdefault(session, []).append(kept)
        self._mark_soon(session, seat)
        return kept

    def mark_all(self, session: SessionKey, seat: Seat) -> None:
        """Its primary may have lost what was written last; also that nothing is kept or followed any more."""
        self.mark_recorded(session, seat)
        self.mark_listed(session, seat)

    def mark_places(self, primary: Primary) -> None:
        """The same of a primary of logs beside mailboxes: whoever stands in them."""
        for session, seat in self._seats.all():
            for log in seat.owed.others:
                if self._primaries.of(log_text(log))[0] is primary:
                    self.mark_moved(session, seat, log)

    def _begin_anew(self, primary: Primary, before: int) -> None:
        """Its logs, whose epoch was `before`, are gone, and others have their names: or those of earlier are
        back, and so are the places in them."""
        for session, seat in self._seats.all():
            owed = seat.owed
            gone: dict[LogKey, Where | None] = {
                **dict.fromkeys(self.unplaced.get(session, ())),
                **owed.others,
            }
            gone = {log: place for log, place in gone.items() if self._is_at(log_text(log), primary)}
            mailbox = LogKey(user_address(session.user))
            if self._is_at(session.user, primary):
                gone[mailbox] = seat.acked, owed.parked
            if not gone:
                continue
            outdated = self._outdated.setdefault(session, {})
            parked, others = owed.parked, dict(owed.others)
            for log, place in gone.items():
                epoch, known = outdated.setdefault(log, (before, place))
                where: Where = (0, ())
                if known is not None and epoch == primary.epoch:
                    del outdated[log]
                    where = known
                if log == mailbox:
                    seat.acked, parked = where
                elif log in others:
                    others[log] = where
            if not outdated:
                del self._outdated[session]
            if (parked, others) != (owed.parked, owed.others):
                seat.owed = replace(owed, parked=parked, others=others)

    def _is_at(self, tag: str, primary: Primary) -> bool:
        return self._primaries.of(tag)[0] is primary

    def parked(self, session: SessionKey, parked: tuple[int, ...], log: LogKey | None = None) -> str:
        """What a script is told to be parked there, or in the mailbox; "-": that is not known, and what
        stands there stays."""
        outdated = self._outdated.get(session)
        if outdated and (log or LogKey(user_address(session.user))) in outdated:
            return "-"
        return seqs_text(parked)

    def is_outdated(self, session: SessionKey, log: LogKey) -> bool:
        """What its client says of this log is of one that is gone, or of one in which it was not told its
        place yet."""
        if not self._outdated and not self.unplaced:
            return False
        return log in self._outdated.get(session, ()) or log in self.unplaced.get(session, ())

    def begins(self, session: SessionKey, log: LogKey) -> None:
        """It follows the log that there is now."""
        outdated = self._outdated.get(session, {})
        outdated.pop(log, None)
        if not outdated:
            self._outdated.pop(session, None)

    def seen(self, session: SessionKey, seat: Seat) -> int:
        """How far its mailbox is acknowledged, as it knows; 0: nothing is."""
        return 0 if session in self.begun else max(seat.acked, 0)

    def is_recording(self, session: SessionKey) -> bool:
        """What its wire keeps is not written yet."""
        return session in self._recorded or session in self._recording

    def mark_away(self, session: SessionKey, seat: Seat) -> None:
        """Its client is gone: written with this turn."""
        self.away.add(session)
        self._mark_soon(session, seat)

    def _mark_soon(self, session: SessionKey, seat: Seat) -> None:
        self.mark(session, seat)
        if self._is_up(session) or (session in self._recorded and session not in self._recording):
            if not self._soon:
                self._timers.later("soon", 0, self._flush_soon)
            self._soon[session] = seat

    def forget(self, session: SessionKey) -> None:
        """It is not ours any more: nothing of it is to be written."""
        self._dirty.pop(session, None)
        self._moved.pop(session, None)
        self._listed.discard(session)
        self.away.discard(session)
        self.begun.discard(session)
        self._outdated.pop(session, None)
        _tell(self._recorded.pop(session, ()), False)

    def _touch(self) -> None:
        self._timers.later("touch", TOUCH_S / TOUCH_PARTS, self._touch)
        users = list(islice(self._touching, self._touch_step))
        if not users:
            everybody = tuple(self._seats.users())
            self._touching, self._touch_step = iter(everybody), len(everybody) // TOUCH_PARTS + 1
        for user in users:
            for seat in self._seats.of(user):
                session = SessionKey(user, seat.device)
                self.mark(session, seat)
                for log in seat.owed.others:
                    self.mark_moved(session, seat, log)

    # ------------------------------------------------------------------------------------------------ writing

    def flush(self) -> None:
        """Give all that is dirty to the primaries. What is for one that is away stays: there it would be
        written once for each time that it was dirty."""
        self._timers.cancel("flush")
        self._write([item for item in self._dirty.items() if self._is_up(item[0])])
        if self._dirty:
            self._timers.later("flush", self._flush_s, self.flush)

    def _flush_soon(self) -> None:
        soon, self._soon = self._soon, {}
        self._write([item for item in soon.items() if self._dirty.get(item[0]) is item[1]])

    def _is_up(self, session: SessionKey) -> bool:
        return self._primaries.of(session.user)[0].is_up

    def flush_user(self, user: str) -> None:
        """The same for one user: what is asked next must see it."""
        if self._dirty:
            keys = [SessionKey(user, seat.device) for seat in self._seats.of(user)]
            self._write([(key, self._dirty[key]) for key in keys if key in self._dirty])

    def stop(self) -> Deferred[Any]:
        """Write what is dirty; fires when it and all that is under way is written, or cannot be."""
        self._is_stopping = True
        self._flush_soon()
        self.flush()
        self._timers.cancel_all()
        if not self._under_way:
            return succeed(None)
        # What a primary had not heard of is dirty again by then.
        return DeferredList(list(self._under_way)).addCallback(lambda _: self.stop())

    def _write(self, dirty: list[tuple[SessionKey, Seat]]) -> None:
        rows: dict[str, dict[Primary, list[Row]]] = {script: {} for script in HEADS}

        def add(script: str, tag: str, row: Row) -> None:
            primary, _ = self._primaries.of(tag)
            rows[script].setdefault(primary, []).append(row)

        for session, seat in dirty:
            del self._dirty[session]
            user = session.user
            if session in self._listed:
                self._listed.discard(session)
                listed = self._list(session, seat)
                add("follows", user, Row(session, seat, listed, self._list, self.mark_listed, []))
            waiting = self._recorded.pop(session, [])
            if waiting:
                self._recording[session] += 1
            make = partial(self._state, has_record=True) if waiting else self._state
            add("save", user, Row(session, seat, make(session, seat), make, self.mark, waiting))
            for log in self._moved.pop(session, ()):
                place, mark = partial(self._place, log=log), partial(self.mark_moved, log=log)
                moved = place(session, seat)
                if moved is not None:
                    add("cursors", log_text(log), Row(session, seat, moved, place, mark, []))
        for script, by_primary in rows.items():
            for primary, its_rows in by_primary.items():
                for start in range(0, len(its_rows), BATCH):
                    self._send(primary, script, its_rows[start : start + BATCH])

    def _state(self, session: SessionKey, seat: Seat, has_record: bool = False) -> tuple[Any, ...]:
        _, bucket = self._primaries.of(session.user)
        seen, parked = self.seen(session, seat), self.parked(session, seat.owed.parked)
        record = (1, seat.owed.record) if has_record else (0, b"")
        is_away = int(session in self.away)
        return (bucket, *session, seat.generation, seat.acked, seen, parked, is_away, *record)

    def _place(self, session: SessionKey, seat: Seat, log: LogKey) -> tuple[Any, ...] | None:
        where = seat.owed.others.get(log)
        if where is None:
            return None
        text = log_text(log)
        _, bucket = self._primaries.of(text)
        acked, parked = where
        return (bucket, text, *session, seat.generation, acked, self.parked(session, parked, log))

    def _send(self, primary: Primary, script: str, rows: list[Row]) -> None:
        epoch = primary.epoch

        def call(rows: Sequence[Row]) -> Deferred[Any]:
            # Of several all are here. One that has ended since is written as nobody's, of the data of then.
            is_here = self._is_here(rows[0])
            about = (self._incarnation, primary.epoch) if is_here else ("", epoch)
            values = [value for row in rows for value in row.values]
            return primary.call(script, *HEADS[script](*about), *values).addErrback(stopped)

        self.wait_for(together(rows, call, self._written, self._failed, self._again))

    def _is_here(self, row: Row) -> bool:
        return self._seats.get(row.session) is row.seat

    def _again(self, row: Row) -> Row | None:
        """By itself: as it is now, or was when it ended."""
        values = row.make(row.session, row.seat)
        if values is not None and self._is_here(row):
            return row._replace(values=values)
        return None if values is None else row

    def list_follows(self, session: SessionKey, seat: Seat) -> Deferred[Any]:
        """Write which logs the device follows; fires with whether it is ours."""
        primary, _ = self._primaries.of(session.user)
        writing = primary.call("follows", self._incarnation, *self._list(session, seat))

        def written(codes: list[int]) -> bool:
            (code,) = codes
            if code:
                self._stale(session, seat.generation, code)
            return not code

        return self.wait_for(writing.addCallback(written))

    def _list(self, session: SessionKey, seat: Seat) -> tuple[Any, ...]:
        _, bucket = self._primaries.of(session.user)
        logs = (*seat.owed.others, *self.unplaced.get(session, ()))
        return (bucket, *session, seat.generation, "\n".join(map(log_text, logs)))

    def wait_for(self, writing: Deferred[Any]) -> Deferred[Any]:
        """`stop` waits for this, too."""
        self._under_way.add(writing)

        def done(result: Any) -> Any:
            self._under_way.discard(writing)
            return result

        return writing.addBoth(done).addErrback(stopped)

    def _failed(self, failure: Failure, row: Row) -> None:
        """By itself. Whose record cannot be kept must come again, or its client would wait for ever; who has
        none on its way stays, and is tried again with what it has to say then."""
        if not (row.waiting or self._is_stopping) and self._is_here(row):
            row.mark(row.session, row.seat)
        self._written([CloseCode.STALE if row.waiting else 0], [row])

    def _written(self, codes: Sequence[int | None] | None, rows: Sequence[Row]) -> None:
        """`codes` None: the broker has stopped."""
        for row, code in zip(rows, codes or [None] * len(rows), strict=True):
            session, seat, waiting = row.session, row.seat, row.waiting
            if waiting:
                self._recording[session] -= 1
                if not self._recording[session]:
                    del self._recording[session]
            if code is None:
                _tell((*waiting, *self._recorded.pop(session, ())), False)
                continue
            if code:
                self._stale(session, seat.generation, code)
            is_dirty = self._dirty.get(session) is seat
            if code < 0 and is_dirty:
                self._recorded.setdefault(session, [])[:0] = waiting  # it is written once more
            else:
                _tell(waiting, not code)
            if is_dirty and session in self._recorded:
                self._mark_soon(session, seat)  # what came while its primary was away


def _tell(waiting: Iterable[Deferred[bool]], is_kept: bool) -> None:
    """Those who wait for a record."""
    for one in waiting:
        one.callback(is_kept)


def is_mailbox(log: LogKey, user: str) -> bool:
    return log.address.id == user and log.address.kind == "user"


def log_text(log: LogKey) -> str:
    """As it stands in keys; durable logs have one lane."""
    return address_text(log.address)


def seqs_text(seqs: tuple[int, ...]) -> str:
    return ",".join(map(str, seqs))


def seqs(text: bytes) -> tuple[int, ...]:
    return tuple(map(int, text.split(b","))) if text else ()
