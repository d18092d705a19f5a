"""Sessions and their claims, in the reactor's memory, written behind.

What a login must wait for. Generations rise from a number that each start takes for itself, so none is given
twice and a login needs no commit for its fence. A device that is known stands on disk already: it is answered
from memory or with one question to the reader. Only a new device waits for a commit, which it shares with the
messages of the moment: its first position must survive, or a message that arrives after "start at the head"
could be passed over at the next login. One that ends with its session has no next login: it is in memory
alone, and takes no place of devices that are to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.appends import Change
from imgateway.brokers.claims import BY_ORDER, code_of_claim, reason_of, verdict_of
from imgateway.brokers.cursors import (
    Newcomer,
    Registered,
    follow,
    forget_device,
    register_all,
    revoke,
    unfollow,
)
from imgateway.brokers.health import busy
from imgateway.brokers.reading import Found, FoundDevice, Reader
from imgateway.brokers.records import Records
from imgateway.brokers.store import Store
from imgateway.brokers.tails import MAX_PARKED, Owed, Seat, Tail, Tails, UnderWay, with_parked
from imgateway.brokers.unsaved import Unsaved
from imgateway.errors import CloseCode
from imgateway.frames import LogKey, SessionKey, Start, user_address
from imgateway.interfaces import Claim, Followed, LoginPolicy, Mailbox, Opened, Place, Presence, Verdict

__all__ = ("MAX_FOLLOWED", "MAX_PARKED", "Sessions")

log = Logger()

OK = Verdict.OK

Asked = tuple[Callable[..., None], tuple[Any, ...]]
"""Who waits for the answer to a claim: ``answer(opened, *about)``."""

# Logs beside its mailbox in which a device's position is kept: who subscribes to others, connection by
# connection, would fill memory and disk.
MAX_FOLLOWED = 1_000
# When a device was last seen matters by the day; once an hour spares a login storm its writes.
SEEN_GRAIN_MS = 3_600_000
# Whoever is online says so this often: should the process be killed, it was seen lately all the same.
TOUCH_MS = 21_600_000
# Users whose devices are looked at for that in one go.
TOUCH_STEP = 250


class Sessions:
    """Who is online, who may be, and how far everybody is.

    :param tails: the broker's, shared with it.
    :param ask: ``(question, answer)``: the question goes to the reader, the answer comes in order.
    :param ask_login: ``(session, also, answer)``: the same for what a login needs; after answers, `enter`.
    :param is_unread: as many questions wait as may.
    :param change: gives a change to the writer.
    :param epoch_of: the epoch of a log.
    :param displaced: `IBrokerListener.displaced`.
    :param flush_later: something is dirty that was not.
    :param most: answers that may wait for the disk; who asks for one more gets `StoreBusy`.
    """

    def __init__(
        self,
        tails: Tails,
        ask: Callable[[Callable[[Reader], Any], Callable[[Any], None]], None],
        ask_login: Callable[[SessionKey, Collection[LogKey], Callable[[Found], None]], None],
        is_unread: Callable[[], bool],
        change: Callable[[Change], None],
        store: Store,
        epoch_of: Callable[[LogKey], int],
        displaced: Callable[[SessionKey, int, int, str], None],
        flush_later: Callable[[], None],
        now_ms: Callable[[], int],
        max_devices: int,
        node: str,
        generation: int,
        most: int,
    ) -> None:
        self._tails = tails
        self._ask = ask
        self._ask_login = ask_login
        self._is_unread = is_unread
        self._change = change
        self._store = store
        self._epoch_of = epoch_of
        self._displaced = displaced
        self._now_ms = now_ms
        self._max_devices = max_devices
        self._node = node
        self._generations = count(generation + 1)  # counted so, each takes 32 bytes; sums take 48
        self.online = 0
        """Sessions that are open."""
        self.waiting = 0
        """What was asked and is not on the disk yet, of what anybody may ask again and again."""
        self._most = most
        self._unsaved = Unsaved(change, flush_later, now_ms, self._written)
        # What few seats have at a time stands here, not in each of them.
        self._waiting: dict[Seat, tuple[Claim, Asked]] = {}  # logins that a registration answers
        self._newcomers: list[Newcomer] = []  # who will be given to the writer in a moment
        # User → devices that were deleted from the disk, which a question under way may have seen there.
        self._forgotten: dict[str | LogKey, tuple[str, ...]] = {}
        self._away: set[Seat] = set()  # open, and their clients are gone
        self._brief: set[Seat] = set()  # that the disk is told nothing of: they end with their sessions
        self._login_ms = 0
        self._touching: Iterator[str] = iter(())  # users who are yet to be looked at in this round
        self._records = Records(change, self._unsaved.under_way, self._recorded)
        self._following: dict[LogKey, dict[SessionKey, Seat]] = {}
        # By session and log: to follow it is on its way to the disk, and to unfollow is not behind that.
        self._entering: dict[tuple[SessionKey, LogKey], Deferred[Followed]] = {}
        self._unfollowing = UnderWay()  # by session and log: to unfollow is

    # ------------------------------------------------------------------------------------------------- logins

    def open(self, claim: Claim, answer: Callable[..., None], about: tuple[Any, ...]) -> None:
        """See `IBroker.open_session`."""
        user, device = claim.session
        tail = self._tails.enter_mailbox(user)
        seat = tail.seat(device)
        # From memory only if nobody who came before is still waiting for the reader.
        # A seat is there only once the disk was asked.
        if (
            seat
            and seat.registered
            and (claim.brief or seat not in self._brief)
            and not seat.owed.others
            and tail.first >= 0
            and tail not in self._tails.pins
        ):
            self._admit(claim, tail, seat, None, (answer, about))
        elif self._is_unread():
            self.release(tail)
            raise busy()
        else:
            self._tails.pins.begin(tail)
            # Who begins at the head must know where that is.
            also = tuple(seat.owed.others) if seat else (tail.log,) if claim.brief else ()
            self._ask_login(claim.session, also, partial(self._found, claim, tail, (answer, about)))

    def _found(self, claim: Claim, tail: Tail, asked: Asked, found: Found) -> None:
        if found.not_before_s > tail.not_before_s:
            tail.not_before_s = found.not_before_s
        for cursor in found.cursors:
            if cursor.log == tail.log:
                tail.learn(cursor.first, cursor.head)
        if self._forgotten and claim.session.device in self._forgotten.get(claim.session.user, ()):
            # The reader may have seen the device before it was deleted. Registering finds out which it is.
            found = Found(found.not_before_s, "", 0, b"", ())
        if not self._admit(claim, tail, tail.seat(claim.session.device), found, asked):
            self._tails.pins.end(tail)
            self.release(tail)

    def _admit(self, claim: Claim, tail: Tail, seat: Seat | None, found: Found | None, asked: Asked) -> bool:
        """The login policy. State first, then the displaced are told, then the answer: a listener may call
        back.

        :returns: whether the device is being registered, for which the tail stays as it was for the question.
        """
        verdict = _verdict(claim, tail, seat, seat in self._away)
        if verdict is not OK:
            _answer(asked, Opened(verdict))
            return False
        is_new = seat is None and not (found is not None and found.seen_ms)
        if self.is_behind() and is_new and not claim.brief:
            _answer(asked, Failure(busy()))
            return False
        gone: list[Callable[[], None]] = []
        resumed = seat is not None and seat.online
        if seat is None:
            seat = Seat(claim.session.device)
            if found is not None and found.seen_ms:
                self._sit(tail, seat, found)
            elif claim.brief:
                seat.acked, seat.platform, seat.seen_ms = tail.head, claim.platform, self._now_ms()
                self._brief.add(seat)
            tail.seats = (*tail.seats, seat)
        is_kept = not claim.brief and seat in self._brief  # from now on
        known, registering = seat.registered and not is_kept, False
        generation = next(self._generations)
        if known:
            self._displace(claim, tail, generation, gone)
        elif seat.online:  # others stay until it is on the disk, which may be after its client has gone
            self._leave(tail, seat, code_of_claim(claim, seat), gone)
        self._away.discard(seat)
        seat.generation = generation
        seat.platform, platform_before = claim.platform, seat.platform
        seat.issued_at_s = claim.issued_at_s
        if seat.owed.order != claim.order:
            seat.owed = replace(seat.owed, order=claim.order)
        now_ms = self._now_ms()
        if not 0 <= now_ms - self._login_ms < 1_000:
            self._login_ms = now_ms
        seat.since_ms = self._login_ms  # one object for all logins of a second
        self.online += 1
        if known:
            if now_ms - seat.seen_ms > SEEN_GRAIN_MS or claim.platform != platform_before:
                self._unsaved.mark(claim.session, seat)
        else:
            registering = is_kept or (seat not in self._waiting and seat not in self._unsaved.under_way)
            self._brief.discard(seat)
            if registering:
                self._register(claim.session, claim.start, tail, seat)
            self._waiting[seat] = claim, asked
        if gone:
            for tell in gone:
                tell()
            self.release(tail)  # of the displaced: nobody closes them any more
        self._records.give_up(seat)
        if known:
            _answer(asked, self._opened(tail, seat, found, not is_new, resumed))
        return registering

    def _displace(self, claim: Claim, tail: Tail, generation: int, gone: list[Callable[[], None]]) -> None:
        """Those whom this claim ends: not who came after it, while it waited for the disk."""
        for other in tail.seats:
            if 0 < other.generation < generation and (code := code_of_claim(claim, other)):
                self._leave(tail, other, code, gone)

    def _sit(self, tail: Tail, seat: Seat, found: Found) -> None:
        """Fill a seat from the disk."""
        seat.seen_ms, seat.platform = found.seen_ms, found.platform
        parked: tuple[int, ...] = ()
        others = {}
        for cursor in found.cursors:
            if cursor.log == tail.log:
                seat.acked, parked = cursor.acked, cursor.parked
            else:
                others[cursor.log] = (cursor.acked, cursor.parked)
        if parked or others or found.record:
            seat.owed = Owed(parked, others, found.record)

    def _opened(
        self, tail: Tail, seat: Seat, found: Found | None, known: bool, resumed: bool = False
    ) -> Opened:
        log, owed = tail.log, seat.owed
        mailbox = Place(
            log, self._epoch_of(log), min(seat.acked, tail.head), max(tail.first, 1), tail.head, owed.parked
        )
        places = [mailbox]
        for cursor in found.cursors if found else ():
            if cursor.log != log:
                acked, parked = owed.others.get(cursor.log, (cursor.acked, cursor.parked))
                epoch = self._epoch_of(cursor.log)
                places.append(Place(cursor.log, epoch, acked, cursor.first, cursor.head, parked))
        return Opened(OK, seat.generation, tuple(places), known, owed.record, resumed)

    def _register(self, session: SessionKey, start: Start, tail: Tail, seat: Seat) -> None:
        """With `enter`. The tail is pinned."""
        self.waiting += 1
        self._unsaved.under_way.begin(seat)
        furthest = self._unsaved.seen.get(session.user, 0)
        self._newcomers.append(Newcomer(session, start, tail, seat, furthest))

    def enter(self) -> None:
        """Give the newcomers to the writer, all those of one turn together."""
        if not self._newcomers:
            return
        newcomers, self._newcomers = self._newcomers, []

        def registered(results: list[Registered | None]) -> None:
            gone: list[Callable[[], None]] = []
            for newcomer, result in zip(newcomers, results, strict=True):
                self._registered(newcomer, result, gone)
            for tell in gone:
                tell()
            for newcomer, result in zip(newcomers, results, strict=True):
                if result is not None and newcomer.seat in self._waiting:
                    _, asked = self._waiting.pop(newcomer.seat)
                    _answer(asked, self._opened(newcomer.tail, newcomer.seat, None, False))
                self.release(newcomer.tail)
            self.enter()  # who came again

        self._change(
            Change(
                lambda writer: register_all(
                    writer, self._store, newcomers, self._now_ms(), self._max_devices
                ),
                registered,
            )
        )

    def _registered(
        self, newcomer: Newcomer, result: Registered | None, gone: list[Callable[[], None]]
    ) -> None:
        session, tail, seat = newcomer.session, newcomer.tail, newcomer.seat
        self.waiting -= 1
        self._tails.pins.end(tail)
        self._unsaved.under_way.end(seat)
        if result is None:
            if seat in self._waiting:  # it came again since
                self._tails.pins.begin(tail)
                self._register(session, self._waiting[seat][0].start, tail, seat)
            return
        acked, first, head, forgotten = result
        tail.learn(first, head)
        if acked > seat.acked:
            seat.acked = acked
        seat.seen_ms = seat.since_ms
        if forgotten:
            self._forgot(session.user, tail, forgotten)
        if seat in self._waiting:
            self._displace(self._waiting[seat][0], tail, seat.generation, gone)

    def withdraw(self, claim: Claim) -> None:
        """Its client has gone. If it waits for the disk, its device is not entered."""
        tail = self._tails.enter_mailbox(claim.session.user)
        gone: list[Callable[[], None]] = []
        for seat in tail.seats:
            if seat in self._waiting and self._waiting[seat][0] is claim:
                self._leave(tail, seat, CloseCode.STALE, gone)
        for tell in gone:
            tell()
        self.release(tail)

    def _forgot(self, user: str, tail: Tail, forgotten: tuple[str, ...]) -> None:
        """These devices were deleted to make place."""
        self._forget(user, forgotten)
        for device in forgotten:
            other = tail.seat(device)
            if other is not None and other.online:  # it came back while it was being forgotten
                self._tails.pins.begin(tail)
                self._register(SessionKey(user, device), Start.UNSEEN, tail, other)
                self.enter()  # before what else is to be written of it
            elif other is not None:
                self._unsaved.clean(other)
                tail.seats = tuple(one for one in tail.seats if one is not other)

    # ------------------------------------------------------------------------------------- while it is online

    def advance(
        self,
        session: SessionKey,
        generation: int,
        upto: Sequence[tuple[LogKey, int]],
        parked: Sequence[tuple[LogKey, int]],
    ) -> None:
        seat = self._current(session, generation, True)
        if seat is None:
            return
        # Before the position that passes them, for the writer's thread reads both (see `positions`).
        for log, seq in parked:
            if _is_mailbox(log, session.user):
                seat.owed = replace(seat.owed, parked=with_parked(seat.owed.parked, seq))
            else:
                acked, kept = seat.owed.others.get(log, (0, ()))
                _keep(seat, log, acked, with_parked(kept, seq))
                self._unsaved.move(session, seat, log)
        for log, seq in upto:
            if _is_mailbox(log, session.user):
                if seq > seat.acked:
                    seat.acked = seq
                    if seq > self._unsaved.seen.get(session.user, 0):
                        self._unsaved.seen[session.user] = seq
            else:
                acked, kept = seat.owed.others.get(log, (0, ()))
                _keep(seat, log, max(acked, seq), kept)
                self._unsaved.move(session, seat, log)
        self._unsaved.mark(session, seat)

    def unpark(self, session: SessionKey, generation: int, log: LogKey, seq: int) -> None:
        seat = self._current(session, generation, True)
        if seat is None:
            return
        if _is_mailbox(log, session.user):
            seat.owed = replace(seat.owed, parked=tuple(one for one in seat.owed.parked if one != seq))
        elif log in seat.owed.others:
            acked, kept = seat.owed.others[log]
            _keep(seat, log, acked, tuple(one for one in kept if one != seq))
            self._unsaved.move(session, seat, log)
        self._unsaved.mark(session, seat)

    def follow(self, session: SessionKey, generation: int, log: LogKey, begin: int) -> Deferred[Followed]:
        seat = self._current(session, generation, True)
        if seat is None:
            return succeed(Followed(False, begin))
        there = seat.owed.others.get(log)
        # From the disk, or by way of it; unless it is about to be gone from there.
        if there is not None and (session, log) not in self._unfollowing:
            self._following.setdefault(log, {})[session] = seat
            return succeed(Followed(True, *there))
        if self.is_behind():
            return fail(busy())
        self._forget_surplus(session, generation, seat)
        answer: Deferred[Followed] = Deferred()
        self.waiting += 1
        self._unsaved.under_way.begin(seat)
        self._entering[session, log] = answer

        def followed(found: tuple[bool, int, tuple[int, ...]] | None) -> None:
            self.waiting -= 1
            self._unsaved.under_way.end(seat)
            if self._entering.get((session, log)) is answer:
                del self._entering[session, log]
            known, acked, parked = found or (False, begin, ())
            _keep(seat, log, acked, parked)
            tail = self._tails.enter_mailbox(session.user)
            # It is being registered again, and this is written after that; unless it was forgotten for good:
            # then what it has is nothing to the next device of its name.
            if found is None and tail.seat(session.device) is seat:
                self._unsaved.move(session, seat, log)
            if self.is_open(session, generation):
                self._following.setdefault(log, {})[session] = seat
            self.release(tail)
            answer.callback(Followed(known, acked, parked))

        self._change(Change(lambda writer: follow(writer, self._store, session, log, begin), followed))
        return answer

    def _forget_surplus(self, session: SessionKey, generation: int, seat: Seat) -> None:
        """Make place for one more log, if there is one that the device does not follow just now."""
        others = seat.owed.others
        if len(others) >= MAX_FOLLOWED:
            idle = (log for log in others if session not in self._following.get(log, ()))
            surplus = next(idle, None)
            if surplus is not None:
                self.unfollow(session, generation, surplus)

    def unfollow(self, session: SessionKey, generation: int, log: LogKey) -> Deferred[None]:
        seat = self._current(session, generation, True)
        if seat is None:
            return succeed(None)
        one = session, log
        leaving = self._unfollowing.get(one, 0)
        if log not in seat.owed.others and one not in self._entering:
            if not leaving:  # memory has all that the disk has: there is nothing to do there
                return succeed(None)
            if self.is_behind():
                return fail(busy())
        done: Deferred[None] = Deferred()
        self.waiting += 1
        self._unsaved.under_way.begin(seat)
        self._unfollowing.begin(one)
        self._entering.pop(one, None)

        def forget() -> None:
            others = {other: where for other, where in seat.owed.others.items() if other != log}
            seat.owed = replace(seat.owed, others=others)

        def forgotten(result: Any) -> None:
            self.waiting -= 1
            self._unsaved.under_way.end(seat)
            self._unfollowing.end(one)
            self._part(log, session, seat)  # once more: to follow may have been on its way
            forget()
            self.release(self._tails.enter_mailbox(session.user))
            done.callback(None)

        self._part(log, session, seat)
        forget()
        self._change(Change(lambda connection: unfollow(connection, session, log), forgotten))
        return done

    def linger(self, session: SessionKey, generation: int) -> None:
        seat = self._current(session, generation, False)
        if seat is not None:
            self._away.add(seat)

    def record(self, session: SessionKey, generation: int, data: bytes) -> Deferred[bool]:
        seat = self._current(session, generation, True)
        if seat is None:
            return succeed(False)
        if seat.owed.record == data and seat not in self._unsaved.under_way:
            return succeed(True)
        return self._records.keep(session, seat, data)

    def _recorded(self, session: SessionKey, seat: Seat) -> None:
        if seat not in self._unsaved.under_way:
            self._written(session.user)

    def _written(self, user: str) -> None:
        tail = self._tails.of(user)
        if tail is not None:
            self.release(tail)

    def close(self, session: SessionKey, generation: int, forget: bool) -> Deferred[None]:
        seat = self._current(session, generation, False)
        if seat is None:
            return succeed(None)
        tail = self._tails.enter_mailbox(session.user)
        seat.generation = 0
        self._away.discard(seat)
        self.online -= 1
        for log in seat.owed.others:
            self._part(log, session, seat)
        if self._now_ms() - seat.seen_ms > SEEN_GRAIN_MS:
            self._unsaved.mark(session, seat)
        if forget and seat not in self._brief:
            done: Deferred[None] = Deferred()
            self._unsaved.clean(seat)
            tail.seats = tuple(one for one in tail.seats if one is not seat)
            self._tails.pins.begin(tail)

            def forgotten(result: Any) -> None:
                self._tails.pins.end(tail)
                self.release(tail)
                done.callback(None)

            self._forget(session.user, (session.device,))
            self._change(Change(lambda connection: forget_device(connection, session), forgotten))
            return done
        if self._unsaved.is_dirty(seat):
            return self._unsaved.end(seat)
        self.release(tail)
        return succeed(None)

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        tail = self._tails.enter_mailbox(user)
        tail.not_before_s = max(tail.not_before_s, not_before_s)
        gone: list[Callable[[], None]] = []
        for seat in tail.seats:
            if seat.online and seat.issued_at_s < not_before_s:
                self._leave(tail, seat, CloseCode.REVOKED, gone)
        done: Deferred[None] = Deferred()
        self._tails.pins.begin(tail)

        def written(result: Any) -> None:
            self._tails.pins.end(tail)
            self.release(tail)
            done.callback(None)

        self._change(Change(lambda connection: revoke(connection, user, not_before_s), written))
        for tell in gone:
            tell()
        return done

    def renew(self, session: SessionKey, generation: int, issued_at_s: int) -> Deferred[Verdict]:
        seat = self._current(session, generation, False)
        if seat is None:
            return succeed(Verdict.OUTRUN)
        if issued_at_s < self._tails.enter_mailbox(session.user).not_before_s:
            return succeed(Verdict.REVOKED)
        seat.issued_at_s = issued_at_s
        return succeed(Verdict.OK)

    def is_behind(self) -> bool:
        """As much waits for the disk as may."""
        return self.waiting >= self._most

    def is_open(self, session: SessionKey, generation: int) -> bool:
        """Is this the generation that has the session?"""
        return self._current(session, generation, False) is not None

    def is_current(self, session: SessionKey, generation: int) -> bool:
        """The same; one that is stale is told so."""
        return self._current(session, generation, True) is not None

    def present(self, user: str) -> Deferred[tuple[Presence, ...]]:
        """All devices of the user; those online first."""
        answer: Deferred[tuple[Presence, ...]] = Deferred()

        def found(devices: tuple[FoundDevice, ...]) -> None:
            tail = self._tails.of(user)
            seats = tail.seats if tail else ()
            here = [
                Presence(
                    SessionKey(user, s.device),
                    s.platform,
                    self._node,
                    s.generation,
                    s.since_ms,
                    s not in self._away,
                )
                for s in sorted(seats, key=self._away.__contains__)
                if s.online
            ]
            names = {presence.session.device for presence in here}
            away = [
                Presence(SessionKey(user, one.device), one.platform, "", 0, one.seen_ms, False)
                for one in devices
                if one.device not in names
            ]
            answer.callback((*here, *away))

        self._ask(lambda reader: reader.devices(user), found)
        return answer

    def mailbox(self, user: str) -> Deferred[Mailbox]:
        """How far the user's mailbox has got."""
        answer: Deferred[Mailbox] = Deferred()
        # At the answer it may be on disk, where the reader did not see it yet.
        lately = self._unsaved.seen.get(user, 0)

        def found(result: tuple[int, int, int]) -> None:
            first, head, seen = result
            epoch = self._epoch_of(LogKey(user_address(user)))
            answer.callback(Mailbox(epoch, first, head, min(max(seen, lately), head)))

        self._ask(lambda reader: reader.mailbox(user), found)
        return answer

    def positions(self, log: LogKey) -> tuple[list[tuple[str, str, int, tuple[int, ...]]], int]:
        """How far those in memory have got who count for what may go of a log, as (user, device, acked,
        parked); and of a mailbox, the furthest that any device acknowledged lately.

        Called from the writer's thread: reads what is replaced as a whole or copied in one go, and ints.
        """
        if log.address.kind != "user":
            following = self._following.get(log, {}).copy()
            others = [(session, seat.owed.others.get(log)) for session, seat in following.items()]
            return [(*session, *where) for session, where in others if where is not None], 0
        user, tail = log.address.id, self._tails.get(log)
        seats = tail.seats if tail else ()
        # First how far, then what was set aside below: `advance` does it the other way round.
        known = [(user, seat.device, seat.acked, seat.owed.parked) for seat in seats if seat.registered]
        return known, self._unsaved.seen.get(user, 0)

    def flush(self) -> None:
        """Give all that the disk does not know yet to the writer."""
        self._unsaved.flush()

    def touch(self) -> None:
        """Once a second: of the next few users, mark who is online and was not written down for long."""
        users = list(islice(self._touching, TOUCH_STEP))
        if not users:
            self._touching = iter(self._tails.users())
        now_ms = self._now_ms()
        for user in users:
            tail = self._tails.of(user)
            for seat in tail.seats if tail else ():
                if seat.online and seat.registered and now_ms - seat.seen_ms > TOUCH_MS:
                    self._unsaved.mark(SessionKey(user, seat.device), seat)

    # ---------------------------------------------------------------------------------------------- internals

    def _current(self, session: SessionKey, generation: int, tell: bool) -> Seat | None:
        """The session's seat if this is the generation that has it; a stale one is told so."""
        tail = self._tails.of(session.user)
        seat = tail.seat(session.device) if tail else None
        if seat is not None and seat.generation == generation > 0:
            return seat
        if tell:
            self._displaced(session, generation, CloseCode.STALE, reason_of(CloseCode.STALE))
        return None

    def _leave(self, tail: Tail, seat: Seat, code: int, gone: list[Callable[[], None]]) -> None:
        """This generation ends now. Who has no answer yet gets a verdict instead of being displaced."""
        generation, seat.generation = seat.generation, 0
        self._away.discard(seat)
        self.online -= 1
        session = SessionKey(tail.log.address.id, seat.device)
        for log in seat.owed.others:
            self._part(log, session, seat)
        waiting = self._waiting.pop(seat, None)
        if waiting is not None:
            gone.append(partial(_answer, waiting[1], Opened(verdict_of(code))))
        else:
            gone.append(partial(self._displaced, session, generation, CloseCode(code), reason_of(code)))

    def _part(self, log: LogKey, session: SessionKey, seat: Seat) -> None:
        """It follows this log no more, or is offline: the disk knows where it stands, if it does."""
        following = self._following.get(log)
        if following is not None and following.get(session) is seat:
            del following[session]
            if not following:
                del self._following[log]

    def _forget(self, user: str, devices: tuple[str, ...]) -> None:
        if devices:
            self._forgotten[user] = self._forgotten.get(user, ()) + devices

    def release(self, tail: Tail) -> None:
        """Forget what need not be remembered: seats that are offline and written, an unused tail."""
        if tail in self._tails.pins:
            return
        if self._forgotten:
            self._forgotten.pop(tail.name, None)
        if isinstance(tail.sitting, Seat) and tail.sitting.generation:
            return  # who is alone, and online
        seats = tail.seats
        for seat in seats:
            if not (seat.generation or seat in self._unsaved):
                seats = tuple([one for one in seats if one is not seat])
                tail.seats = seats
                self._brief.discard(seat)
        if not (seats or tail.watched):
            self._tails.drop(tail)
            self._unsaved.seen.pop(tail.name, None)  # of a device that was forgotten before it was written


def _answer(asked: Asked, opened: Opened | Failure) -> None:
    """Others of the crowd, and of the commit, are told behind it."""
    answer, about = asked
    try:
        answer(opened, *about)
    except Exception:
        log.failure("who claimed a session raised at the answer")


def _verdict(claim: Claim, tail: Tail, seat: Seat | None, is_away: bool) -> Verdict:
    if claim.issued_at_s < tail.not_before_s:
        return Verdict.REVOKED
    if claim.policy is LoginPolicy.REFUSE and any(one.online and one is not seat for one in tail.seats):
        return Verdict.CONFLICT
    if (
        seat is not None
        and seat.online
        and not is_away
        and claim.on_same_device == BY_ORDER
        and seat.owed.order > claim.order
    ):
        return Verdict.OUTRUN
    return OK


def _is_mailbox(log: LogKey, user: str) -> bool:
    kind, name, _ = log[0]  # by its names an address takes thrice as long
    return name == user and kind == "user"


def _keep(seat: Seat, log: LogKey, acked: int, parked: tuple[int, ...]) -> None:
    seat.owed = replace(seat.owed, others={**seat.owed.others, log: (acked, parked)})
