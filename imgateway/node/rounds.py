"""Rounds: what came to an audience since the last one goes to all who are at its head, in slices.

The first message after a quiet time leaves at once. What follows within the audience's tick waits for the
tick's end, on a clock that all share, and leaves as one frame per lane, lane 1 first. A round freezes the
head and serves 500 members; then others have their turn, and what came meanwhile is the next round. So a
message costs a flood's readers a part of a frame, and nobody else more than a slice.

Who is behind reads blocks from the broker, a share at a time, whenever its link has room. That, too, has its
place in each turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import floor
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.core.counters import Counters
from imgateway.core.session import Session
from imgateway.errors import CloseCode
from imgateway.frames import Batch, LogKey
from imgateway.interfaces import IBroker
from imgateway.node.audience import LANES, Audience, Lag, Room
from imgateway.node.delivery import Delivery
from imgateway.node.shares import Form, Share, Shelf, cut

__all__ = ("SLICE", "Round", "Rounds")

log = Logger()

SLICE = 500
"""Members served before others have their turn: 3 ms of them."""
CATCH_UPS = 64
"""Shares that those behind get in a turn."""
AGAIN = 0.8
"""A room is told by notices when it grows above its limit, and sent its messages again below this part."""


class Round:
    """One round of an audience.

    :ivar before: where those whom it serves stand, in each lane.
    :ivar tell: those that get a notice, after those that get the shares.
    """

    __slots__ = (
        "at",
        "audience",
        "before",
        "entries",
        "frames",
        "gaps",
        "heads",
        "push",
        "shares",
        "tell",
        "times",
    )

    def __init__(
        self,
        audience: Audience,
        before: list[int],
        shares: list[Share],
        push: list[Session],
        tell: list[Session],
        times: int = 1,
    ) -> None:
        self.audience = audience
        self.before = before
        self.shares = shares
        self.entries = sum(len(share.deliver.entries) for share in shares)
        self.gaps = sum(share.deliver.gap for share in shares)
        self.push = push
        self.tell = tell
        self.times = times
        self.at = 0
        self.frames: dict[Form, list[tuple[bytes, LogKey]]] = {}
        self.heads: dict[Any, bytes | None] = {}

    def left(self) -> int:
        return len(self.push) + len(self.tell) - self.at

    def written(self, delivery: Delivery, session: Session) -> list[tuple[bytes, LogKey]]:
        """What a session gets: frames, each with the log whose order it keeps."""
        frames = self.frames.get(session.form)
        if frames is None:
            frames = [(data, share.log) for share in self.shares for data in share.said(delivery, session)]
            self.frames[session.form] = frames
        return frames


class Rounds:
    """:param notices: serves the part of a round that is told: ``notices(round, sessions)``."""

    def __init__(
        self,
        broker: IBroker,
        delivery: Delivery,
        reactor: IReactorTime,
        counters: Counters,
        notices: Callable[[Round, list[Session]], None],
    ) -> None:
        self.shelf = Shelf()
        self._broker = broker
        self._delivery = delivery
        self._reactor = reactor
        self._counters = counters
        self._notices = notices
        self._ticks: dict[float, tuple[IDelayedCall, list[Audience]]] = {}
        self._going: deque[Round] = deque()
        self._behind: deque[Lag] = deque()
        self._turning: IDelayedCall | None = None
        self._left = SLICE

    def stop(self) -> None:
        """Nobody is served any more."""
        for call, _ in self._ticks.values():
            call.cancel()
        self._ticks.clear()
        self._going.clear()
        self._behind.clear()
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None

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
        if now - audience.last >= tick:
            self._begin(audience, now)
            return
        due = (floor(now / tick) + 1) * tick
        there = self._ticks.get(due)
        if there is None:
            there = self._ticks[due] = self._reactor.callLater(due - now, self._tick, due), []
        there[1].append(audience)
        audience.waiting = True

    def _tick(self, due: float) -> None:
        for audience in self._ticks.pop(due)[1]:
            audience.waiting = False
            self._begin(audience, due)

    def _begin(self, audience: Audience, now: float) -> None:
        # What fails here must stop neither whoever published nor the audiences of the same tick.
        try:
            self._gather(audience, now)
        except Exception:
            log.failure("a round could not begin")

    def _gather(self, audience: Audience, now: float) -> None:
        audience.last = now
        before = [lane.sent for lane in audience.lanes]
        shares: list[Share] = []
        for number in LANES:
            lane = audience.lanes[number]
            if lane.news():
                gap = lane.gap
                shares += cut(lane.log, lane.epoch, lane.sent, lane.head, lane.take(), gap, lane.head)
        push, tell = self._served(audience)
        if shares and (push or tell):
            self.serve(Round(audience, before, shares, push, tell))

    def _served(self, audience: Audience) -> tuple[list[Session], list[Session]]:
        """Who is sent the messages, and who is told of them."""
        here = list(audience.here())
        limit = audience.kind.notify_above
        if limit:
            audience.telling = len(here) >= limit * AGAIN if audience.telling else len(here) > limit
        if audience.telling:
            audience.lags.clear()  # they pull, too
            return [], here
        lags, told = audience.lags, audience.asked_for_notices()
        if lags or told:
            return [one for one in here if one not in lags and one not in told], list(told)
        return here, []

    # --------------------------------------------------------------------------------------------- in turns

    def serve(self, round: Round) -> None:
        """Begin a round: its first slice goes out now, unless this turn has served enough."""
        round.audience.round = round
        self._counters.room_rounds += 1
        if self._left > 0 and not self._going:
            self._left -= self._slice(round, self._left)
        if round.left():
            self._going.append(round)
            self._turn_soon()
        else:
            self._over(round)
        if self._left <= 0:
            self._turn_soon()

    def _turn_soon(self) -> None:
        if self._turning is None:
            self._turning = self._reactor.callLater(0, self._turn)

    def _turn(self) -> None:
        self._turning = None
        self._left = SLICE
        going = self._going
        while going and self._left > 0:
            round = going.popleft()
            self._left -= self._slice(round, self._left)
            if round.left():
                going.append(round)
            else:
                self._over(round)
        for _ in range(min(CATCH_UPS, len(self._behind))):
            lag = self._behind.popleft()
            try:
                self._catch_up(lag)
            except Exception:
                self._cut_off(lag.session, Failure())
        if going or self._behind:
            self._turn_soon()

    def _over(self, round: Round) -> None:
        audience = round.audience
        audience.round = None
        audience.caught_up()
        if any(lane.news() for lane in audience.lanes):
            self.news(audience)

    def _slice(self, round: Round, most: int) -> int:
        """Serve up to so many; how many it were."""
        at, push = round.at, round.push
        self._counters.room_slices += 1
        try:
            if at < len(push):
                end = min(at + most, len(push))
                self._push(round, push[at:end] if at or end < len(push) else push)
            else:
                end = min(at + most, len(push) + len(round.tell))
                self._notices(round, round.tell[at - len(push) : end - len(push)])
        except Exception:
            # A round that never ended would keep its audience silent for ever.
            log.failure("serving a round failed")
            end = len(push) + len(round.tell)
        round.at = end
        return end - at

    def _push(self, round: Round, sessions: list[Session]) -> None:
        passed, full = round.audience.passed, self._delivery.limits.deliver_window_bytes
        frames: list[tuple[bytes, LogKey]] = []
        form, data, order = None, b"", None
        served = counted = 0
        for session in sessions:
            link = session.link
            if link is None or (passed and session in passed):
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
                self._cut_off(session, Failure())  # the others of the slice have nothing to do with it
                continue
            served += 1
        self._count(frames, served - counted)
        self._counters.entries_delivered += round.entries * served
        self._counters.gaps_told += round.gaps * served

    def _count(self, frames: list[tuple[bytes, LogKey]], served: int) -> None:
        counters = self._counters
        counters.deliver_frames += len(frames) * served
        counters.room_deliveries += len(frames) * served
        counters.bytes_out += sum(len(data) for data, _ in frames) * served

    def _cut_off(self, session: Session, failure: Failure) -> None:
        """Its connection raised: nothing more goes there, not even a Bye. Its client comes again."""
        log.failure("sending to a session failed", failure)
        if session.link is not None:
            session.link.drop(CloseCode.INTERNAL_ERROR, "internal error")

    def _fell_behind(self, round: Round, session: Session) -> None:
        lag = round.audience.fall_behind(session)
        lag.stand(round.before)
        if not session.link.clogged:
            self.queue(lag)  # it has enough for this turn; the next one finds out what its socket takes

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
            self.queue(lag)
            return
        for number in LANES:
            lane = audience.lanes[number]
            if lag.epochs[number] != lane.epoch:
                lag.epochs[number], lag.places[number] = lane.epoch, 0
            if lag.places[number] < lane.sent:
                lag.queued = True
                self._delivery.read(partial(self._read, lag, number))
                return
        del audience.lags[session]

    def _read(self, lag: Lag, number: int) -> Deferred[None] | None:
        lane = lag.audience.lanes[number]
        reading = self._broker.read(lane.log, lag.places[number], 0, 0)
        found: Deferred[None] = reading.addCallbacks(
            self._found, self._failed, (lag, number), errbackArgs=(lag,)
        )
        return found.addErrback(lambda failure: self._cut_off(lag.session, failure))

    def _found(self, batch: Batch, lag: Lag, number: int) -> None:
        lag.queued = False
        session, audience = lag.session, lag.audience
        lane, link = audience.lanes[number], session.link
        if audience.lags.get(session) is not lag or link is None:
            return
        if batch.epoch != lane.epoch:
            lane.restart(batch.epoch, batch.head)
            self.news(audience)
        elif not link.clogged:
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
            self._counters.gaps_told += share.deliver.gap
            lag.places[number] = max(share.upto, place)
            if share is shares[-1] and batch.upto >= batch.head:
                lag.places[number] = max(lag.places[number], lane.sent)  # nothing more is there
        self.queue(lag)

    def _failed(self, failure: Failure, lag: Lag) -> None:
        lag.queued = False
        log.failure("reading a room failed", failure)
        if lag.session.link is not None:
            lag.session.link.broken(failure)
