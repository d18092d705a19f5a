"""Sessions and their claims on Redis: one script on the user's primary decides who has which.

Here stand the sessions that this node has, as their claims were answered. Whether one still is ours only
the primary knows; it tells when somebody else comes (a kick, which may get lost), and each write asks (which
is why a lost kick does no harm). What may be lost with a subscription, a lease or a primary is asked again.

The answers of a primary come in the order of the calls. So whoever stands here when the answer to a claim or
a revocation comes, and is not among those that the script found to be ours, was displaced by it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.brokers.claims import BY_ORDER, code_of_claim, reason_of, verdict_of
from imgateway.brokers.redis.claims import Opening, presences
from imgateway.brokers.redis.following import Following
from imgateway.brokers.redis.lobby import Lobby
from imgateway.brokers.redis.positions import Positions, is_mailbox, seqs
from imgateway.brokers.redis.primaries import Primaries
from imgateway.brokers.redis.primary import Primary
from imgateway.brokers.redis.seats import Seats
from imgateway.brokers.redis.together import together
from imgateway.brokers.tails import Owed, Seat, with_parked
from imgateway.errors import CloseCode
from imgateway.frames import LogKey, SessionKey, address_text, user_address
from imgateway.interfaces import Claim, Followed, Opened, Place, Presence, Verdict

__all__ = ("Sessions",)

CHECK_BATCH = 200
"""Sessions that one script asks after."""
CLAIM_BYTES = 8


class Sessions:
    """Everything by keyword.

    :param incarnation: this node's.
    :param displaced: `IBrokerListener.displaced`.
    :param reactor: for ``callLater``, and when claims are made.
    :param flush_s: how long a position waits, at most.
    :param max_devices: devices that are remembered per user.
    :param entropy: ``n -> n`` random bytes.
    """

    log = Logger()

    def __init__(
        self,
        *,
        primaries: Primaries,
        incarnation: str,
        displaced: Callable[[SessionKey, int, int, str], None],
        reactor: Any,
        flush_s: float = 5.0,
        max_devices: int = 16,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._primaries = primaries
        self._incarnation = incarnation
        self._displaced = displaced
        self._max_devices = max_devices
        self._entropy = entropy
        self._reactor = reactor
        self._seats = Seats()
        self._online: Counter[Primary] = Counter()
        self._positions = Positions(
            primaries=primaries,
            incarnation=incarnation,
            seats=self._seats,
            stale=self._stale,
            reactor=reactor,
            flush_s=flush_s,
        )
        self._following = Following(primaries=primaries, positions=self._positions)
        self._data: dict[Primary, tuple[int, int]] = {}  # generation and epoch that are known here
        self._rewriting: set[SessionKey] = set()  # what was written of them may be lost, and is written again
        self._opening: dict[SessionKey, Opening] = {}
        self._lobby = Lobby(self._claim)
        self.flush = self._positions.flush
        self.changed = self._lobby.changed
        self.withdraw = self._lobby.withdraw

    @property
    def online(self) -> int:
        """Sessions that are open at this node."""
        return len(self._seats)

    def online_at(self, primary: Primary) -> int:
        """Those whose users are at one primary."""
        return self._online[primary]

    def stop(self) -> Deferred[Any]:
        """What is not written yet is written."""
        self._lobby.stop()
        return self._positions.stop()

    # ------------------------------------------------------------------------------------------------- logins

    def open(self, claim: Claim) -> Deferred[Opened]:
        primary, _ = self._primaries.of(claim.session.user)
        return self._lobby.open(primary, claim, self._reactor.seconds())

    def _claim(self, claim: Claim, at: float, answer: Deferred[Opened]) -> None:
        session = claim.session
        user, device = session
        self._positions.flush_user(user)  # a new device begins where another acknowledged just now
        opening = self._opening.setdefault(session, Opening())
        opening.count += 1
        primary, bucket = self._primaries.of(user)
        claiming = primary.call(
            "open",
            *(bucket, user, device, claim.platform, int(claim.policy), int(claim.start), claim.issued_at_s),
            *(int(claim.on_same_device == BY_ORDER), claim.order, self._entropy(CLAIM_BYTES)),
            *(self._incarnation, self._max_devices, address_text(user_address(user))),
            at=at,
        )
        claiming.addCallbacks(
            partial(self._claimed, claim, opening, answer), partial(self._unclaimed, claim, opening, answer)
        )
        # What came could not be used: whoever waits is told, so that the claim has an end.
        claiming.addErrback(answer.errback)

    def _answered(self, session: SessionKey, opening: Opening) -> None:
        opening.count -= 1
        if not opening.count:
            del self._opening[session]

    def _unclaimed(self, claim: Claim, opening: Opening, answer: Deferred[Opened], failure: Failure) -> None:
        self._answered(claim.session, opening)
        answer.errback(failure)

    def _claimed(self, claim: Claim, opening: Opening, answer: Deferred[Opened], reply: list[Any]) -> None:
        """State first, then the displaced are told, then the answer: a listener may call back."""
        session, (user, device) = claim.session, claim.session
        self._answered(session, opening)
        verdict = Verdict(reply[0])
        gone = self._swept(user, reply[1], partial(code_of_claim, claim))
        if verdict is not Verdict.OK:
            for tell in gone:  # a run before this one, whose answer was lost, was granted
                tell()
            answer.callback(Opened(verdict))
            return
        generation, known, resumed, since_ms, epoch, first, head, acked = reply[2:10]
        begun, parked, record, follows, forgotten = reply[10:]
        primary, _ = self._primaries.of(user)
        # It may answer before it is listened to for the first time, and be lost before that.
        self._data.setdefault(primary, (primary.generation, primary.epoch))
        for name, logs in zip(forgotten[::2], forgotten[1::2], strict=True):
            self._following.drop(SessionKey(user, name.decode()), generation, logs).addErrback(self._failed)
        place = Place(LogKey(user_address(user)), epoch, acked, first, head, seqs(parked))
        opened = Opened(Verdict.OK, generation, (place,), bool(known), record, bool(resumed))
        kicked = opening.kicked.pop(generation, 0)
        seat = Seat(device, claim.platform, generation, claim.issued_at_s, since_ms, acked=acked)
        if kicked:
            opened = Opened(verdict_of(kicked))
        else:
            if place.parked or record or claim.order:
                seat.owed = Owed(place.parked, {}, record, claim.order)
            self._add(user, seat)
            if begun:
                self._positions.begun.add(session)
            self._following.places(session, seat, follows)
        for tell in gone:
            tell()
        if opening.is_doubted:
            self._check(self._primaries.of(user)[0], [(session, seat)])
        answer.callback(opened)

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # the broker has stopped
            self.log.failure("a claim failed", failure)

    def _swept(self, user: str, ours: list[Any], code_of: Callable[[Seat], int]) -> list[Callable[[], None]]:
        """Take out the user's seats that are not ours any more, for which `code_of` gives a close code.

        :param ours: [device, generation, …] as the script found them.
        :returns: what tells them.
        """
        kept = dict(zip(map(bytes.decode, ours[::2]), ours[1::2], strict=True))
        gone = []
        for seat in self._seats.of(user):
            if kept.get(seat.device) != seat.generation:
                code = code_of(seat)
                if code:
                    gone.append(self._part(SessionKey(user, seat.device), seat, code))
        return gone

    # ------------------------------------------------------------------------------------- while it is online

    def advance(
        self,
        session: SessionKey,
        generation: int,
        upto: Sequence[tuple[LogKey, int]],
        parked: Sequence[tuple[LogKey, int]] = (),
    ) -> None:
        seat = self._current(session, generation)
        if seat is None:
            return
        is_outdated = self._positions.is_outdated
        for log, seq in upto:
            if is_outdated(session, log):
                continue
            if is_mailbox(log, session.user):
                if seq > seat.acked:
                    seat.acked = seq
                    self._positions.begun.discard(session)
                self._positions.mark(session, seat)
            else:
                acked, kept = seat.owed.others.get(log, (0, ()))
                self._following.keep(session, seat, log, max(acked, seq), kept)
        for log, seq in parked:
            if is_outdated(session, log):
                continue
            if is_mailbox(log, session.user):
                seat.owed = replace(seat.owed, parked=with_parked(seat.owed.parked, seq))
                self._positions.mark(session, seat)
            else:
                acked, kept = seat.owed.others.get(log, (0, ()))
                self._following.keep(session, seat, log, acked, with_parked(kept, seq))

    def unpark(self, session: SessionKey, generation: int, log: LogKey, seq: int) -> None:
        seat = self._current(session, generation)
        if seat is None or self._positions.is_outdated(session, log):
            return
        if is_mailbox(log, session.user):
            seat.owed = replace(seat.owed, parked=tuple(one for one in seat.owed.parked if one != seq))
            self._positions.mark(session, seat)
        elif log in seat.owed.others:
            acked, kept = seat.owed.others[log]
            self._following.keep(session, seat, log, acked, tuple(one for one in kept if one != seq))

    def record(self, session: SessionKey, generation: int, data: bytes) -> Deferred[bool]:
        seat = self._current(session, generation)
        if seat is None:
            return succeed(False)
        if seat.owed.record == data and not self._positions.is_recording(session) and self._is_kept(session):
            return succeed(True)
        seat.owed = replace(seat.owed, record=data)
        return self._positions.mark_recorded(session, seat)

    def _is_kept(self, session: SessionKey) -> bool:
        """What was written of it is there: its primary has the data that it had."""
        primary, _ = self._primaries.of(session.user)
        return session not in self._rewriting and self._data.get(primary) == (
            primary.generation,
            primary.epoch,
        )

    def linger(self, session: SessionKey, generation: int) -> None:
        seat = self._seat(session, generation)
        if seat is not None:
            self._positions.mark_away(session, seat)

    def follow(self, session: SessionKey, generation: int, log: LogKey, begin: int) -> Deferred[Followed]:
        seat = self._current(session, generation)
        if seat is None:
            return succeed(Followed(False, begin))
        return self._following.follow(session, seat, log, begin)

    def unfollow(self, session: SessionKey, generation: int, log: LogKey) -> Deferred[None]:
        seat = self._current(session, generation)
        if seat is None:
            return succeed(None)
        return self._following.unfollow(session, seat, log)

    def close(self, session: SessionKey, generation: int, forget: bool = False) -> Deferred[None]:
        seat = self._seat(session, generation)
        if seat is None:
            return succeed(None)
        user, device = session
        self._positions.flush_user(user)
        give_up = self._remove(session, seat)
        primary, bucket = self._primaries.of(user)

        def closed(follows: bytes) -> Deferred[None] | None:
            if not follows:
                return None
            seat.owed = replace(seat.owed, others={})  # of a batch that failed nothing is written behind this
            return self._following.drop(session, generation, follows)

        closing = primary.call("close", bucket, user, device, generation, self._incarnation, int(forget))
        closing.addCallback(closed)
        give_up()
        return self._positions.wait_for(closing)

    def renew(self, session: SessionKey, generation: int, issued_at_s: int) -> Deferred[Verdict]:
        seat = self._seat(session, generation)
        if seat is None:
            return succeed(Verdict.OUTRUN)
        user, device = session
        primary, bucket = self._primaries.of(user)

        def renewed(verdict: int) -> Verdict:
            if verdict == Verdict.OK:
                seat.issued_at_s = issued_at_s
            elif verdict == Verdict.OUTRUN:
                self._check(primary, [(session, seat)])  # it is told why, if that is not under way
            return Verdict(verdict)

        renewing = primary.call("renew", bucket, user, device, generation, self._incarnation, issued_at_s)
        return renewing.addCallback(renewed)

    def revoke(self, user: str, not_before_s: int) -> Deferred[None]:
        primary, bucket = self._primaries.of(user)

        def revoked(ours: list[Any]) -> None:
            def code_of(seat: Seat) -> int:
                return CloseCode.REVOKED if seat.issued_at_s < not_before_s else 0

            for tell in self._swept(user, ours, code_of):
                tell()

        return primary.call("revoke", bucket, user, not_before_s, self._incarnation).addCallback(revoked)

    def present(self, user: str) -> Deferred[tuple[Presence, ...]]:
        """All devices of the user; those online first."""
        primary, bucket = self._primaries.of(user)
        return primary.call("present", bucket, user).addCallback(presences, user)

    def has(self, session: SessionKey) -> bool:
        """Whether this node has a session of this key open."""
        return self._seats.get(session) is not None

    def is_open(self, session: SessionKey, generation: int) -> bool:
        """Is this the generation that has the session here?"""
        return self._seat(session, generation) is not None

    def is_current(self, session: SessionKey, generation: int) -> bool:
        """The same; one that is stale is told so."""
        return self._current(session, generation) is not None

    # ---------------------------------------------------------------------------------- what others displaced

    def heard(self, primary: Primary, item: list[Any]) -> None:
        """A hint of kind ``d``: a generation of ours was displaced at another node."""
        _, user, device, generation, code = item
        session = SessionKey(user.decode(), device.decode())
        seat = self._seats.get(session)
        if seat is not None and seat.generation == generation:
            self._part(session, seat, code)()
        elif session in self._opening and (seat is None or seat.generation < generation):
            self._opening[session].kicked[generation] = code

    def renewed(self, primary: Primary) -> None:
        """Kicks may have been lost, or the primary may have lost claims: is what is here still ours? If its
        data is another than before, what was written last is written again."""
        data = primary.generation, primary.epoch
        is_other = self._data.setdefault(primary, data) != data
        self._data[primary] = data
        for session, opening in self._opening.items():
            opening.is_doubted |= self._is_at(session.user, primary)
        mine = [one for one in self._seats.all() if self._is_at(one[0].user, primary)]
        self._check(primary, mine, is_other, primary.generation)
        if is_other:
            self._rewriting.update(session for session, _ in mine)
            self._positions.mark_places(primary)

    def _check(
        self,
        primary: Primary,
        mine: list[tuple[SessionKey, Seat]],
        is_other: bool = False,
        generation: int = 0,
    ) -> None:
        """A batch at a time, so that others are served in between.

        :param generation: these are all that this node has there, of the data of this generation, which is
            said when they have been named; 0: they are not.
        """
        rest = mine[CHECK_BATCH:]

        def here(one: tuple[SessionKey, Seat]) -> tuple[SessionKey, Seat] | None:
            session, seat = one
            return one if self._seats.get(session) is seat else None

        def call(asked: Sequence[tuple[SessionKey, Seat]]) -> Deferred[Any]:
            values: list[Any] = []
            for session, seat in asked:
                _, bucket = self._primaries.of(session.user)
                values += (bucket, *session, seat.generation, seat.platform, seat.issued_at_s)
                values += (seat.owed.order, seat.since_ms, max(seat.acked, 0))
                values += (
                    self._positions.seen(session, seat),
                    self._positions.parked(session, seat.owed.parked),
                )
            return primary.call("check", self._incarnation, primary.epoch, 0, *values)

        def failed(failure: Failure, one: tuple[SessionKey, Seat]) -> None:
            nonlocal generation
            generation = 0  # this one was not named
            self._failed(failure)

        def answered(codes: list[int], asked: Sequence[tuple[SessionKey, Seat]]) -> None:
            for (session, seat), code in zip(asked, codes, strict=True):
                if code:
                    self._stale(session, seat.generation, code)
                elif is_other and self._seats.get(session) is seat:
                    self._rewriting.discard(session)
                    self._positions.mark_all(session, seat)

        def go_on(_: Any) -> Any:
            if rest:
                self._check(primary, rest, is_other, generation)
            elif generation:
                return primary.call("check", self._incarnation, primary.epoch, generation)
            return None

        asked = [one for one in mine[:CHECK_BATCH] if here(one)]
        checking = together(asked, call, answered, failed, here)
        checking.addCallback(go_on).addErrback(self._failed)

    # ---------------------------------------------------------------------------------------------- internals

    def _is_at(self, user: str, primary: Primary) -> bool:
        return self._primaries.of(user)[0] is primary

    def _seat(self, session: SessionKey, generation: int) -> Seat | None:
        seat = self._seats.get(session)
        return seat if seat is not None and seat.generation == generation else None

    def _current(self, session: SessionKey, generation: int) -> Seat | None:
        """The session's seat if this is the generation that has it; a stale one is told so."""
        seat = self._seat(session, generation)
        if seat is None:
            self._displaced(session, generation, CloseCode.STALE, reason_of(CloseCode.STALE))
        return seat

    def _add(self, user: str, seat: Seat) -> None:
        self._seats.add(user, seat)
        self._online[self._primaries.of(user)[0]] += 1

    def _remove(self, session: SessionKey, seat: Seat) -> Callable[[], None]:
        """:returns: what tells those who wait for something of it."""
        self._online[self._primaries.of(session.user)[0]] -= 1
        self._rewriting.discard(session)
        self._positions.forget(session)
        self._seats.remove(session.user, seat)
        return self._following.forget(session)

    def _part(self, session: SessionKey, seat: Seat, code: int) -> Callable[[], None]:
        """This generation ends now.

        :returns: what tells it.
        """
        give_up = self._remove(session, seat)

        def tell() -> None:
            self._displaced(session, seat.generation, CloseCode(code), reason_of(code))
            give_up()

        return tell

    def _stale(self, session: SessionKey, generation: int, code: int) -> None:
        """The primary says that it is not ours; or, with -1, that it has never heard of it."""
        seat = self._seat(session, generation)
        if seat is None:
            return
        if code < 0:
            self._check(self._primaries.of(session.user)[0], [(session, seat)])
            self._positions.mark_recorded(session, seat)
        else:
            self._part(session, seat, code)()
