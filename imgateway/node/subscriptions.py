"""What clients and business code ask about rooms: to be in one, to be out of it, to read what is in it; and
what clients ask about the logs that they follow.

Who subscribes too often waits, as with publishes. An answer that is there at once goes out at once; only
where the broker has to be waited for is the link not read meanwhile, and not for long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from imgateway.config import LimitSettings
from imgateway.core.counters import Counters
from imgateway.core.handshake import LinkState
from imgateway.core.quota import Quotas
from imgateway.core.session import Session
from imgateway.errors import StoreBusy
from imgateway.frames import (
    Address,
    Batch,
    LogKey,
    Mode,
    Pull,
    RefusedCode,
    ResumePoint,
    SessionKey,
    Subscribe,
    Unsubscribe,
    Unsubscribed,
    UnsubscribedCode,
    log_of,
)
from imgateway.interfaces import IPolicy
from imgateway.node.attendance import subscribed
from imgateway.node.audience import Room
from imgateway.node.hub import Hub
from imgateway.node.link import Link, Pause
from imgateway.node.rooms import PATIENCE_S
from imgateway.node.stays import Withdrawn

__all__ = ("Subscriptions",)

log = Logger()

UNSENT_BYTES = 65_536
"""A link with so much unsent is not read on in this turn: pulls are small, and their answers are not."""
MOST_LATE = {Pause.ROOM: 1_000, Pause.PULL: 16}
"""With more late answers a link is not read until there is one. Those of pulls come with what was read."""


class Waits:
    """A link waits for `count` answers of a kind. `are_late`: it has waited for long enough."""

    __slots__ = ("are_late", "count")

    def __init__(self) -> None:
        self.count = 0
        self.are_late = False


class Line:
    """What a link asks about an address while its Unsubscribe has no answer, which is while it `is_held`."""

    __slots__ = ("is_held", "turns")

    def __init__(self) -> None:
        self.is_held = True
        self.turns: deque[Deferred[None]] = deque()


class Subscriptions:
    """:param now: monotonic seconds. :param arm: ``arm(due, wake)`` on the node's wheel."""

    def __init__(
        self,
        hub: Hub,
        quotas: Quotas,
        limits: LimitSettings,
        now: Callable[[], float],
        arm: Callable[[float, Callable[[float], None]], object],
        counters: Counters,
    ) -> None:
        self.limits = limits
        self._hub = hub
        self._audiences = hub.rooms.audiences
        self._attendance = hub.rooms.attendance
        self._stays = hub.rooms.stays
        self._quotas = quotas
        self._now = now
        self._arm = arm
        self._counters = counters
        self._waits: dict[tuple[Link, Pause], Waits] = {}
        self._lines: dict[tuple[Link, Address], Line] = {}

    # ---------------------------------------------------------------------------------------------- in order

    def in_turn(
        self,
        link: Link,
        session: Session,
        frame: Subscribe | Unsubscribe,
        ask: Callable[[Link, Session, Any], None],
    ) -> None:
        """Call `ask`, once the link has its answer to each Unsubscribe of this address that came before.

        A refusal is there at once. It would be taken for the answer to what is late, and what is granted then
        for the answer to what was refused.
        """
        line = self._lines.get((link, frame.address))
        if line is None:
            ask(link, session, frame)
            return
        turn: Deferred[None] = Deferred()
        turn.addCallback(lambda _: ask(link, session, frame) if link.session is session else None)
        line.turns.append(turn)
        self.wait(turn, link, Pause.ROOM)

    def _leave(self, leaving: Deferred[None], link: Link, address: Address) -> None:
        """Read on when it is answered, and let what is asked about this address meanwhile wait for that."""
        self.wait(leaving, link, Pause.ROOM)
        if not leaving.called or leaving.paused:
            self._lines.setdefault((link, address), Line()).is_held = True
            leaving.addCallback(self._go_on, link, address)

    def _go_on(self, _: None, link: Link, address: Address) -> None:
        line = self._lines[link, address]
        line.is_held = False
        while line.turns and not line.is_held:
            line.turns.popleft().callback(None)
        if not line.is_held:
            self._lines.pop((link, address), None)

    # --------------------------------------------------------------------------------------------- in and out

    def subscribe(self, link: Link, session: Session, frame: Subscribe) -> bool:
        """False: the session is in as many rooms as it may. Policy is behind it."""
        self._charge(link, session)
        if not frame.epoch:  # it begins anew
            self._stays.readmit(session, frame.address)
        if frame.address in self._stays.removed(session):  # it would go on where it was, and is told
            link.send(Unsubscribed(frame.address, UnsubscribedCode.REMOVED))
            return True
        held = self._stays.held(session)
        if frame.address not in held and len(held) >= self.limits.rooms:
            return False
        joining = self._stays.join(session, frame.address)
        joining.addCallback(self._audiences.look, (_point(frame),))
        joining.addCallbacks(
            self._joined, self._not_joined, (link, session, frame), errbackArgs=(link, frame)
        )
        self.wait(joining, link, Pause.ROOM)
        return True

    def _not_joined(self, failure: Failure, link: Link, frame: Subscribe) -> None:
        if not failure.check(Withdrawn):
            log.failure("joining a room failed", failure, **link.about())
        self._is_not_in(link, frame)

    def _is_not_in(self, link: Link, frame: Subscribe) -> None:
        session = link.session
        if session is not None and frame.address in self._stays.removed(session):
            link.send(Unsubscribed(frame.address, UnsubscribedCode.REMOVED))
            return
        if link.state is LinkState.OPEN:
            link.refuse(frame, RefusedCode.UNAVAILABLE, "not just now; subscribe again")

    def _joined(self, room: Room, link: Link, session: Session, frame: Subscribe) -> None:
        if link.session is not session:
            return
        if room not in session.rooms:  # it left while it was looked where the room stands
            self._is_not_in(link, frame)
            return
        point = _point(frame)
        anew = not frame.epoch and session not in room.members
        if frame.last and anew:
            lane = room.lanes[frame.lane]  # right before its newest entry
            point = ResumePoint(frame.address, frame.lane, lane.epoch, max(0, lane.head - 1))
        lanes = self._attendance.enter(session, room, frame.mode, (point,))
        link.send(subscribed(room, session, lanes[frame.lane], anew))
        self._attendance.remind(session, lanes)

    def unsubscribe(self, link: Link, session: Session, frame: Unsubscribe) -> None:
        """To leave a room that one is not in is done already."""
        self._charge(link, session)
        leaving = self._stays.leave(session, frame.address)
        leaving.addCallback(self._unsubscribed, link, frame.address)
        self._leave(leaving, link, frame.address)

    def _unsubscribed(self, _: object, link: Link, address: Address) -> None:
        if link.state is LinkState.OPEN:
            link.send(Unsubscribed(address, UnsubscribedCode.ASKED))

    def _charge(self, link: Link, session: Session) -> None:
        if session.identity.service:
            return
        now = self._now()
        wait = self._quotas.of(session.user, now).subscribe(now)
        if wait:
            link.owe(wait)

    def wait(self, asked: Deferred[Any], link: Link, why: Pause) -> None:
        """Read on when it is answered; at once, if it is.

        A server that is away holds up nobody's link for long: after a while that is read on, and the answer
        follows when there is one. While one is late, more of its kind are not waited for.
        """
        asked.addErrback(link.broken)
        if asked.called and not asked.paused:  # paused: it was called, and now waits for a step of its own
            return
        waits = self._waits.get((link, why))
        if waits is None:
            waits = self._waits[link, why] = Waits()
            self._arm(self._now() + PATIENCE_S, lambda now: self._overdue(waits, link, why))
        waits.count += 1
        asked.addCallback(lambda _: self._answered(waits, link, why))
        self._read_or_not(waits, link, why)

    def _overdue(self, waits: Waits, link: Link, why: Pause) -> None:
        if waits.count:
            waits.are_late = True
            self._read_or_not(waits, link, why)

    def _answered(self, waits: Waits, link: Link, why: Pause) -> None:
        waits.count -= 1
        if not waits.count:
            del self._waits[link, why]
        self._read_or_not(waits, link, why)

    def _read_or_not(self, waits: Waits, link: Link, why: Pause) -> None:
        if waits.count > (MOST_LATE[why] if waits.are_late else 0):
            link.pause(why)
        else:
            link.resume(why)

    # ------------------------------------------------------------------------------------------------- topics

    def follow(self, link: Link, session: Session, frame: Subscribe) -> bool:
        """False: the session follows as many logs as it may. Policy is behind it."""
        self._charge(link, session)
        topics = self._hub.topics
        if topics.find(session, frame.address) is None and topics.count(session) >= self.limits.rooms:
            return False
        following = topics.subscribe(link, session, frame)
        following.addCallback(self._followed, session, frame.address)
        self.wait(following, link, Pause.ROOM)
        return True

    def _followed(self, follows: bool, session: Session, address: Address) -> None:
        if follows:  # else what an older link left there is yet to be undone
            self._hub.partings.settled(session, address)

    def unfollow(self, link: Link, session: Session, frame: Unsubscribe) -> None:
        """Whoever does not follow the log over this link may have before: that is forgotten as well."""
        self._charge(link, session)
        leaving = self._hub.topics.unsubscribe(session, frame.address)
        leaving.addCallbacks(
            self._unfollowed, self._not_left, (link, session, frame.address), errbackArgs=(link, frame)
        )
        self._leave(leaving, link, frame.address)

    def _unfollowed(self, _: None, link: Link, session: Session, address: Address) -> None:
        self._hub.partings.settled(session, address)
        self._unsubscribed(None, link, address)

    def _not_left(self, failure: Failure, link: Link, frame: Unsubscribe) -> None:
        failure.trap(StoreBusy)
        if link.state is LinkState.OPEN:
            link.refuse(frame, RefusedCode.UNAVAILABLE, "it is being done")

    # ------------------------------------------------------------------------------------------------ reading

    def read(
        self, link: Link, log: LogKey, begin: Callable[[], Deferred[None]], is_over: Callable[[], bool]
    ) -> None:
        """Call `begin`, which reads the log and answers the client, when it is this log's turn; unless it
        `is_over` by then. The link is not read meanwhile, so there is one at a time, unless it takes long."""

        def start() -> Deferred[None] | None:
            if is_over():
                answered.callback(None)
                return None
            return begin().addBoth(answered.callback)

        answered: Deferred[None] = Deferred()
        self._hub.delivery.read(log, start, is_over)
        self.wait(answered, link, Pause.PULL)

    def pull(self, link: Link, session: Session, frame: Pull, policy: IPolicy) -> bool:
        """Answer with the block that has the first entry after `after`; after a place in a ring that is no
        more, with the first of the one that there is. False: neither is the session there, nor may it read.
        """
        address = frame.address
        is_there = self._audiences.find(session, address) is not None
        if not is_there and not policy.may(session.identity, "read", address):
            return False
        self._counters.room_pulls += 1

        def read(after: int) -> Deferred[None]:
            reading = self._hub.broker.read(log, after, 0, 0)
            return reading.addCallback(answer, after)

        def answer(batch: Batch, after: int) -> Deferred[None] | None:
            if is_over():
                return None
            if after and frame.epoch not in (0, batch.epoch):
                return read(0)
            self._attendance.answer(link, session, batch, log, after)
            return None

        def is_over() -> bool:
            return link.session is not session

        log = log_of(address, frame.lane)
        self.read(link, log, lambda: read(frame.after), is_over)
        if link.connection.unsent() >= UNSENT_BYTES:
            link.pause(Pause.ROOM)
            self._hub.rooms.rounds.later(lambda: link.resume(Pause.ROOM))
        return True

    # --------------------------------------------------------------------------------------- business code

    def put(self, key: SessionKey, address: Address, mode: Mode) -> Deferred[bool]:
        """Put a session into a room; False: it is not here, or was taken out meanwhile."""
        session = self._hub.sessions.get(key)
        if session is None:
            return succeed(False)
        return self._stays.put(session, address, mode)

    def take_out(self, key: SessionKey, address: Address) -> Deferred[bool]:
        """Take a session out of a room; False: it is not in it, nor on its way in."""
        session = self._hub.sessions.get(key)
        if session is None:
            return succeed(False)
        return self._stays.remove(session, address, UnsubscribedCode.REMOVED)


def _point(frame: Subscribe) -> ResumePoint:
    """Where its client is."""
    return ResumePoint(frame.address, frame.lane, frame.epoch, frame.seq)
