"""Delivery: moves the cursors of sessions, by what arrives, what is read, and what is acknowledged.

A cursor says what to do about an arrival: send it now, read it from the log, or let it be because the link is
clogged. There is no queue of messages here; reads wait for their turn by cursor. A Deliver is encoded once
for all whose codecs write it the same.

The cursor in a mailbox is the session itself, and most sessions have no other. Those of one that follows
further logs share its window: what is unacknowledged in one leaves less for the others, and they read in
turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.cursor import State, Step
from imgateway.core.follow import Follow
from imgateway.core.handshake import LinkState
from imgateway.core.parking import Parking
from imgateway.core.session import Follows, Session, for_device
from imgateway.errors import BadFrame, CloseCode
from imgateway.frames import (
    FOLLOWED_KINDS,
    Address,
    Batch,
    Deliver,
    DeliverAck,
    Entry,
    LogKey,
    Position,
    address_text,
    log_of,
)
from imgateway.interfaces import IBroker
from imgateway.node.link import Link

__all__ = ("Delivery",)

log = Logger()

READ_BYTES = 65_536
"""One read becomes one Deliver, which must fit into a frame beside the largest body."""
READ_ENTRIES = 16
"""Room for so many there must be for each of a session's logs that are read at once."""
SIFT = 64
"""So many reads wait before it is looked whether somebody still waits for them."""

Place = Session | Follow
"""A cursor in a log: a session in its mailbox, or what it follows."""

Start = Callable[[], Deferred[Any] | None]
"""Begins to read; None: there is nothing to read any more."""

Shared = dict[str, bytes | None]
"""One Deliver as each kind of codec writes it; None: it cannot."""

OPEN, HOLD, READ = LinkState.OPEN, Step.HOLD, Step.READ  # found faster than in their classes
LIVE, CLOGGED = State.LIVE, State.CLOGGED


class Reads:
    """Of the logs that one server has: how many are under way, and which wait for their turn.

    :ivar starting: a turn is being given; a read that is over at once gives none of its own.
    :ivar most: with more of them that wait it is looked which of them nobody wants any more.
    """

    __slots__ = ("most", "starting", "under_way", "waiting")

    def __init__(self) -> None:
        self.under_way = 0
        self.waiting: deque[tuple[Start, Callable[[], bool]]] = deque()
        self.most = SIFT
        self.starting = False

    def sift(self) -> None:
        """While a server is away clients come and go: those who went shall not wait for it. It is looked when
        they have doubled, so a read that waits is looked at twice or so."""
        whose = [(start, is_over, is_over()) for start, is_over in self.waiting]
        self.waiting = deque([(start, is_over) for start, is_over, over in whose if not over])
        self.most = max(SIFT, 2 * len(self.waiting))
        for start, _, over in whose:
            if over:
                start()


