"""The hub: the sessions of this node, and the one way on which entries reach them.

The broker says what arrived; each session's cursor says what to do about it: send now, read from the log, or
let it be because the link is clogged. There is no queue of messages here. A Deliver is encoded once for all
sessions whose codecs write it the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.cursor import State, Step
from imgateway.core.handshake import LinkState
from imgateway.core.session import Session, for_device
from imgateway.errors import BadFrame, CloseCode
from imgateway.frames import (
    Address,
    Batch,
    Deliver,
    DeliverAck,
    Entry,
    LogKey,
    Message,
    SessionKey,
    address_text,
    log_of,
    user_address,
)
from imgateway.interfaces import IBroker, IBrokerListener, Identity, ISessionListener
from imgateway.node.link import Link, Pause

__all__ = ("Hub",)

log = Logger()

READ_BYTES = 65_536
"""One read becomes one Deliver, which must fit into a frame beside the largest body."""


@implementer(IBrokerListener)
class Hub:
    """Sessions by key and by log; deliveries, reads, acknowledgements, the end of sessions.

    :param now: monotonic seconds.
    :param arm: ``arm(due, wake)`` on the node's wheel.
    :param health: ``health(part, ok, why)``: the parts are ``store`` and ``load``.
    """

    def __init__(
        self,
        broker: IBroker,
        limits: LimitSettings,
        linger_s: float,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], None],
        counters: Counters,
        listeners: Sequence[ISessionListener] = (),
        health: Callable[[str, bool, str], None] = lambda part, ok, why: None,
    ) -> None:
        self.broker = broker
        self.sessions: dict[SessionKey, Session] = {}
        self.is_congested = False
        self.limits = limits
        self.linger_s = linger_s
        self._now = now
        self._arm = arm
        self._counters = counters
        self._listeners = tuple(listeners)
        self._health = health
        self._at: dict[LogKey, tuple[Session, ...]] = {}
        self._reads = 0
        self._readers: deque[Callable[[], Deferred[Any] | None]] = deque()
        self._is_starting = False
        self._stalled: dict[Link, None] = {}

    # ---------------------------------------------------------------------------------- what the broker says

    def arrived(self, log: LogKey, epoch: int, after: int, upto: int, entries: tuple[Entry, ...]) -> None:
        """Committed entries: send them to every session that stands right before them."""
        sessions = self._at.get(log)
        if sessions is None:
            return
        shared: dict[str, bytes | None] | None = {} if len(sessions) > 1 else None
        limits = self.limits
        size = len(entries[0].message) if len(entries) == 1 else sum(len(one.message) for one in entries)
        for session in sessions:
            cursor = session.mailbox
            step = cursor.arrived(after, upto)
            if step is Step.HOLD:
                continue
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

    def moved(self, log: LogKey, epoch: int, head: int) -> None:
        """The log grew: whoever is live reads."""
        for session in self._at.get(log, ()):
            if session.mailbox.moved(head) is Step.READ:
                self._read(session)  # which finds out if the epoch is another

    def passed(self, address: Address, entry: Entry) -> None:
        """qos 0: to the links that can take it now."""
        for session in self._at.get(log_of(address), ()):
            link = session.link
            if link is None or link.clogged or link.state is not LinkState.OPEN:
                continue
            # What one turn brings is bounded too: the socket says only at its end that it is full.
            if link.connection.unsent() >= self.limits.deliver_window_bytes:
                continue
            if not for_device((entry,), session.key.device):
                continue
            data = self._say(link, Deliver(user_address(session.key.user), 0, 0, 0, 0, (entry,)), None)
            if data:
                link.deliver(data)
                self._counters.entries_delivered += 1

    def unattended(self, log: LogKey, message: Message) -> None:
        """Tell the session listeners of a message for somebody who is away."""
        for listener in self._listeners:
            self._tell(listener.stored_offline, log.address, message)

    def attended(self, log: LogKey) -> bool:
        """Whether one of the log's sessions has a link."""
        return any(session.link is not None for session in self._at.get(log, ()))

    def displaced(self, session: SessionKey, generation: int, code: int, reason: str) -> None:
        """Another login took over: close and forget this generation.

        If it is the same device's, the session goes on: `attach` has its next generation in a moment.
        """
        there = self.sessions.get(session)
        if there is not None and there.generation <= generation:
            if there.link is not None:
                there.link.close(code, reason)
            elif code != CloseCode.REPLACED:
                self._end(there, code, reason)

    def congested(self, on: bool) -> None:
        """More is waiting for the store than may wait: `stall` stops whoever publishes, this lets them go
        on."""
        self.is_congested = on
        self._health("load", not on, "publishers wait: more waits for the store than may wait")
        # Who goes on may fill the store at once; the others then wait on.
        while self._stalled and not self.is_congested:
            link = next(iter(self._stalled))
            del self._stalled[link]
            link.resume(Pause.STORE)

    def healthy(self, ok: bool, why: str) -> None:
        """Pass the store's state on."""
        self._health("store", ok, why)

    def stall(self, link: Link) -> None:
        """Stop reading a publisher until the store has caught up."""
        link.pause(Pause.STORE)
        self._stalled[link] = None

    # ------------------------------------------------------------------------------------------- deliveries

    def _deliver(
        self,
        session: Session,
        after: int,
        upto: int,
        entries: tuple[Entry, ...],
        gap: bool,
        shared: dict[str, bytes | None] | None = None,
    ) -> None:
        """Send the range ``(after, upto]``; entry by entry where the wire or its content wants that."""
        link: Link = session.link
        mine = for_device(entries, session.key.device)
        head = max(upto, session.mailbox.head)
        if gap:
            self._counters.gaps_told += 1
        if len(mine) < 2 or link.traits.batches:
            frame = Deliver(session.log.address, 0, session.mailbox.epoch, after, upto, mine, gap, head)
            data = self._say(link, frame, shared if mine is entries else None)
            if data is not None:
                self._ship(session, upto, len(mine), data)
                return
        for entry in mine:
            end = upto if entry is mine[-1] else entry.seq
            frame = Deliver(session.log.address, 0, session.mailbox.epoch, after, end, (entry,), gap, head)
            data = self._say(link, frame, None)
            if data is None:
                self._park(session, entry.seq)
                empty = Deliver(session.log.address, 0, session.mailbox.epoch, after, end, (), gap, head)
                self._ship(session, end, 0, self._say(link, empty, None) or b"")
            else:
                self._ship(session, end, 1, data)
            after, gap = end, False
        if not mine:
            self._ship(session, upto, 0, b"")

    def _ship(self, session: Session, upto: int, entries: int, data: bytes) -> None:
        cursor = session.mailbox
        if not data:
            cursor.passed(upto)
            if cursor.acked == upto:
                self.broker.advance(session.key, session.generation, ((session.log, upto),))
            return
        now = self._now()
        link: Link = session.link
        link.deliver(data)
        link.expect_ack(now)
        cursor.send(upto, entries, len(data), now)
        self._counters.deliver_frames += 1
        self._counters.entries_delivered += entries
        limits = self.limits
        if cursor.entries >= limits.deliver_window_entries or cursor.bytes >= limits.deliver_window_bytes:
            cursor.clog()

    def _say(self, link: Link, frame: Deliver, shared: dict[str, bytes | None] | None) -> bytes | None:
        """Encode, once for all codecs of a kind. A codec that raises has met content that it cannot say."""
        wire = link.codec.wire
        if shared is not None and wire in shared:
            return shared[wire]
        try:
            data = link.codec.encode(frame)
        except Exception:
            log.failure("the codec of {wire} raised; its entries are parked", **link.about())
            data = None
        if shared is not None and wire:
            shared[wire] = data
        return data

    def answer(self, link: Link, frame: Deliver) -> None:
        """Send what the client asked to read. What its wire cannot say is left out, and told as a gap."""
        data = self._say(link, frame, None)
        if data is None:
            sayable = tuple(
                one
                for one in frame.entries
                if self._say(link, replace(frame, entries=(one,)), None) is not None
            )
            data = self._say(link, replace(frame, entries=sayable, gap=True), None)
        if data:
            link.send_bytes(data)

    def _park(self, session: Session, seq: int) -> None:
        self._counters.parked += 1
        if session.parking is not None:
            session.parking.keep(seq)
        self.broker.advance(session.key, session.generation, (), ((session.log, seq),))

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
            and session.mailbox.unclog() is Step.READ
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
        cursor, parking, limits = session.mailbox, session.parking, self.limits
        if cursor.state is not State.READING:
            session.reading = False
            return None
        if parking is not None and parking.owed:
            reading = self.broker.read(session.log, parking.owed[0] - 1, 1, 1)
        else:
            room = max(1, limits.deliver_window_entries - cursor.entries)
            size = max(1, min(READ_BYTES, limits.deliver_window_bytes - cursor.bytes))
            reading = self.broker.read(session.log, cursor.sent, room, size)
        return reading.addCallbacks(
            self._batch, self._read_failed, (session, cursor.head), errbackArgs=(session,)
        )

    def _batch(self, batch: Batch, session: Session, head: int) -> None:
        """Send what was read; `head` is what was known of the log when it was asked."""
        session.reading = False
        cursor, parking = session.mailbox, session.parking
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
        log.failure("reading {user}'s log failed", failure, user=session.key.user)
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
        cursor = session.mailbox
        for ack in frame.acks:
            if ack.address != session.log.address:
                raise BadFrame("acknowledges a log that it does not follow")
            if ack.epoch == cursor.epoch:
                self._took(session, ack.upto)

    def _took(self, session: Session, upto: int) -> None:
        cursor = session.mailbox
        if not cursor.ack(upto):
            raise BadFrame("acknowledges what was not sent")
        self._counters.acks += 1
        if session.parking is not None:
            for seq in session.parking.acked(upto):
                self.broker.unpark(session.key, session.generation, session.log, seq)
            if session.parking.empty():
                session.parking = None
        self.broker.advance(session.key, session.generation, ((session.log, upto),))
        if cursor.state is State.CLOGGED:
            self._unclog(session)

    def heard_without_acks(self, link: Link) -> None:
        """A wire without acknowledgements spoke: if its system has taken all that we wrote, it has
        arrived."""
        session = link.session
        if session is not None and session.mailbox.entries and not link.connection.unacked():
            self._took(session, session.mailbox.sent)

    def writable(self, link: Link) -> None:
        """The link has no unsent bytes any more."""
        if link.session is not None:
            self._unclog(link.session)

    # --------------------------------------------------------------------------------------------- sessions

    def attach(self, session: Session, link: Link) -> bool:
        """A claim succeeded: this session takes the place of an older generation.

        True if there was one that the listeners know (the client resumes). A link of the older one is closed
        with REPLACED.
        """
        old = self.sessions.get(session.key)
        self.sessions[session.key] = session
        self._at[session.log] = (*self._at.get(session.log, ()), session)
        session.link = link
        link.session = session
        if old is None:
            return False
        session.told = old.told
        self._leave(old)
        if old.link is not None:
            old.link.close(CloseCode.REPLACED, "a newer login of this device took over")
        return session.told

    def closed(self, link: Link, code: int, reason: str) -> None:
        """A link ended. Its session waits for the client to come back, unless the code says that it will
        not."""
        self._stalled.pop(link, None)
        session = link.session
        if session is None or session.link is not link:
            return
        session.detach(self._now())
        calls, session.calls = session.calls, None
        for call in (calls or {}).values():
            call.gone()
        if self.sessions.get(session.key) is not session:
            return
        if code == CloseCode.NORMAL or (code >= 200 and code != CloseCode.REPLACED):
            self._end(session, code, reason)
        else:
            self._arm(
                session.detached_at + self.linger_s, lambda now: self._lingered(session, now, code, reason)
            )

    def _lingered(self, session: Session, now: float, code: int, reason: str) -> None:
        if self.sessions.get(session.key) is session and session.link is None:
            self._end(session, code, reason)

    def _end(self, session: Session, code: int, reason: str) -> None:
        log.debug(
            "session ended: {reason}",
            reason=reason,
            code=int(code),
            session=address_text(Address("device", *session.key)),
        )
        del self.sessions[session.key]
        self._leave(session)
        self.broker.close_session(session.key, session.generation).addErrback(
            lambda failure: log.failure("closing a session failed", failure)
        )
        if session.told:
            for listener in self._listeners:
                self._tell(listener.closed, session.key, code, reason)

    def _leave(self, session: Session) -> None:
        others = tuple(other for other in self._at.get(session.log, ()) if other is not session)
        if others:
            self._at[session.log] = others
        elif self._at.pop(session.log, None) is not None:
            self.broker.unwatch(session.log)

    def of_user(self, user: str) -> tuple[Session, ...]:
        """The user's sessions on this node."""
        return self._at.get(log_of(user_address(user)), ())

    def kick(self, user: str, device: str | None, reason: str) -> int:
        """Close a user's sessions; how many there were."""
        victims = [s for s in self.of_user(user) if device is None or s.key.device == device]
        for session in victims:
            self.displaced(session.key, session.generation, CloseCode.KICKED, reason)
        return len(victims)

    def opened(self, session: Session, identity: Identity, resumed: bool) -> None:
        """Tell the session listeners of a login."""
        session.told = True
        for listener in self._listeners:
            self._tell(listener.resumed if resumed else listener.opened, session.key, identity)

    def _tell(self, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except Exception:
            self._counters.plugin_errors["listener"] += 1
            log.failure("a session listener raised")

    def end_all(self) -> None:
        """The node stops: end what is left; the broker's own stop flushes the positions."""
        for session in tuple(self.sessions.values()):
            self._end(session, CloseCode.GOING_AWAY, "the node stopped")
