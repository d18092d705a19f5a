"""Rounds: what came to an audience since the last one goes to all who are at its head, in slices.

The first message after a quiet time leaves at once. What follows within the audience's tick waits for the
tick's end, on a clock that all share, and leaves as one frame per lane, lane 1 first. A round freezes the
head and serves a slice of the members; then others have their turn, and what came meanwhile is the next
round. So a message costs a flood's readers a part of a frame, and nobody else more than a slice.

A turn of the process does so much and no more, whether it is one round of many members, frames of many
bytes, or many rounds that begin at the same tick: what is left stands in one line, and each in it does a
slice when it comes to the front.

Who is behind reads blocks from the broker, a share at a time, whenever its link has room. That, too, has its
place in each turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from math import floor
from operator import length_hint
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.core.counters import Counters
from imgateway.core.session import Session
from imgateway.errors import CloseCode
from imgateway.frames import Batch, LogKey
from imgateway.interfaces import IBroker
from imgateway.node.audience import LANES, Audience, Lag, Room, Since, pulls
from imgateway.node.delivery import Delivery
from imgateway.node.shares import Form, Share, Shelf, cut

__all__ = ("SLICE", "Round", "Rounds", "cut_off")

log = Logger()

SLICE = 500
"""Members served before others have their turn: 3 ms of them."""
MEMBER_BYTES = 8_192
"""What a member gets counts as one more for each of these: larger frames take longer to send."""
BEGIN = 4
"""To begin a round counts as so many members, and as one more for each `LISTED`."""
LISTED = 1_000
CATCH_UPS = 64
"""Shares that those behind get in a turn."""
LOOK_AGAIN_S = 0.05
"""How soon to look again at a link that has enough unsent, and does not say when it has not."""
RETRY_S = 1.0
"""A round that could not begin is tried again."""
AGAIN = 0.8
"""A room is told by notices when it grows above its limit, and sent its messages again below this part."""


NOBODY: Iterator[Session] = iter(())


class Round:
    """One round of an audience.

    :ivar before: where those whom it serves stand: of each lane the epoch and the place.
    :ivar news: the lanes that it brings something of.
    :ivar push: who is yet to get the shares. :ivar tell: who is to get a notice after that.
    :ivar readers: about how many are told. :ivar cost: of one that gets the shares, in members of a slice.
    """

    __slots__ = (
        "audience",
        "before",
        "cost",
        "entries",
        "frames",
        "gaps",
        "heads",
        "news",
        "push",
        "readers",
        "shares",
        "tell",
        "times",
    )

    def __init__(
        self,
        audience: Audience,
        shares: list[Share],
        push: Iterator[Session],
        tell: Iterator[Session],
        readers: int,
        times: int = 1,
    ) -> None:
        self.audience = audience
        self.before = [(lane.epoch, lane.sent) for lane in audience.lanes]
        self.shares = shares
        self.news = {share.log.lane for share in shares}
        self.entries = sum(len(share.deliver.entries) for share in shares)
        self.gaps = sum(share.deliver.gap for share in shares)
        self.cost = 1 + sum(share.size for share in shares) // MEMBER_BYTES
        self.push = push
        self.tell = tell
        self.readers = readers
        self.times = times
        self.frames: dict[Form, list[tuple[bytes, LogKey]]] = {}
        self.heads: dict[Any, bytes | None] = {}

    def over(self) -> bool:
        """Everybody was served. Where the numbers are not known, whoever asks on finds nobody."""
        return not length_hint(self.push, 1) and not length_hint(self.tell, 1)

    def stood(self) -> list[int]:
        """Where those whom it serves stand in each lane. A place in a ring that is no more is before all of
        the new one."""
        lanes = zip(self.before, self.audience.lanes, strict=True)
        return [place if epoch == lane.epoch else 0 for (epoch, place), lane in lanes]

    def since(self) -> Since:
        """The lanes that it brings something of, and where those whom it serves stand in them."""
        stood = self.stood()
        return tuple([(number, stood[number]) for number in LANES if number in self.news])

    def written(self, delivery: Delivery, session: Session) -> list[tuple[bytes, LogKey]]:
        """What a session gets: frames, each with the log whose order it keeps."""
        form: Form = session.form.key()
        frames = self.frames.get(form)
        if frames is None:
            frames = [(data, share.log) for share in self.shares for data in share.said(delivery, session)]
            if form.is_shared:
                self.frames[form] = frames
            else:
                self.cost = max(self.cost, 1 + self.entries)  # to write an entry takes as long as to send it
        return frames


def cut_off(session: Session, failure: Failure) -> None:
    """Its connection raised: nothing more goes there, not even a Bye. Its client comes again."""
    log.failure("sending to a session failed", failure)
    if session.link is not None:
        session.link.drop(CloseCode.INTERNAL_ERROR, "internal error")


class Rounds:
    """:param notices: serves the part of a round that is told: ``notices(round, sessions)``."""

    def __init__(
        self,
        broker: IBroker,
        delivery: Delivery,
        reactor: IReactorTime,
        counters: Counters,
        notices: Callable[[Round, Iterable[Session]], None],
    ) -> None:
        self.shelf = Shelf()
        self._broker = broker
        self._delivery = delivery
        self._reactor = reactor
        self._counters = counters
        self._notices = notices
        self._ticks: dict[float, tuple[IDelayedCall, list[Audience]]] = {}
        # Rounds that go on, and audiences whose round is about to begin.
        self._line: deque[Round | Audience] = deque()
        self._behind: deque[Lag] = deque()
        self._full: list[Lag] = []
        self._turning: IDelayedCall | None = None
        self._looking: IDelayedCall | None = None
        self._left: float = SLICE  # members that this turn may yet serve

    def stop(self) -> None:
        """Nobody is served any more."""
        calls = [self._turning, self._looking, *(call for call, _ in self._ticks.values())]
        self._turning = self._looking = None
        for call in calls:
            if call is not None:
                call.cancel()
        self._ticks.clear()
        self._line.clear()
        self._behind.clear()
        self._full.clear()

    def later(self, call: Callable[[], None]) -> None:
        """In the next turn, once what this one has sent is with the system."""
        self._reactor.callLater(0, call)

    # ------------------------------------------------------------------------------------------------- when

    def news(self, audience: Audience) -> None:
        """Something came, or is lost: now, or at its tick, or when the round that goes on is over."""
        if audience.round is not None or audience.waiting:
            return
        now = self._reactor.seconds()
        tick = audience.kind.tick_s
        if now - audience.last < tick:
            self._wait(audience, now, (floor(now / tick) + 1) * tick)
        elif self._left > 0:
            self._begin(audience)
        else:
            audience.waiting = True
            self._line.append(audience)
            self._turn_soon()

    def _wait(self, audience: Audience, now: float, due: float) -> None:
        audience.waiting = True
        there = self._ticks.get(due)
        if there is None:
            there = self._ticks[due] = self._reactor.callLater(due - now, self._tick, due), []
        there[1].append(audience)

    def _tick(self, due: float) -> None:
        self._line.extend(self._ticks.pop(due)[1])
        self._serve_line()

    def _begin(self, audience: Audience) -> None:
        # What fails here must stop neither whoever published nor the audiences of the same tick.
        audience.waiting = False
        audience.last = now = self._reactor.seconds()
        self._spend(BEGIN)
        try:
            self._gather(audience)
        except Exception:
            log.failure("a round could not begin")
            self._wait(audience, now, now + RETRY_S)

    def _gather(self, audience: Audience) -> None:
        lanes = [audience.lanes[number] for number in LANES if audience.lanes[number].news()]
        if not lanes:
            return
        push, tell, readers = self._served(audience)
        shares: list[Share] = []
        for lane in lanes:
            shares += cut(lane.log, lane.epoch, lane.sent, lane.head, lane.entries, lane.gap, lane.head)
        round = Round(audience, shares, push, tell, readers)
        for lane in lanes:  # nothing is lost if the above fails
            lane.take()
        if not round.over():
            self.serve(round)

    def _served(self, audience: Audience) -> tuple[Iterator[Session], Iterator[Session], int]:
        """Who is sent the messages, and who is told of them; about how many are told."""
        size, limit = audience.size(), audience.kind.notify_above
        self._spend(size // LISTED)
        if limit:
            audience.telling = size >= limit * AGAIN if audience.telling else size > limit
        if audience.telling:
            for one in [*filter(pulls, audience.lags)]:
                audience.tell_instead(one)
            return audience.always_sent(), audience.here(), size
        told = [*audience.asked_for_notices()]
        return audience.here() if len(told) < size else NOBODY, iter(told), len(told)

    # --------------------------------------------------------------------------------------------- in turns

    def serve(self, round: Round) -> None:
        """Begin a round: its first slice goes out now, unless this turn has served enough, or others wait."""
        round.audience.round = round
        self._counters.room_rounds += 1
        if self._left > 0 and not self._line:
            self._go_on(round)
        else:
            self._line.append(round)
        if self._line:
            self._turn_soon()

    def _spend(self, members: float) -> None:
        self._left -= members
        if self._left <= 0:
            self._turn_soon()

    def _turn_soon(self) -> None:
        if self._turning is None:
            self._turning = self._reactor.callLater(0, self._turn)

    def _turn(self) -> None:
        self._turning = None
        self._left = SLICE
        self._serve_line()
        for _ in range(min(CATCH_UPS, len(self._behind))):
            lag = self._behind.popleft()
            try:
                self._catch_up(lag)
            except Exception:
                cut_off(lag.session, Failure())
        if self._behind:
            self._turn_soon()

    def _serve_line(self) -> None:
        line = self._line
        while line and self._left > 0:
            first = line.popleft()
            if isinstance(first, Round):
                self._go_on(first)
            else:
                self._begin(first)
        if line:
            self._turn_soon()

    def _go_on(self, round: Round) -> None:
        self._slice(round)
        if round.over():
            self._over(round)
        else:
            self._line.append(round)

    def _over(self, round: Round) -> None:
        audience = round.audience
        audience.round = None
        audience.caught_up()
        if any(lane.news() for lane in audience.lanes):
            self.news(audience)

    def _slice(self, round: Round) -> None:
        """Serve as many as this turn may yet serve; at least one."""
        most = max(1, int(self._left / round.cost))
        push = [*islice(round.push, most)]
        if len(push) < most:
            round.push = NOBODY
        if push:
            self._spend(len(push) * round.cost)
            self._counters.room_slices += 1
            try:
                self._push(round, push)
            except Exception:
                # A round that never ended would keep its audience silent for ever.
                log.failure("serving a round failed")
                self._left_behind(round.audience, (*push, *round.push))
                round.push = NOBODY
        if round.push is NOBODY and self._left > 0:
            self._tell(round)

    def _tell(self, round: Round) -> None:
        most = max(1, int(self._left))
        tell = [*islice(round.tell, most)]
        if len(tell) < most:
            round.tell = NOBODY
        if tell:
            self._spend(len(tell))
            self._counters.room_slices += 1
            try:
                self._notices(round, tell)
            except Exception:
                log.failure("telling of a round failed")
                round.tell = NOBODY

    def _push(self, round: Round, sessions: list[Session]) -> None:
        audience, full = round.audience, self._delivery.limits.deliver_window_bytes
        passed, lags, told = audience.passed, audience.lags, audience.asked_for_notices()
        telling = audience.telling
        frames: list[tuple[bytes, LogKey]] = []
        form, data, order = None, b"", None
        served = counted = 0
        for session in sessions:
            link = session.link
            if (
                link is None
                or (passed and session in passed)
                or (lags and session in lags)
                or (told and session in told)
                or (telling and link.wire.traits.pulls)
            ):
                continue
            connection = link.connection
            try:
                if link.clogged or connection.unsent() >= full:
                    self._fell_behind(round, session)
                    continue
                if session.form is not form:
                    self._count(frames, served - counted)
                    counted, frames = served, round.written(self._delivery, session)
                    form = session.form
                    data, order = frames[0] if len(frames) == 1 else (b"", None)
                if data:
                    connection.send(data, order)
                else:
                    for each in frames:
                        connection.send(*each)
            except Exception:
                cut_off(session, Failure())  # the others of the slice have nothing to do with it
                continue
            served += 1
            if round.gaps:
                self._delivery.told_gap(session, audience.address, round.gaps)
        self._count(frames, served - counted)
        self._counters.entries_delivered += round.entries * served

    def _count(self, frames: list[tuple[bytes, LogKey]], served: int) -> None:
        counters = self._counters
        counters.deliver_frames += len(frames) * served
        counters.room_deliveries += len(frames) * served
        counters.bytes_out += sum(len(data) for data, _ in frames) * served

    def _fell_behind(self, round: Round, session: Session) -> None:
        lag = round.audience.fall_behind(session)
        lag.stand(round.stood())
        if not session.link.clogged:
            self.queue(lag)  # it has enough for this turn; the next one finds out what its socket takes

    def _left_behind(self, audience: Audience, sessions: Iterable[Session]) -> None:
        """They read what the round should have brought."""
        told = audience.asked_for_notices()
        for session in sessions:
            if session.link is not None and session not in told:
                self.queue(audience.fall_behind(session))

    def _look_again(self) -> None:
        self._looking = None
        full, self._full = self._full, []
        for lag in full:
            lag.queued = False
            self.queue(lag)

    # ------------------------------------------------------------------------------------------ catching up

    def queue(self, lag: Lag) -> None:
        """It may have room: read for it when its turn comes."""
        if not lag.queued:
            lag.queued = True
            self._behind.append(lag)
            self._turn_soon()

    def _catch_up(self, lag: Lag) -> None:
        lag.queued = False
        session, audience = lag.session, lag.audience
        link = session.link
        if audience.lags.get(session) is not lag or link is None or link.clogged:
            return  # it is gone, or its link says when it has room
        if link.connection.unsent() >= self._delivery.limits.deliver_window_bytes:
            lag.queued = True
            self._full.append(lag)
            if self._looking is None:
                self._looking = self._reactor.callLater(LOOK_AGAIN_S, self._look_again)
            return
        for number in LANES:
            lane = audience.lanes[number]
            if lag.epochs[number] != lane.epoch:
                lag.epochs[number], lag.places[number] = lane.epoch, 0
            if lag.places[number] < lane.sent:
                lag.queued = True
                self._delivery.read(lane.log, partial(self._read, lag, number), partial(_is_over, lag))
                return
        del audience.lags[session]
        if audience.round is not None:
            audience.passed[session] = None  # it has what that brings

    def _read(self, lag: Lag, number: int) -> Deferred[None] | None:
        if _is_over(lag):
            return None
        lane = lag.audience.lanes[number]
        reading = self._broker.read(lane.log, lag.places[number], 0, 0)
        found: Deferred[None] = reading.addCallbacks(
            self._found, self._failed, (lag, number), errbackArgs=(lag,)
        )
        return found.addErrback(lambda failure: cut_off(lag.session, failure))

    def _found(self, batch: Batch, lag: Lag, number: int) -> None:
        lag.queued = False
        session, audience = lag.session, lag.audience
        lane, link = audience.lanes[number], session.link
        if audience.lags.get(session) is not lag or link is None:
            return
        is_same = lag.epochs[number] == lane.epoch  # else it began anew meanwhile, and is read again
        if is_same and batch.epoch != lane.epoch:
            lane.restart(batch.epoch, batch.head)
            self.news(audience)
        elif is_same and not link.clogged:
            place = lag.places[number]
            if batch.after < place and not isinstance(audience, Room):
                # Nobody told its client where it is, so that it would show what came before.
                mine = tuple([entry for entry in batch.entries if entry.seq > place])
                batch = replace(batch, after=place, entries=mine)
            shares = self.shelf.of(lane.log, batch, lane.sent)
            share = next((one for one in shares if one.upto > place), shares[-1])
            for data in share.said(self._delivery, session):
                link.deliver(data, share.log)
                self._counters.deliver_frames += 1
                self._counters.room_blocks += 1
            self._counters.entries_delivered += len(share.deliver.entries)
            if share.deliver.gap:
                self._delivery.told_gap(session, audience.address)
            lag.places[number] = max(share.upto, place)
            if share is shares[-1] and batch.upto >= batch.head:
                lag.places[number] = max(lag.places[number], lane.sent)  # nothing more is there
        self.queue(lag)

    def _failed(self, failure: Failure, lag: Lag) -> None:
        lag.queued = False
        if failure.check(CancelledError):
            return  # the broker stops
        log.failure("reading a room failed", failure)
        if lag.session.link is not None:
            lag.session.link.broken(failure)


def _is_over(lag: Lag) -> bool:
    """Its session is at the head by now, or gone."""
    return lag.audience.lags.get(lag.session) is not lag
