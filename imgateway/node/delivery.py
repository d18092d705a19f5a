"""Delivery: moves the cursor of a session, by what arrives, what is read, and what is acknowledged.

Each session's cursor says what to do about an arrival: send it now, read it from the log, or let it be
because the link is clogged. There is no queue of messages here; reads wait for their turn by session. A
Deliver is encoded once for all sessions whose codecs write it the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.cursor import Cursor, State, Step
from imgateway.core.handshake import LinkState
from imgateway.core.session import Session, for_device
from imgateway.errors import BadFrame, CloseCode
from imgateway.frames import Batch, Deliver, DeliverAck, Entry, user_address
from imgateway.interfaces import IBroker
from imgateway.node.link import Link

__all__ = ("Delivery",)

log = Logger()

READ_BYTES = 65_536
"""One read becomes one Deliver, which must fit into a frame beside the largest body."""

Shared = dict[str, bytes | None]
"""One Deliver as each kind of codec writes it; None: it cannot."""


class Delivery:
    """Sends, reads and acknowledgements of all sessions of a node.

    :param now: monotonic seconds.
    """

    def __init__(
        self, broker: IBroker, limits: LimitSettings, now: Callable[[], float], counters: Counters
    ) -> None:
        self.limits = limits
        self._broker = broker
        self._now = now
        self._counters = counters
        self._reads = 0
        self._readers: deque[Callable[[], Deferred[Any] | None]] = deque()
        self._is_starting = False

    # --------------------------------------------------------------------------------------------- arrivals

    def offer(
        self,
        session: Session,
        epoch: int,
        after: int,
        upto: int,
        entries: tuple[Entry, ...],
        size: int,
        shared: Shared | None,
    ) -> None:
        """``(after, upto]`` was committed; `size`: bytes of its entries. Send it to a session that stands
        right before it."""
        cursor: Cursor = session
        step = cursor.arrived(after, upto)
        if step is Step.HOLD:
            return
        limits = self.limits
        if epoch != cursor.epoch:
            self._stale(session)
        elif step is Step.READ:
            self._read(session)
        elif cursor.entries + len(entries) > limits.deliver_window_entries or (
            cursor.bytes + size > limits.deliver_window_bytes and (cursor.entries or len(entries) > 1)
        ):
            if cursor.overflow(upto, limits.deliver_window_entries) is Step.READ:
                self._read(session)
        else:
            self._deliver(session, after, upto, entries, False, shared)

    def moved(self, session: Session, head: int) -> None:
        """The log grew: whoever is live reads, and finds out if the epoch is another."""
        if session.moved(head) is Step.READ:
            self._read(session)

    # ------------------------------------------------------------------------------------------------ sends

    def _deliver(
        self,
        session: Session,
        after: int,
        upto: int,
        entries: tuple[Entry, ...],
        gap: bool,
        shared: Shared | None = None,
    ) -> None:
        """Send the range ``(after, upto]``; entry by entry where the wire or its content wants that."""
        link: Link = session.link
        mine = for_device(entries, session.device)
        address = user_address(session.user)
        head = max(upto, session.head)
        if gap:
            self._counters.gaps_told += 1
        if len(mine) < 2 or link.wire.traits.batches:
            frame = Deliver(address, 0, session.epoch, after, upto, mine, gap, head)
            data = self.say(link, frame, shared if mine is entries else None)
            if data is not None:
                self._ship(session, upto, len(mine), data)
                return
        for entry in mine:
            end = upto if entry is mine[-1] else entry.seq
            frame = Deliver(address, 0, session.epoch, after, end, (entry,), gap, head)
            data = self.say(link, frame, None)
            if data is None:
                self._park(session, entry.seq)
                empty = Deliver(address, 0, session.epoch, after, end, (), gap, head)
                self._ship(session, end, 0, self.say(link, empty, None) or b"")
            else:
                self._ship(session, end, 1, data)
            after, gap = end, False
        if not mine:
            self._ship(session, upto, 0, b"")

    def _ship(self, session: Session, upto: int, entries: int, data: bytes) -> None:
        cursor: Cursor = session
        if not data:
            cursor.passed(upto)
            if cursor.acked == upto:
                self._broker.advance(session.key, session.generation, ((session.log, upto),))
            return
        now = self._now()
        link: Link = session.link
        link.deliver(data, session.log)
        link.expect_ack(now)
        cursor.send(upto, entries, len(data), now)
        self._counters.deliver_frames += 1
        self._counters.entries_delivered += entries
        limits = self.limits
        if cursor.entries >= limits.deliver_window_entries or cursor.bytes >= limits.deliver_window_bytes:
            cursor.clog()

    def say(self, link: Link, frame: Deliver, shared: Shared | None = None) -> bytes | None:
        """Encode, once for all codecs of a kind. A codec that raises has met content that it cannot say; what
        the link's transport cannot carry cannot be said there either."""
        wire = link.codec.wire
        if shared is not None and wire in shared:
            data = shared[wire]
        else:
            try:
                data = link.codec.encode(frame)
            except Exception:
                log.failure("the codec of {wire} raised; its entries are parked", **link.about())
                data = None
            if shared is not None and wire:
                shared[wire] = data
        return None if data and link.is_too_large(data) else data

    def answer(self, link: Link, frame: Deliver) -> None:
        """Send what the client asked to read. What its wire cannot say is left out, and told as a gap; of
        more than its transport carries at once the first part goes, and the client asks on."""
        asked = frame
        data = self.say(link, frame, None)
        if data is None:
            sayable = tuple(
                one
                for one in frame.entries
                if self.say(link, replace(frame, entries=(one,)), None) is not None
            )
            frame = replace(frame, entries=sayable, gap=frame.gap or sayable != frame.entries)
            data = self.say(link, frame, None)
        while data is None and len(frame.entries) > 1:
            first = frame.entries[: len(frame.entries) // 2]
            frame = replace(frame, entries=first, upto=first[-1].seq)
            data = self.say(link, frame, None)
        if data is None and frame.entries:
            # One that fits, but not beside a gap, which is for others: these go first, or wait their turn.
            one = frame.entries[0]
            if one is asked.entries[0]:
                frame = replace(frame, upto=one.seq, gap=asked.gap)
            else:
                frame = replace(frame, entries=(), upto=one.seq - 1)
            data = self.say(link, frame, None)
        if data:
            link.send_bytes(data)

    def _park(self, session: Session, seq: int) -> None:
        self._counters.parked += 1
        if session.parking is not None:
            session.parking.keep(seq)
        self._broker.advance(session.key, session.generation, (), ((session.log, seq),))

    # ------------------------------------------------------------------------------------------------ reads

    def start(self, session: Session) -> None:
        """The session's cursor is in place and its Welcome is on the way: bring it up to date."""
        self._unclog(session)

    def _unclog(self, session: Session) -> None:
        limits = self.limits
        link = session.link
        if (
            link is not None
            and link.state is LinkState.OPEN
            and not link.clogged
            and session.may_unclog(limits.deliver_window_entries, limits.deliver_window_bytes)
            and session.unclog() is Step.READ
        ):
            self._read(session)

    def read(self, start: Callable[[], Deferred[Any] | None]) -> None:
        """Call `start` when its turn has come: at most `reads_in_flight` are done at once on this node.

        None from it means that there is nothing to read any more.
        """
        self._readers.append(start)
        self._next_reads()

    def _next_reads(self) -> None:
        if self._is_starting:
            return  # a read that was over at once: the loop below goes on
        self._is_starting = True
        try:
            while self._readers and self._reads < self.limits.reads_in_flight:
                reading = self._readers.popleft()()
                if reading is not None:
                    self._reads += 1
                    self._counters.reads += 1
                    reading.addErrback(lambda failure: log.failure("a read could not be dealt with", failure))
                    reading.addBoth(self._has_read)
        finally:
            self._is_starting = False

    def _has_read(self, result: object) -> None:
        self._reads -= 1
        self._next_reads()

    def _read(self, session: Session) -> None:
        """Read on for a session, once at a time."""
        if not session.reading:
            session.reading = True
            self.read(partial(self._start_read, session))

    def _start_read(self, session: Session) -> Deferred[None] | None:
        cursor, parking, limits = session, session.parking, self.limits
        if cursor.state is not State.READING:
            session.reading = False
            return None
        if parking is not None and parking.owed:
            reading = self._broker.read(session.log, parking.owed[0] - 1, 1, 1)
        else:
            room = max(1, limits.deliver_window_entries - cursor.entries)
            size = max(1, min(READ_BYTES, limits.deliver_window_bytes - cursor.bytes))
            reading = self._broker.read(session.log, cursor.sent, room, size)
        return reading.addCallbacks(
            self._batch, self._read_failed, (session, cursor.head), errbackArgs=(session,)
        )

    def _batch(self, batch: Batch, session: Session, head: int) -> None:
        """Send what was read; `head` is what was known of the log when it was asked."""
        session.reading = False
        cursor, parking = session, session.parking
        if cursor.state is not State.READING:
            return
        if batch.epoch != cursor.epoch:
            self._stale(session)
        elif parking is not None and parking.owed:
            if batch.after == parking.owed[0] - 1:
                seq, end = parking.offer()
                owed = tuple(entry for entry in batch.entries if entry.seq == seq)
                self._deliver(session, cursor.sent, end, owed, batch.gap and not owed)
        elif cursor.read(batch.after) is Step.SEND:
            if batch.upto > batch.after:
                self._deliver(session, batch.after, batch.upto, batch.entries, batch.gap)
            elif cursor.head == head:  # else it grew meanwhile: look again
                cursor.head = cursor.sent
                cursor.passed(cursor.sent)
        if cursor.state is State.READING:
            self._read(session)

    def _read_failed(self, failure: Failure, session: Session) -> None:
        session.reading = False
        log.failure("reading {user}'s log failed", failure, user=session.user)
        if session.link is not None:
            session.link.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _stale(self, session: Session) -> None:
        """The log has another identity now: the client must come again and be told what it missed."""
        if session.link is not None:
            session.link.close(CloseCode.STALE, "the log was replaced; resume")

    # ------------------------------------------------------------------------------------ acknowledgements

    def acked(self, session: Session, frame: DeliverAck) -> None:
        """The client took custody.

        :raises BadFrame: it acknowledges what was never sent to it.
        """
        cursor: Cursor = session
        for ack in frame.acks:
            if ack.address.id != session.user or ack.address.kind != "user":
                raise BadFrame("acknowledges a log that it does not follow")
            if ack.epoch == cursor.epoch:
                self._took(session, ack.upto)

    def _took(self, session: Session, upto: int) -> None:
        cursor: Cursor = session
        if not cursor.ack(upto):
            raise BadFrame("acknowledges what was not sent")
        self._counters.acks += 1
        if session.parking is not None:
            for seq in session.parking.acked(upto):
                self._broker.unpark(session.key, session.generation, session.log, seq)
            if session.parking.empty():
                session.parking = None
        self._broker.advance(session.key, session.generation, ((session.log, upto),))
        if cursor.state is State.CLOGGED:
            self._unclog(session)

    def heard_without_acks(self, link: Link) -> None:
        """A wire without acknowledgements spoke: if its system has taken all that we wrote, it has
        arrived."""
        session = link.session
        if session is not None and session.entries and not link.connection.unacked():
            self._took(session, session.sent)

    def writable(self, link: Link) -> None:
        """The link has no unsent bytes any more."""
        if link.session is not None:
            self._unclog(link.session)