class Delivery:
    """Sends, reads and acknowledgements of all sessions of a node.

    :param now: monotonic seconds.
    :param unsaid: told of a gap that the wire of a session cannot say.
    """

    def __init__(
        self,
        broker: IBroker,
        limits: LimitSettings,
        now: Callable[[], float],
        counters: Counters,
        unsaid: Callable[[Session, Address], None] = lambda session, address: None,
    ) -> None:
        self.limits = limits
        self._broker = broker
        self._now = now
        self._counters = counters
        self._unsaid = unsaid
        self._reads: dict[Hashable, Reads] = {}

    # --------------------------------------------------------------------------------------------- arrivals

    def mailed(self, session: Session, log: LogKey, epoch: int, after: int, messages: list[bytes]) -> bool:
        """The usual mail, in one step: to its user's only session, which reads nothing else, stands right
        before it and has room, over a link whose codec has a way for it.

        False: something is not as usual, and nothing was done. `offer` is the way for all cases, and comes to
        the same in this one.
        """
        if (
            session.state is not LIVE
            or session.sent != after
            or session.epoch != epoch
            or session.follows is not None
        ):
            return False
        form, limits, entries = session.form, self.limits, len(messages)
        flying = session.entries + entries
        carried = len(messages[0]) if entries == 1 else sum(map(len, messages))
        if (
            not form.is_mail
            # Whoever fills the window, or finds it full, has more to think of.
            or flying >= form.window
            or flying >= limits.deliver_window_entries
            or session.bytes + carried > limits.deliver_window_bytes
        ):
            return False
        link: Link = session.link
        codec: Any = link.codec
        try:
            data = codec.mail(log.address, epoch, after, messages)
        except Exception:
            return False  # it is said again there, and dealt with
        if not data or 0 < link.connection.max_send_bytes < len(data):
            return False
        now, counters, size = self._now(), self._counters, len(data)
        link.connection.send(data, log)
        if flying == entries:  # else it is expected already
            link.expect_ack(now)
        session.send(after + entries, entries, size, now)
        counters.bytes_out += size
        counters.deliver_frames += 1
        counters.entries_delivered += entries
        if session.bytes >= limits.deliver_window_bytes:
            session.clog()
            self._waive(session, link)
        return True

    def offer(
        self,
        cursor: Place,
        key: LogKey,
        epoch: int,
        after: int,
        upto: int,
        entries: tuple[Entry, ...],
        size: int,
        shared: Shared | None,
    ) -> None:
        """``(after, upto]`` of the cursor's log was committed; `size`: bytes of its entries. Send it to one
        that stands right before it."""
        step = cursor.arrived(after, upto)
        if step is HOLD:
            self._look(cursor, epoch)
            return
        limits = self.limits
        sent = _counted(cursor)
        more = sent.entries + len(entries)
        if epoch != cursor.epoch:
            self._stale(cursor)
        elif step is READ:
            self._read(cursor)
        elif (
            more > limits.deliver_window_entries
            or more > cursor.form.window
            or (sent.bytes + size > limits.deliver_window_bytes and more > 1)
        ):
            # Half of the window must be free; what other logs have of it is taken off on both sides.
            others = sent.entries - cursor.entries
            if cursor.overflow(upto, self._window(cursor) - 2 * others) is READ:
                self._read(cursor)
        else:
            self._deliver(cursor, key, after, upto, entries, False, shared)

    def _window(self, cursor: Place) -> int:
        """Entries that may be on their way to a session: as many as its codec and the node want."""
        window: int = cursor.form.window
        return min(window, self.limits.deliver_window_entries)

    def moved(self, cursor: Place, epoch: int, head: int) -> None:
        """The log grew: whoever is live reads, and finds out if the epoch is another."""
        if cursor.moved(head) is READ:
            self._read(cursor)
        else:
            self._look(cursor, epoch)

    def _look(self, cursor: Place, epoch: int) -> None:
        """Nothing is to be done, unless the log is another: its seqs say nothing to whom the old one had.
        Who is not live finds out when it reads, or with what comes next."""
        if cursor.state is LIVE and epoch != cursor.epoch:
            self._stale(cursor)

    def passed(self, cursor: Place, entry: Entry, shared: Shared | None) -> None:
        """qos 0: to a link that can take it now."""
        link: Link | None = cursor.link
        if link is None or link.clogged or link.state is not OPEN or not cursor.epoch:
            return
        # What one turn brings is bounded too: the socket says only at its end that it is full.
        if link.connection.unsent() >= self.limits.deliver_window_bytes:
            return
        if not for_device((entry,), cursor.device):
            return
        data = self.say(link, Deliver(cursor.address, 0, 0, 0, 0, (entry,)), shared)
        if data:
            link.deliver(data, cursor.log)
            self._counters.entries_delivered += 1

    # ------------------------------------------------------------------------------------------------ sends

    def _deliver(
        self,
        cursor: Place,
        key: LogKey,
        after: int,
        upto: int,
        entries: tuple[Entry, ...],
        gap: bool,
        shared: Shared | None = None,
    ) -> None:
        """Send the range ``(after, upto]``; entry by entry where the wire or its content wants that."""
        link: Link = cursor.link
        mine = for_device(entries, cursor.device)
        address, epoch = key.address, cursor.epoch
        head = upto if upto > cursor.head else cursor.head
        if gap:
            self.told_gap(cursor, address)
        if len(mine) < 2 or link.wire.traits.batches:
            frame = Deliver(address, 0, epoch, after, upto, mine, gap, head)
            data = self.say(link, frame, shared if mine is entries else None)
            if data is not None:
                self._ship(cursor, key, upto, len(mine), data)
                return
        for entry in mine:
            end = upto if entry is mine[-1] else entry.seq
            frame = Deliver(address, 0, epoch, after, end, (entry,), gap, head)
            data = self.say(link, frame, None)
            if data is None:
                self._park(cursor, entry.seq)
                empty = Deliver(address, 0, epoch, after, end, (), gap, head)
                self._ship(cursor, key, end, 0, self.say(link, empty, None) or b"")
            else:
                self._ship(cursor, key, end, 1, data)
            after, gap = end, False
        if not mine:
            self._ship(cursor, key, upto, 0, b"")

    def _ship(self, cursor: Place, key: LogKey, upto: int, entries: int, data: bytes) -> None:
        if not data:
            cursor.passed(upto)
            if cursor.acked == upto:
                self._broker.advance(cursor.key, cursor.generation, ((key, upto),))
            return
        link: Link | None = cursor.link
        if link is None:
            return  # it went while this was being said
        now = self._now()
        link.deliver(data, key)
        link.expect_ack(now)
        cursor.send(upto, entries, len(data), now)
        follows = cursor.follows
        if follows is not None:
            follows.entries += entries
            follows.bytes += len(data)
        self._counters.deliver_frames += 1
        self._counters.entries_delivered += entries
        if not cursor.receipts:
            self._took(cursor, key, upto)
            return
        limits = self.limits
        sent = _counted(cursor)
        if (
            sent.entries >= limits.deliver_window_entries
            or sent.entries >= cursor.form.window
            or sent.bytes >= limits.deliver_window_bytes
        ):
            cursor.clog()
            self._waive(cursor, link)

    def _waive(self, cursor: Place, link: Link) -> None:
        try:
            waived = link.codec.waive()
            if waived:
                session = _session(cursor)
                self._took(session, session.log, waived)
        except Exception:
            log.failure("the codec of {wire} raised", **link.about())
            link.drop(CloseCode.INTERNAL_ERROR, "internal error")

    def say(self, link: Link, frame: Deliver, shared: Shared | None = None) -> bytes | None:
        """Encode, once for all codecs of a kind. A codec that raises has met content that it cannot say; what
        the link's transport cannot carry cannot be said there either."""
        codec = link.codec
        if shared is not None and codec.wire in shared:
            data = shared[codec.wire]
        else:
            try:
                data = codec.encode(frame)
            except Exception:
                log.failure("the codec of {wire} raised; its entries are parked", **link.about())
                data = None
            if shared is not None and codec.wire:
                shared[codec.wire] = data
        return None if data and 0 < link.connection.max_send_bytes < len(data) else data

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

    def _park(self, cursor: Place, seq: int) -> None:
        self._counters.parked += 1
        if cursor.parking is not None:
            cursor.parking.keep(seq)
        self._broker.advance(cursor.key, cursor.generation, (), ((cursor.log, seq),))

    def told_gap(self, place: Place, address: Address, frames: int = 1) -> None:
        """Something is missing in what this session gets from an address: its client is told in so many
        frames, or, where its wire has no word for it, the business is. It is not, if its link has gone."""
        if place.link is None:
            return
        if place.link.wire.traits.gaps:
            self._counters.gaps_told += frames
        else:
            self._counters.gaps_unsaid += frames
            self._unsaid(_session(place), address)

    # ------------------------------------------------------------------------------------------------ reads

    def place(
        self,
        cursor: Place,
        position: Position,
        start: int,
        acked: int,
        parked: tuple[int, ...],
        named: bool,
    ) -> int:
        """Put a cursor in its place: its device goes on at `start`, had acknowledged `acked`, and is owed
        what is `parked`. It reads nothing until `go_on`.

        :param named: the client itself said where it goes on.
        :returns: the position that the client is told.
        """
        if start > acked:  # its last acknowledgements did not come through
            self._broker.advance(cursor.key, cursor.generation, ((cursor.log, start),))
        if parked:
            cursor.parking = Parking(parked, start, named)
            start = cursor.parking.start()
        head = max(position.head, cursor.head)  # what arrived since has raised it
        cursor.place(position.epoch, start, max(start, acked), head)
        cursor.clog()
        return start

    def go_on(self, session: Session) -> None:
        """Read for those of a session's cursors that are clogged and have room again, or were put in their
        place and their client is told so."""
        link: Link | None = session.link
        if link is None or link.state is not OPEN or link.clogged:
            return
        session.form.fit(link.codec)
        window, size = self._window(session), self.limits.deliver_window_bytes
        if session.follows is None:
            if session.may_unclog(window, size) and session.unclog() is READ:
                self._read(session)
            return
        sent, sent_bytes = session.follows.entries, session.follows.bytes
        if sent * 2 > window or sent_bytes * 2 > size:
            return
        # More at once would share the room in such small parts that most of the reading were in vain.
        turns = max(1, (window - sent) // READ_ENTRIES) - _reading(session.follows)
        for cursor in tuple(session.follows.values()):
            may = cursor.state is CLOGGED and cursor.epoch and (turns > 0 or cursor.sent == cursor.head)
            if may and cursor.unclog() is READ:
                turns -= 1
                session.follows[cursor.address] = session.follows.pop(cursor.address)  # the last from now on
                self._read(cursor)

    def read(self, key: LogKey, start: Start, is_over: Callable[[], bool]) -> None:
        """Call `start`, which reads this log, when its turn has come: at most `reads_in_flight` are done at
        once of what one server has. So those that wait for a server that is away hold up no others.

        None from it means that there is nothing to read any more, as always when `is_over` by then; so it may
        be called before its turn.
        """
        server = self._broker.server(key)
        reads = self._reads.get(server)
        if reads is None:
            reads = self._reads[server] = Reads()
        reads.waiting.append((start, is_over))
        if len(reads.waiting) > reads.most:
            reads.sift()
        self._next_reads(reads)

    def _next_reads(self, reads: Reads) -> None:
        if reads.starting:
            return  # a read that was over at once: the loop below goes on
        reads.starting = True
        try:
            while reads.waiting and reads.under_way < self.limits.reads_in_flight:
                reading = reads.waiting.popleft()[0]()
                if reading is not None:
                    reads.under_way += 1
                    self._counters.reads += 1
                    reading.addErrback(lambda failure: log.failure("a read could not be dealt with", failure))
                    reading.addBoth(self._has_read, reads)
        finally:
            reads.starting = False

    def _has_read(self, result: object, reads: Reads) -> None:
        reads.under_way -= 1
        self._next_reads(reads)

    def _read(self, cursor: Place) -> None:
        """Read on for a cursor, once at a time."""
        if not cursor.reading:
            cursor.reading = True
            self.read(
                cursor.log, partial(self._start_read, cursor), lambda: cursor.state is not State.READING
            )

    def _start_read(self, cursor: Place) -> Deferred[None] | None:
        parking, follows = cursor.parking, cursor.follows
        if cursor.state is not State.READING:
            cursor.reading = False
            return None
        if parking is not None and parking.owed:
            reading = self._broker.read(cursor.log, parking.owed[0] - 1, 1, 1)
        else:
            sent = _counted(cursor)
            room = self._window(cursor) - sent.entries
            if follows is not None:
                room //= max(1, _reading(follows))
            size = self.limits.deliver_window_bytes - sent.bytes
            reading = self._broker.read(cursor.log, cursor.sent, max(1, room), max(1, min(READ_BYTES, size)))
        return reading.addCallbacks(
            self._batch, self._read_failed, (cursor, cursor.head), errbackArgs=(cursor,)
        )

    def _batch(self, batch: Batch, cursor: Place, head: int) -> None:
        """Send what was read; `head` is what was known of the log when it was asked."""
        cursor.reading = False
        parking = cursor.parking
        if cursor.state is not State.READING:
            return
        if batch.epoch != cursor.epoch:
            self._stale(cursor)
        elif not self._fits(cursor):
            cursor.clog()  # meanwhile others took all the room; it is read again
        elif parking is not None and parking.owed:
            if batch.after == parking.owed[0] - 1:
                seq, end = parking.offer()
                owed = tuple(entry for entry in batch.entries if entry.seq == seq)
                self._deliver(cursor, cursor.log, cursor.sent, end, owed, batch.gap and not owed)
        elif cursor.read(batch.after) is Step.SEND:
            if batch.upto > batch.after:
                self._send_read(cursor, batch)
            elif cursor.head == head:  # else it grew meanwhile: look again
                cursor.head = cursor.sent
                cursor.passed(cursor.sent)
        if cursor.state is State.READING:
            self._read(cursor)
        if cursor.follows is not None:
            self.go_on(_session(cursor))

    def _fits(self, cursor: Place) -> bool:
        """There is room in the window for one more."""
        sent = _counted(cursor)
        return sent.entries < self._window(cursor) and (
            not sent.entries or sent.bytes < self.limits.deliver_window_bytes
        )

    def _send_read(self, cursor: Place, batch: Batch) -> None:
        """As many of the entries as the other logs have left room for while they were read."""
        entries, upto = batch.entries, batch.upto
        room = self._window(cursor) - _counted(cursor).entries
        if len(entries) > room:
            entries = entries[:room]
            upto = entries[-1].seq
        self._deliver(cursor, cursor.log, batch.after, upto, entries, batch.gap)

    def _read_failed(self, failure: Failure, cursor: Place) -> None:
        cursor.reading = False
        if not failure.check(CancelledError):  # else the broker stops
            log.failure("reading {log} failed", failure, log=address_text(cursor.address))
        if cursor.link is not None:
            cursor.link.close(CloseCode.INTERNAL_ERROR, "internal error")

    def _stale(self, cursor: Place) -> None:
        """The log has another identity now: the client must come again and be told what it missed."""
        if cursor.link is not None:
            cursor.link.close(CloseCode.STALE, "the log was replaced; resume")

    # ------------------------------------------------------------------------------------ acknowledgements

    def acked(self, session: Session, frame: DeliverAck) -> None:
        """The client took custody. Of a log that it does not follow any more it may say so too late. If it
        is of none at all, there is room again for what waits.

        :raises BadFrame: it acknowledges what was never sent to it.
        """
        if not frame.acks:
            self.go_on(session)
        for ack in frame.acks:
            address = ack.address
            kind, name, _ = address
            cursor: Place | None = session
            if name != session.user or kind != "user":
                if kind not in FOLLOWED_KINDS:
                    raise BadFrame("acknowledges a log that it does not follow")
                cursor = session.follows.get(address) if session.follows is not None else None
            if cursor is not None and ack.epoch == cursor.epoch:
                self._took(cursor, log_of(address), ack.upto)

    def took_all(self, cursor: Place) -> None:
        """Nothing that was sent from there will be acknowledged."""
        if cursor.is_awaited():
            self._took(cursor, cursor.log, cursor.sent)

    def _took(self, cursor: Place, key: LogKey, upto: int) -> None:
        follows, entries, size = cursor.follows, cursor.entries, cursor.bytes
        if not cursor.ack(upto):
            raise BadFrame("acknowledges what was not sent")
        if follows is not None:
            follows.entries -= entries - cursor.entries
            follows.bytes -= size - cursor.bytes
        self._counters.acks += 1
        if cursor.parking is not None:
            for seq in cursor.parking.acked(upto):
                self._broker.unpark(cursor.key, cursor.generation, key, seq)
            if cursor.parking.empty():
                cursor.parking = None
        self._broker.advance(cursor.key, cursor.generation, ((key, upto),))
        if cursor.state is CLOGGED or follows is not None:
            self.go_on(_session(cursor))

    def heard_without_acks(self, link: Link) -> None:
        """A wire without acknowledgements spoke: what its system has taken by now has arrived."""
        if link.session is not None:
            for cursor in tuple(link.session.cursors()):
                self._arrived(cursor, link)

    def _arrived(self, cursor: Place, link: Link) -> None:
        if cursor.is_awaited():
            unacked = link.connection.unacked()
            if unacked is None:
                unacked = link.connection.unsent()
            # All of that may be of this log: then it is this log's newest.
            upto = cursor.settled(unacked)
            if upto is not None:
                self._took(cursor, cursor.log, upto)

    def writable(self, link: Link) -> None:
        """The link has no unsent bytes any more."""
        if link.session is not None:
            self.go_on(link.session)


def _counted(cursor: Place) -> Place | Follows:
    """What counts how much is on its way in this cursor's window, which the logs of a session share."""
    return cursor if cursor.follows is None else cursor.follows


def _session(cursor: Place) -> Session:
    return cursor if isinstance(cursor, Session) else cursor.session


def _reading(follows: Follows) -> int:
    """How many of a session's logs are being read."""
    return sum([one.state is State.READING for one in follows.values()])
